//! One slice's copy-on-write store: blocks are never overwritten, corruption is always noticed, memory and restart bounded.
//!
//! A write takes a free place and a journal record, submitted together (S6). The record changes entries in memory, which lie
//! over those of the map on disk until a checkpoint merges them into it (S13). `FORMAT.md` shows every byte.
//!
//! ```text
//! persist -> journal block + data        group -> object -> stack       (in memory: not merged)
//! checkpoint                             slot  -> runs                  (on disk, cached: settled, not worth a leaf yet)
//!                                        slot  -> line   -> leaf        (on disk, cached: merged)
//! ```
//!
//! Reading order: [`disk`], [`events`] (the surface), [`store`] (persist, turns), `flight`, [`journal`]; what is not merged: [`group`],
//! [`object`], [`stack`]; what is: [`table`], [`leaf`], [`run`], [`page`], [`cache`]; both together: [`lookup`], [`listing`],
//! [`read`]; [`space`]; [`checkpoint`], `moves`, `merge`, `spill`, `stream`; [`open`], `replay`; then [`drive`] and [`memory`].
pub mod audit;
pub mod bytes;
pub mod cache;
pub mod checkpoint;
pub mod disk;
pub mod drive;
pub mod events;
pub mod file;
mod flight;
pub mod group;
pub mod inspect;
pub mod journal;
pub mod leaf;
pub mod listing;
pub mod lookup;
pub mod memory;
mod merge;
mod moves;
pub mod object;
pub mod open;
pub mod page;
mod pages;
pub mod place;
pub mod read;
pub mod region;
mod replay;
pub mod run;
pub mod space;
mod spill;
pub mod stack;
pub mod store;
mod stream;
pub mod table;
mod within;

pub use events::Token;
pub use open::{OpenError, Opened};
pub use region::SliceRegion;
pub use store::{Options, SpaceReport, Store};
