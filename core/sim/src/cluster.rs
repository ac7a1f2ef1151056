//! The cluster that a seed is played on: nodes, what lies between them, the metadata, and the clock.
use crate::metadata::Metadata;
use crate::net::Net;
use crate::node::{Node, node_command};
use crate::story::{About, Story, nodes};
use crate::watch::Watch;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sarsen_buffer::Pool;
use sarsen_control::command::{Answer, Command};
use sarsen_slice::{Counters, Input, LeaseMode, Memory, Output};
use sarsen_store::events::Tally;
use sarsen_types::*;
use sarsen_wire::peer::PeerMessage;
use std::collections::BTreeMap;

/// One step of the simulated clock.
pub const TICK: Duration = Duration::from_millis(1);
/// A copy that is out of sync for so long is replaced where there is a place for another (R19).
const DOWN_OUT_MS: u64 = 12_000;
/// A node that began so long ago has no wait before it any more.
const STARTED: Duration = Duration::from_millis(1700);
/// Drives that act full begin a checkpoint this often.
const MERGE_TICKS: u64 = 40;
/// Of so many ticks
const STUCK_EVERY: u64 = 512;
/// their oldest request waits for so many, while others overtake it.
const STUCK_TICKS: u64 = 96;
/// Bounds are looked at this often.
const LOOK_TICKS: u64 = 64;

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

/// How large a cluster is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Nodes, each with one drive.
    pub nodes: usize,
    /// Copies of each group.
    pub copies: u8,
    /// Groups of the one policy.
    pub groups: u32,
}

impl Shape {
    /// A seed's.
    pub fn of(seed: u64) -> Shape {
        let copies = if seed % 4 == 3 { 2 } else { 3 };
        Shape { nodes: copies as usize + (seed % 5 == 4) as usize, copies, groups: 4 }
    }
}

/// See the module.
pub struct Cluster {
    /// The true time.
    pub now: Instant,
    /// The seed's dice.
    pub rng: SmallRng,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// What lies between nodes, and between them and clients.
    pub net: Net,
    /// The metadata.
    pub meta: Metadata,
    /// What was seen so far, for the checkers.
    pub watch: Watch,
    /// What happened, in words.
    pub story: Story,
    /// Copies of each group.
    pub copies: u8,
    pub(crate) lease: LeaseMode,
    /// What each slice may keep in memory: little in some runs, so that its bounds are met.
    pub(crate) memory: Memory,
    /// Writes of an epoch of a group: few in some runs, so that epochs are renewed.
    pub(crate) epoch_writes: u64,
    /// Its drives act as full ones do, and are slower: see [`acts_full`].
    is_full: bool,
    /// Counters of slices that ended.
    counters: Counters,
    /// Rare events of the cluster itself.
    pub events: BTreeMap<&'static str, u64>,
    /// The node whose drive lost something that it does not know of, or all it had: until that is made good, what happens
    /// to others leaves a whole copy of each group.
    pub damaged: Option<usize>,
    /// Nothing is late or lost before.
    pub gentle_until: Instant,
    pub(crate) opens: u128,
    ticks: u64,
    trace: u8,
    pub(crate) pool: Pool,
}

fn memory_of(seed: u64) -> Memory {
    match seed % 4 {
        0 => Memory { clients: 256, peers: 256 },
        1 => Memory { clients: 1024, peers: 128 },
        _ => Memory::default(),
    }
}

/// A quarter of seeds, of each memory and number of copies and nodes: what is freed on a drive is written again as soon as it
/// may be, checkpoints follow each other, and the disk is slower. So what is free too early shows.
fn acts_full(seed: u64) -> bool {
    seed / 4 % 4 == 1
}

impl Cluster {
    /// Nodes with a fresh drive each, registered, and groups.
    pub fn new(seed: u64, shape: Shape, lease: LeaseMode) -> Cluster {
        let Shape { nodes: n, copies, groups } = shape;
        let mut rng = SmallRng::seed_from_u64(seed);
        let pool = Pool::new();
        let is_full = acts_full(seed);
        let nodes = (0..n).map(|at| Node::new(at, pool.clone(), is_full, &mut rng)).collect();
        let mut cluster = Cluster {
            now: Instant(1_000_000_000),
            rng,
            nodes,
            net: Net::default(),
            meta: Metadata::default(),
            watch: Watch::default(),
            story: Story::default(),
            copies,
            lease,
            memory: memory_of(seed),
            epoch_writes: if seed.is_multiple_of(5) { 40 } else { limits::EPOCH_WRITES },
            is_full,
            counters: Counters::default(),
            events: BTreeMap::new(),
            damaged: None,
            gentle_until: Instant(1_000_000_000) + Duration::from_secs(1),
            opens: 1,
            ticks: 0,
            trace: std::env::var("TRACE").map_or(0, |level| level.parse().unwrap_or(1)),
            pool,
        };
        cluster.command(Command::Begin { cluster: ClusterId(7), copies, is_dev: true });
        cluster.command(Command::SetDownOut { ms: DOWN_OUT_MS });
        for at in 0..n {
            cluster.command(node_command(at));
            cluster.start(at);
            cluster.register(at);
        }
        cluster.make_groups(copies, groups);
        cluster
    }

