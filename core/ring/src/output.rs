//! What is to be sent on a connection: frames in order, urgent ones first, one batch in flight (L4).
use crate::pinned::Pinned;
use sarsen_buffer::Buf;
use std::collections::VecDeque;

/// Most pieces of memory in one batch; the kernel allows 1,024.
const PIECES_MAX: usize = 256;
/// A batch's copied bytes are given back above this.
const KEPT_MAX: usize = 256 << 10;

struct Frame {
    /// Bytes of its head, in `heads`.
    head: usize,
    payload: Option<Buf>,
}

/// A list of frames whose heads lie one after the other.
#[derive(Default)]
struct Queue {
    frames: VecDeque<Frame>,
    heads: Vec<u8>,
    /// Heads before this are gone.
    from: usize,
}

impl Queue {
    fn put(&mut self, payload: Option<Buf>, put: impl FnOnce(&mut Vec<u8>)) -> usize {
        let before = self.heads.len();
        put(&mut self.heads);
        let head = self.heads.len() - before;
        let payload = payload.filter(|p| !p.is_empty());
        let len = head + payload.as_ref().map_or(0, |p| p.len());
        // nothing is not sent: the kernel would take nothing of it, for ever
        if len > 0 {
            self.frames.push_back(Frame { head, payload });
        }
        len
    }
    fn clear(&mut self) {
        self.frames.clear();
        self.heads.clear();
        self.from = 0;
    }
}

/// One piece of a batch.
enum Piece {
    /// That many of the copied bytes.
    Copied(usize),
    Payload(Buf),
}

/// See the module.
pub(crate) struct Output {
    urgent: Queue,
    queue: Queue,
    queued: usize,
    batch_max: usize,
    copied: Vec<u8>,
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece, and of `copied`, that were sent.
    first_sent: usize,
    copied_sent: usize,
    iovecs: Vec<libc::iovec>,
    message: libc::msghdr,
}

impl Output {
    pub fn new(batch_max: usize) -> Output {
        Output {
            urgent: Queue::default(),
            queue: Queue::default(),
            queued: 0,
            batch_max,
            copied: Vec::new(),
            pieces: VecDeque::new(),
            first_sent: 0,
            copied_sent: 0,
            iovecs: Vec::new(),
            // SAFETY: a header of zeroes names nothing.
            message: unsafe { std::mem::zeroed() },
        }
    }
    /// Bytes not sent yet, those in flight included.
    pub fn queued(&self) -> usize {
        self.queued
    }
    pub fn put(&mut self, is_urgent: bool, payload: Option<Buf>, put: impl FnOnce(&mut Vec<u8>)) {
        let queue = if is_urgent { &mut self.urgent } else { &mut self.queue };
        self.queued += queue.put(payload, put);
    }
    pub fn clear(&mut self) {
        self.urgent.clear();
        self.queue.clear();
    }

    fn fill(&mut self) {
        let mut bytes = 0;
        for queue in [&mut self.urgent, &mut self.queue] {
            while bytes < self.batch_max && self.pieces.len() + 2 <= PIECES_MAX {
                let Some(frame) = queue.frames.pop_front() else { break };
                self.copied.extend_from_slice(&queue.heads[queue.from..queue.from + frame.head]);
                queue.from += frame.head;
                bytes += frame.head;
                match self.pieces.back_mut() {
                    _ if frame.head == 0 => {}
                    Some(Piece::Copied(len)) => *len += frame.head,
                    _ => self.pieces.push_back(Piece::Copied(frame.head)),
                }
                if let Some(payload) = frame.payload {
                    bytes += payload.len();
                    self.pieces.push_back(Piece::Payload(payload));
                }
            }
            if queue.frames.is_empty() {
                queue.heads.clear();
                queue.from = 0;
            } else if queue.from > KEPT_MAX {
                queue.heads.drain(..queue.from);
                queue.from = 0;
            }
        }
    }

    /// The next message to give to the kernel; `None` when there is nothing. Nothing is in flight. It stays valid until
    /// [`Output::sent`], as long as this does not move.
    pub fn message(&mut self) -> Option<*const libc::msghdr> {
        if self.pieces.is_empty() {
            self.copied.clear();
            self.copied.shrink_to(KEPT_MAX);
            (self.copied_sent, self.first_sent) = (0, 0);
            self.fill();
        }
        if self.pieces.is_empty() {
            return None;
        }
        self.iovecs.clear();
        let mut skip = self.first_sent;
        let mut copied = self.copied_sent;
        for piece in &self.pieces {
            let (base, len) = match piece {
                // SAFETY: the pieces' lengths add up to what was copied.
                Piece::Copied(len) => (unsafe { self.copied.as_ptr().add(copied) }, *len - skip),
                // SAFETY: less than the piece was sent.
                Piece::Payload(buf) => (unsafe { buf.as_ptr().add(skip) }, buf.len() - skip),
            };
            if let Piece::Copied(_) = piece {
                copied += len;
            }
            skip = 0;
            self.iovecs.push(libc::iovec { iov_base: base.cast_mut().cast(), iov_len: len });
        }
        self.message.msg_iov = self.iovecs.as_mut_ptr();
        self.message.msg_iovlen = self.iovecs.len() as _;
        Some(&self.message)
    }

