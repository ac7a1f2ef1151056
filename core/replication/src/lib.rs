//! The replication of groups as a state machine without I/O.
#![no_std]
extern crate alloc;
