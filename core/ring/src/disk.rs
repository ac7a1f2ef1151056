//! A drive's part as a [`Disk`]: operations are queued here, submitted by the ring's turn, and picked up when done.
use crate::engine::{Engine, Kind, tag};
use crate::file::DriveFile;
use crate::fixed::Target;
use io_uring::{opcode, squeue, types};
use sarsen_buffer::Buf;
use sarsen_store::disk::{Bufs, Completion, Disk, DiskError, OpId};
use smallvec::SmallVec;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

enum Op {
    Read { at: u64, buf: Buf },
    Write { at: u64, bufs: Bufs },
    Flush,
    Trim { at: u64, len: u64 },
}

impl Op {
    fn len(&self) -> usize {
        match self {
            Op::Read { buf, .. } => buf.len(),
            Op::Write { bufs, .. } => bufs.iter().map(|b| b.len()).sum(),
            Op::Flush | Op::Trim { .. } => 0,
        }
    }
}

/// An operation the kernel has. Boxed: its vectors stay in place until it is submitted.
struct Flying {
    id: OpId,
    op: Option<Op>,
    iovecs: SmallVec<[libc::iovec; 8]>,
}

/// Operations of one [`RingDisk`]: queued, flying, done.
pub(crate) struct DiskQueue {
    number: u32,
    file: Arc<DriveFile>,
    /// As operations name it.
    target: Target,
    start: u64,
    queued: VecDeque<(OpId, Op)>,
    #[expect(clippy::vec_box, reason = "the kernel is given the address of what is inside")]
    flying: Vec<Box<Flying>>,
    free: Vec<u32>,
    done: Vec<Completion>,
}

impl DiskQueue {
    fn new(number: u32, file: Arc<DriveFile>, target: Target, start: u64) -> DiskQueue {
        let (queued, flying, free, done) = (VecDeque::new(), Vec::new(), Vec::new(), Vec::new());
        DiskQueue { number, file, target, start, queued, flying, free, done }
    }
    /// Whether operations are to be carried out by the thread itself (L6).
    pub fn has_inline(&self) -> bool {
        self.file.is_inline() && !self.queued.is_empty()
    }
    pub fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    /// The kernel ended an operation.
    pub fn complete(&mut self, index: u32, result: i32) {
        let flying = &mut self.flying[index as usize];
        let op = flying.op.take().expect("an operation completes once");
        let id = flying.id;
        self.free.push(index);
        if result == -libc::EAGAIN || result == -libc::EINTR {
            self.queued.push_back((id, op));
            return;
        }
        self.finish(id, op, result);
    }

    fn finish(&mut self, id: OpId, op: Op, result: i32) {
        let wanted = op.len();
        let (buf, is_hint) = match op {
            Op::Read { buf, .. } => (Some(buf), false),
            Op::Trim { .. } => (None, true),
            Op::Write { .. } | Op::Flush => (None, false),
        };
        let result = match result {
            _ if is_hint => Ok(()),
            error if error < 0 => Err(DiskError::Io(-error)),
            len if len as usize == wanted => Ok(()),
            _ => Err(DiskError::Io(libc::EIO)),
        };
        self.done.push(Completion { id, buf, result });
    }

    /// Carries out what is queued with plain system calls.
    pub fn run_inline(&mut self) {
        while let Some((id, op)) = self.queued.pop_front() {
            let result = self.run(&op);
            self.finish(id, op, result);
        }
    }

    fn run(&self, op: &Op) -> i32 {
        let fd = self.file.fd();
        loop {
            // SAFETY: the vectors name live buffers for the time of the call; a read's buffer has no other view that is
            // looked at, by the contract of `Disk::read`.
            let result = unsafe {
                match op {
                    Op::Read { at, buf } => {
                        libc::pread64(fd, buf.as_ptr().cast_mut().cast(), buf.len(), (self.start + at) as i64)
                    }
                    Op::Write { at, bufs } => {
                        let iovecs: SmallVec<[libc::iovec; 8]> = iovecs(bufs).collect();
                        let offset = (self.start + at) as i64;
                        libc::pwritev2(fd, iovecs.as_ptr(), iovecs.len() as i32, offset, self.write_flags())
                    }
                    Op::Flush => libc::fdatasync(fd) as isize,
                    Op::Trim { at, len } => {
                        libc::fallocate64(fd, PUNCH, (self.start + at) as i64, *len as i64) as isize
                    }
                }
            };
            if result >= 0 {
                return result as i32;
            }
            let error = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
            if error != libc::EINTR {
                return -error;
            }
        }
    }

