//! What goes into the machine and what comes out.
use sarsen_buffer::{Buf, Parts};
use sarsen_types::{Revision, SliceId, VolumeMap};
use sarsen_wire::client::{ClientReply, ClientRequest, Refusal};
use std::fmt;
use std::sync::Arc;

/// The caller's name of a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

/// What is asked of the volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// The bytes.
    Read,
    /// The bytes are laid out as whole blocks: the first at `offset % 4096` of the buffer, which ends with the last block
    /// touched (D1: nobody changes it any more).
    Write(Buf),
    /// The bytes are zeroes; whole blocks give their space back.
    Zero,
    /// Which bytes hold data.
    Status,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// Somebody asks something of `len` bytes at `offset` of the volume.
    Request {
        /// The caller's name of it.
        token: Token,
        /// What.
        op: Op,
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// The metadata moved. An older map than the one known is ignored.
    Learned(Arc<VolumeMap>),
    /// A connection to a slice stands: its hello was proven.
    Connected {
        /// The slice.
        slice: SliceId,
    },
    /// There is no connection to the slice, or not any more: what was under way on it may be lost.
    Disconnected {
        /// The slice.
        slice: SliceId,
    },
    /// An answer.
    Received {
        /// Who answers.
        slice: SliceId,
        /// What.
        reply: ClientReply,
        /// Its blocks.
        payload: Option<Buf>,
    },
    /// Nobody waits for these any more. Those that have not come in are dropped and end as [`Error::Abandoned`]; the others may
    /// have been sent, and a write that was sent cannot be called back: they run on.
    Abandon(Vec<Token>),
    /// The deadline passed.
    Tick,
}

/// What is to be done.
#[derive(Debug)]
pub enum Output {
    /// Open a connection; `Connected` or `Disconnected` is to follow.
    Connect {
        /// To this slice.
        slice: SliceId,
    },
    /// Close the connection; no `Disconnected` is to follow.
    Disconnect {
        /// To this slice.
        slice: SliceId,
    },
    /// Send a frame; dropped when there is no connection.
    Send {
        /// To this slice.
        slice: SliceId,
        /// What.
        request: ClientRequest,
        /// Its blocks.
        payload: Option<Buf>,
    },
    /// A request ended.
    Complete {
        /// The caller's name of it.
        token: Token,
        /// How.
        result: Result<Answer, Error>,
    },
    /// The map is too old, or there is reason to think so: ask for one of at least this revision. Said again and again while
    /// something is not answered.
    NeedMap {
        /// The revision.
        revision: Revision,
    },
    /// The session is over; every request was or will be completed with the same error.
    Ended(Error),
}

/// What a request brought.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It took effect, on every in-sync copy.
    Done,
    /// The bytes that were asked for, checked against their checksums.
    Data(Parts),
    /// Runs of bytes, ascending and without gaps.
    Extents(Vec<Extent>),
}

/// A run of bytes of the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Where, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// Whether it may hold data; it reads as zeroes else.
    pub is_data: bool,
}

/// Why a request failed. Whatever may pass is not here: it is tried again for ever (R40).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The bytes lie beyond the end of the volume.
    OutOfBounds,
    /// The attachment may not write.
    ReadOnly,
    /// The pool is full (S16): give space back, or add drives.
    NoSpace,
    /// No copy has the blocks intact, after several tries.
    Corrupt,
    /// The attachment was given to a newer session of the same owner (R21).
    Superseded,
    /// The attachment was taken away (R31).
    Fenced,
    /// The cluster refuses the request for good.
    Refused(Refusal),
    /// Nobody waited for it any more, and it was not sent.
    Abandoned,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::OutOfBounds => f.write_str("the bytes lie beyond the end of the volume"),
            Error::ReadOnly => f.write_str("the volume is attached read-only"),
            Error::NoSpace => f.write_str("the pool is full: delete volumes, discard, or add drives"),
            Error::Corrupt => f.write_str("no copy has the blocks intact: see the events of the cluster"),
            Error::Superseded => f.write_str("the volume was attached again by the same owner elsewhere"),
            Error::Fenced => f.write_str("the volume was detached by force"),
            Error::Abandoned => f.write_str("nobody waits for the request any more"),
            Error::Refused(why) => write!(f, "the cluster refuses the request: {why:?}"),
        }
    }
}
impl std::error::Error for Error {}
