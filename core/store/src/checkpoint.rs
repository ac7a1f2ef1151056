//! A checkpoint: the map exactly as of one journal sequence, written to new places; then a root that names it (S13).
//!
//! At the cut every object's unmerged entries become its *frozen* generation; records go on at once in a new one. In
//! batches, between other work, data that lie in the journal move out of it ([`crate::moves`]) and frozen entries are merged
//! into leaves and lines ([`crate::merge`]); then index pages, the
//! stream and bitmaps are written, and when all of that and the journal up to the cut are durable, the root is written to
//! both its places, one after the other, and read back before the ring is trimmed (S4).
use crate::bytes::Writer;
use crate::disk::Disk;
use crate::journal::Head;
use crate::lookup::Want;
use crate::merge::Batch;
use crate::object::Stacks;
use crate::page::{self, PAYLOAD, PageKind, Pointer, Twin};
use crate::pages::CHECKPOINT;
use crate::place::Held;
use crate::space::{Barrier, REGION, Stream};
use crate::store::{Op, Store};
use crate::stream::{self, LeftOver};
use crate::table::{Directory, SLOTS_MAX, put_slots};
use sarsen_buffer::{Buf, Pool};
use sarsen_types::{BLOCK_SIZE, Duration, FamilyId, GroupId, Instant, ObjectId};
use smallvec::smallvec;
use std::collections::{BTreeMap, VecDeque};

/// Pointers in a list page, and in a root.
pub const POINTERS_MAX: usize = 280;
const _: () = assert!(POINTERS_MAX * Twin::BYTES + 64 <= PAYLOAD);
/// The ring is half full: time for a checkpoint (S13).
const DUE_PER_CENT: u64 = 50;
/// With less than this part of the space free a checkpoint is made early (S12), each time so many units were journaled.
const TIGHT_PART: u64 = 10;
const TIGHT_UNITS: u64 = 64;
/// Where clients can fill nothing more, little is journaled; a checkpoint is made this often while anything is not merged:
/// what was discarded is free only after it, and nothing else would bring one about.
const FULL_EVERY: Duration = Duration::from_millis(250);
/// Bytes of memory that an unmerged entry takes, about.
const ENTRY_MEMORY: u64 = 96;
/// Unmerged entries that may gather whatever memory there is: with none, one checkpoint would follow the other for ever.
const ENTRIES_MIN: u64 = 1024;
/// Page writes in flight beyond which the merge waits.
const WRITES_MAX: usize = 128;

impl Job {
    /// Notes what of an object could not be merged, for the root.
    pub fn leave(&mut self, id: GroupId, object: ObjectId, family: FamilyId, left: &Stacks) {
        if !left.is_empty() {
            self.left.entry(id).or_default().push((object, family, left.clone()));
        }
    }
}

/// How far a checkpoint is.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
enum Stage {
    #[default]
    None,
    /// Frozen entries are merged.
    Merging,
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

/// What is merged and what the root will say.
#[derive(Debug, Default)]
pub(crate) struct Job {
    /// Groups still to be merged, and from which object on the first.
    pub groups: VecDeque<GroupId>,
    pub from: Option<ObjectId>,
    /// Ledgers, as they were at the cut.
    ledgers: BTreeMap<GroupId, Vec<u8>>,
    /// What could not be merged.
    pub left: BTreeMap<GroupId, Vec<LeftOver>>,
    /// Slots of dropped layers and copies that were taken out.
    pub reaped: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct State {
    stage: Stage,
    /// Writes not completed.
    left: usize,
    /// Pages that are being written: until they are, the disk has something else in their place.
    writing: BTreeMap<u64, Buf>,
    /// Pages that are being read for it, and blocks that move out of the ring.
    pages: usize,
    pub(crate) job: Job,
    root: Option<Buf>,
    /// Where the journal was at the cut.
    cut: Head,
    /// Units that the trim frees.
    trims: u64,
    number: u64,
    wants_another: bool,
    /// When the last one was begun because the store was full.
    pressed: Instant,
}

impl State {
    /// Its number, while it is under way; 0 otherwise.
    pub fn number_under_way(&self) -> u64 {
        if self.stage == Stage::None { 0 } else { self.number }
    }
    /// The first journal block that is not of it.
    pub(crate) fn cut_at(&self) -> u64 {
        self.cut.sequence
    }
    /// Whether none is under way.
    pub fn is_idle(&self) -> bool {
        self.stage == Stage::None
    }
    pub(crate) fn page_came(&mut self) {
        self.pages -= 1;
    }
    /// So many blocks of data move; each ends as a page that came.
    pub(crate) fn moves_began(&mut self, count: usize) {
        self.pages += count;
    }
    /// A page that is not on the disk yet.
    pub(crate) fn being_written(&self, block: u64) -> Option<&Buf> {
        self.writing.get(&block)
    }
    pub(crate) fn page_written(&mut self, block: u64) {
        self.left -= 1;
        self.writing.remove(&block);
    }
    pub(crate) fn write_ended(&mut self) {
        self.left -= 1;
    }
    /// Whether what was read back is the root that was written.
    pub(crate) fn root_came_back(&mut self, buf: Option<&Buf>) -> bool {
        self.left -= 1;
        buf.zip(self.root.as_ref()).is_some_and(|(read, written)| **read == **written)
    }
}

/// Why a step of the merge did not happen.
pub(crate) enum Hold {
    /// These pages first.
    Away(Vec<Want>),
    /// Data move out of the ring first.
    Moving,
    /// There is no block left for the map.
    NoSpace,
}

impl<D: Disk> Store<D> {
    pub(crate) fn start_checkpoint_when_due(&mut self) {
        if !self.checkpoint.is_idle() {
            return;
        }
        let is_ring_due = self.ring_used * 100 >= self.ring.units * DUE_PER_CENT;
        // space pressure merges early (S12): what was overwritten is free only once its leaf is written anew
        let is_space_due = self.is_tight() && self.ring_used >= TIGHT_UNITS;
        if is_ring_due || is_space_due || self.is_memory_full() || self.is_pressed() {
            self.cut();
        }
    }

