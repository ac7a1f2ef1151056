//! FORMAT.md is true: drives decoded from raw bytes by what the document says, with none of the crate's decoders.
//!
//! Every offset here is a number of the document. What the decoder finds is held against what was asked of the store.
use sarsen_buffer::{Pool, block_checksum};
use sarsen_store::drive::{FormatParams, begin_open, format, slice_identity};
use sarsen_store::memory::MemDisk;
use sarsen_store::{Options, Store, Token};
use sarsen_types::record::{Body, Content, Entry, Point, Recover, Table, Write};
use sarsen_types::*;
use smallvec::smallvec;
use std::collections::{BTreeMap, BTreeSet};

const DOCUMENT: &str = include_str!("../FORMAT.md");
const SIZE: u64 = 80 << 20;
const DRIVE: u128 = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;
const OPEN: u128 = 0xa5;
const GROUP: u32 = 3;
const FAMILY: u64 = 5;
const LAYER: u64 = 7;

// ---- the decoder ----

/// CRC-64/NVME: bits reflected, all ones before and after.
fn crc(parts: &[&[u8]]) -> u64 {
    let mut crc = u64::MAX;
    for byte in parts.iter().flat_map(|p| p.iter()) {
        crc ^= u64::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x9a6c_9329_ac4b_c9b5 } else { crc >> 1 };
        }
    }
    !crc
}

/// The number in `bytes[at .. at + len]`.
fn num(bytes: &[u8], at: usize, len: usize) -> u128 {
    bytes[at..at + len].iter().rev().fold(0, |n, b| n << 8 | u128::from(*b))
}
fn n64(bytes: &[u8], at: usize, len: usize) -> u64 {
    num(bytes, at, len) as u64
}

/// Fields one after the other.
struct Fields<'a>(&'a [u8], usize);

impl Fields<'_> {
    fn n(&mut self, len: usize) -> u64 {
        self.1 += len;
        n64(self.0, self.1 - len, len)
    }
    fn object(&mut self) -> String {
        format!("{}/{}", self.n(8), self.n(4))
    }
    fn range(&mut self) -> String {
        format!("{}+{}", self.n(2), self.n(2))
    }
    fn list(&mut self, count: usize, mut one: impl FnMut(&mut Self) -> String) -> String {
        let count = self.n(count);
        (0..count).map(|_| format!(" [{}]", one(self))).collect()
    }
    fn note(&mut self) -> String {
        let id = [8, 4, 8, 2, 8, 2].map(|len| self.n(len));
        format!("{id:?} {} {}", self.object(), self.range())
    }
    fn mark(&mut self) -> String {
        format!("{:?}", [8, 8, 2, 8].map(|len| self.n(len)))
    }
    fn session(&mut self) -> String {
        format!("{:?}", [8, 4, 8].map(|len| self.n(len)))
    }
    fn option(&mut self, one: impl FnOnce(&mut Self) -> String) -> String {
        if self.n(1) == 0 { " none".into() } else { format!(" some{}", one(self)) }
    }
    fn entry(&mut self) -> String {
        match self.n(1) {
            0 => "absent".into(),
            1 => format!("zero {:#x}", self.n(8)),
            2 => format!("data {:#x} {:#x}", self.n(8), self.n(8)),
            3 => format!("damaged {:#x} {:#x}", self.n(8), self.n(8)),
            other => panic!("an entry of kind {other}"),
        }
    }
    fn record(&mut self) -> (String, Vec<u64>) {
        let head = format!("group {} promise {}: ", self.n(4), self.n(4));
        let body = match self.n(1) {
            0 => "promise".into(),
            1 => format!("assign {}", self.n(8)),
            2 => self.write(),
            3 => {
                let head = format!("recover {} family {} since {}", self.object(), self.n(8), self.n(4));
                format!("{head} first {} touched {:#x}{}", self.n(2), self.n(8), self.list(4, Self::entry))
            }
            4 => {
                let head = format!("table since {} first {}", self.n(4), self.n(1));
                let (sessions, marks) = (self.list(4, Self::session), self.list(4, Self::mark));
                let notes = self.list(4, |f| format!("{} {:#x}", f.note(), f.n(8)));
                format!(
                    "{head}{sessions};{marks};{notes};{}",
                    self.option(|f| format!(" {:#x} {:#x}", f.n(8), f.n(8)))
                )
            }
            5 => "join began".into(),
            6 => {
                let head = format!("repair {} family {} block {}", self.object(), self.n(8), self.n(2));
                format!("{head} {:#x} {:#x}", self.n(8), self.n(8))
            }
            7 => "distrust".into(),
            8 => format!("fence {:?}", [8, 4].map(|len| self.n(len))),
            9 => format!("session {}", self.session()),
            10 => format!("drop layer {}", self.n(8)),
            11 => "drop group".into(),
            12 => format!("forget {}", self.n(8)),
            other => panic!("a record of kind {other}"),
        };
        let places = (0..self.n(2)).map(|_| self.n(5)).collect();
        (head + &body, places)
    }
    fn write(&mut self) -> String {
        let head = format!("write {:#x} {} family {}", self.n(8), self.object(), self.n(8));
        let (first, count) = (self.n(2), self.n(2));
        let content = match self.n(1) {
            0 => " zeroes".into(),
            _ => (0..count).map(|_| format!(" {:#x}", self.n(8))).collect::<String>(),
        };
        let (notes, marks) = (self.list(2, Self::note), self.list(2, Self::mark));
        let takeover = self.option(|f| f.list(4, Self::note));
        format!("{head} {first}+{count}{content};{notes};{marks};{takeover}")
    }
}

