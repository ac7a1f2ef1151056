//! Registration of a drive after each opening (R1), and its end.
use crate::command::{Answer, Refusal, RefusalKind, Register};
use crate::state::{Drive, IMAGES_MAX, Image, State};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use sarsen_types::limits::OPENS_MAX;
use sarsen_types::{DriveId, GroupId, NodeId, OpenId, Revision, SliceId};

/// Whether what was opened is what was opened then, or followed it.
fn holds(r: &Register, open: OpenId) -> bool {
    r.open == open || r.opens.contains(&open)
}

/// Of more images than are kept those go first that are not known to be behind.
fn remember(images: &mut Vec<Image>, image: Image) {
    if images.len() == IMAGES_MAX
        && let Some(at) = images.iter().position(|i| !i.is_behind)
    {
        images.remove(at);
    }
    if images.len() < IMAGES_MAX {
        images.push(image);
    }
}

/// Whether it is an image that lacks what its drive answered since.
fn is_behind(d: &Drive, r: &Register) -> bool {
    let is_any = d.images.iter().any(|i| i.is_behind);
    let is_known = d.images.iter().any(|i| i.is_behind && holds(r, i.open));
    // its superblock may have forgotten by what it is known, or we have
    let is_forgotten = r.opens.len() >= OPENS_MAX || d.images.len() >= IMAGES_MAX && d.node != r.node;
    is_known || is_any && is_forgotten
}

/// Whether what is opened beside a drive that another node serves is refused. Of two that followed one opening nobody can tell
/// which has more, be one of them served by now: then that one ends, and an operator is asked (found in review).
fn is_refused(d: &Drive, r: &Register) -> bool {
    let has_followed = !holds(r, d.open) && d.former.is_some_and(|former| holds(r, former));
    !has_followed || is_behind(d, r)
}

impl State {
    /// One command: the open id is remembered, and no group goes on as if the drive had not been away (R1).
    pub(crate) fn register(&mut self, r: &Register) -> Answer {
        if !self.nodes.contains_key(&r.node) {
            let what = format!("node {} is not of this cluster", r.node);
            return Answer::Refused(Refusal::new(RefusalKind::NotFound, what));
        }
        if let Some(id) = self.forgotten.get(&r.identity) {
            let what =
                format!("it is drive {id}, which was given up as lost: what it holds counts for nothing");
            let why = Refusal::new(RefusalKind::Unable, what);
            return Answer::Refused(why.hint("`sarsen drive format --force` makes a new drive of it"));
        }
        let known =
            self.drives.iter().find(|(_, d)| d.identity == r.identity).map(|(id, d)| (*id, d.clone()));
        // The same opening again: its answer was lost.
        if let Some((drive, d)) = known.as_ref().filter(|(_, d)| d.open == r.open && d.is_up) {
            return Answer::Registered { drive: *drive, is_stale: d.is_stale };
        }
        let beside = known.as_ref().filter(|(_, d)| d.node != r.node && self.is_drive_up(d));
        if let Some((drive, d)) = beside.filter(|(_, d)| is_refused(d, r)) {
            return self.opened_beside(*drive, d, r);
        }
        let id = match &known {
            Some((id, _)) => *id,
            None => {
                self.last.drive += 1;
                DriveId(self.last.drive)
            }
        };
        let is_current = known.as_ref().is_none_or(|(_, d)| holds(r, d.open) && !is_behind(d, r));
        let was_stale = known.as_ref().is_some_and(|(_, d)| d.is_stale);
        let is_stale = !is_current || r.is_broken || was_stale;
        // While it is judged it is not up: it is no heir of its own.
        let mut drive = Drive {
            identity: r.identity,
            node: r.node,
            open: r.open,
            path: r.path.clone(),
            class: r.class.clone(),
            slices: r.slices,
            size: r.size,
            total_blocks: r.total_blocks,
            used_blocks: r.used_blocks,
            full: known.as_ref().map(|(_, d)| d.full.clone()).unwrap_or_default(),
            is_up: false,
            is_stale,
            failure: None,
            dropped: match &known {
                // an older image may hold what it had dropped
                Some(_) if is_stale => Revision(0),
                Some((_, d)) => d.dropped,
                None => self.revision, // it holds nothing
            },
            forgetting: None,
            images: known.as_ref().map(|(_, d)| d.images.clone()).unwrap_or_default(),
            former: known.as_ref().and_then(|(_, d)| if d.node == r.node { d.former } else { Some(d.open) }),
        };
        if let Some((_, d)) = beside {
            // the other one does not turn it back, should its node start again
            let image = Image { open: d.open, since_ms: self.now_ms, is_behind: true };
            remember(&mut drive.images, image);
        }
        // it is told of as what it is from now on: its next opening follows this one
        drive.images.retain(|i| !holds(r, i.open));
        self.drives.insert(id, drive.clone());
        let mut led = 0u32;
        for (group, slice) in self.copies_on(&[id]) {
            led += u32::from(self.groups[&group].primary == slice);
            self.returned(group, slice, is_stale);
        }
        drive.is_up = true;
        self.drives.insert(id, drive);
        for out in self.out.values_mut().flatten().filter(|o| o.slice.drive == id) {
            (out.joins, out.joined_ms) = (0, 0);
        }
        self.back.values_mut().for_each(|all| all.retain(|b| b.slice.drive != id));
        self.back.retain(|_, all| !all.is_empty());
        let how = if is_stale { ", stale: what it holds counts for nothing" } else { "" };
        let what = if known.is_some() { "is back" } else { "is new" };
        self.tell(format!("drive {id} ({}) on node {} {what}{how}; it led {led} groups", r.path, r.node));
        self.changes_map();
        Answer::Registered { drive: id, is_stale }
    }

