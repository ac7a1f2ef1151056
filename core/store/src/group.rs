//! One group in a store: its ledger, its unmerged objects, its table, what of it is visible.
use crate::object::Object;
use crate::place::{Held, Place};
use crate::stack::Over;
use crate::table::Directory;
use sarsen_types::record::{Body, Content, Entry};
use sarsen_types::{BlockRange, Checksum, FamilyId, GroupId, LayerId, Ledger, ObjectId, Record, Version};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// See the module.
#[derive(Debug, Default)]
pub struct Group {
    /// What the copy remembers.
    pub ledger: Ledger,
    /// Its objects with unmerged changes.
    pub objects: BTreeMap<ObjectId, Object>,
    /// Its table.
    pub directory: Directory,
    /// Layers whose lines count for nothing and are being taken out of the table (R20).
    pub dropping: BTreeSet<LayerId>,
    /// Slots to write anew though nothing in them changed, by their first object: one of their two places is bad.
    pub ailing: BTreeSet<ObjectId>,
    /// All versions at or below it are committed, though the floor may be lower: of a joiner (R10, R15).
    pub settled: Version,
    /// `settled`, at the cut of the checkpoint under way: what it may merge.
    pub limit: Version,
    /// Versions above the floor that are committed.
    pub committed: BTreeSet<Version>,
    /// Entries since the last cut that lie over others of their block, by version: what is under them goes when the floor
    /// reaches them.
    pub stacked: Stacked,
    /// R23.
    pub may_vanish: bool,
    /// The floor at the cut of the checkpoint under way: up to it zero entries may vanish, for the root that lacks them has it.
    pub vanishing: Version,
    /// What the ledger said at that cut of what is forgotten: `touched` up to it may go (R18).
    pub forgetting: Version,
    /// R18.
    pub may_forget: bool,
}

/// Blocks by versions, ascending, which they nearly always come in. That one is named twice does no harm.
#[derive(Debug, Default)]
pub struct Stacked(VecDeque<(Version, ObjectId, u16)>);

impl Stacked {
    fn insert(&mut self, version: Version, id: ObjectId, block: u16) {
        let at = match self.0.back() {
            Some(last) if last.0 > version => self.0.partition_point(|s| s.0 <= version),
            _ => self.0.len(),
        };
        self.0.insert(at, (version, id, block));
    }
    /// None is left.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// What a record leaves behind.
#[derive(Debug, Default)]
pub struct Left {
    /// Places of unmerged entries that nothing names any more.
    pub gone: Vec<Held>,
    /// The table of a copy that was dropped.
    pub doomed: Option<Directory>,
    /// Blocks that were changed.
    pub blocks: u64,
    /// Leaves that the next checkpoint writes because of it.
    pub leaves: u64,
}

impl Group {
    /// What a record does here, in journal order. `places` are those of its data blocks.
    ///
    /// Records for which [`is_structural`] is true come only while no checkpoint is under way.
    pub fn apply(&mut self, record: &Record, places: &[u64], left: &mut Left) {
        self.ledger.apply(record);
        match &record.body {
            Body::Write(w) => {
                let stacked = &mut self.stacked;
                let object = self.objects.entry(w.object).or_default();
                let before = object.over.leaves;
                object.family = w.family;
                each_entry(record, places, |block, held| {
                    left.gone.extend(object.write(block, held));
                    if object.over.stacks.get(&block).is_some_and(|s| s.entries.len() > 1) {
                        stacked.insert(w.version, w.object, block);
                    }
                });
                object.touch(w.version);
                left.blocks += u64::from(w.range.count);
                left.leaves += u64::from((object.over.leaves & !before).count_ones());
            }
            Body::Recover(r) => {
                let stacked = &mut self.stacked;
                let object = self.objects.entry(r.object).or_default();
                let before = object.over.leaves;
                object.family = r.family;
                let low = Version::start(r.since);
                each_entry(record, places, |block, held| {
                    left.gone.extend(object.recover(block, held, low));
                    stack_up(stacked, object, r.object, block);
                });
                let highest = r.entries.iter().map(|e| e.version()).max().unwrap_or_default();
                object.touch(r.touched.max(highest));
                left.blocks += u64::from(r.range().count);
                left.leaves += u64::from((object.over.leaves & !before).count_ones());
            }
            Body::Repair { object, family, .. } => {
                let object = self.objects.entry(*object).or_default();
                object.family = *family;
                each_entry(record, places, |block, held| left.gone.extend(object.repair(block, held)));
                left.blocks += 1;
                left.leaves += 1;
            }
            Body::Assign { .. } | Body::DropGroup => {
                left.gone.extend(self.objects.values().flat_map(|o| o.owned()));
                left.doomed = Some(Directory { is_changed: true, ..std::mem::take(&mut self.directory) });
                *self = Group {
                    ledger: std::mem::take(&mut self.ledger),
                    may_vanish: self.may_vanish,
                    may_forget: self.may_forget,
                    ..Group::default()
                };
            }
            Body::DropLayer { layer } => {
                let (low, high) = layer_range(*layer);
                let ids: Vec<ObjectId> = self.objects.range(low..=high).map(|o| *o.0).collect();
                for id in ids {
                    left.gone.extend(self.objects.remove(&id).iter().flat_map(Object::owned));
                }
                if self.directory.slot_of(high).is_some() {
                    self.dropping.insert(*layer);
                }
            }
            Body::Promise
            | Body::Table(_)
            | Body::JoinBegan
            | Body::Distrust
            | Body::Fence { .. }
            | Body::Forget { .. } => {}
        }
    }

