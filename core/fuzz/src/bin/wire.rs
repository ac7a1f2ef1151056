//! The data plane: any bytes, and any message in a frame whose lengths and checksum are right, are a value or an error, and a
//! value is written as it was read. Of two ends of a handshake between whom somebody sits, one that is done was told what the
//! other said.
#![no_main]
use crc_fast::CrcAlgorithm::Crc32Iscsi;
use libfuzzer_sys::fuzz_target;
use sarsen_buffer::bytes_checksum;
use sarsen_fuzz::Choices;
use sarsen_types::{AttachmentId, ClusterId, Generation, OpenId, SessionId, SliceId};
use sarsen_wire::client::Greeting;
use sarsen_wire::frame::HANDSHAKE_MAX;
use sarsen_wire::handshake::{Acceptor, Dialer};
use sarsen_wire::hello::{From, Hello, PeerHello, Proof, Welcome};
use sarsen_wire::version::CURRENT;
use sarsen_wire::{
    FrameHeader, HEADER_LEN, WireError, decode_peer, decode_reply, decode_request, encode_peer, encode_reply,
    encode_request,
};

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices(bytes);
    match choices.byte() % 8 {
        0 => drop(frame(choices.0)),
        1 => hello(choices.0),
        2 => handshake(&mut choices),
        kind => message(kind % 5, choices.0),
    }
});

fn put_crc(frame: &mut [u8]) {
    let mut crc = crc_fast::Digest::new(Crc32Iscsi);
    crc.update(&frame[..12]);
    crc.update(&frame[HEADER_LEN..]);
    frame[12..HEADER_LEN].copy_from_slice(&(crc.finalize() as u32).to_le_bytes());
}