    /// Another node serves the drive, as far as we know: what was opened here is an image of it, or it was moved here and its node
    /// is not missed yet. Which of the two shows when that node is heard, or is not.
    fn opened_beside(&mut self, drive: DriveId, d: &Drive, r: &Register) -> Answer {
        let of = self.drives.get_mut(&drive).map(|d| &mut d.images);
        let images = of.expect("it was found among them");
        let known = images.iter().position(|i| holds(r, i.open)).map(|at| images.remove(at));
        let mut image = known.unwrap_or(Image { open: r.open, since_ms: self.now_ms, is_behind: false });
        image.open = r.open; // a superblock forgets its oldest openings first
        let is_behind = image.is_behind;
        remember(images, image);
        let what = format!("it is an image of drive {drive}, which node {} serves as {}", d.node, d.path);
        if !is_behind {
            return Answer::Refused(Refusal::new(RefusalKind::Early, what));
        }
        self.tell(format!("{} on node {} is refused: {what}", r.path, r.node));
        let (what, hint) = match holds(r, d.open) {
            true => {
                let hint =
                    "start this node without it; `sarsen drive format --force` makes a new drive of it";
                (format!("{what}: it lacks what is answered meanwhile"), hint)
            }
            // which of them has more nobody knows: neither is to be formatted in haste
            false => (
                format!("{what}, and followed another opening"),
                "start this node without it, or end that one first",
            ),
        };
        Answer::Refused(Refusal::new(RefusalKind::Unable, what).hint(hint))
    }

    /// What was opened beside the drives of a node that was up is not what was moved: they were served after that.
    pub(crate) fn outlive(&mut self, node: NodeId) {
        let of = self.drives.values_mut().filter(|d| d.node == node);
        of.flat_map(|d| &mut d.images).for_each(|i| i.is_behind = true);
    }

    /// The same of these images.
    pub(crate) fn outlived(&mut self, all: &[(DriveId, OpenId)]) {
        for (id, open) in all {
            let images = self.drives.get_mut(id).map(|d| &mut d.images).into_iter().flatten();
            images.filter(|i| i.open == *open).for_each(|i| i.is_behind = true);
        }
    }

    /// What the registration of `slice`'s drive does to one of its groups.
    fn returned(&mut self, group: GroupId, slice: SliceId, is_stale: bool) {
        let g = &self.groups[&group];
        let led = g.primary == slice;
        let drop = is_stale && g.is_in_sync(slice) && g.in_sync.len() > 1;
        let is_sole = g.in_sync == [slice];
        let more = is_stale && ((g.complete.contains(&slice) && !is_sole) || g.join_of(slice).is_some());
        if !(led || drop || more) {
            return;
        }
        let heir = self.heir(group, slice, is_stale);
        self.change(group, |s, epoch| {
            if drop {
                s.in_sync.retain(|c| *c != slice);
            }
            if is_stale && s.in_sync == [slice] && heir != slice {
                s.stand_on(heir); // a complete copy leads (R11)
                s.is_damaged = false;
            }
            if is_stale {
                s.joining.retain(|j| j.slice != slice);
            }
            if led {
                s.primary = heir;
                s.primary_since = epoch; // who is named again after an opening owes a takeover (R5)
            }
            // R28: nobody else has what it may lack, and nobody would know
            s.is_damaged |= is_stale && s.in_sync == [slice];
        });
        if is_stale && let Some(s) = self.groups.get_mut(&group) {
            s.complete.retain(|c| *c != slice || s.in_sync.contains(c));
            for c in &s.in_sync {
                if !s.complete.contains(c) {
                    s.complete.push(*c);
                }
            }
        }
        self.note_out(group);
    }

    /// Who leads a group from now on if `slice` led it: an in-sync copy that is up, one that leads little; else, when
    /// what `slice` holds counts for nothing, another in-sync or a complete copy; else the same one.
    pub(crate) fn heir(&self, group: GroupId, slice: SliceId, is_stale: bool) -> SliceId {
        let g = &self.groups[&group];
        if g.primary != slice {
            return slice;
        }
        let others = || g.in_sync.iter().copied().filter(|s| *s != slice);
        if let Some(heir) = self.calmest(others().filter(|s| self.is_up(*s))) {
            return heir;
        }
        if is_stale && g.in_sync.len() > 1 {
            return others().next().unwrap_or(slice);
        }
        // a drive that is being given up does not come back (found in review)
        let complete = || g.complete.iter().copied().filter(|s| *s != slice && !self.is_given_up(*s));
        if is_stale {
            let up = complete().find(|s| self.is_up(*s));
            return up.or(complete().next()).unwrap_or(slice);
        }
        slice
    }

