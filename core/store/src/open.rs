//! Opening a slice: the newest root, the map it names, and the journal after it (S8).
use crate::bytes::{Malformed, NOTE, Reader, get_mark, get_note, get_session};
use crate::checkpoint::POINTERS_MAX;
use crate::disk::{Completion, Disk, OpId};
use crate::group::{Group, Groups};
use crate::journal::{self, Head, UNITS_MAX};
use crate::object::{LEAF_ENTRIES, LEAVES};
use crate::page::{self, PageKind, unseal};
use crate::place::{Held, Kind};
use crate::store::{Options, SliceRegion, Store, entries_of};
use sarsen_buffer::{Buf, Pool, block_checksum};
use sarsen_types::limits::JOURNAL_WINDOW_MAX;
use sarsen_types::record::{Body, Record};
use sarsen_types::{BLOCK_SIZE, BLOCKS_PER_CHUNK, DriveIdentity, Epoch, GroupId, Ledger, ObjectId, Version};

/// Why a slice does not open.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// Neither root is intact.
    #[error(
        "both checkpoint roots are unreadable ({0}): retire this drive, and let its groups recover elsewhere"
    )]
    NoRoot(Malformed),
    /// The root names something that is not there.
    #[error(
        "the map that the checkpoint root names is unreadable at block {block} ({why}): retire this drive"
    )]
    NoMap {
        /// The block of the slice.
        block: u64,
        /// What was expected.
        why: Malformed,
    },
    /// The superblock is of something else; says of what.
    #[error("{0}")]
    Refused(String),
    /// The device failed.
    #[error("the device cannot be read: {0}")]
    Device(String),
}

/// What opening found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Opened {
    /// The journal has a hole before its end: legible records were applied, and every floor is 0 (S8, R13). The drive
    /// registers as stale.
    pub is_broken: bool,
    /// Journal blocks replayed.
    pub replayed: u64,
    /// Blocks whose data did not match their record: installed as damaged.
    pub damaged: u64,
    /// Objects with an unreadable map page: refused, and recovered whole (R26).
    pub unreadable: u64,
    /// Bytes read.
    pub read_bytes: u64,
}

/// Reads that wait, for opening and tools.
pub(crate) struct Blocking<'a, D: Disk> {
    pub disk: &'a mut D,
    pub pool: Pool,
    pub offset: u64,
    pub read_bytes: u64,
}

impl<D: Disk> Blocking<'_, D> {
    /// `blocks` blocks from `first` of the slice; `None` where the device fails.
    pub fn read(&mut self, first: u64, blocks: u64) -> Option<Buf> {
        let buf = self.pool.take(blocks as usize * BLOCK_SIZE);
        self.read_bytes += buf.len() as u64;
        self.disk.read(OpId(0), self.offset + first * BLOCK_SIZE as u64, buf);
        self.wait()?.buf
    }
    /// Writes and makes durable.
    pub fn write(&mut self, first: u64, buf: Buf) -> Option<()> {
        self.disk.write(OpId(0), self.offset + first * BLOCK_SIZE as u64, smallvec::smallvec![buf]);
        self.wait()?;
        self.disk.flush(OpId(0));
        self.wait().map(drop)
    }
    fn wait(&mut self) -> Option<Completion> {
        let mut out = Vec::new();
        while out.is_empty() {
            self.disk.wait(&mut out);
        }
        out.pop().filter(|c| c.result.is_ok())
    }
}

/// A root, read.
#[derive(Debug)]
pub(crate) struct Root {
    pub number: u64,
    stream_len: u64,
    pub head: Head,
    lists: Vec<(u64, u32)>,
}

impl<D: Disk> Store<D> {
    /// Opens a slice: blocking. The open id must be durable in the superblock before (R1, S6).
    pub fn open(mut disk: D, region: SliceRegion, options: Options) -> Result<(Store<D>, Opened), OpenError> {
        let mut opened = Opened::default();
        let mut io =
            Blocking { disk: &mut disk, pool: options.pool.clone(), offset: region.offset, read_bytes: 0 };
        let root = newest_root(&mut io, &region, &options)?;
        let (mut groups, stream_pages) = read_map(&mut io, &root, &region, &mut opened)?;
        let replayed = replay(&mut io, &region, &options, &root, &mut groups, &mut opened);
        opened.read_bytes = io.read_bytes;
        if opened.is_broken {
            groups.values_mut().for_each(|g| {
                g.ledger.floor = Version::ZERO;
                g.ledger.point = Version::ZERO;
            });
        }
        let state = (root.head.unit, replayed.used, root.number);
        let mut store = Store::assemble(disk, region, options, groups, replayed.head, state, stream_pages);
        if opened.is_broken {
            // what was found is made the truth: the hole is not met again, and floors stay 0
            store.force_checkpoint();
        }
        Ok((store, opened))
    }
}

