//! Whatever lies on a drive, decoders give a value or an error: no panic, no end that does not come, no memory for a count
//! that nothing backs.
//!
//! Flipped bits end at a checksum. So that what lies behind it is met as well, nonsense is also sealed as a program with an
//! error would have sealed it, with the pointers that name it set right.
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sarsen_buffer::{Pool, block_checksum, bytes_checksum};
use sarsen_store::bytes::{Reader, Writer, get_record, put_record};
use sarsen_store::disk::{Disk, OpId};
use sarsen_store::drive::{FormatParams, begin_open, format, inspect, read, slice_identity};
use sarsen_store::events::Event;
use sarsen_store::group::{Group, Left};
use sarsen_store::memory::{Image, MemDisk};
use sarsen_store::page::{PageKind, Twin, seal, unseal};
use sarsen_store::{OpenError, Options, Store, Token, journal, leaf, run, table};
use sarsen_types::record::{Body, Content, Entry, Point, Recover, Table, Write};
use sarsen_types::*;
use smallvec::smallvec;
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

const SIZE: u64 = 36 << 20;
const DRIVE: DriveIdentity = DriveIdentity(0x77 << 64);
/// A decoder may ask for so many bytes at once: replay reads 1 MiB of the ring at a time, the longest input is 128 KiB.
const ALLOCATION_MAX: usize = 2 << 20;

/// Notes the largest allocation.
struct Watched;
static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}
#[global_allocator]
static WATCHED: Watched = Watched;

fn assert_modest() {
    let largest = LARGEST.load(Ordering::Relaxed);
    assert!(largest <= ALLOCATION_MAX, "{largest} bytes were asked for at once");
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(otherwise)
}

/// Runs with `SEEDS` seeds from `SEED` on, and says which one it was.
fn seeds(count: u64, mut each: impl FnMut(&mut SmallRng)) {
    let first = number("SEED", 1);
    for seed in first..first + number("SEEDS", count) {
        let told = Told(seed);
        each(&mut SmallRng::seed_from_u64(seed));
        std::mem::forget(told);
    }
    assert_modest();
}

struct Told(u64);
impl Drop for Told {
    fn drop(&mut self) {
        println!("SEED={} SEEDS=1", self.0);
    }
}

/// Makes bytes wrong from `from` on: bits, numbers at their limits, noise; the length too where it may.
fn spoil(rng: &mut SmallRng, bytes: &mut Vec<u8>, from: usize, may_cut: bool) {
    for _ in 0..rng.random_range(1..4) {
        if bytes.len() < from + 16 {
            return;
        }
        let near = if rng.random_bool(0.5) { (from + 128).min(bytes.len() - 8) } else { bytes.len() - 8 };
        let at = rng.random_range(from..near);
        match rng.random_range(0..100) {
            0..30 => bytes[at] ^= 1 << rng.random_range(0..8),
            30..70 => {
                let len = [1, 2, 4, 5, 8][rng.random_range(0..5)];
                let any =
                    [0, 1, 2, 171, 1023, 1024, 1025, 4096, 1 << 31, 1 << 38, 1 << 39, u64::MAX, rng.random()];
                let value: u64 = any[rng.random_range(0..any.len())];
                bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
            }
            70..85 => {
                let end = (at + rng.random_range(1..64)).min(bytes.len());
                rng.fill(&mut bytes[at..end]);
            }
            _ if may_cut => bytes.truncate(at),
            _ => rng.fill(&mut bytes[from..]),
        }
    }
}

// ---- samples ----

fn object(n: u64) -> ObjectId {
    ObjectId::new(7, n as u32)
}

fn note(n: u64) -> RequestNote {
    let id =
        RequestId { attachment: AttachmentId(8), session: SessionId(4), number: n, ..RequestId::default() };
    RequestNote { id, object: object(n % 3), range: BlockRange::new(9, 2) }
}

fn write(version: u64, at: ObjectId, range: BlockRange, content: Content) -> Body {
    Body::Write(Write {
        version: Version::new(Epoch(1), version),
        object: at,
        family: FamilyId(5),
        range,
        content,
        requests: smallvec![note(version)],
        marks: smallvec![Mark {
            attachment: AttachmentId(8),
            session: SessionId(4),
            queue: QueueId(1),
            below: 2
        }],
        takeover: None,
    })
}

