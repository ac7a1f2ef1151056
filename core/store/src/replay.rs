//! Replay: the journal from the root's cut to its end (S8).
use crate::disk::Disk;
use crate::group::{Groups, Left, each_entry};
use crate::journal::{self, Head, UNITS_MAX};
use crate::open::{Blocking, NUMBER_MAX, Opened};
use crate::place::Kind;
use crate::region::SliceRegion;
use crate::store::Options;
use crate::table::Directory;
use sarsen_buffer::{Buf, block_checksum};
use sarsen_types::record::{Body, Record};
use sarsen_types::{BLOCK_SIZE, ObjectId};
use std::collections::VecDeque;

/// Units read at once.
const AHEAD: u64 = 256;
const _: () = assert!(AHEAD >= 2 * UNITS_MAX);

/// Where the journal ended, and what it left.
#[derive(Default)]
pub(crate) struct Replayed {
    pub head: Head,
    /// Units of the ring in use.
    pub used: u64,
    /// Tables of copies that it dropped.
    pub doomed: Vec<Directory>,
    /// Blocks and leaves changed.
    pub blocks: u64,
    pub leaves: u64,
}

/// The ring, read ahead.
struct Ahead<'a, 'b, D: Disk> {
    io: &'a mut Blocking<'b, D>,
    first: u64,
    units: u64,
    at: u64,
    buf: Option<Buf>,
}

impl<D: Disk> Ahead<'_, '_, D> {
    /// `count` units from `unit` on; `None` behind the ring's end or where the device fails.
    fn get(&mut self, unit: u64, count: u64) -> Option<Buf> {
        if unit + count > self.units {
            return None;
        }
        let held = self.buf.as_ref().map_or(0, |b| (b.len() / BLOCK_SIZE) as u64);
        if unit < self.at || unit + count > self.at + held {
            self.at = unit;
            let read = AHEAD.min(self.units - unit);
            self.buf = self.io.read(self.first + unit, read);
            if self.buf.is_none() {
                // a part of it may be readable
                return self.io.read(self.first + unit, count);
            }
        }
        let buf = self.buf.as_ref()?;
        Some(buf.blocks((unit - self.at) as usize, count as usize))
    }
}

/// S8: one unbroken chain from the root's sequence on.
///
/// At most [`Options::window`] blocks are in flight at once, so a block that is so many behind another is known to have
/// been persisted; no more than twice as many are kept in memory.
pub(crate) fn replay<D: Disk>(
    io: &mut Blocking<'_, D>,
    region: &SliceRegion,
    options: &Options,
    from: Head,
    groups: &mut Groups,
    opened: &mut Opened,
) -> Replayed {
    let mut replayed = Replayed { head: from, ..Replayed::default() };
    let mut waiting: VecDeque<(u64, journal::Block)> = VecDeque::new();
    let mut durable = 0;
    loop {
        let mut ahead =
            Ahead { io: &mut *io, first: region.ring_first, units: region.ring_blocks, at: 0, buf: None };
        let mut ended = false;
        while waiting.len() < 2 * options.window {
            let head = replayed.head;
            let mut found = read_block(&mut ahead, region, options, head);
            let mut skipped = 0;
            if found.is_none() && head.unit > 0 {
                // a block that did not fit the end of the ring is at its start
                skipped = region.ring_blocks - head.unit;
                found = read_block(&mut ahead, region, options, Head { unit: 0, ..head });
            }
            let Some((peek, block)) = found else {
                ended = true;
                break;
            };
            let unit = if skipped > 0 { 0 } else { head.unit };
            replayed.used += skipped + peek.units;
            durable = durable.max(peek.durable);
            replayed.head = Head {
                unit: (unit + peek.units) % region.ring_blocks,
                sequence: head.sequence + 1,
                previous: block.checksum,
            };
            opened.replayed += 1;
            waiting.push_back((peek.sequence, block));
            if replayed.used >= region.ring_blocks {
                ended = true;
                break;
            }
        }
        let keep = if ended { 0 } else { options.window };
        while waiting.len() > keep
            && let Some((sequence, block)) = waiting.pop_front()
        {
            apply_block(io, groups, &block, sequence > durable, opened, &mut replayed);
        }
        if ended {
            break;
        }
    }
    for group in groups.values_mut() {
        let settled = group.ledger.floor.max(group.settled);
        group.settle(settled, &mut Vec::new());
    }
    let rest = scan(io, region, options, replayed.head, durable);
    opened.is_broken |= rest.has_hole;
    if opened.is_broken {
        // blocks of the broken part must not be taken for successors of what is written from here on, nor for a hole again
        replayed.head.sequence = (rest.highest + 2 * options.window as u64).min(NUMBER_MAX);
    }
    replayed
}

