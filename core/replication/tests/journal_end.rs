//! A copy whose journal lost its end to rot knows nothing of it: others must see it, before it leads (R12, R13).
mod support;
use sarsen_types::*;
use support::Cluster;
use support::store::Disk;

const SECOND: Duration = Duration::from_secs(1);

/// Three copies, a write answered, and the drive of `node` as it was before.
fn one_write_ago(node: usize, min_copies: u8) -> (Cluster, Disk) {
    let mut c = Cluster::new(3, min_copies);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 5);
    c.run(SECOND);
    let image = c.image(node);
    c.write_till_done(2, 0, 1, 6);
    c.run(SECOND);
    (c, image)
}

/// Three copies that were all in sync and forgot an emptied object, but for node 2: its drive is as it was before the discard.
fn one_discard_ago() -> Cluster {
    let mut c = Cluster::new(3, 1);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 5);
    c.run(SECOND);
    let image = c.image(2);
    c.discard(c.lead(), 2, 0, 1);
    c.run(SECOND);
    c.change(|_| {}); // the store forgets with the next record, and each epoch brings one
    c.run(SECOND);
    c.crash_to(2, image);
    c
}

#[test]
fn the_takeover_that_a_restart_brings_sees_what_a_journal_lost() {
    // simulator, seed 618: the new primary's first message carried its floor; the copy took it before it told its own, so
    // nobody asked for what lay between the two, and it led later without an answered write
    let (mut c, image) = one_write_ago(0, 2);
    c.crash_to(0, image);
    c.start(0);
    c.run(3 * SECOND);
    assert_ne!(c.lead(), 0);
    assert_eq!(c.expelled, 1);
    c.settle();
    c.take_over(0, true);
    assert_eq!(c.value(3, 0), 6);
    c.settle();
}

#[test]
fn a_copy_back_within_grace_is_compared_before_it_takes_a_floor() {
    // no takeover asks for the tail of a copy that did not lead; it joins instead, and joins compare
    let (mut c, image) = one_write_ago(2, 2);
    c.crash_to(2, image);
    c.start(2);
    c.run(2 * SECOND);
    assert!(!c.state.is_in_sync(support::slice(2)), "it left, though it was back in time");
    c.settle();
    c.take_over(2, true);
    assert_eq!(c.value(3, 0), 6);
    c.settle();
}

#[test]
fn a_copy_that_told_its_tail_and_restarted_is_asked_again() {
    let (mut c, image) = one_write_ago(2, 2);
    // the takeover waits for copy 0, which is not reached, and has heard copy 2
    c.separate(0, 1);
    c.take_over(1, true);
    c.run(SECOND / 2);
    c.crash_to(2, image);
    c.start(2);
    c.run(SECOND / 2);
    c.reconnect();
    c.run(3 * SECOND);
    assert_eq!(c.expelled, 1);
    c.settle();
    c.take_over(2, true);
    assert_eq!(c.value(3, 0), 6);
    c.settle();
}

#[test]
fn a_discard_that_a_journal_lost_is_not_undone_by_whoever_leads() {
    // simulator, seed 1204: the zero entry had vanished on the others, nothing above the floor told of it, and the copy that
    // had lost it led the group (R12, R23)
    for leads in [0, 1] {
        let mut c = Cluster::new(2, 1);
        c.run(3 * SECOND);
        c.write_till_done(1, 0, 1, 5);
        c.write_till_done(2, 1, 1, 7);
        c.run(SECOND);
        let image = c.image(0);
        c.discard(c.lead(), 3, 0, 1);
        c.run(SECOND);
        assert!(c.is_done(3));
        c.crash_to(0, image);
        c.start(0);
        c.take_over(leads, true);
        c.run(3 * SECOND);
        assert_eq!((c.expelled, c.lead()), (1, 1), "{leads}");
        assert_eq!((c.value(4, 0), c.value(5, 1)), (0, 7), "{leads}");
        c.settle();
        c.take_over(0, true);
        c.run(SECOND);
        assert_eq!((c.value(6, 0), c.value(7, 1)), (0, 7), "{leads}");
        c.settle();
    }
}

