//! A group's object table: lines of 100 bytes in pages, found through slots that are kept in memory (S3).
//!
//! ```text
//! stream of the root -> index pages -> table pages -> leaves -> data
//!                       78 slots       40 lines       171 entries
//! ```
//!
//! All index pages of a group are read when the drive is opened: 52 bytes for up to 40 objects. Table pages are read when
//! they are needed. Both lie in two places each. Over the leaves of a table page's objects may lie runs ([`crate::run`]).
use crate::bytes::{Malformed, Reader, Writer};
use crate::leaf::LEAVES;
use crate::page::{PAYLOAD, Pointer, Twin};
use sarsen_types::{FamilyId, ObjectId, Version};

/// Bytes of a line: 12 of key, 88 of value.
const LINE: usize = 100;
/// Lines of a table page.
pub const LINES_MAX: usize = (PAYLOAD - 4) / LINE;
/// Bytes of a slot: key, `touched`, lines, twin, entries in runs, twin.
const SLOT: usize = 12 + 8 + 2 + Twin::BYTES + 2 + Twin::BYTES;
/// Slots of an index page.
pub const SLOTS_MAX: usize = (PAYLOAD - 4) / SLOT;
const _: () = assert!(LINES_MAX == 40 && SLOTS_MAX == 78);

/// What the table says of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Line {
    /// Whether the first leaf is the sparse one, and the only one.
    pub is_sparse: bool,
    /// Seeds its checksums.
    pub family: FamilyId,
    /// The version of the last operation of any kind on it (R18).
    pub touched: Version,
    /// A bit per 16 blocks that hold something: a chain of layers is walked without reading leaves that are empty there.
    pub presence: u64,
    /// Its leaves.
    pub leaves: [Pointer; LEAVES],
}

impl Line {
    /// Whether a block may have an entry.
    pub fn may_have(&self, block: u16) -> bool {
        self.presence >> (block / 16) & 1 == 1
    }
    /// The leaf that holds a block's entry: its number and where it is; none when nothing is there.
    pub fn leaf(&self, block: u16) -> Option<(usize, Pointer)> {
        let number = if self.is_sparse { 0 } else { crate::leaf::leaf_of(block) };
        Some((number, self.leaves[number])).filter(|l| !l.1.is_none())
    }
}

/// Appends an object's line.
pub fn put_line(w: &mut Writer, id: ObjectId, line: &Line) {
    let start = w.0.len();
    w.u64(id.layer.0).u32(id.chunk.0).u8(line.is_sparse.into()).u64(line.family.0).u64(line.touched.0);
    w.u64(line.presence);
    line.leaves.iter().for_each(|p| p.put(w));
    w.0.resize(start + LINE, 0);
}

fn get_line(r: &mut Reader<'_>) -> Result<(ObjectId, Line), Malformed> {
    let mut r = Reader::new(r.take(LINE)?);
    let id = ObjectId::new(r.get_u64()?, r.get_u32()?);
    let is_sparse = r.get_u8()? != 0;
    let (family, touched, presence) = (FamilyId(r.get_u64()?), Version(r.get_u64()?), r.get_u64()?);
    let mut line = Line { is_sparse, family, touched, presence, ..Line::default() };
    for leaf in &mut line.leaves {
        *leaf = Pointer::get(&mut r)?;
    }
    Ok((id, line))
}

/// The lines of a table page's payload.
pub fn lines(payload: &[u8]) -> Result<Vec<(ObjectId, Line)>, Malformed> {
    let mut r = Reader::new(payload);
    (0..r.count(LINE)?).map(|_| get_line(&mut r)).collect()
}

/// Whether a payload is one that a table page may have.
pub fn check(payload: &[u8]) -> Result<(), Malformed> {
    let lines = lines(payload)?;
    match !lines.is_empty() && lines.is_sorted_by(|a, b| a.0 < b.0) {
        true => Ok(()),
        false => Err(Malformed { at: 0, what: "lines, ascending" }),
    }
}

/// The payload of a table page.
pub fn put_lines(lines: &[(ObjectId, Line)]) -> Vec<u8> {
    let mut w = Writer::page();
    w.u32(lines.len() as u32);
    lines.iter().for_each(|(id, line)| put_line(&mut w, *id, line));
    w.0
}

/// The line of one object in a table page's payload.
pub fn find_line(payload: &[u8], id: ObjectId) -> Option<Line> {
    let count = Reader::new(payload).count(LINE).ok()?;
    let key = |at: usize| {
        let mut r = Reader::new(&payload[4 + at * LINE..]);
        Some(ObjectId::new(r.get_u64().ok()?, r.get_u32().ok()?))
    };
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = (low + high) / 2;
        if key(middle)? < id { low = middle + 1 } else { high = middle }
    }
    if low == count || key(low)? != id {
        return None;
    }
    get_line(&mut Reader::new(&payload[4 + low * LINE..])).ok().map(|l| l.1)
}