    /// R10: what lies under committed entries goes.
    pub fn settle(&mut self, below: Version, gone: &mut Vec<Held>) {
        self.settled = self.settled.max(below);
        while let Some((_, id, block)) = self.stacked.0.pop_front_if(|s| s.0 <= below) {
            let stack = self.objects.get_mut(&id).and_then(|o| o.over.stacks.get_mut(&block));
            stack.into_iter().for_each(|s| s.settle(below, gone));
        }
    }

    /// Marks what a record wrote to bad places, so that the record may be applied once more (S9).
    pub fn damage_at(&mut self, record: &Record, is_bad: &impl Fn(&u64) -> bool) {
        let Some(id) = object_of(record) else { return };
        let Some(object) = self.objects.get_mut(&id) else { return };
        let stacks = object.over.stacks.values_mut().chain(object.frozen.stacks.values_mut());
        for over in stacks.flat_map(|s| s.entries.iter_mut()) {
            if over.held.place.block().is_some_and(|b| is_bad(&b)) {
                over.held.place = over.held.place.damaged();
            }
        }
    }

    /// Whether an entry that is not merged still names one of the places of a record, and no block of it was recovered since.
    pub fn still_names(&self, record: &Record, places: &[u64]) -> bool {
        let (version, range) = match &record.body {
            Body::Write(w) => (w.version, w.range),
            Body::Recover(r) => (Version::start(r.since), r.range()),
            Body::Repair { block, version, .. } => (*version, BlockRange::new(*block, 1)),
            _ => return false,
        };
        let Some(object) = object_of(record).and_then(|id| self.objects.get(&id)) else { return false };
        let stacks = || range.blocks().flat_map(|block| object.stacks(block)).flatten();
        let names = |o: &Over| o.held.place.block().is_some_and(|block| places.contains(&block));
        stacks().all(|s| s.cut <= version) && stacks().flat_map(|s| &s.entries).any(names)
    }

    /// Puts back what a checkpoint did not merge of an object, or forgets an object without changes.
    pub fn put_back(&mut self, id: ObjectId, left: crate::object::Stacks, gone: &mut Vec<Held>) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        object.frozen = Default::default();
        let blocks: Vec<u16> = left.keys().copied().collect();
        object.slide_under(left, gone);
        blocks.into_iter().for_each(|block| stack_up(&mut self.stacked, object, id, block));
        if !object.is_changed() {
            self.objects.remove(&id);
        }
    }

    /// Puts what runs said of a bad leaf's blocks under what is not merged; `true` when that is about to be merged itself.
    pub fn put_under(
        &mut self,
        id: ObjectId,
        family: FamilyId,
        left: &crate::object::Stacks,
        gone: &mut Vec<Held>,
    ) -> bool {
        let object = self.objects.entry(id).or_default();
        object.family = family;
        if object.frozen.is_changed {
            for (block, older) in left {
                object.frozen.stacks.entry(*block).or_default().slide_under(older.clone(), gone);
            }
            return true;
        }
        object.slide_under(left.clone(), gone);
        left.keys().for_each(|block| stack_up(&mut self.stacked, object, id, *block));
        false
    }

    /// Whether a version is committed as far as this copy knows.
    pub fn sees(&self, version: Version) -> bool {
        version <= self.ledger.floor || self.committed.contains(&version)
    }
}

/// Notes the entries of a block that lie over others: what is under them goes when they are settled.
pub fn stack_up(stacked: &mut Stacked, object: &Object, id: ObjectId, block: u16) {
    let entries = object.over.stacks.get(&block).map_or(&[][..], |s| &s.entries);
    entries.iter().skip(1).for_each(|o| stacked.insert(o.held.version, id, block));
}

/// The objects of a layer: the lowest and the highest there may be.
pub fn layer_range(layer: LayerId) -> (ObjectId, ObjectId) {
    (ObjectId::new(layer.0, 0), ObjectId::new(layer.0, u32::MAX))
}

/// Whether a record takes tables away: it waits until no checkpoint is under way, whose cut still has them.
pub fn is_structural(record: &Record) -> bool {
    matches!(record.body, Body::Assign { .. } | Body::DropGroup | Body::DropLayer { .. })
}

/// The object whose blocks a record changes.
pub fn object_of(record: &Record) -> Option<ObjectId> {
    match &record.body {
        Body::Write(w) => Some(w.object),
        Body::Recover(r) => Some(r.object),
        Body::Repair { object, .. } => Some(*object),
        _ => None,
    }
}

/// The entries a record gives its blocks.
pub fn each_entry(record: &Record, places: &[u64], mut each: impl FnMut(u16, Held)) {
    let mut places = places.iter().map(|p| Place::data(*p));
    let mut next = || places.next().expect("a place for each data block was checked");
    let zero = |version| Held { version, place: Place::ZERO, checksum: Checksum::default() };
    match &record.body {
        Body::Write(w) => {
            for (at, block) in w.range.blocks().enumerate() {
                let held = match &w.content {
                    Content::Zero => zero(w.version),
                    Content::Data(sums) => Held { version: w.version, place: next(), checksum: sums[at] },
                };
                each(block, held);
            }
        }
        Body::Recover(r) => {
            for (block, entry) in r.range().blocks().zip(&r.entries) {
                let held = match *entry {
                    Entry::Absent => Held::ABSENT,
                    // damaged where it came from: nowhere here, and its group may have it elsewhere
                    Entry::Damaged(version, checksum) => Held { version, place: Place::LOST, checksum },
                    Entry::Zero(version) => zero(version),
                    Entry::Data(version, checksum) => Held { version, place: next(), checksum },
                };
                each(block, held);
            }
        }
        Body::Repair { block, version, checksum, .. } => {
            each(*block, Held { version: *version, place: next(), checksum: *checksum });
        }
        _ => {}
    }
}

/// Groups by id.
pub type Groups = BTreeMap<GroupId, Group>;
