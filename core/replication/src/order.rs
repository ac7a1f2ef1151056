//! The order of a group's writes: each waits for what it overlaps, gets a version, and goes to every copy (R7, R8).
use crate::cx::Cx;
use crate::group::{Group, Role};
use crate::io::{Output, Read, ReadFailed, Which};
use crate::primary::{Draft, Pending};
use crate::repair::{Reader, unreadable};
use crate::replica::PROPOSE_AGAIN;
use crate::requests::{Op, Stage, is_whole};
use crate::wait::Wait;
use sarsen_types::record::{Body, Content, Write};
use sarsen_types::{BLOCK_SIZE, Checksum, GroupChange, Mark, ObjectId, Proposal, SliceId, Version, limits};
use sarsen_wire::client::{ClientOp, ClientResult};
use sarsen_wire::peer::GroupBody;
use smallvec::{SmallVec, smallvec};

impl<P: Clone> Group<P> {
    /// A write was admitted: it answers from a record, joins the request in progress, or waits for its turn.
    pub fn write(&mut self, cx: &mut Cx<P>, mut op: Op<P>) {
        let id = op.request.id;
        let (found, mark) = self.ledger.find_with_mark(&id);
        if let Some(version) = found {
            let Role::Primary(primary) = &mut self.role else { return };
            match primary.find(version) {
                Some(at) => {
                    cx.counters.retries_joined += 1;
                    primary.pending[at].ask(op.asker);
                }
                None => {
                    cx.counters.answered_from_record += 1;
                    cx.reply(op.asker, ClientResult::Done, None);
                }
            }
            return;
        }
        if id.number < mark {
            cx.counters.below_mark += 1;
            return cx.reply(op.asker, ClientResult::BelowMark, None);
        }
        let full = cx.is_full || self.others_in_sync(cx.me).iter().any(|s| cx.peers.at(*s).is_full());
        let Role::Primary(primary) = &mut self.role else { return };
        if let Some(same) = primary.waiting.iter_mut().find(|w| w.request.id == id) {
            // the retry came on a newer connection: the answer goes there
            cx.counters.retries_joined += 1;
            same.asker = op.asker;
            return;
        }
        // zeroes over a part of a block are merged with the rest of it, and take a place as any data
        let takes_place = matches!(op.request.op, ClientOp::Write { .. }) || !is_whole(&op.request.op);
        if full && takes_place {
            return cx.reply(op.asker, ClientResult::NoSpace, None);
        }
        if primary.waiting.len() >= limits::REQUEST_WINDOW_MAX {
            return cx.reply(op.asker, ClientResult::Retry { after: limits::BACKOFF_FIRST }, None);
        }
        op.key = primary.next_op;
        primary.next_op += 1;
        op.stage = if is_whole(&op.request.op) { Stage::Whole } else { Stage::Partial };
        primary.waiting.push_back(op);
        self.pump(cx);
    }

    /// Orders what may be ordered, in the order it came (R8): nothing passes an overlapping one.
    pub fn pump(&mut self, cx: &mut Cx<P>) {
        if self.gives_way_to_the_whole() {
            return;
        }
        let mut at = 0;
        loop {
            let Role::Primary(primary) = &mut self.role else { return };
            if !primary.is_serving() || at >= primary.waiting.len() {
                return;
            }
            let op = &primary.waiting[at];
            let range = op.range();
            let blocked = primary.pending.iter().any(|p| p.overlaps(op.family, op.request.chunk, range))
                || primary.waiting.iter().take(at).any(|w| w.overlaps(op));
            if blocked {
                cx.counters.overlaps_waited += 1;
                at += 1;
                continue;
            }
            match op.stage {
                Stage::Merging | Stage::Repairing(_) => at += 1,
                Stage::Partial => {
                    self.merge(cx, at);
                    at += 1;
                }
                Stage::Whole => {
                    // a discard takes no memory anywhere, however long it is (found in review)
                    let has_data = matches!(op.request.op, ClientOp::Write { .. });
                    let blocks = if has_data { u64::from(range.count) } else { 0 };
                    if !self.has_room(cx, blocks) {
                        return; // the window is full: what came later waits too
                    }
                    let Role::Primary(primary) = &mut self.role else { return };
                    let op = primary.waiting.remove(at).expect("it is there");
                    self.order_op(cx, op);
                }
            }
        }
    }

