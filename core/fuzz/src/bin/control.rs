//! The cluster's metadata: any commands in any order, with numbers that make no sense among them, are answered and leave groups that
//! are consistent; a command that is repeated changes nothing; and what is stored, commands and snapshots, is read as it was.
#![no_main]
use libfuzzer_sys::fuzz_target;
use sarsen_control::command::{Move, Register, Rot};
use sarsen_control::{Answer, Command, Entry, State, balance, hand_over, health, is_missed, reconcile};
use sarsen_fuzz::Choices;
use sarsen_types::view::NodeAddress;
use sarsen_types::*;
use std::collections::BTreeMap;

/// Numbers that a caller may send and nobody means.
const STRANGE: [u64; 8] =
    [0, u64::MAX, u64::MAX - 4095, 1 << 63, 1 << 54, (1 << 54) + 1, 1 << 32, u32::MAX as u64];

struct Cluster<'a> {
    choices: Choices<'a>,
    state: State,
    now: u64,
    /// What was asked last under an id, and what was answered.
    last: Option<(Entry, Answer)>,
}

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices(bytes);
    let (nodes, copies) = (choices.byte() % 6, choices.byte());
    let mut cluster = Cluster { choices, state: State::default(), now: 1_000_000, last: None };
    let copies = if copies < 250 { 1 + copies % 4 } else { copies };
    cluster.apply(Command::Begin { cluster: ClusterId(5), copies, is_dev: true }, None);
    for n in 1..=nodes {
        let address = NodeAddress { data: format!("10.0.0.{n}:1"), unix: None, boot_id: String::new() };
        cluster.apply(Command::Node { identity: n.into(), api: format!("10.0.0.{n}:2"), address }, None);
        let register = cluster.register(n.into(), n.into(), 1);
        cluster.apply(Command::Register(register), None);
    }
    let (name, policy) = (String::from("a"), String::from("default"));
    cluster.apply(Command::CreateVolume { name, size: 1 << 30, policy }, None);
    let mut commands = 0;
    while cluster.choices.are_left() && commands < 400 {
        commands += 1;
        cluster.step();
    }
    cluster.look();
});

