//! Answers: what ends a piece, and what sends it again (R21, R39, R40).
use crate::client::Client;
use crate::io::{Answer, Error, Extent, Output};
use crate::link::Stage;
use crate::piece::{Kind, Piece, Request, State};
use crate::send::GREETING;
use sarsen_buffer::{Buf, Part, Parts, block_checksum, push_part};
use sarsen_types::{
    BLOCK_SIZE, BlockRange, CHUNK_SIZE, Checksum, Epoch, FamilyId, Instant, Revision, SliceId,
};
use sarsen_wire::client::{ClientReply, ClientResult, Refusal};

/// Unusable answers to one piece (damaged on the way, or no copy intact) before its request fails.
pub const SPOILED_MAX: u32 = 8;

impl Client {
    pub(crate) fn received(
        &mut self,
        now: Instant,
        slice: SliceId,
        reply: ClientReply,
        payload: Option<Buf>,
        out: &mut Vec<Output>,
    ) {
        let link = self.link_to(slice);
        self.links[link].heard = now;
        match self.links[link].stage {
            Stage::Up => {}
            Stage::Greeting(_) if reply.number == GREETING => {
                return self.greeting_answered(now, link, reply.result, out);
            }
            // of a connection that was given up
            _ => return,
        }
        let Some(group) = self.place_of(reply.group) else { return };
        // an answer to what was answered already, by another slice or to an earlier sending, says nothing new
        let Some(piece) = self.groups[group as usize].window.find(reply.number) else { return };
        if self.pieces[piece].index != reply.piece {
            return;
        }
        let sendings = &mut self.pieces[piece].sendings;
        if sendings.to == slice {
            // whatever the answer says: should the piece go out again, that is a first sending
            self.links[link].answers(std::mem::take(sendings));
        }
        self.answered(now, piece, slice, reply.result, payload, out);
    }

    fn greeting_answered(&mut self, now: Instant, link: usize, result: ClientResult, out: &mut Vec<Output>) {
        match result {
            ClientResult::Done => self.greeted(now, link, out),
            ClientResult::Refused(Refusal::OldSession) => self.end(Error::Superseded, out),
            ClientResult::Refused(Refusal::OldGeneration) => self.end(Error::Fenced, out),
            other => {
                if other == ClientResult::Refused(Refusal::Unknown) {
                    // the attachment may be gone: metadata know, and tell our owner
                    self.need_newer_map(out);
                }
                let Client { links, jitter, .. } = self;
                let mut at = links[link].backoff.failed(now, jitter);
                if let ClientResult::Retry { after } = other {
                    at = at.max(now + after);
                }
                links[link].stage = Stage::Greets(at);
                self.alarm(at);
            }
        }
    }

    fn answered(
        &mut self,
        now: Instant,
        at: u32,
        from: SliceId,
        result: ClientResult,
        payload: Option<Buf>,
        out: &mut Vec<Output>,
    ) {
        let piece = &mut self.pieces[at];
        match (&result, piece.kind) {
            (ClientResult::Done, Kind::Write | Kind::Zero) => return self.finish(now, at, Ok(()), out),
            (ClientResult::Data { present, checksums }, Kind::Read) => {
                match parts_of(self.map.family, piece, *present, checksums, payload) {
                    Some(parts) => {
                        piece.parts = parts;
                        return self.finish(now, at, Ok(()), out);
                    }
                    None => {
                        self.counters.mismatched += 1;
                        return self.spoiled(now, at, from, Error::Corrupt, out);
                    }
                }
            }
            (ClientResult::Status { data }, Kind::Status) => {
                piece.runs.clone_from(data);
                return self.finish(now, at, Ok(()), out);
            }
            _ => {}
        }
        if !matches!(piece.state, State::Sent { to, .. } if to == from) {
            // it is on its way to another by now, or rests: only an end counts
            if let ClientResult::NotPrimary { epoch, primary } = result {
                let group = piece.group as usize;
                self.lead(now, group, epoch, primary, out);
            }
            return;
        }
        match result {
            ClientResult::NotPrimary { epoch, primary } => {
                self.counters.not_primary += 1;
                let group = piece.group as usize;
                if !self.lead(now, group, epoch, primary, out) {
                    // the one we ask does not know yet what we know: it will
                    self.rest(now, at, now);
                }
            }
            ClientResult::Retry { after } => self.rest(now, at, now + after),
            ClientResult::Stale { revision } => {
                self.counters.stale += 1;
                self.await_map(now, at, revision, out);
            }
            ClientResult::BelowMark => self.renumber(now, at, out),
            ClientResult::NoSpace => self.finish(now, at, Err(Error::NoSpace), out),
            ClientResult::Corrupt { .. } => {
                self.counters.corrupt += 1;
                self.spoiled(now, at, from, Error::Corrupt, out);
            }
            ClientResult::Refused(why) => self.refused(now, at, from, why, out),
            // an answer to another kind of request: its sender is wrong, and may be right the next time
            ClientResult::Done | ClientResult::Data { .. } | ClientResult::Status { .. } => {
                self.spoiled(now, at, from, Error::Refused(Refusal::Malformed), out);
            }
        }
    }

