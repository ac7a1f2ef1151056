//! The whole map walked, and held against the bitmaps: for checkers and tools.
//!
//! Each block of the slice is named by at most one thing: a leaf's entry, an unmerged entry, a page. What the map names is
//! settled, what unmerged entries own is held, and with nothing under way everything else is free.
use crate::cache::Found;
use crate::disk::Disk;
use crate::leaf::{self, blocks_of};
use crate::lookup::Want;
use crate::merge::owned_by;
use crate::page::PageKind;
use crate::pages::QUEUE;
use crate::run;
use crate::store::Store;
use crate::table::{Directory, Line, Slot, lines};
use sarsen_types::{BLOCKS_PER_CHUNK, ObjectId};
use std::collections::BTreeMap;

impl<D: Disk> Store<D> {
    /// Walks everything, waiting for the disk. The error says what is wrong; bad leaves are passed over, and what they may
    /// have named is not missed.
    pub fn audit(&mut self) -> Result<(), String> {
        self.flush_queue();
        while !self.checkpoint.is_idle() && self.wait_some() {}
        if self.has_failed() {
            return Ok(());
        }
        self.pass();
        let mut named: BTreeMap<u64, &'static str> = BTreeMap::new();
        let mut has_bad = self.given_up > 0;
        for block in self.stream_pages.clone() {
            name(&mut named, block, "a page of the stream")?;
        }
        let mut tables: Vec<Directory> = self.groups.values().map(|g| g.directory.clone()).collect();
        tables.extend(self.doomed.iter().cloned());
        for directory in &tables {
            for block in directory.index.iter().flat_map(|t| t.at) {
                name(&mut named, block, "an index page")?;
            }
            for slot in &directory.slots {
                for block in slot.page.at {
                    name(&mut named, block, "a table page")?;
                }
                let Some(payload) = self.waited(Want::twin(slot.page, PageKind::Table)) else {
                    return Err(format!("a table page is unreadable: {slot:?}"));
                };
                let all = lines(&payload).map_err(|why| why.to_string())?;
                if all.len() != usize::from(slot.lines) || all[0].0 != slot.first {
                    return Err(format!("a slot does not match its page: {slot:?}"));
                }
                for (_, line) in &all {
                    has_bad |= self.audit_line(line, &mut named)?;
                }
                self.audit_runs(slot, &all, &mut named)?;
            }
        }
        let owed: u64 = tables.iter().flat_map(|d| &d.slots).map(Slot::owed).sum();
        if owed != self.owed_by_runs {
            return Err(format!("runs owe {owed} leaves, {} are counted", self.owed_by_runs));
        }
        let settled = named.clone();
        let objects = self.groups.values().flat_map(|g| g.objects.values());
        let owned = objects.flat_map(|o| o.owned()).filter_map(|h| h.place.block()).collect::<Vec<_>>();
        let (ring, outside): (Vec<u64>, Vec<u64>) =
            owned.into_iter().partition(|b| self.region.is_in_ring(*b));
        for block in outside {
            name(&mut named, block, "an unmerged entry")?;
        }
        self.audit_ring(ring)?;
        for page in 0..self.region.bitmap_pages() {
            if self.space.is_away(self.region.data_first() + page * crate::space::SPAN).is_some() {
                let want = self.want_bitmap(page);
                self.load(want, QUEUE);
                self.wait_all();
            }
        }
        // what is set aside stays held, named or not
        for block in self.space.aside() {
            named.entry(*block).or_insert("a bad place");
        }
        self.space.audit(&settled, &named, has_bad)
    }

