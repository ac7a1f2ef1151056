//! Cluster metadata as a pure state machine: a command in, the next state and an answer out.
//!
//! ```text
//! Entry{at_ms, request, command} --State::apply--> Answer      replicated by raft, equal on every node
//! reconcile(&State, heard, now)  -> commands                   on the leader: what is seen becomes what is recorded
//! state.view_of(slice), state.volume_map(attachment)           what slices and clients are told
//! ```
//! Reading order: `state` (what is recorded), `command`, `change` (every change of a group: R6, R9, R11, R12), `register`
//! (R1), `forget` (R28), `attach` (R31, R44), `volumes` (R38), `view`, `reconcile` (R19, R20), `health`.
//! Invariants, checked after each command in debug builds: `State::is_consistent`.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod apply;
mod attach;
mod change;
pub mod command;
mod digest;
mod forget;
pub mod health;
pub mod reconcile;
mod register;
pub mod state;
pub mod tombstones;
mod view;
mod volumes;

pub use command::{Answer, Command, Entry, Refusal, RefusalKind};

pub use health::{Health, health};
pub use reconcile::{balance, hand_over, is_missed, outlived, reconcile};
pub use state::State;
