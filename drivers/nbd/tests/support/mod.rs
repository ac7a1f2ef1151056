//! A client and a volume around one connection, all in one thread.
#![allow(dead_code, reason = "each test uses its part")]
use sarsen_block::conformance::Subject;
use sarsen_block::{Answer, Backend, Completion, Extent, Failure, Limits, MemoryBackend, Op, Request, Tag};
use sarsen_buffer::{Buf, Part, Parts, Pool, push_part};
use sarsen_nbd::{Connection, Export, Next, Out, Violation};
use sarsen_types::Instant;
use std::collections::{BTreeMap, VecDeque};

/// What a connection said.
#[derive(Default)]
pub struct Said {
    pub bytes: Vec<u8>,
    pub requests: Vec<Request>,
}

impl Out for Said {
    fn send(&mut self, head: &[u8], payload: Option<Buf>) {
        self.bytes.extend_from_slice(head);
        if let Some(payload) = payload {
            self.bytes.extend_from_slice(&payload);
        }
    }
    fn submit(&mut self, request: Request) {
        self.requests.push(request);
    }
}

/// A server of one volume in memory, with one client whose bytes a test writes.
pub struct Server {
    pub connection: Connection,
    pub export: Export,
    pub pool: Pool,
    pub backend: MemoryBackend,
    pub said: Said,
    /// Received and not used.
    pub waiting: Vec<u8>,
    fill: Option<(Buf, usize)>,
    /// Requests are carried out at once.
    pub is_carrying_out: bool,
    pub is_closed: bool,
    pub rests: bool,
}

pub const SIZE: u64 = 24 << 20;

impl Server {
    pub fn new() -> Server {
        Server::with(Limits::default())
    }
    pub fn with(limits: Limits) -> Server {
        let pool = Pool::new();
        let mut said = Said::default();
        let connection = Connection::new(7 << 32, &mut said);
        let export = Export { name: "vol".into(), description: "a volume".into(), size: SIZE, limits };
        let backend = MemoryBackend::new(SIZE, pool.clone()).with_limits(limits);
        Server {
            connection,
            export,
            pool,
            backend,
            said,
            waiting: Vec::new(),
            fill: None,
            is_carrying_out: true,
            is_closed: false,
            rests: false,
        }
    }

    /// Bytes of the client arrive.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        self.waiting.extend_from_slice(bytes);
        self.go_on()
    }
    /// Works on what has arrived.
    pub fn go_on(&mut self) -> Result<(), Violation> {
        loop {
            if let Some((buf, at)) = &mut self.fill {
                let count = (buf.len() - *at).min(self.waiting.len());
                buf.get_mut()[*at..*at + count].copy_from_slice(&self.waiting[..count]);
                self.waiting.drain(..count);
                *at += count;
                if *at < buf.len() {
                    return Ok(());
                }
                let (buf, _) = self.fill.take().expect("looked at");
                self.connection.filled(buf, &mut self.said);
            }
            let progress =
                self.connection.receive(&self.export, &self.pool, &self.waiting, &mut self.said)?;
            assert!(progress.used <= self.waiting.len());
            self.waiting.drain(..progress.used);
            self.rests = progress.next == Next::Rest;
            if self.is_carrying_out {
                self.carry_out();
            }
            match progress.next {
                Next::Bytes(least) => {
                    assert!(least > self.waiting.len(), "more is wanted than is there");
                    return Ok(());
                }
                Next::Fill(buf) => self.fill = Some((buf, 0)),
                Next::Rest if self.connection.in_flight() > 0 => return Ok(()),
                Next::Rest if self.connection.is_over() => {
                    self.is_closed = true;
                    return Ok(());
                }
                Next::Rest => {}
                Next::Close => {
                    self.is_closed = true;
                    return Ok(());
                }
            }
        }
    }
    /// The volume answers all it was asked.
    pub fn carry_out(&mut self) {
        for request in self.said.requests.drain(..) {
            self.backend.submit(Instant(1), request);
        }
        let mut done = Vec::new();
        self.backend.completions(&mut done);
        for completion in done {
            self.connection.complete(completion, &self.pool, &mut self.said);
        }
        self.is_closed |= self.connection.is_over();
    }
    /// What was sent since the last call.
    pub fn sent(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.said.bytes)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.said.requests.drain(..).for_each(Request::abandon);
    }
}

