//! The merge of a checkpoint: frozen entries into leaves, leaves into lines, lines into table pages, a page's worth at a time.
//!
//! A batch is worked out without changing anything; when it needs pages that are not in memory it is given up and worked out
//! again once they came. Only then blocks change hands, all at once.
use crate::cache::Found;
use crate::checkpoint::{Hold, two};
use crate::disk::Disk;
use crate::group::{Group, layer_range};
use crate::leaf::{self, Entries, LEAVES, blocks_of, leaf_of};
use crate::lookup::{Lookup, Want};
use crate::object::{Object, Stacks};
use crate::page::{PageKind, Pointer};
use crate::place::{Held, Kind};
use crate::space::Stream;
use crate::store::Store;
use crate::table::{Directory, LINES_MAX, Line, Slot, lines, put_lines};
use sarsen_types::{BLOCKS_PER_CHUNK, GroupId, ObjectId, Version};
use std::collections::{BTreeMap, BTreeSet};

/// Table pages of dropped layers and copies that one checkpoint takes out at most; the rest is for the next.
pub(crate) const REAPED_MAX: usize = 256;

/// What is merged in one step.
#[derive(Debug)]
pub(crate) enum Batch {
    /// Objects whose lines are, or will be, in one table page.
    Slot {
        group: GroupId,
        /// The page; none in an empty table.
        slot: Option<usize>,
        /// Frozen objects, ascending.
        objects: Vec<ObjectId>,
        /// Where the next batch begins; none: the group is done.
        next: Option<ObjectId>,
    },
    /// The last table page of a copy that was dropped.
    Doomed,
}

impl Batch {
    /// The next batch of a group, from an object on; `None`: nothing more.
    pub fn next(id: GroupId, group: &Group, from: Option<ObjectId>, may_reap: bool) -> Option<Batch> {
        let from = from.unwrap_or_default();
        let frozen = |o: &(&ObjectId, &Object)| o.1.frozen.is_changed;
        let first = group.objects.range(from..).find(frozen).map(|o| *o.0);
        let ailing = group.ailing.range(from..).next().copied();
        let dropping = group.dropping.iter().filter(|_| may_reap).filter_map(|layer| {
            let (low, high) = layer_range(*layer);
            let low = low.max(from);
            // the slot before may hold lines of the layer behind its first
            (low <= high && group.directory.slot_of(high).is_some()).then_some(low)
        });
        let key = first.into_iter().chain(ailing).chain(dropping).min()?;
        let slot = group.directory.slot_for(key);
        let end = slot.and_then(|at| group.directory.end_of(at));
        let in_slot = group
            .objects
            .range(key..)
            .filter(frozen)
            .map(|o| *o.0)
            .take_while(|o| end.is_none_or(|e| *o < e));
        let mut objects: Vec<ObjectId> = in_slot.take(LINES_MAX + 1).collect();
        let next = match objects.len() > LINES_MAX {
            true => objects.pop(),
            false => end,
        };
        Some(Batch::Slot { group: id, slot, objects, next })
    }
}

/// What a batch comes to.
#[derive(Default)]
struct Outcome {
    lines: Vec<(ObjectId, Line)>,
    /// Leaves to be written: of which line, which leaf of it.
    leaves: Vec<(usize, usize, PageKind, Vec<u8>)>,
    /// Blocks that entries not merged before named, and leaves name now.
    settled: Vec<u64>,
    /// Blocks that leaves and lines named, and nothing names now.
    displaced: Vec<u64>,
    /// Leaves among them.
    dropped_pages: Vec<u64>,
    gone: Vec<Held>,
    left: BTreeMap<ObjectId, Stacks>,
    /// Bad leaves that are named no more: what they named stays in use.
    given_up: u64,
    wants: Vec<Want>,
}

impl<D: Disk> Store<D> {
    pub(crate) fn merge_batch(&mut self, batch: Batch) -> Result<(), Hold> {
        match batch {
            Batch::Slot { group, slot, objects, next } => {
                self.merge_slot(group, slot, &objects)?;
                match next {
                    Some(_) => self.checkpoint.job.from = next,
                    None => {
                        // behind the last slot there is nothing more
                        self.checkpoint.job.from = Some(ObjectId::new(u64::MAX, u32::MAX));
                    }
                }
                Ok(())
            }
            Batch::Doomed => self.reap_doomed(),
        }
    }

