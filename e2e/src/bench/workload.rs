//! What fio does, in the shapes that peers were measured with.
use super::cost::{Cost, ended_children};
use crate::dev::Dev;
use crate::fio::{self, Measured};
use anyhow::Result;
use std::time::Duration;

/// A shape of I/O.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Its name in the report and among peers.
    pub name: &'static str,
    rw: &'static str,
    block: &'static str,
    depth: u32,
}

/// Whose processes work for fio.
#[derive(Clone, Copy, Debug)]
pub enum Behind<'a> {
    /// Nobody's: a file.
    Nothing,
    /// One process.
    Process(u32),
    /// A cluster's.
    Cluster(&'a Dev),
}

impl Behind<'_> {
    fn cost(self) -> Cost {
        match self {
            Behind::Nothing => Cost::default(),
            Behind::Process(pid) => Cost::of_process(pid),
            Behind::Cluster(dev) => Cost::of(dev),
        }
    }
}

/// What one run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What fio saw.
    pub fio: Measured,
    /// CPU of all processes, for each I/O.
    pub cpu_per_io: Duration,
    /// Bytes that reached devices for each byte written; nothing where that is not counted.
    pub amplification: Option<f64>,
}

const fn workload(name: &'static str, rw: &'static str, block: &'static str, depth: u32) -> Workload {
    Workload { name, rw, block, depth }
}

impl Workload {
    /// Writes everything once.
    pub const FILL: Workload = workload("fill", "write", "1m", 8);
    /// All that is measured.
    pub const ALL: [Workload; 7] = [
        workload("4K write QD1", "randwrite", "4k", 1),
        workload("4K write QD32", "randwrite", "4k", 32),
        workload("4K read QD1", "randread", "4k", 1),
        workload("4K read QD32", "randread", "4k", 32),
        workload("4K 70/30 QD16", "randrw", "4k", 16),
        workload("1M write QD8", "write", "1m", 8),
        workload("1M read QD8", "read", "1m", 8),
    ];

    /// One 4 KiB write at a time.
    pub const LONE_WRITE: Workload = Workload::ALL[0];
    /// 4 KiB writes, 64 of them under way in all, shared by `jobs`.
    pub const fn spread(is_read: bool, jobs: u32) -> Workload {
        match is_read {
            true => workload("4K read", "randread", "4k", 64 / jobs),
            false => workload("4K write", "randwrite", "4k", 64 / jobs),
        }
    }

    /// fio's arguments for an NBD URL.
    pub fn nbd(url: &str) -> Vec<String> {
        vec!["--ioengine=nbd".into(), format!("--uri={url}")]
    }

    /// Runs it on the first `size` bytes, for `time` or once over.
    pub fn run(&self, place: &[String], size: u64, time: Option<Duration>) -> Result<Measured> {
        self.run_on(&[place.to_vec()], size, time)
    }

    /// As [`Workload::run`], on several places at once: its depth and `size` are of each.
    pub fn run_on(&self, places: &[Vec<String>], size: u64, time: Option<Duration>) -> Result<Measured> {
        let mut args = vec![
            format!("--rw={}", self.rw),
            format!("--bs={}", self.block),
            format!("--iodepth={}", self.depth),
            format!("--size={size}"),
            "--randrepeat=0".into(),
            "--norandommap=1".into(),
        ];
        if self.rw == "randrw" {
            args.push("--rwmixread=70".into());
        }
        if let Some(time) = time {
            args.extend(["--time_based=1".into(), format!("--runtime={}", time.as_secs())]);
        }
        fio::run_on(&args, places, time.unwrap_or_default() + Duration::from_secs(300))
    }

    /// Runs it, and sums what it cost here and in the cluster.
    pub fn measure(
        &self,
        place: &[String],
        size: u64,
        time: Duration,
        behind: Behind<'_>,
    ) -> Result<Outcome> {
        let before = behind.cost();
        let own = ended_children();
        let fio = self.run(place, size, Some(time))?;
        let mut cpu = ended_children() - own;
        let after = behind.cost();
        cpu += after.cpu().saturating_sub(before.cpu());
        let bytes = fio.ios * if self.block == "4k" { 4096 } else { 1 << 20 };
        let written = after.written().saturating_sub(before.written());
        let is_counted = self.rw.ends_with("write") && written > 0;
        let amplification = is_counted.then(|| written as f64 / bytes as f64);
        let cpu_per_io = cpu.div_f64((fio.ios as f64).max(1.0));
        Ok(Outcome { fio, cpu_per_io, amplification })
    }
}
