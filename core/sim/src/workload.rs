//! What clients ask, and what they were answered: requests, their histories, sessions that end and begin.
use crate::check::{Author, History, Key, Observation, sum};
use crate::cluster::{Cluster, Volume};
use crate::driver::Driver;
use crate::net::Arrived;
use crate::rough::{Rough, group_of};
use crate::script::Plan;
use crate::story::{About, Subject, blocks};
use rand::Rng;
use rand::rngs::SmallRng;
use sarsen_buffer::Buf;
use sarsen_slice::ConnId;
use sarsen_types::*;
use std::collections::{BTreeMap, BTreeSet};

/// Blocks of the region that all clients share.
pub const SHARED_BLOCKS: u16 = 12;
/// Blocks of a region of a client's own.
pub const OWN_BLOCKS: u16 = 24;
/// Where they begin for a driver: its requests lie across the border of a piece.
const OWN_FIRST: u16 = PIECE - OWN_BLOCKS / 2;
const PIECE: u16 = limits::PIECE_BLOCKS_MAX;
/// Requests a client has under way.
const OPEN_MAX: usize = 6;
/// Chance that a client begins a request in a tick.
const BEGINS: f64 = 0.03;

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Bytes, made from a number that is used once.
    Write(u64),
    /// Zeroes.
    Zero,
    /// Whole blocks are read.
    Read,
}

/// What a client wishes to ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    /// The chunk.
    pub chunk: u32,
    /// Where in it, in bytes.
    pub offset: u32,
    /// How many bytes.
    pub len: u32,
    /// What.
    pub kind: Kind,
}

impl Wish {
    fn range(&self) -> BlockRange {
        BlockRange::covering(self.offset, self.len)
    }

    fn words(&self, number: usize) -> String {
        let (blocks, len, chunk) = (blocks(self.range()), self.len, self.chunk);
        let is_whole = (self.offset | len).is_multiple_of(4096);
        match self.kind {
            Kind::Write(_) if is_whole => format!("writes value {number} to {blocks} of chunk {chunk}"),
            Kind::Write(_) => {
                format!("writes {len} bytes in {blocks} of chunk {chunk}, with them it is value {number}")
            }
            Kind::Zero => {
                format!("writes zeroes to {len} bytes in {blocks} of chunk {chunk} (request {number})")
            }
            Kind::Read => format!("reads {blocks} of chunk {chunk}"),
        }
    }
}

/// Whether a wish can be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum May {
    Now,
    /// Not beside what is under way.
    Later,
    /// It would not be known what it leaves.
    Never,
}

/// A request under way.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its chunk.
    pub chunk: u32,
    /// Where in it, in bytes.
    pub offset: u32,
    /// How many bytes.
    pub len: u32,
    /// What.
    pub kind: Kind,
    /// When it was asked.
    pub begun: Instant,
    /// When it is sent (again), by a client that does so itself.
    pub send_at: Instant,
    /// For writes: where it stands in each block's history.
    entries: Vec<(u16, usize)>,
    /// For writes: whole blocks, of which the bytes at `offset` count.
    pub payload: Option<Buf>,
    /// Where it stands in the story.
    told: Option<usize>,
}

impl Request {
    /// Its blocks.
    pub fn range(&self) -> BlockRange {
        BlockRange::covering(self.offset, self.len)
    }
    /// Whether it changes them.
    pub fn is_write(&self) -> bool {
        self.kind != Kind::Read
    }
}

/// Requests under way and what is known of those before.
pub struct Work {
    /// Which client.
    pub index: usize,
    /// Its volume.
    pub volume: Volume,
    is_shared: bool,
    author: Author,
    /// Under way, by number.
    pub open: BTreeMap<u64, Request>,
    /// The next number.
    pub next: u64,
    next_value: u64,
    /// Blocks on which an ended life left writes unanswered: what they hold is not known before they are overwritten.
    unsure: BTreeSet<(u32, u16)>,
    /// Overlapping writes may be under way together: who sends them keeps their order (R22).
    may_overlap: bool,
    first: u16,
    /// Requests answered.
    pub answered_count: u64,
    /// The longest wait of a write since `watched_since`.
    pub longest: Duration,
    watched_since: Instant,
}

impl Work {
    /// Draws a request.
    fn draw(&mut self, rng: &mut SmallRng) -> Wish {
        let blocks = if self.is_shared { SHARED_BLOCKS } else { OWN_BLOCKS };
        let chunk = if self.is_shared { 0 } else { rng.random_range(1..3) + 2 * self.index as u32 };
        let first = rng.random_range(0..blocks);
        let is_short = rng.random_bool(0.6);
        let count = if is_short { 1 } else { rng.random_range(1..=(blocks - first).min(6)) };
        let (mut offset, mut len) = (u32::from(self.first + first) * 4096, u32::from(count) * 4096);
        let kind = match rng.random_range(0..100) {
            0..8 if !self.is_shared => Kind::Zero,
            0..55 => {
                self.next_value += 1;
                Kind::Write(self.next_value)
            }
            _ => Kind::Read,
        };
        if kind != Kind::Read && !self.is_shared && rng.random_bool(0.2) {
            // a part of its first and last block
            let cut = rng.random_range(1..4096);
            offset += cut;
            len = (len - cut).min(rng.random_range(1..=len));
        }
        Wish { chunk, offset, len, kind }
    }

