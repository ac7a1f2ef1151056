//! A node's start after SIGKILL with its journal as full as it gets, and after a clean stop.
//!
//! A replay reads what lies between the last checkpoint and the end of the journal; that is most just before a checkpoint ends.
//! The first checkpoint of a run tells how long one takes; the node is killed in the next, shortly before its end.
use super::flags::Flags;
use super::load::{self, BLOCK};
use super::log::{self, Checkpoint, Line, WITH_CHECKPOINTS};
use super::table::{Bound, Table};
use crate::dev::Dev;
use crate::process;
use anyhow::{Context, Result};
use rand::{Rng, SeedableRng};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// The node that is killed.
const NODE: u32 = 1;
/// Bytes of the volume.
const VOLUME: u64 = 1 << 30;
/// How long writes may take until a node makes two checkpoints.
const CHECKPOINTS_MAX: Duration = Duration::from_secs(600);
/// Of the time that the last checkpoint took, how much passes until the node is killed.
const KILLED_AT: f64 = 0.7;
/// How long a drive may take to open.
const OPEN_MAX: Duration = Duration::from_secs(120);
/// Between two looks at a log.
const LOOK: Duration = Duration::from_millis(10);

/// What a start came to.
struct Start {
    /// Until the drive was open and known to the cluster.
    open: Duration,
    /// Until all its groups were in sync again.
    in_sync: Duration,
    /// What its log says of the replay.
    replay: String,
}

/// Both starts, in a cluster of its own for each depth: alone, a write's data lie in the journal too, unless the drive is memory.
pub fn run(name: &'static str, place: &Path, flags: &Flags, table: &mut Table) -> Result<()> {
    let depths: &[usize] = if name == "memory" { &[32] } else { &[32, 1] };
    for depth in depths {
        let mib = flags.open_drive_mib();
        let mut given = flags.common();
        given.push(format!("--drive-size={mib}MiB"));
        let size = VOLUME.min((mib << 20) / 2);
        given.push(format!("--volume=v:{}MiB", size >> 20));
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        let dev = Dev::start_with(place, &given, &[("SARSEN_LOG", WITH_CHECKPOINTS)])?;
        dev.wait_ok()?;
        let (fill, writes) = write_and_kill(&dev, size, *depth)?;
        dev.wait_dead(NODE)?;
        let start = start(&dev)?;
        let how = format!(
            "drives of {mib} MiB, {writes} writes, {depth} at a time; the journal was {fill} % full when the checkpoint began; {}",
            start.replay
        );
        let what = format!("open after SIGKILL, journal full ({depth} at a time)");
        add(table, name, &what, &start, Bound::at_most(5.0, 2.0), how);
        dev.wait_ok()?;
        dev.stop_node(NODE)?;
        let start = self::start(&dev)?;
        let how = format!("the same drive; {}", start.replay);
        let what = format!("open after a clean stop ({depth} at a time)");
        add(table, name, &what, &start, Bound::at_most(0.5, 0.5), how);
    }
    Ok(())
}

fn add(table: &mut Table, name: &str, what: &str, start: &Start, bound: Bound, how: String) {
    println!(
        "{what}: open after {:.2} s, in sync after {:.2} s; {how}",
        start.open.as_secs_f64(),
        start.in_sync.as_secs_f64()
    );
    table.add(name, what, start.open.as_secs_f64(), "s", bound, how);
    table.add(
        name,
        format!("{what}: in sync"),
        start.in_sync.as_secs_f64(),
        "s",
        None,
        "with the writes that it missed",
    );
}

/// Writes until the node is far into its second checkpoint, then kills it. How full its journal was when that began, and writes.
fn write_and_kill(dev: &Dev, size: u64, depth: usize) -> Result<(u64, usize)> {
    let pid = dev.pid_of(NODE)?;
    let (socket, stop) = (dev.socket("v"), AtomicBool::new(false));
    let mut random = rand::rngs::SmallRng::seed_from_u64(1);
    let blocks = std::iter::repeat_with(move || random.random_range(0..size / BLOCK));
    std::thread::scope(|scope| {
        let load = scope.spawn(|| load::write(&socket, "v", depth, blocks, &stop));
        let killed = kill_in_checkpoint(dev, pid);
        stop.store(true, Ordering::Relaxed);
        let load = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))?;
        Ok((killed?, load.context("write")?.samples.len()))
    })
}

fn kill_in_checkpoint(dev: &Dev, pid: u32) -> Result<u64> {
    let (log, since) = (log::of_node(dev, NODE), SystemTime::now());
    let until = Instant::now() + CHECKPOINTS_MAX;
    while Instant::now() < until {
        let all = log::checkpoints(&log::lines(&log, since));
        if let [.., last, now] = &all[..]
            && let (Some(ended), None) = (last.ended, now.ended)
        {
            let took = ended.duration_since(last.began).unwrap_or_default();
            let due = now.began + took.mul_f64(KILLED_AT);
            std::thread::sleep(due.duration_since(SystemTime::now()).unwrap_or_default());
            // it may have been a shorter one: then the next
            if is_under_way(&log::checkpoints(&log::lines(&log, since)), now) {
                process::kill(pid);
                return Ok(now.fill);
            }
        }
        std::thread::sleep(LOOK);
    }
    anyhow::bail!("no second checkpoint within {} s", CHECKPOINTS_MAX.as_secs())
}

fn is_under_way(all: &[Checkpoint], one: &Checkpoint) -> bool {
    all.iter().any(|c| c.name == one.name && c.ended.is_none())
}

/// Starts the node; the time runs from the command to do so.
fn start(dev: &Dev) -> Result<Start> {
    let (log, since, begin) = (log::of_node(dev, NODE), SystemTime::now(), Instant::now());
    dev.start_node(NODE)?;
    let said = |lines: &[Line], what: &str| lines.iter().find(|l| l.text.contains(what)).cloned();
    let registered = loop {
        if let Some(line) = said(&log::lines(&log, since), " is registered") {
            break line;
        }
        anyhow::ensure!(begin.elapsed() < OPEN_MAX, "the drive is not open after {} s", OPEN_MAX.as_secs());
        std::thread::sleep(LOOK);
    };
    let after = |line: &Line| line.at.duration_since(since).unwrap_or_default();
    dev.wait_ok()?;
    let in_sync = begin.elapsed();
    let replay = match said(&log::lines(&log, since), "the journal was replayed") {
        Some(line) => {
            let count = line.text.split("replayed=").nth(1).and_then(|t| t.split(' ').next()).unwrap_or("?");
            format!("{count} journal blocks replayed by {:.2} s", after(&line).as_secs_f64())
        }
        None => "nothing to replay".to_owned(),
    };
    Ok(Start { open: after(&registered), in_sync, replay })
}