/// Records of every kind.
fn bodies() -> Vec<Body> {
    let (family, version, checksum) = (FamilyId(5), Version::new(Epoch(1), 2), Checksum(6));
    let range = BlockRange::new(9, 2);
    let mut takeover = write(3, object(1), range, Content::Zero);
    if let Body::Write(w) = &mut takeover {
        w.takeover = Some(vec![note(3), note(4)]);
    }
    let entries = vec![Entry::Data(version, checksum), Entry::Absent, Entry::Zero(version)];
    let touched = version;
    let table = Table {
        since: Epoch(1),
        is_first: true,
        sessions: vec![(AttachmentId(8), Generation(2), SessionId(4))],
        marks: vec![Mark::default()],
        requests: vec![(note(1), version), (note(2), version)],
        point: Some(Point { floor: version, forgotten: version }),
    };
    vec![
        Body::Promise,
        Body::Assign { assignment: 4 },
        write(1, object(1), range, Content::Data(smallvec![checksum, checksum])),
        takeover,
        Body::Recover(Recover { object: object(2), family, since: Epoch(1), first: 1021, entries, touched }),
        Body::Table(table),
        Body::JoinBegan,
        Body::Repair { object: object(1), family, block: 9, version, checksum },
        Body::Distrust,
        Body::Fence { attachment: AttachmentId(8), generation: Generation(3) },
        Body::DropLayer { layer: LayerId(7) },
        Body::DropGroup,
        Body::Forget { attachment: AttachmentId(8) },
    ]
}

fn record(body: Body) -> Record {
    Record { group: GroupId(3), promise: Epoch(1), body }
}

fn journal_block(pool: &Pool, bodies: &[Body]) -> Vec<u8> {
    let mut draft = journal::Draft::default();
    draft.floor(GroupId(3), Version(1), Version(2));
    for body in bodies {
        let record = record(body.clone());
        let places: Vec<u64> = (0..u64::from(record.data_blocks())).map(|n| 1000 + n).collect();
        assert!(draft.record(&record, &places));
    }
    let ring = journal::Ring { first: 256, units: 512, drive: DRIVE, open: OpenId(1) };
    draft.seal(pool, &ring, journal::Head { unit: 0, sequence: 1, previous: 0 }, 0, 0).0.to_vec()
}

/// A good one of everything that is decoded.
fn samples() -> Vec<Vec<u8>> {
    let pool = Pool::new();
    let mut entries = leaf::Entries::default();
    let held = |n: u64| {
        let place = sarsen_store::place::Place::data(n);
        sarsen_store::place::Held { version: Version(n), place, checksum: Checksum(n) }
    };
    (0..150).for_each(|b| entries.set(b, held(1000 + u64::from(b))));
    let line = |n: u64| (object(n), table::Line { touched: Version(n), presence: n, ..Default::default() });
    let lines: Vec<_> = (0..40).map(line).collect();
    let slot = |n: u64| table::Slot { first: object(n), lines: 3, ..Default::default() };
    let slots: Vec<_> = (0..table::SLOTS_MAX as u64).map(slot).collect();
    let mut in_run = run::Entries::new();
    for n in 0..150u64 {
        let mut stack = sarsen_store::stack::Stack::default();
        stack.write(held(2000 + n));
        if n % 3 == 0 {
            stack.recover(held(1), Version(2));
        }
        in_run.insert((object(n / 10), (n % 10 * 7) as u16), stack);
    }
    let runs = run::Run::of(in_run.keys(), Twin { at: [8, 9], sum: 3 });
    let pages = [
        (PageKind::Run, run::pack(&in_run).remove(0).0),
        (PageKind::Runs, run::put_list(&[runs.clone(), runs])),
        (PageKind::Dense, entries.dense(0)),
        (PageKind::Sparse, entries.sparse().unwrap()),
        (PageKind::Table, table::put_lines(&lines)),
        (PageKind::Index, table::put_slots(&slots)),
    ];
    let mut samples: Vec<Vec<u8>> = pages.iter().map(|(k, p)| seal(&pool, *k, p).0.to_vec()).collect();
    samples.push(journal_block(&pool, &bodies()));
    samples.extend(bodies().iter().map(|body| journal_block(&pool, std::slice::from_ref(body))));
    samples.push(Vec::new());
    samples
}

