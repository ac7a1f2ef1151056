//! What goes wrong, drawn from the seed.
use crate::cluster::Cluster;
use crate::node::End;
use crate::rot;
use crate::workload::Client;
use rand::Rng;
use sarsen_control::command::Command;
use sarsen_types::{Duration, Instant};

/// Something that goes wrong, or is done to the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// kill -9.
    Kill,
    /// kill -9, and back within GRACE.
    Blink,
    /// Power loss of one node.
    PowerLoss,
    /// Power loss of all.
    PowerLossOfAll,
    /// A node stands still, its clock runs.
    Pause,
    /// A node stands still, and its clock with it.
    ClockStop,
    /// A stream breaks.
    Break,
    /// Two nodes do not reach each other, or only one the other.
    Cut,
    /// A node reaches nobody, the metadata included.
    Isolate,
    /// The metadata answer nobody for a while.
    MetadataAway,
    /// A device holds its requests.
    Hang,
    /// Another copy is named primary.
    HandOver,
    /// A client's volume is taken from it by force.
    Detach,
    /// A driver begins a new life.
    RestartDriver,
    /// A node stops in order.
    Stop,
    /// Bits of a drive flip, under a running node or a stopped one.
    Rot,
    /// A drive comes back with an older image.
    RollBack,
    /// A drive is gone; a blank one takes its place.
    LoseDrive,
    /// One node dies while all else is well: nobody's write waits long.
    DeadNode,
    /// One node stops in order while all else is well: nobody's write waits at all, to speak of.
    PlannedStop,
}

/// All that is drawn from.
pub const ALL: [Fault; 20] = [
    Fault::Kill,
    Fault::Blink,
    Fault::PowerLoss,
    Fault::PowerLossOfAll,
    Fault::Pause,
    Fault::ClockStop,
    Fault::Break,
    Fault::Cut,
    Fault::Isolate,
    Fault::MetadataAway,
    Fault::Hang,
    Fault::HandOver,
    Fault::Detach,
    Fault::RestartDriver,
    Fault::Stop,
    Fault::Rot,
    Fault::RollBack,
    Fault::LoseDrive,
    Fault::DeadNode,
    Fault::PlannedStop,
];

impl Fault {
    /// Whether it waits until all else is well: a drive loses nothing while another has not made good what it lost, and
    /// bounds of time hold for one fault at a time.
    pub fn wants_calm(self) -> bool {
        matches!(self, Fault::Rot | Fault::RollBack | Fault::LoseDrive | Fault::DeadNode | Fault::PlannedStop)
    }
    /// How long a write may wait for it when all else is well.
    pub fn wait_max(self) -> Option<Duration> {
        match self {
            Fault::DeadNode => Some(Duration::from_secs(3)),
            Fault::PlannedStop => Some(Duration::from_millis(200)),
            _ => None,
        }
    }
}

/// Draws a fault that may happen as things are.
pub fn draw(cluster: &mut Cluster, may_stop_clocks: bool, may_rot: bool) -> Fault {
    loop {
        // what a drive loses unseen takes the most luck to matter: it is drawn more often
        let fault = match cluster.rng.random_bool(0.1) {
            true => Fault::Rot,
            false => ALL[cluster.rng.random_range(0..ALL.len())],
        };
        let may = match fault {
            // no guest clock sees it: only where reads wait for rounds (R4)
            Fault::ClockStop => may_stop_clocks,
            Fault::Rot => may_rot,
            _ => true,
        };
        if may {
            return fault;
        }
    }
}

/// Whether a fault may happen as things are: while a drive is damaged, only so much happens to the others that a whole copy of
/// each group stays.
pub fn may(cluster: &Cluster, fault: Fault) -> bool {
    let Some(damaged) = cluster.damaged else { return !fault.wants_calm() || cluster.is_calm() };
    match fault {
        Fault::Rot | Fault::PowerLossOfAll => cluster.is_sound_beside(damaged),
        Fault::Cut => cluster.copies >= 3 && cluster.is_sound_beside(damaged),
        _ => !fault.wants_calm(),
    }
}

/// Draws two nodes that something may happen to.
pub fn aim(cluster: &mut Cluster) -> (usize, usize) {
    let n = cluster.nodes.len();
    let node = cluster.rng.random_range(0..n);
    (node, (node + cluster.rng.random_range(1..n)) % n)
}

