//! Data-plane messages and their bytes: by hand, little endian, decoders that never panic. `PROTOCOL.md` shows each byte.
//!
//! A frame is a fixed header, a message and a payload of whole blocks. Here are the messages as types: `peer` between
//! slices, `client` between a driver's queue and a slice, `hello` before either; `frame` finds frames in a byte
//! stream; `version` is the protocol's changelog. Payloads are not touched here: they travel beside the message.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod client;
pub mod peer;