/// Sets the checksum in front right.
fn reseal(bytes: &mut [u8]) {
    if bytes.len() > 8 {
        let sum = bytes_checksum(&bytes[8..]).0;
        bytes[..8].copy_from_slice(&sum.to_le_bytes());
    }
}

// ---- decoders by themselves ----

const KINDS: [PageKind; 11] = [
    PageKind::Dense,
    PageKind::Sparse,
    PageKind::Table,
    PageKind::Stream,
    PageKind::List,
    PageKind::Root,
    PageKind::Super,
    PageKind::Index,
    PageKind::Bitmap,
    PageKind::Run,
    PageKind::Runs,
];

/// Gives bytes to every decoder; counts those that gave a value.
fn feed(bytes: &[u8]) -> usize {
    let mut values = 0;
    for kind in KINDS {
        values += usize::from(unseal(bytes, kind, None).is_ok());
        values += usize::from(unseal(bytes, kind, Some(7)).is_ok());
    }
    for from in [0, 16, 80] {
        values += payload(bytes.get(from..).unwrap_or_default());
    }
    values += usize::from(journal::peek(bytes, DRIVE).is_ok());
    if let Ok(block) = journal::open(bytes) {
        values += 1;
        let mut group = Group::default();
        for (record, places) in &block.records {
            group.apply(record, places, &mut Left::default());
        }
        group.settle(Version(u64::MAX), &mut Vec::new());
    }
    values
}

fn payload(bytes: &[u8]) -> usize {
    for kind in [PageKind::Dense, PageKind::Sparse] {
        let is_right = leaf::check(kind, bytes).is_ok();
        let mut entries = leaf::Entries::default();
        entries.read(kind, 5, bytes);
        for block in [0, 9, 170, 171, 1023] {
            let found = leaf::entry(kind, bytes, block);
            assert!(!is_right || kind == PageKind::Dense || entries.get(block) == found);
        }
    }
    let mut values = usize::from(table::get_slots(bytes).is_ok_and(|s| s.len() <= table::SLOTS_MAX));
    if let Ok(lines) = table::lines(bytes) {
        values += 1;
        assert!(lines.len() * 100 <= bytes.len());
    }
    table::find_line(bytes, object(3));
    if let Ok(entries) = run::entries(bytes) {
        values += 1;
        for ((id, block), stack) in &entries {
            assert_eq!(run::find(bytes, *id, *block).as_ref(), Some(stack));
        }
    }
    run::find(bytes, object(3), 7);
    if let Ok(runs) = run::list(bytes) {
        values += 1;
        assert!(run::may_have(bytes, object(3), 7).len() <= runs.len());
    }
    let mut r = Reader::new(bytes);
    if let Ok((record, places)) = get_record(&mut r) {
        values += 1;
        let mut w = Writer::default();
        put_record(&mut w, &record, &places);
        let again =
            get_record(&mut Reader::new(&w.0)).expect("what was decoded can be written and decoded again");
        assert_eq!(again, (record, places));
    }
    values
}

#[test]
fn any_bytes_are_a_value_or_an_error() {
    let samples = samples();
    assert!(samples.iter().filter(|s| feed(s) > 2).count() > 10, "the samples are good ones");
    seeds(1500, |rng| {
        let mut bytes = samples[rng.random_range(0..samples.len())].clone();
        if bytes.is_empty() {
            bytes = (0..rng.random_range(0..6000)).map(|_| rng.random()).collect();
        }
        let is_resealed = rng.random_bool(0.7);
        spoil(rng, &mut bytes, if is_resealed { 8 } else { 0 }, true);
        if is_resealed {
            reseal(&mut bytes);
        }
        feed(&bytes);
    });
}

// ---- whole drives ----

