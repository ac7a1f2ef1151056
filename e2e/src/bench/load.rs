//! A load of our own: 4 KiB writes over NBD, so many under way, each remembered with when it was sent and how long it took.
use crate::nbd::Client;
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Bytes of a write.
pub const BLOCK: u64 = 4096;
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// A write that was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// When it was sent, from the start of the run.
    pub at: Duration,
    /// Until its answer.
    pub took: Duration,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Load {
    /// Its start by the wall clock.
    pub start: SystemTime,
    /// How long it ran.
    pub took: Duration,
    /// Its writes, in the order they were answered.
    pub samples: Vec<Sample>,
}

/// Writes to `blocks` of the volume `name`, `depth` under way, until they end or `stop` is set; then waits for what is under way.
pub fn write(
    socket: &Path,
    name: &str,
    depth: usize,
    mut blocks: impl Iterator<Item = u64>,
    stop: &AtomicBool,
) -> Result<Load> {
    let mut client = Client::connect(socket, name).context("connect to the export")?;
    client.limit(Some(ANSWER_MAX))?;
    let mut data = [0x5a; BLOCK as usize];
    let mut under_way: HashMap<u64, Duration> = HashMap::with_capacity(depth);
    let mut samples = Vec::new();
    let (start, begin) = (SystemTime::now(), Instant::now());
    loop {
        while under_way.len() < depth && !stop.load(Ordering::Relaxed) {
            let Some(block) = blocks.next() else { break };
            data[..8].copy_from_slice(&(samples.len() as u64).to_le_bytes());
            let at = begin.elapsed();
            let handle = client.send_write(block * BLOCK, &data)?;
            under_way.insert(handle, at);
        }
        if under_way.is_empty() {
            return Ok(Load { start, took: begin.elapsed(), samples });
        }
        let (handle, errno) = client.answer().context("wait for an answer")?;
        ensure!(errno == 0, "a write failed with errno {errno}");
        let Some(at) = under_way.remove(&handle) else { bail!("an answer to what was not asked") };
        samples.push(Sample { at, took: begin.elapsed().saturating_sub(at) });
    }
}

/// The time that a share of these (0 to 1) do not exceed; nothing for too few to tell (fewer than ten beyond it).
pub fn percentile(mut took: Vec<Duration>, share: f64) -> Option<Duration> {
    let beyond = (took.len() as f64 * (1.0 - share)) as usize;
    if beyond < 10 {
        return None;
    }
    let at = took.len() - beyond - 1;
    Some(*took.select_nth_unstable(at).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_leaves_its_share_beyond() {
        let took: Vec<Duration> = (1..=200_000).rev().map(Duration::from_micros).collect();
        assert_eq!(percentile(took.clone(), 0.999), Some(Duration::from_micros(199_800)));
        assert_eq!(percentile(took[..5_000].to_vec(), 0.999), None);
    }
}
