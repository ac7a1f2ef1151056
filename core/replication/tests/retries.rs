//! Requests that come again: once done they are not done again, and none of an older life is done late (R21, R22).
mod support;
use sarsen_replication::Memory;
use sarsen_types::*;
use sarsen_wire::client::{ClientResult, Refusal};
use support::{Cluster, slice};

const SECOND: Duration = Duration::from_secs(1);
const TENTH: Duration = Duration::from_millis(100);

#[test]
fn a_request_of_an_old_connection_after_failover_and_back_is_not_done_again() {
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.take_over(1, true);
    c.write_till_done(1, 0, 1, 1); // sent to the first, lost, answered by the second
    c.answered_below = 2;
    c.write_till_done(2, 0, 1, 2);
    c.take_over(0, true);
    c.run(SECOND);
    c.answered_below = 0;
    c.write(0, 1, 0, 1, 1); // the first sending arrives at last
    c.run(TENTH);
    assert!(matches!(c.reply(1), Some(ClientResult::BelowMark | ClientResult::Done)), "{:?}", c.reply(1));
    assert_eq!(c.value(3, 0), 2);
    c.settle();
}

#[test]
fn a_retry_is_answered_from_the_record_that_a_joiner_was_given() {
    let mut c = Cluster::new(3, 1);
    c.run(3 * SECOND);
    c.crash(2, 9);
    c.run_until("it is removed", 5 * SECOND, |c| !c.state.is_in_sync(slice(2)));
    c.write_till_done(1, 0, 1, 1); // its answer does not reach the client
    c.write_till_done(2, 0, 1, 2);
    c.start(2);
    c.run(TENTH);
    c.join(2);
    c.run_until("it is promoted", 5 * SECOND, |c| c.state.is_in_sync(slice(2)));
    c.crash(0, 0);
    c.crash(1, 0);
    c.take_over(2, false);
    c.remove(1);
    c.write_till_done(1, 0, 1, 1);
    assert_eq!(c.value(3, 0), 2);
    assert!(c.count(|n| n.answered_from_record) > 0);
    c.settle();
}

#[test]
fn a_retry_after_a_power_cut_that_tore_the_only_copys_data_is_done_anew() {
    let mut c = Cluster::new(1, 1);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 2, 1);
    c.store(0).is_slow = true;
    c.write(0, 2, 0, 2, 2);
    c.step();
    c.crash_torn(0, 1, &[0, 1]); // the record stands, the data do not
    c.start(0);
    assert_eq!((c.value(3, 0), c.value(4, 1)), (1, 1));
    c.write_till_done(2, 0, 2, 2);
    assert_eq!((c.value(5, 0), c.value(6, 1)), (2, 2));
}

#[test]
fn a_session_greeting_known_to_the_primary_alone_is_known_to_whoever_leads_next() {
    // metadata gave the session out before it greeted, and whoever is named later knows them
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    let old = c.attachment;
    c.deaf.extend([1, 2]);
    c.attachment.session = SessionId(2);
    c.revision += 1;
    c.run(TENTH);
    c.greet(0, 2);
    assert!(c.is_done(2));
    c.crash(0, 0);
    c.deaf.clear();
    let new = std::mem::replace(&mut c.attachment, old);
    c.attachment = new;
    c.run_until("another leads", 5 * SECOND, |c| c.lead() != 0);
    c.run(3 * SECOND);
    c.attachment = old;
    let lead = c.lead();
    c.write(lead, 3, 0, 1, 9); // of the life before, late
    c.attachment = new;
    c.run(TENTH);
    assert_eq!(c.reply(3), Some(&ClientResult::Refused(Refusal::OldSession)));
    assert_eq!(c.value(4, 0), 1);
    c.settle();
}

#[test]
fn a_greeting_of_a_session_that_metadata_do_not_know_is_told_to_come_again_and_refuses_nobody() {
    // it was believed: one greeting with a number of its own choice shut everybody else out
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    let known = c.attachment;
    c.attachment.session = SessionId(u64::MAX);
    let view = c.revision; // metadata say nothing new
    c.greet(0, 1);
    c.attachment = known;
    assert_eq!(view, c.revision);
    assert!(matches!(c.reply(1), Some(ClientResult::Retry { .. })), "{:?}", c.reply(1));
    c.write(0, 2, 0, 1, 2);
    c.run(TENTH);
    assert!(c.is_done(2), "{:?}", c.reply(2));
    c.settle();
}

#[test]
fn an_older_session_is_refused_at_its_greeting() {
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    let old = c.attachment;
    c.attachment.session = SessionId(2);
    c.revision += 1;
    c.run(TENTH);
    let new = std::mem::replace(&mut c.attachment, old);
    c.greet(0, 1);
    assert_eq!(c.reply(1), Some(&ClientResult::Refused(Refusal::OldSession)));
    c.attachment = new;
    c.settle();
}

#[test]
fn a_new_session_sees_nothing_before_the_ordered_writes_of_the_old_one_are_committed() {
    // R22: else a block it has read changes with nobody writing
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.store(2).is_slow = true;
    c.write(0, 2, 0, 1, 2); // ordered, and its driver dies
    c.run(TENTH);
    c.attachment.session = SessionId(2);
    c.revision += 1;
    c.run(TENTH);
    c.greet(0, 1);
    assert!(c.is_done(1));
    c.read(0, 3, 0);
    c.run(SECOND);
    assert_eq!(c.reply(3), None);
    c.store(2).is_slow = false;
    c.run(TENTH);
    assert!(c.was_read(3));
    assert_eq!(c.value(4, 0), 2);
    c.settle();
}

