//! The benchmark: fio over NBD on three nodes and TCP, beside floors in the same run, every figure with its ratios.
use anyhow::{Context, Result};
use clap::Parser;
use sarsen_e2e::bench::cost::Cost;
use sarsen_e2e::bench::report::Row;
use sarsen_e2e::bench::workload::{Behind, Workload};
use sarsen_e2e::bench::{floors, peers};
use sarsen_e2e::dev::Dev;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// fio over NBD on a cluster of this machine, beside floors
#[derive(Parser)]
struct Flags {
    /// Seconds of each workload
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Seconds over which the idle cluster is watched
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Where drives are in memory
    #[arg(long, default_value = "/dev/shm")]
    memory: PathBuf,
    /// Where drives are on a disk [default: the directory for temporary files]
    #[arg(long)]
    disk: Option<PathBuf>,
    /// MiB of the volume
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Only places whose name contains this: memory, disk
    #[arg(long, default_value = "")]
    only: String,
    /// Only workloads whose name contains this
    #[arg(long, default_value = "")]
    workload: String,
    /// How reads are leased [default: the product's own choice]
    #[arg(long)]
    lease: Option<String>,
    /// More flags for `sarsen dev`
    #[arg(last = true)]
    dev: Vec<String>,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    println!(
        "{} cores, {} s a workload, volume of {} MiB, three nodes, three copies",
        cores(),
        flags.seconds,
        flags.mib
    );
    println!(
        "CPU is of all processes and the client, in µs an I/O; ratios are ours / theirs: below 1 is better for CPU, above 1 for IOPS"
    );
    let disk = flags.disk.clone().unwrap_or_else(std::env::temp_dir);
    for (name, place) in [("memory", flags.memory.as_path()), ("disk", disk.as_path())] {
        if name.contains(&flags.only) {
            bench(name, place, &flags).with_context(|| format!("drives in {}", place.display()))?;
        }
    }
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn bench(name: &str, place: &Path, flags: &Flags) -> Result<()> {
    println!("\n== drives in {name}: {}", place.display());
    let size = flags.mib << 20;
    let time = Duration::from_secs(flags.seconds);
    let chosen: Vec<Workload> =
        Workload::ALL.into_iter().filter(|w| w.name.contains(flags.workload.as_str())).collect();
    let front = floors::Nbdkit::start(size)?;
    let raw = floors::RawFile::make(place, size)?;

    let volume = format!("v:{}MiB", flags.mib);
    let mut dev_flags = vec!["--volume", &volume];
    if let Some(lease) = &flags.lease {
        dev_flags.extend(["--lease", lease]);
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
    let busy = Cost::of(&dev);
    std::thread::sleep(Duration::from_secs(flags.idle));
    let idle = Cost::of(&dev);
    println!(
        "memory per node: {} (empty {}); export {}",
        busy.memory_of_nodes(),
        empty.memory_of_nodes(),
        busy.memory_of_exports()
    );
    println!("{}", peers::MEMORY);
    let share = (idle.cpu - busy.cpu).as_secs_f64() / flags.idle.max(1) as f64;
    println!("idle: {:.2} % of a core for all processes over {} s", share * 100.0, flags.idle);
    Ok(())
}
