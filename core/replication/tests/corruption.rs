//! Damage: noticed, never served, repaired from another copy, never over something newer (R26).
mod support;
use sarsen_types::*;
use sarsen_wire::client::ClientResult;
use support::{Cluster, GROUP, OBJECT};

const SECOND: Duration = Duration::from_secs(1);
const TENTH: Duration = Duration::from_millis(100);

#[test]
fn a_rotten_block_is_repaired_from_another_copy_and_then_read() {
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 4, 1);
    c.rot(0, 2);
    assert_eq!(c.value(2, 2), 1);
    assert_eq!(c.count(|n| n.repairs), 1);
    c.settle();
}

#[test]
fn a_repair_that_comes_after_a_newer_write_changes_nothing() {
    let mut c = Cluster::new(2, 1);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.rot(0, 0);
    c.stalled.insert((1, 0));
    c.read(0, 2, 0);
    c.step(); // the other copy is asked, and its answer is on its way
    c.stalled.clear();
    c.store(0).is_slow = true;
    c.write(0, 3, 0, 1, 3);
    c.step_half();
    c.step_half();
    c.store(0).is_slow = false;
    c.run(TENTH);
    assert!(c.is_done(3));
    assert_eq!(c.value(4, 0), 3);
    c.settle();
}

#[test]
fn a_copy_that_goes_while_it_is_asked_is_not_waited_for() {
    let mut c = Cluster::new(3, 1);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.rot(0, 0);
    c.stalled.extend([(1, 0), (2, 0)]);
    c.read(0, 2, 0);
    c.step();
    c.disconnect(0, 2);
    c.disconnect(0, 1);
    assert!(
        matches!(c.reply(2), Some(ClientResult::Retry { .. })),
        "nobody is left to ask: {:?}",
        c.reply(2)
    );
    c.stalled.clear();
    assert_eq!(c.value(2, 0), 1);
    c.settle();
}

#[test]
fn a_block_that_no_copy_has_is_an_error_and_never_data() {
    let mut c = Cluster::new(2, 1);
    c.may_lose = true;
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 2, 1);
    c.rot(0, 0);
    c.rot(1, 0);
    c.read(0, 2, 0);
    c.run(TENTH);
    assert!(matches!(c.reply(2), Some(ClientResult::Corrupt { .. })), "{:?}", c.reply(2));
    assert_eq!(c.alarms, [(0, Alarm::Gone)], "the operator is told");
    // what is written whole is well again
    c.write_till_done(3, 0, 1, 3);
    assert_eq!((c.value(4, 0), c.value(5, 1)), (3, 1));
    c.settle();
}

#[test]
fn a_part_write_over_a_rotten_block_waits_for_its_repair() {
    let mut c = Cluster::new(2, 1);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.rot(0, 0);
    c.write_part(0, 2, 100, 9);
    c.run(TENTH);
    assert!(c.is_done(2), "{:?}", c.reply(2));
    assert_eq!(c.count(|n| n.repairs), 1);
    c.settle();
}

#[test]
fn a_part_write_over_a_block_that_no_copy_has_is_an_error() {
    // it was tried again for ever, every 20 ms, with a report to the operator each time
    let mut c = Cluster::new(2, 1);
    c.may_lose = true;
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.rot(0, 0);
    c.rot(1, 0);
    c.write_part(0, 2, 100, 9);
    c.run(TENTH);
    assert!(matches!(c.reply(2), Some(ClientResult::Corrupt { .. })), "{:?}", c.reply(2));
    c.write_till_done(3, 0, 1, 3);
    c.write_part(0, 4, 100, 9);
    c.run(TENTH);
    assert!(c.is_done(4));
    c.settle();
}

#[test]
fn an_object_whose_page_is_lost_is_made_whole_and_nothing_uncommitted_takes_the_place_of_what_was_there() {
    // R26: a copy's top entries were installed whatever their version; one that was not committed hid what was
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    for n in 1..5 {
        c.write_till_done(n, n as u16, 1, n);
    }
    c.store(1).is_slow = true;
    c.write(0, 10, 2, 1, 99); // everywhere but there
    c.run(TENTH);
    c.change(|_| {}); // and again in the next epoch, so that it lies below
    c.stalled.extend([(0, 1), (0, 2)]);
    c.step();
    c.stalled.remove(&(0, 2));
    c.lose_page(0, 0);
    c.read(0, 11, 2);
    c.run(TENTH);
    let seen = c.replies.get(&(11, 0)).and_then(|r| r.1.as_ref()).map(|p| p[0]);
    assert!(!c.was_read(11) || seen == Some(2), "{seen:?}");
    c.stalled.clear();
    c.store(1).is_slow = false;
    c.run(SECOND);
    assert!(c.is_done(10));
    assert_eq!([c.value(20, 1), c.value(21, 2), c.value(22, 3), c.value(23, 4)], [1, 99, 3, 4]);
    c.settle();
}

#[test]
fn a_joiner_whose_page_is_lost_is_given_the_object_whole() {
    // R26: an unreadable page is not an empty one: where the primary has nothing, it looked as if nothing differed
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 4, 1);
    c.crash(2, 9);
    c.run_until("it is removed", 5 * SECOND, |c| c.state.in_sync.len() == 2);
    c.discard(0, 2, 0, 4);
    c.run(SECOND);
    c.write_till_done(3, 8, 1, 3);
    c.run(SECOND);
    c.start(2);
    c.lose_page(2, 0);
    c.run(TENTH);
    c.join(2);
    c.run_until("it is promoted", 5 * SECOND, |c| c.state.in_sync.len() == 3);
    assert!(!c.store(2).has_lost_page(GROUP, OBJECT));
    c.settle();
}

