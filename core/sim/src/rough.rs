//! A client with more haste than manners: it retries early, asks the wrong ones, leaves its earlier sendings under way.
use crate::check::History;
use crate::cluster::{Cluster, Volume};
use crate::net::Arrived;
use crate::workload::{Kind, Request, Work, block_sum};
use rand::Rng;
use sarsen_buffer::{Buf, block_checksum, bytes_checksum};
use sarsen_slice::ConnId;
use sarsen_types::*;
use sarsen_wire::client::{ClientOp, ClientRequest, ClientResult, Greeting, Refusal};
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
#[derive(Default)]
pub struct Rough {
    attachment: AttachmentId,
    generation: Generation,
    session: SessionId,
    revision: Revision,
    answered: BTreeSet<u64>,
    below: u64,
    conns: BTreeMap<usize, ConnId>,
    leaders: BTreeMap<GroupId, (Epoch, SliceId)>,
}

impl Rough {
    /// A session.
    pub fn new(attached: (AttachmentId, Generation, SessionId)) -> Rough {
        let (attachment, generation, session) = attached;
        Rough { attachment, generation, session, below: 1, ..Rough::default() }
    }

    /// Its connections, given up.
    pub fn conns(&mut self) -> Vec<ConnId> {
        std::mem::take(&mut self.conns).into_values().collect()
    }

    /// The process that sent the requests lives on for a while, and sends them once more: it does not know that another took
    /// its place. Nobody reads the answers.
    pub fn linger(&mut self, cluster: &mut Cluster, volume: &Volume, open: &BTreeMap<u64, Request>) {
        let conns = std::mem::take(&mut self.conns);
        for (&number, request) in open.iter().filter(|r| r.1.is_write()) {
            let group = group_of(cluster, volume, request.chunk);
            let primary = cluster.meta.state.groups.get(&group).map(|g| g.primary);
            let Some(&conn) = primary.and_then(|p| cluster.node_of(p)).and_then(|n| conns.get(&n)) else {
                continue;
            };
            let (op, payload) = op_of(volume, request);
            let ask = self.request(volume, group, number, op, request.chunk);
            cluster.ask_late(conn, ask, payload);
        }
    }

    /// Sends what is due.
    pub fn tick(
        &mut self,
        cluster: &mut Cluster,
        volume: &Volume,
        open: &mut BTreeMap<u64, Request>,
        index: usize,
    ) {
        let now = cluster.now;
        for (&number, request) in open.iter_mut().filter(|r| r.1.send_at <= now) {
            request.send_at = now + Duration::from_millis(cluster.rng.random_range(60..400));
            self.send(cluster, volume, request, number, index);
        }
    }

    fn send(&mut self, cluster: &mut Cluster, volume: &Volume, request: &Request, number: u64, index: usize) {
        let group = group_of(cluster, volume, request.chunk);
        let leader = self.leaders.get(&group).map(|l| l.1).filter(|_| cluster.rng.random_bool(0.9));
        // asks the metadata, or guesses
        let Some(to) = leader.or(cluster.meta.state.groups.get(&group).map(|g| g.primary)) else { return };
        let Some(node) = cluster.node_of(to) else {
            self.leaders.remove(&group);
            return;
        };
        let conn = match self.conns.get(&node) {
            Some(conn) => *conn,
            None => {
                let greeting = Greeting {
                    attachment: self.attachment,
                    generation: self.generation,
                    session: self.session,
                };
                let Some(conn) = cluster.dial(index, node, greeting) else {
                    self.leaders.remove(&group);
                    return;
                };
                self.conns.insert(node, conn);
                let greet = self.request(volume, group, 0, ClientOp::Greet, 0);
                cluster.ask(conn, greet, None);
                conn
            }
        };
        let (op, payload) = op_of(volume, request);
        let ask = self.request(volume, group, number, op, request.chunk);
        cluster.ask(conn, ask, payload);
    }

    fn request(
        &self,
        volume: &Volume,
        group: GroupId,
        number: u64,
        op: ClientOp,
        chunk: u32,
    ) -> ClientRequest {
        ClientRequest {
            group,
            revision: self.revision,
            id: RequestId {
                attachment: self.attachment,
                generation: self.generation,
                session: self.session,
                queue: QueueId(0),
                number,
                piece: 0,
            },
            answered_below: self.below,
            volume: volume.id,
            layer: volume.layer,
            chunk: ChunkIndex(chunk),
            op,
        }
    }

    /// A connection ended.
    pub fn hung_up(&mut self, conn: ConnId, open: &mut BTreeMap<u64, Request>) {
        self.conns.retain(|_, c| *c != conn);
        for request in open.values_mut() {
            request.send_at = request.begun;
        }
    }

