//! What all groups of a slice share while an input is worked on: the time, the peers, the outputs.
use crate::counters::Counters;
use crate::io::{ConnId, Output, Read, Token};
use crate::memory::Memory;
use crate::peers::Peers;
use crate::wait::Wait;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use sarsen_types::record::Body;
use sarsen_types::slab::Slab;
use sarsen_types::{Alarm, Epoch, GroupId, Instant, Proposal, Record, SliceId, Version, View};
use sarsen_wire::client::{ClientReply, ClientResult};
use sarsen_wire::peer::{Acknowledged, GroupBody, GroupMessage, PeerMessage};

/// See the module.
pub struct Cx<P> {
    /// The turn's time, sampled after its last input was gathered (R3).
    pub now: Instant,
    /// Who we are.
    pub me: SliceId,
    /// When we started (R2).
    pub started: Instant,
    /// Reads wait for a round (R4).
    pub confirm: bool,
    /// Registered since the drive was opened (R1).
    pub is_registered: bool,
    /// The newest metadata.
    pub view: Arc<View>,
    /// The other slices.
    pub peers: Peers,
    /// What the store's answers are for.
    pub waits: Slab<Wait<P>>,
    /// To be done.
    pub out: Vec<Output<P>>,
    /// Acknowledgements of this turn: one frame a peer (L2).
    pub prepared: BTreeMap<SliceId, Acknowledged>,
    /// Rare events.
    pub counters: Counters,
    /// Our device holds a request for too long (R9).
    pub is_hung: bool,
    /// Our drive has no room for clients' data (S16).
    pub is_full: bool,
    /// It has none for a copy that begins with nothing.
    pub is_full_for_joins: bool,
    /// A group we lead changed its epoch or copies: the lists of heartbeats are to be made anew.
    pub led_changed: bool,
    /// Something waits for time to pass: wake up soon.
    pub is_waiting: bool,
    /// Blocks of clients' writes kept by all groups: counted at times, and raised with each write meanwhile (R41).
    pub kept_blocks: u64,
    /// Of them, of groups that cannot serve now.
    pub stuck_blocks: u64,
    /// Blocks of clients' reads whose data are still to come, counted and raised like them, and lowered as they come.
    pub read_blocks: u64,
    /// Blocks of clients' reads that wait for a lease that does not come.
    pub stuck_reads: u64,
    /// Reads begun.
    pub reads_begun: u64,
    /// When all this was counted.
    pub counted: Instant,
    /// What may be kept.
    pub memory: Memory,
    /// Writes of an epoch after which another is asked for.
    pub epoch_writes: u64,
    /// Takeovers begun: names their questions.
    pub attempts: u32,
    /// Groups to be looked at again once this input is worked on.
    pub again: Vec<GroupId>,
}

impl<P> Cx<P> {
    /// A message about a group. Lost when there is no stream.
    pub fn send(
        &mut self,
        to: SliceId,
        group: GroupId,
        epoch: Epoch,
        floor: Version,
        body: GroupBody,
        payload: Option<P>,
    ) {
        if self.peers.is_up(to) {
            let message = PeerMessage::Group(GroupMessage { group, epoch, floor, body });
            self.out.push(Output::Send { to, message, payload });
        }
    }

    /// Asks the store to make a record durable.
    pub fn persist(&mut self, group: GroupId, promise: Epoch, body: Body, payload: Option<P>, then: Wait<P>) {
        let token = Token(self.waits.insert(then));
        self.out.push(Output::Persist { token, record: Record { group, promise, body }, payload });
    }

    /// Asks the store for blocks.
    pub fn read(&mut self, read: Read, then: Wait<P>) {
        let token = Token(self.waits.insert(then));
        self.out.push(Output::Read { token, read });
    }

    /// A token for something else asked of the store.
    pub fn wait(&mut self, then: Wait<P>) -> Token {
        Token(self.waits.insert(then))
    }

    /// Answers a client.
    pub fn reply(&mut self, to: Asker, result: ClientResult, payload: Option<P>) {
        let reply = ClientReply { number: to.number, piece: to.piece, group: to.group, result };
        self.out.push(Output::Reply { conn: to.conn, reply, payload });
    }

    /// R26: two copies hold one version of some blocks with different contents. Nobody can tell which is right.
    pub fn contradicted(&mut self, group: GroupId, blocks: usize) {
        self.counters.contradictions += blocks as u64;
        let what = "two copies hold the same versions with different contents, each with its right checksum";
        self.raise(
            group,
            Alarm::Contradiction,
            blocks,
            alloc::format!("group {group}: of {blocks} blocks {what}"),
        );
    }

    /// For the operator: to the log, in words, and to the events of the cluster.
    pub fn raise(&mut self, group: GroupId, alarm: Alarm, blocks: usize, what: String) {
        self.out.push(Output::Report(what));
        self.out.push(Output::Alarm { group, alarm, blocks: blocks as u64 });
    }

    /// Asks the metadata for a change.
    pub fn propose(&mut self, proposal: Proposal) {
        self.out.push(Output::Propose(proposal));
    }
}

/// Where an answer goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asker {
    /// The connection.
    pub conn: ConnId,
    /// The request's number.
    pub number: u64,
    /// Its piece.
    pub piece: u16,
    /// The group asked.
    pub group: GroupId,
}
