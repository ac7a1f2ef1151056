//! Joins: whatever breaks while a copy is brought up to date, it ends equal, and its group is never stuck (R6, R14-R20).
mod support;
use sarsen_types::*;
use sarsen_wire::client::{ClientOp, ClientResult};
use support::{Cluster, GROUP, OBJECT, slice};

const SECOND: Duration = Duration::from_secs(1);
const TENTH: Duration = Duration::from_millis(100);

/// Three copies, the third away since some writes.
fn with_one_away() -> Cluster {
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    for n in 1..8 {
        c.write_till_done(n, n as u16, 2, n);
    }
    c.crash(2, 9);
    c.run_until("it is removed", 5 * SECOND, |c| !c.state.is_in_sync(slice(2)));
    for n in 8..16 {
        c.write_till_done(n, n as u16, 2, n);
    }
    c
}

#[test]
fn a_joiners_stream_that_breaks_loses_no_prepare() {
    let mut c = with_one_away();
    c.start(2);
    c.run(TENTH);
    c.join(2);
    for n in 20..40 {
        // each is on its way when the stream breaks, and committed without the joiner
        c.stalled.insert((0, 2));
        c.write(0, n, (n % 16) as u16, 2, n);
        c.step();
        c.disconnect(0, 2);
        c.stalled.clear();
        c.step_half();
    }
    c.settle();
}

#[test]
fn a_prepare_lost_inside_the_join_epoch_comes_with_the_recovery_a_write_and_a_discard() {
    let mut c = with_one_away();
    c.start(2);
    c.run(TENTH);
    c.join(2);
    c.store(2).is_slow = true; // it lasts
    c.run(TENTH);
    c.stalled.insert((0, 2));
    c.write(0, 20, 3, 1, 20);
    c.discard(0, 21, 5, 2);
    c.run(TENTH);
    assert!(c.is_done(20) && c.is_done(21));
    c.disconnect(0, 2);
    c.stalled.clear();
    c.store(2).is_slow = false;
    c.run_until("it is promoted", 5 * SECOND, |c| c.state.is_in_sync(slice(2)));
    c.take_over(2, true);
    assert_eq!([c.value(30, 3), c.value(31, 5), c.value(32, 6), c.value(33, 7)], [20, 0, 0, 7]);
    c.settle();
}

#[test]
fn the_first_write_of_an_object_survives_the_drop_of_what_the_joiner_had_of_it() {
    // the joiner holds an object that the primary emptied while it was away; a write makes it anew as recovery drops it
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.chunk = 1;
    c.write_till_done(1, 0, 8, 1);
    c.crash(2, 9);
    c.run_until("it is removed", 5 * SECOND, |c| !c.state.is_in_sync(slice(2)));
    c.discard(0, 2, 0, 8);
    c.run(SECOND);
    c.start(2);
    c.run(TENTH);
    c.join(2);
    for n in 10..30 {
        c.step_half();
        c.write(0, n, (n % 4) as u16, 1, n);
    }
    c.run(SECOND);
    c.settle();
    c.take_over(2, true);
    let values: Vec<u64> = (0..8).map(|b| c.value(100 + b, b as u16)).collect();
    assert_eq!(values, [28, 29, 26, 27, 0, 0, 0, 0]);
}

#[test]
fn an_emptied_object_is_emptied_on_a_copy_that_was_away() {
    // R18: what it was is remembered while any copy is not in sync
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 8, 1);
    c.crash(2, 9);
    c.run_until("it is removed", 5 * SECOND, |c| !c.state.is_in_sync(slice(2)));
    c.discard(0, 2, 0, 8);
    c.run(SECOND);
    // more writes make the floor durable, so that the zeroes vanish
    c.chunk = 1;
    for n in 3..6 {
        c.write_till_done(n, 0, 1, n);
    }
    c.run(SECOND);
    assert_eq!(c.store(0).top(GROUP, OBJECT, 0).0, Version::ZERO, "it vanished");
    c.crash_all();
    c.start_all();
    c.settle();
    c.chunk = 0;
    assert_eq!(c.store(2).top(GROUP, OBJECT, 0).1, 0);
}

#[test]
fn a_discard_and_a_recovery_of_the_same_blocks_leave_zeroes() {
    let mut c = with_one_away();
    c.start(2);
    c.run(TENTH);
    c.join(2);
    for n in 0..8 {
        c.step_half();
        c.discard(0, 20 + n, 2 * n as u16, 1);
    }
    c.run(SECOND);
    c.settle();
    c.take_over(2, true);
    assert_eq!([c.value(40, 8), c.value(41, 9), c.value(42, 10)], [0, 9, 0]);
}

