//! Takeover: a new primary asks every in-sync copy for its tail, and writes again what differs. Forward, never back (R2, R12).
use crate::cx::Cx;
use crate::group::{Group, Role};
use crate::io::Output;
use crate::primary::{Draft, Phase, Primary};
use crate::resolve::{self, Rewrite, Tail};
use crate::wait::{Then, Wait};
use alloc::boxed::Box;
use alloc::vec::Vec;
use sarsen_types::record::{BlockStack, Body, Content, Write};
use sarsen_types::{Alarm, Epoch, GroupChange, Mark, RequestNote, SliceId, Version, limits};
use sarsen_wire::peer::{Cursor, GroupBody, TailNote};
use smallvec::SmallVec;

/// What one copy told.
#[derive(Debug)]
struct Told {
    slice: SliceId,
    floor: Option<Version>,
    top: Version,
    tail: Tail,
    stacks_whole: bool,
    notes_whole: bool,
}

/// A takeover that still asks, or fetches what it will write.
#[derive(Debug)]
pub struct Takeover<P> {
    /// Counts the takeovers of this slice: an answer to an earlier one is none to this.
    pub(crate) attempt: u32,
    copies: Vec<Told>,
    paging: bool,
    pub(crate) rewrites: Vec<Fetching<P>>,
    voided: Vec<RequestNote>,
    resolved: bool,
    /// The highest floor that a copy told.
    pub(crate) floor: Version,
}

#[derive(Debug)]
pub(crate) struct Fetching<P> {
    pub(crate) rewrite: Rewrite,
    pub(crate) content: Option<Fetched<P>>,
    /// Holders asked so far, the last of them still to answer.
    pub(crate) tried: usize,
    pub(crate) asked: SliceId,
}

/// What is to be done with a rewrite.
#[derive(Debug)]
pub(crate) enum Fetched<P> {
    /// It is written.
    Write(Option<P>, Content),
    /// At or below a floor, and intact nowhere: it stays `Corrupt`.
    Leave,
}

impl<P> Takeover<P> {
    /// A copy that does not hold what it acknowledged: all in-sync copies hold what is at or below any floor, and its top is
    /// below one. It was back before it was missed, and its journal had lost its end to rot. It cannot be compared by its tail,
    /// for of what it lacks the zero entries may have vanished elsewhere, and an answered discard would be undone (simulator,
    /// seed 1204; R23).
    fn lacking(&self) -> Option<SliceId> {
        let highest = self.copies.iter().filter_map(|c| c.floor).max()?;
        self.copies.iter().find(|c| c.floor.is_some() && c.top < highest).map(|c| c.slice)
    }

    /// What it waits for, in words.
    pub fn describe(&self) -> alloc::string::String {
        let copies: Vec<_> =
            self.copies.iter().map(|c| (c.slice, c.floor, c.stacks_whole, c.notes_whole)).collect();
        let waits = self.rewrites.iter().filter(|f| f.content.is_none());
        let fetches: Vec<_> = waits
            .map(|f| (f.rewrite.object, f.rewrite.range, f.rewrite.winner, &f.rewrite.holders, f.tried))
            .collect();
        alloc::format!("{copies:?} fetches {fetches:?}")
    }
}

