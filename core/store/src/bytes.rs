//! Little-endian bytes of what lies on a drive: a writer that grows, a reader that never panics.
use crate::page::PAYLOAD;
use crate::place::BLOCKS_MAX;
use sarsen_types::record::{Body, Content, Entry, Point, Record, Recover, Table, Write};
use sarsen_types::{
    AttachmentId, BLOCKS_PER_CHUNK, BlockRange, Checksum, Epoch, FamilyId, Generation, GroupId, LayerId,
    Mark, ObjectId, QueueId, RequestId, RequestNote, SessionId, Version,
};

/// Bytes of a note: 32 of the request, 12 of the object, 4 of the range.
pub const NOTE: usize = 48;

/// Bytes that were not what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed at byte {at}: {what}")]
pub struct Malformed {
    /// Where.
    pub at: usize,
    /// What was expected.
    pub what: &'static str,
}

/// Appends values.
#[derive(Default, Debug)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// For the payload of a page.
    pub fn page() -> Writer {
        Writer(Vec::with_capacity(PAYLOAD))
    }
}

/// Takes values off the front.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

macro_rules! numbers { ($($write:ident $read:ident $t:ty;)*) => {
    impl Writer { $(
        /// Appends it, little endian.
        pub fn $write(&mut self, v: $t) -> &mut Self { self.0.extend_from_slice(&v.to_le_bytes()); self }
    )* }
    impl Reader<'_> { $(
        /// Takes it, little endian.
        pub fn $read(&mut self) -> Result<$t, Malformed> {
            let bytes = self.take(size_of::<$t>())?;
            Ok(<$t>::from_le_bytes(bytes.try_into().expect("as many as were taken")))
        }
    )* }
} }
numbers! { u8 get_u8 u8; u16 get_u16 u16; u32 get_u32 u32; u64 get_u64 u64; u128 get_u128 u128; }

impl Writer {
    /// Appends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }
    /// Appends the low 40 bits.
    pub fn u40(&mut self, v: u64) -> &mut Self {
        self.raw(&v.to_le_bytes()[..5])
    }
}

impl<'a> Reader<'a> {
    /// Reads from the first byte.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }
    /// Bytes taken so far.
    pub fn at(&self) -> usize {
        self.at
    }
    /// Bytes left.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }
    /// Takes so many bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(n).filter(|e| *e <= self.bytes.len());
        let end = end.ok_or(Malformed { at: self.at, what: "more bytes" })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }
    /// Takes 40 bits.
    pub fn get_u40(&mut self) -> Result<u64, Malformed> {
        let b = self.take(5)?;
        Ok(u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], 0, 0, 0]))
    }
    /// Takes a count of things of at least `size` bytes each: no more than the bytes at hand allow.
    pub fn count(&mut self, size: usize) -> Result<usize, Malformed> {
        let n = self.get_u32()? as usize;
        match n.checked_mul(size.max(1)).is_some_and(|bytes| bytes <= self.left()) {
            true => Ok(n),
            false => self.fail("a count that its bytes allow"),
        }
    }
    /// What was expected here.
    pub fn fail<T>(&self, what: &'static str) -> Result<T, Malformed> {
        Err(Malformed { at: self.at, what })
    }
}

