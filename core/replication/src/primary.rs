//! The primary of a group: orders, commits, answers (R6-R9, R16, R21).
use crate::cx::{Asker, Cx};
use crate::group::{Group, Role};
use crate::io::{Output, Read, ReadFailed, Which};
use crate::join::Join;
use crate::reads::Reads;
use crate::repair::{Reader, Repairs, unreadable};
use crate::requests::{Op, Stage, is_whole};
use crate::takeover::Takeover;
use crate::wait::Wait;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use sarsen_types::record::{Body, Content, Write};
use sarsen_types::{
    AttachmentId, BLOCK_SIZE, BlockRange, Checksum, ChunkIndex, Duration, Epoch, FamilyId, Generation,
    GroupChange, GroupState, Instant, Mark, ObjectId, SliceId, Version, limits,
};
use sarsen_wire::client::{ClientOp, ClientResult};
use sarsen_wire::peer::GroupBody;
use smallvec::{SmallVec, smallvec};

/// Connections remembered that asked for one ordered write: it is asked for again on each new one.
const ASKERS_MAX: usize = 4;
/// Between two attempts to persist what our own store had no space for.
const REFUSED_AGAIN: Duration = Duration::from_millis(500);

/// An ordered, uncommitted write.
#[derive(Clone)]
pub struct Pending<P> {
    /// As it was sent.
    pub write: Write,
    /// Its data.
    pub payload: Option<P>,
    /// Copies that have it durably: bits by place in `Primary::copies`.
    pub acks: u16,
    /// Versions it had in lower epochs, or has in the tail: void until it commits (R12, R16).
    pub olds: SmallVec<[Version; 1]>,
    /// Who is to be answered.
    pub askers: SmallVec<[Asker; 1]>,
    /// Under a generation fenced since (R31).
    pub is_drain: bool,
    /// When it was sent (R9).
    pub since: Instant,
}

impl<P> Pending<P> {
    /// One more who waits for it: of those that ask again and again only the last few are remembered (R41).
    fn ask(&mut self, asker: Asker) {
        if !self.askers.contains(&asker) {
            if self.askers.len() >= ASKERS_MAX {
                self.askers.remove(0);
            }
            self.askers.push(asker);
        }
    }
    /// Of a takeover.
    pub fn is_rewrite(&self) -> bool {
        self.write.takeover.is_some()
    }
    /// Whether it touches these blocks, whatever the layer (R8).
    pub fn overlaps(&self, family: FamilyId, chunk: ChunkIndex, range: BlockRange) -> bool {
        self.write.object.chunk == chunk && self.write.family == family && self.write.range.overlaps(range)
    }
}

/// How far a primary is.
pub enum Phase<P> {
    /// It asks every in-sync copy for its tail (R12).
    Collect(Box<Takeover<P>>),
    /// It writes again what differed.
    Resolve,
    /// It serves.
    Serve,
}

/// See the module.
pub struct Primary<P> {
    /// The epoch it acts in.
    pub epoch: Epoch,
    /// The epoch of its takeover: answers to what an earlier role asked are not for it.
    pub born: Epoch,
    /// How far it is.
    pub phase: Phase<P>,
    /// The last sequence given.
    pub sequence: u64,
    /// Ordered and uncommitted, by version.
    pub pending: VecDeque<Pending<P>>,
    /// This slice, then the others in sync, then those that join: what the bits of `acks` stand for.
    pub copies: SmallVec<[SliceId; 8]>,
    /// Copies whose promotion was proposed in this epoch (R6).
    pub promoting: SmallVec<[SliceId; 2]>,
    /// Joins under way.
    pub joins: BTreeMap<SliceId, Join>,
    /// Writes not ordered yet, in the order they came.
    pub waiting: VecDeque<Op<P>>,
    next_op: u64,
    /// Reads under way.
    pub reads: Reads<P>,
    /// Repairs under way.
    pub repairs: Repairs,
    /// Per other copy the sending time and round of the newest heartbeat it acknowledged in this epoch (R3).
    pub leases: SmallVec<[(SliceId, Instant, u64); 4]>,
    /// R2: nothing is served before; `None` when the wait is over.
    pub serve_after: Option<Instant>,
    /// R2: primaries that confirmed in this epoch that they stopped.
    pub stopped: SmallVec<[SliceId; 4]>,
    /// When this epoch began here.
    pub began: Instant,
    /// Generations that are to be durable at others before the fence is reported (R31).
    pub fences: Vec<Fence>,
    /// While a takeover resolves: something is committed and not visible yet, so what reads would show is old.
    pub is_veiled: bool,
    /// Ordered writes for which our own store had no space (R7), and when they were last tried.
    pub refused: Vec<Version>,
    refused_at: Instant,
}