#[test]
fn an_epoch_that_begins_in_mid_restore_is_no_loss() {
    // simulator, seed 232: a copy was promoted while an object was fetched from the only other one, and the client was told
    // that its data were intact nowhere
    let mut c = Cluster::new(2, 1);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 4, 1);
    c.run(SECOND);
    c.lose_page(0, 0);
    c.stalled.insert((1, 0));
    c.read(0, 11, 2);
    c.step(); // the other copy is asked, and its answer is on its way
    c.change(|_| {});
    c.run(TENTH);
    assert!(!matches!(c.reply(11), Some(ClientResult::Corrupt { .. })), "{:?}", c.reply(11));
    c.stalled.clear();
    c.run(SECOND);
    assert_eq!([c.value(12, 2), c.value(13, 0)], [1, 1]);
    assert_eq!(c.count(|n| n.unrepairable), 0);
    c.settle();
}

#[test]
fn blocks_that_come_twice_in_a_restore_are_installed_once_and_where_they_belong() {
    // simulator, seed 1853: an epoch began while a fetched run became durable; the next run was then asked for twice, and its
    // second answer installed as the run after it
    for steps in 0..8 {
        let mut c = Cluster::new(2, 1);
        c.run(3 * SECOND);
        for n in 1..7 {
            c.write_till_done(n, n as u16, 1, n);
        }
        c.run(SECOND);
        c.lose_page(0, 0);
        c.store(0).is_slow = true;
        c.read(0, 11, 2);
        c.run(TENTH);
        c.change(|_| {});
        for _ in 0..steps {
            c.step();
        }
        c.store(0).is_slow = false;
        c.run(SECOND);
        assert_eq!([1, 2, 3, 4, 5, 6].map(|b| c.value(20 + u64::from(b), b)), [1, 2, 3, 4, 5, 6], "{steps}");
        assert_eq!(c.count(|n| n.unrepairable), 0);
        c.settle();
    }
}

#[test]
fn what_is_damaged_on_the_only_other_copy_is_asked_of_the_third() {
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 4, 1);
    c.run(SECOND);
    c.lose_page(0, 0);
    for other in [1, 2] {
        c.rot(other, 1 + other as u16); // different blocks: each is whole on one copy
    }
    assert_eq!([0, 1, 2, 3].map(|b| c.value(20 + u64::from(b), b)), [1; 4]);
    assert_eq!(c.count(|n| n.unrepairable), 0);
}

#[test]
#[should_panic(expected = "block 2 of group 7 is intact on no copy")]
fn what_is_whole_nowhere_is_told_and_not_asked_for_ever() {
    let mut c = Cluster::new(2, 1);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 4, 1);
    c.run(SECOND);
    c.lose_page(0, 0);
    c.rot(1, 2);
    assert_eq!([c.value(12, 3), c.value(13, 1)], [1, 1], "the others are there");
    c.write_till_done(14, 0, 1, 5);
    assert_eq!(c.value(15, 0), 5);
    c.read(0, 11, 2);
    c.run(SECOND);
}

#[test]
fn what_rotted_between_two_floors_is_repaired_by_the_takeover_that_lists_it() {
    // R12: at a version at or below a floor a damaged entry is corruption, and is not rolled back
    let mut c = Cluster::new(2, 1);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 5);
    c.run(SECOND);
    c.write(0, 2, 0, 1, 6);
    while !c.is_done(2) {
        c.step();
    }
    c.stalled.insert((0, 1)); // the floor is on its way
    c.rot(1, 0);
    c.take_over(1, true);
    c.run(TENTH);
    c.stalled.clear();
    c.run(3 * SECOND);
    assert_eq!((c.count(|n| n.takeovers_with_corruption), c.expelled), (1, 0));
    assert_eq!(c.alarms, [(1, Alarm::Repaired)], "the operator is told");
    assert_eq!(c.value(3, 0), 6);
    c.settle();
}

#[test]
fn a_block_that_was_overwritten_while_it_was_asked_for_is_not_lost() {
    // simulator, seed 9487: a read met a rotten block; when its version was asked for, the other copy had dropped it for a
    // newer one, and the client was told that its data were intact nowhere
    let mut c = Cluster::new(2, 1);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.run(SECOND);
    c.rot(0, 0);
    c.store(0).holds_reads = true;
    c.read(0, 2, 0);
    c.write(0, 3, 0, 1, 3);
    c.run(SECOND);
    assert!(c.is_done(3));
    c.finish_reads(0);
    c.run(TENTH);
    let seen = c.replies.get(&(2, 0)).and_then(|r| r.1.as_ref()).map(|p| p[0]);
    assert_eq!(seen, Some(3), "{:?}", c.reply(2));
    assert_eq!(c.count(|n| n.unrepairable), 0);
    c.settle();
}

#[test]
fn two_copies_that_contradict_each_other_are_an_alarm() {
    let mut c = Cluster::new(2, 1);
    c.run(3 * SECOND);
    c.write(0, 1, 0, 1, 6);
    while !c.is_done(1) {
        c.step();
    }
    c.stalled.insert((0, 1)); // the floor is on its way
    c.contradict(1, 0);
    c.take_over(1, true);
    c.run(TENTH);
    c.stalled.clear();
    c.run(3 * SECOND);
    assert_eq!((c.count(|n| n.contradictions), &c.alarms[..]), (1, &[(1, Alarm::Contradiction)][..]));
}
