//! Ten full random overwrites of drives that are 80 % full: does the last minute reach what the first did, and what do
//! checkpoints do to the slowest writes?
use super::cost::Cost;
use super::flags::Flags;
use super::load::{self, BLOCK, Load, Sample, percentile};
use super::log::{self, Checkpoint, WITH_CHECKPOINTS};
use super::stage::COPIES;
use super::table::{Bound, Table};
use super::workload::Workload;
use crate::dev::Dev;
use crate::program::wait_until;
use anyhow::{Context, Result};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// Overwrites.
const PASSES: u64 = 10;
/// Writes under way.
const DEPTH: usize = 32;
/// Per cent of what a drive can hold that the volume takes.
const FULL: u64 = 80;
/// What is compared at both ends, at most.
const WINDOW: Duration = Duration::from_secs(60);
const CHUNK: u64 = 4 << 20;

/// An export of a volume that was made after the cluster came up.
struct Export(Child);
impl Drop for Export {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs it in a cluster of its own.
pub fn run(name: &'static str, place: &Path, flags: &Flags, table: &mut Table) -> Result<()> {
    let mib = flags.sustained_drive_mib();
    let mut given = flags.common();
    given.push(format!("--drive-size={mib}MiB"));
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let dev = Dev::start_with(place, &given, &[("SARSEN_LOG", WITH_CHECKPOINTS)])?;
    dev.wait_ok()?;
    let drives = dev.json(&["drive", "list"])?;
    let usable = drives.as_array().into_iter().flatten().filter_map(|d| d["total_bytes"].as_u64()).min();
    let size = usable.context("no drive says how much it holds")? * FULL / 100 / CHUNK * CHUNK;
    dev.sarsen(&["volume", "create", "v", "--size", &size.to_string()], None)?;
    let socket = dev.dir().join("sustained.sock");
    let mut command = dev.command(&["export", "nbd", "v", "--socket"]);
    let _export = Export(command.arg(&socket).stdout(Stdio::null()).spawn().context("start an export")?);
    wait_until("the export listens", Duration::from_secs(30), || Ok(socket.exists()))?;
    let url = format!("nbd+unix:///v?socket={}", socket.display());
    Workload::FILL.run(&Workload::nbd(&url), size, None).context("fill the volume")?;

    let before = Cost::of(&dev);
    let stop = AtomicBool::new(false);
    let done = AtomicBool::new(false);
    let load = std::thread::scope(|scope| {
        scope.spawn(|| {
            let end = std::time::Instant::now() + flags.sustained_max();
            while std::time::Instant::now() < end && !done.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(50));
            }
            stop.store(true, Ordering::Relaxed);
        });
        let load = load::write(&socket, "v", DEPTH, passes(size / BLOCK), &stop);
        done.store(true, Ordering::Relaxed);
        load
    })?;
    let written = Cost::of(&dev).written().saturating_sub(before.written());
    let mut checkpoints = Vec::new();
    for node in 1..=dev.at_start().nodes.len() as u32 {
        checkpoints.extend(log::checkpoints(&log::lines(&log::of_node(&dev, node), load.start)));
    }
    report(name, mib, size, &load, &checkpoints, written, table);
    Ok(())
}

/// All blocks in an order of chance, and again in another.
fn passes(blocks: u64) -> impl Iterator<Item = u64> {
    let mut random = rand::rngs::SmallRng::seed_from_u64(1);
    let mut order: Vec<u32> = (0..blocks as u32).collect();
    (0..PASSES).flat_map(move |_| {
        order.shuffle(&mut random);
        order.clone().into_iter().map(u64::from)
    })
}

/// Writes answered per second in a part of the run.
fn rate(load: &Load, from: Duration, to: Duration) -> f64 {
    let ends = |s: &Sample| s.at + s.took;
    let count = load.samples.iter().filter(|s| (from..to).contains(&ends(s))).count();
    count as f64 / (to - from).as_secs_f64()
}

/// When checkpoints were under way, from the start of the run, none overlapping.
fn spans(checkpoints: &[Checkpoint], load: &Load) -> Vec<(Duration, Duration)> {
    let from_start = |at: SystemTime| at.duration_since(load.start).unwrap_or_default();
    let mut all: Vec<(Duration, Duration)> = checkpoints
        .iter()
        .map(|c| (from_start(c.began), c.ended.map_or(load.took, from_start)))
        .filter(|(began, _)| *began < load.took)
        .collect();
    all.sort();
    let mut joined: Vec<(Duration, Duration)> = Vec::new();
    for (began, ended) in all {
        match joined.last_mut() {
            Some(last) if began <= last.1 => last.1 = last.1.max(ended),
            _ => joined.push((began, ended)),
        }
    }
    joined
}

