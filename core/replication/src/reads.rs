//! Reads: only what is committed, only under lease (R3, R4).
use crate::cx::{Asker, Cx};
use crate::group::{Group, Role};
use crate::io::{Blocks, Output, Read, ReadFailed, Which};
use crate::peers::Covered;
use crate::primary::{Lease, Pending, Phase};
use crate::repair::{Reader, unreadable};
use crate::requests::Op;
use crate::wait::Wait;
use alloc::vec::Vec;
use sarsen_types::record::Entry;
use sarsen_types::slab::Slab;
use sarsen_types::{BlockRange, Epoch, SliceId, limits};
use sarsen_wire::client::{ClientOp, ClientResult};

/// A client's read, or its question which blocks hold data.
#[derive(Debug)]
struct ReadOp<P> {
    asker: Asker,
    read: Read,
    is_status: bool,
    /// R4: a heartbeat round of at least this number must have been acknowledged.
    round: u64,
    /// Answered as soon as the lease allows.
    answer: Option<(ClientResult, Option<P>)>,
    /// Blocks being repaired for it.
    repairing: usize,
    /// It was answered by the store before the lease allowed.
    has_waited: bool,
    /// In the order they came.
    number: u64,
}

impl<P> ReadOp<P> {
    /// Blocks of data that it takes, or will.
    fn blocks(&self) -> u64 {
        if self.is_status { 0 } else { u64::from(self.read.range.count) }
    }
}

/// Reads under way.
#[derive(Debug)]
pub struct Reads<P> {
    slab: Slab<ReadOp<P>>,
}

impl<P> Default for Reads<P> {
    fn default() -> Reads<P> {
        Reads { slab: Slab::default() }
    }
}

impl<P> Reads<P> {
    /// Who waits.
    pub fn askers(&self) -> impl Iterator<Item = Asker> {
        self.slab.values().map(|r| r.asker)
    }
    /// Blocks of data of them, and how many of these are still to come.
    pub fn blocks(&self) -> (u64, u64) {
        self.slab.values().fold((0, 0), |(all, to_come), read| {
            let blocks = read.blocks();
            (all + blocks, to_come + if read.answer.is_none() { blocks } else { 0 })
        })
    }
    /// Takes out the newest, until they are so many blocks; who asked them.
    pub fn give_up(&mut self, blocks: u64) -> Vec<Asker> {
        let (mut given_up, mut askers) = (0, Vec::new());
        let mut keys: Vec<u64> = self.slab.keys().collect();
        keys.sort_by_key(|key| self.slab.get(*key).map(|read| read.number));
        while given_up < blocks
            && let Some(read) = keys.pop().and_then(|key| self.slab.take(key))
        {
            given_up += read.blocks();
            askers.push(read.asker);
        }
        askers
    }
    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }
    /// Forgets those of a connection that ended.
    pub fn drop_conn(&mut self, conn: crate::io::ConnId) {
        self.slab.retain(|r| r.asker.conn != conn);
    }
}

impl<P: Clone> Group<P> {
    /// Whether a read of these blocks may be begun: not of blocks in an unresolved tail (R9).
    pub fn may_read(&self, op: &Op<P>) -> bool {
        let Role::Primary(primary) = &self.role else { return false };
        if primary.serve_after.is_some() || self.gives_way_to_the_whole() {
            return false;
        }
        match primary.phase {
            Phase::Serve => true,
            Phase::Collect(_) => false,
            Phase::Resolve => {
                let tail =
                    |p: &Pending<P>| p.is_rewrite() && p.overlaps(op.family, op.request.chunk, op.range());
                !self.state.may_commit() && !primary.is_veiled && !primary.pending.iter().any(tail)
            }
        }
    }

    /// A read was admitted, and may be begun: the store works on it while the round runs (R4).
    pub fn read(&mut self, cx: &mut Cx<P>, op: Op<P>) {
        let read = Read {
            group: self.id,
            layers: op.layers.clone(),
            family: op.family,
            chunk: op.request.chunk,
            range: op.range(),
            which: Which::Visible,
        };
        let is_status = matches!(op.request.op, ClientOp::Status { .. });
        let round = cx.peers.next_round;
        let mut needs_round = false;
        let Role::Primary(primary) = &mut self.role else { return };
        if cx.confirm {
            needs_round = primary.needed(&self.state, cx.me).iter().any(|s| !cx.peers.same_kernel(*s));
        }
        cx.peers.beat_now |= needs_round;
        let kept = ReadOp {
            asker: op.asker,
            read: read.clone(),
            is_status,
            round,
            answer: None,
            repairing: 0,
            has_waited: false,
            number: cx.reads_begun,
        };
        cx.read_blocks += kept.blocks();
        cx.reads_begun += 1;
        let key = primary.reads.slab.insert(kept);
        let epoch = primary.epoch;
        self.ask(cx, key, epoch, read, is_status);
    }

    pub(crate) fn ask(&mut self, cx: &mut Cx<P>, key: u64, epoch: Epoch, read: Read, is_status: bool) {
        let token = cx.wait(Wait::Read { group: self.id, epoch, read: key });
        cx.out.push(match is_status {
            true => Output::Status { token, read },
            false => Output::Read { token, read },
        });
    }

