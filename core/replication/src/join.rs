//! Joins, at the primary: compare, recover, give the records, promote (R6, R14-R18).
//!
//! A joiner receives every write ordered since it joined, as far as its window lets them through. Objects that changed on
//! either side above its floor are compared block by block, and what differs travels. What could not be sent, or was
//! lost with a stream, puts its object back on the list; so the list, not a log, is what must become empty.
use crate::cx::Cx;
use crate::group::{Group, Role};
use crate::io::Output;
use crate::primary::Pending;
use crate::wait::Wait;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use sarsen_types::limits::{GRACE, JOIN_WINDOW_MAX, PAGE_ENTRIES_MAX, PREPARE_TIMEOUT};
use sarsen_types::record::{Entry, Point, Table};
use sarsen_types::{
    Alarm, BlockRange, Epoch, GroupChange, GroupState, Mark, ObjectId, RequestNote, SliceId, Version,
};
use sarsen_wire::peer::GroupBody;

/// What was asked of the joiner at the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// Its floor is not known yet.
    Asked,
    /// Both sides list what they touched above it.
    Listing { ours: bool, theirs: bool },
    /// The lists are whole.
    Listed,
}

/// The records' way to the joiner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Records {
    Due,
    Sent(u32),
    Held,
}

/// An object on its way.
#[derive(Debug, Default)]
pub(crate) struct Sending {
    pub(crate) sending: u32,
    pub(crate) ours: Option<(Version, Vec<(u16, Entry)>)>,
    pub(crate) theirs: Option<Vec<(u16, Entry)>>,
    /// Blocks that differ and are not sent yet, last first.
    pub(crate) todo: Vec<BlockRange>,
    /// The next of them waits for a grant (R7).
    pub(crate) waits: bool,
    pub(crate) touched: Version,
}

/// One join.
#[derive(Debug)]
pub struct Join {
    /// The epoch it began in (R14): ours, when we began it. A change of primary begins it anew (R17).
    pub(crate) since: Epoch,
    /// The epoch in which metadata named the joiner: another one is another join.
    named: Epoch,
    pub(crate) stage: Stage,
    floor: Version,
    pub(crate) todo: BTreeSet<ObjectId>,
    pub(crate) sending: BTreeMap<ObjectId, Sending>,
    records: Records,
    count: u32,
    /// The joiner had no space for something (R7): what it acknowledges after that counts for nothing.
    is_failed: bool,
    /// Prepares sent and not acknowledged.
    pub(crate) unacked: BTreeMap<Version, ObjectId>,
    /// Prepares not sent: the window was full (R16).
    pub(crate) missed: BTreeMap<Version, ObjectId>,
}

impl Join {
    fn new(since: Epoch, named: Epoch) -> Join {
        Join {
            since,
            named,
            stage: Stage::Asked,
            floor: Version::ZERO,
            todo: BTreeSet::new(),
            sending: BTreeMap::new(),
            records: Records::Due,
            count: 0,
            is_failed: false,
            unacked: BTreeMap::new(),
            missed: BTreeMap::new(),
        }
    }
    /// Whether one more Prepare fits its window.
    pub fn has_window(&self) -> bool {
        self.unacked.len() < JOIN_WINDOW_MAX
    }
    /// A Prepare goes out to it.
    pub fn sent(&mut self, version: Version, object: ObjectId) {
        self.unacked.insert(version, object);
    }
    /// A Prepare does not: its object is to be recovered, its record given again (R16).
    pub fn missed(&mut self, version: Version, object: ObjectId) {
        self.missed.insert(version, object);
        self.list(object);
    }
    /// Whether this version was sent, and is not acknowledged.
    pub fn was_sent(&self, version: Version) -> bool {
        self.unacked.contains_key(&version)
    }
    /// Whether this version was not sent.
    pub fn has_missed(&self, version: Version) -> bool {
        self.missed.contains_key(&version)
    }
    /// Prepares sent and not acknowledged.
    pub fn unacked(&self) -> usize {
        self.unacked.len()
    }
    /// Prepares not sent.
    pub fn missed_count(&self) -> usize {
        self.missed.len()
    }
    /// Objects being sent.
    pub fn under_way(&self) -> usize {
        self.sending.len()
    }
    /// It has a Prepare durably.
    pub fn acknowledged(&mut self, version: Version) {
        self.unacked.remove(&version);
    }
    /// A write was committed: if it was never sent, the recovery of its object brings it, and one that ran before must run
    /// again (R16). So only what is uncommitted is remembered: a joiner that is away for long costs its list of objects.
    pub fn committed(&mut self, version: Version, object: ObjectId) {
        if self.missed.remove(&version).is_some() {
            self.list(object);
        }
    }
    pub(crate) fn list(&mut self, object: ObjectId) {
        self.todo.insert(object);
        self.records = Records::Due;
    }
    pub(crate) fn next(&mut self) -> u32 {
        self.count += 1;
        self.count
    }
    fn is_recovered(&self) -> bool {
        self.stage == Stage::Listed && self.todo.is_empty() && self.sending.is_empty()
    }
}

