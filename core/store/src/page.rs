//! Map pages: 4 KiB each, checksummed, of one kind; written once, never in place (S4).
use crate::bytes::{Malformed, Reader, Writer};
use crate::object::{LEAF_ENTRIES, LEAVES, Object, Pages};
use crate::place::{ENTRY_BYTES, Held};
use sarsen_buffer::{Buf, Pool, bytes_checksum};
use sarsen_types::{BLOCK_SIZE, BLOCKS_PER_CHUNK, FamilyId, ObjectId, Version};

/// "SMP1", little endian.
const MAGIC: u32 = 0x3150_4d53;
/// Raised when a page's layout changes.
const FORMAT: u16 = 1;
/// Checksum, magic, format, kind.
pub const HEADER: usize = 16;
/// Bytes a page carries.
pub const PAYLOAD: usize = BLOCK_SIZE - HEADER;
/// Bytes of a line of the object table: 12 of key, 88 of value (S3).
const LINE: usize = 100;
/// Lines of a table page.
pub const LINES_MAX: usize = (PAYLOAD - 4) / LINE;
/// Entries that fit a sparse leaf: each with its block's number.
pub const SPARSE_MAX: usize = LEAF_ENTRIES;
const _: () = assert!(LEAF_ENTRIES * ENTRY_BYTES <= PAYLOAD);
const _: () = assert!(4 + SPARSE_MAX * (ENTRY_BYTES + 2) <= PAYLOAD);

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

/// The payload of dense leaf `leaf` of an object.
pub fn dense(object: &Object, leaf: usize) -> Vec<u8> {
    let mut w = Writer::default();
    for block in leaf * LEAF_ENTRIES..((leaf + 1) * LEAF_ENTRIES).min(BLOCKS_PER_CHUNK as usize) {
        object.base_of(block as u16).put(&mut w);
    }
    w.0
}

/// Reads a dense leaf into an object.
pub fn read_dense(object: &mut Object, leaf: usize, payload: &[u8]) -> Result<(), Malformed> {
    let mut r = Reader::new(payload);
    for block in leaf * LEAF_ENTRIES..((leaf + 1) * LEAF_ENTRIES).min(BLOCKS_PER_CHUNK as usize) {
        object.set_base(block as u16, Held::get(&mut r)?);
    }
    Ok(())
}

/// The payload of a sparse leaf, or nothing when the object has too many entries for one.
pub fn sparse(object: &Object) -> Option<Vec<u8>> {
    let mut w = Writer::default();
    let held: Vec<(u16, Held)> =
        (0..object.base.len() as u16).map(|b| (b, object.base_of(b))).filter(|h| !h.1.is_absent()).collect();
    if held.len() > SPARSE_MAX {
        return None;
    }
    w.u32(held.len() as u32);
    for (block, entry) in held {
        w.u16(block);
        entry.put(&mut w);
    }
    Some(w.0)
}

/// Reads a sparse leaf into an object.
pub fn read_sparse(object: &mut Object, payload: &[u8]) -> Result<(), Malformed> {
    let mut r = Reader::new(payload);
    for _ in 0..r.count(ENTRY_BYTES + 2)? {
        let block = r.get_u16()?;
        if block >= BLOCKS_PER_CHUNK {
            return r.fail("a block of a chunk");
        }
        object.set_base(block, Held::get(&mut r)?);
    }
    Ok(())
}

/// Appends an object's line in its group's table.
pub fn put_line(w: &mut Writer, id: ObjectId, object: &Object) {
    let start = w.0.len();
    w.u64(id.layer.0)
        .u32(id.chunk.0)
        .u8(object.pages.is_sparse.into())
        .u64(object.family.0)
        .u64(object.touched.0);
    w.u32(0).u64(presence(object));
    for (block, sum) in object.pages.at {
        w.u40(block).u32(sum);
    }
    w.0.resize(start + LINE, 0);
}

/// Takes an object's line.
pub fn get_line(r: &mut Reader<'_>) -> Result<(ObjectId, Object), Malformed> {
    let mut r = Reader::new(r.take(LINE)?);
    let id = ObjectId::new(r.get_u64()?, r.get_u32()?);
    let is_sparse = r.get_u8()? != 0;
    let (family, touched) = (FamilyId(r.get_u64()?), Version(r.get_u64()?));
    let (_life, _presence) = (r.get_u32()?, r.get_u64()?);
    let mut pages = Pages { is_sparse, ..Pages::default() };
    for at in 0..LEAVES {
        pages.at[at] = (r.get_u40()?, r.get_u32()?);
    }
    Ok((id, Object { family, touched, pages, ..Object::default() }))
}

/// A bit per 16 blocks that hold something (S3): a chain of layers is walked without reading leaves that are empty there.
fn presence(object: &Object) -> u64 {
    (object.base.iter().enumerate())
        .filter(|(_, h)| !h.is_absent())
        .fold(0, |mask, (b, _)| mask | 1 << (b / 16))
}
