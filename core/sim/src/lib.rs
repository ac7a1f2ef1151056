//! A whole cluster on one thread from a seed, with faults, and its checkers. It runs the machines that ship.
//!
//! [`cluster`] holds nodes (a slice over its store over a disk in memory), ordered streams that delay and break, and the
//! metadata, which answer late or lose their answer; [`workload`] clients that write, read, retry and restart;
//! [`check`] what they may see; [`faults`] what goes wrong; [`run`] one seed from start to quiet.
pub mod check;
pub mod cluster;
pub mod faults;
pub mod run;
pub mod workload;
