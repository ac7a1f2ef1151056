//! Journal blocks under way: records gathered into one, written with their data or beside them, persisted in order (S6, S7,
//! S9, S10).
use crate::disk::{Bufs, Disk, DiskError, WRITE_BUFS_MAX};
use crate::events::{Event, Token};
use crate::group::is_structural;
use crate::journal::{DATA_MAX, Draft, FLOORS_MAX, Head, UNITS_MAX};
use crate::pages::QUEUE;
use crate::space::{RUN_BLOCKS_MIN, Stream};
use crate::store::{Op, Store};
use sarsen_buffer::Buf;
use sarsen_types::{BLOCK_SIZE, Instant, Record};
use smallvec::{SmallVec, smallvec};

/// From this part of the ring on, in per cent, fewer and fewer journal blocks may be in flight (S13).
const SLOW_PER_CENT: u64 = 75;
/// Records of a small turn, at most (S10).
const SMALL_MAX: usize = 8;
/// Writes of data, each of one or many blocks, that may fail and go elsewhere in one opening; more end the drive.
const BAD_WRITES_MAX: usize = 256;

/// A journal block under way.
#[derive(Debug)]
pub(crate) struct InFlight {
    sequence: u64,
    /// Operations not completed, and records of which data went elsewhere (S9).
    left: u32,
    /// It is in the ring itself.
    is_journaled: bool,
    items: Vec<Item>,
    pub since: Instant,
}

/// A record to be made durable, with its data.
#[derive(Debug)]
pub(crate) struct Item {
    who: Who,
    record: Record,
    payload: Option<Buf>,
    /// Where its data go; of one that is written once more and waits: the bad places.
    places: SmallVec<[u64; 4]>,
}

/// Who waits for a record.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who {
    /// Who asked.
    Asked(Token),
    /// The journal block of this sequence: the record is one of its, once more, with its data elsewhere (S9).
    Block(u64),
}

impl Item {
    /// A record that has no places yet.
    pub fn new(who: Who, record: Record, payload: Option<Buf>) -> Item {
        Item { who, record, payload, places: SmallVec::new() }
    }
    /// Whether it is written once more, with its data elsewhere (S9).
    fn is_again(&self) -> bool {
        matches!(self.who, Who::Block(_))
    }
}

