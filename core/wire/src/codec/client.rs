//! The layouts of requests and replies.
#[cfg(test)]
use super::Source;
use super::{Wire, layout, tagged, whole};
use crate::client::{ClientOp, ClientReply, ClientRequest, ClientResult, Greeting, Refusal};
use crate::error::WireError;
use crate::frame::{self, FrameHeader, Kind};
use alloc::vec::Vec;
use sarsen_types::limits::PIECE_BLOCKS_MAX;
use sarsen_types::*;
use smallvec::SmallVec;

layout!(Greeting { attachment: AttachmentId, generation: Generation, session: SessionId });
layout!(ClientRequest {
    group: GroupId,
    revision: Revision,
    id: RequestId,
    answered_below: u64,
    volume: VolumeId,
    layer: LayerId,
    chunk: ChunkIndex,
    op: ClientOp
});
layout!(ClientReply { number: u64, piece: u16, group: GroupId, result: ClientResult });

tagged!(ClientOp, "request" {
    1 = Greet,
    2 = Write { offset: u32, len: u32, checksums: SmallVec<[Checksum; 4]> },
    3 = Zero { offset: u32, len: u32 },
    4 = Read { range: BlockRange },
    5 = Status { range: BlockRange },
});
tagged!(ClientResult, "answer" {
    1 = Done,
    2 = Data { present: u64, checksums: SmallVec<[Checksum; 4]> },
    3 = Status { data: Vec<BlockRange> },
    4 = NotPrimary { epoch: Epoch, primary: SliceId },
    5 = Retry { after: Duration },
    6 = Stale { revision: Revision },
    7 = BelowMark,
    8 = Refused(Refusal),
    9 = NoSpace,
    10 = Corrupt { range: BlockRange },
});
tagged!(Refusal, "refusal" {
    1 = OldSession,
    2 = OldGeneration,
    3 = Unknown,
    4 = ReadOnly,
    5 = Malformed,
});

/// Bytes of payload that travel beside a request.
fn request_payload_len(request: &ClientRequest) -> usize {
    match &request.op {
        ClientOp::Write { offset, len, .. } => BlockRange::covering(*offset, *len).bytes(),
        _ => 0,
    }
}

/// Bytes of payload that travel beside a reply.
fn reply_payload_len(reply: &ClientReply) -> usize {
    match &reply.result {
        ClientResult::Data { present, .. } => present.count_ones() as usize * BLOCK_SIZE,
        _ => 0,
    }
}

/// Appends the header and message of a frame; the payload (of a write: the blocks it touches) is to follow.
pub fn encode_request(request: &ClientRequest, out: &mut Vec<u8>) {
    frame::encode(Kind::Request, request_payload_len(request), out, |out| request.put(out));
}

/// Appends the header and message of a frame; the payload (of data: the blocks present) is to follow.
pub fn encode_reply(reply: &ClientReply, out: &mut Vec<u8>) {
    frame::encode(Kind::Reply, reply_payload_len(reply), out, |out| reply.put(out));
}

/// The request of a frame of which `header` was parsed; `bytes` are those after the header.
pub fn decode_request(header: &FrameHeader, bytes: &[u8]) -> Result<ClientRequest, WireError> {
    let request: ClientRequest = whole(header.check(Kind::Request, bytes)?)?;
    check_op(&request.op)?;
    payload_is(request_payload_len(&request), header)?;
    Ok(request)
}

/// The reply of a frame of which `header` was parsed; `bytes` are those after the header.
pub fn decode_reply(header: &FrameHeader, bytes: &[u8]) -> Result<ClientReply, WireError> {
    let reply: ClientReply = whole(header.check(Kind::Reply, bytes)?)?;
    if let ClientResult::Data { present, checksums } = &reply.result
        && checksums.len() != present.count_ones() as usize
    {
        return Err(WireError::Value("the blocks of an answer"));
    }
    payload_is(reply_payload_len(&reply), header)?;
    Ok(reply)
}

