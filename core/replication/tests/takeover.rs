//! Takeovers and full restarts: what was answered is there, what was half done is done whole or not at all (R11-R13, R27).
mod support;
use sarsen_types::*;
use support::{Cluster, GROUP, OBJECT, slice};

const SECOND: Duration = Duration::from_secs(1);

/// Writes blocks 0 and 1 in one piece, of which the first stands on one copy and the second on the other.
fn a_piece_split_over_two_copies(c: &mut Cluster) {
    c.write_till_done(1, 0, 2, 5);
    for node in 0..2 {
        c.store(node).is_slow = true;
    }
    c.write(0, 2, 0, 2, 6);
    c.step();
    c.crash_torn(0, 1, &[0]);
    c.crash_torn(1, 1, &[1]);
}

#[test]
fn a_piece_whose_blocks_stand_on_different_copies_is_rolled_forward_whole() {
    let mut c = Cluster::new(2, 1);
    c.run(3 * SECOND);
    a_piece_split_over_two_copies(&mut c);
    c.start_all();
    assert_eq!((c.value(10, 0), c.value(11, 1)), (6, 6));
    c.write_till_done(3, 0, 2, 7);
    c.write_till_done(2, 0, 2, 6); // the retry took effect once
    assert_eq!((c.value(12, 0), c.value(13, 1)), (7, 7));
    c.settle();
}

#[test]
fn a_power_cut_within_a_takeover_that_also_kills_one_drive_loses_nothing_answered() {
    // Each block of a request is a write of its own in a takeover when different copies have them. The first was
    // committed, shown, and what lay under it let go; the second was torn with the power. Its request was then not whole,
    // so the first was void too: and under it there was nothing, where an answered write had been.
    let mut c = Cluster::new(2, 1);
    c.run(3 * SECOND);
    a_piece_split_over_two_copies(&mut c);
    c.start(1);
    c.step();
    c.start(0);
    let writes = |c: &mut Cluster| c.store(1).queue.iter().filter(|q| q.1.data_blocks() > 0).count();
    while writes(&mut c) < 2 {
        c.step_half();
    }
    assert_eq!(c.lead(), 1, "the copy that has the first block leads");
    c.store(1).is_slow = true;
    c.step();
    // the first of the two writes is durable everywhere, and committed
    while writes(&mut c) == 2 {
        c.persist_one(1);
    }
    c.step();
    c.crash_torn(1, 1, &[0, 1]);
    c.crash(0, 0);
    c.start(1); // the other drive is dead
    let (a, b) = (c.value(10, 0), c.value(11, 1));
    assert!((a, b) == (5, 5) || (a, b) == (6, 6), "{a} {b}");
    c.write_till_done(2, 0, 2, 6);
    assert_eq!((c.value(12, 0), c.value(13, 1)), (6, 6));
    c.settle();
}

#[test]
fn a_piece_half_found_in_one_takeover_and_met_again_in_the_next_stays_void() {
    let mut c = Cluster::new(3, 1);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 2, 5);
    for node in 0..3 {
        c.store(node).is_slow = true;
    }
    c.write(0, 2, 0, 2, 6);
    c.step();
    // the old primary has the whole of it and is away; of the others one has half of it
    c.crash(0, 1);
    c.crash_torn(1, 1, &[1]);
    c.crash(2, 0);
    c.take_over(1, false);
    c.start(1);
    c.start(2);
    c.run(3 * SECOND);
    assert_eq!((c.value(10, 0), c.value(11, 1)), (5, 5));
    assert!(c.count(|n| n.takeovers_with_void) > 0);
    // one of the two that know that it is void dies in the next takeover
    c.crash(1, 0);
    c.take_over(2, false);
    c.run(3 * SECOND);
    assert_eq!((c.value(12, 0), c.value(13, 1)), (5, 5));
    c.write_till_done(2, 0, 2, 6);
    assert_eq!((c.value(14, 0), c.value(15, 1)), (6, 6));
    c.settle();
    assert_eq!((c.value(16, 0), c.value(17, 1)), (6, 6));
}

