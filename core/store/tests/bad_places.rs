//! Data writes that fail go elsewhere (S9): what was asked is persisted all the same, and the bad place is set aside.
mod support;
use sarsen_types::BlockRange;
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
    bench.store.disk_mut().bad = (first..first + 8000).collect();
    bench.write(object(1), BlockRange::new(0, 64), 2);
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bench.quiet()));
    assert!(ended.is_err() || bench.persisted.is_empty());
}
