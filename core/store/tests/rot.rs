//! Bits that flip in the map: noticed, never taken for the truth; what lies in two places is written anew, what does not is said.
mod support;
use sarsen_store::events::ReadError;
use sarsen_store::inspect::inspect;
use sarsen_store::memory::MemDisk;
use sarsen_types::{BlockRange, Epoch, Version};
use support::*;

const SIZE: u64 = 64 << 20;

/// Three objects in the map, one of them with dense leaves.
fn mapped() -> Bench {
    let mut bench = Bench::new(SIZE, 4 << 20);
    for first in (0..1024).step_by(64) {
        bench.write(object(1), BlockRange::new(first, 64), first as u8 / 4 + 1);
    }
    bench.write(object(2), one(5), 22);
    bench.write(object(3), one(6), 33);
    bench.checkpoint();
    bench
}

/// Blocks of the disk where pages of one kind lie.
fn pages(bench: &Bench, kind: u16) -> Vec<u64> {
    let image = bench.image();
    let is_page = |block: &u64| {
        let data = image.block(*block).unwrap();
        data[8..12] == *b"SMP1" && data[14..16] == kind.to_le_bytes()
    };
    image.blocks().filter(is_page).collect()
}

#[test]
fn a_rotten_leaf_refuses_its_blocks_until_they_are_recovered_whole() {
    let bench = mapped();
    let sparse = pages(&bench, 2);
    assert_eq!(sparse.len(), 2);
    let mut bench = bench.restart();
    bench.store.disk_mut().image_mut().rot(sparse[0], 777);
    let bad = object(2);
    assert_eq!(bench.read(bad, 5), Err(ReadError::Unreadable(bad)));
    assert!(bench.noticed.iter().any(|n| n.contains("unreadable")), "{:?}", bench.noticed);
    // other objects do not suffer, and neither does a checkpoint
    assert_eq!((bench.read(object(3), 6), bench.read(object(1), 1000)), (Ok(33), Ok(49)));
    bench.checkpoint();
    assert_eq!(bench.read(bad, 5), Err(ReadError::Unreadable(bad)));
    // a write over it is read back, what was not written is still refused
    bench.write(bad, one(7), 44);
    bench.settle();
    assert_eq!((bench.read(bad, 7), bench.read(bad, 5)), (Ok(44), Err(ReadError::Unreadable(bad))));
    let mut bench = bench.restart();
    assert_eq!((bench.read(bad, 7), bench.read(bad, 5)), (Ok(44), Err(ReadError::Unreadable(bad))));
    for first in (0..1024).step_by(64) {
        bench.recover(bad, BlockRange::new(first, 64), 1, None, Version::ZERO);
    }
    bench.recover(bad, one(5), 1, Some(22), Version::new(Epoch(1), 3));
    bench.checkpoint();
    assert_eq!((bench.read(bad, 5), bench.read(bad, 7)), (Ok(22), Ok(44)));
    let mut bench = bench.restart();
    assert_eq!((bench.read(bad, 5), bench.read(bad, 7)), (Ok(22), Ok(44)));
    bench.audit();
}

#[test]
fn a_rotten_dense_leaf_refuses_its_blocks_alone() {
    let bench = mapped();
    let dense = pages(&bench, 1);
    assert_eq!(dense.len(), 6);
    let mut bench = bench.restart();
    bench.store.disk_mut().image_mut().rot(dense[2], 5000);
    let refused: Vec<u16> = (0..1024).filter(|b| bench.read(object(1), *b).is_err()).collect();
    assert_eq!(refused.len(), 171);
    assert!(refused.windows(2).all(|w| w[0] + 1 == w[1]), "{refused:?}");
    bench.write(object(1), one(1023), 9);
    bench.checkpoint();
    let mut bench = bench.restart();
    assert_eq!((bench.read(object(1), 1023), bench.read(object(1), refused[0]).is_err()), (Ok(9), true));
    bench.audit();
}

/// Table, stream, list, index and bitmap pages and roots lie in two places: each alone may rot.
#[test]
fn one_rotten_place_of_a_page_that_lies_in_two_is_read_from_the_other_and_written_anew() {
    for kind in [3u16, 4, 5, 6, 8, 9] {
        let places = pages(&mapped(), kind);
        assert!(places.len() >= 2, "pages of kind {kind}: {places:?}");
        for place in places {
            let mut bench = mapped();
            bench.store.disk_mut().image_mut().rot(place, 300);
            let mut bench = bench.restarted(bench.image());
            assert_eq!((bench.read(object(1), 0), bench.read(object(3), 6)), (Ok(1), Ok(33)), "kind {kind}");
            // space of the part whose bitmap is meant is taken and given back
            bench.write(object(1), BlockRange::new(0, 64), 77);
            bench.checkpoint();
            bench.write(object(2), one(0), 66);
            bench.checkpoint();
            let image = bench.image();
            let found = inspect(&mut MemDisk::from_image(SIZE, image));
            assert!(found.problems.is_empty(), "kind {kind}: {:?}", found.problems);
            assert!(found.slices[0].problems.is_empty(), "kind {kind}: {:?}", found.slices[0].problems);
            let mut bench = bench.restart();
            assert_eq!((bench.read(object(1), 3), bench.read(object(3), 6)), (Ok(77), Ok(33)), "kind {kind}");
            bench.audit();
        }
    }
}

#[test]
fn both_places_rotten_end_the_drive_and_say_so() {
    let bench = mapped();
    let tables = pages(&bench, 3);
    let mut bench = bench.restart();
    tables.iter().for_each(|block| bench.store.disk_mut().image_mut().rot(*block, 999));
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bench.read(object(1), 0)));
    assert!(failed.is_err(), "a read of an object that nobody can find is not answered");
    let mut events = Vec::new();
    bench.store.poll(sarsen_types::Instant(0), &mut events);
    assert!(bench.store.audit().is_ok(), "an ended store is not walked");
}
