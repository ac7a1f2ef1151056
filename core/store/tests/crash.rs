//! Seeded histories with checkpoints, crashes that lose, tear and reorder, and reopening: what was persisted is there.
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sarsen_buffer::{Pool, block_checksum};
use sarsen_store::drive::{FormatParams, format, slice_identity};
use sarsen_store::events::{Event, ReadError, ReadSpec, Which};
use sarsen_store::memory::{Fate, Image, MemDisk};
use sarsen_store::{Options, SliceRegion, Store, Token};
use sarsen_types::record::{Body, Content, Entry, Write};
use sarsen_types::*;
use smallvec::smallvec;
use std::collections::BTreeMap;

const SIZE: u64 = 40 << 20;
const GROUP: GroupId = GroupId(3);
const FAMILY: FamilyId = FamilyId(5);

/// What was asked and what of it must hold: per block of each object, versions with their contents.
#[derive(Default, Clone)]
struct Model {
    /// (object, block) -> [(version, content; 0 is a zero entry, is it persisted)], ascending.
    blocks: BTreeMap<(ObjectId, u16), Vec<(Version, u8, bool)>>,
    floor: Version,
}

struct Run {
    store: Store<MemDisk>,
    region: SliceRegion,
    drive: DriveIdentity,
    pool: Pool,
    model: Model,
    open: u128,
    next: u64,
    waiting: BTreeMap<Token, Vec<((ObjectId, u16), Version)>>,
}

fn options(pool: &Pool, drive: DriveIdentity, open: u128) -> Options {
    let usual = Options::new(pool.clone(), slice_identity(drive, 0), OpenId(open), 64 << 20);
    // every second opening writes runs where it can (S13)
    Options { spill_from: if open.is_multiple_of(2) { 1 } else { usual.spill_from }, ..usual }
}

impl Run {
    fn new(is_durable: bool) -> Run {
        let pool = Pool::new();
        let drive = DriveIdentity(0x77);
        let mut disk = MemDisk::new(SIZE);
        let superblock = format(&mut disk, FormatParams { identity: drive, slices: 1 }).unwrap();
        let region = superblock.slices[0];
        disk.is_durable = is_durable;
        let (store, opened) = Store::open(disk, region, options(&pool, drive, 1)).unwrap();
        assert_eq!(opened, sarsen_store::Opened { read_bytes: opened.read_bytes, ..Default::default() });
        Run {
            store,
            region,
            drive,
            pool,
            model: Model::default(),
            open: 1,
            next: 1,
            waiting: BTreeMap::new(),
        }
    }

    fn write(&mut self, object: ObjectId, range: BlockRange, content: u8) {
        let version = Version::new(Epoch(1), self.next);
        let token = Token(self.next);
        self.next += 1;
        let mut payload = self.pool.take(range.bytes());
        payload.get_mut().fill(content);
        let sums =
            range.blocks().map(|b| block_checksum(FAMILY, object.chunk, b, &payload[..4096])).collect();
        let write = Write {
            version,
            object,
            family: FAMILY,
            range,
            content: if content == 0 { Content::Zero } else { Content::Data(sums) },
            requests: smallvec![],
            marks: smallvec![],
            takeover: None,
        };
        let record = Record { group: GROUP, promise: Epoch(1), body: Body::Write(write) };
        self.store.persist(token, record, (content != 0).then_some(payload));
        let blocks: Vec<_> = range.blocks().map(|b| ((object, b), version)).collect();
        for (at, version) in &blocks {
            self.model.blocks.entry(*at).or_default().push((*version, content, false));
        }
        self.waiting.insert(token, blocks);
    }

    fn turn(&mut self) {
        let mut events = Vec::new();
        self.store.finish(Instant(0), &mut events);
        for event in events {
            match event {
                Event::Persisted(token) => {
                    for (at, version) in self.waiting.remove(&token).unwrap() {
                        let entries = self.model.blocks.get_mut(&at).unwrap();
                        entries.iter_mut().find(|e| e.0 == version).unwrap().2 = true;
                    }
                }
                Event::NoSpace(token) => {
                    for (at, version) in self.waiting.remove(&token).unwrap() {
                        self.model.blocks.get_mut(&at).unwrap().retain(|e| e.0 != version);
                    }
                }
                Event::Failed(why) => panic!("{why}"),
                _ => {}
            }
        }
    }

    /// Fills the store but for a few blocks, so that what is freed is written again soon: a place that is reused too early
    /// is then found out.
    fn fill(&mut self, free: u64) {
        let mut chunk = 100;
        while self.store.space().total_blocks - self.store.space().used_blocks > free + 64 {
            for first in (0..1024).step_by(64) {
                let report = self.store.space();
                let left = (report.total_blocks - report.used_blocks).saturating_sub(free);
                let count = left.min(64) as u16;
                if count > 0 {
                    self.write(ObjectId::new(1, chunk), BlockRange::new(first, count), 1);
                }
                self.turn();
            }
            chunk += 1;
            self.raise_floor();
        }
        self.store.force_checkpoint();
        self.turn();
        // what fills is not looked at again
        self.model.blocks.retain(|(id, _), _| id.chunk.0 < 100);
    }

    /// All below are persisted: the floor may move.
    fn raise_floor(&mut self) {
        let open = self.waiting.values().flatten().map(|w| w.1).min();
        let floor = open.map_or(Version::new(Epoch(1), self.next - 1), Version::before);
        self.store.raise_floor(GROUP, floor);
        self.model.floor = floor;
    }

