//! What was received on a connection and not consumed yet.
use sarsen_buffer::{Buf, Pool};

/// Room for an idle connection.
const SMALL: usize = 16 << 10;
/// Room for a busy one (L3).
const LARGE: usize = 256 << 10;
/// The longest frame head a caller may ask room for.
const ROOM_MAX: usize = 2 << 20;
const _: () = assert!(SMALL < LARGE && LARGE < ROOM_MAX);

/// Bytes `start .. end` of a buffer; the kernel may be writing behind `end`.
pub(crate) struct Input {
    buf: Buf,
    start: usize,
    end: usize,
    /// The last receive filled all the room there was: more is waiting.
    was_full: bool,
    /// The last receive brought little: a small buffer will do.
    was_little: bool,
    wanted: usize,
}

impl Input {
    pub fn new(pool: &Pool, already: &[u8]) -> Input {
        let mut buf = pool.take(SMALL.max(already.len()));
        buf.get_mut()[..already.len()].copy_from_slice(already);
        Input { buf, start: 0, end: already.len(), was_full: false, was_little: false, wanted: 0 }
    }
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: these bytes lie in the buffer and were written before; the kernel writes behind `end` only.
        unsafe { std::slice::from_raw_parts(self.buf.as_ptr().add(self.start), self.end - self.start) }
    }
    pub fn consume(&mut self, len: usize) {
        assert!(len <= self.end - self.start, "more is consumed than was received");
        self.start += len;
    }
    /// A frame of this many bytes is to fit, whatever the usual size.
    pub fn want(&mut self, len: usize) {
        assert!(len <= ROOM_MAX, "a frame's head is bounded");
        self.wanted = len;
    }
    /// Bytes it takes beyond what each connection has.
    pub fn wide(&self) -> usize {
        self.buf.len().saturating_sub(SMALL)
    }
    /// Room for the kernel to write to; `None` when everything is full of bytes nobody consumed. Nothing is in flight. Not
    /// `may_widen`: other busy connections have all the memory there is for that.
    pub fn room(&mut self, pool: &Pool, may_widen: bool) -> Option<(*mut u8, u32)> {
        let left = self.end - self.start;
        let capacity = self.buf.len();
        let usual = match (self.was_full, self.was_little) {
            _ if !may_widen => SMALL,
            (true, _) => LARGE,
            (false, true) => SMALL,
            (false, false) => capacity.min(LARGE),
        };
        let size = if self.wanted > left {
            usual.max(self.wanted.next_power_of_two())
        } else if left > capacity / 2 {
            // nobody consumes: nothing more is taken than there is room for
            capacity
        } else {
            usual
        };
        let size = if left > size / 2 { size.max(capacity) } else { size };
        if left >= size {
            return None;
        }
        if size != capacity {
            let mut other = pool.take(size);
            other.get_mut()[..left].copy_from_slice(self.bytes());
            (self.buf, self.start, self.end) = (other, 0, left);
        } else if left == 0 {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 {
            let (from, to) = (self.start, self.end);
            self.buf.get_mut().copy_within(from..to, 0);
            (self.start, self.end) = (0, left);
        }
        let room = self.buf.len() - self.end;
        (room > 0).then(|| {
            // SAFETY: `end` lies inside the buffer.
            (unsafe { self.buf.as_ptr().add(self.end).cast_mut() }, room as u32)
        })
    }
    /// A long payload is received elsewhere: what comes after it is a head again, and the less of the next payload ends
    /// up here the less is copied (L3).
    pub fn calm(&mut self) {
        (self.was_full, self.was_little) = (false, true);
    }
    /// The kernel wrote `len` bytes of the room it was given.
    pub fn received(&mut self, len: usize) {
        self.was_full = len == self.buf.len() - self.end;
        self.was_little = len <= SMALL / 2;
        self.end += len;
        if self.end - self.start >= self.wanted {
            self.wanted = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(input: &mut Input, pool: &Pool, bytes: &[u8]) -> usize {
        let Some((to, room)) = input.room(pool, true) else { return 0 };
        let len = bytes.len().min(room as usize);
        // SAFETY: the room is ours to write, as the kernel would.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, len) };
        input.received(len);
        len
    }

    #[test]
    fn bytes_come_out_in_order_however_they_came_in() {
        let pool = Pool::new();
        let mut input = Input::new(&pool, b"abc");
        let stream: Vec<u8> = (0..1_000_000u32).map(|i| (i * 7 / 8) as u8).collect();
        let (mut fed, mut seen) = (0, Vec::new());
        let mut step = 1;
        while seen.len() < stream.len() + 3 {
            fed += write(&mut input, &pool, &stream[fed..stream.len().min(fed + step)]);
            step = step * 3 % 70_001 + 1;
            let take = input.bytes().len().min(step / 2 + 1);
            seen.extend_from_slice(&input.bytes()[..take]);
            input.consume(take);
        }
        assert_eq!(&seen[..3], b"abc");
        assert_eq!(&seen[3..], stream);
    }

    #[test]
    fn a_connection_that_is_not_read_takes_no_more_than_its_buffer() {
        let pool = Pool::new();
        let mut input = Input::new(&pool, &[]);
        let mut fed = 0;
        for _ in 0..100 {
            fed += write(&mut input, &pool, &[1; 100_000]);
        }
        assert!(fed <= LARGE, "{fed}");
        input.consume(fed);
        assert!(write(&mut input, &pool, &[1; 10]) == 10);
    }

    #[test]
    fn without_memory_to_widen_a_busy_connection_has_what_an_idle_one_has() {
        let pool = Pool::new();
        let mut input = Input::new(&pool, &[]);
        let (mut fed, mut seen) = (0u32, 0u32);
        for turn in 0..100 {
            let may_widen = turn < 50;
            if let Some((to, room)) = input.room(&pool, may_widen) {
                let bytes: Vec<u8> = (fed..fed + room).map(|i| (i * 7) as u8).collect();
                // SAFETY: the room is ours to write, as the kernel would.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
                input.received(bytes.len());
                fed += room;
            }
            if turn == 49 {
                assert_eq!(input.wide(), LARGE - SMALL);
            }
            // now and then all of it, as a reader that keeps up
            let take = input.bytes().len().min(if turn % 3 == 0 { LARGE } else { 60_000 });
            assert!(input.bytes()[..take].iter().zip(seen..).all(|(byte, i)| *byte == (i * 7) as u8));
            input.consume(take);
            seen += take as u32;
        }
        assert_eq!(input.wide(), 0);
    }

    #[test]
    fn a_long_head_finds_room_and_the_room_goes_again() {
        let pool = Pool::new();
        let mut input = Input::new(&pool, &[]);
        input.want(600_000);
        let mut fed = 0;
        while fed < 600_000 {
            fed += write(&mut input, &pool, &[1; 100_000]);
        }
        input.consume(600_000);
        write(&mut input, &pool, &[1; 10]);
        input.consume(10);
        write(&mut input, &pool, &[1; 10]);
        assert!(pool.live_bytes() <= LARGE);
    }
}
