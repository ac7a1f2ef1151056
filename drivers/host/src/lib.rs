//! Volumes to devices on a host.
