//! A client that is not read from for a while: when it is looked at again, and when it is read on from.
//!
//! What a client of TCP left unread may be old: it may have given the connection up, sent all of it again on another, and
//! written more there. Its goodbye lies behind what is unread, in a window of nothing, and is not seen. So it is read on only
//! once it acknowledged answers that were sent since nothing but that holds it up: a connection that was given up answers those
//! with a reset (R22; found in review). What it acknowledged before tells nothing: others may have held it up for minutes since.
use sarsen_types::{Duration, Instant};

/// A client whose acknowledgement is waited for is looked at so soon at first.
const LOOK_FIRST: Duration = Duration::from_millis(1);
/// Each client that is not read from is looked at this often: it may be gone.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// Waits for an acknowledgement grow with what was waited already: it is looked for again after this part of that.
const LOOK_PART: u32 = 4;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Rest {
    /// Since when nothing but its acknowledgement is waited for.
    acks_since: Option<Instant>,
    /// When it was last seen to be there.
    seen: Instant,
    /// An answer was sent since nothing else holds it up, or is to be: its acknowledgement will tell that the client is there
    /// still.
    is_answered: bool,
}

impl Rest {
    /// It is not read from, from now on; there may be answers that have not left.
    pub fn new(now: Instant, has_answers: bool) -> Rest {
        Rest { acks_since: None, seen: now, is_answered: has_answers }
    }
    /// A request of it is answered.
    pub fn answered(&mut self) {
        self.is_answered = true;
    }
    /// Whether an answer was sent since nothing else holds it up.
    pub fn is_answered(&self) -> bool {
        self.is_answered
    }
    /// Something else holds it up still: answers it was sent so far say too little when that ends, but for those that have not
    /// left (found in review). It is sent others: one that is held up has requests under way, or answers that have not left.
    pub fn forget_sent(&mut self, has_answers: bool) {
        self.is_answered = has_answers;
    }
    /// Something else holds it up. Whether to look if it is still there: that costs a system call, and is done now and then.
    pub fn is_held(&mut self, now: Instant) -> bool {
        self.acks_since = None;
        let is_due = now.since(self.seen) >= LOOK_MAX;
        if is_due {
            self.seen = now;
        }
        is_due
    }
    /// Nothing holds it up but that it did not acknowledge its answers.
    pub fn awaits_acks(&mut self, now: Instant) {
        self.acks_since.get_or_insert(now);
        self.seen = now;
    }
    /// When to look again though nothing happened: no event tells of an acknowledgement.
    pub fn looks_at(&self, now: Instant) -> Instant {
        match self.acks_since {
            Some(since) => now + (now.since(since) / LOOK_PART).clamp(LOOK_FIRST, LOOK_MAX),
            None => self.seen + LOOK_MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_is_looked_for_soon_and_then_less_and_less_often() {
        let (mut rest, mut now, mut looks) = (Rest::new(Instant(7), false), Instant(7), 0);
        assert_eq!(rest.looks_at(now), now + LOOK_MAX);
        while now.since(Instant(7)) < Duration::from_secs(60) {
            rest.awaits_acks(now);
            let next = rest.looks_at(now);
            assert!(next > now && next.since(now) <= LOOK_MAX);
            (now, looks) = (next, looks + 1);
        }
        assert!(looks < 120, "{looks} looks at a dead client in a minute");
    }

    #[test]
    fn whether_a_full_client_is_still_there_is_asked_once_in_a_while() {
        let mut rest = Rest::new(Instant(0), false);
        let looks = (0..10_000u64).filter(|ms| rest.is_held(Instant(ms * 1_000_000))).count();
        assert_eq!(looks, 9);
    }
}
