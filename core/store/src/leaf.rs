//! Leaves: the merged entries of an object, in six pages of 171 blocks each, or in one sparse page (S3).
use crate::bytes::{Malformed, Reader, Writer};
use crate::page::{PAYLOAD, PageKind};
use crate::place::{ENTRY_BYTES, Held};
use sarsen_types::BLOCKS_PER_CHUNK;

/// Entries of a dense leaf, and the most of a sparse one.
pub const LEAF_ENTRIES: usize = 171;
/// Dense leaves of an object.
pub const LEAVES: usize = 6;
/// Bytes of an entry in a sparse leaf: its block's number before it.
const SPARSE_BYTES: usize = 2 + ENTRY_BYTES;
const _: () = assert!(LEAVES * LEAF_ENTRIES >= BLOCKS_PER_CHUNK as usize);
const _: () = assert!(LEAF_ENTRIES * ENTRY_BYTES <= PAYLOAD);
const _: () = assert!(4 + LEAF_ENTRIES * SPARSE_BYTES <= PAYLOAD);

/// The leaf a block is in.
pub fn leaf_of(block: u16) -> usize {
    block as usize / LEAF_ENTRIES
}

/// The blocks of a dense leaf.
pub fn blocks_of(leaf: usize) -> std::ops::Range<u16> {
    (leaf * LEAF_ENTRIES) as u16..((leaf + 1) * LEAF_ENTRIES).min(BLOCKS_PER_CHUNK as usize) as u16
}

/// The entry of `block` in a leaf's payload. Bytes that are no entry read as absent: the page's checksum was verified, so
/// that only a program's error could have written them.
pub fn entry(kind: PageKind, payload: &[u8], block: u16) -> Held {
    match kind {
        PageKind::Dense => {
            let at = block as usize % LEAF_ENTRIES * ENTRY_BYTES;
            held_at(payload, at)
        }
        _ => {
            let count = count_of(payload);
            let number = |at: usize| {
                let at = 4 + at * SPARSE_BYTES;
                payload.get(at..at + 2).map_or(u16::MAX, |b| u16::from_le_bytes([b[0], b[1]]))
            };
            let (mut low, mut high) = (0, count);
            while low < high {
                let middle = (low + high) / 2;
                if number(middle) < block { low = middle + 1 } else { high = middle }
            }
            match low < count && number(low) == block {
                true => held_at(payload, 4 + low * SPARSE_BYTES + 2),
                false => Held::ABSENT,
            }
        }
    }
}

/// All entries of a leaf, those that say nothing among them.
pub fn entries(kind: PageKind, payload: &[u8]) -> impl Iterator<Item = Held> {
    let (first, bytes, count) = match kind {
        PageKind::Dense => (0, ENTRY_BYTES, LEAF_ENTRIES),
        _ => (4 + 2, SPARSE_BYTES, count_of(payload)),
    };
    (0..count).map(move |at| held_at(payload, first + at * bytes))
}

fn held_at(payload: &[u8], at: usize) -> Held {
    payload.get(at..).and_then(|b| Held::get(&mut Reader::new(b)).ok()).unwrap_or_default()
}

fn count_of(payload: &[u8]) -> usize {
    let count = payload.get(..4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    (count as usize).min(LEAF_ENTRIES)
}

/// All entries of an object, of which some leaves may not have been read.
#[derive(Clone, Debug)]
pub struct Entries(Vec<Held>);

impl Default for Entries {
    fn default() -> Entries {
        Entries(vec![Held::ABSENT; BLOCKS_PER_CHUNK as usize])
    }
}

impl Entries {
    /// Takes the entries of a leaf.
    pub fn read(&mut self, kind: PageKind, leaf: usize, payload: &[u8]) {
        let blocks = if kind == PageKind::Dense { blocks_of(leaf) } else { 0..BLOCKS_PER_CHUNK };
        for block in blocks {
            self.0[block as usize] = entry(kind, payload, block);
        }
    }
    /// The entry of a block.
    pub fn get(&self, block: u16) -> Held {
        self.0[block as usize]
    }
    /// Sets it.
    pub fn set(&mut self, block: u16, held: Held) {
        self.0[block as usize] = held;
    }
    /// Those that are something, with their blocks.
    pub fn present(&self) -> impl Iterator<Item = (u16, Held)> {
        self.0.iter().enumerate().filter(|(_, h)| !h.is_absent()).map(|(b, h)| (b as u16, *h))
    }
    /// A bit per 16 blocks that hold something (S3).
    pub fn presence(&self) -> u64 {
        self.present().fold(0, |mask, (block, _)| mask | 1 << (block / 16))
    }
    /// The payload of a dense leaf.
    pub fn dense(&self, leaf: usize) -> Vec<u8> {
        let mut w = Writer::page();
        for block in blocks_of(leaf) {
            self.get(block).put(&mut w);
        }
        w.0
    }
    /// The payload of a sparse leaf; `None` when there are too many entries for one.
    pub fn sparse(&self) -> Option<Vec<u8>> {
        let count = self.present().count();
        if count > LEAF_ENTRIES {
            return None;
        }
        let mut w = Writer::page();
        w.u32(count as u32);
        for (block, held) in self.present() {
            w.u16(block);
            held.put(&mut w);
        }
        Some(w.0)
    }
}

/// Whether a payload is one that a leaf of this kind may have.
pub fn check(kind: PageKind, payload: &[u8]) -> Result<(), Malformed> {
    let mut r = Reader::new(payload);
    if kind == PageKind::Dense {
        return (0..LEAF_ENTRIES).try_for_each(|_| Held::get(&mut r).map(drop));
    }
    let mut before = None;
    let count = r.count(SPARSE_BYTES)?;
    if count > LEAF_ENTRIES {
        return r.fail("no more entries than a sparse leaf has");
    }
    for _ in 0..count {
        let block = r.get_u16()?;
        if block >= BLOCKS_PER_CHUNK || before.is_some_and(|b| b >= block) {
            return r.fail("blocks of a chunk, ascending");
        }
        before = Some(block);
        Held::get(&mut r)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Place;
    use sarsen_types::{Checksum, Version};

    fn held(n: u64) -> Held {
        Held { version: Version(n), place: Place::data(n), checksum: Checksum(n) }
    }

    #[test]
    fn entries_come_back_from_dense_and_sparse_leaves() {
        let mut entries = Entries::default();
        for block in [0u16, 170, 171, 500, 1023] {
            entries.set(block, held(u64::from(block) + 1));
        }
        let sparse = entries.sparse().unwrap();
        check(PageKind::Sparse, &sparse).unwrap();
        for block in 0..BLOCKS_PER_CHUNK {
            assert_eq!(entry(PageKind::Sparse, &sparse, block), entries.get(block));
            let dense = entries.dense(leaf_of(block));
            assert_eq!(entry(PageKind::Dense, &dense, block), entries.get(block));
        }
        let mut again = Entries::default();
        again.read(PageKind::Sparse, 0, &sparse);
        assert_eq!(again.0, entries.0);
        assert_eq!(entries.presence(), 1 | 1 << 10 | 1 << 31 | 1 << 63);
    }

    #[test]
    fn more_than_a_sparse_leaf_holds_needs_dense_ones() {
        let mut entries = Entries::default();
        (0..=LEAF_ENTRIES as u16).for_each(|b| entries.set(b, held(1)));
        assert_eq!(entries.sparse(), None);
    }
}
