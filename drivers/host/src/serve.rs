//! The data thread: NBD clients on one side, slices on the other, the client machine between, all in one turn (L5).
use crate::attach::{ExportConfig, Listen, Way};
use crate::doubt::Doubts;
use crate::links::{Links, Party, boot_id};
use crate::rest::Rest;
use anyhow::{Context, anyhow};
use sarsen_api::proof;
use sarsen_block as block;
use sarsen_block::{Completion, Failure, Request, Tag};
use sarsen_buffer::{Buf, Pool};
use sarsen_client as client;
use sarsen_client::Client;
use sarsen_nbd::{Connection, Export, Next, Out};
use sarsen_ring::{ConnId, Event, Ring, RingConfig, Stream};
use sarsen_types::slab::Slab;
use sarsen_types::{
    AttachmentId, ClusterId, Duration, Generation, Instant, Revision, SessionId, SliceId, VolumeMap,
};
use sarsen_wire::client::{ClientReply, Greeting};
use sarsen_wire::handshake::{Dialer, Mac};
use sarsen_wire::{decode_reply, encode_request};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, channel};
use tokio::sync::{Notify, watch};

/// NBD clients of one export at a time.
const CLIENTS_MAX: usize = 256;
/// How long an NBD client may take to say what it wants.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Bytes of answers that an NBD client may leave unread; nothing more is read from it until it takes them.
const ANSWERS_MAX: usize = 64 << 20;
/// Payload of requests under way that all NBD clients of an export may have together, those that left included: above that
/// nothing more is read from who has more than its share under way. It may be passed by what each sends at a time.
const PAYLOAD_MAX: u64 = 128 << 20;
/// The share of one.
const SHARE: u64 = PAYLOAD_MAX / CLIENTS_MAX as u64;
/// How long a client that is done may take to read the rest.
const LEAVE_MAX: Duration = Duration::from_secs(10);
/// How long the last answers may take to be taken when the export ends.
pub const FLUSH_MAX: Duration = Duration::from_secs(2);
/// That they were taken is looked for this often: no event tells.
const FLUSH_LOOK: Duration = Duration::from_millis(5);

/// To the data thread.
#[derive(Debug)]
pub enum Told {
    /// The volume's map moved.
    Map(Arc<VolumeMap>),
    /// Take no more clients and no more requests; end when nothing is under way.
    Stop,
    /// The right to the volume was taken away: say so to the clients, and end.
    Gone,
}

/// A data thread that took its place, and waits for what to serve there: so a place that is taken by another costs nobody a
/// right, nor takes one away.
pub struct Bound {
    waker: sarsen_ring::Waker,
    at: Listen,
    key: Option<[u8; 32]>,
    read_only: bool,
    begin: Sender<Box<dyn FnOnce(Ring) -> Host + Send>>,
    inbox: Sender<Told>,
    ended: tokio::sync::oneshot::Receiver<String>,
}

/// A data thread that runs.
pub struct Served {
    /// The way to it.
    pub tell: Way,
    /// Where it takes connections: of port 0, the one that was picked.
    pub at: Listen,
    /// The revision of the map it goes by: what only older ones knew is closed.
    pub goes_by: watch::Receiver<Revision>,
    /// Reasons to doubt that this map is the newest.
    pub doubts: Doubts,
    /// Why it ended.
    pub ended: tokio::sync::oneshot::Receiver<String>,
}

