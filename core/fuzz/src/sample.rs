//! A drive that has something of everything, and how to make it wrong in such a way that its checksums are right.
//!
//! A fuzzer does not find bytes that match a CRC-64. So a page that it changed is sealed again, and so is every page that names
//! it, up to the root, as a program with an error would have written them.
use sarsen_buffer::{Pool, block_checksum, bytes_checksum};
use sarsen_store::disk::{Disk, OpId};
use sarsen_store::drive::{FormatParams, begin_open, format, slice_identity};
use sarsen_store::events::{ReadSpec, Which};
use sarsen_store::memory::{Image, MemDisk};
use sarsen_store::region::RING_BLOCKS_MIN;
use sarsen_store::{Options, SliceRegion, Store, Token};
use sarsen_types::record::{Body, Content, Entry, Point, Recover, Table, Write};
use sarsen_types::*;
use smallvec::smallvec;
use std::collections::BTreeMap;

/// Bytes of the drive.
pub const SIZE: u64 = 36 << 20;
/// Its identity.
pub const DRIVE: DriveIdentity = DriveIdentity(0x77 << 64);
/// Where the root of its one slice names the journal: unit, sequence and the checksum of what is before.
pub const HEAD_AT: usize = 48;
/// Blocks of its journal ring: as few as there may be.
const RING: u64 = RING_BLOCKS_MIN;
const GROUP: GroupId = GroupId(3);
const FAMILY: FamilyId = FamilyId(5);

thread_local! {
    static POOL: Pool = Pool::new();
}

/// Memory, the same for all inputs.
fn pool() -> Pool {
    POOL.with(Pool::clone)
}

/// Sets the checksum in front of a page or journal block right.
pub fn seal(bytes: &mut [u8]) {
    let sum = bytes_checksum(&bytes[8..]).0;
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
}

/// A drive with these contents.
pub fn drive(image: &Image) -> MemDisk {
    let mut disk = MemDisk::from_image(SIZE, image.clone());
    disk.is_durable = true;
    disk
}

/// Puts bytes where a block of the drive is; whole blocks.
pub fn put(disk: &mut MemDisk, block: u64, bytes: &[u8]) {
    disk.write(OpId(0), block * 4096, smallvec![pool().copy_of(bytes)]);
    disk.poll(&mut Vec::new());
}

/// A page of the map in use.
struct Page {
    /// The blocks of the drive where it lies.
    at: Vec<u64>,
    bytes: Vec<u8>,
    /// Where its sum stands: which page, and at which byte.
    named: Vec<(usize, usize)>,
}

/// See the module.
pub struct Sample {
    /// What is on it.
    pub image: Image,
    /// Its slice.
    pub region: SliceRegion,
    /// The root in use, and then what it names: each page behind those that name it.
    pages: Vec<Page>,
}

impl Sample {
    /// Makes one.
    pub fn new() -> Sample {
        let mut disk = MemDisk::new(SIZE);
        disk.is_durable = true;
        let mut superblock = format(&mut disk, FormatParams { identity: DRIVE, slices: 1 }).expect("room");
        // an opening reads all of the ring: inputs a second are what a fuzzer lives on
        superblock.slices[0].ring_blocks = RING;
        begin_open(&mut disk, &mut superblock, OpenId(1)).expect("a disk that works");
        let region = superblock.slices[0];
        let mut maker = Maker { pool: pool(), disk, region, version: 0 };
        maker.fill();
        let image = maker.disk.image().clone();
        let pages = pages(&image, &region);
        Sample { image, region, pages }
    }

    /// How many pages there are to change.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// What kind of page it is.
    pub fn kind(&self, page: usize) -> u8 {
        self.pages[page].bytes[14]
    }

    /// The drive with pages changed: of each (page, byte, new bytes).
    pub fn changed(&self, changes: &[(usize, usize, &[u8])]) -> MemDisk {
        let mut disk = drive(&self.image);
        let mut changed: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        for (page, at, bytes) in changes {
            let new = changed.entry(*page).or_insert_with(|| self.pages[*page].bytes.clone());
            let len = bytes.len().min(4096 - at);
            new[*at..at + len].copy_from_slice(&bytes[..len]);
        }
        while let Some((page, mut bytes)) = changed.pop_last() {
            seal(&mut bytes);
            for (parent, at) in &self.pages[page].named {
                let parent = changed.entry(*parent).or_insert_with(|| self.pages[*parent].bytes.clone());
                parent[*at..at + 4].copy_from_slice(&bytes[..4]);
            }
            self.pages[page].at.iter().for_each(|block| put(&mut disk, *block, &bytes));
        }
        disk
    }

