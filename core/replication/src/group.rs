//! One group at this slice: what is known of it, in which epoch we act, and as what.
use crate::cx::{Asker, Cx};
use crate::io::Output;
use crate::primary::{Phase, Primary};
use crate::replica::Replica;
use crate::requests::{HeldList, not_primary};
use crate::wait::Wait;
use sarsen_types::record::{Body, Point, Table};
use sarsen_types::{Duration, Epoch, GroupChange, GroupId, GroupState, Instant, Ledger, SliceId, Version};
use sarsen_wire::peer::GroupBody;
use smallvec::SmallVec;

/// A copy that was compared with nobody so long after it learned of an epoch says so.
const PROOF_AFTER: Duration = Duration::from_millis(100);

/// See the module.
pub struct Group<P> {
    /// Which.
    pub id: GroupId,
    /// As metadata recorded it, at the newest epoch known here.
    pub state: GroupState,
    /// What this copy remembers; applied when a record is submitted.
    pub ledger: Ledger,
    /// The highest epoch known or promised: lower ones are refused (R5).
    pub seen: Epoch,
    /// What we are in `state.epoch`.
    pub role: Role<P>,
    /// Primaries whose heartbeats we acknowledged, and when last (R2).
    pub acked: SmallVec<[(SliceId, Instant); 2]>,
    /// When a message of the current epoch came from its primary (R3).
    pub heard: Instant,
    /// To whom the current epoch's state was told, on which of their streams (R5).
    pub told: SmallVec<[(SliceId, u64); 4]>,
    /// Requests kept until they can be judged or served (R40).
    pub held: HeldList<P>,
    /// When a proposal was last made in this epoch.
    pub proposed: Option<Instant>,
    /// The floor last told to the other copies with a heartbeat, and the first round that told it: until each copy
    /// acknowledged one of that round or later, it is told again (R10).
    pub floor_told: (Version, u64),
    /// Somebody compared what this copy holds since it opened: a takeover asked for its tail, or a join began. Before that it
    /// may lack something below the others' floor, and takes none from them (R12, R15).
    pub is_proven: bool,
    /// When it says that nobody did.
    pub proof_due: Instant,
    /// After we gave way to a copy that has more: what we had before we led alone. What we wrote again since was committed by
    /// nobody, and tells that copy nothing.
    pub had_before: Option<Version>,
}

/// What a slice is in a group. Joining copies are replicas too: the state says which.
pub enum Role<P> {
    /// A copy, or none any more.
    Replica(Replica),
    /// It orders and answers.
    Primary(alloc::boxed::Box<Primary<P>>),
}

impl<P: Clone> Group<P> {
    /// A group of which the ledger is known, and no epoch yet.
    pub fn new(id: GroupId, ledger: Ledger) -> Group<P> {
        let state = GroupState {
            group: id,
            epoch: Epoch(0),
            primary: SliceId::default(),
            primary_since: Epoch(0),
            in_sync: alloc::vec![],
            joining: alloc::vec![],
            complete: alloc::vec![],
            could_commit: Epoch(0),
            members: alloc::vec![],
            min_copies: 1,
            is_damaged: false,
        };
        Group {
            id,
            state,
            seen: ledger.promise,
            ledger,
            role: Role::Replica(Replica::default()),
            acked: SmallVec::new(),
            heard: Instant::default(),
            told: SmallVec::new(),
            held: HeldList::new(),
            proposed: None,
            floor_told: (Version::ZERO, 0),
            is_proven: false,
            proof_due: Instant::default(),
            had_before: None,
        }
    }

    /// Whether we know the state of the highest epoch we know of.
    pub fn is_current(&self) -> bool {
        self.state.epoch == self.seen && self.seen > Epoch(0)
    }

    /// Whether this slice has a copy that counts or is to count.
    pub fn is_copy(&self, me: SliceId) -> bool {
        self.state.is_in_sync(me) || self.state.join_of(me).is_some()
    }