/// Appends an object's id: 12 bytes.
pub fn put_object(w: &mut Writer, o: ObjectId) {
    w.u64(o.layer.0).u32(o.chunk.0);
}
/// Takes an object's id.
pub fn get_object(r: &mut Reader<'_>) -> Result<ObjectId, Malformed> {
    Ok(ObjectId::new(r.get_u64()?, r.get_u32()?))
}
/// Takes the number of a block in its chunk.
pub fn get_block(r: &mut Reader<'_>) -> Result<u16, Malformed> {
    let block = r.get_u16()?;
    match block < BLOCKS_PER_CHUNK {
        true => Ok(block),
        false => r.fail("a block of a chunk"),
    }
}
fn put_range(w: &mut Writer, b: BlockRange) {
    w.u16(b.first).u16(b.count);
}
fn get_range(r: &mut Reader<'_>) -> Result<BlockRange, Malformed> {
    let range = BlockRange::new(r.get_u16()?, r.get_u16()?);
    match range.is_valid() {
        true => Ok(range),
        false => r.fail("a range of blocks inside a chunk"),
    }
}
/// Appends a request's note: 48 bytes.
pub fn put_note(w: &mut Writer, n: &RequestNote) {
    let id = &n.id;
    w.u64(id.attachment.0)
        .u32(id.generation.0)
        .u64(id.session.0)
        .u16(id.queue.0)
        .u64(id.number)
        .u16(id.piece);
    put_object(w, n.object);
    put_range(w, n.range);
}
/// Takes a request's note.
pub fn get_note(r: &mut Reader<'_>) -> Result<RequestNote, Malformed> {
    let id = RequestId {
        attachment: AttachmentId(r.get_u64()?),
        generation: Generation(r.get_u32()?),
        session: SessionId(r.get_u64()?),
        queue: QueueId(r.get_u16()?),
        number: r.get_u64()?,
        piece: r.get_u16()?,
    };
    Ok(RequestNote { id, object: get_object(r)?, range: get_range(r)? })
}
/// Appends a mark: 26 bytes.
pub fn put_mark(w: &mut Writer, m: &Mark) {
    w.u64(m.attachment.0).u64(m.session.0).u16(m.queue.0).u64(m.below);
}
/// Takes a mark.
pub fn get_mark(r: &mut Reader<'_>) -> Result<Mark, Malformed> {
    Ok(Mark {
        attachment: AttachmentId(r.get_u64()?),
        session: SessionId(r.get_u64()?),
        queue: QueueId(r.get_u16()?),
        below: r.get_u64()?,
    })
}
/// Appends a session's line: 20 bytes.
pub fn put_session(w: &mut Writer, s: &(AttachmentId, Generation, SessionId)) {
    w.u64(s.0.0).u32(s.1.0).u64(s.2.0);
}
/// Takes a session's line.
pub fn get_session(r: &mut Reader<'_>) -> Result<(AttachmentId, Generation, SessionId), Malformed> {
    Ok((AttachmentId(r.get_u64()?), Generation(r.get_u32()?), SessionId(r.get_u64()?)))
}

/// Appends a record with the places of its data blocks (S11).
pub fn put_record(w: &mut Writer, record: &Record, places: &[u64]) {
    w.u32(record.group.0).u32(record.promise.0);
    match &record.body {
        Body::Promise => drop(w.u8(0)),
        Body::Assign { assignment } => drop(w.u8(1).u64(*assignment)),
        Body::Write(write) => {
            w.u8(2);
            put_write(w, write);
        }
        Body::Recover(recover) => {
            w.u8(3);
            put_object(w, recover.object);
            w.u64(recover.family.0).u32(recover.since.0).u16(recover.first).u64(recover.touched.0);
            w.u32(recover.entries.len() as u32);
            for entry in &recover.entries {
                put_entry(w, entry);
            }
        }
        Body::Table(table) => {
            w.u8(4);
            put_table(w, table);
        }
        Body::JoinBegan => drop(w.u8(5)),
        Body::Repair { object, family, block, version, checksum } => {
            w.u8(6);
            put_object(w, *object);
            w.u64(family.0).u16(*block).u64(version.0).u64(checksum.0);
        }
        Body::Distrust => drop(w.u8(7)),
        Body::Fence { attachment, generation } => drop(w.u8(8).u64(attachment.0).u32(generation.0)),
        Body::DropLayer { layer } => drop(w.u8(10).u64(layer.0)),
        Body::DropGroup => drop(w.u8(11)),
        Body::Forget { attachment } => drop(w.u8(12).u64(attachment.0)),
    }
    w.u16(places.len() as u16);
    for place in places {
        w.u40(*place);
    }
}

