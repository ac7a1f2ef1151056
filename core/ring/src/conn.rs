//! One connection: what is in flight on it, what came and what is to go.
use crate::fixed::Target;
use crate::input::Input;
use crate::net::{self, Name};
use crate::output::Output;
use sarsen_buffer::{Buf, Pool};
use std::os::fd::{AsRawFd, OwnedFd};

/// Where a connection is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    Connecting,
    Open,
    /// Gone for its user; kept until the kernel has nothing of it any more.
    Closing,
}

/// A buffer that is received into directly (L3).
pub(crate) struct Fill {
    pub buf: Buf,
    pub at: usize,
}

/// Boxed by the ring, so that what the kernel was given stays in place.
pub(crate) struct Conn {
    pub fd: OwnedFd,
    /// As operations name it.
    pub target: Target,
    pub stage: Stage,
    /// TCP's acknowledgements tell that the other end is there.
    pub is_tcp: bool,
    pub input: Input,
    pub output: Output,
    pub fill: Option<Fill>,
    /// The receive in flight goes into `fill`.
    pub is_filling: bool,
    pub name: Option<Name>,
    pub in_connect: bool,
    pub in_send: bool,
    pub in_receive: bool,
    /// Listed for the next turn.
    pub is_to_send: bool,
    pub is_to_receive: bool,
    pub ends_when_sent: bool,
    /// Payloads are copied into the socket: the other end is near, or the kernel copies anyway.
    pub copies: bool,
    /// The socket had more when it was last read.
    pub has_more: bool,
}

impl Conn {
    pub fn new(fd: OwnedFd, stage: Stage, pool: &Pool, already: &[u8], batch_max: usize) -> Conn {
        Conn {
            target: Target::Open(fd.as_raw_fd()),
            is_tcp: net::is_tcp(fd.as_raw_fd()),
            fd,
            stage,
            input: Input::new(pool, already),
            output: Output::new(batch_max),
            fill: None,
            is_filling: false,
            name: None,
            in_connect: false,
            in_send: false,
            in_receive: false,
            is_to_send: false,
            is_to_receive: false,
            ends_when_sent: false,
            copies: true,
            has_more: true,
        }
    }
    /// Whether the kernel has nothing of it.
    pub fn is_quiet(&self) -> bool {
        !self.in_connect && !self.in_send && !self.in_receive
    }
}