    /// Every write is durable when it completes: by nature or by this flag (S5, L6).
    fn write_flags(&self) -> i32 {
        if self.file.is_write_through() { 0 } else { libc::RWF_DSYNC }
    }

    /// Gives what is queued to the kernel.
    pub fn submit(queue: &Rc<RefCell<DiskQueue>>, engine: &mut Engine) {
        loop {
            let entry = {
                let this = &mut *queue.borrow_mut();
                let Some((id, op)) = this.queued.pop_front() else { return };
                let index = this.free.pop().unwrap_or_else(|| {
                    this.flying.push(Box::new(Flying { id, op: None, iovecs: SmallVec::new() }));
                    this.flying.len() as u32 - 1
                });
                this.entry(index, id, op, engine)
            };
            // SAFETY: buffers, vectors and file live in `flying` and `file` until `complete`.
            unsafe { engine.push(&entry) };
        }
    }

    fn entry(&mut self, index: u32, id: OpId, op: Op, engine: &Engine) -> squeue::Entry {
        let (fd, flags) = (self.target.fd(), self.write_flags());
        let flying = &mut self.flying[index as usize];
        flying.id = id;
        let entry = match &op {
            Op::Read { at, buf } => {
                let (to, len, at) = (buf.as_ptr().cast_mut(), buf.len() as u32, self.start + at);
                match engine.memory_of(buf) {
                    Some(memory) => opcode::ReadFixed::new(fd, to, len, memory).offset(at).build(),
                    None => opcode::Read::new(fd, to, len).offset(at).build(),
                }
            }
            Op::Write { at, bufs } if bufs.len() == 1 => {
                let (from, len, at) = (bufs[0].as_ptr(), bufs[0].len() as u32, self.start + at);
                match engine.memory_of(&bufs[0]) {
                    Some(memory) => {
                        opcode::WriteFixed::new(fd, from, len, memory).offset(at).rw_flags(flags).build()
                    }
                    None => opcode::Write::new(fd, from, len).offset(at).rw_flags(flags).build(),
                }
            }
            Op::Write { at, bufs } => {
                flying.iovecs.clear();
                flying.iovecs.extend(iovecs(bufs));
                opcode::Writev::new(fd, flying.iovecs.as_ptr(), flying.iovecs.len() as u32)
                    .offset(self.start + at)
                    .rw_flags(flags)
                    .build()
            }
            Op::Flush => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            Op::Trim { at, len } => {
                opcode::Fallocate::new(fd, *len).offset(self.start + at).mode(PUNCH).build()
            }
        };
        flying.op = Some(op);
        self.target.mark(entry.user_data(tag(Kind::Disk, self.number, index)))
    }
}

const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

fn iovecs(bufs: &Bufs) -> impl Iterator<Item = libc::iovec> {
    bufs.iter().map(|b| libc::iovec { iov_base: b.as_ptr().cast_mut().cast(), iov_len: b.len() })
}

/// A part of a drive without a ring: every operation is carried out where it is asked. For superblocks and tools.
pub struct BlockingDisk {
    queue: DiskQueue,
    len: u64,
}

impl BlockingDisk {
    /// `len` bytes of `file` from `start` on.
    ///
    /// # Panics
    /// If these are not whole blocks inside the file.
    pub fn new(file: Arc<DriveFile>, start: u64, len: u64) -> BlockingDisk {
        check_part(&file, start, len);
        let target = Target::Open(file.fd());
        BlockingDisk { queue: DiskQueue::new(0, file, target, start), len }
    }
    fn put(&mut self, id: OpId, op: Op, at: u64, len: usize) {
        assert!(at + len as u64 <= self.len, "an operation lies inside its disk");
        let result = self.queue.run(&op);
        self.queue.finish(id, op, result);
    }
}

