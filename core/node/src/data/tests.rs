//! Threads of slices with a toy machine inside, over real sockets.
use super::format::{DriveFormat, SliceFacts, Superblock};
use super::machine::{Machine, Opened};
use super::thread::ThreadConfig;
use super::{
    DataPort, DataPortConfig, DriveConfig, DriveError, SliceHandle, Started, open_drive_of, start_slice,
};
use crate::seam::{FromSlice, Identity, PeerAddress, ToSlice};
use sarsen_api::proof as key;
use sarsen_buffer::Pool;
use sarsen_control::command::Rot;
use sarsen_ring::{BlockingDisk, DriveFile, Ring, RingConfig};
use sarsen_slice::{Config, Input, LeaseMode, Output};
use sarsen_store::disk::{Disk, OpId};
use sarsen_types::*;
use sarsen_wire::client::{ClientOp, ClientReply, ClientRequest, ClientResult, Greeting};
use sarsen_wire::handshake::{Dialer, HandshakeError, Mac};
use sarsen_wire::hello::{From, Hello, HelloRefusal};
use sarsen_wire::peer::{Beat, GroupBody, GroupMessage, PeerMessage};
use sarsen_wire::{FrameHeader, HEADER_LEN, decode_reply, encode_request};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

/// Answers reads with their own block numbers; tells peers everything twice over; notes what it hears.
struct Toy {
    me: SliceId,
    pool: Pool,
    log: Log,
    leads: bool,
    hangs_up: bool,
}
type Log = Arc<Mutex<Vec<String>>>;

struct ToyStore(Log);

impl Opened for ToyStore {
    type Machine = Toy;
    fn begin(self, config: Config, pool: Pool) -> Toy {
        Toy { me: config.id, pool, log: self.0, leads: false, hangs_up: false }
    }
    fn close(self) {
        self.0.lock().unwrap().push("closed unregistered".into());
    }
}

impl Toy {
    fn note(&self, text: String) {
        self.log.lock().unwrap().push(text);
    }
}

fn fetched(count: usize, token: u64) -> PeerMessage {
    let checksums = vec![Checksum(token); count];
    let body = GroupBody::FetchA { token, family: FamilyId(1), chunk: ChunkIndex(0), first: 0, checksums };
    PeerMessage::Group(GroupMessage { group: GroupId(1), epoch: Epoch(1), floor: Version::ZERO, body })
}