    /// The group moved: by the metadata, or by a message that carries them (R5). Older news is ignored.
    pub fn adopt(&mut self, cx: &mut Cx<P>, state: &GroupState) {
        if state.epoch <= self.state.epoch || state.epoch < self.seen {
            return;
        }
        if let Role::Primary(primary) = &self.role {
            primary.refused.iter().for_each(|v| self.ledger.forget(*v)); // they count for nothing in another epoch
        }
        if self.state.is_in_sync(cx.me) && self.state.is_whole() {
            // R18: the store forgot up to here at most
            self.ledger.forgets();
        }
        let before = core::mem::replace(&mut self.state, state.clone());
        self.seen = state.epoch;
        self.told.clear();
        self.proposed = None;
        self.floor_told = (Version::ZERO, 0);
        self.heard = cx.now;
        self.proof_due = cx.now + PROOF_AFTER;
        cx.led_changed = true;
        if let Some(assignment) = state.assignment_of(cx.me)
            && assignment != self.ledger.assignment
        {
            self.begin_assignment(cx, assignment);
        }
        if state.in_sync == [cx.me] && self.ledger.is_joining && self.ledger.point.is_none() {
            self.be_whole(cx);
        }
        if state.is_in_sync(cx.me) {
            self.had_before = None;
            // R15: before anything else in this epoch
            self.raise_floor(cx, self.ledger.point.unwrap_or_default());
            self.ledger.ends_join();
            if state.in_sync == [cx.me] && !state.is_damaged {
                // R28, R41: what this copy holds was accepted. Committed up to there it was before it was doubted; above it lies
                // what a takeover has to judge, torn writes over answered ones among it.
                self.raise_floor(cx, self.ledger.former_floor);
            }
        }
        let may_vanish = state.is_in_sync(cx.me) && state.joining.is_empty();
        cx.out.push(Output::Vanish { group: self.id, may_vanish, may_forget: state.is_whole() });
        if state.primary == cx.me && cx.is_registered && !state.is_damaged {
            // a takeover that counted something as committed begins again where nothing could be: it stays uncommitted (R12)
            let begins_again = |p: &Primary<P>| p.is_collecting() || p.is_veiled && !state.may_commit();
            let goes_on =
                matches!(&self.role, Role::Primary(p) if state.primary_since <= p.epoch && !begins_again(p));
            match goes_on {
                true => self.go_on(cx, &before),
                false => self.take_over(cx),
            }
        } else {
            self.follow(cx, &before);
        }
    }

    /// We were named the only copy in sync in the middle of a join: what we hold is what there is from now on. Else the join
    /// would go on by our own records, and what we take after it would not count as taken in sync (found in review).
    fn be_whole(&mut self, cx: &mut Cx<P>) {
        let point = Point { floor: self.ledger.floor, forgotten: self.ledger.forgotten };
        let body = Body::Table(Table { since: self.seen, point: Some(point), ..Table::default() });
        self.apply(&body);
        cx.persist(self.id, self.seen, body, None, Wait::Nothing);
    }

    /// R20: a new assignment starts empty with floor 0.
    fn begin_assignment(&mut self, cx: &mut Cx<P>, assignment: u64) {
        self.role = Role::Replica(Replica::default());
        self.is_proven = true;
        let body = Body::Assign { assignment };
        self.apply(&body);
        cx.persist(self.id, self.seen, body, None, Wait::Nothing);
    }

    /// Applies a record that is being submitted to our ledger.
    pub fn apply(&mut self, body: &Body) {
        self.ledger.take(self.seen, body);
    }

    /// Another slice leads from now on: what was asked of us as a primary is to be asked there.
    fn follow(&mut self, cx: &mut Cx<P>, before: &GroupState) {
        let join = |state: &GroupState| state.join_of(cx.me).map(|j| (j.since, state.primary));
        let goes_on = join(&self.state).is_some()
            && join(&self.state) == join(before)
            && self.state.primary_since <= before.epoch;
        match core::mem::replace(&mut self.role, Role::Replica(Replica::default())) {
            // R10: of a join that goes on it is still known which versions can count as committed
            Role::Replica(old) if goes_on => self.role = Role::Replica(old.in_a_new_epoch()),
            Role::Replica(_) => {}
            Role::Primary(primary) => {
                if let Some(GroupChange::GiveWay { .. }) = primary.gives_way {
                    self.had_before = Some(primary.had);
                }
                self.turn_away(cx, primary.askers());
            }
        }
        self.turn_away(cx, []);
    }