/// Takes a record with the places of its data blocks.
pub fn get_record(r: &mut Reader<'_>) -> Result<(Record, Vec<u64>), Malformed> {
    let (group, promise) = (GroupId(r.get_u32()?), Epoch(r.get_u32()?));
    let body = match r.get_u8()? {
        0 => Body::Promise,
        1 => Body::Assign { assignment: r.get_u64()? },
        2 => Body::Write(get_write(r)?),
        3 => {
            let object = get_object(r)?;
            let (family, since) = (FamilyId(r.get_u64()?), Epoch(r.get_u32()?));
            let (first, touched) = (r.get_u16()?, Version(r.get_u64()?));
            let n = r.count(1)?;
            if usize::from(first) + n > usize::from(BLOCKS_PER_CHUNK) {
                return r.fail("entries of blocks inside a chunk");
            }
            let entries = (0..n).map(|_| get_entry(r)).collect::<Result<_, _>>()?;
            Body::Recover(Recover { object, family, since, first, entries, touched })
        }
        4 => Body::Table(get_table(r)?),
        5 => Body::JoinBegan,
        6 => Body::Repair {
            object: get_object(r)?,
            family: FamilyId(r.get_u64()?),
            block: get_block(r)?,
            version: Version(r.get_u64()?),
            checksum: Checksum(r.get_u64()?),
        },
        7 => Body::Distrust,
        8 => Body::Fence { attachment: AttachmentId(r.get_u64()?), generation: Generation(r.get_u32()?) },
        10 => Body::DropLayer { layer: LayerId(r.get_u64()?) },
        11 => Body::DropGroup,
        12 => Body::Forget { attachment: AttachmentId(r.get_u64()?) },
        _ => return r.fail("a kind of record"),
    };
    let n = r.get_u16()? as usize;
    let places = (0..n).map(|_| r.get_u40()).collect::<Result<Vec<_>, _>>()?;
    if places.iter().any(|p| *p >= BLOCKS_MAX) {
        return r.fail("blocks of a slice");
    }
    let record = Record { group, promise, body };
    match places.len() == record.data_blocks() as usize {
        true => Ok((record, places)),
        false => r.fail("a place for each data block"),
    }
}

fn put_write(w: &mut Writer, write: &Write) {
    w.u64(write.version.0);
    put_object(w, write.object);
    w.u64(write.family.0);
    put_range(w, write.range);
    match &write.content {
        Content::Zero => drop(w.u8(0)),
        Content::Data(checksums) => {
            w.u8(1);
            for c in checksums {
                w.u64(c.0);
            }
        }
    }
    w.u16(write.requests.len() as u16);
    for n in &write.requests {
        put_note(w, n);
    }
    w.u16(write.marks.len() as u16);
    for m in &write.marks {
        put_mark(w, m);
    }
    match &write.takeover {
        None => drop(w.u8(0)),
        Some(voided) => {
            w.u8(1).u32(voided.len() as u32);
            for n in voided {
                put_note(w, n);
            }
        }
    }
}

fn get_write(r: &mut Reader<'_>) -> Result<Write, Malformed> {
    let version = Version(r.get_u64()?);
    let object = get_object(r)?;
    let family = FamilyId(r.get_u64()?);
    let range = get_range(r)?;
    let content = match r.get_u8()? {
        0 => Content::Zero,
        1 => Content::Data((0..range.count).map(|_| r.get_u64().map(Checksum)).collect::<Result<_, _>>()?),
        _ => return r.fail("a kind of content"),
    };
    let n = r.get_u16()?;
    let requests = (0..n).map(|_| get_note(r)).collect::<Result<_, _>>()?;
    let n = r.get_u16()?;
    let marks = (0..n).map(|_| get_mark(r)).collect::<Result<_, _>>()?;
    let takeover = match r.get_u8()? {
        0 => None,
        _ => {
            let n = r.count(NOTE)?;
            Some((0..n).map(|_| get_note(r)).collect::<Result<_, _>>()?)
        }
    };
    Ok(Write { version, object, family, range, content, requests, marks, takeover })
}

