//! A request cut into pieces (R8): at most 64 blocks aligned to 64 blocks inside one chunk; zeroes up to a chunk.
use sarsen_types::limits::{PIECE_BLOCKS_MAX, PIECE_BYTES_MAX};
use sarsen_types::{BLOCK_SIZE, CHUNK_SIZE, ChunkIndex};

/// How a request may be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// Data: into pieces.
    Data,
    /// Zeroes: whole blocks up to a chunk, what is less than a block by itself.
    Zeroes,
    /// A question: up to a chunk.
    Question,
}

/// Bytes of one chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The chunk.
    pub chunk: ChunkIndex,
    /// Where in the chunk, in bytes.
    pub offset: u32,
    /// How many bytes.
    pub len: u32,
}

/// The spans of `len` bytes at `offset` of a volume, ascending.
pub fn split(cut: Cut, offset: u64, len: u64) -> impl Iterator<Item = Span> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let next = next_cut(cut, at, end);
        let chunk = ChunkIndex((at / CHUNK_SIZE) as u32);
        let span = Span { chunk, offset: (at % CHUNK_SIZE) as u32, len: (next - at) as u32 };
        at = next;
        Some(span)
    })
}

fn next_cut(cut: Cut, at: u64, end: u64) -> u64 {
    let block = BLOCK_SIZE as u64;
    let boundary = |size: u64| ((at / size + 1) * size).min(end);
    match cut {
        Cut::Data => boundary(PIECE_BYTES_MAX as u64),
        Cut::Question => boundary(CHUNK_SIZE),
        Cut::Zeroes if at.is_multiple_of(block) && end - at >= block => boundary(CHUNK_SIZE) / block * block,
        Cut::Zeroes => boundary(block),
    }
}

const _: () = assert!(CHUNK_SIZE.is_multiple_of(PIECE_BYTES_MAX as u64) && PIECE_BLOCKS_MAX == 64);

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(cut: Cut, offset: u64, len: u64) -> Vec<(u32, u32, u32)> {
        split(cut, offset, len).map(|s| (s.chunk.0, s.offset, s.len)).collect()
    }
    const PIECE: u32 = PIECE_BYTES_MAX as u32;
    const CHUNK: u32 = CHUNK_SIZE as u32;

    #[test]
    fn what_lies_inside_a_piece_stays_whole() {
        assert_eq!(spans(Cut::Data, 0, 1), [(0, 0, 1)]);
        assert_eq!(spans(Cut::Data, 4095, 2), [(0, 4095, 2)]);
        assert_eq!(spans(Cut::Data, CHUNK_SIZE + 8192, 4096), [(1, 8192, 4096)]);
        assert_eq!(spans(Cut::Data, 0, u64::from(PIECE)), [(0, 0, PIECE)]);
    }

    #[test]
    fn data_is_cut_at_every_64_blocks_and_so_at_every_chunk() {
        assert_eq!(spans(Cut::Data, u64::from(PIECE) - 1, 2), [(0, PIECE - 1, 1), (0, PIECE, 1)]);
        assert_eq!(spans(Cut::Data, CHUNK_SIZE - 4096, 8192), [(0, CHUNK - 4096, 4096), (1, 0, 4096)]);
        assert_eq!(spans(Cut::Data, 0, 2 * CHUNK_SIZE).len(), 32);
    }

    #[test]
    fn zeroes_go_by_chunks_and_part_blocks_by_themselves() {
        assert_eq!(spans(Cut::Zeroes, 0, 2 * CHUNK_SIZE), [(0, 0, CHUNK), (1, 0, CHUNK)]);
        assert_eq!(spans(Cut::Zeroes, 100, 3 * 4096), [(0, 100, 3996), (0, 4096, 8192), (0, 12288, 100)]);
        assert_eq!(spans(Cut::Zeroes, 100, 200), [(0, 100, 200)]);
        assert_eq!(spans(Cut::Zeroes, 4000, 200), [(0, 4000, 96), (0, 4096, 104)]);
    }

    #[test]
    fn spans_join_up_whatever_the_bytes() {
        let mut x = 7u64;
        for _ in 0..2000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (offset, len) = (x >> 20 & 0xff_ffff, 1 + (x >> 3 & 0xff_ffff));
            for cut in [Cut::Data, Cut::Zeroes, Cut::Question] {
                let mut at = offset;
                for span in split(cut, offset, len) {
                    assert_eq!(u64::from(span.chunk.0) * CHUNK_SIZE + u64::from(span.offset), at);
                    assert!(span.len > 0 && u64::from(span.offset + span.len) <= CHUNK_SIZE);
                    at += u64::from(span.len);
                    let whole = (span.offset | span.len).is_multiple_of(BLOCK_SIZE as u32);
                    let blocks = (span.offset + span.len).div_ceil(4096) - span.offset / 4096;
                    match cut {
                        Cut::Data => assert!(blocks <= u32::from(PIECE_BLOCKS_MAX)),
                        Cut::Zeroes => assert!(whole || blocks == 1),
                        Cut::Question => {}
                    }
                }
                assert_eq!(at, offset + len);
            }
        }
    }
}