fn disk_of(image: &Image) -> MemDisk {
    let mut disk = MemDisk::from_image(SIZE, image.clone());
    disk.is_durable = true;
    disk
}

/// The drive with these blocks in the place of its own.
fn disk_with(image: &Image, pages: &BTreeMap<u64, Vec<u8>>) -> MemDisk {
    let mut disk = disk_of(image);
    for (block, bytes) in pages.iter().filter(|(block, bytes)| image.block(**block).as_ref() != Some(*bytes))
    {
        disk.write(OpId(0), block * 4096, smallvec![Pool::new().copy_of(bytes)]);
    }
    disk.poll(&mut Vec::new());
    disk
}

fn options(pool: &Pool) -> Options {
    Options::new(pool.clone(), slice_identity(DRIVE, 0), OpenId(2), 1 << 20)
}

/// A drive with a checkpoint, entries that are not merged, and a journal after it.
fn image() -> Image {
    let pool = Pool::new();
    let mut disk = MemDisk::new(SIZE);
    disk.is_durable = true;
    let mut superblock = format(&mut disk, FormatParams { identity: DRIVE, slices: 1 }).unwrap();
    begin_open(&mut disk, &mut superblock, OpenId(2)).unwrap();
    let mut store = Store::open(disk, superblock.slices[0], options(&pool)).unwrap().0;
    let mut version = 0;
    let mut persist = |store: &mut Store<MemDisk>, chunk: u64, first: u16, count: u16| {
        version += 1;
        let data = vec![version as u8; 4096];
        let sum = |b| block_checksum(FamilyId(5), ChunkIndex(chunk as u32), b, &data);
        let range = BlockRange::new(first, count);
        let content = Content::Data(range.blocks().map(sum).collect());
        let mut payload = pool.take(range.bytes());
        payload.get_mut().fill(version as u8);
        store.persist(Token(0), record(write(version, object(chunk), range, content)), Some(payload));
        store.flush_queue();
    };
    for first in 0..4 {
        persist(&mut store, 0, 64 * first, 64);
    }
    persist(&mut store, 1, 1000, 3);
    store.raise_floor(GroupId(3), Version::new(Epoch(1), 4));
    persist(&mut store, 0, 5, 1);
    store.force_checkpoint();
    let drops = |b: &Body| matches!(b, Body::Assign { .. } | Body::DropLayer { .. } | Body::DropGroup);
    for body in bodies().into_iter().filter(|b| !drops(b)) {
        let record = record(body);
        let payload =
            (record.data_blocks() > 0).then(|| pool.take_zeroed(4096 * record.data_blocks() as usize));
        store.persist(Token(0), record, payload);
        store.flush_queue();
    }
    persist(&mut store, 1, 4, 2);
    store.into_disk().image().clone()
}

/// Pages and journal blocks, as far as they still mean something or did so before.
fn metadata(image: &Image) -> BTreeMap<u64, Vec<u8>> {
    let is_ours = |b: &Vec<u8>| matches!(&b[8..12], b"SMP1" | b"SJB1");
    let bytes = |block| image.block(block).filter(is_ours).map(|b| (block, b));
    image.blocks().filter_map(bytes).collect()
}

/// Opens a drive as a node does, and looks at all it holds: entries, and objects of which a leaf is bad.
fn open(mut disk: MemDisk) -> Result<(usize, usize), OpenError> {
    inspect(&mut disk).to_string();
    let superblock = read(&mut disk)?;
    let (mut entries, mut bad) = (0, 0);
    for region in &superblock.slices {
        let (mut store, _) = Store::open(disk_of(disk.image()), *region, options(&Pool::new()))?;
        for group in store.groups().collect::<Vec<_>>() {
            let (found, lost) = store.top_entries(group);
            (entries, bad) = (entries + found.len(), bad + lost.len());
        }
    }
    Ok((entries, bad))
}

