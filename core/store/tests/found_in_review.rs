//! What readers of the code found that no history, walk or seed had met.
mod support;
use sarsen_types::record::{Body, Entry, Table};
use sarsen_types::*;
use support::*;

const SIZE: u64 = 64 << 20;

/// Writes pieces of so many blocks into chunks from `first` on until there is no more space; how many.
fn fill(bench: &mut Bench, first: u32, blocks: u16, content: u8) -> u32 {
    for n in 0.. {
        bench.write(object(first + n / 16), BlockRange::new(n as u16 % 16 * 64, blocks), content);
        bench.quiet();
        if !std::mem::take(&mut bench.refused).is_empty() {
            return n;
        }
    }
    unreachable!()
}

#[test]
fn a_block_recovered_over_an_entry_that_a_checkpoint_froze_has_one_owner_after_a_crash() {
    // the running store kept the later place of the version and freed the earlier one; replay kept the earlier one
    let mut bench = Bench::new(SIZE, 4 << 20);
    bench.epoch = 2;
    fill(&mut bench, 1000, 64, 8);
    bench.write(object(1000), BlockRange::new(0, 64), 0);
    bench.checkpoint();
    let version = bench.write(object(1), BlockRange::new(0, 5), 5);
    bench.quiet();
    bench.store.disk_mut().is_held = true;
    bench.store.ask_checkpoint();
    bench.recover(object(1), BlockRange::new(0, 5), 2, Some(5), version);
    let_go(&mut bench);
    // what the checkpoint freed is taken again
    let written = fill(&mut bench, 2000, 5, 9);
    assert!(written > 0);
    let mut crashed = bench.restarted(bench.image());
    crashed.audit();
    crashed.settle();
    let all = |crashed: &mut Bench, expected: u8| {
        assert_eq!(crashed.read(object(1), 0), Ok(expected));
        for n in 0..written {
            assert_eq!(crashed.read(object(2000 + n / 16), n as u16 % 16 * 64), Ok(9), "{n}");
        }
    };
    all(&mut crashed, 5);
    crashed.write(object(1000), BlockRange::new(64, 64), 0);
    crashed.checkpoint();
    crashed.write(object(1), BlockRange::new(0, 5), 6);
    crashed.checkpoint();
    crashed.audit();
    fill(&mut crashed, 3000, 5, 7);
    all(&mut crashed, 6);
}

#[test]
fn many_small_writes_of_one_turn_are_no_longer_than_the_kernel_takes() {
    let mut bench = Bench::new(SIZE, 4 << 20);
    for n in 0..1150 {
        bench.write(object(n / 500), one(n as u16 % 500), 1);
    }
    bench.quiet();
    assert_eq!(bench.persisted.len(), 1150);
}

#[test]
fn a_root_that_one_crash_left_behind_is_made_good_before_anything_it_names_is_used_again() {
    let mut bench = Bench::new(SIZE, 4 << 20);
    bench.write(object(1), one(0), 1);
    bench.checkpoint();
    let roots = bench.region().roots().map(|block| bench.on_disk(block));
    for (lost, then) in [(roots[1], roots[0]), (roots[0], roots[1])] {
        let mut image = bench.image();
        image.rot(lost, 100);
        let mut image = bench.restarted(image).image();
        image.rot(then, 100);
        assert_eq!(bench.restarted(image).read(object(1), 0), Ok(1));
    }
}

#[test]
fn data_that_go_elsewhere_wait_neither_for_the_window_nor_for_a_checkpoint() {
    for asks in [false, true] {
        let mut bench = Bench::new(SIZE, 4 << 20);
        let first = bench.on_disk(bench.region().data_first());
        bench.store.disk_mut().bad = [first].into();
        bench.store.disk_mut().is_held = true;
        // too long for the journal write itself (S10)
        for n in 0..1100u32 {
            bench.write(object(n / 200), BlockRange::new(n as u16 % 200 * 5, 5), 2);
            bench.turn();
            if asks && n == 3 {
                bench.store.ask_checkpoint();
            }
        }
        let_go(&mut bench);
        bench.quiet();
        assert_eq!(bench.persisted.len(), 1100, "{asks}");
        bench.settle();
        assert_eq!(bench.read(object(0), 0), Ok(2));
        bench.audit();
    }
}

#[test]
#[should_panic(expected = "longer than a journal block")]
fn a_record_that_fits_no_block_ends_the_drive_and_not_the_turn() {
    let mut bench = Bench::new(SIZE, 4 << 20);
    let session = |n: u64| (AttachmentId(n), Generation(1), SessionId(n));
    let table = Table { sessions: (0..8000).map(session).collect(), ..Table::default() };
    bench.persist(Body::Table(table), None);
    bench.turn();
    bench.turn();
}

