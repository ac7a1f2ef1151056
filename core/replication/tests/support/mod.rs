//! A cluster of machines on one thread, for scenarios: streams, metadata, clients and time in the test's hands.
#![allow(dead_code)] // each test file uses its part
mod judge;
pub mod store;

use sarsen_replication::{Config, ConnId, Counters, Input, Machine, Memory, Output};
use sarsen_types::record::Entry;
use sarsen_types::view::{AttachmentView, LayerView, VolumeView};
use sarsen_types::*;
use sarsen_wire::client::{ClientOp, ClientReply, ClientRequest, ClientResult};
use sarsen_wire::peer::{GroupBody, GroupMessage, PeerMessage};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use store::{Disk, Payload, Store};

pub const GROUP: GroupId = GroupId(7);
pub const OBJECT: ObjectId = ObjectId::new(1, 0);
const STEP: Duration = Duration::from_millis(10);

pub struct Node {
    pub machine: Machine<Payload>,
    pub store: Store,
    is_registered: bool,
}

pub struct Cluster {
    pub now: Instant,
    pub nodes: Vec<Option<Node>>,
    disks: Vec<Disk>,
    streams: BTreeMap<(usize, usize), VecDeque<(PeerMessage, Option<Payload>)>>,
    /// Pairs that do not reach each other.
    pub cut: BTreeSet<(usize, usize)>,
    pub state: GroupState,
    pub revision: u64,
    pub attachment: AttachmentView,
    /// It has ended.
    pub is_detached: bool,
    pub proposals: VecDeque<Proposal>,
    /// Proposals stay where they are while set.
    pub metadata_is_away: bool,
    /// Nodes that the metadata do not reach, nor they the metadata.
    pub deaf: BTreeSet<usize>,
    /// What the first says is on its way to the second for as long as this lasts.
    pub stalled: BTreeSet<(usize, usize)>,
    /// Nodes that stand still, and their clocks with them.
    pub asleep: BTreeSet<usize>,
    slept: Vec<Duration>,
    /// Drives whose image was rolled back: they register as stale (R1) until they distrust themselves.
    pub stale: BTreeSet<usize>,
    /// The chunk that requests go to.
    pub chunk: u32,
    /// What requests say the client has the answers of.
    pub answered_below: u64,
    /// Requests come on another connection when it changes.
    pub next_conn: u64,
    /// Nodes that the metadata tell nothing of the group yet.
    pub ignorant: BTreeSet<usize>,
    /// What those are told that they no longer have: a group, the number of its assignment (R20).
    pub dropped: Vec<(GroupId, u64)>,
    /// Nothing panics when a block is intact nowhere.
    pub may_lose: bool,
    /// What operators were told.
    pub alarms: Vec<(usize, Alarm)>,
    pub replies: BTreeMap<(u64, u16), (ClientResult, Option<Payload>)>,
    pub counters: Counters,
    /// What the metadata want fenced.
    pub fences: Vec<(AttachmentId, Generation, Vec<GroupId>)>,
    /// Fences the primary reported as done.
    pub fenced: Vec<Generation>,
    /// Copies expelled for what they lacked.
    pub expelled: usize,
    /// Sole copies that gave way to one with more.
    pub gave_way: u32,
    confirm: bool,
    /// Deleted layers that metadata tell of.
    pub tombstones: Vec<(Revision, LayerId)>,
    /// Who said that deletions up to a revision are carried out.
    pub buried: Vec<(usize, Revision)>,
    /// What each slice may keep in memory.
    pub memory: Memory,
    /// Writes of an epoch.
    pub epoch_writes: u64,
    /// All nodes are processes of one machine (R4).
    pub same_kernel: bool,
    members: usize,
    is_traced: bool,
}

pub fn slice(node: usize) -> SliceId {
    SliceId::new(node as u32 + 1, 0)
}
fn index(slice: SliceId) -> usize {
    slice.drive.0 as usize - 1
}

