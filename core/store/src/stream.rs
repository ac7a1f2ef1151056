//! What a root says beside the map: groups with their ledgers and tables, entries that are not merged, bitmaps (S13).
use crate::bytes::{
    Malformed, NOTE, Reader, Writer, get_block, get_mark, get_note, get_object, get_session, put_mark,
    put_note, put_object, put_session,
};
use crate::group::{Group, stack_up};
use crate::object::{Object, Stacks};
use crate::page::Twin;
use crate::place::ENTRY_BYTES;
use crate::run::get_over;
use crate::space::Span;
use crate::stack::Stack;
use sarsen_types::{Epoch, FamilyId, GroupId, LayerId, Ledger, ObjectId, RequestNote, Version};
use smallvec::SmallVec;

/// An object's unmerged entries, as a root holds them.
pub type LeftOver = (ObjectId, FamilyId, Stacks);

/// Bytes that an unmerged entry takes at least.
const OVER: usize = 1 + ENTRY_BYTES;

/// Appends a group: its ledger was encoded at the cut.
pub fn put_group(w: &mut Writer, id: GroupId, ledger: &[u8], group: &Group, left: &[LeftOver]) {
    w.u32(id.0).raw(ledger);
    w.u32(group.dropping.len() as u32);
    for layer in &group.dropping {
        w.u64(layer.0);
    }
    put_twins(w, &group.directory.index);
    w.u32(left.len() as u32);
    for (object, family, stacks) in left {
        put_object(w, *object);
        w.u64(family.0).u32(stacks.len() as u32);
        for (block, stack) in stacks {
            w.u16(*block).u64(stack.cut.0).u32(stack.entries.len() as u32);
            for over in &stack.entries {
                w.u8(over.role as u8);
                over.held.put(w);
            }
        }
    }
}

/// Takes a group. The slots of its table are not read yet.
pub fn get_group(r: &mut Reader<'_>) -> Result<(GroupId, Group), Malformed> {
    let id = GroupId(r.get_u32()?);
    let mut group = Group { ledger: get_ledger(r)?, ..Group::default() };
    for _ in 0..r.count(8)? {
        group.dropping.insert(LayerId(r.get_u64()?));
    }
    group.directory.index = get_twins(r)?;
    for _ in 0..r.count(24)? {
        let id = get_object(r)?;
        let mut object = Object { family: FamilyId(r.get_u64()?), ..Object::default() };
        for _ in 0..r.count(14)? {
            let block = get_block(r)?;
            let cut = Version(r.get_u64()?);
            let entries = (0..r.count(OVER)?).map(|_| get_over(r)).collect::<Result<SmallVec<_>, _>>()?;
            *object.stack(block) = Stack { cut, entries };
            stack_up(&mut group.stacked, &object, id, block);
        }
        group.objects.insert(id, object);
    }
    Ok((id, group))
}

/// Appends places of pages.
pub fn put_twins(w: &mut Writer, twins: &[Twin]) {
    w.u32(twins.len() as u32);
    twins.iter().for_each(|t| t.put(w));
}

/// Takes places of pages.
pub fn get_twins(r: &mut Reader<'_>) -> Result<Vec<Twin>, Malformed> {
    (0..r.count(Twin::BYTES)?).map(|_| Twin::get(r)).collect()
}

/// Appends what is said of bitmap pages.
pub fn put_spans(w: &mut Writer, spans: impl Iterator<Item = Span>) {
    let start = w.0.len();
    w.u32(0);
    spans.for_each(|s| s.put(w));
    let count = ((w.0.len() - start - 4) / Span::BYTES) as u32;
    w.0[start..start + 4].copy_from_slice(&count.to_le_bytes());
}

/// Takes what is said of bitmap pages.
pub fn get_spans(r: &mut Reader<'_>) -> Result<Vec<Span>, Malformed> {
    (0..r.count(Span::BYTES)?).map(|_| Span::get(r)).collect()
}

