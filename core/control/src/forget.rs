//! A drive that is gone for good is given up (R28): retired at once, forgotten once no host can use it any more.
use crate::command::{Answer, Refusal, RefusalKind};
use crate::state::{Forgetting, State};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;
use sarsen_types::{AttachmentId, DriveId, GroupId, GroupState, Member, Revision, SessionId, SliceId};

/// Who leads a group once a slice that had its only copy in sync is forgotten.
enum Heir {
    /// A copy that holds every answered write (R11).
    Complete(SliceId),
    /// A copy that was brought up to date in vain: it has what it has.
    Behind(SliceId),
    /// A slice that never had one: empty.
    Empty(SliceId),
}

impl State {
    /// By drive, the groups of which it has the only complete copy: what forgetting it loses. One on a drive that is given up is none.
    pub fn sole(&self) -> BTreeMap<DriveId, Vec<GroupId>> {
        let mut found: BTreeMap<DriveId, Vec<GroupId>> = BTreeMap::new();
        let is_alone = |g: &GroupState| g.complete.iter().all(|c| *c == g.primary || self.is_given_up(*c));
        let is_sole = |g: &&GroupState| g.in_sync == [g.primary] && is_alone(g);
        for g in self.groups.values().filter(is_sole) {
            found.entry(g.primary.drive).or_default().push(g.group);
        }
        found
    }

    /// The groups of which a drive that is given up has the only complete copy by now, and which nobody gave up with it: it stays
    /// until somebody does.
    pub fn unnamed(&self, id: DriveId) -> Vec<GroupId> {
        let forgetting = self.drives.get(&id).and_then(|d| d.forgetting.as_ref());
        forgetting.map_or_else(Vec::new, |f| self.sole_beside(id, f.named.as_ref()))
    }

    /// What forgetting a drive loses beside these groups; nothing, where all are meant.
    fn sole_beside(&self, id: DriveId, named: Option<&BTreeSet<GroupId>>) -> Vec<GroupId> {
        let Some(named) = named else { return Vec::new() };
        let mut sole = self.sole().remove(&id).unwrap_or_default();
        sole.retain(|g| !named.contains(g));
        sole
    }

    /// Begins to forget a drive. Nothing of it is ever taken again; its groups go on without it when the hosts that may
    /// use it said that they do not, or are taken away by force, or the operator says that it is `powered_off`. What only it has
    /// is lost where the operator named it, and nothing else (found in review).
    pub(crate) fn forget(&mut self, id: DriveId, groups: Option<&[GroupId]>, is_powered_off: bool) -> Answer {
        let Some(drive) = self.drives.get(&id) else {
            if self.forgotten.values().any(|known| *known == id) {
                return Answer::Done; // a call that is repeated
            }
            let what = format!("there is no drive {id}");
            return Answer::Refused(
                Refusal::new(RefusalKind::NotFound, what).hint("`sarsen drive list` shows the drives"),
            );
        };
        if self.is_drive_up(drive) {
            let what = format!("drive {id} is up: what it holds is not lost");
            return Answer::Refused(
                Refusal::new(RefusalKind::Unable, what).hint("stop its node first, if it is to go for good"),
            );
        }
        let copies = self.copies_on(&[id]);
        if let Some((group, _)) = copies.iter().find(|(g, s)| self.is_left_alone(*g, *s)) {
            let what =
                format!("group {group} has no other copy, and no drive that is up could take its place");
            return Answer::Refused(
                Refusal::new(RefusalKind::Unable, what).hint("add a drive, or start a node that has one"),
            );
        }
        let before = drive.forgetting.as_ref().and_then(|f| f.named.as_ref()).into_iter().flatten();
        let named: Option<BTreeSet<GroupId>> = groups.map(|g| g.iter().chain(before).copied().collect());
        let sole = self.sole_beside(id, named.as_ref());
        if let Some(group) = sole.first() {
            let what = format!(
                "drive {id} has the only complete copy of group {group} and {} more that were not named",
                sole.len() - 1
            );
            let why = Refusal::new(RefusalKind::Unable, what);
            return Answer::Refused(
                why.hint("`sarsen drive list --json` names them; with --yes they are lost"),
            );
        }
        let mut hosts = BTreeSet::new();
        if !is_powered_off {
            let is_of = |table: &[GroupId]| copies.iter().any(|(g, _)| table.binary_search(g).is_ok());
            let may_use = |a: &crate::state::Attachment| {
                let policy = self.volumes.get(&a.volume).and_then(|v| self.policies.get(&v.policy));
                a.fencing.is_none() && policy.is_some_and(|p| is_of(&p.table))
            };
            hosts.extend(self.attachments.iter().filter(|(_, a)| may_use(a)).map(|(id, _)| *id));
        }
        let (identity, revision, path) = (drive.identity, self.revision, drive.path.clone());
        let drive = self.drives.get_mut(&id).expect("it was found");
        drive.is_up = false; // though its node may be heard again
        let known = drive.forgetting.get_or_insert(Forgetting { since: revision, hosts, named: None });
        known.named = named;
        if is_powered_off {
            known.hosts.clear();
        }
        if self.forgotten.insert(identity, id).is_none() {
            self.tell(format!("drive {id} ({path}) is given up as lost"));
        }
        self.changes_map();
        Answer::Done
    }

