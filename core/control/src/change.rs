//! Every change of a group: one function raises the epoch and keeps `complete` and the list of who is out (R6, R9, R11, R12).
use crate::command::Move;
use crate::reconcile::JOIN_BACKOFF_MAX_MS;
use crate::state::{Out, Retired, State};
use alloc::format;
use alloc::vec::Vec;
use sarsen_types::{
    AttachmentId, Epoch, Generation, GroupChange, GroupId, GroupState, Joining, Member, NodeId, Proposal,
    SliceId,
};

/// A group whose epoch is within this of the last one changes no more: versions have 24 bits for it. One change a second
/// lasts half a year to come here, so this is a fault that somebody must look at, not a limit of use.
const EPOCH_RESERVE: u32 = 1 << 10;

/// Whether a group changes no more: it came to the reserve of its epochs.
pub(crate) fn is_spent(group: &GroupState) -> bool {
    group.epoch.0 + EPOCH_RESERVE >= Epoch::MAX.0
}

/// A copy that is in sync for this long after it joined has nothing to back off from any more.
const BACK_MS: u64 = 2 * JOIN_BACKOFF_MAX_MS;

impl State {
    /// The one way to change a group: a new epoch, `primary_since` when another leads, `complete` (R11), who is out (R19).
    /// The last change that a group has is told to the operator; none comes after it.
    pub(crate) fn change(&mut self, group: GroupId, f: impl FnOnce(&mut GroupState, Epoch)) {
        let Some(state) = self.groups.get_mut(&group).filter(|g| !is_spent(g)) else { return };
        let (led, epoch) = (state.primary, state.epoch.next());
        let could_commit = if state.may_commit() { state.epoch } else { state.could_commit };
        f(state, epoch);
        state.epoch = epoch;
        state.could_commit = if state.may_commit() { epoch } else { could_commit };
        if state.primary != led {
            state.primary_since = epoch;
        }
        if state.may_commit() {
            state.complete = state.in_sync.clone();
        } else {
            let more: Vec<SliceId> =
                state.in_sync.iter().copied().filter(|s| !state.complete.contains(s)).collect();
            state.complete.extend(more);
        }
        let is_last = is_spent(state);
        self.note_out(group);
        self.changes_map();
        if is_last {
            self.tell(format!(
                "group {group} has used up its epochs: it changes no more, and waits for ever for the next copy that fails"
            ));
        }
    }

    /// Keeps the list of members that are not in sync.
    pub(crate) fn note_out(&mut self, group: GroupId) {
        let Some(state) = self.groups.get(&group) else { return };
        let (out, back) = (self.out.entry(group).or_default(), self.back.entry(group).or_default());
        let (since_ms, is_member) = (self.now_ms, |s| state.assignment_of(s).is_some());
        back.retain(|b| since_ms < b.joined_ms.saturating_add(BACK_MS) && is_member(b.slice));
        back.extend(out.iter().filter(|o| o.joins > 0 && state.is_in_sync(o.slice)));
        out.retain(|o| is_member(o.slice) && !state.is_in_sync(o.slice));
        for member in state.members.iter().filter(|m| !state.is_in_sync(m.slice)) {
            if out.iter().any(|o| o.slice == member.slice) {
                continue;
            }
            let before = back.iter().position(|b| b.slice == member.slice).map(|at| back.remove(at));
            let (joins, joined_ms) = before.map_or((0, 0), |b| (b.joins, b.joined_ms));
            out.push(Out { slice: member.slice, since_ms, joins, joined_ms, is_new: false });
        }
        if out.is_empty() {
            self.out.remove(&group);
        }
        if back.is_empty() {
            self.back.remove(&group);
        }
    }

    /// The groups that can change: a leader asks nothing of others.
    pub(crate) fn changeable(&self) -> impl Iterator<Item = &GroupState> {
        self.groups.values().filter(|g| !is_spent(g))
    }

    /// The group, if its epoch is still the one that was judged by, and another one can follow.
    fn at_epoch(&self, group: GroupId, epoch: Epoch) -> Option<&GroupState> {
        self.groups.get(&group).filter(|g| g.epoch == epoch && !is_spent(g))
    }

