//! Three nodes' data sides with real drives and sockets; the metadata are played by the test.
use sarsen_buffer::block_checksum;
use sarsen_node::data::{DataPort, DataPortConfig, DriveConfig, DriveHandle, open_drive};
use sarsen_node::seam::{FromSlice, Identity, PeerAddress};
use sarsen_ring::{BlockingDisk, DriveFile};
use sarsen_slice::LeaseMode;
use sarsen_store::drive::FormatParams;
use sarsen_types::view::{AttachmentView, LayerView, VolumeView};
use sarsen_types::*;
use sarsen_wire::client::{ClientOp, ClientReply, ClientRequest, ClientResult, Greeting};
use sarsen_wire::handshake::Dialer;
use sarsen_wire::hello::{From, Hello};
use sarsen_wire::{FrameHeader, HEADER_LEN, decode_reply, encode_request};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Mutex};

const FAMILY: FamilyId = FamilyId(3);
const LAYER: LayerId = LayerId(4);
const VOLUME: VolumeId = VolumeId(5);
const ATTACHMENT: AttachmentId = AttachmentId(6);
const SESSION: SessionId = SessionId(7);
const GROUP: GroupId = GroupId(1);

struct Node {
    port: Arc<DataPort>,
    drive: DriveHandle,
    words: Arc<Mutex<Vec<FromSlice>>>,
}

fn slice(number: u32) -> SliceId {
    SliceId::new(number, 0)
}

/// The metadata in one epoch, led by `primary`.
fn view(epoch: u32, primary: u32, in_sync: &[u32]) -> Arc<View> {
    let in_sync: Vec<SliceId> = in_sync.iter().copied().map(slice).collect();
    let group = GroupState {
        group: GROUP,
        epoch: Epoch(epoch),
        primary: slice(primary),
        primary_since: Epoch(epoch),
        complete: in_sync.clone(),
        could_commit: Epoch(epoch),
        in_sync,
        joining: vec![],
        members: (1..=3).map(|n| Member { slice: slice(n), assignment: 1 }).collect(),
        min_copies: 2,
        is_damaged: false,
    };
    let volume = VolumeView { head: LAYER, size: 1 << 30, changed: Revision(1) };
    let attachment =
        AttachmentView { volume: VOLUME, generation: Generation(1), session: SESSION, read_only: false };
    Arc::new(View {
        revision: Revision(u64::from(epoch)),
        groups: vec![group],
        layers: [(LAYER, LayerView { family: FAMILY, parent: None })].into(),
        volumes: [(VOLUME, volume)].into(),
        attachments: [(ATTACHMENT, attachment)].into(),
        ..View::default()
    })
}

fn start(number: u32, dir: &Path) -> Node {
    let identity =
        Identity { cluster: ClusterId(77), node: NodeId(number), key: None, boot_id: "this kernel".into() };
    let unix = Some(dir.join(format!("{number}.sock")));
    let config = DataPortConfig { listen: "127.0.0.1:0".parse().unwrap(), unix };
    let port = Arc::new(DataPort::start(config, Arc::new(identity)).unwrap());
    let path = dir.join(format!("{number}.drive"));
    if !path.exists() {
        std::fs::File::create(&path).unwrap().set_len(256 << 20).unwrap();
        let file = Arc::new(DriveFile::open(&path).unwrap());
        let mut disk = BlockingDisk::new(file, 0, 256 << 20);
        let params = FormatParams { identity: DriveIdentity(u128::from(number) << 64), slices: 1 };
        sarsen_store::drive::format(&mut disk, params).unwrap();
    }
    let words = Arc::new(Mutex::new(Vec::new()));
    let told = words.clone();
    let config = DriveConfig {
        marks_threads: false,
        stop_max: Duration::from_secs(1),
        ..DriveConfig::new(path, LeaseMode::Clock)
    };
    let drive = open_drive(config, &port, Arc::new(move |word| told.lock().unwrap().push(word))).unwrap();
    Node { port, drive, words }
}

/// Registers all of them in `view` and tells them of each other.
fn register(nodes: &[Node], view: &Arc<View>) {
    let peers: BTreeMap<DriveId, PeerAddress> = (nodes.iter())
        .map(|node| {
            let id = node.port.identity().node;
            let unix = node.port.unix().map(|path| path.display().to_string());
            let data = node.port.address().to_string();
            (DriveId(id.0), PeerAddress { node: id, data, unix, same_kernel: true })
        })
        .collect();
    let peers = Arc::new(peers);
    for node in nodes {
        node.drive
            .registered(DriveId(node.port.identity().node.0), std::slice::from_ref(view), false)
            .unwrap();
        node.drive.peers(&peers);
    }
}

