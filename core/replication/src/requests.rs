//! A client's request at the door: who may ask what (R21, R31, R39), and what waits for its turn.
use crate::cx::Asker;
use alloc::vec::Vec;
use sarsen_types::limits::{CHAIN_MAX, PIECE_BLOCKS_MAX};
use sarsen_types::{
    BLOCK_SIZE, BlockRange, CHUNK_SIZE, Epoch, FamilyId, LayerId, Ledger, ObjectId, RequestNote, View,
};
use sarsen_wire::client::{ClientOp, ClientRequest, ClientResult, Refusal};
use smallvec::SmallVec;

/// An admitted request.
#[derive(Debug)]
pub struct Op<P> {
    /// Where the answer goes.
    pub asker: Asker,
    /// The request.
    pub request: ClientRequest,
    /// Its blocks.
    pub payload: Option<P>,
    /// Seeds the checksums.
    pub family: FamilyId,
    /// The chain, head first.
    pub layers: SmallVec<[LayerId; 2]>,
    /// Names it while it waits.
    pub key: u64,
    /// How far it is.
    pub stage: Stage,
}

/// How far a waiting write is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// It has part blocks, which are to be merged first.
    Partial,
    /// The blocks it lies in are being read.
    Merging,
    /// So many blocks it lies in are being repaired first.
    Repairing(usize),
    /// Whole blocks: it may be ordered.
    Whole,
}

/// What the door says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Come in: family and chain of layers.
    Admit(FamilyId, SmallVec<[LayerId; 2]>),
    /// We must learn something first: keep it.
    Hold,
    /// No; this is the answer.
    Answer(ClientResult),
}

impl<P> Op<P> {
    /// The object it writes.
    pub fn object(&self) -> ObjectId {
        ObjectId { layer: self.request.layer, chunk: self.request.chunk }
    }
    /// Its blocks.
    pub fn range(&self) -> BlockRange {
        self.request.op.range().unwrap_or_default()
    }
    /// What records say of it.
    pub fn note(&self) -> RequestNote {
        RequestNote { id: self.request.id, object: self.object(), range: self.range() }
    }
    /// Whether the two touch a block of the same chunk of the same family, whatever the layer (R8).
    pub fn overlaps(&self, other: &Op<P>) -> bool {
        self.request.chunk == other.request.chunk
            && self.family == other.family
            && self.range().overlaps(other.range())
    }
}

/// Whether the bytes of a write or zero begin and end on blocks.
pub fn is_whole(op: &ClientOp) -> bool {
    match *op {
        ClientOp::Write { offset, len, .. } | ClientOp::Zero { offset, len } => {
            (offset | len).is_multiple_of(BLOCK_SIZE as u32)
        }
        _ => true,
    }
}

/// Judges a request by the newest metadata and by what the group remembers.
pub fn admit(request: &ClientRequest, view: &View, ledger: &Ledger) -> Verdict {
    let unknown = || match request.revision > view.revision {
        true => Verdict::Hold,
        false => Verdict::Answer(ClientResult::Refused(Refusal::Unknown)),
    };
    let refuse = |why| Verdict::Answer(ClientResult::Refused(why));
    let Some(attachment) = view.attachments.get(&request.id.attachment) else { return unknown() };
    let (generation, session) = ledger.sessions.get(&request.id.attachment).copied().unwrap_or_default();
    if request.id.generation < attachment.generation.max(generation) {
        return refuse(Refusal::OldGeneration);
    }
    if request.id.session < attachment.session.max(session) {
        return refuse(Refusal::OldSession);
    }
    if request.id.generation > attachment.generation || request.id.session > attachment.session {
        return Verdict::Hold;
    }
    let Some(volume) = view.volumes.get(&request.volume) else { return unknown() };
    if attachment.volume != request.volume {
        return refuse(Refusal::Unknown);
    }
    if attachment.read_only && request.op.is_write() {
        return refuse(Refusal::ReadOnly);
    }
    if request.op == ClientOp::Greet {
        return Verdict::Admit(FamilyId(0), SmallVec::new());
    }
    if request.revision < volume.changed && volume.head != request.layer {
        return Verdict::Answer(ClientResult::Stale { revision: volume.changed });
    }
    if volume.head != request.layer {
        return unknown();
    }
    let end = match end_of(&request.op) {
        Some(end) => u64::from(request.chunk.0) * CHUNK_SIZE + u64::from(end),
        None => return refuse(Refusal::Malformed),
    };
    if end > volume.size.next_multiple_of(BLOCK_SIZE as u64) {
        // a volume that grew since our revision is learned first
        return match request.revision > view.revision {
            true => Verdict::Hold,
            false => refuse(Refusal::Malformed),
        };
    }
    match chain(request.layer, view) {
        Some((family, layers)) => Verdict::Admit(family, layers),
        None => unknown(),
    }
}

/// The end of what an operation touches, in bytes of its chunk; `None` when it makes no sense.
fn end_of(op: &ClientOp) -> Option<u32> {
    let (end, blocks_max) = match op {
        ClientOp::Greet => (0, 0),
        ClientOp::Write { offset, len, checksums } => {
            let end = offset.checked_add(*len)?;
            if *len == 0 || end > CHUNK_SIZE as u32 {
                return None;
            }
            let range = BlockRange::covering(*offset, *len);
            if checksums.len() != range.count as usize || !is_piece(range) {
                return None;
            }
            (end, PIECE_BLOCKS_MAX)
        }
        ClientOp::Zero { offset, len } => match is_whole(op) {
            true => (offset.checked_add(*len)?, u16::MAX),
            false => (offset.checked_add(*len)?, PIECE_BLOCKS_MAX),
        },
        ClientOp::Read { range } => {
            (u32::from(range.first.checked_add(range.count)?) * BLOCK_SIZE as u32, PIECE_BLOCKS_MAX)
        }
        ClientOp::Status { range } => {
            (u32::from(range.first.checked_add(range.count)?) * BLOCK_SIZE as u32, u16::MAX)
        }
    };
    if end > CHUNK_SIZE as u32 {
        return None;
    }
    let range = op.range()?;
    (range.is_valid() && range.count <= blocks_max).then_some(end)
}