#[test]
fn a_broken_middle_is_met_once() {
    let mut bench = Bench::new(1 << 30, 4 << 20);
    assert!(bench.region().ring_blocks > 8100, "{}", bench.region().ring_blocks);
    for n in 0..4000u32 {
        bench.write(object(n / 1000), one(n as u16 % 1000), 0);
        bench.turn();
    }
    let mut image = bench.image();
    image.rot(bench.on_disk(bench.region().ring_first + 10), 500);
    let broken = bench.restarted(image);
    assert!(broken.opened.is_broken);
    let mut again = broken.restarted(broken.image());
    assert!(!again.opened.is_broken, "what follows the hole lies there still");
    again.write(object(50), one(0), 3);
    again.quiet();
    let again = again.restarted(again.image());
    assert!(!again.opened.is_broken && again.opened.replayed == 1);
}

#[test]
fn a_second_deletion_does_not_wait_until_the_first_is_carried_out() {
    let mut bench = Bench::new(1 << 30, 16 << 20);
    let of = |layer: u64, chunk: u32| ObjectId::new(layer, chunk);
    for n in 0..24_000 {
        bench.write(of(1, n), one(0), 1);
        if n % 500 == 0 {
            bench.quiet();
        }
    }
    bench.write(of(2, 0), one(0), 1);
    bench.checkpoint();
    bench.persist(Body::DropLayer { layer: LayerId(1) }, None);
    bench.quiet();
    bench.store.disk_mut().is_held = true;
    bench.store.ask_checkpoint();
    bench.persist(Body::DropLayer { layer: LayerId(2) }, None);
    let first = bench.used();
    bench.write(of(3, 0), one(0), 1);
    let before = bench.persisted.len();
    let turns = (0..).find(|_| {
        bench.store.disk_mut().complete(0);
        bench.turn();
        bench.persisted.len() == before + 2
    });
    assert!(bench.used() > first / 2, "after {turns:?} turns {} of {first} blocks are in use", bench.used());
}

#[test]
fn what_a_last_discard_frees_in_a_full_store_is_found_though_its_floor_came_late() {
    for restarts in [false, true] {
        let mut bench = Bench::new(SIZE, 4 << 20);
        for n in 0.. {
            if bench.store.space().client_blocks_free == 0 {
                bench.checkpoint();
            }
            if bench.store.space().client_blocks_free == 0 {
                break;
            }
            bench.write(object(1000 + n / 16), BlockRange::new(n as u16 % 16 * 64, 64), 8);
            bench.quiet();
        }
        assert_eq!(bench.store.space().client_blocks_free, 0);
        bench.write(object(1000), BlockRange::new(0, 64), 0);
        let at = |ms: u64| Instant(ms * 1_000_000);
        let pass = |bench: &mut Bench, from: u64| {
            for ms in (from..from + 3000).step_by(100) {
                bench.store.finish(at(ms), &mut Vec::new());
            }
        };
        pass(&mut bench, 1000); // checkpoints that cannot know yet that it is committed
        if restarts {
            bench = bench.restart();
        }
        bench.store.raise_floor(GROUP, bench.version());
        pass(&mut bench, 5000);
        assert!(bench.store.space().client_blocks_free > 0);
    }
}

#[test]
fn what_a_crash_tore_is_known_as_torn_to_every_later_opening() {
    // the opening that found it wrote a block which says that all before it is durable, so the next one did not look
    for blocks in [5, 1] {
        let mut bench = Bench::new(SIZE, 4 << 20);
        bench.write(object(1), BlockRange::new(0, blocks), 3);
        bench.settle();
        bench.quiet();
        bench.store.disk_mut().is_held = true;
        bench.write(object(1), BlockRange::new(0, blocks), 7);
        bench.turn();
        let last = bench.store.disk_mut().waiting() - 1;
        bench.store.disk_mut().complete(last);
        let mut image = bench.image();
        let in_ring: Vec<u64> = image.blocks().filter(|b| image.block(*b).unwrap()[0] == 7).collect();
        in_ring.iter().for_each(|block| image.rot(*block, 100)); // a small turn's data lie in the journal write (S10)
        let mut first = bench.restarted(image);
        assert_eq!(first.opened.damaged, u64::from(blocks));
        first.persist(Body::Promise, None);
        first.quiet();
        let mut second = first.restarted(first.image());
        let (found, _) = second.store.top_entries(GROUP);
        assert!(found.len() == usize::from(blocks), "{found:?}");
        assert!(found.iter().all(|(_, top)| matches!(top, Entry::Damaged(..))), "{found:?}");
        second.audit();
    }
}

