//! Transmission: requests of the client become requests of the volume, their completions become replies.
use crate::connection::{Next, Out, Progress};
use crate::export::Export;
use crate::handshake::Terms;
use crate::proto::*;
use crate::reply;
use sarsen_block::{Answer, Completion, Failure, Op, Request, Tag};
use sarsen_buffer::{Buf, Pool};
use sarsen_types::BLOCK_SIZE;

/// A header.
#[derive(Clone, Copy, Debug)]
struct Header {
    flags: u16,
    command: u16,
    cookie: u64,
    offset: u64,
    len: u32,
}

/// A request of the client that is under way.
#[derive(Clone, Copy, Debug)]
struct Open {
    header: Header,
    cost: u64,
}

/// See the module.
pub struct Serve {
    base: u64,
    terms: Terms,
    open: Vec<Option<Open>>,
    free: Vec<u32>,
    bytes: u64,
    /// A write whose payload is being received.
    filling: Option<Header>,
    is_ending: bool,
}

impl Serve {
    /// After the handshake.
    pub fn new(base: u64, terms: Terms) -> Serve {
        Serve { base, terms, open: Vec::new(), free: Vec::new(), bytes: 0, filling: None, is_ending: false }
    }
    /// Requests not answered.
    pub fn in_flight(&self) -> usize {
        self.open.len() - self.free.len()
    }
    /// Bytes of their payload.
    pub fn payload(&self) -> u64 {
        self.bytes
    }
    /// So much is under way that nothing more is taken.
    pub fn is_full(&self) -> bool {
        self.in_flight() >= IN_FLIGHT_MAX || self.bytes > IN_FLIGHT_BYTES_MAX
    }
    /// The client said goodbye.
    pub fn is_ending(&self) -> bool {
        self.is_ending
    }
    /// The client said goodbye and has all answers.
    pub fn is_over(&self) -> bool {
        self.is_ending && self.in_flight() == 0
    }

    /// Takes bytes: all whole requests that are there.
    pub fn receive(
        &mut self,
        export: &Export,
        pool: &Pool,
        bytes: &[u8],
        out: &mut impl Out,
    ) -> Result<Progress, Violation> {
        let mut used = 0;
        loop {
            let next = |next| Ok(Progress { used, next });
            if self.is_ending {
                // what comes after a goodbye is nobody's
                let next = if self.is_over() { Next::Close } else { Next::Rest };
                return Ok(Progress { used: bytes.len(), next });
            }
            if self.filling.is_some() || self.is_full() {
                return next(Next::Rest);
            }
            let rest = &bytes[used..];
            let Some(head) = rest.first_chunk() else { return next(Next::Bytes(REQUEST_LEN)) };
            let header = parse(head)?;
            if header.command != command::WRITE {
                used += REQUEST_LEN;
                self.command(export, header, out);
                continue;
            }
            if header.len > export.limits.request_max {
                return Err(Violation::WriteLength(header.len));
            }
            let len = header.len as usize;
            let is_copied = len <= COPIED_MAX;
            if is_copied && rest.len() < REQUEST_LEN + len {
                return next(Next::Bytes(REQUEST_LEN + len));
            }
            used += REQUEST_LEN;
            let payload = room_for(header.offset, len, pool);
            if !is_copied {
                self.filling = Some(header);
                return Ok(Progress { used, next: Next::Fill(payload) });
            }
            let mut payload = payload;
            payload.get_mut().copy_from_slice(&rest[REQUEST_LEN..REQUEST_LEN + len]);
            used += len;
            self.write(header, payload, out);
        }
    }

    /// The payload of a write is here.
    pub fn filled(&mut self, payload: Buf, out: &mut impl Out) {
        if let Some(header) = self.filling.take() {
            self.write(header, payload, out);
        }
    }

    fn write(&mut self, header: Header, payload: Buf, out: &mut impl Out) {
        if header.flags & !command_flag::FUA != 0 {
            return self.refuse(header, EINVAL, out);
        }
        if header.len == 0 {
            return reply::simple(header.cookie, 0, out);
        }
        let before = (header.offset % BLOCK_SIZE as u64) as usize;
        let end = before + payload.len();
        let data = payload.widen(before, end.next_multiple_of(BLOCK_SIZE) - end);
        self.submit(header, Op::Write(data), u64::from(header.len), u64::from(header.len), out);
    }

