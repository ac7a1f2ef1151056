//! One group in a store: its ledger, its objects, what of them is visible.
use crate::object::Object;
use crate::place::{Held, Kind};
use crate::store::entries_of;
use sarsen_types::record::Body;
use sarsen_types::{GroupId, Ledger, ObjectId, Record, Version};
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
#[derive(Debug, Default)]
pub struct Group {
    /// What the copy remembers.
    pub ledger: Ledger,
    /// Its objects.
    pub objects: BTreeMap<ObjectId, Object>,
    /// All versions at or below it are committed, though the floor may be lower: of a joiner (R10, R15).
    pub settled: Version,
    /// Versions above the floor that are committed.
    pub committed: BTreeSet<Version>,
    /// Objects with entries not merged.
    pub over: BTreeSet<ObjectId>,
    /// Blocks with more than one entry not merged: where something may go when the floor moves.
    pub stacked: BTreeSet<(ObjectId, u16)>,
    /// R23.
    pub may_vanish: bool,
    /// R18.
    pub may_forget: bool,
    /// Its table pages on disk: block and checksum.
    pub table: Vec<(u64, u32)>,
    /// Whether the table differs from the pages.
    pub is_changed: bool,
}

/// Places that nothing names any more: those of entries not merged, and those that leaves on disk name.
pub type Gone = (Vec<Held>, Vec<Held>);

impl Group {
    /// What a record does here, in journal order. `places` are those of its data blocks.
    pub fn apply(&mut self, record: &Record, places: &[u64]) -> Gone {
        self.ledger.apply(record);
        self.is_changed = true;
        let mut gone = (Vec::new(), Vec::new());
        match &record.body {
            Body::Write(w) => {
                let object = self.objects.entry(w.object).or_default();
                object.family = w.family;
                for (block, held) in entries_of(record, places) {
                    gone.0.extend(object.write(block, held));
                    if object.over.get(&block).is_some_and(|s| s.len() > 1) {
                        self.stacked.insert((w.object, block));
                    }
                }
                object.touched = object.touched.max(w.version);
                self.over.insert(w.object);
            }
            Body::Recover(r) => {
                let object = self.objects.entry(r.object).or_default();
                object.family = r.family;
                let low = Version::start(r.since);
                for (block, held) in entries_of(record, places) {
                    let base = object.base_of(block);
                    for held in object.recover(block, held, low) {
                        match !base.is_absent() && held == base {
                            true => gone.1.push(held),
                            false => gone.0.push(held),
                        }
                    }
                    if object.over.get(&block).is_some_and(|s| s.len() > 1) {
                        self.stacked.insert((r.object, block));
                    }
                }
                if r.range().count > 0 || r.touched > Version::ZERO {
                    object.touched = object.touched.max(r.touched);
                    object.is_changed = true;
                }
                self.over.insert(r.object);
            }
            Body::Repair { object, .. } => {
                for (block, held) in entries_of(record, places) {
                    self.repair(*object, block, held, &mut gone);
                }
            }
            Body::Assign { .. } | Body::DropGroup => {
                let all = std::mem::take(&mut self.objects);
                self.drop_objects(all, &mut gone);
                self.committed.clear();
                self.stacked.clear();
                self.settled = Version::ZERO;
            }
            Body::DropLayer { layer } => {
                let low = ObjectId { layer: *layer, ..ObjectId::default() };
                let ids: Vec<ObjectId> =
                    self.objects.range(low..).map(|o| *o.0).take_while(|o| o.layer == *layer).collect();
                let dropped = ids.into_iter().filter_map(|id| self.objects.remove_entry(&id)).collect();
                self.drop_objects(dropped, &mut gone);
            }
            Body::Promise
            | Body::Table(_)
            | Body::JoinBegan
            | Body::Distrust
            | Body::Fence { .. }
            | Body::Session { .. } => {}
        }
        gone
    }

    /// R26: only if the entry is still of that version.
    fn repair(&mut self, id: ObjectId, block: u16, held: Held, gone: &mut Gone) {
        let Some(object) = self.objects.get_mut(&id) else { return gone.0.push(held) };
        if let Some(same) =
            object.over.get_mut(&block).and_then(|s| s.iter_mut().find(|h| h.version == held.version))
        {
            gone.0.push(std::mem::replace(same, held));
        } else if object.base_of(block).version == held.version && !object.base_of(block).is_absent() {
            gone.1.push(object.base_of(block));
            // merged with the next checkpoint, as any entry above its base is
            object.set_base(block, Held::ABSENT);
            object.over.entry(block).or_default().insert(0, held);
            self.over.insert(id);
        } else {
            gone.0.push(held);
        }
    }

    fn drop_objects(&mut self, dropped: BTreeMap<ObjectId, Object>, gone: &mut Gone) {
        for (id, object) in dropped {
            self.over.remove(&id);
            gone.1.extend(object.base.iter().filter(|h| !h.is_absent()));
            gone.0.extend(object.over.values().flatten());
            let page = |p: &(u64, u32)| Held { place: crate::place::Place::data(p.0), ..Held::ABSENT };
            gone.1.extend(object.pages.at.iter().filter(|p| p.0 != 0).map(page));
        }
    }

    /// R10: what lies under committed entries goes.
    pub fn settle(&mut self, below: Version) -> Vec<Held> {
        let mut gone = Vec::new();
        self.settled = self.settled.max(below);
        self.stacked.retain(|(id, block)| {
            let Some(object) = self.objects.get_mut(id) else { return false };
            object.settle(*block, below, &mut gone);
            object.over.get(block).is_some_and(|s| s.len() > 1)
        });
        gone
    }

    /// Whether a version is committed as far as this copy knows.
    pub fn sees(&self, version: Version) -> bool {
        version <= self.ledger.floor || self.committed.contains(&version)
    }

    /// The committed entry of a block.
    pub fn visible(&self, id: ObjectId, block: u16) -> Held {
        self.objects.get(&id).map_or(Held::ABSENT, |o| o.find(block, |v| self.sees(v)))
    }

    /// Marks an entry as damaged, so that it is asked elsewhere from now on.
    pub fn damage(&mut self, id: ObjectId, block: u16, version: Version) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        if let Some(h) = object.over.get_mut(&block).and_then(|s| s.iter_mut().find(|h| h.version == version))
        {
            h.place = h.place.damaged();
        } else {
            let held = object.base_of(block);
            if held.version == version && held.place.kind() == Kind::Data {
                object.set_base(block, Held { place: held.place.damaged(), ..held });
            }
        }
    }
}

/// Groups by id.
pub type Groups = BTreeMap<GroupId, Group>;