    /// Whether little space is free.
    pub(crate) fn is_tight(&self) -> bool {
        self.space.free() < self.space.total() / TIGHT_PART
    }

    /// Whether clients are refused for want of space while some of it may lie in what is not merged.
    fn is_pressed(&mut self) -> bool {
        let now = self.clock();
        let is_pressed = self.space().client_blocks_free == 0
            && now.since(self.checkpoint.pressed) >= FULL_EVERY
            && (self.changed_blocks > 0 || (self.left_blocks > 0 && self.has_settled) || self.has_doomed());
        if is_pressed {
            self.checkpoint.pressed = now;
        }
        is_pressed
    }

    /// Unmerged entries that a quarter of the memory holds: as many again may gather while they are merged (S4).
    fn entries_max(&self) -> u64 {
        (self.options.memory as u64 / 4 / ENTRY_MEMORY).max(ENTRIES_MIN)
    }

    /// Whether no more entries may gather before the checkpoint under way has ended.
    pub(crate) fn is_memory_full(&self) -> bool {
        self.changed_blocks >= self.entries_max()
    }

    /// A checkpoint now, or after the one under way.
    pub fn ask_checkpoint(&mut self) {
        match self.checkpoint.is_idle() {
            true => self.cut(),
            false => self.checkpoint.wants_another = true,
        }
    }

    /// A checkpoint of all there is, waited for.
    pub fn force_checkpoint(&mut self) {
        self.wait_all();
        self.ask_checkpoint();
        loop {
            self.checkpoint_step();
            if self.checkpoint.is_idle() || self.has_failed() {
                return;
            }
            let is_stuck = !self.wait_some();
            assert!(
                !is_stuck || self.has_failed(),
                "a checkpoint waits for the disk alone: {:?}",
                self.checkpoint.stage
            );
        }
    }

