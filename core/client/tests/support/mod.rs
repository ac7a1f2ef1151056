//! The other side of a client: slices and metadata played by a test.
use sarsen_buffer::{Buf, Pool, block_checksum};
use sarsen_client::{Answer, Client, Config, Error, Input, Op, Output, Token};
use sarsen_types::*;
use sarsen_wire::client::{ClientOp, ClientReply, ClientRequest, ClientResult};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Leads groups 0 and 1 at first.
pub const A: SliceId = SliceId::new(1, 0);
/// Leads group 2 at first.
pub const B: SliceId = SliceId::new(2, 0);

/// A frame that left.
pub type Sent = (SliceId, ClientRequest, Option<Buf>);

/// A client with a clock that moves when told to.
pub struct Stage {
    pub client: Client,
    pool: Pool,
    now: Instant,
    next: u64,
    out: Vec<Output>,
    done: BTreeMap<Token, Result<Answer, Error>>,
    sent: Vec<Sent>,
    dials: Vec<SliceId>,
    hang_ups: Vec<SliceId>,
    maps: Vec<Revision>,
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A block that no other number gives.
pub fn block(n: u8) -> Vec<u8> {
    (0..4096u32).map(|at| n.wrapping_mul(31) ^ (at as u8)).collect()
}

fn map() -> VolumeMap {
    VolumeMap {
        revision: Revision(5),
        volume: VolumeId(1),
        name: "v".into(),
        size: 64 * CHUNK_SIZE,
        family: FamilyId(4),
        layer: LayerId(6),
        attachment: AttachmentId(2),
        generation: Generation(3),
        session: SessionId(7),
        read_only: false,
        // the family is chosen so that chunk 0 lies in group 0: see `table`
        table: table(),
        leaders: BTreeMap::from([
            (GroupId(0), (Epoch(1), A)),
            (GroupId(1), (Epoch(1), A)),
            (GroupId(2), (Epoch(1), B)),
        ]),
        addresses: BTreeMap::new(),
        nodes: [A, B].map(|slice| (slice.drive, NodeId(slice.drive.0))).into(),
    }
}

/// Four groups; that of chunk 0 is group 0.
fn table() -> Vec<GroupId> {
    let first = view::group_index(4, FamilyId(4), ChunkIndex(0)) as u32;
    (0..4).map(|at| GroupId((at + 4 - first) % 4)).collect()
}

impl Stage {
    /// A client that has asked for nothing yet.
    pub fn new() -> Stage {
        Stage::made(64 << 20)
    }
    fn made(bytes_max: u64) -> Stage {
        let mut config = Config::new(AttachmentId(2), Generation(3), SessionId(7), 1);
        config.bytes_max = bytes_max;
        Stage {
            client: Client::new(config, Arc::new(map())),
            pool: Pool::new(),
            now: Instant(1_000_000_000),
            next: 0,
            out: Vec::new(),
            done: BTreeMap::new(),
            sent: Vec::new(),
            dials: Vec::new(),
            hang_ups: Vec::new(),
            maps: Vec::new(),
        }
    }
    /// A client with connections that were greeted.
    pub fn greeted(slices: &[SliceId]) -> Stage {
        Stage::with_bytes_max(slices, 64 << 20)
    }
    /// And a bound of its own.
    pub fn with_bytes_max(slices: &[SliceId], bytes_max: u64) -> Stage {
        let mut stage = Stage::made(bytes_max);
        for slice in slices {
            // a read of a group the slice leads makes the client dial
            let chunk = (0..64)
                .find(|c| stage.client.map().leaders.get(&stage.group_of(*c)).is_some_and(|l| l.1 == *slice))
                .expect("it leads something");
            let read = stage.read(chunk * CHUNK_SIZE, 1);
            stage.greet(*slice);
            let sent = stage.sent_one();
            stage.answer_data(&sent, &[]);
            stage.done(read).expect("a read");
        }
        stage.dials.clear();
        stage
    }

    fn group_of(&self, chunk: u64) -> GroupId {
        self.client.map().group_of(ChunkIndex(chunk as u32))
    }
    /// A chunk of a group led by A that is not chunk 0's.
    pub fn chunk_of_another_group(&self) -> u64 {
        (0..64).find(|c| self.group_of(*c) == GroupId(1)).expect("chunks are spread")
    }
    pub fn chunk_of_a_group_nobody_leads(&self) -> u64 {
        (0..64).find(|c| self.group_of(*c) == GroupId(3)).expect("chunks are spread")
    }

    /// A leads every group from now on.
    pub fn all_led_by_a(&mut self) {
        self.learn(|map| map.leaders.extend((0..4).map(|g| (GroupId(g), (Epoch(5), A)))));
    }

