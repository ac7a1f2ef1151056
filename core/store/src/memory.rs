//! A disk in memory that remembers what was synced: it can crash, tear, lose, rot and misdirect.
use crate::disk::{Bufs, Completion, Disk, DiskError, OpId, WRITE_BUFS_MAX};
use sarsen_buffer::Buf;
use sarsen_types::BLOCK_SIZE;
use std::collections::{BTreeMap, BTreeSet};

/// A block without the zeroes at its end, so that a terabyte of map fits into memory.
type Block = Box<[u8]>;

fn trimmed(data: &[u8]) -> Block {
    let end = data.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    data[..end].into()
}

fn spread(block: &[u8], into: &mut [u8]) {
    into[..block.len()].copy_from_slice(block);
    into[block.len()..].fill(0);
}

/// What is on the platter: sparse, in blocks. Cloning it makes an image to roll back to.
#[derive(Clone, Debug, Default)]
pub struct Image(BTreeMap<u64, Block>);

impl Image {
    fn read(&self, block: u64, into: &mut [u8]) {
        match self.0.get(&block) {
            Some(data) => spread(data, into),
            None => into.fill(0),
        }
    }
    fn write(&mut self, block: u64, data: &[u8]) {
        self.0.insert(block, trimmed(data));
    }
    /// Blocks that were ever written.
    pub fn blocks(&self) -> impl Iterator<Item = u64> {
        self.0.keys().copied()
    }
    /// Flips a bit of a block.
    pub fn rot(&mut self, block: u64, bit: u32) {
        if self.0.contains_key(&block) {
            let mut data = [0; BLOCK_SIZE];
            self.read(block, &mut data);
            data[bit as usize / 8 % BLOCK_SIZE] ^= 1 << (bit % 8);
            self.write(block, &data);
        }
    }
    /// The bytes of a block.
    pub fn block(&self, block: u64) -> Option<Vec<u8>> {
        self.0.contains_key(&block).then(|| {
            let mut data = vec![0; BLOCK_SIZE];
            self.read(block, &mut data);
            data
        })
    }
}

/// See the module. Operations complete when [`MemDisk::complete`] says so, at once by default.
#[derive(Debug, Default)]
pub struct MemDisk {
    size: u64,
    /// Durable.
    platter: Image,
    /// Written since the last flush: (block, data), in order. Visible to reads, lost or kept by a crash.
    cache: Vec<(u64, Block)>,
    done: Vec<Completion>,
    waiting: Vec<Waiting>,
    /// Operations wait for [`MemDisk::complete`] while set.
    pub is_held: bool,
    /// Writes are durable when they complete.
    pub is_durable: bool,
    /// The next write goes elsewhere, by so many blocks.
    pub misdirect: Option<u64>,
    /// Every operation fails with this errno.
    pub errno: Option<i32>,
    /// Writes that touch these blocks fail.
    pub bad: BTreeSet<u64>,
    /// Bytes read so far.
    pub read_bytes: u64,
    /// Bytes written so far.
    pub written_bytes: u64,
}

#[derive(Debug)]
enum Waiting {
    Read(OpId, u64, Buf),
    Write(OpId, u64, Bufs),
    Flush(OpId),
    Trim(OpId, u64, u64),
}

impl Waiting {
    /// The byte behind the last it touches.
    fn end(&self) -> u64 {
        match self {
            Waiting::Read(_, at, buf) => at + buf.len() as u64,
            Waiting::Write(_, at, bufs) => at + bufs.iter().map(|b| b.len() as u64).sum::<u64>(),
            Waiting::Trim(_, at, len) => at + len,
            Waiting::Flush(_) => 0,
        }
    }
}

impl MemDisk {
    /// An empty disk of `size` bytes; what was never written reads as zeroes.
    pub fn new(size: u64) -> MemDisk {
        MemDisk { size, ..MemDisk::default() }
    }
    /// A disk with these contents.
    pub fn from_image(size: u64, image: Image) -> MemDisk {
        MemDisk { size, platter: image, ..MemDisk::default() }
    }
    /// What is durable.
    pub fn image(&self) -> &Image {
        &self.platter
    }
    /// What is durable, to be damaged.
    pub fn image_mut(&mut self) -> &mut Image {
        &mut self.platter
    }
    /// Operations that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Does something with the disk beside its owner, as through another file descriptor: the owner's operations, waiting or
    /// completed, are not met.
    pub fn beside<R>(&mut self, work: impl FnOnce(&mut MemDisk) -> R) -> R {
        let (waiting, done) = (std::mem::take(&mut self.waiting), std::mem::take(&mut self.done));
        let is_held = std::mem::take(&mut self.is_held);
        let result = work(self);
        (self.waiting, self.done, self.is_held) = (waiting, done, is_held);
        result
    }

    /// Completes the waiting operation at `at`: any order is allowed.
    pub fn complete(&mut self, at: usize) {
        if at < self.waiting.len() {
            let op = self.waiting.remove(at);
            self.carry_out(op);
        }
    }

    fn submit(&mut self, op: Waiting) {
        assert!(op.end() <= self.size, "an operation lies inside its disk");
        match self.is_held {
            true => self.waiting.push(op),
            false => self.carry_out(op),
        }
    }

