//! System calls, context switches, allocations and copies for each I/O, counted; apart from what is timed, since counting costs.
//!
//! Allocations and copies of a block or more are counted by a library that is preloaded before nodes and exports (`count.c`); calls
//! and switches by `perf stat`, which slows little; calls by name by `strace -c`, in a run of its own, which slows so much that a
//! turn gathers more requests than it would: its calls an I/O are fewer than in truth, its names are what it is for. What the
//! kernel copies is not counted.
use super::cost::{Cost, Kind};
use super::flags::Flags;
use super::table::{Bound, Table};
use super::workload::Workload;
use crate::dev::Dev;
use crate::program::{command, succeed, wait};
use crate::{process, program};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// What is preloaded.
const LIBRARY: &str = include_str!("count.c");
/// Until whoever counts has attached to all threads.
const ATTACH: Duration = Duration::from_secs(1);
const QUICK: Duration = Duration::from_secs(30);
const EVENTS: [(&str, &str); 3] = [
    ("system calls", "raw_syscalls:sys_enter"),
    ("io_uring_enter", "syscalls:sys_enter_io_uring_enter"),
    ("context switches", "context-switches"),
];
const COUNTERS: [&str; 4] = ["allocations", "frees", "copies of a block or more", "bytes of those"];

/// Counts in a cluster of its own.
pub fn run(name: &'static str, place: &Path, flags: &Flags, table: &mut Table) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let library = build(dir.path())?;
    let size = flags.size();
    let mut given = flags.common();
    given.push(format!("--volume=v:{}MiB", size >> 20));
    given.push(format!("--drive-size={}MiB", flags.drive_mib(name)));
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let env = [("LD_PRELOAD", library.as_str()), ("COUNT_DIR", &dir.path().display().to_string())];
    let dev = Dev::start_with(place, &given, &env)?;
    dev.wait_ok()?;
    let volume = Workload::nbd(&dev.url("v"));
    Workload::FILL.run(&volume, size, None).context("fill the volume")?;
    let is_counted = |w: &Workload| w.name.starts_with("4K") && !w.name.contains('/');
    let kinds = [("nodes", Kind::Node), ("export", Kind::Export)]
        .map(|(word, kind)| (word, Cost::of(&dev).each(kind).map(|p| p.pid).collect::<Vec<u32>>()));
    // what is done though nobody asks is in every other count too
    let (idle, idled) = counted(dir.path(), &kinds, || {
        std::thread::sleep(flags.time());
        Ok(())
    })?;
    for workload in Workload::ALL.into_iter().filter(is_counted) {
        if !workload.name.contains(flags.workload.as_str()) {
            continue;
        }
        let mut ios = 0.0;
        let (counts, took) = counted(dir.path(), &kinds, || {
            ios = workload.run(&volume, size, Some(flags.time()))?.ios as f64;
            Ok(())
        })?;
        for ((word, what), count) in counts {
            let is_bound = what == "allocations" && workload.name == "4K write QD32";
            let bound = is_bound.then_some(Bound::at_most(0.0, 0.0));
            let own =
                idle.get(&(word, what)).copied().unwrap_or(0.0) / idled.as_secs_f64() * took.as_secs_f64();
            let beside =
                format!("{ios:.0} I/Os; of it {:.2} is what idle processes do in that time", own / ios);
            table.add(
                name,
                format!("{}: {what}, {word}", workload.name),
                count / ios,
                "an I/O",
                bound,
                beside,
            );
        }
        by_name(&workload, &volume, size, flags, &kinds)?;
    }
    Ok(())
}

/// Counts by whose and what.
type Counts = BTreeMap<(&'static str, &'static str), f64>;

