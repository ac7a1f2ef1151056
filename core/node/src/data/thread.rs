//! The thread of a slice: `turn` gathers inputs, steps the machine and carries its outputs out.
//!
//! One ring, one machine, no locks. A turn is: everything that happened since the last one (frames of all connections,
//! messages of the control thread) goes in; `finish`; what comes out is queued; `submit` queues device writes; the
//! ring's turn submits all of it, sends first (L4, L5).
use super::Reports;
use super::alarms::Alarms;
use super::budget::Budget;
use super::links::{Dial, Links};
use super::machine::{Machine, Opened};
use crate::seam::{FromSlice, Identity, ToSlice};
use sarsen_api::proof as key;
use sarsen_buffer::Buf;
use sarsen_control::command::Rot;
use sarsen_ring::Stream;
use sarsen_ring::{ConnId, Event, Ring};
use sarsen_slice::{Config, Input, LeaseMode, Output};
use sarsen_types::{Duration, Instant, OpenId, SliceId, View, limits};
use sarsen_wire::client::ClientRequest;
use sarsen_wire::handshake::{Acceptor, Dialer, HandshakeError, Mac};
use sarsen_wire::hello::{From, Hello, HelloRefusal, PeerHello};
use sarsen_wire::peer::PeerMessage;
use sarsen_wire::{decode_peer, decode_request, encode_peer, encode_reply};
use std::cell::Cell;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

/// A dialed connection that did not stand by then is given up.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two reports of space.
const SPACE_EVERY: Duration = Duration::from_secs(1);
/// Between two reports of rot: each becomes an event of the cluster, and a drive that goes bad has much to tell.
const ROT_EVERY: Duration = Duration::from_secs(5);
/// A slice is still there for this long after it handed over what it led: its successors ask whether it stopped, and serve at
/// once when it says so (R2).
const LINGER: Duration = Duration::from_millis(300);
/// At the end of a stop, how long the last answers have to leave.
const FLUSH_MAX: Duration = Duration::from_millis(200);
/// While clients wait for memory for so long, the one that holds most of it, unread or unsent, is dropped: the others wait for it.
const SHORT_MAX: Duration = Duration::from_secs(5);
/// While they wait, how often those whose other end is gone are looked for: nothing is read of them, so nothing tells.
const HANG_UPS_EVERY: Duration = Duration::from_secs(1);
/// A client that leaves more than this many bytes of answers unread is dropped.
const CLIENT_QUEUE_MAX: usize = 64 << 20;
/// A slice that leaves more than this many bytes unread is dropped: grants bound what is sent to one that reads (R7).
const PEER_QUEUE_MAX: usize = 512 << 20;

thread_local! {
    static CURRENT: Cell<Option<SliceId>> = const { Cell::new(None) };
}

/// The slice that runs on this thread, once it is registered.
pub fn current_slice() -> Option<SliceId> {
    CURRENT.get()
}

/// What a thread is started with.
pub struct ThreadConfig {
    /// Who the node is.
    pub identity: Arc<Identity>,
    /// Where its words go.
    pub reports: Reports,
    /// How reads are leased.
    pub lease: LeaseMode,
    /// When it was started (R2).
    pub started: Instant,
    /// Mark the thread as an I/O flusher (L8).
    pub marks_thread: bool,
    /// How long a planned stop waits for other copies to lead what this one leads.
    pub stop_max: Duration,
    /// What the slices of the node share.
    pub budget: Arc<Budget>,
}

/// What a connection is for.
enum Role {
    Dialing { to: SliceId, dialer: Dialer },
    Peer { slice: SliceId, stream: Stream<PeerMessage> },
    Client { stream: Stream<ClientRequest> },
}

