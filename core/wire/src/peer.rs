//! Messages between two slices: one ordered stream a pair, both directions, all groups, both roles (L2).
use alloc::vec::Vec;
use sarsen_types::record::{BlockStack, Entry, Recover, Table, Write};
use sarsen_types::{AttachmentId, FamilyId, Generation, Mark, SessionId};
use sarsen_types::{
    BlockRange, Checksum, ChunkIndex, Epoch, GroupId, GroupState, Instant, ObjectId, RequestNote, Version,
};
use smallvec::SmallVec;

/// Versions by group; those of a usual turn without an allocation (L8).
pub type Acknowledged = SmallVec<[(GroupId, Version); 14]>;

/// What one slice says to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerMessage {
    /// A heartbeat (R3, L7). Goes to the head of the send queue (R43).
    Beat(Beat),
    /// Its echo. Goes to the head of the send queue.
    BeatAck(BeatAck),
    /// Writes durable here: one frame a turn (L2).
    Prepared(Acknowledged),
    /// What the sender grants the receiver's groups, cumulative per connection (R7, R43).
    Grant(Grant),
    /// About one group, in one epoch.
    Group(GroupMessage),
}

/// One heartbeat of a pair of slices, for all groups the sender leads and the receiver has a copy of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Beat {
    /// The sender's clock when it was sent; comes back in the echo (R3).
    pub sent: Instant,
    /// The sender's count of rounds; a `confirm` read waits for one that began after it arrived (R4).
    pub round: u64,
    /// Digest of the (group, epoch) the sender leads with the receiver ([`digest`]).
    pub digest: u64,
    /// The groups themselves: when they changed, or the last echo did not match. Empty otherwise.
    pub groups: Vec<(GroupId, Epoch)>,
    /// Floors that moved since the last echo, with the epoch each is of.
    pub floors: Vec<(GroupId, Epoch, Version)>,
}

/// The echo of a [`Beat`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BeatAck {
    /// `sent` of the heartbeat.
    pub sent: Instant,
    /// `round` of the heartbeat.
    pub round: u64,
    /// Whether the digest was that of the groups last listed; if not, the echo covers nothing and a list is wanted.
    pub matched: bool,
    /// Of the groups last listed those the receiver holds in another epoch: they lose the lease (R3).
    pub differ: Vec<GroupId>,
}

/// Cumulative since the connection began: what the receiver may have sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Grant {
    /// Prepares.
    pub prepares: u64,
    /// Blocks of data.
    pub blocks: u64,
    /// The copy has no more room for clients' data (S16): the primary answers ENOSPC.
    pub is_full: bool,
}

/// A message about one group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupMessage {
    /// The group.
    pub group: GroupId,
    /// The epoch the sender acts in; an older one than the receiver knows is refused (R5).
    pub epoch: Epoch,
    /// From a primary: all its versions at or below this are committed (R10). Zero from others.
    pub floor: Version,
    /// What.
    pub body: GroupBody,
}

/// Where a listing goes on.
pub type Cursor = (ObjectId, u16);

