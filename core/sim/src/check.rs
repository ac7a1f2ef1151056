//! What clients may see: each block is a register. Sound for any number of clients; exact where writes do not overlap.
use sarsen_buffer::bytes_checksum;
use sarsen_types::{BLOCK_SIZE, Instant, VolumeId};
use std::collections::BTreeMap;

/// A block of a volume.
pub type Key = (VolumeId, u32, u16);

/// Who wrote: a client, in one of its lives. What a life left unanswered takes no effect after a write of a later life of
/// the same client to the same block has (R21).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Author {
    /// The client.
    pub client: u32,
    /// Its life: grows with each session.
    pub life: u32,
}

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
    author: Author,
    begun: Instant,
    /// By then it had taken effect: it was answered, or seen by a read that was.
    settled: Option<Instant>,
    /// If it had not taken effect by then, it never will: its generation was fenced (R31).
    fenced: Option<Instant>,
    /// When the last read that saw it was asked; when it was begun itself.
    last_begun: Instant,
}

impl Written {
    /// Whether `later` comes after it in every order that could be.
    fn precedes(&self, later: &Written) -> bool {
        let over = match (self.settled, self.fenced) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        over.is_some_and(|over| later.begun >= over)
            || (self.author.client == later.author.client && self.author.life < later.author.life)
    }
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
    /// Reads that were answered with data, by block.
    pub reads: u64,
}

/// What a block shows, as histories know it: 0 for zeroes.
pub fn sum(bytes: &[u8]) -> u64 {
    match bytes.iter().all(|b| *b == 0) {
        true => 0,
        false => bytes_checksum(bytes).0,
    }
}

impl History {
    /// A write of the whole block was begun; gives its place in the history.
    pub fn write(&mut self, key: Key, author: Author, bytes: Vec<u8>, now: Instant) -> usize {
        let register = self.registers.entry(key).or_default();
        register.writes.push(Written {
            content: sum(&bytes),
            author,
            begun: now,
            settled: None,
            fenced: None,
            last_begun: now,
        });
        register.bytes = bytes;
        register.writes.len() - 1
    }
    /// A write of a part of it, over what the writes before left: exact because its one writer's overlapping writes keep
    /// their order (R22).
    pub fn patch(&mut self, key: Key, author: Author, offset: usize, part: &[u8], now: Instant) -> usize {
        let mut bytes = self.registers.get(&key).map_or_else(Vec::new, |r| r.bytes.clone());
        bytes.resize(BLOCK_SIZE, 0);
        bytes[offset..offset + part.len()].copy_from_slice(part);
        self.write(key, author, bytes, now)
    }
    /// What a write leaves in its block.
    pub fn content(&self, key: Key, at: usize) -> u64 {
        self.registers[&key].writes[at].content
    }
    /// A write was answered.
    pub fn answered(&mut self, key: Key, at: usize, now: Instant) {
        let write = &mut self.registers.get_mut(&key).expect("it was begun").writes[at];
        write.settled.get_or_insert(now);
    }
    /// What a client had under way was fenced: it took effect by now, or never will (R31).
    pub fn fenced(&mut self, client: u32, now: Instant) {
        let writes = self.registers.values_mut().flat_map(|r| r.writes.iter_mut());
        for write in writes.filter(|w| w.author.client == client && w.settled.is_none()) {
            write.fenced.get_or_insert(now);
        }
    }

