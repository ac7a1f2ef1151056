//! The benchmark: fio over NBD on three nodes and TCP, beside floors in the same run, every figure with its ratios.
use anyhow::{Context, Result};
use clap::Parser;
use sarsen_e2e::bench::cost::Cost;
use sarsen_e2e::bench::report::Row;
use sarsen_e2e::bench::workload::{Behind, Workload};
use sarsen_e2e::bench::{floors, peers};
use sarsen_e2e::dev::Dev;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// fio over NBD on a cluster of this machine, beside floors
#[derive(Parser)]
struct Flags {
    /// Seconds of each workload [default: 10, quick: 3]
    #[arg(long)]
    seconds: Option<u64>,
    /// Seconds over which the idle cluster is watched [default: 60, quick: 5]
    #[arg(long)]
    idle: Option<u64>,
    /// A short look: few seconds each, a small volume
    #[arg(long)]
    quick: bool,
    /// Where drives are in memory
    #[arg(long, default_value = "/dev/shm")]
    memory: PathBuf,
    /// Where drives are on a disk [default: the directory for temporary files]
    #[arg(long)]
    disk: Option<PathBuf>,
    /// MiB of the volume [default: 1024, quick: 256]
    #[arg(long)]
    mib: Option<u64>,
    /// Only places whose name contains this: memory, disk
    #[arg(long, default_value = "")]
    only: String,
    /// Only workloads whose name contains this
    #[arg(long, default_value = "")]
    workload: String,
    /// Let nodes and the export talk over unix sockets, as on one machine, not over TCP as between machines
    #[arg(long)]
    unix: bool,
    /// How reads are leased [default: the product's own choice]
    #[arg(long)]
    lease: Option<String>,
    /// More flags for `sarsen dev`
    #[arg(last = true)]
    dev: Vec<String>,
}

impl Flags {
    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(if self.quick { 3 } else { 10 }))
    }
    fn idle(&self) -> Duration {
        Duration::from_secs(self.idle.unwrap_or(if self.quick { 5 } else { 60 }))
    }
    fn mib(&self) -> u64 {
        self.mib.unwrap_or(if self.quick { 256 } else { 1024 })
    }
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    println!(
        "{}, {} s a workload, volume of {} MiB, three nodes, three copies, {} between processes",
        machine(),
        flags.time().as_secs(),
        flags.mib(),
        if flags.unix { "unix sockets" } else { "TCP" }
    );
    println!(
        "CPU is of all processes and fio, in µs an I/O (of 1 MiB in the last two rows); W amp is bytes given to devices by all nodes for each byte written, three copies; ratios are ours / theirs: below 1 is better for CPU, above 1 for IOPS"
    );
    let disk = flags.disk.clone().unwrap_or_else(std::env::temp_dir);
    for (name, place) in [("memory", flags.memory.as_path()), ("disk", disk.as_path())] {
        if name.contains(&flags.only) {
            bench(name, place, &flags).with_context(|| format!("drives in {}", place.display()))?;
        }
    }
    Ok(())
}

/// What the figures depend on.
fn machine() -> String {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = text("/proc/cpuinfo");
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ")).map_or("?", |m| m.1);
    let memory = text("/proc/meminfo");
    let memory = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 20;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = text("/proc/sys/kernel/osrelease");
    let load = text("/proc/loadavg");
    let load = load.split_whitespace().next().unwrap_or("?");
    format!("{cores} cores ({model}), {memory} GiB, Linux {}, load {load} at the start", kernel.trim())
}

fn bench(name: &str, place: &Path, flags: &Flags) -> Result<()> {
    println!("\n== drives in {name}: {}", place.display());
    let size = flags.mib() << 20;
    let time = flags.time();
    let chosen: Vec<Workload> =
        Workload::ALL.into_iter().filter(|w| w.name.contains(flags.workload.as_str())).collect();
    let front = floors::Nbdkit::start(size)?;
    let raw = floors::RawFile::make(place, size)?;

    let volume = format!("v:{}MiB", flags.mib());
    let mut dev_flags = vec!["--volume", &volume];
    if let Some(lease) = &flags.lease {
        dev_flags.extend(["--lease", lease]);
    }
    if !flags.unix {
        dev_flags.push("--tcp-only");
    }
    dev_flags.extend(flags.dev.iter().map(String::as_str));
    let dev = Dev::start_on(place, &dev_flags)?;
    dev.wait_ok()?;
    let empty = Cost::of(&dev);
    Workload::FILL.run(&Workload::nbd(&dev.url("v")), size, None).context("fill the volume")?;
    front.fill(size)?;

    println!("{}", Row::head());
    for workload in chosen {
        let front =
            workload.measure(&Workload::nbd(&front.url()), size, time, Behind::Process(front.pid()))?;
        let raw = workload.measure(&raw.arguments(), size, time, Behind::Nothing)?;
        let own = workload.measure(&Workload::nbd(&dev.url("v")), size, time, Behind::Cluster(&dev))?;
        println!(
            "{}",
            Row { workload, own: &own, front: &front, raw: &raw, peer: peers::find(name, workload.name) }
        );
    }
    dev.wait_ok()?;
    let (busy, floor) = (Cost::of(&dev), Cost::of_process(front.pid()));
    let start = Instant::now();
    std::thread::sleep(flags.idle());
    let (idle, floor) = (Cost::of(&dev), Cost::of_process(front.pid()).cpu - floor.cpu);
    let seconds = start.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
    let share = |cpu: Duration| cpu.as_secs_f64() / seconds * 100.0;
    println!(
        "memory per node: {} (empty {}); export {}",
        busy.memory_of_nodes(),
        empty.memory_of_nodes(),
        busy.memory_of_exports()
    );
    println!("memory of nbdkit beside the volume it holds: {} MiB", front.memory_beside(size) >> 20);
    println!("{}", peers::MEMORY);
    println!(
        "idle: {:.2} % of a core for all processes over {seconds:.0} s (nbdkit {:.2} %)",
        share(idle.cpu - busy.cpu),
        share(floor)
    );
    Ok(())
}
