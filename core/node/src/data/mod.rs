//! The data side of a node: its port, its drives, one thread per slice.
//!
//! ```text
//! let port  = DataPort::start(DataPortConfig { listen, unix }, identity)?;      one a node (L1)
//! let drive = open_drive(DriveConfig { path, lease, memory }, &port, reports)?; opens, writes a fresh open id (R1), starts threads
//! ... register drive.facts() with metadata: one command (R1) ...
//! drive.registered(id, cluster, views, stale)?;   durable in the superblock, then told to every slice; the port serves them from here on
//! drive.learned(view) / drive.peers(map)          now and then; both only look at what changed
//! drive.stop()                                    hand over, then end the threads (reports `Stopped` for each slice)
//! drive.join()                                    waits for the threads
//! ```
//! What slices say ([`FromSlice`]) goes to `reports`, a function called on their threads: it must not block.
pub mod acceptor;
pub mod drive;
mod key;
mod links;
pub mod machine;
mod start;
mod stream;
#[cfg(test)]
mod tests;
pub mod thread;

pub use acceptor::{DataPort, DataPortConfig, DataPortError};
pub use drive::{DriveConfig, DriveError, DriveFacts, DriveHandle, open_drive};

pub use start::{SliceHandle, Started, start_slice};

use crate::seam::FromSlice;
use std::sync::Arc;

/// Where slices' words go. Called on the slices' threads; must not block.
pub type Reports = Arc<dyn Fn(FromSlice) + Send + Sync>;
