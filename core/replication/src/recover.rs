//! The objects of a join: compared block by block, and what differs sent (R14, R16, R18).
use crate::cx::Cx;
use crate::group::{Group, Role};
use crate::io::{Blocks, Output, Read, ReadFailed, Which};
use crate::join::{Sending, Stage};
use crate::wait::Wait;
use alloc::vec::Vec;
use sarsen_types::limits::{PIECE_BLOCKS_MAX, RECOVER_OBJECTS_MAX};
use sarsen_types::record::{Entry, Recover};
use sarsen_types::{BLOCKS_PER_CHUNK, BlockRange, Epoch, ObjectId, SliceId, Version};
use sarsen_wire::peer::GroupBody;
use smallvec::smallvec;

impl<P: Clone> Group<P> {
    /// Does what is next in a join.
    pub fn advance_join(&mut self, cx: &mut Cx<P>, joiner: SliceId) {
        self.go_on_sending(cx, joiner);
        loop {
            let Role::Primary(primary) = &mut self.role else { return };
            // while something committed is not shown, what would be compared is old
            if primary.is_collecting() || primary.is_veiled || !cx.peers.is_up(joiner) {
                return;
            }
            let Some(join) = primary.joins.get_mut(&joiner) else { return };
            if join.stage == Stage::Asked || join.sending.len() >= RECOVER_OBJECTS_MAX {
                break;
            }
            let Some(object) = join.todo.iter().find(|o| !join.sending.contains_key(o)).copied() else {
                break;
            };
            join.todo.remove(&object);
            if cx.view.is_deleted(object.layer) {
                continue; // a leftover that a late message brought (found in review: without its family nothing of it can be read)
            }
            let sending = join.next();
            join.sending.insert(object, Sending { sending, ..Sending::default() });
            self.send_uncommitted(cx, joiner, object);
            let token = cx.wait(Wait::OwnEntries { group: self.id, joiner, object, sending });
            cx.out.push(Output::ListEntries { token, group: self.id, object, visible_only: true });
            self.send(cx, joiner, GroupBody::VersionsQ { object, sending }, None);
        }
        self.finish_join(cx, joiner);
    }