    /// A read was answered.
    ///
    /// # Panics
    /// If it shows what was never written, or something that a later, settled write had replaced before it was asked.
    pub fn read(&mut self, key: Key, seen: Observation) {
        self.reads += 1;
        let register = self.registers.entry(key).or_default();
        // what it may be: any write of that content begun before the read ended; nothing at all is a write at the start
        let nobody = Author { client: u32::MAX, life: 0 };
        let start = Written {
            content: 0,
            author: nobody,
            begun: Instant(0),
            settled: Some(Instant(0)),
            fenced: None,
            last_begun: Instant(0),
        };
        let all = || std::iter::once(&start).chain(register.writes.iter());
        let is_replaced = |w: &Written| {
            all().any(|later| {
                later.settled.is_some_and(|s| s <= seen.begun) && !std::ptr::eq(later, w) && w.precedes(later)
            })
        };
        let found =
            all().filter(|w| w.content == seen.content && w.begun <= seen.ended && !is_replaced(w)).count();
        if found == 0 {
            let tail = register.writes.len().saturating_sub(8);
            let of = |w: &&Written| w.content == seen.content;
            let later = all().rfind(of).and_then(|w| {
                let is_later = |l: &&Written| l.settled.is_some_and(|s| s <= seen.begun) && w.precedes(l);
                all().rfind(is_later)
            });
            let why = later.map_or_else(String::new, |w| {
                let by = w.settled.expect("it was filtered");
                format!(", which {:x} had replaced by {by:?}", w.content)
            });
            panic!(
                "{key:?} shows {:x} at {:?}..{:?}{why}; its last writes are {:x?}",
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
            write.last_begun = write.last_begun.max(seen.begun);
        }
    }

    /// Every block with a history.
    pub fn keys(&self) -> Vec<Key> {
        self.registers.keys().copied().collect()
    }

    /// Judges a block's whole history: there is one order of its writes that all reads agree with.
    ///
    /// Where all contents differ, a write and its reads are a *zone*, from the first end of any of them to the last
    /// begin. There is such an order exactly when no two zones that begin with their end overlap, and none of the others
    /// lies within one of them.
    ///
    /// # Panics
    /// If there is no such order.
    pub fn finish(&self, key: Key) {
        let Some(register) = self.registers.get(&key) else { return };
        let mut times: BTreeMap<u64, usize> = BTreeMap::new();
        register.writes.iter().for_each(|w| *times.entry(w.content).or_default() += 1);
        let is_one = |w: &&Written| w.content != 0 && times[&w.content] == 1;
        let seen = register.writes.iter().filter(is_one);
        let zones = seen.filter_map(|w| w.settled.map(|end| (end, w.last_begun, w)));
        let (mut long, short): (Vec<_>, Vec<_>) = zones.partition(|(end, begin, _)| end < begin);
        long.sort_by_key(|z| (z.0, z.1));
        for pair in long.windows(2) {
            assert!(pair[1].0 >= pair[0].1, "{key:?}: {:x?} and {:x?} take turns", pair[0].2, pair[1].2);
        }
        for (end, begin, write) in short {
            let before = long.partition_point(|z| z.0 < begin);
            let around = before.checked_sub(1).map(|at| &long[at]).filter(|z| end < z.1);
            if let Some(around) = around {
                panic!("{key:?}: {write:x?} came and went while {:x?} was there", around.2);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = (VolumeId(1), 0, 0);
    const FIRST: Author = Author { client: 1, life: 1 };
    const SECOND: Author = Author { client: 1, life: 2 };
    const OTHER: Author = Author { client: 2, life: 1 };
    fn at(n: u64) -> Instant {
        Instant(n)
    }
    fn see(begun: u64, ended: u64, fill: u8) -> Observation {
        Observation { begun: at(begun), ended: at(ended), content: sum(&[fill; 4096]) }
    }

    #[test]
    fn an_unanswered_write_may_or_may_not_be_seen() {
        let mut h = History::default();
        let first = h.write(KEY, FIRST, vec![1; 4096], at(1));
        h.answered(KEY, first, at(2));
        h.write(KEY, FIRST, vec![2; 4096], at(3));
        h.read(KEY, see(4, 5, 1));
        h.read(KEY, see(6, 7, 2));
        h.finish(KEY);
    }

    #[test]
    #[should_panic(expected = "shows")]
    fn what_was_seen_is_not_unseen() {
        let mut h = History::default();
        let first = h.write(KEY, FIRST, vec![1; 4096], at(1));
        h.answered(KEY, first, at(2));
        h.write(KEY, FIRST, vec![2; 4096], at(3));
        h.read(KEY, see(4, 5, 2));
        h.read(KEY, see(6, 7, 1));
    }

    #[test]
    #[should_panic(expected = "shows")]
    fn an_answered_write_is_not_lost() {
        let mut h = History::default();
        let first = h.write(KEY, FIRST, vec![1; 4096], at(1));
        h.answered(KEY, first, at(2));
        h.read(KEY, see(3, 4, 0));
    }

    #[test]
    #[should_panic(expected = "shows")]
    fn what_an_ended_life_left_does_not_come_after_its_successors() {
        let mut h = History::default();
        h.write(KEY, FIRST, vec![1; 4096], at(1));
        let second = h.write(KEY, SECOND, vec![2; 4096], at(3));
        h.answered(KEY, second, at(4));
        h.read(KEY, see(5, 6, 1));
    }

    #[test]
    #[should_panic(expected = "shows")]
    fn what_was_fenced_does_not_come_after_what_was_written_since() {
        let mut h = History::default();
        h.write(KEY, FIRST, vec![1; 4096], at(1));
        h.fenced(1, at(2));
        let other = h.write(KEY, OTHER, vec![2; 4096], at(3));
        h.answered(KEY, other, at(4));
        h.read(KEY, see(5, 6, 1));
    }

    #[test]
    #[should_panic(expected = "take turns")]
    fn two_writes_at_once_are_in_one_order_for_all_reads() {
        let mut h = History::default();
        let first = h.write(KEY, FIRST, vec![1; 4096], at(1));
        let other = h.write(KEY, OTHER, vec![2; 4096], at(1));
        h.answered(KEY, first, at(9));
        h.answered(KEY, other, at(9));
        h.read(KEY, see(2, 3, 1));
        h.read(KEY, see(4, 5, 2));
        h.read(KEY, see(6, 7, 1));
        h.read(KEY, see(10, 11, 2));
        h.finish(KEY);
    }

    #[test]
    #[should_panic(expected = "came and went")]
    fn a_write_does_not_come_and_go_unseen_under_another() {
        let mut h = History::default();
        let first = h.write(KEY, FIRST, vec![1; 4096], at(1));
        h.answered(KEY, first, at(2));
        let other = h.write(KEY, OTHER, vec![2; 4096], at(3));
        h.read(KEY, see(5, 9, 1));
        h.answered(KEY, other, at(4));
        h.finish(KEY);
    }
}
