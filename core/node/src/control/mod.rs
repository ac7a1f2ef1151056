//! The control side of a node.
pub mod log;
pub mod machine;
pub mod raft;
