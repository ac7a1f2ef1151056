//! One slice's copy-on-write store.
pub mod disk;
pub mod events;
