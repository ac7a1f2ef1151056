//! One seed from start to quiet.
use crate::check::History;
use crate::cluster::Cluster;
use crate::faults::{mend, strike};
use crate::workload::Client;
use rand::Rng;
use sarsen_slice::{Counters, LeaseMode};
use sarsen_types::{Duration, GroupId, ObjectId, Version};
use std::collections::BTreeMap;

/// Client operations of a seed, at least.
pub const OPERATIONS_MIN: u64 = 2_000;
/// Faults of a seed, at least.
pub const FAULTS_MIN: u32 = 10;
/// Once faults stop, everything is in sync again within this.
const CALM_MAX: Duration = Duration::from_secs(180);

/// What a seed met.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Rare events of the slices.
    pub counters: Counters,
    /// Rare events of the cluster.
    pub events: BTreeMap<&'static str, u64>,
    /// Requests answered.
    pub operations: u64,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// Simulated time.
    pub time: Duration,
}

/// Runs a seed.
///
/// # Panics
/// If a checker objects: the message says what was seen.
pub fn run(seed: u64, lease: LeaseMode) -> Outcome {
    let copies = if seed % 4 == 3 { 2 } else { 3 };
    let nodes = copies as usize + (seed % 5 == 4) as usize;
    let mut cluster = Cluster::new(seed, nodes, copies, lease);
    let mut history = History::default();
    let mut clients: Vec<Client> = Vec::new();
    let shared = cluster.make_volume("shared");
    for index in 0..4 {
        let is_shared = index >= 2;
        let (name, volume) = match is_shared {
            true => ("shared".to_owned(), shared),
            false => (format!("own{index}"), cluster.make_volume(&format!("own{index}"))),
        };
        let attached = cluster.attach(&name, &format!("client {index}"), !is_shared);
        clients.push(Client::new(index, volume, is_shared, attached));
    }
    let mut outcome = Outcome::default();
    let mut images = vec![None; nodes];
    let mut faults = 0;
    let mut next_fault = cluster.now + Duration::from_secs(4);
    loop {
        let answered: u64 = clients.iter().map(|c| c.answered_count).sum();
        if answered >= OPERATIONS_MIN && faults >= FAULTS_MIN {
            break;
        }
        if cluster.now >= next_fault {
            faults += 1;
            let fault = strike(&mut cluster, lease == LeaseMode::Confirm, &mut images);
            cluster.say(|| format!("fault {fault:?}"));
            *outcome.faults.entry(format!("{fault:?}")).or_default() += 1;
            let pause = cluster.rng.random_range(100..6000);
            next_fault = cluster.now + Duration::from_millis(pause);
            if cluster.rng.random_bool(0.4) {
                mend(&mut cluster);
            }
            if cluster.rng.random_bool(0.1) {
                restart_driver(&mut cluster, &mut clients);
            }
        }
        if cluster.rng.random_range(0..4000) == 0 {
            mend(&mut cluster);
        }
        tick(&mut cluster, &mut clients, &mut history);
    }
    quiet(&mut cluster, &mut clients, &mut history);
    outcome.operations = clients.iter().map(|c| c.answered_count).sum();
    outcome.counters = cluster.totals();
    outcome.events = cluster.events.clone();
    outcome.time = Duration::from_nanos(cluster.now.0);
    outcome
}

fn restart_driver(cluster: &mut Cluster, clients: &mut [Client]) {
    let at = cluster.rng.random_range(0..clients.len());
    let name = if at >= 2 { "shared".to_owned() } else { format!("own{at}") };
    let (_, _, session) = cluster.attach(&name, &format!("client {at}"), at < 2);
    clients[at].restart(cluster, session);
    cluster.count("drivers restarted");
}

/// One millisecond of cluster and clients.
pub fn tick(cluster: &mut Cluster, clients: &mut [Client], history: &mut History) {
    cluster.tick();
    while let Some((client, node)) = cluster.hangups.pop_front() {
        clients[client].hung_up(node);
    }
    while let Some((client, _, reply, payload)) = cluster.answers.pop_front() {
        clients[client].answered(cluster, history, reply, payload);
    }
    for client in clients.iter_mut() {
        client.tick(cluster, history);
    }
}

/// Faults have stopped: everything is answered and in sync within a bound, copies agree, and show what was answered.
pub fn quiet(cluster: &mut Cluster, clients: &mut [Client], history: &mut History) {
    for client in clients.iter_mut() {
        client.is_busy = false;
    }
    for node in 0..cluster.nodes.len() {
        cluster.nodes[node].paused_until = None;
        cluster.nodes[node].hung_until = None;
    }
    let end = cluster.now + CALM_MAX;
    loop {
        mend(cluster);
        tick(cluster, clients, history);
        let is_quiet = cluster.is_whole() && clients.iter().all(Client::is_idle);
        if is_quiet && settled(cluster, clients, history) {
            break;
        }
        if cluster.now >= end {
            let open: Vec<String> = clients.iter().flat_map(Client::describe).collect();
            let groups: Vec<String> = cluster.describe();
            panic!(
                "not at rest {CALM_MAX:?} after the last fault: {}\n{}",
                open.join("\n"),
                groups.join("\n")
            );
        }
    }
    for client in clients.iter_mut() {
        client.read_all(cluster);
    }
    let end = cluster.now + CALM_MAX;
    while !clients.iter().all(Client::is_idle) {
        assert!(cluster.now < end, "the last reads are not answered");
        tick(cluster, clients, history);
    }
    agree(cluster);
    for node in &mut cluster.nodes {
        if let Some(slice) = &mut node.slice {
            slice.store_mut().audit().unwrap_or_else(|why| panic!("the map of a store is wrong: {why}"));
        }
    }
}

