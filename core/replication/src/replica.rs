//! A copy that follows: Prepares, takeovers answered, joins (R5, R12, R14, R15).
use crate::cx::Cx;
use crate::group::{Group, Role};
use crate::io::{Output, Read, Which};
use crate::wait::{Then, Wait};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use sarsen_types::limits::PAGE_ENTRIES_MAX;
use sarsen_types::record::{Body, Write};
use sarsen_types::{
    BlockRange, Duration, Epoch, FamilyId, GroupChange, ObjectId, Proposal, RequestNote, SliceId, Version,
    limits,
};
use sarsen_wire::peer::{GroupBody, GroupMessage, TailNote};
use smallvec::smallvec;

/// Between two proposals of the same change while its outcome is not seen.
pub(crate) const PROPOSE_AGAIN: Duration = Duration::from_millis(500);
/// The n-th in-sync copy waits so much longer before it asks to take over, so that not all ask at once.
const TAKEOVER_STAGGER: Duration = Duration::from_millis(100);

/// What a copy knows of the writes above its floor since it opened.
#[derive(Debug, Default)]
pub struct Replica {
    /// Versions received, ascending; whether each is durable.
    have: VecDeque<(Version, bool)>,
    /// The join's epoch, as the primary named it.
    join: Option<Epoch>,
}

/// What is to be done with a Prepare by what came before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    New,
    Submitted,
    Durable,
}

impl Replica {
    fn known(&self, version: Version) -> Known {
        // nearly all come in order
        if self.have.back().is_none_or(|last| last.0 < version) {
            return Known::New;
        }
        let at = self.have.partition_point(|h| h.0 < version);
        match self.have.get(at) {
            Some(&(v, durable)) if v == version && durable => Known::Durable,
            Some(&(v, _)) if v == version => Known::Submitted,
            _ => Known::New,
        }
    }
    /// What lasts of it when its epoch ends and its join goes on.
    pub fn in_a_new_epoch(self) -> Replica {
        Replica { join: self.join, ..Replica::default() }
    }
    fn submitted(&mut self, version: Version) {
        if self.have.back().is_none_or(|last| last.0 < version) {
            return self.have.push_back((version, false));
        }
        let at = self.have.partition_point(|h| h.0 < version);
        self.have.insert(at, (version, false));
    }
    fn lost(&mut self, version: Version) {
        self.have.retain(|h| h.0 != version);
    }
    fn durable(&mut self, version: Version) {
        let at = self.have.partition_point(|h| h.0 < version);
        if let Some(h) = self.have.get_mut(at).filter(|h| h.0 == version) {
            h.1 = true;
        }
    }
    /// Versions known above the floor.
    pub fn above_floor(&self) -> usize {
        self.have.len()
    }
    /// What is at or below the floor is not asked again.
    pub fn forget_below(&mut self, floor: Version) {
        while self.have.front().is_some_and(|h| h.0 <= floor) {
            self.have.pop_front();
        }
    }
}

