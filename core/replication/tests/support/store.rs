//! A store in forty bytes a block: what a copy keeps, journal queue and all, without disk, cache or map.
use sarsen_replication::{Blocks, Input, Output, Read, ReadFailed, Token, Which};
use sarsen_types::record::{BlockStack, Body, Content, Entry};
use sarsen_types::{
    BLOCKS_PER_CHUNK, BlockRange, Checksum, FamilyId, GroupId, Ledger, ObjectId, Record, Version,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// Whole blocks, each one number.
pub type Payload = Rc<Vec<u64>>;

/// What survives a crash.
#[derive(Clone, Default)]
pub struct Disk {
    pub ledgers: BTreeMap<GroupId, Ledger>,
    /// Highest version last.
    pub blocks: BTreeMap<(GroupId, ObjectId, u16), Vec<(Entry, u64)>>,
    pub touched: BTreeMap<(GroupId, ObjectId), Version>,
}

/// A disk and what waits to be durable on it.
#[derive(Default)]
pub struct Store {
    pub disk: Disk,
    pub queue: VecDeque<(Token, Record, Option<Payload>, Version)>,
    pub floors: BTreeMap<GroupId, Version>,
    committed: BTreeSet<(GroupId, Version)>,
    /// Records are kept in the queue while set.
    pub is_slow: bool,
}

impl Store {
    pub fn open(disk: Disk) -> Store {
        let floors = disk.ledgers.iter().map(|(g, l)| (*g, l.floor)).collect();
        Store { disk, floors, ..Store::default() }
    }

    fn ledger(&mut self, group: GroupId) -> &mut Ledger {
        self.disk.ledgers.entry(group).or_default()
    }

    /// Does what the machine asks; answers come back as inputs.
    pub fn carry_out(&mut self, output: Output<Payload>, answers: &mut VecDeque<Input<Payload>>) {
        match output {
            Output::Persist { token, record, payload } => {
                let floor = self.floors.get(&record.group).copied().unwrap_or_default();
                self.queue.push_back((token, record, payload, floor));
            }
            Output::Read { token, read } => answers.push_back(Input::ReadDone(token, self.read(&read))),
            Output::Merge { token, read, offset, len, payload } => {
                let mut blocks = self.visible(&read);
                let first = offset / 4096;
                for at in 0..len.div_ceil(4096) as usize {
                    let _ = first;
                    blocks[at] = payload.as_ref().map_or(0, |p| p[at]);
                }
                let sums = blocks.iter().map(|b| Checksum(*b)).collect();
                answers.push_back(Input::Merged(token, Ok((Rc::new(blocks), sums))));
            }
            Output::Status { token, .. } => answers.push_back(Input::Status(token, Ok(vec![]))),
            Output::Commit(group, version) => drop(self.committed.insert((group, version))),
            Output::RaiseFloor(group, floor) => {
                let known = self.floors.entry(group).or_default();
                *known = (*known).max(floor);
                self.ledger(group).raise_floor(floor);
                self.settle(group, floor);
            }
            Output::Settle(group, below) => self.settle(group, below),
            Output::ListStacks { token, group, above, after } => {
                let blocks = (self.disk.blocks.iter())
                    .filter(|((g, o, b), stack)| {
                        *g == group
                            && after.is_none_or(|a| (*o, *b) > a)
                            && stack.last().unwrap().0.version() > above
                    })
                    .map(|((_, object, block), stack)| {
                        let mut out = smallvec::SmallVec::new();
                        for (entry, _) in stack.iter().rev() {
                            out.push(*entry);
                            if entry.version() <= above {
                                break;
                            }
                        }
                        BlockStack { object: *object, family: FamilyId(1), block: *block, stack: out }
                    });
                let mut blocks: Vec<BlockStack> = blocks.take(4).collect(); // small pages, so that paging is met
                let is_last = blocks.len() < 4;
                blocks.truncate(3);
                answers.push_back(Input::Stacks(token, blocks, is_last));
            }
            Output::ListTouched { token, group, above, after } => {
                let objects = (self.disk.touched.iter())
                    .filter(|((g, o), t)| *g == group && **t > above && after.is_none_or(|a| *o > a))
                    .map(|((_, o), t)| (*o, *t));
                answers.push_back(Input::Touched(token, objects.collect(), true));
            }
            Output::ListEntries { token, group, object, visible_only } => {
                let mut runs: Vec<(u16, Entry)> = Vec::new();
                for block in 0..BLOCKS_PER_CHUNK {
                    let entry = match self.disk.blocks.get(&(group, object, block)) {
                        None => Entry::Absent,
                        Some(_) if visible_only => {
                            self.seen(group, object, block).map_or(Entry::Absent, |e| e.0)
                        }
                        Some(stack) => stack.last().unwrap().0,
                    };
                    if runs.last().is_none_or(|r| r.1 != entry) {
                        runs.push((block, entry));
                    }
                }
                let touched = self.disk.touched.get(&(group, object)).copied().unwrap_or_default();
                answers.push_back(Input::Entries(token, touched, Ok(runs)));
            }
            _ => {}
        }
    }

    fn seen(&self, group: GroupId, object: ObjectId, block: u16) -> Option<(Entry, u64)> {
        let floor = self.floors.get(&group).copied().unwrap_or_default();
        let stack = self.disk.blocks.get(&(group, object, block))?;
        stack
            .iter()
            .rev()
            .copied()
            .find(|(e, _)| e.version() <= floor || self.committed.contains(&(group, e.version())))
    }

    fn visible(&self, read: &Read) -> Vec<u64> {
        let object = ObjectId { layer: read.layers[0], chunk: read.chunk };
        read.range.blocks().map(|b| self.seen(read.group, object, b).map_or(0, |e| e.1)).collect()
    }

    fn read(&self, read: &Read) -> Result<Blocks<Payload>, ReadFailed> {
        let object = ObjectId { layer: read.layers[0], chunk: read.chunk };
        let (mut entries, mut data) = (smallvec::SmallVec::new(), Vec::new());
        for block in read.range.blocks() {
            let found = match read.which {
                Which::Visible => self.seen(read.group, object, block),
                Which::Exact(v) => {
                    let stack = self.disk.blocks.get(&(read.group, object, block));
                    Some(
                        *stack
                            .and_then(|s| s.iter().find(|e| e.0.version() == v))
                            .ok_or(ReadFailed::Missing)?,
                    )
                }
            };
            match found {
                Some((Entry::Damaged(v, c), _)) => {
                    return Err(ReadFailed::Corrupt(vec![(object.layer, block, Entry::Damaged(v, c))]));
                }
                Some((entry, content)) => {
                    entries.push(entry);
                    if matches!(entry, Entry::Data(..)) {
                        data.push(content);
                    }
                }
                None => entries.push(Entry::Absent),
            }
        }
        Ok(Blocks { entries, data: (!data.is_empty()).then(|| Rc::new(data)) })
    }

    /// The oldest record is durable.
    pub fn persist_one(&mut self) -> Option<Token> {
        let (token, record, payload, floor) = self.queue.pop_front()?;
        self.apply(&record, payload.as_deref(), floor, &[]);
        Some(token)
    }

    /// A crash: of the queue the first `durable` records stand, with the data blocks named in `torn` of the last damaged.
    pub fn crash(mut self, durable: usize, torn: &[u16]) -> Disk {
        for at in 0..durable.min(self.queue.len()) {
            let (_, record, payload, floor) = self.queue[at].clone();
            let torn = if at + 1 == durable { torn } else { &[] };
            self.apply(&record, payload.as_deref(), floor, torn);
        }
        self.disk
    }

    fn apply(&mut self, record: &Record, data: Option<&Vec<u64>>, floor: Version, torn: &[u16]) {
        let group = record.group;
        let ledger = self.disk.ledgers.entry(group).or_default();
        ledger.apply(record);
        if !matches!(record.body, Body::Assign { .. } | Body::Distrust | Body::DropGroup) {
            ledger.raise_floor(floor);
        }
        match &record.body {
            Body::Assign { .. } | Body::DropGroup => {
                self.disk.blocks.retain(|k, _| k.0 != group);
                self.disk.touched.retain(|k, _| k.0 != group);
            }
            Body::Write(w) => {
                for (at, block) in w.range.blocks().enumerate() {
                    let entry = match &w.content {
                        Content::Zero => (Entry::Zero(w.version), 0),
                        Content::Data(c) if torn.contains(&block) => (Entry::Damaged(w.version, c[at]), 0),
                        Content::Data(c) => {
                            (Entry::Data(w.version, c[at]), data.expect("data travel beside")[at])
                        }
                    };
                    let stack = self.disk.blocks.entry((group, w.object, block)).or_default();
                    let is_top = stack.last().is_none_or(|t| t.0.version() < w.version);
                    match stack.iter_mut().find(|e| e.0.version() == w.version) {
                        Some(same) => *same = entry,
                        None if is_top => stack.push(entry),
                        None => {}
                    }
                }
                let touched = self.disk.touched.entry((group, w.object)).or_default();
                *touched = (*touched).max(w.version);
            }
            Body::Recover(r) => {
                let low = Version::start(r.since);
                let mut top = r.touched;
                let mut data = data.into_iter().flatten();
                for (block, entry) in r.range().blocks().zip(&r.entries) {
                    let content = if matches!(entry, Entry::Data(..)) { *data.next().unwrap() } else { 0 };
                    let stack = self.disk.blocks.entry((group, r.object, block)).or_default();
                    // R14: what is below the join epoch, whatever lies on it, becomes what the primary has committed
                    stack.retain(|e| e.0.version() >= low);
                    match stack.iter_mut().find(|e| e.0.version() == entry.version()) {
                        Some(same) if !same.0.is_intact() => *same = (*entry, content),
                        Some(_) => {}
                        None => {
                            let at = stack.partition_point(|e| e.0.version() < entry.version());
                            stack.insert(at, (*entry, content));
                        }
                    }
                    if stack.iter().all(|e| e.0 == Entry::Absent) {
                        self.disk.blocks.remove(&(group, r.object, block));
                    }
                    top = top.max(entry.version());
                }
                let touched = self.disk.touched.entry((group, r.object)).or_default();
                *touched = (*touched).max(top);
            }
            Body::Repair { object, block, version, checksum, .. } => {
                if let Some(stack) = self.disk.blocks.get_mut(&(group, *object, *block)) {
                    for e in stack.iter_mut().filter(|e| e.0.version() == *version) {
                        *e = (Entry::Data(*version, *checksum), data.unwrap()[0]);
                    }
                }
            }
            _ => {}
        }
    }

    /// R10: what a committed write displaced goes.
    fn settle(&mut self, group: GroupId, below: Version) {
        for (_, stack) in
            self.disk.blocks.range_mut((group, ObjectId::default(), 0)..).take_while(|(k, _)| k.0 == group)
        {
            while stack.len() >= 2 && stack[1].0.version() <= below {
                stack.remove(0);
            }
        }
        self.committed.retain(|c| c.0 != group || c.1 > below);
    }

    /// What a block reads as, by its top intact entry.
    pub fn top(&self, group: GroupId, object: ObjectId, block: u16) -> (Version, u64) {
        let stack = self.disk.blocks.get(&(group, object, block));
        stack.and_then(|s| s.last()).map_or((Version::ZERO, 0), |e| (e.0.version(), e.1))
    }
}

/// A range of blocks in a chunk.
pub fn blocks(first: u16, count: u16) -> BlockRange {
    BlockRange::new(first, count)
}