/// An entry of a leaf, or one not merged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Held {
    kind: u64,
    block: u64,
    version: u64,
    checksum: u64,
}

fn held(bytes: &[u8], at: usize) -> Held {
    let place = n64(bytes, at, 5);
    let (kind, block) = (place >> 38, place & ((1 << 38) - 1));
    Held { kind, block, version: n64(bytes, at + 5, 8), checksum: n64(bytes, at + 13, 8) }
}

struct Drive<'a>(&'a MemDisk);

impl Drive<'_> {
    /// A block of the drive.
    fn block(&self, block: u64) -> Vec<u8> {
        self.0.image().block(block).unwrap_or(vec![0; 4096])
    }
    fn page(&self, block: u64, kind: u64) -> Vec<u8> {
        let page = self.block(block);
        assert_eq!(&page[8..12], b"SMP1", "at block {block}");
        assert_eq!((n64(&page, 12, 2), n64(&page, 14, 2)), (1, kind), "at block {block}");
        assert_eq!(n64(&page, 0, 8), crc(&[&page[8..]]), "at block {block}");
        page
    }
}

/// What a superblock says of one slice.
struct Slice<'a> {
    drive: Drive<'a>,
    identity: u128,
    /// First block on the drive.
    at: u64,
    blocks: u64,
    ring_first: u64,
    ring_blocks: u64,
}

/// What a root names.
#[derive(Default)]
struct Map {
    /// By layer, chunk, block: merged entries.
    leaves: BTreeMap<(u64, u64, u64), Held>,
    /// The same of those not merged: with role.
    over: BTreeMap<(u64, u64, u64), Vec<(u64, Held)>>,
    /// The first leaf of each object, with its kind.
    first_leaf: BTreeMap<(u64, u64), (u64, u64)>,
    floor: u64,
    promise: u64,
    notes: Vec<String>,
    /// Every block that the root names through pages.
    named: BTreeSet<u64>,
}

