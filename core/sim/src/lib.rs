//! A whole cluster on one thread from a seed, with faults, and its checkers. It runs the machines that ship.
//!
//! [`cluster`] holds the [`node`]s (a slice over its store over a disk in memory), the [`net`] between them, and the
//! [`metadata`], which answer late or lose their answer; [`workload`] what clients ask, half of them through the real
//! initiator ([`driver`]), half without manners ([`rough`]); [`faults`] and [`rot`] what goes wrong; [`check`], [`watch`]
//! and [`agree`] what must hold; [`run`] one seed from start to quiet;
//! [`script`] what is done in it, [`shrink`] how little of that still fails, [`story`] that in words.
pub mod agree;
pub mod check;
pub mod cluster;
pub mod driver;
pub mod failure;
pub mod faults;
pub mod metadata;
pub mod net;
pub mod node;
pub mod numbers;
pub mod rot;
pub mod rough;
pub mod run;
pub mod script;
pub mod shrink;
pub mod story;
pub mod watch;
pub mod workload;
