//! A checkpoint: the map as of one journal sequence, written anew where it changed; then a root that names it (S13).
//!
//! The cut is made when nothing is in flight: all that is settled is merged, changed leaves and tables are written to new
//! places, and what is not settled goes out in the stream with the ledgers. New records go on at once after the cut. The
//! root is written to both root blocks, one after the other, and read back before the ring is trimmed (S4).
use crate::bytes::{Writer, put_mark, put_note, put_session};
use crate::disk::Disk;
use crate::group::Group;
use crate::object::{LEAVES, Object, Pages};
use crate::page::{self, LINES_MAX, PAYLOAD, PageKind};
use crate::place::Held;
use crate::store::{Op, Store};
use sarsen_buffer::{Buf, Pool};
use sarsen_types::{Duration, GroupId, Instant, Ledger, ObjectId, RequestNote};
use smallvec::smallvec;

/// Pointers in a list page, and in a root.
pub const POINTERS_MAX: usize = 400;
const _: () = assert!(POINTERS_MAX * 9 + 64 <= PAYLOAD);
/// The ring is half full: time for a checkpoint.
const DUE_PER_CENT: u64 = 50;
/// With less than this part of the space free a checkpoint is made early, each time so many units were journaled.
const TIGHT_PART: u64 = 10;
const TIGHT_UNITS: u64 = 64;
/// Where clients can fill nothing more, little is journaled; a checkpoint is made this often while anything is not merged:
/// what was discarded is free only after it, and nothing else would bring one about.
const FULL_EVERY: Duration = Duration::from_millis(250);

/// How far a checkpoint is.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
enum Stage {
    #[default]
    None,
    /// Writes wait until nothing is in flight.
    Draining,
    /// Map pages are being written.
    Pages,
    /// They are being made durable.
    PagesFlush,
    /// The first root block, then its flush; the second, then its flush.
    Root(usize),
    RootFlush(usize),
    /// It is read back: a root that is not there must not end the life of the one before (S4).
    RootBack(usize),
}

/// See the module.
#[derive(Debug, Default)]
pub struct State {
    stage: Stage,
    /// Operations not completed.
    pub left: usize,
    root: Option<Buf>,
    /// Where the ring begins once it is trimmed.
    tail_unit: u64,
    /// Units that the trim frees.
    trims: u64,
    number: u64,
    /// Checkpoints made since the drive was opened.
    pub count: u64,
    wants_another: bool,
    /// When the last one was begun because the store was full.
    pressed: Instant,
}

impl State {
    /// Whether records wait: between the decision and the cut.
    pub fn holds_writes(&self) -> bool {
        self.stage == Stage::Draining
    }
    /// Its number, while it is under way; 0 otherwise.
    pub fn number_under_way(&self) -> u64 {
        if self.stage == Stage::None { 0 } else { self.number }
    }
    /// Whether none is under way.
    pub fn is_idle(&self) -> bool {
        self.stage == Stage::None
    }
}

impl<D: Disk> Store<D> {
    pub(crate) fn start_checkpoint_when_due(&mut self) {
        let is_due = self.ring_used * 100 >= self.ring.units * DUE_PER_CENT;
        // space pressure merges early (S12): what was overwritten is free only once its leaf is written anew
        let is_tight = self.space.free() < self.space.total() / TIGHT_PART && self.ring_used >= TIGHT_UNITS;
        if self.checkpoint.is_idle() && (is_due || is_tight || self.is_pressed()) {
            self.ask_checkpoint();
        }
    }

    /// Whether clients are refused for want of space while some of it may lie in what is not merged.
    fn is_pressed(&mut self) -> bool {
        let now = self.clock();
        let is_pressed = self.space().client_blocks_free == 0
            && now.since(self.checkpoint.pressed) >= FULL_EVERY
            && self.groups.values().any(|g| !g.over.is_empty());
        if is_pressed {
            self.checkpoint.pressed = now;
        }
        is_pressed
    }

