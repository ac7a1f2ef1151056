//! Read-repair: a block this copy cannot read is fetched from another in-sync one, at exactly its version (R26).
use crate::cx::Cx;
use crate::group::{Group, Role};
use crate::machine::UNREADABLE;
use crate::wait::Wait;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use sarsen_types::limits::{BACKOFF_FIRST, PIECE_BLOCKS_MAX};
use sarsen_types::record::{Body, Entry, Recover};
use sarsen_types::{
    Alarm, BLOCKS_PER_CHUNK, BlockRange, Checksum, Epoch, FamilyId, ObjectId, SliceId, Version,
};
use sarsen_wire::client::ClientResult;
use sarsen_wire::peer::GroupBody;
use smallvec::SmallVec;

/// The answer to who asked for blocks that cannot be read, or not now.
pub fn unreadable(range: BlockRange, is_lost: bool) -> ClientResult {
    match is_lost {
        true => ClientResult::Corrupt { range },
        false => ClientResult::Retry { after: BACKOFF_FIRST },
    }
}

/// Who waits for a repair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reader {
    /// A client's read, by its number.
    Read(u64),
    /// A part-block write that is to be merged, by its key.
    Merge(u64),
}

/// A block being repaired.
#[derive(Debug)]
struct Repair {
    object: ObjectId,
    family: FamilyId,
    block: u16,
    version: Version,
    checksum: Checksum,
    /// Copies not asked yet.
    left: SmallVec<[SliceId; 4]>,
    asked: SliceId,
    readers: SmallVec<[Reader; 2]>,
}

/// An object whose map page is lost, being recovered whole from another in-sync copy.
#[derive(Debug)]
struct Restore {
    object: ObjectId,
    family: FamilyId,
    from: SliceId,
    left: SmallVec<[SliceId; 4]>,
    /// Copies that cannot read it either: it is lost only when all of them said so.
    without: SmallVec<[SliceId; 2]>,
    /// Runs still to be fetched, last first.
    todo: Vec<(BlockRange, Entry)>,
    /// Something was left out that is not committed yet.
    is_part: bool,
    touched: Version,
    readers: SmallVec<[Reader; 2]>,
}

/// Blocks remembered that no copy had when they were asked for: of more, some are asked for once more than they must be.
const DOUBTED_MAX: usize = 1024;
/// Marks what a restore asks for among what joins ask for.
const SENDING_OF_RESTORES: u32 = 1 << 31;

fn sending_of(token: u64) -> u32 {
    SENDING_OF_RESTORES | token as u32
}

/// Repairs under way, by token.
#[derive(Debug, Default)]
pub struct Repairs {
    blocks: BTreeMap<u64, Repair>,
    /// Each by what it waits for now: a listing, some blocks, or a record to be durable.
    objects: BTreeMap<u64, Restore>,
    /// Blocks that no copy had at this version when they were last asked for.
    doubted: BTreeMap<(ObjectId, u16), Version>,
    next: u64,
}

impl Repairs {
    /// Whether no doubt was known of this block at this version; it is from now on.
    fn doubts(&mut self, place: (ObjectId, u16), version: Version) -> bool {
        if self.doubted.get(&place) == Some(&version) {
            return false;
        }
        if self.doubted.len() >= DOUBTED_MAX {
            self.doubted.clear();
        }
        self.doubted.insert(place, version);
        true
    }

    fn token(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A restore waits for something else from now on, and what it waited for does not concern it when it comes. Blocks that
    /// were asked for twice, and came for the run before, were installed as those of the next (simulator, seed 1853).
    fn step(&mut self, token: u64) -> Option<(u64, &mut Restore)> {
        let restore = self.objects.remove(&token)?;
        let next = self.token();
        Some((next, self.objects.entry(next).or_insert(restore)))
    }
}

impl<P: Clone> Group<P> {
    /// Whom to ask for a block: joiners too, last. The version and the checksum we hold say which block it is to be, so it
    /// does not matter what else a joiner lacks; where we are the only in-sync copy it may be all that is left (simulator).
    fn who_may_have_it(&self, cx: &Cx<P>) -> SmallVec<[SliceId; 4]> {
        let mut all: SmallVec<[SliceId; 4]> = self.state.joining.iter().map(|j| j.slice).collect();
        all.extend(self.others_in_sync(cx.me));
        all
    }

