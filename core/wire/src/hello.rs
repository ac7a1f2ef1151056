//! What the two ends of a new connection tell each other, before either believes the other (R42, R43).
use crate::client::Greeting;
#[cfg(test)]
use crate::codec::Source;
use crate::codec::{Reader, Wire, layout, tagged, whole};
use crate::error::WireError;
use crate::frame::{self, Kind};
use crate::version::CURRENT;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use sarsen_types::{ClusterId, OpenId, SliceId};

/// Bytes of a nonce.
pub const NONCE_LEN: usize = 32;
/// Bytes of a proof: HMAC-SHA256.
pub const PROOF_LEN: usize = 32;
/// Longest text in a hello, in bytes (a boot id has 36).
pub const TEXT_MAX: usize = 64;

/// Random bytes that no proof was ever made over before.
pub type Nonce = [u8; NONCE_LEN];
/// HMAC-SHA256 under the cluster's key; zeroes where there is no key.
pub type Proof = [u8; PROOF_LEN];

/// The first message of a connection, from who dialed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The protocol it speaks ([`CURRENT`]). First in the layout of every version.
    pub version: u16,
    /// Its cluster (R42).
    pub cluster: ClusterId,
    /// Whether it has the cluster's key: without one only in `sarsen dev`.
    pub has_key: bool,
    /// Its nonce.
    pub nonce: Nonce,
    /// The kernel it runs on (R4).
    pub boot_id: String,
    /// The slice it wants.
    pub to: SliceId,
    /// Who it is.
    pub from: From,
}

/// Who dialed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// Another slice (L2).
    Peer(PeerHello),
    /// A driver's queue.
    Client(Greeting),
}

/// A slice that dialed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerHello {
    /// Which: the lower id of the two (R43).
    pub slice: SliceId,
    /// The opening of its drive (R1).
    pub open: OpenId,
    /// Grows with each connection it dials in one opening: a higher one replaces the connection before (R43).
    pub counter: u64,
}

/// The second message, from who was dialed: it proves the key first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// Its nonce.
    pub nonce: Nonce,
    /// The kernel it runs on (R4).
    pub boot_id: String,
    /// Over the hello and the fields above, by its own label.
    pub proof: Proof,
}

/// A message of the handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Hello(Hello),
    Welcome(Welcome),
    Proof(Proof),
    Ready,
    Refused(HelloRefusal),
}

/// Why a connection is refused: told to the other end, which can print it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HelloRefusal {
    /// The refusing end speaks this version of the protocol.
    Version {
        /// It.
        spoken: u16,
    },
    /// The refusing end belongs to this cluster.
    Cluster {
        /// It.
        cluster: ClusterId,
    },
    /// One end has a key and the other has none, or they differ.
    Key,
    /// The slice is not here, or its drive is not registered yet.
    Slice {
        /// The one that was wanted.
        slice: SliceId,
    },
    /// The hello makes no sense to the one who got it.
    Malformed,
    /// Too many connections are being opened.
    Busy,
}

impl fmt::Display for HelloRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HelloRefusal::Version { spoken } => {
                write!(
                    f,
                    "the other end speaks version {spoken} of the protocol, this one version {}: upgrade the older",
                    CURRENT.number()
                )
            }
            HelloRefusal::Cluster { cluster } => {
                write!(f, "the other end belongs to another cluster ({cluster}): check the address")
            }
            HelloRefusal::Key => {
                f.write_str("the two ends do not have the same cluster key: check --key on both")
            }
            HelloRefusal::Slice { slice } => {
                write!(f, "slice {slice} is not served there: its drive is away or not registered yet")
            }
            HelloRefusal::Malformed => f.write_str("the hello was not understood"),
            HelloRefusal::Busy => f.write_str("too many connections are being opened there: try again"),
        }
    }
}

layout!(PeerHello { slice: SliceId, open: OpenId, counter: u64 });
layout!(Hello {
    version: u16,
    cluster: ClusterId,
    has_key: bool,
    nonce: Nonce,
    boot_id: String,
    to: SliceId,
    from: From
});
layout!(Welcome { nonce: Nonce, boot_id: String, proof: Proof });
tagged!(From, "kind of dialer" {
    1 = Peer(PeerHello),
    2 = Client(Greeting),
});
tagged!(HelloRefusal, "refusal of a hello" {
    1 = Version { spoken: u16 },
    2 = Cluster { cluster: ClusterId },
    3 = Key,
    4 = Slice { slice: SliceId },
    5 = Malformed,
    6 = Busy,
});
tagged!(Step, "step of a handshake" {
    1 = Hello(Hello),
    2 = Welcome(Welcome),
    3 = Proof(Proof),
    4 = Ready,
    5 = Refused(HelloRefusal),
});

impl Wire for [u8; 32] {
    const MIN: usize = 32;
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, WireError> {
        from.array("a nonce or proof")
    }
    #[cfg(test)]
    fn sample(source: &mut Source) -> Self {
        core::array::from_fn(|_| source.next() as u8)
    }
}

impl Wire for String {
    const MIN: usize = 1;
    fn put(&self, out: &mut Vec<u8>) {
        assert!(self.len() <= TEXT_MAX, "a text of {} bytes is above its limit", self.len());
        out.push(self.len() as u8);
        out.extend_from_slice(self.as_bytes());
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let len = u8::get(from)? as usize;
        if len > TEXT_MAX {
            return Err(WireError::TooLong { what: "a text", len, max: TEXT_MAX });
        }
        let text = core::str::from_utf8(from.take(len, "a text")?).map_err(|_| WireError::Value("a text"))?;
        Ok(String::from(text))
    }
    #[cfg(test)]
    fn sample(source: &mut Source) -> Self {
        (0..source.below(37)).map(|_| char::from(b'a' + source.below(26) as u8)).collect()
    }
}

impl Hello {
    /// Its bytes, as a slice's thread is given them.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.put(&mut bytes);
        bytes
    }
    /// From its bytes.
    pub fn decode(bytes: &[u8]) -> Result<Hello, WireError> {
        whole(bytes)
    }
}

/// Appends a frame that is a step of the handshake.
pub(crate) fn encode_step(step: &Step, out: &mut Vec<u8>) {
    frame::encode(Kind::Handshake, 0, out, |out| step.put(out));
}
