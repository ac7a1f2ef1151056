//! One stretch of memory that a thread's slots are cut from first: on huge pages where there are any, and known to the kernel
//! for as long as its ring lives, so that neither looks its pages up for each transfer (L5).
use std::cell::Cell;
use std::ops::Range;
use std::ptr::NonNull;

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// See the module.
pub struct Arena {
    memory: NonNull<u8>,
    len: usize,
    used: Cell<usize>,
}

impl Arena {
    /// So many bytes, a multiple of 2 MiB; `None` where the system has them not.
    pub fn new(len: usize) -> Option<Arena> {
        debug_assert!(len.is_multiple_of(HUGE) && len > 0);
        let map = |len: usize, flags: libc::c_int| {
            let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: a new mapping, where the system likes.
            let at = unsafe {
                libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
            };
            (at != libc::MAP_FAILED).then_some(at.cast::<u8>())
        };
        if let Some(memory) = map(len, libc::MAP_HUGETLB).and_then(NonNull::new) {
            let arena = Arena { memory, len, used: Cell::new(0) };
            // a control group may refuse what was set aside only when it is touched, by a signal (found in review)
            // SAFETY: the mapping is ours, and nobody looks at it yet.
            if unsafe { libc::madvise(memory.as_ptr().cast(), len, libc::MADV_POPULATE_WRITE) } == 0 {
                return Some(arena);
            }
        }
        // none set aside: the system is asked for some as they are used, which want to begin where one can
        let wide = map(len + HUGE, 0)?;
        let before = wide.align_offset(HUGE);
        // SAFETY: both parts lie in the mapping, outside of what is kept.
        let memory = unsafe {
            let memory = wide.add(before);
            if before > 0 {
                libc::munmap(wide.cast(), before);
            }
            libc::munmap(memory.add(len).cast(), HUGE - before);
            libc::madvise(memory.cast(), len, libc::MADV_HUGEPAGE);
            memory
        };
        NonNull::new(memory).map(|memory| Arena { memory, len, used: Cell::new(0) })
    }

    /// The next `len` bytes, zeroed; `None` when they are used up. What was cut is not given back.
    pub fn cut(&self, len: usize) -> Option<NonNull<u8>> {
        let at = self.used.get();
        if len > self.len - at {
            return None;
        }
        self.used.set(at + len);
        // SAFETY: it lies inside.
        Some(unsafe { self.memory.add(at) })
    }

    /// Its first byte, and how many there are.
    pub fn whole(&self) -> (*mut u8, usize) {
        (self.memory.as_ptr(), self.len)
    }
    /// Its addresses.
    pub fn addresses(&self) -> Range<usize> {
        let first = self.memory.as_ptr() as usize;
        first..first + self.len
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and who has an arena outlives all that was cut from it.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.len) };
    }
}