    /// Of some slices the one that leads the fewest groups.
    pub(crate) fn calmest(&self, of: impl Iterator<Item = SliceId>) -> Option<SliceId> {
        of.min_by_key(|s| (self.groups.values().filter(|g| g.primary == *s).count(), *s))
    }

    /// By drive, the groups of which it has the only copy in sync, and may lack what it acknowledged (R28).
    pub fn damaged(&self) -> BTreeMap<DriveId, Vec<GroupId>> {
        let mut found: BTreeMap<DriveId, Vec<GroupId>> = BTreeMap::new();
        for g in self.groups.values().filter(|g| g.is_damaged) {
            found.entry(g.primary.drive).or_default().push(g.group);
        }
        found
    }

    /// Whether damage on a drive can be accepted now. When it was just opened as stale its slices may not have written down yet that
    /// their floors are zero: acceptance would overtake that, and the store lose sight of what lies below (found in review).
    pub fn can_accept(&self, drive: DriveId) -> bool {
        self.drives.get(&drive).is_some_and(|d| !(d.is_stale && self.is_drive_up(d)))
    }

    /// The operator takes what the drive holds of these groups: it leads again, and what it lacks is lost (R28).
    pub(crate) fn accept_damage(&mut self, drive: DriveId, named: Option<&[GroupId]>) -> Answer {
        if !self.drives.contains_key(&drive) {
            let what = format!("there is no drive {drive}");
            return Answer::Refused(
                Refusal::new(RefusalKind::NotFound, what).hint("`sarsen drive list` shows the drives"),
            );
        }
        if !self.can_accept(drive) {
            let what = format!("drive {drive} was just opened, and is not ready for that yet");
            return Answer::Refused(Refusal::new(RefusalKind::Early, what).hint("try again in a moment"));
        }
        let damaged = self.damaged().remove(&drive).unwrap_or_default();
        let unable = |what| Answer::Refused(Refusal::new(RefusalKind::Unable, what));
        if damaged.is_empty() {
            return unable(format!("drive {drive} holds no group's only copy in sync with damage to accept"));
        }
        let groups = named.map_or_else(|| damaged.clone(), <[GroupId]>::to_vec);
        if groups.is_empty() {
            return unable(format!(
                "no group of drive {drive} is named: it holds damage to accept of {}",
                damaged.len()
            ));
        }
        if let Some(other) = groups.iter().find(|g| !damaged.contains(g)) {
            return unable(format!("of group {other} drive {drive} holds no copy with damage to accept"));
        }
        for group in &groups {
            let mut assignment = self.last.assignment;
            self.change(*group, |s, epoch| {
                (s.is_damaged, s.primary_since) = (false, epoch);
                s.complete.retain(|c| s.in_sync.contains(c));
                s.joining.clear();
                // Whoever has more begins anew: compared by what was touched since it left, it would keep what the accepted copy
                // lacks, and lead with it one day (found in review).
                for member in s.members.iter_mut().filter(|m| m.slice != s.primary) {
                    assignment += 1;
                    member.assignment = assignment;
                }
            });
            self.last.assignment = assignment;
        }
        let what = format!("what drive {drive} lacks of {} groups is accepted as lost", groups.len());
        self.tell(what);
        Answer::Groups(groups)
    }

    /// A stale drive's floors durably count as zero now.
    pub(crate) fn trust(&mut self, drive: DriveId, open: OpenId) -> bool {
        match self.drives.get_mut(&drive).filter(|d| d.open == open && d.is_stale) {
            Some(d) => d.is_stale = false,
            None => return false,
        }
        true
    }

    /// A drive ended (S9): its process acknowledges nothing more of it, so it leaves every in_sync that has another
    /// member, and who is up leads.
    pub(crate) fn failed(&mut self, drive: DriveId, open: OpenId, why: &str) -> bool {
        match self.drives.get_mut(&drive).filter(|d| d.open == open && d.is_up) {
            Some(d) => (d.is_up, d.failure) = (false, Some(String::from(why))),
            None => return false,
        }
        for (group, slice) in self.copies_on(&[drive]) {
            let g = &self.groups[&group];
            let others = g.in_sync.iter().copied().filter(|s| *s != slice && self.is_up(*s));
            let heir = self.calmest(others);
            let leads = g.primary == slice;
            let can_leave = g.is_in_sync(slice) && if leads { heir.is_some() } else { g.in_sync.len() > 1 };
            if can_leave || g.join_of(slice).is_some() {
                self.change(group, |s, _| {
                    s.joining.retain(|j| j.slice != slice);
                    if can_leave {
                        s.in_sync.retain(|c| *c != slice);
                        if let Some(heir) = heir.filter(|_| leads) {
                            s.primary = heir;
                        }
                    }
                });
            }
        }
        self.tell(format!("drive {drive} failed: {why}"));
        self.changes_map();
        true
    }
}