    fn merge_slot(&mut self, id: GroupId, slot: Option<usize>, objects: &[ObjectId]) -> Result<(), Hold> {
        let group = &self.groups[&id];
        let (outcome, is_reaping) = self.work_out(group, slot, objects)?;
        let page = slot.map(|at| group.directory.slots[at].page);
        let pages = chunks(outcome.lines.len(), slot.is_none_or(|at| at + 1 == group.directory.slots.len()));
        let old_page = page.iter().flat_map(|p| p.at);
        let hands = outcome.displaced.iter().chain(&outcome.settled).copied().chain(old_page.clone());
        self.need_bitmaps(hands)?;
        let leaves = outcome.leaves.iter().map(|_| Stream::Map);
        let tables = pages.iter().flat_map(|_| [Stream::Map, Stream::Twin]);
        let mut blocks = self.map_blocks(leaves.chain(tables))?;

        // from here on nothing can hold it up
        let Outcome { mut lines, leaves, settled, displaced, dropped_pages, gone, mut left, .. } = outcome;
        self.given_up += outcome.given_up;
        settled.iter().for_each(|b| self.space.settle(*b));
        dropped_pages.iter().chain(&old_page.clone().collect::<Vec<_>>()).for_each(|b| self.cache.forget(*b));
        self.displace(displaced.into_iter().chain(old_page));
        self.release_with_root(gone);
        for (line, leaf, kind, payload) in leaves {
            let block = blocks.pop_front().expect("as many were taken as are written");
            lines[line].1.leaves[leaf] = self.write_page(block, kind, &payload);
        }
        let mut slots = Vec::with_capacity(pages.len());
        for range in pages {
            let lines = &lines[range];
            slots
                .push(Slot::of(lines, self.write_twin(two(&mut blocks), PageKind::Table, &put_lines(lines))));
        }
        self.checkpoint.job.reaped += usize::from(is_reaping);
        let mut back = Vec::new();
        let group = self.groups.get_mut(&id).expect("it was there");
        let directory = &mut group.directory;
        if let Some(at) = slot {
            group.ailing.remove(&directory.slots[at].first);
        }
        let at = slot.map_or(0..0, |at| at..at + 1);
        directory.slots.splice(at, slots);
        directory.is_changed = true;
        for object in objects {
            let left = left.remove(object).unwrap_or_default();
            if !left.is_empty() {
                let family = group.objects[object].family;
                self.checkpoint.job.left.entry(id).or_default().push((*object, family, left.clone()));
            }
            group.put_back(*object, left, &mut back);
        }
        self.release_with_root(back);
        Ok(())
    }

    /// What a batch comes to, and whether lines of dropped layers are taken out with it.
    fn work_out(
        &self,
        group: &Group,
        slot: Option<usize>,
        objects: &[ObjectId],
    ) -> Result<(Outcome, bool), Hold> {
        let mut look = Lookup::new(group, &self.cache);
        let old = match slot.map(|at| look.table(at)) {
            None => Vec::new(),
            Some(None) => return Err(Hold::Away(look.wants.to_vec())),
            Some(Some(payload)) => lines(payload).unwrap_or_default(),
        };
        let mut out = Outcome::default();
        let mut is_reaping = false;
        let mut known: BTreeMap<ObjectId, Line> = BTreeMap::new();
        for (object, line) in old {
            match group.dropping.contains(&object.layer) {
                true => {
                    is_reaping = true;
                    self.reap(&line, &mut out);
                }
                false => drop(known.insert(object, line)),
            }
        }
        let merged: BTreeSet<ObjectId> = objects.iter().copied().collect();
        for id in known.keys().copied().chain(objects.iter().copied()).collect::<BTreeSet<_>>() {
            let line = known.get(&id).copied();
            let line = match merged.contains(&id) {
                false => line,
                true => self.merge_object(group, id, line, &mut out),
            };
            out.lines.extend(line.map(|l| (id, l)));
        }
        match out.wants.is_empty() {
            true => Ok((out, is_reaping)),
            false => Err(Hold::Away(out.wants)),
        }
    }

    /// The payload of a leaf: `None` when it is bad, or away and wanted.
    fn leaf(&self, pointer: Pointer, kind: PageKind, out: &mut Outcome) -> Option<&[u8]> {
        match self.cache.get(pointer) {
            Found::Here(payload) => Some(payload),
            Found::Bad => None,
            Found::Away => {
                out.wants.push(Want { pointer, twin: None, kind });
                None
            }
        }
    }

    /// A line goes with all it names. Of a bad leaf the blocks it named are not known: they stay in use.
    fn reap(&self, line: &Line, out: &mut Outcome) {
        let kind = if line.is_sparse { PageKind::Sparse } else { PageKind::Dense };
        for (number, pointer) in line.leaves.iter().enumerate().filter(|l| !l.1.is_none()) {
            if let Some(payload) = self.leaf(*pointer, kind, out) {
                let blocks = if line.is_sparse { 0..BLOCKS_PER_CHUNK } else { blocks_of(number) };
                let places = blocks.filter_map(|b| leaf::entry(kind, payload, b).place.block());
                out.displaced.extend(places);
            } else {
                out.given_up += 1;
            }
            out.displaced.push(pointer.block);
            out.dropped_pages.push(pointer.block);
        }
    }