#[test]
fn a_copy_that_lost_a_discard_which_all_forgot_is_compared_whole_when_it_joins() {
    // R18: `touched` of an emptied object goes once all are in sync, and a join that compares from the floor would not look
    // there; nor would one that a copy made since, which never knew of it, begins
    for leads in [0, 1] {
        let mut c = one_discard_ago();
        c.run_until("it is removed", 5 * SECOND, |c| c.state.in_sync.len() == 2);
        assert_eq!(c.lead(), 0);
        c.remove(1);
        c.assign_anew(1);
        c.run_until("another is made", 5 * SECOND, |c| c.state.in_sync.len() == 2);
        c.take_over(leads, true);
        c.run(3 * SECOND);
        c.start(2);
        c.join(2);
        c.run_until("it is promoted", 5 * SECOND, |c| c.state.in_sync.len() == 3);
        assert!(c.count(|n| n.joins_compared_whole) > 0);
        c.take_over(2, true);
        c.run(SECOND);
        assert_eq!(c.value(3, 0), 0, "{leads}");
        c.settle();
    }
}

#[test]
fn a_sole_copy_that_may_lack_something_does_not_lead_until_that_is_accepted() {
    // R28
    let mut c = Cluster::new(1, 1);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 5);
    c.change(|s| s.is_damaged = true);
    c.run(SECOND);
    c.read(0, 2, 0);
    c.run(5 * SECOND);
    assert!(!c.was_read(2), "{:?}", c.reply(2));
    let since = c.state.epoch.next();
    c.change(|s| (s.is_damaged, s.primary_since) = (false, since));
    c.run(3 * SECOND);
    assert_eq!(c.value(3, 0), 5);
    c.write_till_done(4, 0, 1, 7);
    c.settle();
}

#[test]
fn what_is_written_before_a_copy_is_compared_does_not_hide_what_it_lost() {
    // found in review: back within GRACE it took the primary's next writes, and its top was as high as the others' floor again
    for dies in [false, true] {
        let mut c = one_discard_ago();
        c.start(2);
        c.chunk = 1; // the object that was emptied is not written again
        for n in 0..20 {
            let lead = c.lead();
            c.write(lead, 10 + n, 7, 1, n);
            c.step();
        }
        if dies {
            assert_eq!(c.lead(), 0);
            c.crash(0, 9);
            let heir = if c.state.is_in_sync(support::slice(2)) { 2 } else { 1 };
            c.take_over(heir, false);
            c.run(3 * SECOND);
            c.start(0);
        }
        c.run(3 * SECOND);
        c.settle();
        c.take_over(2, true);
        c.run(SECOND);
        c.chunk = 0;
        assert_eq!(c.value(50, 0), 0, "{dies}");
        c.settle();
    }
}

/// Everything stops; node 0 lost the end of its journal, is back first, and after `settle` it is alone (R27).
fn back_first(min_copies: u8) -> Cluster {
    let (mut c, image) = one_write_ago(0, min_copies);
    c.crash_all();
    c.crash_to(0, image);
    c.remove(1);
    c.remove(2);
    c.start(0);
    c.run(3 * SECOND);
    assert_eq!(c.lead(), 0);
    c
}

#[test]
fn a_copy_that_lost_its_end_and_is_back_first_gives_way_to_one_that_knows_more() {
    // found in review: the copies that came after it were made like it, though their floors showed what it lacks
    let mut c = back_first(2);
    c.start(1);
    c.join(1);
    c.run_until("another leads", 5 * SECOND, |c| c.lead() != 0);
    assert!(!c.state.complete.contains(&support::slice(0)));
    assert_eq!(c.alarms, [(0, Alarm::Behind(support::slice(1)))], "the operator is told");
    c.start(2);
    let lead = c.lead();
    c.join(if lead == 1 { 2 } else { 1 });
    c.run_until("a write can commit", 5 * SECOND, |c| c.state.in_sync.len() == 2);
    assert_eq!(c.value(3, 0), 6);
    c.join(0);
    c.settle();
}

#[test]
fn where_nobody_else_is_complete_what_a_sole_copy_lacks_is_the_operators_to_accept() {
    // with one copy it commits alone: those that were removed are not complete any more
    let mut c = back_first(1);
    c.start(1);
    c.join(1);
    c.run_until("it waits", 5 * SECOND, |c| c.state.is_damaged);
    c.read(0, 3, 0);
    c.run(2 * SECOND);
    assert!(!c.was_read(3), "{:?}", c.reply(3));
    // what the metadata do then: the others begin anew
    let since = c.state.epoch.next();
    c.change(|s| {
        (s.is_damaged, s.primary_since) = (false, since);
        s.joining.clear();
    });
    [1, 2].into_iter().for_each(|node| c.assign_anew(node));
    c.join(1);
    c.run_until("the other is made like it", 5 * SECOND, |c| c.state.in_sync.len() == 2);
    assert_eq!(c.value(4, 0), 5);
    // another block than the one that was lost: found in review, the copies differed there for good
    c.write_till_done(5, 1, 1, 7);
    c.start(2);
    c.join(2);
    c.settle();
    c.take_over(1, true);
    c.run(SECOND);
    assert_eq!((c.value(6, 0), c.value(7, 1)), (5, 7));
    c.settle();
}