struct Client {
    socket: TcpStream,
    number: u64,
    revision: Revision,
}

impl Client {
    fn connect(node: &Node, revision: u32) -> Client {
        let mut socket = TcpStream::connect(node.port.address()).unwrap();
        socket.set_nodelay(true).unwrap();
        // no wait of the protocol is longer (R27)
        socket.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        let greeting = Greeting { attachment: ATTACHMENT, generation: Generation(1), session: SESSION };
        let hello = Hello {
            version: 0,
            cluster: ClusterId(77),
            has_key: false,
            nonce: [1; 32],
            boot_id: "this kernel".into(),
            to: slice(node.port.identity().node.0),
            from: From::Client(greeting),
        };
        let (mut out, mut bytes) = (Vec::new(), Vec::new());
        let mut dialer = Dialer::new(hello, &mut out);
        loop {
            socket.write_all(&out).unwrap();
            out.clear();
            let mut buf = [0; 512];
            let len = socket.read(&mut buf).unwrap();
            bytes.extend_from_slice(&buf[..len]);
            let progress = dialer.receive(&bytes, None, &mut out).unwrap();
            bytes.drain(..progress.used);
            if progress.done.is_some() {
                // a number is used once in a session (R21), which all connections of this test share
                let number = u64::from(revision) * 10_000;
                return Client { socket, number, revision: Revision(u64::from(revision)) };
            }
        }
    }

    fn send(&mut self, op: ClientOp, payload: &[u8]) {
        let id = RequestId {
            attachment: ATTACHMENT,
            generation: Generation(1),
            session: SESSION,
            queue: QueueId(0),
            number: self.number,
            piece: 0,
        };
        let request = ClientRequest {
            group: GROUP,
            revision: self.revision,
            id,
            answered_below: self.number - 500,
            volume: VOLUME,
            layer: LAYER,
            chunk: ChunkIndex(0),
            op,
        };
        let mut frame = Vec::new();
        encode_request(&request, &mut frame);
        frame.extend_from_slice(payload);
        self.socket.write_all(&frame).unwrap();
        self.number += 1;
    }

    fn receive(&mut self) -> (ClientReply, Vec<u8>) {
        let mut head = [0; HEADER_LEN];
        self.socket.read_exact(&mut head).unwrap();
        let header = FrameHeader::parse(&head).unwrap().unwrap();
        let mut rest = vec![0; header.frame_len() - HEADER_LEN];
        self.socket.read_exact(&mut rest).unwrap();
        let reply = decode_reply(&header, &rest).unwrap();
        (reply, rest.split_off(header.message_len))
    }

    /// Asks until the answer is not to come again.
    fn ask(&mut self, op: &ClientOp, payload: &[u8]) -> (ClientResult, Vec<u8>) {
        let until = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            self.send(op.clone(), payload);
            let (reply, data) = self.receive();
            match reply.result {
                ClientResult::Retry { after } if std::time::Instant::now() < until => {
                    std::thread::sleep(after)
                }
                result => return (result, data),
            }
        }
    }

    fn write(&mut self, first: u16, count: u16, fill: u8) {
        let (op, payload) = write(first, count, fill);
        assert_eq!(self.ask(&op, &payload).0, ClientResult::Done);
    }

    /// The first byte of each block; zero where there is none.
    fn read(&mut self, first: u16, count: u16) -> Vec<u8> {
        let (result, data) = self.ask(&ClientOp::Read { range: BlockRange::new(first, count) }, &[]);
        let ClientResult::Data { present, checksums } = result else { panic!("{result:?}") };
        let mut blocks = data.chunks_exact(4096).zip(checksums);
        (0..count)
            .map(|at| {
                if present >> at & 1 == 0 {
                    return 0;
                }
                let (block, checksum) = blocks.next().unwrap();
                assert_eq!(block_checksum(FAMILY, ChunkIndex(0), first + at, block), checksum);
                block[0]
            })
            .collect()
    }
}

fn write(first: u16, count: u16, fill: u8) -> (ClientOp, Vec<u8>) {
    let payload = vec![fill; usize::from(count) * 4096];
    let checksums = (payload.chunks_exact(4096).zip(first..))
        .map(|(block, at)| block_checksum(FAMILY, ChunkIndex(0), at, block))
        .collect();
    (ClientOp::Write { offset: u32::from(first) * 4096, len: payload.len() as u32, checksums }, payload)
}

fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

