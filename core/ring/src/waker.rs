//! Waking a ring's thread from another thread.
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ends the wait of a ring's turn. Cheap while the ring has not yet noticed an earlier wake-up.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Bell>);

#[derive(Debug)]
struct Bell {
    fd: OwnedFd,
    is_rung: AtomicBool,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Waker> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Waker(Arc::new(Bell { fd, is_rung: AtomicBool::new(false) })))
    }

    /// What was written (to a channel) before this call is seen by who looks after the ring's next `Woken`.
    pub fn wake(&self) {
        if !self.0.is_rung.swap(true, Ordering::AcqRel) {
            let one = 1u64.to_ne_bytes();
            // SAFETY: eight live bytes. It fails only when the counter is full, and then the bell rings already.
            unsafe { libc::write(self.0.fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }

    /// The ring noticed: from here on a wake-up rings again.
    pub(crate) fn hush(&self) {
        self.0.is_rung.swap(false, Ordering::AcqRel);
    }

    pub(crate) fn fd(&self) -> i32 {
        self.0.fd.as_raw_fd()
    }
}
