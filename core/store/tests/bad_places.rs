//! Data writes that fail go elsewhere (S9): what was asked is persisted all the same, and the bad place is set aside.
mod support;
use sarsen_types::record::Body;
use sarsen_types::{BlockRange, Instant, Version};
use support::*;

const SIZE: u64 = 64 << 20;

#[test]
fn data_that_cannot_be_written_go_elsewhere() {
    let mut bench = Bench::new(SIZE, 4 << 20);
    bench.write(object(1), one(0), 1);
    bench.settle();
    // every second block of where data go next is bad
    let first = bench.on_disk(bench.region().data_first());
    bench.store.disk_mut().bad = (first..first + 60).step_by(2).collect();
    bench.write(object(1), BlockRange::new(4, 8), 2);
    bench.write(object(1), BlockRange::new(8, 8), 3);
    bench.recover(object(2), one(1), 1, Some(4), sarsen_types::Version(9));
    bench.settle();
    assert!(bench.noticed.iter().any(|n| n.contains("elsewhere")), "{:?}", bench.noticed);
    assert_eq!(bench.persisted.len(), 4);
    let read = |bench: &mut Bench| {
        let all: Vec<_> = [0, 4, 7, 8, 15].iter().map(|b| bench.read(object(1), *b)).collect();
        assert_eq!(all, [Ok(1), Ok(2), Ok(2), Ok(3), Ok(3)]);
        assert_eq!(bench.read(object(2), 1), Ok(4));
    };
    read(&mut bench);
    bench.audit();
    let mut crashed = bench.restarted(bench.image());
    crashed.settle();
    read(&mut crashed);
    bench.checkpoint();
    bench.audit();
    let mut bench = bench.restart();
    read(&mut bench);
    bench.audit();
}

/// The block whose data went elsewhere is not answered, nor called persisted by a later one, before they are there.
#[test]
fn nothing_is_persisted_before_its_data_are_where_they_went() {
    let mut bench = Bench::new(SIZE, 4 << 20);
    let first = bench.on_disk(bench.region().data_first());
    bench.store.disk_mut().bad = [first].into();
    bench.store.disk_mut().is_held = true;
    // too long for the journal write itself (S10)
    bench.write(object(1), BlockRange::new(4, 5), 2);
    bench.turn();
    bench.write(object(1), BlockRange::new(10, 5), 3);
    bench.turn();
    // all that is in flight ends, the record that is journaled again stays in flight
    (0..4).for_each(|_| bench.store.disk_mut().complete(0));
    bench.turn();
    assert_eq!(bench.persisted, []);
    let image = bench.image();
    let mut crashed = bench.restarted(image);
    crashed.settle();
    assert!(crashed.read(object(1), 4).is_err(), "never answered, and torn: its group decides");
    for _ in 0..8 {
        bench.turn();
        bench.store.disk_mut().complete(0);
    }
    bench.turn();
    assert_eq!(bench.persisted.len(), 2);
    bench.store.disk_mut().is_held = false;
    bench.settle();
    assert_eq!((bench.read(object(1), 4), bench.read(object(1), 10)), (Ok(2), Ok(3)));
}

#[test]
fn a_drive_that_fails_everywhere_ends() {
    let mut bench = Bench::new(SIZE, 4 << 20);
    let first = bench.on_disk(bench.region().data_first());
    bench.store.disk_mut().bad = (first..SIZE / 4096).collect();
    bench.write(object(1), BlockRange::new(0, 64), 2);
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bench.quiet()));
    assert!(ended.is_err() && bench.persisted.is_empty());
}

#[test]
fn one_bad_sector_does_not_end_a_drive_that_is_written_in_long_runs() {
    // found in review: a write of many neighbouring blocks counted as so many failures
    let mut bench = Bench::new(SIZE, 4 << 20);
    let first = bench.on_disk(bench.region().data_first());
    bench.store.disk_mut().bad = [first + 7].into();
    for n in 0..5 {
        bench.write(object(1), BlockRange::new(n * 64, 64), 2);
    }
    bench.quiet();
    assert_eq!(bench.persisted.len(), 5);
    bench.settle();
    assert_eq!(bench.read(object(1), 7), Ok(2));
    bench.audit();
}

