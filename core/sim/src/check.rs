//! What clients may see: each block is a register. Sound for any number of clients; exact where writes do not overlap.
use sarsen_buffer::bytes_checksum;
use sarsen_types::{BlockRange, Instant, VolumeId};
use std::collections::BTreeMap;

/// A block of a volume.
pub type Key = (VolumeId, u32, u16);

/// A read that was answered, of one block; `content` is the checksum of what was seen, 0 for zeroes.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// When it was asked.
    pub begun: Instant,
    /// When it was answered.
    pub ended: Instant,
    /// What it showed.
    pub content: u64,
}

/// A write of one block.
#[derive(Clone, Debug)]
struct Written {
    content: u64,
    begun: Instant,
    /// By then it had taken effect: it was answered, or seen by a read that was.
    settled: Option<Instant>,
}

/// The history of a block.
#[derive(Default, Debug)]
struct Register {
    writes: Vec<Written>,
    /// Its bytes after all writes so far, where one client writes one at a time (for patches).
    bytes: Vec<u8>,
}

/// All blocks.
#[derive(Default, Debug)]
pub struct History {
    registers: BTreeMap<Key, Register>,
    /// Reads that were told that no copy has the data.
    pub corrupt: Vec<(VolumeId, u32, BlockRange)>,
}

/// What a block shows, as histories know it: 0 for zeroes.
pub fn sum(bytes: &[u8]) -> u64 {
    match bytes.iter().all(|b| *b == 0) {
        true => 0,
        false => bytes_checksum(bytes).0,
    }
}

impl History {
    fn add(&mut self, key: Key, bytes: Vec<u8>, now: Instant) -> usize {
        let register = self.registers.entry(key).or_default();
        register.writes.push(Written { content: sum(&bytes), begun: now, settled: None });
        register.bytes = bytes;
        register.writes.len() - 1
    }
    /// A write of the whole block was begun; gives its place in the history.
    pub fn write(&mut self, key: Key, bytes: Vec<u8>, now: Instant) -> usize {
        self.add(key, bytes, now)
    }
    /// Zeroes.
    pub fn zero(&mut self, key: Key, now: Instant) -> usize {
        self.add(key, vec![0; 4096], now)
    }
    /// A write of a part of it, over what the writes before left: exact because its one writer waits for overlapping ones.
    pub fn patch(&mut self, key: Key, offset: u32, part: &[u8], now: Instant) -> usize {
        let mut bytes = self.registers.get(&key).map_or_else(Vec::new, |r| r.bytes.clone());
        bytes.resize(4096, 0);
        bytes[offset as usize..offset as usize + part.len()].copy_from_slice(part);
        self.add(key, bytes, now)
    }
    /// A write was answered.
    pub fn answered(&mut self, key: Key, at: usize, now: Instant) {
        let write = &mut self.registers.get_mut(&key).expect("it was begun").writes[at];
        write.settled.get_or_insert(now);
    }

    /// A read was answered.
    ///
    /// # Panics
    /// If it shows what was never written, or something that a later, settled write had replaced before it was asked.
    pub fn read(&mut self, key: Key, seen: Observation) {
        let register = self.registers.entry(key).or_default();
        // what it may be: any write of that content begun before the read ended; nothing at all is a write at the start
        let start = Written { content: 0, begun: Instant(0), settled: Some(Instant(0)) };
        let all = || std::iter::once(&start).chain(&register.writes);
        let is_replaced = |w: &Written| {
            let Some(done) = w.settled else { return false };
            all().any(|later| {
                later.begun >= done
                    && later.settled.is_some_and(|s| s <= seen.begun)
                    && !std::ptr::eq(later, w)
            })
        };
        let found =
            all().filter(|w| w.content == seen.content && w.begun <= seen.ended && !is_replaced(w)).count();
        if found == 0 {
            let tail = register.writes.len().saturating_sub(8);
            panic!(
                "{key:?} shows {:x} at {:?}..{:?}; its last writes are {:x?}",
                seen.content,
                seen.begun,
                seen.ended,
                &register.writes[tail..]
            );
        }
        // the one it must be, if only one can be, has taken effect by now
        if found == 1
            && let Some(write) =
                register.writes.iter_mut().rev().find(|w| w.content == seen.content && w.begun <= seen.ended)
        {
            let by = write.settled.map_or(seen.ended, |s| s.min(seen.ended));
            write.settled = Some(by);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = (VolumeId(1), 0, 0);
    fn at(n: u64) -> Instant {
        Instant(n)
    }
    fn see(begun: u64, ended: u64, fill: u8) -> Observation {
        Observation { begun: at(begun), ended: at(ended), content: sum(&[fill; 4096]) }
    }

    #[test]
    fn an_unanswered_write_may_or_may_not_be_seen() {
        let mut h = History::default();
        let first = h.write(KEY, vec![1; 4096], at(1));
        h.answered(KEY, first, at(2));
        h.write(KEY, vec![2; 4096], at(3));
        h.read(KEY, see(4, 5, 1));
        h.read(KEY, see(6, 7, 2));
    }

    #[test]
    #[should_panic(expected = "shows")]
    fn what_was_seen_is_not_unseen() {
        let mut h = History::default();
        let first = h.write(KEY, vec![1; 4096], at(1));
        h.answered(KEY, first, at(2));
        h.write(KEY, vec![2; 4096], at(3));
        h.read(KEY, see(4, 5, 2));
        h.read(KEY, see(6, 7, 1));
    }

    #[test]
    #[should_panic(expected = "shows")]
    fn an_answered_write_is_not_lost() {
        let mut h = History::default();
        let first = h.write(KEY, vec![1; 4096], at(1));
        h.answered(KEY, first, at(2));
        h.read(KEY, see(3, 4, 0));
    }
}
