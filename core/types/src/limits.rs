//! Every bound of the data plane, named (R41). Bounds end in `_MAX`.
use crate::time::Duration;

/// Blocks of a piece: what is ordered, journaled and answered as one (R8, S11).
pub const PIECE_BLOCKS_MAX: u16 = 64;
/// Bytes of a piece.
pub const PIECE_BYTES_MAX: usize = PIECE_BLOCKS_MAX as usize * crate::BLOCK_SIZE;
/// A primary may answer reads for this long after it *sent* an acknowledged heartbeat (R3).
pub const LEASE: Duration = Duration::from_millis(1000);
/// Silence after which a copy may be replaced, and the wait of a new primary (R2, R9).
pub const GRACE: Duration = Duration::from_millis(1500);
/// Clocks may run apart by at most this many parts per thousand.
pub const DRIFT_PER_MILLE: u32 = 10;
/// Between two heartbeats of a pair of slices that share a group (L7).
pub const HEARTBEAT: Duration = Duration::from_millis(250);
/// An in-sync copy that leaves a Prepare unacknowledged for this long is removed; a slice whose own device holds a
/// request for this long stops its heartbeats (R9).
pub const PREPARE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a group waits after a full restart for copies not yet heard from (R27).
pub const SETTLE: Duration = Duration::from_secs(30);
/// Requests that a (session, queue) may have unanswered, and records kept of them (R21).
pub const REQUEST_WINDOW_MAX: usize = 1024;
/// Ordered, uncommitted writes of one group (R7).
pub const GROUP_PENDING_MAX: usize = 1024;
/// Writes of an epoch after which its primary asks for another, long before the sequence of a version fills
/// ([`crate::version::SEQUENCE_BITS`]).
pub const EPOCH_WRITES: u64 = 1 << 39;
/// Requests a group holds while it cannot serve; more are told to retry (R40).
pub const GROUP_HELD_MAX: usize = 256;
/// Blocks of clients' writes that a slice keeps in memory, held, waiting or ordered, over all groups it leads; more are
/// told to retry (R40).
pub const SLICE_KEPT_BLOCKS_MAX: u64 = 24 * 1024;
/// Prepares sent to one joining copy of one group and not acknowledged (R16).
pub const JOIN_WINDOW_MAX: usize = 256;
/// Objects of one group in recovery to one joiner at a time.
pub const RECOVER_OBJECTS_MAX: usize = 4;
/// Entries in one page of a tail, of a list of touched objects or of records (R41).
pub const PAGE_ENTRIES_MAX: usize = 512;
/// Blocks journaled in flight ahead of the last durable one (S5).
pub const JOURNAL_WINDOW_MAX: usize = 1024;
/// Layers of a chain that a read walks (S3).
pub const CHAIN_MAX: usize = 64;
/// Copies of a policy.
pub const COPIES_MAX: usize = 8;
/// Slices that share a group with one slice, and drives with one drive (L7).
pub const PARTNERS_MAX: usize = 64;
/// Openings since the last registration that a superblock keeps (R1); the oldest are forgotten.
pub const OPENS_MAX: usize = 64;
/// Slices of a drive (S1).
pub const SLICES_MAX: u8 = 16;
/// First back-off of a client's retry (R40).
pub const BACKOFF_FIRST: Duration = Duration::from_millis(10);
/// Longest back-off in a retry's first ten seconds (R40).
pub const BACKOFF_EARLY_MAX: Duration = Duration::from_millis(200);
/// Longest back-off after ten seconds (R40).
pub const BACKOFF_LATE_MAX: Duration = Duration::from_secs(1);
/// Bytes of a volume.
pub const VOLUME_BYTES_MAX: u64 = 1 << 54;

// A lease must end before anybody may take over, both clocks drifting against each other (R3, R2).
const _: () = assert!(
    LEASE.as_nanos() * (1000 + DRIFT_PER_MILLE as u128) < GRACE.as_nanos() * (1000 - DRIFT_PER_MILLE as u128)
);
// Two heartbeats may be lost before a lease ends.
const _: () = assert!(HEARTBEAT.as_millis() * 3 < LEASE.as_millis());
// A chunk number is a u32.
const _: () = assert!(VOLUME_BYTES_MAX / crate::CHUNK_SIZE <= u32::MAX as u64 + 1);
const _: () = assert!(crate::BLOCKS_PER_CHUNK.is_multiple_of(PIECE_BLOCKS_MAX));
