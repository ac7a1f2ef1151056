//! What a token of the store stands for: a slab, so that asking allocates nothing.
use crate::io::Token;
use alloc::vec::Vec;

/// Values by token; a token is used once.
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
    /// Keeps a value.
    pub fn insert(&mut self, value: T) -> Token {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.1 = Some(value);
        Token(u64::from(slot.0) << 32 | u64::from(index))
    }

    /// Gives it back, once.
    pub fn take(&mut self, token: Token) -> Option<T> {
        let index = token.0 as u32;
        let slot = self.slots.get_mut(index as usize).filter(|s| s.0 == (token.0 >> 32) as u32)?;
        let value = slot.1.take()?;
        slot.0 = slot.0.wrapping_add(1);
        self.free.push(index);
        Some(value)
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
    fn a_token_is_good_once() {
        let mut slab = Slab::default();
        let first = slab.insert('a');
        assert_eq!((slab.take(first), slab.take(first)), (Some('a'), None));
        let second = slab.insert('b');
        assert_ne!(first, second);
        assert_eq!(slab.take(second), Some('b'));
        assert!(slab.is_empty());
    }
}
