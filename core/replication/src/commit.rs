//! What is committed, answered and shown; and what a primary's own store has no space for (R7, R9, R12).
use crate::cx::Cx;
use crate::group::{Group, Role};
use crate::io::Output;
use crate::primary::{Pending, Phase, Primary};
use crate::wait::Wait;
use sarsen_types::record::Body;
use sarsen_types::{Duration, SliceId, Version};
use sarsen_wire::client::ClientResult;

/// Between two attempts to persist what our own store had no space for.
const REFUSED_AGAIN: Duration = Duration::from_millis(500);

impl<P: Clone> Group<P> {
    /// A copy has a write durably. Acknowledgements name single versions (R16).
    pub fn acknowledged(&mut self, cx: &mut Cx<P>, from: SliceId, version: Version) {
        let may_commit = self.state.may_commit();
        let Role::Primary(primary) = &mut self.role else { return };
        let bit = primary.bit_of(from);
        if let Some(join) = primary.joins.get_mut(&from) {
            join.acknowledged(version);
        }
        if from == cx.me && !primary.refused.is_empty() {
            primary.refused.retain(|v| *v != version);
            cx.led_changed = true;
        }
        let Some(at) = primary.find(version) else {
            if primary.joins.contains_key(&from) {
                self.advance_join(cx, from);
            }
            return;
        };
        primary.pending[at].acks |= bit;
        let needed = self.needed_bits(cx.me);
        let Role::Primary(primary) = &mut self.role else { return };
        if may_commit && primary.pending[at].acks & needed == needed {
            self.commit(cx, at);
            self.committed(cx);
        }
    }

    fn needed_bits(&self, me: SliceId) -> u16 {
        let Role::Primary(primary) = &self.role else { return 0 };
        primary.needed(&self.state, me).iter().fold(1, |bits, s| bits | primary.bit_of(*s))
    }

    /// R9: every needed copy has it: visible, answered.
    fn commit(&mut self, cx: &mut Cx<P>, at: usize) {
        let Role::Primary(primary) = &mut self.role else { return };
        let pending = primary.pending.remove(at).expect("it is there");
        primary.has_committed = true;
        let version = pending.write.version;
        for join in primary.joins.values_mut() {
            join.committed(version, pending.write.object);
        }
        let lowest = primary.pending.front().is_none_or(|p| p.write.version > version && p.olds.is_empty());
        match primary.phase {
            Phase::Serve if lowest => {} // the floor says it
            Phase::Serve => cx.out.push(Output::Commit(self.id, version)),
            // A request's blocks may be several writes of a takeover: until the last of them is committed a power cut may
            // void it, and what lies under the first is what counts then. So nothing of a takeover is shown, and nothing
            // under it let go, before its end.
            _ => primary.is_veiled = true,
        }
        for asker in pending.askers {
            cx.reply(asker, ClientResult::Done, None);
        }
    }

    /// Some write was committed, or who is needed changed: what may follow from it.
    pub fn committed(&mut self, cx: &mut Cx<P>) {
        let may_commit = self.state.may_commit();
        let Role::Primary(primary) = &mut self.role else { return };
        if matches!(primary.phase, Phase::Resolve)
            && !primary.pending.iter().any(Pending::is_rewrite)
            && (may_commit || primary.pending.is_empty())
        {
            primary.phase = Phase::Serve;
            primary.is_veiled = false;
            cx.counters.takeovers += 1;
        }
        primary.has_committed |= may_commit && matches!(primary.phase, Phase::Serve);
        if let Some(floor) = primary.floor() {
            self.raise_floor(cx, floor);
        }
        let Role::Primary(primary) = &self.role else { return };
        if primary.is_serving()
            && !(self.held.is_empty() && primary.waiting.is_empty() && primary.joins.is_empty())
        {
            cx.again.push(self.id);
        }
    }

    /// Judges every pending write anew: who is needed may have changed.
    pub fn recheck(&mut self, cx: &mut Cx<P>) {
        let needed = self.needed_bits(cx.me);
        let mut at = 0;
        while self.state.may_commit() {
            let Role::Primary(primary) = &mut self.role else { return };
            match primary.pending.get(at) {
                None => break,
                Some(p) if p.acks & needed == needed => self.commit(cx, at),
                Some(_) => at += 1,
            }
        }
        self.committed(cx);
    }

    /// R7: our own store has no space for an ordered write. Another in-sync copy is to lead; if there is none, it waits.
    pub fn not_persisted(&mut self, cx: &mut Cx<P>, version: Version) {
        let Role::Primary(primary) = &mut self.role else { return };
        if primary.find(version).is_some() && !primary.refused.contains(&version) {
            primary.refused.push(version);
            primary.refused_at = cx.now;
            cx.led_changed = true;
            cx.is_waiting = true;
        }
    }

    /// R7: a primary that cannot persist sends no heartbeats of the group, so that another takes over.
    pub fn gives_way(&self, primary: &Primary<P>) -> bool {
        !primary.refused.is_empty() && self.state.in_sync.len() > 1
    }

    pub(crate) fn persist_refused(&mut self, cx: &mut Cx<P>) {
        let (group, epoch) = (self.id, self.state.epoch);
        let Role::Primary(primary) = &mut self.role else { return };
        if primary.refused.is_empty() || cx.now.since(primary.refused_at) < REFUSED_AGAIN {
            return;
        }
        primary.refused_at = cx.now;
        for version in primary.refused.clone() {
            if let Some(at) = primary.find(version) {
                let p = &primary.pending[at];
                let (body, payload) = (Body::Write(p.write.clone()), p.payload.clone());
                cx.persist(group, epoch, body, payload, Wait::Ordered { group, version });
            }
        }
    }
}