    /// Buffers of the clients.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// A volume, with the few groups of `make_groups`.
    pub fn make_volume(&mut self, name: &str) -> Volume {
        let create = Command::CreateVolume { name: name.into(), size: 64 << 20, policy: "default".into() };
        let Answer::Volume(id) = self.command(create) else { panic!("a volume is made") };
        let volume = &self.meta.state.volumes[&id];
        Volume { id, layer: volume.head, family: volume.family }
    }

    /// Few groups, so that they are busy: placed by hand before the first volume asks for more.
    fn make_groups(&mut self, copies: u8, groups: u32) {
        let slices: Vec<SliceId> = self.nodes.iter().filter_map(|n| n.id).collect();
        let state = &mut self.meta.state;
        for at in 0..groups as usize {
            let slices: Vec<SliceId> =
                (0..copies as usize).map(|c| slices[(at + c) % slices.len()]).collect();
            let id = GroupId(at as u32 + 1);
            state.last.assignment += 1;
            state.last.group = id.0;
            let assignment = state.last.assignment;
            let members = slices.iter().map(|&slice| Member { slice, assignment }).collect();
            let group = GroupState {
                group: id,
                epoch: Epoch(1),
                primary: slices[0],
                primary_since: Epoch(1),
                in_sync: slices.clone(),
                joining: vec![],
                complete: slices,
                could_commit: Epoch(1),
                members,
                min_copies: (copies - 1).max(1),
                is_damaged: false,
            };
            state.groups.insert(id, group);
            state.policies.get_mut("default").expect("it is there").table.push(id);
        }
    }

