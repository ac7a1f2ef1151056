//! The time by which a leader stamps commands and judges what is due. It goes on from the time that the metadata show, as the
//! machine's monotonic clock does, and reaches for the wall clock without a jump (found in review: a leader whose wall clock had
//! been ahead once left stamps in the metadata that the next one waited for, and forgot the ids of requests too early).
use sarsen_control::reconcile::LOST_PRIMARY_MS;
use sarsen_types::limits::SETTLE;
use std::time::{Duration, Instant};

/// While the wall clock is ahead it gains, of what passes, one part in so many.
const GAIN_PART: u64 = 4;
// By a clock that gains, too, copies have had the time that is theirs before a primary is called lost (R27).
const _: () = assert!(LOST_PRIMARY_MS / (GAIN_PART + 1) * GAIN_PART > SETTLE.as_millis() as u64);

/// See the module.
pub struct Clock {
    term: u64,
    last_ms: u64,
    at: Instant,
}

impl Default for Clock {
    /// One that nobody has asked yet.
    fn default() -> Clock {
        Clock { term: 0, last_ms: 0, at: Instant::now() }
    }
}

impl Clock {
    /// Milliseconds since 1970 for the leader of `term`, at `at`, when the metadata show `known_ms` and the wall clock `wall_ms`.
    pub fn now(&mut self, term: u64, known_ms: u64, wall_ms: u64, at: Instant) -> u64 {
        if known_ms == 0 {
            return 0; // the cluster begins, or what it knows is not applied yet (found in review): nothing is due
        }
        let passed = at.saturating_duration_since(self.at).as_millis() as u64;
        let is_new = term != self.term;
        self.last_ms = if is_new { known_ms } else { paced(self.last_ms, passed, wall_ms).max(known_ms) };
        self.at = if is_new { at } else { self.at + Duration::from_millis(passed) };
        self.term = term;
        self.last_ms
    }
}

/// Where a clock stands after `passed`: at the wall clock if it may have come so far.
fn paced(last_ms: u64, passed: u64, wall_ms: u64) -> u64 {
    wall_ms.clamp(last_ms + passed, last_ms + passed + passed / GAIN_PART)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    /// Asks once a second of a leader of term 1; `wall` at each second. The metadata show what it said.
    fn run(known: u64, wall: impl Fn(u64) -> u64, seconds: u64) -> u64 {
        let (mut clock, start, mut said) = (Clock::default(), Instant::now(), known);
        for second in 0..=seconds {
            let at = start + Duration::from_secs(second);
            let next = clock.now(1, said, wall(second), at);
            assert!(next >= said, "it never goes back");
            said = next;
        }
        said
    }

    #[test]
    fn before_anything_is_known_there_is_no_time_and_no_jump_follows() {
        let mut clock = Clock::default();
        assert_eq!(clock.now(1, 0, 9 * HOUR, Instant::now()), 0);
        assert_eq!(clock.now(1, HOUR, 9 * HOUR, Instant::now()), HOUR);
    }

    #[test]
    fn what_a_leader_with_a_clock_ahead_left_is_not_waited_for() {
        // the metadata are an hour ahead of this leader's wall clock: time goes on all the same
        assert_eq!(run(2 * HOUR, |s| HOUR + s * 1000, 60), 2 * HOUR + 60_000);
    }

    #[test]
    fn a_wall_clock_that_is_ahead_is_followed_without_a_jump() {
        let ahead = |s| if s < 5 { HOUR + s * 1000 } else { 3 * HOUR + s * 1000 };
        assert_eq!(run(HOUR, ahead, 64), HOUR + 4000 + 75_000);
        // and met: what passed while nobody led is made up for
        assert_eq!(run(HOUR, |s| HOUR + 10_000 + s * 1000, 50), HOUR + 60_000);
    }

    #[test]
    fn a_new_leader_goes_on_from_what_the_metadata_show() {
        let (mut clock, start) = (Clock::default(), Instant::now());
        assert_eq!(clock.now(1, HOUR, 9 * HOUR, start), HOUR);
        let later = start + Duration::from_secs(7200);
        assert_eq!(clock.now(3, HOUR + 5, 9 * HOUR, later), HOUR + 5, "another led meanwhile");
        // what had been committed before this term, and was applied only now
        assert_eq!(clock.now(3, 4 * HOUR, 9 * HOUR, later), 4 * HOUR);
    }

    #[test]
    fn asked_often_it_loses_nothing() {
        let (mut clock, start) = (Clock::default(), Instant::now());
        let asked = (0..=10_000).map(|n| clock.now(1, HOUR, 0, start + Duration::from_micros(300 * n)));
        assert_eq!(asked.last(), Some(HOUR + 3000));
    }
}
