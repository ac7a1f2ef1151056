//! What all processes of a cluster have used until now.
use crate::dev::Dev;
use crate::process;
use std::fs;
use std::time::Duration;

/// Sums over processes.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// CPU time of all of them.
    pub cpu: Duration,
    /// Bytes the nodes gave to their devices; files in memory are not counted by the kernel.
    pub written: u64,
    nodes: Vec<u64>,
    exports: Vec<u64>,
}

impl Cost {
    /// Until now.
    pub fn of(dev: &Dev) -> Cost {
        let mut cost = Cost::default();
        for pid in dev.pids() {
            cost.cpu += process::cpu(pid);
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            match line.split(|b| *b == 0).nth(1) {
                Some(b"node") => {
                    cost.nodes.push(process::memory(pid));
                    cost.written += written(pid);
                }
                Some(b"export") => cost.exports.push(process::memory(pid)),
                _ => {}
            }
        }
        cost
    }

    /// Of one process, its CPU time alone.
    pub fn of_process(pid: u32) -> Cost {
        Cost { cpu: process::cpu(pid), ..Cost::default() }
    }

    /// In words.
    pub fn memory_of_nodes(&self) -> String {
        mib(&self.nodes)
    }

    /// In words.
    pub fn memory_of_exports(&self) -> String {
        mib(&self.exports)
    }
}

fn mib(all: &[u64]) -> String {
    let each: Vec<String> = all.iter().map(|bytes| format!("{}", bytes >> 20)).collect();
    format!("{} MiB", each.join(" "))
}

fn written(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("write_bytes: "));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

/// CPU time of children that ended and were waited for, fio among them.
pub fn ended_children() -> Duration {
    // SAFETY: `usage` is plain data, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    let of = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    of(usage.ru_utime) + of(usage.ru_stime)
}
