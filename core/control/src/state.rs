//! What the cluster remembers. Everything is a plain value: equal commands make equal states.
use crate::command::Answer;
use crate::tombstones::Tombstone;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use sarsen_placement::Site;
use sarsen_types::view::NodeAddress;
use sarsen_types::{
    AttachmentId, ClusterId, DriveId, DriveIdentity, FamilyId, Generation, GroupId, GroupState, LayerId,
    NodeId, OpenId, Revision, SessionId, SliceId, VolumeId,
};
use serde::{Deserialize, Serialize};

/// Events that are remembered.
pub const EVENTS_MAX: usize = 1000;
/// Request ids that are remembered, beside their time limit.
pub const REQUESTS_MAX: usize = 10_000;
/// How long a request id is remembered (R30).
pub const REQUEST_MS: u64 = 24 * 60 * 60 * 1000;
/// How long a node's own is: it asks again until it is answered, and then no more.
pub const NODE_REQUEST_MS: u64 = 10 * 60 * 1000;
/// Default of `down_out` (R19).
pub const DOWN_OUT_MS: u64 = 10 * 60 * 1000;
/// Bytes of a name.
pub const NAME_MAX: usize = 128;
/// Copies of a new cluster's default policy.
pub const COPIES_DEFAULT: u8 = 3;

/// See the module.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// The cluster; zero before `Command::Begin`.
    pub cluster: ClusterId,
    /// Raised by every command that changed something.
    pub revision: Revision,
    /// The revision that last changed what a [`sarsen_types::VolumeMap`] shows.
    pub map_revision: Revision,
    /// The latest time a command carried, milliseconds since 1970; never goes back.
    pub now_ms: u64,
    /// The wall clock of the leader that the last command came through: what events show.
    #[serde(default)]
    pub wall_ms: u64,
    /// Small tables (R38).
    pub is_dev: bool,
    /// Nodes.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Drives.
    pub drives: BTreeMap<DriveId, Drive>,
    /// Drives that were given up, by what is written on them: they come back only blank (R28).
    #[serde(default)]
    pub forgotten: BTreeMap<DriveIdentity, DriveId>,
    /// Policies, by name.
    pub policies: BTreeMap<String, Policy>,
    /// Volumes.
    pub volumes: BTreeMap<VolumeId, Volume>,
    /// Layers.
    pub layers: BTreeMap<LayerId, Layer>,
    /// Deleted layers that drives may still hold: the tombstones of R20.
    #[serde(deserialize_with = "crate::tombstones::read")]
    pub dropped_layers: BTreeMap<LayerId, Tombstone>,
    /// Groups.
    pub groups: BTreeMap<GroupId, GroupState>,
    /// Per group its members that are not in sync.
    pub out: BTreeMap<GroupId, Vec<Out>>,
    /// Members that are in sync again since a moment: if they are thrown out once more, their joins go on backing off (R19).
    #[serde(default)]
    pub back: BTreeMap<GroupId, Vec<Out>>,
    /// Assignments that ended: their data go once the group is whole without them (R20).
    pub retired: Vec<Retired>,
    /// Rights to use volumes.
    pub attachments: BTreeMap<AttachmentId, Attachment>,
    /// What can be set.
    pub settings: Settings,
    /// What happened.
    pub events: VecDeque<Event>,
    /// Answers given, by the caller's request id (R30).
    pub answered: BTreeMap<u128, Answered>,
    /// The last id given of each kind.
    pub last: LastIds,
}

/// A node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Node {
    /// What it calls itself in its directory: makes joining again idempotent.
    pub identity: u128,
    /// `ip:port` of its API.
    pub api: String,
    /// Its data port.
    pub address: NodeAddress,
    /// As the leader saw it last.
    pub is_up: bool,
    /// Since when it is as it is, milliseconds since 1970.
    pub since_ms: u64,
    /// It said that it is about to stop, and was not started since.
    #[serde(default)]
    pub is_stopping: bool,
}

/// Images of one drive that are remembered.
pub const IMAGES_MAX: usize = 16;