fn newest_root<D: Disk>(
    io: &mut Blocking<'_, D>,
    region: &SliceRegion,
    options: &Options,
) -> Result<Root, OpenError> {
    let mut best: Option<Root> = None;
    let mut why = Malformed { at: 0, what: "a readable block" };
    for block in region.roots() {
        let Some(buf) = io.read(block, 1) else { continue };
        match read_root(&buf, options.drive) {
            Ok(root) if best.as_ref().is_none_or(|b| b.number < root.number) => best = Some(root),
            Ok(_) => {}
            Err(e) => why = e,
        }
    }
    best.ok_or(OpenError::NoRoot(why))
}

pub(crate) fn read_root(bytes: &[u8], drive: DriveIdentity) -> Result<Root, Malformed> {
    let mut r = Reader::new(unseal(bytes, PageKind::Root, None)?);
    let number = r.get_u64()?;
    if r.get_u128()? != drive.0 {
        return r.fail("a root of this drive and slice");
    }
    let stream_len = r.get_u64()?;
    let head = Head { unit: r.get_u64()?, sequence: r.get_u64()?, previous: r.get_u64()? };
    Ok(Root { number, stream_len, head, lists: get_pointers(&mut r)? })
}

fn get_pointers(r: &mut Reader<'_>) -> Result<Vec<(u64, u32)>, Malformed> {
    let n = r.count(9)?;
    if n > POINTERS_MAX {
        return r.fail("no more pointers than a page holds");
    }
    (0..n).map(|_| Ok((r.get_u40()?, r.get_u32()?))).collect()
}

/// A page that a pointer names.
fn page<D: Disk>(
    io: &mut Blocking<'_, D>,
    region: &SliceRegion,
    kind: PageKind,
    p: (u64, u32),
) -> Result<Buf, OpenError> {
    let fail = |why| OpenError::NoMap { block: p.0, why };
    if p.0 >= region.blocks {
        return Err(fail(Malformed { at: 0, what: "a block of the slice" }));
    }
    let buf = io.read(p.0, 1).ok_or(fail(Malformed { at: 0, what: "a readable block" }))?;
    unseal(&buf, kind, Some(p.1)).map_err(fail)?;
    Ok(buf)
}

pub(crate) fn read_map<D: Disk>(
    io: &mut Blocking<'_, D>,
    root: &Root,
    region: &SliceRegion,
    opened: &mut Opened,
) -> Result<(Groups, Vec<u64>), OpenError> {
    let mut blocks = Vec::new();
    let mut stream = Vec::new();
    for &list in &root.lists {
        blocks.push(list.0);
        let buf = page(io, region, PageKind::List, list)?;
        let pointers = get_pointers(&mut Reader::new(&buf[page::HEADER..]));
        for p in pointers.map_err(|why| OpenError::NoMap { block: list.0, why })? {
            blocks.push(p.0);
            stream.extend_from_slice(&page(io, region, PageKind::Stream, p)?[page::HEADER..]);
        }
    }
    stream.truncate(root.stream_len as usize);
    let mut groups = Groups::new();
    if !root.lists.is_empty() {
        let mut r = Reader::new(&stream);
        let fail = |why| OpenError::NoMap { block: root.lists[0].0, why };
        for _ in 0..r.count(4).map_err(fail)? {
            let (id, group) = get_group(&mut r).map_err(fail)?;
            groups.insert(id, group);
        }
    }
    for group in groups.values_mut() {
        read_table(io, region, group, opened)?;
    }
    Ok((groups, blocks))
}