/// A table page, as its index knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Slot {
    /// Its first object.
    pub first: ObjectId,
    /// The highest `touched` of its objects: a listing of what changed passes over the others (R18).
    pub touched: Version,
    /// Its lines.
    pub lines: u16,
    /// Where it lies.
    pub page: Twin,
    /// Entries of its objects in runs, of each block those of each run.
    pub spilled: u16,
    /// The list of its runs; none: there are no runs.
    pub runs: Twin,
}

impl Slot {
    /// The slot of lines that were just written, without runs.
    pub fn of(lines: &[(ObjectId, Line)], page: Twin) -> Slot {
        let touched = lines.iter().map(|l| l.1.touched).max().unwrap_or_default();
        Slot { first: lines[0].0, touched, lines: lines.len() as u16, page, ..Slot::default() }
    }
    /// Leaves that are written at most when its runs are merged.
    pub fn owed(&self) -> u64 {
        u64::from(self.spilled).min(u64::from(self.lines) * LEAVES as u64)
    }
}

/// The slots of a group, ascending, and the index pages that hold them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Directory {
    /// The table pages.
    pub slots: Vec<Slot>,
    /// Where the index pages lie.
    pub index: Vec<Twin>,
    /// Whether the slots differ from the index pages.
    pub is_changed: bool,
}

impl Directory {
    /// The slot whose page has the line of `id` if any has.
    pub fn slot_of(&self, id: ObjectId) -> Option<usize> {
        self.slots.partition_point(|s| s.first <= id).checked_sub(1)
    }
    /// The slot whose page a new line of `id` goes to.
    pub fn slot_for(&self, id: ObjectId) -> Option<usize> {
        self.slot_of(id).or((!self.slots.is_empty()).then_some(0))
    }
    /// The first object that does not belong to slot `at`; none after the last.
    pub fn end_of(&self, at: usize) -> Option<ObjectId> {
        self.slots.get(at + 1).map(|s| s.first)
    }
    /// Objects it names.
    pub fn objects(&self) -> u64 {
        self.slots.iter().map(|s| u64::from(s.lines)).sum()
    }
}

/// The payload of an index page.
pub fn put_slots(slots: &[Slot]) -> Vec<u8> {
    let mut w = Writer::page();
    w.u32(slots.len() as u32);
    for s in slots {
        w.u64(s.first.layer.0).u32(s.first.chunk.0).u64(s.touched.0).u16(s.lines);
        s.page.put(&mut w);
        w.u16(s.spilled);
        s.runs.put(&mut w);
    }
    w.0
}

/// The slots of an index page's payload.
pub fn get_slots(payload: &[u8]) -> Result<Vec<Slot>, Malformed> {
    let mut r = Reader::new(payload);
    (0..r.count(SLOT)?)
        .map(|_| {
            let first = ObjectId::new(r.get_u64()?, r.get_u32()?);
            let (touched, lines) = (Version(r.get_u64()?), r.get_u16()?);
            if lines == 0 || usize::from(lines) > LINES_MAX {
                return r.fail("as many lines as a table page has");
            }
            let page = Twin::get(&mut r)?;
            Ok(Slot { first, touched, lines, page, spilled: r.get_u16()?, runs: Twin::get(&mut r)? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_in_its_page() {
        let line = |n: u64| Line { touched: Version(n), presence: n, ..Line::default() };
        let all: Vec<_> = (0..40).map(|n| (ObjectId::new(n / 7, 2 * n as u32), line(n))).collect();
        let payload = put_lines(&all);
        assert!(payload.len() <= PAYLOAD);
        assert_eq!(lines(&payload).unwrap(), all);
        for (id, line) in &all {
            assert_eq!(find_line(&payload, *id), Some(*line));
        }
        assert_eq!(find_line(&payload, ObjectId::new(0, 1)), None);
        assert_eq!(find_line(&payload, ObjectId::new(9, 0)), None);
    }

    #[test]
    fn slots_come_back_and_are_found_by_object() {
        let slot = |n: u64| Slot { first: ObjectId::new(n, 0), lines: 3, ..Slot::default() };
        let slots: Vec<_> = (1..100).map(|n| slot(2 * n)).collect();
        assert_eq!(get_slots(&put_slots(&slots)).unwrap(), slots);
        let directory = Directory { slots, ..Directory::default() };
        assert_eq!(directory.slot_of(ObjectId::new(1, 9)), None);
        assert_eq!(directory.slot_for(ObjectId::new(1, 9)), Some(0));
        assert_eq!(directory.slot_of(ObjectId::new(5, 1)), Some(1));
        assert_eq!(directory.slot_of(ObjectId::new(500, 0)), Some(98));
    }
}
