//! One node, one copy, the same load over more slices and more volumes: what an I/O costs must not grow with either.
//!
//! 64 requests are under way in all, each volume has its share of them and a process of its own that exports it. Of many volumes
//! each process finds fewer requests in a turn: its cost is told apart from the node's.
use super::cost::{Cost, Kind, ended_children};
use super::flags::{Flags, MEMORY};
use super::table::{Bound, Table};
use super::workload::Workload;
use crate::dev::Dev;
use anyhow::{Context, Result};
use std::path::Path;
use std::time::Duration;

const SLICES: [u32; 3] = [1, 4, 8];
const VOLUMES: [u32; 3] = [1, 8, 64];
const CHUNK: u64 = 4 << 20;

/// CPU-µs an I/O.
#[derive(Clone, Copy, Debug)]
struct Spent {
    all: f64,
    node: f64,
    export: f64,
    client: f64,
    iops: f64,
}

/// Each combination, in a cluster of its own.
pub fn run(name: &'static str, place: &Path, flags: &Flags, table: &mut Table) -> Result<()> {
    let mut first: Option<[Spent; 2]> = None;
    println!(
        "one node, one copy, 64 under way in all: CPU-µs an I/O of all processes (node, exports, fio), IOPS"
    );
    for slices in SLICES {
        for volumes in VOLUMES {
            let spent = measure(name, place, flags, slices, volumes)
                .with_context(|| format!("{slices} slices, {volumes} volumes"))?;
            let words = |s: Spent| {
                let Spent { all, node, export, client, iops } = s;
                format!("{all:.1} ({node:.1}, {export:.1}, {client:.1}) {iops:.0}")
            };
            println!(
                "{slices} slices, {volumes:>2} volumes: write {}, read {}",
                words(spent[0]),
                words(spent[1])
            );
            let Some(first) = first else {
                first = Some(spent);
                continue;
            };
            for ((what, then), now) in ["write", "read"].into_iter().zip(first).zip(spent) {
                for (whose, then, now) in
                    [("all processes", then.all, now.all), ("the node", then.node, now.node)]
                {
                    table.add(
                        name,
                        format!("{slices} slices, {volumes} volumes: CPU a {what}, {whose}"),
                        now / then,
                        "x",
                        Bound::at_most(1.15, 1.05),
                        format!("{now:.1} µs against {then:.1} with 1 and 1"),
                    );
                }
            }
        }
    }
    Ok(())
}

/// Writes, then reads.
fn measure(name: &str, place: &Path, flags: &Flags, slices: u32, volumes: u32) -> Result<[Spent; 2]> {
    let size = flags.size() / u64::from(volumes) / CHUNK * CHUNK;
    let mut given = flags.common();
    given.extend(["--nodes=1".into(), "--copies=1".into(), format!("--slices={slices}")]);
    given.push(format!("--drive-size={}MiB", flags.drive_mib(name)));
    let names: Vec<String> = (0..volumes).map(|n| format!("v{n}")).collect();
    given.extend(names.iter().map(|name| format!("--volume={name}:{}MiB", size >> 20)));
    let mut dev = Dev::start_on(place, &given.iter().map(String::as_str).collect::<Vec<_>>())?;
    dev.wait_ok()?;
    if name == MEMORY {
        dev.touch_drives(1)?;
    }
    let places: Vec<Vec<String>> = names.iter().map(|name| Workload::nbd(&dev.url(name))).collect();
    for place in &places {
        Workload::FILL.run(place, size, None).context("fill the volumes")?;
    }
    let run = |is_read| -> Result<Spent> {
        let (before, own) = (Cost::of(&dev), ended_children());
        let fio = Workload::spread(is_read, volumes).run_on(&places, size, Some(flags.time()))?;
        let client = ended_children() - own;
        let after = Cost::of(&dev);
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / (fio.ios as f64).max(1.0);
        let of = |kind| after.cpu_of(kind).saturating_sub(before.cpu_of(kind));
        Ok(Spent {
            all: each(after.cpu().saturating_sub(before.cpu()) + client),
            node: each(of(Kind::Node)),
            export: each(of(Kind::Export)),
            client: each(client),
            iops: fio.iops,
        })
    };
    Ok([run(false)?, run(true)?])
}
