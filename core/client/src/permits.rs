//! Permits taken at the door: how much may be under way at once. Limits of a volume's rate (QoS) have their place here.
use std::collections::VecDeque;

/// Bytes under way by default: what may wait in memory while a group is away.
pub const BYTES_MAX: u64 = 64 << 20;
/// A request without data costs as much as this many bytes.
const LEAST: u64 = 4096;

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
    /// What a request of `len` bytes takes.
    pub fn cost(&self, len: u64) -> u64 {
        len.clamp(LEAST, self.all)
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
        let cost = permits.cost(1 << 30);
        assert!(permits.take(cost));
        assert!(!permits.take(permits.cost(1)));
    }
}
