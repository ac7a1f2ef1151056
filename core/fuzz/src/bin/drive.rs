//! What lies on a drive: superblocks, roots, pages and journal blocks with any content and the right checksum are a value or
//! an error.
#![no_main]
use libfuzzer_sys::fuzz_target;
use sarsen_buffer::{Pool, bytes_checksum};
use sarsen_store::bytes::{Reader, Writer, get_record, put_record};
use sarsen_store::disk::{Disk, OpId};
use sarsen_store::group::{Group, Left};
use sarsen_store::memory::MemDisk;
use sarsen_store::page::{PageKind, seal, unseal};
use sarsen_store::{drive, journal, leaf, run, table};
use sarsen_types::{DriveIdentity, ObjectId, Version};

fuzz_target!(|bytes: &[u8]| {
    page(bytes);
    journal_block(bytes);
    superblock(bytes);
});

fn page(bytes: &[u8]) {
    for kind in [PageKind::Dense, PageKind::Root, PageKind::Super, PageKind::Run] {
        let _ = unseal(bytes, kind, None);
    }
    for kind in [PageKind::Dense, PageKind::Sparse] {
        let _ = leaf::check(kind, bytes);
        let mut entries = leaf::Entries::default();
        entries.read(kind, 5, bytes);
        leaf::entry(kind, bytes, 170);
    }
    if let Ok(slots) = table::get_slots(bytes) {
        assert_eq!(table::get_slots(&table::put_slots(&slots)), Ok(slots));
    }
    if let Ok(lines) = table::lines(bytes) {
        assert_eq!(table::lines(&table::put_lines(&lines)), Ok(lines));
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
    if let Ok((record, places)) = get_record(&mut Reader::new(bytes)) {
        let mut w = Writer::default();
        put_record(&mut w, &record, &places);
        assert_eq!(get_record(&mut Reader::new(&w.0)), Ok((record, places)));
    }
}

/// The same bytes with a checksum in front that is right.
fn journal_block(bytes: &[u8]) {
    let _ = journal::peek(bytes, DriveIdentity(0));
    if bytes.len() <= 8 {
        return;
    }
    let mut block = bytes.to_vec();
    let sum = bytes_checksum(&block[8..]).0;
    block[..8].copy_from_slice(&sum.to_le_bytes());
    let Ok(block) = journal::open(&block) else { return };
    let mut group = Group::default();
    for (record, places) in &block.records {
        group.apply(record, places, &mut Left::default());
    }
    group.settle(Version(u64::MAX), &mut Vec::new());
}

/// On a drive of which it is the first superblock.
fn superblock(bytes: &[u8]) {
    let pool = Pool::new();
    let mut disk = MemDisk::new(64 << 20);
    let payload = &bytes[..bytes.len().min(4080)];
    disk.write(OpId(0), 0, smallvec::smallvec![seal(&pool, PageKind::Super, payload).0]);
    disk.poll(&mut Vec::new());
    let _ = drive::read(&mut disk);
    let _ = drive::inspect(&mut disk);
}
