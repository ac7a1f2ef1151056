//! What processes cost, from `/proc`: CPU time, memory, bytes written; and their end.
use std::fs;
use std::time::Duration;

/// Ends a process at once. One that is gone is no error.
pub fn kill(pid: u32) {
    signal(pid, libc::SIGKILL);
}

/// Sends a signal. A process that is gone is no error.
pub fn signal(pid: u32, signal: libc::c_int) {
    // SAFETY: no pointers. The id is of a process that this test started or that belongs to one.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// The children of a process, and theirs.
pub fn children(pid: u32) -> Vec<u32> {
    let mut all = Vec::new();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for task in tasks {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in text.split_whitespace().filter_map(|w| w.parse().ok()) {
            all.push(child);
            all.extend(children(child));
        }
    }
    all
}

/// CPU time of a process until now, user and system, all its threads.
pub fn cpu(pid: u32) -> Duration {
    // Nanoseconds on the CPU, per thread that still lives: finer than the ticks of `stat`. Threads of ours live long.
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let precise: u64 = tasks
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum();
    let ticks = ticks(pid);
    Duration::from_nanos(precise).max(ticks)
}

fn ticks(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may hold anything; fields begin after its closing bracket.
    let Some((_, rest)) = text.rsplit_once(')') else { return Duration::ZERO };
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum();
    // SAFETY: no pointers.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    Duration::from_millis(ticks * 1000 / per_second)
}

/// Bytes of memory that a process holds and shares with nobody (and those it shares, divided).
pub fn memory(pid: u32) -> u64 {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        let line = text.lines().find(|l| l.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    field("smaps_rollup", "Pss:").or_else(|| field("status", "VmRSS:")).unwrap_or(0) * 1024
}

/// Whether a process is there.
pub fn is_alive(pid: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    text.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_costs_something() {
        let own = std::process::id();
        let start = cpu(own);
        let mut x = 1u64;
        while cpu(own) < start + Duration::from_millis(20) {
            for _ in 0..100_000 {
                x = std::hint::black_box(x.wrapping_mul(31));
            }
        }
        assert!(memory(own) > 100_000);
        assert!(is_alive(own));
    }
}