#[test]
fn one_rotten_block_of_any_kind_keeps_no_drive_from_opening() {
    let image = image();
    let whole = open(disk_of(&image)).unwrap();
    assert!(whole.0 > 259 && whole.1 == 0);
    let mut rng = SmallRng::seed_from_u64(number("SEED", 1));
    for (block, bytes) in metadata(&image) {
        let mut rotten = image.clone();
        rotten.rot(block, rng.random_range(0..4096 * 8));
        let found = open(disk_of(&rotten)).unwrap_or_else(|why| panic!("block {block}: {why}"));
        match (&bytes[8..12], bytes[14]) {
            (b"SJB1", _) => assert!(found.0 >= 259, "block {block} of the journal: {found:?}"),
            (_, 1 | 2) => assert_eq!(found.1, 1, "the leaf at block {block}"),
            _ => assert_eq!(found, whole, "block {block} lies in two places"),
        }
    }
    assert_modest();
}

#[test]
fn many_rotten_blocks_are_an_error_or_a_drive() {
    let image = image();
    let blocks: Vec<u64> = metadata(&image).into_keys().collect();
    let mut refused = 0;
    seeds(40, |rng| {
        let mut rotten = image.clone();
        for _ in 0..rng.random_range(2..2 * blocks.len()) {
            rotten.rot(blocks[rng.random_range(0..blocks.len())], rng.random_range(0..4096 * 8));
        }
        refused += u64::from(open(disk_of(&rotten)).is_err());
    });
    assert!(refused > 0, "what is rotten in both places is refused");
}

/// Puts `new` where `old` was, sealed, and the pages that name it with it.
fn replace(pages: &mut BTreeMap<u64, Vec<u8>>, old: &[u8], mut new: Vec<u8>) {
    reseal(&mut new);
    if new == old {
        return;
    }
    let (old_sum, new_sum) = (&old[..4], new[..4].to_vec());
    pages.values_mut().filter(|p| p[..] == *old).for_each(|p| p.clone_from(&new));
    let names = |p: &Vec<u8>| p[16..].windows(4).position(|w| w == old_sum).filter(|_| p[8..12] == *b"SMP1");
    while let Some((parent, at)) = pages.values().find_map(|p| names(p).map(|at| (p.clone(), at + 16))) {
        let mut changed = parent.clone();
        changed[at..at + 4].copy_from_slice(&new_sum);
        replace(pages, &parent, changed);
    }
}

/// The same of a journal block, and those chained to it.
fn rechain(pages: &mut BTreeMap<u64, Vec<u8>>, old: &[u8], mut new: Vec<u8>) {
    reseal(&mut new);
    let (old_sum, new_sum) = (old[..8].to_vec(), new[..8].to_vec());
    pages.values_mut().filter(|p| p[..] == *old).for_each(|p| p.clone_from(&new));
    let next = pages.values().find(|p| p[8..12] == *b"SJB1" && p[56..64] == old_sum).cloned();
    if let Some(next) = next {
        let mut changed = next.clone();
        changed[56..64].copy_from_slice(&new_sum);
        rechain(pages, &next, changed);
    }
}

/// Each of these was a panic when the drive was opened or inspected, sums that overflowed or a length below zero, but for the one
/// that says what it was.
#[test]
fn numbers_that_no_drive_has_are_refused() {
    let image = image();
    let pages = metadata(&image);
    let page_of = |kind: u8| pages.values().find(|p| p[14] == kind && p[8..12] == *b"SMP1").unwrap();
    let (root, superblock, index) = (page_of(6), page_of(7), page_of(8));
    let stream = page_of(4);
    let stream_len = u64::from_le_bytes(root[40..48].try_into().unwrap()) as usize;
    let cases: [(&str, &Vec<u8>, usize, &[u8]); 11] = [
        ("a drive of no bytes", superblock, 60, &[0; 8]),
        ("a slice that begins behind all drives", superblock, 108, &[0xff; 8]),
        ("a slice longer than places can tell", superblock, 116, &[0xff; 8]),
        ("a ring behind its slice", superblock, 124, &[0xff; 8]),
        ("a ring longer than its slice", superblock, 132, &[0, 0, 1]),
        // in such a ring what was asked waited for ever, and so did the end of the drive (found by the fuzzer of the journal)
        ("a ring in which no journal goes on", superblock, 132, &[0xff, 0]),
        ("the last root there can be", root, 16, &[0xff; 8]),
        ("a unit behind the ring", root, 48, &[0xff; 8]),
        ("the last sequence there can be", root, 56, &[0xff; 8]),
        ("a table page without lines", index, 40, &[0; 2]),
        ("no block for an entry that is not merged", stream, 16 + stream_len - 2, &[0; 2]),
    ];
    for page in [root, superblock, index] {
        // nothing else of it keeps a drive from opening
        let mut sealed = pages.clone();
        let new = [&page[..4095], &[1]].concat();
        replace(&mut sealed, page, new);
        open(disk_with(&image, &sealed)).unwrap();
    }
    for (what, old, at, bytes) in cases {
        let mut new = old.clone();
        new[at..at + bytes.len()].copy_from_slice(bytes);
        let mut sealed = pages.clone();
        replace(&mut sealed, old, new);
        assert!(open(disk_with(&image, &sealed)).is_err(), "{what}");
    }
}

