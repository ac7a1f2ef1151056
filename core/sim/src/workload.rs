//! Clients: sessions that write, read, retry for ever, and restart; and the histories they leave.
use crate::check::{History, Observation};
use crate::cluster::Cluster;
use rand::Rng;
use sarsen_buffer::{Buf, block_checksum, bytes_checksum};
use sarsen_slice::ConnId;
use sarsen_types::*;
use sarsen_wire::client::{ClientOp, ClientReply, ClientRequest, ClientResult, Greeting, Refusal};
use std::collections::{BTreeMap, BTreeSet};

/// Blocks of the region that all clients share.
pub const SHARED_BLOCKS: u16 = 12;
/// Blocks of a region of a client's own.
pub const OWN_BLOCKS: u16 = 24;
/// Requests a client has under way.
const OPEN_MAX: usize = 6;

/// A volume as clients use it: chunks, each in its group.
#[derive(Clone, Copy, Debug)]
pub struct Volume {
    /// The volume.
    pub id: VolumeId,
    /// Its layer.
    pub layer: LayerId,
    /// Its family.
    pub family: FamilyId,
}

/// What a request does.
#[derive(Clone, Debug)]
enum Kind {
    Write {
        value: u64,
    },
    /// Bytes inside one block.
    Patch {
        offset: u32,
        len: u32,
        value: u64,
    },
    Zero,
    Read,
}

/// A request under way.
#[derive(Clone, Debug)]
struct Request {
    chunk: u32,
    range: BlockRange,
    kind: Kind,
    begun: Instant,
    retry_at: Instant,
    /// For writes: where it stands in each block's history.
    entries: Vec<(u16, usize)>,
    /// For reads of own blocks: the least position each may show.
    payload: Option<Buf>,
}

/// A client: one session on one volume.
pub struct Client {
    index: usize,
    volume: Volume,
    attachment: AttachmentId,
    generation: Generation,
    session: SessionId,
    revision: Revision,
    next: u64,
    open: BTreeMap<u64, Request>,
    answered: BTreeSet<u64>,
    below: u64,
    conns: BTreeMap<usize, ConnId>,
    leaders: BTreeMap<GroupId, (Epoch, SliceId)>,
    /// Whether all clients share the region it writes.
    is_shared: bool,
    next_value: u64,
    /// Requests answered.
    pub answered_count: u64,
    /// New requests are begun.
    pub is_busy: bool,
    /// Longest wait for an answer.
    pub longest: Duration,
    /// Part-block writes are exact only while every write before is known to have taken effect or not.
    may_patch: bool,
}

impl Client {
    /// A client with its first session.
    pub fn new(
        index: usize,
        volume: Volume,
        is_shared: bool,
        attached: (AttachmentId, Generation, SessionId),
    ) -> Client {
        Client {
            index,
            volume,
            attachment: attached.0,
            generation: attached.1,
            session: attached.2,
            revision: Revision(0),
            next: 1,
            open: BTreeMap::new(),
            answered: BTreeSet::new(),
            below: 1,
            conns: BTreeMap::new(),
            leaders: BTreeMap::new(),
            is_shared,
            next_value: (index as u64 + 1) << 32,
            answered_count: 0,
            is_busy: true,
            longest: Duration::ZERO,
            may_patch: true,
        }
    }