/// A fence on its way (R31).
#[derive(Clone, Debug)]
pub struct Fence {
    /// The attachment.
    pub attachment: AttachmentId,
    /// Its generation from now on.
    pub generation: Generation,
    /// Durable here.
    pub is_taken: bool,
    /// Durable at one other in-sync copy, or there is none.
    pub is_known: bool,
    /// When the others were last asked to take it.
    pub asked: Option<Instant>,
}

impl<P> Primary<P> {
    /// A primary of `state`'s epoch.
    pub fn new(me: SliceId, state: &GroupState, phase: Phase<P>, now: Instant) -> Primary<P> {
        Primary {
            epoch: state.epoch,
            born: state.epoch,
            phase,
            sequence: 0,
            pending: VecDeque::new(),
            copies: copies_of(me, state),
            promoting: SmallVec::new(),
            joins: BTreeMap::new(),
            waiting: VecDeque::new(),
            next_op: 0,
            reads: Reads::default(),
            repairs: Repairs::default(),
            leases: SmallVec::new(),
            serve_after: None,
            stopped: SmallVec::new(),
            began: now,
            fences: Vec::new(),
            is_veiled: false,
            refused: Vec::new(),
            refused_at: now,
        }
    }

    /// Whether the takeover still asks.
    pub fn is_collecting(&self) -> bool {
        matches!(self.phase, Phase::Collect(_))
    }

    /// Whether it takes writes.
    pub fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Serve) && self.serve_after.is_none()
    }

    /// How far it is, in words.
    pub fn describe(&self) -> alloc::string::String {
        let phase = match &self.phase {
            Phase::Collect(takeover) => alloc::format!("collects {}", takeover.describe()),
            Phase::Resolve => "resolves".into(),
            Phase::Serve => "serves".into(),
        };
        let pending: Vec<_> = self.pending.iter().map(|p| (p.write.version, p.write.range, p.acks)).collect();
        let waiting: Vec<_> = self.waiting.iter().map(|op| (op.request.id.number, op.stage)).collect();
        let wait = self.serve_after;
        alloc::format!(
            "{phase}, wait {wait:?}, copies {:?}, pending {pending:?}, waiting {waiting:?}, joins {:?}",
            self.copies,
            self.joins
        )
    }

    /// Everybody who waits for an answer.
    pub fn askers(&self) -> Vec<Asker> {
        let ordered = self.pending.iter().flat_map(|p| p.askers.iter().copied());
        ordered.chain(self.waiting.iter().map(|op| op.asker)).chain(self.reads.askers()).collect()
    }

    fn bit_of(&self, slice: SliceId) -> u16 {
        self.copies.iter().position(|&c| c == slice).map_or(0, |at| 1 << at)
    }

    /// The pending write of a version.
    pub fn find(&self, version: Version) -> Option<usize> {
        let at = self.pending.partition_point(|p| p.write.version < version);
        (self.pending.get(at)?.write.version == version).then_some(at)
    }

    /// Whether a copy that is needed left a Prepare unacknowledged for too long (R9).
    pub fn is_stuck(&self, copy: SliceId, now: Instant) -> bool {
        let bit = self.bit_of(copy);
        let is_late = |p: &Pending<P>| {
            p.acks & bit == 0 && p.acks & 1 != 0 && now.since(p.since) >= limits::PREPARE_TIMEOUT
        };
        self.pending.iter().take_while(|p| now.since(p.since) >= limits::PREPARE_TIMEOUT).any(is_late)
    }

    /// Copies beside us whose acknowledgements are needed: in sync, or proposed to be (R6).
    pub fn needed(&self, state: &GroupState, me: SliceId) -> SmallVec<[SliceId; 4]> {
        let mut needed: SmallVec<[SliceId; 4]> = state.in_sync.iter().copied().filter(|&s| s != me).collect();
        needed.extend(self.promoting.iter().copied().filter(|s| !state.is_in_sync(*s)));
        needed
    }

    /// The floor: below every version that is not committed, void ones included.
    fn floor(&self) -> Option<Version> {
        if !matches!(self.phase, Phase::Serve) {
            return None;
        }
        let Some(first) = self.pending.front() else {
            return Some(Version::new(self.epoch, self.sequence));
        };
        // what replaces others was ordered when the epoch began, before all that does not
        let olds =
            self.pending.iter().take_while(|p| !p.olds.is_empty()).flat_map(|p| p.olds.iter().copied());
        Some(olds.fold(first.write.version, Version::min).before())
    }
}

