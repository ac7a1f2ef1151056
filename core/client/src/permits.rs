//! Permits taken at the door: how much may be under way at once. Limits of a volume's rate (QoS) have their place here.
use sarsen_types::CHUNK_SIZE;
use std::collections::VecDeque;

/// Bytes under way by default: what may wait in memory while a group is away.
pub const BYTES_MAX: u64 = 64 << 20;
/// A request with data costs at least this much, however little they are.
const LEAST: u64 = 4096;
/// A request without data costs this much for each piece it is cut into: what is kept of one while it is under way, and of its
/// answer.
const PIECE_COST: u64 = 1024;
/// Pieces of such a request beside one for each chunk: what it touches of the first block and of the last.
const EDGES: u64 = 2;

/// See the module. Requests come in in the order they came: overlapping ones keep theirs (R22).
#[derive(Debug)]
pub struct Permits {
    left: u64,
    all: u64,
    door: VecDeque<u32>,
}

impl Permits {
    /// `bytes` may be under way; a single request may always.
    pub fn new(bytes: u64) -> Permits {
        Permits { left: bytes, all: bytes, door: VecDeque::new() }
    }
    /// What a request takes that carries or brings `len` bytes.
    pub fn cost_of_data(&self, len: u64) -> u64 {
        len.clamp(LEAST, self.all)
    }
    /// What a request about `len` bytes takes that carries none: zeroes, or a question. It is cut into a piece for each chunk, a
    /// thousand for a discard of the longest kind, and a device that is discarded whole brings thousands of those at once (found
    /// in review).
    pub fn cost_of_pieces(&self, len: u64) -> u64 {
        ((len / CHUNK_SIZE + EDGES) * PIECE_COST).min(self.all)
    }
    /// Takes permits when there are enough and nobody waits before it.
    pub fn take(&mut self, cost: u64) -> bool {
        let may = self.door.is_empty() && cost <= self.left;
        if may {
            self.left -= cost;
        }
        may
    }
    /// It waits at the door.
    pub fn wait(&mut self, request: u32) {
        self.door.push_back(request);
    }
    /// Gives permits back.
    pub fn give(&mut self, cost: u64) {
        self.left += cost;
        debug_assert!(self.left <= self.all);
    }
    /// The next that waits and may come in, by what each costs.
    pub fn next(&mut self, cost_of: impl Fn(u32) -> u64) -> Option<u32> {
        let cost = cost_of(*self.door.front()?);
        if cost > self.left {
            return None;
        }
        self.left -= cost;
        self.door.pop_front()
    }
    /// Some who wait leave.
    pub fn leave(&mut self, mut is_leaving: impl FnMut(u32) -> bool) {
        self.door.retain(|request| !is_leaving(*request));
    }
    /// Who waits.
    pub fn waiting(&self) -> usize {
        self.door.len()
    }
    /// All who wait leave.
    pub fn clear_door(&mut self) {
        self.door.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_passes_who_waits_at_the_door() {
        let mut permits = Permits::new(10_000);
        assert!(permits.take(8_000));
        assert!(!permits.take(4_096));
        permits.wait(1);
        assert!(!permits.take(1_000), "a smaller one came later");
        assert_eq!(permits.next(|_| 4_096), None);
        permits.give(8_000);
        assert_eq!(permits.next(|_| 4_096), Some(1));
        assert_eq!(permits.waiting(), 0);
    }

    #[test]
    fn one_request_above_all_permits_comes_in_alone() {
        let mut permits = Permits::new(10_000);
        let cost = permits.cost_of_data(1 << 30);
        assert!(permits.take(cost));
        assert!(!permits.take(permits.cost_of_data(1)));
        permits.give(cost);
        assert!(permits.take(permits.cost_of_pieces(1 << 40)));
        assert!(!permits.take(permits.cost_of_pieces(1)));
    }

    #[test]
    fn what_carries_no_data_costs_by_the_pieces_it_is_cut_into() {
        let permits = Permits::new(BYTES_MAX);
        assert_eq!(permits.cost_of_pieces(4096), 2 * PIECE_COST);
        assert_eq!(permits.cost_of_pieces(4 << 30), 1026 * PIECE_COST);
    }
}
