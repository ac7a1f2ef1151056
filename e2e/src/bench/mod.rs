//! What the benchmark is made of: workloads, what they cost, floors beside them, peers measured before.
//!
//! Reading order: [`flags`] (what is asked), [`stage`] (a cluster and its floors), [`workload`] and [`workloads`] (fio), then the
//! parts that are none of fio's: [`latency`], [`idle`], [`sustained`], [`open`], [`spread`], [`count`]; [`table`] says what each
//! figure is held against.
pub mod cost;
pub mod count;
pub mod flags;
pub mod floors;
pub mod idle;
pub mod latency;
pub mod load;
pub mod log;
pub mod open;
pub mod peers;
pub mod report;
pub mod spread;
pub mod stage;
pub mod sustained;
pub mod table;
pub mod workload;
pub mod workloads;
