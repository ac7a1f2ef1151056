//! One object in memory: the base that leaves on disk hold, and over it what is not merged yet.
use crate::place::{Held, Kind};
use sarsen_types::{BLOCKS_PER_CHUNK, FamilyId, Version};
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// Entries of a dense leaf (S3).
pub const LEAF_ENTRIES: usize = 171;
/// Dense leaves of an object.
pub const LEAVES: usize = 6;
const _: () = assert!(LEAVES * LEAF_ENTRIES >= BLOCKS_PER_CHUNK as usize);

/// The map pages an object has on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pages {
    /// Whether the first page is the sparse one, and the only one.
    pub is_sparse: bool,
    /// Block and low 32 bits of the checksum of each page; 0 for none.
    pub at: [(u64, u32); LEAVES],
}

/// See the module.
#[derive(Debug, Default)]
pub struct Object {
    /// Seeds its checksums.
    pub family: FamilyId,
    /// The version of the last operation of any kind on it (R18).
    pub touched: Version,
    /// Settled entries by block; empty when there is none.
    pub base: Vec<Held>,
    /// Entries not merged: by block, ascending versions.
    pub over: BTreeMap<u16, SmallVec<[Held; 2]>>,
    /// What is on disk.
    pub pages: Pages,
    /// Leaves that differ from what is on disk, by bit.
    pub dirty: u8,
    /// Whether its line in the object table differs from the one on disk.
    pub is_changed: bool,
    /// Blocks whose settled entries were on a page that cannot be read, by bit: refused, and recovered whole (R26). While
    /// there are any, the object's pages on disk stay as they are: what is lost must not become absent.
    pub lost: Option<Box<[u64; BLOCKS_PER_CHUNK as usize / 64]>>,
}

impl Object {
    /// The page that held these blocks cannot be read.
    pub fn lose(&mut self, blocks: std::ops::Range<u16>) {
        let lost = self.lost.get_or_insert_default();
        blocks.for_each(|b| lost[b as usize / 64] |= 1 << (b % 64));
    }
    /// Whether the settled entry of a block is lost.
    pub fn is_lost(&self, block: u16) -> bool {
        self.lost.as_ref().is_some_and(|l| l[block as usize / 64] >> (block % 64) & 1 == 1)
    }
    /// A block was recovered.
    pub fn found(&mut self, block: u16) {
        let Some(lost) = &mut self.lost else { return };
        lost[block as usize / 64] &= !(1 << (block % 64));
        if lost.iter().all(|l| *l == 0) {
            self.lost = None;
            // every page is written anew with the next checkpoint
            self.dirty = (1 << LEAVES) - 1;
            self.is_changed = true;
        }
    }

    /// The settled entry of a block.
    pub fn base_of(&self, block: u16) -> Held {
        self.base.get(block as usize).copied().unwrap_or(Held::ABSENT)
    }

    /// Sets the settled entry of a block.
    pub fn set_base(&mut self, block: u16, held: Held) {
        if self.base.is_empty() {
            if held.is_absent() {
                return;
            }
            self.base = vec![Held::ABSENT; BLOCKS_PER_CHUNK as usize];
        }
        self.base[block as usize] = held;
        self.dirty |= 1 << (block as usize / LEAF_ENTRIES);
        self.is_changed = true;
    }

    /// The highest entry.
    pub fn top(&self, block: u16) -> Held {
        self.over.get(&block).and_then(|s| s.last()).copied().unwrap_or_else(|| self.base_of(block))
    }

    /// The highest entry that `sees`.
    pub fn find(&self, block: u16, sees: impl Fn(Version) -> bool) -> Held {
        let over = self.over.get(&block).and_then(|s| s.iter().rev().find(|h| sees(h.version)));
        over.copied().unwrap_or_else(|| self.base_of(block))
    }

    /// The entry of exactly this version.
    pub fn exact(&self, block: u16, version: Version) -> Option<Held> {
        let over = self.over.get(&block).and_then(|s| s.iter().find(|h| h.version == version));
        over.copied().or_else(|| Some(self.base_of(block)).filter(|h| !h.is_absent() && h.version == version))
    }

    /// An ordered write: never in the place of a higher version (R5). Returns what it replaced at its own version (S9),
    /// or itself when it was not taken.
    pub fn write(&mut self, block: u16, held: Held) -> Option<Held> {
        self.touched = self.touched.max(held.version);
        self.is_changed = true;
        let base = self.base_of(block);
        if base.version == held.version && !base.is_absent() {
            // it comes again after it was settled: it is intact there
            return Some(held);
        }
        let stack = self.over.entry(block).or_default();
        if let Some(same) = stack.iter_mut().find(|h| h.version == held.version) {
            return Some(std::mem::replace(same, held));
        }
        let top = stack.last().map_or(base.version, |h| h.version);
        if top > held.version {
            if stack.is_empty() {
                self.over.remove(&block);
            }
            return Some(held);
        }
        stack.push(held);
        None
    }

