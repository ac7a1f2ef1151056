//! A cluster's metadata, asked in words.
#![allow(dead_code, missing_docs)]
use sarsen_control::command::Register;
use sarsen_control::{Answer, Command, Entry, State, reconcile};
use sarsen_types::view::NodeAddress;
use sarsen_types::*;
use std::collections::BTreeMap;

/// The metadata of a cluster, and its clock.
pub struct Cluster {
    pub state: State,
    pub now: u64,
}

pub fn slice(n: u32) -> SliceId {
    SliceId::new(n, 0)
}

impl Cluster {
    /// `nodes` nodes with a drive each, three copies, volume 1 of one gibibyte.
    pub fn new(nodes: u32) -> Cluster {
        Cluster::of(nodes, 3)
    }
    /// The same with so many copies.
    pub fn of(nodes: u32, copies: u8) -> Cluster {
        Cluster::begun(nodes, copies, true)
    }
    pub fn begun(nodes: u32, copies: u8, is_dev: bool) -> Cluster {
        let mut c = Cluster { state: State::default(), now: 1_000_000 };
        c.apply(Command::Begin { cluster: ClusterId(5), copies, is_dev });
        for n in 1..=nodes {
            c.node(n);
            assert_eq!(c.register(n, 1, &[]), Answer::Registered { drive: DriveId(n), is_stale: false });
        }
        let made = c.apply(create("one", 1 << 30));
        assert!(matches!(made, Answer::Volume(_)), "{made:?}");
        c
    }
    pub fn apply(&mut self, command: Command) -> Answer {
        let answer = self.state.apply(&Entry { at_ms: self.now, wall_ms: None, request: None, command });
        assert!(self.state.is_consistent());
        answer
    }
    pub fn node(&mut self, n: u32) {
        let address = NodeAddress { data: format!("10.0.0.{n}:1"), unix: None, boot_id: String::new() };
        let command = Command::Node { identity: u128::from(n), api: format!("10.0.0.{n}:2"), address };
        assert_eq!(self.apply(command), Answer::Node(NodeId(n)));
    }
    /// Node `n`'s drive is opened for the `open`th time; its superblock held `held`.
    pub fn register(&mut self, n: u32, open: u128, held: &[u128]) -> Answer {
        self.register_at(n, n, open, held)
    }
    /// The drive that was node `n`'s, or an image of it, is opened on another.
    pub fn register_at(&mut self, node: u32, n: u32, open: u128, held: &[u128]) -> Answer {
        self.apply(Command::Register(Register {
            identity: DriveIdentity(u128::from(n)),
            node: NodeId(node),
            open: OpenId(open),
            opens: held.iter().map(|o| OpenId(*o)).collect(),
            path: format!("/drive{n}"),
            class: "ssd".into(),
            slices: 1,
            size: 1 << 30,
            total_blocks: 200_000,
            used_blocks: 0,
            is_broken: false,
        }))
    }
    pub fn groups(&self) -> impl Iterator<Item = &GroupState> {
        self.state.groups.values()
    }
    pub fn led_by(&self, n: u32) -> Vec<GroupId> {
        self.groups().filter(|g| g.primary == slice(n)).map(|g| g.group).collect()
    }
    pub fn propose(&mut self, group: GroupId, by: u32, change: GroupChange) {
        let epoch = self.state.groups[&group].epoch;
        self.apply(Command::Judge(vec![Proposal { group, epoch, by: slice(by), change }]));
    }
    /// Whoever leads takes node `n`'s copies out; what it led is taken over.
    pub fn lose(&mut self, n: u32) {
        self.apply(Command::Heard { node: NodeId(n), is_up: false });
        for group in self.state.groups.keys().copied().collect::<Vec<_>>() {
            let g = &self.state.groups[&group];
            let (led, primary) = (g.primary == slice(n), g.primary);
            if led {
                let heir = g.in_sync.iter().find(|s| **s != slice(n)).unwrap().drive.0;
                self.propose(group, heir, GroupChange::TakeOver);
            } else if g.is_in_sync(slice(n)) {
                self.propose(group, primary.drive.0, GroupChange::Remove(slice(n)));
            }
        }
    }
    /// The leader looks, `silent` nodes are not heard.
    pub fn look(&mut self, silent: &[u32]) -> Vec<Command> {
        let ago = |n: &NodeId| if silent.contains(&n.0) { 10_000 } else { 0 };
        let heard: BTreeMap<NodeId, u64> = self.state.nodes.keys().map(|n| (*n, ago(n))).collect();
        let commands = reconcile(&self.state, &heard, self.now);
        commands.iter().for_each(|c| drop(self.apply(c.clone())));
        commands
    }
    /// All that joins is recovered.
    pub fn promote_all(&mut self) {
        for g in self.groups().cloned().collect::<Vec<_>>() {
            for j in g.joining {
                self.propose(g.group, g.primary.drive.0, GroupChange::Promote(j.slice));
            }
        }
    }
}

pub fn create(name: &str, size: u64) -> Command {
    Command::CreateVolume { name: name.into(), size, policy: "default".into() }
}
pub fn attach(owner: &str) -> Command {
    Command::Attach { volume: VolumeId(1), owner: owner.into(), exclusive: true, read_only: false }
}

pub fn delete(volume: u64) -> Command {
    Command::DeleteVolume { volume: VolumeId(volume), name: None }
}

pub fn accept(drive: u32, groups: &[GroupId]) -> Command {
    Command::AcceptDamage { drive: DriveId(drive), groups: Some(groups.to_vec()) }
}

/// As the operator does who was told what is lost with it.
pub fn forget(c: &Cluster, drive: u32, is_powered_off: bool) -> Command {
    let groups = Some(c.state.sole().remove(&DriveId(drive)).unwrap_or_default());
    Command::Forget { drive: DriveId(drive), groups, is_powered_off }
}
/// Who has volume 1 attached, in this life.
pub fn attached(c: &mut Cluster, owner: &str) -> (AttachmentId, SessionId) {
    match c.apply(attach(owner)) {
        Answer::Attached { attachment, session, .. } => (attachment, session),
        other => panic!("{other:?}"),
    }
}
