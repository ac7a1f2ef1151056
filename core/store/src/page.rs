//! Map pages: 4 KiB each, checksummed, of one kind; written once, never in place (S4).
use crate::bytes::{Malformed, Reader, Writer};
use sarsen_buffer::{Buf, Pool, bytes_checksum};
use sarsen_types::BLOCK_SIZE;

/// "SMP1", little endian.
const MAGIC: u32 = 0x3150_4d53;
/// Raised when a page's layout changes.
const FORMAT: u16 = 1;
/// Checksum, magic, format, kind.
pub const HEADER: usize = 16;
/// Bytes a page carries.
pub const PAYLOAD: usize = BLOCK_SIZE - HEADER;

/// What a page holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum PageKind {
    /// 171 entries of an object, by block.
    Dense = 1,
    /// At most 171 entries, each with its block.
    Sparse = 2,
    /// Lines of a group's object table.
    Table = 3,
    /// A part of the checkpoint's stream: groups, ledgers, entries not merged.
    Stream = 4,
    /// Pointers to stream pages.
    List = 5,
    /// A checkpoint root.
    Root = 6,
    /// A superblock.
    Super = 7,
    /// Slots of a group's object table.
    Index = 8,
    /// Which blocks are used.
    Bitmap = 9,
    /// Entries that lie over leaves of a table page's objects (S13).
    Run = 10,
    /// The runs of a table page, with a filter for each.
    Runs = 11,
}

/// Where a page lies, and the low 32 bits of its checksum (S4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Pointer {
    /// The block of the slice; 0 for none.
    pub block: u64,
    /// Of its checksum.
    pub sum: u32,
}

impl Pointer {
    /// Bytes of it.
    pub const BYTES: usize = 9;
    /// Whether it names nothing.
    pub fn is_none(self) -> bool {
        self.block == 0
    }
    /// Appends it.
    pub fn put(self, w: &mut Writer) {
        w.u40(self.block).u32(self.sum);
    }
    /// Takes it.
    pub fn get(r: &mut Reader<'_>) -> Result<Pointer, Malformed> {
        Ok(Pointer { block: r.get_u40()?, sum: r.get_u32()? })
    }
}

/// A page that lies in two places: what cannot be fetched from another copy survives one rotten block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Twin {
    /// Its blocks.
    pub at: [u64; 2],
    /// Of its checksum.
    pub sum: u32,
}

impl Twin {
    /// Bytes of it.
    pub const BYTES: usize = 14;
    /// No page.
    pub const NONE: Twin = Twin { at: [0; 2], sum: 0 };
    /// Whether it names nothing.
    pub fn is_none(self) -> bool {
        self.at[0] == 0
    }
    /// Appends it.
    pub fn put(self, w: &mut Writer) {
        w.u40(self.at[0]).u40(self.at[1]).u32(self.sum);
    }
    /// Takes it.
    pub fn get(r: &mut Reader<'_>) -> Result<Twin, Malformed> {
        Ok(Twin { at: [r.get_u40()?, r.get_u40()?], sum: r.get_u32()? })
    }
}

/// Makes a page; gives it with the low 32 bits of its checksum, which every pointer to it holds.
pub fn seal(pool: &Pool, kind: PageKind, payload: &[u8]) -> (Buf, u32) {
    assert!(payload.len() <= PAYLOAD, "a page's payload fits it");
    let mut buf = pool.take_zeroed(BLOCK_SIZE);
    let bytes = buf.get_mut();
    bytes[8..12].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[12..14].copy_from_slice(&FORMAT.to_le_bytes());
    bytes[14..16].copy_from_slice(&(kind as u16).to_le_bytes());
    bytes[HEADER..HEADER + payload.len()].copy_from_slice(payload);
    let sum = bytes_checksum(&bytes[8..]).0;
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
    (buf, sum as u32)
}

/// Opens a page: its payload, when it is intact, of that kind, and, where a pointer says so, the one pointed to.
pub fn unseal(bytes: &[u8], kind: PageKind, pointer: Option<u32>) -> Result<&[u8], Malformed> {
    let mut r = Reader::new(bytes);
    let (sum, magic) = (r.get_u64()?, r.get_u32()?);
    if magic != MAGIC {
        return Err(Malformed { at: 8, what: "the mark of a map page" });
    }
    if bytes_checksum(&bytes[8..]).0 != sum {
        return Err(Malformed { at: 0, what: "a page that matches its checksum" });
    }
    if pointer.is_some_and(|p| p != sum as u32) {
        return Err(Malformed { at: 0, what: "the page its pointer names" });
    }
    let (format, found) = (r.get_u16()?, r.get_u16()?);
    if format != FORMAT {
        return Err(Malformed { at: 12, what: "a page format this program knows" });
    }
    if found != kind as u16 {
        return Err(Malformed { at: 14, what: "a page of this kind" });
    }
    Ok(&bytes[HEADER..])
}
