//! The map: roots, lists, the stream, index and table pages, leaves, runs and bitmaps with any content, sealed and named as
//! they should be, are a value or an error; the drive opens or does not, can be looked at, and goes on or ends.
#![no_main]
use libfuzzer_sys::fuzz_target;
use sarsen_fuzz::Choices;
use sarsen_fuzz::sample::{self, Sample};
use sarsen_store::page::{PageKind, unseal};
use sarsen_store::{Store, drive, leaf, run, table};
use sarsen_types::ObjectId;
use std::sync::LazyLock;

static SAMPLE: LazyLock<Sample> = LazyLock::new(Sample::new);

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices(bytes);
    match choices.byte() {
        0..48 => payload(choices.0),
        n => pages(&mut choices, n),
    }
});

/// A page's payload, given to the decoder of each kind.
fn payload(bytes: &[u8]) {
    for kind in [PageKind::Dense, PageKind::Root, PageKind::Super, PageKind::Run] {
        let _ = unseal(bytes, kind, None);
    }
    for kind in [PageKind::Dense, PageKind::Sparse] {
        let is_right = leaf::check(kind, bytes).is_ok();
        let mut entries = leaf::Entries::default();
        entries.read(kind, 5, bytes);
        for block in [0, 9, 170, 171, 1023] {
            let found = leaf::entry(kind, bytes, block);
            assert!(!is_right || kind == PageKind::Dense || entries.get(block) == found);
        }
    }
    if let Ok(slots) = table::get_slots(bytes) {
        assert_eq!(table::get_slots(&table::put_slots(&slots)), Ok(slots));
    }
    if let Ok(lines) = table::lines(bytes) {
        assert_eq!(table::lines(&table::put_lines(&lines)).as_ref(), Ok(&lines));
        if table::check(bytes).is_ok() {
            for (id, line) in lines {
                assert_eq!(table::find_line(bytes, id), Some(line));
            }
        }
    }
    let id = ObjectId::new(3, 1);
    table::find_line(bytes, id);
    run::find(bytes, id, 9);
    run::may_have(bytes, id, 9);
    if let Ok(entries) = run::entries(bytes) {
        for ((id, block), stack) in &entries {
            assert_eq!(run::find(bytes, *id, *block).as_ref(), Some(stack));
        }
    }
    if let Ok(runs) = run::list(bytes) {
        assert_eq!(run::list(&run::put_list(&runs)), Ok(runs));
    }
}

/// Pages of a whole drive.
fn pages(choices: &mut Choices<'_>, how: u8) {
    let mut changes = Vec::new();
    while choices.are_left() && changes.len() < 8 {
        let page = usize::from(choices.byte()) % SAMPLE.pages();
        let (at, len) = (usize::from(choices.word()) % 4096, usize::from(choices.byte()));
        changes.push((page, at.max(8), choices.take(len)));
    }
    let mut disk = SAMPLE.changed(&changes);
    if how & 2 != 0 {
        assert!(!drive::inspect(&mut disk).to_string().is_empty());
    }
    let opened = Store::open(disk, SAMPLE.region, sample::options());
    let Ok((mut store, _)) = opened else { return };
    sample::look(&mut store);
    if how & 12 == 12 {
        sample::look_long(&mut store);
    }
    if how & 1 != 0 {
        sample::go_on(&mut store);
        sample::look(&mut store);
    }
}