#[test]
fn a_record_whose_data_went_elsewhere_counts_only_with_all_journal_blocks_before_it() {
    // found in review: a power cut left a hole before it, and a replay never came to it
    let mut bench = Bench::new(SIZE, 4 << 20);
    let first = bench.on_disk(bench.region().data_first());
    bench.store.disk_mut().bad = [first].into();
    bench.store.disk_mut().is_held = true;
    for n in 0..4 {
        bench.write(object(1), BlockRange::new(n * 10, 5), 2); // too long for the journal write itself (S10)
        bench.turn();
    }
    // of the first block data and journal end; the data go elsewhere with a block behind three that are in flight
    (0..2).for_each(|_| bench.store.disk_mut().complete(0));
    bench.turn();
    bench.turn();
    assert_eq!(bench.store.disk_mut().waiting(), 8);
    (0..2).for_each(|_| bench.store.disk_mut().complete(6));
    bench.turn();
    assert_eq!(bench.persisted, []);
    // of the others the journal: it counts, be their data there or not
    (0..3).for_each(|n| bench.store.disk_mut().complete(1 + n));
    bench.turn();
    assert_eq!(bench.persisted.len(), 1);
    let mut crashed = bench.restarted(bench.image());
    crashed.settle();
    assert_eq!(crashed.read(object(1), 0), Ok(2));
    assert!(crashed.read(object(1), 10).is_err(), "never answered");
    crashed.audit();
}

#[test]
fn a_place_that_was_set_aside_stays_so_when_a_checkpoint_named_it() {
    // found in review: it was free again once the next checkpoint named it no more
    let mut bench = Bench::new(SIZE, 4 << 20);
    let range = BlockRange::new(0, 5);
    let version = bench.write(object(1), range, 2);
    bench.checkpoint();
    let first = bench.on_disk(bench.region().data_first());
    bench.store.disk_mut().image_mut().rot(first + 2, 100);
    assert!(bench.read(object(1), 2).is_err());
    bench.store.disk_mut().is_held = true;
    bench.write(object(2), range, 3);
    bench.turn();
    bench.repair(object(1), 2, 2, version);
    bench.turn();
    bench.store.disk_mut().bad = (first..SIZE / 4096).collect();
    bench.store.disk_mut().complete(2);
    bench.store.disk_mut().bad.clear();
    (0..3).for_each(|_| bench.store.disk_mut().complete(0));
    let mut events = Vec::new();
    bench.store.poll(Instant(0), &mut events);
    bench.store.ask_checkpoint();
    let_go(&mut bench);
    bench.settle();
    assert_eq!(bench.read(object(1), 2), Ok(2));
    bench.checkpoint();
    bench.audit();
}

#[test]
fn a_write_that_fails_after_what_it_was_of_is_gone_does_not_bring_it_back() {
    // found in review
    let layer = object(1).layer;
    let ways =
        [Some(Body::DropGroup), Some(Body::Assign { assignment: 2 }), Some(Body::DropLayer { layer }), None];
    for way in ways {
        let mut bench = Bench::new(SIZE, 4 << 20);
        let first = bench.on_disk(bench.region().data_first());
        bench.store.disk_mut().bad = [first].into();
        bench.store.disk_mut().is_held = true;
        bench.write(object(1), BlockRange::new(0, 5), 2);
        bench.turn();
        match way.clone() {
            Some(body) => {
                bench.persist(body, None);
            }
            None => bench.recover(object(1), BlockRange::new(0, 5), 2, None, Version::ZERO),
        }
        bench.turn();
        let_go(&mut bench);
        bench.quiet();
        assert_eq!(bench.store.top_entries(GROUP).0, [], "{way:?}");
        assert_eq!(bench.persisted.len(), 2, "{way:?}");
        bench.audit();
        // a store that stops at once does not wait for what is not written once more
        bench.restart().audit();
    }
}

#[test]
fn a_lower_version_whose_data_went_elsewhere_has_one_owner_after_a_crash() {
    // found in review: under a higher version of the same block it was dropped, which a replay of a root between them did not do
    let mut bench = Bench::new(SIZE, 4 << 20);
    let range = BlockRange::new(0, 5);
    for n in 0.. {
        bench.write(object(1000 + n / 16), BlockRange::new(n as u16 % 16 * 64, 64), 8);
        bench.quiet();
        if bench.store.space().client_blocks_free < 64 {
            break;
        }
    }
    bench.write(object(1000), BlockRange::new(0, 64), 0);
    bench.checkpoint();
    let free = bench.store.disk().written_bytes;
    bench.store.disk_mut().bad = (0..SIZE / 4096).collect();
    bench.store.disk_mut().is_held = true;
    bench.write(object(1), range, 5);
    bench.turn();
    bench.store.disk_mut().complete(0);
    bench.store.disk_mut().bad.clear();
    bench.store.ask_checkpoint();
    bench.epoch = 2;
    bench.write(object(1), range, 6);
    bench.turn();
    let_go(&mut bench);
    for n in 0..40 {
        bench.write(object(2000 + n), range, 9);
        bench.quiet();
    }
    assert!(bench.store.disk().written_bytes > free);
    let mut crashed = bench.restarted(bench.image());
    crashed.audit();
    crashed.settle();
    assert_eq!(crashed.read(object(1), 0), Ok(6));
    crashed.checkpoint();
    crashed.audit();
}