impl Slice<'_> {
    fn read(drive: Drive<'_>, index: usize) -> Slice<'_> {
        let last = SIZE / 4096 - 1;
        let page = drive.page(0, 7);
        assert_eq!([drive.page(256, 7), drive.page(last, 7)], [page.clone(), page.clone()]);
        assert_eq!((n64(&page, 16, 4), n64(&page, 20, 8)), (1, 2), "format, generation");
        assert_eq!((num(&page, 28, 16), num(&page, 44, 16)), (DRIVE, 0), "identity, cluster");
        assert_eq!((n64(&page, 60, 8), num(&page, 68, 16)), (SIZE, 0), "size, registered");
        assert_eq!((n64(&page, 84, 4), num(&page, 88, 16)), (1, OPEN), "opens");
        let slices = 88 + 16;
        assert_eq!(n64(&page, slices, 4), 2);
        let at = slices + 4 + 32 * index;
        let offset = n64(&page, at, 8);
        Slice {
            drive,
            identity: DRIVE ^ index as u128,
            at: offset / 4096,
            blocks: n64(&page, at + 8, 8),
            ring_first: n64(&page, at + 16, 8),
            ring_blocks: n64(&page, at + 24, 8),
        }
    }

    fn page(&self, block: u64, kind: u64, sum: u64) -> Vec<u8> {
        let page = self.drive.page(self.at + block, kind);
        assert_eq!(n64(&page, 0, 4), sum, "the low half of the checksum is what names it");
        page
    }
    /// A page in two places, by the 14 bytes that name it.
    fn twin(&self, bytes: &[u8], at: usize, kind: u64, map: &mut Map) -> Vec<u8> {
        let (first, second, sum) = (n64(bytes, at, 5), n64(bytes, at + 5, 5), n64(bytes, at + 10, 4));
        let page = self.page(first, kind, sum);
        assert_eq!(page, self.page(second, kind, sum));
        assert!(map.named.insert(first) && map.named.insert(second), "nothing is named twice");
        page
    }

    fn root(&self) -> Vec<u8> {
        let page = self.drive.page(self.at, 6);
        assert_eq!(page, self.drive.page(self.at + self.blocks - 1, 6));
        assert_eq!(num(&page, 24, 16), self.identity);
        page
    }

    fn map(&self, root: &[u8]) -> Map {
        let mut map = Map::default();
        let mut stream = Vec::new();
        for list in 0..n64(root, 72, 4) as usize {
            let list = self.twin(root, 76 + 14 * list, 5, &mut map);
            for page in 0..n64(&list, 16, 4) as usize {
                stream.extend_from_slice(&self.twin(&list, 20 + 14 * page, 4, &mut map)[16..]);
            }
        }
        stream.truncate(n64(root, 40, 8) as usize);
        let mut f = Fields(&stream, 0);
        for _ in 0..f.n(4) {
            self.group(&mut f, &mut map);
        }
        assert_eq!(f.n(4), 0, "no table of a dropped copy");
        assert_eq!(f.n(8), 0, "no leaf was given up");
        let spans = f.n(4);
        assert_eq!(stream.len(), f.1 + 8 * spans as usize);
        self.bitmaps(&mut f, spans, &map);
        map
    }

    fn group(&self, f: &mut Fields<'_>, map: &mut Map) {
        assert_eq!((f.n(4), f.n(8)), (u64::from(GROUP), 0), "group, assignment");
        map.promise = f.n(4);
        map.floor = f.n(8);
        assert_eq!(f.option(|_| String::new()), " none", "point");
        let (top, latest) = (f.n(8), f.n(8));
        assert!(top >= map.floor && latest <= top, "all was taken in sync");
        assert_eq!(f.n(1), 0, "no join");
        assert!(f.n(8) <= map.floor, "forgotten");
        assert_eq!(f.list(4, Fields::session), " [[8, 2, 4]]");
        assert_eq!(f.list(4, Fields::mark), "");
        for _ in 0..f.n(4) {
            map.notes.push(format!("{} {:#x} void {}", f.note(), f.n(8), f.n(1)));
        }
        assert_eq!(f.n(4), 0, "no layer is being dropped");
        for _ in 0..f.n(4) {
            let twin = f.1;
            f.1 += 14;
            let index = self.twin(f.0, twin, 8, map);
            for slot in 0..n64(&index, 16, 4) as usize {
                self.table(&index[20 + 52 * slot..][..52], map);
            }
        }
        for _ in 0..f.n(4) {
            let (layer, chunk, family) = (f.n(8), f.n(4), f.n(8));
            assert_eq!(family, FAMILY);
            for _ in 0..f.n(4) {
                let (block, cut) = (f.n(2), f.n(8));
                assert_eq!(cut, 0);
                for _ in 0..f.n(4) {
                    let role = f.n(1);
                    map.over.entry((layer, chunk, block)).or_default().push((role, held(f.0, f.1)));
                    f.1 += 21;
                }
            }
        }
    }

    fn table(&self, slot: &[u8], map: &mut Map) {
        let table = self.twin(slot, 22, 3, map);
        let count = n64(&table, 16, 4);
        assert_eq!(n64(slot, 20, 2), count);
        assert_eq!(slot[..12], table[20..32], "a slot begins with the key of its first line");
        let mut touched = 0;
        for line in 0..count as usize {
            let line = &table[20 + 100 * line..][..100];
            let (layer, chunk) = (n64(line, 0, 8), n64(line, 8, 4));
            assert_eq!(n64(line, 13, 8), FAMILY);
            touched = touched.max(n64(line, 21, 8));
            let is_sparse = line[12] == 1;
            let before = map.leaves.len();
            for leaf in 0..6 {
                let (block, sum) = (n64(line, 37 + 9 * leaf, 5), n64(line, 42 + 9 * leaf, 4));
                if block == 0 {
                    continue;
                }
                assert!(map.named.insert(block));
                let kind = if is_sparse { 2 } else { 1 };
                map.first_leaf.entry((layer, chunk)).or_insert((block, kind));
                let page = self.page(block, kind, sum);
                for (number, held) in entries(&page, is_sparse, leaf as u64) {
                    if held.kind == 2 {
                        assert!(map.named.insert(held.block));
                    }
                    map.leaves.insert((layer, chunk, number), held);
                    assert_eq!(n64(line, 29, 8) >> (number / 16) & 1, 1, "a bit for 16 blocks");
                }
            }
            assert!(map.leaves.len() > before || n64(slot, 36, 2) > 0);
            assert_eq!(line[91..], [0; 9]);
        }
        assert_eq!(n64(slot, 12, 8), touched);
        if n64(slot, 38, 5) == 0 {
            return assert_eq!(slot[36..], [0; 16], "no runs");
        }
        let list = self.twin(slot, 38, 11, map);
        let mut spilled = 0;
        for run in 0..n64(&list, 16, 4) as usize {
            let item = &list[20 + 272 * run..][..272];
            spilled += n64(item, 14, 2);
            self.run(item, map);
        }
        assert_eq!(n64(slot, 36, 2), spilled);
    }

    /// A run: what it says of a block lies over what older ones and the leaf say.
    fn run(&self, item: &[u8], map: &mut Map) {
        let page = self.twin(item, 0, 10, map);
        let mut f = Fields(&page, 16);
        let mut blocks = 0;
        for _ in 0..f.n(4) {
            let (layer, chunk) = (f.n(8), f.n(4));
            for _ in 0..f.n(2) {
                let word = f.n(2);
                assert_eq!(word >> 15, 0, "no recovery is in this history");
                let key =
                    [&layer.to_le_bytes()[..], &(chunk as u32).to_le_bytes(), &(word as u16).to_le_bytes()];
                let sum = crc(&key);
                for i in 0..5 {
                    let bit = (sum as u32).wrapping_add(((sum >> 32) as u32 | 1).wrapping_mul(i)) % 2048;
                    assert_eq!(item[16 + bit as usize / 8] >> (bit % 8) & 1, 1, "in the filter");
                }
                assert_eq!((f.n(1), f.n(1)), (1, 0), "one entry, its own");
                let held = held(f.0, f.1);
                f.1 += 21;
                assert!(map.named.insert(held.block));
                map.leaves.insert((layer, chunk, word), held);
                blocks += 1;
            }
        }
        assert_eq!(n64(item, 14, 2), blocks);
    }

    /// The bits are exactly the blocks that the root names.
    fn bitmaps(&self, f: &mut Fields<'_>, spans: u64, map: &Map) {
        let bitmap_first = self.ring_first + self.ring_blocks;
        let pages = (self.blocks - bitmap_first).div_ceil(31_744);
        let data_first = bitmap_first + 4 * pages;
        let data_end = self.blocks - 1;
        assert_eq!(spans, (data_end - data_first).div_ceil(31_744));
        let mut used = BTreeSet::new();
        for page in 0..spans {
            let (version, is_written, sum, free) = (f.n(1), f.n(1), f.n(4), f.n(2));
            assert_eq!(is_written, 1);
            let places = [0, 1].map(|twin| bitmap_first + (2 * twin + version) * pages + page);
            let bits = self.page(places[0], 9, sum);
            assert_eq!(bits, self.page(places[1], 9, sum));
            assert_eq!(n64(&bits, 16, 8), page);
            let first = data_first + 31_744 * page;
            let here = (0..31_744).filter(|b| bits[24 + b / 8] >> (b % 8) & 1 == 1);
            used.extend(here.map(|b| first + b as u64));
            let blocks = 31_744.min(data_end - first);
            assert_eq!(free, blocks - used.range(first..first + 31_744).count() as u64);
        }
        assert_eq!(used, map.named);
    }

    /// The journal block at `unit`: (open, sequence, previous, durable, floors, records, checksum, units).
    fn journal(&self, unit: u64, sequence: u64) -> Option<Block> {
        let at = self.at + self.ring_first + unit;
        let first = self.drive.block(at);
        if &first[8..12] != b"SJB1" || n64(&first, 48, 8) != sequence {
            return None;
        }
        assert_eq!((n64(&first, 12, 2), num(&first, 16, 16)), (1, self.identity));
        let (units, data) = (n64(&first, 14, 1), n64(&first, 15, 1));
        let bytes: Vec<u8> = (at..at + units).flat_map(|b| self.drive.block(b)).collect();
        let checksum = n64(&bytes, 0, 8);
        assert_eq!(checksum, crc(&[&bytes[8..]]));
        assert_eq!(num(&bytes, 32, 16), OPEN);
        let mut f = Fields(&bytes, 80);
        let floors = (0..n64(&bytes, 72, 4)).map(|_| [4, 8, 8].map(|len| f.n(len))).collect();
        let records: Vec<(String, Vec<u64>)> = (0..n64(&bytes, 76, 4)).map(|_| f.record()).collect();
        let ring = self.ring_first..self.ring_first + self.ring_blocks;
        let places = records.iter().flat_map(|r| r.1.iter().copied()).filter(|p| ring.contains(p));
        let inside: Vec<u64> = (self.ring_first + unit + units..).take(data as usize).collect();
        assert_eq!(places.collect::<Vec<_>>(), inside, "data in the journal block follow its records");
        let end = f.1;
        assert!(bytes[end..].iter().all(|b| *b == 0));
        assert_eq!(units, end.div_ceil(4096) as u64);
        let (previous, durable) = (n64(&bytes, 56, 8), n64(&bytes, 64, 8));
        Some(Block { previous, durable, floors, records, checksum, units: units + data })
    }
}