    fn carry_out(&mut self, op: Waiting) {
        let result = self.errno.map_or(Ok(()), |e| Err(DiskError::Io(e)));
        let (id, buf) = match op {
            Waiting::Read(id, offset, mut buf) => {
                self.read_bytes += buf.len() as u64;
                for (at, into) in buf.get_mut().chunks_exact_mut(BLOCK_SIZE).enumerate() {
                    self.see(offset / BLOCK_SIZE as u64 + at as u64, into);
                }
                (id, Some(buf))
            }
            Waiting::Write(id, offset, bufs) if self.is_bad(offset, &bufs) => {
                return self.done.push(Completion { id, buf: None, result: Err(DiskError::Io(libc::EIO)) });
            }
            Waiting::Write(id, offset, bufs) => {
                assert!(bufs.len() <= WRITE_BUFS_MAX, "the kernel takes no write of {} buffers", bufs.len());
                let first = offset / BLOCK_SIZE as u64 + self.misdirect.take().unwrap_or(0);
                if result.is_ok() {
                    let blocks = bufs.iter().flat_map(|b| b.chunks_exact(BLOCK_SIZE));
                    for (at, data) in blocks.enumerate() {
                        self.cache.push((first + at as u64, trimmed(data)));
                        self.written_bytes += BLOCK_SIZE as u64;
                    }
                    if self.is_durable {
                        self.sync();
                    }
                }
                (id, None)
            }
            Waiting::Trim(id, offset, len) => {
                // what was trimmed reads as anything: here as zeroes, at once
                let blocks = offset / BLOCK_SIZE as u64..(offset + len) / BLOCK_SIZE as u64;
                self.cache.retain(|c| !blocks.contains(&c.0));
                blocks.for_each(|block| drop(self.platter.0.remove(&block)));
                (id, None)
            }
            Waiting::Flush(id) => {
                if result.is_ok() {
                    self.sync();
                }
                (id, None)
            }
        };
        self.done.push(Completion { id, buf, result });
    }

    fn is_bad(&self, offset: u64, bufs: &[Buf]) -> bool {
        let first = offset / BLOCK_SIZE as u64;
        let blocks = bufs.iter().map(|b| b.len()).sum::<usize>() / BLOCK_SIZE;
        self.bad.range(first..first + blocks as u64).next().is_some()
    }

    fn see(&self, block: u64, into: &mut [u8]) {
        match self.cache.iter().rev().find(|c| c.0 == block) {
            Some((_, data)) => spread(data, into),
            None => self.platter.read(block, into),
        }
    }

    fn sync(&mut self) {
        self.platter.0.extend(self.cache.drain(..));
    }

    /// Power loss. Each block written and not synced is kept, lost, or torn, as `fate` decides; operations that had not
    /// completed may have reached the platter too. Gives what is left.
    pub fn crash(mut self, mut fate: impl FnMut() -> Fate) -> Image {
        let mut unsynced = std::mem::take(&mut self.cache);
        for op in std::mem::take(&mut self.waiting) {
            if let Waiting::Write(_, offset, bufs) = op {
                let blocks = bufs.iter().flat_map(|b| b.chunks_exact(BLOCK_SIZE));
                for (at, data) in blocks.enumerate() {
                    unsynced.push((offset / BLOCK_SIZE as u64 + at as u64, trimmed(data)));
                }
            }
        }
        for (block, data) in unsynced {
            match fate() {
                Fate::Kept => drop(self.platter.0.insert(block, data)),
                Fate::Lost => {}
                Fate::Torn(at) => {
                    let mut mixed = [0; BLOCK_SIZE];
                    self.platter.read(block, &mut mixed);
                    let at = at % BLOCK_SIZE / 512 * 512;
                    let mut new = [0; BLOCK_SIZE];
                    spread(&data, &mut new);
                    mixed[..at].copy_from_slice(&new[..at]);
                    self.platter.write(block, &mixed);
                }
            }
        }
        self.platter
    }
}

/// What a crash does to a block that was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is there.
    Kept,
    /// The old one is there.
    Lost,
    /// The new one's sectors up to this byte, then the old one's.
    Torn(usize),
}

impl Disk for MemDisk {
    fn size(&self) -> u64 {
        self.size
    }
    fn read(&mut self, id: OpId, offset: u64, buf: Buf) {
        self.submit(Waiting::Read(id, offset, buf));
    }
    fn write(&mut self, id: OpId, offset: u64, bufs: Bufs) {
        self.submit(Waiting::Write(id, offset, bufs));
    }
    fn flush(&mut self, id: OpId) {
        self.submit(Waiting::Flush(id));
    }
    fn trim(&mut self, id: OpId, offset: u64, len: u64) {
        self.submit(Waiting::Trim(id, offset, len));
    }
    fn writes_are_durable(&self) -> bool {
        self.is_durable
    }
    fn poll(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.done);
    }
    fn wait(&mut self, out: &mut Vec<Completion>) {
        while !self.waiting.is_empty() {
            self.complete(0);
        }
        out.append(&mut self.done);
    }
}
