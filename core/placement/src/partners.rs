//! Which slices share groups: a bounded number each, so that heartbeats and connections do not grow with the cluster (L7).
use alloc::collections::{BTreeMap, BTreeSet};
use sarsen_types::SliceId;
use sarsen_types::limits::PARTNERS_MAX;

/// From so many on nobody gets another while there is a choice: what is left until the bound is for where there is none.
const ENOUGH: usize = PARTNERS_MAX * 3 / 4;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Partners(BTreeMap<SliceId, BTreeSet<SliceId>>);

impl Partners {
    /// Those of groups with these members.
    pub fn of<'a>(groups: impl Iterator<Item = &'a [SliceId]>) -> Partners {
        let mut partners = Partners::default();
        groups.for_each(|members| partners.note(members));
        partners
    }

    /// These slices share a group.
    pub fn note(&mut self, members: &[SliceId]) {
        for slice in members {
            let others = members.iter().filter(|s| *s != slice);
            self.0.entry(*slice).or_default().extend(others);
        }
    }

    /// How many a slice has.
    pub fn count(&self, slice: SliceId) -> usize {
        self.0.get(&slice).map_or(0, BTreeSet::len)
    }

    /// Whether a group of `members` and `slice` would give another partner to one of them that has enough.
    pub fn is_beyond(&self, members: &[SliceId], slice: SliceId) -> bool {
        let own = self.0.get(&slice);
        let new = members.iter().filter(|m| own.is_none_or(|o| !o.contains(m)));
        let mut count = self.count(slice);
        for member in new {
            count += 1;
            if count > ENOUGH || self.count(*member) >= ENOUGH {
                return true;
            }
        }
        false
    }
}