    /// R7: every in-sync copy granted it, and our own bounds hold. Where others need the memory, what could not be committed is
    /// not ordered: it could not be told to come again (R41).
    fn has_room(&mut self, cx: &mut Cx<P>, blocks: u64) -> bool {
        let Role::Primary(primary) = &self.role else { return false };
        (self.state.may_commit() || cx.kept_blocks <= cx.memory.stuck())
            && primary.pending.len() < limits::GROUP_PENDING_MAX
            && primary.refused.is_empty()
            && primary.sequence < Version::SEQUENCE_MAX
            && primary.needed(&self.state, cx.me).iter().all(|s| cx.peers.has_room(*s, blocks))
    }

    fn merge(&mut self, cx: &mut Cx<P>, at: usize) {
        let Role::Primary(primary) = &mut self.role else { return };
        let epoch = primary.epoch;
        let op = &mut primary.waiting[at];
        op.stage = Stage::Merging;
        cx.counters.merges += 1;
        let (offset, len) = match op.request.op {
            ClientOp::Write { offset, len, .. } | ClientOp::Zero { offset, len } => (offset, len),
            _ => unreachable!("only writes wait to be ordered"),
        };
        let read = Read {
            group: self.id,
            layers: op.layers.clone(),
            family: op.family,
            chunk: op.request.chunk,
            range: op.range(),
            which: Which::Visible,
        };
        let payload = op.payload.clone();
        let token = cx.wait(Wait::Merge { group: self.id, epoch, op: op.key });
        cx.out.push(Output::Merge { token, read, offset, len, payload });
    }