pub fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = 0x4948_4156_454f_5054u64.to_be_bytes().to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}
pub fn go(name: &str, infos: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend((infos.len() as u16).to_be_bytes());
    infos.iter().for_each(|i| data.extend(i.to_be_bytes()));
    option(7, &data)
}
pub fn contexts(number: u32, name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend((queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend((query.len() as u32).to_be_bytes());
        data.extend(query.as_bytes());
    }
    option(number, &data)
}
pub fn request(flags: u16, command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}
pub fn simple_reply(errno: u32, cookie: u64) -> Vec<u8> {
    let mut bytes = 0x6744_6698u32.to_be_bytes().to_vec();
    bytes.extend(errno.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes
}
pub fn chunk(flags: u16, kind: u16, cookie: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = 0x668e_33efu32.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}
pub fn option_reply(number: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = 0x0003_e889_0455_65a9u64.to_be_bytes().to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

/// Structured replies and `base:allocation`, or neither.
pub fn serving(limits: Limits, is_structured: bool) -> Server {
    let mut server = Server::with(limits);
    server.receive(&3u32.to_be_bytes()).expect("flags");
    if is_structured {
        server.receive(&option(8, &[])).expect("an option");
        server.receive(&contexts(10, "vol", &["base:allocation"])).expect("an option");
    }
    server.receive(&go("vol", &[])).expect("an option");
    assert!(server.connection.is_serving());
    server.sent();
    server
}

/// A client that speaks NBD with the server, for the conformance workload.
pub struct Client {
    pub server: Server,
    is_structured: bool,
    asked: BTreeMap<u64, (u16, u64, u64)>,
    answers: Vec<u8>,
    parts: BTreeMap<u64, Parts>,
    done: VecDeque<Completion>,
    pool: Pool,
}

impl Client {
    pub fn new(limits: Limits, is_structured: bool) -> Client {
        let server = serving(limits, is_structured);
        let pool = server.pool.clone();
        Client {
            server,
            is_structured,
            asked: BTreeMap::new(),
            answers: Vec::new(),
            parts: BTreeMap::new(),
            done: VecDeque::new(),
            pool,
        }
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        assert!(self.answers.len() >= len, "an answer is whole");
        self.answers.drain(..len).collect()
    }
    fn failure(errno: u32, command: u16) -> Failure {
        match (errno, command) {
            (1, _) => Failure::ReadOnly,
            (22, _) | (28, 1 | 6) => Failure::OutOfBounds,
            (28, _) => Failure::NoSpace,
            _ => Failure::Broken,
        }
    }
    fn read_answers(&mut self) {
        self.answers.extend(self.server.sent());
        while !self.answers.is_empty() {
            let head = self.take(16);
            let magic = u32::from_be_bytes(head[..4].try_into().expect("4"));
            let cookie = u64::from_be_bytes(head[8..16].try_into().expect("8"));
            let (command, offset, len) = self.asked[&cookie];
            if magic == 0x6744_6698 {
                let errno = u32::from_be_bytes(head[4..8].try_into().expect("4"));
                let result = match (errno, command) {
                    (0, 0) => {
                        assert!(!self.is_structured, "reads have structured replies");
                        let data = self.take(len as usize);
                        let mut parts = Parts::new();
                        push_part(&mut parts, Part::Data(self.pool.copy_of(&data)));
                        Ok(Answer::Data(parts))
                    }
                    (0, _) => Ok(Answer::Done),
                    (errno, command) => Err(Client::failure(errno, command)),
                };
                self.end(cookie, result);
                continue;
            }
            assert_eq!(magic, 0x668e_33ef);
            let (is_done, kind) = (head[5] & 1 == 1, u16::from_be_bytes([head[6], head[7]]));
            let len = self.take(4);
            let data = self.take(u32::from_be_bytes(len.try_into().expect("4")) as usize);
            let parts = self.parts.entry(cookie).or_default();
            let before: usize = parts.iter().map(Part::len).sum();
            let result = match kind {
                0 => Ok(Answer::Data(std::mem::take(parts))),
                1 | 2 => {
                    let at = u64::from_be_bytes(data[..8].try_into().expect("8"));
                    assert_eq!(at, offset + before as u64, "chunks come in order here");
                    match kind {
                        1 => push_part(parts, Part::Data(self.pool.copy_of(&data[8..]))),
                        _ => push_part(
                            parts,
                            Part::Zeroes(u32::from_be_bytes(data[8..].try_into().expect("4")) as usize),
                        ),
                    }
                    Ok(Answer::Data(parts.clone()))
                }
                5 => {
                    assert_eq!(data[..4], 1u32.to_be_bytes());
                    let mut at = offset;
                    let extents = data[4..].chunks_exact(8).map(|run| {
                        let len = u64::from(u32::from_be_bytes(run[..4].try_into().expect("4")));
                        let is_data = run[7] & 1 == 0;
                        at += len;
                        Extent { offset: at - len, len, is_data }
                    });
                    Ok(Answer::Extents(extents.collect()))
                }
                _ => Err(Client::failure(u32::from_be_bytes(data[..4].try_into().expect("4")), command)),
            };
            if is_done {
                self.parts.remove(&cookie);
                self.end(cookie, result);
            }
        }
    }
    fn end(&mut self, cookie: u64, result: Result<Answer, Failure>) {
        self.asked.remove(&cookie);
        self.done.push_back(Completion { tag: Tag(cookie), result });
    }
}

impl Subject for Client {
    fn size(&self) -> u64 {
        SIZE
    }
    fn pool(&self) -> &Pool {
        &self.pool
    }
    fn submit(&mut self, mut request: Request) {
        let (tag, offset, len) = (request.tag().0, request.offset(), request.len());
        let op = request.take_op();
        let command = match op {
            Op::Read => 0,
            Op::Write(_) => 1,
            Op::Trim => 4,
            Op::Zero => 6,
            Op::Status => 7,
        };
        request.abandon();
        let mut bytes = self::request(0, command, tag, offset, len as u32);
        if let Op::Write(data) = &op {
            let start = (offset % 4096) as usize;
            bytes.extend_from_slice(&data[start..start + len as usize]);
        }
        self.asked.insert(tag, (command, offset, len));
        if matches!(op, Op::Status) && !self.is_structured {
            // it cannot be asked without structured replies: the truth is that of the backend
            let mut done = Vec::new();
            self.server.backend.submit(Instant(1), Request::new(Tag(tag), Op::Status, offset, len));
            self.server.backend.completions(&mut done);
            self.asked.remove(&tag);
            return self.done.extend(done);
        }
        // in three parts, so that every state of waiting is met
        let cuts = [0, bytes.len().min(11), bytes.len().min(9000), bytes.len()];
        for cut in cuts.windows(2) {
            self.server.receive(&bytes[cut[0]..cut[1]]).expect("a well-behaved client");
        }
        self.read_answers();
    }
    fn wait(&mut self) -> Completion {
        self.done.pop_front().expect("something is under way and has ended")
    }
}
