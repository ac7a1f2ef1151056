//! What peers reached on this class of machine: constants with their source, to be compared as ratios only.
//!
//! Measured on 2026-11-23 on 2 cores, 24 GiB, Linux 6.18: Vitastor 3.0.8 with its own fio engine (so without an NBD hop),
//! three storage daemons, three copies, everything on loopback TCP, 10 s runs, median of three, checksums off.

/// A peer's figures for one workload.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    place: &'static str,
    workload: &'static str,
    /// I/Os per second.
    pub iops: f64,
    /// CPU-µs of all daemons and the client for each I/O.
    pub cpu: f64,
}

const fn peer(place: &'static str, workload: &'static str, iops: f64, cpu: f64) -> Peer {
    Peer { place, workload, iops, cpu }
}

/// Vitastor. Sequential figures are MiB/s and CPU-µs per MiB, which for 1 MiB requests is the same.
const VITASTOR: [Peer; 10] = [
    peer("memory", "4K write QD1", 1812.0, 604.0),
    peer("memory", "4K write QD32", 10_500.0, 178.0),
    peer("memory", "4K read QD1", 4850.0, 182.0),
    peer("memory", "4K read QD32", 35_700.0, 51.0),
    peer("memory", "4K 70/30 QD16", 16_850.0, 113.0),
    peer("memory", "1M write QD8", 308.0, 5805.0),
    peer("memory", "1M read QD8", 1091.0, 1606.0),
    peer("disk", "4K write QD1", 914.0, 706.0),
    peer("disk", "4K write QD32", 5434.0, 201.0),
    peer("disk", "4K 70/30 QD16", 9008.0, 146.0),
];

/// Memory of peers' daemons, from the same runs.
pub const MEMORY: &str = "memory of peers: a Vitastor daemon 70-290 MiB, a Ceph daemon 640-1,050 MiB";

/// Vitastor's figures for a workload, where there are any.
pub fn find(place: &str, workload: &str) -> Option<Peer> {
    VITASTOR.into_iter().find(|p| p.place == place && p.workload == workload)
}
