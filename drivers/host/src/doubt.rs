//! Reasons to doubt that a map is the newest: a slice that does not answer, a request that wants a newer one. Few of them are
//! listened to, so that a node that answers slowly is given the time to.
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant, sleep_until};

/// Between two doubts that are listened to, at first; it doubles while they bring no newer map.
const WAIT_FIRST: Duration = Duration::from_millis(500);
/// And at most.
const WAIT_MAX: Duration = Duration::from_secs(8);

/// See the module.
#[derive(Debug)]
pub struct Doubts {
    raised: Arc<Notify>,
    /// When one was listened to last.
    last: Option<Instant>,
    /// How long after that the next one may be.
    wait: Duration,
}

impl Default for Doubts {
    fn default() -> Doubts {
        Doubts { raised: Arc::default(), last: None, wait: WAIT_FIRST }
    }
}

impl Doubts {
    /// What a doubt is raised with.
    pub fn raiser(&self) -> Arc<Notify> {
        self.raised.clone()
    }
    /// Waits for a doubt that is to be listened to.
    pub async fn arise(&mut self) {
        self.raised.notified().await;
        if let Some(last) = self.last {
            sleep_until(last + self.wait).await;
            self.wait = (self.wait * 2).min(WAIT_MAX);
        }
        self.last = Some(Instant::now());
    }
    /// A newer map came.
    pub fn calm(&mut self) {
        self.wait = WAIT_FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