    /// Who asked is to ask elsewhere, and so is who is held.
    fn turn_away(&mut self, cx: &mut Cx<P>, askers: impl IntoIterator<Item = Asker>) {
        let held = core::mem::take(&mut self.held).into_iter().map(|held| held.asker);
        for asker in askers.into_iter().chain(held) {
            cx.reply(asker, not_primary(self.state.epoch, self.state.primary), None);
        }
    }

    /// We are no copy of it any more.
    pub fn leave(&mut self, cx: &mut Cx<P>) {
        if let Role::Primary(primary) = core::mem::replace(&mut self.role, Role::Replica(Replica::default()))
        {
            cx.led_changed = true;
            self.turn_away(cx, primary.askers());
        }
        self.turn_away(cx, []);
        let state = &mut self.state;
        [&mut state.in_sync, &mut state.complete].into_iter().for_each(|list| list.retain(|s| *s != cx.me));
        state.joining.retain(|j| j.slice != cx.me);
        state.members.retain(|m| m.slice != cx.me);
    }

    /// Raises our floor where we may (R15): the store makes it durable with its next journal block.
    pub fn raise_floor(&mut self, cx: &mut Cx<P>, floor: Version) {
        if floor > self.ledger.floor {
            self.ledger.raise_floor(floor);
            if let Role::Replica(replica) = &mut self.role {
                replica.forget_below(floor);
            }
            cx.out.push(Output::RaiseFloor(self.id, floor));
        }
    }

    /// A message of this epoch, as its primary; the first to each copy carries the state (R5).
    pub fn send(&mut self, cx: &mut Cx<P>, to: SliceId, body: GroupBody, payload: Option<P>) {
        if !cx.peers.is_up(to) {
            return;
        }
        self.announce(cx, to);
        cx.send(to, self.id, self.state.epoch, self.floor_to_tell(), body, payload);
    }

    /// R5: the first message of an epoch on each stream carries the group's state. An idle group has no other message to
    /// send: without this a copy that metadata do not reach would acknowledge no heartbeat of the epoch.
    pub fn announce(&mut self, cx: &mut Cx<P>, to: SliceId) {
        let stream = cx.peers.stream(to);
        if !cx.peers.is_up(to) || self.state.primary != cx.me || self.told.contains(&(to, stream)) {
            return;
        }
        self.told.retain(|t| t.0 != to);
        self.told.push((to, stream));
        let state = self.state.clone();
        cx.send(to, self.id, state.epoch, self.floor_to_tell(), GroupBody::Assume(state), None);
    }

    /// The floor that goes out with messages. While a takeover is not over a copy may lack something below the highest
    /// floor; were it raised there before that is made good, no later takeover would look (R12; simulator, rot of a
    /// journal's end).
    pub fn floor_to_tell(&self) -> Version {
        match &self.role {
            Role::Primary(p) if !matches!(p.phase, Phase::Serve) => Version::ZERO,
            _ => self.ledger.floor,
        }
    }

    /// R2: we acknowledged a heartbeat of `primary`.
    pub fn note_acked(&mut self, primary: SliceId, now: Instant) {
        match self.acked.iter_mut().find(|a| a.0 == primary) {
            Some(a) => a.1 = now,
            None => self.acked.push((primary, now)),
        }
    }

    /// What it does, in one line: for reports and failed runs.
    pub fn describe(&self) -> alloc::string::String {
        let (seen, held) = (self.seen, self.held.len());
        let known = alloc::format!(
            "{:?} {:?} seen {seen:?} floor {:?} held {held}",
            self.id,
            self.state.epoch,
            self.ledger.floor
        );
        match &self.role {
            Role::Replica(_) => alloc::format!("{known}, follows {:?}", self.state.primary),
            Role::Primary(p) => alloc::format!("{known}, leads: {}", p.describe()),
        }
    }

    /// Whether we lead it and take reads and writes: for checkers and reports.
    pub fn is_served(&self) -> bool {
        self.is_current() && matches!(&self.role, Role::Primary(p) if p.is_serving())
    }

    /// The other in-sync copies.
    pub fn others_in_sync(&self, me: SliceId) -> SmallVec<[SliceId; 4]> {
        self.state.in_sync.iter().copied().filter(|&s| s != me).collect()
    }
}