struct Block {
    previous: u64,
    durable: u64,
    floors: Vec<[u64; 3]>,
    records: Vec<(String, Vec<u64>)>,
    checksum: u64,
    units: u64,
}

/// The entries of a leaf by block, without the absent ones.
fn entries(page: &[u8], is_sparse: bool, leaf: u64) -> Vec<(u64, Held)> {
    let found: Vec<_> = match is_sparse {
        true => (0..n64(page, 16, 4) as usize)
            .map(|at| (n64(page, 20 + 23 * at, 2), held(page, 22 + 23 * at)))
            .collect(),
        false => (171 * leaf..(171 * (leaf + 1)).min(1024))
            .map(|block| (block, held(page, 16 + 21 * (block as usize % 171))))
            .collect(),
    };
    found.into_iter().filter(|(_, h)| h.kind != 0).collect()
}

// ---- what is asked of the store ----

/// A slice of a drive, and what it must hold: by chunk and block the version, and the byte its data are full of.
struct Made {
    store: Store<MemDisk>,
    pool: Pool,
    next: u64,
    holds: BTreeMap<(u64, u64), (u64, Option<u8>)>,
}

fn note(number: u64, chunk: u32, range: BlockRange) -> RequestNote {
    let id = RequestId {
        attachment: AttachmentId(8),
        generation: Generation(2),
        session: SessionId(4),
        queue: QueueId(1),
        number,
        piece: 0,
    };
    RequestNote { id, object: ObjectId::new(LAYER, chunk), range }
}