/// Waits for the drive's registration, then turns until the slice is stopped or its drive failed.
pub fn run<S: Opened>(mut ring: Ring, store: S, inbox: Receiver<ToSlice>, config: ThreadConfig) {
    let (registered, early) = match wait_for_registration(&mut ring, &inbox) {
        Ok(told) => told,
        Err(Unregistered::Stopped) => return store.close(),
        Err(Unregistered::Abandoned) => return,
    };
    let (id, open, view, is_stale) = registered;
    CURRENT.set(Some(id));
    let share = config.budget.share();
    ring.set_wide_inputs(share.inputs);
    let machine_config = Config {
        id,
        lease: config.lease,
        started: config.started,
        memory: share.memory(),
        epoch_writes: limits::EPOCH_WRITES,
    };
    let machine = store.begin(machine_config, ring.pool().clone());
    let mut worker = Worker {
        links: Links::new(id),
        me: id,
        open,
        ring,
        machine,
        config,
        roles: Vec::new(),
        dialing: Vec::new(),
        clients_max: share.clients(),
        paused: VecDeque::new(),
        short_since: None,
        looked_for_hang_ups: Instant(0),
        out: Vec::new(),
        next_out: Vec::new(),
        head: Vec::new(),
        has_inputs: false,
        stopping: None,
        has_failed: false,
        space: (Instant(0), (0, 0, false)),
        rot: (Instant(0), Rot::default()),
        alarms: Alarms::default(),
        checkpoint: None,
        last_refusal: None,
    };
    let now = sarsen_ring::now();
    worker.registered(now, view, is_stale);
    for message in early.into_iter().chain(inbox.try_iter()) {
        worker.told(now, message);
    }
    if worker.has_failed {
        return;
    }
    worker.end_turn(now);
    worker.turns(&inbox);
}

/// Why a drive that was opened is not served.
enum Unregistered {
    Stopped,
    Abandoned,
}

/// The words of the registration, and what else was said before it.
fn wait_for_registration(
    ring: &mut Ring,
    inbox: &Receiver<ToSlice>,
) -> Result<(Registration, Vec<ToSlice>), Unregistered> {
    let (mut events, mut early) = (Vec::new(), Vec::new());
    loop {
        match inbox.try_recv() {
            Ok(ToSlice::Registered { id, open, view, is_stale }) => {
                return Ok(((id, open, view, is_stale), early));
            }
            Ok(ToSlice::Abandon) => return Err(Unregistered::Abandoned),
            Ok(ToSlice::Stop) | Err(TryRecvError::Disconnected) => return Err(Unregistered::Stopped),
            Ok(message) => early.push(message),
            Err(TryRecvError::Empty) => {
                ring.turn(None, &mut events);
                events.clear();
            }
        }
    }
}

type Registration = (SliceId, OpenId, Arc<View>, bool);

/// A planned stop under way.
struct Stop {
    since: Instant,
    /// When it may have led a group last: successors may not have asked yet.
    led_until: Instant,
}

struct Worker<M> {
    ring: Ring,
    machine: M,
    me: SliceId,
    open: OpenId,
    config: ThreadConfig,
    links: Links,
    /// By the ring's slot of the connection.
    roles: Vec<Option<(ConnId, Role)>>,
    dialing: Vec<(ConnId, SliceId, Instant)>,
    /// While clients' buffers of so many bytes are in use or promised, their requests wait in their sockets.
    clients_max: usize,
    /// Clients whose bytes wait for memory, in turn.
    paused: VecDeque<ConnId>,
    /// Since when there is none.
    short_since: Option<Instant>,
    looked_for_hang_ups: Instant,
    out: Vec<Output>,
    next_out: Vec<Output>,
    head: Vec<u8>,
    /// An input came while outputs were carried out.
    has_inputs: bool,
    stopping: Option<Stop>,
    has_failed: bool,
    space: (Instant, (u64, u64, bool)),
    rot: (Instant, Rot),
    alarms: Alarms,
    /// The checkpoint that was under way after the last turn.
    checkpoint: Option<u64>,
    last_refusal: Option<(SliceId, HandshakeError)>,
}

impl<M: Machine> Worker<M> {
    fn registered(&mut self, now: Instant, view: Arc<View>, is_stale: bool) {
        self.links.learned(now, &view);
        self.machine.step(now, Input::Registered { view, is_stale }, &mut self.out);
        self.end_turn(now);
    }

    fn turns(mut self, inbox: &Receiver<ToSlice>) {
        let mut events = Vec::new();
        loop {
            let now = self.ring.turn(self.deadline(), &mut events);
            for event in events.drain(..) {
                self.event(now, event, inbox);
            }
            if self.has_failed {
                return; // abandoned: not even what is gathered is written
            }
            self.resume_clients(now);
            self.end_turn(now);
            if self.has_failed {
                return;
            }
            if self.may_end(now) {
                return self.end(now);
            }
        }
    }

    /// Whether a planned stop is over.
    fn may_end(&mut self, now: Instant) -> bool {
        let Some(stop) = &mut self.stopping else { return false };
        if self.machine.leads_any() {
            stop.led_until = now;
        }
        now >= stop.led_until + LINGER || now.since(stop.since) >= self.config.stop_max
    }