#[test]
fn what_was_written_is_read_after_everything_was_stopped_and_after_everything_died() {
    let mut dir = folder();
    let mut wanted = vec![0; 128];
    for round in 1..=4u32 {
        let nodes: Vec<Node> = (1..=3).map(|n| start(n, dir.path())).collect();
        for node in &nodes {
            assert_eq!(node.drive.facts().opens.is_empty(), round == 1, "{:?}", node.drive.facts());
        }
        let primary = round % 3 + 1;
        register(&nodes, &view(round, primary, &[1, 2, 3]));
        let mut client = Client::connect(&nodes[primary as usize - 1], round);
        let seen = [client.read(0, 64), client.read(64, 64)].concat();
        assert_eq!(seen, wanted, "round {round}");
        for step in 0..60u16 {
            let first = step * 37 % 100;
            // a piece does not cross a multiple of 64 blocks (R8)
            let count = (1 + step % 28).min(64 - first % 64);
            let fill = ((round * 60 + u32::from(step)) % 255 + 1) as u8;
            client.write(first, count, fill);
            wanted[first as usize..(first + count) as usize].fill(fill);
        }
        assert_eq!(client.read(3, 50), wanted[3..53]);
        let crashed = folder();
        if round % 2 == 0 {
            // what a crash leaves: the drives as they are under running nodes
            for number in 1..=3 {
                let name = format!("{number}.drive");
                std::fs::copy(dir.path().join(&name), crashed.path().join(&name)).unwrap();
            }
        }
        nodes.iter().for_each(|node| node.drive.stop());
        for node in nodes {
            node.drive.join();
            let words = node.words.lock().unwrap();
            assert!(words.iter().any(|w| matches!(w, FromSlice::Stopped { .. })), "{words:?}");
            assert!(!words.iter().any(|w| matches!(w, FromSlice::Failed { .. })), "{words:?}");
        }
        if round % 2 == 0 {
            dir = crashed;
        }
    }
}

#[test]
fn many_requests_in_flight_are_all_answered_and_a_new_primary_has_them_all() {
    let dir = folder();
    let nodes: Vec<Node> = (1..=3).map(|n| start(n, dir.path())).collect();
    register(&nodes, &view(1, 1, &[1, 2, 3]));
    let mut client = Client::connect(&nodes[0], 1);
    client.write(0, 64, 1);
    let mut answered = 0;
    for round in 0..20u16 {
        for at in 0..32u16 {
            let (op, payload) = write(at * 32, 1 + at % 4, (round + at) as u8);
            client.send(op, &payload);
        }
        for _ in 0..32 {
            let (reply, _) = client.receive();
            assert_eq!(reply.result, ClientResult::Done);
            answered += 1;
        }
    }
    assert_eq!(answered, 640);
    // the primary is gone; the metadata name another
    let mut nodes = nodes.into_iter();
    let first = nodes.next().unwrap();
    first.drive.stop();
    let rest: Vec<Node> = nodes.collect();
    for node in &rest {
        node.drive.learned(&[view(2, 2, &[2, 3])]);
    }
    first.drive.join();
    let mut client = Client::connect(&rest[0], 2);
    for at in 0..32u16 {
        assert_eq!(client.read(at * 32, 1 + at % 4), vec![(19 + at) as u8; 1 + usize::from(at % 4)]);
    }
    client.write(7, 3, 9);
    assert_eq!(client.read(7, 3), [9; 3]);
}

#[test]
fn a_planned_stop_hands_over_without_waiting_for_silence() {
    let dir = folder();
    let mut nodes: Vec<Node> = (1..=3).map(|n| start(n, dir.path())).collect();
    register(&nodes, &view(1, 1, &[1, 2, 3]));
    Client::connect(&nodes[0], 1).write(0, 64, 1);
    let handed_over = std::time::Instant::now();
    for node in &nodes {
        node.drive.learned(&[view(2, 2, &[1, 2, 3])]);
    }
    nodes[0].drive.stop();
    let mut client = Client::connect(&nodes[1], 2);
    assert_eq!(client.read(0, 64), [1; 64]);
    client.write(5, 5, 2);
    let stall = handed_over.elapsed();
    assert!(stall < Duration::from_millis(800), "the group stood still for {stall:?} (R2)");
    nodes.remove(0).drive.join();
    assert!(handed_over.elapsed() < Duration::from_secs(3));
    for node in &nodes {
        node.drive.learned(&[view(3, 2, &[2, 3])]);
    }
    client.revision = Revision(3);
    client.write(6, 1, 3);
    assert_eq!(client.read(4, 4), [1, 2, 3, 2]);
}
