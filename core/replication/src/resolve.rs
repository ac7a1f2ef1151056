//! Which entries win a takeover: a pure function of the tails of all in-sync copies (R12).
//!
//! Block by block the highest intact entry wins. What all hold intact at one version stays as it is; where they differ,
//! or one is damaged, the winner is written again. A request is rolled forward whole, with its record, or not at all:
//! one that is not found in all its blocks is void, and its versions win nothing.
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use sarsen_types::limits::PIECE_BLOCKS_MAX;
use sarsen_types::record::{BlockStack, Entry};
use sarsen_types::{BlockRange, Checksum, FamilyId, ObjectId, RequestId, RequestNote, SliceId, Version};
use sarsen_wire::peer::{Cursor, TailNote};
use smallvec::SmallVec;

/// What one copy holds above the lowest floor, and its request records.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    blocks: BTreeMap<Cursor, (FamilyId, SmallVec<[Entry; 2]>)>,
    /// Its records.
    pub notes: Vec<TailNote>,
}

impl Tail {
    /// Adds a page.
    pub fn add(&mut self, blocks: Vec<BlockStack>) {
        for b in blocks {
            self.blocks.insert((b.object, b.block), (b.family, b.stack));
        }
    }
    /// The last place it has.
    pub fn last(&self) -> Option<Cursor> {
        self.blocks.last_key_value().map(|b| *b.0)
    }
    fn stack(&self, at: Cursor) -> &[Entry] {
        self.blocks.get(&at).map_or(&[], |b| &b.1)
    }
}

/// A copy that holds a winner intact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Its place among the tails.
    pub copy: usize,
    /// Its slice; filled in by the caller.
    pub slice: SliceId,
}

/// Blocks to be written again: neighbours with one winning version, inside one piece.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rewrite {
    /// The object.
    pub object: ObjectId,
    /// Its family.
    pub family: FamilyId,
    /// The blocks.
    pub range: BlockRange,
    /// What wins; `None`: nothing, they were never written.
    pub winner: Option<Entry>,
    /// Checksums of the winner's blocks.
    pub checksums: SmallVec<[Checksum; 4]>,
    /// Who has all of it.
    pub holders: SmallVec<[Holder; 3]>,
    /// The requests found whole that name one of the blocks.
    pub requests: SmallVec<[RequestNote; 1]>,
    /// Versions above the floor that it replaces.
    pub olds: SmallVec<[Version; 1]>,
}

/// What a takeover is to do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Blocks to be written again.
    pub rewrites: Vec<Rewrite>,
    /// Requests not found whole.
    pub voided: Vec<RequestNote>,
    /// Versions above the floor that are committed as they are.
    pub committed: BTreeSet<Version>,
    /// Entries found below another copy's, or damaged, at or below a floor.
    pub corruptions: usize,
    /// Blocks of which two copies hold one version intact, and not the same (R26).
    pub contradictions: usize,
}

/// Judges the tails. `above` is the lowest floor of any copy, from which each tail was listed, `floor` the highest;
/// `enough`: a write could commit with these copies (R9).
pub fn resolve(tails: &[&Tail], above: Version, floor: Version, enough: bool) -> Outcome {
    let verdict = Verdicts::of(tails, floor);
    let mut outcome = Outcome { voided: verdict.voided.clone(), ..Outcome::default() };
    let places: BTreeSet<Cursor> = tails.iter().flat_map(|t| t.blocks.keys().copied()).collect();
    for at in places {
        let judged = judge(tails, at, (above, floor), &verdict);
        outcome.corruptions += usize::from(judged.is_corrupt);
        let held = || tails.iter().flat_map(|t| t.stack(at));
        outcome.contradictions += usize::from(held().any(|one| held().any(|other| one.contradicts(*other))));
        let settled = judged.winner.is_none_or(|w| w.version() <= floor);
        let in_tail = tails.iter().any(|t| t.stack(at).first().is_some_and(|e| e.version() > floor));
        if !judged.is_same || (!enough && !settled && in_tail) {
            add(&mut outcome.rewrites, tails, at, (above, floor), judged);
        } else if let Some(winner) = judged.winner.filter(|w| w.version() > floor) {
            outcome.committed.insert(winner.version());
        }
    }
    for rewrite in &mut outcome.rewrites {
        rewrite.olds.sort_unstable();
        rewrite.olds.dedup();
        rewrite.requests = verdict.carried(rewrite);
    }
    outcome
}

