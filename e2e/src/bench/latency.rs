//! One 4 KiB write at a time, against what it cannot do without: three raw durable writes and two round trips.
//!
//! The three copies are written beside each other and not one after the other, so what is required is not a physical floor but
//! a budget; it is measured before and after the workload, and the two are averaged.
use super::flags::Flags;
use super::floors::{RawWrites, RoundTrips};
use super::stage::Stage;
use super::table::{Bound, Table};
use super::workload::{Behind, Workload};
use anyhow::Result;
use std::time::Duration;

/// Measures both.
pub fn run(stage: &Stage, flags: &Flags, table: &mut Table) -> Result<()> {
    let time = flags.time();
    let each = time / 4;
    let floor = || -> Result<(Duration, Duration)> {
        Ok((RawWrites::make(&stage.place)?.measure(each)?, RoundTrips::start()?.measure(each)?))
    };
    let before = floor()?;
    let own = Workload::LONE_WRITE.measure(&stage.volume(), stage.size, time, Behind::Cluster(&stage.dev))?;
    let after = floor()?;
    let (write, trip) = ((before.0 + after.0) / 2, (before.1 + after.1) / 2);
    let budget = write * 3 + trip * 2;
    let micros = |d: Duration| d.as_secs_f64() * 1e6;
    let mean = micros(own.fio.mean);
    println!(
        "one write at a time: mean {mean:.0} µs, p99 {:.0}; a raw dsync write {:.0} ({:.0} before, {:.0} after), a round trip {:.0} ({:.0}, {:.0})",
        micros(own.fio.p99),
        micros(write),
        micros(before.0),
        micros(after.0),
        micros(trip),
        micros(before.1),
        micros(after.1),
    );
    table.add(
        stage.name,
        "4K write QD1: latency against 3 raw writes + 2 round trips",
        mean / micros(budget),
        "x",
        Bound::at_most(1.5, 1.2),
        format!(
            "{mean:.0} µs against {:.0}: 3 x {:.0} dsync, 2 x {:.0} TCP",
            micros(budget),
            micros(write),
            micros(trip)
        ),
    );
    Ok(())
}
