//! What goes wrong, drawn from the seed.
use crate::cluster::Cluster;
use rand::Rng;
use sarsen_types::Duration;

/// Something that goes wrong, or is put right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// kill -9.
    Kill,
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
    /// A bit of a drive flips, while it is off.
    Rot,
    /// A drive comes back with an older image.
    RollBack,
    /// Another copy is named primary.
    HandOver,
}

/// All that is drawn from. Clock stops only where reads wait for rounds: no guest clock sees them (R4).
const ALL: [Fault; 13] = [
    Fault::Kill,
    Fault::PowerLoss,
    Fault::PowerLossOfAll,
    Fault::Pause,
    Fault::ClockStop,
    Fault::Break,
    Fault::Cut,
    Fault::Isolate,
    Fault::MetadataAway,
    Fault::Hang,
    Fault::Rot,
    Fault::RollBack,
    Fault::HandOver,
];

/// Blocks of a drive in which a bit flips at once.
const ROTTEN_BLOCKS: usize = 12;

/// Draws a fault and makes it happen. At most one drive of a group's copies loses data at a time: that is what the
/// cluster promises to bear, so rot and roll-backs wait until every group is whole.
pub fn strike(
    cluster: &mut Cluster,
    may_stop_clocks: bool,
    images: &mut [Option<sarsen_store::memory::Image>],
) -> Fault {
    let fault = ALL[cluster.rng.random_range(0..ALL.len())];
    let n = cluster.nodes.len();
    let node = cluster.rng.random_range(0..n);
    let other = (node + cluster.rng.random_range(1..n.max(2))) % n;
    let now = cluster.now;
    let long = Duration::from_millis(cluster.rng.random_range(50..6000));
    match fault {
        Fault::Kill => cluster.crash(node, false),
        Fault::PowerLoss => cluster.crash(node, true),
        Fault::PowerLossOfAll => (0..n).for_each(|node| cluster.crash(node, true)),
        Fault::Pause => cluster.nodes[node].paused_until = Some((now + long, false)),
        Fault::ClockStop if may_stop_clocks => cluster.nodes[node].paused_until = Some((now + long, true)),
        Fault::ClockStop => {}
        Fault::Break => cluster.disconnect(node, other),
        Fault::Cut => {
            cluster.cut.insert((node, other));
            if cluster.rng.random_bool(0.5) {
                cluster.cut.insert((other, node));
                cluster.disconnect(node, other);
            }
        }
        Fault::Isolate => {
            for other in (0..n).filter(|o| *o != node) {
                cluster.cut.extend([(node, other), (other, node)]);
                cluster.disconnect(node, other);
            }
            cluster.nodes[node].is_cut_off = true;
        }
        Fault::MetadataAway => cluster.metadata_away_until = now + long,
        Fault::Hang => cluster.nodes[node].hung_until = Some(now + long * 2),
        // of one drive only: two rotten copies of a block are more than a cluster promises to bear
        Fault::Rot if cluster.is_whole() => {
            let node = cluster.rotten();
            cluster.crash(node, false);
            let dice = cluster.rng.random_range(1..1_000_000_usize);
            if let Some(image) = cluster.image(node) {
                let blocks: Vec<u64> = image.blocks().collect();
                for n in 1..=ROTTEN_BLOCKS {
                    image.rot(blocks[dice * n % blocks.len()], (dice * n * 7919) as u32);
                }
            }
        }
        Fault::Rot => {}
        Fault::RollBack if cluster.is_whole() => {
            cluster.crash(node, false);
            match images[node].take() {
                Some(old) => {
                    if let Some(image) = cluster.image(node) {
                        *image = old;
                        cluster.count("drive images rolled back");
                    }
                }
                None => images[node] = cluster.image(node).cloned(),
            }
        }
        Fault::RollBack => {}
        Fault::HandOver => {
            let groups: Vec<_> = cluster.state.groups.values().cloned().collect();
            let g = &groups[cluster.rng.random_range(0..groups.len())];
            let to = g.in_sync[cluster.rng.random_range(0..g.in_sync.len())];
            cluster.hand_over(g.group, to);
        }
    }
    fault
}

/// Puts right what only somebody can put right: cuts end, dead nodes start.
pub fn mend(cluster: &mut Cluster) {
    cluster.cut.clear();
    for node in 0..cluster.nodes.len() {
        cluster.nodes[node].is_cut_off = false;
        if cluster.nodes[node].slice.is_none() {
            cluster.start(node);
        }
    }
}