#[test]
fn a_lower_version_that_comes_while_a_higher_one_is_merged_has_one_owner_after_a_crash() {
    // the running store dropped it and freed its place; a replay, which knows nothing of what was frozen, kept it
    let mut bench = Bench::new(SIZE, 4 << 20);
    bench.epoch = 2;
    fill(&mut bench, 1000, 64, 8);
    bench.write(object(1000), BlockRange::new(0, 64), 0);
    bench.checkpoint();
    bench.write(object(1), BlockRange::new(0, 5), 5);
    bench.settle();
    bench.store.disk_mut().is_held = true;
    bench.store.ask_checkpoint();
    bench.epoch = 1;
    bench.write(object(1), BlockRange::new(0, 5), 4);
    bench.epoch = 2;
    let_go(&mut bench);
    let written = fill(&mut bench, 2000, 5, 9);
    assert!(written > 0);
    let mut crashed = bench.restarted(bench.image());
    crashed.audit();
    crashed.checkpoint();
    crashed.audit();
    assert_eq!(crashed.read(object(1), 0), Ok(5));
    for n in 0..written {
        assert_eq!(crashed.read(object(2000 + n / 16), n as u16 % 16 * 64), Ok(9), "{n}");
    }
}

#[test]
fn a_full_store_in_which_nothing_is_committed_rests() {
    // it made a checkpoint every quarter of a second
    let mut bench = Bench::new(SIZE, 4 << 20);
    for n in 0.. {
        if bench.store.space().client_blocks_free == 0 {
            break;
        }
        bench.write(object(n / 16), BlockRange::new(n as u16 % 16 * 64, 64), 8);
        bench.quiet();
    }
    let mut written = Vec::new();
    for second in 1..20 {
        (0..4).for_each(|_| bench.store.finish(Instant(second * 1_000_000_000), &mut Vec::new()));
        written.push(bench.store.disk().written_bytes);
    }
    assert_eq!(written[5], written[18]);
}

#[test]
fn a_turn_of_discards_takes_no_more_memory_than_is_set() {
    const MEMORY: usize = 4 << 20;
    let mut bench = Bench::new(1 << 30, MEMORY);
    for n in 0..1000 {
        bench.write(object(n), BlockRange::new(0, BLOCKS_PER_CHUNK), 0);
    }
    let mut most = 0;
    bench.store.raise_floor(GROUP, bench.version());
    while bench.persisted.len() < 1000 {
        bench.turn();
        most = most.max(bench.store.memory());
    }
    assert!(most < 2 * MEMORY, "{most} bytes");
}

#[test]
fn a_device_that_is_silent_under_a_checkpoint_is_noticed_and_a_trim_may_take_its_time() {
    // R9 looked at journal blocks and reads: nobody saw a checkpoint that all writes waited for
    let mut bench = Bench::new(SIZE, 4 << 20);
    bench.write(object(1), BlockRange::new(0, 64), 1);
    bench.settle();
    assert_eq!(bench.store.oldest_request(), None);
    bench.store.disk_mut().is_held = true;
    bench.store.ask_checkpoint();
    bench.store.finish(Instant(7), &mut Vec::new());
    assert!(bench.store.disk_mut().waiting() > 0);
    assert_eq!(bench.store.oldest_request(), Some(Instant(7)));
    bench.store.disk_mut().complete(0);
    bench.store.finish(Instant(9), &mut Vec::new());
    assert!(bench.store.oldest_request() >= Some(Instant(9)), "something moved");
    let_go(&mut bench);
    assert_eq!(bench.store.oldest_request(), None);
}

#[test]
fn a_drive_that_does_not_give_back_what_was_repaired_ends_and_one_with_bad_places_does_not() {
    let mut bench = Bench::new(SIZE, 4 << 20);
    let version = bench.write(object(1), BlockRange::new(0, 1000), 1);
    bench.checkpoint();
    let read_fails = |bench: &mut Bench, n: u16| {
        bench.store.disk_mut().errno = Some(5);
        bench.ask(object(1), n);
        let mut events = Vec::new();
        (0..16).for_each(|_| bench.store.finish(Instant(0), &mut events));
        bench.store.disk_mut().errno = None;
        events.iter().any(|e| matches!(e, sarsen_store::events::Event::Failed(_)))
    };
    for n in 0..1000 {
        assert!(!read_fails(&mut bench, n), "{n}");
    }
    let ended = (0..1000).position(|_| {
        bench.repair(object(1), 7, 1, version);
        bench.quiet();
        read_fails(&mut bench, 7)
    });
    assert!(ended.is_some_and(|n| (8..64).contains(&n)), "{ended:?}");
}