fn get_group(r: &mut Reader<'_>) -> Result<(GroupId, Group), Malformed> {
    let id = GroupId(r.get_u32()?);
    let mut group = Group { ledger: get_ledger(r)?, table: Vec::new(), ..Group::default() };
    let n = r.count(9)?;
    group.table = (0..n).map(|_| Ok((r.get_u40()?, r.get_u32()?))).collect::<Result<_, Malformed>>()?;
    for _ in 0..r.count(14)? {
        let (id, block) = (ObjectId::new(r.get_u64()?, r.get_u32()?), r.get_u16()?);
        let held = Held::get(r)?;
        let object = group.objects.entry(id).or_default();
        object.over.entry(block).or_default().push(held);
        group.over.insert(id);
        if object.over[&block].len() > 1 {
            group.stacked.insert((id, block));
        }
    }
    Ok((id, group))
}

fn get_ledger(r: &mut Reader<'_>) -> Result<Ledger, Malformed> {
    let mut ledger = Ledger {
        assignment: r.get_u64()?,
        promise: Epoch(r.get_u32()?),
        floor: Version(r.get_u64()?),
        point: Version(r.get_u64()?),
        ..Ledger::default()
    };
    for _ in 0..r.count(20)? {
        let (attachment, generation, session) = get_session(r)?;
        ledger.sessions.insert(attachment, (generation, session));
    }
    let marks = (0..r.count(26)?).map(|_| get_mark(r)).collect::<Result<Vec<_>, _>>()?;
    for _ in 0..r.count(NOTE + 9)? {
        let note = get_note(r)?;
        ledger.restore(&note, Version(r.get_u64()?), r.get_u8()? != 0);
    }
    marks.iter().for_each(|m| ledger.raise_mark(m));
    Ok(ledger)
}

/// A group's table and leaves. An unreadable table page loses objects we cannot name: the drive is not to be trusted.
fn read_table<D: Disk>(
    io: &mut Blocking<'_, D>,
    region: &SliceRegion,
    group: &mut Group,
    opened: &mut Opened,
) -> Result<(), OpenError> {
    for pointer in group.table.clone() {
        let Ok(buf) = page(io, region, PageKind::Table, pointer) else {
            opened.is_broken = true;
            continue;
        };
        let mut r = Reader::new(&buf[page::HEADER..]);
        let fail = |why| OpenError::NoMap { block: pointer.0, why };
        for _ in 0..r.count(1).map_err(fail)? {
            let (id, mut object) = page::get_line(&mut r).map_err(fail)?;
            for leaf in 0..LEAVES {
                let at = object.pages.at[leaf];
                if at.0 == 0 {
                    continue;
                }
                let kind = if object.pages.is_sparse { PageKind::Sparse } else { PageKind::Dense };
                let read = page(io, region, kind, at).ok().and_then(|buf| {
                    let payload = &buf[page::HEADER..];
                    match object.pages.is_sparse {
                        true => page::read_sparse(&mut object, payload).ok(),
                        false => page::read_dense(&mut object, leaf, payload).ok(),
                    }
                });
                if read.is_none() {
                    let blocks = match object.pages.is_sparse {
                        true => 0..BLOCKS_PER_CHUNK,
                        false => {
                            (leaf * LEAF_ENTRIES) as u16
                                ..((leaf + 1) * LEAF_ENTRIES).min(BLOCKS_PER_CHUNK as usize) as u16
                        }
                    };
                    object.lose(blocks);
                    opened.unreadable += 1;
                }
            }
            (object.dirty, object.is_changed) = (0, false);
            if let Some(known) = group.objects.get_mut(&id) {
                object.over = std::mem::take(&mut known.over);
            }
            group.objects.insert(id, object);
        }
    }
    Ok(())
}

/// Where the journal ended.
struct Replayed {
    head: Head,
    used: u64,
}

