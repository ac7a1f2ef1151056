//! What several clients saw of one cell, and whether one order of it all explains that (linearizability).
//!
//! Each write has a value of its own, so the check is exact and takes one sort: the zones of Gibbons and Korach, "Testing Shared
//! Memories" (SIAM J. Comput. 26, 1997). A value's operations reach from their earliest end to their latest beginning. Where
//! the end comes first the value was held over all that time, and no two such times overlap; where it does not, all its
//! operations may lie at one moment between the two, which must not lie wholly inside of another's time.
use std::collections::BTreeMap;
use std::time::Instant;

/// One operation on a cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The value written or read; 0 is what was there before anything was written.
    pub value: u64,
    /// It was written by this.
    pub is_write: bool,
    /// When it was asked.
    pub began: Instant,
    /// When it was answered; a write that was not may take effect at any time.
    pub ended: Option<Instant>,
}

/// All operations on one cell.
#[derive(Clone, Debug, Default)]
pub struct History(Vec<Seen>);

/// The time of a value.
#[derive(Clone, Copy, Debug)]
struct Zone {
    value: u64,
    first_end: Option<Instant>,
    last_start: Instant,
}

impl Zone {
    /// From when to when it was held for sure.
    fn held(&self) -> Option<(Instant, Instant)> {
        self.first_end.filter(|end| *end < self.last_start).map(|end| (end, self.last_start))
    }
}

