//! Faults drawn at random against a cluster of real processes, under clients whose every operation is remembered.
//!
//! Reading order: [`net`] (hosts of their own, links that are cut), [`drive`] (drives that misbehave), [`cluster`] (nodes and
//! exports on them), [`fault`] (what goes wrong, and how it is put right), [`shared`] (clients on one small region, judged by
//! [`crate::history`]), [`run`] (the loop and its summary).
pub mod cluster;
pub mod drive;
pub mod fault;
pub mod net;
pub mod run;
pub mod shared;
