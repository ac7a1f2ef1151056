//! Data-plane messages and their bytes: by hand, little endian, decoders that never panic. `PROTOCOL.md` shows each byte.
//!
//! A frame is a fixed header, a message and a payload of whole blocks. Here are the messages as types: `peer` between
//! slices, `client` between a driver's queue and a slice, `hello` before either; `handshake` carries the hellos out
//! without I/O; `frame` finds frames in a byte stream; `codec` holds the layouts; `version` is the protocol's
//! changelog. Payloads are not touched here: they travel beside the message.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod client;
pub mod codec;
mod crc;
pub mod error;
pub mod frame;
pub mod handshake;
pub mod hello;
pub mod peer;
pub mod version;

pub use codec::{
    decode_peer, decode_reply, decode_request, encode_peer, encode_reply, encode_request, peer_payload_len,
};
pub use error::WireError;
pub use frame::{FrameHeader, HEADER_LEN, Kind};