    /// R16: an object's uncommitted writes go first, as Prepares; what was missed and is committed comes with the recovery.
    pub(crate) fn send_uncommitted(&mut self, cx: &mut Cx<P>, joiner: SliceId, object: ObjectId) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(join) = primary.joins.get_mut(&joiner) else { return };
        let mut late = Vec::new();
        join.missed.retain(|version, of| {
            if *of != object {
                return true;
            }
            let at = primary.pending.partition_point(|p| p.write.version < *version);
            if let Some(p) = primary.pending.get(at).filter(|p| p.write.version == *version) {
                late.push((p.write.clone(), p.payload.clone(), p.is_drain));
            }
            false
        });
        for (write, ..) in &late {
            join.unacked.insert(write.version, object);
        }
        for (write, payload, is_drain) in late {
            cx.peers.at(joiner).spend(u64::from(write.data_blocks()));
            self.send(cx, joiner, GroupBody::Prepare { write, is_drain }, payload);
        }
    }

    /// Our entries of an object.
    pub fn own_entries(
        &mut self,
        cx: &mut Cx<P>,
        joiner: SliceId,
        object: ObjectId,
        sending: u32,
        touched: Version,
        runs: Result<Vec<(u16, Entry)>, ReadFailed>,
    ) {
        let Some(s) = self.sending(joiner, object, sending) else { return };
        match runs {
            Ok(runs) => s.ours = Some((touched, runs)),
            Err(_) => {
                // our own page is lost: make it whole first, and come back to the object
                self.unsend(joiner, object);
                self.restore(cx, object, None);
                return;
            }
        }
        self.compare(cx, joiner, object, sending);
    }

    /// The joiner's entries of an object.
    pub fn peer_versions(
        &mut self,
        cx: &mut Cx<P>,
        from: SliceId,
        object: ObjectId,
        sending: u32,
        runs: Vec<(u16, Entry)>,
    ) {
        if self.restore_versions(cx, from, sending, &runs) {
            return;
        }
        let Some(s) = self.sending(from, object, sending) else { return };
        s.theirs = Some(runs);
        self.compare(cx, from, object, sending);
    }

    fn sending(&mut self, joiner: SliceId, object: ObjectId, sending: u32) -> Option<&mut Sending> {
        self.join(joiner)?.sending.get_mut(&object).filter(|s| s.sending == sending)
    }

    fn unsend(&mut self, joiner: SliceId, object: ObjectId) {
        if let Some(join) = self.join(joiner) {
            join.sending.remove(&object);
            join.list(object);
        }
    }

    fn compare(&mut self, cx: &mut Cx<P>, joiner: SliceId, object: ObjectId, sending: u32) {
        let Some(join) = self.join(joiner) else { return };
        let since = join.since;
        let Some(s) = join.sending.get_mut(&object) else { return };
        let (Some((touched, ours)), Some(theirs)) = (&s.ours, &s.theirs) else { return };
        s.touched = *touched;
        let compared = compared(ours, theirs, since);
        s.todo = compared.differing;
        s.todo.reverse();
        (s.ours, s.theirs) = (None, None);
        if compared.contradictions > 0 {
            cx.contradicted(self.id, compared.contradictions);
        }
        self.send_next(cx, joiner, object, sending);
    }

    fn send_next(&mut self, cx: &mut Cx<P>, joiner: SliceId, object: ObjectId, sending: u32) {
        let family = cx.view.layers.get(&object.layer).map(|l| l.family).unwrap_or_default();
        let Some(since) = self.join(joiner).map(|j| j.since) else { return };
        let Some(s) = self.sending(joiner, object, sending) else { return };
        let touched = s.touched;
        if let Some(&range) = s.todo.last() {
            let peer = cx.peers.at(joiner);
            s.waits = !peer.has_room_to_recover(u64::from(range.count));
            if s.waits {
                // found in review: whoever reads faster than the joiner writes filled the joiner's memory
                cx.counters.recovery_waited += 1;
                return;
            }
            peer.spend(u64::from(range.count));
            let stream = peer.stream;
            s.todo.pop();
            let read = Read {
                group: self.id,
                layers: smallvec![object.layer],
                family,
                chunk: object.chunk,
                range,
                which: Which::Visible,
            };
            let group = self.id;
            return cx.read(read, Wait::RecoverRead { group, joiner, object, sending, range, stream });
        }
        // the last: `touched`, also of an object that has nothing else (R18)
        let recover = Recover { object, family, since, first: 0, entries: Vec::new(), touched };
        self.send(cx, joiner, GroupBody::Recover { recover, sending, is_last: true }, None);
    }

    /// Sends on where the joiner granted nothing for a while.
    fn go_on_sending(&mut self, cx: &mut Cx<P>, joiner: SliceId) {
        let Some(join) = self.join(joiner) else { return };
        let waiting: Vec<(ObjectId, u32)> =
            join.sending.iter().filter(|(_, s)| s.waits).map(|(object, s)| (*object, s.sending)).collect();
        for (object, sending) in waiting {
            self.send_next(cx, joiner, object, sending);
        }
    }

    /// Whether something of a join to this slice waits for a grant.
    pub(crate) fn recovery_waits_for(&self, joiner: SliceId) -> bool {
        let Role::Primary(primary) = &self.role else { return false };
        primary.joins.get(&joiner).is_some_and(|join| join.sending.values().any(|s| s.waits))
    }

    /// Blocks for the joiner were read. Whether they are sent.
    pub fn recover_read(
        &mut self,
        cx: &mut Cx<P>,
        joiner: SliceId,
        object: ObjectId,
        sending: u32,
        range: BlockRange,
        done: Result<Blocks<P>, ReadFailed>,
    ) -> bool {
        let family = cx.view.layers.get(&object.layer).map(|l| l.family).unwrap_or_default();
        let Some(since) = self.join(joiner).map(|j| j.since) else { return false };
        if self.sending(joiner, object, sending).is_none() {
            return false;
        }
        match done {
            Ok(blocks) => {
                cx.counters.blocks_recovered +=
                    blocks.entries.iter().filter(|e| matches!(e, Entry::Data(..))).count() as u64;
                let recover = Recover {
                    object,
                    family,
                    since,
                    first: range.first,
                    entries: blocks.entries.to_vec(),
                    touched: Version::ZERO,
                };
                self.send(cx, joiner, GroupBody::Recover { recover, sending, is_last: false }, blocks.data);
                self.send_next(cx, joiner, object, sending);
                return true;
            }
            Err(ReadFailed::Corrupt(blocks)) => {
                for (_, block, entry) in blocks {
                    self.repair(cx, object, block, entry, None);
                }
                self.unsend(joiner, object);
            }
            Err(_) => {
                self.restore(cx, object, None);
                self.unsend(joiner, object);
            }
        }
        false
    }

    /// The joiner holds an object; the acknowledgement names the sending (R16).
    pub fn recovered(&mut self, cx: &mut Cx<P>, from: SliceId, object: ObjectId, sending: u32) {
        if self.sending(from, object, sending).is_none() {
            return;
        }
        if let Some(join) = self.join(from) {
            join.sending.remove(&object);
        }
        cx.counters.objects_recovered += 1;
        self.advance_join(cx, from);
    }
}