impl<P: Clone> Group<P> {
    /// A message about this group from another slice.
    pub fn received(&mut self, cx: &mut Cx<P>, from: SliceId, message: GroupMessage, payload: Option<P>) {
        let GroupMessage { epoch, floor, body, .. } = message;
        let granted = match &body {
            GroupBody::Prepare { write, .. } => Some(u64::from(write.data_blocks())),
            GroupBody::Recover { recover, is_last: false, .. } => Some(recover.entries.len() as u64),
            _ => None,
        };
        if let GroupBody::Behind { known } = body {
            self.told_behind(cx, known);
            return;
        }
        if let GroupBody::Assume(state) = &body {
            self.adopt(cx, state);
        }
        if epoch < self.seen {
            cx.counters.behind_refused += 1;
            granted.inspect(|blocks| cx.peers.at(from).done(*blocks)); // R7: it takes no place here
            let known = self.seen;
            cx.send(from, self.id, known, Version::ZERO, GroupBody::Behind { known }, None);
            return;
        }
        if epoch != self.state.epoch {
            granted.inspect(|blocks| cx.peers.at(from).done(*blocks));
            return; // its Assume was lost with a stream; the next one has it
        }
        if from == self.state.primary && from != cx.me {
            self.heard = cx.now;
            self.take_floor(cx, floor);
        }
        match body {
            GroupBody::Assume(_) | GroupBody::Behind { .. } => {}
            GroupBody::Prepare { write, is_drain } => self.prepare(cx, from, write, is_drain, payload),
            GroupBody::TailQ => {
                self.is_proven = true; // by what we hold above our floor, which it asks for next
                self.promise(cx, Then::TailA(from));
            }
            GroupBody::StopQ => self.promise(cx, Then::StopA(from)),
            GroupBody::TailPageQ { above, after } => {
                let token = cx.wait(Wait::PeerStacks { group: self.id, epoch, to: from, after });
                cx.out.push(Output::ListStacks { token, group: self.id, above, after });
            }
            GroupBody::TailNotesQ { skip } => self.tail_notes(cx, from, skip),
            GroupBody::FetchQ { token, object, range, version } => {
                self.fetch(cx, from, token, object, range, version);
            }
            GroupBody::JoinQ { since } => self.join_began(cx, from, since),
            GroupBody::TouchedQ { above, after } => {
                let token = cx.wait(Wait::PeerTouched { group: self.id, epoch, to: from, after });
                cx.out.push(Output::ListTouched { token, group: self.id, above, after });
            }
            GroupBody::VersionsQ { object, sending } => {
                let token = cx.wait(Wait::PeerEntries { group: self.id, epoch, to: from, object, sending });
                cx.out.push(Output::ListEntries { token, group: self.id, object, visible_only: false });
            }
            // S16: what is recovered must leave room for what is written. A copy that comes back needs little, and may.
            GroupBody::Recover { .. }
                if payload.is_some() && cx.is_full_for_joins && self.ledger.floor == Version::ZERO =>
            {
                granted.inspect(|blocks| cx.peers.at(from).done(*blocks));
                cx.send(from, self.id, epoch, Version::ZERO, GroupBody::JoinFailed, None);
            }
            GroupBody::Recover { recover, sending, .. } if from == self.state.primary => {
                let object = recover.object;
                self.joins_since(recover.since);
                let body = Body::Recover(recover);
                self.apply(&body);
                let granted = (cx.peers.stream(from), granted);
                let then = Wait::Recovered { group: self.id, epoch, to: from, object, sending, granted };
                cx.persist(self.id, epoch, body, payload, then);
            }
            GroupBody::Recover { .. } => _ = granted.inspect(|blocks| cx.peers.at(from).done(*blocks)),
            GroupBody::Table { table, sending, is_last } if from == self.state.primary => {
                let body = Body::Table(table);
                self.apply(&body);
                let then = Wait::Tabled { group: self.id, epoch, to: from, sending, is_last };
                cx.persist(self.id, epoch, body, None, then);
            }
            GroupBody::FenceQ { attachment, generation } => {
                let then = Wait::Fenced { group: self.id, epoch, to: Some(from), attachment, generation };
                self.fence(cx, attachment, generation, then);
            }
            body => self.answered(cx, from, body, payload),
        }
    }

    /// Somebody knows a higher epoch: we act no more in ours; the metadata will tell us its state (R5).
    fn told_behind(&mut self, cx: &mut Cx<P>, known: Epoch) {
        if known > self.seen {
            self.seen = known;
            cx.led_changed = true;
            cx.again.push(self.id);
        }
    }

    /// R15: only an in-sync copy's floor moves; for a joining one it still says what is committed (R10), for versions
    /// of its join epoch and later.
    pub fn take_floor(&mut self, cx: &mut Cx<P>, floor: Version) {
        if self.state.is_in_sync(cx.me) {
            if self.is_proven {
                self.raise_floor(cx, floor);
            }
        } else if let Role::Replica(Replica { join: Some(since), .. }) = &self.role
            && self.state.join_of(cx.me).is_some()
            && floor >= Version::start(*since)
        {
            cx.out.push(Output::Settle(self.id, floor));
        }
    }

