//! The metadata, which answer late, or lose what they answer.
use crate::cluster::Cluster;
use rand::Rng;
use sarsen_control::command::{Answer, Command, Entry, Move};
use sarsen_control::{State, reconcile};
use sarsen_slice::Input;
use sarsen_types::view::View;
use sarsen_types::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Between two rounds of the leader's reconcile.
const ROUND: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Default)]
pub struct Metadata {
    /// What they say.
    pub state: State,
    proposals: Vec<(Instant, Proposal)>,
    /// They answer nobody until then.
    pub away_until: Instant,
    next_round: Instant,
    heard_at: BTreeMap<NodeId, Instant>,
    epochs: BTreeMap<GroupId, Epoch>,
}

impl Metadata {
    /// Whether they answer, and nothing is asked.
    pub fn is_idle(&self, now: Instant) -> bool {
        self.proposals.is_empty() && self.away_until <= now
    }
    /// A node said that it ends now.
    pub fn forget(&mut self, node: NodeId) {
        self.heard_at.insert(node, Instant(0));
    }
}

impl Cluster {
    /// Asks the metadata for something, as an operator or a node does.
    pub fn command(&mut self, command: Command) -> Answer {
        self.meta.state.apply(&Entry { at_ms: self.now.0 / 1_000_000, wall_ms: None, request: None, command })
    }

    pub(crate) fn view(&self, slice: SliceId) -> Arc<View> {
        Arc::new(self.meta.state.view_of(slice))
    }

    /// The right to use a volume, with a new session; none while it is being taken from somebody.
    pub fn attach(
        &mut self,
        name: &str,
        owner: &str,
        exclusive: bool,
    ) -> Option<(AttachmentId, Generation, SessionId)> {
        let volume = self.meta.state.volume_named(name).expect("it was made").0;
        let attach = Command::Attach { volume, owner: owner.into(), exclusive, read_only: false };
        if self.bad_luck(0.1) {
            // it was done, and nobody was told: it is asked again
            self.command(attach.clone());
            self.count("attachments whose answer was lost");
        }
        match self.command(attach) {
            Answer::Attached { attachment, generation, session } => Some((attachment, generation, session)),
            _ => None,
        }
    }

    /// What a slice proposes reaches the metadata soon, late, twice or not at all.
    pub(crate) fn propose(&mut self, node: usize, proposal: Proposal) {
        if self.nodes[node].is_cut_off {
            return;
        }
        if self.bad_luck(0.02) {
            return self.count("proposals lost");
        }
        let times = if self.bad_luck(0.02) { 2 } else { 1 };
        for _ in 0..times {
            let longest = if self.bad_luck(0.03) { 3000 } else { 5 };
            let due = self.now + Duration::from_millis(self.rng.random_range(1..=longest));
            self.meta.proposals.push((due, proposal.clone()));
        }
    }

    /// How long ago the leader heard each node.
    fn heard(&mut self) -> BTreeMap<NodeId, u64> {
        for (at, n) in self.nodes.iter().enumerate() {
            if n.slice.is_some() && !n.is_cut_off && n.paused_until.is_none() {
                self.meta.heard_at.insert(NodeId(at as u32 + 1), self.now);
            }
        }
        let now = self.now;
        self.meta.heard_at.iter().map(|(id, at)| (*id, now.since(*at).as_millis() as u64)).collect()
    }

    /// A millisecond of the metadata.
    pub(crate) fn metadata(&mut self) {
        if self.now < self.meta.away_until {
            return;
        }
        for node in 0..self.nodes.len() {
            let n = &self.nodes[node];
            if n.registers_at.is_some_and(|at| at <= self.now) && !n.is_cut_off && n.paused_until.is_none() {
                self.register(node);
            }
        }
        let mut at = 0;
        while at < self.meta.proposals.len() {
            if self.meta.proposals[at].0 > self.now {
                at += 1;
                continue;
            }
            let (_, proposal) = self.meta.proposals.swap_remove(at);
            let before = self.meta.state.revision;
            self.command(Command::Judge(vec![proposal.clone()]));
            if self.meta.state.revision != before {
                self.say(|| format!("metadata: {proposal:?}"));
                if let GroupChange::Expel(slice) = proposal.change {
                    let node = self.node_of(slice).expect("it has a node");
                    assert!(self.nodes[node].is_rotten, "{slice} is expelled, and nothing of it rotted");
                    self.count("copies expelled that lacked what they acknowledged");
                }
                if let GroupChange::GiveWay { lacks: true, .. } = proposal.change {
                    let node = self.node_of(proposal.by).expect("it has a node");
                    assert!(self.nodes[node].is_rotten, "{} gave way, and nothing of it rotted", proposal.by);
                }
            }
        }
        if self.now >= self.meta.next_round {
            self.meta.next_round = self.now + ROUND;
            let heard = self.heard();
            for command in reconcile(&self.meta.state, &heard, self.now.0 / 1_000_000) {
                self.say(|| format!("metadata: {command:?}"));
                match &command {
                    Command::Place(_) => self.count("copies placed anew"),
                    Command::Unplace(_) => self.count("copies not needed any more"),
                    _ => {}
                }
                self.command(command);
            }
        }
        for (id, group) in &self.meta.state.groups {
            let known = self.meta.epochs.entry(*id).or_default();
            assert!(group.epoch >= *known, "an epoch went back");
            assert!(group.in_sync.contains(&group.primary) && !group.in_sync.is_empty());
            *known = group.epoch;
        }
    }

    /// Another in-sync copy leads: what a planned stop, or an operator, does.
    pub fn lead(&mut self, group: GroupId, slice: SliceId) {
        let Some(g) = self.meta.state.groups.get(&group) else { return };
        let lead = Command::Lead(vec![Move { group, epoch: g.epoch, slice }]);
        self.command(lead);
    }

    /// A node learns of the newest metadata, soon or late.
    pub(crate) fn learn(&mut self, node: usize) {
        let revision = self.meta.state.revision;
        let n = &self.nodes[node];
        let (Some(id), true) = (n.id, n.is_up() && !n.is_cut_off) else { return };
        if n.slice.as_ref().is_none_or(|s| s.machine().view().revision >= revision) {
            return;
        }
        match self.nodes[node].learns_at {
            None => {
                let at = self.now + self.news_take();
                self.nodes[node].learns_at = Some(at);
            }
            Some(at) if at <= self.now => {
                self.nodes[node].learns_at = None;
                let view = self.view(id);
                self.input(node, Input::Learned(view));
            }
            Some(_) => {}
        }
    }

    /// How long a change of the metadata takes to be known somewhere.
    pub fn news_take(&mut self) -> Duration {
        let longest = if self.bad_luck(0.05) { 1500 } else { 20 };
        Duration::from_millis(self.rng.random_range(0..longest))
    }
}
