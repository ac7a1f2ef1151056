//! fio's workloads on the cluster, each beside the NBD hop alone and a raw file in the same run.
use super::flags::Flags;
use super::peers::{self, Peer};
use super::report::Row;
use super::stage::{COPIES, Stage};
use super::table::{Bound, Table};
use super::workload::{Behind, Outcome, Workload};
use anyhow::Result;

/// Runs those that are asked for.
pub fn run(stage: &Stage, flags: &Flags, table: &mut Table) -> Result<()> {
    println!("{}", Row::head());
    let (size, time) = (stage.size, flags.time());
    for workload in Workload::ALL.into_iter().filter(|w| w.name.contains(flags.workload.as_str())) {
        let (url, behind) = (Workload::nbd(&stage.front.url()), Behind::Process(stage.front.pid()));
        let front = workload.measure(&url, size, time, behind)?;
        let raw = workload.measure(&stage.raw.arguments(), size, time, Behind::Nothing)?;
        let own = workload.measure(&stage.volume(), size, time, Behind::Cluster(&stage.dev))?;
        let peer = peers::find(stage.name, workload.name);
        println!("{}", Row { workload, own: &own, front: &front, raw: &raw, peer });
        judge(stage, flags, workload.name, [&own, &front, &raw], peer, table);
    }
    Ok(())
}

/// What of a workload is held against something.
fn judge(
    stage: &Stage,
    flags: &Flags,
    name: &str,
    [own, front, raw]: [&Outcome; 3],
    peer: Option<Peer>,
    table: &mut Table,
) {
    let micros = |o: &Outcome| o.cpu_per_io.as_secs_f64() * 1e6;
    let hop = micros(front);
    let (cpu, reached) = match name {
        "4K write QD1" => (Some(Bound::at_most(300.0, 200.0)), None),
        "4K write QD32" => (Some(Bound::at_most(110.0, 85.0)), Some(Bound::at_least(1.5, 2.0))),
        "4K read QD32" => {
            (Some(Bound::at_most(45.0, (27.0 + hop).min(45.0))), Some(Bound::at_least(1.0, 1.5)))
        }
        "1M write QD8" => (None, Some(Bound::at_least(2.0, 3.0))),
        "1M read QD8" => (None, Some(Bound::at_least(1.2, 1.5))),
        _ => (None, None),
    };
    let is_large = name.starts_with("1M");
    let of_peer = peer.map_or_else(String::new, |p| format!(", Vitastor {:.0}", p.cpu));
    table.add(
        stage.name,
        format!("{name}: CPU of all processes an I/O"),
        micros(own),
        "µs",
        cpu,
        format!("NBD hop alone {hop:.1}, raw file {:.1}{of_peer}", micros(raw)),
    );
    let unit = if is_large { "MiB/s" } else { "IOPS" };
    let floors = format!("NBD hop alone {:.0}, raw file {:.0}", front.fio.iops, raw.fio.iops);
    match peer {
        Some(p) => {
            let beside = format!("{:.0} {unit} against {:.0}; {floors}", own.fio.iops, p.iops);
            let what = format!("{name}: {unit} against Vitastor");
            table.add(stage.name, what, own.fio.iops / p.iops, "x", reached, beside);
        }
        None => table.add(stage.name, format!("{name}: {unit}"), own.fio.iops, unit, None, floors),
    }
    if let Some(amplification) = own.amplification {
        let bound = (name == "4K write QD32").then_some(Bound::at_most(1.4, 1.15));
        table.add(
            stage.name,
            format!("{name}: bytes to a drive a byte written to it"),
            amplification / COPIES,
            "x",
            bound,
            format!(
                "drives of {} MiB, a volume of {} MiB, {} s",
                flags.drive_mib(stage.name),
                stage.size >> 20,
                flags.time().as_secs()
            ),
        );
    }
}