fn copies_of(me: SliceId, state: &GroupState) -> SmallVec<[SliceId; 8]> {
    let mut copies: SmallVec<[SliceId; 8]> = smallvec![me];
    copies.extend(state.in_sync.iter().copied().filter(|&s| s != me));
    copies.extend(state.joining.iter().map(|j| j.slice).filter(|s| !state.is_in_sync(*s)));
    copies
}

/// What is to be ordered.
pub struct Draft<P> {
    /// The write; its version is given when it is ordered.
    pub write: Write,
    /// Its data.
    pub payload: Option<P>,
    /// Who is to be answered.
    pub askers: SmallVec<[Asker; 1]>,
    /// Versions it replaces (R12, R16).
    pub olds: SmallVec<[Version; 1]>,
    /// Under a generation fenced since (R31).
    pub is_drain: bool,
}

impl<P: Clone> Group<P> {
    /// The primary role, when we have it.
    pub fn primary(&mut self) -> Option<&mut Primary<P>> {
        match &mut self.role {
            Role::Primary(primary) => Some(primary),
            Role::Replica(_) => None,
        }
    }

    // ---- order ----

    /// A write was admitted: it answers from a record, joins the request in progress, or waits for its turn.
    pub fn write(&mut self, cx: &mut Cx<P>, mut op: Op<P>) {
        let id = op.request.id;
        let (found, mark) = self.ledger.find_with_mark(&id);
        if let Some(version) = found {
            let Role::Primary(primary) = &mut self.role else { return };
            match primary.find(version) {
                Some(at) => {
                    cx.counters.retries_joined += 1;
                    primary.pending[at].ask(op.asker);
                }
                None => {
                    cx.counters.answered_from_record += 1;
                    cx.reply(op.asker, ClientResult::Done, None);
                }
            }
            return;
        }
        if id.number < mark {
            cx.counters.below_mark += 1;
            return cx.reply(op.asker, ClientResult::BelowMark, None);
        }
        let full = cx.is_full || self.others_in_sync(cx.me).iter().any(|s| cx.peers.at(*s).is_full());
        if full && matches!(op.request.op, ClientOp::Write { .. }) {
            return cx.reply(op.asker, ClientResult::NoSpace, None);
        }
        let Role::Primary(primary) = &mut self.role else { return };
        if let Some(same) = primary.waiting.iter_mut().find(|w| w.request.id == id) {
            // the retry came on a newer connection: the answer goes there
            cx.counters.retries_joined += 1;
            same.asker = op.asker;
            return;
        }
        if primary.waiting.len() >= limits::REQUEST_WINDOW_MAX {
            return cx.reply(op.asker, ClientResult::Retry { after: limits::BACKOFF_FIRST }, None);
        }
        op.key = primary.next_op;
        primary.next_op += 1;
        op.stage = if is_whole(&op.request.op) { Stage::Whole } else { Stage::Partial };
        primary.waiting.push_back(op);
        self.pump(cx);
    }