/// Starts the data thread. Returns when clients may connect: they are spoken to once it serves.
pub fn bind(config: &ExportConfig) -> anyhow::Result<Bound> {
    let (sender, inbox) = channel();
    let (opened, opening) = mpsc::channel();
    let (begin, begun) = mpsc::channel::<Box<dyn FnOnce(Ring) -> Host + Send>>();
    let (done, ended) = tokio::sync::oneshot::channel();
    let (listen, key, read_only) = (config.listen.clone(), config.key, config.read_only);
    let body = move || {
        // `sarsen dev` alone runs without a key, on a machine that has other things to do
        if key.is_some()
            && let Err(refusal) = sarsen_ring::mark_io_thread()
        {
            eprintln!("warning: {refusal}");
        }
        let pool = Pool::new();
        let made =
            Ring::new(RingConfig::default(), &pool).map_err(|why| anyhow!("{why}")).and_then(|mut ring| {
                let at = match &listen {
                    Listen::Socket(path) => {
                        ring.listen_unix(path).with_context(|| path.display().to_string())?;
                        listen.clone()
                    }
                    Listen::Tcp(address) => {
                        let (_, at) = ring.listen_tcp(*address).with_context(|| address.to_string())?;
                        Listen::Tcp(at)
                    }
                };
                Ok((ring, at))
            });
        match made {
            Err(why) => drop(opened.send(Err(why))),
            Ok((ring, at)) => {
                let _ = opened.send(Ok((ring.waker(), at)));
                if let Ok(host) = begun.recv() {
                    let _ = done.send(host(ring).run(&inbox));
                }
            }
        }
    };
    std::thread::Builder::new().name("sarsen-nbd".into()).spawn(body)?;
    let (waker, at) = opening.recv().context("the data thread ended")??;
    Ok(Bound { waker, at, key, read_only, begin, inbox: sender, ended })
}

impl Bound {
    /// Serves a volume by this right.
    pub fn serve(
        self,
        cluster: ClusterId,
        grant: (AttachmentId, Generation, SessionId),
        map: Arc<VolumeMap>,
    ) -> Served {
        let Bound { waker, at, key, read_only, begin, inbox, ended } = self;
        let (went_by, goes_by) = watch::channel(map.revision);
        let greeting = Greeting { attachment: grant.0, generation: grant.1, session: grant.2 };
        let us = Party { cluster, key, boot_id: boot_id(), greeting };
        let doubts = Doubts::default();
        let doubted = doubts.raiser();
        // a thread that ended says so by `ended`
        let _ = begin.send(Box::new(move |ring| Host::new(ring, us, map, read_only, went_by, doubted)));
        Served { tell: Way { sender: inbox, waker }, at, goes_by, doubts, ended }
    }
}

/// A request of an NBD client that is not answered.
struct UnderWay {
    request: Request,
    /// Bytes of its payload: of what it brought, or is to bring.
    payload: u64,
}

impl UnderWay {
    fn new(request: Request) -> UnderWay {
        let has_payload = matches!(request.op(), block::Op::Read | block::Op::Write(_));
        let payload = if has_payload { request.len() } else { 0 };
        UnderWay { request, payload }
    }
}

enum Role {
    Nbd(Nbd),
    Dialing(SliceId, Dialer),
    Slice(SliceId, Stream<ClientReply>),
}

/// An NBD client.
struct Nbd {
    connection: Box<Connection>,
    /// It is not read from for a while, and is one of those that rest.
    rest: Option<Rest>,
}

struct Host {
    ring: Ring,
    us: Party,
    client: Client,
    export: Export,
    links: Links,
    roles: BTreeMap<ConnId, Role>,
    /// By the upper half of a request's tag.
    nbd: BTreeMap<u32, ConnId>,
    bases: BTreeMap<ConnId, u32>,
    /// Those that have not said what they want, the oldest first, and until when they may.
    haggling: VecDeque<(Instant, ConnId)>,
    /// Those that are done and have not read all, the oldest first, and until when they may.
    leaving: VecDeque<(Instant, ConnId)>,
    /// Those that are not read from for a while, the first to be read on from first.
    resting: VecDeque<ConnId>,
    /// When to look at those though nothing happened.
    look_at: Option<Instant>,
    next_base: u32,
    requests: Slab<UnderWay>,
    /// Payload of all of them.
    payload: u64,
    submitted: Vec<Request>,
    answers: Vec<(Vec<u8>, Option<Buf>)>,
    out: Vec<client::Output>,
    /// The room of what was carried out, for what comes next.
    next_out: Vec<client::Output>,
    went_by: watch::Sender<Revision>,
    /// Told when there is reason to doubt the map.
    doubted: Arc<Notify>,
    is_stopping: bool,
    /// When it ends though answers are left unread: it took its last request by then, and answered it.
    ends_at: Option<Instant>,
    ended: Option<String>,
}

/// Where an NBD connection's words go.
struct Sink<'a> {
    ring: &'a mut Ring,
    conn: ConnId,
    submitted: &'a mut Vec<Request>,
}

impl Out for Sink<'_> {
    fn send(&mut self, head: &[u8], payload: Option<Buf>) {
        self.ring.send(self.conn, head, payload);
    }
    fn submit(&mut self, request: Request) {
        self.submitted.push(request);
    }
}

