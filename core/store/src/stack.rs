//! One block's entries that are not merged into its leaf yet, and what each kind of record does to them.
use crate::place::{Held, Place};
use sarsen_types::Version;
use smallvec::SmallVec;

/// What an unmerged entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Role {
    /// An entry of its own, with a place of its own.
    Own = 0,
    /// The same version once more, intact, in a place of its own: counts only over an entry of that version (R26).
    Repair = 1,
    /// The entry of that version under it is damaged; the place is that entry's.
    Mark = 2,
}

/// An unmerged entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Over {
    /// Version, place, checksum.
    pub held: Held,
    /// What it is.
    pub role: Role,
}

/// Places that nothing names any more.
pub type Gone = SmallVec<[Held; 2]>;

/// The unmerged entries of a block, ascending versions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stack {
    /// What lies under this stack counts only from this version on (R14); zero: all of it counts.
    pub cut: Version,
    /// The entries.
    pub entries: SmallVec<[Over; 1]>,
}

/// One entry of a block, and whether it is the merged one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The entry.
    pub held: Held,
    /// It is in a leaf or a run: visible whatever the floor says.
    pub is_base: bool,
}

impl Stack {
    fn own(held: Held) -> Over {
        Over { held, role: Role::Own }
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.cut == Version::ZERO
    }

    /// An ordered write: never in the place of a higher version, but under it (R5). Gives what nobody names after it: an entry of
    /// the same version (S9: the later record wins). Nothing is dropped here that a replay, which may know of more entries or of
    /// fewer, would keep (found in review).
    pub fn write(&mut self, held: Held) -> Option<Held> {
        if let Some(same) = self.entries.iter_mut().find(|o| o.held.version == held.version) {
            let old = std::mem::replace(same, Stack::own(held));
            return (old.role != Role::Mark).then_some(old.held);
        }
        let at = self.entries.partition_point(|o| o.held.version < held.version);
        self.entries.insert(at, Stack::own(held));
        None
    }

    /// R14: all below the join epoch `low`, whatever lies on it, becomes what is given.
    pub fn recover(&mut self, held: Held, low: Version) -> Gone {
        let mut gone = Gone::new();
        self.entries.retain(|o| {
            let stays = o.held.version >= low;
            if !stays && o.role != Role::Mark {
                gone.push(o.held);
            }
            stays
        });
        self.cut = self.cut.max(low);
        if held.is_absent() {
            return gone;
        }
        match self.entries.iter_mut().find(|o| o.held.version == held.version) {
            Some(same) if same.role != Role::Mark && is_worse(held, same.held) => gone.push(held),
            // whatever it meets it is an entry of its own: that of a bad leaf, which a mark or a repair is of, may be lost
            Some(same) => {
                let old = std::mem::replace(same, Stack::own(held));
                if old.role != Role::Mark {
                    gone.push(old.held);
                }
            }
            None => {
                let at = self.entries.partition_point(|o| o.held.version < held.version);
                self.entries.insert(at, Stack::own(held));
            }
        }
        gone
    }

    /// R26: the same version again, intact. It counts only where that version is.
    pub fn repair(&mut self, held: Held) -> Option<Held> {
        match self.entries.iter_mut().find(|o| o.held.version == held.version) {
            Some(same) if same.role == Role::Mark => {
                *same = Over { held, role: Role::Repair };
                None
            }
            Some(same) => Some(std::mem::replace(&mut same.held, held)),
            None => {
                let at = self.entries.partition_point(|o| o.held.version < held.version);
                self.entries.insert(at, Over { held, role: Role::Repair });
                None
            }
        }
    }

    /// The data of this version do not match their checksum. `false` when it is not here.
    pub fn damage(&mut self, version: Version) -> bool {
        let found = self.entries.iter_mut().find(|o| o.held.version == version);
        if let Some(o) = found {
            o.held.place = o.held.place.damaged();
            return true;
        }
        false
    }

    /// The entry in a leaf is damaged.
    pub fn mark(&mut self, base: Held) {
        let at = self.entries.partition_point(|o| o.held.version < base.version);
        let held = Held { place: base.place.damaged(), ..base };
        self.entries.insert(at, Over { held, role: Role::Mark });
    }