    /// A new life of the driver: what was under way is unanswered for ever.
    pub fn restart(&mut self, cluster: &mut Cluster, session: SessionId) {
        for (_, conn) in std::mem::take(&mut self.conns) {
            cluster.hang_up(conn);
        }
        self.session = session;
        self.may_patch &= self.open.is_empty();
        self.open.clear();
        self.answered.clear();
        self.next = 1;
        self.below = 1;
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    fn group_of(&self, cluster: &Cluster, chunk: u32) -> GroupId {
        let table = &cluster.state.policies["default"].table;
        table[sarsen_types::view::group_index(table.len(), self.volume.family, ChunkIndex(chunk))]
    }

    /// Begins requests, sends what is due again.
    pub fn tick(&mut self, cluster: &mut Cluster, history: &mut History) {
        if self.is_busy && self.open.len() < OPEN_MAX && cluster.rng.random_bool(0.35) {
            self.begin(cluster, history);
        }
        let due: Vec<u64> = self.open.iter().filter(|r| r.1.retry_at <= cluster.now).map(|r| *r.0).collect();
        for number in due {
            self.send(cluster, number);
        }
    }

    fn begin(&mut self, cluster: &mut Cluster, history: &mut History) {
        let blocks = if self.is_shared { SHARED_BLOCKS } else { OWN_BLOCKS };
        let chunk = if self.is_shared { 0 } else { cluster.rng.random_range(1..3) + 2 * self.index as u32 };
        let first = cluster.rng.random_range(0..blocks);
        let count = if cluster.rng.random_bool(0.6) {
            1
        } else {
            cluster.rng.random_range(1..=(blocks - first).min(6))
        };
        let range = BlockRange::new(first, count);
        let dice = cluster.rng.random_range(0..100);
        let is_write = dice < 55;
        // R22: no write that overlaps an earlier unanswered one of this session
        let clash =
            |r: &Request| r.chunk == chunk && r.range.overlaps(range) && !matches!(r.kind, Kind::Read);
        if is_write && self.open.values().any(clash) {
            return;
        }
        let number = self.next;
        self.next += 1;
        let kind = match dice {
            0..8 if !self.is_shared => Kind::Zero,
            8..18 if self.may_patch && !self.is_shared && count == 1 => {
                let offset = cluster.rng.random_range(0..4000);
                let len = cluster.rng.random_range(1..=4096 - offset);
                self.next_value += 1;
                Kind::Patch { offset, len, value: self.next_value }
            }
            0..55 => {
                self.next_value += 1;
                Kind::Write { value: self.next_value }
            }
            _ => Kind::Read,
        };
        let mut request = Request {
            chunk,
            range,
            kind,
            begun: cluster.now,
            retry_at: cluster.now,
            entries: Vec::new(),
            payload: None,
        };
        let key = |b| (self.volume.id, chunk, b);
        match request.kind {
            Kind::Write { value } => {
                let mut payload = cluster.pool().take(range.bytes());
                for (at, block) in payload.get_mut().chunks_exact_mut(4096).enumerate() {
                    fill(block, value, range.first + at as u16);
                }
                request.entries = range
                    .blocks()
                    .map(|b| (b, history.write(key(b), content(value, b), cluster.now)))
                    .collect();
                request.payload = Some(payload);
            }
            Kind::Patch { offset, len, value } => {
                let mut payload = cluster.pool().take_zeroed(4096);
                let bytes = &mut payload.get_mut()[offset as usize..(offset + len) as usize];
                bytes.fill(value as u8);
                let sum = history.patch(key(first), offset, bytes, cluster.now);
                request.entries = vec![(first, sum)];
                request.payload = Some(payload);
            }
            Kind::Zero => {
                request.entries = range.blocks().map(|b| (b, history.zero(key(b), cluster.now))).collect();
            }
            Kind::Read => {}
        }
        self.open.insert(number, request);
        self.send(cluster, number);
    }

    fn send(&mut self, cluster: &mut Cluster, number: u64) {
        let wait = Duration::from_millis(cluster.rng.random_range(60..400));
        let Some(request) = self.open.get_mut(&number) else { return };
        request.retry_at = cluster.now + wait;
        let request = request.clone();
        let group = self.group_of(cluster, request.chunk);
        let leader = self.leaders.get(&group).map(|l| l.1).filter(|_| cluster.rng.random_bool(0.9));
        let target = match leader {
            Some(slice) => slice,
            // asks the metadata, or guesses
            None => match cluster.state.groups.get(&group) {
                Some(g) => g.primary,
                None => return,
            },
        };
        let Some(node) = cluster.node_of(target) else { return };
        let conn = match self.conns.get(&node) {
            Some(conn) => *conn,
            None => {
                let greeting = Greeting {
                    attachment: self.attachment,
                    generation: self.generation,
                    session: self.session,
                };
                let Some(conn) = cluster.dial(self.index, node, greeting) else {
                    self.leaders.remove(&group);
                    return;
                };
                self.conns.insert(node, conn);
                let greet = self.request(group, 0, ClientOp::Greet, 0);
                cluster.ask(self.index, conn, greet, None);
                conn
            }
        };
        let family = self.volume.family;
        let chunk = ChunkIndex(request.chunk);
        let (offset, bytes) = (u32::from(request.range.first) * 4096, request.range.bytes() as u32);
        let (op, payload) = match request.kind {
            Kind::Write { .. } => {
                let payload = request.payload.clone().expect("a write has its bytes");
                let sum = |(at, b): (usize, &[u8])| {
                    block_checksum(family, chunk, request.range.first + at as u16, b)
                };
                let checksums = payload.chunks_exact(4096).enumerate().map(sum).collect();
                (ClientOp::Write { offset, len: bytes, checksums }, Some(payload))
            }
            Kind::Patch { offset: inside, len, .. } => {
                let payload = request.payload.clone().expect("a write has its bytes");
                let part = &payload[inside as usize..(inside + len) as usize];
                let sum = match len {
                    4096 => block_checksum(family, chunk, request.range.first, part),
                    _ => bytes_checksum(part),
                };
                let checksums = std::iter::once(sum).collect();
                (ClientOp::Write { offset: offset + inside, len, checksums }, Some(payload))
            }
            Kind::Zero => (ClientOp::Zero { offset, len: bytes }, None),
            Kind::Read => (ClientOp::Read { range: request.range }, None),
        };
        let ask = self.request(group, number, op, request.chunk);
        cluster.ask(self.index, conn, ask, payload);
    }

    fn request(&self, group: GroupId, number: u64, op: ClientOp, chunk: u32) -> ClientRequest {
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
            volume: self.volume.id,
            layer: self.volume.layer,
            chunk: ChunkIndex(chunk),
            op,
        }
    }

    /// A connection ended.
    pub fn hung_up(&mut self, node: usize) {
        self.conns.remove(&node);
        for request in self.open.values_mut() {
            request.retry_at = request.begun;
        }
    }