    /// A checkpoint as soon as nothing is in flight.
    pub fn ask_checkpoint(&mut self) {
        if self.checkpoint.is_idle() {
            self.checkpoint.stage = Stage::Draining;
        } else if self.checkpoint.stage != Stage::Draining {
            self.checkpoint.wants_another = true;
        }
    }

    /// A checkpoint now, waited for.
    pub fn force_checkpoint(&mut self) {
        self.wait_all();
        self.ask_checkpoint();
        while !self.checkpoint.is_idle() {
            self.checkpoint_step();
            if self.ops.is_empty() && !self.checkpoint.is_idle() && self.checkpoint.left == 0 {
                self.checkpoint_step();
            }
            if self.ops.is_empty() && self.has_failed() {
                return;
            }
            self.wait_all();
        }
    }

    pub(crate) fn checkpoint_step(&mut self) {
        loop {
            let before = self.checkpoint.stage;
            match before {
                Stage::None => return,
                Stage::Draining if self.is_drained() => self.cut(),
                Stage::Pages if self.checkpoint.left == 0 => self.flush_then(Stage::PagesFlush),
                Stage::PagesFlush if self.checkpoint.left == 0 => self.write_root(0),
                Stage::Root(n) if self.checkpoint.left == 0 => self.flush_then(Stage::RootFlush(n)),
                Stage::RootFlush(n) if self.checkpoint.left == 0 => self.read_root_back(n),
                Stage::RootBack(0) if self.checkpoint.left == 0 => self.write_root(1),
                Stage::RootBack(_) if self.checkpoint.left == 0 => self.trim(),
                _ => return,
            }
            if self.checkpoint.stage == before {
                return;
            }
        }
    }

    fn flush_then(&mut self, stage: Stage) {
        self.checkpoint.stage = stage;
        if !self.disk.writes_are_durable() {
            self.checkpoint.left = 1;
            let id = self.op(Op::Checkpoint);
            self.disk.flush(id);
        }
    }

    /// The cut: from here on records belong to the next checkpoint.
    fn cut(&mut self) {
        self.checkpoint.number = self.root + 1;
        self.merge_all();
        let number = self.checkpoint.number;
        let mut writes: Vec<(u64, Buf)> = Vec::new();
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        for id in &ids {
            if !self.write_group(*id, number, &mut writes) {
                return self.give_up(writes);
            }
        }
        let mut w = Writer::default();
        w.u32(ids.len() as u32);
        for id in &ids {
            put_group(&mut w, *id, &self.groups[id]);
        }
        let Some(root) = self.write_stream(&w.0, &mut writes) else { return self.give_up(writes) };
        self.space.cut(self.head.sequence, number);
        self.checkpoint.root = Some(root);
        self.checkpoint.tail_unit = self.head.unit;
        self.checkpoint.trims = self.ring_used;
        self.checkpoint.stage = Stage::Pages;
        self.checkpoint.left = writes.len();
        for (block, buf) in writes {
            let (id, offset) = (self.op(Op::Checkpoint), self.byte(block));
            self.disk.write(id, offset, smallvec![buf]);
        }
    }

    /// No room for the map: nothing of this checkpoint counts. The pages it took are in nobody's way: the ring still
    /// holds every record, and the next one writes them again.
    fn give_up(&mut self, writes: Vec<(u64, Buf)>) {
        let pages = writes.into_iter().map(|(block, _)| page_held(block));
        self.release(pages, self.root);
        for object in self.groups.values_mut().flat_map(|g| g.objects.values_mut()) {
            object.dirty = (1 << LEAVES) - 1;
        }
        self.groups.values_mut().for_each(|g| g.is_changed = true);
        self.checkpoint.stage = Stage::None;
    }

