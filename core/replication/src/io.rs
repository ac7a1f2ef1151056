//! What goes into the machine and what comes out. Inputs are past participles, outputs imperatives.
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use sarsen_types::record::{BlockStack, Entry};
use sarsen_types::{
    Alarm, BlockRange, Checksum, ChunkIndex, FamilyId, GroupId, LayerId, ObjectId, Proposal, Record,
    Revision, SliceId, Version, View,
};
use sarsen_wire::client::{ClientReply, ClientRequest, Greeting};
use sarsen_wire::peer::PeerMessage;
use smallvec::SmallVec;

/// Names something asked of the store; told back in its answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

/// A client's connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// What happened. `P` is a payload: a handle to whole blocks that the machine never looks into.
#[derive(Debug)]
pub enum Input<P> {
    /// The drive's registration was accepted (R1).
    Registered {
        /// The metadata, confirmed by the leader.
        view: Arc<View>,
        /// The drive is stale: its floors count as zero.
        is_stale: bool,
    },
    /// The metadata moved.
    Learned(Arc<View>),
    /// An ordered stream to another slice exists.
    PeerUp {
        /// The other end.
        slice: SliceId,
        /// Whether it runs on the same kernel (R4).
        same_kernel: bool,
    },
    /// It broke.
    PeerDown {
        /// The other end.
        slice: SliceId,
    },
    /// From another slice; the payload was verified.
    Peer {
        /// Who.
        from: SliceId,
        /// What.
        message: PeerMessage,
        /// Its blocks.
        payload: Option<P>,
    },
    /// A client's queue connected.
    ClientUp {
        /// Its connection.
        conn: ConnId,
        /// Who it is.
        greeting: Greeting,
    },
    /// It went.
    ClientDown {
        /// Its connection.
        conn: ConnId,
    },
    /// A request; the payload was verified.
    Client {
        /// On which connection.
        conn: ConnId,
        /// What.
        request: ClientRequest,
        /// Its blocks.
        payload: Option<P>,
    },
    /// A record is durable, with all before it (S7).
    Persisted(Token),
    /// A record was not taken for lack of space.
    NoSpace(Token),
    /// A read ended.
    ReadDone(Token, Result<Blocks<P>, ReadFailed>),
    /// The blocks a part-block write becomes.
    Merged(Token, Result<(P, SmallVec<[Checksum; 4]>), ReadFailed>),
    /// A page of a tail.
    Stacks(Token, Vec<BlockStack>, bool),
    /// A page of touched objects.
    Touched(Token, Vec<(ObjectId, Version)>, bool),
    /// The entries of an object, with its `touched`.
    Entries(Token, Version, Result<Vec<(u16, Entry)>, ReadFailed>),
    /// Blocks that hold data, as runs.
    Status(Token, Result<Vec<BlockRange>, ReadFailed>),
    /// How the drive is: whether it holds a request for too long (R9), and whether clients' data still fit (S16).
    Drive {
        /// A request has been in flight for longer than a healthy device needs.
        is_hung: bool,
        /// No more room for clients' data.
        is_full: bool,
        /// No more room for copies that begin with nothing.
        is_full_for_joins: bool,
    },
    /// Nothing but time went by.
    Expired,
}

/// Blocks that were read.
#[derive(Clone, Debug)]
pub struct Blocks<P> {
    /// One a block.
    pub entries: SmallVec<[Entry; 1]>,
    /// The `Data` ones, in order.
    pub data: Option<P>,
}

/// Why a read gave nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadFailed {
    /// These entries are damaged.
    Corrupt(Vec<(LayerId, u16, Entry)>),
    /// A map page of the object is lost (R26).
    Unreadable(ObjectId),
    /// Not here at that version.
    Missing,
}

/// Which entry of a block is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// The committed one.
    Visible,
    /// The one of this version.
    Exact(Version),
}

/// What is read.
#[derive(Clone, Debug)]
pub struct Read {
    /// The group.
    pub group: GroupId,
    /// Head first.
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

/// What is to be done.
#[derive(Debug)]
pub enum Output<P> {
    /// To another slice.
    Send {
        /// To whom.
        to: SliceId,
        /// What.
        message: PeerMessage,
        /// Its blocks.
        payload: Option<P>,
    },
    /// To a client.
    Reply {
        /// On which connection.
        conn: ConnId,
        /// What.
        reply: ClientReply,
        /// Its blocks.
        payload: Option<P>,
    },
    /// The stream to a slice is to be made again: what came on it was dropped.
    Hangup(SliceId),
    /// To the metadata.
    Propose(Proposal),
    /// Make durable; answered by `Persisted` or `NoSpace`.
    Persist {
        /// Told back.
        token: Token,
        /// What.
        record: Record,
        /// Its data.
        payload: Option<P>,
    },
    /// Read; answered by `ReadDone`.
    Read {
        /// Told back.
        token: Token,
        /// What.
        read: Read,
    },
    /// Read without data; answered by `Status`.
    Status {
        /// Told back.
        token: Token,
        /// What.
        read: Read,
    },
    /// Put `len` bytes at `offset` of the chunk over what is committed there: whole blocks come back in `Merged`.
    Merge {
        /// Told back.
        token: Token,
        /// The visible blocks to merge into.
        read: Read,
        /// In the chunk, in bytes.
        offset: u32,
        /// In bytes.
        len: u32,
        /// The bytes, laid out as blocks; `None`: zeroes.
        payload: Option<P>,
    },
    /// A version above the floor is committed: visible.
    Commit(GroupId, Version),
    /// All at or below are committed, and the floor moves (R13).
    RaiseFloor(GroupId, Version),
    /// All at or below are committed; the floor does not move (R10, R15).
    Settle(GroupId, Version),
    /// Whether zero entries may vanish (R23) and `touched` of emptied objects be forgotten (R18).
    Vanish {
        /// The group.
        group: GroupId,
        /// R23.
        may_vanish: bool,
        /// R18.
        may_forget: bool,
    },
    /// A page of a tail; answered by `Stacks`.
    ListStacks {
        /// Told back.
        token: Token,
        /// The group.
        group: GroupId,
        /// Blocks with an entry above this.
        above: Version,
        /// After this place.
        after: Option<(ObjectId, u16)>,
    },
    /// A page of touched objects; answered by `Touched`.
    ListTouched {
        /// Told back.
        token: Token,
        /// The group.
        group: GroupId,
        /// Touched above this.
        above: Version,
        /// After this object.
        after: Option<ObjectId>,
    },
    /// All entries of an object; answered by `Entries`.
    ListEntries {
        /// Told back.
        token: Token,
        /// The group.
        group: GroupId,
        /// The object.
        object: ObjectId,
        /// The committed ones, or the top ones.
        visible_only: bool,
    },
    /// All floors of a stale drive durably count as zero (R1).
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
}