#[test]
fn a_primary_that_changes_in_mid_join_begins_the_join_anew() {
    let mut c = with_one_away();
    c.start(2);
    c.run(TENTH);
    c.join(2);
    for _ in 0..6 {
        c.step_half();
    }
    c.write(0, 20, 0, 4, 20);
    c.step_half();
    c.crash(0, 1);
    c.take_over(1, false);
    // below min_copies: what the takeover writes again waits for the joiner, which gets it
    c.run_until("it is promoted", 10 * SECOND, |c| c.state.is_in_sync(slice(2)));
    c.write_till_done(21, 1, 1, 21);
    assert!(c.count(|n| n.joins_restarted) > 0);
    c.settle();
    c.write_till_done(20, 0, 4, 20);
    assert_eq!(c.value(30, 9), 9);
}

/// What a joiner does not hear of an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Missed {
    /// Anything, from anybody: the next epoch is all it hears of.
    All,
    /// What its primary says first in it.
    First,
    /// What its primary goes on to say in the one before, which it does not listen to any more.
    Before,
}

/// R17: another copy leaves while a copy joins, and the primary goes on in a new epoch, of which the joiner misses something.
/// Whatever its join was at, it ends complete.
#[test]
fn a_joiner_that_misses_an_epoch_of_a_primary_that_goes_on_misses_nothing_else() {
    for missed in [Missed::All, Missed::First, Missed::Before] {
        let proposed = (0..24).filter(|at| misses_an_epoch(missed, *at)).count();
        assert!((1..20).contains(&proposed), "{missed:?}: {proposed} of 24 joins were nearly at their end");
    }
}

/// The join has run for four half steps `at` times, with a write after each. Whether its end was proposed by then.
fn misses_an_epoch(missed: Missed, at: u64) -> bool {
    let mut c = Cluster::new(4, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 9, 2, 1);
    c.crash(3, 9);
    c.run_until("it is removed", 5 * SECOND, |c| !c.state.is_in_sync(slice(3)));
    for n in 2..8 {
        c.chunk = n as u32;
        c.write_till_done(n, 0, 2, n);
    }
    c.start(3);
    c.run(TENTH);
    c.join(3);
    c.chunk = 1;
    for n in 0..at {
        (0..4).for_each(|_| c.step_half());
        c.write(0, 100 + n, 2 * n as u16, 1, 100 + n); // the last of these are under way when the epoch ends
    }
    assert!(c.state.join_of(slice(3)).is_some());
    let is_proposed = !c.proposals.is_empty();
    c.chunk = 0;
    if missed == Missed::Before {
        c.deaf.insert(0);
        c.remove(2);
        c.write(0, 20, 3, 1, 20);
        c.discard(0, 21, 9, 1);
        c.step();
    } else {
        c.stalled.extend([(0, 3), (3, 0)]);
        c.deaf.insert(3);
        c.remove(2);
        c.write(0, 20, 3, 1, 20);
        c.discard(0, 21, 9, 1);
        c.step();
        c.disconnect(0, 3);
    }
    if missed == Missed::All {
        c.write_till_done(22, 4, 1, 22);
        c.join(2); // another epoch
        c.write_till_done(23, 5, 1, 23);
        c.disconnect(0, 3);
    }
    c.stalled.clear();
    c.deaf.clear();
    let mut left = false;
    c.run_until("it is promoted", 20 * SECOND, |c| {
        // of one whose end was proposed all writes wait, so that it is taken out soon (R6)
        if !c.state.is_in_sync(slice(3)) && c.state.join_of(slice(3)).is_none() {
            left = true;
            c.join(3);
        }
        c.state.is_in_sync(slice(3))
    });
    assert!(is_proposed || !left, "{missed:?}, {at}: its join did not go on");
    c.run(TENTH);
    let (written, discarded) = (c.is_done(20), c.is_done(21));
    assert!(c.lead() == 0 && (is_proposed || missed == Missed::Before || (written && discarded)));
    // what it has is all there is
    (0..3).for_each(|node| c.crash(node, 0));
    c.change(|s| (s.primary, s.in_sync, s.min_copies) = (slice(3), vec![slice(3)], 1));
    c.run(3 * SECOND);
    assert!(!written || c.value(30, 3) == 20, "{missed:?}, {at}");
    assert!(!discarded || c.value(31, 9) == 0, "{missed:?}, {at}");
    assert_eq!(c.value(32, 10), 1);
    if missed == Missed::All {
        assert_eq!([c.value(33, 4), c.value(34, 5)], [22, 23]);
    }
    c.chunk = 1;
    for n in 0..at {
        assert!(!c.is_done(100 + n) || c.value(40 + n, 2 * n as u16) == 100 + n, "{missed:?}, {at}: {n}");
    }
    for n in 2..8 {
        c.chunk = n as u32;
        assert_eq!(c.value(80 + n, 1), n, "{missed:?}, {at}");
    }
    is_proposed
}