    /// A line of the trace, with `TRACE` set.
    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.trace > 0 {
            println!("{:?} {}", self.now, text());
        }
    }

    /// Something that matters to the story of every block.
    pub fn tell(&self, text: impl Fn() -> String) {
        self.story.tell(self.now, About::Cluster, &text);
        self.say(text);
    }

    /// Something that matters to the story of a group.
    pub fn tell_of(&self, group: GroupId, text: impl Fn() -> String) {
        self.story.tell(self.now, About::Group(group), &text);
        self.say(text);
    }

    /// What changed in the groups since it was told last: what metadata say of them, and who serves.
    pub(crate) fn tell_groups(&mut self) {
        let mut told = std::mem::take(&mut self.watch.told);
        for g in self.meta.state.groups.values() {
            let serves: Vec<usize> = self.serving(g.group).collect();
            let known = told.entry(g.group).or_default();
            if known.0 != g.epoch {
                known.0 = g.epoch;
                self.tell_of(g.group, || self.words(g));
            }
            if known.1 != serves {
                let group = g.group;
                let verb = if serves.len() > 1 { "serve" } else { "serves" };
                self.tell_of(group, || format!("{} {verb} group {group}", nodes(&serves)));
                known.1 = serves;
            }
        }
        self.watch.told = told;
    }

    fn serving(&self, group: GroupId) -> impl Iterator<Item = usize> {
        let is_served = move |n: &Node| {
            let groups = n.slice.iter().flat_map(|s| s.machine().groups());
            groups.into_iter().any(|known| known.id == group && known.is_served())
        };
        (0..self.nodes.len()).filter(move |at| is_served(&self.nodes[*at]))
    }

    fn words(&self, g: &GroupState) -> String {
        let name = |s: &SliceId| self.node_of(*s).map_or("a lost drive".into(), |n| format!("node {n}"));
        let all = |slices: &[SliceId]| slices.iter().map(name).collect::<Vec<_>>().join(", ");
        let joins = match g.joining.is_empty() {
            true => String::new(),
            false => format!("; joining: {}", all(&g.joining.iter().map(|j| j.slice).collect::<Vec<_>>())),
        };
        let (group, epoch) = (g.group, g.epoch.0);
        format!(
            "group {group}, epoch {epoch}: {} leads; in sync: {}{joins}",
            name(&g.primary),
            all(&g.in_sync)
        )
    }

    /// A line of the long trace, with `TRACE=2`: every message between nodes but heartbeats.
    pub(crate) fn say_message(&self, from: usize, to: usize, message: &PeerMessage) {
        let is_dull =
            matches!(message, PeerMessage::Beat(_) | PeerMessage::BeatAck(_) | PeerMessage::Grant(_));
        if self.trace > 1 && !is_dull {
            println!("{:?} {from} to {to}: {message:?}", self.now);
        }
    }

    /// Counts a rare event of the cluster.
    pub fn count(&mut self, what: &'static str) {
        *self.events.entry(what).or_default() += 1;
    }

    /// Whether nothing is to be late or lost now.
    pub fn is_gentle(&self) -> bool {
        self.damaged.is_some() || self.now < self.gentle_until
    }

    /// A node's own clock.
    pub fn clock(&self, node: usize) -> Instant {
        self.nodes[node].clock(self.now)
    }

    // ---- time ----

    /// A millisecond: everything that is due happens.
    pub fn tick(&mut self) {
        self.now += TICK;
        self.ticks += 1;
        for node in 0..self.nodes.len() {
            self.nodes[node].pass(self.now, TICK);
            if self.nodes[node].paused_until.is_none() {
                for input in std::mem::take(&mut self.nodes[node].later) {
                    self.input(node, input);
                }
            }
            self.come_back(node);
            self.stop_on(node);
        }
        self.metadata();
        self.connect();
        for node in 0..self.nodes.len() {
            if self.nodes[node].paused_until.is_none() {
                self.learn(node);
                self.deliver(node);
                self.turn(node);
            }
        }
        self.deliver_answers();
        if self.ticks.is_multiple_of(LOOK_TICKS) {
            self.look_at_bounds();
        }
        if self.damaged.is_some_and(|node| !self.nodes[node].is_rotten) && self.is_whole() {
            self.damaged = None;
        }
    }

    pub(crate) fn input(&mut self, node: usize, input: Input) {
        let now = self.clock(node);
        let n = &mut self.nodes[node];
        let Some(slice) = n.slice.as_mut() else { return };
        if n.paused_until.is_some() {
            n.later.push(input);
            return;
        }
        n.is_touched = true;
        let mut out = std::mem::take(&mut n.out);
        slice.step(now, input, &mut out);
        self.carry_out(node, out);
    }

    /// A turn, when something came, the disk has something, or the slice's deadline passed: what it forgets to ask for does
    /// not happen, here as in a node's thread.
    fn turn(&mut self, node: usize) {
        let now = self.clock(node);
        let n = &self.nodes[node];
        let Some(slice) = n.slice.as_ref() else { return };
        let is_due = slice.deadline().is_some_and(|at| at <= now);
        if !(is_due || n.is_touched || slice.store().disk().waiting() > 0) {
            return;
        }
        let completes = if self.is_full { 0.5 } else { 0.8 };
        // the oldest request waits while others overtake it: a read, say, while what it reads is written anew elsewhere
        let is_stuck = self.is_full && self.ticks % STUCK_EVERY < STUCK_TICKS && !self.is_gentle();
        let first = usize::from(is_stuck);
        let hung = self.nodes[node].hung_until.is_some_and(|until| until > self.now);
        let rng = &mut self.rng;
        let n = &mut self.nodes[node];
        let Some(slice) = n.slice.as_mut() else { return };
        if !hung {
            let disk = slice.store_mut().disk_mut();
            let mut budget = disk.waiting();
            while budget > 0 {
                budget -= 1;
                // most complete within a tick, in any order
                if rng.random_bool(completes) && disk.waiting() > first {
                    let at = rng.random_range(first..disk.waiting());
                    disk.complete(at);
                }
            }
        }
        n.is_touched = false;
        if self.is_full && self.ticks.is_multiple_of(MERGE_TICKS) {
            slice.store_mut().ask_checkpoint();
        }
        let mut out = std::mem::take(&mut n.out);
        slice.finish(now, &mut out);
        slice.submit(now);
        self.carry_out(node, out);
    }

    fn carry_out(&mut self, node: usize, mut out: Vec<Output>) {
        for output in out.drain(..) {
            match output {
                Output::Send { to, message, payload, .. } => self.send(node, to, message, payload),
                Output::Reply { conn, reply, payload } => self.reply(node, conn, reply, payload),
                Output::Hangup { slice } => {
                    if let Some(other) = self.node_of(slice) {
                        self.disconnect(node, other);
                    }
                }
                Output::Propose(proposal) => self.propose(node, proposal),
                Output::Distrusted => {
                    let (drive, open) =
                        (self.nodes[node].id.unwrap_or_default().drive, self.nodes[node].open);
                    self.command(Command::Trust { drive, open });
                }
                Output::Dropped(revision) => {
                    let (drive, open) =
                        (self.nodes[node].id.unwrap_or_default().drive, self.nodes[node].open);
                    self.command(Command::Dropped { drive, open, revision });
                }
                Output::Report(text) => self.say(|| format!("node {node} reports: {text}")),
                Output::Alarm { .. } => {} // said in words too
                Output::Failed(why) => self.drive_failed(node, why),
            }
        }
        self.nodes[node].out = out;
    }

    // ---- what is ----

    /// The node that serves a slice.
    pub fn node_of(&self, slice: SliceId) -> Option<usize> {
        self.nodes.iter().position(|n| n.id == Some(slice))
    }

    /// Every slice's groups in words.
    pub fn describe(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.meta.state.groups.values().map(|g| format!("{g:?}")).collect();
        for (at, node) in self.nodes.iter().enumerate() {
            lines.push(format!("node {at} is {:?}, up {}", node.id, node.slice.is_some()));
            if let Some(store) = node.store() {
                let (oldest, waiting) = (store.oldest_request(), store.disk().waiting());
                lines.push(format!("its store waits since {oldest:?}, its disk has {waiting} requests"));
            }
            for g in node.slice.iter().flat_map(|s| s.machine().groups()) {
                lines.push(g.describe());
            }
        }
        lines
    }

    /// Whether every group has all its copies in sync, on drives that are there, and no member beside them. (Metadata call a
    /// copy in sync until somebody missed it.)
    pub fn is_whole(&self) -> bool {
        let state = &self.meta.state;
        let is_there = |s: SliceId| self.node_of(s).is_some_and(|n| self.nodes[n].is_up());
        let is_good = |g: &GroupState| g.members.iter().all(|m| g.is_in_sync(m.slice) && is_there(m.slice));
        state.groups.values().all(|g| state.is_whole(g) && is_good(g))
    }

    /// Whether nothing is wrong or under way that concerns these nodes' part: all up, reachable, of one mind.
    fn is_fine(&self, but: Option<usize>) -> bool {
        let revision = self.meta.state.revision;
        self.nodes.iter().enumerate().all(|(at, n)| Some(at) == but || n.is_fine(self.now, revision))
            && self.net.cut.iter().all(|(a, b)| Some(*a) == but || Some(*b) == but)
            && self.meta.is_idle(self.now)
    }

    /// Whether everything is as it should be: only then may a drive lose something, and only then bounds of time hold. A
    /// copy that began within GRACE would have to wait that long before it serves (R2).
    pub fn is_calm(&self) -> bool {
        // by its own clock, which may have stood still, and as metadata know it: nobody hands over to who seems down
        let is_old = |(at, n): (usize, &Node)| {
            let is_known = n.id.is_some_and(|id| self.meta.state.is_up(id));
            self.clock(at).since(n.since.max(n.stood_still)) > STARTED && is_known
        };
        self.nodes.iter().enumerate().all(is_old)
            && self.is_whole()
            && self.is_fine(None)
            && self.net.is_calm(self.nodes.len(), self.now)
            && self.is_served_everywhere()
    }

    /// Whether each group is served by the copy that metadata call its primary.
    pub fn is_served_everywhere(&self) -> bool {
        self.meta.state.groups.values().all(|g| self.is_served(g))
    }

    fn is_served(&self, g: &GroupState) -> bool {
        let slice = self.node_of(g.primary).and_then(|n| self.nodes[n].slice.as_ref());
        slice.is_some_and(|s| s.machine().groups().any(|known| known.id == g.group && known.is_served()))
    }

    /// Whether every copy that is on no damaged drive is in sync, on a node that is fine.
    pub fn is_sound_beside(&self, node: usize) -> bool {
        let slice = self.nodes[node].id;
        let is_sound = |g: &GroupState| {
            let old = |s: SliceId| self.node_of(s).is_none();
            g.members.iter().all(|m| Some(m.slice) == slice || old(m.slice) || g.is_in_sync(m.slice))
        };
        self.meta.state.groups.values().all(is_sound) && self.is_fine(Some(node))
    }

    /// All counters.
    pub fn totals(&self) -> Counters {
        let mut total = self.counters;
        for slice in self.nodes.iter().filter_map(|n| n.slice.as_ref()) {
            total.add(slice.counters());
        }
        total
    }

    pub(crate) fn keep_counters(&mut self, counters: &Counters, tally: Tally) {
        self.counters.add(counters);
        for (what, count) in [
            ("blocks moved out of the journal", tally.moved),
            ("runs written", tally.runs),
            ("lists of runs merged", tally.merged_lists),
        ] {
            *self.events.entry(what).or_default() += count;
        }
    }

    /// Whether the dice say so; never while things are to be gentle.
    pub(crate) fn bad_luck(&mut self, chance: f64) -> bool {
        self.rng.random_bool(chance) && !self.is_gentle()
    }
}