impl Machine for Toy {
    fn step(&mut self, _: Instant, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::PeerUp { slice, same_kernel } => {
                self.note(format!("up {slice} {same_kernel}"));
                // a heartbeat does not overtake the end of the handshake (R43)
                let beat = PeerMessage::Beat(Beat { round: 7, ..Beat::default() });
                out.push(Output::Send { to: slice, message: beat, payload: None, is_urgent: true });
                // payloads of all sizes, in order
                for token in 0..65 {
                    let payload =
                        (token > 0).then(|| self.pool.copy_of(&vec![token as u8; token as usize * 4096]));
                    out.push(Output::Send {
                        to: slice,
                        message: fetched(token as usize, token),
                        payload,
                        is_urgent: false,
                    });
                }
            }
            Input::PeerDown { slice } => self.note(format!("down {slice}")),
            Input::Peer { from, message, payload } => {
                if let PeerMessage::Beat(beat) = message {
                    assert_eq!(beat.round, 7);
                    return;
                }
                let PeerMessage::Group(GroupMessage { body: GroupBody::FetchA { token, .. }, .. }) = message
                else {
                    panic!("{message:?}");
                };
                let payload = payload.map(|p| p.to_vec()).unwrap_or_default();
                assert_eq!(payload, vec![token as u8; token as usize * 4096]);
                self.note(format!("from {from} {token}"));
                if token > 40 && self.hangs_up {
                    out.push(Output::Hangup { slice: from });
                }
            }
            Input::ClientUp { greeting, .. } => self.note(format!("client {}", greeting.session)),
            Input::ClientDown { .. } => self.note("client gone".into()),
            Input::Client { conn, request, payload } => {
                let (result, answer) = match request.op {
                    ClientOp::Write { len, .. } => {
                        assert_eq!(payload.map_or(0, |p| p.len()), len as usize);
                        (ClientResult::Done, None)
                    }
                    ClientOp::Read { range } => {
                        let mut data = self.pool.take(range.bytes());
                        for (block, bytes) in range.blocks().zip(data.get_mut().chunks_mut(4096)) {
                            bytes.fill(block as u8);
                        }
                        let present = u64::MAX >> (64 - range.count);
                        let checksums = range.blocks().map(|b| Checksum(b.into())).collect();
                        (ClientResult::Data { present, checksums }, Some(data))
                    }
                    _ => (ClientResult::NoSpace, None),
                };
                let (number, piece) = (request.id.number, request.id.piece);
                let reply = ClientReply { number, piece, group: request.group, result };
                out.push(Output::Reply { conn, reply, payload: answer });
            }
            Input::Registered { .. } => self.note(format!("registered {}", self.me)),
            Input::Learned(view) => {
                assert!(view.revision < Revision(666), "the toy finds itself inconsistent");
                self.leads = view.revision == Revision(2);
                self.hangs_up = view.revision == Revision(3);
                if view.revision >= Revision(4) && view.revision < Revision(100) {
                    let (group, alarm) = (GroupId(view.revision.0 as u32), Alarm::Gone);
                    out.push(Output::Alarm { group, alarm, blocks: 1 });
                }
            }
        }
    }
    fn finish(&mut self, _: Instant, _: &mut Vec<Output>) {}
    fn submit(&mut self, _: Instant) {}
    fn deadline(&self) -> Option<Instant> {
        None
    }
    fn leads_any(&self) -> bool {
        self.leads
    }
    fn read_bytes(&self) -> usize {
        0
    }
    fn checkpoint(&self) -> Option<u64> {
        None
    }
    fn journal_fill(&self) -> u64 {
        0
    }
    fn rot(&self) -> Rot {
        Rot::default()
    }
    fn space(&self) -> (u64, u64, bool) {
        (100, 1, false)
    }
    fn close(self) {
        self.note("closed".into());
    }
}

const KEY: [u8; 32] = [9; 32];

/// A node with one slice.
struct Node {
    port: Arc<DataPort>,
    handle: SliceHandle,
    thread: std::thread::JoinHandle<()>,
    log: Log,
    reports: Log,
}

fn identity(node: u32, boot_id: &str) -> Arc<Identity> {
    Arc::new(Identity { cluster: ClusterId(77), node: NodeId(node), key: Some(KEY), boot_id: boot_id.into() })
}

fn node(number: u32, open: u128, dir: &std::path::Path) -> Node {
    // two kernels, so that both ways of dialing are used
    let identity = identity(number, if number == 3 { "other" } else { "this" });
    let unix = dir.join(format!("{number}.sock"));
    let config = DataPortConfig { listen: "127.0.0.1:0".parse().unwrap(), unix: Some(unix) };
    let port = Arc::new(DataPort::start(config, identity.clone()).unwrap());
    let (log, reports) = (Log::default(), Log::default());
    let (store, told) = (ToyStore(log.clone()), reports.clone());
    let config = ThreadConfig {
        identity,
        reports: Arc::new(move |word: FromSlice| told.lock().unwrap().push(format!("{word:?}"))),
        lease: LeaseMode::Clock,
        started: sarsen_ring::now(),
        marks_thread: false,
        stop_max: Duration::from_secs(5),
        budget: Arc::default(),
    };
    let Started { handle, thread, facts: () } =
        start_slice(format!("slice-{number}"), RingConfig::default(), config, |_, _| Ok((store, ())))
            .unwrap();
    let id = SliceId::new(number, 0);
    let member = |drive| Member { slice: SliceId::new(drive, 0), assignment: 1 };
    let view = Arc::new(View {
        revision: Revision(1),
        groups: vec![group(number, (1..=3).map(member).collect())],
        ..View::default()
    });
    handle.send(ToSlice::Registered { id, open: OpenId(open), view, is_stale: false });
    port.serve(id, handle.clone());
    Node { port, handle, thread, log, reports }
}

