//! One slice with all its groups: each input finds its group, each turn ends with what concerns them all.
use crate::counters::Counters;
use crate::cx::Cx;
use crate::group::{Group, Role};
use crate::io::{Blocks, ConnId, Input, Output, ReadFailed, Token};
use crate::memory::Memory;
use crate::peers::Peers;
use crate::wait::Wait;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use sarsen_types::record::{Body, Entry};
use sarsen_types::{
    AttachmentId, Checksum, Duration, GroupId, Instant, Ledger, Revision, SliceId, Version, View,
};
use sarsen_wire::client::Greeting;
use sarsen_wire::peer::{GroupBody, PeerMessage};

/// What stands for the entries of an object that cannot be read: damage from its first block to its last.
pub const UNREADABLE: (u16, Entry) = (0, Entry::Damaged(Version::ZERO, Checksum(0)));
/// Deleted layers that are dropped at a time, each in every group (R41).
const LAYERS_DROPPED_MAX: usize = 16;
/// While something waits for time to pass, it is looked at this often.
const LOOK: Duration = Duration::from_millis(20);

/// What does not change in a slice's life.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Who it is.
    pub me: SliceId,
    /// When it started (R2).
    pub started: Instant,
    /// Reads wait for a round of heartbeats (R4).
    pub confirm: bool,
    /// What it may keep in memory (S4).
    pub memory: Memory,
    /// Writes of one epoch of a group after which another epoch is asked for: [`sarsen_types::limits::EPOCH_WRITES`], fewer in tests.
    pub epoch_writes: u64,
}

/// See the module.
pub struct Machine<P> {
    pub(crate) cx: Cx<P>,
    pub(crate) groups: BTreeMap<GroupId, Group<P>>,
    pub(crate) conns: BTreeMap<ConnId, Greeting>,
    pub(crate) next_beat: Instant,
    next_look: Instant,
    distrusting: usize,
    /// Deleted layers whose drop was journaled in this life of the slice.
    dropped: Revision,
    /// Records of it that are not durable yet.
    dropping: usize,
    /// Groups may remember attachments that ended.
    must_forget: bool,
}

impl<P: Clone> Machine<P> {
    /// A slice that has just opened its store, with what that remembers of each group. It answers nothing before it is
    /// registered (R1), and is primary of nothing.
    pub fn new(config: Config, ledgers: impl IntoIterator<Item = (GroupId, Ledger)>) -> Machine<P> {
        let cx = Cx {
            now: config.started,
            me: config.me,
            started: config.started,
            confirm: config.confirm,
            is_registered: false,
            view: Arc::new(View::default()),
            peers: Peers { next_round: 1, ..Peers::default() },
            waits: sarsen_types::slab::Slab::default(),
            out: Vec::new(),
            prepared: BTreeMap::new(),
            counters: Counters::default(),
            is_hung: false,
            is_full: false,
            is_full_for_joins: false,
            led_changed: false,
            is_waiting: false,
            kept_blocks: 0,
            stuck_blocks: 0,
            stuck_reads: 0,
            reads_begun: 0,
            counted: Instant(0),
            read_blocks: 0,
            memory: config.memory,
            epoch_writes: config.epoch_writes,
            attempts: 0,
            again: Vec::new(),
        };
        let groups = ledgers.into_iter().map(|(id, ledger)| (id, Group::new(id, ledger))).collect();
        Machine {
            cx,
            groups,
            conns: BTreeMap::new(),
            next_beat: config.started,
            next_look: config.started,
            distrusting: 0,
            dropped: Revision(0),
            dropping: 0,
            must_forget: true,
        }
    }

