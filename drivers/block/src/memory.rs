//! A volume in memory: for tests of drivers, and as the floor of a benchmark.
use crate::backend::{Backend, Limits};
use crate::request::{Answer, Completion, Extent, Failure, Op, Request};
use sarsen_buffer::{Part, Parts, Pool, push_part};
use sarsen_types::{BLOCK_SIZE, Instant};

const BLOCK: u64 = BLOCK_SIZE as u64;

/// Sparse: blocks that were never written take no memory.
pub struct MemoryBackend {
    blocks: Vec<Option<Box<[u8; BLOCK_SIZE]>>>,
    size: u64,
    limits: Limits,
    pool: Pool,
    done: Vec<Completion>,
}

impl MemoryBackend {
    /// `size` bytes of zeroes; data that is read is taken from `pool`.
    pub fn new(size: u64, pool: Pool) -> MemoryBackend {
        let blocks = (0..size.div_ceil(BLOCK)).map(|_| None).collect();
        MemoryBackend { blocks, size, limits: Limits::default(), pool, done: Vec::new() }
    }
    /// With other limits.
    pub fn with_limits(mut self, limits: Limits) -> MemoryBackend {
        self.limits = limits;
        self
    }
    /// Makes it larger.
    pub fn grow(&mut self, size: u64) {
        self.size = self.size.max(size);
        self.blocks.resize_with(self.size.div_ceil(BLOCK) as usize, || None);
    }

    fn carry_out(&mut self, request: &Request) -> Result<Answer, Failure> {
        let (offset, len) = (request.offset(), request.len());
        match offset.checked_add(len) {
            Some(end) if end <= self.size => {}
            _ => return Err(Failure::OutOfBounds),
        }
        if self.limits.is_read_only && matches!(request.op(), Op::Write(_) | Op::Zero | Op::Trim) {
            return Err(Failure::ReadOnly);
        }
        match request.op() {
            Op::Read => Ok(Answer::Data(self.read(offset, len))),
            Op::Write(data) => {
                let start = (offset % BLOCK) as usize;
                self.write(offset, &data[start..start + len as usize]);
                Ok(Answer::Done)
            }
            Op::Zero | Op::Trim => {
                self.zero(offset, len, matches!(request.op(), Op::Trim));
                Ok(Answer::Done)
            }
            Op::Status => Ok(Answer::Extents(self.extents(offset, len))),
        }
    }

    fn read(&self, offset: u64, len: u64) -> Parts {
        let mut parts = Parts::new();
        let blocks = offset / BLOCK..(offset + len).div_ceil(BLOCK);
        if self.blocks[blocks.start as usize..blocks.end as usize].iter().all(Option::is_none) {
            push_part(&mut parts, Part::Zeroes(len as usize));
            return parts;
        }
        let mut data = self.pool.take(len as usize);
        let bytes = data.get_mut();
        for (number, span, at) in spans(offset, len) {
            let to = &mut bytes[at..at + span.len()];
            match &self.blocks[number] {
                Some(block) => to.copy_from_slice(&block[span]),
                None => to.fill(0),
            }
        }
        push_part(&mut parts, Part::Data(data));
        parts
    }
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (number, span, at) in spans(offset, bytes.len() as u64) {
            let from = &bytes[at..at + span.len()];
            let block = self.blocks[number].get_or_insert_with(|| Box::new([0; BLOCK_SIZE]));
            block[span].copy_from_slice(from);
        }
    }
    fn zero(&mut self, offset: u64, len: u64, only_whole: bool) {
        for (number, span, _) in spans(offset, len) {
            if span.len() == BLOCK_SIZE {
                self.blocks[number] = None;
            } else if let Some(block) = self.blocks[number].as_mut().filter(|_| !only_whole) {
                block[span].fill(0);
            }
        }
    }
    fn extents(&self, offset: u64, len: u64) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        for (number, span, at) in spans(offset, len) {
            let is_data = self.blocks[number].is_some();
            match extents.last_mut() {
                Some(last) if last.is_data == is_data => last.len += span.len() as u64,
                _ => extents.push(Extent { offset: offset + at as u64, len: span.len() as u64, is_data }),
            }
        }
        extents
    }
}

/// Of each block touched: its number, the bytes in it, and how many bytes came before.
fn spans(offset: u64, len: u64) -> impl Iterator<Item = (usize, std::ops::Range<usize>, usize)> {
    let end = offset + len;
    (offset / BLOCK..end.div_ceil(BLOCK)).map(move |number| {
        let start = number * BLOCK;
        let (from, to) = (offset.max(start), end.min(start + BLOCK));
        (number as usize, (from - start) as usize..(to - start) as usize, (from - offset) as usize)
    })
}

impl Backend for MemoryBackend {
    fn size(&self) -> u64 {
        self.size
    }
    fn limits(&self) -> Limits {
        self.limits
    }
    fn submit(&mut self, _now: Instant, request: Request) {
        let result = self.carry_out(&request);
        self.done.push(request.complete(result));
    }
    fn completions(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, Direct};

    #[test]
    fn a_volume_in_memory_conforms() {
        let pool = Pool::new();
        let backend = MemoryBackend::new(24 << 20, pool.clone());
        conformance::run(&mut Direct::new(backend, pool));
    }

    #[test]
    fn a_read_only_volume_refuses_what_changes_it() {
        let pool = Pool::new();
        let limits = Limits { is_read_only: true, ..Limits::default() };
        let backend = MemoryBackend::new(1 << 20, pool.clone()).with_limits(limits);
        conformance::read_only(&mut Direct::new(backend, pool));
    }
}
