//! Messages between a driver's queue and a slice.
use alloc::vec::Vec;
use sarsen_types::{
    AttachmentId, BlockRange, Checksum, ChunkIndex, Duration, Epoch, Generation, GroupId, LayerId, RequestId,
    Revision, SessionId, SliceId, VolumeId,
};
use smallvec::SmallVec;

/// A request to the primary of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientRequest {
    /// The group of the chunk (R38).
    pub group: GroupId,
    /// The metadata revision its sender knows; the chain of layers is that revision's (R39).
    pub revision: Revision,
    /// Who asks, and which request it is (R21).
    pub id: RequestId,
    /// `answered_below` for (session, queue) in this group (R21).
    pub answered_below: u64,
    /// The volume.
    pub volume: VolumeId,
    /// Its head layer.
    pub layer: LayerId,
    /// The chunk.
    pub chunk: ChunkIndex,
    /// What.
    pub op: ClientOp,
}

/// The kinds of requests. Offsets and lengths are bytes inside the chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientOp {
    /// The session greets the slice (D2): answered once a lower one can do nothing here any more.
    Greet,
    /// Payload: the bytes, laid out as whole blocks: the first byte at `offset % 4096` of the first block.
    Write {
        /// Where in the chunk, in bytes.
        offset: u32,
        /// How many bytes; the blocks touched are at most a piece.
        len: u32,
        /// Of each block that is written whole its checksum (S2); of a part of one the CRC of the bytes written, unseeded.
        checksums: SmallVec<[Checksum; 4]>,
    },
    /// Zeroes; whole blocks become zero entries, partial ones are merged.
    Zero {
        /// Where in the chunk, in bytes.
        offset: u32,
        /// How many bytes.
        len: u32,
    },
    /// Whole blocks.
    Read {
        /// Which; at most a piece.
        range: BlockRange,
    },
    /// Which blocks of the chunk hold data.
    Status {
        /// Which.
        range: BlockRange,
    },
}

impl ClientOp {
    /// Whether it changes blocks.
    pub fn is_write(&self) -> bool {
        matches!(self, ClientOp::Write { .. } | ClientOp::Zero { .. })
    }
    /// The blocks it touches; none for a greeting.
    pub fn range(&self) -> Option<BlockRange> {
        match *self {
            ClientOp::Greet => None,
            ClientOp::Write { offset, len, .. } | ClientOp::Zero { offset, len } => {
                Some(BlockRange::covering(offset, len))
            }
            ClientOp::Read { range } | ClientOp::Status { range } => Some(range),
        }
    }
}

/// The answer to a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientReply {
    /// Which (session and queue are the connection's).
    pub number: u64,
    /// Which piece of it.
    pub piece: u16,
    /// The group that answers.
    pub group: GroupId,
    /// What.
    pub result: ClientResult,
}

/// The kinds of answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientResult {
    /// It took effect, on every in-sync copy.
    Done,
    /// Payload: the blocks that hold data, in order. Blocks not in `present` read as zeroes.
    Data {
        /// Bit per block of the range, from the lowest.
        present: u64,
        /// The checksums of the blocks that hold data.
        checksums: SmallVec<[Checksum; 4]>,
    },
    /// Runs that hold data, ascending.
    Status {
        /// The runs.
        data: Vec<BlockRange>,
    },
    /// Ask that slice; `epoch` tells which of two such answers is newer (R40).
    NotPrimary {
        /// The group's epoch here.
        epoch: Epoch,
        /// Its primary.
        primary: SliceId,
    },
    /// Not now (R40).
    Retry {
        /// When to come again.
        after: Duration,
    },
    /// The sender's chain of layers is old (R39, R32).
    Stale {
        /// Know at least this revision first.
        revision: Revision,
    },
    /// A number below the mark, without a record: it was not executed and never will be. Send it under a new one (R21).
    BelowMark,
    /// Refused for good.
    Refused(Refusal),
    /// The pool is full (S16).
    NoSpace,
    /// No copy has these blocks intact.
    Corrupt {
        /// Which.
        range: BlockRange,
    },
}

/// Why a request is refused for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// A higher session of the attachment is known (R21).
    OldSession,
    /// The attachment was fenced (R31) or detached.
    OldGeneration,
    /// The attachment, volume or layer is not known at the newest revision.
    Unknown,
    /// The attachment is read-only.
    ReadOnly,
    /// The request makes no sense: out of bounds, too long, a checksum that does not match.
    Malformed,
}

/// Who a queue belongs to: the first message of a client connection after the hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Greeting {
    /// The attachment.
    pub attachment: AttachmentId,
    /// Its generation.
    pub generation: Generation,
    /// The session.
    pub session: SessionId,
}
