//! L8: once it has grown, a store allocates nothing for a write, a floor or a read. (What a checkpoint does beside them is not
//! counted here: this one never comes to one.)
use sarsen_buffer::{Buf, Pool, block_checksum};
use sarsen_store::disk::{Bufs, Completion, Disk, OpId};
use sarsen_store::drive::{FormatParams, format, slice_identity};
use sarsen_store::events::{Event, ReadSpec, Which};
use sarsen_store::memory::MemDisk;
use sarsen_store::{Options, Store, Token};
use sarsen_types::record::{Body, Content, Write};
use sarsen_types::*;
use smallvec::smallvec;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: the system's allocator, asked as we are.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A disk that keeps nothing of what is written once it is set so, and allocates nothing.
struct Forgetful {
    disk: MemDisk,
    forgets: bool,
    done: Vec<Completion>,
}

impl Forgetful {
    fn end(&mut self, id: OpId, buf: Option<Buf>) {
        self.done.push(Completion { id, buf, result: Ok(()) });
    }
}

impl Disk for Forgetful {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn read(&mut self, id: OpId, offset: u64, mut buf: Buf) {
        match self.forgets {
            true => {
                buf.get_mut().fill(0);
                self.end(id, Some(buf));
            }
            false => self.disk.read(id, offset, buf),
        }
    }
    fn write(&mut self, id: OpId, offset: u64, bufs: Bufs) {
        match self.forgets {
            true => self.end(id, None),
            false => self.disk.write(id, offset, bufs),
        }
    }
    fn flush(&mut self, id: OpId) {
        match self.forgets {
            true => self.end(id, None),
            false => self.disk.flush(id),
        }
    }
    fn trim(&mut self, id: OpId, offset: u64, len: u64) {
        self.disk.trim(id, offset, len);
    }
    fn writes_are_durable(&self) -> bool {
        true
    }
    fn poll(&mut self, out: &mut Vec<Completion>) {
        self.disk.poll(out);
        out.append(&mut self.done);
    }
    fn wait(&mut self, out: &mut Vec<Completion>) {
        self.disk.wait(out);
        out.append(&mut self.done);
    }
}

const GROUP: GroupId = GroupId(3);
const FAMILY: FamilyId = FamilyId(5);
/// Writes and reads of one turn.
const TURN: u64 = 6;

struct Load {
    store: Store<Forgetful>,
    pool: Pool,
    events: Vec<Event>,
    done: u64,
}

impl Load {
    fn place(n: u64) -> (ObjectId, BlockRange) {
        (ObjectId::new(1, (n % 7) as u32), BlockRange::new((n * 37 % 1000) as u16, 1))
    }

    fn write(&mut self, n: u64) {
        let (object, range) = Load::place(n);
        let payload = self.pool.take_zeroed(4096);
        let sum = block_checksum(FAMILY, object.chunk, range.first, &payload);
        let write = Write {
            version: Version::new(Epoch(1), n),
            object,
            family: FAMILY,
            range,
            content: Content::Data(smallvec![sum]),
            requests: smallvec![],
            marks: smallvec![],
            takeover: None,
        };
        let record = Record { group: GROUP, promise: Epoch(1), body: Body::Write(write) };
        self.store.persist(Token(n), record, Some(payload));
    }

    fn read(&mut self, n: u64) {
        let (object, range) = Load::place(n);
        let layers = smallvec![object.layer];
        let which = Which::Visible;
        let spec = ReadSpec { group: GROUP, layers, family: FAMILY, chunk: object.chunk, range, which };
        self.store.read(Token(n), spec);
    }

    fn turn(&mut self, turn: u64, mut ask: impl FnMut(&mut Load, u64)) {
        (1..=TURN).for_each(|n| ask(self, turn * TURN + n));
        self.store.submit(Instant(0));
        let mut events = std::mem::take(&mut self.events);
        self.store.poll(Instant(0), &mut events);
        self.done += events.len() as u64;
        events.clear();
        self.events = events;
        self.store.raise_floor(GROUP, Version::new(Epoch(1), turn * TURN));
    }
}

fn allocations(work: impl FnOnce()) -> u64 {
    let before = COUNT.with(Cell::get);
    work();
    COUNT.with(Cell::get) - before
}

#[test]
fn a_write_and_a_read_allocate_nothing() {
    let pool = Pool::new();
    let identity = DriveIdentity(0x77);
    let mut disk = MemDisk::new(64 << 30);
    let region = format(&mut disk, FormatParams { identity, slices: 1 }).unwrap().slices[0];
    let disk = Forgetful { disk, forgets: false, done: Vec::new() };
    let options = Options::new(pool.clone(), slice_identity(identity, 0), OpenId(1), 256 << 20);
    let (mut store, _) = Store::open(disk, region, options).unwrap();
    store.disk_mut().forgets = true;
    let mut load = Load { store, pool, events: Vec::new(), done: 0 };
    const WARM: u64 = 4_000;
    const TURNS: u64 = 2_000;
    (0..WARM).for_each(|turn| load.turn(turn, Load::write));
    let (done, before) = (load.done, allocations(|| ()));
    let writes = allocations(|| (WARM..WARM + TURNS).for_each(|turn| load.turn(turn, Load::write)));
    assert_eq!((load.done - done, before), (TURNS * TURN, 0));
    (0..10).for_each(|turn| load.turn(turn, Load::read));
    let reads = allocations(|| (0..TURNS).for_each(|turn| load.turn(turn, Load::read)));
    assert!(load.done >= done + 2 * TURNS * TURN);
    assert_eq!((writes, reads), (0, 0), "of {} each", TURNS * TURN);
}