    /// What slices proposed (R6, R9, R12, R31). Returns whether anything changed.
    pub(crate) fn judge(&mut self, p: &Proposal) -> bool {
        if let GroupChange::Fenced(attachment, generation) = p.change {
            let is_led = self.groups.get(&p.group).is_some_and(|g| g.epoch == p.epoch && g.primary == p.by);
            return is_led && self.fenced(p.group, attachment, generation);
        }
        let Some(g) = self.at_epoch(p.group, p.epoch) else { return false };
        let leads = g.primary == p.by;
        match p.change {
            GroupChange::TakeOver => {
                if !g.is_in_sync(p.by) || leads {
                    return false;
                }
                // The old primary leaves in the takeover's own compare-and-set (R12).
                self.change(p.group, |s, _| {
                    let old = s.primary;
                    s.in_sync.retain(|c| *c != old);
                    s.primary = p.by;
                });
            }
            GroupChange::Remove(who) => {
                if !leads || who == p.by || !(g.is_in_sync(who) || g.join_of(who).is_some()) {
                    return false;
                }
                self.change(p.group, |s, _| {
                    s.in_sync.retain(|c| *c != who);
                    s.joining.retain(|j| j.slice != who);
                });
            }
            GroupChange::Expel(who) => {
                if !leads || !g.is_in_sync(who) || g.is_damaged {
                    return false;
                }
                self.expel(p.group, who);
            }
            GroupChange::GiveWay { to, lacks } => {
                let is_heir = g.assignment_of(to).is_some() && to != p.by && self.is_up(to);
                let is_stale = self.drives.get(&to.drive).is_none_or(|d| d.is_stale);
                if !leads || g.in_sync != [p.by] || g.may_commit() || g.is_damaged || !is_heir || is_stale {
                    return false;
                }
                self.change(p.group, |s, _| {
                    s.stand_on(to);
                    s.complete.retain(|c| !lacks || *c != p.by);
                    s.primary = to;
                });
            }
            GroupChange::Promote(who) => {
                if !leads || g.join_of(who).is_none() {
                    return false;
                }
                self.change(p.group, |s, _| {
                    s.joining.retain(|j| j.slice != who);
                    s.in_sync.push(who);
                });
            }
            GroupChange::Renew => {
                if !leads {
                    return false;
                }
                self.change(p.group, |_, _| {});
            }
            GroupChange::Fenced(..) => {} // no change of the group
        }
        true
    }

    /// A copy that lost what it acknowledged leaves wherever that counts (R11, R12); if it led, an in-sync copy that is up
    /// leads, or a complete one. Where there is none, the operator says whether it is served as it is (R28).
    fn expel(&mut self, group: GroupId, who: SliceId) {
        let (is_sole, heir) = (self.groups[&group].in_sync == [who], self.heir(group, who, true));
        if is_sole && heir == who {
            self.change(group, |s, _| s.is_damaged = true);
            return self
                .tell(format!("group {group}: the only copy in sync, on {who}, lacks what it acknowledged"));
        }
        self.change(group, |s, _| {
            match is_sole {
                true => s.stand_on(heir),
                false => s.in_sync.retain(|c| *c != who),
            }
            s.complete.retain(|c| *c != who);
            if s.primary == who {
                s.primary = heir;
            }
        });
        self.tell(format!("group {group}: the copy on {who} lacks what it acknowledged, and is made anew"));
    }

    /// A group's primary says that older generations can commit nothing more in it (R31).
    fn fenced(&mut self, group: GroupId, attachment: AttachmentId, generation: Generation) -> bool {
        let Some(a) = self.attachments.get_mut(&attachment) else { return false };
        let Some(left) = a.fencing.as_mut().filter(|_| a.generation == generation) else { return false };
        let was_new = left.remove(&group);
        if left.is_empty() {
            self.end_attachment(attachment);
        }
        was_new
    }

    /// What is known of a member that is not in sync.
    fn out_of(&mut self, m: &Move) -> Option<&mut Out> {
        self.out.get_mut(&m.group)?.iter_mut().find(|o| o.slice == m.slice)
    }

    /// Members begin to be brought up to date.
    pub(crate) fn join(&mut self, m: &Move) -> bool {
        let Some(g) = self.at_epoch(m.group, m.epoch) else { return false };
        let is_out =
            g.assignment_of(m.slice).is_some() && !g.is_in_sync(m.slice) && g.join_of(m.slice).is_none();
        let is_stale = self.drives.get(&m.slice.drive).is_none_or(|d| d.is_stale);
        if !is_out || is_stale || !self.is_up(m.slice) {
            return false;
        }
        self.change(m.group, |s, since| s.joining.push(Joining { slice: m.slice, since }));
        let now = self.now_ms;
        if let Some(out) = self.out_of(m) {
            (out.joins, out.joined_ms) = (out.joins.saturating_add(1), now);
        }
        true
    }