/// The message in a frame with the right lengths and checksum.
fn framed(kind: u8, payload: usize, message: &[u8]) -> Vec<u8> {
    let mut frame = vec![b'S', 0xa5, kind, 0];
    frame.extend_from_slice(&(message.len() as u32).to_le_bytes());
    frame.extend_from_slice(&(payload as u32).to_le_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(message);
    put_crc(&mut frame);
    frame
}

/// The message with the payload that belongs to it; a byte fewer, or more, is no message.
fn message(kind: u8, message: &[u8]) {
    let mut payload = 0;
    if let Err(WireError::Payload { wanted, found: 0 }) = frame(&framed(kind, 0, message)) {
        payload = wanted;
    }
    if frame(&framed(kind, payload, message)).is_ok() {
        let longer = [message, &[0]].concat();
        assert!(frame(&framed(kind, payload, &message[..message.len() - 1])).is_err());
        assert!(frame(&framed(kind, payload, &longer)).is_err());
    }
}

/// What a frame's message is said to be, by the decoder of its kind.
fn frame(bytes: &[u8]) -> Result<(), WireError> {
    let header = FrameHeader::parse(bytes)?.ok_or(WireError::Truncated("a header"))?;
    for len in 0..HEADER_LEN {
        assert_eq!(FrameHeader::parse(&bytes[..len]), Ok(None), "less of a header is no error");
    }
    let message = &bytes[HEADER_LEN..];
    let mut again = Vec::new();
    let decoded = [
        decode_peer(&header, message).map(|value| encode_peer(&value, &mut again)),
        decode_request(&header, message).map(|value| encode_request(&value, &mut again)),
        decode_reply(&header, message).map(|value| encode_reply(&value, &mut again)),
    ];
    match decoded.into_iter().find(|d| !matches!(d, Err(WireError::Kind(_)))) {
        Some(Ok(())) => assert_eq!(again, bytes[..header.payload_at()]),
        Some(why) => return why,
        None => return Err(WireError::Kind(header.kind as u8)),
    }
    Ok(())
}

fn hello(bytes: &[u8]) {
    if let Ok(hello) = Hello::decode(bytes) {
        assert_eq!(hello.encode(), bytes);
        assert!(Hello::decode(&bytes[..bytes.len() - 1]).is_err());
    }
}

/// Not a MAC anybody should use; enough to tell keys and bytes apart.
fn mac(key: u8) -> impl Fn(&[u8]) -> Proof {
    move |bytes| {
        let mut proof = [0; 32];
        for (at, part) in proof.chunks_exact_mut(8).enumerate() {
            let sum = bytes_checksum(&[&[key, at as u8], bytes, &[key]].concat());
            part.copy_from_slice(&sum.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        }
        proof
    }
}

/// One end: what it sent, what it was given and did not use.
#[derive(Default)]
struct End {
    sent: Vec<u8>,
    given: Vec<u8>,
    is_over: bool,
}

/// Two ends talk; each frame arrives as it was sent, changed, twice, beside others, or not at all, and in pieces.
fn handshake(choices: &mut Choices<'_>) {
    let (keys, who, cut) = (choices.byte(), choices.byte(), usize::from(choices.byte()) + 1);
    let (macs, has_key) = ([mac(1), mac(1 + (keys >> 2 & 1))], [keys & 1 != 0, keys & 2 != 0]);
    let with_key = |end: usize| has_key[end].then_some(&macs[end] as &dyn Fn(&[u8]) -> Proof);
    let from = match who & 1 {
        0 => From::Peer(PeerHello { slice: SliceId::new(1, 0), open: OpenId(3), counter: 4 }),
        _ => From::Client(Greeting {
            attachment: AttachmentId(8),
            generation: Generation(2),
            session: SessionId(4),
        }),
    };
    let (cluster, boot_id) = (ClusterId(u128::from(who >> 1 & 1)), String::from("kernel"));
    let (nonce, to) = ([1; 32], SliceId::new(2, 0));
    let hello = Hello { version: 0, cluster, has_key: has_key[0], nonce, boot_id, to, from };
    let said = Hello { version: CURRENT.number(), ..hello.clone() };
    let mut ends = [End::default(), End::default()];
    let mut dialer = Dialer::new(hello, &mut ends[0].sent);
    let mut acceptor = Acceptor::new(ClusterId(1), String::from("other kernel"), [2; 32]);
    let (mut welcomed, mut accepted): (Option<Welcome>, Option<Hello>) = (None, None);
    let mut log = Vec::new();
    for round in 0..12 {
        let to = 1 - round % 2;
        let frame = std::mem::take(&mut ends[1 - to].sent);
        log.push(frame.clone());
        let arrives = tampered(choices, frame, &log);
        for piece in arrives.chunks(cut) {
            if ends[to].is_over {
                break;
            }
            let end = &mut ends[to];
            end.given.extend_from_slice(piece);
            assert!(end.given.len() < HEADER_LEN + HANDSHAKE_MAX + cut, "what is whole is used");
            let progress = match to {
                0 => dialer.receive(&end.given, with_key(0), &mut end.sent).map(|p| {
                    welcomed = p.done;
                    (p.used, welcomed.is_some())
                }),
                _ => acceptor.receive(&end.given, with_key(1), &mut end.sent).map(|p| {
                    accepted = p.done;
                    (p.used, accepted.is_some())
                }),
            };
            end.is_over = !matches!(progress, Ok((_, false)));
            if let Ok((used, _)) = progress {
                end.given.drain(..used);
            }
            if to == 1 && accepted.is_some() {
                Acceptor::ready(&mut end.sent);
            }
        }
    }
    let is_same_key = has_key == [true; 2] && keys & 4 == 0;
    if let Some(hello) = accepted {
        assert_eq!(has_key[0], has_key[1], "one with a key takes nobody without");
        assert!(!has_key[1] || (is_same_key && hello == said), "what the acceptor was told is proven");
    }
    if let Some(welcome) = welcomed {
        assert!(!has_key[0] || (is_same_key && welcome.boot_id == "other kernel"));
    }
}

/// What arrives of a frame.
fn tampered(choices: &mut Choices<'_>, frame: Vec<u8>, log: &[Vec<u8>]) -> Vec<u8> {
    match choices.byte() % 8 {
        4 if frame.len() > HEADER_LEN => {
            let mut frame = frame;
            let len = frame.len() - HEADER_LEN;
            let at = HEADER_LEN + usize::from(choices.word()) % len;
            frame[at] ^= choices.byte();
            put_crc(&mut frame);
            frame
        }
        5 => {
            let len = usize::from(choices.word()) % (HANDSHAKE_MAX + 1);
            let other = framed(1, 0, choices.take(len));
            if choices.byte() & 1 == 0 { [other, frame].concat() } else { other }
        }
        6 => log[usize::from(choices.byte()) % log.len()].clone(),
        7 => {
            let len = choices.byte().into();
            choices.take(len).to_vec()
        }
        _ => frame,
    }
}
