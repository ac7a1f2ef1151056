//! A slice over a real store, stopped and opened again: what the rules call durable outlives the journal (S13, R21).
use sarsen_buffer::{Pool, block_checksum};
use sarsen_slice::{Config, ConnId, Input, LeaseMode, Memory, Output, Slice};
use sarsen_store::drive::{self, FormatParams, slice_identity};
use sarsen_store::memory::{Fate, Image, MemDisk};
use sarsen_store::{Options, SliceRegion, Store};
use sarsen_types::view::{AttachmentView, LayerView, VolumeView};
use sarsen_types::*;
use sarsen_wire::client::{ClientOp, ClientRequest, ClientResult};
use std::sync::Arc;

const BYTES: u64 = 64 << 20;
const ME: SliceId = SliceId::new(1, 0);
const GROUP: GroupId = GroupId(3);
const STEP: Duration = Duration::from_millis(20);

/// The one copy of one group.
struct Sole {
    now: Instant,
    pool: Pool,
    region: SliceRegion,
    slice: Option<Slice<MemDisk>>,
    epoch: Epoch,
    opens: u128,
    results: Vec<ClientResult>,
}

impl Sole {
    fn new() -> Sole {
        let mut disk = MemDisk::new(BYTES);
        let params = FormatParams { identity: DriveIdentity(9), slices: 1 };
        let superblock = drive::format(&mut disk, params).expect("it fits");
        let mut sole = Sole {
            now: Instant(1_000_000_000),
            pool: Pool::new(),
            region: superblock.slices[0],
            slice: None,
            epoch: Epoch(0),
            opens: 0,
            results: vec![],
        };
        sole.open(disk.crash(|| Fate::Kept));
        sole
    }

    /// Opened and registered: it leads, in a new epoch (R1).
    fn open(&mut self, image: Image) {
        self.opens += 1;
        self.epoch = self.epoch.next();
        let mut disk = MemDisk::from_image(BYTES, image);
        let mut superblock = drive::read(&mut disk).expect("a superblock");
        drive::begin_open(&mut disk, &mut superblock, OpenId(self.opens)).expect("the disk writes");
        let identity = slice_identity(DriveIdentity(9), 0);
        let options = Options::new(self.pool.clone(), identity, OpenId(self.opens), 16 << 20);
        let (store, _) = Store::open(disk, self.region, options).expect("it opens");
        let config = Config {
            id: ME,
            lease: LeaseMode::Clock,
            started: self.now,
            memory: Memory::default(),
            epoch_writes: limits::EPOCH_WRITES,
        };
        self.slice = Some(Slice::new(config, store, self.pool.clone()));
        let state = GroupState {
            group: GROUP,
            epoch: self.epoch,
            primary: ME,
            primary_since: self.epoch,
            in_sync: vec![ME],
            joining: vec![],
            complete: vec![ME],
            could_commit: self.epoch,
            members: vec![Member { slice: ME, assignment: 1 }],
            min_copies: 1,
            is_damaged: false,
        };
        let mut view =
            View { revision: Revision(u64::from(self.epoch.0)), groups: vec![state], ..View::default() };
        view.layers.insert(LayerId(1), LayerView { family: FamilyId(1), parent: None });
        view.volumes
            .insert(VolumeId(1), VolumeView { head: LayerId(1), size: 64 << 20, changed: Revision(1) });
        let (generation, session) = (Generation(1), SessionId(1));
        view.attachments.insert(
            AttachmentId(1),
            AttachmentView { volume: VolumeId(1), generation, session, read_only: false },
        );
        self.step(Input::Registered { view: Arc::new(view), is_stale: false });
        for _ in 0..100 {
            self.turn(); // GRACE after the start (R2)
        }
    }

    fn step(&mut self, input: Input) {
        let mut out = vec![];
        self.slice.as_mut().expect("it is open").step(self.now, input, &mut out);
        self.take(out);
        self.turn();
    }

    fn turn(&mut self) {
        self.now += STEP;
        let mut out = vec![];
        let slice = self.slice.as_mut().expect("it is open");
        slice.finish(self.now, &mut out);
        slice.submit(self.now);
        slice.finish(self.now, &mut out);
        self.take(out);
    }

    fn take(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Reply { reply, .. } => self.results.push(reply.result),
                Output::Failed(why) => panic!("{why}"),
                _ => {}
            }
        }
    }

    fn ask(&mut self, number: u64, op: ClientOp, fill: Option<u8>) -> ClientResult {
        let payload = fill.map(|byte| {
            let mut block = self.pool.take_zeroed(BLOCK_SIZE);
            block.get_mut().fill(byte);
            block
        });
        let request = ClientRequest {
            group: GROUP,
            revision: Revision(1),
            id: RequestId {
                attachment: AttachmentId(1),
                generation: Generation(1),
                session: SessionId(1),
                number,
                ..RequestId::default()
            },
            answered_below: 0,
            volume: VolumeId(1),
            layer: LayerId(1),
            chunk: ChunkIndex(0),
            op,
        };
        self.results.clear();
        self.step(Input::Client { conn: ConnId(1), request, payload });
        for _ in 0..20 {
            self.turn();
        }
        assert_eq!(self.results.len(), 1, "{:?}", self.results);
        self.results.remove(0)
    }

    fn write(&mut self, number: u64, byte: u8) -> ClientResult {
        let sum = block_checksum(FamilyId(1), ChunkIndex(0), 5, &[byte; BLOCK_SIZE]);
        let op = ClientOp::Write { offset: 5 * 4096, len: 4096, checksums: std::iter::once(sum).collect() };
        self.ask(number, op, Some(byte))
    }

    fn checksum(&mut self, number: u64) -> Checksum {
        match self.ask(number, ClientOp::Read { range: BlockRange::new(5, 1) }, None) {
            ClientResult::Data { checksums, .. } => checksums[0],
            other => panic!("{other:?}"),
        }
    }

    /// The power goes: what was not synced is lost.
    fn power_cut(&mut self) -> Image {
        let store = self.slice.take().expect("it is open").into_store();
        store.into_disk().crash(|| Fate::Lost)
    }
}

#[test]
fn a_retry_after_checkpoints_and_a_full_restart_is_answered_and_not_done_again() {
    let mut sole = Sole::new();
    assert_eq!(sole.write(1, 7), ClientResult::Done);
    assert_eq!(sole.write(2, 8), ClientResult::Done);
    let latest = sole.checksum(100);
    for _ in 0..2 {
        // the second trims what the first still needed
        sole.slice.as_mut().expect("it is open").store_mut().force_checkpoint();
    }
    let image = sole.power_cut();
    sole.open(image);
    assert_eq!(sole.write(1, 7), ClientResult::Done, "its answer was lost, and it is asked for again");
    assert_eq!(sole.checksum(101), latest);
    assert_eq!(sole.slice.as_ref().expect("it is open").counters().answered_from_record, 1);
}

#[test]
fn what_a_copy_promised_outlives_its_journal() {
    // R5: after a checkpoint, a power cut and an older view, a lower epoch is still refused
    let mut sole = Sole::new();
    for _ in 0..3 {
        let image = sole.power_cut();
        sole.open(image);
    }
    assert_eq!(sole.write(1, 7), ClientResult::Done);
    for _ in 0..2 {
        sole.slice.as_mut().expect("it is open").store_mut().force_checkpoint();
    }
    let image = sole.power_cut();
    sole.open(image);
    let ledger = sole.slice.as_ref().expect("it is open").store().ledger(GROUP).expect("a ledger").clone();
    assert!(ledger.promise >= Epoch(4) && ledger.assignment == 1, "{ledger:?}");
}
