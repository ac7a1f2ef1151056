//! What goes into a slice and what comes out: the whole surface that a node's thread and the simulator share.
use sarsen_buffer::Buf;
use sarsen_replication::Memory;
use sarsen_types::{Alarm, GroupId, Instant, Proposal, Revision, SliceId, View};
use sarsen_wire::client::{ClientReply, ClientRequest, Greeting};
use sarsen_wire::peer::PeerMessage;
use std::sync::Arc;

/// A client's connection, as the caller numbers it; a number is not used twice in one life of the slice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The drive's registration was accepted (R1): before it the slice answers nothing. `view` is confirmed by the leader.
    Registered {
        /// The metadata after the registration.
        view: Arc<View>,
        /// The drive is stale: its floors count as zero (R1, R13).
        is_stale: bool,
    },
    /// The metadata moved. An older view than the one known is ignored.
    Learned(Arc<View>),
    /// An ordered stream to another slice exists. Replaces the one before, whose `PeerDown` need not come.
    PeerUp {
        /// The other end.
        slice: SliceId,
        /// Whether it runs on the same kernel (equal boot ids, R4).
        same_kernel: bool,
    },
    /// The stream broke: what was in flight on it may be lost.
    PeerDown {
        /// The other end.
        slice: SliceId,
    },
    /// From another slice. The payload's checksums are not verified yet.
    Peer {
        /// Who.
        from: SliceId,
        /// What.
        message: PeerMessage,
        /// Its blocks.
        payload: Option<Buf>,
    },
    /// A client's queue connected (its hello was proven).
    ClientUp {
        /// Its connection.
        conn: ConnId,
        /// Who it says it is.
        greeting: Greeting,
    },
    /// The connection ended; its unprocessed requests are dropped.
    ClientDown {
        /// Which.
        conn: ConnId,
    },
    /// A request.
    Client {
        /// On which connection.
        conn: ConnId,
        /// What.
        request: ClientRequest,
        /// Its blocks.
        payload: Option<Buf>,
    },
}

/// What is to be done.
#[derive(Debug)]
pub enum Output {
    /// To another slice, in order. Dropped by the caller when there is no stream.
    Send {
        /// To whom.
        to: SliceId,
        /// What.
        message: PeerMessage,
        /// Its blocks.
        payload: Option<Buf>,
        /// Heartbeats go to the head of the queue (R43).
        is_urgent: bool,
    },
    /// To a client. Dropped by the caller when the connection is gone.
    Reply {
        /// On which connection.
        conn: ConnId,
        /// What.
        reply: ClientReply,
        /// Its blocks.
        payload: Option<Buf>,
    },
    /// What came from this slice did not match its checksums: its stream is to be made again.
    Hangup {
        /// The other end.
        slice: SliceId,
    },
    /// To the metadata; the outcome is seen in the next view, or never (R6).
    Propose(Proposal),
    /// The drive is stale and its floors now durably count as zero: metadata need not call it stale any more (R1).
    Distrusted,
    /// What was deleted up to this revision is durably dropped (R20).
    Dropped(Revision),
    /// Something an operator should read, in the log.
    Report(String),
    /// Something an operator must hear of.
    Alarm {
        /// Of which group.
        group: GroupId,
        /// What.
        alarm: Alarm,
        /// In how many blocks, where they were counted.
        blocks: u64,
    },
    /// The drive ended (S9): its groups are to be told by dropping the slice; the process goes on without it.
    Failed(String),
}

/// Reads under lease: by this clock alone, or after a round of heartbeats (R4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeaseMode {
    /// By the clock.
    Clock,
    /// By a round that began after the read arrived.
    Confirm,
}

/// What does not change in a slice's life.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who it is.
    pub id: SliceId,
    /// How reads are leased.
    pub lease: LeaseMode,
    /// When it was started, by its own clock (R2: a wait after a start never ends early).
    pub started: Instant,
    /// What it may keep of others' data in memory (S4).
    pub memory: Memory,
    /// Writes of one epoch of a group after which another epoch is asked for: [`sarsen_types::limits::EPOCH_WRITES`], fewer in tests.
    pub epoch_writes: u64,
}
