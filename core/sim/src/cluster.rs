//! Nodes, streams, metadata and time: the cluster that a seed is played on.
use crate::workload::Volume;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sarsen_buffer::{Buf, Pool};
use sarsen_control::command::{Answer, Command, Entry, Move, Register};
use sarsen_control::{State, reconcile};
use sarsen_slice::{Config, ConnId, Counters, Input, LeaseMode, Output, Slice};
use sarsen_store::drive::{self, FormatParams, slice_identity};
use sarsen_store::memory::{Fate, Image, MemDisk};
use sarsen_store::{Options, SliceRegion, Store};
use sarsen_types::view::{NodeAddress, View};
use sarsen_types::*;
use sarsen_wire::client::{ClientReply, ClientRequest, Greeting};
use sarsen_wire::peer::PeerMessage;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// One step of the simulated clock.
pub const TICK: Duration = Duration::from_millis(1);
/// Bytes of a drive.
const DRIVE_BYTES: u64 = 40 << 20;
/// Groups of the one policy.
const GROUPS: u32 = 4;

/// A message with the moment it arrives.
struct Sent {
    due: Instant,
    message: PeerMessage,
    payload: Option<Buf>,
}

/// One direction of a stream between two nodes.
#[derive(Default)]
struct Stream {
    queue: VecDeque<Sent>,
    last: Instant,
}

/// A request or its answer on the way between a client and a node.
struct ClientSent {
    due: Instant,
    client: usize,
    node: usize,
    conn: ConnId,
    what: ClientMessage,
}

enum ClientMessage {
    Ask(ClientRequest, Option<Buf>),
    Answer(ClientReply, Option<Buf>),
}

/// A node: one drive, one slice.
pub struct Node {
    identity: DriveIdentity,
    /// What it runs; `None` while it is down.
    pub slice: Option<Slice<MemDisk>>,
    disk: Option<Image>,
    region: SliceRegion,
    pool: Pool,
    open: OpenId,
    /// Metadata's id of its drive.
    pub id: Option<SliceId>,
    /// When its registration is answered.
    registers_at: Option<Instant>,
    /// Its clock against the simulator's: offset, and drift in parts per thousand.
    offset: u64,
    drift: i64,
    /// Takes no turns until then; its clock stops too when set.
    pub paused_until: Option<(Instant, bool)>,
    stopped: u64,
    /// Deaf to the metadata.
    pub is_cut_off: bool,
    learns_at: Option<Instant>,
    /// What its registration will say: the ids its superblock held, and whether its journal is broken.
    registration: Option<(Vec<OpenId>, bool)>,
    /// Its disk completes nothing until then.
    pub hung_until: Option<Instant>,
    out: Vec<Output>,
}

/// See the module.
pub struct Cluster {
    /// The true time.
    pub now: Instant,
    /// The seed's dice.
    pub rng: SmallRng,
    /// Nodes.
    pub nodes: Vec<Node>,
    streams: BTreeMap<(usize, usize), Stream>,
    /// Pairs that do not reach each other, by direction.
    pub cut: BTreeSet<(usize, usize)>,
    redial: BTreeMap<(usize, usize), Instant>,
    /// The metadata.
    pub state: State,
    proposals: Vec<(Instant, Proposal)>,
    /// The metadata answer nobody until then.
    pub metadata_away_until: Instant,
    next_round: Instant,
    heard_at: BTreeMap<NodeId, Instant>,
    clients: Vec<ClientSent>,
    conns: BTreeMap<ConnId, (usize, usize)>,
    next_conn: u64,
    /// Answers for clients: (client, node, reply, payload).
    pub answers: VecDeque<(usize, usize, ClientReply, Option<Buf>)>,
    /// Connections that ended: (client, node).
    pub hangups: VecDeque<(usize, usize)>,
    lease: LeaseMode,
    /// Counters of slices that ended.
    pub counters: Counters,
    /// Rare events of the cluster itself.
    pub events: BTreeMap<&'static str, u64>,
    epochs: BTreeMap<GroupId, Epoch>,
    opens: u128,
    trace: bool,
    pool: Pool,
    rotten: usize,
}

