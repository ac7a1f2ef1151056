//! Rot: bits of a drive flip where it matters. What is drawn is a part of the drive that is in use, not a block at random:
//! most blocks of a drive are garbage, and rot of those shows nothing.
use crate::cluster::Cluster;
use crate::node::End;
use crate::workload::written_block;
use rand::Rng;
use rand::seq::IndexedRandom;
use sarsen_buffer::block_checksum;
use sarsen_store::memory::Image;
use sarsen_types::record::Entry;
use sarsen_types::{BLOCK_SIZE, ChunkIndex, FamilyId};
use std::collections::BTreeSet;

/// Blocks that rot at once.
const BLOCKS_MAX: usize = 8;
/// Pages that rot at once: each lies in two places, and mostly one of them stays.
const PAGES_MAX: usize = 4;
/// Leaves that rot at once: most of those that were ever written are named no more.
const LEAVES_MAX: usize = 16;
/// Journal blocks that rot at once, at most: the youngest.
const JOURNAL_MAX: usize = 12;
/// How often they do so where their head says what they are: the journal then ends before them, and nothing shows that it went on.
const HEADS: f64 = 0.4;
/// The bits of that head.
const HEAD_BITS: std::ops::Range<u32> = 64..384;
/// The mark of a map page, at its ninth byte.
const PAGE_MARK: &[u8] = b"SMP1";
/// Kinds of leaves, at its fifteenth byte.
const LEAF_KINDS: [u8; 2] = [1, 2];
/// The mark of a journal block, at its ninth byte.
const JOURNAL_MARK: &[u8] = b"SJB1";
/// Where a journal block says its place in the order.
const JOURNAL_SEQUENCE: std::ops::Range<usize> = 48..56;

/// What rots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    /// Blocks that clients would read.
    Data,
    /// Leaves of the map, which lie in one place each.
    Leaves,
    /// Pages of the map, of roots, of superblocks.
    Pages,
    /// The youngest journal blocks.
    Journal,
    /// Whatever was ever written.
    Any,
}

/// Bits of a node's drive flip: under the running node, or while it is down; then it comes back.
pub fn rot(cluster: &mut Cluster, node: usize) {
    let part = match cluster.rng.random_range(0..100) {
        0..35 => Part::Data,
        35..50 => Part::Leaves,
        50..60 => Part::Pages,
        60..90 => Part::Journal,
        _ => Part::Any,
    };
    let live = live_sums(cluster, node);
    // rot of pages and of the journal shows when the drive is opened
    if part != Part::Data || cluster.rng.random_bool(0.3) {
        cluster.end(node, End::Kill);
        // back within GRACE it is in sync still, and a takeover meets what it lost before anything else compares
        let is_quick = part == Part::Journal && cluster.rng.random_bool(0.7);
        let most = if is_quick { 300 } else { 3000 };
        let soon = sarsen_types::Duration::from_millis(cluster.rng.random_range(20..most));
        cluster.nodes[node].returns_at = Some(cluster.now + soon);
        if is_quick {
            hand_over_all(cluster);
        }
    }
    let families: Vec<FamilyId> = cluster.meta.state.volumes.values().map(|v| v.family).collect();
    let Some(image) = cluster.nodes[node].image_mut() else { return };
    let mut blocks = places(image, part, &live, &families);
    let count = match part {
        Part::Journal => cluster.rng.random_range(1..=JOURNAL_MAX),
        Part::Pages => PAGES_MAX,
        Part::Leaves => LEAVES_MAX,
        _ => BLOCKS_MAX,
    };
    if part != Part::Journal {
        blocks = blocks.choose_multiple(&mut cluster.rng, count).copied().collect();
    }
    blocks.truncate(count);
    let bits_of = match part == Part::Journal && cluster.rng.random_bool(HEADS) {
        true => HEAD_BITS,
        false => 0..BLOCK_SIZE as u32 * 8,
    };
    let bits: Vec<u32> = blocks.iter().map(|_| cluster.rng.random_range(bits_of.clone())).collect();
    cluster.say(|| format!("rot of node {node}: {part:?} {blocks:?}"));
    cluster.tell(|| format!("{} blocks of the drive of node {node} rot: {part:?}", blocks.len()));
    let image = cluster.nodes[node].image_mut().expect("it was just there");
    for (block, bit) in blocks.iter().zip(bits) {
        image.rot(*block, bit);
    }
    (cluster.nodes[node].is_rotten, cluster.nodes[node].had_rot) = (true, true);
    cluster.damaged = Some(node);
    cluster.count(match part {
        Part::Data => "rot of data",
        Part::Leaves => "rot of leaves",
        Part::Pages => "rot of map pages, roots, superblocks",
        Part::Journal => "rot of the journal's end",
        Part::Any => "rot of anything",
    });
}

/// Each group is led by any of its copies.
fn hand_over_all(cluster: &mut Cluster) {
    let groups: Vec<_> = cluster.meta.state.groups.values().cloned().collect();
    for g in groups {
        let to = g.in_sync[cluster.rng.random_range(0..g.in_sync.len())];
        cluster.lead(g.group, to);
    }
}

/// Checksums of what a node's copies hold.
fn live_sums(cluster: &mut Cluster, node: usize) -> BTreeSet<u64> {
    let Some(store) = cluster.nodes[node].store_mut() else { return BTreeSet::new() };
    let groups: Vec<_> = store.groups().collect();
    let entries = groups.into_iter().flat_map(|g| store.top_entries(g).0).collect::<Vec<_>>();
    let sums = entries.into_iter().filter_map(|(_, e)| match e {
        Entry::Data(_, checksum) => Some(checksum.0),
        _ => None,
    });
    sums.collect()
}

fn places(image: &Image, part: Part, live: &BTreeSet<u64>, families: &[FamilyId]) -> Vec<u64> {
    let marked = |mark: &[u8]| -> Vec<u64> {
        image.blocks().filter(|b| image.block(*b).is_some_and(|bytes| &bytes[8..12] == mark)).collect()
    };
    match part {
        Part::Any => image.blocks().collect(),
        Part::Pages => marked(PAGE_MARK),
        Part::Leaves => {
            let is_leaf = |b: &u64| image.block(*b).is_some_and(|bytes| LEAF_KINDS.contains(&bytes[14]));
            marked(PAGE_MARK).into_iter().filter(is_leaf).collect()
        }
        Part::Journal => {
            let mut blocks = marked(JOURNAL_MARK);
            let sequence = |b: &u64| {
                let bytes = &image.block(*b).expect("it is marked")[JOURNAL_SEQUENCE];
                std::cmp::Reverse(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
            };
            blocks.sort_by_key(sequence);
            blocks
        }
        Part::Data => {
            let is_live = |bytes: &[u8]| {
                let Some(number) = written_block(bytes) else { return false };
                // chunks are few; which one it was the checksum tells
                (0..8).any(|chunk| {
                    let sum = |f: &FamilyId| block_checksum(*f, ChunkIndex(chunk), number, bytes);
                    families.iter().any(|f| live.contains(&sum(f).0))
                })
            };
            image.blocks().filter(|b| image.block(*b).is_some_and(|bytes| is_live(&bytes))).collect()
        }
    }
}