type Requests = BTreeMap<RequestId, RequestNote>;

/// Which requests were found whole, and which versions count for nothing.
struct Verdicts {
    void: BTreeSet<Version>,
    whole: Requests,
    voided: Vec<RequestNote>,
}

impl Verdicts {
    fn of(tails: &[&Tail], floor: Version) -> Verdicts {
        let notes = || tails.iter().flat_map(|t| t.notes.iter());
        // voided before: records of a request below a void one of it
        let mut voids: BTreeMap<RequestId, Version> = BTreeMap::new();
        for n in notes().filter(|n| n.is_void) {
            let v = voids.entry(n.note.id).or_default();
            *v = (*v).max(n.version);
        }
        let late = |n: &TailNote| voids.get(&n.note.id).is_some_and(|v| *v > n.version);
        let mut void: BTreeSet<Version> =
            notes().filter(|n| !n.is_void && late(n)).map(|n| n.version).collect();
        // a block counts as found at a version that is not void, so each one that becomes void is cause to look again
        let (whole, mut half) = loop {
            let (whole, half) = Verdicts::found(tails, floor, &void);
            let before = void.len();
            void.extend(notes().filter(|n| !n.is_void && half.contains_key(&n.note.id)).map(|n| n.version));
            if void.len() == before {
                break (whole, half);
            }
        };
        for n in notes().filter(|n| n.is_void && !whole.contains_key(&n.note.id)) {
            half.entry(n.note.id).or_insert(n.note);
        }
        Verdicts { void, whole, voided: half.into_values().collect() }
    }

    /// The requests found whole where these versions are void, and those that are not.
    fn found(tails: &[&Tail], floor: Version, void: &BTreeSet<Version>) -> (Requests, Requests) {
        let (mut whole, mut some) = (Requests::new(), Requests::new());
        let all = tails.iter().flat_map(|t| t.notes.iter()).filter(|n| !n.is_void);
        for n in all {
            let hit = |e: &Entry| e.is_intact() && e.version() >= n.version && !void.contains(&e.version());
            let is_found = |block: u16| {
                let at = (n.note.object, block);
                tails.iter().any(|t| t.stack(at).iter().any(hit))
            };
            let counts = !void.contains(&n.version);
            if counts && (n.version <= floor || n.note.range.blocks().all(is_found)) {
                whole.insert(n.note.id, n.note);
            }
            some.insert(n.note.id, n.note);
        }
        some.retain(|id, _| !whole.contains_key(id));
        (whole, some)
    }

    fn carried(&self, rewrite: &Rewrite) -> SmallVec<[RequestNote; 1]> {
        let names = |n: &&RequestNote| n.object == rewrite.object && n.range.overlaps(rewrite.range);
        self.whole.values().filter(names).copied().collect()
    }
}

struct Judged {
    winner: Option<Entry>,
    is_same: bool,
    is_corrupt: bool,
}