    /// Works on one input.
    pub fn step(&mut self, now: Instant, input: Input<P>, out: &mut Vec<Output<P>>) {
        self.cx.now = now;
        match input {
            Input::Registered { view, is_stale } => self.registered(view, is_stale),
            Input::Learned(view) => self.learned(view),
            Input::PeerUp { slice, same_kernel } => self.peer_up(slice, same_kernel),
            Input::PeerDown { slice } => self.peer_down(slice),
            Input::Peer { from, message, payload } => self.peer(from, message, payload),
            Input::ClientUp { conn, greeting } => drop(self.conns.insert(conn, greeting)),
            Input::ClientDown { conn } => self.client_down(conn),
            Input::Client { conn, request, payload } => self.client(conn, request, payload),
            Input::Persisted(token) => self.persisted(token),
            Input::NoSpace(token) => self.no_space(token),
            Input::ReadDone(token, done) => self.read_done(token, done),
            Input::Merged(token, done) => self.merged(token, done),
            Input::Stacks(token, blocks, is_last) => match self.cx.waits.take(token.0) {
                Some(Wait::OwnStacks { group, epoch, .. }) => self.with(group, |g, cx| {
                    if g.state.epoch == epoch {
                        let after = g.own_stacks_after();
                        g.stacks_came(cx, cx.me, after, blocks, is_last);
                    }
                }),
                Some(Wait::PeerStacks { group, epoch, to, after }) => {
                    let body = GroupBody::TailPageA { after, blocks, is_last };
                    self.cx.send(to, group, epoch, Version::ZERO, body, None);
                }
                _ => {}
            },
            Input::Touched(token, objects, is_last) => match self.cx.waits.take(token.0) {
                Some(Wait::OwnTouched { group, since, joiner }) => {
                    self.with(group, |g, cx| g.own_touched(cx, joiner, since, &objects, is_last));
                }
                Some(Wait::PeerTouched { group, epoch, to, after }) => {
                    let body = GroupBody::TouchedA { after, objects, is_last };
                    self.cx.send(to, group, epoch, Version::ZERO, body, None);
                }
                _ => {}
            },
            Input::Entries(token, touched, runs) => match self.cx.waits.take(token.0) {
                Some(Wait::OwnEntries { group, joiner, object, sending }) => {
                    self.with(group, |g, cx| g.own_entries(cx, joiner, object, sending, touched, runs));
                }
                Some(Wait::PeerEntries { group, epoch, to, object, sending }) => {
                    // R26: an unreadable object is not an empty one: all of it differs from whatever there is
                    let runs = runs.unwrap_or_else(|_| vec![UNREADABLE]);
                    let body = GroupBody::VersionsA { object, sending, runs };
                    self.cx.send(to, group, epoch, Version::ZERO, body, None);
                }
                _ => {}
            },
            Input::Status(token, done) => {
                if let Some(Wait::Read { group, epoch, read }) = self.cx.waits.take(token.0) {
                    self.with(group, |g, cx| {
                        if g.leads_still(epoch) {
                            g.status_done(cx, read, done);
                        }
                    });
                }
            }
            Input::Drive { is_hung, is_full, is_full_for_joins } => {
                (self.cx.is_hung, self.cx.is_full) = (is_hung, is_full);
                self.cx.is_full_for_joins = is_full_for_joins;
            }
            Input::Expired => {}
        }
        self.look_again();
        out.append(&mut self.cx.out);
    }

    /// Ends a turn: time, heartbeats, acknowledgements, grants.
    pub fn finish(&mut self, now: Instant, out: &mut Vec<Output<P>>) {
        self.cx.now = now;
        if self.cx.is_registered {
            if now >= self.next_look {
                self.next_look = now + LOOK;
                self.cx.is_waiting = false;
                self.count_kept();
                for group in self.groups.values_mut() {
                    group.replica_tick(&mut self.cx);
                    group.primary_tick(&mut self.cx);
                }
            }
            self.look_again();
            self.beat();
            self.grant();
        }
        // the entries stay, so that a turn allocates no more than its frames
        for (&to, prepared) in self.cx.prepared.iter_mut().filter(|(_, versions)| !versions.is_empty()) {
            let versions = core::mem::take(prepared);
            if self.cx.peers.is_up(to) {
                self.cx.out.push(Output::Send {
                    to,
                    message: PeerMessage::Prepared(versions),
                    payload: None,
                });
            }
        }
        out.append(&mut self.cx.out);
    }

    /// When `finish` is to be called though nothing happened.
    pub fn deadline(&self) -> Option<Instant> {
        if !self.cx.is_registered {
            return None;
        }
        Some(if self.cx.is_waiting { self.next_look.min(self.next_beat) } else { self.next_beat })
    }

    /// Rare events so far.
    pub fn counters(&self) -> &Counters {
        &self.cx.counters
    }

    /// The groups, for checkers and reports.
    pub fn groups(&self) -> impl Iterator<Item = &Group<P>> {
        self.groups.values()
    }

    /// The newest metadata known.
    pub fn view(&self) -> &Arc<View> {
        &self.cx.view
    }

    /// Whether this slice leads a group: what a planned stop waits for to become false.
    pub fn leads_any(&self) -> bool {
        self.groups.values().any(|g| matches!(g.role, Role::Primary(_)) && g.state.in_sync.len() > 1)
    }