    /// The bytes of the root in use.
    pub fn root(&self) -> &[u8] {
        &self.pages[0].bytes
    }
}

impl Default for Sample {
    fn default() -> Sample {
        Sample::new()
    }
}

/// The pages of the map, found by their sums: a leaf's stands in its line, and so on.
fn pages(image: &Image, region: &SliceRegion) -> Vec<Page> {
    let first = region.offset / 4096;
    let mut all: Vec<(Vec<u8>, Vec<u64>)> = Vec::new();
    for block in image.blocks().filter(|b| *b >= first) {
        let bytes = image.block(block).expect("listed");
        if bytes[8..12] != *b"SMP1" {
            continue;
        }
        match all.iter_mut().find(|(known, _)| *known == bytes) {
            Some((_, at)) => at.push(block),
            None => all.push((bytes, vec![block])),
        }
    }
    let root = all.iter().position(|(_, at)| at.contains(&first)).expect("a root");
    let (bytes, at) = all.swap_remove(root);
    let mut pages = vec![Page { at, bytes, named: Vec::new() }];
    let mut next = 0;
    while next < pages.len() {
        let parent = pages[next].bytes.clone();
        for at in 16..4093 {
            let sum = &parent[at..at + 4];
            if sum == [0; 4] {
                continue;
            }
            if let Some(found) = all.iter().position(|(bytes, _)| bytes[..4] == *sum) {
                let (bytes, blocks) = all.swap_remove(found);
                pages.push(Page { at: blocks, bytes, named: vec![(next, at)] });
            } else if let Some(page) = pages.iter_mut().find(|p| p.bytes[..4] == *sum) {
                page.named.push((next, at));
            }
        }
        next += 1;
    }
    pages
}

struct Maker {
    pool: Pool,
    disk: MemDisk,
    region: SliceRegion,
    version: u64,
}

impl Maker {
    fn open(&mut self, spill_from: Option<usize>) -> Store<MemDisk> {
        let disk = std::mem::replace(&mut self.disk, MemDisk::new(0));
        let usual = options();
        let options = Options { spill_from: spill_from.unwrap_or(usual.spill_from), ..usual };
        Store::open(disk, self.region, options).expect("a good drive").0
    }

    fn write(
        &mut self,
        store: &mut Store<MemDisk>,
        group: GroupId,
        object: ObjectId,
        first: u16,
        count: u16,
    ) {
        self.version += 1;
        let mut payload = self.pool.take_zeroed(usize::from(count) * 4096);
        payload.get_mut().chunks_exact_mut(4096).for_each(|block| block[0] = self.version as u8);
        let sum = |block| block_checksum(FAMILY, object.chunk, block, &payload[..4096]);
        let range = BlockRange::new(first, count);
        let content = Content::Data(range.blocks().map(sum).collect());
        let body = write(self.version, object, range, content);
        store.persist(Token(0), Record { group, promise: Epoch(1), body }, Some(payload));
        store.flush_queue();
    }

    fn persist(&self, store: &mut Store<MemDisk>, body: Body) {
        let record = Record { group: GROUP, promise: Epoch(1), body };
        let data = record.data_blocks() as usize;
        let payload = (data > 0).then(|| self.pool.take_zeroed(4096 * data));
        store.persist(Token(0), record, payload);
        store.flush_queue();
    }

    fn fill(&mut self) {
        let floor = |version: u64| Version::new(Epoch(1), version);
        let object = |chunk| ObjectId::new(7, chunk);
        // leaves: dense ones of one object, a sparse one of another
        let mut store = self.open(None);
        (0..4).for_each(|at| self.write(&mut store, GROUP, object(0), 64 * at, 64));
        self.write(&mut store, GROUP, object(1), 1000, 3);
        self.write(&mut store, GroupId(4), ObjectId::new(9, 0), 0, 2);
        store.raise_floor(GROUP, floor(self.version));
        store.raise_floor(GroupId(4), floor(self.version));
        store.force_checkpoint();
        // runs over them
        self.disk = store.close();
        let mut store = self.open(Some(1));
        for at in 0..2 {
            self.write(&mut store, GROUP, object(at), 9, 2);
            store.raise_floor(GROUP, floor(self.version));
            store.force_checkpoint();
        }
        // what a stream has: sessions, requests, a promotion point, layers that go, entries that are not committed
        for body in bodies() {
            self.persist(&mut store, body);
        }
        self.write(&mut store, GROUP, object(0), 5, 1);
        self.write(&mut store, GROUP, object(0), 5, 2);
        store.persist(Token(0), Record { group: GroupId(4), promise: Epoch(1), body: Body::DropGroup }, None);
        store.flush_queue();
        store.force_checkpoint();
        self.disk = store.close();
    }
}

