//! The versions of the protocol: this enum is its changelog.

/// A version of the protocol. Both ends speak the same one; the hello's layout never changes, so that ends of
/// different versions can say so to each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u16)]
pub enum Protocol {
    /// The first: frames of a 16-byte header, hello with proof of the key, peer and client messages as in PROTOCOL.md.
    V1 = 1,
}

/// What this build speaks.
pub const CURRENT: Protocol = Protocol::V1;

impl Protocol {
    /// The number in the hello.
    pub const fn number(self) -> u16 {
        self as u16
    }
}