/// A drive.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Drive {
    /// What is written on it.
    pub identity: DriveIdentity,
    /// Who serves it.
    pub node: NodeId,
    /// The opening last registered (R1).
    pub open: OpenId,
    /// Where it is on its node.
    pub path: String,
    /// `nvme`, `ssd`, `hdd`.
    pub class: String,
    /// Its slices.
    pub slices: u8,
    /// Bytes.
    pub size: u64,
    /// Blocks of data it can hold.
    pub total_blocks: u64,
    /// Of them used.
    pub used_blocks: u64,
    /// Its slices that take no more data of clients (S16), as they said last.
    #[serde(default)]
    pub full: BTreeSet<u8>,
    /// Registered, and not reported failed or stopped since. Whether its node is up is told by the node.
    pub is_up: bool,
    /// What it holds counts for nothing until its slices durably say so (R1).
    pub is_stale: bool,
    /// Why it failed.
    pub failure: Option<String>,
    /// What was deleted up to this revision it does not hold any more.
    #[serde(default)]
    pub dropped: Revision,
    /// It was given up as lost, and hosts may still use it (R28).
    #[serde(default)]
    pub forgetting: Option<Forgetting>,
    /// Images of it that were opened elsewhere while it was up, at most [`IMAGES_MAX`].
    #[serde(default)]
    pub images: Vec<Image>,
    /// The opening that was registered when it came here from another node.
    #[serde(default)]
    pub former: Option<OpenId>,
}

/// An image of a drive that another node opened while the drive was up. It may hold the drive's current open id and lack what was
/// answered after it was copied, which open ids alone do not tell (R1; found in review). Or it is the drive itself, moved here before
/// its node was missed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Image {
    /// Its newest opening that we were told of.
    pub open: OpenId,
    /// When we were told of it first, on the cluster's clock.
    pub since_ms: u64,
    /// The drive's node lived after the image was opened: what the image holds counts for nothing.
    pub is_behind: bool,
}

/// What is waited for before the groups of a drive go on without it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Forgetting {
    /// The first revision whose maps know no way to it.
    pub since: Revision,
    /// Attachments whose hosts may use an older one.
    pub hosts: BTreeSet<AttachmentId>,
    /// Groups that the operator gives up with it, should nobody else have all of them; all of them, where an older version did not ask.
    #[serde(default)]
    pub named: Option<BTreeSet<GroupId>>,
}

/// How volumes are stored. All drives are one pool, `default`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// Copies.
    pub copies: u8,
    /// Copies that must be in sync for a commit (R9).
    pub min_copies: u8,
    /// The groups (R38); empty before the first volume.
    pub table: Vec<GroupId>,
}

/// A volume.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Its policy.
    pub policy: String,
    /// Its family.
    pub family: FamilyId,
    /// The layer that is written.
    pub head: LayerId,
    /// The revision that last changed its chain, attachments or group function (R39).
    pub changed: Revision,
}

/// A layer.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Layer {
    /// Its family.
    pub family: FamilyId,
    /// What it lies on.
    pub parent: Option<LayerId>,
    /// The volume it was made for.
    pub volume: VolumeId,
}

/// A member of a group that is not in sync.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Out {
    /// Which.
    pub slice: SliceId,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
    /// Joins begun since it was last in sync or registered.
    pub joins: u32,
    /// When the last one began.
    pub joined_ms: u64,
    /// It was never in sync since it was placed: it holds what its first join brought so far.
    #[serde(default)]
    pub is_new: bool,
}

/// An assignment that ended.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Retired {
    /// Of which group.
    pub group: GroupId,
    /// To which slice.
    pub slice: SliceId,
    /// Its number.
    pub assignment: u64,
}

/// The right of one owner to use one volume.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Attachment {
    /// The volume.
    pub volume: VolumeId,
    /// In words that stay the same over its restarts.
    pub owner: String,
    /// Nobody else beside it.
    pub exclusive: bool,
    /// Does not write.
    pub read_only: bool,
    /// Requests of another are refused.
    pub generation: Generation,
    /// The newest session.
    pub session: SessionId,
    /// Groups that have not yet fenced the older generations; `Some` once a forced detach began (R31).
    pub fencing: Option<BTreeSet<GroupId>>,
}

/// What can be set.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// A copy out of sync for this long is replaced (R19), milliseconds.
    pub down_out_ms: u64,
}
impl Default for Settings {
    fn default() -> Settings {
        Settings { down_out_ms: DOWN_OUT_MS }
    }
}

/// Something that happened.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one.
    pub number: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    pub text: String,
}