fn judge(tails: &[&Tail], at: Cursor, (above, floor): (Version, Version), verdict: &Verdicts) -> Judged {
    let stacks = || tails.iter().map(|t| t.stack(at));
    // above every floor a version intact nowhere falls back to the next; at or below one it was answered, and is asked of
    // whoever has it, damaged here or not (simulator, seed 42: zeroes were written over a block that had only rotted)
    let counts = |e: &&Entry| {
        (e.is_intact() || e.version() <= floor)
            && **e != Entry::Absent
            && !verdict.void.contains(&e.version())
    };
    let winner = stacks().flatten().filter(counts).copied().max_by_key(|e| (e.version(), e.is_intact()));
    // absent and zero are equal wherever the one may become the other (R23)
    let gone = |e: Option<Entry>| match e {
        None | Some(Entry::Absent) => true,
        Some(Entry::Zero(v)) => v <= floor,
        Some(_) => false,
    };
    let top = |stack: &[Entry]| stack.first().copied();
    let same = |stack: &[Entry]| match (top(stack), winner) {
        (Some(t), Some(w)) => {
            (t.is_intact() && t.version() == w.version()) || (gone(Some(t)) && gone(winner))
        }
        (t, _) => gone(t) && gone(winner),
    };
    let settled = winner.is_some_and(|w| w.version() <= floor);
    // a copy that lists nothing there has nothing above the lowest floor: it lacks a winner only above that
    let below = |stack: &[Entry]| match top(stack) {
        None => settled && !gone(winner) && winner.is_some_and(|w| w.version() > above),
        Some(t) => settled && t.version() < winner.map_or(Version::ZERO, Entry::version) && !gone(Some(t)),
    };
    let damaged = |stack: &[Entry]| top(stack).is_some_and(|t| !t.is_intact() && t.version() <= floor);
    Judged { winner, is_same: stacks().all(same), is_corrupt: stacks().any(|s| below(s) || damaged(s)) }
}

