//! The io_uring event loop: sockets, files, timers, wake-ups. The one place that knows io_uring.
//!
//! One [`Ring`] a thread, single owner, no async. Between two turns its owner looks at what was received, queues sends
//! and disk operations; the turn submits all of it with one system call, waits, and gathers everything that happened:
//!
//! ```text
//! loop {
//!     let now = ring.turn(deadline, &mut events);      sends first, then receives, then devices (L4, L5)
//!     for event in events.drain(..) { .. ring.received(conn) .. ring.consume(conn, n) .. }
//!     .. step the machine; ring.send_with(conn, payload, urgent, |out| encode(.., out)) ..
//! }
//! ```
//! Memory the kernel was given is owned by the ring until the kernel gave it back, whatever its users drop.
mod clock;
mod conn;
mod disk;
mod engine;
mod error;
mod file;
mod fixed;
mod input;
mod memory;
mod net;
mod output;
mod pinned;
mod ring;
mod stream;
mod waker;

pub use clock::now;
pub use disk::{BlockingDisk, RingDisk};
pub use engine::RingConfig;
pub use error::RingError;
pub use file::{DriveFile, FileError, refuse_misaligned};
pub use memory::{lock_memory, mark_io_thread};
pub use pinned::ZeroCopy;
pub use ring::{ConnId, Event, ListenerId, Ring};
pub use stream::Stream;
pub use waker::Waker;
