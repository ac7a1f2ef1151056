//! The metadata's side of a proposal: a compare-and-set by the epoch it was made in (R6, R12, R27).
use super::{Cluster, index};
use sarsen_types::{GroupChange, Proposal};

impl Cluster {
    pub(super) fn judge(&mut self, p: Proposal) {
        if p.epoch != self.state.epoch {
            return;
        }
        let by = index(p.by);
        match p.change {
            GroupChange::TakeOver => self.take_over(by, false),
            GroupChange::Remove(who) => self.remove(index(who)),
            GroupChange::Expel(who) => {
                self.expelled += 1;
                let is_sole = self.state.in_sync == [who];
                let from = if is_sole { &self.state.complete } else { &self.state.in_sync };
                let Some(heir) = from.iter().copied().find(|s| *s != who) else {
                    return self.change(|s| s.is_damaged = true);
                };
                self.change(|s| {
                    s.in_sync.retain(|c| *c != who);
                    s.complete.retain(|c| *c != who);
                    if is_sole {
                        s.in_sync.push(heir);
                        s.joining.retain(|j| j.slice != heir);
                    }
                    if s.primary == who {
                        s.primary = heir;
                    }
                });
            }
            GroupChange::GiveWay { to: who, lacks } => {
                assert!(self.state.in_sync == [p.by] && !self.state.may_commit());
                self.gave_way += 1;
                self.change(|s| {
                    s.in_sync = vec![who];
                    s.joining.retain(|j| j.slice != who);
                    s.complete.retain(|c| !lacks || *c != p.by);
                    s.primary = who;
                });
            }
            GroupChange::Promote(who) => self.change(|s| {
                s.joining.retain(|j| j.slice != who);
                s.in_sync.push(who);
            }),
            GroupChange::Renew => self.change(|_| {}),
            GroupChange::Fenced(_, generation) => {
                self.fenced.push(generation);
                self.fences.clear();
                self.revision += 1;
            }
        }
    }
}
