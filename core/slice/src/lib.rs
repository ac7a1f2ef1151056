//! One slice's machine: replication and store joined, no sockets.
//!
//! ```text
//! Slice::step(now, input, &mut out)      any number of times a turn
//! Slice::finish(now, &mut out)           once a turn: polls the disk, submits what the turn gathered, acknowledges
//! Slice::deadline()                      when to call `finish` again though nothing happened
//! ```
pub mod turn;
pub use turn::{Config, ConnId, Input, LeaseMode, Output};
