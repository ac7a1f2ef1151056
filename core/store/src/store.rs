//! The store of one slice: what is asked of it, and the turns in which it reaches the disk.
use crate::cache::Cache;
use crate::disk::{Completion, Disk, OpId};
use crate::events::{Event, Tally, Token};
use crate::flight::{InFlight, Item, Who, Writes};
use crate::group::{Group, Groups, Left};
use crate::journal::{Head, Ring};
use crate::moves::Move;
use crate::pages::Loads;
use crate::place::Held;
use crate::read::Reads;
use crate::region::SliceRegion;
use crate::space::{Barrier, Space};
use crate::table::Directory;
use sarsen_buffer::{Buf, Pool};
use sarsen_types::limits::JOURNAL_WINDOW_MAX;
use sarsen_types::record::Body;
use sarsen_types::slab::Slab;
use sarsen_types::{BLOCK_SIZE, DriveIdentity, GroupId, Instant, Ledger, OpenId, Record, Version};
use std::collections::VecDeque;

/// What a store is opened with.
#[derive(Clone)]
pub struct Options {
    /// Buffers of the thread, for what is read for clients.
    pub pool: Pool,
    /// The same, for what the store reads and writes for itself: counted apart (S4).
    pub pages: Pool,
    /// The drive, with the slice's number folded in by [`crate::drive::slice_identity`].
    pub drive: DriveIdentity,
    /// This opening (R1), durable in the superblock already.
    pub open: OpenId,
    /// Bytes of memory for unmerged entries and map pages (S4).
    pub memory: usize,
    /// From so many leaves on, of the objects of one table page, a run may be written in place of them (S13):
    /// [`SPILL_FROM`], but in tests.
    pub spill_from: usize,
    /// What became free last is taken first ([`crate::space::Space::reusing_soon`]): in tests.
    pub reuses_soon: bool,
    /// Journal blocks that may be in flight, by the superblock: what tells a hole from an end (S5, S8).
    pub window: usize,
}

impl Options {
    /// The usual settings.
    pub fn new(pool: Pool, drive: DriveIdentity, open: OpenId, memory: usize) -> Options {
        let (pages, spill_from, window) = (pool.beside(), SPILL_FROM, JOURNAL_WINDOW_MAX);
        Options { pool, pages, drive, open, memory, spill_from, reuses_soon: false, window }
    }
}

/// See [`Options::spill_from`].
pub const SPILL_FROM: usize = 8;

/// How full a store is (S16).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpaceReport {
    /// Blocks that can hold data and map.
    pub total_blocks: u64,
    /// Of them used.
    pub used_blocks: u64,
    /// Blocks that clients may still fill; 0 is ENOSPC for them.
    pub client_blocks_free: u64,
    /// Blocks that joining copies may still fill: they stop earlier, so that what is recovered leaves room for what is written.
    pub join_blocks_free: u64,
}

/// Places of repaired blocks that are remembered, and how often one may be unreadable: more, and it is the drive.
const REPAIRED_MAX: usize = 64;
const FAILED_REPAIRS_MAX: usize = 16;
/// Of a drive clients fill at most so much, in per cent (S16).
const CLIENTS_PER_CENT: u64 = 95;
/// And joining copies.
const JOINS_PER_CENT: u64 = 92;

/// An operation on the disk.
#[derive(Debug)]
pub(crate) enum Op {
    /// Journal block `sequence`.
    Journal(u64),
    /// Data of its records: from this block on, so many.
    Data(u64, u64, u64),
    /// A flush that covers journal blocks up to this.
    Flush(u64),
    /// Part of a read.
    Read(u64, usize),
    /// A map page, by its name.
    Page(u64),
    /// The region from this block on is given back to the device.
    Trim(u64),
    /// A page of a checkpoint, written to this block.
    Map(u64),
    /// Data are read from the ring, or written to their place outside it (S10).
    Move(Move),
    /// A flush or a root of a checkpoint.
    Checkpoint,
    /// A root, read back.
    RootBack,
}