impl Cluster {
    /// `n` copies in sync, the first leads.
    pub fn new(n: usize, min_copies: u8) -> Cluster {
        let all: Vec<SliceId> = (0..n).map(slice).collect();
        let state = GroupState {
            group: GROUP,
            epoch: Epoch(1),
            primary: slice(0),
            primary_since: Epoch(1),
            in_sync: all.clone(),
            joining: vec![],
            complete: all.clone(),
            could_commit: Epoch(1),
            members: all.iter().map(|&slice| Member { slice, assignment: 1 }).collect(),
            min_copies,
            is_damaged: false,
        };
        let mut cluster = Cluster {
            now: Instant(1_000_000_000),
            nodes: (0..n).map(|_| None).collect(),
            disks: vec![Disk::default(); n],
            streams: BTreeMap::new(),
            cut: BTreeSet::new(),
            state,
            revision: 1,
            attachment: AttachmentView {
                volume: VolumeId(1),
                generation: Generation(1),
                session: SessionId(1),
                read_only: false,
            },
            is_detached: false,
            proposals: VecDeque::new(),
            metadata_is_away: false,
            deaf: BTreeSet::new(),
            stalled: BTreeSet::new(),
            asleep: BTreeSet::new(),
            slept: vec![Duration::ZERO; n],
            stale: BTreeSet::new(),
            chunk: 0,
            answered_below: 0,
            next_conn: 0,
            ignorant: BTreeSet::new(),
            dropped: vec![],
            may_lose: false,
            alarms: Vec::new(),
            replies: BTreeMap::new(),
            counters: Counters::default(),
            fences: vec![],
            fenced: vec![],
            expelled: 0,
            gave_way: 0,
            confirm: false,
            tombstones: Vec::new(),
            buried: Vec::new(),
            memory: Memory::default(),
            epoch_writes: limits::EPOCH_WRITES,
            same_kernel: false,
            members: n,
            is_traced: std::env::var("TRACE").is_ok(),
        };
        for node in 0..n {
            cluster.start(node);
        }
        cluster
    }

    fn view(&self, node: usize) -> Arc<View> {
        let groups = if self.ignorant.contains(&node) { vec![] } else { vec![self.state.clone()] };
        let mut view = View { revision: Revision(self.revision), groups, ..View::default() };
        view.layers.insert(LayerId(1), LayerView { family: FamilyId(1), parent: None });
        view.volumes
            .insert(VolumeId(1), VolumeView { head: LayerId(1), size: 64 << 20, changed: Revision(1) });
        view.last_attachment = AttachmentId(1);
        if !self.is_detached {
            view.attachments.insert(AttachmentId(1), self.attachment);
        }
        view.fences = self.fences.clone();
        view.dropped_layers = self.tombstones.clone();
        if self.ignorant.contains(&node) {
            view.dropped_groups = self.dropped.clone();
        }
        Arc::new(view)
    }

    /// Opens a node's store; it registers as soon as the metadata answer.
    pub fn start(&mut self, node: usize) {
        let disk = std::mem::take(&mut self.disks[node]);
        let ledgers: Vec<_> = disk.ledgers.iter().map(|(g, l)| (*g, l.clone())).collect();
        let config = Config {
            me: slice(node),
            started: self.clock(node),
            confirm: self.confirm,
            memory: self.memory,
            epoch_writes: self.epoch_writes,
        };
        let machine = Machine::new(config, ledgers);
        self.nodes[node] = Some(Node { machine, store: Store::open(disk), is_registered: false });
    }

    /// kill -9: of what waits for the disk the first `durable` records stand.
    pub fn crash(&mut self, node: usize, durable: usize) {
        self.crash_torn(node, durable, &[]);
    }

    pub fn crash_torn(&mut self, node: usize, durable: usize, torn: &[u16]) {
        let Some(n) = self.nodes[node].take() else { return };
        if self.is_traced {
            println!(
                "{:?} {node}: CRASH, {durable} of {} stand, torn {torn:?}",
                self.now,
                n.store.queue.len()
            );
        }
        self.counters.add(n.machine.counters());
        self.disks[node] = n.store.crash(durable, torn);
        for other in 0..self.nodes.len() {
            self.disconnect(node, other);
        }
    }

