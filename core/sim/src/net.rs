//! What lies between nodes, and between them and clients: ordered streams that delay and break, and requests that are
//! late, lost or come twice.
use crate::cluster::Cluster;
use crate::story::{About, blocks, seconds};
use rand::Rng;
use sarsen_buffer::Buf;
use sarsen_slice::{ConnId, Input};
use sarsen_types::*;
use sarsen_wire::client::{ClientReply, ClientRequest, Greeting};
use sarsen_wire::peer::PeerMessage;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What arrives within this is not late.
const SOON: Duration = Duration::from_millis(5);

/// What is later than this may be missed by somebody: it is told.
const TOLD: Duration = Duration::from_millis(1000);

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
#[derive(Clone)]
struct ClientSent {
    due: Instant,
    node: usize,
    conn: ConnId,
    what: ClientMessage,
}

#[derive(Clone)]
enum ClientMessage {
    Ask(ClientRequest, Option<Buf>),
    Answer(SliceId, ClientReply, Option<Buf>),
}

/// A client's connection.
#[derive(Clone, Copy, Debug)]
pub struct Conn {
    /// Whose.
    pub client: usize,
    /// To whom.
    pub node: usize,
    /// Who it said it is.
    pub greeting: Greeting,
}

/// An answer that reached its client.
pub struct Arrived {
    /// The client.
    pub client: usize,
    /// On this connection.
    pub conn: ConnId,
    /// From this slice.
    pub slice: SliceId,
    /// The answer.
    pub reply: ClientReply,
    /// Its blocks.
    pub payload: Option<Buf>,
}

/// See the module.
#[derive(Default)]
pub struct Net {
    streams: BTreeMap<(usize, usize), Stream>,
    /// Pairs that do not reach each other, by direction.
    pub cut: BTreeSet<(usize, usize)>,
    redial: BTreeMap<(usize, usize), Instant>,
    clients: Vec<ClientSent>,
    /// Connections of clients.
    pub conns: BTreeMap<ConnId, Conn>,
    next_conn: u64,
    /// Answers for clients.
    pub answers: VecDeque<Arrived>,
    /// Connections that ended, with the client.
    pub hangups: VecDeque<(usize, ConnId)>,
}

impl Net {
    /// Whether `nodes` nodes are all connected, and nothing under way is late.
    pub fn is_calm(&self, nodes: usize, now: Instant) -> bool {
        let soon = now + SOON;
        self.streams.len() == nodes * (nodes - 1)
            && self.streams.values().all(|s| s.last <= soon)
            && self.clients.iter().all(|c| c.due <= soon)
    }
}

impl Cluster {
    fn delay(&mut self) -> Duration {
        match self.rng.random_range(0..1000) {
            0 if !self.is_gentle() => Duration::from_millis(self.rng.random_range(100..5000)),
            1..30 if !self.is_gentle() => Duration::from_millis(self.rng.random_range(5..100)),
            _ => Duration::from_micros(self.rng.random_range(50..1500)),
        }
    }

    // ---- between nodes ----