/// Whether a primary asks for this because a floor proved that it lacks something.
pub(crate) fn is_proof(change: &GroupChange) -> bool {
    matches!(change, GroupChange::GiveWay { lacks: true, .. } | GroupChange::Expel(_))
}

impl<P: Clone> Group<P> {
    // ---- beginning ----

    /// A new epoch of a primary that goes on: joins that are the same go on too (R17).
    pub fn renew_joins(&mut self, cx: &mut Cx<P>, before: &GroupState, old: &VecDeque<Pending<P>>) {
        let joining = self.state.joining.clone();
        let assignment = |state: &GroupState, s| state.assignment_of(s);
        let (mut ask, mut same_joins) = (Vec::new(), Vec::new());
        let state = self.state.clone();
        let Role::Primary(primary) = &mut self.role else { return };
        primary.joins.retain(|s, _| joining.iter().any(|j| j.slice == *s));
        for j in joining {
            let same = primary.joins.get(&j.slice).is_some_and(|x| x.named == j.since)
                && assignment(&state, j.slice) == assignment(before, j.slice);
            if same {
                let join = primary.joins.get_mut(&j.slice).expect("it is the same");
                // these versions are void: they come again under new ones
                join.unacked.retain(|v, _| !old.iter().any(|p| p.write.version == *v));
                join.missed.retain(|v, _| !old.iter().any(|p| p.write.version == *v));
                same_joins.push(j.slice);
                continue;
            }
            match primary.joins.insert(j.slice, Join::new(state.epoch, j.since)) {
                Some(_) => cx.counters.joins_restarted += 1,
                None => cx.counters.joins += 1,
            }
            ask.push(j.slice);
        }
        for to in ask {
            self.ask_join(cx, to);
        }
        // what was asked in the old epoch may be refused or answered in it: it is asked again, as after a reconnect
        for to in same_joins {
            self.rejoin(cx, to);
        }
    }

    /// R17: after a takeover every join begins anew.
    pub fn begin_joins(&mut self, cx: &mut Cx<P>) {
        let (joining, epoch) = (self.state.joining.clone(), self.state.epoch);
        let Role::Primary(primary) = &mut self.role else { return };
        primary.joins = joining.iter().map(|j| (j.slice, Join::new(epoch, j.since))).collect();
        cx.counters.joins += joining.len() as u64;
        cx.counters.joins_restarted += joining.iter().filter(|j| j.since < self.state.epoch).count() as u64;
    }

    /// Asks every joiner for its floor.
    pub fn ask_joins(&mut self, cx: &mut Cx<P>) {
        for j in self.state.joining.clone() {
            self.ask_join(cx, j.slice);
        }
    }

    fn ask_join(&mut self, cx: &mut Cx<P>, to: SliceId) {
        if let Some(since) = self.join(to).map(|j| j.since) {
            self.send(cx, to, GroupBody::JoinQ { since }, None);
        }
    }

    pub(crate) fn join(&mut self, slice: SliceId) -> Option<&mut Join> {
        match &mut self.role {
            Role::Primary(primary) => primary.joins.get_mut(&slice),
            Role::Replica(_) => None,
        }
    }