    /// The runs of a table page: their lists and pages are legible, their entries of objects that have a line.
    fn audit_runs(
        &mut self,
        slot: &Slot,
        all: &[(ObjectId, Line)],
        named: &mut BTreeMap<u64, &'static str>,
    ) -> Result<(), String> {
        if slot.runs.is_none() {
            return Ok(());
        }
        let list =
            self.waited(Want::twin(slot.runs, PageKind::Runs)).ok_or("a list of runs is unreadable")?;
        for block in slot.runs.at {
            name(named, block, "a list of runs")?;
        }
        let mut blocks = 0;
        for run in run::list(&list).map_err(|why| why.to_string())? {
            for block in run.page.at {
                name(named, block, "a run")?;
            }
            let page = self.waited(Want::twin(run.page, PageKind::Run)).ok_or("a run is unreadable")?;
            let entries = run::entries(&page).map_err(|why| why.to_string())?;
            if entries.len() != usize::from(run.blocks) {
                return Err(format!("a list of runs does not match a run: {run:?}"));
            }
            blocks += run.blocks;
            for ((id, block), stack) in entries {
                let line = all.iter().find(|l| l.0 == id).map(|l| l.1);
                if line.is_none_or(|l| !l.may_have(block))
                    || !run::may_have(&list, id, block).contains(&run.page)
                {
                    return Err(format!("block {block} of {id:?} is in a run that is not asked for it"));
                }
                for place in owned_by(&stack) {
                    name(named, place, "an entry of a run")?;
                }
            }
        }
        match blocks == slot.spilled {
            true => Ok(()),
            false => Err(format!("{blocks} blocks are in runs, a slot says {}", slot.spilled)),
        }
    }

    /// Data in the ring lie between its tail and its head (S10).
    fn audit_ring(&self, blocks: Vec<u64>) -> Result<(), String> {
        if blocks.len() as u64 != self.in_ring {
            return Err(format!(
                "{} blocks of the ring are named, {} are counted",
                blocks.len(),
                self.in_ring
            ));
        }
        let units = self.ring.units;
        let tail = (self.head.unit + units - self.ring_used % units) % units;
        for block in blocks {
            let behind_tail = (block - self.ring.first + units - tail) % units;
            if behind_tail >= self.ring_used {
                return Err(format!(
                    "unit {} of the ring was trimmed, and is named",
                    block - self.ring.first
                ));
            }
        }
        Ok(())
    }

    fn audit_line(&mut self, line: &Line, named: &mut BTreeMap<u64, &'static str>) -> Result<bool, String> {
        let kind = if line.is_sparse { PageKind::Sparse } else { PageKind::Dense };
        let mut has_bad = false;
        for (number, pointer) in line.leaves.iter().enumerate().filter(|l| !l.1.is_none()) {
            name(named, pointer.block, "a leaf")?;
            let Some(payload) = self.waited(Want { pointer: *pointer, twin: None, kind }) else {
                has_bad = true;
                continue;
            };
            leaf::check(kind, &payload).map_err(|why| why.to_string())?;
            let blocks = if line.is_sparse { 0..BLOCKS_PER_CHUNK } else { blocks_of(number) };
            for block in blocks {
                let held = leaf::entry(kind, &payload, block);
                if !held.is_absent() && !line.may_have(block) {
                    return Err(format!("block {block} is there and its line does not say so: {line:?}"));
                }
                if let Some(place) = held.place.block() {
                    name(named, place, "an entry of a leaf")?;
                }
            }
        }
        Ok(has_bad)
    }

    /// For tests: what was freed is taken as soon as it may be.
    pub fn rewind_allocation(&mut self) {
        self.space.rewind();
    }

    /// A page's payload, read when it is away; `None` when it is bad.
    fn waited(&mut self, want: Want) -> Option<Vec<u8>> {
        loop {
            match self.cache.get(want.pointer) {
                Found::Here(payload) => return Some(payload.to_vec()),
                Found::Bad => return None,
                Found::Away if self.has_failed() => return None,
                Found::Away => {
                    self.load(want, QUEUE);
                    self.wait_all();
                }
            }
        }
    }
}

fn name(named: &mut BTreeMap<u64, &'static str>, block: u64, what: &'static str) -> Result<(), String> {
    match named.insert(block, what) {
        None => Ok(()),
        Some(other) => Err(format!("block {block} is named by {what} and by {other}")),
    }
}
