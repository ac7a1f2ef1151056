//! Who may act: leases, waits, confirmations, clocks (R1-R6).
mod support;
use sarsen_types::*;
use support::{Cluster, slice};

const SECOND: Duration = Duration::from_secs(1);
const TENTH: Duration = Duration::from_millis(100);

#[test]
fn a_copy_that_restarted_within_grace_serves_nothing_before_grace_has_passed() {
    // R2: it may have acknowledged a heartbeat just before it stopped, and remembers none
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.crash(1, 9);
    c.start(1);
    let started = c.now;
    c.step();
    c.isolate(0); // the old primary goes on believing, for as long as its lease lasts
    c.take_over(1, false);
    c.run_until("it serves", 5 * SECOND, |c| {
        c.read(1, 2, 0);
        c.was_read(2)
    });
    assert!(c.now.since(started) >= limits::GRACE, "{:?}", c.now.since(started));
    c.settle();
}

#[test]
fn a_new_primary_named_while_the_old_one_holds_acks_keeps_what_the_old_one_answers() {
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.deaf.insert(0);
    c.stalled.extend([(1, 0), (2, 0)]);
    c.write(0, 1, 0, 1, 7);
    c.step(); // every copy has it, and says so; the words are on their way
    c.take_over(1, true);
    c.run(TENTH);
    c.stalled.clear();
    c.step();
    // whether the old one still answered or not, the write is there
    c.reconnect();
    assert_eq!(c.value(2, 0), 7);
    c.write_till_done(1, 0, 1, 7);
    c.settle();
}

#[test]
fn an_acknowledgement_delayed_by_five_seconds_renews_no_lease() {
    // R3: a lease counts from the moment the heartbeat was sent
    let mut c = Cluster::new(3, 1);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.metadata_is_away = true;
    c.stalled.insert((1, 0));
    c.run(SECOND);
    c.stalled.insert((0, 1));
    c.run(4 * SECOND);
    c.read(0, 2, 0);
    c.stalled.remove(&(1, 0)); // what was acknowledged in the first second arrives
    c.run(2 * SECOND);
    assert_eq!(c.reply(2), None);
    c.settle();
}