    fn deadline(&self) -> Option<Instant> {
        let dials = self.dialing.iter().map(|d| d.2).min();
        let stop = self
            .stopping
            .as_ref()
            .map(|stop| (stop.led_until + LINGER).min(stop.since + self.config.stop_max));
        let space = Some(self.space.0 + SPACE_EVERY); // also wakes whoever waits for memory
        [self.machine.deadline(), self.links.deadline(), dials, stop, space]
            .into_iter()
            .fold(None, Instant::earliest)
    }

    /// After the last input of a turn: what the machine has to say is carried out, and its disk writes are queued.
    fn end_turn(&mut self, now: Instant) {
        self.dial(now);
        loop {
            self.machine.finish(now, &mut self.out);
            self.has_inputs = false;
            let mut batch = std::mem::replace(&mut self.out, std::mem::take(&mut self.next_out));
            for output in batch.drain(..) {
                self.carry_out(now, output);
            }
            self.next_out = batch;
            // carrying out may bring inputs (a stream is hung up), after which the turn ends once more
            if !self.has_inputs && self.out.is_empty() {
                break;
            }
        }
        self.machine.submit(now);
        self.report_space(now);
        self.report_rot(now);
        if let Some(alarms) = self.alarms.due(now) {
            self.report(FromSlice::Alarmed { slice: self.me, alarms });
        }
        self.log_checkpoint();
    }

    /// Whoever measures wants to know when checkpoints were under way; nobody else does.
    fn log_checkpoint(&mut self) {
        let known = std::mem::replace(&mut self.checkpoint, self.machine.checkpoint());
        if known == self.checkpoint {
            return;
        }
        let (me, fill) = (self.me, self.machine.journal_fill());
        if let Some(number) = known {
            tracing::debug!("slice {me} ended checkpoint {number}, its journal is {fill} % full");
        }
        if let Some(number) = self.checkpoint {
            tracing::debug!("slice {me} began checkpoint {number}, its journal is {fill} % full");
        }
    }

    fn report_space(&mut self, now: Instant) {
        let (at, known) = self.space;
        if now.since(at) < SPACE_EVERY {
            return;
        }
        let space = self.machine.space();
        if space != known {
            let (total_blocks, used_blocks, is_full) = space;
            self.report(FromSlice::Space { slice: self.me, total_blocks, used_blocks, is_full });
        }
        self.space = (now, space);
    }

    fn report_rot(&mut self, now: Instant) {
        let (at, known) = self.rot;
        let met = self.machine.rot();
        if met == known || now.since(at) < ROT_EVERY {
            return;
        }
        let rot = Rot {
            repaired: met.repaired - known.repaired,
            restored: met.restored - known.restored,
            lost: met.lost - known.lost,
        };
        self.report(FromSlice::Rotten { slice: self.me, rot });
        self.rot = (now, met);
    }

    fn report(&self, what: FromSlice) {
        (self.config.reports)(what);
    }

    fn event(&mut self, now: Instant, event: Event, inbox: &Receiver<ToSlice>) {
        match event {
            Event::Readable(conn) => self.read(now, conn),
            Event::Filled { conn, buf } => self.filled(now, conn, buf),
            Event::Closed { conn, .. } => self.ended(now, conn),
            Event::Woken => {
                while let Ok(message) = inbox.try_recv() {
                    self.told(now, message);
                }
            }
            // a dialed connection's hello is queued already
            Event::Connected(_) | Event::Accepted { .. } => {}
        }
    }

    fn told(&mut self, now: Instant, message: ToSlice) {
        match message {
            ToSlice::View(view) => {
                for conn in self.links.learned(now, &view) {
                    self.hang_up(now, conn);
                }
                self.machine.step(now, Input::Learned(view), &mut self.out);
            }
            ToSlice::Peers(addresses) => self.links.moved(now, addresses),
            ToSlice::Accepted { socket, hello, rest } => match Hello::decode(&hello) {
                Ok(hello) => self.accepted(now, socket, &hello, &rest),
                Err(why) => {
                    self.report(FromSlice::Report { slice: self.me, text: format!("a hello: {why}") })
                }
            },
            ToSlice::Stop => {
                self.stopping.get_or_insert(Stop { since: now, led_until: now });
            }
            // a checkpoint of ours would be written over what its new owner wrote (found in review)
            ToSlice::Abandon => self.has_failed = true,
            // a second registration would be another life of the slice
            ToSlice::Registered { .. } => {}
        }
    }