/// See the module.
pub struct Store<D: Disk> {
    pub(crate) disk: D,
    pub(crate) region: SliceRegion,
    pub(crate) options: Options,
    pub(crate) ring: Ring,
    pub(crate) groups: Groups,
    /// Tables of copies that were dropped, whose space is not free yet.
    pub(crate) doomed: Vec<Directory>,
    /// Bad leaves that were given up: the blocks they named are not known, and stay in use.
    pub(crate) given_up: u64,
    pub(crate) cache: Cache,
    pub(crate) loads: Loads,
    pub(crate) space: Space,
    pub(crate) head: Head,
    /// Units in use: what lies between tail and head.
    pub(crate) ring_used: u64,
    /// Units before the tail that reads begun before a number may look at (R10, S10).
    pub(crate) ring_kept: VecDeque<(u64, u64)>,
    /// Blocks in the ring whose data entries name: each needs a place outside it (S10).
    pub(crate) in_ring: u64,
    /// Leaves that are written when runs are merged.
    pub(crate) owed_by_runs: u64,
    /// Where journal blocks are put together.
    pub(crate) draft_memory: Vec<u8>,
    /// Lists of records that were in flight, to be used again.
    pub(crate) items_memory: Vec<Vec<Item>>,
    pub(crate) writes_memory: Writes,
    pub(crate) in_flight: VecDeque<InFlight>,
    /// Highest sequence of which all operations, and of all before, completed.
    pub(crate) completed: u64,
    /// Highest sequence persisted (S7).
    pub(crate) durable: u64,
    pub(crate) flushing: bool,
    pub(crate) queue: VecDeque<Item>,
    /// Writes that failed, and of which the data went elsewhere (S9).
    pub(crate) bad_writes: usize,
    /// Journal blocks that have a record once more, all parts of them done, each with the block that it is of.
    pub(crate) made_good: Vec<(u64, u64)>,
    /// Groups whose floors the next journal block tells, ascending.
    pub(crate) moved_floors: Vec<GroupId>,
    /// Blocks changed since the last cut.
    pub(crate) changed_blocks: u64,
    /// Blocks that the checkpoint under way, or the last, did not merge: nobody could know yet that they were committed.
    pub(crate) left_blocks: u64,
    /// Whether more is known to be committed than at the last cut.
    pub(crate) has_settled: bool,
    /// Leaves that the next checkpoint writes because of them, and those of the one under way.
    pub(crate) owed: [u64; 2],
    pub(crate) ops: Slab<Op>,
    /// Of them TRIMs.
    trims: usize,
    /// When something completed last, or something other than TRIMs was there to complete again.
    silent_since: Instant,
    /// Places of blocks repaired last, and how often one could not be read.
    repaired: VecDeque<u64>,
    failed_repairs: usize,
    pub(crate) reads: Reads,
    pub(crate) ready: Vec<Event>,
    completions: Vec<Completion>,
    left: Left,
    pub(crate) checkpoint: crate::checkpoint::State,
    pub(crate) tally: Tally,
    /// Number of the root on disk.
    pub(crate) root: u64,
    /// Blocks of its stream and lists.
    pub(crate) stream_pages: Vec<u64>,
    failed: Option<String>,
    has_failed: bool,
    now: Instant,
}

/// What opening found on the disk, for [`Store::assemble`].
pub(crate) struct Found {
    pub groups: Groups,
    pub doomed: Vec<Directory>,
    pub given_up: u64,
    pub space: Space,
    pub head: Head,
    pub ring_used: u64,
    pub in_ring: u64,
    pub root: u64,
    pub stream_pages: Vec<u64>,
}

impl<D: Disk> Store<D> {
    pub(crate) fn assemble(disk: D, region: SliceRegion, options: Options, found: Found) -> Store<D> {
        let ring = Ring {
            first: region.ring_first,
            units: region.ring_blocks,
            drive: options.drive,
            open: options.open,
        };
        let durable = found.head.sequence - 1;
        let cache = Cache::new(options.memory / 2);
        Store {
            disk,
            region,
            options,
            ring,
            groups: found.groups,
            doomed: found.doomed,
            given_up: found.given_up,
            cache,
            loads: Loads::default(),
            space: found.space,
            head: found.head,
            ring_used: found.ring_used,
            ring_kept: VecDeque::new(),
            in_ring: found.in_ring,
            owed_by_runs: 0,
            draft_memory: Vec::new(),
            items_memory: Vec::new(),
            writes_memory: Writes::new(),
            in_flight: VecDeque::new(),
            completed: durable,
            durable,
            flushing: false,
            queue: VecDeque::new(),
            bad_writes: 0,
            made_good: Vec::new(),
            moved_floors: Vec::new(),
            changed_blocks: 0,
            left_blocks: 0,
            has_settled: false,
            owed: [0; 2],
            ops: Slab::default(),
            repaired: VecDeque::new(),
            failed_repairs: 0,
            trims: 0,
            silent_since: Instant(0),
            reads: Reads::default(),
            ready: Vec::new(),
            completions: Vec::new(),
            left: Left::default(),
            checkpoint: crate::checkpoint::State::default(),
            tally: Tally::default(),
            root: found.root,
            stream_pages: found.stream_pages,
            failed: None,
            has_failed: false,
            now: Instant(0),
        }
    }

