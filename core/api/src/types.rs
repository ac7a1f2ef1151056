//! What goes over the REST API, as JSON. Sizes are bytes, times milliseconds since 1970.
use serde::{Deserialize, Serialize};
use std::fmt;

/// How the cluster is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Every node and drive is up and every group has all its copies in sync.
    Ok,
    /// All volumes can be read and written.
    Degraded,
    /// Some volumes cannot be read or written.
    Unavailable,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Health::Ok => "ok",
            Health::Degraded => "degraded",
            Health::Unavailable => "unavailable",
        })
    }
}

/// The cluster on one screen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// How it is.
    pub health: Health,
    /// Why it is not ok.
    pub reasons: Vec<String>,
    /// The cluster's id, 32 hexadecimal digits.
    pub cluster: String,
    /// The revision this is of.
    pub revision: u64,
    /// The node that leads the metadata.
    pub leader: Option<u32>,
    /// Nodes.
    pub nodes: u32,
    /// Nodes that are up.
    pub nodes_up: u32,
    /// Drives.
    pub drives: u32,
    /// Drives that are up.
    pub drives_up: u32,
    /// Groups.
    pub groups: u32,
    /// Groups with all their copies in sync.
    pub groups_whole: u32,
    /// Volumes.
    pub volumes: u32,
    /// Bytes that drives can hold, copies counted each.
    pub total_bytes: u64,
    /// Bytes of them used.
    pub used_bytes: u64,
}

/// A node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: u32,
    /// The URL of its API.
    pub api: String,
    /// `ip:port` of its data port.
    pub data: String,
    /// Whether it is up, as the leader sees it.
    pub is_up: bool,
    /// Whether it votes on metadata.
    pub is_voter: bool,
    /// Whether it leads the metadata.
    pub is_leader: bool,
    /// Its drives.
    pub drives: Vec<u32>,
}

/// A drive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Drive {
    /// Its id.
    pub id: u32,
    /// Its identity, 32 hexadecimal digits, written on it.
    pub identity: String,
    /// The node that serves it.
    pub node: u32,
    /// Where it is on that node.
    pub path: String,
    /// `nvme`, `ssd` or `hdd`.
    pub class: String,
    /// Slices.
    pub slices: u8,
    /// Bytes of the file or device.
    pub size: u64,
    /// Bytes it can hold.
    pub total_bytes: u64,
    /// Bytes of them used.
    pub used_bytes: u64,
    /// Whether it is up.
    pub is_up: bool,
    /// Whether what it holds is older than what it once acknowledged (R1).
    pub is_stale: bool,
    /// Groups of which it has the only copy in sync, and may lack something: they wait until that is accepted (R28).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged_groups: Vec<u32>,
    /// Groups of which nobody else has a complete copy: what giving it up as lost loses (R28).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sole_groups: Vec<u32>,
    /// It was given up as lost, and is forgotten once no host can use it any more (R28).
    #[serde(default)]
    pub is_given_up: bool,
    /// Hosts that are waited for then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<String>,
    /// Why it failed, when it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// A drive is given up as lost.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ForgetDrive {
    /// The groups that are lost with it, as they were told: see [`Drive::sole_groups`].
    #[serde(default)]
    pub groups: Vec<u32>,
    /// The operator's word that nobody can reach it any more: no host is waited for.
    #[serde(default)]
    pub powered_off: bool,
}

/// An operator takes what a drive holds of these groups as it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AcceptDamage {
    /// As they were told: see [`Drive::damaged_groups`].
    pub groups: Vec<u32>,
}

/// What an operator accepted of a drive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Accepted {
    /// Groups that are served as the drive has them.
    pub groups: Vec<u32>,
}

/// A placement group. Slices are written `drive.index`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Group {
    /// Its id.
    pub id: u32,
    /// The policy it is of.
    pub policy: String,
    /// Its epoch.
    pub epoch: u32,
    /// Who leads it.
    pub primary: String,
    /// Copies that hold every answered write.
    pub in_sync: Vec<String>,
    /// Copies being brought up to date.
    pub joining: Vec<String>,
    /// All slices it is assigned to.
    pub members: Vec<String>,
    /// Copies that must be in sync for writes.
    pub min_copies: u8,
}

/// A set of drives.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its drives.
    pub drives: Vec<u32>,
}

/// How volumes are stored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// The pool of its copies.
    pub pool: String,
    /// Copies.
    pub copies: u8,
    /// Copies that must be in sync for writes.
    pub min_copies: u8,
    /// Groups; 0 before its first volume.
    pub groups: u32,
}

/// A volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Volume {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// How it is stored.
    pub policy: String,
    /// Who uses it.
    pub attachments: Vec<Attachment>,
}

/// Makes a volume. Again with the same name and size it answers the one there is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CreateVolume {
    /// Its name: letters, digits, `.`, `_`, `-`; at most 128.
    pub name: String,
    /// Bytes; a multiple of 4,096.
    pub size: u64,
    /// How it is stored; `default` when not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// Grows a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GrowVolume {
    /// Bytes; not below what it has.
    pub size: u64,
}

/// The right of one user to a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attachment {
    /// Its id.
    pub id: u64,
    /// The volume's id.
    pub volume_id: u64,
    /// The volume's name.
    pub volume: String,
    /// Who has it, in words of their own (`host:/path/of.sock`).
    pub owner: String,
    /// Requests of lower generations are refused (R31).
    pub generation: u32,
    /// The newest session.
    pub session: u64,
    /// Whether nobody else may have the volume beside it.
    pub exclusive: bool,
    /// Whether it may not write.
    pub read_only: bool,
    /// Whether a forced detach waits for groups to fence it (R31).
    pub is_detaching: bool,
}

/// Asks for the right to use a volume. The same owner gets its attachment again, with a new session (R44).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attach {
    /// Who, in words that stay the same over a restart and name the place (`host:/path/of.sock`).
    pub owner: String,
    /// Nobody else may have the volume beside it.
    #[serde(default = "yes")]
    pub exclusive: bool,
    /// It will not write.
    #[serde(default)]
    pub read_only: bool,
}
fn yes() -> bool {
    true
}

/// The right to use a volume was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attached {
    /// The attachment.
    pub id: u64,
    /// Its generation.
    pub generation: u32,
    /// The session that was given to this call.
    pub session: u64,
}

/// Ends an attachment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Detach {
    /// The session that is ended, as it was listed: a newer one goes on. Not asked for with `force`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<u64>,
    /// Without its owner: ends when every group refuses its requests (R31).
    #[serde(default)]
    pub force: bool,
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Its number; grows.
    pub number: u64,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    pub text: String,
}

/// What can be set.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Settings {
    /// Seconds after which a copy out of sync is replaced by another drive (R19).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_out_seconds: Option<u64>,
}
