//! One command after the other.
use crate::command::{Answer, Command, Entry, Raised, Refusal, RefusalKind, Rot};
use crate::state::{Answered, NODE_REQUEST_MS, Node, Policy, REQUEST_MS, REQUESTS_MAX, State};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use sarsen_types::limits::COPIES_MAX;
use sarsen_types::view::NodeAddress;
use sarsen_types::{Alarm, ClusterId, DriveId, NodeId, Revision, SliceId};

/// The name of the policy that every cluster has.
pub const POLICY: &str = "default";

/// What a command is answered whose id was answered before. Another one under the same id would be told that it was done, and was
/// not (found in review).
fn again(known: &Answered, command: &Command) -> Answer {
    if known.digest.is_none_or(|digest| digest == command.digest()) {
        return known.answer.clone();
    }
    let what = String::from("the id of this call was used for another call");
    let why = Refusal::new(RefusalKind::Invalid, what);
    Answer::Refused(why.hint("give each call an id of its own, the same only when it is repeated"))
}

impl State {
    /// Carries out a command. A request id that was answered gets the same answer and changes nothing (R30); it stands for that
    /// command, and for no other.
    pub fn apply(&mut self, entry: &Entry) -> Answer {
        if let Some(answered) = entry.request.and_then(|id| self.answered.get(&id)) {
            return again(answered, &entry.command);
        }
        // Only with what changes something: a revision names one state, and that is published by it (found in review).
        // The first command brings the wall clock's time: before it there is none.
        self.now_ms = match (self.now_ms, entry.at_ms) {
            (0, 0) => entry.wall_ms.unwrap_or(0),
            (now, at) => now.max(at),
        };
        self.wall_ms = entry.wall_ms.unwrap_or(self.now_ms);
        // Changes see the revision that they make.
        self.revision = Revision(self.revision.0 + 1);
        let answer = self.carry_out(&entry.command);
        self.end_forgetting();
        self.turn_tombstones();
        if let Some(id) = entry.request {
            let lasts = if entry.command.is_of_nodes() { NODE_REQUEST_MS } else { REQUEST_MS };
            self.remember(id, lasts, &answer, entry.command.digest());
        }
        debug_assert!(self.is_consistent(), "after {entry:?}");
        answer
    }

    fn carry_out(&mut self, command: &Command) -> Answer {
        match command {
            Command::Begin { cluster, copies, is_dev } => self.begin(*cluster, *copies, *is_dev),
            Command::Node { identity, api, address } => return self.node(*identity, api, address),
            Command::Heard { node, is_up } => self.heard(*node, *is_up),
            Command::Register(r) => return self.register(r),
            Command::Trust { drive, open } => _ = self.trust(*drive, *open),
            Command::Dropped { drive, open, revision } => self.dropped(*drive, *open, *revision),
            Command::Failed { drive, open, why } => _ = self.failed(*drive, *open, why),
            Command::Space(all) => self.space(all),
            Command::Full(all) => self.full(all),
            Command::Judge(all) => all.iter().for_each(|p| _ = self.judge(p)),
            Command::Join(all) => all.iter().for_each(|m| _ = self.join(m)),
            Command::Lead(all) => all.iter().for_each(|m| _ = self.lead(m)),
            Command::Outlived(all) => self.outlived(all),
            Command::Stopping { node } => self.stopping(*node),
            Command::Leave { node } => _ = self.leave(*node),
            Command::Place(all) => all.iter().for_each(|m| _ = self.place(m)),
            Command::Unplace(all) => all.iter().for_each(|m| _ = self.unplace(m)),
            Command::CreateVolume { name, size, policy } => return self.create_volume(name, *size, policy),
            Command::GrowVolume { volume, size } => return self.grow_volume(*volume, *size),
            Command::DeleteVolume { volume, .. } => return self.delete_volume(*volume),
            Command::Attach { volume, owner, exclusive, read_only } => {
                return self.attach(*volume, owner, *exclusive, *read_only);
            }
            Command::Release { attachment, session } => return self.release(*attachment, *session),
            Command::DetachForced { attachment } => return self.detach_forced(*attachment),
            Command::Rotten { slice, rot } => self.rotten(*slice, rot),
            Command::Alarmed { slice, alarms } => self.alarmed(*slice, alarms),
            Command::AcceptDamage { drive, groups } => return self.accept_damage(*drive, groups.as_deref()),
            Command::Forget { drive, groups, is_powered_off } => {
                return self.forget(*drive, groups.as_deref(), *is_powered_off);
            }
            Command::Passed { attachment, session, revision } => {
                self.passed(*attachment, *session, *revision)
            }
            Command::SetDownOut { ms } => self.settings.down_out_ms = *ms,
        }
        Answer::Done
    }

    /// What clients are told of volumes changed.
    pub(crate) fn changes_map(&mut self) {
        self.map_revision = self.revision;
    }

    fn begin(&mut self, cluster: ClusterId, copies: u8, is_dev: bool) {
        if self.cluster != ClusterId::default() {
            return;
        }
        (self.cluster, self.is_dev) = (cluster, is_dev);
        let copies = copies.clamp(1, COPIES_MAX as u8);
        let policy = Policy { copies, min_copies: (copies - 1).max(1), table: Vec::new() };
        self.policies.insert(String::from(POLICY), policy);
        self.tell(format!("the cluster begins, with {copies} copies"));
    }

