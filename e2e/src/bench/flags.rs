//! What the benchmark is asked to do.
use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// The name of the place where drives are files in memory.
pub const MEMORY: &str = "memory";

/// fio over NBD on a cluster of this machine, beside floors; then what must be met and what is aimed for
#[derive(Debug, Parser)]
pub struct Flags {
    /// Only these parts; may be repeated [default: all; with --workload: workloads]
    #[arg(long = "only-row", value_enum)]
    pub rows: Vec<Row>,
    /// Count system calls, allocations and copies, and nothing else: counting slows what is counted
    #[arg(long)]
    pub count: bool,
    /// Seconds of each workload [default: 10, quick: 3]
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Seconds over which the idle cluster is watched [default: 60, quick: 5]
    #[arg(long)]
    pub idle: Option<u64>,
    /// A short look: few seconds each, small volumes
    #[arg(long)]
    pub quick: bool,
    /// Where drives are in memory
    #[arg(long, default_value = "/dev/shm")]
    pub memory: PathBuf,
    /// Where drives are on a disk [default: the directory for temporary files]
    #[arg(long)]
    pub disk: Option<PathBuf>,
    /// MiB of the volume [default: 1024, quick: 256]
    #[arg(long)]
    pub mib: Option<u64>,
    /// MiB of each drive [default: 10240; in memory 4096, written once before all else]
    #[arg(long)]
    pub drive_mib: Option<u64>,
    /// Only places whose name contains this: memory, disk
    #[arg(long, default_value = "")]
    pub only: String,
    /// Only workloads whose name contains this
    #[arg(long, default_value = "")]
    pub workload: String,
    /// Let nodes and the export talk over unix sockets, as on one machine, not over TCP as between machines
    #[arg(long)]
    pub unix: bool,
    /// How reads are leased [default: the product's own choice]
    #[arg(long)]
    pub lease: Option<String>,
    /// sustained: MiB of each drive, which a volume fills to 80 % [default: 1024, quick: 256]
    #[arg(long)]
    pub sustained_mib: Option<u64>,
    /// sustained: seconds after which it ends though not all is overwritten ten times [default: 300, quick: 20]
    #[arg(long)]
    pub sustained_seconds: Option<u64>,
    /// open: MiB of each drive, of which the journal takes a part [default: 65536, quick: 2048]
    #[arg(long)]
    pub open_mib: Option<u64>,
    /// Write all figures to this file, as JSON
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// More flags for `sarsen dev`
    #[arg(last = true)]
    pub dev: Vec<String>,
}

/// A part of the benchmark.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Row {
    /// fio's workloads: IOPS, MiB/s, CPU, bytes to drives for each byte
    Workloads,
    /// One write at a time against three raw ones and two round trips
    Latency,
    /// The cluster idle; memory after the runs
    Idle,
    /// Ten random overwrites of drives 80 % full; latency during checkpoints
    Sustained,
    /// A node's start after SIGKILL with its journal full, and after a clean stop
    Open,
    /// One node with more slices and more volumes
    Spread,
}

impl Flags {
    /// Whether a part is asked for.
    pub fn wants(&self, row: Row) -> bool {
        match (self.count, self.rows.is_empty(), self.workload.is_empty()) {
            (true, ..) => false,
            (_, false, _) => self.rows.contains(&row),
            (_, true, false) => row == Row::Workloads,
            (_, true, true) => true,
        }
    }

    /// Of each workload.
    pub fn time(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(if self.quick { 3 } else { 10 }))
    }

    /// Over which idle processes are watched.
    pub fn idle_time(&self) -> Duration {
        Duration::from_secs(self.idle.unwrap_or(if self.quick { 5 } else { 60 }))
    }

    /// Bytes of the volume.
    pub fn size(&self) -> u64 {
        self.mib.unwrap_or(if self.quick { 256 } else { 1024 }) << 20
    }

    /// MiB of each drive at a place.
    pub fn drive_mib(&self, place: &str) -> u64 {
        self.drive_mib.unwrap_or(if place == MEMORY { 4096 } else { 10_240 })
    }

    /// MiB of each drive of the sustained part.
    pub fn sustained_drive_mib(&self) -> u64 {
        self.sustained_mib.unwrap_or(if self.quick { 256 } else { 1024 })
    }

    /// How long the sustained part may take.
    pub fn sustained_max(&self) -> Duration {
        Duration::from_secs(self.sustained_seconds.unwrap_or(if self.quick { 20 } else { 300 }))
    }

    /// MiB of each drive that is opened.
    pub fn open_drive_mib(&self) -> u64 {
        self.open_mib.unwrap_or(if self.quick { 2048 } else { 65_536 })
    }

    /// The places that are asked for, with their names.
    pub fn places(&self) -> Vec<(&'static str, PathBuf)> {
        let disk = self.disk.clone().unwrap_or_else(std::env::temp_dir);
        let all = [(MEMORY, self.memory.clone()), ("disk", disk)];
        all.into_iter().filter(|(name, _)| name.contains(&self.only)).collect()
    }

    /// Flags of `sarsen dev` that all clusters of a run share.
    pub fn common(&self) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(lease) = &self.lease {
            all.extend(["--lease".to_owned(), lease.clone()]);
        }
        if !self.unix {
            all.push("--tcp-only".to_owned());
        }
        all.extend(self.dev.iter().cloned());
        all
    }

    /// How reads are leased, in words.
    pub fn lease_words(&self) -> String {
        self.lease.clone().unwrap_or_else(|| "as nodes choose".to_owned())
    }
}