#[test]
fn a_write_in_flight_when_a_copy_joins_reaches_it() {
    let mut c = with_one_away();
    c.start(2);
    c.run(TENTH);
    c.store(1).is_slow = true;
    c.write(0, 20, 3, 2, 20);
    c.run(TENTH);
    assert_eq!(c.reply(20), None);
    c.join(2);
    c.run(2 * SECOND);
    c.store(1).is_slow = false;
    c.run_until("it is promoted", 5 * SECOND, |c| c.state.is_in_sync(slice(2)));
    c.run(TENTH);
    assert!(c.is_done(20));
    c.crash(0, 0);
    c.crash(1, 0);
    c.take_over(2, false);
    c.settle();
    assert_eq!((c.value(30, 3), c.value(31, 4)), (20, 20));
}

#[test]
fn a_damaged_entry_of_equal_version_on_a_joiner_is_replaced() {
    // R14: its version alone says that it holds the write
    let mut c = with_one_away();
    c.start(2);
    c.run(TENTH);
    c.join(2);
    c.store(2).is_slow = true;
    c.write(0, 20, 3, 2, 20);
    c.run(TENTH);
    assert!(c.is_done(20));
    // the power goes as the joiner writes it: the record stands, the data do not
    let at = c.store(2).queue.iter().position(|q| q.1.data_blocks() == 2).expect("the write waits") + 1;
    c.crash_torn(2, at, &[3, 4]);
    c.start(2);
    c.run_until("it is promoted", 20 * SECOND, |c| {
        if c.state.join_of(slice(2)).is_none() && !c.state.is_in_sync(slice(2)) {
            c.join(2);
        }
        c.state.is_in_sync(slice(2))
    });
    c.take_over(2, true);
    assert_eq!((c.value(30, 3), c.value(31, 4)), (20, 20));
    c.settle();
}

#[test]
fn a_joiner_with_a_full_window_below_min_copies_gets_what_the_takeover_wrote_and_is_promoted() {
    // R16: nothing commits without it, so a window that drops what does not fit would never open again
    let mut c = Cluster::new(2, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.isolate(1);
    c.run_until("it is removed", 5 * SECOND, |c| c.state.in_sync.len() == 1);
    for n in 0..400u64 {
        c.write(0, 100 + n, 2 * n as u16, 1, n);
    }
    c.run(TENTH);
    c.crash(0, 500);
    c.start(0);
    c.run(3 * SECOND);
    c.reconnect();
    c.run(TENTH);
    c.join(1);
    c.run_until("it is promoted", 20 * SECOND, |c| c.state.in_sync.len() == 2);
    assert!(c.count(|n| n.join_window_full) > 0);
    c.settle();
    assert_eq!((c.value(1000, 2), c.value(1001, 798)), (1, 399));
}

#[test]
fn a_slice_given_a_group_it_had_lost_begins_empty() {
    // R20: data of another number count for nothing
    let mut c = with_one_away();
    c.start(2);
    c.run(TENTH);
    c.assign_anew(2);
    c.step_half();
    c.step_half();
    assert_eq!(c.group(2).ledger.floor, Version::ZERO);
    c.run_until("it is promoted", 5 * SECOND, |c| c.state.is_in_sync(slice(2)));
    assert!(c.count(|n| n.blocks_recovered) >= 16);
    c.settle();
}

#[test]
fn a_slice_that_was_cut_off_while_its_copy_was_dropped_drops_it() {
    // simulator, seed 1699: the last it had heard was that it is in sync, so it kept all and asked to take over for ever
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 5);
    c.run(SECOND);
    c.isolate(2);
    c.change(|s| {
        s.in_sync.retain(|copy| *copy != slice(2));
        s.members.retain(|m| m.slice != slice(2));
    });
    c.run(SECOND);
    c.ignorant.insert(2);
    c.dropped = vec![(GROUP, 1)];
    c.reconnect();
    c.run(3 * SECOND);
    assert!(!c.group(2).is_copy(slice(2)));
    assert!(c.image(2).blocks.is_empty());
    assert_eq!(c.value(2, 0), 5);
}

