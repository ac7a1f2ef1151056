//! Where a block's data lie, and the 21 bytes a map entry takes (S2).
use crate::bytes::{Malformed, Reader, Writer};
use sarsen_types::record::Entry;
use sarsen_types::{Checksum, Version};

/// Bytes of an entry in a leaf.
pub const ENTRY_BYTES: usize = 21;
/// The two high bits of a place's 40 say what it is.
const KIND_SHIFT: u32 = 38;
const BLOCK_MASK: u64 = (1 << KIND_SHIFT) - 1;
/// Blocks that places can tell apart: a slice has no more.
pub const BLOCKS_MAX: u64 = 1 << KIND_SHIFT;

/// What a place is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Nothing was ever written.
    Absent = 0,
    /// Zeroes, at a version.
    Zero = 1,
    /// Data, in a block of the slice.
    Data = 2,
    /// Data that did not match their checksum when last looked at (S8).
    Damaged = 3,
}

/// 40 bits: a kind, and for data the number of a block of the slice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place(pub u64);

impl Place {
    /// Nothing.
    pub const ABSENT: Place = Place(0);
    /// Zeroes.
    pub const ZERO: Place = Place((Kind::Zero as u64) << KIND_SHIFT);
    /// Damaged data that lie nowhere any more: they were damaged in the journal, and could not be moved out of it (S10).
    pub const LOST: Place = Place((Kind::Damaged as u64) << KIND_SHIFT);
    /// Data in block `block` of the slice.
    pub const fn data(block: u64) -> Place {
        Place((Kind::Data as u64) << KIND_SHIFT | block)
    }
    /// What it is.
    pub const fn kind(self) -> Kind {
        match self.0 >> KIND_SHIFT & 3 {
            0 => Kind::Absent,
            1 => Kind::Zero,
            2 => Kind::Data,
            _ => Kind::Damaged,
        }
    }
    /// The block, of data and of damaged data that lie somewhere.
    pub fn block(self) -> Option<u64> {
        let has_one = matches!(self.kind(), Kind::Data | Kind::Damaged) && self != Place::LOST;
        has_one.then_some(self.0 & BLOCK_MASK)
    }
    /// The same block, known to be damaged.
    pub fn damaged(self) -> Place {
        match self.block() {
            Some(block) => Place((Kind::Damaged as u64) << KIND_SHIFT | block),
            None => self,
        }
    }
}

/// An entry of the map: place, version, checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// The order.
    pub version: Version,
    /// Where.
    pub place: Place,
    /// Of the data.
    pub checksum: Checksum,
}

impl Held {
    /// Nothing.
    pub const ABSENT: Held = Held { version: Version::ZERO, place: Place::ABSENT, checksum: Checksum(0) };

    /// Whether nothing is held.
    pub fn is_absent(self) -> bool {
        self.place.kind() == Kind::Absent
    }
    /// As it travels.
    pub fn entry(self) -> Entry {
        match self.place.kind() {
            Kind::Absent => Entry::Absent,
            Kind::Zero => Entry::Zero(self.version),
            Kind::Data => Entry::Data(self.version, self.checksum),
            Kind::Damaged => Entry::Damaged(self.version, self.checksum),
        }
    }
    /// Appends its 21 bytes.
    pub fn put(self, w: &mut Writer) {
        w.u40(self.place.0).u64(self.version.0).u64(self.checksum.0);
    }
    /// Takes its 21 bytes.
    pub fn get(r: &mut Reader<'_>) -> Result<Held, Malformed> {
        let place = Place(r.get_u40()?);
        Ok(Held { place, version: Version(r.get_u64()?), checksum: Checksum(r.get_u64()?) })
    }
}