    /// kill -9, and what was written since `image` is gone: the end of its journal rotted.
    pub fn crash_to(&mut self, node: usize, image: Disk) {
        self.crash(node, 0);
        self.disks[node] = image;
    }

    pub fn crash_all(&mut self) {
        for node in 0..self.nodes.len() {
            self.crash(node, 0);
        }
    }

    pub fn start_all(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].is_none() {
                self.start(node);
            }
        }
    }

    pub fn disconnect(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            if self.streams.remove(&(from, to)).is_some() {
                self.input(to, Input::PeerDown { slice: slice(from) });
            }
        }
    }

    /// Nothing passes between the two any more.
    pub fn separate(&mut self, a: usize, b: usize) {
        self.cut.extend([(a, b), (b, a)]);
        self.disconnect(a, b);
    }
    pub fn isolate(&mut self, node: usize) {
        for other in (0..self.nodes.len()).filter(|&o| o != node) {
            self.separate(node, other);
        }
        self.deaf.insert(node);
    }
    pub fn reconnect(&mut self) {
        self.cut.clear();
        self.deaf.clear();
        self.stalled.clear();
        self.asleep.clear();
    }

    /// What a node's clock shows.
    fn clock(&self, node: usize) -> Instant {
        Instant(self.now.0 - self.slept[node].as_nanos() as u64)
    }

    /// What a node's disk holds: an image to be put back later.
    pub fn image(&self, node: usize) -> Disk {
        self.nodes[node].as_ref().map_or_else(|| self.disks[node].clone(), |n| n.store.disk.clone())
    }

    /// A stopped node's disk is an image of before.
    pub fn roll_back(&mut self, node: usize, image: Disk) {
        assert!(self.nodes[node].is_none());
        self.disks[node] = image;
        self.stale.insert(node);
    }

    /// A node's drive takes everything and completes nothing, while its thread lives.
    pub fn hang(&mut self, node: usize, is_hung: bool) {
        self.store(node).is_slow = is_hung;
        self.input(node, Input::Drive { is_hung, is_full: false, is_full_for_joins: false });
    }

    /// A node's drive has no room for a copy that begins with nothing (S16).
    pub fn fill_for_joins(&mut self, node: usize) {
        self.input(node, Input::Drive { is_hung: false, is_full: false, is_full_for_joins: true });
    }

    /// A node's drive has no room for clients (S16).
    pub fn fill(&mut self, node: usize) {
        self.input(node, Input::Drive { is_hung: false, is_full: true, is_full_for_joins: true });
    }

    /// The group as a node knows it.
    pub fn group(&self, node: usize) -> &sarsen_replication::group::Group<Payload> {
        let all = &mut self.nodes[node].as_ref().expect("it runs").machine.groups();
        all.find(|g| g.id == GROUP).expect("it knows the group")
    }

    /// A place on a slice that had the group, and has it no more, is given it again (R20).
    pub fn assign_anew(&mut self, node: usize) {
        let since = self.state.epoch.next();
        self.change(|s| {
            for m in s.members.iter_mut().filter(|m| m.slice == slice(node)) {
                m.assignment += 1;
            }
            s.joining.push(Joining { slice: slice(node), since });
        });
    }

    pub fn store(&mut self, node: usize) -> &mut Store {
        &mut self.nodes[node].as_mut().expect("it runs").store
    }

    /// A map page of an object is lost.
    pub fn lose_page(&mut self, node: usize, chunk: u32) {
        self.store(node).lose_page(GROUP, ObjectId::new(1, chunk));
    }

    /// The blocks that part-block writes wait for are read.
    pub fn finish_reads(&mut self, node: usize) {
        self.store(node).holds_reads = false;
        for input in std::mem::take(&mut self.store(node).held) {
            self.input(node, input);
        }
    }

    /// A node learns durably that older generations are refused, from nobody else here.
    pub fn take_bump(&mut self, node: usize, generation: Generation) {
        let from = self.state.primary;
        let body = GroupBody::FenceQ { attachment: AttachmentId(1), generation };
        let message = GroupMessage { group: GROUP, epoch: self.state.epoch, floor: Version::ZERO, body };
        self.input(node, Input::Peer { from, message: PeerMessage::Group(message), payload: None });
    }

    /// The top entry of a block does not match its checksum any more.
    pub fn rot(&mut self, node: usize, block: u16) {
        let place = (GROUP, ObjectId::new(1, self.chunk), block);
        let top = self.store(node).disk.blocks.get_mut(&place).and_then(|s| s.last_mut()).expect("an entry");
        if let Entry::Data(version, checksum) = top.0 {
            *top = (Entry::Damaged(version, checksum), 0);
        }
    }

    /// A copy holds other data under the same version, with their right checksum.
    pub fn contradict(&mut self, node: usize, block: u16) {
        let place = (GROUP, ObjectId::new(1, self.chunk), block);
        let top = self.store(node).disk.blocks.get_mut(&place).and_then(|s| s.last_mut()).expect("an entry");
        if let Entry::Data(version, checksum) = top.0 {
            *top = (Entry::Data(version, Checksum(checksum.0 ^ 1)), top.1 ^ 1);
        }
    }

    /// The metadata move: a compare-and-set that was accepted (R11, R14).
    pub fn change(&mut self, f: impl FnOnce(&mut GroupState)) {
        let before = self.state.primary;
        if self.state.may_commit() {
            self.state.could_commit = self.state.epoch;
        }
        f(&mut self.state);
        self.state.epoch = self.state.epoch.next();
        if self.state.may_commit() {
            self.state.could_commit = self.state.epoch;
        }
        if self.state.primary != before {
            self.state.primary_since = self.state.epoch;
        }
        match self.state.may_commit() {
            true => self.state.complete = self.state.in_sync.clone(),
            false => {
                for s in self.state.in_sync.clone() {
                    if !self.state.complete.contains(&s) {
                        self.state.complete.push(s);
                    }
                }
            }
        }
        self.revision += 1;
    }

    pub fn take_over(&mut self, by: usize, keep_old: bool) {
        self.change(|s| {
            let old = s.primary;
            s.in_sync.retain(|c| keep_old || *c != old);
            s.primary = slice(by);
        });
    }
    pub fn remove(&mut self, node: usize) {
        self.change(|s| {
            s.in_sync.retain(|c| *c != slice(node));
            s.joining.retain(|j| j.slice != slice(node));
        });
    }
    pub fn join(&mut self, node: usize) {
        let since = self.state.epoch.next();
        self.change(|s| s.joining.push(Joining { slice: slice(node), since }));
    }
    /// A forced detach: requests of the old generation are to be refused everywhere (R31).
    pub fn detach_by_force(&mut self) {
        self.attachment.generation = Generation(self.attachment.generation.0 + 1);
        self.fences = vec![(AttachmentId(1), self.attachment.generation, vec![GROUP])];
        self.revision += 1;
    }
    /// As `new`, with reads that wait for rounds (R4).
    pub fn confirming(n: usize, min_copies: u8) -> Cluster {
        let mut cluster = Cluster::new(n, min_copies);
        cluster.confirm = true;
        cluster.crash_all();
        cluster.start_all();
        cluster
    }
    /// The metadata register a drive again (R1).
    fn register(&mut self, node: usize) {
        let is_stale = self.stale.contains(&node);
        if is_stale {
            self.register_stale(node);
        } else if self.state.primary == slice(node) {
            let up = |s: &SliceId| {
                *s != slice(node) && self.nodes[index(*s)].as_ref().is_some_and(|n| n.is_registered)
            };
            let heir = self.state.in_sync.iter().copied().find(up).unwrap_or(slice(node));
            self.change(|s| s.primary = heir);
            self.state.primary_since = self.state.epoch;
        }
        let view = self.view(node);
        self.nodes[node].as_mut().unwrap().is_registered = true;
        self.input(node, Input::Registered { view, is_stale });
    }

    /// R1: a stale drive leaves in_sync where another is, complete and joining.
    fn register_stale(&mut self, node: usize) {
        let who = slice(node);
        let is_other = |s: &SliceId| *s != who;
        let heir = self.state.in_sync.iter().chain(&self.state.complete).copied().find(is_other);
        let Some(heir) = heir else { return };
        if !self.state.members.iter().any(|m| m.slice == who) {
            return;
        }
        self.change(|s| {
            s.in_sync.retain(is_other);
            s.joining.retain(|j| j.slice != who);
            if s.in_sync.is_empty() {
                s.in_sync.push(heir);
                s.joining.retain(|j| j.slice != heir);
            }
            if s.primary == who {
                s.primary = heir;
            }
        });
        self.state.complete.retain(is_other);
    }

    fn input(&mut self, node: usize, input: Input<Payload>) {
        let now = self.clock(node);
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let Some(n) = self.nodes[node].as_mut() else { return };
            let mut out = Vec::new();
            n.machine.step(now, input, &mut out);
            self.carry_out(node, out, &mut inputs);
        }
    }

    fn carry_out(&mut self, node: usize, out: Vec<Output<Payload>>, inputs: &mut VecDeque<Input<Payload>>) {
        for output in out {
            if self.is_traced {
                self.trace(node, &output);
            }
            match output {
                Output::Send { to, message, payload } => {
                    if let Some(stream) = self.streams.get_mut(&(node, index(to))) {
                        stream.push_back((message, payload));
                    }
                }
                Output::Reply { reply, payload, .. } => self.replied(reply, payload),
                Output::Propose(p) if !self.deaf.contains(&node) => self.proposals.push_back(p),
                Output::Propose(_) => {}
                Output::Hangup(to) => self.disconnect(node, index(to)),
                Output::Report(text) if text.contains("intact on no") && !self.may_lose => panic!("{text}"),
                Output::Distrusted => drop(self.stale.remove(&node)),
                Output::Dropped(revision) => self.buried.push((node, revision)),
                Output::Report(text) => println!("{} {text}", slice(node)),
                Output::Alarm { group, alarm, .. } => {
                    assert_eq!(group, GROUP);
                    self.alarms.push((node, alarm));
                }
                other => {
                    if let Some(n) = self.nodes[node].as_mut() {
                        n.store.carry_out(other, inputs);
                    }
                }
            }
        }
    }

    /// `TRACE=1` prints what machines do, without heartbeats.
    fn trace(&self, node: usize, output: &Output<Payload>) {
        match output {
            Output::Send {
                message: PeerMessage::Beat(_) | PeerMessage::BeatAck(_) | PeerMessage::Grant(_),
                ..
            } => {}
            Output::Persist { record, .. } => println!("{:?} {node}: persist {record:?}", self.now),
            Output::Send { to, message, .. } => println!("{:?} {node}: to {to} {message:?}", self.now),
            other => println!("{:?} {node}: {other:?}", self.now),
        }
    }

    fn replied(&mut self, reply: ClientReply, payload: Option<Payload>) {
        self.replies.insert((reply.number, reply.piece), (reply.result, payload));
    }

    /// Ten milliseconds: everything that can happen does.
    pub fn step(&mut self) {
        self.now += STEP;
        for &node in &self.asleep {
            self.slept[node] += STEP;
        }
        self.register_all();
        self.connect();
        let mut is_busy = true;
        let mut rounds = 0;
        while is_busy {
            rounds += 1;
            assert!(rounds < 10_000, "the cluster does not come to rest within a step");
            is_busy = false;
            for node in 0..self.nodes.len() {
                is_busy |= self.turn(node);
            }
            let keys: Vec<_> = self.streams.keys().copied().collect();
            for (from, to) in keys {
                if self.stalled.contains(&(from, to)) || self.asleep.contains(&to) {
                    continue;
                }
                while let Some((message, payload)) =
                    self.streams.get_mut(&(from, to)).and_then(VecDeque::pop_front)
                {
                    is_busy = true;
                    self.input(to, Input::Peer { from: slice(from), message, payload });
                }
            }
            if !self.metadata_is_away
                && let Some(p) = self.proposals.pop_front()
            {
                self.judge(p);
                is_busy = true;
            }
        }
    }

    /// Drives that were opened register as soon as the metadata answer.
    fn register_all(&mut self) {
        for node in 0..self.nodes.len() {
            let waits = self.nodes[node].as_ref().is_some_and(|n| !n.is_registered);
            if waits && !self.metadata_is_away && !self.deaf.contains(&node) {
                self.register(node);
            }
        }
    }

    /// Ten milliseconds in which each stream carries one message and no more follows from it.
    pub fn step_half(&mut self) {
        self.now += STEP;
        self.register_all();
        self.connect();
        for node in 0..self.nodes.len() {
            self.turn(node);
        }
        let keys: Vec<_> = self.streams.keys().copied().collect();
        for (from, to) in keys {
            if let Some((message, payload)) = self.streams.get_mut(&(from, to)).and_then(VecDeque::pop_front)
            {
                self.input(to, Input::Peer { from: slice(from), message, payload });
            }
        }
    }

    /// The oldest record that waits at a slow disk is durable.
    pub fn persist_one(&mut self, node: usize) {
        if let Some(token) = self.store(node).persist_one() {
            self.input(node, Input::Persisted(token));
        }
    }

    fn connect(&mut self) {
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                let both = self.nodes[a].is_some() && self.nodes[b].is_some();
                if a < b && both && !self.cut.contains(&(a, b)) && !self.streams.contains_key(&(a, b)) {
                    self.streams.insert((a, b), VecDeque::new());
                    self.streams.insert((b, a), VecDeque::new());
                    self.input(a, Input::PeerUp { slice: slice(b), same_kernel: self.same_kernel });
                    self.input(b, Input::PeerUp { slice: slice(a), same_kernel: self.same_kernel });
                }
            }
        }
    }

    fn turn(&mut self, node: usize) -> bool {
        if self.asleep.contains(&node) {
            return false;
        }
        let (view, now) = (self.view(node), self.clock(node));
        let Some(n) = self.nodes[node].as_mut() else { return false };
        let learns =
            n.is_registered && !self.deaf.contains(&node) && n.machine.view().revision < view.revision;
        let mut is_busy = learns;
        let mut out = Vec::new();
        if learns {
            n.machine.step(now, Input::Learned(view), &mut out);
        }
        let mut inputs = VecDeque::new();
        while !n.store.is_slow
            && let Some(token) = n.store.persist_one()
        {
            inputs.push_back(Input::Persisted(token));
        }
        n.machine.finish(now, &mut out);
        is_busy |= !inputs.is_empty() || out.iter().any(|o| !matches!(o, Output::Propose(_)));
        self.carry_out(node, out, &mut inputs);
        for input in inputs {
            self.input(node, input);
        }
        is_busy
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    pub fn run_until(&mut self, what: &str, limit: Duration, mut done: impl FnMut(&mut Cluster) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            if self.now >= end {
                for n in self.nodes.iter().flatten() {
                    println!("{}", describe(&n.machine));
                }
                panic!(
                    "not within {limit:?}: {what}; {:?}; replies {:?}",
                    self.state,
                    self.replies.last_key_value()
                );
            }
            self.step();
        }
    }

    // ---- clients ----

    pub fn request(&mut self, to: usize, number: u64, op: ClientOp, payload: Option<Payload>) {
        self.replies.remove(&(number, 0));
        let request = self.request_of(number, op);
        let conn = ConnId(self.next_conn * 100 + to as u64 + 1);
        self.input(to, Input::Client { conn, request, payload });
    }

    pub fn request_of(&self, number: u64, op: ClientOp) -> ClientRequest {
        ClientRequest {
            group: GROUP,
            revision: Revision(1),
            id: RequestId {
                attachment: AttachmentId(1),
                generation: self.attachment.generation,
                session: self.attachment.session,
                queue: QueueId(0),
                number,
                piece: 0,
            },
            answered_below: self.answered_below,
            volume: VolumeId(1),
            layer: LayerId(1),
            chunk: ChunkIndex(self.chunk),
            op,
        }
    }

    /// Writes a part of a block.
    pub fn write_part(&mut self, to: usize, number: u64, offset: u32, content: u64) {
        let checksums = std::iter::once(Checksum(content)).collect();
        let op = ClientOp::Write { offset, len: 10, checksums };
        self.request(to, number, op, Some(Rc::new(vec![content])));
    }

    /// Writes `content` to `count` blocks from `first`.
    pub fn write(&mut self, to: usize, number: u64, first: u16, count: u16, content: u64) {
        let payload: Payload = Rc::new((0..u64::from(count)).map(|_| content).collect());
        let checksums = (0..count).map(|_| Checksum(content)).collect();
        let (offset, len) = (u32::from(first) * 4096, u32::from(count) * 4096);
        self.request(to, number, ClientOp::Write { offset, len, checksums }, Some(payload));
    }
    pub fn discard(&mut self, to: usize, number: u64, first: u16, count: u16) {
        let (offset, len) = (u32::from(first) * 4096, u32::from(count) * 4096);
        self.request(to, number, ClientOp::Zero { offset, len }, None);
    }
    pub fn read(&mut self, to: usize, number: u64, first: u16) {
        self.request(to, number, ClientOp::Read { range: BlockRange::new(first, 1) }, None);
    }
    /// A greeting of the cluster's session, or of another.
    pub fn greet(&mut self, to: usize, number: u64) {
        self.request(to, number, ClientOp::Greet, None);
    }
    pub fn reply(&self, number: u64) -> Option<&ClientResult> {
        self.replies.get(&(number, 0)).map(|r| &r.0)
    }
    pub fn is_done(&self, number: u64) -> bool {
        self.reply(number) == Some(&ClientResult::Done)
    }
    /// Whether a read was answered with what is there.
    pub fn was_read(&self, number: u64) -> bool {
        matches!(self.reply(number), Some(ClientResult::Data { .. }))
    }
    pub fn lead(&self) -> usize {
        index(self.state.primary)
    }

    /// Retries as a client does, at whoever leads, until it is answered.
    pub fn write_till_done(&mut self, number: u64, first: u16, count: u16, content: u64) {
        self.replies.remove(&(number, 0));
        let mut last = Instant(0);
        self.run_until("a write is answered", Duration::from_secs(60), |c| {
            if c.is_done(number) {
                return true;
            }
            let lead = c.lead();
            if c.now.since(last) > Duration::from_millis(100) && c.nodes[lead].is_some() {
                last = c.now;
                c.write(lead, number, first, count, content);
            }
            c.is_done(number)
        });
    }

    /// Reads a block as a client does.
    pub fn value(&mut self, number: u64, first: u16) -> u64 {
        let mut last = Instant(0);
        self.run_until("a read is answered", Duration::from_secs(60), |c| {
            let lead = c.lead();
            if c.now.since(last) > Duration::from_millis(100) && c.nodes[lead].is_some() {
                last = c.now;
                c.read(lead, number, first);
            }
            matches!(c.reply(number), Some(ClientResult::Data { .. }))
        });
        self.replies[&(number, 0)].1.as_ref().map_or(0, |p| p[0])
    }

    /// Faults have stopped: members that are away join, until all are in sync; then all copies are equal.
    pub fn settle(&mut self) {
        self.reconnect();
        self.metadata_is_away = false;
        self.start_all();
        for node in 0..self.nodes.len() {
            self.hang(node, false);
            self.store(node).is_full = false;
        }
        let members = self.members;
        // a proposal of before may still take a copy out: quiet is when a second passes without a change
        loop {
            self.run_until("all copies are in sync", Duration::from_secs(120), |c| {
                let out = (0..members)
                    .find(|n| !c.state.is_in_sync(slice(*n)) && c.state.join_of(slice(*n)).is_none())
                    .filter(|n| !c.stale.contains(n));
                if let Some(node) = out.filter(|_| c.leads_now()) {
                    c.join(node);
                }
                c.state.in_sync.len() == members
            });
            let epoch = self.state.epoch;
            self.run(Duration::from_secs(1));
            if self.state.epoch == epoch {
                break;
            }
        }
        let all: Vec<BTreeMap<_, _>> = self.nodes.iter().flatten().map(|n| contents(&n.store)).collect();
        for other in &all[1..] {
            assert_eq!(&all[0], other, "copies differ when quiet");
        }
        // what some mark lets go need not be everywhere
        let marks: Vec<u64> = self.nodes.iter().flatten().map(|n| mark(&n.store)).collect();
        let below = marks.into_iter().max().unwrap_or(0);
        let session = self.attachment.session;
        let records: Vec<BTreeSet<_>> =
            self.nodes.iter().flatten().map(|n| records(&n.store, session, below)).collect();
        for other in &records[1..] {
            assert_eq!(&records[0], other, "request records differ when quiet");
        }
    }

    fn leads_now(&self) -> bool {
        self.nodes[self.lead()].as_ref().is_some_and(|n| {
            n.machine.groups().any(|g| match &g.role {
                sarsen_replication::group::Role::Primary(p) => {
                    !p.is_collecting() && g.state.epoch == self.state.epoch
                }
                _ => false,
            })
        })
    }

    pub fn count(&self, of: impl Fn(&Counters) -> u64) -> u64 {
        of(&self.counters) + self.nodes.iter().flatten().map(|n| of(n.machine.counters())).sum::<u64>()
    }
}