fn read_block<D: Disk>(
    ahead: &mut Ahead<'_, '_, D>,
    region: &SliceRegion,
    options: &Options,
    head: Head,
) -> Option<(journal::Peek, journal::Block)> {
    let first = ahead.get(head.unit, 1)?;
    let peek = journal::peek(&first, options.drive).ok()?;
    if peek.sequence != head.sequence {
        return None;
    }
    let block = journal::open(&ahead.get(head.unit, peek.body)?).ok()?;
    // sealed by whom it may: what names a place that no data can lie in is no block of this slice
    let mut places = block.records.iter().flat_map(|r| &r.1);
    (block.previous == head.previous && places.all(|p| region.may_hold(*p))).then_some((peek, block))
}

fn apply_block<D: Disk>(
    io: &mut Blocking<'_, D>,
    groups: &mut Groups,
    block: &journal::Block,
    verify: bool,
    opened: &mut Opened,
    replayed: &mut Replayed,
) {
    // floors were taken down before the records: an Assign or Distrust of the same block is not undone by them
    for &(group, floor, settled) in &block.floors {
        let group = groups.entry(group).or_default();
        group.ledger.raise_floor(floor);
        group.settled = group.settled.max(settled);
    }
    for (record, places) in &block.records {
        // what it displaces is found to be free when the space is counted from what is left, after the replay
        let mut left = Left::default();
        groups.entry(record.group).or_default().apply(record, places, &mut left);
        replayed.doomed.extend(left.doomed.filter(|d| !d.slots.is_empty() || !d.index.is_empty()));
        replayed.blocks += left.blocks;
        replayed.leaves += left.leaves;
        if verify {
            opened.damaged += verify_record(io, groups, record, places);
        }
    }
}

/// What may not have been durable is read back; what fails is installed as damaged (S8). Gives how many blocks failed.
fn verify_record<D: Disk>(
    io: &mut Blocking<'_, D>,
    groups: &mut Groups,
    record: &Record,
    places: &[u64],
) -> u64 {
    let (id, family) = match &record.body {
        Body::Write(w) => (w.object, w.family),
        Body::Recover(r) => (r.object, r.family),
        Body::Repair { object, family, .. } => (*object, *family),
        _ => return 0,
    };
    let mut damaged = 0;
    each_entry(record, places, |block, held| {
        let Some(place) = held.place.block().filter(|_| held.place.kind() == Kind::Data) else { return };
        let is_good = io
            .read(place, 1)
            .is_some_and(|buf| block_checksum(family, id.chunk, block, &buf) == held.checksum);
        if !is_good {
            damaged += u64::from(damage(groups, record, id, block, held.place.0));
        }
    });
    damaged
}

fn damage(groups: &mut Groups, record: &Record, id: ObjectId, block: u16, place: u64) -> bool {
    let object = groups.get_mut(&record.group).and_then(|g| g.objects.get_mut(&id));
    let stack = object.and_then(|o| o.over.stacks.get_mut(&block));
    let found = stack.and_then(|s| s.entries.iter_mut().find(|o| o.held.place.0 == place));
    found.map(|o| o.held.place = o.held.place.damaged()).is_some()
}

/// What the ring holds behind the end.
struct Rest {
    has_hole: bool,
    /// The highest sequence met, the end's own included.
    highest: u64,
}

/// After the end the rest of the ring is scanned: a later block of this drive beyond the window, or one that knew a
/// block at or past the hole to be durable, means a broken middle (S8).
fn scan<D: Disk>(
    io: &mut Blocking<'_, D>,
    region: &SliceRegion,
    options: &Options,
    head: Head,
    durable: u64,
) -> Rest {
    let mut rest = Rest { has_hole: durable >= head.sequence, highest: head.sequence };
    let mut unit = 0;
    while unit < region.ring_blocks {
        let n = (region.ring_blocks - unit).min(2 * UNITS_MAX);
        let buf = io.read(region.ring_first + unit, n);
        rest.has_hole |= buf.is_none();
        for bytes in buf.iter().flat_map(|b| b.chunks_exact(BLOCK_SIZE)) {
            let Ok(peek) = journal::peek(bytes, options.drive) else { continue };
            if peek.sequence > head.sequence && peek.sequence <= NUMBER_MAX {
                let is_far = peek.sequence > head.sequence + options.window as u64;
                rest.has_hole |= is_far || peek.durable >= head.sequence;
                rest.highest = rest.highest.max(peek.sequence);
            }
        }
        unit += n;
    }
    rest
}