    /// An in-sync copy leads from now on; who led stays in sync (R2 makes the new one wait until the old one stopped).
    pub(crate) fn lead(&mut self, m: &Move) -> bool {
        let Some(g) = self.at_epoch(m.group, m.epoch) else { return false };
        if !g.is_in_sync(m.slice) || g.primary == m.slice || !self.is_staying(m.slice) {
            return false;
        }
        self.change(m.group, |s, _| s.primary = m.slice);
        true
    }

    /// The copies of a node that stops leave in_sync where they do not lead, and where those that stay can commit without
    /// them. Where they cannot, leaving would help no write, and whoever stops last would be the only copy in sync: a
    /// cluster stopped as a whole could then not be started without it.
    pub(crate) fn leave(&mut self, node: NodeId) -> bool {
        let drives: Vec<_> = self.drives.iter().filter(|(_, d)| d.node == node).map(|(id, _)| *id).collect();
        let mut changed = false;
        let groups: Vec<(GroupId, SliceId)> = self.copies_on(&drives);
        for (group, slice) in groups {
            let g = &self.groups[&group];
            let stay = g.in_sync.iter().filter(|s| **s != slice && self.is_staying(**s)).count();
            let is_needed = g.is_in_sync(slice) && stay < g.min_copies as usize;
            if g.primary != slice && !is_needed && (g.is_in_sync(slice) || g.join_of(slice).is_some()) {
                self.change(group, |s, _| {
                    s.in_sync.retain(|c| *c != slice);
                    s.joining.retain(|j| j.slice != slice);
                });
                changed = true;
            }
        }
        changed
    }

    /// Groups with a member on one of `drives`, with that member.
    pub(crate) fn copies_on(&self, drives: &[sarsen_types::DriveId]) -> Vec<(GroupId, SliceId)> {
        let all = self.groups.values().flat_map(|g| g.members.iter().map(|m| (g.group, m.slice)));
        all.filter(|(_, s)| drives.contains(&s.drive)).collect()
    }

    /// A slice that had none gets a copy of the group, under a number of its own (R20), and joins at once.
    pub(crate) fn place(&mut self, m: &Move) -> bool {
        let Some(g) = self.at_epoch(m.group, m.epoch) else { return false };
        let (domain, copies) = (self.domain(m.slice), self.copies_of(m.group));
        let shares = |s: &SliceId| self.domain(*s) == domain;
        let is_stale = self.drives.get(&m.slice.drive).is_none_or(|d| d.is_stale);
        let refused = g.assignment_of(m.slice).is_some()
            || is_stale
            || !self.is_up(m.slice)
            || g.in_sync.len() + g.joining.len() >= copies
            || g.in_sync.iter().any(shares)
            || g.joining.iter().any(|j| shares(&j.slice));
        if refused {
            return false;
        }
        self.last.assignment += 1;
        let member = Member { slice: m.slice, assignment: self.last.assignment };
        self.retired.retain(|r| (r.group, r.slice) != (m.group, m.slice));
        self.change(m.group, |s, since| {
            s.members.push(member);
            s.joining.push(Joining { slice: m.slice, since });
        });
        self.out_of(m).into_iter().for_each(|o| o.is_new = true);
        true
    }

    /// A member that is not needed any more: its data go when all the policy's copies are in sync without it (R20).
    pub(crate) fn unplace(&mut self, m: &Move) -> bool {
        let Some(g) = self.at_epoch(m.group, m.epoch) else { return false };
        let Some(assignment) = g.assignment_of(m.slice) else { return false };
        // What is in `complete` may be all that is left one day (R11).
        if !self.is_whole(g) || g.is_in_sync(m.slice) || g.complete.contains(&m.slice) {
            return false;
        }
        self.change(m.group, |s, _| {
            s.members.retain(|x| x.slice != m.slice);
            s.joining.retain(|j| j.slice != m.slice);
        });
        self.retired.push(Retired { group: m.group, slice: m.slice, assignment });
        true
    }
}
