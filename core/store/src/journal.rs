//! The journal: a ring of blocks, each written once and chained to the one before (S6, S7).
use crate::bytes::{Malformed, Reader, Writer, get_record, put_record};
use sarsen_buffer::{Buf, Pool, bytes_checksum};
use sarsen_types::{BLOCK_SIZE, DriveIdentity, GroupId, OpenId, Record, Version};

/// "SJB1", little endian.
const MAGIC: u32 = 0x3142_4a53;
/// Raised when the layout of a journal block changes.
const FORMAT: u16 = 1;
/// Bytes before floors and records.
const HEADER: usize = 8 + 4 + 2 + 2 + 16 + 16 + 8 + 8 + 8 + 4 + 4;
/// Bytes of a floor: group, floor, settled.
const FLOOR: usize = 4 + 8 + 8;
/// A journal block is at most so many 4 KiB units.
pub const UNITS_MAX: u64 = 32;
/// Bytes of floors and records in one.
pub const BODY_MAX: usize = UNITS_MAX as usize * BLOCK_SIZE - HEADER;

/// Where the next block goes and what it is chained to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Head {
    /// Unit of the ring, from 0.
    pub unit: u64,
    /// Its sequence.
    pub sequence: u64,
    /// The checksum of its predecessor.
    pub previous: u64,
}

/// Which ring, of which opening of which drive.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    /// First block of the ring in the slice.
    pub first: u64,
    /// Units of 4 KiB.
    pub units: u64,
    /// The drive, with the slice's number in it.
    pub drive: DriveIdentity,
    /// This opening.
    pub open: OpenId,
}

/// What is gathered for one block.
#[derive(Default, Debug)]
pub struct Draft {
    floors: Vec<(GroupId, Version, Version)>,
    records: Writer,
    count: u32,
}

impl Draft {
    /// A floor, or what a joiner knows to be committed (R10), moved since the last block.
    pub fn floor(&mut self, group: GroupId, floor: Version, settled: Version) {
        self.floors.push((group, floor, settled));
    }
    /// Adds a record when it fits; gives back whether it did.
    pub fn record(&mut self, record: &Record, places: &[u64]) -> bool {
        let before = self.records.0.len();
        put_record(&mut self.records, record, places);
        if self.floors.len() * FLOOR + self.records.0.len() > BODY_MAX {
            self.records.0.truncate(before);
            return false;
        }
        self.count += 1;
        true
    }
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.count == 0 && self.floors.is_empty()
    }
    /// Units it takes.
    pub fn units(&self) -> u64 {
        ((HEADER + self.floors.len() * FLOOR + self.records.0.len()) as u64).div_ceil(BLOCK_SIZE as u64)
    }
    /// The block, and the head after it.
    pub fn seal(self, pool: &Pool, ring: &Ring, head: Head, durable: u64) -> (Buf, Head) {
        let units = self.units();
        let mut w = Writer::default();
        w.u64(0).u32(MAGIC).u16(FORMAT).u16(units as u16).u128(ring.drive.0).u128(ring.open.0);
        w.u64(head.sequence).u64(head.previous).u64(durable).u32(self.floors.len() as u32).u32(self.count);
        for (group, floor, settled) in &self.floors {
            w.u32(group.0).u64(floor.0).u64(settled.0);
        }
        w.raw(&self.records.0);
        let mut buf = pool.take_zeroed(units as usize * BLOCK_SIZE);
        let bytes = buf.get_mut();
        bytes[..w.0.len()].copy_from_slice(&w.0);
        let sum = bytes_checksum(&bytes[8..]).0;
        bytes[..8].copy_from_slice(&sum.to_le_bytes());
        (buf, Head { unit: head.unit + units, sequence: head.sequence + 1, previous: sum })
    }
}

/// The first bytes of a block, before it is known to be intact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peek {
    /// Units of it.
    pub units: u64,
    /// Its opening.
    pub open: OpenId,
    /// Its sequence.
    pub sequence: u64,
    /// Highest sequence known persisted when it was submitted.
    pub durable: u64,
}

/// Looks at the head of what may be a block of this drive's journal.
pub fn peek(bytes: &[u8], drive: DriveIdentity) -> Result<Peek, Malformed> {
    let mut r = Reader::new(bytes);
    r.get_u64()?;
    if r.get_u32()? != MAGIC {
        return r.fail("the mark of a journal block");
    }
    if r.get_u16()? != FORMAT {
        return r.fail("a journal format this program knows");
    }
    let units = u64::from(r.get_u16()?);
    if units == 0 || units > UNITS_MAX {
        return r.fail("a length of a journal block");
    }
    if r.get_u128()? != drive.0 {
        return r.fail("a journal block of this drive");
    }
    let open = OpenId(r.get_u128()?);
    let sequence = r.get_u64()?;
    r.get_u64()?;
    Ok(Peek { units, open, sequence, durable: r.get_u64()? })
}

/// An intact block.
#[derive(Debug)]
pub struct Block {
    /// Its checksum, which the next names.
    pub checksum: u64,
    /// The checksum of the one before.
    pub previous: u64,
    /// Floors that had moved, and what was settled: as they were before the records.
    pub floors: Vec<(GroupId, Version, Version)>,
    /// Records with the places of their data.
    pub records: Vec<(Record, Vec<u64>)>,
}

/// Opens a whole block.
pub fn open(bytes: &[u8]) -> Result<Block, Malformed> {
    let mut r = Reader::new(bytes);
    let checksum = r.get_u64()?;
    if bytes_checksum(&bytes[8..]).0 != checksum {
        return Err(Malformed { at: 0, what: "a journal block that matches its checksum" });
    }
    r.take(4 + 2 + 2 + 16 + 16 + 8)?;
    let previous = r.get_u64()?;
    r.get_u64()?;
    let floors = r.get_u32()?;
    let records = r.get_u32()?;
    let floors =
        (0..floors).map(|_| Ok((GroupId(r.get_u32()?), Version(r.get_u64()?), Version(r.get_u64()?))));
    let floors = floors.collect::<Result<_, Malformed>>()?;
    let records = (0..records).map(|_| get_record(&mut r)).collect::<Result<_, _>>()?;
    Ok(Block { checksum, previous, floors, records })
}
