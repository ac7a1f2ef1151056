//! Where a lost copy is made again.
use crate::assign::{Site, load_of};
use crate::{key, mix};
use sarsen_types::SliceId;

/// The best site for one more copy of group `group`, whose other members stay on the domains `taken`: in a domain of its
/// own, one that gives nobody too many partners (`is_beyond`, L7) where there is one, the emptiest for its weight. `held` counts
/// copies by slice. `None` when there is no such site.
pub fn replacement(
    group: u32,
    taken: &[u32],
    sites: &[Site],
    held: impl Fn(SliceId) -> u64,
    is_beyond: impl Fn(SliceId) -> bool,
) -> Option<SliceId> {
    let fit = sites.iter().filter(|s| s.weight > 0 && !taken.contains(&s.domain));
    let rank = |s: &&Site| {
        (is_beyond(s.slice), load_of(held(s.slice), s.weight), mix(u64::from(group), key(s.slice)))
    };
    fit.min_by_key(rank).map(|s| s.slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(drive: u32, domain: u32) -> Site {
        Site { slice: SliceId::new(drive, 0), domain, weight: 10 }
    }

    #[test]
    fn a_copy_goes_to_the_emptiest_drive_of_a_node_that_has_none() {
        let sites = [site(1, 1), site(2, 2), site(3, 3), site(4, 3)];
        let held = |s: SliceId| if s.drive.0 == 3 { 5 } else { 4 };
        assert_eq!(replacement(7, &[1, 2], &sites, held, |_| false), Some(SliceId::new(4, 0)));
        let is_beyond = |s: SliceId| s.drive.0 == 4;
        assert_eq!(replacement(7, &[1, 2], &sites, held, is_beyond), Some(SliceId::new(3, 0)));
        assert_eq!(replacement(7, &[1, 2, 3], &sites, held, |_| false), None);
    }
}
