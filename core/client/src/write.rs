//! A request comes in: bounds, permit, checksums of each block, pieces (D1, S2, R8).
use crate::client::{Client, SWEEP};
use crate::io::{Answer, Error, Op, Output, Token};
use crate::piece::{Kind, Piece, Request, State};
use crate::split::{Cut, Span, split};
use crate::window::Entry;
use sarsen_buffer::{Buf, Parts, block_checksum, bytes_checksum};
use sarsen_types::{BLOCK_SIZE, BlockRange, Checksum, FamilyId, Instant};
use smallvec::SmallVec;

impl Client {
    /// A request of the driver: refused, at the door, or under way.
    pub(crate) fn request(
        &mut self,
        now: Instant,
        token: Token,
        op: Op,
        offset: u64,
        len: u64,
        out: &mut Vec<Output>,
    ) {
        let (kind, data) = match op {
            Op::Read => (Kind::Read, None),
            Op::Write(data) => (Kind::Write, Some(data)),
            Op::Zero => (Kind::Zero, None),
            Op::Status => (Kind::Status, None),
        };
        if let Some(error) = self.refuses(kind, offset, len) {
            return self.complete_now(token, Err(error), out);
        }
        if len == 0 {
            let answer = match kind {
                Kind::Read => Answer::Data(Parts::new()),
                Kind::Status => Answer::Extents(Vec::new()),
                _ => Answer::Done,
            };
            return self.complete_now(token, Ok(answer), out);
        }
        if let Some(data) = &data {
            let block = BLOCK_SIZE as u64;
            let laid_out = (offset + len).div_ceil(block) * block - offset / block * block;
            assert_eq!(data.len() as u64, laid_out, "the data of a write are laid out as whole blocks");
        }
        let cost = match kind {
            Kind::Read | Kind::Write => self.permits.cost_of_data(len),
            Kind::Zero | Kind::Status => self.permits.cost_of_pieces(len),
        };
        let request = Request { token, kind, offset, len, data, cost, first: None, left: 0, error: None };
        let request = self.requests.insert(request);
        if self.permits.take(cost) {
            self.write(now, request, out);
        } else {
            self.permits.wait(request);
        }
    }

    /// Those that wait at the door come in while there are permits.
    pub(crate) fn let_in(&mut self, now: Instant, out: &mut Vec<Output>) {
        while let Some(next) = self.permits.next(|r| self.requests[r].cost) {
            self.write(now, next, out);
        }
    }

    /// Nobody waits for these requests any more: what is still at the door would only keep its data there, for as long as what
    /// came in before it is not answered (found in review).
    pub(crate) fn abandon(&mut self, now: Instant, mut tokens: Vec<Token>, out: &mut Vec<Output>) {
        tokens.sort_unstable();
        let requests = &mut self.requests;
        self.permits.leave(|request| {
            let is_leaving = tokens.binary_search(&requests[request].token).is_ok();
            if is_leaving {
                let token = requests.remove(request).token;
                out.push(Output::Complete { token, result: Err(Error::Abandoned) });
            }
            is_leaving
        });
        self.let_in(now, out);
    }

    /// A request has its permits: it is cut, each piece of data gets its checksums, and goes to its group.
    pub(crate) fn write(&mut self, now: Instant, request: u32, out: &mut Vec<Output>) {
        let Request { kind, offset, len, .. } = self.requests[request];
        let data = self.requests[request].data.take();
        let cut = match kind {
            Kind::Read | Kind::Write => Cut::Data,
            Kind::Zero => Cut::Zeroes,
            Kind::Status => Cut::Question,
        };
        let first_block = offset / BLOCK_SIZE as u64 * BLOCK_SIZE as u64;
        let mut at = offset;
        let mut last: Option<u32> = None;
        let mut index = 0u16;
        for span in split(cut, offset, len) {
            let range = BlockRange::covering(span.offset, span.len);
            let piece_data = data.as_ref().map(|data| {
                let first = (at / BLOCK_SIZE as u64 * BLOCK_SIZE as u64 - first_block) as usize;
                data.slice(first..first + range.bytes())
            });
            let checksums = match &piece_data {
                Some(data) => checksums_of(self.map.family, span, data),
                None => SmallVec::new(),
            };
            at += u64::from(span.len);
            let piece = self.pieces.insert(Piece {
                request,
                next: None,
                index,
                order: self.next_order,
                number: 0,
                since: now,
                group: self.route(span.chunk),
                span,
                kind,
                data: piece_data,
                checksums,
                state: State::Backlogged,
                was_sent: false,
                was_sent_again: false,
                sendings: Default::default(),
                backoff: Default::default(),
                spoiled: 0,
                parts: Parts::new(),
                runs: Vec::new(),
            });
            self.next_order += 1;
            index = index.wrapping_add(1);
            let held = &mut self.requests[request];
            held.left += 1;
            match last {
                Some(before) => self.pieces[before].next = Some(piece),
                None => held.first = Some(piece),
            }
            last = Some(piece);
        }
        let mut next = self.requests[request].first;
        while let Some(piece) = next {
            next = self.pieces[piece].next;
            self.queue(now, piece, out);
        }
    }

    /// A piece goes into its group's window, or waits for room in it.
    fn queue(&mut self, now: Instant, piece: u32, out: &mut Vec<Output>) {
        let group = &mut self.groups[self.pieces[piece].group as usize];
        if group.backlog.is_empty() && group.window.has_room() {
            self.admit(now, piece, out);
        } else {
            group.backlog.push_back(piece);
        }
    }

    /// A piece gets its number (R21); it is sent unless it overlaps an earlier write that is not answered (R22).
    pub(crate) fn admit(&mut self, now: Instant, at: u32, out: &mut Vec<Output>) {
        let number = self.next_number;
        self.next_number += 1;
        // from now on it is looked after, wherever it waits
        self.alarm(now + SWEEP);
        let piece = &mut self.pieces[at];
        piece.number = number;
        piece.since = now;
        let entry = Entry {
            number,
            piece: Some(at),
            order: piece.order,
            chunk: piece.span.chunk,
            range: piece.range(),
            is_write: piece.kind.is_write(),
            is_haunting: false,
        };
        let blockers = self.groups[piece.group as usize].window.push(entry);
        if blockers > 0 {
            piece.state = State::Blocked(blockers);
            self.counters.blocked += 1;
            return;
        }
        piece.state = State::Ready;
        self.send(now, at, out);
    }

    /// Room in a group's window: the next pieces come in.
    pub(crate) fn refill(&mut self, now: Instant, group: u32, out: &mut Vec<Output>) {
        loop {
            let held = &mut self.groups[group as usize];
            if !held.window.has_room() {
                return;
            }
            let Some(piece) = held.backlog.pop_front() else { return };
            self.admit(now, piece, out);
        }
    }
}

/// S2: of each block written whole its checksum, of a part of one that of the bytes written.
fn checksums_of(family: FamilyId, span: Span, data: &Buf) -> SmallVec<[Checksum; 4]> {
    let range = BlockRange::covering(span.offset, span.len);
    let end = span.offset + span.len;
    let of_block = |(at, block): (usize, &[u8])| {
        let number = range.first + at as u16;
        let start = u32::from(number) * BLOCK_SIZE as u32;
        let (from, to) = (start.max(span.offset) - start, (start + BLOCK_SIZE as u32).min(end) - start);
        match (to - from) as usize == BLOCK_SIZE {
            true => block_checksum(family, span.chunk, number, block),
            false => bytes_checksum(&block[from as usize..to as usize]),
        }
    };
    data.chunks_exact(BLOCK_SIZE).enumerate().map(of_block).collect()
}
