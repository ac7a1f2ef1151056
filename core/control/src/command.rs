//! What can be asked of the metadata, and what is answered.
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use sarsen_types::view::NodeAddress;
use sarsen_types::{
    Alarm, AttachmentId, ClusterId, DriveId, DriveIdentity, Epoch, Generation, GroupId, NodeId, OpenId,
    Proposal, Revision, SessionId, SliceId, VolumeId,
};
use serde::{Deserialize, Serialize};

/// A command as it is replicated.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The leader's clock, milliseconds since 1970: what is due is judged by it, so it never jumps.
    pub at_ms: u64,
    /// Its wall clock, for the eyes of operators; logs of older versions have one clock for both.
    #[serde(default)]
    pub wall_ms: Option<u64>,
    /// The caller's id of it: the same again gets the same answer (R30).
    pub request: Option<u128>,
    /// What.
    pub command: Command,
}

/// What is asked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// The first command of a cluster; a second is ignored.
    Begin {
        /// Its id.
        cluster: ClusterId,
        /// Copies of the default policy.
        copies: u8,
        /// Small tables (R38).
        is_dev: bool,
    },
    /// A node joins, or tells its addresses after a start; its drives are down until they register again.
    Node {
        /// From its directory.
        identity: u128,
        /// `ip:port` of its API.
        api: String,
        /// Its data port.
        address: NodeAddress,
    },
    /// The leader hears a node again, or not any more.
    Heard {
        /// Which.
        node: NodeId,
        /// Heard.
        is_up: bool,
    },
    /// A drive was opened (R1).
    Register(Register),
    /// All slices of a stale drive durably count their floors as zero (R1).
    Trust {
        /// Which.
        drive: DriveId,
        /// In which opening.
        open: OpenId,
    },
    /// All slices of a drive durably dropped what was deleted up to this revision (R20).
    Dropped {
        /// Which.
        drive: DriveId,
        /// In which opening.
        open: OpenId,
        /// Up to which.
        revision: Revision,
    },
    /// A drive ended (S9): it acknowledges nothing any more.
    Failed {
        /// Which.
        drive: DriveId,
        /// In which opening.
        open: OpenId,
        /// Why.
        why: String,
    },
    /// How full drives are: (drive, blocks it can hold, blocks used).
    Space(Vec<(DriveId, u64, u64)>),
    /// Which slices of drives take no more data of clients now (S16).
    Full(Vec<(DriveId, Vec<u8>)>),
    /// What slices proposed: many groups in one command, each judged by its own epoch (R44).
    Judge(Vec<Proposal>),
    /// Members that are to be brought up to date.
    Join(Vec<Move>),
    /// In-sync copies that are to lead; who led stays in sync.
    Lead(Vec<Move>),
    /// The nodes of these drives spoke after the images with these openings were opened (R1).
    Outlived(Vec<(DriveId, OpenId)>),
    /// A node is about to stop in order: from now on nothing is handed over to it.
    Stopping {
        /// Which.
        node: NodeId,
    },
    /// A node stops in order: its copies leave in_sync wherever those that stay can go on; those it still leads stay.
    Leave {
        /// Which.
        node: NodeId,
    },
    /// Slices that get a copy of a group they had none of; they join at once (R19).
    Place(Vec<Move>),
    /// Members that are not needed any more (R20).
    Unplace(Vec<Move>),
    /// Makes a volume.
    CreateVolume {
        /// Its name.
        name: String,
        /// Bytes.
        size: u64,
        /// Its policy.
        policy: String,
    },
    /// Grows a volume.
    GrowVolume {
        /// Which.
        volume: VolumeId,
        /// Bytes.
        size: u64,
    },
    /// Deletes a volume.
    DeleteVolume {
        /// Which.
        volume: VolumeId,
        /// As the caller named it, by which the call is known again; logs of older versions do not say.
        #[serde(default)]
        name: Option<String>,
    },
    /// The right to use a volume (R44).
    Attach {
        /// Which.
        volume: VolumeId,
        /// Whose.
        owner: String,
        /// Nobody else beside it.
        exclusive: bool,
        /// Does not write.
        read_only: bool,
    },
    /// Gives it back, after everything was answered.
    Release {
        /// Which.
        attachment: AttachmentId,
        /// In which life: another may have begun since. Logs of older versions name none, and mean any.
        #[serde(default)]
        session: Option<SessionId>,
    },
    /// Takes it away: over when every group refuses the old generation (R31).
    DetachForced {
        /// Which.
        attachment: AttachmentId,
    },
    /// A slice met rot: an event, for the operator.
    Rotten {
        /// Which.
        slice: SliceId,
        /// Since it told last.
        rot: Rot,
    },
    /// Groups that a slice leads found what an operator must hear of: events.
    Alarmed {
        /// Which.
        slice: SliceId,
        /// Since it told last.
        alarms: Vec<Raised>,
    },
    /// An operator takes what a drive holds as it is, in the groups of which it is the only copy in sync (R28).
    AcceptDamage {
        /// Which.
        drive: DriveId,
        /// The groups as the operator was told: what was damaged since is not accepted with them. Logs of older versions name none,
        /// and mean all.
        #[serde(default)]
        groups: Option<Vec<GroupId>>,
    },
    /// An operator gives up a drive that is gone for good (R28).
    Forget {
        /// Which.
        drive: DriveId,
        /// The groups of which it has the only complete copy, as the operator was told: others are not lost with them. Logs of older
        /// versions name none, and mean all.
        #[serde(default)]
        groups: Option<Vec<GroupId>>,
        /// The operator's word that nobody can reach it any more: no host is waited for.
        is_powered_off: bool,
    },
    /// A host uses no older map than that of a revision any more (R28).
    Passed {
        /// Whose.
        attachment: AttachmentId,
        /// In which life.
        session: SessionId,
        /// Which.
        revision: Revision,
    },
    /// A setting.
    SetDownOut {
        /// Milliseconds.
        ms: u64,
    },
}