    fn read_top(&mut self, object: ObjectId, block: u16) -> (Entry, Option<u8>) {
        self.store.list_entries(Token(0), GROUP, object, false);
        let mut entry = Entry::Absent;
        for event in self.events() {
            if let Event::Entries { runs, .. } = event {
                entry = runs.unwrap().iter().rev().find(|r| r.0 <= block).map_or(Entry::Absent, |r| r.1);
            }
        }
        let Entry::Data(version, _) = entry else { return (entry, None) };
        let spec = ReadSpec {
            group: GROUP,
            layers: smallvec![object.layer],
            family: FAMILY,
            chunk: object.chunk,
            range: BlockRange::new(block, 1),
            which: Which::Exact(version),
        };
        self.store.read(Token(0), spec);
        for event in self.events() {
            if let Event::Read(_, result) = event {
                match result {
                    Ok(data) => return (entry, Some(data.data.unwrap()[17])),
                    Err(ReadError::Corrupt(_)) => return (Entry::Damaged(version, Checksum(0)), None),
                    Err(why) => panic!("{why:?}"),
                }
            }
        }
        panic!("a read is answered")
    }

    fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..8 {
            self.store.finish(Instant(0), &mut events);
        }
        events
    }

    fn crash(&mut self, rng: &mut SmallRng) {
        let is_durable = self.store.disk().is_durable;
        let placeholder = MemDisk::new(0);
        let disk = std::mem::replace(self.store.disk_mut(), placeholder);
        let kept = rng.random_range(0..100);
        let image = disk.crash(|| match rng.random_range(0..100) {
            n if n < kept => Fate::Kept,
            n if n < kept + 10 => Fate::Torn(rng.random_range(0..4096)),
            _ => Fate::Lost,
        });
        self.reopen(image, is_durable);
    }

    fn reopen(&mut self, image: Image, is_durable: bool) {
        self.open += 1;
        let mut disk = MemDisk::from_image(SIZE, image);
        disk.is_durable = is_durable;
        let (store, opened) =
            Store::open(disk, self.region, options(&self.pool, self.drive, self.open)).unwrap();
        assert!(!opened.is_broken, "an ordinary crash leaves no hole");
        self.store = store;
        self.store.audit().unwrap_or_else(|why| panic!("after a restart: {why}"));
        self.waiting.clear();
        let blocks: Vec<_> = self.model.blocks.keys().copied().collect();
        for at in blocks {
            let (entry, content) = self.read_top(at.0, at.1);
            let entries = &self.model.blocks[&at];
            let must = entries.iter().filter(|e| e.2).map(|e| e.0).max().unwrap_or_default();
            assert!(entry.version() >= must, "{at:?}: {entry:?} is there, {must:?} was persisted");
            let known = entries.iter().find(|e| e.0 == entry.version());
            match (entry, known) {
                (Entry::Absent, None) => {}
                (Entry::Zero(_), Some(e)) => assert_eq!(e.1, 0),
                (Entry::Data(..), Some(e)) => assert_eq!(content, Some(e.1), "{at:?} {entry:?}"),
                (Entry::Damaged(v, _), Some(_)) => assert!(v > must, "{at:?}: a persisted entry is damaged"),
                other => panic!("{at:?}: {other:?}"),
            }
            // what was not persisted and is not there never will be
            let found = entry.version();
            self.model.blocks.get_mut(&at).unwrap().retain(|e| e.0 <= found);
        }
        // a damaged top is resolved by its group; here the next write covers it
        let floor = self.store.ledger(GROUP).map_or(Version::ZERO, |l| l.floor);
        assert!(floor <= self.model.floor);
        self.model.floor = floor;
    }
}

#[test]
fn what_was_persisted_survives_any_crash() {
    let number =
        |name: &str, otherwise| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(otherwise);
    let (first, seeds) = (number("SEED", 1u64), number("SEEDS", 40));
    let mut checkpoints = 0;
    for seed in first..first + seeds {
        println!("seed {seed}");
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut run = Run::new(seed % 2 == 0);
        if seed % 4 < 2 {
            run.fill(rng.random_range(100..600));
        }
        for _ in 0..rng.random_range(50..400) {
            match rng.random_range(0..100) {
                0..55 => {
                    let object = ObjectId::new(1, rng.random_range(0..4));
                    let first = rng.random_range(0..1000u16);
                    let count = if rng.random_bool(0.7) { 1 } else { rng.random_range(1..24) };
                    run.write(object, BlockRange::new(first, count), rng.random_range(0..=255));
                }
                55..80 => run.turn(),
                80..90 => run.raise_floor(),
                90..92 => run.store.disk_mut().is_held = true,
                92..96 => {
                    let waiting = run.store.disk().waiting();
                    for _ in 0..rng.random_range(0..=waiting) {
                        let at = rng.random_range(0..run.store.disk().waiting().max(1));
                        run.store.disk_mut().complete(at);
                    }
                    run.turn();
                }
                96 => {
                    run.store.disk_mut().is_held = false;
                    while run.store.disk().waiting() > 0 {
                        run.store.disk_mut().complete(0);
                    }
                    run.turn();
                }
                97 => run.store.ask_checkpoint(),
                98 => run.store.rewind_allocation(),
                _ => run.crash(&mut rng),
            }
        }
        run.store.disk_mut().is_held = false;
        while run.store.disk().waiting() > 0 {
            run.store.disk_mut().complete(0);
        }
        for _ in 0..20 {
            run.turn();
        }
        assert!(run.waiting.is_empty(), "everything is persisted in the end");
        run.raise_floor();
        run.store.force_checkpoint();
        run.store.audit().unwrap_or_else(|why| panic!("in the end: {why}"));
        checkpoints += 1;
        let image = run.store.disk().image().clone();
        run.reopen(image, seed % 2 == 0);
    }
    assert!(checkpoints > 0);
}