/// Settings of a store on the drive. Few journal blocks may be in flight, so that few are needed for a hole.
pub fn options() -> Options {
    let usual = Options::new(pool(), slice_identity(DRIVE, 0), OpenId(2), 1 << 20);
    Options { window: 4, ..usual }
}

fn note(number: u64) -> RequestNote {
    let id = RequestId { attachment: AttachmentId(8), session: SessionId(4), number, ..RequestId::default() };
    RequestNote { id, object: ObjectId::new(7, 1), range: BlockRange::new(9, 2) }
}

fn write(version: u64, object: ObjectId, range: BlockRange, content: Content) -> Body {
    let mark =
        Mark { attachment: AttachmentId(8), session: SessionId(4), queue: QueueId(0), below: version / 2 };
    Body::Write(Write {
        version: Version::new(Epoch(1), version),
        object,
        family: FAMILY,
        range,
        content,
        requests: smallvec![note(version)],
        marks: smallvec![mark],
        takeover: None,
    })
}

/// Records of the kinds that leave something behind.
fn bodies() -> Vec<Body> {
    let (version, checksum) = (Version::new(Epoch(1), 2), Checksum(6));
    let entries = vec![Entry::Damaged(version, checksum), Entry::Absent, Entry::Zero(version)];
    let object = ObjectId::new(6, 2);
    let recover = Recover { object, family: FAMILY, since: Epoch(1), first: 1021, entries, touched: version };
    let table = Table {
        since: Epoch(1),
        is_first: true,
        sessions: vec![(AttachmentId(8), Generation(2), SessionId(4))],
        marks: vec![Mark::default()],
        requests: vec![(note(1), version), (note(2), version)],
        point: Some(Point { floor: version, forgotten: version }),
    };
    vec![
        Body::Recover(recover),
        Body::Table(table),
        Body::Fence { attachment: AttachmentId(9), generation: Generation(3) },
    ]
}

/// Looks at what is in a slice: what is listed, and blocks that lie in dense and sparse leaves, under runs, under entries that
/// are not merged, and nowhere. Not at all of it: inputs a second are what a fuzzer lives on.
pub fn look(store: &mut Store<MemDisk>) {
    const BLOCKS: [(u64, u32, u16); 7] =
        [(7, 0, 5), (7, 0, 9), (7, 0, 200), (7, 1, 1000), (7, 1, 9), (6, 2, 1021), (9, 0, 1)];
    let groups: Vec<GroupId> = store.groups().collect();
    for group in groups {
        store.list_touched(Token(1), group, Version::ZERO, None, 64);
    }
    for (layer, chunk, block) in BLOCKS {
        let group = if layer == 9 { GroupId(4) } else { GROUP };
        let spec = |which| ReadSpec {
            group,
            layers: smallvec![LayerId(layer), LayerId(7)],
            family: FAMILY,
            chunk: ChunkIndex(chunk),
            range: BlockRange::new(block, 1),
            which,
        };
        store.read(Token(4), spec(Which::Visible));
        store.read(Token(5), spec(Which::Exact(Version::new(Epoch(1), 7))));
        store.status(Token(6), spec(Which::Visible));
    }
    let mut events = Vec::new();
    (0..4).for_each(|_| store.finish(Instant(0), &mut events));
}

/// Looks at all entries of two objects, and at all that are not merged: far slower.
pub fn look_long(store: &mut Store<MemDisk>) {
    store.list_stacks(Token(2), GROUP, Version::ZERO, None, 16);
    (0..2).for_each(|at| store.list_entries(Token(3), GROUP, ObjectId::new(7, at), true));
    let mut events = Vec::new();
    (0..4).for_each(|_| store.finish(Instant(0), &mut events));
}

/// Goes on with it: what is written takes space, so bitmaps are read. Nothing is merged on purpose: of pages that are each legible and
/// contradict each other, a merge finds out by an assertion.
pub fn go_on(store: &mut Store<MemDisk>) {
    let mut events = Vec::new();
    for chunk in 0..3 {
        let object = ObjectId::new(7, chunk);
        let payload = pool().take_zeroed(4096);
        let content = Content::Data(smallvec![block_checksum(FAMILY, object.chunk, 9, &payload)]);
        let body = write((1 << 39) + u64::from(chunk), object, BlockRange::new(9, 1), content);
        store.persist(Token(7), Record { group: GROUP, promise: Epoch(1), body }, Some(payload));
        store.finish(Instant(0), &mut events);
    }
    (0..4).for_each(|_| store.finish(Instant(0), &mut events));
}