    /// A host uses no map older than `revision` any more: it knows no way to drives retired before.
    pub(crate) fn passed(&mut self, attachment: AttachmentId, session: SessionId, revision: Revision) {
        if self.attachments.get(&attachment).is_none_or(|a| a.session != session) {
            return; // one of an earlier life: it may not be the only one
        }
        for forgetting in self.drives.values_mut().filter_map(|d| d.forgetting.as_mut()) {
            if forgetting.since <= revision {
                forgetting.hosts.remove(&attachment);
            }
        }
    }

    /// Who has these attachments.
    pub fn owners<'a>(&'a self, of: &'a BTreeSet<AttachmentId>) -> impl Iterator<Item = &'a str> {
        of.iter().filter_map(|a| self.attachments.get(a)).map(|a| a.owner.as_str())
    }

    /// Whether some drive waits for a host that uses no map older than `revision`.
    pub fn waits_to_pass(&self, attachment: AttachmentId, revision: Revision) -> bool {
        let mut all = self.drives.values().filter_map(|d| d.forgetting.as_ref());
        all.any(|f| f.since <= revision && f.hosts.contains(&attachment))
    }

    /// Drives that no host can use any more leave their groups, and are no more. Carried out after every command, since
    /// many let a host go.
    pub(crate) fn end_forgetting(&mut self) {
        if self.drives.values().all(|d| d.forgetting.is_none()) {
            return;
        }
        let State { drives, attachments, .. } = self;
        let has_right = |a: &AttachmentId| attachments.get(a).is_some_and(|a| a.fencing.is_none());
        for forgetting in drives.values_mut().filter_map(|d| d.forgetting.as_mut()) {
            forgetting.hosts.retain(has_right);
        }
        let is_over = |f: &Forgetting| f.hosts.is_empty();
        let over = self.drives.iter().filter(|(_, d)| d.forgetting.as_ref().is_some_and(is_over));
        for id in over.map(|(id, _)| *id).collect::<Vec<_>>() {
            let copies = self.copies_on(&[id]);
            if copies.iter().any(|(g, s)| self.is_left_alone(*g, *s)) {
                continue; // until there is a drive that can take its place
            }
            if !self.unnamed(id).is_empty() {
                continue; // until the operator knows that what has become its alone meanwhile is lost too
            }
            copies.iter().for_each(|(group, slice)| self.go_on_without(*group, *slice));
            self.retired.retain(|r| r.slice.drive != id);
            self.drives.remove(&id);
            self.tell(format!("drive {id} is forgotten; {} groups go on without it", copies.len()));
            self.changes_map();
        }
    }

    fn is_left_alone(&self, group: GroupId, slice: SliceId) -> bool {
        self.groups[&group].in_sync == [slice] && self.heir_of_sole(group, slice).is_none()
    }

    /// R11: a complete copy; else one that is behind, the last that left; else an empty one. Those that are up before others.
    fn heir_of_sole(&self, group: GroupId, slice: SliceId) -> Option<Heir> {
        let g = &self.groups[&group];
        let others = || g.members.iter().map(|m| m.slice).filter(|s| *s != slice && !self.is_given_up(*s));
        let complete = others().filter(|s| g.complete.contains(s)).max_by_key(|s| self.is_up(*s));
        if let Some(complete) = complete {
            return Some(Heir::Complete(complete));
        }
        // one that was whole once before one that never was, be that one up (found in review: a copy just placed, nearly empty)
        let out = |s: SliceId| self.out.get(&group)?.iter().find(|o| o.slice == s);
        let left = |s: SliceId| out(s).map(|o| (!o.is_new, self.is_up(s), o.since_ms));
        let is_stale = |s: SliceId| self.drives.get(&s.drive).is_none_or(|d| d.is_stale);
        let behind = others().max_by_key(|s| (left(*s), !is_stale(*s)));
        if let Some(behind) = behind {
            return Some(Heir::Behind(behind));
        }
        self.calmest(self.sites().into_iter().map(|s| s.slice)).map(Heir::Empty)
    }

    /// Whether its drive is gone, or does not come back.
    pub(crate) fn is_given_up(&self, slice: SliceId) -> bool {
        self.drives.get(&slice.drive).is_none_or(|d| d.forgetting.is_some())
    }

    /// One group goes on without a slice that is never there again.
    fn go_on_without(&mut self, group: GroupId, slice: SliceId) {
        let g = &self.groups[&group];
        let (is_sole, heir) = (g.in_sync == [slice], self.heir(group, slice, true));
        let sole_heir = if is_sole { self.heir_of_sole(group, slice) } else { None };
        if matches!(sole_heir, Some(Heir::Empty(_))) {
            self.last.assignment += 1;
        }
        let assignment = self.last.assignment;
        self.change(group, |s, _| {
            s.members.retain(|m| m.slice != slice);
            s.joining.retain(|j| j.slice != slice);
            s.in_sync.retain(|c| *c != slice);
            s.complete.retain(|c| *c != slice);
            let Some(sole_heir) = sole_heir else {
                s.primary = if s.primary == slice { heir } else { s.primary };
                return;
            };
            let at = match sole_heir {
                Heir::Complete(at) | Heir::Behind(at) | Heir::Empty(at) => at,
            };
            if matches!(sole_heir, Heir::Empty(_)) {
                s.members.push(Member { slice: at, assignment });
            }
            s.stand_on(at);
            s.primary = at;
            // R28: what a copy lacks that is not complete, nobody has; the operator says whether it is served
            s.is_damaged = !matches!(sole_heir, Heir::Complete(_));
        });
    }
}
