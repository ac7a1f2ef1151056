//! Several ways to ask the same, of which one answer is wanted: straight to the leader, and through other nodes (R44).
use super::desk::no_leader;
use sarsen_api::ErrorBody;
use std::time::Duration;
use tokio::task::JoinSet;

/// A way that says nothing for so long has another tried beside it.
pub const PATIENCE: Duration = Duration::from_millis(300);

/// The first answer, and by which way it came. The next way is begun when one fails or is silent for [`PATIENCE`], and those
/// begun before go on; when an answer is there, or the caller goes, all of them end. Each is to be bounded in time by itself.
pub async fn first<A, F>(ways: impl IntoIterator<Item = F>) -> Result<(usize, A), ErrorBody>
where
    A: Send + 'static,
    F: Future<Output = Result<A, ErrorBody>> + Send + 'static,
{
    let mut ways = ways.into_iter().enumerate();
    let mut begun = JoinSet::new();
    let mut failure = no_leader();
    loop {
        let next = ways.next();
        let is_more = next.is_some();
        next.into_iter().for_each(|(at, way)| drop(begun.spawn(async move { (at, way.await) })));
        let ended = match is_more {
            true => match tokio::time::timeout(PATIENCE, begun.join_next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            },
            false => begun.join_next().await,
        };
        match ended {
            Some(Ok((at, Ok(answer)))) => return Ok((at, answer)),
            Some(Ok((_, Err(why)))) => failure = why,
            Some(Err(why)) => failure = ErrorBody::new("unreachable", why.to_string()),
            None => return Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    /// Answers after so many milliseconds, or fails.
    async fn way(begun: Arc<AtomicUsize>, after: u64, answers: bool) -> Result<u64, ErrorBody> {
        begun.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(after)).await;
        if answers { Ok(after) } else { Err(ErrorBody::new("unreachable", format!("{after}"))) }
    }
    async fn of(ways: &[(u64, bool)]) -> (Result<(usize, u64), String>, usize, Duration) {
        let (begun, since) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        let first = first(ways.iter().map(|(after, answers)| way(begun.clone(), *after, *answers))).await;
        (first.map_err(|why| why.message), begun.load(Ordering::SeqCst), since.elapsed())
    }

    #[tokio::test]
    async fn one_that_answers_is_the_only_one_that_is_asked() {
        assert_eq!(of(&[(20, true), (0, true)]).await.0, Ok((0, 20)));
        assert_eq!(of(&[(20, true), (0, true)]).await.1, 1);
    }

    #[tokio::test]
    async fn where_one_fails_the_next_is_asked_at_once() {
        let (first, begun, took) = of(&[(0, false), (0, false), (20, true), (0, true)]).await;
        assert_eq!((first, begun), (Ok((2, 20)), 3));
        assert!(took < PATIENCE, "{took:?}");
        assert_eq!(of(&[(0, false), (10, false)]).await.0, Err("10".into()));
        assert_eq!(of(&[]).await.0, Err(no_leader().message));
    }

    #[tokio::test]
    async fn one_that_is_silent_is_asked_on_beside_the_next() {
        let (first, begun, took) = of(&[(60_000, true), (0, true)]).await;
        assert_eq!((first, begun), (Ok((1, 0)), 2));
        assert!(took >= PATIENCE && took < PATIENCE * 10, "{took:?}");
        // it was only slow
        let (first, begun, _) = of(&[(600, true), (60_000, true)]).await;
        assert_eq!((first, begun), (Ok((0, 600)), 2));
    }
}
