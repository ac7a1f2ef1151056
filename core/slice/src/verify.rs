//! Checksums on receipt: once at each copy of a write (L8), and of what recovery and repair bring.
use sarsen_buffer::{Buf, block_checksum, bytes_checksum};
use sarsen_types::record::{Content, Entry};
use sarsen_types::{BLOCK_SIZE, BlockRange, Checksum, ChunkIndex, FamilyId, View};
use sarsen_wire::client::{ClientOp, ClientRequest};
use sarsen_wire::peer::{GroupBody, PeerMessage};

/// Whether the blocks of `data` from block `first` on have these checksums.
fn blocks_match(
    family: FamilyId,
    chunk: ChunkIndex,
    first: u16,
    checksums: &[Checksum],
    data: &[u8],
) -> bool {
    data.len() == checksums.len() * BLOCK_SIZE
        && (data.chunks_exact(BLOCK_SIZE).zip(checksums).enumerate()).all(|(at, (block, checksum))| {
            block_checksum(family, chunk, first + at as u16, block) == *checksum
        })
}

/// Whether what came from another slice carries what it says. That fetched blocks are the ones asked for is checked by who
/// asked, against the checksums it holds (R26); here that the bytes are those the checksums are of.
pub fn peer(message: &PeerMessage, payload: Option<&Buf>) -> bool {
    let data: &[u8] = payload.map_or(&[], |p| p);
    let PeerMessage::Group(message) = message else { return data.is_empty() };
    match &message.body {
        GroupBody::Prepare { write, .. } => match &write.content {
            Content::Zero => data.is_empty(),
            Content::Data(checksums) => {
                checksums.len() == write.range.count as usize
                    && blocks_match(write.family, write.object.chunk, write.range.first, checksums, data)
            }
        },
        GroupBody::Recover { recover, .. } => {
            let mut blocks = data.chunks_exact(BLOCK_SIZE);
            let each = recover.entries.iter().enumerate().all(|(at, entry)| match entry {
                Entry::Data(_, checksum) => blocks.next().is_some_and(|block| {
                    block_checksum(recover.family, recover.object.chunk, recover.first + at as u16, block)
                        == *checksum
                }),
                Entry::Damaged(..) => false,
                _ => true,
            });
            each && blocks.next().is_none() && data.len().is_multiple_of(BLOCK_SIZE)
        }
        GroupBody::FetchA { family, chunk, first, checksums, .. } => {
            blocks_match(*family, *chunk, *first, checksums, data)
        }
        _ => data.is_empty(),
    }
}

/// Whether a client's request carries what it says. A layer that is not known here, at a revision that is, is none: the machine
/// refuses it before the data count. One of a newer revision may be kept until it is known, so it must come again then (found
/// in review: it was kept unverified).
pub fn client(request: &ClientRequest, payload: Option<&Buf>, view: &View) -> bool {
    let data: &[u8] = payload.map_or(&[], |p| p);
    let ClientOp::Write { offset, len, checksums } = &request.op else { return data.is_empty() };
    let Some(end) = offset.checked_add(*len) else { return false };
    let Some(layer) = view.layers.get(&request.layer) else { return request.revision <= view.revision };
    let range = BlockRange::covering(*offset, *len);
    if !range.is_valid() || data.len() != range.bytes() || checksums.len() != range.count as usize {
        return false;
    }
    (checksums.iter().enumerate()).all(|(at, checksum)| {
        let block = range.first + at as u16;
        let start = u32::from(block) * BLOCK_SIZE as u32;
        let (from, to) = (start.max(*offset), (start + BLOCK_SIZE as u32).min(end));
        let bytes = &data[at * BLOCK_SIZE..][..BLOCK_SIZE];
        match (to - from) as usize == BLOCK_SIZE {
            true => block_checksum(layer.family, request.chunk, block, bytes) == *checksum,
            false => bytes_checksum(&bytes[(from - start) as usize..(to - start) as usize]) == *checksum,
        }
    })
}