impl Made {
    fn new() -> Made {
        let pool = Pool::new();
        let mut disk = MemDisk::new(SIZE);
        disk.is_durable = true;
        let identity = DriveIdentity(DRIVE);
        let mut superblock = format(&mut disk, FormatParams { identity, slices: 2 }).unwrap();
        begin_open(&mut disk, &mut superblock, OpenId(OPEN)).unwrap();
        let drive = slice_identity(identity, 1);
        let options = Options::new(pool.clone(), drive, OpenId(OPEN), 1 << 20);
        let (store, _) = Store::open(disk, superblock.slices[1], options).unwrap();
        Made { store, pool, next: 1, holds: BTreeMap::new() }
    }

    /// Makes a record durable, in a journal block of its own; its data blocks are full of `fill`, one more in each.
    fn record(&mut self, group: u32, promise: u32, body: Body, fill: u8) {
        let record = Record { group: GroupId(group), promise: Epoch(promise), body };
        let blocks = record.data_blocks() as usize;
        let payload = (blocks > 0).then(|| {
            let mut payload = self.pool.take(4096 * blocks);
            for (at, block) in payload.get_mut().chunks_exact_mut(4096).enumerate() {
                block.fill(fill.wrapping_add(at as u8));
            }
            payload
        });
        self.store.persist(Token(0), record, payload);
        self.store.flush_queue();
    }