    /// The store answered.
    pub fn read_done(&mut self, cx: &mut Cx<P>, key: u64, done: Result<Blocks<P>, ReadFailed>) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(op) = primary.reads.slab.get_mut(key) else { return };
        let answer = match done {
            Ok(blocks) => (data_of(&blocks.entries), blocks.data),
            Err(failed) => return self.read_failed(cx, key, failed),
        };
        // from here on its buffer is counted
        cx.read_blocks = cx.read_blocks.saturating_sub(op.blocks());
        op.answer = Some(answer);
        self.answer_read(cx, key);
    }

    /// The store answered a question which blocks hold data.
    pub fn status_done(&mut self, cx: &mut Cx<P>, key: u64, done: Result<Vec<BlockRange>, ReadFailed>) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(op) = primary.reads.slab.get_mut(key) else { return };
        match done {
            Ok(data) => op.answer = Some((ClientResult::Status { data }, None)),
            Err(failed) => return self.read_failed(cx, key, failed),
        }
        self.answer_read(cx, key);
    }

    fn read_failed(&mut self, cx: &mut Cx<P>, key: u64, failed: ReadFailed) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(op) = primary.reads.slab.get_mut(key) else { return };
        let chunk = op.read.chunk;
        match failed {
            ReadFailed::Corrupt(blocks) => {
                op.repairing = blocks.len();
                for (layer, block, entry) in blocks {
                    self.repair(
                        cx,
                        sarsen_types::ObjectId { layer, chunk },
                        block,
                        entry,
                        Some(Reader::Read(key)),
                    );
                }
            }
            ReadFailed::Unreadable(object) => {
                op.repairing = 1;
                self.restore(cx, object, Some(Reader::Read(key)));
            }
            ReadFailed::Missing => self.read_lost(cx, key, true),
        }
    }

    /// Nothing intact was found, the one error a read of committed data has; or not now.
    pub fn read_lost(&mut self, cx: &mut Cx<P>, key: u64, is_lost: bool) {
        let Role::Primary(primary) = &mut self.role else { return };
        if let Some(op) = primary.reads.slab.take(key) {
            cx.reply(op.asker, unreadable(op.read.range, is_lost), None);
        }
    }

    /// One of the blocks a read waited for was repaired.
    pub fn read_repaired(&mut self, cx: &mut Cx<P>, key: u64) {
        let Role::Primary(primary) = &mut self.role else { return };
        let epoch = primary.epoch;
        let Some(op) = primary.reads.slab.get_mut(key) else { return };
        op.repairing = op.repairing.saturating_sub(1);
        if op.repairing == 0 {
            let (read, is_status) = (op.read.clone(), op.is_status);
            self.ask(cx, key, epoch, read, is_status);
        }
    }

    fn answer_read(&mut self, cx: &mut Cx<P>, key: u64) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(op) = primary.reads.slab.get_mut(key) else { return };
        if op.answer.is_none() {
            return;
        }
        let round = op.round;
        if !self.may_answer(cx, round) {
            cx.is_waiting = true;
            let Role::Primary(primary) = &mut self.role else { return };
            let Some(op) = primary.reads.slab.get_mut(key) else { return };
            cx.counters.reads_waited += u64::from(!core::mem::replace(&mut op.has_waited, true));
            return;
        }
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(ReadOp { asker, answer: Some((result, payload)), .. }) = primary.reads.slab.take(key) else {
            return;
        };
        cx.counters.reads += 1;
        cx.reply(asker, result, payload);
    }

    /// R3, R4: every other needed copy acknowledged, in this epoch, a heartbeat sent within LEASE; or, where pauses
    /// cannot be seen, one of a round that began after the read arrived.
    fn may_answer(&self, cx: &Cx<P>, round: u64) -> bool {
        let Role::Primary(primary) = &self.role else { return false };
        if !self.is_current() || cx.is_hung || self.gives_way_to_the_whole() {
            return false;
        }
        let good = |s: &SliceId| {
            primary.leases.iter().find(|l| l.slice == *s).is_some_and(|l| {
                match cx.confirm && !cx.peers.same_kernel(*s) {
                    true => l.round >= round,
                    false => cx.now.since(l.sent) < limits::LEASE,
                }
            })
        };
        primary.needed(&self.state, cx.me).iter().all(good)
    }

    /// Whether reads are answered soon: nobody needed was silent for as long as a lease lasts.
    pub(crate) fn is_answering(&self, cx: &Cx<P>) -> bool {
        let Role::Primary(primary) = &self.role else { return false };
        let is_heard = |s: &SliceId| {
            primary.leases.iter().any(|l| l.slice == *s && cx.now.since(l.sent) < limits::LEASE)
        };
        self.is_current()
            && !cx.is_hung
            && !self.gives_way_to_the_whole()
            && primary.needed(&self.state, cx.me).iter().all(is_heard)
    }

    /// A heartbeat was acknowledged: reads may follow.
    pub fn leased(&mut self, cx: &mut Cx<P>, slice: SliceId, covered: &Covered) {
        let Role::Primary(primary) = &mut self.role else { return };
        let (sent, round) = (covered.sent, covered.round);
        let floors = if covered.has_floors { round } else { 0 };
        match primary.leases.iter_mut().find(|l| l.slice == slice) {
            Some(l) => {
                (l.sent, l.round, l.floors) = (l.sent.max(sent), l.round.max(round), l.floors.max(floors));
            }
            None => primary.leases.push(Lease { slice, sent, round, floors }),
        }
        self.answer_reads(cx);
    }

    /// Answers what may be answered.
    pub fn answer_reads(&mut self, cx: &mut Cx<P>) {
        let mut from = 0;
        while let Role::Primary(primary) = &self.role
            && let Some(key) = primary.reads.slab.next_key(from, |read| read.answer.is_some())
        {
            from = key as u32 + 1;
            self.answer_read(cx, key);
        }
    }
}

fn data_of(entries: &[Entry]) -> ClientResult {
    let mut present = 0u64;
    let mut checksums = smallvec::SmallVec::new();
    for (at, entry) in entries.iter().enumerate() {
        if let Entry::Data(_, checksum) = entry {
            present |= 1 << at;
            checksums.push(*checksum);
        }
    }
    ClientResult::Data { present, checksums }
}
