//! How long to wait before asking again (R40): from 10 ms with jitter, at most 200 ms in the first 10 s, then 1 s.
use sarsen_types::limits::{BACKOFF_EARLY_MAX, BACKOFF_FIRST, BACKOFF_LATE_MAX};
use sarsen_types::{Duration, Instant};

/// How long a retry counts as an early one.
const EARLY: Duration = Duration::from_secs(10);
/// Doublings of the first wait that are worth counting.
const DOUBLINGS_MAX: u32 = 16;
const _: () = assert!(BACKOFF_FIRST.as_nanos() < BACKOFF_EARLY_MAX.as_nanos());
const _: () = assert!(BACKOFF_EARLY_MAX.as_nanos() <= BACKOFF_LATE_MAX.as_nanos());

/// A generator of jitter: SplitMix64 over a seed that the caller passes in, so that a simulated run repeats.
#[derive(Clone, Debug)]
pub struct Jitter(u64);

impl Jitter {
    /// From a seed.
    pub fn new(seed: u64) -> Jitter {
        Jitter(seed)
    }
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    /// Between three quarters of `wait` and all of it: clients that failed together do not come again together.
    fn apply(&mut self, wait: Duration) -> Duration {
        let nanos = wait.as_nanos() as u64;
        Duration::from_nanos(nanos - self.next() % (nanos / 4 + 1))
    }
}

/// The waits of one thing that is tried again and again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backoff {
    tries: u32,
    since: Option<Instant>,
}

impl Backoff {
    /// It failed once more: when to try again.
    pub fn failed(&mut self, now: Instant, jitter: &mut Jitter) -> Instant {
        let since = *self.since.get_or_insert(now);
        let longest = if now.since(since) < EARLY { BACKOFF_EARLY_MAX } else { BACKOFF_LATE_MAX };
        let wait = BACKOFF_FIRST.saturating_mul(1 << self.tries.min(DOUBLINGS_MAX)).min(longest);
        self.tries = self.tries.saturating_add(1);
        now + jitter.apply(wait)
    }
    /// It succeeded.
    pub fn reset(&mut self) {
        *self = Backoff::default();
    }
    /// Failures in a row.
    pub fn tries(&self) -> u32 {
        self.tries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_from_ten_milliseconds_to_two_hundred_and_after_ten_seconds_to_one_second() {
        let (mut jitter, mut backoff, mut now) = (Jitter::new(1), Backoff::default(), Instant(5));
        let mut waits = Vec::new();
        while now.since(Instant(5)) < Duration::from_secs(15) {
            let at = backoff.failed(now, &mut jitter);
            waits.push((now.since(Instant(5)), at.since(now)));
            now = at;
        }
        assert!((7..=10).contains(&waits[0].1.as_millis()), "{waits:?}");
        assert!((15..=20).contains(&waits[1].1.as_millis()), "{waits:?}");
        for (begun, wait) in &waits {
            let longest = if *begun < EARLY { BACKOFF_EARLY_MAX } else { BACKOFF_LATE_MAX };
            assert!(*wait <= longest && *wait >= Duration::from_micros(7500));
        }
        assert!(waits.last().expect("there are some").1 >= Duration::from_millis(750));
        backoff.reset();
        assert!(backoff.failed(now, &mut jitter).since(now) <= BACKOFF_FIRST);
    }

    #[test]
    fn two_clients_do_not_wait_alike() {
        let wait = |seed| Backoff::default().failed(Instant(0), &mut Jitter::new(seed));
        assert_ne!(wait(1), wait(2));
        assert_eq!(wait(1), wait(1));
    }
}