    /// Whether all who may have it are there to be asked.
    fn reaches_all(&self, cx: &Cx<P>) -> bool {
        self.who_may_have_it(cx).iter().all(|s| cx.peers.is_up(*s))
    }

    fn reader_goes_on(&mut self, cx: &mut Cx<P>, reader: Reader) {
        match reader {
            Reader::Read(key) => self.read_repaired(cx, key),
            Reader::Merge(key) => self.merge_repaired(cx, key),
        }
    }

    fn reader_failed(&mut self, cx: &mut Cx<P>, reader: Reader, is_lost: bool) {
        match reader {
            Reader::Read(key) => self.read_lost(cx, key, is_lost),
            Reader::Merge(key) => self.merge_failed(cx, key, is_lost),
        }
    }

    /// Repairs a block; `reader` waits for it.
    pub fn repair(
        &mut self,
        cx: &mut Cx<P>,
        object: ObjectId,
        block: u16,
        entry: Entry,
        reader: Option<Reader>,
    ) {
        let mut left = self.who_may_have_it(cx);
        left.retain(|s| cx.peers.is_up(*s));
        let family = cx.view.layers.get(&object.layer).map(|l| l.family);
        let (Some(family), Entry::Data(version, checksum) | Entry::Damaged(version, checksum)) =
            (family, entry)
        else {
            // nothing that could be asked for
            return reader.into_iter().for_each(|r| self.reader_failed(cx, r, true));
        };
        let Role::Primary(primary) = &mut self.role else { return };
        let repairs = &mut primary.repairs;
        if let Some(same) = repairs.blocks.values_mut().find(|r| (r.object, r.block) == (object, block)) {
            same.readers.extend(reader);
            return;
        }
        let token = repairs.token();
        let readers = reader.into_iter().collect();
        let repair = Repair { object, family, block, version, checksum, left, asked: cx.me, readers };
        repairs.blocks.insert(token, repair);
        self.ask_repair(cx, token);
    }

    fn ask_repair(&mut self, cx: &mut Cx<P>, token: u64) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(repair) = primary.repairs.blocks.get_mut(&token) else { return };
        let Some(to) = repair.left.pop() else {
            let repair = primary.repairs.blocks.remove(&token).expect("it was just there");
            let is_lost = self.reaches_all(cx);
            let Role::Primary(primary) = &mut self.role else { return };
            // Who overwrote it while we asked has it no more, and that is no loss (simulator, seed 9487): it is lost if it is
            // what a second look finds here, and what nobody has then.
            if is_lost && primary.repairs.doubts((repair.object, repair.block), repair.version) {
                repair.readers.into_iter().for_each(|r| self.reader_goes_on(cx, r));
                return;
            }
            if is_lost {
                cx.counters.unrepairable += 1;
                let what = alloc::format!(
                    "{:?} block {} of {:?} is intact on no copy at {:?}",
                    repair.object,
                    repair.block,
                    self.id,
                    repair.version
                );
                cx.raise(self.id, Alarm::Gone, 1, what);
            }
            for reader in repair.readers {
                self.reader_failed(cx, reader, is_lost);
            }
            return;
        };
        repair.asked = to;
        let body = GroupBody::FetchQ {
            token,
            object: repair.object,
            range: BlockRange::new(repair.block, 1),
            version: repair.version,
        };
        self.send(cx, to, body, None);
    }

    /// A copy answered; `false` when the token is not of a repair.
    pub fn repair_fetched(
        &mut self,
        cx: &mut Cx<P>,
        from: SliceId,
        token: u64,
        checksums: &[Checksum],
        payload: Option<P>,
    ) -> bool {
        let Role::Primary(primary) = &mut self.role else { return false };
        if primary.repairs.objects.contains_key(&token) {
            self.restore_fetched(cx, token, checksums, payload);
            return true;
        }
        let Some(repair) = primary.repairs.blocks.get(&token).filter(|r| r.asked == from) else {
            return false;
        };
        match payload {
            Some(payload) if checksums == [repair.checksum] => {
                let body = Body::Repair {
                    object: repair.object,
                    family: repair.family,
                    block: repair.block,
                    version: repair.version,
                    checksum: repair.checksum,
                };
                cx.persist(self.id, self.seen, body, Some(payload), Wait::Repaired { group: self.id, token });
            }
            _ => self.ask_repair(cx, token),
        }
        true
    }

