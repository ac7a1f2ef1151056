//! Blocks, chunks and ranges of them.
use crate::ids::LayerId;
use core::fmt;

/// Bytes of a block: the unit of checksum, version and copy-on-write.
pub const BLOCK_SIZE: usize = 4096;
/// Bytes of a chunk: the unit of placement.
pub const CHUNK_SIZE: u64 = 4 << 20;
/// Blocks of a chunk.
pub const BLOCKS_PER_CHUNK: u16 = (CHUNK_SIZE / BLOCK_SIZE as u64) as u16;
const _: () = assert!(BLOCKS_PER_CHUNK == 1024);

/// The number of a chunk in its volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ChunkIndex(pub u32);

impl fmt::Debug for ChunkIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chunk {}", self.0)
    }
}

/// What a store keeps the blocks of: one chunk of one layer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ObjectId {
    /// The layer.
    pub layer: LayerId,
    /// The chunk.
    pub chunk: ChunkIndex,
}

impl ObjectId {
    /// Chunk `chunk` of layer `layer`.
    pub const fn new(layer: u64, chunk: u32) -> ObjectId {
        ObjectId { layer: LayerId(layer), chunk: ChunkIndex(chunk) }
    }
}
impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.layer.0, self.chunk.0)
    }
}

/// Blocks of one chunk: `first .. first + count`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockRange {
    /// The first block.
    pub first: u16,
    /// How many; at most [`BLOCKS_PER_CHUNK`].
    pub count: u16,
}

impl BlockRange {
    /// All blocks of a chunk.
    pub const CHUNK: BlockRange = BlockRange { first: 0, count: BLOCKS_PER_CHUNK };

    /// `count` blocks from `first`.
    pub const fn new(first: u16, count: u16) -> BlockRange {
        BlockRange { first, count }
    }
    /// The blocks that the bytes `offset .. offset + len` of a chunk touch.
    pub const fn covering(offset: u32, len: u32) -> BlockRange {
        let first = offset / BLOCK_SIZE as u32;
        let end = (offset + len).div_ceil(BLOCK_SIZE as u32);
        BlockRange { first: first as u16, count: (end - first) as u16 }
    }
    /// The block after the last.
    pub const fn end(self) -> u16 {
        self.first + self.count
    }
    /// Whether it lies in a chunk and is not empty.
    pub const fn is_valid(self) -> bool {
        self.count > 0 && (self.first as u32 + self.count as u32) <= BLOCKS_PER_CHUNK as u32
    }
    /// Whether the two share a block.
    pub const fn overlaps(self, other: BlockRange) -> bool {
        self.first < other.end() && other.first < self.end()
    }
    /// Whether `block` is one of them.
    pub const fn contains(self, block: u16) -> bool {
        self.first <= block && block < self.end()
    }
    /// The blocks in order.
    pub fn blocks(self) -> core::ops::Range<u16> {
        self.first..self.end()
    }
    /// What both have; `None` when nothing.
    pub fn intersect(self, other: BlockRange) -> Option<BlockRange> {
        let first = self.first.max(other.first);
        let end = self.end().min(other.end());
        (first < end).then(|| BlockRange::new(first, end - first))
    }
    /// Bytes of it.
    pub const fn bytes(self) -> usize {
        self.count as usize * BLOCK_SIZE
    }
}
impl fmt::Debug for BlockRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.first, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_range_covers_the_blocks_it_touches() {
        assert_eq!(BlockRange::covering(0, 1), BlockRange::new(0, 1));
        assert_eq!(BlockRange::covering(4095, 2), BlockRange::new(0, 2));
        assert_eq!(BlockRange::covering(4096, 4096), BlockRange::new(1, 1));
        assert_eq!(BlockRange::covering(0, CHUNK_SIZE as u32), BlockRange::CHUNK);
    }

    #[test]
    fn ranges_that_touch_do_not_overlap() {
        assert!(!BlockRange::new(0, 4).overlaps(BlockRange::new(4, 1)));
        assert!(BlockRange::new(0, 5).overlaps(BlockRange::new(4, 1)));
        assert_eq!(BlockRange::new(0, 5).intersect(BlockRange::new(4, 3)), Some(BlockRange::new(4, 1)));
    }
}
