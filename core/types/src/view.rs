//! What slices and clients are told of the metadata, and what slices ask of them.
use crate::geometry::ChunkIndex;
use crate::group::GroupState;
use crate::ids::{
    AttachmentId, FamilyId, Generation, GroupId, LayerId, NodeId, Revision, SessionId, SliceId, VolumeId,
};
use crate::version::Epoch;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The metadata at one revision, as one slice needs them: its groups, and the layers, volumes and attachments of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct View {
    /// The revision it is of.
    pub revision: Revision,
    /// Groups the slice is a member of, whatever its state in them.
    pub groups: Vec<GroupState>,
    /// Per layer its family and parent.
    pub layers: BTreeMap<LayerId, LayerView>,
    /// Per volume what bounds its requests.
    pub volumes: BTreeMap<VolumeId, VolumeView>,
    /// Attachments that may send requests.
    pub attachments: BTreeMap<AttachmentId, AttachmentView>,
    /// Attachments up to this one that are not listed have ended: ids only grow (R42).
    pub last_attachment: AttachmentId,
    /// Confirmed deletions (R20) that the slice's drive did not say it carried out: layers whose data it may drop, each with the
    /// revision it was deleted in, ascending.
    pub dropped_layers: Vec<(Revision, LayerId)>,
    /// Confirmed deletions (R20): groups of which this slice may drop its copy, with the assignment that ended.
    pub dropped_groups: Vec<(GroupId, u64)>,
    /// Groups being fenced: until the report is in, the primary answers each with `Proposal::Fenced` (R31).
    pub fences: Vec<(AttachmentId, Generation, Vec<GroupId>)>,
}

impl View {
    /// Whether a layer was deleted: one row of numbers is for attachments and layers, and only grows (R42).
    pub fn is_deleted(&self, layer: LayerId) -> bool {
        layer.0 <= self.last_attachment.0 && !self.layers.contains_key(&layer)
    }
}

/// A layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LayerView {
    /// Seeds its checksums.
    pub family: FamilyId,
    /// What it lies on.
    pub parent: Option<LayerId>,
}

/// A volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeView {
    /// The layer that is written.
    pub head: LayerId,
    /// Bytes.
    pub size: u64,
    /// The revision that last changed its chain, attachments or group function (R39).
    pub changed: Revision,
}

/// An attachment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AttachmentView {
    /// Of which volume.
    pub volume: VolumeId,
    /// Requests of another generation are refused (R31).
    pub generation: Generation,
    /// The newest session metadata gave out.
    pub session: SessionId,
    /// Whether it may write.
    pub read_only: bool,
}

/// A change of a group that a slice asks of the metadata: a compare-and-set on the epoch it was asked in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Proposal {
    /// The group.
    pub group: GroupId,
    /// The epoch it is judged by: another one fails it.
    pub epoch: Epoch,
    /// Who asks.
    pub by: SliceId,
    /// What.
    pub change: GroupChange,
}

/// The changes a slice may ask for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum GroupChange {
    /// An in-sync replica that heard nothing of its primary for GRACE becomes primary; the old one leaves in_sync (R12).
    TakeOver,
    /// The primary takes a copy out of in_sync or joining (R9).
    Remove(SliceId),
    /// The primary found in its takeover that an in-sync copy, itself perhaps, does not hold what it acknowledged: its journal
    /// lost its end. It leaves in_sync and complete, and another leads (R12).
    Expel(SliceId),
    /// The primary, alone and below `min_copies`, has committed nothing since it began to lead, and lets a copy lead that was in
    /// sync then and holds more (R11, R27).
    GiveWay {
        /// Who leads.
        to: SliceId,
        /// What it holds more was committed: the primary is complete no longer. Else it may be what nobody ever answered.
        lacks: bool,
    },
    /// The primary lets a joining copy be in sync (R6, R16).
    Promote(SliceId),
    /// The primary asks for another epoch before the sequence of this one fills: nothing else changes.
    Renew,
    /// The primary reports that an attachment's old generations can commit nothing more in this group (R31). Raises no epoch.
    Fenced(AttachmentId, Generation),
}

/// What a client must know of a volume it has attached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeMap {
    /// The revision it is of.
    pub revision: Revision,
    /// The volume.
    pub volume: VolumeId,
    /// Its name, for messages.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Seeds the checksums.
    pub family: FamilyId,
    /// The head layer.
    pub layer: LayerId,
    /// The attachment.
    pub attachment: AttachmentId,
    /// Its generation.
    pub generation: Generation,
    /// The session given to this client.
    pub session: SessionId,
    /// Whether writes are refused.
    pub read_only: bool,
    /// The policy's group table: chunk n of family f is in `table[group_index(table.len(), f, n)]` (R38).
    pub table: Vec<GroupId>,
    /// Who leads each group of the table.
    pub leaders: BTreeMap<GroupId, (Epoch, SliceId)>,
    /// Where each slice is reached.
    pub addresses: BTreeMap<NodeId, NodeAddress>,
    /// The node of each drive.
    pub nodes: BTreeMap<crate::ids::DriveId, NodeId>,
}

/// Where a node's data port is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeAddress {
    /// `ip:port` of its data port.
    pub data: String,
    /// The path of its unix socket, for clients with the same boot id.
    pub unix: Option<String>,
    /// The kernel it runs on.
    pub boot_id: String,
}

/// The index in its policy's group table of a chunk (R38): fixed for the life of the table. `groups` is a power of two.
///
/// SplitMix64's finaliser over family and chunk, so that neighbouring chunks of one volume lie in different groups.
pub fn group_index(groups: usize, family: FamilyId, chunk: ChunkIndex) -> usize {
    debug_assert!(groups.is_power_of_two());
    let mut x = family.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(chunk.0));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) & (groups as u64 - 1)) as usize
}

impl VolumeMap {
    /// The group of a chunk.
    pub fn group_of(&self, chunk: ChunkIndex) -> GroupId {
        self.table[group_index(self.table.len(), self.family, chunk)]
    }
}