    /// Orders what may be ordered, in the order it came (R8): nothing passes an overlapping one.
    pub fn pump(&mut self, cx: &mut Cx<P>) {
        let mut at = 0;
        loop {
            let Role::Primary(primary) = &mut self.role else { return };
            if !primary.is_serving() || at >= primary.waiting.len() {
                return;
            }
            let op = &primary.waiting[at];
            let range = op.range();
            let blocked = primary.pending.iter().any(|p| p.overlaps(op.family, op.request.chunk, range))
                || primary.waiting.iter().take(at).any(|w| w.overlaps(op));
            if blocked {
                cx.counters.overlaps_waited += 1;
                at += 1;
                continue;
            }
            match op.stage {
                Stage::Merging | Stage::Repairing(_) => at += 1,
                Stage::Partial => {
                    self.merge(cx, at);
                    at += 1;
                }
                Stage::Whole => {
                    let blocks = u64::from(range.count);
                    if !self.has_room(cx, blocks) {
                        return; // the window is full: what came later waits too
                    }
                    let Role::Primary(primary) = &mut self.role else { return };
                    let op = primary.waiting.remove(at).expect("it is there");
                    self.order_op(cx, op);
                }
            }
        }
    }

    /// R7: every in-sync copy granted it, and our own bounds hold.
    fn has_room(&mut self, cx: &mut Cx<P>, blocks: u64) -> bool {
        let Role::Primary(primary) = &self.role else { return false };
        primary.pending.len() < limits::GROUP_PENDING_MAX
            && primary.refused.is_empty()
            && primary.needed(&self.state, cx.me).iter().all(|s| cx.peers.has_room(*s, blocks))
    }

    fn merge(&mut self, cx: &mut Cx<P>, at: usize) {
        let Role::Primary(primary) = &mut self.role else { return };
        let epoch = primary.epoch;
        let op = &mut primary.waiting[at];
        op.stage = Stage::Merging;
        cx.counters.merges += 1;
        let (offset, len) = match op.request.op {
            ClientOp::Write { offset, len, .. } | ClientOp::Zero { offset, len } => (offset, len),
            _ => unreachable!("only writes wait to be ordered"),
        };
        let read = Read {
            group: self.id,
            layers: op.layers.clone(),
            family: op.family,
            chunk: op.request.chunk,
            range: op.range(),
            which: Which::Visible,
        };
        let payload = op.payload.clone();
        let token = cx.waits.insert(Wait::Merge { group: self.id, epoch, op: op.key });
        cx.out.push(Output::Merge { token, read, offset, len, payload });
    }