    fn prepare(&mut self, cx: &mut Cx<P>, from: SliceId, write: Write, is_drain: bool, payload: Option<P>) {
        let (version, blocks) = (write.version, u64::from(write.data_blocks()));
        if from != self.state.primary || version.epoch() != self.state.epoch || !self.is_copy(cx.me) {
            cx.peers.at(from).done(blocks);
            return;
        }
        if !is_drain && self.is_fenced(&write) {
            // R31: the primary learns it from our FenceA, and sends the write again as drained
            cx.peers.at(from).done(blocks);
            for note in &write.requests {
                if let Some(&(generation, _)) = self.ledger.sessions.get(&note.id.attachment) {
                    let body = GroupBody::FenceA { attachment: note.id.attachment, generation };
                    cx.send(from, self.id, self.state.epoch, Version::ZERO, body, None);
                }
            }
            return;
        }
        let in_sync = self.state.is_in_sync(cx.me);
        if in_sync && !self.is_proven {
            // it leaves and joins, or a takeover asks it first: what it took before that would hide a journal that lost its end
            // (R12), and as its acknowledgement counts it would say that it holds what it may lack
            cx.peers.at(from).done(blocks);
            return;
        }
        if !in_sync && !self.ledger.is_joining {
            // the question that begins a join comes first; were it not so, `top` would rise with what is above a gap
            self.apply(&Body::JoinBegan);
            cx.persist(self.id, self.state.epoch, Body::JoinBegan, None, Wait::Nothing);
        }
        let Role::Replica(replica) = &mut self.role else { return };
        let known = match in_sync && version <= self.ledger.floor {
            true => Known::Durable, // committed, so held here
            false => replica.known(version),
        };
        match known {
            Known::Durable => {
                cx.peers.at(from).done(blocks);
                cx.prepared.entry(from).or_default().push((self.id, version));
            }
            Known::Submitted => cx.peers.at(from).done(blocks),
            Known::New => {
                replica.submitted(version);
                let body = Body::Write(write);
                self.apply(&body);
                let stream = cx.peers.stream(from);
                let then = Wait::Prepared { group: self.id, version, to: from, stream, blocks };
                cx.persist(self.id, self.state.epoch, body, payload, then);
            }
        }
    }

    fn is_fenced(&self, write: &Write) -> bool {
        write.requests.iter().any(|note| {
            self.ledger.sessions.get(&note.id.attachment).is_some_and(|known| note.id.generation < known.0)
        })
    }

    /// A Prepare is durable here.
    pub fn prepared(&mut self, cx: &mut Cx<P>, version: Version, to: SliceId) {
        if let Role::Replica(replica) = &mut self.role {
            replica.durable(version);
        }
        // also when the epoch moved on meanwhile: acknowledgements name single versions, and of a past epoch are void (R16)
        cx.prepared.entry(to).or_default().push((self.id, version));
    }

    /// R7: there was no space for a Prepare: the primary is to take us out.
    pub fn not_prepared(&mut self, cx: &mut Cx<P>, version: Version, to: SliceId) {
        if let Role::Replica(replica) = &mut self.role {
            replica.lost(version);
            // else, were we to lead before we are out, we should believe what we do not have
            self.ledger.forget(version);
            cx.send(to, self.id, self.state.epoch, Version::ZERO, GroupBody::JoinFailed, None);
        }
    }

    /// R5: the epoch is made durable before it is answered.
    fn promise(&mut self, cx: &mut Cx<P>, then: Then) {
        let then = Wait::Promised { group: self.id, epoch: self.state.epoch, then };
        self.apply(&Body::Promise);
        cx.persist(self.id, self.state.epoch, Body::Promise, None, then);
    }

    /// The promise is durable.
    pub fn promised(&mut self, cx: &mut Cx<P>, epoch: Epoch, then: Then) {
        if epoch != self.seen {
            return;
        }
        let (floor, top) = (self.ledger.floor, self.ledger.top);
        let (to, body) = match then {
            Then::Collect => return self.own_floor(cx, epoch),
            Then::TailA(to) => (to, GroupBody::TailA { floor, top }),
            Then::StopA(to) => (to, GroupBody::StopA),
            Then::JoinA(to, since) => {
                let top = self.had_before.map_or(top, |had| top.min(had));
                (to, GroupBody::JoinA { since, floor, top })
            }
        };
        cx.send(to, self.id, epoch, Version::ZERO, body, None);
    }

    fn tail_notes(&mut self, cx: &mut Cx<P>, to: SliceId, skip: u32) {
        let (notes, is_last) = self.notes_page(skip);
        let (mut sessions, mut marks) = (Vec::new(), Vec::new());
        if skip == 0 {
            sessions.extend(self.ledger.sessions.iter().map(|(&a, &(g, s))| (a, g, s)));
            marks.extend(self.ledger.marks());
        }
        let body = GroupBody::TailNotesA { skip, sessions, marks, notes, is_last };
        cx.send(to, self.id, self.state.epoch, Version::ZERO, body, None);
    }

