//! The control side of a node: the metadata by raft, the API, the drives' registration, a planned stop.
//!
//! ```text
//! directory   who this node is               desk     what all tasks share; the way to the leader
//! log machine raft's disk and state          raft     its types, and HTTP between nodes
//! join        becoming one of the cluster    lead     the leader's work: reconcile, space
//! voters      who votes                      clock    the leader's time
//! drives      open, register, views, proposals           ways     to the leader, where the straight one is cut
//! shown       the metadata as the rest of the node sees them
//! api answers volumes                        REST
//! ```
pub mod answers;
pub mod api;
pub mod clock;
pub mod desk;
pub mod directory;
pub mod drives;
pub mod join;
pub mod lead;
pub mod log;
pub mod machine;
pub mod raft;
pub mod run;
pub mod shown;
pub mod volumes;
pub mod voters;
pub mod ways;
