//! The handshake of a connection as two machines without I/O: who dials, and who accepts.
//!
//! ```text
//! dialer                                   acceptor
//!   Hello{cluster, to, from, nonce}  --->
//!                                    <---  Welcome{nonce, proof over "acceptor", hello, nonce}
//!   Proof over "dialer", hello, welcome -->
//!                                    <---  Ready          or Refused{why}, at any step, and the end
//! ```
//! The acceptor proves itself first, so that a dialer tells a stranger nothing it could use; both proofs are over both
//! nonces and every field, each under its own label, so that neither can be replayed or reflected. The MAC
//! (HMAC-SHA256 under the cluster key) is the caller's to compute: this crate only lays out what it is over.
use crate::codec::{Wire, whole};
use crate::error::WireError;
use crate::frame::{FrameHeader, HEADER_LEN, Kind};
use crate::hello::{Hello, HelloRefusal, Nonce, Proof, Step, Welcome, encode_step};
use crate::version::CURRENT;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use sarsen_types::ClusterId;

/// Computes HMAC-SHA256 under the cluster's key; `None` where there is no key.
pub type Mac<'a> = Option<&'a dyn Fn(&[u8]) -> Proof>;

/// Why there is no connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandshakeError {
    /// The other end's bytes are no handshake.
    Wire(WireError),
    /// The other end refused.
    Refused(HelloRefusal),
    /// This end refuses; what is in the output tells the other end why.
    Refusing(HelloRefusal),
    /// A step that has no place here.
    OutOfOrder,
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandshakeError::Wire(why) => why.fmt(f),
            HandshakeError::Refused(why) => write!(f, "refused: {why}"),
            HandshakeError::Refusing(why) => why.fmt(f),
            HandshakeError::OutOfOrder => f.write_str("a step of the handshake came out of order"),
        }
    }
}
impl core::error::Error for HandshakeError {}
impl core::convert::From<WireError> for HandshakeError {
    fn from(why: WireError) -> HandshakeError {
        HandshakeError::Wire(why)
    }
}

/// What came of the bytes that were given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress<T> {
    /// Bytes that were read and are not to be given again; those after them belong to the connection.
    pub used: usize,
    /// Set once the handshake is over.
    pub done: Option<T>,
}

/// The end that dials.
#[derive(Debug)]
pub struct Dialer {
    hello: Vec<u8>,
    has_key: bool,
    welcome: Option<Welcome>,
}

impl Dialer {
    /// Appends the hello to `out`. Its `version` is set here.
    pub fn new(mut hello: Hello, out: &mut Vec<u8>) -> Dialer {
        hello.version = CURRENT.number();
        let (bytes, has_key) = (hello.encode(), hello.has_key);
        encode_step(&Step::Hello(hello), out);
        Dialer { hello: bytes, has_key, welcome: None }
    }

    /// Takes what was received and not used yet; appends what is to be sent to `out`.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        mac: Mac<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Progress<Welcome>, HandshakeError> {
        let mut used = 0;
        while let Some((step, len)) = next_step(&bytes[used..])? {
            used += len;
            match (step, &self.welcome) {
                (Step::Refused(why), _) => return Err(HandshakeError::Refused(why)),
                (Step::Welcome(welcome), None) => {
                    let wanted = prove(Label::Acceptor, &self.hello, &welcome, mac.filter(|_| self.has_key));
                    if !is_equal(&wanted, &welcome.proof) {
                        return Err(HandshakeError::Refusing(HelloRefusal::Key));
                    }
                    let proof = prove(Label::Dialer, &self.hello, &welcome, mac.filter(|_| self.has_key));
                    encode_step(&Step::Proof(proof), out);
                    self.welcome = Some(welcome);
                }
                (Step::Ready, Some(welcome)) => return Ok(Progress { used, done: Some(welcome.clone()) }),
                _ => return Err(HandshakeError::OutOfOrder),
            }
        }
        Ok(Progress { used, done: None })
    }
}

/// The end that accepts.
#[derive(Debug)]
pub struct Acceptor {
    cluster: ClusterId,
    boot_id: String,
    nonce: Nonce,
    hello: Option<(Hello, Welcome)>,
}

impl Acceptor {
    /// Nothing was received yet. `nonce` is random and new.
    pub fn new(cluster: ClusterId, boot_id: String, nonce: Nonce) -> Acceptor {
        Acceptor { cluster, boot_id, nonce, hello: None }
    }

