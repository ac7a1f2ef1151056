//! Who votes: an odd number of nodes, five at most; an even number fails as easily as the odd one below it.
use std::collections::BTreeSet;

/// Voters, at most.
const VOTERS_MAX: usize = 5;

/// The voters to ask raft for, if others than those there are. `joint` is its membership: the voters, or while these change the
/// old and the new ones. A change that was cut short is ended first (found in review): until then the old voters count too, and
/// one of them lost later would have left the cluster without a majority.
pub fn next_change(
    joint: &[BTreeSet<u64>],
    lost: &BTreeSet<u64>,
    fit: impl IntoIterator<Item = u64>,
    nodes: usize,
) -> Option<BTreeSet<u64>> {
    match joint {
        [] => None,
        [voters] => Some(next_voters(voters, lost, fit, nodes)).filter(|next| next != voters),
        [.., new] => Some(new.clone()),
    }
}

/// The voters from now on, of a cluster of so many nodes. `lost` are voters that are gone for so long that another is to vote
/// for them; `fit` are nodes that may begin to, in the order they are taken.
fn next_voters(
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
    fn a_change_that_was_cut_short_is_ended_before_another_begins() {
        let set = |of: &[u64]| of.iter().copied().collect::<BTreeSet<u64>>();
        let change = |joint: &[BTreeSet<u64>], lost: &[u64], fit: &[u64]| {
            next_change(joint, &set(lost), fit.iter().copied(), 3)
        };
        assert_eq!(change(&[set(&[1]), set(&[1, 2, 3])], &[], &[]), Some(set(&[1, 2, 3])));
        // whoever else is lost or fit by now waits for the next change
        assert_eq!(change(&[set(&[1, 2, 3]), set(&[1, 2, 4])], &[2], &[5]), Some(set(&[1, 2, 4])));
        assert_eq!(change(&[set(&[1])], &[], &[2, 3]), Some(set(&[1, 2, 3])));
        assert_eq!(change(&[set(&[1, 2, 3])], &[], &[]), None, "nothing to change");
        assert_eq!(change(&[], &[], &[1]), None, "raft has not begun");
    }

    #[test]
    fn one_that_is_lost_gives_its_vote_to_another() {
        assert_eq!(next(&[1, 2, 3], &[2], &[4], 4), [1, 3, 4]);
        assert_eq!(next(&[1, 2, 3], &[2], &[], 3), [1, 2, 3], "there is nobody else");
        assert_eq!(next(&[1, 2, 3], &[7], &[4], 4), [1, 2, 3], "it did not vote");
        assert_eq!(next(&[1, 2, 3], &[2, 3], &[4, 5, 6], 6), [1, 4, 5]);
    }
}