    /// Merges one object's frozen entries; gives its new line, `None` when nothing of it is left.
    fn merge_object(
        &self,
        group: &Group,
        id: ObjectId,
        line: Option<Line>,
        out: &mut Outcome,
    ) -> Option<Line> {
        let object = &group.objects[&id];
        let before = line.unwrap_or(Line { is_sparse: true, ..Line::default() });
        let mut after =
            Line { family: object.family, touched: before.touched.max(object.frozen.touched), ..before };
        let mut entries = Entries::default();
        // leaves whose entries are known, and those that are bad
        let (mut open, mut bad) = (0u8, 0u8);
        for (number, pointer) in before.leaves.iter().enumerate() {
            let is_met = before.is_sparse || object.frozen.leaves >> number & 1 == 1;
            if !is_met || (before.is_sparse && number > 0) || object.frozen.stacks.is_empty() {
                continue;
            }
            let kind = if before.is_sparse { PageKind::Sparse } else { PageKind::Dense };
            open |= 1 << number;
            if pointer.is_none() {
                continue;
            }
            match self.leaf(*pointer, kind, out) {
                Some(payload) => entries.read(kind, number, payload),
                None if is_told(&object.frozen.stacks, &before, number) => out.given_up += 1,
                None => bad |= 1 << number,
            }
        }
        if before.is_sparse && open != 0 {
            // one leaf stands for all
            open = (1 << LEAVES) - 1;
            bad = if bad == 0 { 0 } else { open };
        }
        let floor = group.ledger.floor;
        let may_vanish = group.may_vanish && after.touched <= floor;
        let mut displaced = Vec::new();
        let mut left = Stacks::new();
        for (block, stack) in &object.frozen.stacks {
            if bad >> leaf_of(*block) & 1 == 1 {
                left.insert(*block, stack.clone());
                continue;
            }
            let base = entries.get(*block);
            let (now, rest) = stack.clone().merge(base, group.limit, &mut out.gone, &mut displaced);
            entries.set(*block, now);
            if now.place.block() != base.place.block() {
                out.settled.extend(now.place.block());
            }
            if !rest.is_empty() {
                left.insert(*block, rest);
            }
        }
        out.displaced.extend(displaced.iter().filter_map(|h| h.place.block()));
        if may_vanish {
            vanish(&mut entries);
        }
        if open & !bad != 0 {
            self.new_leaves(&before, &mut after, &entries, open & !bad, out);
        }
        let is_empty = after.leaves.iter().all(|p| p.is_none());
        if !left.is_empty() {
            out.left.insert(id, left);
        } else if is_empty
            && group.may_forget
            && after.touched <= floor
            && !out.leaves.iter().any(|l| l.0 == out.lines.len())
        {
            return None;
        }
        Some(after)
    }

    /// The leaves of an object whose entries changed, in the form they have from now on.
    fn new_leaves(&self, before: &Line, after: &mut Line, entries: &Entries, open: u8, out: &mut Outcome) {
        let at = out.lines.len();
        let drop_page = |pointer: Pointer, out: &mut Outcome| {
            if !pointer.is_none() {
                out.displaced.push(pointer.block);
                out.dropped_pages.push(pointer.block);
            }
        };
        if before.is_sparse {
            drop_page(before.leaves[0], out);
            after.leaves = Default::default();
            after.presence = entries.presence();
            if let Some(payload) = entries.sparse() {
                if after.presence != 0 {
                    out.leaves.push((at, 0, PageKind::Sparse, payload));
                }
                return;
            }
            after.is_sparse = false;
        }
        let mut whole = 0u64;
        for number in (0..LEAVES).filter(|n| open >> n & 1 == 1) {
            if !before.is_sparse {
                drop_page(before.leaves[number], out);
            }
            after.leaves[number] = Pointer::default();
            if blocks_of(number).any(|b| !entries.get(b).is_absent()) {
                out.leaves.push((at, number, PageKind::Dense, entries.dense(number)));
            }
            for sixteen in 0..64u16 {
                let is_open = |b: u16| open >> leaf_of(b) & 1 == 1;
                whole |= u64::from(is_open(16 * sixteen) && is_open(16 * sixteen + 15)) << sixteen;
            }
        }
        // of 16 blocks that lie in two leaves, one of which was not read, the old bit stays
        after.presence = (after.presence & !whole) | entries.presence();
        let is_new = |number: usize| out.leaves.iter().any(|l| l.0 == at && l.1 == number);
        if (0..LEAVES).all(|n| after.leaves[n].is_none() && !is_new(n)) {
            *after = Line { is_sparse: true, presence: 0, ..*after };
        }
    }