/// The same while what was received is looked at where it lies: nearly all answers come later, from slices.
struct Aside<'a> {
    answers: &'a mut Vec<(Vec<u8>, Option<Buf>)>,
    submitted: &'a mut Vec<Request>,
}

impl Out for Aside<'_> {
    fn send(&mut self, head: &[u8], payload: Option<Buf>) {
        self.answers.push((head.to_vec(), payload));
    }
    fn submit(&mut self, request: Request) {
        self.submitted.push(request);
    }
}

impl Host {
    fn new(
        ring: Ring,
        us: Party,
        map: Arc<VolumeMap>,
        read_only: bool,
        went_by: watch::Sender<Revision>,
        doubted: Arc<Notify>,
    ) -> Host {
        let g = us.greeting;
        let seed = u64::from_le_bytes(proof::nonce()[..8].try_into().expect("eight bytes"));
        let config = client::Config::new(g.attachment, g.generation, g.session, seed);
        let limits = block::Limits { is_read_only: read_only || map.read_only, ..block::Limits::default() };
        let export = Export {
            name: map.name.clone(),
            description: format!("Sarsen volume {}", map.name),
            size: map.size,
            limits,
        };
        Host {
            ring,
            us,
            client: Client::new(config, map),
            export,
            links: Links::default(),
            roles: BTreeMap::new(),
            nbd: BTreeMap::new(),
            bases: BTreeMap::new(),
            haggling: VecDeque::new(),
            leaving: VecDeque::new(),
            resting: VecDeque::new(),
            look_at: None,
            next_base: 1,
            requests: Slab::default(),
            payload: 0,
            submitted: Vec::new(),
            answers: Vec::new(),
            out: Vec::new(),
            next_out: Vec::new(),
            went_by,
            doubted,
            is_stopping: false,
            ends_at: None,
            ended: None,
        }
    }

    /// Turns until it is stopped or the session ended; why.
    fn run(mut self, inbox: &Receiver<Told>) -> String {
        let mut events = Vec::new();
        loop {
            let deadline = Instant::earliest(self.client.deadline(), self.links.deadline());
            let deadline = Instant::earliest(deadline, self.haggling.front().map(|h| h.0));
            let deadline = Instant::earliest(deadline, self.leaving.front().map(|l| l.0));
            let deadline = Instant::earliest(deadline, self.ends_at);
            let deadline = Instant::earliest(deadline, self.look_at);
            let now = self.ring.turn(deadline, &mut events);
            for event in events.drain(..) {
                self.event(now, event, inbox);
            }
            for slice in self.links.overdue(now) {
                self.lose(now, slice);
            }
            while let Some((_, conn)) = self.haggling.pop_front_if(|h| h.0 <= now) {
                self.drop_if_silent(now, conn);
            }
            while let Some((_, conn)) = self.leaving.pop_front_if(|l| l.0 <= now) {
                self.ring.close(conn);
            }
            if self.client.deadline().is_some_and(|at| at <= now) {
                self.step(now, client::Input::Tick);
            }
            self.carry_out(now);
            self.read_on(now);
            self.carry_out(now);
            self.tell_revision();
            if self.is_stopping && self.requests.is_empty() && self.has_flushed(now) {
                return self.ended.unwrap_or_else(|| "stopped".into());
            }
        }
    }

    /// Whether the last answers were taken, or had their time to be.
    fn has_flushed(&mut self, now: Instant) -> bool {
        let ends_at = *self.ends_at.get_or_insert(now + FLUSH_MAX);
        // what is closed while it is on its way, with requests of the client unread behind, does not arrive
        let is_on_its_way = |conn: &ConnId| !self.ring.is_delivered(*conn);
        let mut clients = self.nbd.values().chain(self.leaving.iter().map(|l| &l.1));
        let has_flushed = now >= ends_at || !clients.any(is_on_its_way);
        if !has_flushed {
            self.look_at = Some(now + FLUSH_LOOK);
        }
        has_flushed
    }

    /// After all that a newer map asked for was carried out: what only older maps knew is closed.
    fn tell_revision(&mut self) {
        let revision = self.client.map().revision;
        self.went_by.send_if_modified(|known| core::mem::replace(known, revision) != revision);
    }