fn group(primary: u32, members: Vec<Member>) -> GroupState {
    GroupState {
        group: GroupId(1),
        epoch: Epoch(1),
        primary: SliceId::new(primary, 0),
        primary_since: Epoch(1),
        in_sync: vec![],
        joining: vec![],
        complete: vec![],
        could_commit: Epoch(1),
        members,
        min_copies: 1,
        is_damaged: false,
    }
}

fn introduce(nodes: &[&Node]) {
    let peers: BTreeMap<DriveId, PeerAddress> = (nodes.iter())
        .map(|node| {
            let id = node.port.identity().node;
            let address = PeerAddress {
                node: id,
                data: node.port.address().to_string(),
                unix: node.port.unix().map(|p| p.display().to_string()),
                same_kernel: id != NodeId(3),
            };
            (DriveId(id.0), address)
        })
        .collect();
    let peers = Arc::new(peers);
    nodes.iter().for_each(|node| node.handle.send(ToSlice::Peers(peers.clone())));
}

fn wait_for(log: &Log, what: &str, count: usize) {
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while log.lock().unwrap().iter().filter(|line| line.contains(what)).count() < count {
        assert!(
            std::time::Instant::now() < until,
            "{what} did not come {count} times: {:?}",
            log.lock().unwrap()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn hello(to: SliceId) -> Hello {
    Hello {
        version: 0,
        cluster: ClusterId(77),
        has_key: true,
        nonce: key::nonce(),
        boot_id: "this".into(),
        to,
        from: From::Client(Greeting {
            attachment: AttachmentId(1),
            generation: Generation(1),
            session: SessionId(5),
        }),
    }
}

/// A blocking client that shakes hands.
fn connect<T: Read + Write>(mut socket: T, hello: Hello, key: [u8; 32]) -> Result<T, HandshakeError> {
    let mut out = Vec::new();
    let mut dialer = Dialer::new(hello, &mut out);
    let prove = move |bytes: &[u8]| key::prove(&key, bytes);
    let mac: Mac<'_> = Some(&prove);
    let mut bytes = Vec::new();
    loop {
        socket.write_all(&out).unwrap();
        out.clear();
        let mut buf = [0; 512];
        let len = socket.read(&mut buf).unwrap();
        assert!(len > 0, "the port says why it refuses before it closes");
        bytes.extend_from_slice(&buf[..len]);
        let progress = dialer.receive(&bytes, mac, &mut out)?;
        bytes.drain(..progress.used);
        if progress.done.is_some() {
            return Ok(socket);
        }
    }
}

fn request(number: u64, op: ClientOp) -> ClientRequest {
    let id = RequestId { number, session: SessionId(5), ..RequestId::default() };
    let (group, revision, volume) = (GroupId(1), Revision(1), VolumeId(1));
    ClientRequest {
        group,
        revision,
        id,
        answered_below: 0,
        volume,
        layer: LayerId(1),
        chunk: ChunkIndex(0),
        op,
    }
}

fn ask(socket: &mut (impl Read + Write), number: u64, op: ClientOp) -> (ClientReply, Vec<u8>) {
    let mut frame = Vec::new();
    let len = op.range().filter(|_| op.is_write()).map_or(0, |r| r.bytes());
    encode_request(&request(number, op), &mut frame);
    frame.resize(frame.len() + len, 7);
    socket.write_all(&frame).unwrap();
    let mut head = [0; HEADER_LEN];
    socket.read_exact(&mut head).unwrap();
    let header = FrameHeader::parse(&head).unwrap().unwrap();
    let mut rest = vec![0; header.frame_len() - HEADER_LEN];
    socket.read_exact(&mut rest).unwrap();
    let reply = decode_reply(&header, &rest).unwrap();
    (reply, rest.split_off(header.message_len))
}

fn write(blocks: u16) -> ClientOp {
    let checksums = (0..blocks).map(|b| Checksum(b.into())).collect();
    ClientOp::Write { offset: 0, len: u32::from(blocks) * 4096, checksums }
}

#[test]
fn slices_find_each_other_and_payloads_of_all_sizes_arrive_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let nodes: Vec<Node> = (1..=3).map(|n| node(n, u128::from(n), dir.path())).collect();
    introduce(&nodes.iter().collect::<Vec<_>>());
    for (at, node) in nodes.iter().enumerate() {
        wait_for(&node.log, " 64", 2);
        let log = node.log.lock().unwrap().clone();
        for other in (1..=3u32).filter(|&n| n != at as u32 + 1) {
            let same = other != 3 && at != 2;
            assert!(log.contains(&format!("up {other}.0 {same}")), "{log:?}");
            let seen: Vec<&String> =
                log.iter().filter(|l| l.starts_with(&format!("from {other}.0"))).collect();
            let wanted: Vec<String> = (0..65).map(|token| format!("from {other}.0 {token}")).collect();
            assert_eq!(seen, wanted.iter().collect::<Vec<_>>());
        }
    }
    // a node that dies and comes back under another opening of its drive is met again
    let [first, second, third] = <[Node; 3]>::try_from(nodes).ok().unwrap();
    first.handle.send(ToSlice::Stop);
    first.thread.join().unwrap();
    assert!(first.log.lock().unwrap().contains(&"closed".to_owned()));
    assert!(first.reports.lock().unwrap().iter().any(|r| r.starts_with("Stopped")));
    drop(first.port);
    wait_for(&second.log, "down 1.0", 1);
    wait_for(&third.log, "down 1.0", 1);
    let again = node(1, 111, dir.path());
    introduce(&[&again, &second, &third]);
    wait_for(&second.log, "from 1.0 64", 2);
    wait_for(&third.log, "from 1.0 64", 2);
    wait_for(&again.log, " 64", 2);
    // and one whose port is found elsewhere dials when it is told where the others are
    third.handle.send(ToSlice::Stop);
    third.thread.join().unwrap();
    wait_for(&again.log, "down 3.0", 1);
}

#[test]
fn a_stream_that_is_hung_up_is_made_again_and_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let nodes: Vec<Node> = (1..=2).map(|n| node(n, u128::from(n), dir.path())).collect();
    // either end may find the stream damaged: the one that dialed and the one that was dialed
    for node in &nodes {
        let mut view = View { revision: Revision(3), ..View::default() };
        let member = |drive| Member { slice: SliceId::new(drive, 0), assignment: 1 };
        view.groups = vec![group(1, vec![member(1), member(2)])];
        node.handle.send(ToSlice::View(Arc::new(view)));
    }
    introduce(&nodes.iter().collect::<Vec<_>>());
    for node in &nodes {
        wait_for(&node.log, "up ", 8);
        let mut next = 0;
        for line in node.log.lock().unwrap().iter() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["up", ..] => next = 0,
                ["from", _, token] => {
                    assert_eq!(token, next.to_string());
                    next += 1;
                }
                _ => {}
            }
        }
    }
}