    /// The repaired block is durable.
    pub fn repaired(&mut self, cx: &mut Cx<P>, token: u64) {
        let Role::Primary(primary) = &mut self.role else { return };
        if let Some(repair) = primary.repairs.blocks.remove(&token) {
            cx.counters.repairs += 1;
            for reader in repair.readers {
                self.reader_goes_on(cx, reader);
            }
        } else if primary.repairs.objects.contains_key(&token) {
            self.fetch_run(cx, token);
        }
    }

    /// A new epoch of ours: answers to what was asked in the old one may not come any more.
    pub fn repairs_again(&mut self, cx: &mut Cx<P>) {
        for copy in self.state.members.clone() {
            self.repairs_lost(cx, copy.slice);
        }
    }

    /// A copy went, or nothing came: ask the next.
    pub fn repairs_lost(&mut self, cx: &mut Cx<P>, gone: SliceId) {
        let Role::Primary(primary) = &mut self.role else { return };
        let blocks: Vec<u64> =
            (primary.repairs.blocks.iter()).filter(|r| r.1.asked == gone).map(|r| *r.0).collect();
        let objects: Vec<u64> =
            (primary.repairs.objects.iter()).filter(|r| r.1.from == gone).map(|r| *r.0).collect();
        for token in blocks {
            // the copy that went may have been the last that was left: all are asked again
            let left = self.who_may_have_it(cx).into_iter().filter(|s| cx.peers.is_up(*s)).collect();
            let Role::Primary(primary) = &mut self.role else { return };
            if let Some(repair) = primary.repairs.blocks.get_mut(&token) {
                repair.left = left;
            }
            self.ask_repair(cx, token);
        }
        for token in objects {
            // as above, and the copies may be others now: a promotion in mid-restore was told as a loss (simulator, seed 232)
            let left = self.others_in_sync(cx.me).into_iter().filter(|s| cx.peers.is_up(*s)).collect();
            let Role::Primary(primary) = &mut self.role else { return };
            if let Some(restore) = primary.repairs.objects.get_mut(&token) {
                (restore.left, restore.without) = (left, SmallVec::new());
            }
            self.ask_restore(cx, token);
        }
    }

    // ---- an object whose map page is lost ----

    /// R26: the object is refused and recovered whole. What is above our floor is in the journal and not lost with a
    /// page; so the top entries of another in-sync copy, installed as in a join of this epoch, make it whole.
    pub fn restore(&mut self, cx: &mut Cx<P>, object: ObjectId, reader: Option<Reader>) {
        let mut left = self.others_in_sync(cx.me);
        left.retain(|s| cx.peers.is_up(*s));
        let Some(family) = cx.view.layers.get(&object.layer).map(|l| l.family) else {
            return reader.into_iter().for_each(|r| self.reader_failed(cx, r, true));
        };
        let Role::Primary(primary) = &mut self.role else { return };
        let repairs = &mut primary.repairs;
        if let Some(same) = repairs.objects.values_mut().find(|r| r.object == object) {
            same.readers.extend(reader);
            return;
        }
        let token = repairs.token();
        let readers = reader.into_iter().collect();
        let touched = Version::ZERO;
        repairs.objects.insert(
            token,
            Restore {
                object,
                family,
                from: cx.me,
                left,
                without: SmallVec::new(),
                todo: Vec::new(),
                is_part: false,
                touched,
                readers,
            },
        );
        self.ask_restore(cx, token);
    }