    fn write(&mut self, chunk: u32, range: BlockRange, fill: Option<u8>, requests: &[RequestNote]) {
        let version = Version::new(Epoch(1), self.next);
        self.next += 1;
        let sum = |(at, block)| {
            let data = vec![fill.unwrap_or(0).wrapping_add(at as u8); 4096];
            block_checksum(FamilyId(FAMILY), ChunkIndex(chunk), block, &data)
        };
        for (at, block) in range.blocks().enumerate() {
            let fill = fill.map(|f| f.wrapping_add(at as u8));
            self.holds.insert((chunk.into(), block.into()), (version.0, fill));
        }
        let write = Write {
            version,
            object: ObjectId::new(LAYER, chunk),
            family: FamilyId(FAMILY),
            range,
            content: match fill {
                Some(_) => Content::Data(range.blocks().enumerate().map(sum).collect()),
                None => Content::Zero,
            },
            requests: requests.into(),
            marks: smallvec![],
            takeover: None,
        };
        self.record(GROUP, 1, Body::Write(write), fill.unwrap_or(0));
    }

    fn raise_floor(&mut self) -> u64 {
        let floor = Version::new(Epoch(1), self.next - 1);
        self.store.raise_floor(GroupId(GROUP), floor);
        floor.0
    }
}

/// The history of the examples: an object with few entries, one with many, two checkpoints, one entry not merged, one that
/// is in the journal alone.
fn history() -> (MemDisk, BTreeMap<(u64, u64), (u64, Option<u8>)>, u64) {
    let mut made = Made::new();
    let nine = BlockRange::new(9, 1);
    made.write(1, nine, Some(0x40), &[note(1, 1, nine)]);
    made.write(1, BlockRange::new(20, 4), None, &[]);
    made.raise_floor();
    made.store.force_checkpoint();
    for first in [0, 64, 128, 192] {
        made.write(2, BlockRange::new(first, 64), Some(first as u8), &[]);
    }
    made.write(1, nine, Some(0x41), &[note(2, 1, nine)]);
    let floor = made.raise_floor();
    made.write(2, BlockRange::new(100, 1), Some(0x42), &[]);
    made.store.force_checkpoint();
    made.raise_floor();
    made.write(2, BlockRange::new(300, 1), Some(0x43), &[]);
    (made.store.into_disk(), made.holds, floor)
}

/// Entries that a checkpoint wrote as runs, over leaves and alone.
#[test]
fn runs_are_decoded_by_the_document_alone() {
    let mut made = Made::new();
    for chunk in 1..30 {
        let range = BlockRange::new(chunk as u16, 2);
        made.write(chunk, range, Some(chunk as u8), &[note(u64::from(chunk), chunk, range)]);
    }
    made.raise_floor();
    made.store.force_checkpoint();
    for round in 0..12u16 {
        for chunk in 1..25 {
            let fill = (100 + round) as u8;
            made.write(chunk, BlockRange::new(40 * round + chunk as u16, 1), Some(fill), &[]);
        }
        made.raise_floor();
        made.store.force_checkpoint();
    }
    let disk = made.store.into_disk();
    let slice = Slice::read(Drive(&disk), 1);
    let map = slice.map(&slice.root());
    assert!(map.over.is_empty());
    let found: Vec<(u64, u64)> = map.leaves.keys().map(|(_, chunk, block)| (*chunk, *block)).collect();
    assert_eq!(found, made.holds.keys().copied().collect::<Vec<_>>());
    for ((_, chunk, block), held) in map.leaves {
        let (version, fill) = made.holds[&(chunk, block)];
        assert_eq!((held.version, held.kind), (version, 2));
        assert_eq!(slice.drive.block(slice.at + held.block), [fill.unwrap(); 4096]);
    }
}

