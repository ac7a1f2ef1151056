//! One line of the report.
use super::peers::Peer;
use super::workload::{Outcome, Workload};
use std::fmt;

/// A workload's figures beside its floors and a peer.
#[derive(Debug)]
pub struct Row<'a> {
    /// What was done.
    pub workload: Workload,
    /// By us.
    pub own: &'a Outcome,
    /// By the NBD hop alone.
    pub front: &'a Outcome,
    /// By one raw file.
    pub raw: &'a Outcome,
    /// By a peer, measured before.
    pub peer: Option<Peer>,
}

impl Row<'_> {
    /// The columns.
    pub fn head() -> String {
        format!(
            "{:<15} {:>8} {:>9} {:>9} {:>9} {:>8} {:>6} | {:>16} | {:>16} | {:>16}",
            "",
            "IOPS",
            "mean µs",
            "p99 µs",
            "max ms",
            "CPU-µs",
            "W amp",
            "nbdkit IOPS/CPU",
            "raw IOPS/CPU",
            "Vitastor IOPS/CPU"
        )
    }
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = |d: std::time::Duration| d.as_secs_f64() * 1e6;
        let (own, cpu) = (self.own.fio.iops, micros(self.own.cpu_per_io));
        let ratio = |iops: f64, theirs: f64| format!("{:>7.2}x {:>6.2}x", own / iops, cpu / theirs);
        write!(
            f,
            "{:<15} {:>8.0} {:>9.0} {:>9.0} {:>9.1} {:>8.1} {:>6} | {:>16} | {:>16} | {:>16}",
            self.workload.name,
            own,
            micros(self.own.fio.mean),
            micros(self.own.fio.p99),
            micros(self.own.fio.longest) / 1000.0,
            cpu,
            self.own.amplification.map_or_else(|| "-".to_owned(), |a| format!("{a:.2}")),
            ratio(self.front.fio.iops, micros(self.front.cpu_per_io)),
            ratio(self.raw.fio.iops, micros(self.raw.cpu_per_io)),
            self.peer.map_or_else(|| "-".to_owned(), |p| ratio(p.iops, p.cpu)),
        )
    }
}
