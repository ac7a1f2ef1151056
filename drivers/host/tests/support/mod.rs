//! Both ends of an export played by a test: a slice that answers what it is told to, and NBD clients; all over real sockets.
#![allow(dead_code, reason = "each test uses its part")]
use sarsen_host::serve::{Served, bind};
use sarsen_host::{ExportConfig, Listen};
use sarsen_types::*;
use sarsen_wire::client::{ClientOp, ClientReply, ClientRequest, ClientResult};
use sarsen_wire::handshake::Acceptor;
use sarsen_wire::{FrameHeader, HEADER_LEN, decode_request, encode_reply};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant as Clock};

/// Leads every group.
pub const SLICE: SliceId = SliceId::new(1, 0);
const CLUSTER: ClusterId = ClusterId(9);
const FAMILY: FamilyId = FamilyId(4);
/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The map of a volume of two groups, whose slice listens there.
pub fn map(slice: SocketAddr) -> VolumeMap {
    let address = view::NodeAddress { data: slice.to_string(), unix: None, boot_id: "another kernel".into() };
    VolumeMap {
        revision: Revision(5),
        volume: VolumeId(1),
        name: "vol".into(),
        size: 4096 * CHUNK_SIZE,
        family: FAMILY,
        layer: LayerId(6),
        attachment: AttachmentId(2),
        generation: Generation(3),
        session: SessionId(7),
        read_only: false,
        table: vec![GroupId(0), GroupId(1)],
        leaders: [0, 1].map(|group| (GroupId(group), (Epoch(1), SLICE))).into(),
        addresses: BTreeMap::from([(NodeId(1), address)]),
        nodes: BTreeMap::from([(SLICE.drive, NodeId(1))]),
    }
}

/// The first byte of the volume that lies in a group.
pub fn begin_of(group: u32) -> u64 {
    let lies_there = |chunk: &u32| view::group_index(2, FAMILY, ChunkIndex(*chunk)) == group as usize;
    u64::from((0..64).find(lies_there).expect("chunks are spread")) * CHUNK_SIZE
}

#[derive(Default)]
struct Play {
    stuck: BTreeSet<GroupId>,
    refusal: Option<ClientResult>,
    held: Vec<(TcpStream, ClientRequest)>,
    writes: Vec<u8>,
    asked: usize,
}

/// A slice that holds nothing, and takes every write.
#[derive(Clone)]
pub struct Slice {
    play: Arc<Mutex<Play>>,
    pub address: SocketAddr,
}

impl Slice {
    pub fn start() -> Slice {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let slice = Slice { play: Arc::default(), address: listener.local_addr().unwrap() };
        let all = slice.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let slice = all.clone();
                std::thread::spawn(move || slice.serve(socket));
            }
        });
        slice
    }
    /// The group answers nothing from now on.
    pub fn hold(&self, group: u32) {
        self.play.lock().unwrap().stuck.insert(GroupId(group));
    }
    /// Everything is answered so from now on, greetings too.
    pub fn refuse(&self, result: ClientResult) {
        self.play.lock().unwrap().refusal = Some(result);
    }
    /// What was held is answered, and what comes from now on.
    pub fn let_go(&self) {
        let mut play = self.play.lock().unwrap();
        play.stuck.clear();
        answer_all(std::mem::take(&mut play.held));
    }
    /// The same of one group.
    pub fn let_go_of(&self, group: u32) {
        let mut play = self.play.lock().unwrap();
        play.stuck.remove(&GroupId(group));
        let (gone, held) =
            std::mem::take(&mut play.held).into_iter().partition(|h| h.1.group == GroupId(group));
        play.held = held;
        answer_all(gone);
    }
    /// The oldest of what is held is answered.
    pub fn let_go_of_one(&self) {
        let first = self.play.lock().unwrap().held.remove(0);
        answer_all(vec![first]);
    }
    /// Waits until so many requests are held.
    pub fn await_held(&self, count: usize) {
        until(|| self.play.lock().unwrap().held.len() >= count);
    }
    pub fn held(&self) -> usize {
        self.play.lock().unwrap().held.len()
    }
    /// Requests that came, greetings included.
    pub fn asked(&self) -> usize {
        self.play.lock().unwrap().asked
    }
    /// The first byte of each write that came, in their order.
    pub fn writes(&self) -> Vec<u8> {
        self.play.lock().unwrap().writes.clone()
    }

    fn serve(&self, mut socket: TcpStream) {
        let mut bytes = Vec::new();
        let mut acceptor = Acceptor::new(CLUSTER, "another kernel".into(), [1; 32]);
        loop {
            let mut out = Vec::new();
            let progress = acceptor.receive(&bytes, None, &mut out).unwrap();
            bytes.drain(..progress.used);
            let is_done = progress.done.is_some();
            if is_done {
                Acceptor::ready(&mut out);
            }
            socket.write_all(&out).unwrap();
            if is_done {
                break;
            }
            if !read_some(&mut socket, &mut bytes) {
                return;
            }
        }
        loop {
            while let Some(header) =
                FrameHeader::parse(&bytes).unwrap().filter(|h| bytes.len() >= h.frame_len())
            {
                let request = decode_request(&header, &bytes[HEADER_LEN..header.payload_at()]).unwrap();
                let first = bytes[header.payload_at()..header.frame_len()].first().copied();
                bytes.drain(..header.frame_len());
                let mut play = self.play.lock().unwrap();
                play.asked += 1;
                play.writes.extend(first);
                if request.op != ClientOp::Greet && play.stuck.contains(&request.group) {
                    play.held.push((socket.try_clone().unwrap(), request));
                } else {
                    let _ = socket.write_all(&answer(&request, play.refusal.clone()));
                }
            }
            if !read_some(&mut socket, &mut bytes) {
                return;
            }
        }
    }
}

