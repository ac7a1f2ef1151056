//! Memory of a node beside its stores' and its metadata's, split over its slices (S4).
//!
//! With 32 MiB for Raft's database these stay within the 100 MiB that a node takes beyond what is set for its drives; of many
//! slices each has [`SLICE_MIN`], whatever the sum.
use sarsen_slice::Memory;
use sarsen_types::BLOCK_SIZE;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of data of clients and other slices. Each other slice is granted a little whatever its part is, see [`Memory::grant`].
const PAYLOAD: usize = 48 << 20;
/// Bytes that busy connections take for what they receive, beyond the little each has.
const INPUTS: usize = 8 << 20;
/// The least a slice has for data.
const SLICE_MIN: usize = 6 << 20;
/// Of its data, what other slices may have under way to it, in eighths; the rest is for clients (R7).
const PEERS_EIGHTHS: usize = 3;

/// Counts the slices of a node.
#[derive(Debug, Default)]
pub struct Budget(AtomicUsize);

/// What one slice has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Bytes of data.
    pub payload: usize,
    /// Bytes for what is received, see [`sarsen_ring::RingConfig::wide_inputs`].
    pub inputs: usize,
}

impl Budget {
    /// So many slices are opened.
    pub fn add(&self, slices: usize) {
        self.0.fetch_add(slices, Ordering::Relaxed);
    }
    /// What each slice has, of those counted until now: a drive is registered when all were.
    pub fn share(&self) -> Share {
        let slices = self.0.load(Ordering::Relaxed).max(1);
        Share { payload: (PAYLOAD / slices).max(SLICE_MIN), inputs: INPUTS / slices }
    }
}

impl Share {
    /// Bytes for clients.
    pub fn clients(&self) -> usize {
        self.payload / 8 * (8 - PEERS_EIGHTHS)
    }
    /// What the slice keeps of it for whom.
    pub fn memory(&self) -> Memory {
        let peers = (self.payload - self.clients()) / BLOCK_SIZE;
        Memory { clients: (self.clients() / BLOCK_SIZE) as u64, peers: peers as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_share_and_each_has_enough() {
        let budget = Budget::default();
        assert_eq!(budget.share().payload, PAYLOAD);
        budget.add(4);
        assert_eq!((budget.share().payload, budget.share().inputs), (PAYLOAD / 4, INPUTS / 4));
        let memory = budget.share().memory();
        assert_eq!((memory.clients + memory.peers) as usize * BLOCK_SIZE, PAYLOAD / 4);
        budget.add(60);
        assert_eq!(budget.share().payload, SLICE_MIN);
    }
}
