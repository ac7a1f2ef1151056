//! What a store is asked and what it reports.
use sarsen_buffer::Buf;
use sarsen_types::record::{BlockStack, Entry};
use sarsen_types::{BlockRange, ChunkIndex, FamilyId, GroupId, LayerId, ObjectId, Version};
use smallvec::SmallVec;

/// What a store did since it was opened, beside what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Checkpoints made.
    pub checkpoints: u64,
    /// Blocks that moved out of the journal (S10).
    pub moved: u64,
    /// Runs written (S13).
    pub runs: u64,
    /// Lists of runs merged into leaves.
    pub merged_lists: u64,
    /// Blocks of data that were not what the map says of them.
    pub damaged: u64,
    /// The same, where the map named them no more when the read ended: they rotted, or were written again while they were read.
    pub outrun: u64,
}

/// Names a request to the store; chosen by who asks, told back in its event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

/// Which entry of a block is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// The highest at or below the group's floor, or whose version was named by `Store::commit` (§5.2: only what is
    /// committed). It is judged when the map is at hand, not when the read was asked.
    Visible,
    /// The one of exactly this version; any other is `Missing`.
    Exact(Version),
}

/// A read of at most 64 blocks of one chunk.
#[derive(Clone, Debug)]
pub struct ReadSpec {
    /// The group.
    pub group: GroupId,
    /// The chain of layers, head first: an absent entry asks the next.
    pub layers: SmallVec<[LayerId; 2]>,
    /// Seeds the checksums.
    pub family: FamilyId,
    /// The chunk.
    pub chunk: ChunkIndex,
    /// The blocks.
    pub range: BlockRange,
    /// Which entries.
    pub which: Which,
}

/// What was read: verified.
#[derive(Clone, Debug)]
pub struct ReadData {
    /// One a block. Never `Damaged`.
    pub entries: SmallVec<[Entry; 1]>,
    /// The blocks whose entries are `Data`, in order; `None` when there are none.
    pub data: Option<Buf>,
}

/// Why a read gives nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadError {
    /// These entries are damaged: noticed now or before. (layer, block, entry).
    Corrupt(Vec<(LayerId, u16, Entry)>),
    /// A map page of this object is unreadable: it is refused and recovered whole (R26).
    Unreadable(ObjectId),
    /// An exact version that is not here.
    Missing,
}

/// What came of a request.
#[derive(Debug)]
pub enum Event {
    /// A record and its data are durable, and all records before it (S7). In the order they were asked.
    Persisted(Token),
    /// A record could not be taken: no space (only `Recover` and writes beyond what was granted).
    NoSpace(Token),
    /// A read ended.
    Read(Token, Result<ReadData, ReadError>),
    /// Which blocks hold data, as runs; also where a read would find them damaged.
    Status(Token, Result<Vec<BlockRange>, ReadError>),
    /// A page of blocks with entries above a version.
    Stacks {
        /// Whose.
        token: Token,
        /// The blocks, by object and block.
        blocks: Vec<BlockStack>,
        /// Whether there is no more.
        is_last: bool,
    },
    /// A page of objects with their `touched`.
    Touched {
        /// Whose.
        token: Token,
        /// The objects, ascending.
        objects: Vec<(ObjectId, Version)>,
        /// Whether there is no more.
        is_last: bool,
    },
    /// All entries of an object: (first block, entry), ascending, each up to the next.
    Entries {
        /// Whose.
        token: Token,
        /// `touched` of the object; zero when it is not known here.
        touched: Version,
        /// The runs; `Err` when a map page is unreadable.
        runs: Result<Vec<(u16, Entry)>, ReadError>,
    },
    /// Something an operator should read.
    Noticed(String),
    /// The drive ended (S9): nothing more is answered.
    Failed(String),
}