#[test]
fn clients_are_served_over_tcp_and_the_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(1, 1, dir.path());
    let id = SliceId::new(1, 0);
    let tcp = connect(TcpStream::connect(node.port.address()).unwrap(), hello(id), KEY).unwrap();
    let unix = std::os::unix::net::UnixStream::connect(node.port.unix().unwrap()).unwrap();
    let unix = connect(unix, hello(id), KEY).unwrap();
    fn talk(mut socket: impl Read + Write) {
        for blocks in [1, 4, 5, 64] {
            assert_eq!(ask(&mut socket, 1, write(blocks)).0.result, ClientResult::Done);
            let range = BlockRange::new(3, blocks);
            let (reply, data) = ask(&mut socket, 2, ClientOp::Read { range });
            assert_eq!((reply.number, data.len()), (2, range.bytes()));
            assert!(range.blocks().zip(data.chunks(4096)).all(|(b, bytes)| bytes == [b as u8; 4096]));
        }
    }
    talk(tcp);
    talk(unix);
    wait_for(&node.log, "client gone", 2);
}

#[test]
fn strangers_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(1, 1, dir.path());
    let dial = |hello, key| {
        connect(TcpStream::connect(node.port.address()).unwrap(), hello, key).map(drop).unwrap_err()
    };
    let here = SliceId::new(1, 0);
    assert_eq!(dial(hello(here), [1; 32]), HandshakeError::Refusing(HelloRefusal::Key));
    let keyless = Hello { has_key: false, ..hello(here) };
    assert_eq!(dial(keyless, KEY), HandshakeError::Refused(HelloRefusal::Key));
    let foreign = Hello { cluster: ClusterId(1), ..hello(here) };
    let wanted = HelloRefusal::Cluster { cluster: ClusterId(77) };
    assert_eq!(dial(foreign, KEY), HandshakeError::Refused(wanted));
    let slice = SliceId::new(9, 9);
    assert_eq!(dial(hello(slice), KEY), HandshakeError::Refused(HelloRefusal::Slice { slice }));
    node.port.withdraw(here);
    assert_eq!(dial(hello(here), KEY), HandshakeError::Refused(HelloRefusal::Slice { slice: here }));
}