    /// The joiner told its durable floor: both sides list what they touched above it (R18).
    pub fn join_told(&mut self, cx: &mut Cx<P>, from: SliceId, since: Epoch, floor: Version, top: Version) {
        if let Some(change) = self.must_give_way(cx.me, from, floor, top) {
            let Role::Primary(primary) = &mut self.role else { return };
            cx.counters.leads_behind_a_joiner += 1;
            // a proof is not forgotten for a joiner that only may have more (found in review)
            let is_proven = primary.gives_way.as_ref().is_some_and(is_proof);
            primary.gives_way = Some(match change {
                GroupChange::GiveWay { to, lacks } => GroupChange::GiveWay { to, lacks: lacks || is_proven },
                change => change,
            });
            let what = alloc::format!(
                "group {}: {from} holds more than this copy, which leads alone and serves nothing until another leads",
                self.id
            );
            cx.raise(self.id, Alarm::Behind(from), 0, what);
            return self.give_way_to_the_whole(cx);
        }
        if self.is_behind(floor) {
            let what = alloc::format!(
                "group {}: {from} was told that versions up to {floor:?} are committed, and what led since was made without \
                 some of them: they are lost",
                self.id
            );
            cx.raise(self.id, Alarm::Lost(from), 0, what);
        }
        // R18: of what we forgot, or lost, nothing shows that it was touched; one that held all of it has it, another is compared
        // whole
        let is_whole = top < self.ledger.forgotten || self.is_behind(floor);
        let floor = if is_whole { Version::ZERO } else { floor };
        cx.counters.joins_compared_whole += u64::from(floor == Version::ZERO && top > Version::ZERO);
        let Some(join) = self.join(from).filter(|j| j.since == since && j.stage == Stage::Asked) else {
            return;
        };
        join.stage = Stage::Listing { ours: false, theirs: false };
        join.floor = floor;
        self.list_ours(cx, from, since, floor, None);
        self.send(cx, from, GroupBody::TouchedQ { above: floor, after: None }, None);
    }

    /// Whether a version is of before our takeover, and above all that a copy in sync had then: after a stop of everything a
    /// copy that lost the end of its journal may be back before the others (R27), and no takeover could see it. Of a floor it
    /// is proof, for all at or below it was committed.
    fn is_behind(&self, version: Version) -> bool {
        let Role::Primary(primary) = &self.role else { return false };
        primary.had < version && version < Version::start(primary.born)
    }
    /// What a joiner's floor and top ask of us while we lead alone.
    fn must_give_way(&self, me: SliceId, from: SliceId, floor: Version, top: Version) -> Option<GroupChange> {
        let Role::Primary(primary) = &self.role else { return None };
        let lacks = self.is_behind(floor);
        // What a copy ordered while it could not commit was answered by nobody (found in review: a copy that lost its end, led alone
        // and gave way, showed just that after its next start, and was given way to).
        let has_more = self.is_behind(top) && top.epoch() <= self.state.could_commit;
        if !self.is_unseen() || !(lacks || has_more) {
            return None;
        }
        // it was complete when our row of takeovers began, and nothing was committed since: it holds all that ever was
        let commits_alone = self.state.may_commit();
        let is_whole = !commits_alone && !primary.has_committed && primary.holders.contains(&from);
        match (is_whole, lacks) {
            (true, _) => Some(GroupChange::GiveWay { to: from, lacks }),
            // who is complete beside us was made like us: nobody is whole any more, and to wait for it would help nothing
            (false, true) if primary.has_committed && !commits_alone => None,
            (false, true) => Some(GroupChange::Expel(me)),
            (false, false) => None,
        }
    }
    /// Whether we lead alone: nobody was made like us yet.
    fn is_unseen(&self) -> bool {
        self.state.in_sync.len() == 1 && !self.state.is_damaged
    }
    /// Whether we know that we must not lead: nothing is answered any more.
    pub(crate) fn gives_way_to_the_whole(&self) -> bool {
        matches!(&self.role, Role::Primary(p) if p.gives_way.is_some()) && self.is_unseen()
    }

    /// R12: another copy leads that is complete, or an operator says that we do (R28).
    pub(crate) fn give_way_to_the_whole(&mut self, cx: &mut Cx<P>) {
        let Role::Primary(primary) = &self.role else { return };
        if let Some(change) = primary.gives_way.clone().filter(|_| self.is_unseen()) {
            cx.is_waiting = true;
            self.propose(cx, change);
        }
    }

    fn list_ours(
        &mut self,
        cx: &mut Cx<P>,
        joiner: SliceId,
        since: Epoch,
        above: Version,
        after: Option<ObjectId>,
    ) {
        let token = cx.wait(Wait::OwnTouched { group: self.id, since, joiner });
        cx.out.push(Output::ListTouched { token, group: self.id, above, after });
    }

    /// A page of what we touched.
    pub fn own_touched(
        &mut self,
        cx: &mut Cx<P>,
        joiner: SliceId,
        since: Epoch,
        objects: &[(ObjectId, Version)],
        is_last: bool,
    ) {
        let Some(join) = self.join(joiner).filter(|j| j.since == since) else { return };
        let Stage::Listing { theirs, .. } = join.stage else { return };
        join.todo.extend(objects.iter().map(|o| o.0));
        let floor = join.floor;
        match (is_last, objects.last()) {
            (false, Some(last)) => self.list_ours(cx, joiner, since, floor, Some(last.0)),
            _ => {
                join.stage = if theirs { Stage::Listed } else { Stage::Listing { ours: true, theirs } };
                self.advance_join(cx, joiner);
            }
        }
    }