    /// An answer came.
    pub fn answered(
        &mut self,
        cluster: &mut Cluster,
        history: &mut History,
        work: &mut Work,
        arrived: Arrived,
    ) {
        let Arrived { reply, payload, conn: arrived_on, .. } = arrived;
        let number = reply.number;
        if !self.conns.values().any(|c| *c == arrived_on) {
            return; // to a life that ended
        }
        let Some(request) = work.open.get(&number) else { return };
        cluster.say(|| {
            let (kind, chunk, range) = (request.kind, request.chunk, request.range());
            format!(
                "client {} {number} {kind:?} {chunk}/{range:?} of {}: {:?}",
                work.index, reply.group, reply.result
            )
        });
        match reply.result {
            ClientResult::Done => {
                work.done(cluster, history, number);
                self.end(number);
            }
            ClientResult::Data { present, checksums } => {
                let mut data = payload.iter().flat_map(|p| p.chunks_exact(4096));
                let mut sums = checksums.iter();
                let chunk = ChunkIndex(request.chunk);
                let seen: Vec<u64> = (request.range().blocks().enumerate())
                    .map(|(at, block)| match present >> at & 1 {
                        1 => {
                            let bytes = data.next().expect("a block for each bit");
                            let sum = block_checksum(work.volume.family, chunk, block, bytes);
                            assert_eq!(Some(&sum), sums.next(), "data that do not match their checksum");
                            block_sum(bytes)
                        }
                        _ => 0,
                    })
                    .collect();
                work.seen(cluster, history, number, &seen);
                self.end(number);
            }
            ClientResult::NotPrimary { epoch, primary } => {
                let known = self.leaders.entry(reply.group).or_insert((epoch, primary));
                if epoch >= known.0 {
                    *known = (epoch, primary);
                }
                again(cluster, work, number, 5);
            }
            ClientResult::Retry { after } => again(cluster, work, number, after.as_millis() as u64),
            ClientResult::Stale { revision } => {
                self.revision = self.revision.max(revision);
                again(cluster, work, number, 5);
            }
            ClientResult::BelowMark => {
                panic!("client {}: request {number} is below a mark it never gave", work.index)
            }
            ClientResult::NoSpace => {
                panic!("client {}: there is space, and it is told there is none", work.index)
            }
            ClientResult::Corrupt { range } => {
                panic!("client {}: {}/{range:?} is intact on no copy", work.index, request.chunk)
            }
            // of a life that ended, or is being ended
            ClientResult::Refused(Refusal::OldSession | Refusal::OldGeneration) => {}
            ClientResult::Refused(why) => {
                // the slice may not have learned of the volume yet
                assert!(why == Refusal::Unknown, "client {}: {why:?}", work.index);
                again(cluster, work, number, 30);
            }
            ClientResult::Status { .. } => {}
        }
    }

    fn end(&mut self, number: u64) {
        self.answered.insert(number);
        while self.answered.remove(&self.below) {
            self.below += 1;
        }
    }
}

/// What is asked, and its blocks.
fn op_of(volume: &Volume, request: &Request) -> (ClientOp, Option<Buf>) {
    let chunk = ChunkIndex(request.chunk);
    let (offset, len, range) = (request.offset, request.len, request.range());
    match request.kind {
        Kind::Write(_) => {
            let payload = request.payload.clone().expect("a write has its bytes");
            let checksums = range
                .blocks()
                .zip(payload.chunks_exact(4096))
                .map(|(number, block)| {
                    let start = u32::from(number) * 4096;
                    let (from, to) = (offset.max(start) - start, (offset + len).min(start + 4096) - start);
                    match to - from {
                        4096 => block_checksum(volume.family, chunk, number, block),
                        _ => bytes_checksum(&block[from as usize..to as usize]),
                    }
                })
                .collect();
            (ClientOp::Write { offset, len, checksums }, Some(payload))
        }
        Kind::Zero => (ClientOp::Zero { offset, len }, None),
        Kind::Read => (ClientOp::Read { range }, None),
    }
}

/// The group of a chunk.
pub(crate) fn group_of(cluster: &Cluster, volume: &Volume, chunk: u32) -> GroupId {
    let table = &cluster.meta.state.policies["default"].table;
    table[sarsen_types::view::group_index(table.len(), volume.family, ChunkIndex(chunk))]
}

fn again(cluster: &mut Cluster, work: &mut Work, number: u64, after_ms: u64) {
    let jitter = cluster.rng.random_range(0..10);
    if let Some(request) = work.open.get_mut(&number) {
        request.send_at = cluster.now + Duration::from_millis(after_ms + jitter);
    }
}
