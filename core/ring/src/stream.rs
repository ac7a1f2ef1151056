//! Frames out of a connection's bytes, payloads into their buffers (L3).
use crate::ring::{ConnId, Ring};
use sarsen_buffer::Buf;
use sarsen_wire::{FrameHeader, HEADER_LEN, WireError};

/// A payload of up to this many bytes is copied once from where it was received; of a longer one the rest is received
/// straight into its slot.
const COPIED_MAX: usize = 16 << 10;

/// The state of one connection's frames; `M` is what its messages decode to.
#[derive(Debug)]
pub struct Stream<M> {
    /// A message whose payload is being received into its buffer.
    waiting: Option<M>,
    /// Payloads are counted apart, see [`Pool::beside`](sarsen_buffer::Pool::beside).
    is_beside: bool,
}

impl<M> Default for Stream<M> {
    fn default() -> Stream<M> {
        Stream { waiting: None, is_beside: false }
    }
}

impl<M> Stream<M> {
    /// Frames whose payloads are counted apart: they have a bound of their own.
    pub fn beside() -> Stream<M> {
        Stream { waiting: None, is_beside: true }
    }
    /// The next whole frame; `None` until more was received.
    pub fn next(
        &mut self,
        ring: &mut Ring,
        conn: ConnId,
        decode: impl Fn(&FrameHeader, &[u8]) -> Result<M, WireError>,
    ) -> Result<Option<(M, Option<Buf>)>, WireError> {
        if self.waiting.is_some() {
            return Ok(None);
        }
        let bytes = ring.received(conn);
        let Some(header) = FrameHeader::parse(bytes)? else { return Ok(None) };
        let (at, len) = (header.payload_at(), header.frame_len());
        let is_copied = header.payload_len <= COPIED_MAX;
        let needed = if is_copied { len } else { at };
        if bytes.len() < needed {
            ring.make_room(conn, needed);
            return Ok(None);
        }
        let message = decode(&header, &bytes[HEADER_LEN..at])?;
        if header.payload_len == 0 {
            ring.consume(conn, len);
            return Ok(Some((message, None)));
        }
        let pool = if self.is_beside { ring.beside() } else { ring.pool() };
        let mut payload = pool.take(header.payload_len);
        if bytes.len() >= len {
            payload.get_mut().copy_from_slice(&bytes[at..len]);
            ring.consume(conn, len);
            return Ok(Some((message, Some(payload))));
        }
        ring.consume(conn, at);
        ring.receive_into(conn, payload);
        self.waiting = Some(message);
        Ok(None)
    }

    /// The payload that was waited for is here: the frame is whole.
    pub fn filled(&mut self) -> Option<M> {
        self.waiting.take()
    }
}