    pub(crate) fn with<R: Default>(
        &mut self,
        group: GroupId,
        f: impl FnOnce(&mut Group<P>, &mut Cx<P>) -> R,
    ) -> R {
        self.groups.get_mut(&group).map(|g| f(g, &mut self.cx)).unwrap_or_default()
    }

    // ---- metadata ----

    /// R1: from now on we answer; what a stale drive holds is compared from floor 0.
    fn registered(&mut self, view: Arc<View>, is_stale: bool) {
        self.cx.is_registered = true;
        self.next_beat = self.cx.now;
        // what came before was dropped, so streams of that time have holes
        let early =
            self.cx.peers.map.iter().filter(|(_, p)| p.is_up).map(|(slice, _)| Output::Hangup(*slice));
        self.cx.out.extend(early);
        if is_stale {
            for group in self.groups.values_mut() {
                group.apply(&Body::Distrust);
                self.distrusting += 1;
                self.cx.persist(group.id, group.seen, Body::Distrust, None, Wait::Distrusted);
            }
            if self.distrusting == 0 {
                self.cx.out.push(Output::Distrusted);
            }
        }
        // R1: each group's epoch at registration is made durable, and lower ones refused
        for state in &view.groups {
            let ledger = Ledger::default();
            let group = self.groups.entry(state.group).or_insert_with(|| Group::new(state.group, ledger));
            if state.epoch > group.ledger.promise {
                group.seen = group.seen.max(state.epoch);
                group.apply(&Body::Promise);
                self.cx.persist(group.id, state.epoch, Body::Promise, None, Wait::Nothing);
            }
        }
        self.learned(view);
    }

    fn learned(&mut self, view: Arc<View>) {
        if !self.cx.is_registered || view.revision < self.cx.view.revision {
            return;
        }
        self.must_forget |= !view.attachments.keys().eq(self.cx.view.attachments.keys());
        self.cx.view = view.clone();
        for state in &view.groups {
            let cx = &mut self.cx;
            let group =
                self.groups.entry(state.group).or_insert_with(|| Group::new(state.group, Ledger::default()));
            group.adopt(cx, state);
            group.refresh_fences(cx);
        }
        self.drop_deleted(&view);
        self.drop_outdated(&view);
        if core::mem::take(&mut self.must_forget) {
            self.forget_ended(&view);
        }
        let held: Vec<GroupId> = self.groups.values().filter(|g| !g.held.is_empty()).map(|g| g.id).collect();
        self.cx.again.extend(held);
    }

    /// R21, R31: what came of an older session or generation and is not ordered yet never will be. What is held is judged
    /// again anyway.
    fn drop_outdated(&mut self, view: &View) {
        for group in self.groups.values_mut() {
            if let Role::Primary(primary) = &mut group.role
                && !primary.waiting.is_empty()
            {
                primary.waiting.retain(|op| {
                    let id = op.request.id;
                    view.attachments
                        .get(&id.attachment)
                        .is_some_and(|a| id.session >= a.session && id.generation >= a.generation)
                });
                self.cx.again.push(group.id);
            }
        }
    }

    /// R41: of attachments that ended nothing need be remembered, once no takeover can ask for it.
    fn forget_ended(&mut self, view: &View) {
        for group in self.groups.values_mut() {
            let is_ended = |a: &AttachmentId| *a <= view.last_attachment && !view.attachments.contains_key(a);
            let ended: Vec<AttachmentId> = group.ledger.sessions.keys().copied().filter(is_ended).collect();
            for attachment in ended {
                if group.ledger.is_settled(attachment) {
                    let body = Body::Forget { attachment };
                    group.apply(&body);
                    self.cx.persist(group.id, group.seen, body, None, Wait::Nothing);
                } else {
                    self.must_forget = true; // with a later view
                }
            }
        }
    }

    /// R20: only what metadata confirmed as deleted is dropped.
    fn drop_deleted(&mut self, view: &View) {
        for &(id, assignment) in &view.dropped_groups {
            let Some(group) =
                self.groups.get_mut(&id).filter(|g| g.ledger.assignment == assignment && assignment > 0)
            else {
                continue;
            };
            // what we last heard may still count us in (simulator, seed 1699: the slice was cut off while its copy was made elsewhere,
            // kept what it held, and asked to take over twice a second); under another number we are a copy again
            if group.state.assignment_of(self.cx.me) == Some(assignment) {
                group.leave(&mut self.cx);
            }
            if !group.is_copy(self.cx.me) {
                group.apply(&Body::DropGroup);
                self.cx.persist(id, group.seen, Body::DropGroup, None, Wait::Nothing);
            }
        }
        self.drop_layers();
    }

