//! What the control thread and the slices' threads say to each other: channels of values, no shared state.
use sarsen_control::command::{Raised, Rot};
use sarsen_types::{ClusterId, DriveId, NodeId, OpenId, Proposal, Revision, SliceId, View};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Where a slice of another drive is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerAddress {
    /// The node.
    pub node: NodeId,
    /// `ip:port` of its data port.
    pub data: String,
    /// Its unix socket, when it runs on this kernel.
    pub unix: Option<String>,
    /// Whether it runs on this kernel (equal boot ids, R4).
    pub same_kernel: bool,
}

/// To a slice's thread.
#[derive(Debug)]
pub enum ToSlice {
    /// The drive was registered (R1).
    Registered {
        /// Which slice it is from now on.
        id: SliceId,
        /// The drive's open id, for hellos.
        open: OpenId,
        /// The metadata after the registration.
        view: Arc<View>,
        /// Floors count as zero.
        is_stale: bool,
    },
    /// The metadata moved.
    View(Arc<View>),
    /// Where drives are reached.
    Peers(Arc<BTreeMap<DriveId, PeerAddress>>),
    /// A connection whose hello was read and proven by the acceptor; bytes read past it travel along.
    Accepted {
        /// The socket.
        socket: OwnedFd,
        /// Its hello, as bytes.
        hello: Vec<u8>,
        /// What was read after it.
        rest: Vec<u8>,
    },
    /// Stop in service: hand over, then end the thread.
    Stop,
    /// The drive is somebody else's now: end the thread at once, and write nothing more.
    Abandon,
}

/// From a slice's thread.
#[derive(Debug)]
pub enum FromSlice {
    /// For the metadata.
    Propose(Proposal),
    /// A stale drive's floors durably count as zero now in this slice (R1): once all slices of the drive said so, a command
    /// clears the drive's stale mark in metadata. Until then every registration of the drive answers `is_stale`.
    Distrusted {
        /// Whose.
        slice: SliceId,
    },
    /// What was deleted up to this revision is durably dropped in this slice (R20).
    Dropped {
        /// Whose.
        slice: SliceId,
        /// Up to which.
        revision: Revision,
    },
    /// Space, now and then (at most once a second).
    Space {
        /// Whose.
        slice: SliceId,
        /// Blocks of data the slice can hold.
        total_blocks: u64,
        /// Of them used.
        used_blocks: u64,
        /// It takes no more data of clients (S16).
        is_full: bool,
    },
    /// What it found rotten since it said so last (at most once in five seconds).
    Rotten {
        /// Whose.
        slice: SliceId,
        /// How much.
        rot: Rot,
    },
    /// What an operator must hear of its groups, since it said so last (at most once in five seconds).
    Alarmed {
        /// Whose.
        slice: SliceId,
        /// What.
        alarms: Vec<Raised>,
    },
    /// Something an operator should read, in the log.
    Report {
        /// Whose.
        slice: SliceId,
        /// What.
        text: String,
    },
    /// The drive ended (S9).
    Failed {
        /// Whose.
        slice: SliceId,
        /// Why.
        why: String,
    },
    /// The thread ended.
    Stopped {
        /// Whose.
        slice: SliceId,
    },
}

/// What every data connection of a node proves and names.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The cluster key; `None` only in `sarsen dev`, on loopback.
    pub key: Option<[u8; 32]>,
    /// The kernel (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
}
