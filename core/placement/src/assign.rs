//! A policy's first table: groups onto slices in distinct fault domains, evenly, primaries too.
use crate::{Partners, key, mix};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use sarsen_types::SliceId;
use serde::{Deserialize, Serialize};

/// A slice that may hold copies, and what copies of one group must not share.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Site {
    /// The slice.
    pub slice: SliceId,
    /// Its fault domain; a node's number as long as nodes are the domains.
    pub domain: u32,
    /// How much it is to hold, relative to others (blocks of data); zero holds nothing.
    pub weight: u64,
}

/// There are fewer fault domains than copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TooFew {
    /// Domains with a slice that may hold copies.
    pub domains: u32,
    /// What was asked for.
    pub copies: u8,
}
impl fmt::Display for TooFew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} copies need {} nodes with drives, and there are {}",
            self.copies, self.copies, self.domains
        )
    }
}

/// The slices of each of `groups` groups, the one that leads first.
///
/// Copy by copy the domain that is emptiest for its weight, in it the slice that is; then the member that leads least. Those
/// that would give nobody too many partners (L7) before all others.
pub fn assign(groups: u32, copies: u8, sites: &[Site]) -> Result<Vec<Vec<SliceId>>, TooFew> {
    let mut domains: BTreeMap<u32, u64> = BTreeMap::new();
    for site in sites.iter().filter(|s| s.weight > 0) {
        *domains.entry(site.domain).or_default() += site.weight;
    }
    if domains.len() < copies as usize || copies == 0 {
        return Err(TooFew { domains: domains.len() as u32, copies });
    }
    let mut in_domain: BTreeMap<u32, u64> = BTreeMap::new();
    let mut in_slice: BTreeMap<SliceId, u64> = BTreeMap::new();
    let mut table = Vec::new();
    let mut partners = Partners::default();
    for group in 0..u64::from(groups) {
        let mut members: Vec<SliceId> = Vec::new();
        let mut taken: Vec<u32> = Vec::new();
        for _ in 0..copies {
            let domain_load = |d: u32| load_of(in_domain.get(&d).copied().unwrap_or(0), domains[&d]);
            let load = |s: &Site| load_of(in_slice.get(&s.slice).copied().unwrap_or(0), s.weight);
            let rank = |s: &Site| {
                let is_beyond = partners.is_beyond(&members, s.slice);
                let of_domain = (domain_load(s.domain), mix(group, u64::from(s.domain)));
                (is_beyond, of_domain, load(s), mix(group, key(s.slice)))
            };
            let free = sites.iter().filter(|s| s.weight > 0 && !taken.contains(&s.domain));
            let site = free.min_by_key(|s| rank(s)).expect("there are as many domains as copies");
            let domain = site.domain;
            taken.push(domain);
            members.push(site.slice);
            *in_domain.entry(domain).or_default() += 1;
            *in_slice.entry(site.slice).or_default() += 1;
        }
        partners.note(&members);
        table.push(members);
    }
    let leaders = crate::spread(&table);
    for (members, leader) in table.iter_mut().zip(leaders) {
        let at = members.iter().position(|m| *m == leader).expect("a member leads");
        members.swap(0, at);
    }
    Ok(table)
}

/// Copies for a weight, in parts fine enough that small tables come out even.
pub(crate) fn load_of(copies: u64, weight: u64) -> u128 {
    (u128::from(copies) << 64) / u128::from(weight.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn site(drive: u32, index: u8, domain: u32) -> Site {
        Site { slice: SliceId::new(drive, index), domain, weight: 1000 }
    }

    #[test]
    fn three_equal_nodes_hold_all_groups_and_lead_a_third_each() {
        let sites: Vec<Site> = (1..=3).map(|n| site(n, 0, n)).collect();
        let table = assign(64, 3, &sites).unwrap();
        for n in 1..=3 {
            let led = table.iter().filter(|m| m[0] == SliceId::new(n, 0)).count();
            assert!((21..=22).contains(&led), "{led}");
        }
    }

    #[test]
    fn a_drive_of_twice_the_weight_holds_twice_the_copies() {
        let sites = [site(1, 0, 1), Site { weight: 2000, ..site(2, 0, 2) }, site(3, 0, 3)];
        let table = assign(64, 1, &sites).unwrap();
        let held = table.iter().filter(|m| m[0] == SliceId::new(2, 0)).count();
        assert!((31..=33).contains(&held), "{held}");
    }

    #[test]
    fn too_few_nodes_are_refused_with_both_numbers() {
        let sites = [site(1, 0, 1), site(2, 0, 1)];
        assert_eq!(assign(4, 2, &sites), Err(TooFew { domains: 1, copies: 2 }));
    }

    #[test]
    fn in_a_large_cluster_no_slice_has_more_partners_than_it_may() {
        // a hundred nodes: of 4,096 groups each slice holds 123, with 246 others if they were drawn at random
        let sites: Vec<Site> = (1..=100).map(|n| site(n, 0, n)).collect();
        let table = assign(4096, 3, &sites).unwrap();
        let partners = Partners::of(table.iter().map(Vec::as_slice));
        let counts = sites.iter().map(|s| partners.count(s.slice));
        assert!(counts.clone().all(|n| n <= sarsen_types::limits::PARTNERS_MAX), "{:?}", counts.max());
        let held = |s: &Site| table.iter().flatten().filter(|m| **m == s.slice).count();
        let (least, most) = (sites.iter().map(held).min().unwrap(), sites.iter().map(held).max().unwrap());
        assert!(most - least <= 6, "{least} to {most}");
    }

    #[test]
    fn drives_of_many_slices_share_groups_with_no_more_drives_than_one_slice_may() {
        // counted by slices alone, each of the four brings partners of its own (found in review)
        let sites: Vec<Site> = (1..=90).flat_map(|n| (0..4).map(move |i| site(n, i, n))).collect();
        let table = assign(2048, 3, &sites).unwrap();
        let partners = Partners::of(table.iter().map(Vec::as_slice));
        let counts = sites.iter().map(|s| partners.count_of_drive(s.slice.drive));
        assert!(counts.clone().all(|n| n <= sarsen_types::limits::PARTNERS_MAX), "{:?}", counts.max());
    }

    proptest! {
        #[test]
        fn no_group_has_two_copies_in_one_domain_and_the_spread_is_even(
            nodes in 1u32..7, slices in 1u8..4, copies in 1u8..5, bits in 3u32..8,
        ) {
            prop_assume!(u32::from(copies) <= nodes);
            let sites: Vec<Site> =
                (1..=nodes).flat_map(|n| (0..slices).map(move |i| site(n, i, n))).collect();
            let table = assign(1 << bits, copies, &sites).unwrap();
            let mut held: BTreeMap<SliceId, u32> = sites.iter().map(|s| (s.slice, 0)).collect();
            for members in &table {
                let mut domains: Vec<u32> = members.iter().map(|m| m.drive.0).collect();
                domains.sort();
                domains.dedup();
                prop_assert_eq!(domains.len(), copies as usize);
                members.iter().for_each(|m| *held.get_mut(m).unwrap() += 1);
            }
            let (least, most) = (held.values().min().unwrap(), held.values().max().unwrap());
            prop_assert!(most - least <= 2, "{least} to {most}");
        }
    }
}