    /// R10: what lies under the highest entry at or below `below` goes.
    pub fn settle(&mut self, below: Version, gone: &mut Vec<Held>) {
        let top = self.entries.iter().rposition(|o| o.role == Role::Own && o.held.version <= below);
        let Some(top) = top.filter(|t| *t > 0) else { return };
        gone.extend(self.entries.drain(..top).filter(|o| o.role != Role::Mark).map(|o| o.held));
    }

    /// Puts back what a checkpoint did not merge, under what came since.
    pub fn slide_under(&mut self, older: Stack, gone: &mut Vec<Held>) {
        let cut = self.cut;
        self.cut = self.cut.max(older.cut);
        for o in older.entries {
            if o.held.version < cut {
                if o.role != Role::Mark {
                    gone.push(o.held);
                }
                continue;
            }
            let at = self.entries.partition_point(|e| e.held.version < o.held.version);
            match self.entries.get_mut(at).filter(|e| e.held.version == o.held.version) {
                None => self.entries.insert(at, o),
                // a repair or a mark meets the entry it is of
                Some(newer) if newer.role != Role::Own && o.role == Role::Own => {
                    match newer.role == Role::Mark {
                        // the place is the entry's: it may have moved since
                        true => newer.held = Held { place: o.held.place.damaged(), ..o.held },
                        false => gone.push(o.held),
                    }
                    newer.role = Role::Own;
                }
                Some(newer) if o.role == Role::Own && is_worse(newer.held, o.held) => {
                    gone.push(std::mem::replace(&mut newer.held, o.held));
                }
                Some(_) if o.role != Role::Mark => gone.push(o.held),
                Some(_) => {}
            }
        }
    }

    /// Takes apart what is settled, at or below `limit`, and what stays unmerged. Of the former the highest entry counts, and
    /// what is said of those that lie elsewhere.
    pub fn split(self, limit: Version, gone: &mut Vec<Held>) -> (Stack, Stack) {
        let mut settled = Stack { cut: self.cut, ..Stack::default() };
        let mut left = Stack::default();
        for o in self.entries {
            match o.role {
                Role::Own if o.held.version > limit => left.entries.push(o),
                Role::Own => {
                    gone.extend(settled.entries.drain(..).filter(|o| o.role != Role::Mark).map(|o| o.held));
                    settled.entries.push(o);
                }
                Role::Repair | Role::Mark => settled.entries.push(o),
            }
        }
        (settled, left)
    }

    /// Merges what is settled into the entry of a leaf: (the leaf's entry, what stays unmerged).
    ///
    /// `gone` gets places of entries that were never in a leaf, `displaced` the one the leaf named and names no more.
    pub fn merge(
        self,
        base: Held,
        limit: Version,
        gone: &mut Vec<Held>,
        displaced: &mut Vec<Held>,
    ) -> (Held, Stack) {
        let mut now = base;
        if !base.is_absent() && base.version < self.cut {
            displaced.push(base);
            now = Held::ABSENT;
        }
        let mut left = Stack::default();
        for o in self.entries {
            let same = !now.is_absent() && now.version == o.held.version;
            match o.role {
                Role::Own if o.held.version > limit => left.entries.push(o),
                Role::Own if !now.is_absent() && now.version > o.held.version => gone.push(o.held),
                Role::Own if same && is_worse(o.held, now) => gone.push(o.held),
                Role::Own => {
                    replace(&mut now, o.held, base, gone, displaced);
                }
                Role::Repair if same => replace(&mut now, o.held, base, gone, displaced),
                Role::Repair => gone.push(o.held),
                Role::Mark if same => now.place = now.place.damaged(),
                Role::Mark => {}
            }
        }
        (now, left)
    }
}

fn replace(now: &mut Held, held: Held, base: Held, gone: &mut Vec<Held>, displaced: &mut Vec<Held>) {
    let old = std::mem::replace(now, held);
    if old.is_absent() {
        return;
    }
    // the first to go is the leaf's own entry, unless a cut took it before
    match old.place.block() == base.place.block() && old.version == base.version {
        true => displaced.push(base),
        false => gone.push(old),
    }
}

/// Of two records with one version the later wins, unless it brings no data and the earlier did. This must be the rule
/// wherever two meet, and go by what the records say alone: a replay has them in one stack, and knows nothing of what was read
/// since and found damaged; a running store may have a checkpoint's cut between them; and where they keep different places one
/// is freed that the other names (found in review).
fn is_worse(later: Held, earlier: Held) -> bool {
    later.place == Place::LOST && earlier.place != Place::LOST
}

