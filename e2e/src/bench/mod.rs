//! What the benchmark is made of: workloads, what they cost, floors beside them, peers measured before.
pub mod cost;
pub mod floors;
pub mod peers;
pub mod report;
pub mod workload;
