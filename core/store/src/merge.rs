//! The merge of a checkpoint: frozen entries, and runs under them, into leaves, leaves into lines, lines into table pages, a
//! page's worth at a time; where that does not pay, they become a run ([`crate::spill`]).
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
use crate::page::{PageKind, Pointer, Twin};
use crate::place::{Held, Kind};
use crate::run::{self, Run};
use crate::space::Stream;
use crate::stack::{Role, Stack};
use crate::store::Store;
use crate::table::{Directory, LINES_MAX, Line, Slot, lines, put_lines};
use sarsen_types::{BLOCKS_PER_CHUNK, FamilyId, GroupId, ObjectId, Version};
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
pub(crate) struct Outcome {
    pub lines: Vec<(ObjectId, Line)>,
    /// Leaves to be written: of which line, which leaf of it.
    leaves: Vec<(usize, usize, PageKind, Vec<u8>)>,
    /// Runs that stay, and those to be written.
    pub kept: Vec<Run>,
    pub runs: Vec<(Vec<u8>, Vec<(ObjectId, u16)>)>,
    /// Blocks that entries not merged before named, and leaves or runs name now.
    pub settled: Vec<u64>,
    /// Blocks that leaves, runs and lines named, and nothing names now.
    pub displaced: Vec<u64>,
    /// Blocks that runs named, and entries that could not be merged name now.
    reheld: Vec<u64>,
    /// Pages that nothing names now.
    pub dropped_pages: Vec<u64>,
    pub gone: Vec<Held>,
    /// What could not be merged, with what seeds its checksums.
    pub left: BTreeMap<ObjectId, (FamilyId, Stacks)>,
    /// Bad leaves that are named no more: what they named stays in use.
    given_up: u64,
    wants: Vec<Want>,
    /// Lines of dropped layers are taken out.
    is_reaping: bool,
}

/// The runs of a table page, read to be merged.
#[derive(Default)]
struct Buffered {
    objects: BTreeMap<ObjectId, Stacks>,
    /// Blocks that they named.
    blocks: BTreeSet<u64>,
}

