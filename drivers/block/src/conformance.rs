//! The workload that every backend and every driver passes: what a block device is, as checks.
use crate::backend::Backend;
use crate::request::{Answer, Completion, Extent, Failure, Op, Request, Tag};
use sarsen_buffer::{Buf, Pool, joined};
use sarsen_types::{BLOCK_SIZE, Instant};
use std::collections::BTreeMap;

/// The least size of a volume that the workload is run on.
pub const SIZE_MIN: u64 = 16 << 20;
const BLOCK: u64 = BLOCK_SIZE as u64;
const CHUNK: u64 = sarsen_types::CHUNK_SIZE;
/// Requests of the random part.
const RANDOM_REQUESTS: u64 = 3000;
/// Of them under way at once.
const DEPTH: usize = 16;

/// What is checked: a backend, or a driver with a client at its other end. Its volume holds nothing yet.
pub trait Subject {
    /// Bytes of the volume.
    fn size(&self) -> u64;
    /// Memory for writes.
    fn pool(&self) -> &Pool;
    /// Begins a request.
    fn submit(&mut self, request: Request);
    /// Waits until one of those under way has ended.
    fn wait(&mut self) -> Completion;
}

/// A backend that needs nobody to make it move.
pub struct Direct<B> {
    backend: B,
    pool: Pool,
    done: Vec<Completion>,
}

impl<B: Backend> Direct<B> {
    /// Checks `backend`.
    pub fn new(backend: B, pool: Pool) -> Direct<B> {
        Direct { backend, pool, done: Vec::new() }
    }
}
impl<B: Backend> Subject for Direct<B> {
    fn size(&self) -> u64 {
        self.backend.size()
    }
    fn pool(&self) -> &Pool {
        &self.pool
    }
    fn submit(&mut self, request: Request) {
        self.backend.submit(Instant(1), request);
    }
    fn wait(&mut self) -> Completion {
        self.backend.completions(&mut self.done);
        self.done.pop().expect("something is under way and has ended")
    }
}

/// Runs all of it.
///
/// # Panics
/// At the first thing a block device would not do.
pub fn run(subject: &mut dyn Subject) {
    assert!(subject.size() >= SIZE_MIN, "the workload needs {SIZE_MIN} bytes");
    let mut run = Run { subject, next: 1 };
    run.new_volume_reads_as_zeroes();
    run.bytes_come_back_wherever_they_lie();
    run.long_requests_are_whole();
    run.zeroes_and_trims_read_as_zeroes();
    run.status_tells_data_from_holes();
    run.bounds_are_kept();
    run.the_last_of_overlapping_writes_wins();
    run.random_requests_agree_with_a_model();
}

/// Checks a volume that may not be written.
///
/// # Panics
/// If it may.
pub fn read_only(subject: &mut dyn Subject) {
    let mut run = Run { subject, next: 1 };
    let data = run.laid_out(0, &[1; 4096]);
    for op in [Op::Write(data), Op::Zero, Op::Trim] {
        assert_eq!(run.ask(op, 0, BLOCK), Err(Failure::ReadOnly));
    }
    assert_eq!(run.read(0, 4096), [0; 4096]);
}

struct Run<'a> {
    subject: &'a mut dyn Subject,
    next: u64,
}

