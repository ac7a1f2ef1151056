//! A store over a memory disk, asked in words: write, discard, read, settle, checkpoint, crash.
#![allow(dead_code, missing_docs)]
use sarsen_buffer::{Pool, block_checksum};
use sarsen_store::drive::{FormatParams, format, slice_identity};
use sarsen_store::events::{Event, ReadError, ReadSpec, Which};
use sarsen_store::memory::{Fate, Image, MemDisk};
use sarsen_store::store::SPILL_FROM;
use sarsen_store::{Opened, Options, SliceRegion, Store, Token};
use sarsen_types::record::{Body, Content, Entry, Recover, Write};
use sarsen_types::*;
use smallvec::smallvec;

pub const GROUP: GroupId = GroupId(3);
pub const FAMILY: FamilyId = FamilyId(5);
const DRIVE: DriveIdentity = DriveIdentity(0x77);

pub fn object(chunk: u32) -> ObjectId {
    ObjectId::new(1, chunk)
}
pub fn one(block: u16) -> BlockRange {
    BlockRange::new(block, 1)
}

pub struct Bench {
    pub store: Store<MemDisk>,
    pub opened: Opened,
    pub noticed: Vec<String>,
    region: SliceRegion,
    pool: Pool,
    size: u64,
    memory: usize,
    is_durable: bool,
    spill_from: usize,
    open: u128,
    next: u64,
    /// The epoch of what is written.
    pub epoch: u32,
    pub persisted: Vec<Token>,
    pub refused: Vec<Token>,
}

impl Bench {
    pub fn new(size: u64, memory: usize) -> Bench {
        Bench::with(size, memory, true)
    }

    pub fn with(size: u64, memory: usize, is_durable: bool) -> Bench {
        let mut disk = MemDisk::new(size);
        let region = format(&mut disk, FormatParams { identity: DRIVE, slices: 1 }).unwrap().slices[0];
        Bench::over(disk.image().clone(), region, size, memory, is_durable, SPILL_FROM, 1)
    }

    /// The same, started again, that writes runs wherever it can (S13).
    pub fn spilling(self) -> Bench {
        self.spilling_from(1)
    }

    /// The same, started again, that writes runs in place of so many leaves.
    pub fn spilling_from(self, leaves: usize) -> Bench {
        let again = Bench { spill_from: leaves, ..self };
        again.restarted(again.image())
    }

    fn over(
        image: Image,
        region: SliceRegion,
        size: u64,
        memory: usize,
        is_durable: bool,
        spill_from: usize,
        open: u128,
    ) -> Bench {
        let pool = Pool::new();
        let mut disk = MemDisk::from_image(size, image);
        disk.is_durable = is_durable;
        let usual = Options::new(pool.clone(), slice_identity(DRIVE, 0), OpenId(open), memory);
        let options = Options { spill_from, ..usual };
        let (store, opened) = Store::open(disk, region, options).unwrap();
        let (noticed, persisted, refused) = (vec![], vec![], vec![]);
        Bench {
            store,
            opened,
            noticed,
            region,
            pool,
            size,
            memory,
            is_durable,
            spill_from,
            open,
            next: 1,
            epoch: 1,
            persisted,
            refused,
        }
    }

    /// The same store after a crash that left this.
    pub fn restarted(&self, image: Image) -> Bench {
        let Bench { region, size, memory, is_durable, spill_from, open, .. } = *self;
        let again = Bench::over(image, region, size, memory, is_durable, spill_from, open + 1);
        Bench { next: self.next, epoch: self.epoch, ..again }
    }

    /// The same after power was lost: `fate` says of each block that was written and not durable what became of it.
    pub fn crashed(mut self, fate: impl FnMut() -> Fate) -> Bench {
        let disk = std::mem::replace(self.store.disk_mut(), MemDisk::new(0));
        self.restarted(disk.crash(fate))
    }

    /// A clean stop and start.
    pub fn restart(self) -> Bench {
        let Bench { region, size, memory, is_durable, spill_from, open, next, epoch, .. } = self;
        let image = self.store.close().image().clone();
        Bench { next, epoch, ..Bench::over(image, region, size, memory, is_durable, spill_from, open + 1) }
    }

    pub fn version(&self) -> Version {
        Version::new(Epoch(self.epoch), self.next - 1)
    }

    pub fn persist(&mut self, body: Body, payload: Option<sarsen_buffer::Buf>) -> Token {
        let token = Token(self.next);
        self.store.persist(token, Record { group: GROUP, promise: Epoch(self.epoch), body }, payload);
        token
    }