fn put_entry(w: &mut Writer, entry: &Entry) {
    match entry {
        Entry::Absent => drop(w.u8(0)),
        Entry::Zero(v) => drop(w.u8(1).u64(v.0)),
        Entry::Data(v, c) => drop(w.u8(2).u64(v.0).u64(c.0)),
        Entry::Damaged(v, c) => drop(w.u8(3).u64(v.0).u64(c.0)),
    }
}
fn get_entry(r: &mut Reader<'_>) -> Result<Entry, Malformed> {
    Ok(match r.get_u8()? {
        0 => Entry::Absent,
        1 => Entry::Zero(Version(r.get_u64()?)),
        2 => Entry::Data(Version(r.get_u64()?), Checksum(r.get_u64()?)),
        3 => Entry::Damaged(Version(r.get_u64()?), Checksum(r.get_u64()?)),
        _ => return r.fail("a kind of entry"),
    })
}

fn put_table(w: &mut Writer, t: &Table) {
    w.u32(t.since.0).u8(t.is_first.into()).u32(t.sessions.len() as u32);
    t.sessions.iter().for_each(|s| put_session(w, s));
    w.u32(t.marks.len() as u32);
    t.marks.iter().for_each(|m| put_mark(w, m));
    w.u32(t.requests.len() as u32);
    for (n, v) in &t.requests {
        put_note(w, n);
        w.u64(v.0);
    }
    match t.point {
        None => drop(w.u8(0)),
        Some(p) => drop(w.u8(1).u64(p.floor.0).u64(p.forgotten.0)),
    }
}
fn get_table(r: &mut Reader<'_>) -> Result<Table, Malformed> {
    let (since, is_first) = (Epoch(r.get_u32()?), r.get_u8()? != 0);
    let n = r.count(20)?;
    let sessions = (0..n).map(|_| get_session(r)).collect::<Result<_, _>>()?;
    let n = r.count(26)?;
    let marks = (0..n).map(|_| get_mark(r)).collect::<Result<_, _>>()?;
    let n = r.count(NOTE + 8)?;
    let requests =
        (0..n).map(|_| Ok((get_note(r)?, Version(r.get_u64()?)))).collect::<Result<_, Malformed>>()?;
    let point = match r.get_u8()? {
        0 => None,
        _ => Some(Point { floor: Version(r.get_u64()?), forgotten: Version(r.get_u64()?) }),
    };
    Ok(Table { since, is_first, sessions, marks, requests, point })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_types::record::Body;

    #[test]
    fn a_record_that_ends_with_notes_is_read_from_exactly_its_bytes() {
        let note = RequestNote { range: BlockRange::new(1, 2), ..RequestNote::default() };
        let table = Table { requests: vec![(note, Version(7))], ..Table::default() };
        let write = Write {
            version: Version(5),
            object: ObjectId::new(1, 2),
            family: FamilyId(3),
            range: BlockRange::new(4, 5),
            content: Content::Zero,
            requests: Default::default(),
            marks: Default::default(),
            takeover: Some(vec![note, note]),
        };
        for body in [Body::Table(table), Body::Write(write)] {
            let record = Record { group: GroupId(1), promise: Epoch(2), body };
            let mut w = Writer::default();
            put_record(&mut w, &record, &[]);
            assert_eq!(get_record(&mut Reader::new(&w.0)), Ok((record.clone(), vec![])));
            for len in 0..w.0.len() {
                assert!(get_record(&mut Reader::new(&w.0[..len])).is_err());
            }
        }
        let mut w = Writer::default();
        put_note(&mut w, &note);
        assert_eq!(w.0.len(), NOTE);
    }
}