/// A merge took such a page for one without lines, and wrote the table anew without its objects.
#[test]
fn a_table_page_that_is_sealed_and_not_legible_is_bad() {
    let image = image();
    let pages = metadata(&image);
    let old = pages.values().find(|p| p[14] == 3 && p[8..12] == *b"SMP1").unwrap();
    assert_eq!(old[16], 2, "two lines");
    for (at, bytes) in [(16, [41, 0, 0, 0]), (16, [0; 4]), (20, [8, 0, 0, 0])] {
        let mut new = old.clone();
        new[at..at + 4].copy_from_slice(&bytes);
        let mut sealed = pages.clone();
        replace(&mut sealed, old, new);
        let mut disk = disk_with(&image, &sealed);
        let problems = inspect(&mut disk).slices.remove(0).problems;
        assert!(problems.len() == 1 && problems[0].contains("unreadable"), "{problems:?}");
        let superblock = read(&mut disk).unwrap();
        let mut store = Store::open(disk, superblock.slices[0], options(&Pool::new())).unwrap().0;
        store.force_checkpoint();
        let mut events = Vec::new();
        store.poll(Instant(0), &mut events);
        assert!(events.iter().any(|e| matches!(e, Event::Failed(_))), "the drive ends: {events:?}");
    }
}

/// A record names blocks of a chunk and blocks of a slice: these went on to the map, which has neither.
#[test]
fn records_of_blocks_that_are_none_are_refused() {
    let (object, family, version, checksum) = (object(1), FamilyId(5), Version(2), Checksum(3));
    let repair = |block| Body::Repair { object, family, block, version, checksum };
    let recover = |first| {
        let entries = vec![Entry::Zero(version); 24];
        Body::Recover(Recover { object, family, since: Epoch(1), first, entries, touched: version })
    };
    let is_taken = |body: Body, places: &[u64]| {
        let mut w = Writer::default();
        put_record(&mut w, &record(body), places);
        get_record(&mut Reader::new(&w.0)).is_ok()
    };
    assert!(is_taken(repair(1023), &[(1 << 38) - 1]) && !is_taken(repair(1024), &[1000]));
    assert!(!is_taken(repair(1023), &[1 << 38]), "a place has two bits more that say what it is");
    assert!(is_taken(recover(1000), &[]) && !is_taken(recover(1001), &[]));
    assert!(!is_taken(recover(u16::MAX), &[]));
}

#[test]
fn nonsense_with_the_right_checksums_is_an_error_or_a_drive() {
    let image = image();
    let pages = metadata(&image);
    let kinds: Vec<&Vec<u8>> = pages.values().collect();
    let mut opened = 0;
    seeds(200, |rng| {
        let mut sealed = pages.clone();
        let old = kinds[rng.random_range(0..kinds.len())];
        let mut new = old.clone();
        match &old[8..12] == b"SJB1" {
            true => {
                spoil(rng, &mut new, 48, false);
                rechain(&mut sealed, old, new);
            }
            false => {
                spoil(rng, &mut new, 16, false);
                replace(&mut sealed, old, new);
            }
        }
        opened += u64::from(open(disk_with(&image, &sealed)).is_ok());
    });
    assert!(opened > 0);
}
