//! What one journal record says (S11): the logical content, of which the store adds places.
//!
//! A record is made by `replication`, journaled and replayed by `store`, and applied to the [`crate::Ledger`] by both.
use crate::geometry::{BlockRange, ObjectId};
use crate::ids::{AttachmentId, FamilyId, Generation, GroupId, LayerId, SessionId};
use crate::request::{Mark, RequestId, RequestNote};
use crate::version::{Checksum, Epoch, Version};
use alloc::vec::Vec;
use smallvec::SmallVec;

/// What a copy makes durable in one step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Whose.
    pub group: GroupId,
    /// The copy refuses epochs below this from then on (R5).
    pub promise: Epoch,
    /// What happens.
    pub body: Body,
}

/// The kinds of records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// Nothing but the promise of the epoch.
    Promise,
    /// The group was assigned to this slice anew: everything held of it before counts for nothing (R20).
    Assign {
        /// The number of the assignment.
        assignment: u64,
    },
    /// An ordered write or discard.
    Write(Write),
    /// Blocks of an object as the primary has them, for a joining copy (R14). At most a piece.
    Recover(Recover),
    /// The request records, given at the end of a join (R15, R21).
    Table(Table),
    /// A join began: an earlier promotion point counts no more (R15).
    JoinBegan,
    /// The same version of one block, intact again (R26).
    Repair {
        /// The object.
        object: ObjectId,
        /// Its family, for the checksum.
        family: FamilyId,
        /// The block.
        block: u16,
        /// The version that must still be the entry's.
        version: Version,
        /// Its checksum.
        checksum: Checksum,
    },
    /// The floor counts as zero from here on: the drive is stale (R1) or its journal has a broken middle (S8).
    /// Replay takes it in order: floors found later in the journal count again.
    Distrust,
    /// Generations below this are refused (R31).
    Fence {
        /// The attachment.
        attachment: AttachmentId,
        /// The generation from now on.
        generation: Generation,
    },
    /// An attachment ended, and its id is never used again: what is remembered of it goes (R41).
    Forget {
        /// The attachment.
        attachment: AttachmentId,
    },
    /// A confirmed deletion: the layer's objects in this group go (R20).
    DropLayer {
        /// The layer.
        layer: LayerId,
    },
    /// A confirmed deletion: the group's copy here goes, its ledger with it, but not the promise (R20).
    DropGroup,
}

/// What the blocks of a write hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// Zeroes: a versioned entry without data (R23).
    Zero,
    /// Data, one checksum a block; the bytes travel beside the record.
    Data(SmallVec<[Checksum; 4]>),
}

/// An ordered write: `Prepare` on the wire, one record in the journal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// The order.
    pub version: Version,
    /// The object.
    pub object: ObjectId,
    /// The object's family, which seeds its checksums.
    pub family: FamilyId,
    /// The blocks; at most a piece for data, at most a chunk for zeroes.
    pub range: BlockRange,
    /// What they hold.
    pub content: Content,
    /// The requests it carries out; more than one only from a takeover.
    pub requests: SmallVec<[RequestNote; 1]>,
    /// What clients need no more (R21).
    pub marks: SmallVec<[Mark; 1]>,
    /// Of a takeover (R12): the requests not found whole, and the sign that it is a rewrite.
    pub takeover: Option<Vec<RequestNote>>,
}

/// One entry of a block, of a kind that travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Never written, or vanished (R23).
    Absent,
    /// Zeroes at a version.
    Zero(Version),
    /// Data at a version. The bytes travel beside it, or not at all.
    Data(Version, Checksum),
    /// Data at a version that do not match their checksum (S8).
    Damaged(Version, Checksum),
}

impl Entry {
    /// Its version; zero when absent.
    pub fn version(self) -> Version {
        match self {
            Entry::Absent => Version::ZERO,
            Entry::Zero(v) | Entry::Data(v, _) | Entry::Damaged(v, _) => v,
        }
    }
    /// Whether a read of it gives an answer.
    pub fn is_intact(self) -> bool {
        !matches!(self, Entry::Damaged(..))
    }
    /// Whether the two cannot both be what was written at their version: an alarm, and not resolved by guess (R26).
    pub fn contradicts(self, other: Entry) -> bool {
        self.version() == other.version() && self.is_intact() && other.is_intact() && self != other
    }
    /// Whether it reads as zeroes in this layer: absent and zero are equal wherever one may become the other (R23).
    pub fn is_empty(self) -> bool {
        matches!(self, Entry::Absent | Entry::Zero(_))
    }
}

/// Blocks of an object as the primary has committed them (R14).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recover {
    /// The object.
    pub object: ObjectId,
    /// Its family.
    pub family: FamilyId,
    /// The epoch of the join. Every entry below it, also one that lies under a newer one, is replaced by what is given,
    /// absence included; entries at or above it stay; of two of equal version the given one stays, unless it alone is damaged.
    /// The given one takes its place in the order of versions.
    pub since: Epoch,
    /// The first block; the entries are of the blocks from there, at most a piece. Payload: the data entries' blocks, in order.
    pub first: u16,
    /// One a block; `Damaged` only where a copy restores an object from one that has it damaged (R26).
    pub entries: Vec<Entry>,
    /// The primary's `touched` of the object (R18).
    pub touched: Version,
}

impl Recover {
    /// The blocks it is about.
    pub fn range(&self) -> BlockRange {
        BlockRange::new(self.first, self.entries.len() as u16)
    }
}

/// The request records of a group, for a joining copy (R15, R21).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Table {
    /// The epoch of the join: records of lower versions are replaced.
    pub since: Epoch,
    /// Whether this page is the first: it replaces; later ones add.
    pub is_first: bool,
    /// Per attachment its generation and session.
    pub sessions: Vec<(AttachmentId, Generation, SessionId)>,
    /// The marks.
    pub marks: Vec<Mark>,
    /// The records with the versions that carried them.
    pub requests: Vec<(RequestNote, Version)>,
    /// What to take once in-sync; in the last page only.
    pub point: Option<Point>,
}

/// What a joiner takes when it is promoted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Point {
    /// The floor (R15).
    pub floor: Version,
    /// The primary may have forgotten what was touched at or below it, and so knows the joiner no more of it (R18).
    pub forgotten: Version,
}

impl Write {
    /// Blocks of payload that travel beside it.
    pub fn data_blocks(&self) -> u16 {
        match &self.content {
            Content::Zero => 0,
            Content::Data(_) => self.range.count,
        }
    }
    /// The requests a takeover did not find whole.
    pub fn voided(&self) -> &[RequestNote] {
        self.takeover.as_deref().unwrap_or(&[])
    }
    /// Whether it carries `id`.
    pub fn carries(&self, id: &RequestId) -> bool {
        self.requests.iter().any(|r| r.id == *id)
    }
}

impl Record {
    /// Blocks of payload that travel beside it.
    pub fn data_blocks(&self) -> u16 {
        match &self.body {
            Body::Write(w) => w.data_blocks(),
            Body::Recover(r) => r.entries.iter().filter(|e| matches!(e, Entry::Data(..))).count() as u16,
            Body::Repair { .. } => 1,
            _ => 0,
        }
    }
}

/// A block with all that is held of it, highest version first, down to the first at or below the floor that was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockStack {
    /// The object.
    pub object: ObjectId,
    /// Its family.
    pub family: FamilyId,
    /// The block.
    pub block: u16,
    /// The entries.
    pub stack: SmallVec<[Entry; 2]>,
}
