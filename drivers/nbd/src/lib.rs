//! The NBD protocol as a server, without sockets: bytes in, bytes and block requests out.
//!
//! A [`Connection`] is one client's: fixed newstyle handshake (`handshake`), then transmission with simple and structured
//! replies (`serve`). Its owner feeds it what was received and carries out what it says ([`Out`]). Nothing it is sent can
//! make it panic or hold more than its limits; bytes that are not NBD end that connection alone.
//!
//! The device is write-through (D7): FLUSH is answered at once, FUA asks for nothing more than a write already gives, and
//! any number of connections may be used as one (CAN_MULTI_CONN). The names of options, commands and errors are those of
//! the protocol's public description.
#![forbid(unsafe_code)]

mod connection;
mod export;
mod handshake;
mod proto;
mod reply;
mod serve;

pub use connection::{Connection, Next, Out, Progress};
pub use export::Export;
pub use proto::{IN_FLIGHT_BYTES_MAX, IN_FLIGHT_MAX, OPTION_BYTES_MAX, OPTIONS_MAX, Violation};