#[test]
fn a_part_write_of_an_old_session_that_is_being_merged_is_not_done_after_the_new_one_greeted() {
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.write_till_done(1, 0, 1, 1);
    c.store(0).holds_reads = true;
    c.write_part(0, 2, 100, 9);
    c.attachment.session = SessionId(2);
    c.revision += 1;
    c.run(TENTH);
    c.greet(0, 1);
    assert!(c.is_done(1));
    c.finish_reads(0);
    c.run(TENTH);
    assert_eq!(c.value(4, 0), 1);
    c.settle();
}

#[test]
fn whoever_asks_again_and_again_for_one_write_is_remembered_a_few_times() {
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    c.store(1).is_slow = true;
    for _ in 0..300 {
        c.write(0, 1, 0, 1, 1);
        c.next_conn += 1;
    }
    c.step();
    let sarsen_replication::group::Role::Primary(p) = &c.group(0).role else { panic!("it leads") };
    assert!(p.pending.len() == 1 && p.pending[0].askers.len() <= 4, "{}", p.pending[0].askers.len());
    c.store(1).is_slow = false;
    c.step();
    assert!(c.is_done(1));
    c.settle();
}

#[test]
fn what_a_slice_keeps_of_writes_that_cannot_commit_is_bounded_and_the_rest_comes_again() {
    // R41: each group had its own bound, in requests; a slice of many groups had none, in bytes
    let mut c = Cluster::new(1, 2);
    c.run(3 * SECOND);
    let mut told = 0;
    for n in 0..1500 {
        c.chunk = (n % 16) as u32;
        c.write(0, n, (n / 16 % 16 * 64) as u16, 64, n);
        if n % 100 == 0 {
            c.step();
        }
        told += usize::from(matches!(c.reply(n), Some(ClientResult::Retry { .. })));
    }
    c.step();
    // and of a group that cannot serve it is a part of that: what others of the slice need is left
    let kept = kept(&c);
    assert!(kept <= c.memory.stuck() && told > 0, "{kept} {told}");
}

/// Three copies, two of which commit, that serve, each with so much memory.
fn with_memory(memory: Memory) -> Cluster {
    let mut c = Cluster::new(3, 2);
    c.memory = memory;
    c.crash_all();
    c.start_all();
    c.run(6 * SECOND);
    c
}

/// Blocks of writes that the primary keeps.
fn kept(c: &Cluster) -> u64 {
    let group = c.group(0);
    let sarsen_replication::group::Role::Primary(p) = &group.role else { panic!("it leads") };
    64 * (p.pending.len() + p.waiting.len() + group.held.len()) as u64
}

#[test]
fn a_group_that_cannot_serve_any_more_gives_up_what_it_had_not_ordered() {
    // found in review: what it kept was all that the slice may keep, and no other group of it took a write
    let mut c = with_memory(Memory { clients: 4096, peers: 256 });
    (1..3).for_each(|node| c.store(node).is_slow = true);
    for n in 1..=60 {
        c.chunk = (n % 16) as u32;
        c.write(0, n, (n / 16 * 64) as u16, 64, n);
    }
    c.step();
    assert!(kept(&c) == 60 * 64, "a group that serves keeps all of them: {}", kept(&c));
    (1..3).for_each(|node| c.crash(node, 0));
    c.run(4 * SECOND);
    let told = (1..=60).filter(|n| matches!(c.reply(*n), Some(ClientResult::Retry { .. }))).count();
    assert!(kept(&c) <= c.memory.stuck() && told >= 40, "{} {told}", kept(&c));
}

#[test]
fn of_an_attachment_that_ended_no_copy_remembers_anything() {
    // R41: each kept its session and its last requests for ever, and told them in every takeover and every join
    let mut c = Cluster::new(3, 2);
    c.run(3 * SECOND);
    for n in 1..20 {
        c.write_till_done(n, n as u16, 1, n);
    }
    c.run(SECOND);
    c.is_detached = true;
    c.revision += 1;
    c.run(TENTH);
    for node in 0..3 {
        let ledger = &c.group(node).ledger;
        assert!(ledger.sessions.is_empty() && ledger.queues.is_empty(), "{node}: {ledger:?}");
        let durable = &c.store(node).disk.ledgers[&support::GROUP];
        assert!(durable.sessions.is_empty() && durable.queues.is_empty());
    }
    c.take_over(1, true);
    c.run(SECOND);
    c.settle();
}

#[test]
fn a_discard_of_a_whole_chunk_needs_no_grant_of_memory() {
    // found in review: it asked for the memory of all its blocks, more than each of several partners is ever granted
    let mut c = with_memory(Memory { clients: 4096, peers: 256 });
    c.discard(0, 1, 0, BLOCKS_PER_CHUNK);
    c.run(TENTH);
    assert!(c.is_done(1));
    c.settle();
}

#[test]
fn reads_that_wait_for_a_lease_leave_memory_to_others_and_come_again() {
    let mut c = with_memory(Memory { clients: 64, peers: 256 });
    (1..3).for_each(|node| c.separate(0, node));
    c.run(Duration::from_millis(1100));
    (1..=40).for_each(|n| c.read(0, n, n as u16));
    c.run(TENTH);
    let told = (1..=40).filter(|n| matches!(c.reply(*n), Some(ClientResult::Retry { .. }))).count();
    assert!(told >= 20, "{told} of 40 are told to come again");
}
