//! Frames of the data plane: any bytes, and any message in a frame whose checksum is right, are a value or an error; a value
//! is written as it was read.
#![no_main]
use crc_fast::CrcAlgorithm::Crc32Iscsi;
use libfuzzer_sys::fuzz_target;
use sarsen_fuzz::Choices;
use sarsen_types::ClusterId;
use sarsen_wire::handshake::{Acceptor, Dialer};
use sarsen_wire::hello::Hello;
use sarsen_wire::{
    FrameHeader, HEADER_LEN, decode_peer, decode_reply, decode_request, encode_peer, encode_reply,
    encode_request,
};

fuzz_target!(|bytes: &[u8]| {
    frame(bytes);
    let mut choices = Choices(bytes);
    let (kind, blocks) = (choices.byte(), choices.byte());
    let framed = framed(kind % 5, u32::from(blocks % 66) * 4096, choices.0);
    frame(&framed);
    let mut acceptor = Acceptor::new(ClusterId(1), String::from("boot"), [7; 32]);
    let _ = acceptor.receive(&framed, None, &mut Vec::new());
    if let Ok(hello) = Hello::decode(choices.0) {
        assert_eq!(Hello::decode(&hello.encode()).as_ref(), Ok(&hello));
        let mut dialer = Dialer::new(hello, &mut Vec::new());
        let _ = dialer.receive(&framed, None, &mut Vec::new());
    }
});

/// The message in a frame with the right lengths and checksum.
fn framed(kind: u8, payload: u32, message: &[u8]) -> Vec<u8> {
    let mut frame = vec![b'S', 0xa5, kind, 0];
    frame.extend_from_slice(&(message.len() as u32).to_le_bytes());
    frame.extend_from_slice(&payload.to_le_bytes());
    let mut crc = crc_fast::Digest::new(Crc32Iscsi);
    crc.update(&frame);
    crc.update(message);
    frame.extend_from_slice(&(crc.finalize() as u32).to_le_bytes());
    frame.extend_from_slice(message);
    frame
}

fn frame(bytes: &[u8]) {
    let Ok(Some(header)) = FrameHeader::parse(bytes) else { return };
    let message = &bytes[HEADER_LEN..];
    let mut again = Vec::new();
    if let Ok(value) = decode_peer(&header, message) {
        encode_peer(&value, &mut again);
    } else if let Ok(value) = decode_request(&header, message) {
        encode_request(&value, &mut again);
    } else if let Ok(value) = decode_reply(&header, message) {
        encode_reply(&value, &mut again);
    } else {
        return;
    }
    assert_eq!(again, bytes[..header.payload_at()]);
}