#[test]
fn a_power_cut_that_also_kills_one_drive_loses_nothing_answered() {
    for dead in 0..3 {
        let mut c = Cluster::new(3, 2);
        c.run(3 * SECOND);
        for n in 1..8 {
            c.write_till_done(n, n as u16, 2, n);
        }
        c.write(0, 8, 1, 2, 80);
        c.write(0, 9, 20, 2, 90);
        for node in 0..3 {
            let torn = if node == dead { &[][..] } else { &[1, 20] };
            c.crash_torn(node, node, torn);
        }
        for node in (0..3).filter(|n| *n != dead) {
            c.start(node);
        }
        c.run(35 * SECOND);
        for n in 3..8 {
            assert_eq!(c.value(100 + n, n as u16), n);
        }
        assert!([1, 80].contains(&c.value(120, 1)) && [7, 80].contains(&c.value(121, 8)));
        c.settle();
    }
}

#[test]
fn after_a_power_cut_nodes_that_return_one_by_one_within_settle_are_all_waited_for() {
    // R27: the first serves only once the others are back, or settle has passed
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.crash_all();
    c.start(2);
    c.run(8 * SECOND);
    c.start(0);
    c.run(8 * SECOND);
    assert_eq!(c.state.in_sync.len(), 3, "nobody was removed: all have come back within settle");
    c.start(1);
    c.write_till_done(2, 0, 1, 2);
    assert_eq!(c.state.in_sync.len(), 3);
    c.settle();
}

#[test]
fn after_settle_a_group_serves_without_those_that_did_not_return() {
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.crash_all();
    c.start(1);
    c.start(2);
    let back = c.now;
    assert_eq!(c.value(2, 0), 1);
    assert!(c.now.since(back) >= limits::SETTLE);
    assert!(!c.state.is_in_sync(slice(0)));
    c.settle();
}

#[test]
fn a_lagging_follower_meets_a_group_it_does_not_know_and_follows() {
    // R5: the message carries the group as metadata recorded it
    let mut c = Cluster::new(3, 2);
    c.ignorant.insert(2);
    c.crash(2, 0);
    c.start(2);
    c.run(3 * SECOND);
    c.write(0, 1, 0, 1, 4);
    c.run(SECOND);
    assert!(c.is_done(1), "{:?}", c.state);
    assert_eq!(c.store(2).top(GROUP, OBJECT, 0).1, 4);
    assert_eq!(c.state.in_sync.len(), 3);
    c.ignorant.clear();
    c.settle();
}

#[test]
fn a_journal_block_rotten_below_a_floor_makes_the_drive_join_from_nothing() {
    // S8, R13: what is legible is applied, and nothing of it counts
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    for n in 1..6 {
        c.write_till_done(n, n as u16, 1, n);
    }
    let mut image = c.image(2);
    c.crash(2, 9);
    image.blocks.retain(|k, _| k.2 != 3); // the entry that block 3 had is gone, the floor above it is not
    c.roll_back(2, image);
    c.start(2);
    c.run(SECOND);
    assert!(!c.state.is_in_sync(slice(2)));
    assert_eq!(c.group(2).ledger.floor, Version::ZERO);
    c.settle();
    c.take_over(2, true);
    assert_eq!(c.value(20, 3), 3);
}

#[test]
fn a_drive_whose_image_was_rolled_back_joins_again_from_floor_zero() {
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    let image = c.image(0);
    c.write_till_done(2, 0, 1, 2);
    c.write_till_done(3, 4, 1, 3);
    c.crash(0, 9);
    c.roll_back(0, image);
    c.start(0); // at once: it still leads
    c.run(SECOND);
    assert!(c.lead() != 0 && !c.state.is_in_sync(slice(0)) && !c.state.complete.contains(&slice(0)));
    assert_eq!((c.value(10, 0), c.value(11, 4)), (2, 3));
    c.settle();
    c.take_over(0, true);
    assert_eq!((c.value(12, 0), c.value(13, 4)), (2, 3));
}

