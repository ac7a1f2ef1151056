//! The benchmark: fio over NBD on three nodes and TCP, beside floors in the same run, every figure with its ratios; then what
//! must be met and what is aimed for.
use anyhow::{Context, Result};
use clap::Parser;
use sarsen_e2e::bench::flags::{Flags, Row};
use sarsen_e2e::bench::stage::Stage;
use sarsen_e2e::bench::table::Table;
use sarsen_e2e::bench::{count, idle, latency, open, spread, sustained, workloads};
use std::path::Path;

fn main() -> Result<()> {
    let flags = Flags::parse();
    let mut table = Table { machine: machine(), ..Table::default() };
    println!(
        "{}; {} s a workload, volume of {} MiB, three nodes, three copies, {} between processes, leases {}",
        table.machine,
        flags.time().as_secs(),
        flags.size() >> 20,
        if flags.unix { "unix sockets" } else { "TCP" },
        flags.lease_words(),
    );
    println!(
        "CPU is of all processes and fio, in µs an I/O (of 1 MiB in the last two rows); W amp is bytes given to devices by all nodes for each byte written, three copies; ratios are ours / theirs: below 1 is better for CPU, above 1 for IOPS"
    );
    let mut failed = 0;
    for (name, place) in flags.places() {
        println!("\n== drives in {name}: {}", place.display());
        for part in [on_stage, sustained_writes, starts, slices_and_volumes, counts] {
            // what the others found is told all the same
            if let Err(why) = part(name, &place, &flags, &mut table) {
                failed += 1;
                println!("failed, drives in {}: {why:#}", place.display());
            }
        }
    }
    println!("\n{table}");
    if let Some(path) = &flags.json {
        std::fs::write(path, serde_json::to_string_pretty(&table)?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    anyhow::ensure!(failed == 0, "{failed} parts failed");
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

fn on_stage(name: &'static str, place: &Path, flags: &Flags, table: &mut Table) -> Result<()> {
    let (has_workloads, has_latency) = (flags.wants(Row::Workloads), flags.wants(Row::Latency));
    if !has_workloads && !has_latency && !flags.wants(Row::Idle) {
        return Ok(());
    }
    let stage = Stage::set(name, place, flags)?;
    if has_workloads {
        workloads::run(&stage, flags, table)?;
    }
    if has_latency {
        latency::run(&stage, flags, table)?;
    }
    if flags.wants(Row::Idle) {
        idle::run(&stage, flags, has_workloads, table)?;
    }
    Ok(())
}

fn sustained_writes(name: &'static str, place: &Path, flags: &Flags, table: &mut Table) -> Result<()> {
    if flags.wants(Row::Sustained) { sustained::run(name, place, flags, table) } else { Ok(()) }
}

fn starts(name: &'static str, place: &Path, flags: &Flags, table: &mut Table) -> Result<()> {
    if flags.wants(Row::Open) { open::run(name, place, flags, table) } else { Ok(()) }
}

/// On one place only: it is the processor's time that is compared.
fn slices_and_volumes(name: &'static str, place: &Path, flags: &Flags, table: &mut Table) -> Result<()> {
    let is_first = flags.places().first().is_some_and(|p| p.0 == name);
    if flags.wants(Row::Spread) && is_first { spread::run(name, place, flags, table) } else { Ok(()) }
}

fn counts(name: &'static str, place: &Path, flags: &Flags, table: &mut Table) -> Result<()> {
    if flags.count { count::run(name, place, flags, table) } else { Ok(()) }
}