    /// An answer came.
    pub fn answered(
        &mut self,
        cluster: &mut Cluster,
        history: &mut History,
        reply: ClientReply,
        payload: Option<Buf>,
    ) {
        let number = reply.number;
        let Some(request) = self.open.get(&number).cloned() else { return };
        let key = |b| (self.volume.id, request.chunk, b);
        cluster.say(|| {
            let Request { chunk, range, kind, .. } = &request;
            format!(
                "client {} {number} {kind:?} {chunk}/{range:?} of {}: {:?}",
                self.index, reply.group, reply.result
            )
        });
        match reply.result {
            ClientResult::Done => {
                for (block, at) in &request.entries {
                    history.answered(key(*block), *at, cluster.now);
                }
                self.end(cluster, number);
            }
            ClientResult::Data { present, checksums } => {
                let mut data = payload.iter().flat_map(|p| p.chunks_exact(4096));
                let mut sums = checksums.iter();
                for (at, block) in request.range.blocks().enumerate() {
                    let seen = match present >> at & 1 {
                        1 => {
                            let bytes = data.next().expect("a block for each bit");
                            let sum =
                                block_checksum(self.volume.family, ChunkIndex(request.chunk), block, bytes);
                            assert_eq!(
                                Some(&sum),
                                sums.next(),
                                "data that do not match their checksum were served"
                            );
                            crate::check::sum(bytes)
                        }
                        _ => 0,
                    };
                    let observation = Observation { begun: request.begun, ended: cluster.now, content: seen };
                    history.read(key(block), observation);
                }
                self.end(cluster, number);
            }
            ClientResult::NotPrimary { epoch, primary } => {
                let known = self.leaders.entry(reply.group).or_insert((epoch, primary));
                if epoch >= known.0 {
                    *known = (epoch, primary);
                }
                self.again(cluster, number, 5);
            }
            ClientResult::Retry { after } => self.again(cluster, number, after.as_millis() as u64),
            ClientResult::Stale { revision } => {
                self.revision = self.revision.max(revision);
                self.again(cluster, number, 5);
            }
            ClientResult::BelowMark => {
                panic!("client {}: request {number} is below a mark it never gave", self.index)
            }
            ClientResult::NoSpace => self.again(cluster, number, 50),
            ClientResult::Refused(Refusal::OldSession | Refusal::OldGeneration) => {
                // of a life that ended
            }
            ClientResult::Refused(why) => {
                // the slice may not have learned of the volume yet
                assert!(why == Refusal::Unknown, "client {}: {why:?}", self.index);
                self.again(cluster, number, 30);
            }
            ClientResult::Corrupt { range } => {
                history.corrupt.push((self.volume.id, request.chunk, range));
                self.again(cluster, number, 200);
            }
            ClientResult::Status { .. } => {}
        }
    }

    fn again(&mut self, cluster: &mut Cluster, number: u64, after_ms: u64) {
        let jitter = cluster.rng.random_range(0..10);
        if let Some(request) = self.open.get_mut(&number) {
            request.retry_at = cluster.now + Duration::from_millis(after_ms + jitter);
        }
    }

    fn end(&mut self, cluster: &Cluster, number: u64) {
        if let Some(request) = self.open.remove(&number) {
            self.longest = self.longest.max(cluster.now.since(request.begun));
        }
        self.answered_count += 1;
        self.answered.insert(number);
        while self.answered.remove(&self.below) {
            self.below += 1;
        }
    }

    /// What it waits for, in words.
    pub fn describe(&self) -> Vec<String> {
        let open = self.open.iter();
        open.map(|(n, r)| {
            format!(
                "client {} waits for {n}: {:?} {}/{:?} since {:?}, retries at {:?}",
                self.index, r.kind, r.chunk, r.range, r.begun, r.retry_at
            )
        })
        .collect()
    }

    /// Reads all it may read once more: what is there when all is quiet.
    pub fn read_all(&mut self, cluster: &mut Cluster) {
        let blocks = if self.is_shared { SHARED_BLOCKS } else { OWN_BLOCKS };
        let chunks =
            if self.is_shared { vec![0] } else { vec![1 + 2 * self.index as u32, 2 + 2 * self.index as u32] };
        for chunk in chunks {
            let number = self.next;
            self.next += 1;
            let request = Request {
                chunk,
                range: BlockRange::new(0, blocks),
                kind: Kind::Read,
                begun: cluster.now,
                retry_at: cluster.now,
                entries: vec![],
                payload: None,
            };
            self.open.insert(number, request);
        }
    }
}

fn fill(block: &mut [u8], value: u64, number: u16) {
    let pattern = (value ^ u64::from(number) << 48).to_le_bytes();
    for (at, byte) in block.iter_mut().enumerate() {
        *byte = pattern[at % 8];
    }
}

/// The content of a whole block as histories know it.
fn content(value: u64, number: u16) -> Vec<u8> {
    let mut block = vec![0; 4096];
    fill(&mut block, value, number);
    block
}