/// S8: one unbroken chain from the root's sequence on.
fn replay<D: Disk>(
    io: &mut Blocking<'_, D>,
    region: &SliceRegion,
    options: &Options,
    root: &Root,
    groups: &mut Groups,
    opened: &mut Opened,
) -> Replayed {
    let mut head = root.head;
    let mut used = 0;
    let mut chain: Vec<(u64, journal::Block)> = Vec::new();
    let mut durable = 0;
    loop {
        let mut found = read_block(io, region, options, head);
        let mut skipped = 0;
        if found.is_none() && head.unit > 0 {
            // a block that did not fit the end of the ring is at its start
            skipped = region.ring_blocks - head.unit;
            found = read_block(io, region, options, Head { unit: 0, ..head });
        }
        let Some((peek, block)) = found else { break };
        let unit = if skipped > 0 { 0 } else { head.unit };
        used += skipped + peek.units;
        durable = durable.max(peek.durable);
        head = Head {
            unit: (unit + peek.units) % region.ring_blocks,
            sequence: head.sequence + 1,
            previous: block.checksum,
        };
        chain.push((peek.sequence, block));
        if used >= region.ring_blocks {
            break;
        }
    }
    opened.replayed = chain.len() as u64;
    for (sequence, block) in &chain {
        // floors were taken down before the records: an Assign or Distrust of the same block is not undone by them
        for &(group, floor, settled) in &block.floors {
            let group = groups.entry(group).or_default();
            group.ledger.raise_floor(floor);
            group.settled = group.settled.max(settled);
        }
        for (record, places) in &block.records {
            apply(io, options, groups, record, places, *sequence > durable, opened);
        }
    }
    for group in groups.values_mut() {
        let settled = group.ledger.floor.max(group.settled);
        group.settle(settled);
    }
    opened.is_broken |= has_hole(io, region, options, head, durable);
    if opened.is_broken {
        // blocks of the broken part must not be taken for successors of what is written from here on
        head.sequence += 2 * JOURNAL_WINDOW_MAX as u64;
    }
    Replayed { head, used }
}

fn read_block<D: Disk>(
    io: &mut Blocking<'_, D>,
    region: &SliceRegion,
    options: &Options,
    head: Head,
) -> Option<(journal::Peek, journal::Block)> {
    if head.unit >= region.ring_blocks {
        return None;
    }
    let first = io.read(region.ring_first + head.unit, 1)?;
    let peek = journal::peek(&first, options.drive).ok()?;
    if peek.sequence != head.sequence || head.unit + peek.units > region.ring_blocks {
        return None;
    }
    let buf = match peek.units {
        1 => first,
        n => io.read(region.ring_first + head.unit, n)?,
    };
    let block = journal::open(&buf).ok()?;
    (block.previous == head.previous).then_some((peek, block))
}

/// A record at replay. What may not have been durable is read back; what fails is installed as damaged (S8).
fn apply<D: Disk>(
    io: &mut Blocking<'_, D>,
    options: &Options,
    groups: &mut Groups,
    record: &Record,
    places: &[u64],
    verify: bool,
    opened: &mut Opened,
) {
    let group = groups.entry(record.group).or_default();
    // what it displaces is found to be free when the space is counted from the map, after the replay
    drop(group.apply(record, places));
    let (object, family) = match &record.body {
        Body::Write(w) => (w.object, w.family),
        Body::Recover(r) => (r.object, r.family),
        Body::Repair { object, family, .. } => (*object, *family),
        _ => return,
    };
    if !verify {
        return;
    }
    for (block, held) in entries_of(record, places) {
        let Some(place) = held.place.block().filter(|_| held.place.kind() == Kind::Data) else { continue };
        let is_good = io
            .read(place, 1)
            .is_some_and(|buf| block_checksum(family, object.chunk, block, &buf) == held.checksum);
        if !is_good {
            opened.damaged += 1;
            groups.entry(record.group).or_default().damage(object, block, held.version);
        }
    }
    let _ = options;
}

/// After the end the rest of the ring is scanned: a later block of this drive beyond the window, or one that knew a
/// block at or past the hole to be durable, means a broken middle (S8).
fn has_hole<D: Disk>(
    io: &mut Blocking<'_, D>,
    region: &SliceRegion,
    options: &Options,
    head: Head,
    durable: u64,
) -> bool {
    if durable >= head.sequence {
        return true;
    }
    let mut unit = 0;
    while unit < region.ring_blocks {
        let n = (region.ring_blocks - unit).min(2 * UNITS_MAX);
        let Some(buf) = io.read(region.ring_first + unit, n) else { return true };
        for bytes in buf.chunks_exact(BLOCK_SIZE) {
            let Ok(peek) = journal::peek(bytes, options.drive) else { continue };
            let later = peek.sequence > head.sequence;
            if later
                && (peek.sequence > head.sequence + JOURNAL_WINDOW_MAX as u64
                    || peek.durable >= head.sequence)
            {
                return true;
            }
        }
        unit += n;
    }
    false
}
