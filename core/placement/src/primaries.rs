//! Who leads each group, so that slices lead evenly.
use crate::key;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use sarsen_types::SliceId;

/// For each group one of its members, such that no slice leads more than it must: from a first choice, leaderships are
/// passed along chains of groups from the slice that leads most to one that leads at least two fewer, until there is none.
pub fn spread(members: &[Vec<SliceId>]) -> Vec<SliceId> {
    let mut led: BTreeMap<SliceId, usize> = members.iter().flatten().map(|s| (*s, 0)).collect();
    let mut leaders: Vec<SliceId> = Vec::new();
    for of in members {
        let least = of.iter().copied().min_by_key(|s| (led[s], key(*s))).expect("a group has a member");
        *led.get_mut(&least).expect("it is a member") += 1;
        leaders.push(least);
    }
    // Each round lowers the sum of squares, so it ends; the bound is for the reader.
    for _ in 0..members.len() * members.len() + 1 {
        let mut by_load: Vec<SliceId> = led.keys().copied().collect();
        by_load.sort_by_key(|s| core::cmp::Reverse(led[s]));
        let moved = by_load.into_iter().any(|from| relieve(from, members, &mut leaders, &mut led));
        if !moved {
            break;
        }
    }
    leaders
}

/// Passes one leadership of `from` along the shortest chain to a slice with at least two fewer.
fn relieve(
    from: SliceId,
    members: &[Vec<SliceId>],
    leaders: &mut [SliceId],
    led: &mut BTreeMap<SliceId, usize>,
) -> bool {
    let mut came: BTreeMap<SliceId, usize> = BTreeMap::new(); // by which group a slice was reached
    let mut seen = BTreeSet::from([from]);
    let mut queue = VecDeque::from([from]);
    while let Some(at) = queue.pop_front() {
        if led[&at] + 2 <= led[&from] {
            let mut end = at;
            while end != from {
                let group = came[&end];
                core::mem::swap(&mut leaders[group], &mut end);
            }
            *led.get_mut(&from).expect("known") -= 1;
            *led.get_mut(&at).expect("known") += 1;
            return true;
        }
        for (group, of) in members.iter().enumerate().filter(|(group, _)| leaders[*group] == at) {
            for next in of {
                if seen.insert(*next) {
                    came.insert(*next, group);
                    queue.push_back(*next);
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn slice(n: u32) -> SliceId {
        SliceId::new(n, 0)
    }

    #[test]
    fn a_slice_with_few_choices_is_relieved_through_others() {
        // 1 and 2 share two groups, 2 and 3 share one, 3 and 4 share one: all can lead once
        let members = vec![
            vec![slice(1), slice(2)],
            vec![slice(1), slice(2)],
            vec![slice(2), slice(3)],
            vec![slice(3), slice(4)],
        ];
        let mut leaders = spread(&members);
        leaders.sort();
        assert_eq!(leaders, [slice(1), slice(2), slice(3), slice(4)]);
    }

    #[test]
    fn a_leader_is_always_a_member() {
        let members = vec![vec![slice(9)], vec![slice(9)], vec![slice(9), slice(1)]];
        assert_eq!(spread(&members), [slice(9), slice(9), slice(1)]);
    }
}
