//! The submission and completion queues, and which completion is whose.
use crate::disk::DiskQueue;
use crate::error::RingError;
use crate::fixed::{Fixed, Target};
use crate::pinned::ZeroCopy;
use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{IoUring, squeue};
use sarsen_buffer::{Buf, Pool};
use sarsen_types::Duration;
use std::cell::RefCell;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;

/// How a ring is set up.
#[derive(Clone, Debug)]
pub struct RingConfig {
    /// Operations that are submitted at once; more are submitted in several steps.
    pub entries: u32,
    /// DEFER_TASKRUN and SINGLE_ISSUER: less CPU with many connections, a little more at a deep disk queue. Falls back
    /// to a plain ring where the kernel refuses.
    pub defer_taskrun: bool,
    /// A connection's batch ends with the frame that reaches this many bytes, so that an urgent frame never waits
    /// behind much more (R43).
    pub send_batch_bytes: usize,
    /// When payloads are sent without being copied (L4).
    pub zero_copy: ZeroCopy,
    /// The kernel keeps files and the pool's arena at hand (L5).
    pub keeps_files: bool,
    /// Bytes that busy connections together may take for what they receive, beyond the little that each has (S4).
    pub wide_inputs: usize,
}

impl Default for RingConfig {
    fn default() -> RingConfig {
        RingConfig {
            entries: 256,
            defer_taskrun: true,
            send_batch_bytes: 1 << 20,
            zero_copy: ZeroCopy::Remote(64 << 10),
            keeps_files: true,
            wide_inputs: 8 << 20,
        }
    }
}

const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 8;

/// Whose a completion is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    Receive = 1,
    Send = 2,
    Connect = 3,
    Accept = 4,
    Wake = 5,
    Disk = 6,
    Cancel = 7,
    PinnedSend = 8,
}

/// `kind << 56 | group << 32 | index`: `group` is a disk's number or a slot's age.
pub(crate) fn tag(kind: Kind, group: u32, index: u32) -> u64 {
    debug_assert!(group < 1 << 24);
    (kind as u64) << 56 | u64::from(group) << 32 | u64::from(index)
}

pub(crate) fn untag(data: u64) -> (Kind, u32, u32) {
    let kind = match data >> 56 {
        1 => Kind::Receive,
        2 => Kind::Send,
        3 => Kind::Connect,
        4 => Kind::Accept,
        5 => Kind::Wake,
        6 => Kind::Disk,
        8 => Kind::PinnedSend,
        _ => Kind::Cancel,
    };
    (kind, (data >> 32 & 0x00ff_ffff) as u32, data as u32)
}

/// A completion that is not a disk's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub data: u64,
    pub result: i32,
    pub flags: u32,
}

/// What of the ring its disks share with it.
pub(crate) struct Engine {
    uring: IoUring,
    fixed: Fixed,
    /// Operations pushed whose last completion has not come.
    pub in_flight: usize,
    /// Completions of sockets that came while only those of disks were looked at.
    stash: Vec<Done>,
    pub disks: Vec<Rc<RefCell<DiskQueue>>>,
    pub enters: u64,
}

impl Drop for Engine {
    fn drop(&mut self) {
        // the kernel takes a ring apart some time after it was closed; a drive that it keeps would stay locked until then
        let _ = self.uring.submitter().unregister_files();
        let _ = self.uring.submitter().unregister_buffers();
    }
}

impl Engine {
    pub fn new(config: &RingConfig, pool: &Pool) -> Result<Engine, RingError> {
        let build = |defer: bool| {
            let mut builder = IoUring::builder();
            builder.setup_clamp().setup_cqsize(config.entries * 8).setup_submit_all();
            if defer {
                builder.setup_single_issuer().setup_defer_taskrun();
            } else {
                builder.setup_coop_taskrun();
            }
            builder.build(config.entries)
        };
        let built = match build(config.defer_taskrun) {
            Err(why) if config.defer_taskrun && why.raw_os_error() == Some(libc::EINVAL) => build(false),
            built => built,
        };
        let uring = built.map_err(RingError::of_set_up)?;
        let params = uring.params();
        if !params.is_feature_ext_arg() || !params.is_feature_nodrop() || !params.is_feature_submit_stable() {
            return Err(RingError::SetUp(io::Error::from(io::ErrorKind::Unsupported)));
        }
        let fixed = if config.keeps_files { Fixed::new(&uring, pool) } else { Fixed::default() };
        Ok(Engine { uring, fixed, in_flight: 0, stash: Vec::new(), disks: Vec::new(), enters: 0 })
    }