impl<D: Disk> Store<D> {
    pub(crate) fn merge_batch(&mut self, batch: Batch) -> Result<(), Hold> {
        match batch {
            Batch::Slot { group, slot, objects, next } => {
                let outcome = match self.spill(&self.groups[&group], slot, &objects)? {
                    Some(outcome) => outcome,
                    None => self.work_out(&self.groups[&group], slot, &objects)?,
                };
                self.change_hands(group, slot, &objects, outcome)?;
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

    /// Blocks change hands, pages are written, the slots name them.
    fn change_hands(
        &mut self,
        id: GroupId,
        slot: Option<usize>,
        objects: &[ObjectId],
        outcome: Outcome,
    ) -> Result<(), Hold> {
        let group = &self.groups[&id];
        let old = slot.map(|at| group.directory.slots[at]);
        let pages = chunks(outcome.lines.len(), slot.is_none_or(|at| at + 1 == group.directory.slots.len()));
        let old_pages: Vec<u64> = old.iter().flat_map(|s| s.page.at).collect();
        let hands = outcome.displaced.iter().chain(&outcome.settled).chain(&outcome.reheld).chain(&old_pages);
        self.need_bitmaps(hands.copied())?;
        let has_runs = !(outcome.runs.is_empty() && outcome.kept.is_empty());
        let twins = pages.len() + outcome.runs.len() + usize::from(has_runs);
        let leaves = outcome.leaves.iter().map(|_| Stream::Map);
        let mut blocks =
            self.map_blocks(leaves.chain((0..twins).flat_map(|_| [Stream::Map, Stream::Twin])))?;

        // from here on nothing can hold it up
        let Outcome { mut lines, leaves, mut kept, runs, settled, displaced, mut left, .. } = outcome;
        self.given_up += outcome.given_up;
        settled.iter().for_each(|b| self.space.settle(*b));
        outcome.reheld.iter().for_each(|b| self.space.rehold(*b));
        outcome.dropped_pages.iter().chain(&old_pages).for_each(|b| self.cache.forget(*b));
        self.displace(displaced.into_iter().chain(old_pages));
        self.release_with_root(outcome.gone);
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
        let runs_written = runs.len() as u64;
        for (payload, keys) in runs {
            let page = self.write_twin(two(&mut blocks), PageKind::Run, &payload);
            kept.push(Run::of(keys.iter(), page));
        }
        if has_runs {
            let list = self.write_twin(two(&mut blocks), PageKind::Runs, &run::put_list(&kept));
            let slot = slots.first_mut().expect("runs lie over the lines of one page");
            (slot.runs, slot.spilled) = (list, kept.iter().map(|r| r.blocks).sum());
        }
        self.tally.runs += runs_written;
        self.tally.merged_lists += u64::from(!has_runs && old.is_some_and(|s| !s.runs.is_none()));
        self.owed_by_runs += slots.iter().map(Slot::owed).sum::<u64>();
        self.owed_by_runs -= old.as_ref().map_or(0, Slot::owed);
        self.checkpoint.job.reaped += usize::from(outcome.is_reaping);
        let mut back = Vec::new();
        let group = self.groups.get_mut(&id).expect("it was there");
        let directory = &mut group.directory;
        if let Some(old) = old {
            group.ailing.remove(&old.first);
        }
        let at = slot.map_or(0..0, |at| at..at + 1);
        directory.slots.splice(at, slots);
        directory.is_changed = true;
        for object in objects {
            let (family, left) = left.remove(object).unwrap_or_default();
            self.left_blocks += left.len() as u64;
            self.checkpoint.job.leave(id, *object, family, &left);
            group.put_back(*object, left, &mut back);
        }
        // of a bad leaf what runs said stays, though nothing of it was to be merged now
        for (object, (family, left)) in left {
            if !group.put_under(object, family, &left, &mut back) {
                self.checkpoint.job.leave(id, object, family, &left);
            }
        }
        self.release_with_root(back);
        Ok(())
    }

    /// What a batch comes to when it is merged, with all runs that lie over it.
    fn work_out(&self, group: &Group, slot: Option<usize>, objects: &[ObjectId]) -> Result<Outcome, Hold> {
        let mut look = Lookup::new(group, &self.cache);
        let old = match slot.map(|at| look.table(at)) {
            None => Vec::new(),
            Some(None) => return Err(Hold::Away(look.wants.to_vec())),
            Some(Some(payload)) => lines(payload).unwrap_or_default(),
        };
        let mut out = Outcome::default();
        let runs = slot.map_or(Twin::NONE, |at| group.directory.slots[at].runs);
        let buffered = self.buffered(runs, &mut out)?;
        let mut known: BTreeMap<ObjectId, Line> = BTreeMap::new();
        for (object, line) in old {
            match group.dropping.contains(&object.layer) {
                true => {
                    out.is_reaping = true;
                    self.reap(&line, &mut out);
                    out.displaced.extend(owned(buffered.objects.get(&object)));
                }
                false => drop(known.insert(object, line)),
            }
        }
        let merged: BTreeSet<ObjectId> = objects
            .iter()
            .chain(buffered.objects.keys().filter(|id| known.contains_key(id)))
            .copied()
            .collect();
        let nothing = Object::default();
        for id in known.keys().copied().chain(objects.iter().copied()).collect::<BTreeSet<_>>() {
            let line = known.get(&id).copied();
            let line = match merged.contains(&id) {
                false => line,
                true => {
                    let object = group.objects.get(&id).filter(|_| objects.contains(&id));
                    self.merge_object(group, id, object.unwrap_or(&nothing), line, &buffered, &mut out)
                }
            };
            out.lines.extend(line.map(|l| (id, l)));
        }
        match out.wants.is_empty() {
            true => Ok(out),
            false => Err(Hold::Away(out.wants)),
        }
    }

    /// What the runs of a slot say, put together; they are named no more.
    fn buffered(&self, list: Twin, out: &mut Outcome) -> Result<Buffered, Hold> {
        let mut buffered = Buffered::default();
        if list.is_none() {
            return Ok(buffered);
        }
        let empty = Group::default();
        let mut look = Lookup::new(&empty, &self.cache);
        let Some(payload) = look.twin(list, PageKind::Runs) else {
            return Err(Hold::Away(look.wants.to_vec()));
        };
        let pages: Vec<Twin> = run::list(payload).unwrap_or_default().iter().map(|r| r.page).collect();
        let payloads: Vec<&[u8]> = pages.iter().filter_map(|p| look.twin(*p, PageKind::Run)).collect();
        if !look.wants.is_empty() {
            return Err(Hold::Away(look.wants.to_vec()));
        }
        let mut gone = Vec::new();
        for payload in payloads {
            for ((id, block), mut stack) in run::entries(payload).unwrap_or_default() {
                buffered.blocks.extend(owned_by(&stack));
                let stacks = buffered.objects.entry(id).or_default();
                if let Some(older) = stacks.remove(&block) {
                    stack.slide_under(older, &mut gone);
                    stack.settle(Version(u64::MAX), &mut gone);
                    out.displaced.extend(gone.drain(..).filter_map(|h| h.place.block()));
                }
                stacks.insert(block, stack);
            }
        }
        let gone: BTreeSet<u64> = out.displaced.iter().copied().collect();
        buffered.blocks.retain(|b| !gone.contains(b));
        let all = pages.iter().chain([&list]).flat_map(|p| p.at);
        out.dropped_pages.extend(all.clone());
        out.displaced.extend(all);
        Ok(buffered)
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

    /// Merges one object's frozen entries and those of runs under them; gives its new line, `None` when nothing of it is left.
    fn merge_object(
        &self,
        group: &Group,
        id: ObjectId,
        object: &Object,
        line: Option<Line>,
        buffered: &Buffered,
        out: &mut Outcome,
    ) -> Option<Line> {
        let before = line.unwrap_or(Line { is_sparse: true, ..Line::default() });
        let family = if object.frozen.is_changed { object.family } else { before.family };
        let mut after = Line { family, touched: before.touched.max(object.frozen.touched), ..before };
        let stacks = put_together(&object.frozen.stacks, buffered.objects.get(&id), &buffered.blocks, out);
        let met = stacks.keys().fold(0u8, |met, block| met | 1 << leaf_of(*block));
        let mut entries = Entries::default();
        // leaves whose entries are known, and those that are bad
        let (mut open, mut bad) = (0u8, 0u8);
        for (number, pointer) in before.leaves.iter().enumerate() {
            let is_met = before.is_sparse || met >> number & 1 == 1;
            if !is_met || (before.is_sparse && number > 0) || stacks.is_empty() {
                continue;
            }
            let kind = if before.is_sparse { PageKind::Sparse } else { PageKind::Dense };
            open |= 1 << number;
            if pointer.is_none() {
                continue;
            }
            match self.leaf(*pointer, kind, out) {
                Some(payload) => entries.read(kind, number, payload),
                None if is_told(&stacks, &before, number) => out.given_up += 1,
                None => bad |= 1 << number,
            }
        }
        if before.is_sparse && open != 0 {
            // one leaf stands for all
            open = (1 << LEAVES) - 1;
            bad = if bad == 0 { 0 } else { open };
        }
        let may_vanish = group.may_vanish && after.touched <= group.vanishing;
        let mut left = Stacks::new();
        let (mut gone, mut displaced) = (Vec::new(), Vec::new());
        for (block, stack) in stacks {
            if bad >> leaf_of(block) & 1 == 1 {
                out.reheld.extend(owned_by(&stack).filter(|b| buffered.blocks.contains(b)));
                left.insert(block, stack);
                continue;
            }
            let base = entries.get(block);
            let in_runs = buffered.objects.get(&id).and_then(|s| s.get(&block));
            // what is in a run was settled when it was written, wherever the floor is now (R13)
            let limit = in_runs.and_then(highest).map_or(group.limit, |v| group.limit.max(v));
            let (now, rest) = stack.merge(base, limit, &mut gone, &mut displaced);
            entries.set(block, now);
            let place = now.place.block();
            if place != base.place.block() {
                out.settled.extend(place.filter(|b| !buffered.blocks.contains(b)));
            }
            if !rest.is_empty() {
                left.insert(block, rest);
            }
        }
        out.displaced.extend(displaced.iter().filter_map(|h| h.place.block()));
        out.part(gone, &buffered.blocks);
        if may_vanish {
            vanish(&mut entries);
        }
        if open & !bad != 0 {
            self.new_leaves(&before, &mut after, &entries, open & !bad, out);
        }
        let is_empty = after.leaves.iter().all(|p| p.is_none());
        if !left.is_empty() {
            out.left.insert(id, (family, left));
        } else if is_empty
            && group.may_forget
            && after.touched <= group.forgetting
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
        let buffered = self.buffered(slot.runs, &mut out)?;
        out.displaced.extend(buffered.objects.values().flat_map(|s| owned(Some(s))));
        lines(payload).unwrap_or_default().iter().for_each(|(_, line)| self.reap(line, &mut out));
        if !out.wants.is_empty() {
            return Err(Hold::Away(out.wants));
        }
        let blocks: Vec<u64> = out.displaced.into_iter().chain(slot.page.at).collect();
        self.need_bitmaps(blocks.iter().copied())?;
        out.dropped_pages.iter().chain(&slot.page.at).for_each(|b| self.cache.forget(*b));
        self.displace(blocks);
        self.given_up += out.given_up;
        self.owed_by_runs -= slot.owed();
        if let Some(directory) = self.doomed.last_mut() {
            directory.slots.pop();
            directory.is_changed = true;
        }
        self.checkpoint.job.reaped += 1;
        Ok(())
    }
}

impl Outcome {
    /// Places that nothing names any more: of runs the root on disk names them, of others nothing does.
    pub fn part(&mut self, gone: Vec<Held>, of_runs: &BTreeSet<u64>) {
        let is_of_run = |h: &Held| h.place.block().is_some_and(|b| of_runs.contains(&b));
        let (of_runs, others): (Vec<Held>, Vec<Held>) = gone.into_iter().partition(is_of_run);
        self.displaced.extend(of_runs.iter().filter_map(|h| h.place.block()));
        self.gone.extend(others);
    }
}

/// Frozen entries over those of runs.
fn put_together(
    frozen: &Stacks,
    buffered: Option<&Stacks>,
    of_runs: &BTreeSet<u64>,
    out: &mut Outcome,
) -> Stacks {
    let mut stacks = frozen.clone();
    let mut gone = Vec::new();
    for (block, older) in buffered.into_iter().flatten() {
        stacks.entry(*block).or_default().slide_under(older.clone(), &mut gone);
    }
    out.part(gone, of_runs);
    stacks
}

fn highest(stack: &Stack) -> Option<Version> {
    stack.entries.iter().map(|o| o.held.version).max()
}

/// Blocks that entries own.
pub(crate) fn owned_by(stack: &Stack) -> impl Iterator<Item = u64> {
    stack.entries.iter().filter(|o| o.role != Role::Mark).filter_map(|o| o.held.place.block())
}

fn owned(stacks: Option<&Stacks>) -> impl Iterator<Item = u64> {
    stacks.into_iter().flat_map(|s| s.values()).flat_map(owned_by)
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
