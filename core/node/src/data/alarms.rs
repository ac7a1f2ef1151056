//! What a slice's groups found that an operator must hear of, gathered: each told becomes an event of the cluster, and of a drive
//! that came back wrong every group has something to tell.
use sarsen_control::command::Raised;
use sarsen_types::{Alarm, Duration, GroupId, Instant};
use std::collections::{BTreeMap, BTreeSet};

/// Between two reports.
const EVERY: Duration = Duration::from_secs(5);
/// Events of one report.
const AT_ONCE_MAX: usize = 4;
/// Groups that one names.
const NAMED_MAX: usize = 16;

/// See the module. Holds no memory while nothing is wrong.
#[derive(Default)]
pub struct Alarms {
    told: Instant,
    raised: BTreeMap<Alarm, (BTreeSet<GroupId>, u64)>,
}

impl Alarms {
    /// A group found something, in so many blocks.
    pub fn raise(&mut self, group: GroupId, alarm: Alarm, blocks: u64) {
        let (groups, all) = self.raised.entry(alarm).or_default();
        groups.insert(group);
        *all += blocks;
    }

    /// What is to be told now: at once if nothing was told for a while. What is left is told with the next report.
    pub fn due(&mut self, now: Instant) -> Option<Vec<Raised>> {
        if self.raised.is_empty() || now.since(self.told) < EVERY {
            return None;
        }
        self.told = now;
        Some(self.take(AT_ONCE_MAX))
    }

    /// All that was not told yet, worst first.
    pub fn rest(&mut self) -> Option<Vec<Raised>> {
        (!self.raised.is_empty()).then(|| self.take(usize::MAX))
    }

    fn take(&mut self, most: usize) -> Vec<Raised> {
        let one = |(alarm, (groups, blocks)): (Alarm, (BTreeSet<GroupId>, u64))| {
            let more = groups.len().saturating_sub(NAMED_MAX) as u64;
            Raised { alarm, groups: groups.into_iter().take(NAMED_MAX).collect(), more, blocks }
        };
        std::iter::from_fn(|| self.raised.pop_first()).take(most).map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_types::SliceId;

    const AT: Instant = Instant(1_000_000_000_000);

    #[test]
    fn the_first_is_told_at_once_and_what_follows_together() {
        let mut alarms = Alarms::default();
        assert_eq!(alarms.due(AT), None);
        alarms.raise(GroupId(3), Alarm::Contradiction, 2);
        let first = Raised { alarm: Alarm::Contradiction, groups: vec![GroupId(3)], more: 0, blocks: 2 };
        assert_eq!(alarms.due(AT), Some(vec![first]));
        for group in (0..40).rev() {
            alarms.raise(GroupId(group), Alarm::Contradiction, 1);
            alarms.raise(GroupId(group), Alarm::Contradiction, 1);
            assert_eq!(alarms.due(AT + Duration::from_secs(4)), None);
        }
        let told = alarms.due(AT + EVERY).unwrap();
        let groups = (0..16).map(GroupId).collect();
        assert_eq!(told, [Raised { alarm: Alarm::Contradiction, groups, more: 24, blocks: 80 }]);
        assert_eq!(alarms.due(AT + EVERY * 2), None);
    }

    #[test]
    fn so_many_at_once_and_the_rest_later() {
        let mut alarms = Alarms::default();
        (1..=9).for_each(|n| alarms.raise(GroupId(1), Alarm::Lost(SliceId::new(n, 0)), 0));
        let told: Vec<usize> =
            (0..4).map(|n| alarms.due(AT + EVERY * n).map_or(0, |told| told.len())).collect();
        assert_eq!(told, [4, 4, 1, 0]);
        (1..=9).for_each(|n| alarms.raise(GroupId(1), Alarm::Behind(SliceId::new(n, 0)), 0));
        // a thread that ends keeps nothing back
        assert_eq!((alarms.rest().unwrap().len(), alarms.rest()), (9, None));
    }
}
