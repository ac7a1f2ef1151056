//! The layouts of the messages between slices.
#[cfg(test)]
use super::Source;
use super::{Wire, layout, tagged, whole};
use crate::error::WireError;
use crate::frame::{self, FrameHeader, Kind};
use crate::peer::{
    Acknowledged, Beat, BeatAck, Cursor, Grant, GroupBody, GroupMessage, PeerMessage, TailNote,
};
use alloc::vec::Vec;
use sarsen_types::limits::PIECE_BLOCKS_MAX;
use sarsen_types::record::{BlockStack, Entry, Recover, Table, Write};
use sarsen_types::*;

layout!(Beat {
    sent: Instant, round: u64, digest: u64, groups: Vec<(GroupId, Epoch)>, floors: Vec<(GroupId, Epoch, Version)>
});
layout!(BeatAck { sent: Instant, round: u64, matched: bool, differ: Vec<GroupId> });
layout!(Grant { prepares: u64, blocks: u64, is_full: bool });
layout!(TailNote { note: RequestNote, version: Version, is_void: bool });
layout!(GroupMessage { group: GroupId, epoch: Epoch, floor: Version, body: GroupBody });

tagged!(PeerMessage, "message between slices" {
    1 = Beat(Beat),
    2 = BeatAck(BeatAck),
    3 = Prepared(Acknowledged),
    4 = Grant(Grant),
    5 = Group(GroupMessage),
});

tagged!(GroupBody, "message about a group" {
    1 = Assume(GroupState),
    2 = Behind { known: Epoch },
    3 = Prepare { write: Write, is_drain: bool },
    4 = TailQ,
    5 = TailA { floor: Version, top: Version },
    6 = TailPageQ { above: Version, after: Option<Cursor> },
    7 = TailPageA { after: Option<Cursor>, blocks: Vec<BlockStack>, is_last: bool },
    8 = TailNotesQ { skip: u32 },
    9 = TailNotesA {
        skip: u32, sessions: Vec<(AttachmentId, Generation, SessionId)>, marks: Vec<Mark>, notes: Vec<TailNote>,
        is_last: bool
    },
    10 = StopQ,
    11 = StopA,
    12 = FetchQ { token: u64, object: ObjectId, range: BlockRange, version: Version },
    13 = FetchA { token: u64, family: FamilyId, chunk: ChunkIndex, first: u16, checksums: Vec<Checksum> },
    14 = JoinQ { since: Epoch },
    15 = JoinA { since: Epoch, floor: Version, top: Version },
    16 = TouchedQ { above: Version, after: Option<ObjectId> },
    17 = TouchedA { after: Option<ObjectId>, objects: Vec<(ObjectId, Version)>, is_last: bool },
    18 = VersionsQ { object: ObjectId, sending: u32 },
    19 = VersionsA { object: ObjectId, sending: u32, runs: Vec<(u16, Entry)> },
    20 = Recover { recover: Recover, sending: u32, is_last: bool },
    21 = RecoverA { object: ObjectId, sending: u32 },
    22 = Table { table: Table, sending: u32, is_last: bool },
    23 = TableA { sending: u32 },
    24 = JoinFailed,
    25 = FenceQ { attachment: AttachmentId, generation: Generation },
    26 = FenceA { attachment: AttachmentId, generation: Generation },
});

/// Bytes of payload that travel beside a message.
pub fn peer_payload_len(message: &PeerMessage) -> usize {
    let PeerMessage::Group(message) = message else { return 0 };
    let blocks = match &message.body {
        GroupBody::Prepare { write, .. } => write.data_blocks() as usize,
        GroupBody::FetchA { checksums, .. } => checksums.len(),
        GroupBody::Recover { recover, .. } => {
            recover.entries.iter().filter(|e| matches!(e, Entry::Data(..))).count()
        }
        _ => 0,
    };
    blocks * BLOCK_SIZE
}

/// Appends the header and message of a frame; the payload, of [`peer_payload_len`] bytes, is to follow.
pub fn encode_peer(message: &PeerMessage, out: &mut Vec<u8>) {
    frame::encode(Kind::Peer, peer_payload_len(message), out, |out| message.put(out));
}

/// The message of a frame of which `header` was parsed; `bytes` are those after the header.
pub fn decode_peer(header: &FrameHeader, bytes: &[u8]) -> Result<PeerMessage, WireError> {
    let message: PeerMessage = whole(header.check(Kind::Peer, bytes)?)?;
    if let PeerMessage::Group(GroupMessage { body, .. }) = &message {
        check(body)?;
    }
    let wanted = peer_payload_len(&message);
    if wanted != header.payload_len {
        return Err(WireError::Payload { wanted, found: header.payload_len });
    }
    Ok(message)
}