    /// The blocks of a part-block write were merged: it is whole, and its turn comes.
    pub fn merged(
        &mut self,
        cx: &mut Cx<P>,
        key: u64,
        done: Result<(P, SmallVec<[Checksum; 4]>), ReadFailed>,
    ) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(at) = primary.waiting.iter().position(|op| op.key == key && op.stage == Stage::Merging)
        else {
            return;
        };
        let op = &mut primary.waiting[at];
        match done {
            Ok((payload, checksums)) => {
                let range = op.range();
                let (offset, len) = (u32::from(range.first) * BLOCK_SIZE as u32, range.bytes() as u32);
                op.request.op = ClientOp::Write { offset, len, checksums };
                op.payload = Some(payload);
                op.stage = Stage::Whole;
            }
            Err(failed) => {
                // what it lies on is to be repaired first; then it is merged again
                let chunk = op.request.chunk;
                let reader = Some(Reader::Merge(key));
                match failed {
                    ReadFailed::Corrupt(blocks) => {
                        op.stage = Stage::Repairing(blocks.len());
                        for (layer, block, entry) in blocks {
                            self.repair(cx, ObjectId { layer, chunk }, block, entry, reader);
                        }
                    }
                    ReadFailed::Unreadable(object) => {
                        op.stage = Stage::Repairing(1);
                        self.restore(cx, object, reader);
                    }
                    ReadFailed::Missing => self.merge_failed(cx, key, true),
                }
                return;
            }
        }
        self.pump(cx);
    }

    /// A block that a part-block write lies on was repaired.
    pub fn merge_repaired(&mut self, cx: &mut Cx<P>, key: u64) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(op) = primary.waiting.iter_mut().find(|op| op.key == key) else { return };
        op.stage = match op.stage {
            Stage::Repairing(left) if left > 1 => Stage::Repairing(left - 1),
            _ => Stage::Partial,
        };
        cx.again.push(self.id);
    }

    /// What it lies on cannot be repaired, or not now: nothing of the write was ordered.
    pub fn merge_failed(&mut self, cx: &mut Cx<P>, key: u64, is_lost: bool) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(at) = primary.waiting.iter().position(|op| op.key == key) else { return };
        if let Some(op) = primary.waiting.remove(at) {
            cx.reply(op.asker, unreadable(op.range(), is_lost), None);
        }
        cx.again.push(self.id);
    }

    fn order_op(&mut self, cx: &mut Cx<P>, op: Op<P>) {
        let note = op.note();
        let id = op.request.id;
        let content = match &op.request.op {
            ClientOp::Write { checksums, .. } => Content::Data(checksums.clone()),
            _ => Content::Zero,
        };
        let mut marks = SmallVec::new();
        if op.request.answered_below > self.ledger.mark_of(&id) {
            let below = op.request.answered_below.min(id.number);
            marks.push(Mark { attachment: id.attachment, session: id.session, queue: id.queue, below });
        }
        let write = Write {
            version: Version::ZERO,
            object: note.object,
            family: op.family,
            range: note.range,
            content,
            requests: smallvec![note],
            marks,
            takeover: None,
        };
        cx.counters.writes += 1;
        let payload = op.payload.filter(|_| write.data_blocks() > 0);
        self.order(
            cx,
            Draft { write, payload, askers: smallvec![op.asker], olds: SmallVec::new(), is_drain: false },
        );
    }

    /// Gives a write the next version, persists it here, sends it to every in-sync and joining copy.
    pub fn order(&mut self, cx: &mut Cx<P>, draft: Draft<P>) {
        let Role::Primary(primary) = &mut self.role else { return };
        primary.sequence += 1;
        // It must not hold up that a silent copy is removed: at a time of its own, and not while one may be silent, for that is
        // counted anew in each epoch (simulator, seed 340).
        let is_asked = primary.renewal.is_some_and(|at| cx.now.since(at) < PROPOSE_AGAIN);
        let is_long = primary.sequence >= cx.epoch_writes && !is_asked;
        let is_heard = |s: &SliceId| {
            *s == cx.me || cx.peers.heard(*s).is_some_and(|at| cx.now.since(at) < limits::HEARTBEAT * 2)
        };
        let asks = is_long && self.state.in_sync.iter().all(is_heard);
        if asks {
            primary.renewal = Some(cx.now);
        }
        let mut write = draft.write;
        write.version = Version::new(primary.epoch, primary.sequence);
        let version = write.version;
        let blocks = u64::from(write.data_blocks());
        let targets: SmallVec<[SliceId; 8]> = primary.copies[1..].into();
        let mut sends: SmallVec<[SliceId; 8]> = SmallVec::new();
        for to in targets {
            let must = self.state.is_in_sync(to) || primary.promoting.contains(&to);
            if let Some(join) = primary.joins.get_mut(&to) {
                let room = cx.peers.has_room(to, blocks) && join.has_window();
                if !must && !room {
                    cx.counters.join_window_full += 1;
                    join.missed(version, write.object);
                    continue;
                }
                join.sent(version, write.object);
            }
            sends.push(to);
        }
        // what the floor leans on: while it serves, what replaces others came before all that does not
        debug_assert!(
            draft.olds.is_empty()
                || write.takeover.is_some()
                || primary.pending.back().is_none_or(|p| !p.olds.is_empty())
        );
        primary.pending.push_back(Pending {
            write: write.clone(),
            payload: draft.payload.clone(),
            acks: 0,
            olds: draft.olds,
            askers: draft.askers,
            is_drain: draft.is_drain,
            since: cx.now,
        });
        for to in sends {
            cx.peers.at(to).spend(blocks);
            let body = GroupBody::Prepare { write: write.clone(), is_drain: draft.is_drain };
            self.send(cx, to, body, draft.payload.clone());
        }
        let body = Body::Write(write);
        self.apply(&body);
        cx.persist(self.id, self.state.epoch, body, draft.payload, Wait::Ordered { group: self.id, version });
        if asks {
            cx.counters.epochs_renewed += 1;
            let (group, epoch, by) = (self.id, self.state.epoch, cx.me);
            cx.propose(Proposal { group, epoch, by, change: GroupChange::Renew });
        }
    }
}