#[test]
fn what_two_copies_lost_and_the_third_brings_back_is_told_to_be_lost() {
    let (mut c, image) = one_write_ago(0, 2);
    c.crash_all();
    c.crash_to(0, image.clone());
    c.crash_to(2, image);
    c.remove(1);
    c.start(0);
    c.start(2);
    c.run(3 * SECOND);
    assert_eq!(c.value(3, 0), 5, "nobody there knows better");
    c.write_till_done(4, 1, 1, 7);
    assert_eq!(c.alarms, []);
    c.start(1);
    c.join(1);
    c.settle();
    let lead = c.lead();
    assert_eq!(c.alarms, [(lead, Alarm::Lost(support::slice(1)))]);
}

/// As back first, but no floor covers what it lost.
fn back_first_and_nobody_knows() -> Cluster {
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 5);
    c.run(SECOND);
    let image = c.image(0);
    c.write_till_done(2, 0, 1, 6);
    c.crash_all();
    c.crash_to(0, image);
    c.start(0);
    c.run_until("those that are away are removed", 90 * SECOND, |c| c.state.in_sync == [support::slice(0)]);
    c.run(3 * SECOND);
    c
}

#[test]
fn a_copy_back_first_gives_way_to_one_whose_last_write_no_floor_covers() {
    // found in review: a floor is durable with the next block only, so of what was answered last it says nothing
    let mut c = back_first_and_nobody_knows();
    c.start(1);
    c.join(1);
    c.run_until("another leads", 5 * SECOND, |c| c.lead() == 1);
    assert_eq!((c.gave_way, c.expelled), (1, 0));
    assert!(c.state.complete.contains(&support::slice(0)), "nobody knows that it lacks anything");
    c.join(0);
    c.run_until("a write can commit", 5 * SECOND, |c| c.state.in_sync.len() == 2);
    assert_eq!((c.lead(), c.gave_way), (1, 1), "it does not give way in turn");
    assert_eq!(c.value(3, 0), 6);
    c.start(2);
    c.join(2);
    c.settle();
}

#[test]
fn a_copy_back_first_gives_way_to_one_that_left_before_it_lost_its_end() {
    // found in review: who was complete holds what was answered, be it in sync when the other began to lead or not (R11)
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.crash(2, 9);
    c.remove(2);
    c.write_till_done(1, 0, 1, 5);
    c.run(SECOND);
    let image = c.image(0);
    c.write_till_done(2, 0, 1, 6);
    c.crash(1, 0);
    c.remove(1);
    c.run(SECOND);
    c.crash_to(0, image);
    c.start(0);
    c.run(3 * SECOND);
    assert_eq!((c.lead(), &c.state.in_sync[..]), (0, &[support::slice(0)][..]));
    c.start(1);
    c.join(1);
    c.run_until("another leads", 5 * SECOND, |c| c.lead() == 1);
    c.join(0);
    c.run_until("a write can commit", 5 * SECOND, |c| c.state.in_sync.len() == 2);
    assert_eq!(c.value(3, 0), 6);
    c.start(2);
    c.join(2);
    c.settle();
}

#[test]
fn what_a_takeover_found_on_all_copies_is_not_undone_by_one_that_lost_it() {
    // found in review: nothing was ordered since, so the primary thought that nothing was committed, and gave way to a copy
    // that held more, but for a block that a power cut had torn there
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    (0..3).for_each(|node| c.store(node).is_slow = true);
    c.write(0, 1, 0, 1, 6);
    c.write(0, 2, 9, 1, 7);
    c.run(SECOND / 10);
    assert_eq!((c.reply(1), c.reply(2)), (None, None));
    c.persist_one(2);
    c.rot(2, 0);
    c.crash(2, 1);
    c.crash(0, 1);
    c.crash(1, 1);
    c.start(0);
    c.start(1);
    c.run_until("the third is removed", 90 * SECOND, |c| c.state.in_sync.len() == 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 6);
    c.crash(1, 9);
    c.remove(1);
    c.run(3 * SECOND);
    c.start(2);
    c.join(2);
    c.run_until("a write can commit", 5 * SECOND, |c| c.state.in_sync.len() == 2);
    assert_eq!(c.value(3, 0), 6);
    c.start(1);
    c.join(1);
    c.settle();
}