impl Cluster<'_> {
    fn step(&mut self) {
        match self.choices.byte() {
            0..12 => self.now += u64::from(self.choices.word()) * 100,
            12..20 => self.look(),
            20..60 => self.reconcile(),
            60..68 => self.again(),
            how => {
                let command = self.command();
                let request = (how > 200).then(|| u128::from(self.choices.byte() % 16));
                if let Some(command) = if how < 80 { self.spoilt(&command) } else { Some(command) } {
                    self.apply(command, request);
                }
            }
        }
    }

    fn apply(&mut self, command: Command, request: Option<u128>) {
        let wall_ms = self.choices.0.first().map(|n| self.now + u64::from(*n));
        let entry = Entry { at_ms: self.now, wall_ms, request, command };
        let stored = serde_json::to_vec(&entry).expect("a command is stored");
        assert_eq!(serde_json::from_slice::<Entry>(&stored).expect("and read"), entry);
        let revision = self.state.revision;
        let answer = self.state.apply(&entry);
        assert!(self.state.is_consistent());
        assert!(self.state.revision >= revision);
        if request.is_some() {
            self.last = Some((entry, answer));
        }
    }

    /// What was asked last, once more.
    fn again(&mut self) {
        if let Some((entry, _)) = &self.last {
            let mut before = self.state.clone();
            let first = before.apply(entry);
            let second = before.clone().apply(entry);
            assert!(first == second);
            assert!(before == self.state, "a command that is repeated changes nothing");
        }
    }

    /// What a leader asks for by itself.
    fn reconcile(&mut self) {
        let heard: BTreeMap<NodeId, u64> = match self.choices.byte() {
            mask @ 0..250 => self
                .state
                .nodes
                .keys()
                .filter(|n| mask >> (n.0 % 8) & 1 == 0)
                .map(|n| (*n, self.now))
                .collect(),
            _ => BTreeMap::new(),
        };
        for command in reconcile(&self.state, &heard, self.now) {
            self.apply(command, None);
        }
        if let Some(command) = balance(&self.state) {
            self.apply(command, None);
        }
    }

    /// What others see of it, and what is stored of it.
    fn look(&mut self) {
        let (_, says) = health(&self.state);
        assert!(says.iter().all(|s| !s.is_empty()));
        for drive in self.state.drives.keys() {
            self.state.view_of(SliceId::new(drive.0, 0));
        }
        for attachment in self.state.attachments.keys() {
            self.state.volume_map(*attachment);
        }
        for node in self.state.nodes.keys() {
            hand_over(&self.state, *node);
            is_missed(&self.state, *node);
        }
        let stored = serde_json::to_vec(&self.state).expect("a snapshot is stored");
        assert!(serde_json::from_slice::<State>(&stored).expect("and read") == self.state);
    }

    /// The command as it is stored, with a few bytes of it changed: another command, or none.
    fn spoilt(&mut self, command: &Command) -> Option<Command> {
        let mut stored = serde_json::to_vec(command).expect("a command is stored");
        for _ in 0..1 + self.choices.byte() % 4 {
            let (at, byte) = (usize::from(self.choices.word()) % stored.len(), self.choices.byte());
            match byte {
                128.. => stored.insert(at, b'0' + byte % 10),
                _ => stored[at] = byte,
            }
        }
        serde_json::from_slice(&stored).ok()
    }

    fn number(&mut self) -> u64 {
        match self.choices.byte() {
            n @ 0..232 => (n % 8).into(),
            n => STRANGE[usize::from(n % 8)],
        }
    }
    fn size(&mut self) -> u64 {
        match self.choices.byte() {
            n @ 0..200 => u64::from(n) << 22,
            n => STRANGE[usize::from(n % 8)],
        }
    }
    fn id(&mut self) -> u32 {
        self.number() as u32
    }
    fn slice(&mut self) -> SliceId {
        let (drive, index) = (self.id(), self.choices.byte());
        SliceId::new(drive, if index < 200 { 0 } else { index })
    }
    fn name(&mut self) -> String {
        match self.choices.byte() {
            n @ 0..240 => ["a", "b", "c", "d"][usize::from(n % 4)].into(),
            n => "é/\0".repeat(usize::from(n - 240) * 8),
        }
    }
    /// One of those there are, in its epoch; or another.
    fn group(&mut self) -> (GroupId, Epoch) {
        let number = self.choices.byte();
        let all = self.state.groups.len().max(1);
        let found = self.state.groups.values().nth(usize::from(number) % all);
        match found {
            Some(g) if number < 224 => (g.group, g.epoch),
            Some(g) => (g.group, Epoch(g.epoch.0.wrapping_add(u32::from(number)))),
            None => (GroupId(number.into()), Epoch(1)),
        }
    }
    fn groups(&mut self) -> Option<Vec<GroupId>> {
        let count = self.choices.byte() % 4;
        (count > 0).then(|| (1..count).map(|_| self.group().0).collect())
    }
    fn moves(&mut self) -> Vec<Move> {
        let count = self.choices.byte() % 4;
        let mut one = || {
            let ((group, epoch), slice) = (self.group(), self.slice());
            Move { group, epoch, slice }
        };
        (0..count).map(|_| one()).collect()
    }
    fn register(&mut self, identity: u128, node: u32, open: u128) -> Register {
        Register {
            identity: DriveIdentity(identity),
            node: NodeId(node),
            open: OpenId(open),
            opens: Vec::new(),
            path: format!("/drive{identity}"),
            class: "ssd".into(),
            slices: 1,
            size: 1 << 30,
            total_blocks: 200_000,
            used_blocks: 0,
            is_broken: false,
        }
    }
    fn proposal(&mut self) -> Proposal {
        let ((group, epoch), by) = (self.group(), self.slice());
        let change = match self.choices.byte() % 7 {
            0 => GroupChange::TakeOver,
            1 => GroupChange::Remove(self.slice()),
            2 => GroupChange::Expel(self.slice()),
            3 => GroupChange::GiveWay { to: self.slice(), lacks: self.choices.byte() & 1 == 1 },
            4 | 5 => GroupChange::Promote(self.slice()),
            _ => GroupChange::Fenced(AttachmentId(self.number()), Generation(self.id())),
        };
        Proposal { group, epoch, by, change }
    }

    fn command(&mut self) -> Command {
        let volume = |c: &mut Self| VolumeId(c.number());
        let attachment = |c: &mut Self| AttachmentId(c.number());
        let drive = |c: &mut Self| DriveId(c.id());
        let node = |c: &mut Self| NodeId(c.id());
        let open = |c: &mut Self| OpenId(c.number().into());
        let flag = |c: &mut Self| c.choices.byte() & 1 == 1;
        match self.choices.byte() % 32 {
            0 => Command::Begin {
                cluster: ClusterId(self.number().into()),
                copies: self.choices.byte(),
                is_dev: flag(self),
            },
            1 => {
                let identity = self.number().into();
                let address = NodeAddress { data: self.name(), unix: None, boot_id: self.name() };
                Command::Node { identity, api: self.name(), address }
            }
            2 => Command::Heard { node: node(self), is_up: flag(self) },
            3..6 => {
                let (identity, node, open) = (self.number().into(), self.id(), self.number().into());
                let mut register = self.register(identity, node, open);
                let what = self.choices.byte();
                register.is_broken = what & 1 == 1;
                if what & 2 == 0 {
                    register.opens = self.state.drives.values().map(|d| d.open).collect();
                }
                if what & 12 == 12 {
                    (register.slices, register.size) = (self.choices.byte(), self.size());
                    (register.total_blocks, register.used_blocks) = (self.size(), self.size());
                }
                Command::Register(register)
            }
            6 => Command::Trust { drive: drive(self), open: open(self) },
            7 => Command::Dropped { drive: drive(self), open: open(self), revision: Revision(self.number()) },
            8 => Command::Failed { drive: drive(self), open: open(self), why: self.name() },
            9 => Command::Space(vec![(drive(self), self.size(), self.size())]),
            10..15 => Command::Judge((0..1 + self.choices.byte() % 3).map(|_| self.proposal()).collect()),
            15 => Command::Join(self.moves()),
            16 => Command::Lead(self.moves()),
            17 => Command::Stopping { node: node(self) },
            18 => Command::Leave { node: node(self) },
            19 => Command::Place(self.moves()),
            20 => Command::Unplace(self.moves()),
            21 => {
                let policy = if flag(self) { String::from("default") } else { self.name() };
                Command::CreateVolume { name: self.name(), size: self.size(), policy }
            }
            22 => Command::GrowVolume { volume: volume(self), size: self.size() },
            23 => Command::DeleteVolume { volume: volume(self), name: None },
            24 => Command::Attach {
                volume: volume(self),
                owner: self.name(),
                exclusive: flag(self),
                read_only: flag(self),
            },
            25 => Command::Release {
                attachment: attachment(self),
                session: flag(self).then(|| SessionId(self.number())),
            },
            26 => Command::DetachForced { attachment: attachment(self) },
            27 => {
                let rot = Rot { repaired: self.number(), restored: self.number(), lost: self.number() };
                Command::Rotten { slice: self.slice(), rot }
            }
            28 => Command::AcceptDamage { drive: drive(self), groups: self.groups() },
            29 => Command::Forget { drive: drive(self), groups: self.groups(), is_powered_off: flag(self) },
            30 => Command::Passed {
                attachment: attachment(self),
                session: SessionId(self.number()),
                revision: Revision(self.number()),
            },
            _ => Command::SetDownOut { ms: self.size() },
        }
    }
}
