//! Forced detach: when it is reported, nothing of the old generation can commit any more (R31).
mod support;
use sarsen_types::*;
use sarsen_wire::client::ClientResult;
use support::{Cluster, slice};

const SECOND: Duration = Duration::from_secs(1);
const TENTH: Duration = Duration::from_millis(100);

#[test]
fn a_dead_drive_that_returns_after_a_forced_detach_brings_nothing_of_the_old_generation() {
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.store(1).is_slow = true;
    c.store(2).is_slow = true;
    c.write(0, 2, 0, 1, 2);
    c.step();
    c.crash(0, 1); // its journal has the write, the others' have not
    c.crash(1, 0);
    c.crash(2, 0);
    c.take_over(1, false);
    c.start(1);
    c.start(2);
    c.detach_by_force();
    c.run_until("it is fenced", 40 * SECOND, |c| !c.fenced.is_empty());
    assert_eq!(c.value(3, 0), 1);
    c.start(0);
    c.settle();
    assert_eq!(c.value(4, 0), 1);
}

#[test]
fn a_primary_that_has_lost_its_epoch_fences_nothing() {
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.store(1).is_slow = true;
    c.store(2).is_slow = true;
    c.write(0, 1, 0, 1, 1);
    c.step();
    // the group goes to another; the old primary hears of the fence and not of that
    c.separate(0, 1);
    c.separate(0, 2);
    c.detach_by_force();
    c.step();
    c.deaf.insert(0);
    c.store(1).is_slow = false;
    c.store(2).is_slow = false;
    c.take_over(1, true);
    c.run(4 * SECOND);
    assert_eq!(c.fenced.len(), 1, "the new primary's word alone");
    let before = c.value(3, 0);
    c.settle();
    assert_eq!(c.value(4, 0), before);
}

#[test]
fn a_fence_is_asked_for_again_in_each_epoch_of_a_primary_that_goes_on() {
    let mut c = Cluster::new(3, 1);
    c.run(3 * SECOND);
    c.store(1).is_slow = true;
    c.write(0, 1, 0, 1, 1);
    c.step();
    c.detach_by_force();
    c.run(TENTH);
    c.remove(2); // it knew the bump; the copy that is left does not yet
    c.run(TENTH);
    assert!(c.fenced.is_empty(), "ordered again, the old write is not committed");
    c.store(1).is_slow = false;
    c.run(SECOND);
    assert_eq!(c.fenced, [Generation(2)]);
    assert!(c.is_done(1), "drained");
    c.settle();
    assert_eq!(c.value(2, 0), 1);
}

#[test]
fn a_joiner_that_knows_the_bump_before_its_primary_is_promoted_all_the_same() {
    // It refuses what is ordered under the old generation. The primary sent that again to the copies in sync and not to
    // it, so the joiner never had it, and its join never ended.
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.deaf.extend([0, 1]);
    let before = c.attachment;
    c.detach_by_force();
    // the third knows of it durably, and is away before it tells
    c.take_bump(2, Generation(2));
    c.crash(2, 9);
    c.attachment = before;
    c.run(2 * SECOND);
    c.deaf.clear();
    c.fences.clear();
    c.revision += 1;
    c.run_until("it is removed", 5 * SECOND, |c| !c.state.is_in_sync(slice(2)));
    c.start(2);
    c.run(TENTH);
    c.join(2);
    c.step_half();
    c.step_half();
    c.store(2).is_slow = true;
    c.write(0, 3, 0, 1, 3);
    c.run(TENTH);
    assert!(c.is_done(3), "committed, before the joiner is asked again");
    c.store(2).is_slow = false;
    c.run(SECOND);
    assert!(c.state.is_in_sync(slice(2)), "{:?}", c.state);
    c.attachment.generation = Generation(2);
    c.revision += 1;
    c.settle();
}

#[test]
fn after_a_fence_the_old_generation_is_refused_by_every_later_primary() {
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    let old = c.attachment;
    c.detach_by_force();
    c.run(SECOND);
    assert_eq!(c.fenced, [Generation(2)]);
    let new = c.attachment;
    for by in [1, 2, 0] {
        c.take_over(by, true);
        c.run(3 * SECOND);
        c.attachment = old;
        c.write(by, 5, 0, 1, 9);
        c.attachment = new;
        c.run(TENTH);
        assert!(matches!(c.reply(5), Some(ClientResult::Refused(_))), "{:?}", c.reply(5));
    }
    assert_eq!(c.value(6, 0), 1);
    c.settle();
}

#[test]
fn a_copy_alone_below_min_copies_fences_nothing() {
    // found in review: another copy held a write of the old host that this one had never seen; it came back, and the write took
    // effect under the new host
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    (0..3).for_each(|node| c.store(node).is_slow = true);
    c.write(0, 2, 0, 1, 9);
    c.run(SECOND / 10);
    c.crash(0, 0);
    c.crash(1, 1);
    c.crash(2, 0);
    c.start(0);
    c.run_until("it is alone", 90 * SECOND, |c| c.state.in_sync.len() == 1);
    c.run(3 * SECOND);
    c.detach_by_force();
    c.run(5 * SECOND);
    assert!(c.fenced.is_empty(), "another copy may hold more");
    c.start(1);
    c.join(1);
    c.run_until("it leads", 10 * SECOND, |c| c.lead() == 1);
    c.join(0);
    c.run_until("it is fenced", 10 * SECOND, |c| !c.fenced.is_empty());
    let value = c.value(3, 0);
    c.start(2);
    c.join(2);
    c.settle();
    assert_eq!(c.value(4, 0), value);
}