/// Two seconds pass without a change.
fn settled(cluster: &mut Cluster, clients: &mut [Client], history: &mut History) -> bool {
    let revision = cluster.state.revision;
    for _ in 0..2000 {
        tick(cluster, clients, history);
    }
    cluster.state.revision == revision && cluster.is_whole()
}

/// Copies agree when quiet: the same entries, the same records.
fn agree(cluster: &mut Cluster) {
    for (id, group) in cluster.state.groups.clone() {
        let mut copies: Vec<Contents> = (group.in_sync.iter())
            .map(|slice| {
                let node = cluster.node_of(*slice).expect("it has a node");
                contents(cluster.nodes[node].slice.as_mut().expect("all are up").store_mut(), id)
            })
            .collect();
        // what rotted is recovered when it is read, or by a scrub
        let unreadable: Vec<ObjectId> = copies.iter().flat_map(|c| c.unreadable.clone()).collect();
        copies.iter_mut().for_each(|c| c.blocks.retain(|(id, _), _| !unreadable.contains(id)));
        // a mark is a fact about the client, whichever record brought it: below the highest nothing can be asked
        let mut marks = BTreeMap::new();
        for (queue, below) in copies.iter().flat_map(|c| &c.marks) {
            let known = marks.entry(*queue).or_insert(0);
            *known = (*below).max(*known);
        }
        let first = &copies[0];
        for (other, slice) in copies.iter().zip(&group.in_sync).skip(1) {
            let leader = group.in_sync[0];
            for (at, entry) in &other.blocks {
                let theirs = first.blocks.get(at);
                // a damaged entry is repaired when it is read, or by a scrub: here only its version counts
                let is_damaged = |e: &(Version, u64)| e.1 == DAMAGED;
                if theirs.is_some_and(|t| t.0 == entry.0 && (is_damaged(t) || is_damaged(entry))) {
                    continue;
                }
                assert_eq!(
                    theirs,
                    Some(entry),
                    "group {id} {at:?}: {slice} has {entry:?}, {leader} {theirs:?}"
                );
            }
            assert_eq!(
                other.blocks.len(),
                first.blocks.len(),
                "group {id}: {slice} lacks blocks of {leader}"
            );
            assert_eq!(
                other.asked(&marks, cluster),
                first.asked(&marks, cluster),
                "group {id}: records of {slice} and {leader} differ"
            );
        }
    }
}

type Queue = (sarsen_types::AttachmentId, sarsen_types::SessionId, sarsen_types::QueueId);

/// Stands for the checksum of a damaged entry.
const DAMAGED: u64 = u64::MAX;

struct Contents {
    blocks: BTreeMap<(ObjectId, u16), (Version, u64)>,
    /// Objects with a bad leaf that nobody has read yet.
    unreadable: Vec<ObjectId>,
    records: Vec<sarsen_types::RequestId>,
    marks: Vec<(Queue, u64)>,
}

impl Contents {
    /// Records that a retry may still ask for: of the newest session, at or above its mark.
    fn asked(&self, marks: &BTreeMap<Queue, u64>, cluster: &Cluster) -> Vec<sarsen_types::RequestId> {
        let mark = |id: &sarsen_types::RequestId| marks.get(&(id.attachment, id.session, id.queue)).copied();
        let newest = |id: &sarsen_types::RequestId| {
            cluster.state.attachments.get(&id.attachment).is_some_and(|a| a.session == id.session)
        };
        let asked = |id: &sarsen_types::RequestId| newest(id) && id.number >= mark(id).unwrap_or(0);
        self.records.iter().copied().filter(asked).collect()
    }
}

fn contents<D: sarsen_store::disk::Disk>(store: &mut sarsen_store::Store<D>, group: GroupId) -> Contents {
    let (blocks, unreadable) = store.top_entries(group);
    let blocks = blocks.into_iter().filter(|(_, e)| !e.is_empty());
    let known = |e: sarsen_types::record::Entry| match e {
        sarsen_types::record::Entry::Data(v, c) => (v, c.0),
        sarsen_types::record::Entry::Damaged(v, _) => (v, DAMAGED),
        other => (other.version(), 0),
    };
    let records = store.ledger(group).map(|l| {
        l.notes()
            .filter(|(id, _)| l.find(id).is_some())
            .map(|(id, _)| id)
            .collect::<std::collections::BTreeSet<_>>()
    });
    Contents {
        blocks: blocks.map(|(at, e)| (at, known(e))).collect(),
        unreadable,
        records: records.unwrap_or_default().into_iter().collect(),
        marks: store.ledger(group).map_or_else(Vec::new, |l| {
            l.marks().map(|m| ((m.attachment, m.session, m.queue), m.below)).collect()
        }),
    }
}
