//! Opening a slice: the newest root, what it names that is kept in memory, and the journal after it (S8).
//!
//! Read are: the roots, the stream, index pages (36 bytes for up to 40 objects), and the journal; no table page, no leaf and
//! no bitmap. So what is read is bounded by the ring and by a fraction of a thousandth of the map.
use crate::bytes::{Malformed, Reader};
use crate::checkpoint::POINTERS_MAX;
use crate::disk::{Completion, Disk, OpId};
use crate::group::{Group, Groups};
use crate::journal::Head;
use crate::page::{self, PageKind, Twin, unseal};
use crate::region::SliceRegion;
use crate::replay::replay;
use crate::space::{SPAN, Space, Span};
use crate::store::{Found, Options, Store};
use crate::stream::{get_group, get_spans, get_twins};
use crate::table::{Directory, Slot, get_slots};
use crate::within;
use sarsen_buffer::{Buf, Pool};
use sarsen_types::{BLOCK_SIZE, DriveIdentity};

/// Roots and journal blocks are numbered up to here at most: no drive writes as many.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// Why a slice does not open.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// Neither root is intact.
    #[error(
        "both checkpoint roots are unreadable ({0}): retire this drive, and let its groups recover elsewhere"
    )]
    NoRoot(Malformed),
    /// The root names something that is in neither of its places.
    #[error(
        "the map that the checkpoint root names is unreadable at block {block} and its twin ({why}): retire this drive"
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
    /// Pages of which one of two places is bad: written anew with the next checkpoint.
    pub ailing: u64,
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
    /// `blocks` blocks from `first` of the slice; `None` where the device fails, or ends before them.
    pub fn read(&mut self, first: u64, blocks: u64) -> Option<Buf> {
        let end = first.checked_add(blocks).and_then(|end| end.checked_mul(BLOCK_SIZE as u64));
        end.and_then(|end| self.offset.checked_add(end)).filter(|end| *end <= self.disk.size())?;
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

    /// A page from either of its places; `ailing` counts where one was bad.
    pub fn twin(
        &mut self,
        region: &SliceRegion,
        kind: PageKind,
        twin: Twin,
        ailing: &mut u64,
    ) -> Result<Buf, OpenError> {
        let mut why = Malformed { at: 0, what: "a readable block of the slice" };
        for (at, block) in twin.at.into_iter().enumerate() {
            let buf = region.may_hold_map(block).then(|| self.read(block, 1)).flatten();
            let Some(buf) = buf else { continue };
            match unseal(&buf, kind, Some(twin.sum)) {
                Ok(_) => {
                    *ailing += at as u64;
                    return Ok(buf);
                }
                Err(bad) => why = bad,
            }
        }
        Err(OpenError::NoMap { block: twin.at[0], why })
    }
}

/// A root, read.
#[derive(Debug)]
pub(crate) struct Root {
    pub number: u64,
    stream_len: u64,
    pub head: Head,
    lists: Vec<Twin>,
}

/// What a root names and a store keeps in memory.
pub(crate) struct Map {
    pub groups: Groups,
    pub doomed: Vec<Directory>,
    pub given_up: u64,
    pub spans: Vec<Span>,
    pub stream_pages: Vec<u64>,
    pub ailing: u64,
}

