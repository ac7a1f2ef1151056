//! The node process: one control thread and one thread per slice, joined by `seam`.
pub mod control;
pub mod data;
pub mod seam;

pub use control::run::{NodeConfig, run};