    /// Bytes of payload in the batch that is not sent yet.
    pub fn payload_bytes(&self) -> usize {
        let of = |piece: &Piece| if let Piece::Payload(buf) = piece { buf.len() } else { 0 };
        self.pieces.iter().map(of).sum()
    }

    /// Makes the message just given independent of this: its memory is held by `pinned` from here on.
    pub fn pin(&mut self, pinned: &mut Pinned) {
        pinned.heads.extend_from_slice(&self.copied[self.copied_sent..]);
        let mut at = 0;
        for (piece, iovec) in self.pieces.iter().zip(&mut self.iovecs) {
            match piece {
                Piece::Copied(_) => {
                    // SAFETY: the copied pieces' lengths add up to what was just appended.
                    iovec.iov_base = unsafe { pinned.heads.as_ptr().add(at) }.cast_mut().cast();
                    at += iovec.iov_len;
                }
                Piece::Payload(buf) => pinned.payloads.push(buf.clone()),
            }
        }
    }

    /// The kernel took `len` bytes of the message.
    pub fn sent(&mut self, len: usize) {
        self.queued -= len;
        let mut left = len;
        while left > 0 {
            let piece = self.pieces.front().expect("no more is sent than was given");
            let (rest, is_copied) = match piece {
                Piece::Copied(len) => (len - self.first_sent, true),
                Piece::Payload(buf) => (buf.len() - self.first_sent, false),
            };
            let step = rest.min(left);
            if is_copied {
                self.copied_sent += step;
            }
            left -= step;
            if step == rest {
                self.pieces.pop_front();
                self.first_sent = 0;
            } else {
                self.first_sent += step;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_buffer::Pool;

    /// Takes what the kernel would: at most `max` bytes of the message.
    fn take(output: &mut Output, max: usize) -> Vec<u8> {
        let Some(message) = output.message() else { return Vec::new() };
        // SAFETY: the message and what it points to are valid until `sent`.
        let iovecs = unsafe { std::slice::from_raw_parts((*message).msg_iov, (*message).msg_iovlen) };
        let mut bytes = Vec::new();
        for iovec in iovecs {
            // SAFETY: as above.
            bytes.extend_from_slice(unsafe {
                std::slice::from_raw_parts(iovec.iov_base.cast(), iovec.iov_len)
            });
        }
        bytes.truncate(max);
        output.sent(bytes.len());
        bytes
    }

    #[test]
    fn frames_leave_in_order_whatever_the_kernel_takes_at_a_time() {
        let pool = Pool::new();
        for max in [1, 7, 100, 5000, 1 << 20] {
            let mut output = Output::new(3000);
            let (mut wanted, mut seen) = (Vec::new(), Vec::new());
            for i in 0..40u8 {
                let head = vec![i; 10 + i as usize];
                let payload = (i % 3 == 0).then(|| pool.copy_of(&[i ^ 0xff; 700]));
                wanted.extend_from_slice(&head);
                payload.iter().for_each(|p| wanted.extend_from_slice(p));
                output.put(false, payload, |out| out.extend_from_slice(&head));
                if i % 4 == 0 {
                    seen.extend(take(&mut output, max));
                }
            }
            while output.queued() > 0 {
                seen.extend(take(&mut output, max));
            }
            assert_eq!(seen, wanted);
            assert_eq!((take(&mut output, max).len(), pool.live_bytes()), (0, 0));
        }
    }

    #[test]
    fn an_empty_frame_holds_nothing_up() {
        let pool = Pool::new();
        let mut output = Output::new(1 << 20);
        output.put(false, None, |_| {});
        output.put(false, Some(pool.take(0)), |_| {});
        assert!(output.message().is_none());
        output.put(false, Some(pool.copy_of(b"payload")), |_| {});
        output.put(true, None, |out| out.extend_from_slice(b"head"));
        assert_eq!(take(&mut output, 100), b"headpayload");
        assert!(output.message().is_none());
    }

    #[test]
    fn an_urgent_frame_overtakes_what_is_queued_but_not_what_is_in_flight() {
        let mut output = Output::new(100);
        for i in 0..10u8 {
            output.put(false, None, |out| out.extend_from_slice(&[i; 60]));
        }
        let first = take(&mut output, 30);
        output.put(true, None, |out| out.extend_from_slice(b"beat"));
        let mut all = first;
        while output.queued() > 0 {
            all.extend(take(&mut output, 1 << 20));
        }
        // the batch of two frames that had begun goes first
        assert_eq!(&all[..120], [[0u8; 60], [1u8; 60]].concat());
        assert_eq!(&all[120..124], b"beat");
        assert_eq!(all.len(), 604);
    }
}
