//! The connection to one slice: dialed when something wants it, greeted before anything else (D2), closed when idle.
use crate::backoff::Backoff;
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
        }
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
