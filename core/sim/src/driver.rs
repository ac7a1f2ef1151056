//! A client that sends through `core/client`, the machine that ships: its host dials, listens for maps, hands answers on.
use crate::check::History;
use crate::cluster::Cluster;
use crate::net::Arrived;
use crate::workload::{Kind, Work, block_sum};
use rand::Rng;
use sarsen_buffer::joined;
use sarsen_client::{Answer, Client, Config, Error, Input, Op, Output, Token};
use sarsen_slice::ConnId;
use sarsen_types::*;
use sarsen_wire::client::{ClientOp, Greeting};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A host that dials a machine without power gives up after this.
const DIAL_MAX: Duration = Duration::from_millis(1000);

/// A connection being made.
struct Dial {
    /// When it is known how that ended.
    ends: Instant,
    slice: SliceId,
    /// Nobody answered.
    is_given_up: bool,
}

/// See the module.
pub struct Driver {
    client: Client,
    greeting: Greeting,
    conns: BTreeMap<SliceId, ConnId>,
    /// Connections whose greeting is not answered, since when.
    greets: BTreeMap<ConnId, Instant>,
    dials: Vec<Dial>,
    learns_at: Option<Instant>,
    wants: Option<Revision>,
    out: Vec<Output>,
}

impl Driver {
    /// A session.
    pub fn new(cluster: &mut Cluster, attached: (AttachmentId, Generation, SessionId)) -> Driver {
        let (attachment, generation, session) = attached;
        let map = cluster.meta.state.volume_map(attachment).expect("it was just attached");
        let config = Config::new(attachment, generation, session, cluster.rng.random());
        Driver {
            client: Client::new(config, Arc::new(map)),
            greeting: Greeting { attachment, generation, session },
            conns: BTreeMap::new(),
            greets: BTreeMap::new(),
            dials: Vec::new(),
            learns_at: None,
            wants: None,
            out: Vec::new(),
        }
    }

    /// Its connections, given up.
    pub fn conns(&mut self) -> Vec<ConnId> {
        std::mem::take(&mut self.conns).into_values().collect()
    }

    /// How long its oldest greeting waits. It shows no request that waits, and yet, when the other end of the connection comes
    /// to lead a group, the requests of that group wait for it.
    pub fn longest_greeting(&self, now: Instant) -> Duration {
        self.greets.values().map(|since| now.since(*since)).fold(Duration::ZERO, Duration::max)
    }

    fn step(&mut self, cluster: &mut Cluster, history: &mut History, work: &mut Work, input: Input) {
        let mut out = std::mem::take(&mut self.out);
        self.client.step(cluster.now, input, &mut out);
        for output in out.drain(..) {
            match output {
                Output::Connect { slice } => {
                    let takes = Duration::from_micros(cluster.rng.random_range(100..2000));
                    let ends = cluster.now + takes;
                    self.dials.push(Dial { ends, slice, is_given_up: false });
                }
                Output::Disconnect { slice } => {
                    self.dials.retain(|d| d.slice != slice);
                    if let Some(conn) = self.conns.remove(&slice) {
                        self.greets.remove(&conn);
                        cluster.hang_up(conn);
                    }
                }
                Output::Send { slice, request, payload } => {
                    if let Some(conn) = self.conns.get(&slice) {
                        if request.op == ClientOp::Greet {
                            self.greets.insert(*conn, cluster.now);
                        }
                        cluster.ask(*conn, request, payload);
                    }
                }
                Output::Complete { token, result } => completed(cluster, history, work, token.0, result),
                Output::NeedMap { revision } => self.wants = Some(revision),
                Output::Ended(why) => cluster.say(|| format!("client {} ends: {why}", work.index)),
            }
        }
        self.out = out;
    }