fn payload_is(wanted: usize, header: &FrameHeader) -> Result<(), WireError> {
    if wanted == header.payload_len {
        Ok(())
    } else {
        Err(WireError::Payload { wanted, found: header.payload_len })
    }
}

fn check_op(op: &ClientOp) -> Result<(), WireError> {
    let is_in_chunk = |offset: u32, len: u32| len > 0 && u64::from(offset) + u64::from(len) <= CHUNK_SIZE;
    let is_fine = match op {
        ClientOp::Greet | ClientOp::Status { .. } => true,
        ClientOp::Read { range } => range.count <= PIECE_BLOCKS_MAX,
        ClientOp::Zero { offset, len } => is_in_chunk(*offset, *len),
        ClientOp::Write { offset, len, checksums } => {
            is_in_chunk(*offset, *len) && {
                let blocks = BlockRange::covering(*offset, *len).count;
                blocks <= PIECE_BLOCKS_MAX && checksums.len() == blocks as usize
            }
        }
    };
    if is_fine { Ok(()) } else { Err(WireError::Value("the range of a request")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::HEADER_LEN;
    use proptest::prelude::*;

    fn request(seed: u64) -> ClientRequest {
        let source = &mut Source(seed);
        let mut request = ClientRequest::sample(source);
        match &mut request.op {
            ClientOp::Read { range } => range.count = range.count.min(64),
            ClientOp::Zero { offset, len } => {
                *offset %= CHUNK_SIZE as u32;
                *len = 1 + *len % (CHUNK_SIZE as u32 - *offset);
            }
            ClientOp::Write { offset, len, checksums } => {
                *offset %= CHUNK_SIZE as u32 - (63 << 12);
                *len = 1 + *len % (63 << 12);
                let blocks = BlockRange::covering(*offset, *len).count;
                *checksums = (0..blocks).map(|_| Checksum::sample(source)).collect();
            }
            _ => {}
        }
        request
    }

    fn reply(seed: u64) -> ClientReply {
        let source = &mut Source(seed);
        let mut reply = ClientReply::sample(source);
        if let ClientResult::Data { present, checksums } = &mut reply.result {
            *checksums = (0..present.count_ones()).map(|_| Checksum::sample(source)).collect();
        }
        reply
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_request_comes_back_as_it_was(seed: u64) {
            let request = request(seed);
            let mut frame = Vec::new();
            encode_request(&request, &mut frame);
            let header = FrameHeader::parse(&frame).unwrap().unwrap();
            prop_assert_eq!(decode_request(&header, &frame[HEADER_LEN..]), Ok(request));
        }
        #[test]
        fn a_reply_comes_back_as_it_was(seed: u64) {
            let reply = reply(seed);
            let mut frame = Vec::new();
            encode_reply(&reply, &mut frame);
            let header = FrameHeader::parse(&frame).unwrap().unwrap();
            prop_assert_eq!(decode_reply(&header, &frame[HEADER_LEN..]), Ok(reply));
        }
        #[test]
        fn changed_bytes_never_panic(seed: u64, at: usize, value: u8) {
            for put in [true, false] {
                let mut bytes = Vec::new();
                if put { request(seed).put(&mut bytes) } else { reply(seed).put(&mut bytes) }
                let at = at % bytes.len();
                bytes[at] = value;
                if let Ok(changed) = whole::<ClientRequest>(&bytes) {
                    let _ = check_op(&changed.op);
                }
                let _ = whole::<ClientReply>(&bytes);
            }
        }
    }

    #[test]
    fn a_write_beyond_its_chunk_or_above_a_piece_is_refused() {
        let checksums: SmallVec<[Checksum; 4]> = (0..65).map(Checksum).collect();
        let wide = ClientOp::Write { offset: 0, len: 65 * 4096, checksums };
        let beyond = ClientOp::Zero { offset: CHUNK_SIZE as u32 - 1, len: 2 };
        let wrapping = ClientOp::Zero { offset: u32::MAX, len: u32::MAX };
        for op in [wide, beyond, wrapping, ClientOp::Zero { offset: 0, len: 0 }] {
            assert!(check_op(&op).is_err(), "{op:?}");
        }
    }
}