    /// A page of what the joiner touched.
    pub fn peer_touched(
        &mut self,
        cx: &mut Cx<P>,
        from: SliceId,
        objects: &[(ObjectId, Version)],
        is_last: bool,
    ) {
        let Some(join) = self.join(from) else { return };
        let Stage::Listing { ours, theirs: false } = join.stage else { return };
        join.todo.extend(objects.iter().map(|o| o.0));
        let above = join.floor;
        match (is_last, objects.last()) {
            (false, Some(last)) => {
                self.send(cx, from, GroupBody::TouchedQ { above, after: Some(last.0) }, None);
            }
            _ => {
                join.stage = if ours { Stage::Listed } else { Stage::Listing { ours, theirs: true } };
                self.advance_join(cx, from);
            }
        }
    }

    // ---- the end of a join ----

    pub(crate) fn finish_join(&mut self, cx: &mut Cx<P>, joiner: SliceId) {
        let Some(join) = self.join(joiner) else { return };
        if !join.is_recovered() {
            return;
        }
        if join.records == Records::Due {
            let sending = join.next();
            join.records = Records::Sent(sending);
            self.give_records(cx, joiner, sending);
        }
        self.promote(cx, joiner);
    }

    /// R15, R21: the records of what is committed, and the floor to take once in sync.
    fn give_records(&mut self, cx: &mut Cx<P>, joiner: SliceId, sending: u32) {
        let Role::Primary(primary) = &self.role else { return };
        let Some(since) = primary.joins.get(&joiner).map(|j| j.since) else { return };
        // every committed version of a request: one that a takeover carries again names blocks it does not write, and
        // only the older record tells that those were settled
        let requests: Vec<(RequestNote, Version)> = (self.ledger.notes())
            .filter(|(id, n)| {
                !n.is_void && primary.find(n.version).is_none() && !self.ledger.is_voided(id, n.version)
            })
            .map(|(id, n)| (RequestNote { id, object: n.object, range: n.range }, n.version))
            .collect();
        let sessions: Vec<_> = self.ledger.sessions.iter().map(|(&a, &(g, s))| (a, g, s)).collect();
        let marks: Vec<Mark> = self.ledger.marks().collect();
        // each page is one record in one journal block, however many attachments there are (found in review)
        let pages = [sessions.len(), marks.len(), requests.len()].map(|n| n.div_ceil(PAGE_ENTRIES_MAX));
        let pages = pages.into_iter().max().unwrap_or_default().max(1);
        for page in 0..pages {
            let is_last = page + 1 == pages;
            let point = Point { floor: self.ledger.floor, forgotten: self.ledger.forgotten };
            let table = Table {
                since,
                is_first: page == 0,
                sessions: nth_page(&sessions, page),
                marks: nth_page(&marks, page),
                requests: nth_page(&requests, page),
                point: is_last.then_some(point),
            };
            self.send(cx, joiner, GroupBody::Table { table, sending, is_last }, None);
        }
    }

    /// The joiner holds the records.
    pub fn records_held(&mut self, cx: &mut Cx<P>, from: SliceId, sending: u32) {
        let Some(join) = self.join(from) else { return };
        if join.records == Records::Sent(sending) {
            join.records = Records::Held;
            self.promote(cx, from);
        }
    }

    /// R6, R16: proposes the promotion once the joiner holds every version committed since it joined and all that our
    /// takeover wrote; what is still uncommitted waits for its acknowledgement from then on.
    fn promote(&mut self, cx: &mut Cx<P>, joiner: SliceId) {
        let Role::Primary(primary) = &mut self.role else { return };
        // R6: a primary that still waits proposes no promotion; nor does one that is no measure for others
        if primary.serve_after.is_some() || primary.is_collecting() || primary.gives_way.is_some() {
            return;
        }
        let is_open = |v: &Version| {
            let at = primary.pending.partition_point(|p| p.write.version < *v);
            primary.pending.get(at).is_some_and(|p| p.write.version == *v && !p.is_rewrite())
        };
        let Some(join) = primary.joins.get(&joiner) else { return };
        let ready = !join.is_failed
            && join.is_recovered()
            && join.records == Records::Held
            && join.unacked.keys().all(is_open)
            && join.missed.keys().all(is_open);
        if !ready {
            return;
        }
        if !primary.promoting.contains(&joiner) {
            primary.promoting.push(joiner);
            cx.counters.promotions += 1;
            self.proposed = None;
            self.send_missed(cx, joiner);
        }
        self.propose(cx, GroupChange::Promote(joiner));
    }