    /// Takes out the last page of a table that was dropped.
    fn reap_doomed(&mut self) -> Result<(), Hold> {
        let Some(slot) = self.doomed.last().and_then(|d| d.slots.last().copied()) else { return Ok(()) };
        let group =
            Group { directory: Directory { slots: vec![slot], ..Directory::default() }, ..Group::default() };
        let mut look = Lookup::new(&group, &self.cache);
        let Some(payload) = look.table(0) else { return Err(Hold::Away(look.wants.to_vec())) };
        let mut out = Outcome::default();
        lines(payload).unwrap_or_default().iter().for_each(|(_, line)| self.reap(line, &mut out));
        if !out.wants.is_empty() {
            return Err(Hold::Away(out.wants));
        }
        let blocks: Vec<u64> = out.displaced.into_iter().chain(slot.page.at).collect();
        self.need_bitmaps(blocks.iter().copied())?;
        out.dropped_pages.iter().chain(&slot.page.at).for_each(|b| self.cache.forget(*b));
        self.displace(blocks);
        self.given_up += out.given_up;
        if let Some(directory) = self.doomed.last_mut() {
            directory.slots.pop();
            directory.is_changed = true;
        }
        self.checkpoint.job.reaped += 1;
        Ok(())
    }
}

/// Whether a recovery told every block that a bad leaf may have held (R26).
fn is_told(stacks: &Stacks, line: &Line, leaf: usize) -> bool {
    let mut blocks = if line.is_sparse { 0..BLOCKS_PER_CHUNK } else { blocks_of(leaf) };
    blocks.all(|b| !line.may_have(b) || stacks.get(&b).is_some_and(|s| s.cut > Version::ZERO))
}

/// Settled zero entries may vanish (R23).
fn vanish(entries: &mut Entries) {
    let zeroes: Vec<u16> =
        entries.present().filter(|(_, h)| h.place.kind() == Kind::Zero).map(|e| e.0).collect();
    zeroes.into_iter().for_each(|b| entries.set(b, Held::ABSENT));
}

/// How lines are shared out to pages: a page that is full at the end of the table stays so, others are split evenly.
fn chunks(lines: usize, is_end: bool) -> Vec<std::ops::Range<usize>> {
    let pages = lines.div_ceil(LINES_MAX);
    let each = if is_end { LINES_MAX } else { lines.div_ceil(pages.max(1)) };
    (0..pages).map(|p| p * each..((p + 1) * each).min(lines)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_types::LayerId;

    #[test]
    fn lines_fill_pages_at_the_end_and_are_split_evenly_elsewhere() {
        assert_eq!(chunks(0, true), []);
        assert_eq!(chunks(40, false), vec![0..40; 1]);
        assert_eq!(chunks(41, true), [0..40, 40..41]);
        assert_eq!(chunks(41, false), [0..21, 21..41]);
        assert_eq!(chunks(81, false), [0..27, 27..54, 54..81]);
    }

    #[test]
    fn batches_walk_the_frozen_objects_slot_by_slot() {
        let mut group = Group::default();
        for chunk in 0..50 {
            let object = group.objects.entry(ObjectId::new(1, chunk)).or_default();
            object.touch(Version(1));
            object.freeze();
        }
        let Some(Batch::Slot { slot: None, objects, next, .. }) = Batch::next(GroupId(1), &group, None, true)
        else {
            panic!("an empty table has no slot")
        };
        assert_eq!((objects.len(), next), (LINES_MAX, Some(ObjectId::new(1, 40))));
        group.directory.slots = vec![
            Slot { first: ObjectId::new(1, 0), ..Slot::default() },
            Slot { first: ObjectId::new(1, 7), ..Slot::default() },
        ];
        let Some(Batch::Slot { slot, objects, next, .. }) = Batch::next(GroupId(1), &group, None, true)
        else {
            panic!("there are frozen objects")
        };
        assert_eq!((slot, objects.len(), next), (Some(0), 7, Some(ObjectId::new(1, 7))));
        group.objects.clear();
        assert!(Batch::next(GroupId(1), &group, None, true).is_none());
        group.dropping.insert(LayerId(1));
        let Some(Batch::Slot { slot, .. }) = Batch::next(GroupId(1), &group, None, true) else {
            panic!("a dropped layer is to be taken out")
        };
        assert_eq!(slot, Some(0));
    }
}