    fn role(&mut self, conn: ConnId) -> Option<&mut Role> {
        match self.roles.get_mut(conn.slot())? {
            Some((held, role)) if *held == conn => Some(role),
            _ => None,
        }
    }
    fn set_role(&mut self, conn: ConnId, role: Role) {
        let slot = conn.slot();
        if self.roles.len() <= slot {
            self.roles.resize_with(slot + 1, || None);
        }
        self.roles[slot] = Some((conn, role));
    }
    fn take_role(&mut self, conn: ConnId) -> Option<Role> {
        let place = self.roles.get_mut(conn.slot())?;
        place.take_if(|(held, _)| *held == conn).map(|(_, role)| role)
    }

    fn accepted(&mut self, now: Instant, socket: std::os::fd::OwnedFd, hello: &Hello, rest: &[u8]) {
        let conn = self.ring.adopt(socket, rest);
        self.head.clear();
        match hello.from {
            From::Peer(peer) => match self.links.accepted(now, &peer, conn) {
                Ok(before) => {
                    if let Some(before) = before {
                        // the stream is replaced: its end is not told, its successor is
                        self.take_role(before);
                        self.ring.close(before);
                    }
                    self.set_role(conn, Role::Peer { slice: peer.slice, stream: Stream::beside() });
                    // before the first heartbeat, which would overtake it else
                    Acceptor::ready(&mut self.head);
                    self.ring.send_urgent(conn, &self.head);
                    let same_kernel = hello.boot_id == self.config.identity.boot_id;
                    self.machine.step(now, Input::PeerUp { slice: peer.slice, same_kernel }, &mut self.out);
                }
                Err(()) => {
                    Acceptor::refuse(HelloRefusal::Malformed, &mut self.head);
                    self.ring.send(conn, &self.head, None);
                    self.ring.close_when_sent(conn);
                }
            },
            From::Client(greeting) => {
                self.set_role(conn, Role::Client { stream: Stream::default() });
                Acceptor::ready(&mut self.head);
                self.ring.send(conn, &self.head, None);
                let up = Input::ClientUp { conn: sarsen_slice::ConnId(conn.0), greeting };
                self.machine.step(now, up, &mut self.out);
            }
        }
    }

    /// Dials what is due (R43).
    fn dial(&mut self, now: Instant) {
        for at in (0..self.dialing.len()).rev() {
            let (conn, to, until) = self.dialing[at];
            if until <= now {
                self.dialing.swap_remove(at);
                self.take_role(conn);
                self.ring.close(conn);
                self.links.lost(now, to, Some(conn));
            }
        }
        while let Some(dial) = self.links.next_dial(now) {
            let opened = match (&dial.address.unix, dial.by_unix) {
                (Some(path), true) => self.ring.connect_unix(Path::new(path)).ok(),
                // numbers only: a name would have to be asked for, and this thread waits for nobody
                _ => (dial.address.data.parse().ok()).and_then(|address| self.ring.connect_tcp(address).ok()),
            };
            match opened {
                Some(conn) => self.greet(now, &dial, conn),
                None => drop(self.links.lost(now, dial.to, None)),
            }
        }
    }

    fn greet(&mut self, now: Instant, dial: &Dial, conn: ConnId) {
        let identity = &self.config.identity;
        let hello = Hello {
            version: 0,
            cluster: identity.cluster,
            has_key: identity.key.is_some(),
            nonce: key::nonce(),
            boot_id: identity.boot_id.clone(),
            to: dial.to,
            from: From::Peer(PeerHello { slice: self.me, open: self.open, counter: dial.counter }),
        };
        self.head.clear();
        let dialer = Dialer::new(hello, &mut self.head);
        self.ring.send(conn, &self.head, None);
        self.links.dialing(dial.to, conn);
        self.dialing.push((conn, dial.to, now + DIAL_TIMEOUT));
        self.set_role(conn, Role::Dialing { to: dial.to, dialer });
    }

    fn read(&mut self, now: Instant, conn: ConnId) {
        match self.role(conn) {
            Some(Role::Dialing { .. }) => self.shake_hands(now, conn),
            Some(Role::Peer { .. }) => self.read_peer(now, conn),
            Some(Role::Client { .. }) => self.read_client(now, conn),
            None => {}
        }
    }