    pub(crate) fn checkpoint_step(&mut self) {
        loop {
            let before = self.checkpoint.stage;
            let is_done = self.checkpoint.left == 0;
            match before {
                Stage::None => return,
                _ if self.has_failed() => return,
                // data that move out of the ring are there to be read once its blocks have been written (S10)
                Stage::Merging if self.completed + 1 >= self.checkpoint.cut.sequence => self.merge_some(),
                Stage::Pages if is_done && self.durable + 1 >= self.checkpoint.cut.sequence => {
                    self.flush_then(Stage::PagesFlush);
                }
                Stage::PagesFlush if is_done => self.write_root(0),
                Stage::Root(n) if is_done => self.flush_then(Stage::RootFlush(n)),
                Stage::RootFlush(n) if is_done => self.read_root_back(n),
                Stage::RootBack(0) if is_done => self.write_root(1),
                Stage::RootBack(_) if is_done => self.trim(),
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
        let mut job = Job::default();
        for (id, group) in &mut self.groups {
            group.limit = group.ledger.floor.max(group.settled);
            group.vanishing = group.ledger.floor;
            if group.may_forget {
                group.ledger.forgets();
            }
            group.forgetting = group.ledger.forgotten;
            group.stacked.clear();
            group.objects.values_mut().for_each(|o| o.freeze());
            let mut w = Writer::default();
            stream::put_ledger(&mut w, &group.ledger);
            job.ledgers.insert(*id, w.0);
            job.groups.push_back(*id);
        }
        self.space.cut(self.head.sequence, self.root + 1);
        self.changed_blocks = 0;
        self.left_blocks = 0;
        self.has_settled = false;
        self.owed = [0, self.owed[0]];
        self.checkpoint = State {
            stage: Stage::Merging,
            job,
            cut: self.head,
            trims: self.ring_used,
            number: self.root + 1,
            pressed: self.checkpoint.pressed,
            ..State::default()
        };
    }

    /// Merges a batch; a turn does one, so that other work goes on in between.
    fn merge_some(&mut self) {
        while self.checkpoint.pages == 0 && self.checkpoint.left < WRITES_MAX {
            let left = self.checkpoint.left;
            let step = match self.next_batch() {
                Some(batch) => self.move_out(&batch).and_then(|()| self.merge_batch(batch)),
                None => match self.write_rest() {
                    Ok(()) => {
                        self.checkpoint.stage = Stage::Pages;
                        return;
                    }
                    held => held,
                },
            };
            match step {
                Ok(()) if self.checkpoint.left > left => return,
                Ok(()) => {}
                Err(Hold::Away(wants)) => {
                    self.checkpoint.pages += wants.len();
                    wants.into_iter().for_each(|want| self.load(want, CHECKPOINT));
                }
                Err(Hold::Moving) => return,
                Err(Hold::NoSpace) => return self.fail("there is no block left to write the map to".into()),
            }
        }
    }

    /// The next lines to be merged.
    fn next_batch(&mut self) -> Option<Batch> {
        while let Some(id) = self.checkpoint.job.groups.front() {
            let may_reap = self.checkpoint.job.reaped < crate::merge::REAPED_MAX;
            if let Some(batch) = Batch::next(*id, &self.groups[id], self.checkpoint.job.from, may_reap) {
                return Some(batch);
            }
            if may_reap && let Some(group) = self.groups.get_mut(id) {
                group.dropping.clear();
            }
            self.checkpoint.job.groups.pop_front();
            self.checkpoint.job.from = None;
        }
        let is_doomed = self.doomed.last().is_some_and(|d| !d.slots.is_empty());
        let may_reap = self.checkpoint.job.reaped < crate::merge::REAPED_MAX;
        (is_doomed && may_reap).then_some(Batch::Doomed)
    }

    // ---- writing pages ----

    /// Blocks for map pages, each by its stream; all or none.
    pub(crate) fn map_blocks(
        &mut self,
        streams: impl Iterator<Item = Stream>,
    ) -> Result<VecDeque<u64>, Hold> {
        let mut taken = VecDeque::new();
        for stream in streams {
            match self.space.take(stream, 1) {
                Some((block, _)) => taken.push_back(block),
                None => {
                    taken.iter().for_each(|b| self.space.give_back(*b));
                    return Err(match self.space.wanted() {
                        Some(page) => Hold::Away(vec![self.want_bitmap(page)]),
                        None => Hold::NoSpace,
                    });
                }
            }
        }
        Ok(taken)
    }

    /// Bitmap pages of blocks that change hands must be in memory.
    pub(crate) fn need_bitmaps(&self, blocks: impl Iterator<Item = u64>) -> Result<(), Hold> {
        let mut pages: Vec<u64> = blocks.filter_map(|b| self.space.is_away(b)).collect();
        pages.sort_unstable();
        pages.dedup();
        match pages.is_empty() {
            true => Ok(()),
            false => Err(Hold::Away(pages.into_iter().map(|p| self.want_bitmap(p)).collect())),
        }
    }

    /// Blocks that the next root does not name any more: free once it is durable, for it is as good as any journal block.
    pub(crate) fn displace(&mut self, blocks: impl IntoIterator<Item = u64>) {
        let barrier = self.barrier_of_root();
        for block in blocks {
            self.space.unsettle(block, barrier);
        }
    }

    /// Places of unmerged entries that a merge finds to be covered: the next root does not name them either.
    pub(crate) fn release_with_root(&mut self, gone: Vec<Held>) {
        let barrier = self.barrier_of_root();
        self.release_behind(gone, barrier);
    }

    /// What was journaled since the cut counts as well: a recovery after it may be what covers an entry.
    fn barrier_of_root(&self) -> Barrier {
        let root = self.checkpoint.number;
        Barrier { journal: self.head.sequence - 1, read: self.reads.next_number(), root }
    }

    /// Writes a page of the map to a block that was taken for it.
    pub(crate) fn write_page(&mut self, block: u64, kind: PageKind, payload: &[u8]) -> Pointer {
        let (buf, sum) = page::seal(&self.options.pages, kind, payload);
        let pointer = Pointer { block, sum };
        self.cache.put(pointer, buf.clone());
        self.space.settle(block);
        self.put_page(block, buf);
        pointer
    }

    /// Writes a page to both its blocks.
    pub(crate) fn write_twin(&mut self, at: [u64; 2], kind: PageKind, payload: &[u8]) -> Twin {
        let (buf, sum) = page::seal(&self.options.pages, kind, payload);
        for block in at {
            self.space.settle(block);
            self.put_page(block, buf.clone());
        }
        if kind != PageKind::Index {
            self.cache.put(Pointer { block: at[0], sum }, buf);
        }
        Twin { at, sum }
    }

    fn put_page(&mut self, block: u64, buf: Buf) {
        self.checkpoint.left += 1;
        self.checkpoint.writing.insert(block, buf.clone());
        let (id, offset) = (self.op(Op::Map(block)), self.byte(block));
        self.disk.write(id, offset, smallvec![buf]);
    }

    /// All is merged: index pages, stream, bitmaps, and the root in memory. May be called again after a hold.
    fn write_rest(&mut self) -> Result<(), Hold> {
        let changed: Vec<GroupId> =
            self.groups.iter().filter(|g| g.1.directory.is_changed).map(|g| *g.0).collect();
        for id in changed {
            let mut directory = std::mem::take(&mut self.group(id).directory);
            let written = self.write_index(&mut directory);
            self.group(id).directory = directory;
            written?;
        }
        let mut doomed = std::mem::take(&mut self.doomed);
        let written = doomed.iter_mut().filter(|d| d.is_changed).try_for_each(|d| self.write_index(d));
        // a table that is gone leaves nothing behind
        doomed.retain(|d| !d.slots.is_empty() || d.is_changed);
        self.doomed = doomed;
        written?;
        self.write_stream()
    }

    fn write_index(&mut self, directory: &mut Directory) -> Result<(), Hold> {
        self.need_bitmaps(directory.index.iter().flat_map(|t| t.at))?;
        let pages = directory.slots.len().div_ceil(SLOTS_MAX);
        let mut blocks = self.map_blocks((0..pages).flat_map(|_| [Stream::Map, Stream::Twin]))?;
        self.displace(directory.index.iter().flat_map(|t| t.at));
        directory.index.clear();
        for slots in directory.slots.chunks(SLOTS_MAX) {
            let at = two(&mut blocks);
            directory.index.push(self.write_twin(at, PageKind::Index, &put_slots(slots)));
        }
        directory.is_changed = false;
        Ok(())
    }

    /// The stream and the lists that name its pages. Blocks are taken before bitmaps are encoded, so that these are exactly
    /// what the root names; what the stream says of bitmaps has a fixed length.
    fn write_stream(&mut self) -> Result<(), Hold> {
        self.need_bitmaps(self.stream_pages.iter().copied())?;
        let mut w = self.encode_groups();
        let spans_at = w.0.len();
        stream::put_spans(&mut w, self.space.spans());
        let pages = w.0.len().div_ceil(PAYLOAD);
        let lists = pages.div_ceil(POINTERS_MAX);
        assert!(lists <= POINTERS_MAX, "a stream of more pages than a root can name");
        let mut blocks = self.map_blocks((0..pages + lists).flat_map(|_| [Stream::Map, Stream::Twin]))?;
        let before = std::mem::take(&mut self.stream_pages);
        self.displace(before);
        self.stream_pages = blocks.iter().copied().collect();
        self.stream_pages.iter().for_each(|b| self.space.settle(*b));
        self.write_bitmaps();
        w.0.truncate(spans_at);
        stream::put_spans(&mut w, self.space.spans());
        let mut pointers = Vec::new();
        for payload in w.0.chunks(PAYLOAD) {
            pointers.push(self.put_twin(two(&mut blocks), PageKind::Stream, payload));
        }
        let mut roots = Vec::new();
        for pointers in pointers.chunks(POINTERS_MAX) {
            let mut list = Writer::default();
            stream::put_twins(&mut list, pointers);
            roots.push(self.put_twin(two(&mut blocks), PageKind::List, &list.0));
        }
        let cut = self.checkpoint.cut;
        let mut root = Writer::default();
        root.u64(self.checkpoint.number).u128(self.options.drive.0).u64(w.0.len() as u64);
        root.u64(cut.unit).u64(cut.sequence).u64(cut.previous);
        stream::put_twins(&mut root, &roots);
        self.checkpoint.root = Some(page::seal(&self.options.pages, PageKind::Root, &root.0).0);
        Ok(())
    }

    fn encode_groups(&self) -> Writer {
        let job = &self.checkpoint.job;
        let mut w = Writer::default();
        w.u32(job.ledgers.len() as u32);
        for (id, ledger) in &job.ledgers {
            let left = job.left.get(id).map_or(&[][..], |l| l);
            stream::put_group(&mut w, *id, ledger, &self.groups[id], left);
        }
        w.u32(self.doomed.len() as u32);
        self.doomed.iter().for_each(|d| stream::put_twins(&mut w, &d.index));
        w.u64(self.given_up);
        w
    }

    fn put_twin(&mut self, at: [u64; 2], kind: PageKind, payload: &[u8]) -> Twin {
        let (buf, sum) = page::seal(&self.options.pages, kind, payload);
        at.into_iter().for_each(|block| self.put_page(block, buf.clone()));
        Twin { at, sum }
    }

    /// Bitmap pages that changed go to the places of their other version: never over what the root on disk names.
    fn write_bitmaps(&mut self) {
        for number in self.space.changed() {
            let payload = self.space.encode(number);
            let (buf, sum) = page::seal(&self.options.pages, PageKind::Bitmap, &payload);
            let span = self.space.written(number, sum);
            for block in self.region.bitmap_places(number, span.version) {
                self.put_page(block, buf.clone());
            }
        }
    }

    // ---- the root ----

    fn write_root(&mut self, which: usize) {
        self.checkpoint.stage = Stage::Root(which);
        self.checkpoint.left = 1;
        let block = self.region.roots()[which];
        let (id, offset) = (self.op(Op::Checkpoint), self.byte(block));
        let root = self.checkpoint.root.clone().expect("it was made before its pages were written");
        self.disk.write(id, offset, smallvec![root]);
    }

    fn read_root_back(&mut self, which: usize) {
        self.checkpoint.stage = Stage::RootBack(which);
        self.checkpoint.left = 1;
        let (id, offset) = (self.op(Op::RootBack), self.byte(self.region.roots()[which]));
        let buf = self.options.pages.take(BLOCK_SIZE);
        self.disk.read(id, offset, buf);
    }

    /// Both roots are durable: the ring begins after the cut, and what only the old root named is free.
    fn trim(&mut self) {
        self.root = self.checkpoint.number;
        self.ring_used -= self.checkpoint.trims;
        self.ring_kept.push_back((self.checkpoint.trims, self.reads.next_number()));
        self.owed[1] = 0;
        let again = self.checkpoint.wants_another || self.has_doomed();
        self.tally.checkpoints += 1;
        self.checkpoint = State { pressed: self.checkpoint.pressed, ..State::default() };
        self.pass();
        self.trim_regions();
        if again {
            // first what waited for the end of this one: it would wait as long as anything is dropped (found in review)
            while self.may_write() && self.write_block() {}
            self.cut();
        }
    }

    /// S16: wholly empty regions go back to the device, after the checkpoint that freed them.
    fn trim_regions(&mut self) {
        for first in self.space.begin_trims() {
            let (id, offset) = (self.op(Op::Trim(first)), self.byte(first));
            self.disk.trim(id, offset, REGION * BLOCK_SIZE as u64);
        }
    }

    fn has_doomed(&self) -> bool {
        !self.doomed.is_empty() || self.groups.values().any(|g| !g.dropping.is_empty())
    }
}

/// The next two blocks.
pub(crate) fn two(blocks: &mut VecDeque<u64>) -> [u64; 2] {
    let mut next = || blocks.pop_front().expect("as many were taken as are written");
    [next(), next()]
}

/// A root of an empty store.
pub fn empty_root(pool: &Pool, drive: sarsen_types::DriveIdentity) -> Buf {
    let mut w = Writer::default();
    w.u64(1).u128(drive.0).u64(0).u64(0).u64(1).u64(0);
    stream::put_twins(&mut w, &[]);
    page::seal(pool, PageKind::Root, &w.0).0
}