impl Disk for BlockingDisk {
    fn size(&self) -> u64 {
        self.len
    }
    fn read(&mut self, id: OpId, offset: u64, buf: Buf) {
        let len = buf.len();
        self.put(id, Op::Read { at: offset, buf }, offset, len);
    }
    fn write(&mut self, id: OpId, offset: u64, bufs: Bufs) {
        let len = bufs.iter().map(|b| b.len()).sum();
        self.put(id, Op::Write { at: offset, bufs }, offset, len);
    }
    fn flush(&mut self, id: OpId) {
        self.put(id, Op::Flush, 0, 0);
    }
    fn trim(&mut self, id: OpId, offset: u64, len: u64) {
        if self.queue.file.can_trim() && len > 0 {
            self.put(id, Op::Trim { at: offset, len }, offset, len as usize);
        } else {
            self.queue.done.push(Completion { id, buf: None, result: Ok(()) });
        }
    }
    fn writes_are_durable(&self) -> bool {
        true
    }
    fn poll(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.queue.done);
    }
    fn wait(&mut self, out: &mut Vec<Completion>) {
        self.poll(out);
    }
}

fn check_part(file: &DriveFile, start: u64, len: u64) {
    assert!(start.is_multiple_of(4096) && len.is_multiple_of(4096), "a part of a drive is whole blocks");
    assert!(start + len <= file.size(), "a part of a drive lies inside it");
}

/// A part of a drive, on one ring.
pub struct RingDisk {
    engine: Rc<RefCell<Engine>>,
    queue: Rc<RefCell<DiskQueue>>,
    len: u64,
}

impl RingDisk {
    pub(crate) fn new(engine: Rc<RefCell<Engine>>, file: Arc<DriveFile>, start: u64, len: u64) -> RingDisk {
        check_part(&file, start, len);
        let number = engine.borrow().disks.len() as u32;
        let target = engine.borrow().keep_disk(number, file.fd());
        let queue = Rc::new(RefCell::new(DiskQueue::new(number, file, target, start)));
        engine.borrow_mut().disks.push(queue.clone());
        RingDisk { engine, queue, len }
    }

    fn put(&mut self, id: OpId, op: Op, at: u64, len: usize) {
        assert!(at + len as u64 <= self.len, "an operation lies inside its disk");
        self.queue.borrow_mut().queued.push_back((id, op));
    }
}

impl Disk for RingDisk {
    fn size(&self) -> u64 {
        self.len
    }
    fn read(&mut self, id: OpId, offset: u64, buf: Buf) {
        let len = buf.len();
        let queue = &mut *self.queue.borrow_mut();
        assert!(offset + len as u64 <= self.len, "an operation lies inside its disk");
        let op = Op::Read { at: offset, buf };
        // memory is read at once: the answer can leave in this very turn
        if queue.file.is_inline() {
            let result = queue.run(&op);
            queue.finish(id, op, result);
        } else {
            queue.queued.push_back((id, op));
        }
    }
    fn write(&mut self, id: OpId, offset: u64, bufs: Bufs) {
        let len = bufs.iter().map(|b| b.len()).sum();
        self.put(id, Op::Write { at: offset, bufs }, offset, len);
    }
    fn flush(&mut self, id: OpId) {
        self.put(id, Op::Flush, 0, 0);
    }
    fn is_inline(&self) -> bool {
        self.queue.borrow().file.is_inline()
    }
    fn trim(&mut self, id: OpId, offset: u64, len: u64) {
        let can_trim = self.queue.borrow().file.can_trim();
        if can_trim && len > 0 {
            self.put(id, Op::Trim { at: offset, len }, offset, len as usize);
        } else {
            self.queue.borrow_mut().done.push(Completion { id, buf: None, result: Ok(()) });
        }
    }
    fn writes_are_durable(&self) -> bool {
        true
    }
    fn poll(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.queue.borrow_mut().done);
    }
    fn wait(&mut self, out: &mut Vec<Completion>) {
        loop {
            let is_inline = self.queue.borrow().file.is_inline();
            if is_inline {
                self.queue.borrow_mut().run_inline();
            } else {
                DiskQueue::submit(&self.queue, &mut self.engine.borrow_mut());
            }
            self.poll(out);
            let queue = self.queue.borrow();
            let is_idle = queue.queued.is_empty() && queue.flying.len() == queue.free.len();
            drop(queue);
            if !out.is_empty() || is_idle {
                return;
            }
            self.engine.borrow_mut().wait_for_disk();
        }
    }
}
