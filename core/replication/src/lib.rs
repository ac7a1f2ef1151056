//! The replication of groups as a state machine without I/O: what goes in is what happened, what comes out is to be done.
//!
//! ```text
//! client ──Client──▶ ┌─────────┐ ──Persist, Read──▶ store
//! peers  ──Peer────▶ │ Machine │ ──Send──▶ peers, Reply──▶ clients
//! store  ─Persisted▶ └─────────┘ ──Propose──▶ metadata
//! ```
//!
//! PacificA's shape: metadata say who, the group says what. A [`Machine`] is one slice with all its groups; each
//! [`group::Group`] is a replica or a primary in one epoch. The rules it keeps are numbered R1-R31 in the design's pages;
//! each is cited where it is kept. Invariants, checked by `sarsen-sim`: an answered write is on every in-sync copy; one
//! primary under lease; reads see the last answered write; copies agree when quiet; epochs only grow; recovery ends.
//!
//! Reading order, the path of a write: [`machine`] (step), [`clients`] (the door), [`requests`] (admit), [`primary`] (the
//! role), [`order`], [`replica`] (prepare), [`commit`]; then [`reads`], [`takeover`] with [`resolve`] and [`winners`],
//! [`join`] with [`recover`], [`repair`], [`fence`], and [`beats`] with [`peers`]; [`memory`] says how much of all that is kept.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod answers;
pub mod beats;
pub mod bounds;
pub mod clients;
pub mod commit;
pub mod counters;
pub mod cx;
pub mod fence;
pub mod group;
pub mod io;
pub mod join;
pub mod machine;
pub mod memory;
pub mod order;
pub mod peers;
pub mod primary;
pub mod reads;
pub mod recover;
pub mod repair;
pub mod replica;
pub mod requests;
pub mod resolve;
pub mod takeover;
pub mod wait;
pub mod winners;

pub use counters::Counters;
pub use io::{Blocks, ConnId, Input, Output, Read, ReadFailed, Token, Which};
pub use machine::{Config, Machine};
pub use memory::Memory;