/// The kinds of group messages. Q asks, A answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GroupBody {
    /// First of an epoch to each copy: the group as metadata recorded it (R5).
    Assume(GroupState),
    /// Refused: the sender of this knows a higher epoch.
    Behind {
        /// The epoch it knows.
        known: Epoch,
    },
    /// An ordered write. Payload: its data blocks.
    Prepare {
        /// The write.
        write: Write,
        /// Ordered under a generation fenced since: copies accept it (R31).
        is_drain: bool,
    },
    /// Takeover: what do you hold above your floor? Answered once the epoch is durable (R12).
    TailQ,
    /// The copy's floor; and with it the word that it stopped as a primary of any lower epoch (R2).
    TailA {
        /// Its floor.
        floor: Version,
        /// Up to there it holds what was committed: one below another's floor lost its journal's end (R12).
        top: Version,
    },
    /// A page of the tail.
    TailPageQ {
        /// Blocks with an entry above this.
        above: Version,
        /// After this place; from the start when `None`.
        after: Option<Cursor>,
    },
    /// The page.
    TailPageA {
        /// The `after` it answers.
        after: Option<Cursor>,
        /// The blocks.
        blocks: Vec<BlockStack>,
        /// Whether there is no more.
        is_last: bool,
    },
    /// A page of the request records.
    TailNotesQ {
        /// Records to skip.
        skip: u32,
    },
    /// The page.
    TailNotesA {
        /// The `skip` it answers.
        skip: u32,
        /// Per attachment its generation and session; in the first page.
        sessions: Vec<(AttachmentId, Generation, SessionId)>,
        /// The marks; in the first page.
        marks: Vec<Mark>,
        /// The records.
        notes: Vec<TailNote>,
        /// Whether there is no more.
        is_last: bool,
    },
    /// Did you stop as a primary of every epoch below this one (R2)?
    StopQ,
    /// Yes, and this epoch is durable here.
    StopA,
    /// Blocks of exactly this version, for a takeover or a repair (R12, R26).
    FetchQ {
        /// Told back.
        token: u64,
        /// The object.
        object: ObjectId,
        /// The blocks.
        range: BlockRange,
        /// Their version.
        version: Version,
    },
    /// Payload: the blocks; or none, when they are not all here, intact, at that version.
    FetchA {
        /// Which question.
        token: u64,
        /// Seeds the checksums.
        family: FamilyId,
        /// Seeds the checksums.
        chunk: ChunkIndex,
        /// The first block; seeds the checksums.
        first: u16,
        /// The checksums; empty when there are none.
        checksums: Vec<Checksum>,
    },
    /// A join begins (R14).
    JoinQ {
        /// The join's epoch.
        since: Epoch,
    },
    /// The joiner's durable floor.
    JoinA {
        /// The join's epoch.
        since: Epoch,
        /// The floor.
        floor: Version,
        /// What it held when it was last in sync: below what the primary forgot, the floor says nothing (R18).
        top: Version,
    },
    /// A page of the objects whose `touched` is above `above` (R18).
    TouchedQ {
        /// The floor that is compared.
        above: Version,
        /// After this object.
        after: Option<ObjectId>,
    },
    /// The page.
    TouchedA {
        /// The `after` it answers.
        after: Option<ObjectId>,
        /// Objects with their `touched`.
        objects: Vec<(ObjectId, Version)>,
        /// Whether there is no more.
        is_last: bool,
    },
    /// The versions of an object's blocks at the joiner.
    VersionsQ {
        /// The object.
        object: ObjectId,
        /// Which sending of the object (R16).
        sending: u32,
    },
    /// One entry a run of blocks: (first block, entry), ascending, each up to the next.
    VersionsA {
        /// The object.
        object: ObjectId,
        /// Which sending.
        sending: u32,
        /// The runs. Checksums count: equal versions with different ones are an alarm (R26).
        runs: Vec<(u16, Entry)>,
    },
    /// Blocks of an object as the primary has committed them. Payload: the data entries' blocks.
    Recover {
        /// The blocks.
        recover: Recover,
        /// Which sending.
        sending: u32,
        /// Whether the object is whole with this.
        is_last: bool,
    },
    /// The object is durable at the joiner.
    RecoverA {
        /// The object.
        object: ObjectId,
        /// Which sending (R16).
        sending: u32,
    },
    /// The request records, at the end of a join (R21).
    Table {
        /// A page of them.
        table: Table,
        /// Which sending.
        sending: u32,
        /// Whether it is the last page.
        is_last: bool,
    },
    /// They are durable at the joiner.
    TableA {
        /// Which sending.
        sending: u32,
    },
    /// A copy cannot go on as it is: there is no space for what it was sent, or it opened anew and nobody compared it since.
    /// It leaves, or its join ends; then it joins.
    JoinFailed,
    /// A bump of a generation, to be made durable (R31).
    FenceQ {
        /// The attachment.
        attachment: AttachmentId,
        /// The generation from now on.
        generation: Generation,
    },
    /// It is durable here.
    FenceA {
        /// The attachment.
        attachment: AttachmentId,
        /// The generation.
        generation: Generation,
    },
}

/// A request record of a tail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TailNote {
    /// The request.
    pub note: RequestNote,
    /// The write that carried it, or voided it.
    pub version: Version,
    /// Whether it was voided.
    pub is_void: bool,
}

/// FNV-1a over the (group, epoch) pairs in ascending order of group: what [`Beat::digest`] holds.
pub fn digest(groups: impl Iterator<Item = (GroupId, Epoch)>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for (group, epoch) in groups {
        for byte in group.0.to_le_bytes().into_iter().chain(epoch.0.to_le_bytes()) {
            hash = (hash ^ byte as u64).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}
