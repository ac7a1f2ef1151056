//! Confirmed deletions (R20): layers and copies go, their space comes back, and a crash in between loses neither.
mod support;
use sarsen_store::memory::Fate;
use sarsen_types::record::Body;
use sarsen_types::{BlockRange, LayerId, ObjectId};
use support::*;

const SIZE: u64 = 256 << 20;

fn filled() -> Bench {
    let mut bench = Bench::new(SIZE, 4 << 20);
    for layer in 1..4 {
        for chunk in 0..60 {
            bench.write(ObjectId::new(layer, chunk), BlockRange::new(chunk as u16, 40), layer as u8);
        }
    }
    bench.checkpoint();
    bench
}

fn checkpoints(bench: &mut Bench, count: usize) {
    (0..count).for_each(|_| bench.checkpoint());
}

#[test]
fn a_dropped_layer_gives_its_space_back_and_leaves_the_others() {
    let mut bench = filled();
    let before = bench.used();
    bench.write(ObjectId::new(2, 7), one(900), 99);
    bench.persist(Body::DropLayer { layer: LayerId(2) }, None);
    bench.settle();
    assert_eq!(bench.read(ObjectId::new(2, 7), 7), Ok(0));
    checkpoints(&mut bench, 2);
    assert!(bench.used() < before - 60 * 40, "{} blocks are used, {before} were", bench.used());
    for chunk in [0, 30, 59] {
        assert_eq!(bench.read(ObjectId::new(2, chunk), chunk as u16), Ok(0));
        assert_eq!(bench.read(ObjectId::new(1, chunk), chunk as u16), Ok(1));
        assert_eq!(bench.read(ObjectId::new(3, chunk), chunk as u16), Ok(3));
    }
    bench.audit();
    let mut bench = bench.restart();
    assert_eq!((bench.read(ObjectId::new(2, 7), 7), bench.read(ObjectId::new(3, 7), 7)), (Ok(0), Ok(3)));
    bench.audit();
}

#[test]
fn a_dropped_copy_gives_all_back_and_a_new_assignment_starts_empty() {
    let mut bench = filled();
    bench.persist(Body::DropGroup, None);
    bench.persist(Body::Assign { assignment: 9 }, None);
    bench.write(ObjectId::new(1, 3), one(3), 7);
    bench.settle();
    assert_eq!(bench.read(ObjectId::new(1, 3), 3), Ok(7));
    assert_eq!(bench.read(ObjectId::new(1, 4), 4), Ok(0));
    checkpoints(&mut bench, 3);
    assert!(bench.used() < 40, "{} blocks are used for one", bench.used());
    bench.audit();
    let mut bench = bench.restart();
    assert_eq!((bench.read(ObjectId::new(1, 3), 3), bench.read(ObjectId::new(1, 4), 4)), (Ok(7), Ok(0)));
    bench.audit();
}

#[test]
fn a_crash_while_a_copy_is_taken_out_neither_brings_it_back_nor_keeps_its_space() {
    for kept in 0..40 {
        let mut bench = filled();
        bench.store.disk_mut().is_durable = false;
        bench.persist(Body::DropLayer { layer: LayerId(1) }, None);
        bench.persist(Body::DropGroup, None);
        bench.quiet();
        bench.store.disk_mut().is_held = true;
        bench.store.ask_checkpoint();
        for _ in 0..kept * 3 {
            bench.store.disk_mut().complete(0);
            bench.turn();
        }
        let disk = std::mem::take(bench.store.disk_mut());
        let mut again = bench.restarted(disk.crash(|| if kept % 2 == 0 { Fate::Lost } else { Fate::Kept }));
        assert_eq!(again.read(ObjectId::new(3, 4), 4), Ok(0));
        again.audit();
        checkpoints(&mut again, 4);
        again.audit();
        assert!(again.used() < 40, "{} blocks are used for nothing", again.used());
    }
}

/// S16: wholly empty regions go back to the device after the checkpoint that freed them; nothing that is in use does.
#[test]
fn empty_regions_are_given_back_to_the_device() {
    let mut bench = Bench::new(SIZE, 4 << 20);
    for chunk in 0..24 {
        for first in (0..1024).step_by(64) {
            bench.write(object(chunk), BlockRange::new(first, 64), 5);
        }
    }
    bench.checkpoint();
    let full = bench.image().blocks().count();
    for chunk in 0..20 {
        bench.write(object(chunk), BlockRange::CHUNK, 0);
    }
    checkpoints(&mut bench, 4);
    let left = bench.image().blocks().count();
    assert!(left + 12 * 1024 < full, "{left} blocks are left of {full}");
    for chunk in 20..24 {
        assert_eq!((bench.read(object(chunk), 0), bench.read(object(chunk), 1023)), (Ok(5), Ok(5)));
    }
    bench.audit();
    for chunk in 0..20 {
        bench.write(object(chunk), BlockRange::new(0, 64), 6);
    }
    bench.checkpoint();
    bench.audit();
    assert_eq!((bench.read(object(3), 63), bench.read(object(3), 64)), (Ok(6), Ok(0)));
}