    fn ask_restore(&mut self, cx: &mut Cx<P>, token: u64) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Some((token, restore)) = primary.repairs.step(token) else { return };
        let object = restore.object;
        let Some(to) = restore.left.pop() else {
            let restore = primary.repairs.objects.remove(&token).expect("it was just there");
            let all_said_so = self.others_in_sync(cx.me).iter().all(|s| restore.without.contains(s));
            let is_lost = all_said_so && self.reaches_all(cx);
            if is_lost {
                cx.counters.unrepairable += 1;
                let what = alloc::format!("the map of {object:?} of {:?} is readable on no copy", self.id);
                cx.raise(self.id, Alarm::Gone, 1, what);
            }
            for reader in restore.readers {
                self.reader_failed(cx, reader, is_lost);
            }
            return;
        };
        restore.from = to;
        restore.todo.clear();
        restore.is_part = false;
        self.send(cx, to, GroupBody::VersionsQ { object, sending: sending_of(token) }, None);
    }

    /// The other copy's entries; `false` when they are not for a restore.
    pub fn restore_versions(
        &mut self,
        cx: &mut Cx<P>,
        from: SliceId,
        sending: u32,
        runs: &[(u16, Entry)],
    ) -> bool {
        let floor = self.ledger.floor;
        let Role::Primary(primary) = &mut self.role else { return false };
        let is_it = |r: &(&u64, &mut Restore)| sending_of(*r.0) == sending && r.1.from == from;
        let Some((&token, restore)) = primary.repairs.objects.iter_mut().find(is_it) else {
            return sending & SENDING_OF_RESTORES != 0; // of one that is over, or that asked again since
        };
        if runs.is_empty() || *runs == [UNREADABLE] {
            restore.without.push(from);
            self.ask_restore(cx, token);
            return true;
        }
        for (at, &(first, entry)) in runs.iter().enumerate() {
            let end = runs.get(at + 1).map_or(BLOCKS_PER_CHUNK, |next| next.0);
            if entry.version() > floor {
                // not committed, or not yet: it would take the place of what is. Ours is in the journal, and once it is
                // committed nothing under it counts.
                restore.is_part = true;
                continue;
            }
            restore.touched = restore.touched.max(entry.version());
            let mut first = first;
            while first < end {
                // a record covers at most a piece, and does not cross one
                let next = end.min((first / PIECE_BLOCKS_MAX + 1) * PIECE_BLOCKS_MAX);
                restore.todo.push((BlockRange::new(first, next - first), entry));
                first = next;
            }
        }
        self.fetch_run(cx, token);
        true
    }

    fn fetch_run(&mut self, cx: &mut Cx<P>, token: u64) {
        let epoch = self.seen;
        let Role::Primary(primary) = &mut self.role else { return };
        let Some((token, restore)) = primary.repairs.step(token) else { return };
        let Some((range, entry)) = restore.todo.pop() else {
            let restore = primary.repairs.objects.remove(&token).expect("it was just there");
            cx.counters.objects_restored += u64::from(!restore.is_part);
            for reader in restore.readers {
                match restore.is_part {
                    true => self.reader_failed(cx, reader, false),
                    false => self.reader_goes_on(cx, reader),
                }
            }
            return;
        };
        match entry {
            Entry::Data(version, _) => {
                let (to, object) = (restore.from, restore.object);
                restore.todo.push((range, entry)); // until it has come
                self.send(cx, to, GroupBody::FetchQ { token, object, range, version }, None);
            }
            // what is damaged there is damaged here too from now on: a block by itself, which the next copy may have
            given => {
                let body = recover(restore, epoch, range, |_| given);
                cx.persist(self.id, epoch, body, None, Wait::Repaired { group: self.id, token });
            }
        }
    }

    fn restore_fetched(&mut self, cx: &mut Cx<P>, token: u64, checksums: &[Checksum], payload: Option<P>) {
        let epoch = self.seen;
        let Role::Primary(primary) = &mut self.role else { return };
        let Some((token, restore)) = primary.repairs.step(token) else { return };
        let Some(&(range, entry)) = restore.todo.last() else { return };
        match payload {
            Some(payload) if checksums.len() == range.count as usize => {
                restore.todo.pop();
                let body = recover(restore, epoch, range, |at| Entry::Data(entry.version(), checksums[at]));
                cx.persist(self.id, epoch, body, Some(payload), Wait::Repaired { group: self.id, token });
            }
            // not intact there: the next copy may have it
            _ if !restore.left.is_empty() => self.ask_restore(cx, token),
            // overwritten there meanwhile, which is no loss (simulator, seed 268): whoever reads it asks again, and the
            // listing is then made anew
            _ => {
                let restore = primary.repairs.objects.remove(&token).expect("it was just there");
                for reader in restore.readers {
                    self.reader_failed(cx, reader, false);
                }
            }
        }
    }
}

fn recover(restore: &Restore, since: Epoch, range: BlockRange, entry: impl Fn(usize) -> Entry) -> Body {
    Body::Recover(Recover {
        object: restore.object,
        family: restore.family,
        since,
        first: range.first,
        entries: (0..range.count as usize).map(entry).collect(),
        touched: restore.touched,
    })
}