    /// Asks for a write of blocks whose first byte is `content`; 0: a discard.
    pub fn write(&mut self, object: ObjectId, range: BlockRange, content: u8) -> Version {
        let version = Version::new(Epoch(self.epoch), self.next);
        let mut payload = self.pool.take_zeroed(range.bytes());
        payload.get_mut().chunks_exact_mut(4096).for_each(|block| block[0] = content);
        let sum = |block: u16| block_checksum(FAMILY, object.chunk, block, &payload[..4096]);
        let write = Write {
            version,
            object,
            family: FAMILY,
            range,
            content: match content {
                0 => Content::Zero,
                _ => Content::Data(range.blocks().map(sum).collect()),
            },
            requests: smallvec![],
            marks: smallvec![],
            takeover: None,
        };
        self.persist(Body::Write(write), (content != 0).then_some(payload));
        self.next += 1;
        version
    }

    /// Asks for a recovery of blocks, absent or with this content.
    pub fn recover(
        &mut self,
        object: ObjectId,
        range: BlockRange,
        since: u32,
        content: Option<u8>,
        version: Version,
    ) {
        let mut payload = self.pool.take_zeroed(range.bytes());
        let byte = content.unwrap_or(0);
        payload.get_mut().chunks_exact_mut(4096).for_each(|block| block[0] = byte);
        let entry = |block: u16| match content {
            Some(_) => Entry::Data(version, block_checksum(FAMILY, object.chunk, block, &payload[..4096])),
            None => Entry::Absent,
        };
        let entries = range.blocks().map(entry).collect();
        let recover = Recover {
            object,
            family: FAMILY,
            since: Epoch(since),
            first: range.first,
            entries,
            touched: version,
        };
        self.persist(Body::Recover(recover), content.is_some().then_some(payload));
        self.next += 1;
    }

    /// Asks for a repair of a block with this content.
    pub fn repair(&mut self, object: ObjectId, block: u16, content: u8, version: Version) {
        let mut payload = self.pool.take_zeroed(4096);
        payload.get_mut()[0] = content;
        let checksum = block_checksum(FAMILY, object.chunk, block, &payload);
        self.persist(Body::Repair { object, family: FAMILY, block, version, checksum }, Some(payload));
        self.next += 1;
    }

    pub fn turn(&mut self) {
        let mut events = Vec::new();
        self.store.finish(Instant(0), &mut events);
        for event in events {
            match event {
                Event::Persisted(token) => self.persisted.push(token),
                Event::NoSpace(token) => self.refused.push(token),
                Event::Noticed(what) => self.noticed.push(what),
                Event::Failed(why) => panic!("{why}"),
                _ => {}
            }
        }
    }

    /// Turns until nothing is asked any more.
    pub fn quiet(&mut self) {
        self.store.flush_queue();
        (0..4).for_each(|_| self.turn());
    }

    /// All that was written is committed.
    pub fn settle(&mut self) {
        self.quiet();
        self.store.raise_floor(GROUP, self.version());
    }

    pub fn checkpoint(&mut self) {
        self.settle();
        self.store.force_checkpoint();
        self.turn();
    }

    pub fn audit(&mut self) {
        self.store.audit().unwrap_or_else(|why| panic!("the map is wrong: {why}"));
        self.turn();
    }

    /// Asks for a block.
    pub fn ask(&mut self, object: ObjectId, block: u16) {
        let spec = ReadSpec {
            group: GROUP,
            layers: smallvec![object.layer],
            family: FAMILY,
            chunk: object.chunk,
            range: one(block),
            which: Which::Visible,
        };
        self.store.read(Token(0), spec);
    }

    /// A turn: the first byte of the block that was asked, when it came; 0 where nothing is.
    pub fn answer(&mut self) -> Option<Result<u8, ReadError>> {
        let mut events = Vec::new();
        let mut answer = None;
        self.store.finish(Instant(0), &mut events);
        for event in events {
            match event {
                Event::Read(_, result) => answer = Some(result.map(|r| r.data.map_or(0, |d| d[0]))),
                Event::Noticed(what) => self.noticed.push(what),
                Event::Persisted(token) => self.persisted.push(token),
                _ => {}
            }
        }
        answer
    }

    pub fn read(&mut self, object: ObjectId, block: u16) -> Result<u8, ReadError> {
        self.ask(object, block);
        (0..16).find_map(|_| self.answer()).expect("a read is answered")
    }

    pub fn used(&self) -> u64 {
        self.store.space().used_blocks
    }

    pub fn region(&self) -> SliceRegion {
        self.region
    }

    /// The block of the disk where block `block` of the slice lies.
    pub fn on_disk(&self, block: u64) -> u64 {
        self.region.offset / 4096 + block
    }

    pub fn image(&self) -> Image {
        self.store.disk().image().clone()
    }
}

/// Lets everything end that is in flight.
pub fn let_go(bench: &mut Bench) {
    bench.store.disk_mut().is_held = false;
    while bench.store.disk_mut().waiting() > 0 {
        bench.store.disk_mut().complete(0);
        bench.turn();
    }
    (0..4).for_each(|_| bench.turn());
}
