//! Aligned buffers and the checksums of what they hold: what store, client and drivers share of memory.
//!
//! A [`Pool`] belongs to one thread. A [`Buf`] is a counted view into one of its slots: cloning it or slicing it copies
//! nothing, and the slot returns to the pool with its last view.
pub mod arena;
pub mod checksum;
pub mod parts;
pub mod pool;

pub use arena::Arena;
pub use checksum::{block_checksum, bytes_checksum};
pub use parts::{Part, Parts, joined, push_part};
pub use pool::{Buf, Pool};
