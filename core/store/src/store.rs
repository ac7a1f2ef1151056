//! The store of one slice: what is asked of it, and the turns in which it reaches the disk.
use crate::disk::{Completion, Disk, OpId};
use crate::events::{Event, Token};
use crate::group::Group;
use crate::journal::{Draft, Head, Ring};
use crate::place::{Held, Kind, Place};
use crate::read::Reads;
use crate::space::{Barrier, Space};
use sarsen_buffer::{Buf, Pool};
use sarsen_types::limits::JOURNAL_WINDOW_MAX;
use sarsen_types::record::{Body, Content, Entry};
use sarsen_types::{BLOCK_SIZE, DriveIdentity, GroupId, Instant, Ledger, OpenId, Record, Version};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Where a slice lies on its drive (S1, S5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SliceRegion {
    /// Its first byte on the drive.
    pub offset: u64,
    /// Its length in blocks of 4 KiB.
    pub blocks: u64,
    /// First block of the journal ring, from the slice's start.
    pub ring_first: u64,
    /// Blocks of the ring.
    pub ring_blocks: u64,
}

impl SliceRegion {
    /// First block that can hold data.
    pub fn data_first(&self) -> u64 {
        self.ring_first + self.ring_blocks
    }
    /// The two root blocks, at its start and at its end.
    pub fn roots(&self) -> [u64; 2] {
        [0, self.blocks - 1]
    }
}

/// What a store is opened with.
#[derive(Clone)]
pub struct Options {
    /// Buffers of the thread.
    pub pool: Pool,
    /// The drive, with the slice's number folded in by [`crate::drive::slice_identity`].
    pub drive: DriveIdentity,
    /// This opening (R1), durable in the superblock already.
    pub open: OpenId,
    /// Bytes of memory for deltas, leaves and tables (S4).
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
    /// Part of journal block `sequence`: the block itself, or data of its records.
    Journal(u64),
    /// A flush that covers journal blocks up to this.
    Flush(u64),
    /// Part of a read.
    Read(u64, usize),
    /// Part of a checkpoint.
    Checkpoint,
    /// A root, read back.
    RootBack,
}

/// A journal block under way.
#[derive(Debug)]
struct InFlight {
    sequence: u64,
    /// Operations not completed.
    left: u32,
    tokens: SmallVec<[Token; 8]>,
    since: Instant,
}

/// See the module.
pub struct Store<D: Disk> {
    pub(crate) disk: D,
    pub(crate) region: SliceRegion,
    pub(crate) options: Options,
    pub(crate) ring: Ring,
    pub(crate) groups: BTreeMap<GroupId, Group>,
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
    queue: VecDeque<(Token, Record, Option<Buf>)>,
    moved_floors: BTreeSet<GroupId>,
    pub(crate) ops: BTreeMap<OpId, Op>,
    next_op: u64,
    pub(crate) reads: Reads,
    pub(crate) ready: Vec<Event>,
    completions: Vec<Completion>,
    pub(crate) checkpoint: crate::checkpoint::State,
    /// Number of the root on disk.
    pub(crate) root: u64,
    /// Blocks of its stream and lists.
    pub(crate) stream_pages: Vec<u64>,
    failed: Option<String>,
    now: Instant,
}

impl<D: Disk> Store<D> {
    pub(crate) fn assemble(
        disk: D,
        region: SliceRegion,
        options: Options,
        groups: BTreeMap<GroupId, Group>,
        head: Head,
        (tail_unit, ring_used, root): (u64, u64, u64),
        stream_pages: Vec<u64>,
    ) -> Store<D> {
        let ring = Ring {
            first: region.ring_first,
            units: region.ring_blocks,
            drive: options.drive,
            open: options.open,
        };
        let mut space = Space::new(region.data_first(), region.blocks - 1);
        for object in groups.values().flat_map(|g| g.objects.values()) {
            object.base.iter().filter_map(|h| h.place.block()).for_each(|b| space.mark_settled(b));
            object.over.values().flatten().filter_map(|h| h.place.block()).for_each(|b| space.mark_held(b));
            object.pages.at.iter().filter(|p| p.0 != 0).for_each(|p| space.mark_settled(p.0));
        }
        stream_pages.iter().for_each(|b| space.mark_settled(*b));
        groups.values().flat_map(|g| &g.table).for_each(|p| space.mark_settled(p.0));
        let durable = head.sequence - 1;
        Store {
            disk,
            region,
            options,
            ring,
            groups,
            space,
            head,
            tail_unit,
            ring_used,
            in_flight: VecDeque::new(),
            completed: durable,
            durable,
            flushing: false,
            queue: VecDeque::new(),
            moved_floors: BTreeSet::new(),
            ops: BTreeMap::new(),
            next_op: 0,
            reads: Reads::default(),
            ready: Vec::new(),
            completions: Vec::new(),
            checkpoint: crate::checkpoint::State::default(),
            root,
            stream_pages,
            failed: None,
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
        self.queue.push_back((token, record, payload));
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
        self.release(gone, 0);
    }

    /// Whether zero entries may vanish (R23), and `touched` of emptied objects be forgotten (R18).
    pub fn set_vanish(&mut self, group: GroupId, may_vanish: bool, may_forget_touched: bool) {
        let g = self.group(group);
        (g.may_vanish, g.may_forget) = (may_vanish, may_forget_touched);
    }

    pub(crate) fn group(&mut self, group: GroupId) -> &mut Group {
        self.groups.entry(group).or_default()
    }

    /// How full it is. Client writes stop at 95 % of what is not reserved (S16).
    pub fn space(&self) -> SpaceReport {
        let total = self.space.total();
        let free = self.space.free();
        let reserve = (total / 20).min((2 << 30) / BLOCK_SIZE as u64).max(total / 100);
        SpaceReport {
            total_blocks: total,
            used_blocks: total - free,
            client_blocks_free: free.saturating_sub(reserve),
        }
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
        self.disk.poll(&mut completions);
        self.completed_all(&mut completions);
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

    /// Blocks until the disk has nothing in flight: for opening, closing and tools.
    pub(crate) fn wait_all(&mut self) {
        let mut completions = std::mem::take(&mut self.completions);
        while !self.ops.is_empty() && self.failed.is_none() {
            self.disk.wait(&mut completions);
            self.completed_all(&mut completions);
        }
        self.completions = completions;
    }

    fn completed_one(&mut self, done: Completion) {
        let Some(op) = self.ops.remove(&done.id) else { return };
        match (op, done.result) {
            (Op::Journal(sequence), Ok(())) => {
                if let Some(f) = self.in_flight.iter_mut().find(|f| f.sequence == sequence) {
                    f.left -= 1;
                }
            }
            (Op::Flush(sequence), Ok(())) => {
                self.flushing = false;
                self.persisted(sequence);
            }
            (Op::Read(read, part), result) => self.read_completed(read, part, done.buf, result.is_ok()),
            (Op::Checkpoint, Ok(())) => self.checkpoint.left -= 1,
            (Op::RootBack, Ok(())) => {
                if !self.root_came_back(done.buf.as_ref()) {
                    self.failed.get_or_insert("a checkpoint root is not what was written".into());
                }
            }
            // S9: a failed journal, data, flush or root write ends the drive
            (Op::Journal(_) | Op::Flush(_) | Op::Checkpoint | Op::RootBack, Err(why)) => {
                self.failed.get_or_insert(format!("a write to the drive failed: {why}"));
            }
        }
    }

    /// S7: completions are released in sequence order; a flush covers what had completed when it was submitted.
    fn advance(&mut self) {
        while let Some(f) = self.in_flight.iter().find(|f| f.sequence == self.completed + 1 && f.left == 0) {
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
        self.space.pass(self.durable, self.reads.oldest_number(), self.root);
        self.checkpoint_step();
    }

    fn persisted(&mut self, sequence: u64) {
        self.durable = self.durable.max(sequence);
        while let Some(f) = self.in_flight.front().filter(|f| f.sequence <= self.durable) {
            self.ready.extend(f.tokens.iter().map(|t| Event::Persisted(*t)));
            self.in_flight.pop_front();
        }
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
        if self.failed.is_some() {
            return;
        }
        self.start_checkpoint_when_due();
        while !self.queue.is_empty() && !self.checkpoint.holds_writes() {
            if self.in_flight.len() >= JOURNAL_WINDOW_MAX || !self.has_ring_space() {
                break;
            }
            self.write_block();
        }
        self.checkpoint_step();
    }

    /// Polls and submits in one: for tests and tools.
    pub fn finish(&mut self, now: Instant, events: &mut Vec<Event>) {
        self.submit(now);
        self.poll(now, events);
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.in_flight.is_empty()
    }
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }
    pub(crate) fn clock(&self) -> Instant {
        self.now
    }

    fn has_ring_space(&self) -> bool {
        // a block may also leave a gap at the end of the ring
        self.ring_used + 2 * crate::journal::UNITS_MAX < self.ring.units
    }

    fn write_block(&mut self) {
        let mut draft = Draft::default();
        for group in std::mem::take(&mut self.moved_floors) {
            let (floor, settled) = (self.groups[&group].ledger.floor, self.groups[&group].settled);
            draft.floor(group, floor, settled);
        }
        let sequence = self.head.sequence;
        let mut tokens: SmallVec<[Token; 8]> = SmallVec::new();
        let mut writes: Vec<(u64, u64, SmallVec<[Buf; 2]>)> = Vec::new();
        while let Some((token, record, payload)) = self.queue.pop_front() {
            let Some(places) = self.allocate(record.data_blocks() as u64) else {
                self.ready.push(Event::NoSpace(token));
                continue;
            };
            if !draft.record(&record, &places) {
                self.unallocate(&places);
                self.queue.push_front((token, record, payload));
                break;
            }
            gather(&mut writes, &places, payload.as_ref());
            self.apply(&record, &places);
            tokens.push(token);
        }
        if draft.is_empty() {
            return;
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
        self.in_flight.push_back(InFlight { sequence, left, tokens, since: self.now });
        for (first, _, bufs) in writes {
            let (id, offset) = (self.op(Op::Journal(sequence)), self.byte(first));
            self.disk.write(id, offset, bufs);
        }
        let (id, offset) = (self.op(Op::Journal(sequence)), self.byte(at));
        self.disk.write(id, offset, SmallVec::from_buf_and_len_one(block));
    }

    fn allocate(&mut self, blocks: u64) -> Option<SmallVec<[u64; 4]>> {
        let mut places = SmallVec::new();
        while (places.len() as u64) < blocks {
            match self.space.take(blocks - places.len() as u64) {
                Some((first, count)) => places.extend(first..first + count),
                None => {
                    self.unallocate(&places);
                    return None;
                }
            }
        }
        Some(places)
    }

    fn unallocate(&mut self, places: &[u64]) {
        let barrier = Barrier { journal: 0, read: 0, root: 0 };
        places.iter().for_each(|p| self.space.release(*p, barrier));
    }

    /// Nothing names these any more; they are free behind their barrier (R10, S12).
    pub(crate) fn release(&mut self, gone: impl IntoIterator<Item = Held>, root: u64) {
        // while a checkpoint is under way a replay may still begin at the root before it
        let root = root.max(self.checkpoint.number_under_way());
        let barrier = Barrier { journal: self.head.sequence, read: self.reads.next_number(), root };
        for block in gone.into_iter().filter_map(|h| h.place.block()) {
            self.space.release(block, barrier);
        }
    }

    /// What a record does to map and ledger, in journal order. Also at replay.
    fn apply(&mut self, record: &Record, places: &[u64]) {
        let (gone, of_base) = self.group(record.group).apply(record, places);
        self.release(gone, 0);
        // a page on disk names these until the next root
        let root = self.root + 1;
        self.release(of_base, root);
    }

    /// A checkpoint, and the end: so that the next open is fast. What is queued is persisted first.
    pub fn close(mut self) -> D {
        self.flush_queue();
        self.force_checkpoint();
        self.disk
    }

    /// Persists what is queued and waits for it: for closing and for tests.
    pub fn flush_queue(&mut self) {
        while self.failed.is_none() && (!self.queue.is_empty() || !self.ops.is_empty()) {
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
            _ => writes.push((places[at], count as u64, SmallVec::from_buf_and_len_one(buf))),
        }
        at += count;
    }
}

/// A list of one, without an allocation.
trait One<T> {
    fn from_buf_and_len_one(item: T) -> Self;
}
impl<T> One<T> for SmallVec<[T; 2]> {
    fn from_buf_and_len_one(item: T) -> Self {
        let mut list = SmallVec::new();
        list.push(item);
        list
    }
}

/// The entries a record gives its blocks, with the blocks' numbers.
pub(crate) fn entries_of(record: &Record, places: &[u64]) -> Vec<(u16, Held)> {
    let mut places = places.iter().map(|p| Place::data(*p));
    let mut next = || places.next().expect("a place for each data block was checked");
    match &record.body {
        Body::Write(w) => (w.range.blocks().enumerate())
            .map(|(at, block)| {
                let held = match &w.content {
                    Content::Zero => {
                        Held { version: w.version, place: Place::ZERO, checksum: Default::default() }
                    }
                    Content::Data(sums) => Held { version: w.version, place: next(), checksum: sums[at] },
                };
                (block, held)
            })
            .collect(),
        Body::Recover(r) => (r.range().blocks().zip(&r.entries))
            .map(|(block, entry)| {
                let held = match *entry {
                    Entry::Absent | Entry::Damaged(..) => Held::ABSENT,
                    Entry::Zero(version) => {
                        Held { version, place: Place::ZERO, checksum: Default::default() }
                    }
                    Entry::Data(version, checksum) => Held { version, place: next(), checksum },
                };
                (block, held)
            })
            .collect(),
        Body::Repair { block, version, checksum, .. } => {
            vec![(*block, Held { version: *version, place: next(), checksum: *checksum })]
        }
        _ => Vec::new(),
    }
}

/// Whether an entry of this kind has data to read.
pub(crate) fn has_data(held: Held) -> bool {
    held.place.kind() == Kind::Data
}
