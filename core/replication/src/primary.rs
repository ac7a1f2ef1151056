//! The primary of a group: orders, commits, answers (R6-R9, R16, R21).
use crate::cx::{Asker, Cx};
use crate::group::{Group, Role};
use crate::join::{Join, is_proof};
use crate::reads::Reads;
use crate::repair::Repairs;
use crate::requests::Op;
use crate::takeover::Takeover;
use crate::wait::Wait;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use sarsen_types::record::{Body, Write};
use sarsen_types::{
    AttachmentId, BlockRange, ChunkIndex, Epoch, FamilyId, Generation, GroupChange, GroupState, Instant,
    SliceId, Version, limits,
};
use sarsen_wire::peer::GroupBody;
use smallvec::{SmallVec, smallvec};

/// Connections remembered that asked for one ordered write: it is asked for again on each new one.
const ASKERS_MAX: usize = 4;
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
    pub(crate) fn ask(&mut self, asker: Asker) {
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

/// What one other copy acknowledged in this epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Which copy.
    pub slice: SliceId,
    /// When the newest heartbeat it acknowledged was sent, by our clock (R3).
    pub sent: Instant,
    /// Its round (R4).
    pub round: u64,
    /// The newest round it acknowledged that told floors (R10).
    pub floors: u64,
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
    /// When another epoch was asked for last in this one.
    pub renewal: Option<Instant>,
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
    pub(crate) next_op: u64,
    /// Reads under way.
    pub reads: Reads<P>,
    /// Repairs under way.
    pub repairs: Repairs,
    /// Per other copy what it acknowledged in this epoch.
    pub leases: SmallVec<[Lease; 4]>,
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
    /// The highest version that our takeover found on all copies: the floor once it is over, until a write of ours is committed.
    pub settled: Option<Version>,
    /// The highest version that a copy in sync had when our takeover asked: what is committed below our takeover's epoch is at
    /// or below it, or every one of them lost it.
    pub had: Version,
    /// Copies that held all that was committed when our row of takeovers began (R11), ours among them if it lost nothing.
    pub holders: SmallVec<[SliceId; 4]>,
    /// Since then something was committed, be it by the takeover that found it on all copies: what only others hold is void.
    pub has_committed: bool,
    /// A joiner showed that we lack what was, or may have been, committed before we led: what we ask for (R12).
    pub gives_way: Option<GroupChange>,
    /// Ordered writes for which our own store had no space (R7), and when they were last tried.
    pub refused: Vec<Version>,
    pub(crate) refused_at: Instant,
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
            renewal: None,
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
            settled: None,
            had: Version::ZERO,
            holders: state.complete.iter().copied().collect(),
            has_committed: false,
            gives_way: None,
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

    pub(crate) fn bit_of(&self, slice: SliceId) -> u16 {
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

    /// The floor: below every version that is not committed, void ones included; and always the version of a write, one that
    /// every in-sync copy took. So a copy that took nothing so high lost its journal's end (R12).
    pub(crate) fn floor(&self) -> Option<Version> {
        if !matches!(self.phase, Phase::Serve) {
            return None;
        }
        let floor = match self.pending.front() {
            // what replaces others was ordered when the epoch began, before all that does not
            Some(first) if !first.olds.is_empty() => return None,
            Some(first) => first.write.version.before(),
            None => Version::new(self.epoch, self.sequence),
        };
        match floor.sequence() {
            0 => self.settled,
            _ => Some(floor),
        }
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

    // ---- a new epoch of ours ----

    /// R5, R16: a primary that goes on orders again what is uncommitted; acknowledgements of the old versions are void.
    pub fn go_on(&mut self, cx: &mut Cx<P>, before: &GroupState) {
        let state = self.state.clone();
        let Role::Primary(primary) = &mut self.role else { return };
        primary.epoch = state.epoch;
        (primary.sequence, primary.renewal) = (0, None);
        primary.copies = copies_of(cx.me, &state);
        primary.promoting.clear();
        primary.leases.clear();
        primary.stopped.clear();
        primary.began = cx.now;
        primary.refused.clear();
        // Joiners are asked again, and what they say is judged as things are then (simulator, seed 4512: it gave way much later,
        // after it had committed). What a floor proved stays true, be who told it away again (found in review).
        primary.gives_way = match primary.gives_way.take().filter(|_| state.in_sync.len() == 1) {
            // nor whom it may give way to: one that is stale since is not complete any more
            Some(GroupChange::GiveWay { to, lacks: true }) if state.complete.contains(&to) => {
                Some(GroupChange::GiveWay { to, lacks: true })
            }
            change => change.filter(is_proof).map(|_| GroupChange::Expel(cx.me)),
        };
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
        self.give_way_to_the_whole(cx);
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
            let acked = primary
                .leases
                .iter()
                .find(|l| l.slice == to)
                .map_or(primary.began, |l| l.sent.max(primary.began));
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