/// R8: a piece does not cross a boundary of 64 blocks.
fn is_piece(range: BlockRange) -> bool {
    range.count == 0 || range.first / PIECE_BLOCKS_MAX == (range.end() - 1) / PIECE_BLOCKS_MAX
}

fn chain(head: LayerId, view: &View) -> Option<(FamilyId, SmallVec<[LayerId; 2]>)> {
    let family = view.layers.get(&head)?.family;
    let mut layers = SmallVec::new();
    let mut next = Some(head);
    while let Some(layer) = next {
        if layers.len() == CHAIN_MAX {
            return None;
        }
        layers.push(layer);
        next = view.layers.get(&layer)?.parent;
    }
    Some((family, layers))
}

/// The answer of a slice that does not lead.
pub fn not_primary(epoch: Epoch, primary: sarsen_types::SliceId) -> ClientResult {
    ClientResult::NotPrimary { epoch, primary }
}

/// Requests kept until they can be judged or served (R40).
#[derive(Debug)]
pub struct Held<P> {
    /// The connection and the request.
    pub asker: Asker,
    /// The request.
    pub request: ClientRequest,
    /// Its blocks.
    pub payload: Option<P>,
}

/// A list of what is kept.
pub type HeldList<P> = Vec<Held<P>>;

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_types::view::{AttachmentView, LayerView, VolumeView};
    use sarsen_types::{
        AttachmentId, Checksum, ChunkIndex, Generation, GroupId, RequestId, Revision, SessionId, VolumeId,
    };

    fn view() -> View {
        let mut view = View { revision: Revision(5), ..View::default() };
        view.layers.insert(LayerId(1), LayerView { family: FamilyId(9), parent: None });
        view.volumes
            .insert(VolumeId(1), VolumeView { head: LayerId(1), size: 8 << 20, changed: Revision(3) });
        view.attachments.insert(
            AttachmentId(1),
            AttachmentView {
                volume: VolumeId(1),
                generation: Generation(2),
                session: SessionId(4),
                read_only: false,
            },
        );
        view
    }
    fn request(op: ClientOp) -> ClientRequest {
        ClientRequest {
            group: GroupId(1),
            revision: Revision(5),
            id: RequestId {
                attachment: AttachmentId(1),
                generation: Generation(2),
                session: SessionId(4),
                ..RequestId::default()
            },
            answered_below: 0,
            volume: VolumeId(1),
            layer: LayerId(1),
            chunk: ChunkIndex(0),
            op,
        }
    }
    fn read() -> ClientOp {
        ClientOp::Read { range: BlockRange::new(0, 1) }
    }

    #[test]
    fn the_newest_session_comes_in_and_an_older_one_does_not() {
        let (view, ledger) = (view(), Ledger::default());
        assert!(matches!(admit(&request(read()), &view, &ledger), Verdict::Admit(FamilyId(9), _)));
        let mut old = request(read());
        old.id.session = SessionId(3);
        assert_eq!(admit(&old, &view, &ledger), Verdict::Answer(ClientResult::Refused(Refusal::OldSession)));
        let mut newer = request(read());
        newer.id.session = SessionId(5);
        assert_eq!(admit(&newer, &view, &ledger), Verdict::Hold);
    }

    #[test]
    fn what_a_newer_revision_may_explain_is_held() {
        let (view, ledger) = (view(), Ledger::default());
        let mut later = request(read());
        later.volume = VolumeId(2);
        assert_eq!(admit(&later, &view, &ledger), Verdict::Answer(ClientResult::Refused(Refusal::Unknown)));
        later.revision = Revision(6);
        assert_eq!(admit(&later, &view, &ledger), Verdict::Hold);
    }

    #[test]
    fn nonsense_is_refused() {
        let (view, ledger) = (view(), Ledger::default());
        let malformed = Verdict::Answer(ClientResult::Refused(Refusal::Malformed));
        for op in [
            ClientOp::Read { range: BlockRange::new(0, 0) },
            ClientOp::Read { range: BlockRange::new(0, 65) },
            ClientOp::Read { range: BlockRange::new(u16::MAX, 2) },
            ClientOp::Write { offset: 0, len: 0, checksums: SmallVec::new() },
            ClientOp::Write { offset: u32::MAX, len: 2, checksums: SmallVec::new() },
            ClientOp::Write { offset: 0, len: 4096, checksums: SmallVec::new() },
            ClientOp::Write {
                offset: 63 * 4096,
                len: 8192,
                checksums: [Checksum(0); 2].into_iter().collect(),
            },
            ClientOp::Zero { offset: CHUNK_SIZE as u32, len: 4096 },
        ] {
            assert_eq!(admit(&request(op.clone()), &view, &ledger), malformed, "{op:?}");
        }
        let mut beyond = request(read());
        beyond.chunk = ChunkIndex(2);
        assert_eq!(admit(&beyond, &view, &ledger), malformed);
    }
}
