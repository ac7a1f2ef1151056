//! Errors that say in one line what to do.
use std::io;
use std::path::PathBuf;

/// Why there is no ring, listener or file.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The system does not let this process use io_uring.
    #[error(
        "io_uring is not allowed here ({0}): set sysctl kernel.io_uring_disabled=0, and in a container allow \
         io_uring_setup, io_uring_enter and io_uring_register in its seccomp profile"
    )]
    Forbidden(io::Error),
    /// The kernel counts rings as locked memory, and the limit is too low.
    #[error("io_uring got no memory ({0}): raise the limit on locked memory (ulimit -l, LimitMEMLOCK=)")]
    Memory(io::Error),
    /// Another failure of the set-up.
    #[error("io_uring could not be set up ({0}): a kernel of 5.19 or newer is needed")]
    SetUp(io::Error),
    /// Listening failed.
    #[error("cannot listen on {at}: {why}")]
    Listen {
        /// The address or path.
        at: String,
        /// What the system said.
        why: io::Error,
    },
    /// A socket could not be made.
    #[error("cannot open a connection to {at}: {why}")]
    Socket {
        /// The address or path.
        at: String,
        /// What the system said.
        why: io::Error,
    },
    /// A path that no socket can have.
    #[error("the socket path {0} is longer than the 107 bytes the system allows: choose a shorter directory")]
    PathTooLong(PathBuf),
}

impl RingError {
    /// Why the system gave no ring.
    pub(crate) fn of_set_up(why: io::Error) -> RingError {
        match why.raw_os_error() {
            Some(libc::EPERM | libc::ENOSYS | libc::EACCES) => RingError::Forbidden(why),
            Some(libc::ENOMEM) => RingError::Memory(why),
            _ => RingError::SetUp(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_that_is_not_given_says_in_one_line_what_to_do() {
        let said = [
            (libc::EPERM, "seccomp"),
            (libc::ENOSYS, "io_uring_disabled"),
            (libc::ENOMEM, "LimitMEMLOCK"),
            (libc::EINVAL, "kernel of 5.19"),
        ];
        for (errno, what) in said {
            let text = RingError::of_set_up(io::Error::from_raw_os_error(errno)).to_string();
            assert!(text.contains(what) && !text.contains('\n'), "{text}");
        }
    }
}