    /// A page of our own records, and whether it is the last.
    pub fn notes_page(&self, skip: u32) -> (Vec<TailNote>, bool) {
        let mut notes: Vec<TailNote> = (self.ledger.notes().skip(skip as usize).take(PAGE_ENTRIES_MAX + 1))
            .map(|(id, n)| TailNote {
                note: RequestNote { id, object: n.object, range: n.range },
                version: n.version,
                is_void: n.is_void,
            })
            .collect();
        let is_last = notes.len() <= PAGE_ENTRIES_MAX;
        notes.truncate(PAGE_ENTRIES_MAX);
        (notes, is_last)
    }

    fn fetch(
        &mut self,
        cx: &mut Cx<P>,
        to: SliceId,
        token: u64,
        object: ObjectId,
        range: BlockRange,
        version: Version,
    ) {
        let epoch = self.state.epoch;
        let Some(layer) = cx.view.layers.get(&object.layer).filter(|_| range.is_valid()) else {
            let body = GroupBody::FetchA {
                token,
                family: FamilyId(0),
                chunk: object.chunk,
                first: range.first,
                checksums: Vec::new(),
            };
            return cx.send(to, self.id, epoch, Version::ZERO, body, None);
        };
        let place = (layer.family, object.chunk, range.first);
        let read = Read {
            group: self.id,
            layers: smallvec![object.layer],
            family: layer.family,
            chunk: object.chunk,
            range,
            which: Which::Exact(version),
        };
        cx.read(read, Wait::Fetch { group: self.id, epoch, to, token, place });
    }

    fn join_began(&mut self, cx: &mut Cx<P>, from: SliceId, since: Epoch) {
        self.joins_since(since);
        self.is_proven = true;
        let body = Body::JoinBegan;
        self.apply(&body);
        let then = Wait::Promised { group: self.id, epoch: self.state.epoch, then: Then::JoinA(from, since) };
        cx.persist(self.id, self.state.epoch, body, None, then);
    }

    /// The primary named the epoch of our join: also after a restart of ours, or an epoch in which the join went on.
    fn joins_since(&mut self, since: Epoch) {
        if let Role::Replica(replica) = &mut self.role {
            replica.join = Some(since);
        }
    }

    /// R9, R12: an in-sync copy that heard nothing of its primary for GRACE asks to take over.
    pub fn replica_tick(&mut self, cx: &mut Cx<P>) {
        self.ask_for_proof(cx);
        if !self.is_current() || !self.state.is_in_sync(cx.me) || self.state.primary == cx.me || cx.is_hung {
            return;
        }
        let rank = self.others_in_sync(self.state.primary).iter().position(|&s| s == cx.me).unwrap_or(0);
        // R27: one not heard from since we started may only be slower to come back
        let silence = match cx.peers.heard(self.state.primary) {
            Some(_) => limits::GRACE,
            None => limits::SETTLE,
        };
        let patience = silence + TAKEOVER_STAGGER * rank as u32;
        if cx.now.since(self.heard) < patience || cx.now.since(cx.started) < patience {
            return;
        }
        self.propose(cx, GroupChange::TakeOver);
    }

    /// A copy that opened within GRACE is still in sync, and no takeover asked for its tail: if its journal lost its end to
    /// rot, nobody would see it, and a later takeover would lead with it. So it leaves, and joins: that compares.
    fn ask_for_proof(&mut self, cx: &mut Cx<P>) {
        if self.is_proven || !self.is_current() || !self.is_copy(cx.me) || self.state.primary == cx.me {
            return;
        }
        cx.is_waiting = true;
        if cx.now >= self.proof_due {
            self.proof_due = cx.now + PROPOSE_AGAIN;
            let (to, epoch) = (self.state.primary, self.state.epoch);
            cx.send(to, self.id, epoch, Version::ZERO, GroupBody::JoinFailed, None);
        }
    }

    /// Proposes, and again while nothing is seen of it.
    pub fn propose(&mut self, cx: &mut Cx<P>, change: GroupChange) {
        if self.proposed.is_some_and(|at| cx.now.since(at) < PROPOSE_AGAIN) {
            return;
        }
        self.proposed = Some(cx.now);
        cx.propose(Proposal { group: self.id, epoch: self.state.epoch, by: cx.me, change });
    }
}
