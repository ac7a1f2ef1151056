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
/// The records of a journal block take at most so many 4 KiB units; with data behind them it has no more.
pub const UNITS_MAX: u64 = 32;
/// Bytes of floors and records in one.
pub const BODY_MAX: usize = UNITS_MAX as usize * BLOCK_SIZE - HEADER;
/// Floors of one block, at most: they take half of it.
pub const FLOORS_MAX: usize = BODY_MAX / 2 / (4 + 8 + 8);
/// Blocks of data that may lie in the journal block itself: of a small turn, 16 KiB in all (S10).
pub const DATA_MAX: u64 = 4;

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
#[derive(Debug)]
pub struct Draft {
    /// The block, its header blank: floors, then records.
    bytes: Writer,
    most: usize,
    floors: u32,
    records: u32,
}

impl Default for Draft {
    fn default() -> Draft {
        Draft::within(Vec::new(), UNITS_MAX)
    }
}

impl Draft {
    /// Nothing yet, in memory that was used before; what is added fits `units`.
    pub fn within(mut memory: Vec<u8>, units: u64) -> Draft {
        memory.clear();
        memory.resize(HEADER, 0);
        Draft { bytes: Writer(memory), most: units as usize * BLOCK_SIZE, floors: 0, records: 0 }
    }
    /// A floor, or what a joiner knows to be committed (R10), moved since the last block. Floors come before records.
    pub fn floor(&mut self, group: GroupId, floor: Version, settled: Version) {
        debug_assert_eq!(self.records, 0, "floors are as they were before the records");
        self.bytes.u32(group.0).u64(floor.0).u64(settled.0);
        self.floors += 1;
    }
    /// Adds a record when it fits; gives back whether it did.
    pub fn record(&mut self, record: &Record, places: &[u64]) -> bool {
        let before = self.bytes.0.len();
        put_record(&mut self.bytes, record, places);
        if self.bytes.0.len() > self.most {
            self.bytes.0.truncate(before);
            return false;
        }
        self.records += 1;
        true
    }
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.records == 0 && self.floors == 0
    }
    /// Units it takes, without data.
    pub fn units(&self) -> u64 {
        (self.bytes.0.len() as u64).div_ceil(BLOCK_SIZE as u64)
    }
    /// The memory, to be used again, of a block that is not written.
    pub fn into_memory(self) -> Vec<u8> {
        self.bytes.0
    }
    /// The block, to be followed by so many units of data; the head after them; the memory, to be used again.
    pub fn seal(
        mut self,
        pool: &Pool,
        ring: &Ring,
        head: Head,
        durable: u64,
        data: u64,
    ) -> (Buf, Head, Vec<u8>) {
        let units = self.units();
        let body = std::mem::take(&mut self.bytes.0);
        let mut buf = pool.take_zeroed(units as usize * BLOCK_SIZE);
        let bytes = buf.get_mut();
        bytes[HEADER..body.len()].copy_from_slice(&body[HEADER..]);
        let mut header = Writer(body);
        header.0.clear();
        header.u64(0).u32(MAGIC).u16(FORMAT).u8(units as u8).u8(data as u8).u128(ring.drive.0);
        header.u128(ring.open.0).u64(head.sequence).u64(head.previous).u64(durable);
        header.u32(self.floors).u32(self.records);
        bytes[..HEADER].copy_from_slice(&header.0);
        let sum = bytes_checksum(&bytes[8..]).0;
        bytes[..8].copy_from_slice(&sum.to_le_bytes());
        let next = Head { unit: head.unit + units + data, sequence: head.sequence + 1, previous: sum };
        (buf, next, header.0)
    }
}

/// The first bytes of a block, before it is known to be intact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peek {
    /// Units of it, with the data that lie in it.
    pub units: u64,
    /// Units of header, floors and records: what its checksum covers.
    pub body: u64,
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
    let (body, data) = (u64::from(r.get_u8()?), u64::from(r.get_u8()?));
    if body == 0 || body + data > UNITS_MAX || data > DATA_MAX {
        return r.fail("a length of a journal block");
    }
    if r.get_u128()? != drive.0 {
        return r.fail("a journal block of this drive");
    }
    let open = OpenId(r.get_u128()?);
    let sequence = r.get_u64()?;
    r.get_u64()?;
    Ok(Peek { units: body + data, body, open, sequence, durable: r.get_u64()? })
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

/// Opens a whole block: its bytes without data.
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
