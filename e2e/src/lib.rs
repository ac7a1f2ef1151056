//! Real processes, real clients, real `kill -9`: the harness that the end-to-end tests and the benchmark stand on.
//!
//! Reading order: [`program`] (where `sarsen` is), [`dev`] (a cluster of processes that always ends with the test),
//! [`nodes`] (one whose drives the test brings), [`nbd`] (a client of our own), [`checker`] (writes, and remembers what was
//! answered), [`fio`] and [`process`] (what it cost), [`power`] (power loss in a machine of its own).
pub mod bench;
pub mod chaos;
pub mod checker;
pub mod dev;
pub mod fio;
pub mod history;
pub mod image;
pub mod nbd;
pub mod nodes;
pub mod power;
pub mod process;
pub mod program;