#[test]
fn a_joiner_proposed_and_then_lost_does_not_hold_up_its_group_for_ever() {
    // R6: from the proposal on it must acknowledge; if the proposal was lost and the joiner with it, nobody proposed
    // anything any more, and every write waited
    let mut c = with_one_away();
    c.start(2);
    c.run(TENTH);
    c.join(2);
    c.step_half();
    c.metadata_is_away = true;
    c.run(SECOND);
    assert_eq!(c.count(|n| n.promotions), 1);
    c.proposals.clear(); // the leader of the metadata dies with it
    c.separate(0, 2); // the joiner is well, but for this link
    c.write(0, 20, 0, 1, 20);
    c.run(SECOND);
    assert_eq!(c.reply(20), None);
    c.metadata_is_away = false;
    c.run(4 * SECOND);
    assert!(c.is_done(20), "{:?}", c.state);
    c.settle();
}

#[test]
fn a_join_over_a_link_that_does_not_work_ends() {
    // R19: else its place is taken for ever by a copy that looks healthy to everybody else
    let mut c = with_one_away();
    c.start(2);
    c.separate(0, 2);
    c.join(2);
    c.run(8 * SECOND);
    assert_eq!(c.state.join_of(slice(2)), None);
    c.settle();
}

#[test]
fn a_promotion_accepted_while_its_answer_is_lost_and_the_joiner_with_it_costs_one_more_epoch() {
    let mut c = with_one_away();
    c.start(2);
    c.run(TENTH);
    c.join(2);
    c.deaf.insert(0); // the answer does not come back
    c.run_until("it is promoted", 5 * SECOND, |c| {
        c.deaf.remove(&0);
        c.step();
        c.deaf.insert(0);
        c.state.is_in_sync(slice(2))
    });
    c.crash(2, 0);
    c.write(0, 20, 0, 1, 20);
    c.run(SECOND);
    c.deaf.clear();
    c.run(5 * SECOND);
    assert!(c.is_done(20) && !c.state.is_in_sync(slice(2)));
    c.settle();
}

#[test]
fn a_join_goes_on_under_a_steady_load() {
    let mut c = with_one_away();
    c.start(2);
    c.run(TENTH);
    c.join(2);
    let mut n = 20;
    c.run_until("it is promoted", 5 * SECOND, |c| {
        for _ in 0..20 {
            n += 1;
            let lead = c.lead();
            c.chunk = (n % 5) as u32;
            c.write(lead, n, (n % 64) as u16, 1, n);
        }
        c.state.is_in_sync(slice(2))
    });
    c.settle();
}

#[test]
fn a_joiner_that_has_no_space_ends_its_join() {
    // R7: a Prepare that finds none was never acknowledged, and the join never ended
    let mut c = with_one_away();
    c.start(2);
    c.run(TENTH);
    c.join(2);
    c.run(TENTH);
    if c.state.is_in_sync(slice(2)) {
        c.remove(2);
        c.join(2);
    }
    c.store(2).is_full = true;
    c.write(0, 20, 0, 1, 20);
    c.run(SECOND);
    assert!(c.is_done(20));
    assert!(c.state.join_of(slice(2)).is_none() && !c.state.is_in_sync(slice(2)));
    c.settle();
}

#[test]
fn a_copy_in_sync_that_has_no_space_leaves() {
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.store(1).is_full = true;
    c.write(0, 1, 0, 1, 1);
    c.run(TENTH);
    assert!(c.is_done(1), "and at once");
    assert!(!c.state.is_in_sync(slice(1)));
    c.settle();
}

#[test]
fn a_primary_that_has_no_space_gives_way() {
    // R7: its own write stayed unacknowledged for ever, and its group with it
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.store(0).is_full = true;
    c.write(0, 1, 0, 1, 1);
    c.run_until("another leads", 5 * SECOND, |c| c.lead() != 0);
    c.write_till_done(1, 0, 1, 1);
    assert!(!c.state.is_in_sync(slice(0)));
    c.settle();
}

#[test]
fn a_sole_copy_that_has_no_space_answers_once_there_is_some() {
    let mut c = Cluster::new(1, 1);
    c.run(3 * SECOND);
    c.store(0).is_full = true;
    c.write(0, 1, 0, 1, 1);
    c.run(2 * SECOND);
    assert_eq!(c.reply(1), None);
    c.store(0).is_full = false;
    c.run(SECOND);
    assert!(c.is_done(1));
    assert_eq!(c.value(2, 0), 1);
}

