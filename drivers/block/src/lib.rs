//! What a driver needs of a volume: [`Request`] in, [`Completion`] out, through a [`Backend`].
//!
//! A driver (NBD, later ublk and others) knows its own protocol and this crate, nothing of the cluster. Every backend
//! presents a write-through device (D7): what is answered is durable, so there is no flush here. [`conformance`] is the
//! one workload that every backend and every driver passes; [`MemoryBackend`] is the smallest backend that does.
#![forbid(unsafe_code)]

mod backend;
pub mod conformance;
mod memory;
mod request;

pub use backend::{Backend, Limits};
pub use memory::MemoryBackend;
pub use request::{Answer, Completion, Extent, Failure, Op, Request, Tag};
