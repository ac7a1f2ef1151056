//! Faults drawn at random against a cluster of real processes, under clients whose every operation is remembered.
//!
//! Reading order: [`fault`] (what goes wrong, and how it is put right), [`shared`] (clients on one small region, judged by
//! [`crate::history`]), [`run`] (the loop and its summary).
pub mod fault;
pub mod run;
pub mod shared;