#[test]
fn a_copy_that_gave_way_is_not_given_way_to_for_what_it_ordered_alone() {
    // found in review: what it ordered below min_copies was higher than all that was answered, and after its next start it showed
    // that as what it holds
    let mut c = back_first_and_nobody_knows();
    c.write(0, 5, 9, 1, 8);
    c.run(SECOND);
    c.start(1);
    c.join(1);
    c.run_until("another leads", 5 * SECOND, |c| c.lead() == 1);
    c.crash(0, 9);
    c.start(0);
    c.run(3 * SECOND);
    c.join(0);
    c.run_until("a write can commit", 9 * SECOND, |c| c.state.in_sync.len() == 2);
    assert_eq!((c.gave_way, c.lead()), (1, 1));
    assert_eq!(c.value(3, 0), 6);
    c.start(2);
    c.join(2);
    c.settle();
}

/// A stale copy, alone: it waits for the operator.
fn stale_and_alone(mut c: Cluster) -> Cluster {
    let image = c.image(0);
    c.remove(1);
    c.roll_back(0, image);
    c.change(|s| {
        s.complete.clear(); // given up
        s.is_damaged = true;
    });
    c.start(0);
    c.run(2 * SECOND);
    assert_eq!(c.group(0).ledger.floor, Version::ZERO);
    c
}

fn accept(c: &mut Cluster) {
    let since = c.state.epoch.next();
    c.change(|s| {
        (s.is_damaged, s.primary_since) = (false, since);
        s.complete.retain(|m| s.in_sync.contains(m));
    });
}

#[test]
fn a_copy_that_is_accepted_takes_its_floor_again() {
    // R41: its takeover compares what lies above it, not all that it holds
    let mut c = Cluster::new(2, 2);
    c.run(3 * SECOND);
    for number in 1..4 {
        c.write_till_done(number, number as u16, 1, number);
        c.run(SECOND);
    }
    let floor = c.group(0).ledger.floor;
    c.crash(1, 9);
    c.crash(0, 9);
    let mut c = stale_and_alone(c);
    let former = c.group(0).ledger.former_floor;
    assert!(former > Version::ZERO && former <= floor, "{former:?} of {floor:?}");
    // it is durable, and being doubted once more does not take it away
    c.crash(0, 9);
    let image = c.image(0);
    c.roll_back(0, image);
    c.start(0);
    c.run(2 * SECOND);
    let ledger = &c.group(0).ledger;
    assert_eq!((ledger.floor, ledger.former_floor), (Version::ZERO, former));
    accept(&mut c);
    c.run_until("it leads", SECOND, |c| c.group(0).ledger.floor == former);
    assert_eq!(c.group(0).ledger.former_floor, Version::ZERO);
    c.run(SECOND);
    c.start(1);
    c.assign_anew(1);
    c.run_until("the other is made like it", 10 * SECOND, |c| c.state.in_sync.len() == 2);
    (1..4).for_each(|n| assert_eq!(c.value(10 + n, n as u16), n));
    c.settle();
}

#[test]
fn a_torn_write_over_an_answered_one_loses_on_a_copy_that_is_accepted() {
    // R12, R28: were all that it holds counted as committed, the torn one would take the place of the answered one, and its retry
    // be told that it is there (found in review)
    let mut c = Cluster::new(2, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 5);
    c.run(SECOND);
    c.store(0).is_slow = true;
    c.write(0, 2, 0, 1, 6);
    c.run(SECOND / 10);
    assert!(!c.is_done(2));
    c.crash_torn(0, 1, &[0]);
    c.crash(1, 0);
    let mut c = stale_and_alone(c);
    accept(&mut c);
    c.run(SECOND);
    c.start(1);
    c.assign_anew(1);
    c.run_until("the other is made like it", 10 * SECOND, |c| c.state.in_sync.len() == 2);
    assert_eq!(c.value(10, 0), 5);
    c.write_till_done(2, 0, 1, 6);
    assert_eq!(c.value(11, 0), 6);
    c.settle();
}
