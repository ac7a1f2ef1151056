//! Copies agree when quiet.
use crate::cluster::Cluster;
use crate::story::Subject;
use sarsen_types::{GroupId, ObjectId, SliceId, Version};
use std::collections::BTreeMap;

/// Which copies are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// Those on drives of which no bit flipped: what rotted is found when it is read.
    Sound,
    /// All.
    All,
}

/// Copies agree when quiet: the same entries, the same records.
///
/// # Panics
/// If they do not.
pub fn agree(cluster: &mut Cluster, which: Which) {
    for (id, group) in cluster.meta.state.groups.clone() {
        cluster.story.judge(Subject::Group(id));
        let nodes =
            group.in_sync.iter().map(|slice| (*slice, cluster.node_of(*slice).expect("it has a node")));
        let is_meant = |n: usize| which == Which::All || !cluster.nodes[n].is_rotten;
        let meant: Vec<(SliceId, usize)> = nodes.filter(|(_, n)| is_meant(*n)).collect();
        let (mut slices, mut copies) = (Vec::new(), Vec::new());
        for (slice, node) in meant {
            slices.push(slice);
            copies.push(contents(cluster.nodes[node].store_mut().expect("all are up"), id));
        }
        if copies.is_empty() {
            continue;
        }
        let unreadable: Vec<ObjectId> = copies.iter().flat_map(|c: &Contents| c.unreadable.clone()).collect();
        copies.iter_mut().for_each(|c| c.blocks.retain(|(id, _), _| !unreadable.contains(id)));
        // a mark is a fact about the client, whichever record brought it: below the highest nothing can be asked
        let mut marks = BTreeMap::new();
        for (queue, below) in copies.iter().flat_map(|c| &c.marks) {
            let known = marks.entry(*queue).or_insert(0);
            *known = (*below).max(*known);
        }
        let first = &copies[0];
        for (other, slice) in copies.iter().zip(&slices).skip(1) {
            let leader = slices[0];
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
    /// Objects with a bad leaf of which nothing was needed: what lies over it is younger.
    unreadable: Vec<ObjectId>,
    blocks: BTreeMap<(ObjectId, u16), (Version, u64)>,
    records: Vec<sarsen_types::RequestId>,
    marks: Vec<(Queue, u64)>,
}

impl Contents {
    /// Records that a retry may still ask for: of the newest session, at or above its mark.
    fn asked(&self, marks: &BTreeMap<Queue, u64>, cluster: &Cluster) -> Vec<sarsen_types::RequestId> {
        let mark = |id: &sarsen_types::RequestId| marks.get(&(id.attachment, id.session, id.queue)).copied();
        let newest = |id: &sarsen_types::RequestId| {
            cluster.meta.state.attachments.get(&id.attachment).is_some_and(|a| a.session == id.session)
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
        unreadable,
        blocks: blocks.map(|(at, e)| (at, known(e))).collect(),
        records: records.unwrap_or_default().into_iter().collect(),
        marks: store.ledger(group).map_or_else(Vec::new, |l| {
            l.marks().map(|m| ((m.attachment, m.session, m.queue), m.below)).collect()
        }),
    }
}
