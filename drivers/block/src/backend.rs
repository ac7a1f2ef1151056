//! The volume, as a driver sees it.
use crate::request::{Completion, Request};
use sarsen_types::Instant;

/// What a driver may tell its clients and must keep to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The best alignment and length of requests, in bytes.
    pub block: u32,
    /// The longest request that moves data, in bytes.
    pub request_max: u32,
    /// Writes are refused.
    pub is_read_only: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { block: sarsen_types::BLOCK_SIZE as u32, request_max: 32 << 20, is_read_only: false }
    }
}

/// See the module. One thread owns a backend and the drivers that use it: no call blocks, and nothing is shared.
pub trait Backend {
    /// Bytes of the volume now; it may grow.
    fn size(&self) -> u64;
    /// What requests may be.
    fn limits(&self) -> Limits;
    /// Takes a request. Its completion comes later, also that of one that is refused.
    fn submit(&mut self, now: Instant, request: Request);
    /// Appends the requests that ended since the last call.
    fn completions(&mut self, out: &mut Vec<Completion>);
}