#[test]
fn a_drive_is_decoded_by_the_document_alone() {
    let (disk, holds, floor) = history();
    let slice = Slice::read(Drive(&disk), 1);
    let root = slice.root();
    assert_eq!(n64(&root, 16, 8), 3, "two checkpoints after the root of an empty store");
    let map = slice.map(&root);
    assert_eq!((map.promise, map.floor), (1, floor));
    assert_eq!(
        map.notes,
        [
            "[8, 2, 4, 1, 1, 0] 7/1 9+1 0x10000000001 void 0",
            "[8, 2, 4, 1, 2, 0] 7/1 9+1 0x10000000007 void 0",
        ]
    );
    assert_eq!((map.first_leaf[&(LAYER, 1)].1, map.first_leaf[&(LAYER, 2)].1), (2, 1), "sparse, dense");
    assert_eq!(map.over.keys().copied().collect::<Vec<_>>(), [(LAYER, 2, 100)]);

    let mut found: BTreeMap<(u64, u64), Held> =
        map.leaves.iter().map(|((_, chunk, block), held)| ((*chunk, *block), *held)).collect();
    for ((_, chunk, block), over) in &map.over {
        assert_eq!((over.len(), over[0].0), (1, 0), "one entry of its own");
        found.insert((*chunk, *block), over[0].1);
    }
    let (unit, sequence, previous) = (n64(&root, 48, 8), n64(&root, 56, 8), n64(&root, 64, 8));
    let block = slice.journal(unit, sequence).unwrap();
    assert_eq!((block.previous, block.durable, block.units), (previous, sequence - 1, 2));
    assert_eq!(block.floors, [[u64::from(GROUP), floor + 1, floor + 1]]);
    let [(text, places)] = &block.records[..] else { panic!("one record") };
    let sum = crc(&[&FAMILY.to_le_bytes(), &2u32.to_le_bytes(), &300u32.to_le_bytes(), &[0x43; 4096]]);
    let version = floor + 2;
    assert_eq!(*text, format!("group 3 promise 1: write {version:#x} 7/2 family 5 300+1 {sum:#x};;; none"));
    found.insert((2, 300), Held { kind: 2, block: places[0], version, checksum: sum });
    assert!(slice.journal(unit + block.units, sequence + 1).is_none());

    assert_eq!(found.keys().collect::<Vec<_>>(), holds.keys().collect::<Vec<_>>());
    for ((chunk, number), held) in found {
        let (version, fill) = holds[&(chunk, number)];
        assert_eq!(held.version, version);
        let Some(fill) = fill else {
            assert_eq!((held.kind, held.block, held.checksum), (1, 0, 0));
            continue;
        };
        assert_eq!(held.kind, 2);
        let data = slice.drive.block(slice.at + held.block);
        assert_eq!(data, [fill; 4096]);
        let seed =
            [&FAMILY.to_le_bytes()[..], &(chunk as u32).to_le_bytes(), &(number as u32).to_le_bytes(), &data];
        assert_eq!(held.checksum, crc(&seed));
    }
}

/// Everything a record may say, and how the document spells it.
fn every_kind() -> Vec<(Body, &'static str)> {
    let (object, family) = (ObjectId::new(7, 1), FamilyId(5));
    let range = BlockRange::new(9, 2);
    let (a, b) = (Checksum(0xaaaa), Checksum(0xbbbb));
    let mark =
        Mark { attachment: AttachmentId(8), session: SessionId(4), queue: QueueId(1), below: 0x0203_0405 };
    let write = |content, marks: &[Mark], takeover| {
        let requests = smallvec![note(6, 1, range)];
        let version = Version::new(Epoch(2), 1);
        Body::Write(Write {
            version,
            object,
            family,
            range,
            content,
            requests,
            marks: marks.into(),
            takeover,
        })
    };
    let recover = |entries| {
        let touched = Version::new(Epoch(2), 3);
        Body::Recover(Recover { object, family, since: Epoch(2), first: 50, entries, touched })
    };
    let (old, new) = (Version::new(Epoch(1), 1), Version::new(Epoch(1), 2));
    let (attachment, generation, session) = (AttachmentId(8), Generation(2), SessionId(4));
    let table = Table {
        since: Epoch(2),
        is_first: true,
        sessions: vec![(attachment, generation, session)],
        marks: vec![mark],
        requests: vec![(note(0x0607_0809, 1, range), old)],
        point: Some(Point { floor: new, forgotten: old }),
    };
    let short = Table { since: Epoch(2), ..Table::default() };
    vec![
        (Body::Promise, "promise"),
        (Body::Assign { assignment: 77 }, "assign 77"),
        (
            write(Content::Data(smallvec![a, b]), &[mark], None),
            "write 0x20000000001 7/1 family 5 9+2 0xaaaa 0xbbbb; [[8, 2, 4, 1, 6, 0] 7/1 9+2]; [[8, 4, 1, 33752069]]; none",
        ),
        (
            write(Content::Zero, &[], Some(vec![note(5, 1, range), note(4, 1, range)])),
            "write 0x20000000001 7/1 family 5 9+2 zeroes; [[8, 2, 4, 1, 6, 0] 7/1 9+2];; some \
             [[8, 2, 4, 1, 5, 0] 7/1 9+2] [[8, 2, 4, 1, 4, 0] 7/1 9+2]",
        ),
        (
            recover(vec![Entry::Data(old, a), Entry::Absent, Entry::Zero(new), Entry::Data(new, b)]),
            "recover 7/1 family 5 since 2 first 50 touched 0x20000000003 [data 0x10000000001 0xaaaa] [absent] \
             [zero 0x10000000002] [data 0x10000000002 0xbbbb]",
        ),
        (recover(vec![]), "recover 7/1 family 5 since 2 first 50 touched 0x20000000003"),
        (
            Body::Table(table),
            "table since 2 first 1 [[8, 2, 4]]; [[8, 4, 1, 33752069]]; \
             [[8, 2, 4, 1, 101124105, 0] 7/1 9+2 0x10000000001]; some 0x10000000002 0x10000000001",
        ),
        (Body::Table(short), "table since 2 first 0;;; none"),
        (Body::JoinBegan, "join began"),
        (
            Body::Repair { object, family, block: 51, version: new, checksum: b },
            "repair 7/1 family 5 block 51 0x10000000002 0xbbbb",
        ),
        (Body::Distrust, "distrust"),
        (Body::Fence { attachment, generation }, "fence [8, 2]"),
        (Body::DropLayer { layer: LayerId(7) }, "drop layer 7"),
        (Body::DropGroup, "drop group"),
        (Body::Forget { attachment }, "forget 8"),
    ]
}

