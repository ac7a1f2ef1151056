//! Why bytes are not a frame or a message.
use core::fmt;

/// What is wrong with bytes from the other end. The stream is of no use after any of these: close the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireError {
    /// The bytes do not start a frame: the other end does not speak Sarsen, or the stream lost its place.
    Magic(u16),
    /// A kind of frame that is unknown or has no place here.
    Kind(u8),
    /// The frame's checksum does not match.
    Crc,
    /// A length is above its limit.
    TooLong {
        /// Of what.
        what: &'static str,
        /// The length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The message ends before it should.
    Truncated(&'static str),
    /// Bytes are left after the message.
    Trailing(usize),
    /// A tag that names nothing.
    Tag {
        /// Of what.
        what: &'static str,
        /// The tag.
        tag: u8,
    },
    /// A value that makes no sense.
    Value(&'static str),
    /// The payload is not as long as the message says.
    Payload {
        /// What the message says, in bytes.
        wanted: usize,
        /// What the header says, in bytes.
        found: usize,
    },
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            WireError::Magic(found) => write!(f, "the bytes are no Sarsen frame (magic {found:#06x})"),
            WireError::Kind(kind) => write!(f, "a frame of kind {kind} has no place here"),
            WireError::Crc => write!(f, "the frame's checksum does not match"),
            WireError::TooLong { what, len, max } => write!(f, "{what}: {len} is above the limit of {max}"),
            WireError::Truncated(what) => write!(f, "the message ends inside {what}"),
            WireError::Trailing(left) => write!(f, "{left} bytes are left after the message"),
            WireError::Tag { what, tag } => write!(f, "{tag} names no {what}"),
            WireError::Value(what) => write!(f, "{what} makes no sense"),
            WireError::Payload { wanted, found } => {
                write!(f, "the payload has {found} bytes, the message says {wanted}")
            }
        }
    }
}
impl core::error::Error for WireError {}