    /// The blocks of a part-block write were merged: it is whole, and its turn comes.
    pub fn merged(
        &mut self,
        cx: &mut Cx<P>,
        key: u64,
        done: Result<(P, SmallVec<[Checksum; 4]>), ReadFailed>,
    ) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(at) = primary.waiting.iter().position(|op| op.key == key && op.stage == Stage::Merging)
        else {
            return;
        };
        let op = &mut primary.waiting[at];
        match done {
            Ok((payload, checksums)) => {
                let range = op.range();
                let (offset, len) = (u32::from(range.first) * BLOCK_SIZE as u32, range.bytes() as u32);
                op.request.op = ClientOp::Write { offset, len, checksums };
                op.payload = Some(payload);
                op.stage = Stage::Whole;
            }
            Err(failed) => {
                // what it lies on is to be repaired first; then it is merged again
                let chunk = op.request.chunk;
                let reader = Some(Reader::Merge(key));
                match failed {
                    ReadFailed::Corrupt(blocks) => {
                        op.stage = Stage::Repairing(blocks.len());
                        for (layer, block, entry) in blocks {
                            self.repair(cx, ObjectId { layer, chunk }, block, entry, reader);
                        }
                    }
                    ReadFailed::Unreadable(object) => {
                        op.stage = Stage::Repairing(1);
                        self.restore(cx, object, reader);
                    }
                    ReadFailed::Missing => self.merge_failed(cx, key, true),
                }
                return;
            }
        }
        self.pump(cx);
    }

    /// A block that a part-block write lies on was repaired.
    pub fn merge_repaired(&mut self, cx: &mut Cx<P>, key: u64) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(op) = primary.waiting.iter_mut().find(|op| op.key == key) else { return };
        op.stage = match op.stage {
            Stage::Repairing(left) if left > 1 => Stage::Repairing(left - 1),
            _ => Stage::Partial,
        };
        cx.again.push(self.id);
    }

    /// What it lies on cannot be repaired, or not now: nothing of the write was ordered.
    pub fn merge_failed(&mut self, cx: &mut Cx<P>, key: u64, is_lost: bool) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(at) = primary.waiting.iter().position(|op| op.key == key) else { return };
        if let Some(op) = primary.waiting.remove(at) {
            cx.reply(op.asker, unreadable(op.range(), is_lost), None);
        }
        cx.again.push(self.id);
    }

    fn order_op(&mut self, cx: &mut Cx<P>, op: Op<P>) {
        let note = op.note();
        let id = op.request.id;
        let content = match &op.request.op {
            ClientOp::Write { checksums, .. } => Content::Data(checksums.clone()),
            _ => Content::Zero,
        };
        let mut marks = SmallVec::new();
        if op.request.answered_below > self.ledger.mark_of(&id) {
            let below = op.request.answered_below.min(id.number);
            marks.push(Mark { attachment: id.attachment, session: id.session, queue: id.queue, below });
        }
        let write = Write {
            version: Version::ZERO,
            object: note.object,
            family: op.family,
            range: note.range,
            content,
            requests: smallvec![note],
            marks,
            takeover: None,
        };
        cx.counters.writes += 1;
        let payload = op.payload.filter(|_| write.data_blocks() > 0);
        self.order(
            cx,
            Draft { write, payload, askers: smallvec![op.asker], olds: SmallVec::new(), is_drain: false },
        );
    }

    /// Gives a write the next version, persists it here, sends it to every in-sync and joining copy.
    pub fn order(&mut self, cx: &mut Cx<P>, draft: Draft<P>) {
        let Role::Primary(primary) = &mut self.role else { return };
        primary.sequence += 1;
        let mut write = draft.write;
        write.version = Version::new(primary.epoch, primary.sequence);
        let version = write.version;
        let blocks = u64::from(write.data_blocks());
        let targets: SmallVec<[SliceId; 8]> = primary.copies[1..].into();
        let mut sends: SmallVec<[SliceId; 8]> = SmallVec::new();
        for to in targets {
            let must = self.state.is_in_sync(to) || primary.promoting.contains(&to);
            if let Some(join) = primary.joins.get_mut(&to) {
                let room = cx.peers.has_room(to, blocks) && join.has_window();
                if !must && !room {
                    cx.counters.join_window_full += 1;
                    join.missed(version, write.object);
                    continue;
                }
                join.sent(version, write.object);
            }
            sends.push(to);
        }
        debug_assert!(draft.olds.is_empty() || primary.pending.back().is_none_or(|p| !p.olds.is_empty()));
        primary.pending.push_back(Pending {
            write: write.clone(),
            payload: draft.payload.clone(),
            acks: 0,
            olds: draft.olds,
            askers: draft.askers,
            is_drain: draft.is_drain,
            since: cx.now,
        });
        for to in sends {
            cx.peers.at(to).spend(blocks);
            let body = GroupBody::Prepare { write: write.clone(), is_drain: draft.is_drain };
            self.send(cx, to, body, draft.payload.clone());
        }
        let body = Body::Write(write);
        self.apply(&body);
        cx.persist(self.id, self.state.epoch, body, draft.payload, Wait::Ordered { group: self.id, version });
    }

    // ---- commit ----

    /// A copy has a write durably. Acknowledgements name single versions (R16).
    pub fn acknowledged(&mut self, cx: &mut Cx<P>, from: SliceId, version: Version) {
        let may_commit = self.state.may_commit();
        let Role::Primary(primary) = &mut self.role else { return };
        let bit = primary.bit_of(from);
        if let Some(join) = primary.joins.get_mut(&from) {
            join.acknowledged(version);
        }
        if from == cx.me && !primary.refused.is_empty() {
            primary.refused.retain(|v| *v != version);
            cx.led_changed = true;
        }
        let Some(at) = primary.find(version) else {
            if primary.joins.contains_key(&from) {
                self.advance_join(cx, from);
            }
            return;
        };
        primary.pending[at].acks |= bit;
        let needed = self.needed_bits(cx.me);
        let Role::Primary(primary) = &mut self.role else { return };
        if may_commit && primary.pending[at].acks & needed == needed {
            self.commit(cx, at);
            self.committed(cx);
        }
    }

    fn needed_bits(&self, me: SliceId) -> u16 {
        let Role::Primary(primary) = &self.role else { return 0 };
        primary.needed(&self.state, me).iter().fold(1, |bits, s| bits | primary.bit_of(*s))
    }

    /// R9: every needed copy has it: visible, answered.
    fn commit(&mut self, cx: &mut Cx<P>, at: usize) {
        let Role::Primary(primary) = &mut self.role else { return };
        let pending = primary.pending.remove(at).expect("it is there");
        let version = pending.write.version;
        for join in primary.joins.values_mut() {
            join.committed(version, pending.write.object);
        }
        let lowest = primary.pending.front().is_none_or(|p| p.write.version > version && p.olds.is_empty());
        match primary.phase {
            Phase::Serve if lowest => {} // the floor says it
            Phase::Serve => cx.out.push(Output::Commit(self.id, version)),
            // A request's blocks may be several writes of a takeover: until the last of them is committed a power cut may
            // void it, and what lies under the first is what counts then. So nothing of a takeover is shown, and nothing
            // under it let go, before its end.
            _ => primary.is_veiled = true,
        }
        for asker in pending.askers {
            cx.reply(asker, ClientResult::Done, None);
        }
    }

    /// Some write was committed, or who is needed changed: what may follow from it.
    pub fn committed(&mut self, cx: &mut Cx<P>) {
        let may_commit = self.state.may_commit();
        let Role::Primary(primary) = &mut self.role else { return };
        if matches!(primary.phase, Phase::Resolve)
            && !primary.pending.iter().any(Pending::is_rewrite)
            && (may_commit || primary.pending.is_empty())
        {
            primary.phase = Phase::Serve;
            primary.is_veiled = false;
            cx.counters.takeovers += 1;
        }
        if let Some(floor) = primary.floor() {
            self.raise_floor(cx, floor);
        }
        let Role::Primary(primary) = &self.role else { return };
        if primary.is_serving()
            && !(self.held.is_empty() && primary.waiting.is_empty() && primary.joins.is_empty())
        {
            cx.again.push(self.id);
        }
    }

    /// Judges every pending write anew: who is needed may have changed.
    pub fn recheck(&mut self, cx: &mut Cx<P>) {
        let needed = self.needed_bits(cx.me);
        let mut at = 0;
        while self.state.may_commit() {
            let Role::Primary(primary) = &mut self.role else { return };
            match primary.pending.get(at) {
                None => break,
                Some(p) if p.acks & needed == needed => self.commit(cx, at),
                Some(_) => at += 1,
            }
        }
        self.committed(cx);
    }

    // ---- a new epoch of ours ----

    /// R5, R16: a primary that goes on orders again what is uncommitted; acknowledgements of the old versions are void.
    pub fn go_on(&mut self, cx: &mut Cx<P>, before: &GroupState) {
        let state = self.state.clone();
        let Role::Primary(primary) = &mut self.role else { return };
        primary.epoch = state.epoch;
        primary.sequence = 0;
        primary.copies = copies_of(cx.me, &state);
        primary.promoting.clear();
        primary.leases.clear();
        primary.stopped.clear();
        primary.began = cx.now;
        primary.refused.clear();
        for fence in &mut primary.fences {
            (fence.is_known, fence.asked) = (false, None);
        }
        for to in self.others(cx.me) {
            self.announce(cx, to);
        }
        let Role::Primary(primary) = &mut self.role else { return };
        let old = core::mem::take(&mut primary.pending);
        self.renew_joins(cx, before, &old);
        cx.counters.writes_ordered_again += old.len() as u64;
        for pending in old {
            let mut olds = pending.olds;
            olds.push(pending.write.version);
            let Pending { write, payload, askers, is_drain, .. } = pending;
            self.order(cx, Draft { write, payload, askers, olds, is_drain });
        }
        self.apply(&Body::Promise);
        cx.persist(self.id, state.epoch, Body::Promise, None, Wait::Nothing);
        self.recheck(cx);
        self.refresh_fences(cx);
        self.repairs_again(cx);
        self.stop_others(cx);
        cx.again.push(self.id);
    }

    /// The other copies, in sync or joining.
    fn others(&self, me: SliceId) -> SmallVec<[SliceId; 8]> {
        copies_of(me, &self.state).into_iter().skip(1).collect()
    }

    /// R7: our own store has no space for an ordered write. Another in-sync copy is to lead; if there is none, it waits.
    pub fn not_persisted(&mut self, cx: &mut Cx<P>, version: Version) {
        let Role::Primary(primary) = &mut self.role else { return };
        if primary.find(version).is_some() && !primary.refused.contains(&version) {
            primary.refused.push(version);
            primary.refused_at = cx.now;
            cx.led_changed = true;
            cx.is_waiting = true;
        }
    }

    /// R7: a primary that cannot persist sends no heartbeats of the group, so that another takes over.
    pub fn gives_way(&self, primary: &Primary<P>) -> bool {
        !primary.refused.is_empty() && self.state.in_sync.len() > 1
    }

    fn persist_refused(&mut self, cx: &mut Cx<P>) {
        let (group, epoch) = (self.id, self.state.epoch);
        let Role::Primary(primary) = &mut self.role else { return };
        if primary.refused.is_empty() || cx.now.since(primary.refused_at) < REFUSED_AGAIN {
            return;
        }
        primary.refused_at = cx.now;
        for version in primary.refused.clone() {
            if let Some(at) = primary.find(version) {
                let p = &primary.pending[at];
                let (body, payload) = (Body::Write(p.write.clone()), p.payload.clone());
                cx.persist(group, epoch, body, payload, Wait::Ordered { group, version });
            }
        }
    }

    /// The stream to a copy was made again: within an epoch the same versions are sent again (R16).
    pub fn reconnected(&mut self, cx: &mut Cx<P>, to: SliceId) {
        if self.state.primary != cx.me || !self.is_current() {
            return;
        }
        let Role::Primary(primary) = &mut self.role else { return };
        if primary.is_collecting() {
            return self.collect_again(cx, to);
        }
        if !primary.copies.contains(&to) {
            return self.stop_others(cx);
        }
        self.announce(cx, to);
        let Role::Primary(primary) = &mut self.role else { return };
        let bit = primary.bit_of(to);
        let mut again = Vec::new();
        for p in &primary.pending {
            let missed = primary.joins.get(&to).is_some_and(|j| j.has_missed(p.write.version));
            if p.acks & bit == 0 && !missed {
                again.push((p.write.clone(), p.payload.clone(), p.is_drain));
            }
        }
        self.rejoin(cx, to);
        self.stop_others(cx);
        cx.counters.prepares_sent_again += again.len() as u64;
        for (write, payload, is_drain) in again {
            cx.peers.at(to).spend(u64::from(write.data_blocks()));
            self.send(cx, to, GroupBody::Prepare { write, is_drain }, payload);
        }
        self.refresh_fences(cx);
    }

    // ---- time ----

    /// What a primary does as time goes by.
    pub fn primary_tick(&mut self, cx: &mut Cx<P>) {
        if !self.is_current() || !matches!(self.role, Role::Primary(_)) {
            return;
        }
        self.end_wait(cx);
        self.persist_refused(cx);
        self.remove_silent(cx);
        self.takeover_tick(cx);
        self.tick_joins(cx);
        self.refresh_fences(cx);
        let Role::Primary(primary) = &self.role else { return };
        if !primary.is_serving()
            || !primary.reads.is_empty()
            || !primary.waiting.is_empty()
            || !self.held.is_empty()
        {
            cx.is_waiting = true;
            cx.again.push(self.id);
        }
    }

    /// R9: an in-sync copy that was silent for GRACE, or left a Prepare unacknowledged for too long, is taken out.
    fn remove_silent(&mut self, cx: &mut Cx<P>) {
        let Role::Primary(primary) = &self.role else { return };
        if primary.is_collecting() || cx.is_hung || self.gives_way(primary) {
            return; // the takeover judges for itself whom it waits for (R12); who sends no heartbeats judges nobody
        }
        let mut gone = None;
        for to in self.others_in_sync(cx.me) {
            let acked =
                primary.leases.iter().find(|l| l.0 == to).map_or(primary.began, |l| l.1.max(primary.began));
            let patience = match cx.peers.heard(to) {
                Some(_) => limits::GRACE,
                None => limits::SETTLE,
            };
            if cx.now.since(acked) >= patience || primary.is_stuck(to, cx.now) {
                gone = Some(to);
                break;
            }
        }
        if let Some(to) = gone.or_else(|| self.silent_joiner(cx)) {
            self.propose(cx, GroupChange::Remove(to));
        }
    }
}