#[test]
fn records_of_every_kind_are_decoded_by_the_document_alone() {
    let mut made = Made::new();
    let kinds = every_kind();
    for (at, (body, _)) in kinds.iter().enumerate() {
        made.record(GROUP, at as u32, body.clone(), 0x60);
    }
    let disk = made.store.into_disk();
    let slice = Slice::read(Drive(&disk), 1);
    let (mut unit, mut previous) = (0, 0);
    for (at, (body, text)) in kinds.iter().enumerate() {
        let block = slice.journal(unit, at as u64 + 1).unwrap();
        assert_eq!((block.previous, block.durable, &block.floors[..]), (previous, at as u64, &[][..]));
        let [(found, places)] = &block.records[..] else { panic!("one record") };
        assert_eq!(*found, format!("group 3 promise {at}: {text}"));
        let record = Record { group: GroupId(GROUP), promise: Epoch(0), body: body.clone() };
        assert_eq!(places.len(), record.data_blocks() as usize);
        for (number, place) in places.iter().enumerate() {
            assert_eq!(slice.drive.block(slice.at + place), [0x60 + number as u8; 4096]);
        }
        (unit, previous) = (unit + block.units, block.checksum);
    }
}

/// The bytes that the document shows under a heading: of each line what stands before three spaces.
fn shown(heading: &str) -> Vec<u8> {
    let section = DOCUMENT.split(&format!("### {heading}\n")).nth(1).expect("the heading");
    let example = section.split("```text\n").nth(1).and_then(|s| s.split("```").next()).expect("an example");
    let hex = example.lines().map(|line| line.split("   ").next().unwrap_or_default());
    let bytes = hex.flat_map(str::split_whitespace);
    bytes.map(|b| u8::from_str_radix(b, 16).unwrap_or_else(|_| panic!("{b} is no byte"))).collect()
}

fn assert_shown(heading: &str, bytes: &[u8]) {
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    let shown = shown(heading);
    let is_true = shown.len() >= end && bytes.starts_with(&shown);
    assert!(is_true, "### {heading}: the drive has\n{}", rows(&bytes[..end.max(shown.len())]));
}

fn rows(bytes: &[u8]) -> String {
    let row = |row: &[u8]| row.iter().map(|b| format!("{b:02x} ")).collect::<String>() + "\n";
    bytes.chunks(16).map(row).collect()
}

#[test]
fn the_examples_of_the_document_are_true() {
    let (disk, ..) = history();
    let slice = Slice::read(Drive(&disk), 1);
    assert_shown("A journal block", &slice.drive.block(slice.at + slice.ring_first));
    let map = slice.map(&slice.root());
    let (leaf, _) = map.first_leaf[&(LAYER, 1)];
    assert_shown("A sparse leaf", &slice.drive.block(slice.at + leaf));
    assert_shown("A root", &slice.drive.block(slice.at));
}