#[test]
fn garbage_and_silence_on_the_port_harm_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(1, 1, dir.path());
    let id = SliceId::new(1, 0);
    let mut good = connect(TcpStream::connect(node.port.address()).unwrap(), hello(id), KEY).unwrap();
    // more silent connections than the port holds
    let silent: Vec<TcpStream> = (0..600).map(|_| TcpStream::connect(node.port.address()).unwrap()).collect();
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 5000], b"S\xa5\x01\x00\xff\xff\xff\xff", b"S\xa5\x02\x00"]
    {
        let mut socket = TcpStream::connect(node.port.address()).unwrap();
        let _ = socket.write_all(garbage);
    }
    assert_eq!(ask(&mut good, 1, write(64)).0.result, ClientResult::Done);
    let mut late = connect(TcpStream::connect(node.port.address()).unwrap(), hello(id), KEY).unwrap();
    // a proven client that turns to garbage loses its own connection only
    late.write_all(&[0x55; 100]).unwrap();
    assert_eq!(late.read(&mut [0; 10]).unwrap_or(0), 0);
    let mut mad = connect(TcpStream::connect(node.port.address()).unwrap(), hello(id), KEY).unwrap();
    let mut frame = Vec::new();
    encode_request(&request(1, write(64)), &mut frame);
    frame[20] ^= 1;
    mad.write_all(&frame).unwrap();
    assert_eq!(mad.read(&mut [0; 10]).unwrap_or(0), 0);
    assert_eq!(ask(&mut good, 2, write(1)).0.result, ClientResult::Done);
    drop(silent);
}

#[test]
fn a_planned_stop_waits_until_nothing_is_led_here() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(1, 1, dir.path());
    let view = |revision| Arc::new(View { revision: Revision(revision), ..View::default() });
    node.handle.send(ToSlice::View(view(2)));
    node.handle.send(ToSlice::Stop);
    std::thread::sleep(Duration::from_millis(100));
    assert!(!node.thread.is_finished());
    node.handle.send(ToSlice::View(view(3)));
    node.thread.join().unwrap();
    wait_for(&node.log, "closed", 1);
}