    /// Takes what was received and not used yet; appends what is to be sent to `out`, also before an error. When it is
    /// done the hello is proven, and [`Acceptor::ready`] or [`Acceptor::refuse`] is to follow.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        mac: Mac<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Progress<Hello>, HandshakeError> {
        let refuse = |why, out: &mut Vec<u8>| {
            Acceptor::refuse(why, out);
            Err(HandshakeError::Refusing(why))
        };
        let mut used = 0;
        loop {
            // no step but the two wanted here is long
            let (step, len) = match next_step(&bytes[used..]) {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(Progress { used, done: None }),
                Err(StepError::Version) => {
                    return refuse(HelloRefusal::Version { spoken: CURRENT.number() }, out);
                }
                Err(StepError::Wire(why)) => {
                    // a stranger who does not even send frames is not answered
                    if !matches!(why, WireError::Magic(_)) {
                        Acceptor::refuse(HelloRefusal::Malformed, out);
                    }
                    return Err(HandshakeError::Wire(why));
                }
            };
            used += len;
            match (step, self.hello.take()) {
                (Step::Hello(hello), None) => {
                    if hello.cluster != self.cluster {
                        return refuse(HelloRefusal::Cluster { cluster: self.cluster }, out);
                    }
                    if hello.has_key != mac.is_some() {
                        return refuse(HelloRefusal::Key, out);
                    }
                    let mut welcome =
                        Welcome { nonce: self.nonce, boot_id: self.boot_id.clone(), proof: [0; 32] };
                    welcome.proof = prove(Label::Acceptor, &hello.encode(), &welcome, mac);
                    encode_step(&Step::Welcome(welcome.clone()), out);
                    self.hello = Some((hello, welcome));
                }
                (Step::Proof(proof), Some((hello, welcome))) => {
                    if !is_equal(&prove(Label::Dialer, &hello.encode(), &welcome, mac), &proof) {
                        return refuse(HelloRefusal::Key, out);
                    }
                    return Ok(Progress { used, done: Some(hello) });
                }
                _ => {
                    Acceptor::refuse(HelloRefusal::Malformed, out);
                    return Err(HandshakeError::OutOfOrder);
                }
            }
        }
    }

    /// Appends the word that the connection stands.
    pub fn ready(out: &mut Vec<u8>) {
        encode_step(&Step::Ready, out);
    }

    /// Appends the word that it does not, and why.
    pub fn refuse(why: HelloRefusal, out: &mut Vec<u8>) {
        encode_step(&Step::Refused(why), out);
    }
}

#[derive(Clone, Copy)]
enum Label {
    Acceptor,
    Dialer,
}

/// The proof of one end: over its label, the hello and the welcome without its proof; zeroes where there is no key.
fn prove(label: Label, hello: &[u8], welcome: &Welcome, mac: Mac<'_>) -> Proof {
    let Some(mac) = mac else { return [0; 32] };
    let mut over = Vec::with_capacity(512);
    over.extend_from_slice(match label {
        Label::Acceptor => b"sarsen acceptor\0",
        Label::Dialer => b"sarsen dialer\0\0\0",
    });
    // the length first, so that no two pairs of hello and welcome are the same bytes
    (hello.len() as u32).put(&mut over);
    over.extend_from_slice(hello);
    Welcome { proof: [0; 32], ..welcome.clone() }.put(&mut over);
    mac(&over)
}

/// In the same time wherever they differ.
fn is_equal(a: &Proof, b: &Proof) -> bool {
    core::hint::black_box(a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b))) == 0
}

enum StepError {
    Wire(WireError),
    Version,
}
impl core::convert::From<WireError> for StepError {
    fn from(why: WireError) -> StepError {
        StepError::Wire(why)
    }
}
impl core::convert::From<StepError> for HandshakeError {
    fn from(why: StepError) -> HandshakeError {
        match why {
            StepError::Wire(why) => HandshakeError::Wire(why),
            StepError::Version => HandshakeError::OutOfOrder,
        }
    }
}