#[test]
fn a_floor_in_a_message_older_than_the_registration_is_not_taken() {
    // R1: before its registration is accepted a drive answers nothing, and believes nothing
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    let image = c.image(2);
    c.write_till_done(2, 0, 1, 2);
    c.crash(2, 9);
    c.roll_back(2, image);
    c.metadata_is_away = true;
    c.start(2);
    c.run(SECOND); // the primary reaches it, and takes it for the copy it was
    c.metadata_is_away = false;
    c.run(SECOND);
    assert!(!c.state.is_in_sync(slice(2)));
    assert_eq!(c.group(2).ledger.floor, Version::ZERO);
    c.settle();
    assert_eq!(c.value(3, 0), 2);
}

#[test]
fn a_takeover_whose_stream_breaks_between_its_questions_asks_again() {
    let mut c = Cluster::new(3, 1);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 4, 1);
    for node in [0, 1] {
        c.store(node).is_slow = true;
    }
    for n in 2..9 {
        c.write(0, n, 4 * n as u16, 2, n);
    }
    c.step(); // only the third copy has them
    c.crash(0, 0);
    c.crash(1, 0);
    c.start(1);
    c.take_over(1, false);
    for _ in 0..12 {
        c.stalled.insert((2, 1));
        c.run(Duration::from_millis(50));
        c.disconnect(1, 2);
        c.stalled.clear();
        c.step_half();
        c.disconnect(1, 2);
    }
    for n in 2..9 {
        assert_eq!(c.value(100 + n, 4 * n as u16), n);
    }
    c.settle();
}

#[test]
fn an_entry_lost_below_a_floor_and_too_few_copies_to_write_it_again_hold_up_no_join() {
    // each join is a new epoch, in which what was written again is a tail like any other. (What is written again for an
    // entry lost below a floor replaces nothing, and comes before writes that do: an assertion did not know that.)
    let mut c = Cluster::new(4, 3);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.crash(2, 9);
    c.crash(3, 9);
    c.run_until("they are removed", 5 * SECOND, |c| c.state.in_sync.len() == 2);
    c.store(1).is_slow = true;
    c.write(0, 2, 4, 1, 2); // brings the floor, to one of the two
    c.run(Duration::from_millis(100));
    c.crash(0, 9);
    let mut image = c.image(1);
    c.crash(1, 0);
    image.blocks.retain(|k, _| k.2 != 0);
    image.ledgers.get_mut(&GROUP).expect("a ledger").floor = Version::ZERO;
    c.roll_back(1, image);
    c.stale.clear(); // nobody knows
    c.start(0);
    c.start(1);
    c.run(4 * SECOND);
    c.settle();
    assert_eq!(c.value(3, 0), 1);
    c.write_till_done(2, 4, 1, 2);
    assert_eq!(c.value(4, 4), 2);
}

#[test]
fn an_epoch_is_renewed_before_its_sequence_fills_and_nothing_waits_for_it() {
    let mut c = Cluster::new(3, 2);
    c.epoch_writes = 4;
    c.crash_all();
    c.start_all();
    c.run(3 * SECOND);
    let (before, takeovers) = (c.state.epoch, c.state.primary_since);
    for n in 1..=20 {
        c.write_till_done(n, (n % 4) as u16, 1, n);
    }
    c.run(SECOND);
    assert!(c.state.epoch.0 >= before.0 + 3, "{:?} after {before:?}", c.state.epoch);
    assert_eq!(c.state.primary_since, takeovers, "it goes on: nobody takes over");
    assert_eq!([c.value(30, 0), c.value(31, 3)], [20, 19]);
    c.settle();
}
