//! Clients at the door of a slice and of a group: who is answered, who is kept until he can be (R21, R22, R40).
use crate::cx::{Asker, Cx};
use crate::group::{Group, Role};
use crate::io::ConnId;
use crate::machine::Machine;
use crate::memory::slot_blocks;
use crate::requests::{Held, Op, Stage, Verdict, admit, is_whole, not_primary};
use alloc::vec::Vec;
use sarsen_types::limits::{self, GROUP_HELD_MAX};
use sarsen_types::{Ledger, RequestNote, SliceId};
use sarsen_wire::client::{ClientOp, ClientRequest, ClientResult, Refusal};

impl<P: Clone> Machine<P> {
    pub(crate) fn client_down(&mut self, conn: ConnId) {
        self.conns.remove(&conn);
        for group in self.groups.values_mut() {
            group.held.retain(|h| h.asker.conn != conn);
            if let Role::Primary(primary) = &mut group.role {
                // R21: its unprocessed requests are dropped; what is ordered runs on, and a retry will find it
                primary.waiting.retain(|op| op.asker.conn != conn);
                primary.reads.drop_conn(conn);
                self.cx.again.push(group.id);
            }
        }
    }

    pub(crate) fn client(&mut self, conn: ConnId, request: ClientRequest, payload: Option<P>) {
        let asker = Asker { conn, number: request.id.number, piece: request.id.piece, group: request.group };
        let retry = ClientResult::Retry { after: limits::BACKOFF_FIRST };
        if !self.cx.is_registered {
            return self.cx.reply(asker, retry, None);
        }
        if request.op == ClientOp::Greet {
            return self.greet(asker, &request);
        }
        if !self.takes_in(&request, payload.is_some()) {
            self.cx.counters.memory_full += 1;
            return self.cx.reply(asker, retry, None);
        }
        let Some(group) = self.groups.get_mut(&request.group) else {
            return self.cx.reply(asker, retry, None);
        };
        let before = group.held.len();
        group.client(&mut self.cx, Held { asker, request, payload });
        self.cx.counters.held += u64::from(group.held.len() > before);
    }

    /// D2: from now on a lower session of the attachment can begin nothing in the groups led here: the metadata this slice
    /// knows name the greeting one, and whoever leads later knows them too (R31). So a greeting is no claim to be believed:
    /// one that metadata do not know of yet is to come again.
    fn greet(&mut self, asker: Asker, request: &ClientRequest) {
        let verdict = match admit(request, &self.cx.view, &Ledger::default()) {
            Verdict::Admit(..) => ClientResult::Done,
            Verdict::Hold => ClientResult::Retry { after: limits::BACKOFF_FIRST },
            Verdict::Answer(result) => result,
        };
        self.cx.reply(asker, verdict, None);
    }
}

impl<P: Clone> Group<P> {
    /// A client's request, new or kept.
    pub fn client(&mut self, cx: &mut Cx<P>, held: Held<P>) {
        let Held { asker, request, payload } = held;
        if !self.is_current() {
            return self.hold(cx, Held { asker, request, payload });
        }
        if self.state.primary != cx.me {
            return cx.reply(asker, not_primary(self.state.epoch, self.state.primary), None);
        }
        let (family, layers) = match admit(&request, &cx.view, &self.ledger) {
            Verdict::Admit(family, layers) => (family, layers),
            Verdict::Hold => return self.hold(cx, Held { asker, request, payload }),
            Verdict::Answer(result) => {
                cx.counters.old_sessions_refused +=
                    u64::from(result == ClientResult::Refused(Refusal::OldSession));
                return cx.reply(asker, result, None);
            }
        };
        let is_write = request.op.is_write();
        let stage = if is_whole(&request.op) { Stage::Whole } else { Stage::Partial };
        let op = Op { asker, request, payload, family, layers, key: 0, stage };
        match (is_write, &self.role) {
            (true, Role::Primary(p)) if p.is_serving() && !self.gives_way_to_the_whole() => {
                self.write(cx, op)
            }
            (false, _) if self.may_read(&op) && !self.has_elder(&op) => self.read(cx, op),
            _ => self.hold(cx, Held { asker: op.asker, request: op.request, payload: op.payload }),
        }
    }

    /// Blocks of clients' writes in memory.
    pub(crate) fn kept_blocks(&self) -> u64 {
        let of = |request: &ClientRequest| kept_by(request);
        let held = self.held.iter().filter(|h| h.payload.is_some()).map(|h| of(&h.request)).sum::<u64>();
        let Role::Primary(primary) = &self.role else { return held };
        let waiting = primary.waiting.iter().filter(|op| op.payload.is_some()).map(|op| of(&op.request));
        held + waiting.sum::<u64>()
            + primary.pending.iter().map(|p| slot_blocks(u64::from(p.write.data_blocks()))).sum::<u64>()
    }

    /// R22: whether an ordered write of an older session of the attachment is uncommitted in these blocks. A newer session
    /// sees them only then: what it read would change under it with nobody writing. Its writes wait as any do (R8).
    fn has_elder(&self, op: &Op<P>) -> bool {
        let Role::Primary(primary) = &self.role else { return false };
        let id = op.request.id;
        let is_elder = |n: &RequestNote| n.id.attachment == id.attachment && n.id.session < id.session;
        (primary.pending.iter()).any(|p| {
            p.write.requests.iter().any(is_elder) && p.overlaps(op.family, op.request.chunk, op.range())
        })
    }

    fn hold(&mut self, cx: &mut Cx<P>, held: Held<P>) {
        cx.is_waiting = true;
        if self.held.len() >= GROUP_HELD_MAX {
            let result = ClientResult::Retry { after: limits::BACKOFF_FIRST };
            return cx.reply(held.asker, result, None);
        }
        self.held.push(held);
    }

    /// Something moved: kept requests are judged again, waiting writes ordered, joins advanced.
    pub fn look(&mut self, cx: &mut Cx<P>) {
        if !self.is_current() {
            return;
        }
        let is_ready = match &self.role {
            Role::Primary(p) => p.serve_after.is_none() && !p.is_collecting(),
            Role::Replica(_) => true,
        };
        if is_ready {
            for held in core::mem::take(&mut self.held) {
                self.client(cx, held);
            }
        }
        self.pump(cx);
        if let Role::Primary(primary) = &self.role {
            let joiners: Vec<SliceId> = primary.joins.keys().copied().collect();
            for joiner in joiners {
                self.advance_join(cx, joiner);
            }
        }
        self.answer_reads(cx);
    }
}

/// Blocks of memory that a request's data take while they are kept.
pub(crate) fn kept_by(request: &ClientRequest) -> u64 {
    slot_blocks(u64::from(request.op.range().map_or(0, |r| r.count)))
}
