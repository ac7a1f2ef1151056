//! What the processes of a cluster have used until now.
use crate::dev::Dev;
use crate::process;
use std::fs;
use std::time::Duration;

/// What a process is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `sarsen node`
    Node,
    /// `sarsen export`
    Export,
    /// `sarsen dev`, or whatever else was asked about.
    Other,
}

/// One process.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// What it is for.
    pub kind: Kind,
    /// CPU time, all its threads.
    pub cpu: Duration,
    /// Bytes it gave to its devices; files in memory are not counted by the kernel.
    pub written: u64,
    /// Bytes of memory.
    pub memory: u64,
}

/// All that were asked about.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    processes: Vec<Process>,
}

impl Cost {
    /// Of every process of a cluster, until now.
    pub fn of(dev: &Dev) -> Cost {
        Cost { processes: dev.pids().into_iter().map(look).collect() }
    }

    /// Of one process.
    pub fn of_process(pid: u32) -> Cost {
        Cost { processes: vec![look(pid)] }
    }

    /// The processes of a kind.
    pub fn each(&self, kind: Kind) -> impl Iterator<Item = Process> {
        self.processes.iter().copied().filter(move |p| p.kind == kind)
    }

    /// CPU time of all.
    pub fn cpu(&self) -> Duration {
        self.processes.iter().map(|p| p.cpu).sum()
    }

    /// CPU time of a kind.
    pub fn cpu_of(&self, kind: Kind) -> Duration {
        self.each(kind).map(|p| p.cpu).sum()
    }

    /// Bytes that nodes gave to their devices.
    pub fn written(&self) -> u64 {
        self.each(Kind::Node).map(|p| p.written).sum()
    }

    /// Memory of a kind, in words.
    pub fn memory_of(&self, kind: Kind) -> String {
        let each: Vec<String> = self.each(kind).map(|p| format!("{}", p.memory >> 20)).collect();
        format!("{} MiB", each.join(" "))
    }

    /// Most memory that one of a kind takes.
    pub fn most_memory_of(&self, kind: Kind) -> Option<u64> {
        self.each(kind).map(|p| p.memory).max()
    }

    /// CPU time that each of a kind took since `before`.
    pub fn cpu_since(&self, before: &Cost, kind: Kind) -> Vec<Duration> {
        let then = |pid| before.processes.iter().find(|p| p.pid == pid).map_or(Duration::ZERO, |p| p.cpu);
        self.each(kind).map(|p| p.cpu.saturating_sub(then(p.pid))).collect()
    }
}

fn look(pid: u32) -> Process {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let kind = match line.split(|b| *b == 0).nth(1) {
        Some(b"node") => Kind::Node,
        Some(b"export") => Kind::Export,
        _ => Kind::Other,
    };
    let (cpu, memory) = (process::cpu(pid), process::memory(pid));
    Process { pid, kind, cpu, written: written(pid), memory }
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