    /// A stream between two nodes breaks: what is under way is lost.
    pub fn disconnect(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            if self.net.streams.remove(&(from, to)).is_some()
                && let Some(slice) = self.nodes[from].id
            {
                self.input(to, Input::PeerDown { slice });
            }
        }
        let wait = Duration::from_millis(self.rng.random_range(1..60));
        self.net.redial.insert((a.min(b), a.max(b)), self.now + wait);
    }

    /// All that was connected to a node learns that it is gone.
    pub(crate) fn hang_up_on(&mut self, node: usize) {
        for other in (0..self.nodes.len()).filter(|o| *o != node) {
            self.disconnect(node, other);
        }
        let gone: Vec<(ConnId, usize)> =
            (self.net.conns.iter()).filter(|c| c.1.node == node).map(|c| (*c.0, c.1.client)).collect();
        for (conn, client) in gone {
            self.net.conns.remove(&conn);
            self.net.hangups.push_back((client, conn));
        }
        self.net.clients.retain(|c| c.node != node);
    }

    pub(crate) fn connect(&mut self) {
        for a in 0..self.nodes.len() {
            for b in a + 1..self.nodes.len() {
                if self.net.streams.contains_key(&(a, b)) {
                    continue;
                }
                let both = self.nodes[a].is_up() && self.nodes[b].is_up();
                let may = !self.net.cut.contains(&(a, b)) && !self.net.cut.contains(&(b, a));
                let due = self.net.redial.get(&(a, b)).is_none_or(|at| *at <= self.now);
                if !(both && may && due) {
                    continue;
                }
                self.net.streams.insert((a, b), Stream::default());
                self.net.streams.insert((b, a), Stream::default());
                let id = |n: usize| self.nodes[n].id.unwrap_or_default();
                let (ida, idb) = (id(a), id(b));
                self.input(a, Input::PeerUp { slice: idb, same_kernel: false });
                self.input(b, Input::PeerUp { slice: ida, same_kernel: false });
            }
        }
    }

    pub(crate) fn send(&mut self, from: usize, to: SliceId, message: PeerMessage, payload: Option<Buf>) {
        let Some(to) = self.node_of(to) else { return };
        let delay = self.delay();
        let due = self.now + delay;
        if delay >= TOLD {
            let late = || format!("what node {from} sends to node {to} is late by {delay:?}");
            self.story.tell(self.now, About::Cluster, late);
        }
        if let Some(stream) = self.net.streams.get_mut(&(from, to)) {
            // ordered: nothing overtakes
            stream.last = stream.last.max(due);
            stream.queue.push_back(Sent { due: stream.last, message, payload });
        }
    }

    // ---- between clients and nodes ----

    /// A client's connection to a node, or none while it is down.
    pub fn dial(&mut self, client: usize, node: usize, greeting: Greeting) -> Option<ConnId> {
        self.nodes[node].slice.as_ref()?;
        self.net.next_conn += 1;
        let conn = ConnId(self.net.next_conn);
        self.net.conns.insert(conn, Conn { client, node, greeting });
        self.input(node, Input::ClientUp { conn, greeting });
        Some(conn)
    }

    /// A client's connection ends; what is under way may still arrive.
    pub fn hang_up(&mut self, conn: ConnId) {
        if let Some(Conn { node, .. }) = self.net.conns.remove(&conn) {
            self.input(node, Input::ClientDown { conn });
        }
    }

    /// A request leaves.
    pub fn ask(&mut self, conn: ConnId, request: ClientRequest, payload: Option<Buf>) {
        if let Some(&Conn { node, .. }) = self.net.conns.get(&conn) {
            self.travel(node, conn, ClientMessage::Ask(request, payload));
        }
    }

    /// A request of a process that ended, or should have: it comes when others have gone on.
    pub fn ask_late(&mut self, conn: ConnId, request: ClientRequest, payload: Option<Buf>) {
        if let Some(&Conn { node, client, .. }) = self.net.conns.get(&conn) {
            let due = self.now + Duration::from_millis(self.rng.random_range(100..3000));
            self.tell(|| {
                let what = request.op.range().map_or_else(String::new, blocks);
                let (chunk, at) = (request.chunk.0, seconds(due));
                let whose = format!("{what} of chunk {chunk} by the ended life of client {client}");
                format!("a write of {whose} comes to node {node} at {}", at.trim_start())
            });
            self.net.clients.push(ClientSent { due, node, conn, what: ClientMessage::Ask(request, payload) });
            self.count("requests of lives that ended");
        }
    }

    /// An answer leaves.
    pub(crate) fn reply(&mut self, node: usize, conn: ConnId, reply: ClientReply, payload: Option<Buf>) {
        let Some(&known) = self.net.conns.get(&conn) else { return };
        self.look_at_answer(node, known, &reply);
        let slice = self.nodes[node].id.unwrap_or_default();
        self.travel(node, conn, ClientMessage::Answer(slice, reply, payload));
    }

    /// On its way: once, seldom not at all, seldom twice.
    fn travel(&mut self, node: usize, conn: ConnId, what: ClientMessage) {
        if self.bad_luck(0.001) {
            return self.count("messages of clients lost");
        }
        if self.bad_luck(0.002) {
            self.count("messages of clients doubled");
            let due = self.now + self.delay();
            self.net.clients.push(ClientSent { due, node, conn, what: what.clone() });
        }
        let due = self.now + self.delay();
        self.net.clients.push(ClientSent { due, node, conn, what });
    }

    // ---- arrival ----

    pub(crate) fn deliver(&mut self, node: usize) {
        for from in 0..self.nodes.len() {
            loop {
                if self.net.cut.contains(&(from, node)) {
                    break;
                }
                let Some(stream) = self.net.streams.get_mut(&(from, node)) else { break };
                if stream.queue.front().is_none_or(|m| m.due > self.now) {
                    break;
                }
                let Sent { message, payload, .. } = stream.queue.pop_front().expect("it was just seen");
                let Some(id) = self.nodes[from].id else { break };
                self.say_message(from, node, &message);
                self.input(node, Input::Peer { from: id, message, payload });
            }
        }
        let mut at = 0;
        while at < self.net.clients.len() {
            let c = &self.net.clients[at];
            if c.due > self.now || c.node != node || !matches!(c.what, ClientMessage::Ask(..)) {
                at += 1;
                continue;
            }
            let ClientSent { conn, what, .. } = self.net.clients.swap_remove(at);
            if let ClientMessage::Ask(request, payload) = what {
                self.input(node, Input::Client { conn, request, payload });
            }
        }
    }

    pub(crate) fn deliver_answers(&mut self) {
        let mut at = 0;
        while at < self.net.clients.len() {
            let c = &self.net.clients[at];
            if c.due > self.now || !matches!(c.what, ClientMessage::Answer(..)) {
                at += 1;
                continue;
            }
            let ClientSent { conn, what, .. } = self.net.clients.swap_remove(at);
            if let (Some(known), ClientMessage::Answer(slice, reply, payload)) =
                (self.net.conns.get(&conn), what)
            {
                let client = known.client;
                self.net.answers.push_back(Arrived { client, conn, slice, reply, payload });
            }
        }
    }
}