impl Cluster {
    /// `n` nodes with a fresh drive each, registered, with groups of `copies` copies.
    pub fn new(seed: u64, n: usize, copies: u8, lease: LeaseMode) -> Cluster {
        let mut rng = SmallRng::seed_from_u64(seed);
        let pool = Pool::new();
        let nodes = (0..n)
            .map(|at| {
                let identity = DriveIdentity(0x1000 * (at as u128 + 1));
                let mut disk = MemDisk::new(DRIVE_BYTES);
                let superblock =
                    drive::format(&mut disk, FormatParams { identity, slices: 1 }).expect("it fits");
                Node {
                    identity,
                    slice: None,
                    disk: Some(disk.crash(|| Fate::Kept)),
                    region: superblock.slices[0],
                    pool: pool.clone(),
                    open: OpenId(0),
                    id: None,
                    registers_at: None,
                    offset: rng.random_range(1_000_000_000..50_000_000_000),
                    drift: rng.random_range(-9..=9),
                    paused_until: None,
                    stopped: 0,
                    is_cut_off: false,
                    learns_at: None,
                    registration: None,
                    hung_until: None,
                    out: Vec::new(),
                }
            })
            .collect();
        let mut cluster = Cluster {
            now: Instant(1_000_000_000),
            rng,
            nodes,
            streams: BTreeMap::new(),
            cut: BTreeSet::new(),
            redial: BTreeMap::new(),
            state: State::default(),
            proposals: Vec::new(),
            metadata_away_until: Instant(0),
            next_round: Instant(0),
            heard_at: BTreeMap::new(),
            clients: Vec::new(),
            conns: BTreeMap::new(),
            next_conn: 1,
            answers: VecDeque::new(),
            hangups: VecDeque::new(),
            lease,
            counters: Counters::default(),
            events: BTreeMap::new(),
            epochs: BTreeMap::new(),
            opens: 1,
            trace: std::env::var("TRACE").is_ok(),
            pool,
            rotten: seed as usize % n,
        };
        cluster.command(Command::Begin { cluster: ClusterId(7), copies, is_dev: true });
        cluster.command(Command::SetDownOut { ms: 1_000_000_000 });
        for at in 0..n {
            let address = NodeAddress { data: String::new(), unix: None, boot_id: at.to_string() };
            cluster.command(Command::Node {
                identity: at as u128 + 1,
                api: format!("http://node{at}"),
                address,
            });
            cluster.start(at);
            cluster.register(at);
        }
        cluster.make_groups(copies);
        cluster
    }

