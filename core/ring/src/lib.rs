//! The io_uring event loop.