    /// A request is handed to the machine.
    pub fn begin(&mut self, cluster: &mut Cluster, history: &mut History, work: &mut Work, number: u64) {
        let request = &work.open[&number];
        let op = match request.kind {
            Kind::Write(_) => Op::Write(request.payload.clone().expect("a write has its bytes")),
            Kind::Zero => Op::Zero,
            Kind::Read => Op::Read,
        };
        let offset = u64::from(request.chunk) * CHUNK_SIZE + u64::from(request.offset);
        let input = Input::Request { token: Token(number), op, offset, len: u64::from(request.len) };
        self.step(cluster, history, work, input);
    }

    /// What is due: dials that end, maps that come, the machine's deadline.
    pub fn tick(&mut self, cluster: &mut Cluster, history: &mut History, work: &mut Work) {
        let now = cluster.now;
        while let Some(at) = self.dials.iter().position(|d| d.ends <= now) {
            let dial = self.dials.swap_remove(at);
            self.dialed(cluster, history, work, dial);
        }
        let state = &cluster.meta.state;
        let is_news = state.map_revision > self.client.map().revision
            || self.wants.is_some_and(|wanted| state.revision >= wanted);
        match self.learns_at {
            None if is_news => self.learns_at = Some(now + cluster.news_take()),
            Some(at) if at <= now => {
                (self.learns_at, self.wants) = (None, None);
                if let Some(map) = state.volume_map(self.greeting.attachment) {
                    self.step(cluster, history, work, Input::Learned(Arc::new(map)));
                }
            }
            _ => {}
        }
        if self.client.deadline().is_some_and(|at| at <= now) {
            self.step(cluster, history, work, Input::Tick);
        }
    }

    fn dialed(&mut self, cluster: &mut Cluster, history: &mut History, work: &mut Work, dial: Dial) {
        let slice = dial.slice;
        let node = cluster.node_of(slice);
        if node.is_some_and(|node| cluster.nodes[node].is_dark) && !dial.is_given_up {
            cluster.count("dials of a node without power");
            return self.dials.push(Dial { ends: cluster.now + DIAL_MAX, slice, is_given_up: true });
        }
        let conn = node.and_then(|node| cluster.dial(work.index, node, self.greeting));
        let input = match conn {
            Some(conn) => {
                self.conns.insert(slice, conn);
                Input::Connected { slice }
            }
            None => Input::Disconnected { slice },
        };
        self.step(cluster, history, work, input);
    }

    /// A connection ended.
    pub fn hung_up(&mut self, cluster: &mut Cluster, history: &mut History, work: &mut Work, conn: ConnId) {
        let Some(slice) = self.conns.iter().find(|c| *c.1 == conn).map(|c| *c.0) else { return };
        self.conns.remove(&slice);
        self.greets.remove(&conn);
        self.step(cluster, history, work, Input::Disconnected { slice });
    }

    /// An answer came.
    pub fn answered(
        &mut self,
        cluster: &mut Cluster,
        history: &mut History,
        work: &mut Work,
        arrived: Arrived,
    ) {
        let Arrived { conn, slice, reply, payload, .. } = arrived;
        if self.conns.get(&slice) == Some(&conn) {
            self.greets.remove(&conn); // nothing is asked before it is answered
            cluster.say(|| {
                format!("client {} {} of {}: {:?}", work.index, reply.number, reply.group, reply.result)
            });
            self.step(cluster, history, work, Input::Received { slice, reply, payload });
        }
    }
}

fn completed(
    cluster: &mut Cluster,
    history: &mut History,
    work: &mut Work,
    number: u64,
    result: Result<Answer, Error>,
) {
    match result {
        Ok(Answer::Done) => work.done(cluster, history, number),
        Ok(Answer::Data(parts)) => {
            let sums: Vec<u64> = joined(&parts).chunks_exact(4096).map(block_sum).collect();
            work.seen(cluster, history, number, &sums);
        }
        Ok(Answer::Extents(_)) => unreachable!("nobody asks for extents"),
        // it was taken from us: unanswered for ever
        Err(Error::Fenced | Error::Superseded) => {}
        Err(why) => panic!("client {}: {why}", work.index),
    }
}