/// Whether a write was under way while a checkpoint was.
fn is_during(spans: &[(Duration, Duration)], sample: &Sample) -> bool {
    let after = spans.partition_point(|span| span.1 < sample.at);
    spans.get(after).is_some_and(|span| span.0 <= sample.at + sample.took)
}

fn report(
    name: &'static str,
    mib: u64,
    size: u64,
    load: &Load,
    checkpoints: &[Checkpoint],
    written: u64,
    table: &mut Table,
) {
    let passes = load.samples.len() as f64 / (size / BLOCK) as f64;
    let sizes = format!(
        "drives of {mib} MiB, a volume of {} MiB, overwritten {passes:.1} times in {:.0} s",
        size >> 20,
        load.took.as_secs_f64()
    );
    let tenths: Vec<String> =
        (0..10).map(|n| format!("{:.0}", rate(load, load.took * n / 10, load.took * (n + 1) / 10))).collect();
    println!("sustained: {sizes}; IOPS of each tenth: {}", tenths.join(" "));
    let window = WINDOW.min(load.took / 10);
    let (first, last) = (rate(load, Duration::ZERO, window), rate(load, load.took - window, load.took));
    table.add(
        name,
        format!("sustained: last {:.0} s against the first", window.as_secs_f64()),
        last / first,
        "x",
        Bound::at_least(0.8, 0.9),
        format!("{last:.0} IOPS against {first:.0}; {sizes}"),
    );

    let spans = spans(checkpoints, load);
    let (during, without): (Vec<Sample>, Vec<Sample>) =
        load.samples.iter().partition(|sample| is_during(&spans, sample));
    let tail = |samples: &[Sample]| {
        percentile(samples.iter().map(|s| s.took).collect(), 0.999).map(|d| d.as_secs_f64() * 1e3)
    };
    let (slow, quick) = (tail(&during), tail(&without));
    let words = |tail: Option<f64>| tail.map_or_else(|| "too few".to_owned(), |ms| format!("{ms:.2} ms"));
    let longest = load.samples.iter().map(|s| s.took).max().unwrap_or_default();
    let busy: Duration = spans.iter().map(|(began, ended)| *ended - *began).sum();
    table.add(
        name,
        "sustained: p99.9 during checkpoints against without",
        slow.zip(quick).map(|(slow, quick)| slow / quick),
        "x",
        Bound::at_most(3.0, 2.0),
        format!(
            "{} of {} writes, {} of {}; {} checkpoints, {:.0} % of the time; the longest write {:.0} ms",
            words(slow),
            during.len(),
            words(quick),
            without.len(),
            checkpoints.len(),
            busy.as_secs_f64() / load.took.as_secs_f64() * 100.0,
            longest.as_secs_f64() * 1e3,
        ),
    );
    if written > 0 {
        let bytes = load.samples.len() as f64 * BLOCK as f64 * COPIES;
        table.add(
            name,
            "sustained: bytes to a drive a byte written to it",
            written as f64 / bytes,
            "x",
            None,
            sizes,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pass_writes_every_block() {
        let all: Vec<u64> = passes(100).collect();
        assert_eq!(all.len(), 100 * PASSES as usize);
        for pass in all.chunks(100) {
            let mut sorted = pass.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..100).collect::<Vec<u64>>());
        }
        assert_ne!(all[..100], all[100..200]);
    }

    #[test]
    fn a_write_is_during_a_checkpoint_when_they_overlap() {
        let ms = Duration::from_millis;
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let load = Load { start, took: ms(1000), samples: Vec::new() };
        let checkpoint = |began, ended: Option<u64>| Checkpoint {
            name: "1.0 1".into(),
            began: start + ms(began),
            ended: ended.map(|e| start + ms(e)),
            fill: 50,
        };
        let all = [checkpoint(500, None), checkpoint(100, Some(200)), checkpoint(150, Some(300))];
        let spans = spans(&all, &load);
        assert_eq!(spans, [(ms(100), ms(300)), (ms(500), ms(1000))]);
        let sample = |at, took| Sample { at: ms(at), took: ms(took) };
        assert!(is_during(&spans, &sample(90, 20)) && is_during(&spans, &sample(250, 1)));
        assert!(is_during(&spans, &sample(290, 300)) && is_during(&spans, &sample(700, 1)));
        assert!(!is_during(&spans, &sample(50, 20)) && !is_during(&spans, &sample(310, 100)));
    }
}