    fn event(&mut self, now: Instant, event: Event, inbox: &Receiver<Told>) {
        match event {
            Event::Accepted { conn, .. } => self.accept(now, conn),
            Event::Connected(_) => {}
            Event::Readable(conn) => self.readable(now, conn),
            Event::Filled { conn, buf } => self.filled(now, conn, buf),
            Event::Closed { conn, .. } => self.closed(now, conn),
            Event::Woken => {
                while let Ok(told) = inbox.try_recv() {
                    match told {
                        Told::Map(map) => {
                            self.export.size = map.size;
                            self.step(now, client::Input::Learned(map));
                        }
                        Told::Stop => self.is_stopping = true,
                        Told::Gone => self.client.end(client::Error::Fenced, &mut self.out),
                    }
                }
            }
        }
    }

    fn accept(&mut self, now: Instant, conn: ConnId) {
        // one that is done gives way once it took all, and one that says nothing gives way to one that may
        if self.clients() >= CLIENTS_MAX {
            self.leaving.retain(|l| self.ring.queued(l.1) > 0);
        }
        if self.clients() >= CLIENTS_MAX {
            self.drop_silent(now);
        }
        if self.is_stopping || self.clients() >= CLIENTS_MAX {
            return self.ring.close(conn);
        }
        // one that is frozen for a while is held back, and not cut off (found in review)
        self.ring.be_patient(conn);
        self.haggling.push_back((now + HANDSHAKE_MAX, conn));
        let base = self.next_base;
        self.next_base += 1;
        let mut sink = Sink { ring: &mut self.ring, conn, submitted: &mut self.submitted };
        let connection = Connection::new(u64::from(base) << 32, &mut sink);
        self.nbd.insert(base, conn);
        self.bases.insert(conn, base);
        self.roles.insert(conn, Role::Nbd(Nbd { connection: Box::new(connection), rest: None }));
        self.readable(now, conn);
    }

    /// NBD clients that hold memory: those that left and did not take all their answers are some (found in review).
    fn clients(&self) -> usize {
        self.nbd.len() + self.leaving.len()
    }

    fn readable(&mut self, now: Instant, conn: ConnId) {
        match self.roles.get(&conn) {
            Some(Role::Nbd(_)) => self.read_nbd(now, conn),
            Some(Role::Dialing(..)) => self.shake_hands(now, conn),
            Some(Role::Slice(..)) => self.read_slice(now, conn),
            None => {}
        }
    }

    // ---- NBD clients ----

    fn read_nbd(&mut self, now: Instant, conn: ConnId) {
        // an export that ends leaves the rest to whoever exports next: under load it would have no end (found in review)
        while !self.is_stopping {
            // each time: what is answered at once fills the queue too
            if self.is_held(conn) {
                return self.rest(now, conn);
            }
            let Some(Role::Nbd(nbd)) = self.roles.get_mut(&conn) else { return };
            if nbd.rest.is_some() {
                return;
            }
            let mut aside = Aside { answers: &mut self.answers, submitted: &mut self.submitted };
            let (pool, bytes) = (self.ring.pool(), self.ring.received(conn));
            let progress = nbd.connection.receive(&self.export, pool, bytes, &mut aside);
            for (head, payload) in self.answers.drain(..) {
                self.ring.send(conn, &head, payload);
            }
            // a client that sends garbage is dropped, and nothing else suffers
            let Ok(progress) = progress else { return self.drop_nbd(now, conn) };
            self.ring.consume(conn, progress.used);
            self.submit(now);
            match progress.next {
                Next::Bytes(least) => {
                    if self.ring.received(conn).len() < least || progress.used == 0 {
                        self.ring.make_room(conn, least);
                        return;
                    }
                }
                Next::Fill(buf) => return self.ring.receive_into(conn, buf),
                Next::Rest => {
                    if self.is_held(conn) {
                        self.rest(now, conn);
                    }
                    return;
                }
                Next::Close => return self.let_leave(now, conn),
            }
        }
    }