    /// From the proposal on the joiner must acknowledge what is uncommitted too (R6): it gets it whatever the window.
    fn send_missed(&mut self, cx: &mut Cx<P>, joiner: SliceId) {
        let objects: BTreeSet<ObjectId> = match self.join(joiner) {
            Some(join) => join.missed.values().copied().collect(),
            None => return,
        };
        for object in objects {
            self.send_uncommitted(cx, joiner, object);
        }
    }

    /// A copy cannot go on as it is: it has no space (R7), or nobody compared it since it opened. Its join ends, or it leaves
    /// the in-sync set; then it joins. While a takeover asks, the takeover compares.
    pub fn join_failed(&mut self, cx: &mut Cx<P>, from: SliceId) {
        if let Some(join) = self.join(from) {
            join.is_failed = true;
        }
        if matches!(&self.role, Role::Primary(p) if p.is_collecting()) {
            self.told_by_another_life(cx, from);
        } else if self.join(from).is_some() || self.state.is_in_sync(from) {
            self.proposed = None;
            self.propose(cx, GroupChange::Remove(from));
        }
    }

    /// A joiner that acknowledges no heartbeats, however healthy it looks to others: its join ends, so that it joins again
    /// with back-off, or another takes the place (R19). One that was proposed holds up every write (R6), so it is given no
    /// longer than a copy in sync; if the promotion was accepted, this proposal fails with its epoch.
    pub fn silent_joiner(&self, cx: &Cx<P>) -> Option<SliceId> {
        let Role::Primary(primary) = &self.role else { return None };
        let ended = primary.joins.iter().find(|(to, join)| {
            let is_needed = primary.promoting.contains(to);
            let patience = if is_needed { GRACE } else { PREPARE_TIMEOUT };
            let acked = primary.leases.iter().find(|l| l.slice == **to).map_or(primary.began, |l| l.sent);
            join.is_failed
                || cx.now.since(acked.max(primary.began)) >= patience
                || is_needed && primary.is_stuck(**to, cx.now)
        });
        ended.map(|(to, _)| *to)
    }

    // ---- streams and time ----

    /// Objects of Prepares that are committed and that a joiner has not acknowledged, and will not, go back on its list.
    fn list_lost(&mut self, to: SliceId) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(join) = primary.joins.get_mut(&to) else { return };
        let pending = &primary.pending;
        let is_pending = |v: &Version| {
            let at = pending.partition_point(|p| p.write.version < *v);
            pending.get(at).is_some_and(|p| p.write.version == *v)
        };
        let lost: Vec<ObjectId> = join.unacked.iter().filter(|u| !is_pending(u.0)).map(|u| *u.1).collect();
        join.unacked.retain(|v, _| is_pending(v));
        for object in lost {
            join.list(object);
        }
    }

    /// A joiner refused a Prepare of a fenced generation, which may be committed without it by now (R31): its object is
    /// recovered instead.
    pub fn list_refused(&mut self, cx: &mut Cx<P>, from: SliceId) {
        self.list_lost(from);
        self.advance_join(cx, from);
    }

    /// The stream to a joiner was made again: what was on the old one goes back on the list (R16).
    pub fn rejoin(&mut self, cx: &mut Cx<P>, to: SliceId) {
        self.list_lost(to);
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(join) = primary.joins.get_mut(&to) else { return };
        for (object, _) in core::mem::take(&mut join.sending) {
            join.list(object);
        }
        if matches!(join.records, Records::Sent(_)) {
            join.records = Records::Due;
        }
        if let Stage::Listing { .. } = join.stage {
            // pages may be lost: begin the lists anew
            join.stage = Stage::Asked;
        }
        if join.stage == Stage::Asked {
            self.ask_join(cx, to);
        }
        self.advance_join(cx, to);
    }

    /// What joins do as time goes by.
    pub fn tick_joins(&mut self, cx: &mut Cx<P>) {
        let Role::Primary(primary) = &self.role else { return };
        let joiners: Vec<SliceId> = primary.joins.keys().copied().collect();
        for joiner in joiners {
            cx.is_waiting = true;
            self.advance_join(cx, joiner);
        }
    }
}

/// The page of a list with this number, empty behind its end.
fn nth_page<T: Clone>(of: &[T], page: usize) -> Vec<T> {
    of.chunks(PAGE_ENTRIES_MAX).nth(page).map(<[_]>::to_vec).unwrap_or_default()
}
