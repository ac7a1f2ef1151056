//! Volumes to devices on a host. Today: a volume over NBD, as a process in the foreground.
//!
//! ```text
//! main thread    attach through the API, follow the volume's map, wait for signals      [`attach`]
//!                when the map is doubted: the next node is asked                         [`doubt`]
//! data thread    one ring: NBD clients and slices in one turn, no channel between (L5)   [`serve`]
//!                clients that are not read from for a while                              [`rest`]
//! ```
//! All NBD connections of an export belong to one session, whose one owner keeps overlapping writes in order (R22).
pub mod attach;
pub mod doubt;
pub mod links;
pub mod rest;
pub mod serve;

pub use attach::{ExportConfig, Listen, STOP_MAX, export_nbd};
