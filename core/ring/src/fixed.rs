//! What the kernel keeps at hand for the life of a ring: its files and its memory (L5). Where it refuses, operations name them
//! anew each time, and nothing else is different.
use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, types};
use sarsen_buffer::{Buf, Pool};
use std::ops::Range;
use std::os::fd::RawFd;

/// Files that a ring keeps: those of connections, by the number of their slot, then those of disks.
const FILES_MAX: u32 = 1024;
/// Of them those of disks.
const DISKS_MAX: u32 = 16;

/// A file as operations name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// A descriptor.
    Open(RawFd),
    /// The place of one that the ring keeps.
    Kept(u32),
}

impl Target {
    /// The number that goes into an operation, which [`Target::mark`] then says how to read.
    pub fn fd(self) -> types::Fd {
        match self {
            Target::Open(fd) => types::Fd(fd),
            Target::Kept(place) => types::Fd(place as RawFd),
        }
    }
    /// Says in an operation what its number is.
    pub fn mark(self, entry: Entry) -> Entry {
        match self {
            Target::Open(_) => entry,
            Target::Kept(_) => entry.flags(Flags::FIXED_FILE),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Fixed {
    has_files: bool,
    memory: Range<usize>,
    /// What the kernel would not keep, and what to do.
    pub refusal: Option<String>,
}

impl Fixed {
    /// Makes the arena of `pool` known, and room for files.
    pub fn new(uring: &IoUring, pool: &Pool) -> Fixed {
        let has_files = uring.submitter().register_files_sparse(FILES_MAX).is_ok();
        let (mut memory, mut refusal) = (0..0, None);
        if let Some(arena) = pool.arena() {
            let (base, len) = arena.whole();
            let whole = libc::iovec { iov_base: base.cast(), iov_len: len };
            // SAFETY: the kernel holds the pages themselves for as long as they are registered.
            match unsafe { uring.submitter().register_buffers(&[whole]) } {
                Ok(()) => memory = arena.addresses(),
                Err(why) => {
                    refusal = Some(format!(
                        "buffers are not registered: {why} (set LimitMEMLOCK=infinity or ulimit -l unlimited)"
                    ));
                }
            }
        }
        Fixed { has_files, memory, refusal }
    }

    /// Keeps the file of the connection in a slot.
    pub fn keep_conn(&self, uring: &IoUring, slot: u32, fd: RawFd) -> Target {
        self.keep(uring, slot, 0..FILES_MAX - DISKS_MAX, fd)
    }
    /// Keeps the file of a disk.
    pub fn keep_disk(&self, uring: &IoUring, number: u32, fd: RawFd) -> Target {
        self.keep(uring, FILES_MAX - DISKS_MAX + number, FILES_MAX - DISKS_MAX..FILES_MAX, fd)
    }
    fn keep(&self, uring: &IoUring, place: u32, places: Range<u32>, fd: RawFd) -> Target {
        let is_kept = self.has_files
            && places.contains(&place)
            && uring.submitter().register_files_update(place, &[fd]).is_ok_and(|n| n == 1);
        if is_kept { Target::Kept(place) } else { Target::Open(fd) }
    }
    /// Lets a file go: it is closed only when nobody keeps it.
    pub fn let_go(&self, uring: &IoUring, target: Target) {
        if let Target::Kept(place) = target {
            let _ = uring.submitter().register_files_update(place, &[-1]);
        }
    }

    /// The number of the registered memory that a buffer lies in.
    pub fn memory_of(&self, buf: &Buf) -> Option<u16> {
        self.memory.contains(&(buf.as_ptr() as usize)).then_some(0)
    }
}
