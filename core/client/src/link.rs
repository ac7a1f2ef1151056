//! The connection to one slice: dialed when something wants it, greeted before anything else (D2), closed when idle.
use crate::backoff::Backoff;
use crate::client::UNANSWERED_MAX;
use crate::piece::Sendings;
use sarsen_types::{Duration, Instant, SliceId};

/// A connection nothing was sent on for this long is closed (L7).
pub const IDLE_MAX: Duration = Duration::from_secs(300);
/// A slice that does not answer a greeting by then is hung up on: its node may hang.
pub const GREETING_MAX: Duration = Duration::from_secs(5);

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// There is none, and it may be dialed from then on.
    Down(Instant),
    /// It is being dialed.
    Dialing,
    /// The session's greeting is out since then.
    Greeting(Instant),
    /// The slice said "not now" to the greeting; it is greeted again then.
    Greets(Instant),
    /// Requests may be sent.
    Up,
}

/// See the module.
#[derive(Debug)]
pub struct Link {
    /// The other end.
    pub slice: SliceId,
    /// How far it is.
    pub stage: Stage,
    /// Its waits.
    pub backoff: Backoff,
    /// When something was sent on it last.
    pub used: Instant,
    /// When something came on it last.
    pub heard: Instant,
    /// Requests sent on it, all its connections together: each sending has the number this came to.
    pub sendings: u64,
    /// How many of them were sent before this connection stood.
    pub begun: u64,
    /// The latest of them that is known to have arrived, and with it all before: it was answered.
    pub passed: u64,
}

impl Link {
    /// No connection yet.
    pub fn new(slice: SliceId) -> Link {
        Link {
            slice,
            stage: Stage::Down(Instant(0)),
            backoff: Backoff::default(),
            used: Instant(0),
            heard: Instant(0),
            sendings: 0,
            begun: 0,
            passed: 0,
        }
    }
    /// A request goes out on it: the number of the sending.
    pub fn sends(&mut self, now: Instant) -> u64 {
        self.used = now;
        self.sendings += 1;
        self.sendings
    }
    /// A piece was answered, so what was sent before its first sending has arrived; which of its sendings it was that was
    /// answered nobody says.
    pub fn answers(&mut self, piece: Sendings) {
        self.passed = self.passed.max(piece.first);
    }
    /// Whether all sendings of a piece have left us and were read there: a copy would not just lie behind what is on its way.
    pub fn has_passed(&self, piece: Sendings) -> bool {
        piece.last < self.passed
    }
    /// Whether something is to be sent again only to see if it is answered: nothing came for long, nor was anything sent. One
    /// will do: all that is late would lie behind itself where nothing is read (found in review).
    pub fn wants_probe(&self, now: Instant) -> bool {
        now.since(self.heard.max(self.used)) >= UNANSWERED_MAX
    }
    /// When it wants to be looked after though nothing happened.
    pub fn alarm(&self) -> Option<Instant> {
        match self.stage {
            Stage::Down(Instant(0)) => None,
            Stage::Down(at) | Stage::Greets(at) => Some(at),
            Stage::Dialing => None,
            Stage::Greeting(since) => Some(since + GREETING_MAX),
            Stage::Up => Some(self.used + IDLE_MAX),
        }
    }
}