    fn refused(&mut self, now: Instant, at: u32, from: SliceId, why: Refusal, out: &mut Vec<Output>) {
        match why {
            Refusal::OldSession => self.end(Error::Superseded, out),
            Refusal::OldGeneration => self.end(Error::Fenced, out),
            Refusal::ReadOnly => self.finish(now, at, Err(Error::ReadOnly), out),
            Refusal::Malformed => self.spoiled(now, at, from, Error::Refused(why), out),
            Refusal::Unknown => {
                // the attachment may be gone: metadata know, and tell our owner
                self.need_newer_map(out);
                self.rest(now, at, now);
            }
        }
    }

    /// R40: of two such answers the one of the newer epoch counts. Whether it was news.
    fn lead(
        &mut self,
        now: Instant,
        group: usize,
        epoch: Epoch,
        primary: SliceId,
        out: &mut Vec<Output>,
    ) -> bool {
        let is_news = self.groups[group].leader.is_none_or(|known| known.0 < epoch);
        if is_news {
            self.groups[group].leader = Some((epoch, primary));
            // the pieces that this slice answered for would go to the same slice again, were it the leader: they are
            // those sent elsewhere, and all of them move
            self.led_anew(now, group, out);
        }
        is_news
    }

    /// A piece goes out again after its back-off, and not before `least`.
    fn rest(&mut self, now: Instant, at: u32, least: Instant) {
        let Client { pieces, jitter, resting, .. } = self;
        let piece = &mut pieces[at];
        let until = piece.backoff.failed(now, jitter).max(least);
        piece.state = State::Resting(until);
        resting.insert((until, at));
    }

    fn await_map(&mut self, now: Instant, at: u32, revision: Revision, out: &mut Vec<Output>) {
        if self.map.revision >= revision {
            // it crossed the map on its way; once more with the new one
            return self.rest(now, at, now);
        }
        self.pieces[at].state = State::AwaitsMap(revision);
        out.push(Output::NeedMap { revision });
    }

    /// R21: the number was not executed and never will be; the piece goes on under a new one.
    fn renumber(&mut self, now: Instant, at: u32, out: &mut Vec<Output>) {
        self.counters.below_mark += 1;
        let piece = &mut self.pieces[at];
        piece.state = State::Ready;
        let (group, number) = (piece.group as usize, piece.number);
        // those that wait for it go on waiting: it keeps its place in the order
        let mut freed = std::mem::take(&mut self.freed);
        self.groups[group].window.drop_number(number, &mut freed);
        self.unblock_all(now, freed, out);
        self.admit(now, at, out);
    }

    /// The answer cannot be used: asked again, and after several times it is an error.
    fn spoiled(&mut self, now: Instant, at: u32, from: SliceId, error: Error, out: &mut Vec<Output>) {
        let piece = &mut self.pieces[at];
        if !matches!(piece.state, State::Sent { to, .. } if to == from) {
            return;
        }
        piece.spoiled += 1;
        if piece.spoiled >= SPOILED_MAX {
            return self.finish(now, at, Err(error), out);
        }
        self.rest(now, at, now);
    }

    /// A piece has its answer.
    fn finish(&mut self, now: Instant, at: u32, result: Result<(), Error>, out: &mut Vec<Output>) {
        let piece = &mut self.pieces[at];
        if let State::Resting(until) = piece.state {
            self.resting.remove(&(until, at));
        }
        piece.state = State::Answered;
        piece.data = None;
        let (request, group, number) = (piece.request, piece.group, piece.number);
        // of several sendings one may be read late, by a slice that leads again then
        let may_come_late = result.is_err() && piece.kind.is_write() && piece.was_sent_again;
        let held = &mut self.requests[request];
        held.left -= 1;
        if let Err(error) = result {
            held.error.get_or_insert(error);
        }
        let is_last = held.left == 0;
        let mut freed = std::mem::take(&mut self.freed);
        let window = &mut self.groups[group as usize].window;
        match may_come_late {
            true => window.haunt(number, &mut freed),
            false => window.answer(number, &mut freed),
        }
        self.unblock_all(now, freed, out);
        if is_last {
            self.complete(request, out);
        }
        self.refill(now, group, out);
        self.let_in(now, out);
    }