fn contents(store: &Store) -> BTreeMap<(ObjectId, u16), (Version, u64)> {
    let all = store.disk.blocks.keys().map(|&(g, o, b)| ((o, b), store.top(g, o, b)));
    all.filter(|(_, (_, content))| *content != 0).collect()
}

fn records(store: &Store, session: SessionId, below: u64) -> BTreeSet<RequestId> {
    let ledger = &store.disk.ledgers[&GROUP];
    let counts = |id: &RequestId| id.session >= session && id.number >= below && ledger.find(id).is_some();
    ledger.notes().map(|(id, _)| id).filter(counts).collect()
}

fn mark(store: &Store) -> u64 {
    store.disk.ledgers[&GROUP].marks().map(|m| m.below).max().unwrap_or(0)
}

/// A group's state in one line, for a failed run.
fn describe(machine: &Machine<Payload>) -> String {
    use sarsen_replication::group::Role;
    use sarsen_replication::primary::Phase;
    let mut text = String::new();
    for g in machine.groups() {
        text += &format!(
            "seen {:?} state {:?} floor {:?} held {} ",
            g.seen,
            g.state.epoch,
            g.ledger.floor,
            g.held.len()
        );
        if let Role::Primary(p) = &g.role {
            let phase = match &p.phase {
                Phase::Collect(t) => {
                    println!("{t:?}");
                    "collect"
                }
                Phase::Resolve => "resolve",
                Phase::Serve => "serve",
            };
            let pending: Vec<_> =
                p.pending.iter().map(|x| (x.write.version, x.acks, x.write.range)).collect();
            let waiting: Vec<_> = p.waiting.iter().map(|w| (w.request.id.number, w.stage)).collect();
            text += &format!(
                "{phase} wait {:?} pending {pending:?} waiting {waiting:?} joins {:?}",
                p.serve_after, p.joins
            );
        }
    }
    text
}