/// Appends a ledger.
pub fn put_ledger(w: &mut Writer, ledger: &Ledger) {
    w.u64(ledger.assignment).u32(ledger.promise.0).u64(ledger.floor.0);
    put_floors(w, ledger);
    w.u64(ledger.top.0).u64(ledger.latest.0).u8(ledger.is_joining.into()).u64(ledger.forgotten.0);
    w.u32(ledger.sessions.len() as u32);
    ledger.sessions.iter().for_each(|(a, (g, s))| put_session(w, &(*a, *g, *s)));
    let marks: Vec<_> = ledger.marks().collect();
    w.u32(marks.len() as u32);
    marks.iter().for_each(|m| put_mark(w, m));
    let notes: Vec<_> = ledger.notes().collect();
    w.u32(notes.len() as u32);
    for (id, n) in notes {
        put_note(w, &RequestNote { id, object: n.object, range: n.range });
        w.u64(n.version.0).u8(n.is_void.into());
    }
}

/// A point follows.
const POINT: u8 = 1;
/// A former floor follows; 0 is none.
const FORMER: u8 = 2;

fn put_floors(w: &mut Writer, ledger: &Ledger) {
    let former = Some(ledger.former_floor).filter(|floor| *floor > Version::ZERO);
    w.u8(ledger.point.map_or(0, |_| POINT) | former.map_or(0, |_| FORMER));
    for version in ledger.point.into_iter().chain(former) {
        w.u64(version.0);
    }
}

/// The point, and the former floor.
fn get_floors(r: &mut Reader<'_>) -> Result<(Option<Version>, Version), Malformed> {
    let has = r.get_u8()?;
    if has & !(POINT | FORMER) != 0 {
        return r.fail("a point, a former floor, both or neither");
    }
    let point = if has & POINT != 0 { Some(Version(r.get_u64()?)) } else { None };
    let former = if has & FORMER != 0 { Version(r.get_u64()?) } else { Version::ZERO };
    Ok((point, former))
}

fn get_ledger(r: &mut Reader<'_>) -> Result<Ledger, Malformed> {
    let (assignment, promise, floor) = (r.get_u64()?, Epoch(r.get_u32()?), Version(r.get_u64()?));
    let (point, former_floor) = get_floors(r)?;
    let mut ledger = Ledger {
        assignment,
        promise,
        floor,
        former_floor,
        point,
        top: Version(r.get_u64()?),
        latest: Version(r.get_u64()?),
        is_joining: r.get_u8()? != 0,
        forgotten: Version(r.get_u64()?),
        ..Ledger::default()
    };
    for _ in 0..r.count(20)? {
        let (attachment, generation, session) = get_session(r)?;
        ledger.sessions.insert(attachment, (generation, session));
    }
    let marks = (0..r.count(26)?).map(|_| get_mark(r)).collect::<Result<Vec<_>, _>>()?;
    for _ in 0..r.count(NOTE + 9)? {
        let note = get_note(r)?;
        ledger.restore(&note, Version(r.get_u64()?), r.get_u8()? != 0);
    }
    marks.iter().for_each(|m| ledger.raise_mark(m));
    Ok(ledger)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::{Held, Place};
    use sarsen_types::Checksum;

    #[test]
    fn a_group_comes_back_with_what_was_not_merged() {
        let held = |n: u64| Held { version: Version(n), place: Place::data(n), checksum: Checksum(n) };
        let mut stack = Stack::default();
        stack.write(held(5));
        stack.recover(held(3), Version(4));
        stack.mark(held(9));
        let id = ObjectId::new(7, 1);
        let left = [(id, FamilyId(2), Stacks::from([(1023, stack.clone())]))];
        let mut group = Group::default();
        group.ledger.promise = Epoch(4);
        group.ledger.former_floor = Version(3);
        group.dropping.insert(LayerId(6));
        group.directory.index = vec![Twin { at: [4, 5], sum: 6 }];
        let mut ledger = Writer::default();
        put_ledger(&mut ledger, &group.ledger);
        let mut w = Writer::default();
        put_group(&mut w, GroupId(3), &ledger.0, &group, &left);
        let (found, again) = get_group(&mut Reader::new(&w.0)).unwrap();
        assert_eq!((found, &again.ledger, &again.dropping), (GroupId(3), &group.ledger, &group.dropping));
        assert_eq!(again.directory.index, group.directory.index);
        assert_eq!(again.objects[&id].over.stacks[&1023], stack);
        for len in 0..w.0.len() {
            assert!(get_group(&mut Reader::new(&w.0[..len])).is_err());
        }
    }
}
