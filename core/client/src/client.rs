//! The machine: one volume, one session, any number of requests.
use crate::backoff::Jitter;
use crate::io::{Error, Input, Output, Token};
use crate::link::{IDLE_MAX, Link, Stage};
use crate::permits::{self, Permits};
use crate::piece::{Kind, Piece, Request, State};
use crate::slab::Slab;
use crate::window::Window;
use sarsen_types::view::group_index;
use sarsen_types::{
    AttachmentId, ChunkIndex, Duration, Epoch, Generation, GroupId, Instant, Revision, SessionId, SliceId,
    VolumeMap,
};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// What is under way is looked through this often.
pub(crate) const SWEEP: Duration = Duration::from_millis(500);
/// What is not answered for this long is reason to doubt the map: another slice may lead by now, and it may be that nothing else
/// tells. One dead node is to cost three seconds at most (R40).
pub const DOUBTED_AFTER: Duration = Duration::from_secs(1);
/// A request nothing is heard of for this long, on a connection that stands, is sent again: it takes effect once (R21). The
/// wait doubles with each sending.
pub const UNANSWERED_MAX: Duration = Duration::from_secs(5);
/// Doublings of that wait.
const DOUBLINGS_MAX: u32 = 2;
const _: () = assert!(SWEEP.as_nanos() <= DOUBTED_AFTER.as_nanos());
const _: () = assert!(DOUBTED_AFTER.as_nanos() < UNANSWERED_MAX.as_nanos());

/// What does not change in a client's life.
#[derive(Clone, Debug)]
pub struct Config {
    /// The attachment.
    pub attachment: AttachmentId,
    /// Its generation when this session was given out (R31).
    pub generation: Generation,
    /// The session (R21): from metadata, new for each life of the driver.
    pub session: SessionId,
    /// Seeds the jitter of retries.
    pub seed: u64,
    /// Bytes that may be under way.
    pub bytes_max: u64,
}

impl Config {
    /// With the usual bounds.
    pub fn new(attachment: AttachmentId, generation: Generation, session: SessionId, seed: u64) -> Config {
        Config { attachment, generation, session, seed, bytes_max: permits::BYTES_MAX }
    }
}

/// What happened so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Frames sent, greetings included.
    pub sent: u64,
    /// Of them requests that had been sent before.
    pub sent_again: u64,
    /// Requests that waited for an earlier one they overlap (R22).
    pub blocked: u64,
    /// Answers that named another primary (R40).
    pub not_primary: u64,
    /// Answers that asked for a newer map (R39).
    pub stale: u64,
    /// Numbers that were below their mark (R21).
    pub below_mark: u64,
    /// Data that did not match their checksums.
    pub mismatched: u64,
    /// Answers that no copy is intact.
    pub corrupt: u64,
}

/// A group, as this client uses it.
#[derive(Debug)]
pub(crate) struct Group {
    pub id: GroupId,
    /// Who leads it, as far as we know, and since which epoch.
    pub leader: Option<(Epoch, SliceId)>,
    pub window: Window,
    /// Pieces that wait for room in the window, in the order they came.
    pub backlog: VecDeque<u32>,
}

/// See the module.
#[derive(Debug)]
pub struct Client {
    pub(crate) config: Config,
    pub(crate) map: Arc<VolumeMap>,
    pub(crate) groups: Vec<Group>,
    /// Place in `groups` by id, ascending.
    pub(crate) by_id: Vec<(GroupId, u32)>,
    /// Place in `groups` by place in the map's table.
    pub(crate) by_table: Vec<u32>,
    pub(crate) links: Vec<Link>,
    pub(crate) pieces: Slab<Piece>,
    pub(crate) requests: Slab<Request>,
    pub(crate) permits: Permits,
    pub(crate) resting: BTreeSet<(Instant, u32)>,
    pub(crate) next_number: u64,
    pub(crate) next_order: u64,
    pub(crate) jitter: Jitter,
    pub(crate) counters: Counters,
    /// When links and what is under way are to be looked through.
    look_at: Option<Instant>,
    pub(crate) freed: Vec<u32>,
    ended: Option<Error>,
}