/// An answer that was given.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Answered {
    /// Until when it is remembered, milliseconds since 1970.
    #[serde(alias = "at_ms")]
    pub until_ms: u64,
    /// What.
    pub answer: Answer,
    /// By what the command is known again; an older version did not ask.
    #[serde(default)]
    pub digest: Option<u64>,
}

/// The last id given of each kind: ids are never reused (R42).
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct LastIds {
    /// Nodes.
    pub node: u32,
    /// Drives.
    pub drive: u32,
    /// Groups.
    pub group: u32,
    /// Volumes, layers, families, attachments, sessions: one row of numbers.
    pub wide: u64,
    /// Assignments (R20).
    pub assignment: u64,
    /// Events.
    pub event: u64,
}

impl State {
    /// Whether a slice's drive is registered, not failed, and on a node that is up.
    pub fn is_up(&self, slice: SliceId) -> bool {
        self.drives.get(&slice.drive).is_some_and(|d| self.is_drive_up(d))
    }
    /// Whether a drive is registered, not failed, and on a node that is up.
    pub fn is_drive_up(&self, drive: &Drive) -> bool {
        drive.is_up && self.nodes.get(&drive.node).is_some_and(|n| n.is_up)
    }
    /// Whether a slice is up, and on a node that means to stay.
    pub fn is_staying(&self, slice: SliceId) -> bool {
        let node = self.drives.get(&slice.drive).and_then(|d| self.nodes.get(&d.node));
        self.is_up(slice) && node.is_some_and(|n| !n.is_stopping)
    }
    /// The fault domain of a slice: its node.
    pub fn domain(&self, slice: SliceId) -> u32 {
        self.drives.get(&slice.drive).map_or(0, |d| d.node.0)
    }
    /// The slices that may be given copies.
    pub fn sites(&self) -> Vec<Site> {
        let fit = self.drives.iter().filter(|(_, d)| self.is_drive_up(d) && !d.is_stale && d.slices > 0);
        let sites = fit.flat_map(|(id, d)| {
            let (id, domain) = (*id, d.node.0);
            let weight = (d.total_blocks / u64::from(d.slices)).max(1);
            (0..d.slices).map(move |index| Site { slice: SliceId { drive: id, index }, domain, weight })
        });
        sites.collect()
    }
    /// The policy a group is of, with its name.
    pub fn policy_of(&self, group: GroupId) -> Option<(&str, &Policy)> {
        let mut all = self.policies.iter();
        all.find(|(_, p)| p.table.binary_search(&group).is_ok()).map(|(name, p)| (name.as_str(), p))
    }
    /// Copies a group is to have.
    pub fn copies_of(&self, group: GroupId) -> usize {
        self.policy_of(group).map_or(0, |(_, p)| p.copies as usize)
    }
    /// Whether a group has all its copies in sync.
    pub fn is_whole(&self, state: &GroupState) -> bool {
        state.in_sync.len() >= self.copies_of(state.group)
    }
    /// The volume called `name`.
    pub fn volume_named(&self, name: &str) -> Option<(VolumeId, &Volume)> {
        self.volumes.iter().find(|(_, v)| v.name == name).map(|(id, v)| (*id, v))
    }
    /// Who has a volume.
    pub fn attachments_of(&self, volume: VolumeId) -> impl Iterator<Item = (AttachmentId, &Attachment)> {
        self.attachments.iter().filter(move |(_, a)| a.volume == volume).map(|(id, a)| (*id, a))
    }

    /// Something an operator should read.
    pub(crate) fn tell(&mut self, text: String) {
        self.last.event += 1;
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(Event { number: self.last.event, at_ms: self.wall_ms, text });
    }
    /// The next number of the row of wide ids.
    pub(crate) fn next_wide(&mut self) -> u64 {
        self.last.wide += 1;
        self.last.wide
    }

    /// What must hold after each command.
    pub fn is_consistent(&self) -> bool {
        self.groups.values().all(|g| {
            let member = |s: &SliceId| g.members.iter().filter(|m| m.slice == *s).count() == 1;
            !g.in_sync.is_empty()
                && g.in_sync.contains(&g.primary)
                && g.in_sync.iter().all(member)
                && g.in_sync.iter().all(|s| g.complete.contains(s) && g.join_of(*s).is_none())
                && g.joining.iter().all(|j| member(&j.slice) && j.since <= g.epoch)
                && g.complete.iter().all(member)
                && g.primary_since <= g.epoch
        })
    }
}