/// What all these processes do while `work` is done, and how long that was.
fn counted(
    dir: &Path,
    kinds: &[(&'static str, Vec<u32>)],
    work: impl FnOnce() -> Result<()>,
) -> Result<(Counts, Duration)> {
    let perf: Vec<Result<Perf>> = kinds.iter().map(|(_, pids)| Perf::attach(pids)).collect();
    std::thread::sleep(ATTACH);
    let before: Vec<_> = kinds.iter().map(|(_, pids)| preloaded(dir, pids)).collect();
    let begin = Instant::now();
    work()?;
    let took = begin.elapsed();
    let mut counts = Counts::new();
    for (((word, pids), before), perf) in kinds.iter().zip(before).zip(perf) {
        let after = preloaded(dir, pids);
        for (what, (after, before)) in COUNTERS.iter().zip(after.iter().zip(before)) {
            counts.insert((word, what), (after - before) as f64);
        }
        match perf.and_then(Perf::end) {
            Ok(calls) => counts.extend(calls.into_iter().map(|(what, n)| ((*word, what), n as f64))),
            Err(why) => println!("calls are not counted: {why:#}"),
        }
    }
    Ok((counts, took))
}

fn build(dir: &Path) -> Result<String> {
    let (source, library) = (dir.join("count.c"), dir.join("count.so"));
    std::fs::write(&source, LIBRARY)?;
    let mut cc = command("cc");
    // the compiler must not see in these functions what they are named after
    cc.args(["-O2", "-fno-builtin", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
    succeed(&mut cc, QUICK).context("build what counts allocations")?;
    Ok(library.display().to_string())
}

/// The counters of some processes, summed.
fn preloaded(dir: &Path, pids: &[u32]) -> [u64; COUNTERS.len()] {
    let mut sum = [0; COUNTERS.len()];
    for pid in pids {
        let bytes = std::fs::read(dir.join(pid.to_string())).unwrap_or_default();
        for (sum, count) in sum.iter_mut().zip(bytes.chunks_exact(8)) {
            *sum += u64::from_ne_bytes(count.try_into().expect("8 bytes"));
        }
    }
    sum
}

/// `perf stat` on some processes.
struct Perf(Child);

impl Perf {
    fn attach(pids: &[u32]) -> Result<Perf> {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let mut perf = command("perf");
        perf.args(["stat", "-x", ";", "-e", &EVENTS.map(|e| e.1).join(","), "-p", &pids.join(",")]);
        perf.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Ok(Perf(perf.spawn().context("start perf")?))
    }

    fn end(mut self) -> Result<Vec<(&'static str, u64)>> {
        process::signal(self.0.id(), libc::SIGINT);
        wait(&mut self.0, QUICK)?;
        let mut text = String::new();
        self.0.stderr.take().context("its stderr")?.read_to_string(&mut text)?;
        EVENTS.iter().map(|(what, event)| Ok((*what, perf_count(&text, event)?))).collect()
    }
}

/// `COUNT;unit;EVENT;...`, a line for each event.
fn perf_count(text: &str, event: &str) -> Result<u64> {
    let of = |line: &str| {
        let mut fields = line.split(';');
        let count = fields.next()?.parse().ok()?;
        (fields.nth(1)?.starts_with(event)).then_some(count)
    };
    text.lines().find_map(of).with_context(|| format!("perf does not tell {event}: {text}"))
}

/// Prints what `strace -c` counts, where there is one.
fn by_name(
    workload: &Workload,
    volume: &[String],
    size: u64,
    flags: &Flags,
    kinds: &[(&'static str, Vec<u32>)],
) -> Result<()> {
    if program::run(command("strace").arg("-V"), QUICK).is_err() {
        println!("{}: no strace, so no calls by name", workload.name);
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut traces: Vec<(&str, Child)> = Vec::new();
    for (word, pids) in kinds {
        let mut strace = command("strace");
        strace.args(["-c", "-f", "-o"]).arg(dir.path().join(word));
        for pid in pids {
            strace.args(["-p", &pid.to_string()]);
        }
        strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        traces.push((word, strace.spawn().context("start strace")?));
    }
    std::thread::sleep(ATTACH);
    let ios = workload.run(volume, size, Some(flags.time()))?.ios as f64;
    for (word, mut trace) in traces {
        process::signal(trace.id(), libc::SIGINT);
        wait(&mut trace, QUICK)?;
        let text = std::fs::read_to_string(dir.path().join(word))?;
        let mut calls: Vec<(String, u64)> = strace_counts(&text).into_iter().collect();
        calls.sort_by_key(|c| std::cmp::Reverse(c.1));
        let words: Vec<String> =
            calls.iter().take(8).map(|(name, n)| format!("{name} {:.2}", *n as f64 / ios)).collect();
        println!(
            "{}: calls an I/O by strace, which slows ({ios:.0} I/Os), {word}: {}",
            workload.name,
            words.join(", ")
        );
    }
    Ok(())
}

/// Calls by name: the fourth field and the last of each line of its table.
fn strace_counts(text: &str) -> BTreeMap<String, u64> {
    let of = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (name, count) = (fields.last()?, fields.get(3)?.parse().ok()?);
        (fields.len() >= 5 && *name != "total").then(|| ((*name).to_owned(), count))
    };
    text.lines().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_perf_and_strace_print_is_understood() {
        let perf = "1200;;raw_syscalls:sys_enter;9;100.00;;\n7;;context-switches:u;9;100.00;;\n";
        assert_eq!(perf_count(perf, "raw_syscalls:sys_enter").unwrap(), 1200);
        assert_eq!(perf_count(perf, "context-switches").unwrap(), 7);
        assert!(perf_count(perf, "syscalls:sys_enter_io_uring_enter").is_err());
        let strace = "% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 99.50    1.000000         100     10000           io_uring_enter
  0.50    0.010000          10       100         3 futex
------ ----------- ----------- --------- --------- ----------------
100.00    1.010000         100     10100         3 total
";
        let counts = strace_counts(strace);
        assert_eq!(counts, [("futex".to_owned(), 100), ("io_uring_enter".to_owned(), 10_000)].into());
    }

    #[test]
    fn the_library_counts() {
        let dir = tempfile::tempdir().unwrap();
        let library = build(dir.path()).unwrap();
        let mut child = std::process::Command::new("dd")
            .args(["if=/dev/zero", "of=/dev/null", "bs=64k", "count=4"])
            .env("LD_PRELOAD", library)
            .env("COUNT_DIR", dir.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id();
        assert!(child.wait().unwrap().success());
        let [allocations, ..] = preloaded(dir.path(), &[pid]);
        assert!(allocations > 0);
    }
}
