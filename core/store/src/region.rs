//! Where the parts of a slice lie (S1, S5).
//!
//! ```text
//! root | ... 1 MiB ... | journal ring | bitmaps, two versions, each twice | data and map pages | root
//! ```
use crate::place::BLOCKS_MAX;
use crate::space::{BITMAP_COPIES, pages_of};
use sarsen_types::BLOCK_SIZE;

/// The shortest ring: half of it has room for the longest blocks and for what is kept, so that the journal goes on until the
/// checkpoint that half a ring brings about. In a shorter one records wait for a checkpoint that is never due.
pub const RING_BLOCKS_MIN: u64 = 256;

/// See the module. Blocks are counted from the slice's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SliceRegion {
    /// Its first byte on the drive.
    pub offset: u64,
    /// Its length in blocks of 4 KiB.
    pub blocks: u64,
    /// First block of the journal ring.
    pub ring_first: u64,
    /// Blocks of the ring.
    pub ring_blocks: u64,
}

impl SliceRegion {
    /// Whether it lies inside a drive of so many bytes, and its parts inside it: what a superblock says is not believed.
    pub fn fits(&self, drive: u64) -> bool {
        let block = BLOCK_SIZE as u64;
        self.offset.is_multiple_of(block)
            && self.blocks <= BLOCKS_MAX
            && self.offset / block + self.blocks <= drive / block
            && (1..self.blocks).contains(&self.ring_first)
            && (RING_BLOCKS_MIN..self.blocks - self.ring_first).contains(&self.ring_blocks)
            && self.data_first() + 1 < self.blocks
    }
    /// Whether a block is one of the journal ring.
    pub fn is_in_ring(&self, block: u64) -> bool {
        (self.ring_first..self.bitmap_first()).contains(&block)
    }
    /// Whether data of a client may lie in a block.
    pub fn may_hold(&self, block: u64) -> bool {
        self.is_in_ring(block) || self.may_hold_map(block)
    }
    /// Whether a page of the map may: data, but for those in the ring, lie there too.
    pub fn may_hold_map(&self, block: u64) -> bool {
        (self.data_first()..self.blocks - 1).contains(&block)
    }
    /// First block of the bitmaps.
    pub fn bitmap_first(&self) -> u64 {
        self.ring_first + self.ring_blocks
    }
    /// Bitmap pages: enough for all that lies behind the ring.
    pub fn bitmap_pages(&self) -> u64 {
        pages_of(self.blocks - self.bitmap_first())
    }
    /// The two places of a version of a bitmap page.
    pub fn bitmap_places(&self, page: u64, version: u8) -> [u64; 2] {
        let at =
            |twin: u64| self.bitmap_first() + (2 * twin + u64::from(version)) * self.bitmap_pages() + page;
        [at(0), at(1)]
    }
    /// First block that can hold data.
    pub fn data_first(&self) -> u64 {
        self.bitmap_first() + BITMAP_COPIES * self.bitmap_pages()
    }
    /// The two root blocks, at its start and at its end.
    pub fn roots(&self) -> [u64; 2] {
        [0, self.blocks - 1]
    }
}
