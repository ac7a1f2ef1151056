//! Pure placement: policy and drives to the slices of a group.
#![no_std]
extern crate alloc;