impl<P: Clone> Group<P> {
    /// R2, R5, R12: begins to lead an epoch we did not lead before.
    pub fn take_over(&mut self, cx: &mut Cx<P>) {
        let old = core::mem::replace(&mut self.role, Role::Replica(crate::replica::Replica::default()));
        let mut holders = None;
        if let Role::Primary(old) = old {
            let is_same_row = !old.has_committed && self.state.primary_since <= old.epoch;
            holders = is_same_row.then(|| old.holders.clone());
            // what was ordered under an epoch that others led since may have been voided: clients ask again
            for asker in old.askers() {
                let after = limits::BACKOFF_FIRST;
                cx.reply(asker, sarsen_wire::client::ClientResult::Retry { after }, None);
            }
        }
        let told = |&slice: &SliceId| Told {
            slice,
            floor: None,
            top: Version::ZERO,
            tail: Tail::default(),
            stacks_whole: false,
            notes_whole: false,
        };
        let mut copies: Vec<Told> = self.state.in_sync.iter().map(told).collect();
        copies.sort_by_key(|c| c.slice != cx.me); // ours first: it wins ties, so that least is fetched
        cx.attempts = cx.attempts.wrapping_add(1);
        let takeover = Takeover {
            attempt: cx.attempts,
            copies,
            paging: false,
            rewrites: Vec::new(),
            voided: Vec::new(),
            resolved: false,
            floor: Version::ZERO,
        };
        self.is_proven = true; // our own tail is compared with theirs
        let mut primary = Primary::new(cx.me, &self.state, Phase::Collect(Box::new(takeover)), cx.now);
        primary.serve_after = self.wait_ends(cx);
        if let Some(holders) = holders {
            primary.holders = holders;
        }
        self.role = Role::Primary(Box::new(primary));
        self.apply(&Body::Promise);
        let then = Wait::Promised { group: self.id, epoch: self.state.epoch, then: Then::Collect };
        cx.persist(self.id, self.state.epoch, Body::Promise, None, then);
        for to in self.others_in_sync(cx.me) {
            self.send(cx, to, GroupBody::TailQ, None);
        }
        self.stop_others(cx);
    }

    /// R2: GRACE after we last acknowledged a heartbeat of an older epoch; after a start, GRACE after the start.
    fn wait_ends(&self, cx: &Cx<P>) -> Option<sarsen_types::Instant> {
        let started = cx.started + limits::GRACE;
        let acked = self.acked.iter().filter(|a| a.0 != cx.me).map(|a| a.1 + limits::GRACE).max();
        let end = acked.map_or(started, |a| a.max(started));
        (end > cx.now).then_some(end)
    }

    /// R2: asks those whose heartbeats we acknowledged, and that are not asked for a tail, whether they stopped.
    pub fn stop_others(&mut self, cx: &mut Cx<P>) {
        let Role::Primary(primary) = &self.role else { return };
        if primary.serve_after.is_none() {
            return;
        }
        let is_asked = |s: &SliceId| primary.is_collecting() && self.state.is_in_sync(*s);
        let ask: SmallVec<[SliceId; 4]> = (self.acked.iter().map(|a| a.0))
            .filter(|s| *s != cx.me && !primary.stopped.contains(s) && !is_asked(s))
            .collect();
        for to in ask {
            self.send(cx, to, GroupBody::StopQ, None);
        }
    }

    /// A slice confirmed in our epoch that it stopped as a primary of older ones.
    pub fn confirmed_stop(&mut self, cx: &mut Cx<P>, from: SliceId) {
        let Role::Primary(primary) = &mut self.role else { return };
        if !primary.stopped.contains(&from) {
            primary.stopped.push(from);
        }
        self.end_wait(cx);
    }