    fn unblock_all(&mut self, now: Instant, mut freed: Vec<u32>, out: &mut Vec<Output>) {
        for waiting in freed.drain(..) {
            self.unblock(now, waiting, out);
        }
        self.freed = freed;
    }

    fn unblock(&mut self, now: Instant, at: u32, out: &mut Vec<Output>) {
        let piece = &mut self.pieces[at];
        match piece.state {
            State::Blocked(1) => {
                piece.state = State::Ready;
                self.send(now, at, out);
            }
            State::Blocked(more) => piece.state = State::Blocked(more - 1),
            _ => debug_assert!(false, "a piece that waits for another is blocked"),
        }
    }

    fn complete(&mut self, at: u32, out: &mut Vec<Output>) {
        let request = self.requests.remove(at);
        self.permits.give(request.cost);
        let mut answer = match request.kind {
            Kind::Read => Answer::Data(Parts::new()),
            Kind::Status => Answer::Extents(Vec::new()),
            _ => Answer::Done,
        };
        let mut next = request.first;
        while let Some(piece) = next {
            let piece = self.pieces.remove(piece);
            next = piece.next;
            match &mut answer {
                Answer::Data(parts) if parts.is_empty() => *parts = piece.parts,
                Answer::Data(parts) => piece.parts.into_iter().for_each(|part| push_part(parts, part)),
                Answer::Extents(extents) => add_extents(extents, &request, &piece),
                Answer::Done => {}
            }
        }
        let result = match request.error {
            Some(error) => Err(error),
            None => Ok(answer),
        };
        self.complete_now(request.token, result, out);
    }
}

/// The bytes a piece asked for, when each block has its checksum; `None` when one has not.
fn parts_of(
    family: FamilyId,
    piece: &Piece,
    present: u64,
    checksums: &[Checksum],
    payload: Option<Buf>,
) -> Option<Parts> {
    let range = piece.range();
    let is_in_range = range.count == 64 || present >> range.count == 0;
    let blocks = present.count_ones() as usize;
    let payload_len = payload.as_ref().map_or(0, |p| p.len());
    if !is_in_range || checksums.len() != blocks || payload_len != blocks * BLOCK_SIZE {
        return None;
    }
    let (wanted_from, wanted_to) = (piece.span.offset, piece.span.offset + piece.span.len);
    let mut parts = Parts::new();
    let (mut at, mut before) = (0u16, 0usize);
    while at < range.count {
        let is_present = present >> at & 1 == 1;
        let rest = if is_present { !(present >> at) } else { present >> at };
        let run = (rest.trailing_zeros() as u16).min(range.count - at);
        let start = u32::from(range.first + at) * BLOCK_SIZE as u32;
        let end = start + u32::from(run) * BLOCK_SIZE as u32;
        let (from, to) = (start.max(wanted_from) - start, end.min(wanted_to) - start);
        if is_present {
            let payload = payload.as_ref()?;
            for n in 0..run as usize {
                let block = &payload[(before + n) * BLOCK_SIZE..][..BLOCK_SIZE];
                let number = range.first + at + n as u16;
                if block_checksum(family, piece.span.chunk, number, block) != checksums[before + n] {
                    return None;
                }
            }
            let base = before * BLOCK_SIZE;
            push_part(&mut parts, Part::Data(payload.slice(base + from as usize..base + to as usize)));
            before += run as usize;
        } else {
            push_part(&mut parts, Part::Zeroes((to - from) as usize));
        }
        at += run;
    }
    Some(parts)
}

/// The runs of a piece as extents of the volume, joined to those before.
fn add_extents(extents: &mut Vec<Extent>, request: &Request, piece: &Piece) {
    let chunk = u64::from(piece.span.chunk.0) * CHUNK_SIZE;
    let begin = chunk + u64::from(piece.span.offset);
    let end = begin + u64::from(piece.span.len);
    debug_assert!(begin >= request.offset && end <= request.offset + request.len);
    let mut push = |from: u64, to: u64, is_data: bool| {
        let (from, to) = (from.clamp(begin, end), to.clamp(begin, end));
        match extents.last_mut() {
            _ if from >= to => {}
            Some(last) if last.is_data == is_data => last.len += to - from,
            _ => extents.push(Extent { offset: from, len: to - from, is_data }),
        }
    };
    let mut at = begin;
    for run in &piece.runs {
        if !BlockRange::is_valid(*run) {
            continue;
        }
        let from = chunk + u64::from(run.first) * BLOCK_SIZE as u64;
        let to = chunk + u64::from(run.end()) * BLOCK_SIZE as u64;
        if to <= at {
            continue;
        }
        push(at, from.max(at), false);
        push(from.max(at), to, true);
        at = to.min(end);
    }
    push(at, end, false);
}