    fn may(&self, wish: &Wish) -> May {
        let Wish { chunk, offset, len, kind } = *wish;
        let range = wish.range();
        let is_patch = !(offset | len).is_multiple_of(4096);
        let clash = |r: &Request| r.chunk == chunk && r.range().overlaps(range) && r.is_write();
        match kind != Kind::Read {
            true if is_patch && range.blocks().any(|b| self.unsure.contains(&(chunk, b))) => May::Never,
            true if !self.may_overlap && self.open.values().any(clash) => May::Later,
            _ => May::Now,
        }
    }

    /// Begins a request; gives its number.
    fn begin(&mut self, cluster: &Cluster, history: &mut History, wish: Wish, name: usize) -> u64 {
        let Wish { chunk, offset, len, kind } = wish;
        let now = cluster.now;
        let (entries, payload) = (Vec::new(), None);
        let told = self.tell(cluster, &wish, || wish.words(name));
        let mut request =
            Request { chunk, offset, len, kind, begun: now, send_at: now, entries, payload, told };
        if request.is_write() {
            self.write(cluster, history, &mut request, name);
        }
        let number = self.next;
        self.next += 1;
        self.open.insert(number, request);
        number
    }

    fn tell(&self, cluster: &Cluster, wish: &Wish, text: impl Fn() -> String) -> Option<usize> {
        let range = wish.range();
        let blocks = range.first..range.first + range.count;
        let about = About::Blocks(
            group_of(cluster, &self.volume, wish.chunk),
            self.key(wish.chunk, range.first),
            blocks,
        );
        cluster.story.tell(cluster.now, about, || format!("client {} {}", self.index, text()))
    }

    /// Bytes and history of a write.
    fn write(&mut self, cluster: &Cluster, history: &mut History, request: &mut Request, name: usize) {
        let range = request.range();
        let mut payload = cluster.pool().take_zeroed(range.bytes());
        let end = request.offset + request.len;
        for (at, number) in range.blocks().enumerate() {
            let start = u32::from(number) * 4096;
            let (from, to) = (request.offset.max(start) - start, end.min(start + 4096) - start);
            let part = from as usize..to as usize;
            let block = &mut payload.get_mut()[at * 4096..][..4096];
            if let Kind::Write(value) = request.kind {
                fill(&mut block[part.clone()], value, number);
            }
            let key = self.key(request.chunk, number);
            let place = match part.len() {
                4096 => {
                    self.unsure.remove(&(request.chunk, number));
                    history.write(key, self.author, block.to_vec(), cluster.now)
                }
                _ => history.patch(key, self.author, part.start, &block[part], cluster.now),
            };
            cluster.story.name(history.content(key, place), name);
            request.entries.push((number, place));
        }
        request.payload = (request.kind != Kind::Zero).then_some(payload);
    }

    fn key(&self, chunk: u32, block: u16) -> Key {
        (self.volume.id, chunk, block)
    }

    /// A write was answered.
    pub fn done(&mut self, cluster: &Cluster, history: &mut History, number: u64) {
        let Some(request) = self.open.remove(&number) else { return };
        for (block, at) in &request.entries {
            history.answered(self.key(request.chunk, *block), *at, cluster.now);
        }
        cluster.story.ended(request.told, cluster.now, || "it is answered".into());
        self.longest = self.longest.max(cluster.now.since(request.begun.max(self.watched_since)));
        self.answered_count += 1;
    }

    /// A read was answered: its blocks' sums.
    pub fn seen(&mut self, cluster: &Cluster, history: &mut History, number: u64, sums: &[u64]) {
        let Some(request) = self.open.remove(&number) else { return };
        cluster.story.ended(request.told, cluster.now, || {
            let mut values: Vec<String> = sums.iter().map(|s| cluster.story.value(*s)).collect();
            values.dedup();
            format!("it sees {}", values.join(", "))
        });
        for (block, &content) in request.range().blocks().zip(sums) {
            let seen = Observation { begun: request.begun, ended: cluster.now, content };
            let key = self.key(request.chunk, block);
            cluster.story.judge(Subject::Block(key));
            history.read(key, seen);
        }
        self.answered_count += 1;
    }

