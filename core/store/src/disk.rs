//! What a store needs of a device: submit, and completions that come back as inputs.
use sarsen_buffer::Buf;
use smallvec::SmallVec;

/// Buffers of one write, at most: of 1,024 Linux takes no more (`UIO_MAXIOV`).
pub const WRITE_BUFS_MAX: usize = 512;

/// Names an operation on a disk; chosen by who submits it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpId(pub u64);

/// The end of an operation.
#[derive(Debug)]
pub struct Completion {
    /// Which.
    pub id: OpId,
    /// The buffer of a read, filled; of a write or flush nothing.
    pub buf: Option<Buf>,
    /// Whether it was done whole. A short read or write is an error.
    pub result: Result<(), DiskError>,
}

/// Why an operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DiskError {
    /// The device said so, with this errno.
    #[error("the device failed with errno {0}")]
    Io(i32),
}

/// Memory of one write: that of a usual turn without an allocation (L8).
pub type Bufs = SmallVec<[Buf; 8]>;

/// A block device, a file, or memory that remembers what was synced.
///
/// Offsets and lengths are in bytes and multiples of 4,096. Nothing is ordered: a flush covers the writes that had
/// *completed* when it was submitted (S7). Operations are submitted at once or at the end of the turn, and complete
/// through [`Disk::poll`] or [`Disk::wait`] in any order.
pub trait Disk {
    /// Bytes of it.
    fn size(&self) -> u64;
    /// Reads `buf.len()` bytes into `buf`, which comes back with the completion.
    fn read(&mut self, id: OpId, offset: u64, buf: Buf);
    /// Writes `bufs`, at most [`WRITE_BUFS_MAX`], one after the other from `offset` on. Durable when completed if [`Disk::writes_are_durable`].
    fn write(&mut self, id: OpId, offset: u64, bufs: Bufs);
    /// Makes completed writes durable.
    fn flush(&mut self, id: OpId);
    /// Gives wholly unused space back; a hint.
    fn trim(&mut self, id: OpId, offset: u64, len: u64);
    /// Whether writes complete where they are submitted, so that two cost no more time than one (L6).
    fn is_inline(&self) -> bool {
        false
    }
    /// Whether a completed write is durable without a flush (DSYNC files, write-through devices).
    fn writes_are_durable(&self) -> bool;
    /// Completions there are, without waiting.
    fn poll(&mut self, out: &mut Vec<Completion>);
    /// Completions, at least one if anything is in flight: used by opening, formatting and tools only.
    fn wait(&mut self, out: &mut Vec<Completion>);
}
