//! The store of one slice: what is asked of it, and the turns in which it reaches the disk.
use crate::cache::Cache;
use crate::disk::{Completion, Disk, DiskError, OpId};
use crate::events::{Event, Token};
use crate::group::{Group, Groups, Left, is_structural};
use crate::journal::{Draft, Head, Ring, UNITS_MAX};
use crate::pages::{Loads, QUEUE};
use crate::place::Held;
use crate::read::Reads;
use crate::region::SliceRegion;
use crate::space::{Barrier, RUN_BLOCKS_MIN, Space, Stream};
use crate::table::Directory;
use sarsen_buffer::{Buf, Pool};
use sarsen_types::limits::JOURNAL_WINDOW_MAX;
use sarsen_types::{BLOCK_SIZE, DriveIdentity, GroupId, Instant, Ledger, OpenId, Record, Version};
use smallvec::{SmallVec, smallvec};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// From this part of the ring on, in per cent, fewer and fewer journal blocks may be in flight (S13).
const SLOW_PER_CENT: u64 = 75;
/// Data writes of one opening that may fail and go elsewhere; more end the drive.
const BAD_WRITES_MAX: usize = 256;

/// What a store is opened with.
#[derive(Clone)]
pub struct Options {
    /// Buffers of the thread.
    pub pool: Pool,
    /// The drive, with the slice's number folded in by [`crate::drive::slice_identity`].
    pub drive: DriveIdentity,
    /// This opening (R1), durable in the superblock already.
    pub open: OpenId,
    /// Bytes of memory for unmerged entries and map pages (S4).
    pub memory: usize,
}

/// How full a store is (S16).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpaceReport {
    /// Blocks that can hold data and map.
    pub total_blocks: u64,
    /// Of them used.
    pub used_blocks: u64,
    /// Blocks that clients may still fill; 0 is ENOSPC for them.
    pub client_blocks_free: u64,
}

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
    /// Part of a checkpoint.
    Checkpoint,
    /// A root, read back.
    RootBack,
}

/// A journal block under way.
#[derive(Debug)]
struct InFlight {
    sequence: u64,
    /// Operations not completed, and records of which data went elsewhere (S9).
    left: u32,
    items: SmallVec<[Item; 4]>,
    since: Instant,
}

/// A record to be made durable, with its data.
#[derive(Debug)]
struct Item {
    who: Who,
    record: Record,
    payload: Option<Buf>,
    places: SmallVec<[u64; 4]>,
}