    /// The session is over: what is under way stays unanswered for ever.
    fn abandon(&mut self) {
        for request in std::mem::take(&mut self.open).into_values().filter(Request::is_write) {
            self.unsure.extend(request.range().blocks().map(|b| (request.chunk, b)));
        }
        self.author.life += 1;
    }
}

enum Engine {
    Rough(Rough),
    Driver(Box<Driver>),
}

/// A client: a session on a volume, and who sends its requests.
pub struct Client {
    /// Its requests.
    pub work: Work,
    engine: Engine,
    /// New requests are begun.
    pub is_busy: bool,
    /// Its attachment.
    pub attachment: AttachmentId,
    volume_name: String,
    owners: u32,
    /// Its volume is being taken from it by force.
    pub is_fenced: bool,
}

impl Client {
    /// A client with its first session. Even ones send through `core/client`, odd ones with more haste than manners.
    pub fn new(cluster: &mut Cluster, index: usize, volume: Volume, volume_name: &str) -> Client {
        let is_shared = volume_name == "shared";
        let is_driver = index.is_multiple_of(2);
        let work = Work {
            index,
            volume,
            is_shared,
            author: Author { client: index as u32, life: 1 },
            open: BTreeMap::new(),
            next: 1,
            next_value: (index as u64 + 1) << 32,
            unsure: BTreeSet::new(),
            may_overlap: is_driver && !is_shared,
            first: if is_driver && !is_shared { OWN_FIRST } else { 0 },
            answered_count: 0,
            longest: Duration::ZERO,
            watched_since: Instant(0),
        };
        let mut client = Client {
            work,
            engine: Engine::Rough(Rough::default()),
            is_busy: true,
            attachment: AttachmentId(0),
            volume_name: volume_name.into(),
            owners: 1,
            is_fenced: false,
        };
        assert!(client.attach(cluster), "nobody else has it");
        client
    }

    /// Takes the right to the volume, with a new session. Whether it was given.
    fn attach(&mut self, cluster: &mut Cluster) -> bool {
        let owner = format!("client {} for the {}. time", self.work.index, self.owners);
        let Some(attached) = cluster.attach(&self.volume_name, &owner, !self.work.is_shared) else {
            return false;
        };
        self.attachment = attached.0;
        self.engine = match self.work.index.is_multiple_of(2) {
            true => Engine::Driver(Box::new(Driver::new(cluster, attached))),
            false => {
                self.work.next = 1;
                Engine::Rough(Rough::new(attached))
            }
        };
        true
    }

    /// A new life of the driver: what was under way is unanswered for ever.
    pub fn restart(&mut self, cluster: &mut Cluster) {
        if self.is_being_taken(cluster) {
            return;
        }
        self.hang_up(cluster);
        self.work.abandon();
        assert!(self.attach(cluster), "its owner has it");
    }

    /// Whether its volume is being taken from somebody: nobody gets it meanwhile.
    fn is_being_taken(&self, cluster: &Cluster) -> bool {
        cluster.meta.state.attachments_of(self.work.volume.id).any(|(_, a)| a.fencing.is_some())
    }

    /// Its process ends; or lingers for a while, beside its successor.
    fn hang_up(&mut self, cluster: &mut Cluster) {
        if let Engine::Rough(rough) = &mut self.engine
            && cluster.rng.random_bool(0.7)
        {
            return rough.linger(cluster, &self.work.volume, &self.work.open);
        }
        let conns = match &mut self.engine {
            Engine::Rough(rough) => rough.conns(),
            Engine::Driver(driver) => driver.conns(),
        };
        conns.into_iter().for_each(|conn| cluster.hang_up(conn));
    }

    /// Its volume was taken from it: once every group refuses what it had, somebody else has it.
    fn succeed(&mut self, cluster: &mut Cluster, history: &mut History) {
        if !self.is_fenced || cluster.meta.state.attachments.contains_key(&self.attachment) {
            return;
        }
        history.fenced(self.work.index as u32, cluster.now);
        if self.is_being_taken(cluster) {
            return;
        }
        self.hang_up(cluster);
        self.work.abandon();
        self.owners += 1;
        self.is_fenced = false;
        assert!(self.attach(cluster), "nobody has it any more");
        cluster.count("forced detaches ended");
    }

    /// Begins requests, sends what is due.
    pub fn tick(&mut self, cluster: &mut Cluster, history: &mut History, plan: &mut Plan) {
        self.succeed(cluster, history);
        if self.is_busy && self.work.open.len() < OPEN_MAX {
            let begins = cluster.rng.random_bool(BEGINS);
            let drawn = begins.then(|| self.work.draw(&mut cluster.rng));
            let wish = plan.wish(cluster.now, self.work.index, drawn);
            if let Some((name, wish)) = wish {
                self.ask(cluster, history, plan, name, wish);
            }
        }
        match &mut self.engine {
            Engine::Rough(rough) => {
                rough.tick(cluster, &self.work.volume, &mut self.work.open, self.work.index)
            }
            Engine::Driver(driver) => driver.tick(cluster, history, &mut self.work),
        }
    }