/// Adds a block to the last rewrite when it continues it, else begins another.
fn add(
    rewrites: &mut Vec<Rewrite>,
    tails: &[&Tail],
    at: Cursor,
    (above, floor): (Version, Version),
    judged: Judged,
) {
    let (object, block) = at;
    let winner = judged.winner;
    let checksum = match winner {
        Some(Entry::Data(_, checksum) | Entry::Damaged(_, checksum)) => Some(checksum),
        _ => None,
    };
    // a copy that lists nothing there holds what is at or below every floor
    let holds = |t: &Tail| {
        winner.is_some_and(|w| {
            let listed = t.stack(at).iter().any(|e| e.is_intact() && e.version() == w.version());
            listed || (t.stack(at).is_empty() && w.version() <= above)
        })
    };
    let holders: SmallVec<[Holder; 3]> = (tails.iter().enumerate())
        .filter(|(_, t)| holds(t))
        .map(|(copy, _)| Holder { copy, slice: SliceId::default() })
        .collect();
    let olds = tails.iter().flat_map(|t| t.stack(at).iter().map(|e| e.version())).filter(|v| *v > floor);
    if let Some(last) = rewrites.last_mut()
        && last.object == object
        && last.range.end() == block
        && !block.is_multiple_of(PIECE_BLOCKS_MAX)
        && last.winner.map(Entry::version) == winner.map(Entry::version)
        && last.checksums.is_empty() == checksum.is_none()
        && last.holders == holders
    {
        last.range.count += 1;
        last.checksums.extend(checksum);
        last.olds.extend(olds);
        return;
    }
    let family = tails.iter().find_map(|t| t.blocks.get(&at)).map_or(FamilyId(0), |b| b.0);
    rewrites.push(Rewrite {
        object,
        family,
        range: BlockRange::new(block, 1),
        winner,
        checksums: checksum.into_iter().collect(),
        holders,
        requests: SmallVec::new(),
        olds: olds.collect(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_types::{AttachmentId, Epoch};
    use smallvec::smallvec;

    fn v(sequence: u64) -> Version {
        Version::new(Epoch(1), sequence)
    }
    fn data(sequence: u64) -> Entry {
        Entry::Data(v(sequence), Checksum(sequence))
    }
    fn tail(blocks: &[(u16, &[Entry])], notes: &[(u64, u16, u16, u64)]) -> Tail {
        let object = ObjectId::new(1, 0);
        let mut tail = Tail::default();
        tail.add(
            (blocks.iter())
                .map(|&(block, stack)| BlockStack { object, family: FamilyId(1), block, stack: stack.into() })
                .collect(),
        );
        for &(number, first, count, sequence) in notes {
            let id = RequestId { attachment: AttachmentId(1), number, ..RequestId::default() };
            let note = RequestNote { id, object, range: BlockRange::new(first, count) };
            tail.notes.push(TailNote { note, version: v(sequence), is_void: false });
        }
        tail
    }

    #[test]
    fn what_all_hold_is_committed_as_it_is() {
        let a = tail(&[(0, &[data(5)])], &[(1, 0, 1, 5)]);
        let outcome = resolve(&[&a, &a.clone()], v(3), v(4), true);
        assert_eq!((outcome.rewrites.len(), outcome.committed.len()), (0, 1));
    }

    #[test]
    fn what_only_one_holds_is_written_again_with_its_record() {
        let a = tail(&[(3, &[data(5), data(2)])], &[(1, 3, 1, 5)]);
        let b = tail(&[], &[]);
        let outcome = resolve(&[&b, &a], v(3), v(4), true);
        assert_eq!(outcome.rewrites.len(), 1);
        let r = &outcome.rewrites[0];
        assert_eq!((r.range, r.winner, r.holders[0].copy), (BlockRange::new(3, 1), Some(data(5)), 1));
        assert_eq!((r.requests.len(), r.olds.as_slice()), (1, [v(5)].as_slice()));
    }

    #[test]
    fn a_request_found_by_half_loses_in_all_its_blocks() {
        let torn = Entry::Damaged(v(5), Checksum(5));
        let a = tail(&[(0, &[data(5), data(1)]), (1, &[torn, data(2)])], &[(1, 0, 2, 5)]);
        let b = tail(&[], &[]);
        let outcome = resolve(&[&a, &b], v(3), v(4), true);
        assert_eq!(outcome.voided.len(), 1);
        // block 0 falls back to version 1, block 1 to version 2: both below the floor, both written again
        let winners: Vec<_> = outcome.rewrites.iter().map(|r| r.winner).collect();
        assert_eq!(winners, [Some(data(1)), Some(data(2))]);
        assert!(outcome.rewrites.iter().all(|r| r.requests.is_empty()));
    }

    #[test]
    fn below_min_copies_the_tail_stays_uncommitted() {
        let a = tail(&[(0, &[data(5)])], &[(1, 0, 1, 5)]);
        let outcome = resolve(&[&a], v(3), v(4), false);
        assert_eq!((outcome.rewrites.len(), outcome.committed.len()), (1, 0));
    }

    #[test]
    fn a_vanished_zero_is_not_a_difference() {
        let a = tail(&[(0, &[Entry::Zero(v(4))])], &[]);
        let b = tail(&[], &[]);
        assert_eq!(resolve(&[&a, &b], v(3), v(4), true), Outcome::default());
    }

    #[test]
    fn an_entry_missing_below_a_floor_is_corruption_and_repaired() {
        let a = tail(&[(0, &[data(4)])], &[]);
        let b = tail(&[], &[]);
        let outcome = resolve(&[&a, &b], v(3), v(4), true);
        assert_eq!((outcome.corruptions, outcome.rewrites.len()), (1, 1));
    }

    #[test]
    fn what_rotted_below_a_floor_is_asked_of_the_copies_that_list_nothing() {
        let rotten = Entry::Damaged(v(2), Checksum(2));
        let a = tail(&[(0, &[Entry::Damaged(v(5), Checksum(5)), rotten])], &[(1, 0, 1, 5)]);
        let outcome = resolve(&[&a, &tail(&[], &[])], v(4), v(4), true);
        let r = &outcome.rewrites[0];
        assert_eq!(
            (r.winner, r.checksums[0], r.holders.len(), r.holders[0].copy),
            (Some(rotten), Checksum(2), 1, 1)
        );
    }

    #[test]
    fn neighbours_of_one_version_are_one_write_inside_a_piece() {
        let blocks: Vec<(u16, SmallVec<[Entry; 2]>)> = (60..68).map(|b| (b, smallvec![data(5)])).collect();
        let blocks: Vec<(u16, &[Entry])> = blocks.iter().map(|b| (b.0, &b.1[..])).collect();
        let a = tail(&blocks, &[]);
        let ranges: Vec<_> =
            resolve(&[&a, &tail(&[], &[])], v(3), v(4), true).rewrites.iter().map(|r| r.range).collect();
        assert_eq!(ranges, [BlockRange::new(60, 4), BlockRange::new(64, 4)]);
    }
}