/// Who waits for a record.
#[derive(Clone, Copy, Debug)]
enum Who {
    /// Who asked.
    Asked(Token),
    /// The journal block of this sequence: the record is one of its, once more, with its data elsewhere (S9).
    Block(u64),
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
    /// The unit of the oldest journal block that the root on disk needs.
    pub(crate) tail_unit: u64,
    /// Units in use: what lies between tail and head.
    pub(crate) ring_used: u64,
    in_flight: VecDeque<InFlight>,
    /// Highest sequence of which all operations, and of all before, completed.
    completed: u64,
    /// Highest sequence persisted (S7).
    pub(crate) durable: u64,
    flushing: bool,
    queue: VecDeque<Item>,
    /// Blocks that a write failed on: set aside for the life of this opening (S9).
    pub(crate) bad: BTreeSet<u64>,
    moved_floors: BTreeSet<GroupId>,
    /// Blocks changed since the last cut.
    pub(crate) changed_blocks: u64,
    /// Leaves that the next checkpoint writes because of them, and those of the one under way.
    pub(crate) owed: [u64; 2],
    pub(crate) ops: BTreeMap<OpId, Op>,
    next_op: u64,
    pub(crate) reads: Reads,
    pub(crate) ready: Vec<Event>,
    completions: Vec<Completion>,
    left: Left,
    pub(crate) checkpoint: crate::checkpoint::State,
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
    pub tail_unit: u64,
    pub ring_used: u64,
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
            tail_unit: found.tail_unit,
            ring_used: found.ring_used,
            in_flight: VecDeque::new(),
            completed: durable,
            durable,
            flushing: false,
            queue: VecDeque::new(),
            bad: BTreeSet::new(),
            moved_floors: BTreeSet::new(),
            changed_blocks: 0,
            owed: [0; 2],
            ops: BTreeMap::new(),
            next_op: 0,
            reads: Reads::default(),
            ready: Vec::new(),
            completions: Vec::new(),
            left: Left::default(),
            checkpoint: crate::checkpoint::State::default(),
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
        self.queue.push_back(Item { who: Who::Asked(token), record, payload, places: SmallVec::new() });
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
            self.moved_floors.insert(group);
            self.settle(group, floor);
        }
    }

    /// All at or below are committed; the floor does not move (R10, R15).
    pub fn settle(&mut self, group: GroupId, below: Version) {
        let gone = self.group(group).settle(below);
        // what lay under a settled entry is free once a journal block says so: else a replay would name it again
        if !gone.is_empty() {
            self.moved_floors.insert(group);
        }
        self.release(gone);
    }

    /// Whether zero entries may vanish (R23), and `touched` of emptied objects be forgotten (R18).
    pub fn set_vanish(&mut self, group: GroupId, may_vanish: bool, may_forget_touched: bool) {
        let g = self.group(group);
        (g.may_vanish, g.may_forget) = (may_vanish, may_forget_touched);
    }

    pub(crate) fn group(&mut self, group: GroupId) -> &mut Group {
        self.groups.entry(group).or_default()
    }

    /// How full it is. Client writes stop before what is reserved for map and recovery (S16).
    pub fn space(&self) -> SpaceReport {
        let total = self.space.total();
        let free = self.space.free();
        let reserve = (total / 20).min((2 << 30) / BLOCK_SIZE as u64).max(total / 100);
        SpaceReport {
            total_blocks: total,
            used_blocks: total - free,
            client_blocks_free: free.saturating_sub(reserve + self.owed_blocks()),
        }
    }

    /// Blocks that the map needs for what is not merged yet.
    fn owed_blocks(&self) -> u64 {
        let leaves = self.owed[0] + self.owed[1];
        // a table page in two places for some leaves, and the stream
        leaves + leaves / 4 + 64
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
        Instant::earliest(self.in_flight.front().map(|f| f.since), self.reads.oldest())
    }

    /// When to come back though nothing happened: never for itself; the disk completes through its owner.
    pub fn deadline(&self) -> Option<Instant> {
        None
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
        let Some(op) = self.ops.remove(&done.id) else { return };
        match (op, done.result) {
            (Op::Journal(sequence) | Op::Data(sequence, ..), Ok(())) => self.part_ended(sequence),
            (Op::Data(sequence, first, count), Err(why)) => self.write_elsewhere(sequence, first, count, why),
            (Op::Flush(sequence), Ok(())) => {
                self.flushing = false;
                self.persisted(sequence);
            }
            (Op::Read(read, part), result) => self.read_completed(read, part, done.buf, result.is_ok()),
            (Op::Page(name), result) => self.page_completed(name, done.buf, result.is_ok()),
            (Op::Checkpoint, Ok(())) => self.checkpoint.write_ended(),
            (Op::RootBack, Ok(())) => {
                if !self.checkpoint.root_came_back(done.buf.as_ref()) {
                    self.fail("a checkpoint root is not what was written".into());
                }
            }
            // S9: a failed journal, data, flush or root write ends the drive
            (Op::Journal(_) | Op::Flush(_) | Op::Checkpoint | Op::RootBack, Err(why)) => {
                self.fail(format!("a write to the drive failed: {why}"));
            }
        }
    }

    /// S7: completions are released in sequence order; a flush covers what had completed when it was submitted.
    fn advance(&mut self) {
        let first = self.in_flight.front().map_or(0, |f| f.sequence);
        while let Some(f) =
            (self.in_flight.get((self.completed + 1).wrapping_sub(first) as usize)).filter(|f| f.left == 0)
        {
            self.completed = f.sequence;
        }
        if self.completed > self.durable {
            if self.disk.writes_are_durable() {
                self.persisted(self.completed);
            } else if !self.flushing {
                self.flushing = true;
                let id = self.op(Op::Flush(self.completed));
                self.disk.flush(id);
            }
        }
        self.pass();
        self.checkpoint_step();
    }

    pub(crate) fn pass(&mut self) {
        self.space.pass(self.durable, self.reads.oldest_number(), self.root);
    }

    fn persisted(&mut self, sequence: u64) {
        self.durable = self.durable.max(sequence);
        while self.in_flight.front().is_some_and(|f| f.sequence <= self.durable) {
            for item in self.in_flight.pop_front().iter().flat_map(|f| &f.items) {
                if let Who::Asked(token) = item.who {
                    self.ready.push(Event::Persisted(token));
                }
            }
        }
    }

    fn flying(&mut self, sequence: u64) -> Option<&mut InFlight> {
        let first = self.in_flight.front()?.sequence;
        self.in_flight.get_mut(sequence.checked_sub(first)? as usize)
    }

    /// A part of a journal block ended. With its last part the blocks that waited for its records have one part less.
    fn part_ended(&mut self, sequence: u64) {
        let Some(f) = self.flying(sequence) else { return };
        f.left -= 1;
        if f.left > 0 {
            return;
        }
        let blocks = f.items.iter().filter_map(|i| if let Who::Block(b) = i.who { Some(b) } else { None });
        for block in blocks.collect::<SmallVec<[u64; 4]>>() {
            self.part_ended(block);
        }
    }

    /// S9: a failed data write takes another place, and the bad one is set aside. The record is journaled once more; of two
    /// with one version the later wins. The block it was in is not persisted before that is.
    fn write_elsewhere(&mut self, sequence: u64, first: u64, count: u64, why: DiskError) {
        self.bad.extend(first..first + count);
        if self.bad.len() > BAD_WRITES_MAX {
            return self.fail(format!("too many writes to the drive failed, the last: {why}"));
        }
        let place = self.byte(first);
        self.notice(format!("a write of {count} blocks at byte {place} failed ({why}): they go elsewhere"));
        let is_bad = |p: &u64| (first..first + count).contains(p);
        let Some(f) = self.flying(sequence) else { return };
        let mut again: Vec<Item> = Vec::new();
        for item in f.items.iter().filter(|i| i.places.iter().any(is_bad)) {
            let (record, payload) = (item.record.clone(), item.payload.clone());
            again.push(Item { who: Who::Block(sequence), record, payload, places: SmallVec::new() });
        }
        // the failed operation itself is one part less, each record that is written again one more
        f.left += again.len() as u32;
        for item in again.into_iter().rev() {
            let group = self.groups.get_mut(&item.record.group);
            group.into_iter().for_each(|g| g.damage_at(&item.record, &is_bad));
            self.queue.push_front(item);
        }
        self.part_ended(sequence);
    }

    pub(crate) fn op(&mut self, op: Op) -> OpId {
        self.next_op += 1;
        let id = OpId(self.next_op);
        self.ops.insert(id, op);
        id
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
        while self.may_write() && self.write_block() {}
        self.checkpoint_step();
    }

    /// Whether a journal block may be written now.
    fn may_write(&self) -> bool {
        let Some(Item { record, .. }) = self.queue.front() else { return false };
        // a block may also leave a gap at the end of the ring
        let has_ring_space = self.ring_used + 2 * UNITS_MAX < self.ring.units;
        has_ring_space
            && self.in_flight.len() < self.window()
            && (self.checkpoint.is_idle() || !(is_structural(record) || self.is_memory_full()))
    }

    /// Journal blocks that may be in flight: fewer and fewer as the ring fills (S13).
    fn window(&self) -> usize {
        let slack = 100 - SLOW_PER_CENT;
        let used = self.ring_used * 100 / self.ring.units;
        let left = slack - used.saturating_sub(SLOW_PER_CENT).min(slack);
        ((JOURNAL_WINDOW_MAX as u64 * left / slack) as usize).max(1)
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

    /// Writes one journal block with its data; `false` when what is first in the queue has to wait.
    fn write_block(&mut self) -> bool {
        let mut draft = Draft::default();
        for group in std::mem::take(&mut self.moved_floors) {
            let (floor, settled) = (self.groups[&group].ledger.floor, self.groups[&group].settled);
            draft.floor(group, floor, settled);
        }
        let sequence = self.head.sequence;
        let mut items: SmallVec<[Item; 4]> = SmallVec::new();
        let mut writes: Vec<(u64, u64, SmallVec<[Buf; 2]>)> = Vec::new();
        let mut must_wait = false;
        while let Some(mut item) = self.queue.pop_front() {
            if is_structural(&item.record) && !self.checkpoint.is_idle() {
                self.queue.push_front(item);
                must_wait = true;
                break;
            }
            let Some(places) = self.allocate(item.record.data_blocks() as u64) else {
                if let Some(page) = self.space.wanted() {
                    self.load(self.want_bitmap(page), QUEUE);
                    self.queue.push_front(item);
                    must_wait = true;
                    break;
                }
                match item.who {
                    Who::Asked(token) => self.ready.push(Event::NoSpace(token)),
                    Who::Block(_) => self.fail("a write failed, and there is no other place for it".into()),
                }
                continue;
            };
            if !draft.record(&item.record, &places) {
                places.iter().for_each(|p| self.space.give_back(*p));
                self.queue.push_front(item);
                break;
            }
            gather(&mut writes, &places, item.payload.as_ref());
            self.apply(&item.record, &places);
            item.places = places;
            items.push(item);
        }
        if draft.is_empty() {
            return !must_wait;
        }
        let units = draft.units();
        if self.head.unit + units > self.ring.units {
            self.ring_used += self.ring.units - self.head.unit;
            self.head.unit = 0;
        }
        let at = self.ring.first + self.head.unit;
        let (block, next) = draft.seal(&self.options.pool, &self.ring, self.head, self.durable);
        self.head = Head { unit: next.unit % self.ring.units, ..next };
        self.ring_used += units;
        let left = 1 + writes.len() as u32;
        self.in_flight.push_back(InFlight { sequence, left, items, since: self.now });
        for (first, count, bufs) in writes {
            let (id, offset) = (self.op(Op::Data(sequence, first, count)), self.byte(first));
            self.disk.write(id, offset, bufs);
        }
        let (id, offset) = (self.op(Op::Journal(sequence)), self.byte(at));
        self.disk.write(id, offset, smallvec![block]);
        !must_wait
    }

    fn allocate(&mut self, blocks: u64) -> Option<SmallVec<[u64; 4]>> {
        let mut places = SmallVec::new();
        if blocks > 0 && self.space.free() < blocks + self.owed_blocks() {
            return None;
        }
        let stream = if blocks >= RUN_BLOCKS_MIN { Stream::Long } else { Stream::Small };
        while (places.len() as u64) < blocks {
            match self.space.take(stream, blocks - places.len() as u64) {
                Some((first, count)) => places.extend(first..first + count),
                None => {
                    places.iter().for_each(|p| self.space.give_back(*p));
                    return None;
                }
            }
        }
        Some(places)
    }

    /// Nothing names these unmerged entries any more; their places are free behind their barrier (R10, S12).
    pub(crate) fn release(&mut self, gone: impl IntoIterator<Item = Held>) {
        // while a checkpoint is under way, what was held at its cut may be in its root, or in the replay from the one before
        let root = self.checkpoint.number_under_way();
        let barrier = Barrier { journal: self.head.sequence, read: self.reads.next_number(), root };
        let blocks = gone.into_iter().filter_map(|h| h.place.block());
        for block in blocks.filter(|b| !self.bad.contains(b)) {
            self.space.release(block, barrier);
        }
    }

    /// What a record does to map and ledger, in journal order.
    fn apply(&mut self, record: &Record, places: &[u64]) {
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

/// Adds a record's data to the writes: neighbouring places become one vectored write (S10).
fn gather(writes: &mut Vec<(u64, u64, SmallVec<[Buf; 2]>)>, places: &[u64], payload: Option<&Buf>) {
    let Some(payload) = payload else { return };
    let mut at = 0;
    while at < places.len() {
        let mut count = 1;
        while at + count < places.len() && places[at + count] == places[at] + count as u64 {
            count += 1;
        }
        let buf = payload.blocks(at, count);
        match writes.last_mut() {
            Some(last) if last.0 + last.1 == places[at] => {
                last.1 += count as u64;
                last.2.push(buf);
            }
            _ => writes.push((places[at], count as u64, smallvec![buf])),
        }
        at += count;
    }
}