    fn ask(
        &mut self,
        cluster: &mut Cluster,
        history: &mut History,
        plan: &mut Plan,
        name: usize,
        wish: Wish,
    ) {
        match self.work.may(&wish) {
            May::Now => plan.asked(cluster.now, self.work.index, wish),
            May::Never => return plan.dropped(self.work.index),
            May::Later => return,
        }
        let number = self.work.begin(cluster, history, wish, name);
        if let Engine::Driver(driver) = &mut self.engine {
            driver.begin(cluster, history, &mut self.work, number);
        }
    }

    /// A connection ended.
    pub fn hung_up(&mut self, cluster: &mut Cluster, history: &mut History, conn: ConnId) {
        match &mut self.engine {
            Engine::Rough(rough) => rough.hung_up(conn, &mut self.work.open),
            Engine::Driver(driver) => driver.hung_up(cluster, history, &mut self.work, conn),
        }
    }

    /// An answer came.
    pub fn answered(&mut self, cluster: &mut Cluster, history: &mut History, arrived: Arrived) {
        match &mut self.engine {
            Engine::Rough(rough) => rough.answered(cluster, history, &mut self.work, arrived),
            Engine::Driver(driver) => driver.answered(cluster, history, &mut self.work, arrived),
        }
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.work.open.is_empty() && !self.is_fenced
    }

    /// Whether it sends through `core/client`: then how long it waits is what users will see.
    pub fn is_driver(&self) -> bool {
        matches!(self.engine, Engine::Driver(_))
    }

    /// From now on the longest wait of its writes is measured.
    pub fn watch(&mut self, now: Instant) {
        (self.work.watched_since, self.work.longest) = (now, Duration::ZERO);
    }

    /// The longest wait of a write since then, of those that still wait too.
    pub fn longest_wait(&self, now: Instant) -> Duration {
        let since = self.work.watched_since;
        let open = self.work.open.values().filter(|r| r.is_write()).map(|r| now.since(r.begun.max(since)));
        open.fold(self.work.longest, Duration::max)
    }

    /// How long its oldest request, or greeting, is under way.
    pub fn longest_open(&self, now: Instant) -> Duration {
        let greeting = match &self.engine {
            Engine::Driver(driver) => driver.longest_greeting(now),
            Engine::Rough(_) => Duration::ZERO,
        };
        self.work.open.values().map(|r| now.since(r.begun)).fold(greeting, Duration::max)
    }

    /// What it waits for, in words.
    pub fn describe(&self) -> Vec<String> {
        let open = self.work.open.iter();
        open.map(|(n, r)| {
            format!(
                "client {} waits for {n}: {:?} {}/{:?} since {:?}",
                self.work.index,
                r.kind,
                r.chunk,
                r.range(),
                r.begun
            )
        })
        .collect()
    }

    /// Reads all it may read once more: what is there when all is quiet.
    pub fn read_all(&mut self, cluster: &mut Cluster, history: &mut History) {
        let (blocks, chunks) = match self.work.is_shared {
            true => (SHARED_BLOCKS, 0..1),
            false => (OWN_BLOCKS, 1 + 2 * self.work.index as u32..3 + 2 * self.work.index as u32),
        };
        for chunk in chunks {
            let (offset, len) = (u32::from(self.work.first) * 4096, u32::from(blocks) * 4096);
            let wish = Wish { chunk, offset, len, kind: Kind::Read };
            let number = self.work.begin(cluster, history, wish, 0);
            if let Engine::Driver(driver) = &mut self.engine {
                driver.begin(cluster, history, &mut self.work, number);
            }
        }
    }
}

/// The bytes of a value in a block: they say what they are, so that a stray one is known.
fn fill(part: &mut [u8], value: u64, block: u16) {
    let pattern = pattern(value, block);
    for (at, byte) in part.iter_mut().enumerate() {
        *byte = pattern[at % 8];
    }
}

fn pattern(value: u64, block: u16) -> [u8; 8] {
    (value ^ u64::from(block) << 48).to_le_bytes()
}

/// Whether a block of a drive is one that a client wrote whole; then which block of a chunk it was.
pub fn written_block(bytes: &[u8]) -> Option<u16> {
    let pattern: [u8; 8] = bytes[..8].try_into().ok()?;
    let is_one = bytes.chunks_exact(8).all(|c| c == pattern);
    let value = u64::from_le_bytes(pattern);
    (is_one && value != 0).then_some((value >> 48) as u16)
}

/// What a whole block of a read shows.
pub fn block_sum(bytes: &[u8]) -> u64 {
    sum(bytes)
}
