//! What is to happen when the store answers.
use crate::requests::Op;
use alloc::boxed::Box;
use sarsen_types::{
    AttachmentId, BlockRange, ChunkIndex, Epoch, FamilyId, Generation, GroupId, LayerId, ObjectId, SliceId,
    Version,
};
use sarsen_wire::peer::Cursor;
use smallvec::SmallVec;

/// See the module. Each names its group; answers for an epoch that is over are dropped where they would count.
#[derive(Debug)]
pub enum Wait<P> {
    /// Our own ordered write.
    Ordered {
        /// The group.
        group: GroupId,
        /// Its version, which names the epoch.
        version: Version,
    },
    /// A Prepare, as a copy.
    Prepared {
        /// The group.
        group: GroupId,
        /// Its version.
        version: Version,
        /// The primary.
        to: SliceId,
        /// The stream it came on.
        stream: u64,
        /// Blocks it holds of what was granted.
        blocks: u64,
    },
    /// An epoch is durable; then this.
    Promised {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
        /// What follows.
        then: Then,
    },
    /// The last record of a recovered object.
    Recovered {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
        /// The primary.
        to: SliceId,
        /// The object.
        object: ObjectId,
        /// Which sending.
        sending: u32,
        /// The stream it came on, and the blocks it holds of what was granted there; without blocks it is the last, to be told.
        granted: (u64, Option<u64>),
    },
    /// A page of the request records.
    Tabled {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
        /// The primary.
        to: SliceId,
        /// Which sending.
        sending: u32,
        /// Whether to tell.
        is_last: bool,
    },
    /// Floors count as zero, durably.
    Distrusted,
    /// A layer is dropped from a group.
    Dropped,
    /// Nothing follows.
    Nothing,
    /// A client's read.
    Read {
        /// The group.
        group: GroupId,
        /// The epoch it was begun in.
        epoch: Epoch,
        /// Which of the group's reads.
        read: u64,
    },
    /// A client's part-block write is being merged.
    Merge {
        /// The group.
        group: GroupId,
        /// The epoch it was begun in.
        epoch: Epoch,
        /// Which of the waiting operations.
        op: u64,
    },
    /// Our own tail.
    OwnStacks {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
        /// Entries above this.
        above: Version,
    },
    /// A page of the tail for a new primary.
    PeerStacks {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
        /// The primary.
        to: SliceId,
        /// The page.
        after: Option<Cursor>,
    },
    /// The winner's blocks, read here, for a takeover's write.
    Winner {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
        /// Which of the takeover's writes.
        token: u64,
    },
    /// Blocks that another slice asked for.
    Fetch {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
        /// Who.
        to: SliceId,
        /// Its token.
        token: u64,
        /// What seeds their checksums: family, chunk, first block.
        place: (FamilyId, ChunkIndex, u16),
    },
    /// Our own touched objects, for a join.
    OwnTouched {
        /// The group.
        group: GroupId,
        /// The epoch of the join.
        since: Epoch,
        /// The joiner.
        joiner: SliceId,
    },
    /// Touched objects for the primary.
    PeerTouched {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
        /// The primary.
        to: SliceId,
        /// The page.
        after: Option<ObjectId>,
    },
    /// Our own entries of an object, for a join.
    OwnEntries {
        /// The group.
        group: GroupId,
        /// The joiner.
        joiner: SliceId,
        /// The object.
        object: ObjectId,
        /// Which sending.
        sending: u32,
    },
    /// Entries of an object for the primary.
    PeerEntries {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
        /// The primary.
        to: SliceId,
        /// The object.
        object: ObjectId,
        /// Which sending.
        sending: u32,
    },
    /// Blocks to be sent to a joiner.
    RecoverRead {
        /// The group.
        group: GroupId,
        /// The joiner.
        joiner: SliceId,
        /// The object.
        object: ObjectId,
        /// Which sending.
        sending: u32,
        /// The blocks.
        range: BlockRange,
        /// The stream on which they were granted.
        stream: u64,
    },
    /// A repaired block is durable.
    Repaired {
        /// The group.
        group: GroupId,
        /// The block's repair.
        token: u64,
    },
    /// A generation is durable here; tell this slice, if any.
    Fenced {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
        /// Who asked.
        to: Option<SliceId>,
        /// The attachment.
        attachment: AttachmentId,
        /// The generation.
        generation: Generation,
    },
    /// A client's question about which blocks hold data.
    Status {
        /// The question.
        op: Box<Op<P>>,
        /// The layers asked.
        layers: SmallVec<[LayerId; 2]>,
        /// The family.
        family: FamilyId,
    },
}

/// What follows a durable promise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// Our own takeover counts our floor.
    Collect,
    /// The new primary gets our floor.
    TailA(SliceId),
    /// The new primary learns that we stopped.
    StopA(SliceId),
    /// The primary gets our floor for the join.
    JoinA(SliceId, Epoch),
}