/// The step at the start of `bytes` and the length of its frame; `None` when it is not whole yet.
fn next_step(bytes: &[u8]) -> Result<Option<(Step, usize)>, StepError> {
    let Some(header) = FrameHeader::parse(bytes)? else { return Ok(None) };
    if header.kind != Kind::Handshake {
        return Err(WireError::Kind(header.kind as u8).into());
    }
    if bytes.len() < header.frame_len() {
        return Ok(None);
    }
    let message = header.check(Kind::Handshake, &bytes[HEADER_LEN..])?;
    // a hello of another version is known by its first field, whatever follows
    if let [1, low, high, ..] = *message
        && u16::from_le_bytes([low, high]) != CURRENT.number()
    {
        return Err(StepError::Version);
    }
    Ok(Some((whole(message)?, header.frame_len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Greeting;
    use crate::codec::Source;
    use crate::frame::HANDSHAKE_MAX;
    use crate::hello::{From, PeerHello, TEXT_MAX};
    use proptest::prelude::*;
    use sarsen_types::{OpenId, SliceId};

    /// Not a MAC anybody should use; enough to tell keys and bytes apart.
    fn keyed(key: u8) -> impl Fn(&[u8]) -> Proof {
        move |bytes| {
            let mut hash = Source(u64::from(key));
            for &byte in bytes {
                hash.0 ^= u64::from(byte);
                hash.next();
            }
            core::array::from_fn(|_| hash.next() as u8)
        }
    }
    fn hello(has_key: bool) -> Hello {
        Hello {
            version: 0,
            cluster: ClusterId(7),
            has_key,
            nonce: [1; 32],
            boot_id: String::from("kernel"),
            to: SliceId::new(2, 0),
            from: From::Peer(PeerHello { slice: SliceId::new(1, 0), open: OpenId(3), counter: 4 }),
        }
    }
    fn acceptor() -> Acceptor {
        Acceptor::new(ClusterId(7), String::from("other kernel"), [2; 32])
    }
    /// Lets both ends talk until one is done with an error or both are done.
    fn talk(
        hello: Hello,
        dialer_mac: Mac<'_>,
        acceptor_mac: Mac<'_>,
    ) -> (Result<Option<Welcome>, HandshakeError>, Result<Option<Hello>, HandshakeError>) {
        let (mut to_acceptor, mut to_dialer) = (Vec::new(), Vec::new());
        let mut dialer = Dialer::new(hello, &mut to_acceptor);
        let mut acceptor = acceptor();
        let (mut dialed, mut accepted) = (Ok(None), Ok(None));
        for _ in 0..4 {
            if accepted == Ok(None) {
                accepted = acceptor.receive(&to_acceptor, acceptor_mac, &mut to_dialer).map(|p| p.done);
                if matches!(accepted, Ok(Some(_))) {
                    Acceptor::ready(&mut to_dialer);
                }
                to_acceptor.clear();
            }
            if dialed == Ok(None) {
                dialed = dialer.receive(&to_dialer, dialer_mac, &mut to_acceptor).map(|p| p.done);
                to_dialer.clear();
            }
        }
        (dialed, accepted)
    }

    #[test]
    fn two_ends_of_one_cluster_find_each_other_with_and_without_a_key() {
        let mac = keyed(1);
        for mac in [None, Some(&mac as &dyn Fn(&[u8]) -> Proof)] {
            let (dialed, accepted) = talk(hello(mac.is_some()), mac, mac);
            assert_eq!(dialed.unwrap().unwrap().boot_id, "other kernel");
            let wanted = Hello { version: CURRENT.number(), ..hello(mac.is_some()) };
            assert_eq!(accepted, Ok(Some(wanted)));
        }
    }

    #[test]
    fn another_key_is_noticed_by_the_dialer_before_it_proves_anything() {
        let (ours, theirs) = (keyed(1), keyed(2));
        let (dialed, accepted) = talk(hello(true), Some(&ours), Some(&theirs));
        assert_eq!(dialed, Err(HandshakeError::Refusing(HelloRefusal::Key)));
        assert_eq!(accepted, Ok(None));
    }

    #[test]
    fn a_dialer_without_the_key_is_refused_even_if_it_does_not_mind_the_acceptors_proof() {
        let (ours, theirs) = (keyed(1), keyed(2));
        let (mut to_acceptor, mut to_dialer) = (Vec::new(), Vec::new());
        let mut acceptor = acceptor();
        let dialer = Dialer::new(hello(true), &mut to_acceptor);
        acceptor.receive(&to_acceptor, Some(&theirs), &mut to_dialer).unwrap();
        let (Step::Welcome(welcome), _) = next_step(&to_dialer).ok().flatten().unwrap() else { panic!() };
        for proof in [prove(Label::Dialer, &dialer.hello, &welcome, Some(&ours)), welcome.proof, [0; 32]] {
            let mut again = Acceptor { hello: acceptor.hello.clone(), ..super::tests::acceptor() };
            let mut bytes = Vec::new();
            encode_step(&Step::Proof(proof), &mut bytes);
            let seen = again.receive(&bytes, Some(&theirs), &mut Vec::new());
            assert_eq!(seen, Err(HandshakeError::Refusing(HelloRefusal::Key)));
        }
    }

    #[test]
    fn an_end_without_a_key_does_not_meet_one_with_a_key() {
        let mac = keyed(1);
        let (dialed, accepted) = talk(hello(false), None, Some(&mac));
        assert_eq!(dialed, Err(HandshakeError::Refused(HelloRefusal::Key)));
        assert_eq!(accepted, Err(HandshakeError::Refusing(HelloRefusal::Key)));
        let (dialed, _) = talk(hello(true), Some(&mac), None);
        assert_eq!(dialed, Err(HandshakeError::Refused(HelloRefusal::Key)));
    }

    #[test]
    fn another_cluster_and_another_version_are_refused_by_name() {
        let (dialed, _) = talk(Hello { cluster: ClusterId(8), ..hello(false) }, None, None);
        assert_eq!(dialed, Err(HandshakeError::Refused(HelloRefusal::Cluster { cluster: ClusterId(7) })));

        let (mut newer, mut answer) = (Vec::new(), Vec::new());
        // of a version we cannot know only the first field is ours to read
        crate::frame::encode(Kind::Handshake, 0, &mut newer, |out| out.extend_from_slice(&[1, 9, 0, 55]));
        let seen = acceptor().receive(&newer, None, &mut answer);
        let why = HelloRefusal::Version { spoken: CURRENT.number() };
        assert_eq!(seen, Err(HandshakeError::Refusing(why)));
        let mut dialer = Dialer::new(hello(false), &mut Vec::new());
        assert_eq!(dialer.receive(&answer, None, &mut Vec::new()), Err(HandshakeError::Refused(why)));
    }

    #[test]
    fn bytes_after_the_handshake_are_left_to_the_connection() {
        let (mut to_acceptor, mut to_dialer) = (Vec::new(), Vec::new());
        let mut dialer = Dialer::new(hello(false), &mut to_acceptor);
        let mut acceptor = acceptor();
        acceptor.receive(&to_acceptor, None, &mut to_dialer).unwrap();
        to_acceptor.clear();
        dialer.receive(&to_dialer, None, &mut to_acceptor).unwrap();
        let proof_len = to_acceptor.len();
        to_acceptor.extend_from_slice(b"more");
        assert_eq!(acceptor.receive(&to_acceptor, None, &mut Vec::new()).unwrap().used, proof_len);
    }

    #[test]
    fn the_longest_hello_fits() {
        let text = "x".repeat(TEXT_MAX);
        let mut bytes = Vec::new();
        Dialer::new(Hello { boot_id: text, ..hello(true) }, &mut bytes);
        assert!(bytes.len() < HANDSHAKE_MAX);
        let client = From::Client(Greeting::default());
        Dialer::new(Hello { from: client, ..hello(true) }, &mut bytes);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_step_comes_back_as_it_was(seed: u64) {
            let step = Step::sample(&mut Source(seed));
            let mut bytes = Vec::new();
            step.put(&mut bytes);
            prop_assert_eq!(whole::<Step>(&bytes), Ok(step));
        }
        #[test]
        fn garbage_is_an_error_or_waited_for_but_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut out = Vec::new();
            let _ = acceptor().receive(&bytes, None, &mut out);
            let mut framed = Vec::new();
            let len = bytes.len().min(HANDSHAKE_MAX);
            crate::frame::encode(Kind::Handshake, 0, &mut framed, |out| out.extend_from_slice(&bytes[..len]));
            let _ = acceptor().receive(&framed, None, &mut out);
            let _ = Dialer::new(hello(false), &mut out).receive(&framed, None, &mut Vec::new());
        }
    }
}