    /// Whether nothing more is taken from a client for now: too much is under way, of it or of all, or it does not take its
    /// answers.
    fn is_held(&self, conn: ConnId) -> bool {
        let Some(Role::Nbd(nbd)) = self.roles.get(&conn) else { return false };
        // who has less than its share is let in. Over TCP one that rests is read on from once it acknowledged a further answer:
        // that would never come to who has nothing under way, and late to who has one small request of a group that is away,
        // and would wait for that group because others were many for a moment (found in review)
        let is_many = self.payload >= PAYLOAD_MAX && nbd.connection.payload() > SHARE;
        is_many || nbd.connection.is_full() || self.ring.queued(conn) > ANSWERS_MAX
    }

    /// A client is not read from for a while.
    fn rest(&mut self, now: Instant, conn: ConnId) {
        let has_answers = self.ring.queued(conn) > 0;
        let Some(Role::Nbd(nbd)) = self.roles.get_mut(&conn) else { return };
        if nbd.rest.is_none() {
            nbd.rest = Some(Rest::new(now, has_answers));
            self.resting.push_back(conn);
        }
    }

    /// Looks at those that rest, and reads on from those that nothing holds up any more.
    fn read_on(&mut self, now: Instant) {
        self.look_at = None;
        if self.is_stopping {
            return;
        }
        let mut at = 0;
        for _ in 0..self.resting.len() {
            let conn = self.resting[at];
            if self.stays_at_rest(now, conn) {
                at += 1;
                continue;
            }
            self.resting.remove(at);
            if let Some(Role::Nbd(nbd)) = self.roles.get_mut(&conn) {
                nbd.rest = None;
                self.read_nbd(now, conn);
            }
        }
    }

    /// Whether a client that rests goes on doing so; one that is gone is dropped.
    fn stays_at_rest(&mut self, now: Instant, conn: ConnId) -> bool {
        let (is_held, shows_hang_up) = (self.is_held(conn), self.ring.shows_hang_up(conn));
        let has_answers = self.ring.queued(conn) > 0;
        let Some(Role::Nbd(Nbd { rest: Some(rest), .. })) = self.roles.get_mut(&conn) else { return false };
        if is_held {
            rest.forget_sent(has_answers);
        }
        let is_held = is_held || !(shows_hang_up || rest.is_answered());
        let is_to_look = !is_held || rest.is_held(now);
        let is_current = !is_held && (shows_hang_up || self.ring.is_delivered(conn));
        if !is_held && !is_current {
            rest.awaits_acks(now);
        }
        // asked last: one that acknowledged its answers was there, and had not hung up when it did
        if is_to_look && self.ring.is_hung_up(conn) {
            self.drop_nbd(now, conn);
            return false;
        }
        if !is_current {
            self.look_at = Instant::earliest(self.look_at, Some(rest.looks_at(now)));
        }
        !is_current
    }

    fn submit(&mut self, now: Instant) {
        let mut submitted = std::mem::take(&mut self.submitted);
        for request in submitted.drain(..) {
            let (offset, len) = match request.op() {
                block::Op::Trim => self.whole_blocks(request.offset(), request.len()),
                _ => (request.offset(), request.len()),
            };
            let mut held = UnderWay::new(request);
            self.payload += held.payload;
            let op = match held.request.take_op() {
                block::Op::Read => client::Op::Read,
                block::Op::Write(data) => client::Op::Write(data),
                block::Op::Zero | block::Op::Trim => client::Op::Zero,
                block::Op::Status => client::Op::Status,
            };
            let token = client::Token(self.requests.insert(held));
            self.step(now, client::Input::Request { token, op, offset, len });
        }
        // nothing above submits more: the room is kept
        self.submitted = submitted;
    }

    /// The whole blocks of a range: a trim of less gives no place back, and would have to write zeroes, for which a full drive has no
    /// room. A range that is not inside the volume stays as it is, to be refused.
    fn whole_blocks(&self, offset: u64, len: u64) -> (u64, u64) {
        let block = sarsen_types::BLOCK_SIZE as u64;
        match offset.checked_add(len).filter(|end| *end <= self.export.size) {
            Some(end) => {
                let (first, end) = (offset.next_multiple_of(block), end / block * block);
                (first.min(end), end.saturating_sub(first))
            }
            None => (offset, len),
        }
    }