impl Client {
    /// A new session on the volume of `map`.
    pub fn new(config: Config, map: Arc<VolumeMap>) -> Client {
        let mut client = Client {
            permits: Permits::new(config.bytes_max),
            jitter: Jitter::new(config.seed),
            config,
            map: map.clone(),
            groups: Vec::new(),
            by_id: Vec::new(),
            by_table: Vec::new(),
            links: Vec::new(),
            pieces: Slab::default(),
            requests: Slab::default(),
            resting: BTreeSet::new(),
            next_number: 1,
            next_order: 0,
            counters: Counters::default(),
            look_at: None,
            freed: Vec::new(),
            ended: None,
        };
        client.adopt(&map);
        client
    }

    /// Bytes of the volume.
    pub fn size(&self) -> u64 {
        self.map.size
    }
    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.map.read_only
    }
    /// The newest map.
    pub fn map(&self) -> &Arc<VolumeMap> {
        &self.map
    }
    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }
    /// Requests under way.
    pub fn under_way(&self) -> usize {
        self.requests.len()
    }
    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Works on one input; what is to be done is appended to `out`.
    pub fn step(&mut self, now: Instant, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Request { token, op, offset, len } => self.request(now, token, op, offset, len, out),
            Input::Learned(map) => self.learned(now, map, out),
            Input::Connected { slice } => self.connected(now, slice, out),
            Input::Disconnected { slice } => self.disconnected(now, slice, out),
            Input::Received { slice, reply, payload } => self.received(now, slice, reply, payload, out),
            Input::Abandon(tokens) => self.abandon(now, tokens, out),
            Input::Tick => {}
        }
        self.tick(now, out);
        debug_assert!(self.is_consistent());
    }

    /// When to step with `Tick` though nothing happened.
    pub fn deadline(&self) -> Option<Instant> {
        Instant::earliest(self.resting.first().map(|r| r.0), self.look_at)
    }

    pub(crate) fn alarm(&mut self, at: Instant) {
        if self.look_at.is_none_or(|known| at < known) {
            self.look_at = Some(at);
        }
    }

    // ---- time ----

    fn tick(&mut self, now: Instant, out: &mut Vec<Output>) {
        while let Some(&(at, piece)) = self.resting.first() {
            if at > now {
                break;
            }
            self.resting.pop_first();
            self.pieces[piece].state = State::Ready;
            self.send(now, piece, out);
        }
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = None;
            self.sweep(now, out);
            self.look(now, out);
        }
    }

    /// Doubts the map when something is not answered for a while. Sends again what was not answered for long, when it has arrived
    /// where it was sent; one, when nothing at all is heard from there. What still lies in a queue before a slow link is not sent
    /// again: copies behind it take the link from what was not sent yet, and the more so the slower it is (found in review).
    fn sweep(&mut self, now: Instant, out: &mut Vec<Output>) {
        let mut late = std::mem::take(&mut self.freed);
        let (mut any, mut is_in_doubt) = (false, false);
        for group in &self.groups {
            for piece in group.window.open() {
                any = true;
                let held = &self.pieces[piece];
                is_in_doubt = is_in_doubt || self.is_reason_to_doubt(now, held);
                if matches!(held.state, State::Sent { at, .. } if now.since(at) >= UNANSWERED_MAX) {
                    late.push(piece);
                }
            }
        }
        if is_in_doubt {
            self.need_newer_map(out);
        }
        // where nothing came since, what is sent again would only lie behind what was sent before (found in review)
        let is_silent = |l: &&Link| l.stage == Stage::Up && now.since(l.heard) >= UNANSWERED_MAX * 2;
        let silent: Vec<SliceId> = (self.links.iter().filter(is_silent))
            .filter(|l| late.iter().any(|p| self.pieces[*p].state.is_sent_to(l.slice, l.heard)))
            .map(|l| l.slice)
            .collect();
        // the oldest is the one that asks a silent slice whether it is there
        late.sort_unstable_by_key(|p| self.pieces[*p].order);
        for piece in late.drain(..) {
            if self.is_due_again(now, piece, &silent) {
                self.pieces[piece].state = State::Ready;
                self.send(now, piece, out);
            }
        }
        self.freed = late;
        for slice in silent {
            self.hang_up(now, slice, out);
        }
        if any {
            self.alarm(now + SWEEP);
        }
    }

    /// Whether the map that sends a piece where it goes may be too old. A slice that leads may fall silent without an end of its
    /// connection: its kernel acknowledges what a stopped process does not read. Or it may be cut off from the others, answer
    /// that it cannot now, and never learn that another leads (found in review).
    fn is_reason_to_doubt(&self, now: Instant, piece: &Piece) -> bool {
        let is_long = |since| now.since(since) >= DOUBTED_AFTER;
        is_long(piece.since)
            && match piece.state {
                State::Sent { to, at } => {
                    let heard = self.links.iter().find(|l| l.slice == to).map_or(at, |l| l.heard);
                    piece.backoff.tries() > 0 || is_long(at.max(heard))
                }
                State::Ready | State::Resting(_) | State::AwaitsMap(_) => true,
                // what it waits for is asked about
                State::Backlogged | State::Blocked(_) | State::Answered => false,
            }
    }

    /// The map is too old, or may be.
    pub(crate) fn need_newer_map(&self, out: &mut Vec<Output>) {
        out.push(Output::NeedMap { revision: Revision(self.map.revision.0 + 1) });
    }

    /// Whether a piece that was not answered for long goes out again; not to those that are hung up on.
    fn is_due_again(&self, now: Instant, piece: u32, silent: &[SliceId]) -> bool {
        let Piece { state: State::Sent { to, at }, sendings, .. } = self.pieces[piece] else { return false };
        let Some(link) = self.links.iter().find(|l| l.slice == to) else { return false };
        let wait = UNANSWERED_MAX * (1 << sendings.again.min(DOUBLINGS_MAX));
        let is_due = !silent.contains(&to) && now.since(at) >= wait;
        is_due && (link.has_passed(sendings) || link.wants_probe(now))
    }

    /// Dials, greets, hangs up: what is due of the connections.
    fn look(&mut self, now: Instant, out: &mut Vec<Output>) {
        for at in 0..self.links.len() {
            let link = &self.links[at];
            let (slice, stage, used) = (link.slice, link.stage, link.used);
            match stage {
                Stage::Down(until) if until <= now => {
                    self.links[at].stage = Stage::Down(Instant(0));
                    if self.is_wanted(slice) {
                        self.dial(now, at, out);
                    }
                }
                Stage::Greets(due) if due <= now => self.greet(now, at, out),
                Stage::Greeting(since) if now.since(since) >= crate::link::GREETING_MAX => {
                    self.hang_up(now, slice, out);
                }
                Stage::Up if now.since(used) >= IDLE_MAX && !self.is_used(slice) => {
                    out.push(Output::Disconnect { slice });
                    self.links[at].stage = Stage::Down(Instant(0));
                }
                _ => {}
            }
            if let Some(at) = self.links[at].alarm() {
                // one whose time is up though it is in use is looked at again with the next sweep
                self.alarm(if at <= now { now + SWEEP } else { at });
            }
        }
    }

    /// Whether something waits for a connection to the slice.
    fn is_wanted(&self, slice: SliceId) -> bool {
        let leads = |g: &&Group| g.leader.is_some_and(|l| l.1 == slice);
        self.groups
            .iter()
            .filter(leads)
            .any(|g| g.window.open().any(|p| self.pieces[p].state == State::Ready))
    }
    /// Whether an answer of the slice is waited for.
    fn is_used(&self, slice: SliceId) -> bool {
        let sent = |p: u32| matches!(self.pieces[p].state, State::Sent { to, .. } if to == slice);
        self.groups.iter().any(|g| g.window.open().any(sent))
    }

    // ---- connections ----

    pub(crate) fn link_to(&mut self, slice: SliceId) -> usize {
        match self.links.iter().position(|l| l.slice == slice) {
            Some(at) => at,
            None => {
                self.links.push(Link::new(slice));
                self.links.len() - 1
            }
        }
    }

    pub(crate) fn dial(&mut self, now: Instant, link: usize, out: &mut Vec<Output>) {
        self.links[link].stage = Stage::Dialing;
        self.links[link].used = now;
        out.push(Output::Connect { slice: self.links[link].slice });
    }

    fn connected(&mut self, now: Instant, slice: SliceId, out: &mut Vec<Output>) {
        let link = self.link_to(slice);
        if self.links[link].stage == Stage::Dialing {
            self.greet(now, link, out);
        }
    }

    /// Gives a connection up.
    fn hang_up(&mut self, now: Instant, slice: SliceId, out: &mut Vec<Output>) {
        out.push(Output::Disconnect { slice });
        self.disconnected(now, slice, out);
    }

    /// The connection is gone: what was unanswered on it goes to whoever leads then, under the same numbers (R21).
    pub(crate) fn disconnected(&mut self, now: Instant, slice: SliceId, out: &mut Vec<Output>) {
        let at = self.link_to(slice);
        let Client { links, jitter, .. } = self;
        if matches!(links[at].stage, Stage::Down(_)) {
            return;
        }
        let until = links[at].backoff.failed(now, jitter);
        links[at].stage = Stage::Down(until);
        self.alarm(until);
        let mut lost = std::mem::take(&mut self.freed);
        let is_lost = |p: u32| matches!(self.pieces[p].state, State::Sent { to, .. } if to == slice);
        for group in &self.groups {
            lost.extend(group.window.open().filter(|p| is_lost(*p)));
        }
        for piece in lost.drain(..) {
            self.pieces[piece].state = State::Ready;
            self.send(now, piece, out);
        }
        self.freed = lost;
    }

    // ---- metadata ----

    fn adopt(&mut self, map: &VolumeMap) {
        for &id in &map.table {
            if let Err(place) = self.by_id.binary_search_by_key(&id, |g| g.0) {
                self.by_id.insert(place, (id, self.groups.len() as u32));
                self.groups.push(Group {
                    id,
                    leader: None,
                    window: Window::default(),
                    backlog: VecDeque::new(),
                });
            }
        }
        self.by_table = map.table.iter().map(|id| self.place_of(*id).expect("it was just added")).collect();
        for (&id, &leader) in &map.leaders {
            if let Some(at) = self.place_of(id) {
                let group = &mut self.groups[at as usize];
                if group.leader.is_none_or(|known| known.0 < leader.0) {
                    group.leader = Some(leader);
                }
            }
        }
    }

    pub(crate) fn place_of(&self, id: GroupId) -> Option<u32> {
        let at = self.by_id.binary_search_by_key(&id, |g| g.0).ok()?;
        Some(self.by_id[at].1)
    }

    /// R38: the group of a chunk, by place in `groups`.
    pub(crate) fn route(&self, chunk: ChunkIndex) -> u32 {
        self.by_table[group_index(self.by_table.len(), self.map.family, chunk)]
    }

    fn learned(&mut self, now: Instant, map: Arc<VolumeMap>, out: &mut Vec<Output>) {
        if map.attachment != self.config.attachment || map.revision < self.map.revision {
            return;
        }
        if map.session > self.config.session {
            return self.end(Error::Superseded, out);
        }
        if map.generation > self.config.generation {
            return self.end(Error::Fenced, out);
        }
        let before: Vec<_> = self.groups.iter().map(|g| g.leader).collect();
        self.map = map.clone();
        self.adopt(&map);
        self.leave_forgotten(now, out);
        for (at, before) in before.into_iter().enumerate() {
            if self.groups[at].leader != before {
                self.led_anew(now, at, out);
            }
        }
        self.send_mapped(now, out);
    }

    /// R28: a drive that the map knows no way to was given up. What it says counts for nothing from now on.
    fn leave_forgotten(&mut self, now: Instant, out: &mut Vec<Output>) {
        for at in 0..self.links.len() {
            let (slice, stage) = (self.links[at].slice, self.links[at].stage);
            if !self.map.nodes.contains_key(&slice.drive) && !matches!(stage, Stage::Down(_)) {
                self.hang_up(now, slice, out);
            }
        }
    }

    /// What waited for a map goes out when this one is new enough.
    fn send_mapped(&mut self, now: Instant, out: &mut Vec<Output>) {
        let revision = self.map.revision;
        let mut ready = std::mem::take(&mut self.freed);
        let waits = |p: u32| matches!(self.pieces[p].state, State::AwaitsMap(least) if least <= revision);
        for group in &self.groups {
            ready.extend(group.window.open().filter(|p| waits(*p)));
        }
        for piece in ready.drain(..) {
            self.pieces[piece].state = State::Ready;
            self.send(now, piece, out);
        }
        self.freed = ready;
    }

    /// Another slice leads a group, or the same in a newer epoch: what is under way elsewhere goes there, and what
    /// rested need not rest longer.
    pub(crate) fn led_anew(&mut self, now: Instant, group: usize, out: &mut Vec<Output>) {
        let Some((_, leader)) = self.groups[group].leader else { return };
        let mut moved = std::mem::take(&mut self.freed);
        moved.extend(self.groups[group].window.open().filter(|&p| match self.pieces[p].state {
            State::Sent { to, .. } => to != leader,
            State::Ready | State::Resting(_) => true,
            _ => false,
        }));
        for piece in moved.drain(..) {
            if let State::Resting(at) = self.pieces[piece].state {
                self.resting.remove(&(at, piece));
            }
            self.pieces[piece].state = State::Ready;
            self.send(now, piece, out);
        }
        self.freed = moved;
    }

    // ---- the end ----

    /// The session is over: everything is answered with `why`, now and from now on.
    pub fn end(&mut self, why: Error, out: &mut Vec<Output>) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(why);
        for (_, request) in self.requests.iter() {
            out.push(Output::Complete { token: request.token, result: Err(why) });
        }
        for link in &mut self.links {
            if !matches!(link.stage, Stage::Down(_)) {
                out.push(Output::Disconnect { slice: link.slice });
            }
            link.stage = Stage::Down(Instant(0));
        }
        self.requests = Slab::default();
        self.pieces = Slab::default();
        self.permits = Permits::new(self.config.bytes_max);
        self.resting.clear();
        self.freed.clear();
        for group in &mut self.groups {
            group.window.clear();
            group.backlog.clear();
        }
        out.push(Output::Ended(why));
    }
    /// Why the session is over, when it is.
    pub fn ended(&self) -> Option<Error> {
        self.ended
    }

    /// Every unanswered piece is in one place; states agree with the places.
    pub(crate) fn is_consistent(&self) -> bool {
        let mut seen = BTreeSet::new();
        for (at, group) in self.groups.iter().enumerate() {
            let windowed = group.window.open().map(|p| (p, false));
            for (number, is_backlogged) in windowed.chain(group.backlog.iter().map(|p| (*p, true))) {
                let piece = &self.pieces[number];
                let resting = match piece.state {
                    State::Resting(until) => self.resting.contains(&(until, number)),
                    _ => true,
                };
                let is_fine = seen.insert(number)
                    && piece.group as usize == at
                    && piece.state != State::Answered
                    && (piece.state == State::Backlogged) == is_backlogged
                    && resting;
                if !is_fine {
                    return false;
                }
            }
            if !group.backlog.is_empty() && group.window.has_room() {
                return false;
            }
        }
        let open = self.pieces.iter().filter(|(_, p)| p.state != State::Answered).count();
        let left: u32 = self.requests.iter().map(|(_, r)| r.left).sum();
        seen.len() == open && open as u32 == left
    }

    pub(crate) fn refuses(&self, kind: Kind, offset: u64, len: u64) -> Option<Error> {
        match (self.ended, offset.checked_add(len)) {
            (Some(why), _) => Some(why),
            (_, None) => Some(Error::OutOfBounds),
            (_, Some(end)) if end > self.map.size => Some(Error::OutOfBounds),
            _ if kind.is_write() && self.map.read_only => Some(Error::ReadOnly),
            _ => None,
        }
    }

    pub(crate) fn complete_now(
        &self,
        token: Token,
        result: Result<crate::io::Answer, Error>,
        out: &mut Vec<Output>,
    ) {
        out.push(Output::Complete { token, result });
    }
}
