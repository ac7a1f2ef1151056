//! Which slices, and which drives, share groups: a bounded number each, so that heartbeats, connections and the ways to lose
//! all copies of a group at once do not grow with the cluster (L7).
use alloc::collections::{BTreeMap, BTreeSet};
use sarsen_types::limits::PARTNERS_MAX;
use sarsen_types::{DriveId, SliceId};

/// From so many on nobody gets another while there is a choice: what is left until the bound is for where there is none.
const ENOUGH: usize = PARTNERS_MAX * 3 / 4;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Partners {
    slices: Shared<SliceId>,
    drives: Shared<DriveId>,
}

/// With whom each shares a group.
#[derive(Clone, Debug)]
struct Shared<T>(BTreeMap<T, BTreeSet<T>>);

impl<T> Default for Shared<T> {
    fn default() -> Shared<T> {
        Shared(BTreeMap::new())
    }
}

impl<T: Ord + Copy> Shared<T> {
    fn note(&mut self, members: impl Iterator<Item = T> + Clone) {
        for one in members.clone() {
            self.0.entry(one).or_default().extend(members.clone().filter(|other| *other != one));
        }
    }

    fn count(&self, of: T) -> usize {
        self.0.get(&of).map_or(0, BTreeSet::len)
    }

    fn is_beyond(&self, members: impl Iterator<Item = T>, new: T) -> bool {
        let own = self.0.get(&new);
        let mut count = self.count(new);
        for member in members.filter(|m| *m != new && own.is_none_or(|o| !o.contains(m))) {
            count += 1;
            if count > ENOUGH || self.count(member) >= ENOUGH {
                return true;
            }
        }
        false
    }
}

impl Partners {
    /// Those of groups with these members.
    pub fn of<'a>(groups: impl Iterator<Item = &'a [SliceId]>) -> Partners {
        let mut partners = Partners::default();
        groups.for_each(|members| partners.note(members));
        partners
    }

    /// These slices share a group.
    pub fn note(&mut self, members: &[SliceId]) {
        self.slices.note(members.iter().copied());
        self.drives.note(members.iter().map(|s| s.drive));
    }

    /// How many slices share a group with a slice.
    pub fn count(&self, slice: SliceId) -> usize {
        self.slices.count(slice)
    }

    /// How many drives share a group with a drive.
    pub fn count_of_drive(&self, drive: DriveId) -> usize {
        self.drives.count(drive)
    }

    /// Whether a group of `members` and `slice` would give another partner to one of them, or of their drives, that has enough.
    pub fn is_beyond(&self, members: &[SliceId], slice: SliceId) -> bool {
        self.slices.is_beyond(members.iter().copied(), slice)
            || self.drives.is_beyond(members.iter().map(|s| s.drive), slice.drive)
    }
}
