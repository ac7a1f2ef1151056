//! A piece goes to the primary of its group, over a connection that was greeted (D2, R40).
use crate::client::Client;
use crate::io::Output;
use crate::link::{GREETING_MAX, Stage};
use crate::piece::State;
use sarsen_types::{ChunkIndex, GroupId, Instant, QueueId, RequestId, Revision};
use sarsen_wire::client::{ClientOp, ClientRequest};

/// The number of greetings: no request has it.
pub(crate) const GREETING: u64 = 0;

impl Client {
    /// Sends a piece that is ready; it stays ready when there is no connection yet, or nobody is known to lead.
    pub(crate) fn send(&mut self, now: Instant, at: u32, out: &mut Vec<Output>) {
        let piece = &self.pieces[at];
        debug_assert_eq!(piece.state, State::Ready);
        let group = &self.groups[piece.group as usize];
        let Some((_, leader)) = group.leader else {
            let revision = Revision(self.map.revision.0 + 1);
            self.pieces[at].state = State::AwaitsMap(revision);
            return out.push(Output::NeedMap { revision });
        };
        let answered_below = group.window.mark(self.next_number);
        let link = self.link_to(leader);
        match self.links[link].stage {
            Stage::Up => {}
            Stage::Down(until) if until <= now => return self.dial(now, link, out),
            _ => return,
        }
        let (piece, group) = (&self.pieces[at], &self.groups[self.pieces[at].group as usize]);
        let request = ClientRequest {
            group: group.id,
            id: self.request_id(piece.number, piece.index),
            answered_below,
            chunk: piece.span.chunk,
            op: piece.op(),
            ..self.blank()
        };
        out.push(Output::Send { slice: leader, request, payload: piece.data.clone() });
        let piece = &mut self.pieces[at];
        if piece.was_sent {
            self.counters.sent_again += 1;
        }
        piece.was_sent_again |= piece.was_sent;
        piece.was_sent = true;
        piece.state = State::Sent { to: leader, at: now };
        let link = &mut self.links[link];
        piece.sendings = piece.sendings.and(leader, link.begun, link.sends(now));
        self.counters.sent += 1;
    }

    fn request_id(&self, number: u64, piece: u16) -> RequestId {
        RequestId {
            attachment: self.config.attachment,
            generation: self.config.generation,
            session: self.config.session,
            queue: QueueId(0),
            number,
            piece,
        }
    }

    fn blank(&self) -> ClientRequest {
        ClientRequest {
            group: GroupId(0),
            revision: self.map.revision,
            id: RequestId::default(),
            answered_below: 0,
            volume: self.map.volume,
            layer: self.map.layer,
            chunk: ChunkIndex(0),
            op: ClientOp::Greet,
        }
    }

    /// D2: the session greets the slice before it asks anything of it.
    pub(crate) fn greet(&mut self, now: Instant, link: usize, out: &mut Vec<Output>) {
        let slice = self.links[link].slice;
        let led = self.groups.iter().find(|g| g.leader.is_some_and(|l| l.1 == slice));
        let group = led.or(self.groups.first()).map_or(GroupId(0), |g| g.id);
        let request = ClientRequest { group, id: self.request_id(GREETING, 0), ..self.blank() };
        out.push(Output::Send { slice, request, payload: None });
        self.links[link].stage = Stage::Greeting(now);
        self.links[link].used = now;
        self.alarm(now + GREETING_MAX);
        self.counters.sent += 1;
    }

    /// The greeting was answered: what waits for this connection goes out.
    pub(crate) fn greeted(&mut self, now: Instant, link: usize, out: &mut Vec<Output>) {
        let slice = self.links[link].slice;
        self.links[link].stage = Stage::Up;
        self.links[link].begun = self.links[link].sendings;
        self.links[link].backoff.reset();
        let mut ready = std::mem::take(&mut self.freed);
        for group in self.groups.iter().filter(|g| g.leader.is_some_and(|l| l.1 == slice)) {
            ready.extend(group.window.open().filter(|p| self.pieces[*p].state == State::Ready));
        }
        for piece in ready.drain(..) {
            self.send(now, piece, out);
        }
        self.freed = ready;
    }
}