#[test]
fn what_groups_alarm_is_reported_at_once_and_then_together_and_with_the_end_of_the_thread() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(1, 1, dir.path());
    let view = |revision| Arc::new(View { revision: Revision(revision), ..View::default() });
    node.handle.send(ToSlice::View(view(4)));
    wait_for(&node.reports, "Alarmed", 1);
    node.handle.send(ToSlice::View(view(5)));
    node.handle.send(ToSlice::View(view(6)));
    node.handle.send(ToSlice::Stop);
    node.thread.join().unwrap();
    let mut told = node.reports.lock().unwrap().clone();
    told.retain(|r| r.starts_with("Alarmed"));
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("groups: [group 4], more: 0, blocks: 1"), "{told:?}");
    assert!(told[1].contains("groups: [group 5, group 6], more: 0, blocks: 2"), "{told:?}");
}

#[test]
fn a_machine_that_panics_ends_its_slice_and_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(1, 1, dir.path());
    node.handle.send(ToSlice::View(Arc::new(View { revision: Revision(666), ..View::default() })));
    node.thread.join().unwrap();
    let reports = node.reports.lock().unwrap().clone();
    assert!(reports.iter().any(|r| r.starts_with("Failed") && r.contains("inconsistent")), "{reports:?}");
    assert!(reports.iter().any(|r| r.starts_with("Stopped") && r.contains("1.0")), "{reports:?}");
}

#[test]
fn a_drive_that_was_never_registered_is_closed() {
    let log = Log::default();
    let store = ToyStore(log.clone());
    let reports = Log::default();
    let told = reports.clone();
    let config = ThreadConfig {
        identity: identity(1, "this"),
        reports: Arc::new(move |word| told.lock().unwrap().push(format!("{word:?}"))),
        lease: LeaseMode::Clock,
        started: sarsen_ring::now(),
        marks_thread: false,
        stop_max: Duration::from_secs(5),
        budget: Arc::default(),
    };
    let started = start_slice("slice".into(), RingConfig::default(), config, |_, _| Ok((store, ()))).unwrap();
    started.handle.send(ToSlice::Stop);
    started.thread.join().unwrap();
    assert_eq!(*log.lock().unwrap(), ["closed unregistered"]);
    assert!(reports.lock().unwrap()[0].starts_with("Stopped"));
}

/// A format whose superblock is a list of ids: the cluster, then opens.
struct ToyFormat {
    log: Log,
    broken_slice: Option<u8>,
}

impl ToyFormat {
    fn read(file: &Arc<DriveFile>) -> Vec<u128> {
        let mut disk = BlockingDisk::new(file.clone(), 0, 4096);
        disk.read(OpId(1), 0, Pool::new().take(4096));
        let mut done = Vec::new();
        disk.wait(&mut done);
        let block = done.pop().unwrap().buf.unwrap();
        let ids = block.chunks_exact(16).map(|id| u128::from_le_bytes(id.try_into().unwrap()));
        ids.take_while(|&id| id != 0).collect()
    }
    fn write(file: &Arc<DriveFile>, ids: &[u128]) {
        let mut block = Pool::new().take_zeroed(4096);
        for (to, id) in block.get_mut().chunks_exact_mut(16).zip(ids) {
            to.copy_from_slice(&id.to_le_bytes());
        }
        BlockingDisk::new(file.clone(), 0, 4096).write(OpId(1), 0, smallvec::smallvec![block]);
    }
}

impl DriveFormat for ToyFormat {
    type Store = ToyStore;
    fn open(&self, file: &Arc<DriveFile>, open: OpenId, ours: ClusterId) -> Result<Superblock, String> {
        let mut ids = ToyFormat::read(file);
        let cluster = match ids.first() {
            Some(&id) => (id != 1).then_some(ClusterId(id)),
            None => {
                ids.push(1);
                None
            }
        };
        let opens = ids[1..].iter().copied().map(OpenId).collect();
        if cluster.is_none_or(|c| c == ours) {
            ids.push(open.0);
            ToyFormat::write(file, &ids);
        }
        Ok(Superblock { identity: DriveIdentity(5), cluster, opens, slices: 2 })
    }
    fn registered(&self, file: &Arc<DriveFile>, cluster: ClusterId, open: OpenId) -> Result<(), String> {
        ToyFormat::write(file, &[cluster.0, open.0]);
        Ok(())
    }
    fn open_slice(
        &self,
        index: u8,
        _: OpenId,
        file: &Arc<DriveFile>,
        ring: &mut Ring,
        _: usize,
        _: &Pool,
    ) -> Result<(ToyStore, SliceFacts), String> {
        let disk = ring.disk(file.clone(), 4096, 1 << 19);
        if self.broken_slice == Some(index) {
            return Err(format!("slice {index} has no root"));
        }
        let facts = SliceFacts { total_blocks: disk.size() / 4096, used_blocks: 1, is_broken: index == 1 };
        Ok((ToyStore(self.log.clone()), facts))
    }
}