/// What a comparison of an object's entries found.
#[derive(PartialEq, Eq, Debug)]
struct Compared {
    /// The blocks that must travel.
    differing: Vec<BlockRange>,
    /// Blocks at one version on either side, intact, and not the same (R26).
    contradictions: usize,
}

/// The blocks that must travel: those below the join epoch that differ in any way, and those the primary has at a higher
/// version, or intact where the joiner's is damaged (R14). Where the joiner's top is a write of the join that is not
/// committed yet, what lies under it is compared too, by sending it: if that write is voided, it is what counts
/// (walk 42308: a damaged entry stayed under such a write, and a takeover fell back to it). Ranges lie inside pieces.
fn compared(ours: &[(u16, Entry)], theirs: &[(u16, Entry)], since: Epoch) -> Compared {
    let mut ranges: Vec<BlockRange> = Vec::new();
    let mut contradictions = 0;
    let (mut a, mut b) = (0, 0);
    for block in 0..BLOCKS_PER_CHUNK {
        while ours.get(a + 1).is_some_and(|r| r.0 <= block) {
            a += 1;
        }
        while theirs.get(b + 1).is_some_and(|r| r.0 <= block) {
            b += 1;
        }
        let mine = ours.get(a).map_or(Entry::Absent, |r| r.1);
        let other = theirs.get(b).map_or(Entry::Absent, |r| r.1);
        contradictions += usize::from(mine.contradicts(other));
        let differs = match other.version() < Version::start(since) {
            true => mine != other,
            false => {
                mine.version() < Version::start(since)
                    || mine.version() > other.version()
                    || (mine.version() == other.version() && !other.is_intact())
            }
        };
        if !differs {
            continue;
        }
        match ranges.last_mut() {
            Some(last) if last.end() == block && !block.is_multiple_of(PIECE_BLOCKS_MAX) => last.count += 1,
            _ => ranges.push(BlockRange::new(block, 1)),
        }
    }
    Compared { differing: ranges, contradictions }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_types::Checksum;

    fn data(epoch: u32, sequence: u64) -> Entry {
        Entry::Data(Version::new(Epoch(epoch), sequence), Checksum(sequence))
    }

    #[test]
    fn below_the_join_epoch_the_joiner_becomes_what_the_primary_has() {
        // block 0: the joiner's is higher, and was never committed; block 1: equal; block 2: the primary has nothing
        let ours = [(0, data(1, 1)), (1, data(1, 2)), (2, Entry::Absent)];
        let theirs = [(0, data(1, 9)), (1, data(1, 2)), (2, data(1, 3)), (3, Entry::Absent)];
        assert_eq!(
            compared(&ours, &theirs, Epoch(2)).differing,
            [BlockRange::new(0, 1), BlockRange::new(2, 1)]
        );
    }

    #[test]
    fn at_or_above_it_a_higher_version_travels_and_what_lies_under_an_open_write() {
        let ours = [(0, data(1, 1)), (1, data(2, 2)), (2, data(2, 3)), (3, Entry::Absent)];
        let damaged = Entry::Damaged(Version::new(Epoch(2), 3), Checksum(3));
        let theirs = [(0, data(2, 1)), (1, data(2, 1)), (2, damaged), (3, Entry::Absent)];
        // block 0's own travels to lie under the joiner's uncommitted write
        assert_eq!(compared(&ours, &theirs, Epoch(2)).differing, [BlockRange::new(0, 3)]);
    }

    #[test]
    fn one_version_with_two_contents_is_an_alarm() {
        let other = Entry::Data(Version::new(Epoch(1), 1), Checksum(77));
        let found =
            compared(&[(0, data(1, 1)), (2, Entry::Absent)], &[(0, other), (2, Entry::Absent)], Epoch(2));
        assert_eq!(found.contradictions, 2);
        let damaged = Entry::Damaged(Version::new(Epoch(1), 1), Checksum(77));
        assert_eq!(compared(&[(0, data(1, 1))], &[(0, damaged)], Epoch(2)).contradictions, 0);
    }
}