    fn completed(
        &mut self,
        now: Instant,
        token: client::Token,
        result: Result<client::Answer, client::Error>,
    ) {
        let Some(UnderWay { request, payload }) = self.requests.take(token.0) else { return };
        self.payload -= payload;
        let result = result.map(answer).map_err(failure);
        let completion: Completion = request.complete(result);
        let Some(&conn) = self.nbd.get(&base_of(completion.tag)) else { return };
        let Some(Role::Nbd(nbd)) = self.roles.get_mut(&conn) else { return };
        let pool = self.ring.pool().clone();
        let mut sink = Sink { ring: &mut self.ring, conn, submitted: &mut self.submitted };
        nbd.connection.complete(completion, &pool, &mut sink);
        nbd.rest.iter_mut().for_each(Rest::answered);
        // what it left unread is read in a later turn, when its answers were taken
        if nbd.connection.is_over() {
            self.let_leave(now, conn);
        }
    }

    fn drop_nbd(&mut self, now: Instant, conn: ConnId) {
        self.forget_nbd(now, conn);
        self.ring.close(conn);
    }

    /// The oldest of those that did not say what they want goes.
    fn drop_silent(&mut self, now: Instant) {
        while let Some((_, conn)) = self.haggling.pop_front() {
            if self.drop_if_silent(now, conn) {
                return;
            }
        }
    }
    fn drop_if_silent(&mut self, now: Instant, conn: ConnId) -> bool {
        let is_silent = matches!(self.roles.get(&conn), Some(Role::Nbd(nbd)) if !nbd.connection.is_serving());
        if is_silent {
            self.drop_nbd(now, conn);
        }
        is_silent
    }
    /// It is done, and is closed when it has read the rest.
    fn let_leave(&mut self, now: Instant, conn: ConnId) {
        self.forget_nbd(now, conn);
        self.ring.close_when_sent(conn);
        if self.ring.queued(conn) > 0 {
            self.leaving.push_back((now + LEAVE_MAX, conn));
        }
    }

    /// What it asked for runs on where it was sent, and is dropped where it was not: unless it said goodbye. What comes before
    /// that is carried out, and the end of its connection only says that nothing comes after (found in review).
    fn forget_nbd(&mut self, now: Instant, conn: ConnId) {
        let role = self.roles.remove(&conn);
        let is_ending = matches!(role, Some(Role::Nbd(nbd)) if nbd.connection.is_ending());
        if let Some(base) = self.bases.remove(&conn) {
            self.nbd.remove(&base);
            if !is_ending {
                self.abandon(now, base);
            }
        }
    }

    /// Nobody waits for the requests of a client any more.
    fn abandon(&mut self, now: Instant, base: u32) {
        let mut tokens = Vec::new();
        let mut from = 0;
        while let Some(key) = self.requests.next_key(from, |held| base_of(held.request.tag()) == base) {
            tokens.push(client::Token(key));
            from = key as u32 + 1;
        }
        if !tokens.is_empty() {
            self.step(now, client::Input::Abandon(tokens));
        }
    }

    // ---- slices ----

    fn step(&mut self, now: Instant, input: client::Input) {
        self.client.step(now, input, &mut self.out);
    }

    fn carry_out(&mut self, now: Instant) {
        while !self.out.is_empty() {
            let mut batch = std::mem::replace(&mut self.out, std::mem::take(&mut self.next_out));
            for output in batch.drain(..) {
                match output {
                    client::Output::Connect { slice } => self.connect(now, slice),
                    // no reason to doubt the map: of who was silent while it was asked the client said so long before, and of
                    // who was not asked anything there is nothing to say (found in review)
                    client::Output::Disconnect { slice } => {
                        if let Some(conn) = self.links.gone(slice) {
                            self.roles.remove(&conn);
                            self.ring.close(conn);
                        }
                    }
                    client::Output::Send { slice, request, payload } => {
                        if let Some(conn) = self.links.get(slice) {
                            self.ring.send_with(conn, payload, false, |out| encode_request(&request, out));
                        }
                    }
                    client::Output::Complete { token, result } => self.completed(now, token, result),
                    // the map is followed all the time, though perhaps at a node that does not know
                    client::Output::NeedMap { .. } => self.doubted.notify_one(),
                    // after the answers that say so left
                    client::Output::Ended(why) => {
                        self.ended = Some(why.to_string());
                        self.is_stopping = true;
                    }
                }
            }
            self.next_out = batch;
        }
    }