/// Makes a fault happen that [`may`]; `false` when it comes to nothing.
pub fn strike(cluster: &mut Cluster, clients: &mut [Client], fault: Fault) -> bool {
    let n = cluster.nodes.len();
    let (mut node, other) = aim(cluster);
    let now = cluster.now;
    if let Some(damaged) = cluster.damaged {
        let is_spared = fault != Fault::Rot && cluster.copies >= 3 && cluster.is_sound_beside(damaged);
        if !is_spared {
            node = damaged;
        }
    }
    let long = Duration::from_millis(cluster.rng.random_range(50..6000));
    match fault {
        Fault::Kill => cluster.end(node, End::Kill),
        Fault::Blink => {
            let how = if cluster.rng.random_bool(0.5) { End::Kill } else { End::PowerLoss };
            cluster.end(node, how);
            let soon = Duration::from_millis(cluster.rng.random_range(20..1400));
            cluster.nodes[node].returns_at = Some(now + soon);
        }
        Fault::PowerLoss => cluster.end(node, End::PowerLoss),
        Fault::PowerLossOfAll => (0..n).for_each(|node| cluster.end(node, End::PowerLoss)),
        Fault::Pause | Fault::ClockStop => {
            let stops_clock = fault == Fault::ClockStop;
            cluster.nodes[node].paused_until = Some((now + long, stops_clock));
            let clock = if stops_clock { ", and its clock with it" } else { "" };
            cluster.tell(|| format!("node {node} stands still for {long:?}{clock}"));
        }
        Fault::Break => {
            cluster.tell(|| format!("the connection of node {node} and node {other} breaks"));
            cluster.disconnect(node, other);
        }
        Fault::Cut => {
            cluster.net.cut.insert((node, other));
            if cluster.rng.random_bool(0.5) {
                cluster.net.cut.insert((other, node));
                cluster.tell(|| format!("node {node} and node {other} are cut off from each other"));
                cluster.disconnect(node, other);
            } else {
                cluster.tell(|| format!("what node {node} sends does not reach node {other} any more"));
            }
        }
        Fault::Isolate => {
            cluster.tell(|| format!("node {node} is cut off from all others, and from the metadata"));
            for other in (0..n).filter(|o| *o != node) {
                cluster.net.cut.extend([(node, other), (other, node)]);
                cluster.disconnect(node, other);
            }
            cluster.nodes[node].is_cut_off = true;
        }
        Fault::MetadataAway => {
            cluster.meta.away_until = now + long;
            cluster.tell(|| format!("the metadata answer nobody for {long:?}"));
        }
        Fault::Hang => {
            cluster.nodes[node].hung_until = Some(now + long * 2);
            cluster.tell(|| format!("the disk of node {node} completes nothing for {:?}", long * 2));
        }
        Fault::HandOver => {
            let groups: Vec<_> = cluster.meta.state.groups.values().cloned().collect();
            let g = &groups[cluster.rng.random_range(0..groups.len())];
            let to = g.in_sync[cluster.rng.random_range(0..g.in_sync.len())];
            cluster.tell_of(g.group, || format!("{to} shall lead group {}", g.group));
            cluster.lead(g.group, to);
        }
        Fault::Detach => {
            let at = cluster.rng.random_range(0..clients.len());
            if clients[at].is_fenced {
                return false;
            }
            clients[at].is_fenced = true;
            cluster.tell(|| format!("the volume of client {at} is taken from it by force"));
            cluster.command(Command::DetachForced { attachment: clients[at].attachment });
        }
        Fault::RestartDriver => {
            let at = cluster.rng.random_range(0..clients.len());
            cluster.tell(|| format!("client {at} begins a new life"));
            clients[at].restart(cluster);
        }
        Fault::Stop => cluster.stop(node),
        Fault::Rot => rot::rot(cluster, node),
        Fault::RollBack => cluster.roll_back(node),
        Fault::LoseDrive => cluster.lose_drive(node),
        Fault::DeadNode => {
            let how = if cluster.rng.random_bool(0.5) { End::Kill } else { End::PowerLoss };
            cluster.end(node, how);
        }
        Fault::PlannedStop => cluster.stop(node),
    }
    true
}

/// Puts right what only somebody can put right: cuts end, dead nodes start.
pub fn mend(cluster: &mut Cluster) {
    if !cluster.net.cut.is_empty() || cluster.nodes.iter().any(|n| n.is_cut_off) {
        cluster.tell(|| "all reach each other again".into());
    }
    cluster.net.cut.clear();
    for node in 0..cluster.nodes.len() {
        cluster.nodes[node].is_cut_off = false;
        if cluster.nodes[node].slice.is_none() {
            cluster.start(node);
        }
    }
}

/// Puts right all that lasts a while, too.
pub fn calm_down(cluster: &mut Cluster) {
    mend(cluster);
    cluster.meta.away_until = Instant(0);
    let now = cluster.now;
    for node in &mut cluster.nodes {
        node.hung_until = None;
        if let Some(pause) = &mut node.paused_until {
            pause.0 = now;
        }
    }
}