    fn shake_hands(&mut self, now: Instant, conn: ConnId) {
        let Some((_, Role::Dialing { to, dialer })) = &mut self.roles[conn.slot()] else { return };
        let to = *to;
        self.head.clear();
        let key = self.config.identity.key;
        let prove = key.map(|key| move |bytes: &[u8]| key::prove(&key, bytes));
        let mac: Mac<'_> = prove.as_ref().map(|p| p as &dyn Fn(&[u8]) -> [u8; 32]);
        match dialer.receive(self.ring.received(conn), mac, &mut self.head) {
            Ok(progress) => {
                self.ring.consume(conn, progress.used);
                if !self.head.is_empty() {
                    self.ring.send(conn, &self.head, None);
                }
                let Some(welcome) = progress.done else { return };
                self.dialing.retain(|d| d.0 != conn);
                if !self.links.dialed(to, conn) {
                    self.take_role(conn);
                    return self.ring.close(conn);
                }
                self.last_refusal = None;
                self.set_role(conn, Role::Peer { slice: to, stream: Stream::beside() });
                let same_kernel = welcome.boot_id == self.config.identity.boot_id;
                self.machine.step(now, Input::PeerUp { slice: to, same_kernel }, &mut self.out);
                self.read_peer(now, conn);
            }
            Err(why) => {
                // the same refusal is tried again every second: it is told once
                if self.last_refusal != Some((to, why)) {
                    self.last_refusal = Some((to, why));
                    let text = format!("no connection to slice {to}: {why}");
                    self.report(FromSlice::Report { slice: self.me, text });
                }
                self.hang_up(now, conn);
            }
        }
    }

    fn read_peer(&mut self, now: Instant, conn: ConnId) {
        loop {
            let Some((_, Role::Peer { slice, stream })) = &mut self.roles[conn.slot()] else { return };
            let from = *slice;
            match stream.next(&mut self.ring, conn, decode_peer) {
                Ok(Some((message, payload))) => {
                    self.machine.step(now, Input::Peer { from, message, payload }, &mut self.out);
                }
                Ok(None) => return,
                Err(why) => {
                    let text =
                        format!("slice {from} sent what is no message ({why}): the stream is made again");
                    self.report(FromSlice::Report { slice: self.me, text });
                    return self.hang_up(now, conn);
                }
            }
        }
    }

    /// Reads on, as long as there is memory; else, and after those who wait for it, it waits for its turn.
    fn read_client(&mut self, now: Instant, conn: ConnId) {
        if !self.paused.is_empty() || self.is_short() {
            if !self.paused.contains(&conn) {
                self.paused.push_back(conn);
            }
            return;
        }
        while self.read_request(now, conn) {
            if self.is_short() {
                return self.paused.push_back(conn);
            }
        }
    }

    /// One request; `false` when there is no other.
    fn read_request(&mut self, now: Instant, conn: ConnId) -> bool {
        let place = self.roles.get_mut(conn.slot()).and_then(|place| place.as_mut());
        let Some((_, Role::Client { stream })) = place.filter(|held| held.0 == conn) else { return false };
        match stream.next(&mut self.ring, conn, decode_request) {
            Ok(Some((request, payload))) => {
                self.client_asked(now, conn, request, payload);
                true
            }
            Ok(None) => false,
            // a client that sends garbage is dropped, and nothing else suffers
            Err(_) => {
                self.hang_up(now, conn);
                false
            }
        }
    }

    fn client_asked(&mut self, now: Instant, conn: ConnId, request: ClientRequest, payload: Option<Buf>) {
        let input = Input::Client { conn: sarsen_slice::ConnId(conn.0), request, payload };
        self.machine.step(now, input, &mut self.out);
    }

    fn filled(&mut self, now: Instant, conn: ConnId, buf: Buf) {
        match self.role(conn) {
            Some(Role::Peer { slice, stream }) => {
                let from = *slice;
                let Some(message) = stream.filled() else { return };
                self.machine.step(now, Input::Peer { from, message, payload: Some(buf) }, &mut self.out);
            }
            Some(Role::Client { stream }) => {
                let Some(request) = stream.filled() else { return };
                self.client_asked(now, conn, request, Some(buf));
            }
            Some(Role::Dialing { .. }) | None => {}
        }
    }

    /// Whether clients wait for memory.
    fn is_short(&self) -> bool {
        self.ring.pool().live_bytes() + self.machine.read_bytes() > self.clients_max
    }

    /// Reads on where reading stopped for want of memory: a request of each in turn, so that none takes what all wait for.
    fn resume_clients(&mut self, now: Instant) {
        while !self.is_short() {
            self.short_since = None;
            let Some(conn) = self.paused.pop_front() else { return };
            if self.read_request(now, conn) {
                self.paused.push_back(conn);
            }
        }
        if !self.paused.is_empty() {
            self.drop_who_holds_up(now);
        }
    }

