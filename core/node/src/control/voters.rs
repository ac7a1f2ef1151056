//! Who votes: an odd number of nodes, five at most; an even number fails as easily as the odd one below it.
use std::collections::BTreeSet;

/// Voters, at most.
const VOTERS_MAX: usize = 5;

/// The voters from now on, of a cluster of so many nodes. `lost` are voters that are gone for so long that another is to vote
/// for them; `fit` are nodes that may begin to, in the order they are taken.
pub fn next_voters(
    voters: &BTreeSet<u64>,
    lost: &BTreeSet<u64>,
    fit: impl IntoIterator<Item = u64>,
    nodes: usize,
) -> BTreeSet<u64> {
    let most = nodes.min(VOTERS_MAX);
    let target = most - usize::from(most.is_multiple_of(2));
    let mut next = voters.clone();
    let mut fit = fit.into_iter();
    for lost in voters.intersection(lost) {
        if let Some(new) = fit.next() {
            next.remove(lost);
            next.insert(new);
        }
    }
    let more: Vec<u64> = fit.take(target.saturating_sub(next.len())).collect();
    let is_even = (next.len() + more.len()).is_multiple_of(2);
    next.extend(&more[..more.len() - usize::from(is_even && !more.is_empty())]);
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(voters: &[u64], lost: &[u64], fit: &[u64], nodes: usize) -> Vec<u64> {
        let set = |of: &[u64]| of.iter().copied().collect::<BTreeSet<u64>>();
        next_voters(&set(voters), &set(lost), fit.iter().copied(), nodes).into_iter().collect()
    }

    #[test]
    fn their_number_is_odd_and_five_at_most() {
        assert_eq!(next(&[1], &[], &[2], 2), [1]);
        assert_eq!(next(&[1], &[], &[2, 3], 3), [1, 2, 3]);
        assert_eq!(next(&[1, 2, 3], &[], &[4], 4), [1, 2, 3]);
        assert_eq!(next(&[1, 2, 3], &[], &[4, 5], 5), [1, 2, 3, 4, 5]);
        assert_eq!(next(&[1, 2, 3, 4, 5], &[], &[6, 7], 7), [1, 2, 3, 4, 5]);
        // one that is not fit yet is waited for, so that there are never two or four
        assert_eq!(next(&[1], &[], &[2], 3), [1]);
        assert_eq!(next(&[1, 2, 3], &[], &[4], 5), [1, 2, 3]);
    }

    #[test]
    fn one_that_is_lost_gives_its_vote_to_another() {
        assert_eq!(next(&[1, 2, 3], &[2], &[4], 4), [1, 3, 4]);
        assert_eq!(next(&[1, 2, 3], &[2], &[], 3), [1, 2, 3], "there is nobody else");
        assert_eq!(next(&[1, 2, 3], &[7], &[4], 4), [1, 2, 3], "it did not vote");
        assert_eq!(next(&[1, 2, 3], &[2, 3], &[4, 5, 6], 6), [1, 4, 5]);
    }
}
