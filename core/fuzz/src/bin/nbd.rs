//! A client of the NBD driver that says anything: it is served or dropped, and the volume sees requests inside it alone.
#![no_main]
#[path = "../../../../drivers/nbd/tests/support/mod.rs"]
mod support;
use libfuzzer_sys::fuzz_target;
use support::*;

/// Fixed newstyle, no zeroes; then NBD_OPT_EXPORT_NAME of the volume.
const AGREED: &[u8] = b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x03vol";

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let mut server = Server::new();
    if first & 1 == 1 {
        server.receive(AGREED).expect("a good beginning");
        assert!(server.connection.is_serving());
    }
    // in pieces, as a socket gives them
    let piece = usize::from(first >> 1) * 3 + 1;
    for piece in rest.chunks(piece) {
        if server.receive(piece).is_err() || server.is_closed {
            return;
        }
    }
});