    fn connect(&mut self, now: Instant, slice: SliceId) {
        let map = self.client.map().clone();
        match self.links.dial(&mut self.ring, now, &map, &self.us, slice) {
            Some((conn, dialer)) => drop(self.roles.insert(conn, Role::Dialing(slice, dialer))),
            None => self.lose(now, slice),
        }
    }

    fn shake_hands(&mut self, now: Instant, conn: ConnId) {
        let Some(Role::Dialing(slice, dialer)) = self.roles.get_mut(&conn) else { return };
        let slice = *slice;
        let key = self.us.key;
        let prove = key.map(|key| move |bytes: &[u8]| proof::prove(&key, bytes));
        let mac: Mac<'_> = prove.as_ref().map(|p| p as &dyn Fn(&[u8]) -> [u8; 32]);
        let mut head = Vec::new();
        match dialer.receive(self.ring.received(conn), mac, &mut head) {
            Ok(progress) => {
                self.ring.consume(conn, progress.used);
                if !head.is_empty() {
                    self.ring.send(conn, &head, None);
                }
                if progress.done.is_some() {
                    self.links.stands(slice, conn);
                    self.roles.insert(conn, Role::Slice(slice, Stream::default()));
                    self.step(now, client::Input::Connected { slice });
                    self.read_slice(now, conn);
                }
            }
            Err(_) => self.lose(now, slice),
        }
    }

    fn read_slice(&mut self, now: Instant, conn: ConnId) {
        loop {
            let Some(Role::Slice(slice, stream)) = self.roles.get_mut(&conn) else { return };
            let slice = *slice;
            match stream.next(&mut self.ring, conn, decode_reply) {
                Ok(Some((reply, payload))) => {
                    self.step(now, client::Input::Received { slice, reply, payload })
                }
                Ok(None) => return,
                Err(_) => return self.lose(now, slice),
            }
        }
    }

    fn filled(&mut self, now: Instant, conn: ConnId, buf: Buf) {
        match self.roles.get_mut(&conn) {
            Some(Role::Nbd(_)) if self.is_stopping => {}
            Some(Role::Nbd(nbd)) => {
                let mut sink = Sink { ring: &mut self.ring, conn, submitted: &mut self.submitted };
                nbd.connection.filled(buf, &mut sink);
                self.submit(now);
                self.read_nbd(now, conn);
            }
            Some(Role::Slice(slice, stream)) => {
                let slice = *slice;
                if let Some(reply) = stream.filled() {
                    self.step(now, client::Input::Received { slice, reply, payload: Some(buf) });
                }
                self.read_slice(now, conn);
            }
            _ => {}
        }
    }

    /// A connection to a slice is of no use any more.
    fn lose(&mut self, now: Instant, slice: SliceId) {
        if let Some(conn) = self.links.gone(slice) {
            self.roles.remove(&conn);
            self.ring.close(conn);
        }
        self.doubted.notify_one();
        self.step(now, client::Input::Disconnected { slice });
    }

    fn closed(&mut self, now: Instant, conn: ConnId) {
        match self.roles.get(&conn) {
            Some(Role::Nbd(_)) => self.forget_nbd(now, conn),
            Some(Role::Dialing(slice, _) | Role::Slice(slice, _)) => {
                let slice = *slice;
                self.lose(now, slice);
            }
            None => {}
        }
    }
}

/// Which NBD client a request is of.
fn base_of(tag: Tag) -> u32 {
    (tag.0 >> 32) as u32
}

fn answer(answer: client::Answer) -> block::Answer {
    match answer {
        client::Answer::Done => block::Answer::Done,
        client::Answer::Data(parts) => block::Answer::Data(parts),
        client::Answer::Extents(all) => block::Answer::Extents(
            all.into_iter()
                .map(|e| block::Extent { offset: e.offset, len: e.len, is_data: e.is_data })
                .collect(),
        ),
    }
}

fn failure(error: client::Error) -> Failure {
    match error {
        client::Error::OutOfBounds => Failure::OutOfBounds,
        client::Error::ReadOnly => Failure::ReadOnly,
        client::Error::NoSpace => Failure::NoSpace,
        client::Error::Superseded | client::Error::Fenced | client::Error::Abandoned => Failure::Gone,
        client::Error::Corrupt | client::Error::Refused(_) => Failure::Broken,
    }
}
