//! The data side of a node: its port, its drives, one thread per slice.
//!
//! ```text
//! let port  = Arc::new(DataPort::start(DataPortConfig { listen, unix }, identity)?);       one a node (L1)
//! let drive = open_drive(DriveConfig::new(path, lease), &port, reports)?;    locks it, writes a fresh open id (R1), starts threads
//! ... register drive.facts() with metadata: one command (R1) ...
//! drive.registered(id, &views, is_stale)?;   durable in the superblock, then told to every slice and served by the port
//! drive.learned(&views) / drive.peers(&map)  whenever they change: one view a slice, by index
//! drive.stop(); drive.join();                hands over (metadata name successors meanwhile), ends the threads: `Stopped` each
//! ```
//! What slices say ([`FromSlice`]) goes to `reports`, a function called on their threads: it must not block.
pub mod acceptor;
mod alarms;
pub mod budget;
pub mod drive;
pub mod format;
mod links;
pub mod machine;
pub mod slice;
mod start;
#[cfg(test)]
mod tests;
pub mod thread;

pub use acceptor::{DataPort, DataPortConfig, DataPortError};
pub use drive::{DriveConfig, DriveError, DriveFacts, DriveHandle, open_drive, open_drive_of};

pub use start::{SliceHandle, Started, start_slice};

use crate::seam::FromSlice;
use std::sync::Arc;

/// Where slices' words go. Called on the slices' threads; must not block.
pub type Reports = Arc<dyn Fn(FromSlice) + Send + Sync>;
