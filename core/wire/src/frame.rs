//! Frames in a byte stream: a fixed header, a message, a payload of whole blocks.
use crate::crc::crc32c;
use crate::error::WireError;
use alloc::vec::Vec;
use sarsen_types::BLOCK_SIZE;
use sarsen_types::limits::PIECE_BYTES_MAX;

/// First two bytes of every frame.
pub const MAGIC: u16 = u16::from_le_bytes(*b"S\xa5");
/// Bytes of a header.
pub const HEADER_LEN: usize = 16;
/// Longest message, in bytes. Pages and lists are cut by their makers to stay far below it.
pub const MESSAGE_MAX: usize = 1 << 20;
/// Longest payload, in bytes: a piece (R8).
pub const PAYLOAD_MAX: usize = PIECE_BYTES_MAX;
/// Longest message of a handshake, in bytes: what a stranger can make us hold.
pub const HANDSHAKE_MAX: usize = 512;
const _: () = assert!(PAYLOAD_MAX.is_multiple_of(BLOCK_SIZE));
const _: () = assert!(HANDSHAKE_MAX < MESSAGE_MAX && MESSAGE_MAX <= u32::MAX as usize);

/// What a frame's message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A step of the handshake.
    Handshake = 1,
    /// Between slices.
    Peer = 2,
    /// From a client.
    Request = 3,
    /// To a client.
    Reply = 4,
}

impl Kind {
    fn from_byte(byte: u8) -> Result<Kind, WireError> {
        match byte {
            1 => Ok(Kind::Handshake),
            2 => Ok(Kind::Peer),
            3 => Ok(Kind::Request),
            4 => Ok(Kind::Reply),
            other => Err(WireError::Kind(other)),
        }
    }
    /// The longest message of this kind, in bytes.
    pub const fn message_max(self) -> usize {
        match self {
            Kind::Handshake => HANDSHAKE_MAX,
            // a write's checksums or a status of a whole chunk's runs
            Kind::Request | Kind::Reply => 16 << 10,
            Kind::Peer => MESSAGE_MAX,
        }
    }
}

/// A header whose lengths are within their limits. The message's checksum is judged when it is decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// What the message is.
    pub kind: Kind,
    /// Bytes of the message, which follows the header.
    pub message_len: usize,
    /// Bytes of the payload, which follows the message; whole blocks.
    pub payload_len: usize,
    crc: u32,
    seed: u32,
}

impl FrameHeader {
    /// Reads the header at the start of `bytes`; `None` when there are too few bytes yet.
    pub fn parse(bytes: &[u8]) -> Result<Option<FrameHeader>, WireError> {
        // what is there is judged at once: a stranger learns of its mistake after two bytes, not after sixteen
        if let [first, second, ..] = *bytes {
            let magic = u16::from_le_bytes([first, second]);
            if magic != MAGIC {
                return Err(WireError::Magic(magic));
            }
        }
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let kind = Kind::from_byte(header[2])?;
        if header[3] != 0 {
            return Err(WireError::Value("the fourth byte of a header"));
        }
        let (message_len, payload_len) = (word(4) as usize, word(8) as usize);
        if message_len > kind.message_max() {
            return Err(WireError::TooLong { what: "a message", len: message_len, max: kind.message_max() });
        }
        if payload_len > PAYLOAD_MAX {
            return Err(WireError::TooLong { what: "a payload", len: payload_len, max: PAYLOAD_MAX });
        }
        if !payload_len.is_multiple_of(BLOCK_SIZE) || (kind == Kind::Handshake && payload_len != 0) {
            return Err(WireError::Value("the length of a payload"));
        }
        Ok(Some(FrameHeader {
            kind,
            message_len,
            payload_len,
            crc: word(12),
            seed: crc32c(0, &header[..12]),
        }))
    }

    /// Bytes of header and message: where the payload begins.
    pub fn payload_at(&self) -> usize {
        HEADER_LEN + self.message_len
    }
    /// Bytes of the whole frame.
    pub fn frame_len(&self) -> usize {
        self.payload_at() + self.payload_len
    }

    /// The message in `message`, when the frame is of kind `kind` and its checksum matches.
    pub(crate) fn check<'a>(&self, kind: Kind, message: &'a [u8]) -> Result<&'a [u8], WireError> {
        if self.kind != kind {
            return Err(WireError::Kind(self.kind as u8));
        }
        let message = message.get(..self.message_len).ok_or(WireError::Truncated("a message"))?;
        if crc32c(self.seed, message) != self.crc {
            return Err(WireError::Crc);
        }
        Ok(message)
    }
}

/// Appends a frame's header and message to `out`; `put` appends the message. The payload is the caller's to send next.
///
/// # Panics
/// If the message or payload is above its limit or no whole number of blocks: its maker is wrong.
pub(crate) fn encode(kind: Kind, payload_len: usize, out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    assert!(
        payload_len <= PAYLOAD_MAX && payload_len.is_multiple_of(BLOCK_SIZE),
        "a payload is whole blocks of a piece"
    );
    let start = out.len();
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&[kind as u8, 0]);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(payload_len as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    put(out);
    let message_len = out.len() - start - HEADER_LEN;
    assert!(message_len <= kind.message_max(), "a message of {message_len} bytes is above its limit");
    out[start + 4..start + 8].copy_from_slice(&(message_len as u32).to_le_bytes());
    let crc = crc32c(crc32c(0, &out[start..start + 12]), &out[start + HEADER_LEN..]);
    out[start + 12..start + 16].copy_from_slice(&crc.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_is_known_by_its_first_two_bytes() {
        assert_eq!(FrameHeader::parse(b"GE"), Err(WireError::Magic(u16::from_le_bytes(*b"GE"))));
        assert_eq!(FrameHeader::parse(b"S"), Ok(None));
        assert_eq!(FrameHeader::parse(b"S\xa5"), Ok(None));
    }

    #[test]
    fn lengths_above_their_limits_are_refused_before_anything_is_allocated() {
        let mut frame = Vec::new();
        encode(Kind::Peer, 4096, &mut frame, |out| out.extend_from_slice(b"abc"));
        let header = FrameHeader::parse(&frame).unwrap().unwrap();
        assert_eq!((header.payload_at(), header.frame_len()), (19, 19 + 4096));
        assert_eq!(header.check(Kind::Peer, &frame[HEADER_LEN..]), Ok(&b"abc"[..]));
        for (at, value) in [(4, (MESSAGE_MAX + 1) as u32), (8, (PAYLOAD_MAX + 4096) as u32), (8, 100)] {
            let mut bad = frame.clone();
            bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
            assert!(FrameHeader::parse(&bad).is_err());
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let mut frame = Vec::new();
        encode(Kind::Peer, 4096, &mut frame, |out| out.extend_from_slice(b"a message"));
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let seen = FrameHeader::parse(&bad).and_then(|h| {
                let h = h.expect("the header is whole");
                h.check(Kind::Peer, &bad[HEADER_LEN..]).map(|m| m.len())
            });
            assert!(seen.is_err(), "bit {bit}");
        }
    }
}