    /// Whose other end is gone does not wait any more; and the client that leaves most unread is dropped, if all others waited
    /// for it long enough.
    fn drop_who_holds_up(&mut self, now: Instant) {
        let since = *self.short_since.get_or_insert(now);
        if now.since(self.looked_for_hang_ups) >= HANG_UPS_EVERY {
            self.looked_for_hang_ups = now;
            let gone: Vec<ConnId> =
                self.paused.iter().copied().filter(|c| self.ring.is_hung_up(*c)).collect();
            self.paused.retain(|conn| !gone.contains(conn));
            gone.into_iter().for_each(|conn| self.hang_up(now, conn));
        }
        if now.since(since) < SHORT_MAX {
            return;
        }
        self.short_since = Some(now);
        let clients = self.roles.iter().flatten().filter(|r| matches!(r.1, Role::Client { .. })).map(|r| r.0);
        // of one that is frozen in the middle of a write the buffer is there, and never filled (found in review)
        let held = |conn| self.ring.queued(conn) + self.ring.filling(conn);
        let most = clients.map(|conn| (held(conn), conn)).max();
        if let Some((_, conn)) = most.filter(|m| m.0 > 0) {
            self.hang_up(now, conn);
        }
    }

    /// Ends a connection from this side.
    fn hang_up(&mut self, now: Instant, conn: ConnId) {
        self.ring.close(conn);
        self.ended(now, conn);
    }

    fn ended(&mut self, now: Instant, conn: ConnId) {
        self.has_inputs = true;
        match self.take_role(conn) {
            Some(Role::Dialing { to, .. }) => {
                self.dialing.retain(|d| d.0 != conn);
                self.links.lost(now, to, Some(conn));
            }
            Some(Role::Peer { slice, .. }) => {
                self.links.lost(now, slice, Some(conn));
                self.machine.step(now, Input::PeerDown { slice }, &mut self.out);
            }
            Some(Role::Client { .. }) => {
                let conn = sarsen_slice::ConnId(conn.0);
                self.machine.step(now, Input::ClientDown { conn }, &mut self.out);
            }
            None => {}
        }
    }

    fn carry_out(&mut self, now: Instant, output: Output) {
        match output {
            Output::Send { to, message, payload, is_urgent } => {
                let Some(conn) = self.links.stream(to) else { return };
                self.ring.send_with(conn, payload, is_urgent, |out| encode_peer(&message, out));
                if self.ring.queued(conn) > PEER_QUEUE_MAX {
                    self.hang_up(now, conn);
                }
            }
            Output::Reply { conn, reply, payload } => {
                let conn = ConnId(conn.0);
                if !matches!(self.role(conn), Some(Role::Client { .. })) {
                    return;
                }
                self.ring.send_with(conn, payload, false, |out| encode_reply(&reply, out));
                if self.ring.queued(conn) > CLIENT_QUEUE_MAX {
                    self.hang_up(now, conn);
                }
            }
            Output::Hangup { slice } => {
                if let Some(conn) = self.links.stream(slice) {
                    self.hang_up(now, conn);
                }
            }
            Output::Propose(proposal) => self.report(FromSlice::Propose(proposal)),
            Output::Distrusted => self.report(FromSlice::Distrusted { slice: self.me }),
            Output::Dropped(revision) => self.report(FromSlice::Dropped { slice: self.me, revision }),
            Output::Report(text) => self.report(FromSlice::Report { slice: self.me, text }),
            Output::Alarm { group, alarm, blocks } => self.alarms.raise(group, alarm, blocks),
            Output::Failed(why) => {
                self.has_failed = true;
                self.report(FromSlice::Failed { slice: self.me, why });
            }
        }
    }

    /// The end of a planned stop: the last answers leave, then the store is closed.
    fn end(mut self, now: Instant) {
        if let Some(alarms) = self.alarms.rest() {
            self.report(FromSlice::Alarmed { slice: self.me, alarms });
        }
        let until = now + FLUSH_MAX;
        let conns: Vec<ConnId> = self.roles.iter().flatten().map(|(conn, _)| *conn).collect();
        let mut events = Vec::new();
        loop {
            let soon = sarsen_ring::now() + Duration::from_millis(1);
            let now = self.ring.turn(Some(soon.min(until)), &mut events);
            events.clear();
            if now >= until || conns.iter().all(|&conn| self.ring.queued(conn) == 0) {
                break;
            }
        }
        for conn in conns {
            self.ring.close(conn);
        }
        self.machine.close();
    }
}