    fn step(&mut self, input: Input) {
        self.client.step(self.now, input, &mut self.out);
        for output in self.out.drain(..) {
            match output {
                Output::Connect { slice } => self.dials.push(slice),
                Output::Disconnect { slice } => self.hang_ups.push(slice),
                Output::Send { slice, request, payload } => self.sent.push((slice, request, payload)),
                Output::Complete { token, result } => {
                    assert!(self.done.insert(token, result).is_none(), "a request completes once");
                }
                Output::NeedMap { revision } => self.maps.push(revision),
                Output::Ended(_) => {}
            }
        }
    }
    fn ask(&mut self, op: Op, offset: u64, len: u64) -> Token {
        self.next += 1;
        let token = Token(self.next);
        self.step(Input::Request { token, op, offset, len });
        token
    }
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Token {
        let start = (offset % 4096) as usize;
        let mut data = self.pool.take_zeroed((start + bytes.len()).next_multiple_of(4096));
        data.get_mut()[start..start + bytes.len()].copy_from_slice(bytes);
        self.ask(Op::Write(data), offset, bytes.len() as u64)
    }
    pub fn read(&mut self, offset: u64, len: u64) -> Token {
        self.ask(Op::Read, offset, len)
    }
    pub fn zero(&mut self, offset: u64, len: u64) -> Token {
        self.ask(Op::Zero, offset, len)
    }
    pub fn status(&mut self, offset: u64, len: u64) -> Token {
        self.ask(Op::Status, offset, len)
    }

    pub fn abandon(&mut self, tokens: &[Token]) {
        self.step(Input::Abandon(tokens.to_vec()));
    }
    /// Bytes of buffers that somebody holds.
    pub fn live_bytes(&self) -> usize {
        self.pool.live_bytes()
    }

    pub fn connect(&mut self, slice: SliceId) {
        self.step(Input::Connected { slice });
    }
    pub fn disconnect(&mut self, slice: SliceId) {
        self.step(Input::Disconnected { slice });
    }
    /// Connects, and answers the greeting.
    pub fn greet(&mut self, slice: SliceId) {
        self.connect(slice);
        let greeting = self.sent_one();
        assert_eq!(greeting.1.op, ClientOp::Greet);
        self.answer(&greeting, ClientResult::Done);
    }
    pub fn learn(&mut self, change: impl FnOnce(&mut VolumeMap)) {
        let mut map = (**self.client.map()).clone();
        map.revision.0 += 1;
        change(&mut map);
        self.step(Input::Learned(Arc::new(map)));
    }
    pub fn answer(&mut self, sent: &Sent, result: ClientResult) {
        self.reply(sent, result, None);
    }
    fn reply(&mut self, sent: &Sent, result: ClientResult, payload: Option<Buf>) {
        let (slice, request, _) = sent;
        let reply =
            ClientReply { number: request.id.number, piece: request.id.piece, group: request.group, result };
        self.step(Input::Received { slice: *slice, reply, payload });
    }
    pub fn checksum(&self, chunk: u32, number: u16, bytes: &[u8]) -> Checksum {
        block_checksum(FamilyId(4), ChunkIndex(chunk), number, bytes)
    }
    /// Answers a read with these blocks of its chunk; the others hold nothing.
    pub fn answer_data(&mut self, sent: &Sent, blocks: &[(u16, Vec<u8>)]) {
        let ClientOp::Read { range } = sent.1.op else { panic!("a read") };
        let present = blocks.iter().fold(0u64, |all, (b, _)| all | 1 << (b - range.first));
        let checksums = blocks.iter().map(|(b, bytes)| self.checksum(sent.1.chunk.0, *b, bytes)).collect();
        let bytes: Vec<u8> = blocks.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        let payload = (!bytes.is_empty()).then(|| self.pool.copy_of(&bytes));
        self.reply(sent, ClientResult::Data { present, checksums }, payload);
    }
    /// Answers a read of one block with bytes that do not match.
    pub fn answer_damaged(&mut self, sent: &Sent) {
        let checksums = [self.checksum(0, 0, &block(1))].into_iter().collect();
        let payload = Some(self.pool.copy_of(&block(2)));
        self.reply(sent, ClientResult::Data { present: 1, checksums }, payload);
    }

    /// Time passes, and the client is looked after whenever it wants to be.
    pub fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.client.deadline().filter(|at| *at <= end) {
            assert!(at > self.now || self.now == end || at == self.now, "time does not go back");
            self.now = self.now.max(at);
            let before = self.client.deadline();
            self.step(Input::Tick);
            assert!(self.client.deadline() != before, "a tick at the deadline moves it");
        }
        self.now = end;
    }

    pub fn sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }
    pub fn sent_one(&mut self) -> Sent {
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "one frame leaves: {sent:?}");
        sent.remove(0)
    }
    pub fn dials(&mut self) -> Vec<SliceId> {
        std::mem::take(&mut self.dials)
    }
    pub fn hang_ups(&mut self) -> Vec<SliceId> {
        std::mem::take(&mut self.hang_ups)
    }
    pub fn maps_needed(&mut self) -> Vec<Revision> {
        std::mem::take(&mut self.maps)
    }
    pub fn is_open(&self, token: Token) -> bool {
        !self.done.contains_key(&token)
    }
    pub fn done(&mut self, token: Token) -> Result<Answer, Error> {
        self.done.remove(&token).unwrap_or_else(|| panic!("{token:?} is not answered"))
    }
}
