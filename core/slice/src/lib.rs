//! One slice's machine: replication and store joined, no sockets. A node's thread and the simulator run the same.
//!
//! ```text
//! Slice::step(now, input, &mut out)      any number of times a turn
//! Slice::finish(now, &mut out)           once a turn: the disk's completions, time, acknowledgements
//! Slice::submit(now)                     after the turn's sends went out: what the turn gathered goes to the disk (L4)
//! Slice::deadline()                      when to do a turn though nothing happened
//! ```
//!
//! Reading order: [`turn`] (the surface), [`slice`] (the machine), [`verify`] (checksums on receipt), [`merge`] (part blocks).
pub mod merge;
pub mod slice;
pub mod turn;
pub mod verify;

pub use sarsen_replication::{Counters, Memory};
pub use slice::Slice;
pub use turn::{Config, ConnId, Input, LeaseMode, Output};
