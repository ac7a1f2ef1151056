//! Reading map pages while the store runs: each once, whoever waits for it; of pages in two places the second when the first
//! is bad, which is then written anew.
use crate::cache::{Cache, Found};
use crate::disk::Disk;
use crate::lookup::Want;
use crate::page::{HEADER, PageKind, Twin, unseal};
use crate::run;
use crate::store::{Op, Store};
use crate::table::Slot;
use crate::within;
use sarsen_buffer::Buf;
use sarsen_types::BLOCK_SIZE;
use smallvec::{SmallVec, smallvec};
use std::collections::BTreeMap;

/// The checkpoint waits for a page, in place of a read's number.
pub(crate) const CHECKPOINT: u64 = u64::MAX;
/// The queue of records waits: it looks again each turn.
pub(crate) const QUEUE: u64 = u64::MAX - 1;

/// A page that is being read.
#[derive(Debug)]
struct Load {
    want: Want,
    waiters: SmallVec<[u64; 2]>,
    is_second: bool,
}

/// Pages being read, by their (first) block.
#[derive(Debug, Default)]
pub struct Loads(BTreeMap<u64, Load>);

impl<D: Disk> Store<D> {
    /// Reads a page for a waiter, who is told when it came or is known to be bad.
    pub(crate) fn load(&mut self, want: Want, waiter: u64) {
        let block = want.pointer.block;
        if let Some(buf) = self.checkpoint.being_written(block).cloned() {
            // it left the cache before it reached the disk
            self.cache.take_in(want.pointer, want.kind, Some(buf));
            return self.tell(waiter);
        }
        if let Some(load) = self.loads.0.get_mut(&block) {
            return load.waiters.push(waiter);
        }
        self.loads.0.insert(block, Load { want, waiters: smallvec![waiter], is_second: false });
        self.read_page(block, block);
    }

    fn read_page(&mut self, name: u64, block: u64) {
        let (id, offset) = (self.op(Op::Page(name)), self.byte(block));
        let buf = self.options.pages.take(BLOCK_SIZE);
        self.disk.read(id, offset, buf);
    }

    pub(crate) fn page_completed(&mut self, name: u64, buf: Option<Buf>, is_ok: bool) {
        let Some(load) = self.loads.0.get_mut(&name) else { return };
        let want = load.want;
        let buf = buf.filter(|_| is_ok);
        let is_good = match want.kind {
            PageKind::Bitmap => {
                let payload = buf.as_ref().and_then(|b| unseal(b, want.kind, Some(want.pointer.sum)).ok());
                let page = (name - self.region.bitmap_first()) % self.region.bitmap_pages();
                payload.is_some_and(|p| self.space.take_in(page, p).is_ok())
            }
            kind => {
                let is_inside = |b: &Buf| within::is_inside(&self.region, kind, &b[HEADER..]);
                self.cache.take_in(want.pointer, kind, buf.filter(is_inside))
            }
        };
        if !is_good
            && !load.is_second
            && let Some(second) = want.twin
        {
            load.is_second = true;
            return self.read_page(name, second);
        }
        let Some(load) = self.loads.0.remove(&name) else { return };
        if !is_good {
            self.lost_page(want);
        } else if load.is_second {
            self.found_second(want);
        }
        load.waiters.into_iter().for_each(|waiter| self.tell(waiter));
    }

    fn tell(&mut self, waiter: u64) {
        match waiter {
            CHECKPOINT => self.checkpoint.page_came(),
            QUEUE => {}
            number => self.page_came(number),
        }
    }

    fn lost_page(&mut self, want: Want) {
        let place = self.byte(want.pointer.block);
        if want.twin.is_some() {
            return self
                .fail(format!("a page of the map is unreadable in both its places, one at byte {place}"));
        }
        self.cache.lose(want.pointer);
        self.notice(format!(
            "the map page at byte {place} is unreadable: its object is recovered from another copy"
        ));
    }

    /// The first place is bad: the page is written anew with the next checkpoint.
    fn found_second(&mut self, want: Want) {
        let block = want.pointer.block;
        self.notice(format!("the map page at byte {} is unreadable, its twin is not", self.byte(block)));
        if want.kind == PageKind::Bitmap {
            let page = (block - self.region.bitmap_first()) % self.region.bitmap_pages();
            return self.space.write_anew(page);
        }
        let cache = &self.cache;
        for group in self.groups.values_mut() {
            let slots = group.directory.slots.iter();
            if let Some(slot) = slots.into_iter().find(|s| names(s, block, cache)) {
                group.ailing.insert(slot.first);
                return;
            }
        }
    }

    /// What must be read of the bitmap page that has a block's bit, when it is away.
    pub(crate) fn want_bitmap(&self, page: u64) -> Want {
        let span = self.space.span(page);
        let at = self.region.bitmap_places(page, span.version);
        Want::twin(Twin { at, sum: span.sum }, PageKind::Bitmap)
    }
}

/// Whether a page in two places is a slot's own, its list of runs, or one of its runs as far as that list is in memory.
fn names(slot: &Slot, block: u64, cache: &Cache) -> bool {
    if slot.page.at[0] == block || slot.runs.at[0] == block {
        return true;
    }
    match cache.get(Want::twin(slot.runs, PageKind::Runs).pointer) {
        Found::Here(list) if !slot.runs.is_none() => {
            run::list(list).is_ok_and(|runs| runs.iter().any(|r| r.page.at[0] == block))
        }
        _ => false,
    }
}
