//! One slice's copy-on-write store: blocks are never overwritten, corruption is always noticed, memory and restart bounded.
//!
//! A write takes a free place and a journal record, submitted together (S6); the record changes the map in memory, where
//! entries wait over the settled ones until a checkpoint merges them into leaves (S13). `FORMAT.md` shows every byte.
//!
//! Reading order: [`disk`], [`events`] (the surface), [`store`] (persist, turns), [`journal`], [`object`] and [`group`] (the
//! map), [`read`], [`space`], [`page`], [`checkpoint`], [`open`] (replay); then [`drive`] (superblocks) and [`memory`].
pub mod bytes;
pub mod checkpoint;
pub mod disk;
pub mod drive;
pub mod events;
pub mod file;
pub mod group;
pub mod inspect;
pub mod journal;
pub mod memory;
pub mod object;
pub mod open;
pub mod page;
pub mod place;
pub mod read;
pub mod space;
pub mod store;

pub use events::Token;
pub use open::{OpenError, Opened};
pub use store::{Options, SliceRegion, SpaceReport, Store};
