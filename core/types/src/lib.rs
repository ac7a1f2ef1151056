//! Ids, geometry, versions, records and limits: the words of Sarsen as types.
//!
//! Reading order: `ids`, `geometry`, `version`, `time`, `limits`; then `request` (R21), `record` (what a journal
//! record says), `ledger` (what a copy durably knows of its group beside blocks), `group` (what metadata say) and `alarm` (what operators
//! must hear of one).
//! Rule numbers (R.., S..) are those of the design's rule pages; `core/README.md` lists where each is kept.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod alarm;
pub mod geometry;
pub mod group;
pub mod ids;
pub mod ledger;
pub mod limits;
pub mod record;
pub mod request;
pub mod slab;
pub mod time;
pub mod version;
pub mod view;

pub use alarm::Alarm;
pub use geometry::{BLOCK_SIZE, BLOCKS_PER_CHUNK, BlockRange, CHUNK_SIZE, ChunkIndex, ObjectId};
pub use group::{GroupState, Joining, Member};
pub use ids::{
    AttachmentId, ClusterId, DriveId, DriveIdentity, FamilyId, Generation, GroupId, LayerId, NodeId, OpenId,
    QueueId, Revision, SessionId, SliceId, VolumeId,
};
pub use ledger::Ledger;
pub use record::{Content, Record};
pub use request::{Mark, RequestId, RequestNote};
pub use time::{Duration, Instant};
pub use version::{Checksum, Epoch, Version};
pub use view::{GroupChange, Proposal, View, VolumeMap};
