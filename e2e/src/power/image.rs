//! A drive at a point of the log: what was durable, and over it what the disk kept of the rest, and what is written after that.
use super::history::BLOCK;
use super::log::SECTOR;
use sarsen_buffer::Buf;
use sarsen_store::disk::{Bufs, Completion, Disk, OpId};
use std::collections::HashMap;
use std::sync::Arc;

/// All bytes of the drive.
pub type Bytes = Arc<Vec<u8>>;

/// Blocks over a drive's bytes; each operation is done when it is submitted.
#[derive(Debug)]
pub struct Overlay {
    under: Bytes,
    over: HashMap<u64, Box<[u8]>>,
    done: Vec<Completion>,
}

impl Overlay {
    /// Nothing over these.
    pub fn new(under: Bytes) -> Overlay {
        Overlay { under, over: HashMap::new(), done: Vec::new() }
    }

    /// The bytes of a block.
    pub fn block(&self, block: u64) -> &[u8] {
        match self.over.get(&block) {
            Some(bytes) => bytes,
            None => &self.under[block as usize * BLOCK..][..BLOCK],
        }
    }

    /// Puts one sector.
    pub fn put(&mut self, sector: u64, bytes: &[u8]) {
        let at = sector * SECTOR;
        let block = at / BLOCK as u64;
        let within = (at % BLOCK as u64) as usize;
        let under = &self.under;
        let held = self.over.entry(block).or_insert_with(|| under[block as usize * BLOCK..][..BLOCK].into());
        held[within..within + bytes.len()].copy_from_slice(bytes);
    }

    /// Whole, to be written to a file.
    pub fn blocks(&self) -> impl Iterator<Item = &[u8]> {
        (0..(self.under.len() / BLOCK) as u64).map(|block| self.block(block))
    }

    fn end(&mut self, id: OpId, buf: Option<Buf>) {
        self.done.push(Completion { id, buf, result: Ok(()) });
    }
}

impl Disk for Overlay {
    fn size(&self) -> u64 {
        self.under.len() as u64
    }
    fn read(&mut self, id: OpId, offset: u64, mut buf: Buf) {
        let first = offset / BLOCK as u64;
        for (at, part) in buf.get_mut().chunks_exact_mut(BLOCK).enumerate() {
            part.copy_from_slice(self.block(first + at as u64));
        }
        self.end(id, Some(buf));
    }
    fn write(&mut self, id: OpId, offset: u64, bufs: Bufs) {
        let parts = bufs.iter().flat_map(|buf| buf.chunks_exact(BLOCK));
        self.over.extend((offset / BLOCK as u64..).zip(parts).map(|(block, part)| (block, part.into())));
        self.end(id, None);
    }
    fn flush(&mut self, id: OpId) {
        self.end(id, None);
    }
    fn trim(&mut self, id: OpId, _offset: u64, _len: u64) {
        self.end(id, None);
    }
    fn writes_are_durable(&self) -> bool {
        true
    }
    fn poll(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.done);
    }
    fn wait(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.done);
    }
}