impl<D: Disk> Store<D> {
    /// Opens a slice: blocking. The open id must be durable in the superblock before (R1, S6).
    pub fn open(mut disk: D, region: SliceRegion, options: Options) -> Result<(Store<D>, Opened), OpenError> {
        let mut io =
            Blocking { disk: &mut disk, pool: options.pages.clone(), offset: region.offset, read_bytes: 0 };
        let root = newest_root(&mut io, &region, &options)?;
        let Map { mut groups, doomed, given_up, spans, stream_pages, ailing } =
            read_map(&mut io, &root, &region)?;
        let mut opened = Opened { ailing, ..Opened::default() };
        let left = |g: &Group| g.objects.values().map(|o| o.over.stacks.len() as u64).sum::<u64>();
        let left_blocks = groups.values().map(left).sum();
        let space = Space::new(region.data_first(), region.blocks - 1, &spans);
        let mut space = if options.reuses_soon { space.reusing_soon() } else { space };
        let replayed = replay(&mut io, &region, &options, root.head, &mut groups, &mut opened);
        opened.read_bytes = io.read_bytes;
        if opened.is_broken {
            groups.values_mut().for_each(|g| {
                g.ledger.distrust();
            });
        }
        let objects = groups.values().flat_map(|g| g.objects.values());
        let mut in_ring = 0;
        for block in objects.flat_map(|o| o.owned()).filter_map(|h| h.place.block()) {
            if region.is_in_ring(block) {
                in_ring += 1;
            } else if space.contains(block) {
                space.mark_held(block).map_err(|why| OpenError::NoMap { block, why })?;
            } else {
                let why = Malformed { at: 0, what: "a place that data can lie in" };
                return Err(OpenError::NoMap { block, why });
            }
        }
        let found = Found {
            groups,
            doomed: doomed.into_iter().chain(replayed.doomed).collect(),
            given_up,
            space,
            head: replayed.head,
            ring_used: replayed.used,
            in_ring,
            root: root.number,
            stream_pages,
        };
        let mut store = Store::assemble(disk, region, options, found);
        let directories = store.groups.values().map(|g| &g.directory).chain(&store.doomed);
        store.owed_by_runs = directories.flat_map(|d| &d.slots).map(Slot::owed).sum();
        store.changed_blocks = replayed.blocks;
        // floors may have risen since the root was made (found in review: a full store that was opened anew waited for a record)
        (store.left_blocks, store.has_settled) = (left_blocks, true);
        store.owed[0] = replayed.leaves;
        if opened.is_broken || opened.damaged > 0 {
            // What was found is made the truth: the hole is not met again, and floors stay 0; and what was found damaged is
            // known as that to the next opening too, which does not read back what lies below our first block (S6, S8).
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
    let mut best: Option<(Root, Buf)> = None;
    let mut why = Malformed { at: 0, what: "a readable block" };
    let roots = region.roots().map(|block| (block, io.read(block, 1)));
    for buf in roots.iter().filter_map(|r| r.1.as_ref()) {
        match read_root(buf, options.drive, region) {
            Ok(root) if best.as_ref().is_none_or(|b| b.0.number < root.number) => {
                best = Some((root, buf.clone()))
            }
            Ok(_) => {}
            Err(e) => why = e,
        }
    }
    let (root, newest) = best.ok_or(OpenError::NoRoot(why))?;
    // What only the older root names is free from now on, and the next checkpoint writes over it before it writes a root: were
    // that write torn, the older one would be all there is, and name what is gone (found in review).
    for (block, held) in roots {
        if held.is_none_or(|buf| *buf != *newest) {
            let written = io.write(block, newest.clone()).and_then(|()| io.read(block, 1));
            if written.is_none_or(|buf| *buf != *newest) {
                return Err(OpenError::Device(format!("a root cannot be written to block {block}")));
            }
        }
    }
    Ok(root)
}

pub(crate) fn read_root(bytes: &[u8], drive: DriveIdentity, region: &SliceRegion) -> Result<Root, Malformed> {
    let mut r = Reader::new(unseal(bytes, PageKind::Root, None)?);
    let number = r.get_u64()?;
    if r.get_u128()? != drive.0 {
        return r.fail("a root of this drive and slice");
    }
    let stream_len = r.get_u64()?;
    let head = Head { unit: r.get_u64()?, sequence: r.get_u64()?, previous: r.get_u64()? };
    if head.sequence == 0 || head.sequence > NUMBER_MAX || number > NUMBER_MAX {
        return r.fail("a sequence above zero, and numbers that can be counted on");
    }
    if head.unit >= region.ring_blocks {
        return r.fail("a unit of the ring");
    }
    Ok(Root { number, stream_len, head, lists: get_list(&mut r)? })
}

fn get_list(r: &mut Reader<'_>) -> Result<Vec<Twin>, Malformed> {
    let twins = get_twins(r)?;
    match twins.len() <= POINTERS_MAX {
        true => Ok(twins),
        false => r.fail("no more pointers than a page holds"),
    }
}

pub(crate) fn read_map<D: Disk>(
    io: &mut Blocking<'_, D>,
    root: &Root,
    region: &SliceRegion,
) -> Result<Map, OpenError> {
    let mut map = Map {
        groups: Groups::new(),
        doomed: Vec::new(),
        given_up: 0,
        spans: Vec::new(),
        stream_pages: Vec::new(),
        ailing: 0,
    };
    let mut stream = Vec::new();
    for &list in &root.lists {
        map.stream_pages.extend(list.at);
        let buf = io.twin(region, PageKind::List, list, &mut map.ailing)?;
        let pages = get_list(&mut Reader::new(&buf[page::HEADER..]));
        for twin in pages.map_err(|why| OpenError::NoMap { block: list.at[0], why })? {
            map.stream_pages.extend(twin.at);
            let buf = io.twin(region, PageKind::Stream, twin, &mut map.ailing)?;
            stream.extend_from_slice(&buf[page::HEADER..]);
        }
    }
    stream.truncate(root.stream_len as usize);
    if root.lists.is_empty() {
        return Ok(map);
    }
    let fail = |why| OpenError::NoMap { block: root.lists[0].at[0], why };
    decode(&stream, &mut map).and_then(|()| check_spans(&map.spans, region)).map_err(fail)?;
    let Map { groups, doomed, ailing, .. } = &mut map;
    for directory in groups.values_mut().map(|g| &mut g.directory).chain(doomed) {
        read_index(io, region, directory, ailing)?;
    }
    Ok(map)
}

fn decode(stream: &[u8], map: &mut Map) -> Result<(), Malformed> {
    let mut r = Reader::new(stream);
    for _ in 0..r.count(4)? {
        let (id, group) = get_group(&mut r)?;
        map.groups.insert(id, group);
    }
    for _ in 0..r.count(4)? {
        map.doomed.push(Directory { index: get_twins(&mut r)?, ..Directory::default() });
    }
    map.given_up = r.get_u64()?;
    map.spans = get_spans(&mut r)?;
    Ok(())
}

fn check_spans(spans: &[Span], region: &SliceRegion) -> Result<(), Malformed> {
    let mut left = region.blocks - 1 - region.data_first();
    for span in spans {
        let blocks = left.min(SPAN);
        if u64::from(span.free) > blocks {
            return Err(Malformed { at: 0, what: "no more free blocks than there are" });
        }
        left -= blocks;
    }
    match left {
        0 => Ok(()),
        _ => Err(Malformed { at: 0, what: "a span for each bitmap page" }),
    }
}

fn read_index<D: Disk>(
    io: &mut Blocking<'_, D>,
    region: &SliceRegion,
    directory: &mut Directory,
    ailing: &mut u64,
) -> Result<(), OpenError> {
    let before = *ailing;
    for twin in directory.index.clone() {
        let buf = io.twin(region, PageKind::Index, twin, ailing)?;
        let slots = get_slots(&buf[page::HEADER..]);
        let slots = slots.map_err(|why| OpenError::NoMap { block: twin.at[0], why })?;
        if !slots.iter().all(|slot| within::is_slot_inside(region, slot)) {
            let why = Malformed { at: 0, what: "slots that name pages of the slice" };
            return Err(OpenError::NoMap { block: twin.at[0], why });
        }
        directory.slots.extend(slots);
    }
    if !directory.slots.is_sorted_by(|a, b| a.first < b.first) {
        let block = directory.index.first().map_or(0, |t| t.at[0]);
        return Err(OpenError::NoMap { block, why: Malformed { at: 0, what: "slots, ascending" } });
    }
    // one of two places was bad: written anew with the next checkpoint
    directory.is_changed |= *ailing > before;
    Ok(())
}