impl<D: Disk> Store<D> {
    /// S7: completions are released in sequence order; a flush covers what had completed when it was submitted.
    pub(crate) fn advance(&mut self) {
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

    pub(crate) fn persisted(&mut self, sequence: u64) {
        self.durable = self.durable.max(sequence);
        while let Some(mut f) = self.in_flight.pop_front_if(|f| f.sequence <= self.durable) {
            for item in f.items.drain(..) {
                if let Who::Asked(token) = item.who {
                    self.ready.push(Event::Persisted(token));
                }
            }
            self.items_memory.push(f.items);
        }
    }

    fn flying(&mut self, sequence: u64) -> Option<&mut InFlight> {
        let first = self.in_flight.front()?.sequence;
        self.in_flight.get_mut(sequence.checked_sub(first)? as usize)
    }

    /// A part of a journal block ended. With its last part the blocks that waited for its records have one part less.
    pub(crate) fn part_ended(&mut self, sequence: u64) {
        let Some(f) = self.flying(sequence) else { return };
        f.left -= 1;
        if f.left > 0 {
            return;
        }
        let of = |i: &Item| if let Who::Block(block) = i.who { Some((sequence, block)) } else { None };
        let made_good: SmallVec<[(u64, u64); 4]> = f.items.iter().filter_map(of).collect();
        if !made_good.is_empty() {
            self.made_good.extend(made_good);
            self.end_made_good();
        }
    }

    /// A journal block is in the ring.
    pub(crate) fn journaled(&mut self, sequence: u64) {
        if let Some(f) = self.flying(sequence) {
            f.is_journaled = true;
        }
        self.end_made_good();
        self.part_ended(sequence);
    }

    /// A block of which a record was written once more has one part less as soon as a replay finds that record: with all blocks
    /// up to the one that it lies in (S7; found in review: a power cut left a hole before it).
    fn end_made_good(&mut self) {
        while let Some(at) = self.made_good.iter().position(|(again, _)| self.is_journaled_up_to(*again)) {
            let (_, block) = self.made_good.swap_remove(at);
            self.part_ended(block);
        }
    }

    fn is_journaled_up_to(&self, sequence: u64) -> bool {
        self.in_flight.iter().take_while(|f| f.sequence <= sequence).all(|f| f.is_journaled)
    }

    /// Whether data of a record that is not durable yet lie in a block, or will.
    pub(crate) fn is_being_written(&self, block: u64) -> bool {
        self.in_flight.iter().flat_map(|f| &f.items).any(|item| item.places.contains(&block))
    }

    /// S9: a failed data write takes another place, and the bad one is set aside. The record is journaled once more; of two
    /// with one version the later wins. The block it was in is not persisted before that is.
    pub(crate) fn write_elsewhere(&mut self, sequence: u64, first: u64, count: u64, why: DiskError) {
        self.set_aside(first, count, &why);
        if self.has_failed() {
            return;
        }
        let is_bad = |p: &u64| (first..first + count).contains(p);
        let Some(f) = self.flying(sequence) else { return };
        let mut again: Vec<Item> = Vec::new();
        for item in f.items.iter().filter(|i| i.places.iter().any(is_bad)) {
            let (record, payload) = (item.record.clone(), item.payload.clone());
            let places = item.places.iter().copied().filter(is_bad).collect();
            again.push(Item { who: Who::Block(sequence), record, payload, places });
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

    /// A write to these blocks failed: they stay held for the life of this opening (S9).
    pub(crate) fn set_aside(&mut self, first: u64, count: u64, why: &DiskError) {
        self.space.set_aside(first, count);
        self.bad_writes += 1;
        if self.bad_writes > BAD_WRITES_MAX {
            return self.fail(format!("too many writes to the drive failed, the last: {why}"));
        }
        let place = self.byte(first);
        self.notice(format!("a write of {count} blocks at byte {place} failed ({why}): they go elsewhere"));
    }

    /// Whether a journal block may be written now.
    pub(crate) fn may_write(&self) -> bool {
        let Some(item) = self.queue.front() else { return false };
        // a block may also leave a gap at the end of the ring
        let has_room = |kept: u64| self.ring_in_use() + 2 * UNITS_MAX + kept < self.ring.units;
        if item.is_again() {
            return has_room(0) || !self.is_needed_again(item);
        }
        has_room(self.kept_for_again())
            && self.in_flight.len() < self.window()
            && (self.checkpoint.is_idle() || !(is_structural(&item.record) || self.is_memory_full()))
    }

    /// Ends the drive when a record has to be written once more, the ring has no room for it, and the checkpoint that would make
    /// room waits for the block it was in.
    pub(crate) fn fail_if_stuck(&mut self) {
        let Some(item) = self.queue.front() else { return };
        let Who::Block(block) = item.who else { return };
        let waits = !self.checkpoint.is_idle() && self.checkpoint.cut_at() > block;
        if waits && self.ring_used + 2 * UNITS_MAX >= self.ring.units && self.is_needed_again(item) {
            self.fail("writes failed, and the journal has no room to say where their data went".into());
        }
    }

    /// Whether a record has still to be written once more: what it was of may have been dropped meanwhile, or recovered over, and
    /// would come back with it. A replay that takes the block it was in for durable has met the record that did so.
    fn is_needed_again(&self, item: &Item) -> bool {
        self.groups.get(&item.record.group).is_some_and(|g| g.still_names(&item.record, &item.places))
    }

    /// Units of the ring that are kept for records which are written once more because their data went elsewhere (S9). They
    /// wait for nothing: the block they were in cannot be persisted before them, nor a checkpoint be made that was cut after
    /// it, so what they would wait for might wait for them (found in review).
    fn kept_for_again(&self) -> u64 {
        (2 * UNITS_MAX).min(self.ring.units / 8)
    }

    /// Journal blocks that may be in flight: fewer and fewer as the ring fills (S13).
    fn window(&self) -> usize {
        let slack = 100 - SLOW_PER_CENT;
        let used = self.ring_in_use() * 100 / self.ring.units;
        let left = slack - used.saturating_sub(SLOW_PER_CENT).min(slack);
        // room for one more block for each write that fails: what opens the drive counts on the whole window (S8)
        let window = self.options.window.saturating_sub(BAD_WRITES_MAX) as u64;
        ((window * left / slack) as usize).max(1)
    }

    /// Writes one journal block with its data; `false` when what is first in the queue has to wait.
    pub(crate) fn write_block(&mut self) -> bool {
        if let Some(gathered) = self.gather_small() {
            self.launch(gathered);
            return true;
        }
        let draft = self.draft(UNITS_MAX);
        let mut gathered = self.gathered(draft);
        self.moved_floors.clear();
        let must_wait = self.gather(&mut gathered);
        if gathered.draft.is_empty() {
            self.draft_memory = gathered.draft.into_memory();
            self.items_memory.push(gathered.items);
            self.writes_memory = gathered.writes;
            return !must_wait;
        }
        self.launch(gathered);
        !must_wait
    }

    /// A block of at most so many units, with the floors that moved.
    fn draft(&mut self, units: u64) -> Draft {
        if self.moved_floors.len() > FLOORS_MAX {
            // what they free counts on the next block to tell of them all
            self.fail(format!(
                "the floors of more than {FLOORS_MAX} groups moved at once: no journal block holds them"
            ));
            self.moved_floors.clear();
        }
        let mut draft = Draft::within(std::mem::take(&mut self.draft_memory), units);
        for group in &self.moved_floors {
            let g = &self.groups[group];
            draft.floor(*group, g.ledger.floor, g.settled);
        }
        draft
    }

    /// Nothing beside this, in memory that was used before (L8).
    fn gathered(&mut self, draft: Draft) -> Gathered {
        let items = self.items_memory.pop().unwrap_or_default();
        Gathered { draft, items, writes: std::mem::take(&mut self.writes_memory), data: SmallVec::new() }
    }

    /// S10: a small turn puts its data into the journal write itself: one write in place of two. `None` when it is not small.
    fn gather_small(&mut self) -> Option<Gathered> {
        let data = self.small_turn()?;
        let head = self.room(1 + data);
        let mut draft = self.draft(1);
        let mut places = (0..data).map(|at| self.ring.first + head.unit + 1 + at);
        let of_each: SmallVec<[SmallVec<[u64; 4]>; 4]> = (self.queue.iter())
            .map(|item| places.by_ref().take(item.record.data_blocks() as usize).collect())
            .collect();
        let fits =
            draft.units() == 1 && self.queue.iter().zip(&of_each).all(|(i, p)| draft.record(&i.record, p));
        if !fits {
            self.draft_memory = draft.into_memory();
            return None;
        }
        self.moved_floors.clear();
        let mut gathered = self.gathered(draft);
        self.in_ring += data;
        for places in of_each {
            let mut item = self.queue.pop_front().expect("one for each that was looked at");
            gathered.data.extend(item.payload.clone());
            self.apply(&item.record, &places);
            item.places = places;
            gathered.items.push(item);
        }
        Some(gathered)
    }

    /// Blocks of data of all that is queued, when they may go into the ring (S10): no other block is being written, there is
    /// room for them outside, where they move later, the ring is not short of room, and one write takes less time than two.
    fn small_turn(&self) -> Option<u64> {
        // it saves a lone turn a write, and costs bytes later: under load, where writes overlap anyway, only the bytes are left
        let is_alone = self.in_flight.is_empty() && !self.disk.is_inline();
        let is_short = self.ring_in_use() * 100 >= self.ring.units * SLOW_PER_CENT;
        if !is_alone || is_short || self.queue.len() > SMALL_MAX {
            return None;
        }
        let data: u64 = self.queue.iter().map(|i| i.record.data_blocks() as u64).sum();
        let waits = |i: &Item| is_structural(&i.record) && !self.checkpoint.is_idle();
        let is_small = (1..=DATA_MAX).contains(&data)
            && self.space.free() >= data + self.owed_blocks()
            && !self.queue.iter().any(waits);
        is_small.then_some(data)
    }

    /// Gathers what is queued, each record with places outside the ring; whether something has to wait.
    fn gather(&mut self, gathered: &mut Gathered) -> bool {
        let only_again = self.queue.front().is_some_and(Item::is_again);
        while let Some(mut item) = self.queue.pop_front() {
            if only_again && !item.is_again() {
                self.queue.push_front(item); // what waits for room does not use what is kept
                break;
            }
            if is_structural(&item.record) && !self.checkpoint.is_idle() {
                self.queue.push_front(item);
                return true;
            }
            // a block of discards is a hundred megabytes of entries (found in review)
            if !only_again && !gathered.draft.is_empty() && self.is_memory_full() {
                self.queue.push_front(item);
                break;
            }
            if let Who::Block(block) = item.who
                && !self.is_needed_again(&item)
            {
                self.part_ended(block);
                continue;
            }
            let Some(places) = self.allocate(item.record.data_blocks() as u64) else {
                if let Some(page) = self.space.wanted() {
                    self.load(self.want_bitmap(page), QUEUE);
                    self.queue.push_front(item);
                    return true;
                }
                match item.who {
                    Who::Asked(token) => self.ready.push(Event::NoSpace(token)),
                    Who::Block(_) => self.fail("a write failed, and there is no other place for it".into()),
                }
                continue;
            };
            if !gathered.draft.record(&item.record, &places) {
                places.iter().for_each(|p| self.space.give_back(*p));
                if gathered.draft.is_empty() {
                    self.fail(
                        "a record is longer than a journal block: this is a fault of the program".into(),
                    );
                    return true;
                }
                self.queue.push_front(item);
                break;
            }
            gathered.write(&places, item.payload.as_ref());
            self.apply(&item.record, &places);
            item.places = places;
            gathered.items.push(item);
        }
        false
    }

    /// The head of a block of so many units: one that does not fit the end of the ring goes to its start.
    fn room(&self, units: u64) -> Head {
        match self.head.unit + units > self.ring.units {
            true => Head { unit: 0, ..self.head },
            false => self.head,
        }
    }

    /// To the disk: data and journal block, together.
    fn launch(&mut self, gathered: Gathered) {
        let Gathered { draft, items, mut writes, data } = gathered;
        let data_units = data.iter().map(|b| b.len() as u64).sum::<u64>() / BLOCK_SIZE as u64;
        let head = self.room(draft.units() + data_units);
        if head.unit != self.head.unit {
            self.ring_used += self.ring.units - self.head.unit;
        }
        let sequence = head.sequence;
        let (block, next, memory) =
            draft.seal(&self.options.pages, &self.ring, head, self.durable, data_units);
        self.draft_memory = memory;
        self.ring_used += next.unit - head.unit;
        self.head = Head { unit: next.unit % self.ring.units, ..next };
        let left = 1 + writes.len() as u32;
        self.in_flight.push_back(InFlight {
            sequence,
            left,
            is_journaled: false,
            items,
            since: self.clock(),
        });
        for (first, count, bufs) in writes.drain(..) {
            let (id, offset) = (self.op(Op::Data(sequence, first, count)), self.byte(first));
            self.disk.write(id, offset, bufs);
        }
        self.writes_memory = writes;
        let (id, offset) = (self.op(Op::Journal(sequence)), self.byte(self.ring.first + head.unit));
        self.disk.write(id, offset, std::iter::once(block).chain(data).collect());
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
}

/// A journal block to be, with what is written beside it.
struct Gathered {
    draft: Draft,
    items: Vec<Item>,
    writes: Writes,
    /// Data that lie in the journal block, behind its records.
    data: SmallVec<[Buf; 4]>,
}

/// Writes of data outside the ring: first block, count, bytes.
pub(crate) type Writes = Vec<(u64, u64, Bufs)>;

impl Gathered {
    /// Adds a record's data to the writes: neighbouring places become one vectored write (S10).
    fn write(&mut self, places: &[u64], payload: Option<&Buf>) {
        let Some(payload) = payload else { return };
        let mut at = 0;
        while at < places.len() {
            let mut count = 1;
            while at + count < places.len() && places[at + count] == places[at] + count as u64 {
                count += 1;
            }
            let buf = payload.blocks(at, count);
            match self.writes.last_mut() {
                Some(last) if last.0 + last.1 == places[at] && last.2.len() < WRITE_BUFS_MAX => {
                    last.1 += count as u64;
                    last.2.push(buf);
                }
                _ => self.writes.push((places[at], count as u64, smallvec![buf])),
            }
            at += count;
        }
    }
}