#[test]
fn a_node_stopped_together_with_its_clock_answers_no_read_when_it_wakes() {
    // R4: no clock of its own tells it of the pause, so it asks
    let mut c = Cluster::confirming(3, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    assert_eq!(c.value(2, 0), 1);
    c.asleep.insert(0);
    c.run_until("another leads", 5 * SECOND, |c| c.lead() != 0);
    c.write_till_done(3, 0, 1, 2);
    c.deaf.insert(0);
    c.stalled.extend([(0, 1), (0, 2), (1, 0), (2, 0)]);
    c.asleep.clear();
    c.read(0, 4, 0);
    c.run(TENTH); // by its clock it is the same second
    assert_eq!(c.reply(4), None);
    c.settle();
    assert_eq!(c.value(5, 0), 2);
}

#[test]
fn a_late_prepare_of_a_deposed_primary_is_refused_by_a_copy_that_restarted() {
    // R5: the promise is durable
    let mut c = Cluster::new(3, 1);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.isolate(0);
    c.take_over(1, false);
    c.write_till_done(2, 0, 1, 2);
    c.crash(2, 9);
    c.start(2);
    c.run(TENTH);
    // the deposed primary reaches this copy alone, and knows nothing of the new epoch
    c.cut.retain(|pair| *pair != (0, 2) && *pair != (2, 0));
    c.write(0, 3, 0, 1, 99);
    c.run(SECOND);
    assert_eq!(c.reply(3), None);
    assert_eq!(c.store(2).top(support::GROUP, support::OBJECT, 0).1, 2);
    assert!(c.count(|n| n.behind_refused) > 0);
    c.settle();
    assert_eq!(c.value(4, 0), 2);
}

#[test]
fn a_confirmation_by_a_primary_that_never_served_ends_no_wait() {
    // R2: every primary whose heartbeats were acknowledged is asked, not the last one that metadata name
    let mut c = Cluster::new(3, 1);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.isolate(0);
    let cut = c.now;
    c.take_over(1, false);
    c.take_over(2, true); // before the first of them did anything
    c.run_until("it serves", 5 * SECOND, |c| {
        c.read(2, 2, 0);
        c.was_read(2)
    });
    assert!(c.now.since(cut) >= limits::LEASE, "{:?}", c.now.since(cut));
    c.settle();
}

#[test]
fn a_primary_that_still_waits_proposes_no_promotion() {
    // R6: whom it would promote, the old primary has not asked for its lease
    let mut c = Cluster::new(3, 1);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.remove(2);
    c.run(TENTH);
    c.isolate(0);
    let cut = c.now;
    c.take_over(1, false);
    c.join(2);
    c.run_until("it is promoted", 10 * SECOND, |c| c.state.is_in_sync(slice(2)));
    assert!(c.now.since(cut) >= limits::LEASE, "{:?}", c.now.since(cut));
    c.settle();
}

#[test]
fn a_device_hung_under_a_live_thread_holds_no_group() {
    // R9: its heartbeats stop, though its thread could send them
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.write(0, 2, 0, 1, 2);
    c.hang(0, true);
    let hung = c.now;
    c.run_until("another leads", 5 * SECOND, |c| c.lead() != 0);
    c.write_till_done(3, 1, 1, 3);
    assert!(c.now.since(hung) <= 4 * SECOND);
    c.hang(0, false);
    c.settle();
}

#[test]
fn a_copy_the_metadata_do_not_reach_stays_in_sync_through_the_epochs_of_an_idle_group() {
    // R5: the first message of an epoch carries the group's state. An idle group had none to send, so a copy behind
    // in metadata acknowledged no heartbeat of the new epoch, and was thrown out for its silence.
    let mut c = Cluster::new(4, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.deaf.insert(2);
    c.remove(3);
    c.run(5 * SECOND);
    assert!(c.state.is_in_sync(slice(2)), "{:?}", c.state);
    c.write(0, 2, 0, 1, 2);
    c.step();
    assert!(c.is_done(2));
    c.settle();
}

#[test]
fn a_floor_that_a_broken_stream_lost_is_told_again_to_an_idle_group() {
    // R10, R43: what was told on a stream that broke counted as told, and a copy of an idle group never settled
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.stalled.insert((0, 2));
    c.stalled.insert((2, 0));
    c.write(0, 1, 0, 1, 1);
    c.step();
    c.stalled.remove(&(0, 2));
    c.step(); // it has the write
    c.stalled.insert((0, 2));
    c.stalled.remove(&(2, 0));
    c.run(3 * TENTH); // it is committed, and the heartbeat that tells so is on its way
    assert!(c.is_done(1));
    c.disconnect(0, 2);
    c.stalled.clear();
    c.run(SECOND);
    let floors: Vec<Version> = (0..3).map(|n| c.group(n).ledger.floor).collect();
    assert!(
        floors[0] >= Version::new(Epoch(1), 1) && floors[1] == floors[0] && floors[2] == floors[0],
        "{floors:?}"
    );
    c.settle();
}

#[test]
fn prepares_that_are_refused_give_their_place_back() {
    // R7: each epoch in which Prepares crossed its news cost the pair a few places, until it had none left
    let mut c = Cluster::new(3, 1);
    c.run(3 * SECOND);
    let mut number = 0;
    for _ in 0..40 {
        // the copies know the epoch first, and refuse what the primary still sends in the old one
        c.deaf.insert(0);
        c.stalled.extend([(1, 0), (2, 0)]);
        c.change(|_| {});
        c.step();
        for _ in 0..60 {
            number += 1;
            c.write(0, number, (number % 60) as u16, 1, number);
        }
        c.step();
        c.deaf.clear();
        c.stalled.clear();
        c.run(TENTH);
    }
    c.write_till_done(number + 1, 0, 1, 5);
    assert!(c.count(|n| n.behind_refused) > 2048, "{}", c.count(|n| n.behind_refused));
    c.settle();
}

#[test]
fn a_floor_that_a_hung_copy_did_not_take_is_told_again_though_it_acknowledges_rounds() {
    // R4, R10: a round for reads tells no floors, and its acknowledgement said nothing about them
    let mut c = Cluster::confirming(3, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.run(SECOND);
    c.write(0, 2, 0, 1, 2);
    c.step();
    c.hang(2, true);
    assert!(c.is_done(2));
    c.run(4 * TENTH);
    c.hang(2, false);
    c.read(0, 3, 0);
    c.run(SECOND);
    assert!(c.was_read(3));
    assert_eq!(c.group(2).ledger.floor, c.group(0).ledger.floor);
    c.settle();
}