    fn merge_all(&mut self) {
        let (mut displaced, mut merged) = (Vec::new(), Vec::new());
        for group in self.groups.values_mut() {
            let floor = group.ledger.floor;
            let (may_vanish, may_forget) = (group.may_vanish, group.may_forget);
            let mut rest = std::collections::BTreeSet::new();
            let mut emptied = Vec::new();
            for id in std::mem::take(&mut group.over) {
                let Some(object) = group.objects.get_mut(&id) else { continue };
                if object.lost.is_some() {
                    rest.insert(id);
                    continue;
                }
                object.merge(floor, &mut displaced, &mut merged);
                if may_vanish && object.touched <= floor {
                    object.vanish();
                }
                if !object.over.is_empty() {
                    rest.insert(id);
                } else if may_forget && object.is_empty() && object.touched <= floor {
                    emptied.push(id);
                }
                group.is_changed = true;
            }
            group.over = rest;
            for id in emptied {
                if let Some(object) = group.objects.remove(&id) {
                    displaced.extend(object.pages.at.iter().filter(|p| p.0 != 0).map(|p| page_held(p.0)));
                }
            }
        }
        for block in merged.into_iter().filter_map(|h| h.place.block()) {
            self.space.settle(block);
        }
        self.release(displaced, self.checkpoint.number);
    }

    /// Writes a group's changed leaves, and its table when any changed. `false`: no room.
    fn write_group(&mut self, id: GroupId, number: u64, writes: &mut Vec<(u64, Buf)>) -> bool {
        let mut group = std::mem::take(self.groups.get_mut(&id).expect("it was listed"));
        let mut old = Vec::new();
        let mut has_room = true;
        for object in group.objects.values_mut().filter(|o| o.dirty != 0 && o.lost.is_none()) {
            has_room &= self.write_leaves(object, &mut old, writes);
        }
        if group.is_changed && has_room {
            let lines: Vec<(&ObjectId, &Object)> = group.objects.iter().collect();
            let mut table = Vec::new();
            for lines in lines.chunks(LINES_MAX) {
                let mut w = Writer::default();
                w.u32(lines.len() as u32);
                lines.iter().for_each(|(id, object)| page::put_line(&mut w, **id, object));
                match self.write_page(PageKind::Table, &w.0, writes) {
                    Some(pointer) => table.push(pointer),
                    None => has_room = false,
                }
            }
            old.extend(std::mem::replace(&mut group.table, table).into_iter().map(|p| p.0));
            group.is_changed = !has_room;
        }
        self.groups.insert(id, group);
        self.release(old.into_iter().map(page_held), number);
        has_room
    }

    fn write_leaves(
        &mut self,
        object: &mut Object,
        old: &mut Vec<u64>,
        writes: &mut Vec<(u64, Buf)>,
    ) -> bool {
        let before = object.pages;
        let mut pages = Pages::default();
        if let Some(payload) = page::sparse(object) {
            pages.is_sparse = true;
            if object.base.iter().any(|h| !h.is_absent()) {
                let Some(pointer) = self.write_page(PageKind::Sparse, &payload, writes) else { return false };
                pages.at[0] = pointer;
            }
        } else {
            for leaf in 0..LEAVES {
                if object.dirty >> leaf & 1 == 0 && !before.is_sparse {
                    pages.at[leaf] = before.at[leaf];
                    continue;
                }
                let payload = page::dense(object, leaf);
                let Some(pointer) = self.write_page(PageKind::Dense, &payload, writes) else { return false };
                pages.at[leaf] = pointer;
            }
        }
        old.extend(before.at.iter().filter(|p| p.0 != 0 && !pages.at.contains(p)).map(|p| p.0));
        object.pages = pages;
        object.dirty = 0;
        true
    }

    fn write_page(
        &mut self,
        kind: PageKind,
        payload: &[u8],
        writes: &mut Vec<(u64, Buf)>,
    ) -> Option<(u64, u32)> {
        let (block, _) = self.space.take(1)?;
        self.space.settle(block);
        let (buf, sum) = page::seal(&self.options.pool, kind, payload);
        writes.push((block, buf));
        Some((block, sum))
    }

