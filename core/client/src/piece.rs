//! A piece of a request, and the request it is of.
use crate::backoff::Backoff;
use crate::io::{Error, Token};
use crate::split::Span;
use sarsen_buffer::{Buf, Parts};
use sarsen_types::{BlockRange, Checksum, Instant, Revision, SliceId};
use sarsen_wire::client::ClientOp;
use smallvec::SmallVec;

/// What a request is about, without its data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Bytes are wanted.
    Read,
    /// Bytes are written.
    Write,
    /// Bytes are zeroed.
    Zero,
    /// Which bytes hold data.
    Status,
}

impl Kind {
    /// Whether it changes blocks.
    pub fn is_write(self) -> bool {
        matches!(self, Kind::Write | Kind::Zero)
    }
}

/// A request of the driver.
#[derive(Debug)]
pub struct Request {
    /// The driver's name of it.
    pub token: Token,
    /// What it is about.
    pub kind: Kind,
    /// Where, in bytes of the volume.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// The data of a write, until it is cut.
    pub data: Option<Buf>,
    /// What it holds of the permits.
    pub cost: u64,
    /// Its first piece; each names the next.
    pub first: Option<u32>,
    /// Pieces not answered yet.
    pub left: u32,
    /// The first failure of a piece.
    pub error: Option<Error>,
}

/// Where a piece is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Its group's window is full.
    Backlogged,
    /// So many earlier writes it overlaps are not answered (R22).
    Blocked(u32),
    /// It goes out as soon as there is a connection to the group's primary.
    Ready,
    /// It was sent.
    Sent {
        /// To this slice.
        to: SliceId,
        /// When; it is sent again when nothing is heard of it for long.
        at: Instant,
    },
    /// It goes out again then (R40).
    Resting(Instant),
    /// It goes out again with a map of this revision.
    AwaitsMap(Revision),
    /// It was answered.
    Answered,
}

impl State {
    /// Whether it was sent to a slice after some time.
    pub fn is_sent_to(&self, slice: SliceId, after: Instant) -> bool {
        matches!(*self, State::Sent { to, at } if to == slice && at >= after)
    }
}

/// The sendings of a piece that are under way on one connection, by the link's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sendings {
    /// To this slice.
    pub to: SliceId,
    /// The first; 0 when there is none.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// How many came after the first.
    pub again: u32,
}

impl Sendings {
    /// With one more, on a connection that stands since sending number `begun`.
    pub fn and(self, to: SliceId, begun: u64, number: u64) -> Sendings {
        match self.to == to && self.first > begun {
            true => Sendings { last: number, again: self.again + 1, ..self },
            false => Sendings { to, first: number, last: number, again: 0 },
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Piece {
    /// Its request.
    pub request: u32,
    /// The next piece of the request.
    pub next: Option<u32>,
    /// Which piece of the request it is, from 0.
    pub index: u16,
    /// When it came, among all pieces of the session.
    pub order: u64,
    /// Its number (R21); 0 before it has one.
    pub number: u64,
    /// When it got that.
    pub since: Instant,
    /// Its group, by place in the client's list.
    pub group: u32,
    /// Its bytes.
    pub span: Span,
    /// What it is about.
    pub kind: Kind,
    /// Of a write: its blocks.
    pub data: Option<Buf>,
    /// Of a write: the checksums (S2).
    pub checksums: SmallVec<[Checksum; 4]>,
    /// Where it is.
    pub state: State,
    /// Whether it went out before.
    pub was_sent: bool,
    /// More than once.
    pub was_sent_again: bool,
    /// Those that no answer came to yet.
    pub sendings: Sendings,
    /// Its waits.
    pub backoff: Backoff,
    /// Answers that could not be used: damaged, or without an intact copy.
    pub spoiled: u32,
    /// Of an answered read: the bytes.
    pub parts: Parts,
    /// Of an answered question: the runs that hold data.
    pub runs: Vec<BlockRange>,
}

impl Piece {
    /// The blocks it touches.
    pub fn range(&self) -> BlockRange {
        BlockRange::covering(self.span.offset, self.span.len)
    }
    /// What is sent.
    pub fn op(&self) -> ClientOp {
        let Span { offset, len, .. } = self.span;
        match self.kind {
            Kind::Write => ClientOp::Write { offset, len, checksums: self.checksums.clone() },
            Kind::Zero => ClientOp::Zero { offset, len },
            Kind::Read => ClientOp::Read { range: self.range() },
            Kind::Status => ClientOp::Status { range: self.range() },
        }
    }
}
