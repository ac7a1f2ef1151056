//! The initiator: a volume's requests to the primaries of its groups, for ever if need be. No I/O of its own.
//!
//! [`Client`] is a state machine: [`Client::step`] takes what happened and says what is to be done, [`Client::deadline`]
//! when to step though nothing happened. It is the one owner of all connections of a session (R22), and the simulator
//! runs this very machine, so nothing in it depends on anything but its inputs.
//!
//! ```text
//! write.rs   request  bounds, permit          (permits)
//!            write    pieces, checksums       (split)
//!            admit    a number, and who is waited for   (window: marks, overlaps)
//! client.rs  route    chunk -> group
//! send.rs    send     group -> primary -> a greeted connection   (link)
//! answer.rs  answered an end, or once more    (backoff)
//! client.rs  sweep    what was not answered for a while: a newer map; what arrived and was not answered for long, once more
//! ```
//! Invariants: a piece has one number until it is told that this number was never executed (R21); a write is not sent
//! while an earlier one it overlaps is unanswered (R22); data whose checksum does not match leave as an error, never as
//! data; what may pass is tried again for ever (R40).
#![forbid(unsafe_code)]

mod answer;
pub mod backoff;
mod client;
mod io;
mod link;
pub mod permits;
mod piece;
mod send;
mod slab;
pub mod split;
mod window;
mod write;

pub use answer::SPOILED_MAX;
pub use client::{Client, Config, Counters, DOUBTED_AFTER, UNANSWERED_MAX};
pub use io::{Answer, Error, Extent, Input, Op, Output, Token};
pub use link::{GREETING_MAX, IDLE_MAX};