impl History {
    /// Notes an operation.
    pub fn note(&mut self, seen: Seen) {
        self.0.push(seen);
    }
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Why no order explains it, if none does. `start`: before the first operation.
    pub fn check(&self, start: Instant) -> Result<(), String> {
        let mut of_value: BTreeMap<u64, Vec<Seen>> = BTreeMap::new();
        let nothing = Seen { value: 0, is_write: true, began: start, ended: Some(start) };
        for seen in self.0.iter().chain([&nothing]).filter(|s| s.is_write || s.ended.is_some()) {
            of_value.entry(seen.value).or_default().push(*seen);
        }
        let mut zones = Vec::new();
        for (value, all) in of_value {
            let Some(write) = all.iter().find(|s| s.is_write) else {
                return Err(format!("{value} was read, and nobody wrote it"));
            };
            if all.len() == 1 && write.ended.is_none() {
                continue; // never answered, never seen: it may not have been
            }
            if let Some(early) = all.iter().find(|s| s.ended.is_some_and(|end| end < write.began)) {
                return Err(format!("{value} was read before it was written: {early:?}, {write:?}"));
            }
            let first_end = all.iter().filter_map(|s| s.ended).min();
            let last_start = all.iter().map(|s| s.began).max().expect("there is a write");
            zones.push(Zone { value, first_end, last_start });
        }
        let mut held: Vec<_> = zones.iter().filter_map(|z| z.held().map(|h| (h.0, h.1, z.value))).collect();
        held.sort_unstable();
        for pair in held.windows(2) {
            if pair[1].0 < pair[0].1 {
                let (first, second) = (pair[0].2, pair[1].2);
                return Err(format!("{first} and {second} were both there at one time, or one came back"));
            }
        }
        for zone in zones.iter().filter(|z| z.held().is_none()) {
            let from = zone.last_start;
            let to = zone.first_end;
            let around = held.partition_point(|h| h.0 < from).checked_sub(1).map(|at| held[at]);
            if let Some((_, end, value)) = around
                && to.is_some_and(|to| to < end)
            {
                let within = zone.value;
                return Err(format!("{within} was written while {value} was there before and after"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// `(value, is_write, began, ended)`, in milliseconds; 0: not answered.
    fn history(all: &[(u64, bool, u64, u64)]) -> Result<(), String> {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut history = History::default();
        for &(value, is_write, began, ended) in all {
            history.note(Seen { value, is_write, began: at(began), ended: (ended > 0).then(|| at(ended)) });
        }
        history.check(start)
    }

    #[test]
    fn what_one_order_explains_passes() {
        history(&[]).unwrap();
        history(&[(0, false, 1, 2), (1, true, 3, 4), (1, false, 5, 6)]).unwrap();
        // beside a write either is right, and the later read sees no less
        history(&[(1, true, 1, 9), (0, false, 2, 3), (1, false, 4, 5), (1, false, 6, 7)]).unwrap();
        // two writes beside each other, in either order
        history(&[(1, true, 1, 9), (2, true, 2, 8), (1, false, 10, 11)]).unwrap();
        history(&[(1, true, 1, 9), (2, true, 2, 8), (2, false, 10, 11)]).unwrap();
        // one that was never answered takes effect late, or not at all
        history(&[(1, true, 1, 0), (2, true, 5, 6), (2, false, 7, 8), (1, false, 9, 10)]).unwrap();
        history(&[(1, true, 1, 0), (2, true, 5, 6), (2, false, 7, 8)]).unwrap();
        // one inside of another's write
        history(&[(1, true, 1, 20), (2, true, 5, 6), (2, false, 7, 8), (1, false, 21, 22)]).unwrap();
    }

    #[test]
    fn what_no_order_explains_is_told() {
        let lost = history(&[(1, true, 1, 2), (0, false, 3, 4)]).unwrap_err();
        assert!(lost.contains("while 0 was there"), "{lost}");
        let stale = history(&[(1, true, 1, 2), (2, true, 3, 4), (1, false, 5, 6)]).unwrap_err();
        assert!(stale.contains("while 1 was there"), "{stale}");
        let back =
            history(&[(1, true, 1, 2), (2, true, 3, 4), (2, false, 5, 6), (1, false, 7, 8)]).unwrap_err();
        assert!(back.contains("both there"), "{back}");
        // a read saw the new value, a later one the old, while the write was under way
        let undone =
            history(&[(1, true, 1, 2), (2, true, 3, 20), (2, false, 5, 6), (1, false, 7, 8)]).unwrap_err();
        assert!(undone.contains("there"), "{undone}");
        assert!(history(&[(7, false, 1, 2)]).unwrap_err().contains("nobody wrote"));
        assert!(history(&[(7, false, 1, 2), (7, true, 3, 4)]).unwrap_err().contains("before"));
    }

    /// Against a search of all orders, for histories of up to six operations.
    #[test]
    fn it_agrees_with_a_search_of_all_orders() {
        use rand::rngs::SmallRng;
        use rand::{Rng, SeedableRng};
        let mut random = SmallRng::seed_from_u64(3);
        let (mut right, mut wrong) = (0, 0);
        for _ in 0..30_000 {
            let count = random.random_range(1..=6);
            let mut all = Vec::new();
            let mut values = 1;
            for _ in 0..count {
                let began = random.random_range(1..20);
                let ended = random.random_range(began + 1..25);
                let is_write = random.random_bool(0.5);
                let is_open = is_write && random.random_bool(0.2);
                let value = if is_write { values } else { random.random_range(0..=3) };
                values += u64::from(is_write);
                all.push((value, is_write, began, if is_open { 0 } else { ended }));
            }
            let expected = search(&all, 0, &mut vec![false; all.len()]);
            let found = history(&all);
            assert_eq!(found.is_ok(), expected, "{all:?}: {found:?}");
            *(if expected { &mut right } else { &mut wrong }) += 1;
        }
        assert!(right > 1000 && wrong > 1000, "{right} {wrong}");
    }

    /// Whether the rest can be put in order, with this value in the cell. Ends and beginnings at one moment are beside each other.
    fn search(all: &[(u64, bool, u64, u64)], value: u64, is_done: &mut Vec<bool>) -> bool {
        let open = |at: usize| all[at].3 == 0;
        if (0..all.len()).all(|at| is_done[at] || open(at)) {
            return true;
        }
        let end = |at: usize| if open(at) { u64::MAX } else { all[at].3 };
        let first_end = (0..all.len()).filter(|at| !is_done[*at]).map(end).min().expect("some are left");
        for at in 0..all.len() {
            let (of, is_write, began, _) = all[at];
            if is_done[at] || began > first_end || (!is_write && of != value) {
                continue;
            }
            is_done[at] = true;
            let is_possible = search(all, if is_write { of } else { value }, is_done);
            is_done[at] = false;
            if is_possible {
                return true;
            }
        }
        false
    }
}