/// All entries of a block, the highest first, each version once: `stacks` from the newest, those of `runs`, then the leaf's
/// entry.
pub fn candidates(stacks: [Option<&Stack>; 2], runs: &[Stack], base: Held) -> SmallVec<[Candidate; 4]> {
    let mut found: SmallVec<[Candidate; 4]> = SmallVec::new();
    if stacks[0].is_none() && stacks[1].is_none() && runs.is_empty() {
        if !base.is_absent() {
            found.push(Candidate { held: base, is_base: true });
        }
        return found;
    }
    let mut weak: SmallVec<[Over; 2]> = SmallVec::new();
    let mut cut = Version::ZERO;
    let mut add = |weak: &SmallVec<[Over; 2]>, held: Held, is_base: bool| {
        let held = weak.iter().find(|w| w.held.version == held.version).map_or(held, |w| w.held);
        if let Some(newer) = found.iter_mut().find(|c| c.held.version == held.version) {
            if is_worse(newer.held, held) {
                *newer = Candidate { held, is_base };
            }
            return;
        }
        found.push(Candidate { held, is_base });
    };
    let unmerged = stacks.into_iter().flatten().map(|s| (s, false));
    for (stack, is_base) in unmerged.chain(runs.iter().map(|s| (s, true))) {
        for o in stack.entries.iter().rev().filter(|o| o.held.version >= cut) {
            match o.role {
                Role::Own => add(&weak, o.held, is_base),
                Role::Repair | Role::Mark => weak.push(*o),
            }
        }
        cut = cut.max(stack.cut);
    }
    if !base.is_absent() && base.version >= cut {
        add(&weak, base, true);
    }
    found.sort_unstable_by_key(|c| std::cmp::Reverse(c.held.version));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::{Kind, Place};
    use sarsen_types::{Checksum, Epoch};

    fn v(epoch: u32, sequence: u64) -> Version {
        Version::new(Epoch(epoch), sequence)
    }
    fn held(epoch: u32, sequence: u64) -> Held {
        let place = Place::data(u64::from(epoch) * 100 + sequence);
        Held { version: v(epoch, sequence), place, checksum: Checksum(sequence) }
    }
    fn tops(stack: &Stack, base: Held) -> Vec<Held> {
        candidates([Some(stack), None], &[], base).iter().map(|c| c.held).collect()
    }

    #[test]
    fn recovery_reaches_under_a_newer_entry_and_into_the_leaf() {
        let mut stack = Stack::default();
        stack.write(held(1, 2));
        stack.write(held(3, 1));
        let gone = stack.recover(held(2, 9), v(3, 0));
        assert_eq!(gone.to_vec(), [held(1, 2)]);
        assert_eq!(tops(&stack, held(1, 1)), [held(3, 1), held(2, 9)]);
        let (mut gone, mut displaced) = (vec![], vec![]);
        let (base, left) = stack.merge(held(1, 1), v(2, 9), &mut gone, &mut displaced);
        assert_eq!((base, left.entries.len()), (held(2, 9), 1));
        assert_eq!((gone, displaced), (vec![], vec![held(1, 1)]));
    }

    #[test]
    fn a_write_that_comes_again_below_what_is_merged_does_not_win() {
        let mut stack = Stack::default();
        assert_eq!(stack.write(held(1, 1)), None);
        assert_eq!(tops(&stack, held(1, 5))[0], held(1, 5));
        let (mut gone, mut displaced) = (vec![], vec![]);
        let (base, left) = stack.merge(held(1, 5), v(1, 9), &mut gone, &mut displaced);
        assert_eq!((base, left.is_empty()), (held(1, 5), true));
        assert_eq!((gone, displaced), (vec![held(1, 1)], vec![]));
    }

    #[test]
    fn what_is_above_the_limit_stays_and_what_is_below_goes_into_the_leaf() {
        let mut stack = Stack::default();
        for n in 1..4 {
            stack.write(held(1, n));
        }
        let (mut gone, mut displaced) = (vec![], vec![]);
        let (base, left) = stack.merge(Held::ABSENT, v(1, 2), &mut gone, &mut displaced);
        assert_eq!((base, gone, displaced), (held(1, 2), vec![held(1, 1)], vec![]));
        assert_eq!(left.entries.iter().map(|o| o.held).collect::<Vec<_>>(), [held(1, 3)]);
    }

    #[test]
    fn a_repair_counts_only_over_its_own_version_and_a_mark_owns_no_place() {
        let mut stack = Stack::default();
        stack.mark(held(1, 1));
        assert_eq!(tops(&stack, held(1, 1))[0].place.kind(), Kind::Damaged);
        let again = Held { place: Place::data(7), ..held(1, 1) };
        assert_eq!(stack.repair(again), None);
        assert_eq!(tops(&stack, held(1, 1)), [again]);
        assert_eq!(tops(&stack, held(1, 2)), [held(1, 2)]);
        let (mut gone, mut displaced) = (vec![], vec![]);
        let (base, _) = stack.clone().merge(held(1, 1), v(1, 9), &mut gone, &mut displaced);
        assert_eq!((base, &gone[..], &displaced[..]), (again, &[][..], &[held(1, 1)][..]));
        let (base, _) = stack.merge(held(1, 2), v(1, 9), &mut gone, &mut displaced);
        assert_eq!((base, &gone[..]), (held(1, 2), &[again][..]));
    }

    #[test]
    fn what_a_checkpoint_left_slides_under_what_came_since() {
        let mut newer = Stack::default();
        newer.write(held(2, 1));
        let mut older = Stack::default();
        older.write(held(1, 1));
        older.write(held(1, 2));
        let mut gone = vec![];
        newer.slide_under(older.clone(), &mut gone);
        assert_eq!(tops(&newer, Held::ABSENT), [held(2, 1), held(1, 2), held(1, 1)]);
        let mut cut = Stack::default();
        cut.recover(Held::ABSENT, v(1, 2));
        cut.slide_under(older, &mut gone);
        assert_eq!((tops(&cut, held(1, 1)), gone), (vec![held(1, 2)], vec![held(1, 1)]));
    }

    #[test]
    fn what_brings_no_data_does_not_replace_what_does_at_one_version() {
        let lost = Held { place: Place::LOST, ..held(1, 1) };
        let mut stack = Stack::default();
        stack.recover(lost, v(1, 0));
        assert_eq!(tops(&stack, held(1, 1)), [held(1, 1)]);
        let (mut gone, mut displaced) = (vec![], vec![]);
        let (base, left) = stack.merge(held(1, 1), v(1, 9), &mut gone, &mut displaced);
        assert_eq!((base, left.is_empty(), displaced), (held(1, 1), true, vec![]));
        // but what a read found damaged is replaced, as by a replay, which does not know of it
        let mut stack = Stack::default();
        stack.write(held(1, 1));
        stack.damage(v(1, 1));
        let again = Held { place: Place::data(7), ..held(1, 1) };
        assert_eq!(stack.recover(again, v(1, 0)).len(), 1);
        assert_eq!(tops(&stack, Held::ABSENT), [again]);
    }

    #[test]
    fn a_mark_takes_the_place_of_the_entry_it_meets() {
        let mut newer = Stack::default();
        newer.mark(held(1, 1));
        let moved = Held { place: Place::data(7), ..held(1, 1) };
        let mut older = Stack::default();
        older.write(moved);
        let mut gone = vec![];
        newer.slide_under(older, &mut gone);
        assert_eq!(newer.entries[0].held.place, moved.place.damaged());
        assert!(gone.is_empty());
    }

    #[test]
    fn what_is_recovered_over_a_mark_or_a_repair_is_an_entry_of_its_own() {
        // found in review: it counted over the entry of a bad leaf alone, so the block read as never written
        let again = Held { place: Place::data(7), ..held(1, 1) };
        for is_repaired in [false, true] {
            let mut stack = Stack::default();
            stack.mark(held(1, 1));
            if is_repaired {
                stack.repair(Held { place: Place::data(8), ..held(1, 1) });
            }
            assert_eq!(stack.recover(again, v(1, 0)).len(), usize::from(is_repaired));
            assert_eq!(tops(&stack, Held::ABSENT), [again]);
            let (mut gone, mut displaced) = (vec![], vec![]);
            let (base, _) = stack.merge(Held::ABSENT, v(1, 9), &mut gone, &mut displaced);
            assert_eq!((base, gone), (again, vec![]));
        }
    }
}