    /// Deleted layers are dropped some at a time, in every group; whoever comes later has nothing of them. A group that is
    /// recovered meanwhile from one that does not know yet is asked a second time (`sarsen_control::tombstones`).
    fn drop_layers(&mut self) {
        if self.dropping > 0 {
            return;
        }
        let view = self.cx.view.clone();
        let left = view.dropped_layers.partition_point(|(since, _)| *since <= self.dropped);
        let left = &view.dropped_layers[left..];
        let Some(last) = left.get(LAYERS_DROPPED_MAX.min(left.len()).wrapping_sub(1)) else { return };
        self.dropped = last.0;
        for &(_, layer) in left.iter().take_while(|(since, _)| *since <= last.0) {
            for group in self.groups.values_mut() {
                self.dropping += 1;
                self.cx.persist(group.id, group.seen, Body::DropLayer { layer }, None, Wait::Dropped);
            }
        }
        if self.dropping == 0 {
            self.layers_dropped();
        }
    }

    /// They are durably dropped.
    fn layers_dropped(&mut self) {
        self.cx.out.push(Output::Dropped(self.dropped));
        self.drop_layers();
    }

    // ---- peers ----

    fn peer_up(&mut self, slice: SliceId, same_kernel: bool) {
        self.cx.peers.at(slice).connected(same_kernel);
        self.cx.prepared.remove(&slice);
        if !self.cx.is_registered {
            return;
        }
        for group in self.groups.values_mut() {
            group.reconnected(&mut self.cx, slice);
            group.repairs_lost(&mut self.cx, slice);
        }
        self.cx.peers.beat_now = true;
    }

    fn peer_down(&mut self, slice: SliceId) {
        self.cx.peers.at(slice).is_up = false;
        self.cx.prepared.remove(&slice);
        for group in self.groups.values_mut() {
            group.repairs_lost(&mut self.cx, slice);
        }
    }

    fn peer(&mut self, from: SliceId, message: PeerMessage, payload: Option<P>) {
        if !self.cx.is_registered {
            return; // R1: before its registration a drive answers nothing
        }
        let now = self.cx.now;
        self.cx.peers.at(from).heard = Some(now);
        match message {
            PeerMessage::Beat(beat) => self.beat_came(from, &beat),
            PeerMessage::BeatAck(ack) => self.echo_came(from, &ack),
            PeerMessage::Grant(grant) => {
                self.cx.peers.at(from).granted(grant);
                let waiting = |g: &Group<P>| matches!(&g.role, Role::Primary(p) if !p.waiting.is_empty());
                let ids: Vec<GroupId> = self.groups.values().filter(|g| waiting(g)).map(|g| g.id).collect();
                self.cx.again.extend(ids);
                for group in self.groups.values_mut().filter(|g| g.recovery_waits_for(from)) {
                    group.advance_join(&mut self.cx, from);
                }
            }
            PeerMessage::Prepared(versions) => {
                for (group, version) in versions {
                    self.with(group, |g, cx| g.acknowledged(cx, from, version));
                }
            }
            PeerMessage::Group(message) => {
                let id = message.group;
                let group = self.groups.entry(id).or_insert_with(|| Group::new(id, Ledger::default()));
                group.received(&mut self.cx, from, message, payload);
            }
        }
    }

    // ---- the store ----