impl Run<'_> {
    fn begin(&mut self, op: Op, offset: u64, len: u64) -> Tag {
        let tag = Tag(self.next);
        self.next += 1;
        self.subject.submit(Request::new(tag, op, offset, len));
        tag
    }
    fn ask(&mut self, op: Op, offset: u64, len: u64) -> Result<Answer, Failure> {
        let tag = self.begin(op, offset, len);
        let done = self.subject.wait();
        assert_eq!(done.tag, tag, "the answer is that of the one request under way");
        done.result
    }
    fn laid_out(&self, offset: u64, bytes: &[u8]) -> Buf {
        let start = (offset % BLOCK) as usize;
        let mut data = self.subject.pool().take_zeroed((start + bytes.len()).next_multiple_of(BLOCK_SIZE));
        data.get_mut()[start..start + bytes.len()].copy_from_slice(bytes);
        data
    }
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let data = self.laid_out(offset, bytes);
        assert_eq!(self.ask(Op::Write(data), offset, bytes.len() as u64), Ok(Answer::Done));
    }
    fn read(&mut self, offset: u64, len: u64) -> Vec<u8> {
        match self.ask(Op::Read, offset, len) {
            Ok(Answer::Data(parts)) => {
                let bytes = joined(&parts);
                assert_eq!(bytes.len() as u64, len, "a read brings what was asked for");
                bytes
            }
            other => panic!("a read of {offset}+{len} brought {other:?}"),
        }
    }
    /// Runs from `offset` on: at least one, without gaps, and not beyond what was asked.
    fn status(&mut self, offset: u64, len: u64) -> Vec<Extent> {
        let Ok(Answer::Extents(extents)) = self.ask(Op::Status, offset, len) else { panic!("extents") };
        let mut at = offset;
        for extent in &extents {
            assert_eq!(extent.offset, at);
            assert!(extent.len > 0);
            at += extent.len;
        }
        assert!(!extents.is_empty() && at <= offset + len);
        extents
    }
    /// Whether a byte is said to lie in a run of data.
    fn is_data(&mut self, offset: u64) -> bool {
        self.status(offset, 1)[0].is_data
    }

    fn new_volume_reads_as_zeroes(&mut self) {
        let size = self.subject.size();
        for (offset, len) in [(0, 1), (0, BLOCK), (CHUNK - 10, 20), (size - BLOCK, BLOCK), (size - 1, 1)] {
            assert!(self.read(offset, len).iter().all(|b| *b == 0), "{offset}+{len}");
        }
    }

    fn bytes_come_back_wherever_they_lie(&mut self) {
        let size = self.subject.size();
        let piece = 64 * BLOCK;
        let places = [
            (0, BLOCK),
            (1, 1),
            (BLOCK - 1, 2),
            (511, 513),
            (3 * BLOCK, 5 * BLOCK),
            (piece - 1, 2),
            (piece - BLOCK, 2 * BLOCK),
            (CHUNK - 1, 2),
            (CHUNK - BLOCK - 7, 2 * BLOCK + 14),
            (size - 1, 1),
            (size - BLOCK, BLOCK),
        ];
        for (number, (offset, len)) in places.into_iter().enumerate() {
            let bytes = pattern(number as u64 + 1, len);
            let (before, after) = (offset.min(9), (size - offset - len).min(9));
            let around = self.read(offset - before, before + len + after);
            self.write(offset, &bytes);
            let mut wanted = around;
            wanted[before as usize..(before + len) as usize].copy_from_slice(&bytes);
            assert_eq!(
                self.read(offset - before, before + len + after),
                wanted,
                "only {offset}+{len} changed"
            );
        }
    }

    fn long_requests_are_whole(&mut self) {
        let (offset, len) = (CHUNK / 2 + 100, 2 * CHUNK + 333);
        let bytes = pattern(99, len);
        self.write(offset, &bytes);
        assert!(self.read(offset, len) == bytes, "a write over three chunks comes back");
        let part = (CHUNK as usize - 5)..(CHUNK as usize + 9000);
        let read = self.read(offset + part.start as u64, part.len() as u64);
        assert!(read == bytes[part], "and so does a part of it");
    }

    fn zeroes_and_trims_read_as_zeroes(&mut self) {
        let (offset, len) = (8 * BLOCK, 16 * BLOCK);
        let bytes = pattern(5, len);
        self.write(offset, &bytes);
        assert_eq!(self.ask(Op::Zero, offset + 100, 3 * BLOCK), Ok(Answer::Done));
        let mut wanted = bytes;
        wanted[100..100 + 3 * BLOCK_SIZE].fill(0);
        assert!(self.read(offset, len) == wanted, "zeroes to the byte");
        assert_eq!(self.ask(Op::Trim, offset + 8 * BLOCK, 2 * BLOCK), Ok(Answer::Done));
        wanted[8 * BLOCK_SIZE..10 * BLOCK_SIZE].fill(0);
        assert!(self.read(offset, len) == wanted, "whole blocks that were trimmed read as zeroes");
        assert_eq!(self.ask(Op::Trim, offset + 12 * BLOCK + 10, 100), Ok(Answer::Done));
        let read = self.read(offset, len);
        let part = 12 * BLOCK_SIZE..13 * BLOCK_SIZE;
        assert!(read[..part.start] == wanted[..part.start] && read[part.end..] == wanted[part.end..]);
        assert_eq!(
            read[part.start], wanted[part.start],
            "a trim of less than a block leaves what is around it"
        );
        assert_eq!(self.ask(Op::Zero, 0, 2 * CHUNK + 1), Ok(Answer::Done));
        assert!(self.read(0, 2 * CHUNK + 1).iter().all(|b| *b == 0));
    }

    fn status_tells_data_from_holes(&mut self) {
        assert_eq!(self.ask(Op::Zero, 0, CHUNK), Ok(Answer::Done));
        self.write(4 * BLOCK, &pattern(3, 2 * BLOCK));
        assert!(!self.is_data(0) && self.is_data(4 * BLOCK) && self.is_data(6 * BLOCK - 1));
        assert!(!self.is_data(6 * BLOCK));
        let extents = self.status(2 * BLOCK, 8 * BLOCK);
        let runs: Vec<_> = extents.iter().map(|e| (e.offset / BLOCK, e.len / BLOCK, e.is_data)).collect();
        let whole = [(2, 2, false), (4, 2, true), (6, 4, false)];
        assert!(whole.starts_with(&runs[..runs.len() - 1]), "{runs:?}");
        assert_eq!(self.ask(Op::Trim, 4 * BLOCK, 2 * BLOCK), Ok(Answer::Done));
        assert!(!self.is_data(4 * BLOCK), "what was trimmed is a hole");
    }

    fn bounds_are_kept(&mut self) {
        let size = self.subject.size();
        // the last: its end, looked at without care, is the second block (found in review)
        let beyond =
            [(size, 1), (size - 1, 2), (u64::MAX - 1, 1), (size + CHUNK, BLOCK), (u64::MAX, 2 * BLOCK + 1)];
        for (offset, len) in beyond {
            assert_eq!(self.ask(Op::Read, offset, len), Err(Failure::OutOfBounds), "{offset}+{len}");
            assert_eq!(self.ask(Op::Zero, offset, len), Err(Failure::OutOfBounds), "{offset}+{len}");
            assert_eq!(self.ask(Op::Trim, offset, len), Err(Failure::OutOfBounds), "{offset}+{len}");
        }
        let data = self.laid_out(size, &[1; 512]);
        assert_eq!(self.ask(Op::Write(data), size, 512), Err(Failure::OutOfBounds));
    }

    fn the_last_of_overlapping_writes_wins(&mut self) {
        // sent at once, in order, without waiting: the order they were sent in is the order they take effect in
        let mut open = Vec::new();
        for n in 0..DEPTH as u64 {
            let data = self.laid_out(n * 512, &pattern(n, BLOCK));
            open.push(self.begin(Op::Write(data), n * 512, BLOCK));
        }
        while !open.is_empty() {
            let done = self.subject.wait();
            assert_eq!(done.result, Ok(Answer::Done));
            let at = open.iter().position(|t| *t == done.tag).expect("an answer to what was asked, once");
            open.swap_remove(at);
        }
        let read = self.read(0, (DEPTH as u64 - 1) * 512 + BLOCK);
        for n in 0..DEPTH {
            let own = if n + 1 == DEPTH { BLOCK_SIZE } else { 512 };
            assert_eq!(read[n * 512..][..own], pattern(n as u64, BLOCK)[..own], "write {n}");
        }
    }

    fn random_requests_agree_with_a_model(&mut self) {
        let space = 12 << 20;
        self.subject.size();
        let mut model = vec![0u8; space as usize];
        assert_eq!(self.ask(Op::Zero, 0, space), Ok(Answer::Done));
        let mut random = Random(42);
        let mut open: BTreeMap<Tag, (u64, u64, Option<Vec<u8>>)> = BTreeMap::new();
        for n in 0..RANDOM_REQUESTS {
            if open.len() == DEPTH {
                self.settle(&mut open);
            }
            let len = match random.below(10) {
                0..5 => BLOCK,
                5..8 => 1 + random.below(3 * BLOCK),
                8 => 1 + random.below(80 * BLOCK),
                _ => 512 * (1 + random.below(20)),
            };
            let offset = match random.below(2) {
                0 => random.below((space - len) / BLOCK) * BLOCK,
                _ => random.below(space - len),
            };
            let bytes = offset as usize..(offset + len) as usize;
            let is_read = random.below(3) == 0;
            // a read beside a write may see either: the model knows only of one at a time
            let meets = |o: &(u64, u64, Option<Vec<u8>>)| o.0 < offset + len && offset < o.0 + o.1;
            while open.values().any(|o| meets(o) && (is_read || o.2.is_some())) {
                self.settle(&mut open);
            }
            let tag = match (is_read, random.below(6)) {
                (true, _) => self.begin(Op::Read, offset, len),
                (_, 0) => {
                    model[bytes.clone()].fill(0);
                    self.begin(Op::Zero, offset, len)
                }
                _ => {
                    let data = pattern(n, len);
                    model[bytes.clone()].copy_from_slice(&data);
                    let data = self.laid_out(offset, &data);
                    self.begin(Op::Write(data), offset, len)
                }
            };
            open.insert(tag, (offset, len, is_read.then(|| model[bytes].to_vec())));
        }
        while !open.is_empty() {
            self.settle(&mut open);
        }
        assert!(self.read(0, space) == model, "all of it at the end");
    }

    fn settle(&mut self, open: &mut BTreeMap<Tag, (u64, u64, Option<Vec<u8>>)>) {
        let done = self.subject.wait();
        let (offset, len, wanted) = open.remove(&done.tag).expect("an answer to what was asked, once");
        match (done.result, wanted) {
            (Ok(Answer::Data(parts)), Some(wanted)) => {
                assert!(joined(&parts) == wanted, "a read of {offset}+{len} differs from the model");
            }
            (Ok(Answer::Done), None) => {}
            (other, _) => panic!("{offset}+{len} brought {other:?}"),
        }
    }
}

fn pattern(seed: u64, len: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = Vec::with_capacity(len as usize + 8);
    while bytes.len() < len as usize {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len as usize);
    bytes
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