    fn command(&mut self, export: &Export, header: Header, out: &mut impl Out) {
        use command_flag::*;
        let len = u64::from(header.len);
        let allowed = match header.command {
            command::READ => DF,
            command::TRIM => 0,
            command::WRITE_ZEROES => NO_HOLE | FAST_ZERO,
            command::BLOCK_STATUS => REQ_ONE,
            command::FLUSH => 0,
            command::DISCONNECT => {
                self.is_ending = true;
                return;
            }
            _ => return self.refuse(header, EINVAL, out),
        };
        // FUA means nothing on what does not write, and nothing more on what does (D7)
        let has_unknown = header.flags & !(allowed | FUA) != 0;
        let has_df_unasked = header.flags & DF != 0 && !self.terms.is_structured;
        if has_unknown || has_df_unasked {
            return self.refuse(header, EINVAL, out);
        }
        match header.command {
            command::FLUSH => reply::simple(header.cookie, 0, out),
            command::READ if header.len > export.limits.request_max => self.refuse(header, EINVAL, out),
            command::READ => self.submit(header, Op::Read, len, len, out),
            // holes are all there are here: a thin volume that never overwrites in place needs space for a write in any case
            command::WRITE_ZEROES => self.submit(header, Op::Zero, len, 0, out),
            command::TRIM => self.submit(header, Op::Trim, len, 0, out),
            _ if !self.terms.has_allocation || len == 0 => self.refuse(header, EINVAL, out),
            _ => {
                // a range beyond the end is an error even where less than all of it would be answered
                let is_inside = header.offset.checked_add(len).is_some_and(|end| end <= export.size);
                if !is_inside {
                    return self.refuse(header, EINVAL, out);
                }
                self.submit(header, Op::Status, len.min(STATUS_BYTES_MAX), 0, out);
            }
        }
    }

    fn submit(&mut self, header: Header, op: Op, len: u64, cost: u64, out: &mut impl Out) {
        let open = Some(Open { header, cost });
        let at = match self.free.pop() {
            Some(at) => {
                self.open[at as usize] = open;
                at
            }
            None => {
                self.open.push(open);
                self.open.len() as u32 - 1
            }
        };
        self.bytes += cost;
        out.submit(Request::new(Tag(self.base | u64::from(at)), op, header.offset, len));
    }

    fn refuse(&self, header: Header, errno: u32, out: &mut impl Out) {
        let wants_structure = matches!(header.command, command::READ | command::BLOCK_STATUS);
        match self.terms.is_structured && wants_structure {
            true => reply::error(header.cookie, errno, out),
            false => reply::simple(header.cookie, errno, out),
        }
    }

    /// A request ended.
    pub fn complete(&mut self, completion: Completion, pool: &Pool, out: &mut impl Out) {
        let at = completion.tag.0 as u32;
        let open = self.open.get_mut(at as usize).and_then(Option::take);
        let Some(Open { header, cost }) = open else {
            debug_assert!(false, "a completion is of a request under way");
            return;
        };
        self.free.push(at);
        self.bytes -= cost;
        let cookie = header.cookie;
        match completion.result {
            Err(failure) => self.refuse(header, errno(failure, header.command), out),
            Ok(Answer::Done) => reply::simple(cookie, 0, out),
            Ok(Answer::Data(parts))
                if parts.iter().map(|p| p.len()).sum::<usize>() != header.len as usize =>
            {
                self.refuse(header, errno(Failure::Broken, header.command), out);
            }
            Ok(Answer::Data(parts)) if self.terms.is_structured => {
                let is_whole = header.flags & command_flag::DF != 0;
                reply::data(cookie, header.offset, &parts, is_whole, pool, out);
            }
            Ok(Answer::Data(parts)) => reply::simple_data(cookie, &parts, pool, out),
            Ok(Answer::Extents(extents)) => {
                let most = if header.flags & command_flag::REQ_ONE != 0 { 1 } else { STATUS_EXTENTS_MAX };
                match extents.len().min(most) {
                    0 => self.refuse(header, EIO, out),
                    count => reply::status(cookie, &extents[..count], out),
                }
            }
        }
    }
}

fn parse(head: &[u8; REQUEST_LEN]) -> Result<Header, Violation> {
    let magic = u32::from_be_bytes(head[..4].try_into().expect("4 bytes"));
    if magic != REQUEST_MAGIC {
        return Err(Violation::RequestMagic(magic));
    }
    Ok(Header {
        flags: u16::from_be_bytes([head[4], head[5]]),
        command: u16::from_be_bytes([head[6], head[7]]),
        cookie: u64::from_be_bytes(head[8..16].try_into().expect("8 bytes")),
        offset: u64::from_be_bytes(head[16..24].try_into().expect("8 bytes")),
        len: u32::from_be_bytes(head[24..].try_into().expect("4 bytes")),
    })
}

/// Where a payload belongs inside whole blocks, so that it is never copied again (D1). What lies around it is zeroed:
/// it was somebody else's.
fn room_for(offset: u64, len: usize, pool: &Pool) -> Buf {
    let before = (offset % BLOCK_SIZE as u64) as usize;
    let end = before + len;
    let mut room = pool.take(end.next_multiple_of(BLOCK_SIZE));
    let bytes = room.get_mut();
    bytes[..before].fill(0);
    bytes[end..].fill(0);
    room.narrow(before..end)
}

const _: () = assert!(STATUS_BYTES_MAX <= u32::MAX as u64);