#[test]
fn a_drive_is_opened_registered_served_and_stopped_and_its_superblock_remembers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("drive");
    std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let port = |cluster| {
        let mut identity = (*identity(1, "this")).clone();
        identity.cluster = ClusterId(cluster);
        let config = DataPortConfig { listen: "127.0.0.1:0".parse().unwrap(), unix: None };
        Arc::new(DataPort::start(config, Arc::new(identity)).unwrap())
    };
    let ours = port(77);
    let log = Log::default();
    let open = |port: &Arc<DataPort>, broken_slice| {
        let format = ToyFormat { log: log.clone(), broken_slice };
        let config = DriveConfig { marks_threads: false, ..DriveConfig::new(path.clone(), LeaseMode::Clock) };
        open_drive_of(format, config, port, Arc::new(|_| {}))
    };
    // one of its slices does not open: the other one is closed again
    let why = open(&ours, Some(1)).err().unwrap();
    assert!(why.to_string().ends_with("drive: slice 1 has no root"), "{why}");
    assert_eq!(*log.lock().unwrap(), ["closed unregistered"]);

    let drive = open(&ours, None).unwrap();
    let facts = drive.facts().clone();
    assert_eq!((facts.opens.len(), facts.slices, facts.total_blocks, facts.is_broken), (1, 2, 256, true));
    assert!(!facts.opens.contains(&facts.open) && facts.cluster.is_none());
    let slice =
        |index| connect(TcpStream::connect(ours.address()).unwrap(), hello(SliceId::new(4, index)), KEY);
    let unknown = HelloRefusal::Slice { slice: SliceId::new(4, 1) };
    assert_eq!(
        slice(1).unwrap_err(),
        HandshakeError::Refused(unknown),
        "nothing is served before the registration"
    );
    let views = [Arc::new(View::default()), Arc::new(View::default())];
    drive.registered(DriveId(4), &views, false).unwrap();
    assert_eq!(ask(&mut slice(1).unwrap(), 1, write(3)).0.result, ClientResult::Done);
    wait_for(&log, "registered 4.0", 1);
    drive.stop();
    assert_eq!(slice(1).unwrap_err(), HandshakeError::Refused(unknown));
    drive.join();
    assert_eq!(log.lock().unwrap().iter().filter(|line| *line == "closed").count(), 2);

    // the next opening knows which ids were its own; another cluster's node refuses it and leaves it as it was
    let foreign = port(78);
    let why = open(&foreign, None).err().unwrap();
    assert!(matches!(why, DriveError::OtherCluster { found: ClusterId(77), .. }), "{why}");
    let again = open(&ours, None).unwrap();
    assert_eq!((again.facts().opens.clone(), again.facts().cluster), (vec![facts.open], Some(ClusterId(77))));
    drop(again);

    // one that is somebody else's now is not closed: that would write to it
    let closed = || log.lock().unwrap().iter().filter(|line| line.starts_with("closed")).count();
    let taken = open(&ours, None).unwrap();
    let before = closed();
    taken.registered(DriveId(4), &views, false).unwrap();
    taken.abandon();
    taken.join();
    let refused = open(&ours, None).unwrap();
    refused.abandon();
    refused.join();
    assert_eq!(closed(), before);
}