    fn node(&mut self, identity: u128, api: &str, address: &NodeAddress) -> Answer {
        let known = self.nodes.iter().find(|(_, n)| n.identity == identity).map(|(id, _)| *id);
        let id = known.unwrap_or_else(|| {
            self.last.node += 1;
            NodeId(self.last.node)
        });
        if self.nodes.get(&id).is_some_and(|n| n.is_up) {
            self.outlive(id);
        }
        let (api, address, since_ms) = (String::from(api), address.clone(), self.now_ms);
        self.nodes.insert(id, Node { identity, api, address, is_up: true, since_ms, is_stopping: false });
        for drive in self.drives.values_mut().filter(|d| d.node == id) {
            drive.is_up = false; // until it registers
        }
        let what = if known.is_some() { "started" } else { "joined" };
        self.tell(format!("node {id} {what}"));
        self.changes_map();
        Answer::Node(id)
    }

    fn stopping(&mut self, node: NodeId) {
        let Some(n) = self.nodes.get_mut(&node).filter(|n| !n.is_stopping) else { return };
        n.is_stopping = true;
        self.outlive(node); // it served them up to now
        self.tell(format!("node {node} is about to stop"));
    }

    fn heard(&mut self, node: NodeId, is_up: bool) {
        let now = self.now_ms;
        match self.nodes.get_mut(&node) {
            Some(n) if n.is_up != is_up => (n.is_up, n.since_ms) = (is_up, now),
            _ => return,
        }
        let what = if is_up { "is heard again" } else { "is not heard any more" };
        self.tell(format!("node {node} {what}"));
        self.changes_map();
    }

    fn rotten(&mut self, slice: SliceId, rot: &Rot) {
        let found = [
            (rot.repaired, "corrupt blocks, repaired from other copies"),
            (rot.restored, "corrupt pieces of its map, repaired from other copies"),
            (rot.lost, "corrupt blocks that are intact on no copy"),
        ];
        let found: Vec<String> =
            found.iter().filter(|f| f.0 > 0).map(|(count, what)| format!("{count} {what}")).collect();
        self.tell(format!("{} had {}", self.place_of(slice.drive), found.join(", ")));
    }

    fn alarmed(&mut self, slice: SliceId, alarms: &[Raised]) {
        for Raised { alarm, groups, more, blocks } in alarms {
            let place = |other: &SliceId| self.place_of(other.drive);
            let what = match alarm {
                Alarm::Contradiction => format!(
                    "of {blocks} blocks two copies hold the same versions with different contents, each with its right \
                     checksum: nobody can tell which is right"
                ),
                Alarm::Lost(other) => format!(
                    "{} was told that more is committed than what led since had: answered writes are lost",
                    place(other)
                ),
                Alarm::Gone => format!("{blocks} blocks are intact on no copy: reads of them fail"),
                Alarm::Behind(other) => format!(
                    "it leads alone and {} holds more: nothing is served until another leads",
                    place(other)
                ),
                Alarm::Repaired => format!(
                    "{blocks} blocks that were answered once were missing or damaged on a copy, and are written again"
                ),
            };
            let mut named: Vec<String> = groups.iter().map(|g| format!("{g}")).collect();
            if *more > 0 {
                named.push(format!("{more} more"));
            }
            let of = if named.len() == 1 { "group" } else { "groups" };
            self.tell(format!("{} leads {of} {}: {what}", place(&slice), named.join(", ")));
        }
    }

    /// A drive, in words.
    fn place_of(&self, id: DriveId) -> String {
        let drive = self.drives.get(&id);
        let place = drive.map(|d| format!(" ({} on node {})", d.path, d.node)).unwrap_or_default();
        format!("drive {id}{place}")
    }

    fn space(&mut self, all: &[(DriveId, u64, u64)]) {
        let told: BTreeMap<DriveId, (u64, u64)> = all.iter().map(|(d, t, u)| (*d, (*t, *u))).collect();
        for (id, drive) in &mut self.drives {
            if let Some((total, used)) = told.get(id) {
                (drive.total_blocks, drive.used_blocks) = (*total, *used);
            }
        }
    }

    fn full(&mut self, all: &[(DriveId, Vec<u8>)]) {
        for (id, slices) in all {
            if let Some(drive) = self.drives.get_mut(id) {
                drive.full = slices.iter().copied().collect();
            }
        }
    }

    fn remember(&mut self, id: u128, lasts: u64, answer: &Answer, digest: u64) {
        let now = self.now_ms;
        self.answered.retain(|_, a| now < a.until_ms);
        if self.answered.len() >= REQUESTS_MAX {
            let oldest = self.answered.iter().min_by_key(|(_, a)| a.until_ms).map(|(id, _)| *id);
            oldest.and_then(|id| self.answered.remove(&id));
        }
        let (answer, digest) = (answer.clone(), Some(digest));
        self.answered.insert(id, Answered { until_ms: now + lasts, answer, digest });
    }
}