    fn persisted(&mut self, token: Token) {
        let Some(wait) = self.cx.waits.take(token.0) else { return };
        match wait {
            Wait::Ordered { group, version } => {
                let me = self.cx.me;
                self.with(group, |g, cx| g.acknowledged(cx, me, version));
            }
            Wait::Prepared { group, version, to, stream, blocks } => {
                self.cx.peers.done(to, stream, blocks);
                self.with(group, |g, cx| g.prepared(cx, version, to));
            }
            Wait::Promised { group, epoch, then } => self.with(group, |g, cx| g.promised(cx, epoch, then)),
            Wait::Recovered { to, granted: (stream, Some(blocks)), .. } => {
                self.cx.peers.done(to, stream, blocks);
            }
            Wait::Recovered { group, epoch, to, object, sending, granted: (_, None) } => {
                let body = GroupBody::RecoverA { object, sending };
                self.cx.send(to, group, epoch, Version::ZERO, body, None);
            }
            Wait::Tabled { group, epoch, to, sending, is_last: true } => {
                self.cx.send(to, group, epoch, Version::ZERO, GroupBody::TableA { sending }, None);
            }
            Wait::Dropped => {
                self.dropping -= 1;
                if self.dropping == 0 {
                    self.layers_dropped();
                }
            }
            Wait::Distrusted => {
                self.distrusting -= 1;
                if self.distrusting == 0 {
                    self.cx.out.push(Output::Distrusted);
                }
            }
            Wait::Repaired { group, token } => self.with(group, |g, cx| g.repaired(cx, token)),
            Wait::Fenced { group, to, attachment, generation, .. } => {
                self.with(group, |g, cx| g.fence_taken(cx, attachment, generation, to));
            }
            _ => {}
        }
    }

    /// R7: a copy that cannot persist leaves the in-sync set, or ends its join: it says so. A primary gives way.
    fn no_space(&mut self, token: Token) {
        match self.cx.waits.take(token.0) {
            Some(Wait::Recovered { group, epoch, to, granted: (stream, blocks), .. }) => {
                if let Some(blocks) = blocks {
                    self.cx.peers.done(to, stream, blocks);
                }
                self.cx.send(to, group, epoch, Version::ZERO, GroupBody::JoinFailed, None);
            }
            Some(Wait::Prepared { group, version, to, stream, blocks }) => {
                self.cx.peers.done(to, stream, blocks);
                self.with(group, |g, cx| g.not_prepared(cx, version, to));
            }
            Some(Wait::Ordered { group, version }) => self.with(group, |g, cx| g.not_persisted(cx, version)),
            _ => {}
        }
    }

    fn read_done(&mut self, token: Token, done: Result<Blocks<P>, ReadFailed>) {
        match self.cx.waits.take(token.0) {
            Some(Wait::Read { group, epoch, read }) => self.with(group, |g, cx| {
                if g.leads_still(epoch) {
                    g.read_done(cx, read, done);
                }
            }),
            Some(Wait::Winner { group, epoch, token }) => self.with(group, |g, cx| {
                if g.leads(epoch) {
                    g.winner_read(cx, token, done);
                }
            }),
            Some(Wait::Fetch { group, epoch, to, token, place }) => {
                self.with(group, |g, cx| g.fetched_here(cx, to, epoch, token, place, done));
            }
            Some(Wait::RecoverRead { group, joiner, object, sending, range, stream }) => {
                let mut is_sent = false;
                self.with(group, |g, cx| {
                    is_sent = g.recover_read(cx, joiner, object, sending, range, done);
                });
                if !is_sent {
                    self.cx.peers.at(joiner).refund(stream, u64::from(range.count));
                }
            }
            _ => {}
        }
    }

    fn merged(
        &mut self,
        token: Token,
        done: Result<(P, smallvec::SmallVec<[sarsen_types::Checksum; 4]>), ReadFailed>,
    ) {
        if let Some(Wait::Merge { group, epoch, op }) = self.cx.waits.take(token.0) {
            self.with(group, |g, cx| {
                if g.leads_still(epoch) {
                    g.merged(cx, op, done);
                }
            });
        }
    }

    /// Groups that an input moved are looked at until nothing more follows.
    fn look_again(&mut self) {
        let mut rounds = 0;
        while !self.cx.again.is_empty() && rounds < 8 {
            rounds += 1;
            let mut ids = core::mem::take(&mut self.cx.again);
            ids.sort_unstable();
            ids.dedup();
            for &id in &ids {
                self.with(id, |g, cx| g.look(cx));
            }
            if self.cx.again.is_empty() {
                ids.clear();
                self.cx.again = ids; // its memory is used again
            }
        }
    }
}

impl<P: Clone> Group<P> {
    /// Whether we lead it in exactly this epoch.
    pub fn leads(&self, epoch: sarsen_types::Epoch) -> bool {
        self.is_current() && matches!(&self.role, Role::Primary(p) if p.epoch == epoch)
    }

    /// Whether what was begun in this epoch was begun by the role we still have: its answers belong here. Also while a
    /// higher epoch is known and its state is not: what is dropped then would wait for ever (simulator, seed 3).
    fn leads_still(&self, epoch: sarsen_types::Epoch) -> bool {
        matches!(&self.role, Role::Primary(p) if p.born <= epoch)
    }
}
