//! Things under way, by a key that is good once: once grown, keeping one allocates nothing (L8).
use alloc::vec::Vec;

/// Values by key: the number of a slot, and how often that was used before.
#[derive(Debug)]
pub struct Slab<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Keeps a value, under the key returned.
    pub fn insert(&mut self, value: T) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.1 = Some(value);
        u64::from(slot.0) << 32 | u64::from(index)
    }

    fn slot(&mut self, key: u64) -> Option<&mut (u32, Option<T>)> {
        self.slots.get_mut(key as u32 as usize).filter(|s| s.0 == (key >> 32) as u32)
    }

    /// What is kept under a key.
    pub fn get(&self, key: u64) -> Option<&T> {
        let slot = self.slots.get(key as u32 as usize).filter(|s| s.0 == (key >> 32) as u32)?;
        slot.1.as_ref()
    }

    /// What is kept under a key, to be changed.
    pub fn get_mut(&mut self, key: u64) -> Option<&mut T> {
        self.slot(key)?.1.as_mut()
    }

    /// Gives it back, once.
    pub fn take(&mut self, key: u64) -> Option<T> {
        let slot = self.slot(key)?;
        let value = slot.1.take()?;
        slot.0 = slot.0.wrapping_add(1);
        self.free.push(key as u32);
        Some(value)
    }

    /// The keys of all that is kept.
    pub fn keys(&self) -> impl Iterator<Item = u64> {
        let used = self.slots.iter().enumerate().filter(|(_, slot)| slot.1.is_some());
        used.map(|(index, slot)| u64::from(slot.0) << 32 | index as u64)
    }

    /// What is kept.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|s| s.1.as_ref())
    }

    /// All that is kept.
    pub fn into_values(self) -> impl Iterator<Item = T> {
        self.slots.into_iter().filter_map(|s| s.1)
    }

    /// The key of the first that fits, from slot `from` on: to walk over what is kept while it changes.
    pub fn next_key(&self, from: u32, fits: impl Fn(&T) -> bool) -> Option<u64> {
        let slots = self.slots.iter().enumerate().skip(from as usize);
        let key = |(index, slot): (usize, &(u32, Option<T>))| u64::from(slot.0) << 32 | index as u64;
        slots.into_iter().find(|(_, s)| s.1.as_ref().is_some_and(&fits)).map(key)
    }

    /// Lets go what does not fit.
    pub fn retain(&mut self, fits: impl Fn(&T) -> bool) {
        let mut from = 0;
        while let Some(key) = self.next_key(from, |value| !fits(value)) {
            from = key as u32 + 1;
            self.take(key);
        }
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_good_once() {
        let mut slab = Slab::default();
        let first = slab.insert('a');
        assert_eq!((slab.take(first), slab.take(first)), (Some('a'), None));
        let second = slab.insert('b');
        assert_ne!(first, second);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.get_mut(second), Some(&mut 'b'));
        assert_eq!(slab.take(second), Some('b'));
        assert!(slab.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_let_go() {
        let mut slab = Slab::default();
        let keys: Vec<u64> = (0..6).map(|n| slab.insert(n)).collect();
        slab.retain(|n| n % 2 == 0);
        assert_eq!(slab.values().copied().collect::<Vec<_>>(), [0, 2, 4]);
        assert_eq!(slab.next_key(keys[2] as u32 + 1, |_| true), Some(keys[4]));
        assert_eq!(slab.len(), 3);
    }
}
