//! Runs in place of leaves (S13): where few entries lie over many leaves, a checkpoint writes them as a run, so that trimming
//! the ring does not force a leaf for each.
use crate::checkpoint::Hold;
use crate::disk::Disk;
use crate::group::Group;
use crate::leaf::LEAVES;
use crate::lookup::Lookup;
use crate::merge::{Outcome, owned_by};
use crate::object::Stacks;
use crate::page::{PageKind, Twin};
use crate::run::{self, Entries, RUNS_MAX, STACK_MAX};
use crate::stack::Stack;
use crate::store::Store;
use crate::table::{LINES_MAX, Line, lines};
use sarsen_types::{ObjectId, Version};
use std::collections::{BTreeMap, BTreeSet};

/// A run's entries are put together with the one before it, to fill its page, when they are at most so many.
const TOGETHER_MAX: usize = 150;

impl<D: Disk> Store<D> {
    /// What a batch comes to as a run; `None` when it is to be merged: it pays to write its leaves, the list of runs is full,
    /// space is short, or there is more to do than to add entries.
    pub(crate) fn spill(
        &self,
        group: &Group,
        slot: Option<usize>,
        objects: &[ObjectId],
    ) -> Result<Option<Outcome>, Hold> {
        let Some(slot) = slot.map(|at| group.directory.slots[at]) else { return Ok(None) };
        let leaves: usize = self.leaves_met(group, objects);
        let is_simple = group.dropping.is_empty() && !group.ailing.contains(&slot.first);
        if !is_simple || objects.is_empty() || leaves < self.options.spill_from || self.is_tight() {
            return Ok(None);
        }
        let mut look = Lookup::new(group, &self.cache);
        let table = look.twin(slot.page, PageKind::Table);
        let list = (!slot.runs.is_none()).then(|| look.twin(slot.runs, PageKind::Runs));
        let (Some(table), Some(list)) = (table, list.map_or(Some(&[][..]), |l| l)) else {
            return Err(Hold::Away(look.wants.to_vec()));
        };
        let mut out = Outcome::default();
        let mut entries = split(group, objects, &mut out);
        out.kept = run::list(list).unwrap_or_default();
        let old_list = slot.runs;
        let mut in_last = BTreeSet::new();
        if let Some(last) = out.kept.last().filter(|l| usize::from(l.blocks) + entries.len() <= TOGETHER_MAX)
        {
            let page = last.page;
            let Some(payload) = look.twin(page, PageKind::Run) else {
                return Err(Hold::Away(look.wants.to_vec()));
            };
            in_last = take_in(&mut entries, payload, &mut out);
            out.kept.pop();
            drop_page(page, &mut out);
        }
        if !old_list.is_none() {
            drop_page(old_list, &mut out);
        }
        if entries.values().any(|s| s.entries.len() > STACK_MAX) {
            return Ok(None);
        }
        out.settled.extend(entries.values().flat_map(owned_by).filter(|b| !in_last.contains(b)));
        let pages = run::pack(&entries);
        // a run and its list lie in two places each, and what they save comes only once they are merged
        let is_worth_it = leaves >= 4 * (pages.len() + 1) || self.options.spill_from < LEAVES;
        if out.kept.len() + pages.len() > RUNS_MAX || !is_worth_it {
            return Ok(None);
        }
        let mut keys = entries.keys().copied();
        for (payload, count) in pages {
            out.runs.push((payload, keys.by_ref().take(count).collect()));
        }
        out.lines = new_lines(group, objects, &entries, lines(table).unwrap_or_default());
        Ok((out.lines.len() <= LINES_MAX).then_some(out))
    }

    /// Leaves that a batch would write.
    fn leaves_met(&self, group: &Group, objects: &[ObjectId]) -> usize {
        let of = |id: &ObjectId| group.objects.get(id).map_or(0, |o| o.frozen.leaves.count_ones() as usize);
        objects.iter().map(of).sum()
    }
}

/// Settled entries of the frozen generation; what is not stays unmerged.
fn split(group: &Group, objects: &[ObjectId], out: &mut Outcome) -> Entries {
    let mut entries = Entries::new();
    for id in objects {
        let Some(object) = group.objects.get(id) else { continue };
        for (block, stack) in &object.frozen.stacks {
            let (settled, left) = stack.clone().split(group.limit, &mut out.gone);
            if !settled.is_empty() {
                entries.insert((*id, *block), settled);
            }
            if !left.is_empty() {
                out.left.entry(*id).or_insert((object.family, Stacks::new())).1.insert(*block, left);
            }
        }
    }
    entries
}

/// Puts the entries of an older run under newer ones; gives the blocks that it named.
fn take_in(entries: &mut Entries, payload: &[u8], out: &mut Outcome) -> BTreeSet<u64> {
    let (mut named, mut gone) = (BTreeSet::new(), Vec::new());
    for (key, older) in run::entries(payload).unwrap_or_default() {
        named.extend(owned_by(&older));
        let stack: &mut Stack = entries.entry(key).or_default();
        stack.slide_under(older, &mut gone);
        stack.settle(Version(u64::MAX), &mut gone);
    }
    out.part(gone, &named);
    named
}

fn drop_page(page: Twin, out: &mut Outcome) {
    out.displaced.extend(page.at);
    out.dropped_pages.extend(page.at);
}

/// The lines of a table page with what a run adds: `touched`, and that something may be there.
fn new_lines(
    group: &Group,
    objects: &[ObjectId],
    entries: &Entries,
    old: Vec<(ObjectId, Line)>,
) -> Vec<(ObjectId, Line)> {
    let mut lines: BTreeMap<ObjectId, Line> = old.into_iter().collect();
    for id in objects {
        let Some(object) = group.objects.get(id) else { continue };
        let line = lines.entry(*id).or_insert(Line { is_sparse: true, ..Line::default() });
        line.family = object.family;
        line.touched = line.touched.max(object.frozen.touched);
    }
    for (id, block) in entries.keys() {
        if let Some(line) = lines.get_mut(id) {
            line.presence |= 1 << (block / 16);
        }
    }
    lines.into_iter().collect()
}