    /// Ends the wait when its time is over, or early when every primary we acknowledged confirmed; after a start never early.
    pub fn end_wait(&mut self, cx: &mut Cx<P>) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(end) = primary.serve_after else { return };
        let early = cx.now.since(cx.started) >= limits::GRACE
            && (self.acked.iter())
                .filter(|a| a.0 != cx.me && cx.now.since(a.1) < limits::GRACE)
                .all(|a| primary.stopped.contains(&a.0));
        if cx.now < end && !early {
            cx.is_waiting = true;
            return;
        }
        match cx.now < end {
            true => cx.counters.waits_ended_early += 1,
            false => cx.counters.waits_run_out += 1,
        }
        primary.serve_after = None;
        self.acked.retain(|a| a.0 != cx.me);
        cx.again.push(self.id);
    }

    /// The stream to an in-sync copy was made again while we ask.
    pub fn collect_again(&mut self, cx: &mut Cx<P>, to: SliceId) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Phase::Collect(takeover) = &mut primary.phase else { return };
        let paging = takeover.paging;
        if let Some(told) = takeover.copies.iter_mut().find(|c| c.slice == to) {
            if told.floor.is_none() {
                self.send(cx, to, GroupBody::TailQ, None);
            } else if paging && !(told.stacks_whole && told.notes_whole) {
                told.tail = Tail::default();
                (told.stacks_whole, told.notes_whole) = (false, false);
                self.ask_pages(cx, to);
            }
        }
        self.stop_others(cx);
        self.fetch_winners_of(cx, to);
    }

    /// Our own promise is durable: our floor counts.
    pub fn own_floor(&mut self, cx: &mut Cx<P>, epoch: Epoch) {
        let (me, floor, top) = (cx.me, self.ledger.floor, self.ledger.top);
        if epoch == self.state.epoch {
            self.floor_came(cx, me, floor, top);
        }
    }

    /// A copy told its floor, and that it stopped as a primary.
    pub fn floor_came(&mut self, cx: &mut Cx<P>, from: SliceId, floor: Version, top: Version) {
        if from != cx.me {
            self.confirmed_stop(cx, from);
        }
        let Role::Primary(primary) = &mut self.role else { return };
        let Phase::Collect(takeover) = &mut primary.phase else { return };
        let Some(told) = takeover.copies.iter_mut().find(|c| c.slice == from) else { return };
        (told.floor, told.top) = (Some(floor), top);
        if let Some(slice) = takeover.lacking() {
            return self.propose(cx, GroupChange::Expel(slice));
        }
        if !takeover.paging && takeover.copies.iter().all(|c| c.floor.is_some()) {
            takeover.paging = true;
            primary.had = takeover.copies.iter().map(|c| c.top).max().unwrap_or_default();
            let slices: Vec<SliceId> = takeover.copies.iter().map(|c| c.slice).collect();
            for slice in slices {
                self.ask_pages(cx, slice);
            }
        }
    }

    /// The lowest floor: what is above it at any copy is looked at from every copy.
    fn above(&self) -> Version {
        let Role::Primary(primary) = &self.role else { return Version::ZERO };
        let Phase::Collect(takeover) = &primary.phase else { return Version::ZERO };
        takeover.copies.iter().filter_map(|c| c.floor).min().unwrap_or_default()
    }

    fn ask_pages(&mut self, cx: &mut Cx<P>, of: SliceId) {
        let above = self.above();
        if of != cx.me {
            self.send(cx, of, GroupBody::TailPageQ { above, after: None }, None);
            self.send(cx, of, GroupBody::TailNotesQ { skip: 0 }, None);
            return;
        }
        let token = cx.wait(Wait::OwnStacks { group: self.id, epoch: self.state.epoch, above });
        cx.out.push(Output::ListStacks { token, group: self.id, above, after: None });
        let mut notes = Vec::new();
        loop {
            let (page, is_last) = self.notes_page(notes.len() as u32);
            notes.extend(page);
            if is_last {
                break;
            }
        }
        self.with_told(of, |told| {
            told.tail.notes = notes;
            told.notes_whole = true;
        });
    }

    fn with_told(&mut self, of: SliceId, f: impl FnOnce(&mut Told)) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Phase::Collect(takeover) = &mut primary.phase else { return };
        if let Some(told) = takeover.copies.iter_mut().find(|c| c.slice == of) {
            f(told);
        }
    }

    /// Where our own list goes on.
    pub fn own_stacks_after(&self) -> Option<Cursor> {
        let Role::Primary(primary) = &self.role else { return None };
        let Phase::Collect(takeover) = &primary.phase else { return None };
        takeover.copies.first().and_then(|c| c.tail.last())
    }

    /// A page of a copy's tail; ours too.
    pub fn stacks_came(
        &mut self,
        cx: &mut Cx<P>,
        from: SliceId,
        after: Option<Cursor>,
        blocks: Vec<BlockStack>,
        is_last: bool,
    ) {
        let above = self.above();
        let last = blocks.last().map(|b| (b.object, b.block));
        let mut next = None;
        self.with_told(from, |told| {
            if told.stacks_whole || after != told.tail.last() {
                return; // of a stream that broke
            }
            told.tail.add(blocks);
            told.stacks_whole = is_last;
            next = last.filter(|_| !is_last);
        });
        if let Some(after) = next {
            if from == cx.me {
                let token = cx.wait(Wait::OwnStacks { group: self.id, epoch: self.state.epoch, above });
                cx.out.push(Output::ListStacks { token, group: self.id, above, after: Some(after) });
            } else {
                self.send(cx, from, GroupBody::TailPageQ { above, after: Some(after) }, None);
            }
        }
        self.resolve_when_whole(cx);
    }

    /// A page of a copy's records.
    pub fn notes_came(
        &mut self,
        cx: &mut Cx<P>,
        from: SliceId,
        skip: u32,
        notes: Vec<TailNote>,
        is_last: bool,
    ) {
        let mut next = None;
        self.with_told(from, |told| {
            if told.notes_whole || skip as usize != told.tail.notes.len() {
                return;
            }
            told.tail.notes.extend(notes);
            told.notes_whole = is_last;
            next = (!is_last).then_some(told.tail.notes.len() as u32);
        });
        if let Some(skip) = next {
            self.send(cx, from, GroupBody::TailNotesQ { skip }, None);
        }
        self.resolve_when_whole(cx);
    }

    /// A copy opened anew: if it told its floor before that, what it holds may be another tail by now.
    pub fn told_by_another_life(&mut self, cx: &mut Cx<P>, from: SliceId) {
        let Role::Primary(primary) = &self.role else { return };
        let Phase::Collect(takeover) = &primary.phase else { return };
        if takeover.copies.iter().any(|c| c.slice == from && c.floor.is_some()) {
            self.take_over(cx);
        }
    }

    fn resolve_when_whole(&mut self, cx: &mut Cx<P>) {
        let enough = self.state.may_commit();
        let Role::Primary(primary) = &mut self.role else { return };
        let Phase::Collect(takeover) = &mut primary.phase else { return };
        let whole = takeover.copies.iter().all(|c| c.stacks_whole && c.notes_whole);
        if !whole || takeover.resolved {
            return;
        }
        takeover.resolved = true;
        let floor = takeover.copies.iter().filter_map(|c| c.floor).max().unwrap_or_default();
        let above = takeover.copies.iter().filter_map(|c| c.floor).min().unwrap_or_default();
        takeover.floor = floor;
        let slices: Vec<SliceId> = takeover.copies.iter().map(|c| c.slice).collect();
        let tails: Vec<&Tail> = takeover.copies.iter().map(|c| &c.tail).collect();
        let outcome = resolve::resolve(&tails, above, floor, enough);
        cx.counters.takeovers_with_tail += u64::from(!outcome.rewrites.is_empty());
        cx.counters.takeovers_with_void += u64::from(!outcome.voided.is_empty());
        if outcome.corruptions > 0 {
            cx.counters.takeovers_with_corruption += 1;
            let n = outcome.corruptions;
            let what = alloc::format!("{:?}: takeover repairs {n} blocks that lay below a floor", self.id);
            cx.raise(self.id, Alarm::Repaired, n, what);
        }
        if outcome.contradictions > 0 {
            cx.contradicted(self.id, outcome.contradictions);
        }
        takeover.voided = outcome.voided;
        takeover.rewrites = (outcome.rewrites.into_iter())
            .map(|mut rewrite| {
                rewrite.holders.iter_mut().for_each(|h| *h = resolve::Holder { slice: slices[h.copy], ..*h });
                Fetching { rewrite, content: None, tried: 0, asked: SliceId::default() }
            })
            .collect();
        // what all hold at or below the highest floor is committed (R13); what is equal above it is so as it is (R12), and
        // shown when the takeover ends
        // But where something lay below a floor, ours among them perhaps, the floor waits until that is written again: after
        // a crash before it was, a takeover from the raised floor would not look there.
        primary.is_veiled = !outcome.committed.is_empty() || outcome.corruptions > 0;
        primary.settled = outcome.committed.last().copied();
        if outcome.corruptions == 0 {
            self.raise_floor(cx, floor);
        }
        let Role::Primary(primary) = &self.role else { return };
        let Phase::Collect(takeover) = &primary.phase else { return };
        for at in 0..takeover.rewrites.len() {
            self.fetch_winner(cx, at);
        }
        self.write_when_fetched(cx);
    }

    /// All is here: the rewrites are ordered, joins begin anew (R17).
    pub(crate) fn write_when_fetched(&mut self, cx: &mut Cx<P>) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Phase::Collect(takeover) = &mut primary.phase else { return };
        if !takeover.resolved || takeover.rewrites.iter().any(|f| f.content.is_none()) {
            return;
        }
        let rewrites = core::mem::take(&mut takeover.rewrites);
        let voided = core::mem::take(&mut takeover.voided);
        primary.phase = Phase::Resolve;
        self.begin_joins(cx);
        self.ask_joins(cx); // before anything is sent to a joiner
        for Fetching { rewrite, content, .. } in rewrites {
            let Some(Fetched::Write(payload, content)) = content else { continue };
            let write = Write {
                version: Version::ZERO,
                object: rewrite.object,
                family: rewrite.family,
                range: rewrite.range,
                content,
                marks: self.marks_with(&rewrite.requests, &voided),
                requests: rewrite.requests,
                takeover: Some(voided.clone()),
            };
            let draft = Draft { write, payload, askers: SmallVec::new(), olds: rewrite.olds, is_drain: true };
            self.order(cx, draft);
        }
        self.recheck(cx);
        cx.again.push(self.id);
    }

    /// Marks for a rewrite: of the queues that its records name, then of others, as many as one record bears. One that a copy
    /// is not told costs it memory until the queue's next write.
    fn marks_with(&self, requests: &[RequestNote], voided: &[RequestNote]) -> SmallVec<[Mark; 1]> {
        let is_named = |m: &Mark| {
            let is_its = |n: &RequestNote| {
                (n.id.attachment, n.id.session, n.id.queue) == (m.attachment, m.session, m.queue)
            };
            requests.iter().chain(voided).any(is_its)
        };
        let (mut named, others): (SmallVec<[Mark; 1]>, SmallVec<[Mark; 1]>) =
            self.ledger.marks().partition(is_named);
        named.extend(others);
        named.truncate(limits::PAGE_ENTRIES_MAX);
        named
    }

    /// R12, R27: a copy heard from since we started that stays silent for GRACE is removed, and the takeover starts
    /// again with the new epoch; one not yet heard from is given SETTLE.
    pub fn takeover_tick(&mut self, cx: &mut Cx<P>) {
        let Role::Primary(primary) = &self.role else { return };
        let Phase::Collect(takeover) = &primary.phase else { return };
        cx.is_waiting = true;
        if let Some(slice) = takeover.lacking() {
            return self.propose(cx, GroupChange::Expel(slice));
        }
        let silent = takeover.copies.iter().find(|c| {
            let needed =
                c.floor.is_none() || !c.stacks_whole || !c.notes_whole || !takeover.rewrites.is_empty();
            let silence = match cx.peers.heard(c.slice) {
                Some(at) => cx.now.since(at.max(primary.began)) >= limits::GRACE,
                None => cx.now.since(cx.started) >= limits::SETTLE,
            };
            c.slice != cx.me && needed && silence
        });
        if let Some(slice) = silent.map(|c| c.slice) {
            self.propose(cx, GroupChange::Remove(slice));
        }
    }
}
