//! Fencing a generation of an attachment in one group (R31).
use crate::cx::Cx;
use crate::group::{Group, Role};
use crate::primary::{Fence, Pending, Phase};
use crate::wait::Wait;
use sarsen_types::Version;
use sarsen_types::record::Body;
use sarsen_types::{AttachmentId, Duration, Generation, GroupChange, SliceId};
use sarsen_wire::peer::GroupBody;
use smallvec::SmallVec;

/// Between two questions to the other copies whether they took a bump.
const ASK_AGAIN: Duration = Duration::from_millis(250);

impl<P: Clone> Group<P> {
    /// Takes a bump durably; then what `then` says.
    pub fn fence(&mut self, cx: &mut Cx<P>, attachment: AttachmentId, generation: Generation, then: Wait<P>) {
        let body = Body::Fence { attachment, generation };
        self.apply(&body);
        cx.persist(self.id, self.seen, body, None, then);
    }

    /// As a primary: what the metadata want fenced in this group, and how far it is.
    pub fn refresh_fences(&mut self, cx: &mut Cx<P>) {
        let Role::Primary(primary) = &mut self.role else { return };
        if cx.view.fences.is_empty() && primary.fences.is_empty() {
            return;
        }
        let view = cx.view.clone();
        let wanted = |a, g| view.fences.iter().any(|f| f.0 == a && f.1 == g && f.2.contains(&self.id));
        primary.fences.retain(|f| wanted(f.attachment, f.generation));
        for (attachment, generation, groups) in &view.fences {
            if groups.contains(&self.id) {
                self.take_bump(cx, *attachment, *generation);
            }
        }
        let others = self.others_in_sync(cx.me);
        // One copy alone below min_copies cannot say that nothing old commits any more: one that comes back and holds more, or a
        // complete one that leads after it (R11), rolls forward what this one never saw (found in review).
        let may_commit = self.state.may_commit();
        let Role::Primary(primary) = &mut self.role else { return };
        let mut ask = alloc::vec::Vec::new();
        let mut done = None;
        for fence in &mut primary.fences {
            fence.is_known |= others.is_empty();
            if !fence.is_known && fence.asked.is_none_or(|at| cx.now.since(at) >= ASK_AGAIN) {
                fence.asked = Some(cx.now);
                ask.push((fence.attachment, fence.generation));
            }
            let old = |p: &Pending<P>| {
                p.write
                    .requests
                    .iter()
                    .any(|n| n.id.attachment == fence.attachment && n.id.generation < fence.generation)
            };
            if fence.is_taken
                && fence.is_known
                && may_commit
                && matches!(primary.phase, Phase::Serve)
                && !primary.pending.iter().any(old)
            {
                done = Some((fence.attachment, fence.generation));
            }
        }
        for (attachment, generation) in ask {
            for to in &others {
                self.send(cx, *to, GroupBody::FenceQ { attachment, generation }, None);
            }
        }
        cx.is_waiting |= matches!(&self.role, Role::Primary(p) if !p.fences.is_empty());
        if let Some((attachment, generation)) = done {
            self.propose(cx, GroupChange::Fenced(attachment, generation));
        }
    }

    /// The primary orders nothing more of the old generation, and sends what it had ordered again as drained: else
    /// nothing of it could ever commit.
    fn take_bump(&mut self, cx: &mut Cx<P>, attachment: AttachmentId, generation: Generation) {
        let Role::Primary(primary) = &mut self.role else { return };
        if primary.fences.iter().any(|f| f.attachment == attachment && f.generation == generation) {
            return;
        }
        primary.fences.push(Fence { attachment, generation, is_taken: false, is_known: false, asked: None });
        let old = |id: &sarsen_types::RequestId| id.attachment == attachment && id.generation < generation;
        primary.waiting.retain(|op| !old(&op.request.id));
        let mut drained = alloc::vec::Vec::new();
        for p in &mut primary.pending {
            if p.write.requests.iter().any(|n| old(&n.id)) && !p.is_drain {
                p.is_drain = true;
                drained.push((p.write.clone(), p.payload.clone()));
            }
        }
        cx.counters.drained_writes += drained.len() as u64;
        for (write, payload) in drained {
            // all that wait for it: a joiner that refused it would never be promoted, one proposed never acknowledge (R6)
            for to in self.waited_for(cx.me, write.version) {
                cx.peers.at(to).spend(u64::from(write.data_blocks()));
                let body = GroupBody::Prepare { write: write.clone(), is_drain: true };
                self.send(cx, to, body, payload.clone());
            }
        }
        let then = Wait::Fenced { group: self.id, epoch: self.state.epoch, to: None, attachment, generation };
        self.fence(cx, attachment, generation, then);
    }

    /// The other copies that are to have an ordered write: those in sync, and joiners it was sent to.
    fn waited_for(&self, me: SliceId, version: Version) -> SmallVec<[SliceId; 4]> {
        let mut all = self.others_in_sync(me);
        if let Role::Primary(primary) = &self.role {
            let was_sent = |j: &&SliceId| primary.joins.get(*j).is_some_and(|j| j.was_sent(version));
            all.extend(
                primary.joins.keys().filter(|j| !self.state.is_in_sync(**j)).filter(was_sent).copied(),
            );
        }
        all
    }

    /// A bump is durable here.
    pub fn fence_taken(
        &mut self,
        cx: &mut Cx<P>,
        attachment: AttachmentId,
        generation: Generation,
        to: Option<SliceId>,
    ) {
        match to {
            Some(to) => self.send(cx, to, GroupBody::FenceA { attachment, generation }, None),
            None => {
                let Role::Primary(primary) = &mut self.role else { return };
                let mine = primary
                    .fences
                    .iter_mut()
                    .filter(|f| f.attachment == attachment && f.generation == generation);
                mine.for_each(|f| f.is_taken = true);
                self.refresh_fences(cx);
            }
        }
    }

    /// A copy holds a bump, or refused a write for one: we take it too.
    pub fn fence_known(
        &mut self,
        cx: &mut Cx<P>,
        from: SliceId,
        attachment: AttachmentId,
        generation: Generation,
    ) {
        self.take_bump(cx, attachment, generation);
        self.list_refused(cx, from);
        let in_sync = self.state.is_in_sync(from);
        let Role::Primary(primary) = &mut self.role else { return };
        for fence in
            primary.fences.iter_mut().filter(|f| f.attachment == attachment && f.generation <= generation)
        {
            fence.is_known |= in_sync;
        }
        self.refresh_fences(cx);
    }
}