#[test]
fn a_copy_that_had_no_space_and_leads_before_it_is_out_believes_no_record_it_does_not_have() {
    // walk 1401: its retry was answered as done, and the block was as before
    let mut c = Cluster::new(2, 1);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.store(1).is_full = true;
    c.metadata_is_away = true; // it says that it cannot, and stays in sync for now
    c.store(0).is_slow = true;
    c.write(0, 2, 0, 1, 2);
    c.run(TENTH);
    c.proposals.clear();
    c.crash(0, 0);
    c.metadata_is_away = false;
    c.take_over(1, false);
    c.run(3 * SECOND);
    c.store(1).is_full = false;
    c.write_till_done(2, 0, 1, 2);
    assert_eq!(c.value(3, 0), 2);
    c.settle();
}

#[test]
fn a_joiner_that_had_no_space_for_a_block_is_not_promoted_by_what_it_acknowledges_after() {
    // walk 1647: the last record of the object needed no space, and was acknowledged
    let mut c = with_one_away();
    c.start(2);
    c.run(TENTH);
    c.store(2).is_full = true;
    c.metadata_is_away = true; // nobody hears that it failed
    c.join(2);
    c.run(Duration::from_millis(400));
    c.proposals.retain(|p| !matches!(p.change, GroupChange::Remove(_)));
    c.metadata_is_away = false;
    c.run(Duration::from_millis(400));
    assert!(!c.state.is_in_sync(slice(2)));
    c.settle();
}

/// S16: what is recovered must leave room for what is written, so a drive that is nearly full takes no copy that begins with
/// nothing; one that comes back with its data joins as ever.
#[test]
fn a_drive_that_is_nearly_full_takes_no_new_copy_but_lets_an_old_one_back() {
    for is_new in [false, true] {
        let mut c = with_one_away();
        c.start(2);
        c.fill_for_joins(2);
        match is_new {
            true => c.assign_anew(2),
            false => c.join(2),
        }
        c.run(2 * SECOND);
        assert_eq!(c.state.is_in_sync(slice(2)), !is_new);
        assert!(c.state.join_of(slice(2)).is_none(), "it does not go on for ever");
        c.write_till_done(50, 3, 2, 50);
        c.settle();
    }
}

#[test]
fn what_takes_a_place_is_refused_where_there_is_none_zeroes_over_a_part_of_a_block_too() {
    // S16: such zeroes are merged with the rest of their block and are data like any other (found in review)
    let mut c = Cluster::new(2, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 2, 5);
    c.fill(0);
    c.write(0, 2, 0, 1, 6);
    c.request(0, 3, ClientOp::Zero { offset: 10, len: 100 }, None);
    c.discard(0, 4, 1, 1);
    c.run(SECOND);
    assert_eq!([2, 3].map(|n| c.reply(n) == Some(&ClientResult::NoSpace)), [true; 2]);
    assert!(c.is_done(4), "whole blocks give place back");
    assert_eq!([c.value(5, 0), c.value(6, 1)], [5, 0]);
}

#[test]
fn deleted_layers_are_dropped_some_at_a_time_and_that_they_are_is_said_once_it_is_durable() {
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    // three in each revision
    c.tombstones = (0..120).map(|n| (Revision(1000 + n / 3), LayerId(100 + n))).collect();
    c.store(0).is_slow = true;
    c.revision = 2000;
    c.run(SECOND);
    let said = |c: &Cluster, node: usize| -> Vec<u64> {
        c.buried.iter().filter(|b| b.0 == node).map(|b| b.1.0).collect()
    };
    assert!(said(&c, 0).is_empty(), "nothing is durable there");
    let all = said(&c, 1);
    assert!(all.is_sorted() && all.len() > 4 && all.last() == Some(&1039), "{all:?}");
    c.store(0).is_slow = false;
    c.run(SECOND);
    assert_eq!(said(&c, 0), all);
    // what it dropped it does not drop again in this life; what is asked anew it does
    c.revision += 1;
    c.run(SECOND);
    assert_eq!(said(&c, 0), all);
    c.tombstones = vec![(Revision(2001), LayerId(100))];
    c.revision += 1;
    c.run(SECOND);
    assert_eq!(said(&c, 0).last(), Some(&2001));
}