fn answer_all(held: Vec<(TcpStream, ClientRequest)>) {
    for (mut socket, request) in held {
        let _ = socket.write_all(&answer(&request, None));
    }
}

fn read_some(socket: &mut TcpStream, bytes: &mut Vec<u8>) -> bool {
    let mut room = [0; 64 << 10];
    match socket.read(&mut room) {
        Ok(len) if len > 0 => {
            bytes.extend_from_slice(&room[..len]);
            true
        }
        _ => false,
    }
}

fn answer(request: &ClientRequest, refusal: Option<ClientResult>) -> Vec<u8> {
    let result = match request.op {
        _ if refusal.is_some() => refusal.expect("looked at"),
        ClientOp::Read { .. } => ClientResult::Data { present: 0, checksums: Default::default() },
        ClientOp::Status { .. } => ClientResult::Status { data: vec![] },
        _ => ClientResult::Done,
    };
    let mut out = Vec::new();
    let (number, piece) = (request.id.number, request.id.piece);
    encode_reply(&ClientReply { number, piece, group: request.group, result }, &mut out);
    out
}

/// An export of the volume, listening there.
pub fn export(slice: &Slice, listen: Listen) -> Served {
    let config =
        ExportConfig { volume: "vol".into(), listen, api: vec![], token: None, key: None, read_only: false };
    let grant = (AttachmentId(2), Generation(3), SessionId(7));
    bind(&config).unwrap().serve(CLUSTER, grant, Arc::new(map(slice.address)))
}

/// At a TCP port that was free.
pub fn tcp() -> Listen {
    Listen::Tcp("127.0.0.1:0".parse().unwrap())
}

/// Waits until something holds.
pub fn until(mut holds: impl FnMut() -> bool) {
    let end = Clock::now() + PATIENCE;
    while !holds() {
        assert!(Clock::now() < end, "it did not come about in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub trait Socket: Read + Write {}
impl<S: Read + Write> Socket for S {}

/// The greeting of the server, its answers to GO (the size, and that it agrees).
const GREETING_LEN: usize = 18;
const AGREED_LEN: usize = 20 + 12 + 20;
pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISCONNECT: u16 = 2;
pub const TRIM: u16 = 4;

/// A client of the export, after its handshake, with simple replies.
pub struct Nbd<S: Socket>(pub S);

pub fn connect_tcp(served: &Served) -> Nbd<TcpStream> {
    let Listen::Tcp(at) = &served.at else { panic!("it listens at a port") };
    let socket = TcpStream::connect(at).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    Nbd::agree(socket)
}
pub fn connect_unix(served: &Served) -> Nbd<UnixStream> {
    let Listen::Socket(at) = &served.at else { panic!("it listens at a path") };
    let socket = UnixStream::connect(at).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    Nbd::agree(socket)
}

impl<S: Socket> Nbd<S> {
    fn agree(mut socket: S) -> Nbd<S> {
        socket.read_exact(&mut [0; GREETING_LEN]).unwrap();
        let mut said = 3u32.to_be_bytes().to_vec();
        said.extend(0x4948_4156_454f_5054u64.to_be_bytes());
        said.extend(7u32.to_be_bytes());
        said.extend(6u32.to_be_bytes());
        said.extend([0; 6]);
        socket.write_all(&said).unwrap();
        socket.read_exact(&mut [0; AGREED_LEN]).unwrap();
        Nbd(socket)
    }
    pub fn ask(&mut self, command: u16, cookie: u64, offset: u64, len: u32) {
        self.0.write_all(&request(command, cookie, offset, len)).unwrap();
    }
    pub fn write(&mut self, cookie: u64, offset: u64, byte: u8) {
        self.0.write_all(&write_request(cookie, offset, byte)).unwrap();
    }
    /// The next reply, with so many bytes of data: its error and cookie.
    pub fn reply(&mut self, data: usize) -> (u32, u64) {
        let mut head = [0; 16];
        self.0.read_exact(&mut head).unwrap();
        assert_eq!(head[..4], 0x6744_6698u32.to_be_bytes());
        let errno = u32::from_be_bytes(head[4..8].try_into().unwrap());
        if errno == 0 {
            let mut room = vec![0; data];
            self.0.read_exact(&mut room).unwrap();
        }
        (errno, u64::from_be_bytes(head[8..].try_into().unwrap()))
    }
}

pub fn request(command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend(0u16.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}
/// A write of one block of this byte.
pub fn write_request(cookie: u64, offset: u64, byte: u8) -> Vec<u8> {
    [request(WRITE, cookie, offset, 4096), vec![byte; 4096]].concat()
}

/// Writes the same again and again until the other end takes nothing more for a while.
pub fn stuff(socket: &mut TcpStream, bytes: &[u8]) {
    socket.set_nonblocking(true).unwrap();
    let (mut at, mut since) = (0, Clock::now());
    while since.elapsed() < Duration::from_millis(300) {
        match socket.write(&bytes[at..]) {
            Ok(len) => (at, since) = ((at + len) % bytes.len(), Clock::now()),
            Err(why) if why.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
            Err(why) => panic!("{why}"),
        }
    }
    socket.set_nonblocking(false).unwrap();
}
