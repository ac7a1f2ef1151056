//! Reasons to doubt that a map is the newest: a slice that does not answer, a request that wants a newer one. Few of them are
//! listened to, so that a node that answers slowly is given the time to.
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant, sleep_until};

/// Between two doubts that are listened to, at first; it doubles while they bring no newer map.
const WAIT_FIRST: Duration = Duration::from_millis(500);
/// And at most. A doubt that comes longer after the last is a first one again.
const WAIT_MAX: Duration = Duration::from_secs(8);

/// See the module.
#[derive(Debug)]
pub struct Doubts {
    raised: Arc<Notify>,
    /// One was raised, and its time has not come.
    is_pending: bool,
    /// When one was listened to last.
    last: Option<Instant>,
    /// How long after that the next one may be.
    wait: Duration,
}

impl Default for Doubts {
    fn default() -> Doubts {
        Doubts { raised: Arc::default(), is_pending: false, last: None, wait: WAIT_FIRST }
    }
}

impl Doubts {
    /// What a doubt is raised with.
    pub fn raiser(&self) -> Arc<Notify> {
        self.raised.clone()
    }
    /// Waits for a doubt that is to be listened to. Who waits for something else too and leaves off does not lose one that was
    /// raised and whose time had not come (found in review).
    pub async fn arise(&mut self) {
        if !self.is_pending {
            self.raised.notified().await;
            self.is_pending = true;
            self.forget_old();
        }
        if let Some(last) = self.last {
            sleep_until(last + self.wait).await;
            self.wait = (self.wait * 2).min(WAIT_MAX);
        }
        self.last = Some(Instant::now());
        self.is_pending = false;
    }
    /// After a time without doubts the next is a first one: it has nothing to do with those before (found in review).
    fn forget_old(&mut self) {
        if self.last.is_some_and(|last| last.elapsed() > WAIT_MAX) {
            (self.last, self.wait) = (None, WAIT_FIRST);
        }
    }
    /// A newer map came.
    pub fn calm(&mut self) {
        self.wait = WAIT_FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn the_first_doubt_is_listened_to_at_once_and_the_next_ones_less_and_less_often() {
        let (mut doubts, begun) = (Doubts::default(), Instant::now());
        let mut listened = Vec::new();
        for _ in 0..8 {
            doubts.raiser().notify_one();
            doubts.arise().await;
            listened.push(begun.elapsed().as_millis());
        }
        assert_eq!(listened, [0, 500, 1500, 3500, 7500, 15500, 23500, 31500]);
        doubts.calm();
        doubts.raiser().notify_one();
        doubts.arise().await;
        doubts.raiser().notify_one();
        doubts.arise().await;
        assert_eq!(begun.elapsed().as_millis(), 31500 + 500 + 1000);
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_doubt_whose_time_had_not_come_is_not_lost_to_who_waits_for_something_else_too() {
        // found in review: the doubt was taken, and gone with the wait that was left off
        let (mut doubts, begun) = (Doubts::default(), Instant::now());
        doubts.raiser().notify_one();
        doubts.arise().await;
        doubts.raiser().notify_one();
        for _ in 0..4 {
            tokio::select! {
                () = doubts.arise() => panic!("its time has not come"),
                () = sleep(Duration::from_millis(100)) => {}
            }
        }
        doubts.arise().await;
        assert_eq!(begun.elapsed().as_millis(), 500);
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_doubt_long_after_the_last_is_a_first_one_again() {
        // found in review: whatever had been doubted in the life of an export, the next node that died cost eight seconds
        let mut doubts = Doubts::default();
        for _ in 0..8 {
            doubts.raiser().notify_one();
            doubts.arise().await;
        }
        sleep(WAIT_MAX * 2).await;
        let begun = Instant::now();
        for _ in 0..2 {
            doubts.raiser().notify_one();
            doubts.arise().await;
        }
        assert_eq!(begun.elapsed(), WAIT_FIRST);
    }
}
