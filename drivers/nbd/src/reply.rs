//! Replies as bytes: simple ones, and chunks of structured ones. Heads are made on the stack.
use crate::connection::Out;
use crate::proto::*;
use sarsen_block::Extent;
use sarsen_buffer::{Buf, Part, Pool};

/// Longest run of zeroes sent from one buffer.
const ZEROES_LEN: usize = 64 << 10;

/// A simple reply; data of a read follow it.
pub fn simple(cookie: u64, errno: u32, out: &mut impl Out) {
    let mut head = [0; 16];
    head[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    head[4..8].copy_from_slice(&errno.to_be_bytes());
    head[8..].copy_from_slice(&cookie.to_be_bytes());
    out.send(&head, None);
}

/// The head of a chunk of `len` bytes, of which `first` come with it, and its payload.
fn chunk(
    cookie: u64,
    kind: u16,
    is_last: bool,
    len: usize,
    first: &[u8],
    payload: Option<Buf>,
    out: &mut impl Out,
) {
    let mut head = [0; 20 + 16];
    let head = &mut head[..20 + first.len()];
    put_chunk(head, cookie, kind, is_last, len, first);
    out.send(head, payload);
}

/// The head of a chunk of `len` bytes and the `first` of them.
fn put_chunk(head: &mut [u8], cookie: u64, kind: u16, is_last: bool, len: usize, first: &[u8]) {
    head[..4].copy_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
    head[4..6].copy_from_slice(&(if is_last { chunk::DONE } else { 0 }).to_be_bytes());
    head[6..8].copy_from_slice(&kind.to_be_bytes());
    head[8..16].copy_from_slice(&cookie.to_be_bytes());
    head[16..20].copy_from_slice(&(len as u32).to_be_bytes());
    head[20..].copy_from_slice(first);
}

/// A structured reply without content.
pub fn none(cookie: u64, out: &mut impl Out) {
    chunk(cookie, chunk::NONE, true, 0, &[], None, out);
}

/// A structured error.
pub fn error(cookie: u64, errno: u32, out: &mut impl Out) {
    let mut first = [0; 6];
    first[..4].copy_from_slice(&errno.to_be_bytes());
    chunk(cookie, chunk::ERROR, true, 6, &first, None, out);
}

/// All bytes of a read, as they follow a simple reply or fill one chunk.
fn bytes(parts: &[Part], pool: &Pool, out: &mut impl Out) {
    for part in parts {
        match part {
            Part::Data(data) => out.send(&[], Some(data.clone())),
            Part::Zeroes(len) => {
                let zeroes = pool.take_zeroed((*len).min(ZEROES_LEN));
                let mut left = *len;
                while left > 0 {
                    let now = left.min(zeroes.len());
                    out.send(&[], Some(zeroes.slice(0..now)));
                    left -= now;
                }
            }
        }
    }
}

/// The answer to a read without structured replies.
pub fn simple_data(cookie: u64, parts: &[Part], pool: &Pool, out: &mut impl Out) {
    simple(cookie, 0, out);
    bytes(parts, pool, out);
}

/// The answer to a read: a chunk for each run of data or zeroes; all in one where the client wants it whole.
pub fn data(cookie: u64, offset: u64, parts: &[Part], is_whole: bool, pool: &Pool, out: &mut impl Out) {
    if parts.is_empty() {
        return none(cookie, out);
    }
    if is_whole && parts.len() > 1 {
        let len: usize = parts.iter().map(Part::len).sum();
        chunk(cookie, chunk::OFFSET_DATA, true, 8 + len, &offset.to_be_bytes(), None, out);
        return bytes(parts, pool, out);
    }
    let mut at = offset;
    for (number, part) in parts.iter().enumerate() {
        let is_last = number + 1 == parts.len();
        match part {
            Part::Zeroes(len) if !is_whole => {
                let mut first = [0; 12];
                first[..8].copy_from_slice(&at.to_be_bytes());
                first[8..].copy_from_slice(&(*len as u32).to_be_bytes());
                chunk(cookie, chunk::OFFSET_HOLE, is_last, 12, &first, None, out);
            }
            Part::Zeroes(len) => {
                chunk(cookie, chunk::OFFSET_DATA, is_last, 8 + len, &at.to_be_bytes(), None, out);
                bytes(std::slice::from_ref(part), pool, out);
            }
            Part::Data(data) => {
                let payload = Some(data.clone());
                chunk(cookie, chunk::OFFSET_DATA, is_last, 8 + data.len(), &at.to_be_bytes(), payload, out);
            }
        }
        at += part.len() as u64;
    }
}

/// Bytes of one run in an answer about the state of blocks.
const RUN_LEN: usize = 8;
/// Bytes of such an answer before its runs.
const STATUS_HEAD_LEN: usize = 20 + 4;

/// The answer about the state of blocks; at least one run, and at most as many as an answer has. In one piece: what is queued is
/// counted in bytes, and each piece costs several times a run beside them (found in review).
pub fn status(cookie: u64, extents: &[Extent], out: &mut impl Out) {
    let mut answer = [0; STATUS_HEAD_LEN + RUN_LEN * STATUS_EXTENTS_MAX];
    let len = STATUS_HEAD_LEN + RUN_LEN * extents.len();
    let (head, runs) = answer[..len].split_at_mut(STATUS_HEAD_LEN);
    put_chunk(
        head,
        cookie,
        chunk::BLOCK_STATUS,
        true,
        4 + RUN_LEN * extents.len(),
        &ALLOCATION_ID.to_be_bytes(),
    );
    for (extent, run) in extents.iter().zip(runs.chunks_exact_mut(RUN_LEN)) {
        run[..4].copy_from_slice(&(extent.len as u32).to_be_bytes());
        run[4..].copy_from_slice(&(if extent.is_data { 0 } else { HOLE_AND_ZERO }).to_be_bytes());
    }
    out.send(&answer[..len], None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_block::Request;

    #[derive(Default)]
    struct Pieces(Vec<usize>);

    impl Out for Pieces {
        fn send(&mut self, head: &[u8], _payload: Option<Buf>) {
            self.0.push(head.len());
        }
        fn submit(&mut self, _request: Request) {
            unreachable!("a reply asks for nothing");
        }
    }

    #[test]
    fn the_state_of_many_blocks_is_one_piece_to_send() {
        let run = |n: usize| Extent { offset: n as u64 * 4096, len: 4096, is_data: n.is_multiple_of(2) };
        let extents: Vec<Extent> = (0..STATUS_EXTENTS_MAX).map(run).collect();
        let mut pieces = Pieces::default();
        status(1, &extents, &mut pieces);
        assert_eq!(pieces.0, [24 + 8 * STATUS_EXTENTS_MAX]);
    }
}
