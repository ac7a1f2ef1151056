//! Where a lost copy is made again.
use crate::assign::{Site, load_of};
use crate::{key, mix};
use sarsen_types::SliceId;

/// The best site for one more copy of group `group`, whose other members stay on the domains `taken`: in a domain of its
/// own, the emptiest for its weight. `held` counts copies by slice. `None` when there is no such site.
pub fn replacement(
    group: u32,
    taken: &[u32],
    sites: &[Site],
    held: impl Fn(SliceId) -> u64,
) -> Option<SliceId> {
    let fit = sites.iter().filter(|s| s.weight > 0 && !taken.contains(&s.domain));
    fit.min_by_key(|s| (load_of(held(s.slice), s.weight), mix(u64::from(group), key(s.slice))))
        .map(|s| s.slice)
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
        assert_eq!(replacement(7, &[1, 2], &sites, held), Some(SliceId::new(4, 0)));
        assert_eq!(replacement(7, &[1, 2, 3], &sites, held), None);
    }
}