impl Command {
    /// Whether only nodes ask it, many times a minute perhaps, and nobody asks them to.
    pub fn is_of_nodes(&self) -> bool {
        !matches!(
            self,
            Command::CreateVolume { .. }
                | Command::GrowVolume { .. }
                | Command::DeleteVolume { .. }
                | Command::Attach { .. }
                | Command::Release { .. }
                | Command::DetachForced { .. }
                | Command::AcceptDamage { .. }
                | Command::Forget { .. }
                | Command::SetDownOut { .. }
        )
    }
    /// Whether what it takes away does not come back: it is carried out once for one call, so the call has an id (R30).
    pub fn is_destructive(&self) -> bool {
        matches!(
            self,
            Command::DeleteVolume { .. }
                | Command::DetachForced { .. }
                | Command::AcceptDamage { .. }
                | Command::Forget { .. }
        )
    }
}

/// What a slice that leads groups found rotten on its drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Rot {
    /// Blocks whose data did not match their checksum, repaired from another copy (R26).
    pub repaired: u64,
    /// Chunks whose map could not be read, recovered whole from another copy (R26).
    pub restored: u64,
    /// Blocks that are intact on no copy: an [`Alarm`] by now, which names the group; logs of older versions count them here.
    pub lost: u64,
}

/// One thing that groups found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Raised {
    /// What.
    pub alarm: Alarm,
    /// Which groups, the first of them.
    pub groups: Vec<GroupId>,
    /// How many more groups.
    pub more: u64,
    /// In how many blocks, where they were counted.
    pub blocks: u64,
}

/// A drive, as its node opened it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Register {
    /// What is written on it.
    pub identity: DriveIdentity,
    /// Who serves it.
    pub node: NodeId,
    /// This opening.
    pub open: OpenId,
    /// The ids its superblock held before.
    pub opens: Vec<OpenId>,
    /// Where it is.
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
    /// Opened with a broken middle (S8).
    pub is_broken: bool,
}

/// One slice's part in one group, judged by the group's epoch.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Move {
    /// The group.
    pub group: GroupId,
    /// Another one voids it.
    pub epoch: Epoch,
    /// The slice.
    pub slice: SliceId,
}

/// What is answered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Done, or nothing to do.
    Done,
    /// The node's id.
    Node(NodeId),
    /// The drive's id; a stale one's floors count as zero.
    Registered {
        /// Its id.
        drive: DriveId,
        /// See R1.
        is_stale: bool,
    },
    /// The volume.
    Volume(VolumeId),
    /// The right was given.
    Attached {
        /// The attachment.
        attachment: AttachmentId,
        /// Its generation.
        generation: Generation,
        /// The session of this call.
        session: SessionId,
    },
    /// These groups.
    Groups(Vec<GroupId>),
    /// Not done.
    Refused(Refusal),
}

/// What kind of refusal it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RefusalKind {
    /// It does not exist.
    NotFound,
    /// Its name is taken.
    Exists,
    /// Somebody has it attached.
    Attached,
    /// It cannot be done as the cluster is now.
    Unable,
    /// It cannot be done yet: whoever asks again soon is told whether it can.
    Early,
    /// It makes no sense.
    Invalid,
}

/// Why something was not done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// What.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}
impl Refusal {
    /// A refusal without a hint.
    pub fn new(kind: RefusalKind, message: String) -> Refusal {
        Refusal { kind, message, hint: None }
    }
    /// With what to do about it.
    pub fn hint(mut self, hint: &str) -> Refusal {
        self.hint = Some(hint.into());
        self
    }
}
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
