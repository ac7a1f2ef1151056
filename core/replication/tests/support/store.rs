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
    /// Records with data find no space while set.
    pub is_full: bool,
    may_vanish: bool,
    may_forget: bool,
    /// Part-block writes wait for the blocks they lie in while set.
    pub holds_reads: bool,
    /// Reads and merges that were done, and are not told.
    pub held: Vec<Input<Payload>>,
    /// Objects with a lost map page: what they held then is not known.
    lost: BTreeSet<(GroupId, ObjectId)>,
    lost_blocks: BTreeMap<(GroupId, ObjectId), BTreeSet<u16>>,
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
            Output::Persist { token, .. }
                if self.is_full && matches!(&output, Output::Persist { payload: Some(_), .. }) =>
            {
                answers.push_back(Input::NoSpace(token));
            }
            Output::Persist { token, record, payload } => {
                if matches!(record.body, Body::Assign { .. } | Body::Distrust | Body::DropGroup) {
                    self.floors.remove(&record.group);
                }
                let floor = self.floors.get(&record.group).copied().unwrap_or_default();
                self.queue.push_back((token, record, payload, floor));
            }
            Output::Read { token, read } => {
                let done = Input::ReadDone(token, self.read(&read));
                self.tell(done, answers);
            }
            Output::Merge { token, read, offset, len, payload } => {
                let _ = (offset, len); // a block is one number: the part is the whole
                let done = self.read(&read).map(|_| {
                    let blocks: Vec<u64> = payload.map_or(vec![0], |p| p.to_vec());
                    let sums = blocks.iter().map(|b| Checksum(*b)).collect();
                    (Rc::new(blocks), sums)
                });
                self.tell(Input::Merged(token, done), answers);
            }
            Output::Status { token, .. } => answers.push_back(Input::Status(token, Ok(vec![]))),
            Output::Commit(group, version) => {
                self.committed.insert((group, version));
                // R10: what lies under a committed entry may be used again, and here it is
                for (_, stack) in self.of_group(group) {
                    if let Some(at) = stack.iter().position(|e| e.0.version() == version) {
                        stack.drain(..at);
                    }
                }
            }
            Output::Vanish { may_vanish, may_forget, .. } => {
                (self.may_vanish, self.may_forget) = (may_vanish, may_forget);
            }
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
                let is_lost = self.lost.contains(&(group, object));
                let runs = if is_lost { Err(ReadFailed::Unreadable(object)) } else { Ok(runs) };
                answers.push_back(Input::Entries(token, touched, runs));
            }
            _ => {}
        }
    }

    fn tell(&mut self, done: Input<Payload>, answers: &mut VecDeque<Input<Payload>>) {
        match self.holds_reads {
            true => self.held.push(done),
            false => answers.push_back(done),
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

    fn read(&self, read: &Read) -> Result<Blocks<Payload>, ReadFailed> {
        let object = ObjectId { layer: read.layers[0], chunk: read.chunk };
        let (mut entries, mut data) = (smallvec::SmallVec::new(), Vec::new());
        if self.lost.contains(&(read.group, object)) && read.which == Which::Visible {
            return Err(ReadFailed::Unreadable(object));
        }
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

    /// A page is lost: what was settled of the object is gone, what is above the floor is in the journal.
    pub fn lose_page(&mut self, group: GroupId, object: ObjectId) {
        let floor = self.floors.get(&group).copied().unwrap_or_default();
        for block in 0..BLOCKS_PER_CHUNK {
            if let Some(stack) = self.disk.blocks.get_mut(&(group, object, block)) {
                stack.retain(|e| e.0.version() > floor);
                if stack.is_empty() {
                    self.disk.blocks.remove(&(group, object, block));
                }
            }
        }
        self.lost.insert((group, object));
        self.lost_blocks.insert((group, object), (0..BLOCKS_PER_CHUNK).collect());
    }
    pub fn has_lost_page(&self, group: GroupId, object: ObjectId) -> bool {
        self.lost.contains(&(group, object))
    }

    fn of_group(
        &mut self,
        group: GroupId,
    ) -> impl Iterator<Item = (&(GroupId, ObjectId, u16), &mut Vec<(Entry, u64)>)> {
        self.disk.blocks.range_mut((group, ObjectId::default(), 0)..).take_while(move |(k, _)| k.0 == group)
    }

    /// R23, R18: zero entries at or below the durable floor go, and what is remembered of emptied objects.
    fn vanish(&mut self, group: GroupId) {
        if !self.may_vanish {
            return;
        }
        let floor = self.disk.ledgers[&group].floor;
        let is_gone = |stack: &[(Entry, u64)]| match stack {
            [(Entry::Zero(v), _)] => *v <= floor,
            _ => false,
        };
        self.disk.blocks.retain(|k, stack| k.0 != group || !is_gone(stack));
        if self.may_forget {
            self.ledger(group).forgets();
            let blocks = &self.disk.blocks;
            self.disk.touched.retain(|k, t| {
                *t > floor || blocks.range((k.0, k.1, 0)..=(k.0, k.1, u16::MAX)).next().is_some()
            });
        }
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
                if let Some(left) = self.lost_blocks.get_mut(&(group, r.object)) {
                    left.retain(|b| !r.range().contains(*b));
                    if left.is_empty() {
                        self.lost.remove(&(group, r.object));
                    }
                }
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
                    assert!(stack.iter().any(|e| e.0.version() == *version));
                    for e in stack.iter_mut().filter(|e| e.0.version() == *version) {
                        *e = (Entry::Data(*version, *checksum), data.unwrap()[0]);
                    }
                }
            }
            _ => {}
        }
        self.vanish(group);
    }

    /// R10: what a committed write displaced goes.
    fn settle(&mut self, group: GroupId, below: Version) {
        for (_, stack) in self.of_group(group) {
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