    /// Writes the stream and the lists that name its pages; gives the root.
    fn write_stream(&mut self, stream: &[u8], writes: &mut Vec<(u64, Buf)>) -> Option<Buf> {
        let before = std::mem::take(&mut self.stream_pages);
        let first = writes.len();
        let mut pages = Vec::new();
        for payload in stream.chunks(PAYLOAD) {
            pages.push(self.write_page(PageKind::Stream, payload, writes)?);
        }
        let mut lists = Vec::new();
        for pages in pages.chunks(POINTERS_MAX) {
            let mut w = Writer::default();
            put_pointers(&mut w, pages);
            lists.push(self.write_page(PageKind::List, &w.0, writes)?);
        }
        assert!(lists.len() <= POINTERS_MAX, "a stream of more pages than a root can name");
        self.stream_pages = writes[first..].iter().map(|w| w.0).collect();
        let number = self.checkpoint.number;
        self.release(before.into_iter().map(page_held), number);
        let mut w = Writer::default();
        w.u64(number).u128(self.options.drive.0).u64(stream.len() as u64);
        w.u64(self.head.unit).u64(self.head.sequence).u64(self.head.previous);
        put_pointers(&mut w, &lists);
        Some(page::seal(&self.options.pool, PageKind::Root, &w.0).0)
    }

    fn write_root(&mut self, which: usize) {
        self.checkpoint.stage = Stage::Root(which);
        self.checkpoint.left = 1;
        let block = self.region.roots()[which];
        let (id, offset) = (self.op(Op::Checkpoint), self.byte(block));
        let root = self.checkpoint.root.clone().expect("the cut made it");
        self.disk.write(id, offset, smallvec![root]);
    }

    fn read_root_back(&mut self, which: usize) {
        self.checkpoint.stage = Stage::RootBack(which);
        self.checkpoint.left = 1;
        let (id, offset) = (self.op(Op::RootBack), self.byte(self.region.roots()[which]));
        let buf = self.options.pool.take(sarsen_types::BLOCK_SIZE);
        self.disk.read(id, offset, buf);
    }

    /// Whether what was read back is the root that was written.
    pub(crate) fn root_came_back(&mut self, buf: Option<&Buf>) -> bool {
        self.checkpoint.left -= 1;
        buf.zip(self.checkpoint.root.as_ref()).is_some_and(|(read, written)| **read == **written)
    }

    /// Both roots are durable: the ring begins after the cut, and what only the old root named is free.
    fn trim(&mut self) {
        self.root = self.checkpoint.number;
        self.tail_unit = self.checkpoint.tail_unit;
        self.ring_used -= self.checkpoint.trims;
        self.checkpoint.count += 1;
        self.checkpoint.root = None;
        self.checkpoint.stage = match std::mem::take(&mut self.checkpoint.wants_another) {
            true => Stage::Draining,
            false => Stage::None,
        };
        self.space.pass(self.durable, self.reads.oldest_number(), self.root);
    }
}

fn page_held(block: u64) -> Held {
    Held { place: crate::place::Place::data(block), ..Held::ABSENT }
}

fn put_pointers(w: &mut Writer, pointers: &[(u64, u32)]) {
    w.u32(pointers.len() as u32);
    for (block, sum) in pointers {
        w.u40(*block).u32(*sum);
    }
}

fn put_group(w: &mut Writer, id: GroupId, group: &Group) {
    w.u32(id.0);
    put_ledger(w, &group.ledger);
    put_pointers(w, &group.table);
    let over = group.objects.iter().filter(|o| !o.1.over.is_empty());
    let entries: Vec<_> = over
        .flat_map(|(id, o)| o.over.iter().flat_map(move |(b, s)| s.iter().map(move |h| (*id, *b, *h))))
        .collect();
    w.u32(entries.len() as u32);
    for (id, block, held) in entries {
        w.u64(id.layer.0).u32(id.chunk.0).u16(block);
        held.put(w);
    }
}

fn put_ledger(w: &mut Writer, ledger: &Ledger) {
    w.u64(ledger.assignment).u32(ledger.promise.0).u64(ledger.floor.0).u64(ledger.point.0);
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

/// A root of an empty store.
pub fn empty_root(pool: &Pool, drive: sarsen_types::DriveIdentity) -> Buf {
    let mut w = Writer::default();
    w.u64(1).u128(drive.0).u64(0).u64(0).u64(1).u64(0);
    put_pointers(&mut w, &[]);
    page::seal(pool, PageKind::Root, &w.0).0
}
