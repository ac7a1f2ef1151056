//! What a drive's opening needs of the format on it: the seam between threads and the store.
use super::machine::Opened;
use sarsen_buffer::Pool;
use sarsen_ring::{DriveFile, Ring};
use sarsen_types::{ClusterId, DriveIdentity, OpenId};
use std::sync::Arc;

/// What a superblock says.
#[derive(Clone, Debug, Default)]
pub struct Superblock {
    /// The drive.
    pub identity: DriveIdentity,
    /// The cluster it was registered in.
    pub cluster: Option<ClusterId>,
    /// The ids it held before this opening (R1).
    pub opens: Vec<OpenId>,
    /// How many slices it has.
    pub slices: u8,
}

/// What the opening of a slice's store found.
#[derive(Clone, Copy, Debug, Default)]
pub struct SliceFacts {
    /// Blocks of data it can hold.
    pub total_blocks: u64,
    /// Of them used.
    pub used_blocks: u64,
    /// It opened with a broken middle (S8).
    pub is_broken: bool,
}

/// A format of drives. Errors are one line that says what the drive is and what to do.
pub trait DriveFormat: Send + Sync + 'static {
    /// An opened slice.
    type Store: Opened;
    /// Reads the superblock and, unless it is another cluster's, makes `open` durable in it (R1, S6).
    fn open(&self, file: &Arc<DriveFile>, open: OpenId, ours: ClusterId) -> Result<Superblock, String>;
    /// Makes durable that this opening was registered in `cluster` (R1).
    fn registered(&self, file: &Arc<DriveFile>, cluster: ClusterId, open: OpenId) -> Result<(), String>;
    /// Opens the store of slice `index`, on the slice's thread.
    fn open_slice(
        &self,
        index: u8,
        open: OpenId,
        file: &Arc<DriveFile>,
        ring: &mut Ring,
        memory: usize,
        pool: &Pool,
    ) -> Result<(Self::Store, SliceFacts), String>;
}