    // ---- what is asked ----

    /// The groups it knows.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> {
        self.groups.keys().copied()
    }

    /// What it remembers of a group beside blocks.
    pub fn ledger(&self, group: GroupId) -> Option<&Ledger> {
        self.groups.get(&group).map(|g| &g.ledger)
    }

    /// Makes a record durable with its data: `record.data_blocks()` blocks. Answered by `Persisted`, in order (S7), or by
    /// `NoSpace`.
    pub fn persist(&mut self, token: Token, record: Record, payload: Option<Buf>) {
        debug_assert_eq!(payload.as_ref().map_or(0, |p| p.len()), record.data_blocks() as usize * BLOCK_SIZE);
        self.queue.push_back(Item::new(Who::Asked(token), record, payload));
    }

    /// A version above the floor is committed: visible.
    pub fn commit(&mut self, group: GroupId, version: Version) {
        self.group(group).committed.insert(version);
    }

    /// The floor moves; durable with the next journal block (S6).
    pub fn raise_floor(&mut self, group: GroupId, floor: Version) {
        let g = self.group(group);
        if floor > g.ledger.floor {
            g.ledger.raise_floor(floor);
            g.committed.retain(|v| *v > floor);
            self.has_settled = true;
            self.floor_moved(group);
            self.settle(group, floor);
        }
    }

    /// All at or below are committed; the floor does not move (R10, R15).
    pub fn settle(&mut self, group: GroupId, below: Version) {
        let mut gone = std::mem::take(&mut self.left.gone);
        let g = self.group(group);
        let has_risen = below > g.settled;
        g.settle(below, &mut gone);
        self.has_settled |= has_risen;
        // what lay under a settled entry is free once a journal block says so: else a replay would name it again
        if !gone.is_empty() {
            self.floor_moved(group);
        }
        self.release(gone.drain(..));
        self.left.gone = gone;
    }

    fn floor_moved(&mut self, group: GroupId) {
        if let Err(at) = self.moved_floors.binary_search(&group) {
            self.moved_floors.insert(at, group);
        }
    }

    /// Whether zero entries may vanish (R23), and `touched` of emptied objects be forgotten (R18).
    pub fn set_vanish(&mut self, group: GroupId, may_vanish: bool, may_forget_touched: bool) {
        let g = self.group(group);
        (g.may_vanish, g.may_forget) = (may_vanish, may_forget_touched);
    }

    pub(crate) fn group(&mut self, group: GroupId) -> &mut Group {
        self.groups.entry(group).or_default()
    }

    /// The number of the checkpoint under way, if one is.
    pub fn checkpoint_under_way(&self) -> Option<u64> {
        (!self.checkpoint.is_idle()).then(|| self.checkpoint.number_under_way())
    }

    /// Per cent of the journal's ring that a replay would read.
    pub fn journal_fill(&self) -> u64 {
        self.ring_used * 100 / self.ring.units.max(1)
    }

    /// How full it is. Client writes stop before what is reserved for map and recovery (S16).
    pub fn space(&self) -> SpaceReport {
        let total = self.space.total();
        let free = self.space.free();
        let reserve = (total / 20).min((2 << 30) / BLOCK_SIZE as u64).max(total / 100);
        let free_below = |per_cent: u64| {
            let kept = total - total * per_cent / 100;
            free.saturating_sub(kept.max(reserve + self.owed_blocks()))
        };
        SpaceReport {
            total_blocks: total,
            used_blocks: total - free,
            client_blocks_free: free_below(CLIENTS_PER_CENT),
            join_blocks_free: free_below(JOINS_PER_CENT),
        }
    }

    /// Blocks that are needed outside the ring for what is not merged yet: by the map, and by data that lie in the ring.
    pub(crate) fn owed_blocks(&self) -> u64 {
        let leaves = self.owed[0] + self.owed[1];
        // a table page in two places for some leaves, and the stream
        leaves + leaves / 4 + 64 + self.in_ring + self.owed_by_runs
    }

    /// Units of the ring that are not to be written yet.
    pub(crate) fn ring_in_use(&self) -> u64 {
        self.ring_used + self.ring_kept.iter().map(|k| k.0).sum::<u64>()
    }

    /// Bytes of memory it holds beside buffers: map pages, bitmaps, unmerged entries (S4).
    pub fn memory(&self) -> usize {
        let objects = self.groups.values().flat_map(|g| g.objects.values());
        let entries: usize = objects.map(|o| 256 + 96 * (o.over.stacks.len() + o.frozen.stacks.len())).sum();
        let slots: usize =
            self.groups.values().map(|g| g.directory.slots.len() * size_of::<crate::table::Slot>()).sum();
        self.cache.bytes() + self.space.bytes() + entries + slots
    }

    /// When the oldest request to the disk was submitted (R9).
    pub fn oldest_request(&self) -> Option<Instant> {
        // what a checkpoint asked is waited for by nobody in particular, until everybody waits for the checkpoint (found in
        // review); a device may take its time over a TRIM
        let is_waiting = self.ops.len() > self.trims;
        let silent = is_waiting.then_some(self.silent_since);
        let asked = Instant::earliest(self.in_flight.front().map(|f| f.since), self.reads.oldest());
        Instant::earliest(asked, silent)
    }

    /// When to come back though nothing happened: never for itself; the disk completes through its owner.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// What it did since it was opened.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The disk.
    pub fn disk(&self) -> &D {
        &self.disk
    }
    /// The disk.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }
    /// Gives the disk back, as a crash would leave it.
    pub fn into_disk(self) -> D {
        self.disk
    }

    // ---- turns ----

    /// The disk's completions, and what they mean.
    pub fn poll(&mut self, now: Instant, events: &mut Vec<Event>) {
        self.now = now;
        let mut completions = std::mem::take(&mut self.completions);
        loop {
            self.disk.poll(&mut completions);
            let is_last = completions.is_empty();
            self.completed_all(&mut completions);
            // what completes inline may have asked for more
            if is_last || self.has_failed {
                break;
            }
        }
        self.completions = completions;
        self.drain(events);
    }

    pub(crate) fn completed_all(&mut self, completions: &mut Vec<Completion>) {
        for done in completions.drain(..) {
            self.completed_one(done);
        }
        self.advance();
    }

    fn drain(&mut self, events: &mut Vec<Event>) {
        events.append(&mut self.ready);
        if let Some(why) = self.failed.take() {
            events.push(Event::Failed(why));
        }
    }

    /// Waits for something the disk has in flight; `false` when there is nothing, or the drive ended.
    pub(crate) fn wait_some(&mut self) -> bool {
        if self.ops.is_empty() || self.has_failed {
            return false;
        }
        let mut completions = std::mem::take(&mut self.completions);
        self.disk.wait(&mut completions);
        self.completed_all(&mut completions);
        self.completions = completions;
        true
    }

    /// Blocks until the disk has nothing in flight: for opening, closing and tools.
    pub(crate) fn wait_all(&mut self) {
        while self.wait_some() {}
    }

    /// S9: nothing more is answered.
    pub(crate) fn fail(&mut self, why: String) {
        if !self.has_failed {
            self.has_failed = true;
            self.failed = Some(why);
        }
    }

    pub(crate) fn notice(&mut self, what: String) {
        self.ready.push(Event::Noticed(what));
    }

    fn completed_one(&mut self, done: Completion) {
        let Some(op) = self.ops.take(done.id.0) else { return };
        self.silent_since = self.now;
        self.trims -= usize::from(matches!(op, Op::Trim(_)));
        match (op, done.result) {
            (Op::Journal(sequence), Ok(())) => self.journaled(sequence),
            (Op::Data(sequence, ..), Ok(())) => self.part_ended(sequence),
            (Op::Data(sequence, first, count), Err(why)) => self.write_elsewhere(sequence, first, count, why),
            (Op::Flush(sequence), Ok(())) => {
                self.flushing = false;
                self.persisted(sequence);
            }
            (Op::Read(read, part), result) => self.read_completed(read, part, done.buf, result.is_ok()),
            (Op::Page(name), result) => self.page_completed(name, done.buf, result.is_ok()),
            // a hint: whether the device took it makes no difference
            (Op::Trim(first), _) => self.space.trim_ended(first),
            (Op::Move(moved), result) => self.move_completed(moved, done.buf, result),
            (Op::Map(block), Ok(())) => self.checkpoint.page_written(block),
            (Op::Checkpoint, Ok(())) => self.checkpoint.write_ended(),
            (Op::RootBack, Ok(())) => {
                if !self.checkpoint.root_came_back(done.buf.as_ref()) {
                    self.fail("a checkpoint root is not what was written".into());
                }
            }
            // S9: a failed journal, data, flush or root write ends the drive
            (Op::Journal(_) | Op::Flush(_) | Op::Map(_) | Op::Checkpoint | Op::RootBack, Err(why)) => {
                self.fail(format!("a write to the drive failed: {why}"));
            }
        }
    }

    /// A block was repaired, at this place.
    fn repaired_at(&mut self, place: u64) {
        self.repaired.push_back(place);
        if self.repaired.len() > REPAIRED_MAX {
            self.repaired.pop_front();
        }
    }

    /// A drive that takes repairs and does not give them back would be repaired, block by block, for ever (found in review).
    pub(crate) fn count_failed_repairs(&mut self, failed: std::ops::Range<u64>) {
        self.failed_repairs += self.repaired.iter().filter(|place| failed.contains(place)).count();
        if self.failed_repairs > FAILED_REPAIRS_MAX {
            self.fail("what was repaired on the drive cannot be read from it".into());
        }
    }

    pub(crate) fn pass(&mut self) {
        let oldest_read = self.reads.oldest_number();
        while self.ring_kept.front().is_some_and(|k| k.1 <= oldest_read) {
            self.ring_kept.pop_front();
        }
        self.space.pass(self.durable, self.reads.oldest_number(), self.root);
    }

    pub(crate) fn op(&mut self, op: Op) -> OpId {
        let is_trim = matches!(op, Op::Trim(_));
        if self.ops.len() == self.trims && !is_trim {
            self.silent_since = self.now;
        }
        self.trims += usize::from(is_trim);
        OpId(self.ops.insert(op))
    }

    pub(crate) fn byte(&self, block: u64) -> u64 {
        self.region.offset + block * BLOCK_SIZE as u64
    }

    /// What was gathered goes to the disk: journal blocks with their data, together (S6).
    pub fn submit(&mut self, now: Instant) {
        self.now = now;
        if self.has_failed {
            return;
        }
        self.start_checkpoint_when_due();
        while self.may_write() && self.write_block() && !self.has_failed {
            self.start_checkpoint_when_due(); // one turn may bring more than memory holds (S4)
        }
        self.fail_if_stuck();
        self.advance();
    }

    /// Polls and submits in one: for tests and tools.
    pub fn finish(&mut self, now: Instant, events: &mut Vec<Event>) {
        self.submit(now);
        self.poll(now, events);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed
    }
    pub(crate) fn clock(&self) -> Instant {
        self.now
    }

    /// Nothing names these unmerged entries any more; their places are free behind their barrier (R10, S12).
    pub(crate) fn release(&mut self, gone: impl IntoIterator<Item = Held>) {
        // while a checkpoint is under way, what was held at its cut may be in its root, or in the replay from the one before
        let root = self.checkpoint.number_under_way();
        let barrier = Barrier { journal: self.head.sequence, read: self.reads.next_number(), root };
        self.release_behind(gone, barrier);
    }

    /// Entries that nothing names any more no longer keep their blocks; those outside the ring are free behind the barrier.
    pub(crate) fn release_behind(&mut self, gone: impl IntoIterator<Item = Held>, barrier: Barrier) {
        for block in gone.into_iter().filter_map(|h| h.place.block()) {
            match self.region.is_in_ring(block) {
                true => self.in_ring -= 1,
                false => self.space.release(block, barrier),
            }
        }
    }

    /// What a record does to map and ledger, in journal order.
    pub(crate) fn apply(&mut self, record: &Record, places: &[u64]) {
        if matches!(record.body, Body::Repair { .. }) {
            places.iter().for_each(|place| self.repaired_at(*place));
        }
        let mut left = std::mem::take(&mut self.left);
        self.group(record.group).apply(record, places, &mut left);
        self.release(left.gone.drain(..));
        self.doomed.extend(left.doomed.take().filter(|d| !d.slots.is_empty() || !d.index.is_empty()));
        self.changed_blocks += std::mem::take(&mut left.blocks);
        self.owed[0] += std::mem::take(&mut left.leaves);
        self.left = left;
    }

    /// A checkpoint, and the end: so that the next open is fast. What is queued is persisted first.
    pub fn close(mut self) -> D {
        self.flush_queue();
        self.force_checkpoint();
        self.disk
    }

    /// Persists what is queued and waits for it: for closing and for tests.
    pub fn flush_queue(&mut self) {
        while !self.has_failed && (!self.queue.is_empty() || !self.ops.is_empty()) {
            self.submit(self.now);
            self.wait_all();
        }
    }
}
