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