    /// R14: all below the join epoch `low`, whatever lies on it, becomes what is given. Returns what went.
    pub fn recover(&mut self, block: u16, held: Held, low: Version) -> SmallVec<[Held; 2]> {
        let mut gone = SmallVec::new();
        let base = self.base_of(block);
        if !base.is_absent() && base.version < low && base != held {
            self.set_base(block, Held::ABSENT);
            gone.push(base);
        }
        let stack = self.over.entry(block).or_default();
        stack.retain(|h| {
            let stays = h.version >= low;
            if !stays {
                gone.push(*h);
            }
            stays
        });
        if !held.is_absent() {
            match stack.iter_mut().find(|h| h.version == held.version) {
                Some(same) if same.place.kind() == Kind::Damaged => gone.push(std::mem::replace(same, held)),
                Some(_) => gone.push(held),
                None if base.version == held.version && !base.is_absent() && base.version >= low => {
                    gone.push(held)
                }
                None => {
                    let at = stack.partition_point(|h| h.version < held.version);
                    stack.insert(at, held);
                }
            }
        }
        if stack.is_empty() {
            self.over.remove(&block);
        }
        self.found(block);
        self.touched = self.touched.max(held.version);
        self.is_changed = true;
        gone
    }

    /// What lies under the highest entry at or below `below` goes (R10).
    pub fn settle(&mut self, block: u16, below: Version, gone: &mut Vec<Held>) {
        let Some(stack) = self.over.get_mut(&block) else { return };
        while stack.len() >= 2 && stack[1].version <= below {
            gone.push(stack.remove(0));
        }
    }

    /// Merges what is settled into the base; damaged entries stay out of leaves (R12). Returns what was displaced.
    pub fn merge(&mut self, floor: Version, displaced: &mut Vec<Held>, merged: &mut Vec<Held>) {
        let blocks: Vec<u16> = self.over.keys().copied().collect();
        for block in blocks {
            let stack = self.over.get_mut(&block).expect("it was listed");
            let settled = stack.iter().take_while(|h| h.version <= floor).count();
            if settled == 0 {
                continue;
            }
            let last = stack[settled - 1];
            displaced.extend(stack.drain(..settled - 1));
            if last.place.kind() == Kind::Damaged {
                continue;
            }
            stack.remove(0);
            if stack.is_empty() {
                self.over.remove(&block);
            }
            let base = self.base_of(block);
            if !base.is_absent() {
                displaced.push(base);
            }
            self.set_base(block, last);
            merged.push(last);
        }
    }

    /// Settled zero entries may vanish (R23).
    pub fn vanish(&mut self) {
        for block in 0..self.base.len() as u16 {
            if self.base_of(block).place.kind() == Kind::Zero {
                self.set_base(block, Held::ABSENT);
            }
        }
    }

    /// Whether it holds no entry at all.
    pub fn is_empty(&self) -> bool {
        self.over.is_empty() && self.base.iter().all(|h| h.is_absent())
    }

    /// Every entry it holds.
    pub fn all(&self) -> impl Iterator<Item = Held> {
        self.base.iter().copied().filter(|h| !h.is_absent()).chain(self.over.values().flatten().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Place;
    use sarsen_types::{Checksum, Epoch};

    fn held(epoch: u32, sequence: u64) -> Held {
        let version = Version::new(Epoch(epoch), sequence);
        Held { version, place: Place::data(sequence), checksum: Checksum(sequence) }
    }

    #[test]
    fn recovery_reaches_under_a_newer_entry() {
        let mut object = Object::default();
        object.set_base(0, held(1, 1));
        object.write(0, held(1, 2));
        object.write(0, held(3, 1));
        let gone = object.recover(0, held(2, 9), Version::start(Epoch(3)));
        assert_eq!(gone.len(), 2);
        assert_eq!(object.top(0), held(3, 1));
        assert_eq!(object.find(0, |v| v.epoch() < Epoch(3)), held(2, 9));
    }

    #[test]
    fn damaged_entries_are_not_merged() {
        let mut object = Object::default();
        object.write(0, held(1, 1));
        let torn = Held { place: held(1, 2).place.damaged(), ..held(1, 2) };
        object.write(0, torn);
        object.write(1, held(1, 3));
        let (mut displaced, mut merged) = (vec![], vec![]);
        object.merge(Version::new(Epoch(1), 3), &mut displaced, &mut merged);
        assert_eq!((displaced, merged), (vec![held(1, 1)], vec![held(1, 3)]));
        assert_eq!(object.top(0), torn);
    }
}