fn check(body: &GroupBody) -> Result<(), WireError> {
    match body {
        GroupBody::FetchA { first, checksums, .. }
            if checksums.len() > PIECE_BLOCKS_MAX as usize
                || *first as usize + checksums.len() > BLOCKS_PER_CHUNK as usize =>
        {
            Err(WireError::Value("the blocks of a fetch"))
        }
        GroupBody::FetchQ { range, .. } if range.count > PIECE_BLOCKS_MAX => {
            Err(WireError::Value("the range of a fetch"))
        }
        GroupBody::VersionsA { runs, .. }
            if !runs.is_sorted_by(|a, b| a.0 < b.0)
                || runs.last().is_some_and(|r| r.0 >= BLOCKS_PER_CHUNK) =>
        {
            Err(WireError::Value("the runs of an object"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::HEADER_LEN;
    use proptest::prelude::*;

    fn encoded(message: &PeerMessage) -> Vec<u8> {
        let mut frame = Vec::new();
        encode_peer(message, &mut frame);
        frame
    }
    fn decoded(frame: &[u8]) -> Result<PeerMessage, WireError> {
        decode_peer(&FrameHeader::parse(frame)?.ok_or(WireError::Truncated("a frame"))?, &frame[HEADER_LEN..])
    }
    fn message(seed: u64) -> PeerMessage {
        let mut message = PeerMessage::sample(&mut Source(seed));
        if let PeerMessage::Group(GroupMessage { body, .. }) = &mut message {
            match body {
                GroupBody::FetchQ { range, .. } => range.count = range.count.min(PIECE_BLOCKS_MAX),
                GroupBody::FetchA { first, .. } => *first %= 512,
                GroupBody::VersionsA { runs, .. } => {
                    runs.iter_mut().enumerate().for_each(|(i, run)| run.0 = i as u16 * 3)
                }
                _ => {}
            }
        }
        message
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_message_comes_back_as_it_was(seed: u64) {
            let message = message(seed);
            prop_assert_eq!(decoded(&encoded(&message)), Ok(message));
        }
        #[test]
        fn a_message_cut_short_or_changed_is_refused_or_another_message_but_never_a_panic(
            seed: u64, at: usize, value: u8, cut: usize,
        ) {
            let frame = encoded(&message(seed));
            let mut bytes = frame[HEADER_LEN..].to_vec();
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = whole::<PeerMessage>(&bytes[..cut % (bytes.len() + 1)]);
            if let Ok(changed) = whole::<PeerMessage>(&bytes) {
                // every value has one encoding
                let mut again = Vec::new();
                changed.put(&mut again);
                prop_assert_eq!(again, bytes);
            }
        }
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), tag in 1u8..29) {
            let _ = decoded(&bytes);
            let mut group = alloc::vec![5u8, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, tag];
            group.extend_from_slice(&bytes);
            let _ = whole::<PeerMessage>(&group);
        }
    }

    #[test]
    fn a_prepare_of_one_block_is_small() {
        let write = Write {
            version: Version::new(Epoch(1), 1),
            object: ObjectId::new(1, 2),
            family: FamilyId(3),
            range: BlockRange::new(4, 1),
            content: Content::Data([Checksum(5)].into_iter().collect()),
            requests: [RequestNote::default()].into_iter().collect(),
            marks: [Mark::default()].into_iter().collect(),
            takeover: None,
        };
        let body = GroupBody::Prepare { write, is_drain: false };
        let group = GroupMessage { group: GroupId(1), epoch: Epoch(1), floor: Version::ZERO, body };
        assert!(encoded(&PeerMessage::Group(group)).len() < 200);
    }

    #[test]
    fn the_example_of_the_protocol_document_is_true() {
        let grant = PeerMessage::Grant(Grant { prepares: 256, blocks: 4096, is_full: false });
        let hex: alloc::vec::Vec<_> = encoded(&grant).iter().map(|b| alloc::format!("{b:02x}")).collect();
        let document = include_str!("../../PROTOCOL.md");
        let example = document.rsplit("```text").next().unwrap();
        let shown: alloc::vec::Vec<_> = (example.lines().map(|line| &line[..line.len().min(54)]))
            .flat_map(|line| line.split_whitespace().take_while(|word| word.len() == 2))
            .collect();
        assert_eq!(shown, hex);
    }
}