    /// Keeps the file of the connection in a slot.
    pub fn keep_conn(&self, slot: u32, fd: RawFd) -> Target {
        self.fixed.keep_conn(&self.uring, slot, fd)
    }
    /// Keeps the file of a disk.
    pub fn keep_disk(&self, number: u32, fd: RawFd) -> Target {
        self.fixed.keep_disk(&self.uring, number, fd)
    }
    /// Lets a file go.
    pub fn let_go(&self, target: Target) {
        self.fixed.let_go(&self.uring, target);
    }
    /// What the kernel would not keep at hand, and what to do.
    pub fn refusal(&self) -> Option<String> {
        self.fixed.refusal.clone()
    }
    /// The number of the registered memory that a buffer lies in.
    pub fn memory_of(&self, buf: &Buf) -> Option<u16> {
        self.fixed.memory_of(buf)
    }

    /// Queues an operation; it is submitted with the next [`Engine::enter`].
    ///
    /// # Safety
    /// What the entry points to stays where it is until the operation has completed; its descriptor stays open.
    pub unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: by the caller's promise.
        while unsafe { self.uring.submission().push(entry) }.is_err() {
            self.enter(0, None);
            if self.uring.submission().is_full() {
                self.gather_for_later(); // without memory the kernel takes nothing before what it did is gathered
            }
        }
        self.in_flight += 1;
    }

    /// Whether something is queued and not submitted.
    pub fn has_queued(&mut self) -> bool {
        !self.uring.submission().is_empty()
    }

    /// One system call: submits what is queued, waits for `want` completions (at most `timeout`), lets the kernel post
    /// what it has.
    pub fn enter(&mut self, want: u32, timeout: Option<Duration>) {
        let timespec =
            timeout.map(|t| Timespec::new().sec(t.as_secs()).nsec(t.subsec_nanos())).unwrap_or_default();
        let args = SubmitArgs::new();
        let args = if timeout.is_some() { args.timespec(&timespec) } else { args };
        loop {
            let queued = self.uring.submission().len() as u32;
            self.enters += 1;
            // SAFETY: the arguments are live; the flags go with them.
            let entered = unsafe {
                self.uring.submitter().enter(queued, want, ENTER_GETEVENTS | ENTER_EXT_ARG, Some(&args))
            };
            match entered.map_err(|why| (why.raw_os_error(), why)) {
                Ok(_) | Err((Some(libc::ETIME | libc::EINTR), _)) => {}
                // the completion queue overflowed, or memory is short for a moment: what is there is gathered first
                Err((Some(libc::EBUSY | libc::EAGAIN), _)) => {
                    if !self.uring.completion().is_empty() {
                        return;
                    }
                    std::thread::yield_now();
                    continue;
                }
                Err((_, why)) => panic!("io_uring_enter refused what we submitted: {why}"),
            }
            // what was not taken for lack of memory goes with the next call
            return;
        }
    }

    /// Gathers every completion there is: disks' go to their disks, the others to `out`.
    pub fn gather(&mut self, out: &mut Vec<Done>) {
        out.append(&mut self.stash);
        let Engine { uring, in_flight, disks, .. } = self;
        for entry in uring.completion() {
            let done = Done { data: entry.user_data(), result: entry.result(), flags: entry.flags() };
            if !io_uring::cqueue::more(done.flags) {
                *in_flight -= 1;
            }
            match untag(done.data) {
                (Kind::Disk, disk, op) => disks[disk as usize].borrow_mut().complete(op, done.result),
                _ => out.push(done),
            }
        }
    }

    /// Waits for completions while only a disk's matter; the others are kept for the ring's next turn.
    pub fn wait_for_disk(&mut self) {
        self.enter(1, None);
        self.gather_for_later();
    }

    /// Gathers completions of disks; the others are kept.
    fn gather_for_later(&mut self) {
        let mut others = Vec::new();
        self.gather(&mut others);
        self.stash = others;
    }

    /// Whether completions are kept.
    pub fn has_kept(&self) -> bool {
        !self.stash.is_empty()
    }

    /// Ends everything in flight and waits for it, so that no buffer is freed under the kernel. Whether all ended.
    pub fn drain(&mut self) -> bool {
        if self.in_flight == 0 {
            return true;
        }
        self.enter(0, None);
        let second = Timespec::new().sec(1);
        let _ = self.uring.submitter().register_sync_cancel(Some(second), CancelBuilder::any());
        let mut out = Vec::new();
        for _ in 0..50 {
            self.gather(&mut out);
            if self.in_flight == 0 {
                return true;
            }
            self.enter(1, Some(Duration::from_millis(100)));
        }
        false
    }
}
