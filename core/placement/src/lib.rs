//! Pure placement: slices, fault domains and a policy go in, the slices of each group come out.
//!
//! A table, not a hash ring: any constraint can be met, few groups move when the cluster changes, and an operator can
//! read why a group lies where it does. Every choice takes the least loaded slice that is allowed, ties by id.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use sarsen_types::{NodeId, SliceId};

/// A slice that copies may be put on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site {
    /// The slice.
    pub slice: SliceId,
    /// Its node: the fault domain that copies of a group must not share.
    pub node: NodeId,
    /// Its capacity in blocks: a slice of twice the size gets twice the copies.
    pub weight: u64,
}

/// The number of groups of a policy (R38): about 64 per slice it may use, at least 256, a power of two; 64 in `dev`.
pub fn group_count(slices: usize, is_dev: bool) -> usize {
    match is_dev {
        true => 64,
        false => (slices * 64).max(256).next_power_of_two(),
    }
}

/// How many copies, and how many primaries, each slice has.
#[derive(Clone, Debug, Default)]
pub struct Load {
    copies: BTreeMap<SliceId, u64>,
    primaries: BTreeMap<SliceId, u64>,
}

impl Load {
    /// Counts a group.
    pub fn add(&mut self, members: &[SliceId], primary: SliceId) {
        for slice in members {
            *self.copies.entry(*slice).or_default() += 1;
        }
        *self.primaries.entry(primary).or_default() += 1;
    }
    fn of(&self, site: &Site) -> u64 {
        // copies per capacity, in thousandths, so that equal slices compare by copies
        self.copies.get(&site.slice).copied().unwrap_or(0) * 1_000_000_000 / site.weight.max(1)
    }
}

/// The slices of `count` groups of `copies` each, the first of each its primary. Empty when there are too few nodes.
pub fn place(sites: &[Site], count: usize, copies: usize) -> Vec<Vec<SliceId>> {
    let mut load = Load::default();
    let mut groups = Vec::new();
    for at in 0..count {
        let mut group: Vec<SliceId> = Vec::new();
        let mut nodes = BTreeSet::new();
        for _ in 0..copies {
            // sites of equal load take turns, so that copies of one slice's groups are spread over all partners
            let allowed = sites.iter().enumerate().filter(|(_, s)| !nodes.contains(&s.node));
            let turn = |i: usize| (i + sites.len() - at % sites.len().max(1)) % sites.len().max(1);
            let Some((_, site)) = allowed.min_by_key(|(i, s)| (load.of(s), turn(*i))) else { return Vec::new() };
            nodes.insert(site.node);
            group.push(site.slice);
            *load.copies.entry(site.slice).or_default() += 1;
        }
        let first = group.iter().enumerate().min_by_key(|(i, s)| (load.primaries.get(s).copied().unwrap_or(0), *i));
        let first = first.map_or(0, |(i, _)| i);
        group.swap(0, first);
        *load.primaries.entry(group[0]).or_default() += 1;
        groups.push(group);
    }
    groups
}

/// A slice for a copy of a group that has `members`, not on their nodes; the least loaded.
pub fn replacement(sites: &[Site], load: &Load, members: &[SliceId], nodes: &BTreeSet<NodeId>) -> Option<SliceId> {
    let allowed = sites.iter().filter(|s| !nodes.contains(&s.node) && !members.contains(&s.slice));
    allowed.min_by_key(|s| (load.of(s), s.slice)).map(|s| s.slice)
}

/// Who should lead instead, when `primary` leads at least two groups more than some other copy of this group.
pub fn better_primary(load: &Load, primary: SliceId, others: &[SliceId]) -> Option<SliceId> {
    let of = |s: &SliceId| load.primaries.get(s).copied().unwrap_or(0);
    let best = others.iter().filter(|s| **s != primary).min_by_key(|s| (of(s), **s))?;
    (of(best) + 2 <= of(&primary)).then_some(*best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sites(nodes: u32, each: u8) -> Vec<Site> {
        let site = |n, i| Site { slice: SliceId::new(n + 1, i), node: NodeId(n), weight: 1000 };
        (0..nodes).flat_map(|n| (0..each).map(move |i| site(n, i))).collect()
    }

    #[test]
    fn too_few_nodes_give_no_placement() {
        assert!(place(&sites(2, 4), 64, 3).is_empty());
    }

    proptest! {
        #[test]
        fn copies_and_primaries_are_spread_evenly(nodes in 3u32..8, each in 1u8..4, copies in 1usize..4) {
            let sites = sites(nodes, each);
            let groups = place(&sites, 256, copies);
            prop_assert_eq!(groups.len(), 256);
            let mut load = Load::default();
            for g in &groups {
                let on: BTreeSet<_> = g.iter().map(|s| s.drive).collect();
                prop_assert_eq!(on.len(), copies, "two copies on one node");
                load.add(g, g[0]);
            }
            let spread = |m: &BTreeMap<SliceId, u64>| {
                let of = |s: &Site| m.get(&s.slice).copied().unwrap_or(0);
                sites.iter().map(of).max().unwrap() - sites.iter().map(of).min().unwrap()
            };
            prop_assert!(spread(&load.copies) <= 2);
            prop_assert!(spread(&load.primaries) <= 256 / sites.len() as u64 / 4 + 3);
        }
    }
}
