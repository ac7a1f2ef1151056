//! What the cluster takes while nobody asks anything of it, with a volume attached.
use super::cost::{Cost, Kind};
use super::flags::Flags;
use super::peers;
use super::stage::Stage;
use super::table::{Bound, Table};
use anyhow::Result;
use std::time::{Duration, Instant};

/// Watches it; `has_worked` tells whether workloads ran before, so that its memory is that of a node in use.
pub fn run(stage: &Stage, flags: &Flags, has_worked: bool, table: &mut Table) -> Result<()> {
    stage.dev.wait_ok()?;
    let (busy, floor) = (Cost::of(&stage.dev), Cost::of_process(stage.front.pid()));
    let start = Instant::now();
    std::thread::sleep(flags.idle_time());
    let (idle, after) = (Cost::of(&stage.dev), Cost::of_process(stage.front.pid()));
    let seconds = start.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
    let share = |cpu: Duration| cpu.as_secs_f64() / seconds * 100.0;
    let all = idle.cpu().saturating_sub(busy.cpu());
    let nbdkit = after.cpu().saturating_sub(floor.cpu());
    println!(
        "memory per node: {} (empty {}); export {}",
        busy.memory_of(Kind::Node),
        stage.empty.memory_of(Kind::Node),
        busy.memory_of(Kind::Export)
    );
    println!(
        "memory of nbdkit beside the volume it holds: {} MiB",
        stage.front.memory_beside(stage.size) >> 20
    );
    println!("{}", peers::MEMORY);
    println!(
        "idle: {:.2} % of a core for all processes over {seconds:.0} s (nbdkit {:.2} %)",
        share(all),
        share(nbdkit)
    );
    let mut nodes: Vec<f64> = idle.cpu_since(&busy, Kind::Node).into_iter().map(share).collect();
    nodes.sort_by(f64::total_cmp);
    let exports: Vec<String> =
        idle.cpu_since(&busy, Kind::Export).into_iter().map(|cpu| format!("{:.2}", share(cpu))).collect();
    let each: Vec<String> = nodes.iter().map(|n| format!("{n:.2}")).collect();
    table.add(
        stage.name,
        "idle node with an attached volume: share of a core",
        nodes.get(nodes.len() / 2).copied(),
        "%",
        Bound::at_most(1.0, 0.3),
        format!("median of {}; export {}; {seconds:.0} s", each.join(" "), exports.join(" ")),
    );
    let when = if has_worked { "after the runs" } else { "after the volume was written once" };
    table.add(
        stage.name,
        format!("memory of a node {when}"),
        idle.most_memory_of(Kind::Node).map(|bytes| (bytes >> 20) as f64),
        "MiB",
        Bound::at_most(400.0, 350.0),
        format!("the most of {}; empty {}", idle.memory_of(Kind::Node), stage.empty.memory_of(Kind::Node)),
    );
    Ok(())
}