    /// Buffers of the clients.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    fn command(&mut self, command: Command) -> Answer {
        self.state.apply(&Entry { at_ms: self.now.0 / 1_000_000, request: None, command })
    }

    /// A volume, with the few groups of `make_groups`.
    pub fn make_volume(&mut self, name: &str) -> Volume {
        let create = Command::CreateVolume { name: name.into(), size: 64 << 20, policy: "default".into() };
        let Answer::Volume(id) = self.command(create) else { panic!("a volume is made") };
        let volume = &self.state.volumes[&id];
        Volume { id, layer: volume.head, family: volume.family }
    }

    /// The right to use a volume, with a new session.
    pub fn attach(
        &mut self,
        name: &str,
        owner: &str,
        exclusive: bool,
    ) -> (AttachmentId, Generation, SessionId) {
        let volume = self.state.volume_named(name).expect("it was made").0;
        let attach = Command::Attach { volume, owner: owner.into(), exclusive, read_only: false };
        match self.command(attach) {
            Answer::Attached { attachment, generation, session } => (attachment, generation, session),
            other => panic!("a volume is attached: {other:?}"),
        }
    }

    /// Few groups, so that they are busy: placed by hand before the first volume asks for more.
    fn make_groups(&mut self, copies: u8) {
        let slices: Vec<SliceId> = self.nodes.iter().filter_map(|n| n.id).collect();
        for at in 0..GROUPS as usize {
            let slices: Vec<SliceId> =
                (0..copies as usize).map(|c| slices[(at + c) % slices.len()]).collect();
            let id = GroupId(at as u32 + 1);
            self.state.last.assignment += 1;
            self.state.last.group = id.0;
            let assignment = self.state.last.assignment;
            let members = slices.iter().map(|&slice| Member { slice, assignment }).collect();
            let group = GroupState {
                group: id,
                epoch: Epoch(1),
                primary: slices[0],
                primary_since: Epoch(1),
                in_sync: slices.clone(),
                joining: vec![],
                complete: slices,
                members,
                min_copies: (copies - 1).max(1),
            };
            self.state.groups.insert(id, group);
            self.state.policies.get_mut("default").expect("it is there").table.push(id);
        }
    }

    /// A line of the trace, with `TRACE` set.
    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:?} {}", self.now, text());
        }
    }

    /// Counts a rare event of the cluster.
    pub fn count(&mut self, what: &'static str) {
        *self.events.entry(what).or_default() += 1;
    }

    /// A node's own clock.
    pub fn clock(&self, node: usize) -> Instant {
        let n = &self.nodes[node];
        let t = (self.now.0 - n.stopped) as i64;
        Instant((t + t * n.drift / 1000) as u64 + n.offset)
    }

    /// Opens a node's drive and its slice; it registers soon.
    pub fn start(&mut self, node: usize) {
        if self.nodes[node].slice.is_some() {
            return;
        }
        self.opens += 1;
        let open = OpenId(self.opens);
        let started = self.clock(node);
        let lease = self.lease;
        let delay = Duration::from_millis(self.rng.random_range(1..300));
        let now = self.now;
        let n = &mut self.nodes[node];
        let Some(image) = n.disk.take() else { return };
        let mut disk = MemDisk::from_image(DRIVE_BYTES, image);
        let mut superblock = drive::read(&mut disk).expect("superblocks have copies");
        let held = superblock.ids();
        drive::begin_open(&mut disk, &mut superblock, open).expect("the disk writes");
        let options =
            Options { pool: n.pool.clone(), drive: slice_identity(n.identity, 0), open, memory: 16 << 20 };
        let (store, opened) = match Store::open(disk, n.region, options) {
            Ok(opened) => opened,
            Err(why) => panic!("node {node} does not open: {why}"),
        };
        n.open = open;
        let id = n.id.unwrap_or_default();
        let mut store = store;
        store.disk_mut().is_held = true;
        let config = Config { id, lease, started };
        n.slice = Some(Slice::new(config, store, n.pool.clone()));
        n.registers_at = Some(now + delay);
        n.paused_until = None;
        n.hung_until = None;
        self.say(|| format!("node {node} starts: {opened:?}"));
        self.nodes[node].registration = Some((held, opened.is_broken));
        if opened.damaged > 0 {
            *self.events.entry("damaged entries at open").or_default() += opened.damaged;
        }
        if opened.is_broken {
            self.count("journals with a broken middle");
        }
    }

    fn register(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        let Some((held, is_broken)) = n.registration.take() else { return };
        let n = &self.nodes[node];
        let command = Command::Register(Register {
            identity: n.identity,
            node: NodeId(node as u32 + 1),
            open: n.open,
            opens: held,
            path: format!("drive{node}"),
            class: "ssd".into(),
            slices: 1,
            size: DRIVE_BYTES,
            total_blocks: 8192,
            used_blocks: 0,
            is_broken,
        });
        let Answer::Registered { drive, is_stale } = self.command(command) else {
            panic!("a registration is accepted")
        };
        let id = SliceId { drive, index: 0 };
        if is_stale {
            self.count("stale drives registered");
        }
        let first = self.nodes[node].id.is_none();
        self.nodes[node].id = Some(id);
        self.nodes[node].registers_at = None;
        if first {
            // now that the slice has a name, it is made anew with it
            let lease = self.lease;
            let started = self.clock(node);
            let n = &mut self.nodes[node];
            let store = n.slice.take().expect("it was just started").into_store();
            n.slice = Some(Slice::new(Config { id, lease, started }, store, n.pool.clone()));
        }
        let open = self.nodes[node].open;
        let n = &mut self.nodes[node];
        let disk = n.slice.as_mut().expect("it registers because it is up").store_mut().disk_mut();
        disk.is_held = false;
        let mut superblock = drive::read(disk).expect("superblocks have copies");
        drive::note_registered(disk, &mut superblock, ClusterId(7), open).expect("the disk writes");
        disk.is_held = true;
        let view = self.view(id);
        self.say(|| format!("node {node} registered as {id}, stale {is_stale}"));
        self.input(node, Input::Registered { view, is_stale });
    }

    fn view(&self, slice: SliceId) -> Arc<View> {
        Arc::new(self.state.view_of(slice))
    }

    /// kill -9, or power loss: what was not synced is kept, lost or torn as the dice say.
    pub fn crash(&mut self, node: usize, power: bool) {
        let Some(slice) = self.nodes[node].slice.take() else { return };
        self.counters.add(slice.counters());
        let disk = std::mem::take(slice.into_store().disk_mut());
        let kept = if power { self.rng.random_range(0..100) } else { 100 };
        let rng = &mut self.rng;
        let image = disk.crash(|| match rng.random_range(0..100) {
            n if n < kept => Fate::Kept,
            n if n % 4 == 0 => Fate::Torn(rng.random_range(0..4096)),
            _ => Fate::Lost,
        });
        self.nodes[node].disk = Some(image);
        self.nodes[node].registers_at = None;
        self.say(|| format!("node {node} crashes, power {power}"));
        for other in 0..self.nodes.len() {
            self.disconnect(node, other);
        }
        let gone: Vec<ConnId> = self.conns.iter().filter(|c| c.1.1 == node).map(|c| *c.0).collect();
        for conn in gone {
            let (client, node) = self.conns.remove(&conn).expect("it was listed");
            self.hangups.push_back((client, node));
        }
        self.clients.retain(|c| c.node != node);
    }

    /// The drive as it is, of a node that is down.
    pub fn image(&mut self, node: usize) -> Option<&mut Image> {
        self.nodes[node].disk.as_mut()
    }

    /// A stream between two nodes breaks: what is under way is lost.
    pub fn disconnect(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            if self.streams.remove(&(from, to)).is_some()
                && let Some(slice) = self.nodes[from].id
            {
                self.input(to, Input::PeerDown { slice });
            }
        }
        let wait = Duration::from_millis(self.rng.random_range(1..60));
        self.redial.insert((a.min(b), a.max(b)), self.now + wait);
    }

    fn connect(&mut self) {
        for a in 0..self.nodes.len() {
            for b in a + 1..self.nodes.len() {
                let up = |n: &Node| n.slice.is_some() && n.registers_at.is_none();
                let both = up(&self.nodes[a]) && up(&self.nodes[b]);
                let may = !self.cut.contains(&(a, b)) && !self.cut.contains(&(b, a));
                let due = self.redial.get(&(a, b)).is_none_or(|at| *at <= self.now);
                if both && may && due && !self.streams.contains_key(&(a, b)) {
                    self.streams.insert((a, b), Stream::default());
                    self.streams.insert((b, a), Stream::default());
                    let (ida, idb) =
                        (self.nodes[a].id.unwrap_or_default(), self.nodes[b].id.unwrap_or_default());
                    self.input(a, Input::PeerUp { slice: idb, same_kernel: false });
                    self.input(b, Input::PeerUp { slice: ida, same_kernel: false });
                }
            }
        }
    }

    fn input(&mut self, node: usize, input: Input) {
        let now = self.clock(node);
        let n = &mut self.nodes[node];
        let Some(slice) = n.slice.as_mut() else { return };
        let mut out = std::mem::take(&mut n.out);
        slice.step(now, input, &mut out);
        self.carry_out(node, out);
    }

    fn carry_out(&mut self, node: usize, mut out: Vec<Output>) {
        for output in out.drain(..) {
            match output {
                Output::Send { to, message, payload, .. } => self.send(node, to, message, payload),
                Output::Reply { conn, reply, payload } => {
                    if let Some(&(client, _)) = self.conns.get(&conn) {
                        let due = self.now + self.delay();
                        let what = ClientMessage::Answer(reply, payload);
                        self.clients.push(ClientSent { due, client, node, conn, what });
                    }
                }
                Output::Hangup { slice } => {
                    if let Some(other) = self.nodes.iter().position(|n| n.id == Some(slice)) {
                        self.disconnect(node, other);
                    }
                }
                Output::Propose(proposal) => {
                    if !self.nodes[node].is_cut_off {
                        let late = if self.rng.random_bool(0.03) { 3000 } else { 5 };
                        let due = self.now + Duration::from_millis(self.rng.random_range(1..=late));
                        self.proposals.push((due, proposal));
                    }
                }
                Output::Distrusted => {
                    let (drive, open) =
                        (self.nodes[node].id.unwrap_or_default().drive, self.nodes[node].open);
                    self.command(Command::Trust { drive, open });
                }
                Output::Report(text) => self.say(|| format!("node {node} reports: {text}")),
                Output::Failed(why) => panic!("node {node}'s drive failed: {why}"),
            }
        }
        self.nodes[node].out = out;
    }

    fn delay(&mut self) -> Duration {
        match self.rng.random_range(0..1000) {
            0 => Duration::from_millis(self.rng.random_range(100..5000)),
            1..30 => Duration::from_millis(self.rng.random_range(5..100)),
            _ => Duration::from_micros(self.rng.random_range(50..1500)),
        }
    }

    fn send(&mut self, from: usize, to: SliceId, message: PeerMessage, payload: Option<Buf>) {
        let Some(to) = self.nodes.iter().position(|n| n.id == Some(to)) else { return };
        let due = self.now + self.delay();
        if let Some(stream) = self.streams.get_mut(&(from, to)) {
            // ordered: nothing overtakes
            stream.last = stream.last.max(due);
            stream.queue.push_back(Sent { due: stream.last, message, payload });
        }
    }

    // ---- metadata ----

    /// How long ago the leader heard each node.
    fn heard(&mut self) -> BTreeMap<NodeId, u64> {
        for (at, n) in self.nodes.iter_mut().enumerate() {
            if n.slice.is_some() && !n.is_cut_off && n.paused_until.is_none() {
                self.heard_at.insert(NodeId(at as u32 + 1), self.now);
            }
        }
        self.heard_at.iter().map(|(id, at)| (*id, self.now.since(*at).as_millis() as u64)).collect()
    }

    fn metadata(&mut self) {
        if self.now < self.metadata_away_until {
            return;
        }
        for node in 0..self.nodes.len() {
            let n = &self.nodes[node];
            if n.registers_at.is_some_and(|at| at <= self.now) && !n.is_cut_off && n.paused_until.is_none() {
                self.register(node);
            }
        }
        let mut at = 0;
        while at < self.proposals.len() {
            if self.proposals[at].0 > self.now {
                at += 1;
                continue;
            }
            let (_, proposal) = self.proposals.swap_remove(at);
            let before = self.state.revision;
            self.command(Command::Judge(vec![proposal.clone()]));
            if self.state.revision != before {
                self.say(|| format!("metadata: {proposal:?}"));
            }
        }
        if self.now >= self.next_round {
            self.next_round = self.now + Duration::from_millis(250);
            let heard = self.heard();
            for command in reconcile(&self.state, &heard, self.now.0 / 1_000_000) {
                self.say(|| format!("metadata: {command:?}"));
                self.command(command);
            }
        }
        for (id, group) in &self.state.groups {
            let known = self.epochs.entry(*id).or_default();
            assert!(group.epoch >= *known, "an epoch went back");
            assert!(group.in_sync.contains(&group.primary) && !group.in_sync.is_empty());
            *known = group.epoch;
        }
    }

    /// Another in-sync copy leads: what a planned stop, or an operator, does.
    pub fn hand_over(&mut self, group: GroupId, to: SliceId) {
        let Some(g) = self.state.groups.get(&group) else { return };
        let lead = Command::Lead(vec![Move { group, epoch: g.epoch, slice: to }]);
        self.command(lead);
    }

    fn learn(&mut self, node: usize) {
        let revision = self.state.revision.0;
        let n = &self.nodes[node];
        let (Some(id), true) = (n.id, n.slice.is_some() && n.registers_at.is_none() && !n.is_cut_off) else {
            return;
        };
        let known = n.slice.as_ref().map_or(0, |s| s.machine().view().revision.0);
        if known >= revision {
            return;
        }
        match self.nodes[node].learns_at {
            None => {
                let late = if self.rng.random_bool(0.05) { 1500 } else { 20 };
                let at = self.now + Duration::from_millis(self.rng.random_range(0..late));
                self.nodes[node].learns_at = Some(at);
            }
            Some(at) if at <= self.now => {
                self.nodes[node].learns_at = None;
                let view = self.view(id);
                self.input(node, Input::Learned(view));
            }
            Some(_) => {}
        }
    }

    // ---- clients ----

    /// A client's connection to a node, or none while it is down.
    pub fn dial(&mut self, client: usize, node: usize, greeting: Greeting) -> Option<ConnId> {
        self.nodes[node].slice.as_ref()?;
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        self.conns.insert(conn, (client, node));
        self.input(node, Input::ClientUp { conn, greeting });
        Some(conn)
    }

    /// A client's connection ends; what is under way may still arrive.
    pub fn hang_up(&mut self, conn: ConnId) {
        if let Some((_, node)) = self.conns.remove(&conn) {
            self.input(node, Input::ClientDown { conn });
        }
    }

    /// A request leaves.
    pub fn ask(&mut self, client: usize, conn: ConnId, request: ClientRequest, payload: Option<Buf>) {
        if let Some(&(_, node)) = self.conns.get(&conn) {
            let due = self.now + self.delay();
            self.clients.push(ClientSent {
                due,
                client,
                node,
                conn,
                what: ClientMessage::Ask(request, payload),
            });
        }
    }

    // ---- time ----

    /// A millisecond: everything that is due happens.
    pub fn tick(&mut self) {
        self.now += TICK;
        for node in 0..self.nodes.len() {
            if let Some((until, stops_clock)) = self.nodes[node].paused_until {
                if stops_clock {
                    self.nodes[node].stopped += TICK.as_nanos() as u64;
                }
                if until <= self.now {
                    self.nodes[node].paused_until = None;
                }
            }
        }
        self.metadata();
        self.connect();
        for node in 0..self.nodes.len() {
            if self.nodes[node].paused_until.is_none() {
                self.learn(node);
                self.deliver(node);
                self.turn(node);
            }
        }
        self.deliver_answers();
    }

    fn deliver(&mut self, node: usize) {
        for from in 0..self.nodes.len() {
            loop {
                if self.cut.contains(&(from, node)) {
                    break;
                }
                let Some(stream) = self.streams.get_mut(&(from, node)) else { break };
                if stream.queue.front().is_none_or(|m| m.due > self.now) {
                    break;
                }
                let Sent { message, payload, .. } = stream.queue.pop_front().expect("it was just seen");
                let Some(id) = self.nodes[from].id else { break };
                self.input(node, Input::Peer { from: id, message, payload });
            }
        }
        let mut at = 0;
        while at < self.clients.len() {
            let c = &self.clients[at];
            if c.due > self.now || c.node != node || !matches!(c.what, ClientMessage::Ask(..)) {
                at += 1;
                continue;
            }
            let ClientSent { conn, what: ClientMessage::Ask(request, payload), .. } =
                self.clients.swap_remove(at)
            else {
                unreachable!("it was just matched")
            };
            self.input(node, Input::Client { conn, request, payload });
        }
    }

    fn turn(&mut self, node: usize) {
        let now = self.clock(node);
        let hung = self.nodes[node].hung_until.is_some_and(|until| until > self.now);
        let rng = &mut self.rng;
        let n = &mut self.nodes[node];
        let Some(slice) = n.slice.as_mut() else { return };
        if !hung {
            let disk = slice.store_mut().disk_mut();
            let mut budget = disk.waiting();
            while budget > 0 {
                budget -= 1;
                // most complete within a tick, in any order
                if rng.random_bool(0.8) {
                    let at = rng.random_range(0..disk.waiting());
                    disk.complete(at);
                }
            }
        }
        let mut out = std::mem::take(&mut n.out);
        slice.finish(now, &mut out);
        slice.submit(now);
        self.carry_out(node, out);
    }

    fn deliver_answers(&mut self) {
        let mut at = 0;
        while at < self.clients.len() {
            let c = &self.clients[at];
            if c.due > self.now || !matches!(c.what, ClientMessage::Answer(..)) {
                at += 1;
                continue;
            }
            let ClientSent { conn, client, node, what: ClientMessage::Answer(reply, payload), .. } =
                self.clients.swap_remove(at)
            else {
                unreachable!("it was just matched")
            };
            if self.conns.contains_key(&conn) {
                self.answers.push_back((client, node, reply, payload));
            }
        }
    }

    /// The node that serves a slice.
    pub fn node_of(&self, slice: SliceId) -> Option<usize> {
        self.nodes.iter().position(|n| n.id == Some(slice))
    }

    /// Every slice's groups in words.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for slice in self.nodes.iter().filter_map(|n| n.slice.as_ref()) {
            for g in slice.machine().groups() {
                lines.push(g.describe());
            }
        }
        lines
    }

    /// The node whose drive rots in this seed.
    pub fn rotten(&self) -> usize {
        self.rotten
    }

    /// Whether every group has all its copies in sync.
    pub fn is_whole(&self) -> bool {
        self.state.groups.values().all(|g| g.members.iter().all(|m| g.is_in_sync(m.slice)))
    }

    /// All counters.
    pub fn totals(&self) -> Counters {
        let mut total = self.counters;
        for n in &self.nodes {
            if let Some(slice) = &n.slice {
                total.add(slice.counters());
            }
        }
        total
    }
}
