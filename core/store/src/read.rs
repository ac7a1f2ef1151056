//! What is asked of the map and the data: resolved as far as the pages in memory go, asked again when the others came.
//!
//! A read resolves the chain of layers block by block, coalesces neighbours on the drive, and verifies every checksum before
//! the bytes leave the drive (S2).
use crate::disk::Disk;
use crate::events::{Event, ReadData, ReadError, ReadSpec, Token, Which};
use crate::listing;
use crate::lookup::{Lookup, Stop, Want};
use crate::place::{Held, Kind};
use crate::store::{Op, Store};
use sarsen_buffer::{Buf, block_checksum};
use sarsen_types::record::Entry;
use sarsen_types::slab::Slab;
use sarsen_types::{BLOCK_SIZE, BlockRange, GroupId, Instant, LayerId, ObjectId, Version};
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Something asked.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Read(ReadSpec),
    Status(ReadSpec),
    Stacks { group: GroupId, above: Version, after: Option<(ObjectId, u16)>, max: usize },
    Touched { group: GroupId, above: Version, after: Option<ObjectId>, max: usize },
    Entries { group: GroupId, object: ObjectId, visible_only: bool },
}

/// One a block: the entry, and the layer it was found in.
type Resolved = SmallVec<[(Held, LayerId); 1]>;

/// Why there is no answer yet, or none at all.
enum Refusal {
    /// Pages are to be read first.
    Away,
    Failed(ReadError),
}

/// What an ask comes to.
enum Answer {
    Event(Event),
    /// The data are to be read.
    Data(ReadSpec, Resolved),
}

#[derive(Debug)]
enum Stage {
    /// Is looked at.
    Asked,
    /// Waits for so many pages.
    Pages(Ask, usize),
    /// Waits for its data.
    Data(DataRead),
}

/// Something asked and not answered.
#[derive(Debug)]
struct Pending {
    token: Token,
    since: Instant,
    stage: Stage,
}

/// A read whose entries are known.
#[derive(Debug)]
struct DataRead {
    spec: ReadSpec,
    held: Resolved,
    parts: SmallVec<[Part; 1]>,
    left: usize,
}

/// Neighbouring blocks on the disk.
#[derive(Debug)]
struct Part {
    start: u64,
    blocks: usize,
    buf: Option<Buf>,
    is_ok: bool,
}

/// Reads by number; places are not reused while one is under way that may look at them (R10).
#[derive(Debug, Default)]
pub struct Reads {
    /// The keys of those from number `first` on; the first has not ended.
    keys: VecDeque<Option<u64>>,
    first: u64,
    pending: Slab<Pending>,
}

impl Reads {
    /// The number of the next read.
    pub fn next_number(&self) -> u64 {
        self.first + self.keys.len() as u64
    }
    /// The lowest number under way; the next one's when none is.
    pub fn oldest_number(&self) -> u64 {
        self.first
    }
    /// When the oldest was asked.
    pub fn oldest(&self) -> Option<Instant> {
        let key = *self.keys.front()?;
        self.pending.get(key?).map(|r| r.since)
    }
    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn begin(&mut self, read: Pending) -> u64 {
        self.keys.push_back(Some(self.pending.insert(read)));
        self.next_number() - 1
    }
    fn key(&mut self, number: u64) -> Option<&mut Option<u64>> {
        self.keys.get_mut(number.checked_sub(self.first)? as usize)
    }
    fn get_mut(&mut self, number: u64) -> Option<&mut Pending> {
        let key = (*self.key(number)?)?;
        self.pending.get_mut(key)
    }
    fn end(&mut self, number: u64) -> Option<Pending> {
        let key = self.key(number)?.take()?;
        while self.keys.pop_front_if(|first| first.is_none()).is_some() {
            self.first += 1;
        }
        self.pending.take(key)
    }
}

impl<D: Disk> Store<D> {
    /// Reads blocks; answered by `Read`.
    pub fn read(&mut self, token: Token, spec: ReadSpec) {
        self.ask(token, Ask::Read(spec));
    }

    /// Which blocks hold data, as runs; answered by `Status`.
    pub fn status(&mut self, token: Token, spec: ReadSpec) {
        self.ask(token, Ask::Status(spec));
    }

    /// Blocks with an entry above `above`, with all that is held of each down to the first at or below (R12, R13).
    pub fn list_stacks(
        &mut self,
        token: Token,
        group: GroupId,
        above: Version,
        after: Option<(ObjectId, u16)>,
        max: usize,
    ) {
        self.ask(token, Ask::Stacks { group, above, after, max });
    }

    /// Objects touched above `above`, emptied ones included (R18).
    pub fn list_touched(
        &mut self,
        token: Token,
        group: GroupId,
        above: Version,
        after: Option<ObjectId>,
        max: usize,
    ) {
        self.ask(token, Ask::Touched { group, above, after, max });
    }

    /// The entries of an object, the committed ones or the top ones, as runs.
    pub fn list_entries(&mut self, token: Token, group: GroupId, object: ObjectId, visible_only: bool) {
        self.ask(token, Ask::Entries { group, object, visible_only });
    }

    pub(crate) fn ask(&mut self, token: Token, ask: Ask) {
        let since = self.clock();
        let number = self.reads.begin(Pending { token, since, stage: Stage::Asked });
        self.try_ask(number, token, ask);
    }

    /// Answers, or notes what it waits for.
    fn try_ask(&mut self, number: u64, token: Token, ask: Ask) {
        let mut wants = SmallVec::new();
        let stage = match self.answer(token, &ask, &mut wants) {
            Some(Answer::Event(event)) => {
                self.reads.end(number);
                return self.ready.push(event);
            }
            Some(Answer::Data(spec, held)) => match self.data_read(number, spec, held) {
                read if read.left == 0 => {
                    self.reads.end(number);
                    return self.read_ended(token, read);
                }
                read => Stage::Data(read),
            },
            None => Stage::Pages(ask, wants.len()),
        };
        if let Some(pending) = self.reads.get_mut(number) {
            pending.stage = stage;
        }
        wants.into_iter().for_each(|want| self.load(want, number));
    }

    /// A page that a number waits for came, or is bad.
    pub(crate) fn page_came(&mut self, number: u64) {
        let Some(Pending { token, stage, .. }) = self.reads.get_mut(number) else { return };
        let Stage::Pages(_, left) = stage else { return };
        *left -= 1;
        if *left > 0 {
            return;
        }
        let token = *token;
        // it keeps its number meanwhile: what it looks at is not used again (R10)
        if let Stage::Pages(ask, _) = std::mem::replace(stage, Stage::Asked) {
            self.try_ask(number, token, ask);
        }
    }

    /// `None`: pages are to be read first.
    fn answer(&self, token: Token, ask: &Ask, wants: &mut SmallVec<[Want; 4]>) -> Option<Answer> {
        let id = match ask {
            Ask::Read(spec) | Ask::Status(spec) => spec.group,
            Ask::Stacks { group, .. } | Ask::Touched { group, .. } | Ask::Entries { group, .. } => *group,
        };
        let empty = crate::group::Group::default();
        let group = self.groups.get(&id).unwrap_or(&empty);
        let mut look = Lookup::new(group, &self.cache);
        let event = match ask {
            Ask::Read(spec) => match resolve(&mut look, spec) {
                Ok(held) => match damaged(spec, &held) {
                    list if list.is_empty() => return Some(Answer::Data(spec.clone(), held)),
                    list => Some(Event::Read(token, Err(ReadError::Corrupt(list)))),
                },
                Err(Refusal::Failed(why)) => Some(Event::Read(token, Err(why))),
                Err(Refusal::Away) => None,
            },
            Ask::Status(spec) => match resolve(&mut look, spec) {
                Ok(held) => Some(Event::Status(token, Ok(runs_with_data(spec, &held)))),
                Err(Refusal::Failed(why)) => Some(Event::Status(token, Err(why))),
                Err(Refusal::Away) => None,
            },
            Ask::Stacks { above, after, max, .. } => {
                (listing::stacks(group, &mut look, *above, *after, *max).ok())
                    .map(|(blocks, is_last)| Event::Stacks { token, blocks, is_last })
            }
            Ask::Touched { above, after, max, .. } => {
                (listing::touched(group, &mut look, *above, *after, *max).ok())
                    .map(|(objects, is_last)| Event::Touched { token, objects, is_last })
            }
            Ask::Entries { object, visible_only, .. } => {
                match listing::entries(&mut look, *object, *visible_only) {
                    Ok((touched, runs)) => Some(Event::Entries { token, touched, runs: Ok(runs) }),
                    Err((touched, Stop::Lost)) => {
                        Some(Event::Entries { token, touched, runs: Err(ReadError::Unreadable(*object)) })
                    }
                    Err((_, Stop::Away)) => None,
                }
            }
        };
        if event.is_none() {
            *wants = look.wants;
        }
        event.map(Answer::Event)
    }

    /// Asks the disk for the data of resolved entries.
    fn data_read(&mut self, number: u64, spec: ReadSpec, held: Resolved) -> DataRead {
        let mut parts: SmallVec<[Part; 1]> = SmallVec::new();
        for start in held.iter().filter(|h| h.0.place.kind() == Kind::Data).filter_map(|h| h.0.place.block())
        {
            match parts.last_mut() {
                Some(part) if part.start + part.blocks as u64 == start => part.blocks += 1,
                _ => parts.push(Part { start, blocks: 1, buf: None, is_ok: false }),
            }
        }
        for (at, part) in parts.iter().enumerate() {
            let buf = self.options.pool.take(part.blocks * BLOCK_SIZE);
            let (id, offset) = (self.op(Op::Read(number, at)), self.byte(part.start));
            self.disk.read(id, offset, buf);
        }
        let left = parts.len();
        DataRead { spec, held, parts, left }
    }

    pub(crate) fn read_completed(&mut self, number: u64, part: usize, buf: Option<Buf>, is_ok: bool) {
        let Some(pending) = self.reads.get_mut(number) else { return };
        let Stage::Data(read) = &mut pending.stage else { return };
        read.parts[part].buf = buf;
        read.parts[part].is_ok = is_ok;
        read.left -= 1;
        let (is_last, place) = (read.left == 0, read.parts[part].start);
        let failed = place..place + if is_ok { 0 } else { read.parts[part].blocks as u64 };
        self.count_failed_repairs(failed);
        if !is_last {
            return;
        }
        if let Some(Pending { token, stage: Stage::Data(read), .. }) = self.reads.end(number) {
            self.read_ended(token, read);
        }
    }

    /// All parts are here: every checksum is verified before the bytes leave the drive.
    fn read_ended(&mut self, token: Token, read: DataRead) {
        let DataRead { spec, held, mut parts, .. } = read;
        let mut corrupt = Vec::new();
        let (mut part, mut at) = (0, 0);
        for ((h, layer), block) in held.iter().zip(spec.range.blocks()) {
            if h.place.kind() != Kind::Data {
                continue;
            }
            let p = &parts[part];
            let is_good = p.is_ok
                && p.buf.as_ref().is_some_and(|buf| {
                    let bytes = &buf[at * BLOCK_SIZE..][..BLOCK_SIZE];
                    block_checksum(spec.family, spec.chunk, block, bytes) == h.checksum
                });
            if !is_good {
                corrupt.push((*layer, block, Entry::Damaged(h.version, h.checksum)));
                self.damage(&spec, *layer, block, *h);
            }
            at += 1;
            if at == p.blocks {
                (part, at) = (part + 1, 0);
            }
        }
        if !corrupt.is_empty() {
            return self.ready.push(Event::Read(token, Err(ReadError::Corrupt(corrupt))));
        }
        let data = match parts.len() {
            0 => None,
            1 => parts[0].buf.take(),
            _ => Some(self.joined(&parts)),
        };
        let entries = held.iter().map(|(h, _)| h.entry()).collect();
        self.ready.push(Event::Read(token, Ok(ReadData { entries, data })));
    }

    /// Marks an entry as damaged, so that it is asked elsewhere from now on. It may have moved or gone since it was read.
    fn damage(&mut self, spec: &ReadSpec, layer: LayerId, block: u16, read: Held) {
        if read.place.block().is_some_and(|place| self.is_being_written(place)) {
            return; // what a repair brings is not there yet
        }
        let id = ObjectId { layer, chunk: spec.chunk };
        let Some(group) = self.groups.get_mut(&spec.group) else { return };
        let mut look = Lookup::new(group, &self.cache);
        let now = look.object(id).and_then(|view| look.exact(&view, block, read.version));
        // where its page went meanwhile nobody knows whether it is the one that was read (found in review): the next read finds out
        if now.map_or(true, |now| now.place != read.place) {
            self.tally.outrun += 1;
            return;
        }
        self.tally.damaged += 1;
        let object = group.objects.entry(id).or_default();
        object.family = spec.family;
        for stacks in [&mut object.over.stacks, &mut object.frozen.stacks] {
            let stack = stacks.get_mut(&block);
            if stack.is_some_and(|s| s.damage(read.version)) {
                return;
            }
        }
        object.stack(block).mark(read);
    }

    fn joined(&self, parts: &[Part]) -> Buf {
        let blocks: usize = parts.iter().map(|p| p.blocks).sum();
        let mut whole = self.options.pool.take(blocks * BLOCK_SIZE);
        let mut at = 0;
        let bytes = whole.get_mut();
        for buf in parts.iter().filter_map(|p| p.buf.as_ref()) {
            bytes[at..at + buf.len()].copy_from_slice(buf);
            at += buf.len();
        }
        whole
    }

    /// The highest entry of every block of a group, and the objects of which a leaf is bad; waited for: for checkers.
    pub fn top_entries(&mut self, group: GroupId) -> (Vec<((ObjectId, u16), Entry)>, Vec<ObjectId>) {
        let (mut found, mut bad) = (Vec::new(), Vec::new());
        let mut after = None;
        loop {
            let Some(Event::Touched { objects, is_last, .. }) =
                self.ask_and_wait(Ask::Touched { group, above: Version::ZERO, after, max: 64 })
            else {
                return (found, bad);
            };
            after = objects.last().map(|o| o.0).or(after);
            for (object, _) in objects {
                let ask = Ask::Entries { group, object, visible_only: false };
                let Some(Event::Entries { runs: Ok(runs), .. }) = self.ask_and_wait(ask) else {
                    bad.push(object);
                    continue;
                };
                for (at, (first, entry)) in runs.iter().enumerate() {
                    let end = runs.get(at + 1).map_or(sarsen_types::BLOCKS_PER_CHUNK, |r| r.0);
                    let blocks = (*first..end).filter(|_| *entry != Entry::Absent);
                    found.extend(blocks.map(|b| ((object, b), *entry)));
                }
            }
            if is_last {
                return (found, bad);
            }
        }
    }

    /// Asks and waits; other events stay for the next turn.
    fn ask_and_wait(&mut self, ask: Ask) -> Option<Event> {
        const MINE: Token = Token(u64::MAX);
        self.ask(MINE, ask);
        loop {
            let is_mine = |e: &Event| matches!(e, Event::Touched { token, .. } | Event::Entries { token, .. } if *token == MINE);
            if let Some(at) = self.ready.iter().position(is_mine) {
                return Some(self.ready.remove(at));
            }
            if !self.wait_some() {
                return None;
            }
        }
    }
}

/// The entry of each block, and where in the chain it was found: entry, zero entry, or ask the parent.
fn resolve(look: &mut Lookup<'_>, spec: &ReadSpec) -> Result<Resolved, Refusal> {
    let head = spec.layers.first().copied().unwrap_or_default();
    let mut found: Resolved = spec.range.blocks().map(|_| (Held::ABSENT, head)).collect();
    let mut is_away = false;
    let mut left = spec.range.count as usize;
    for &layer in &spec.layers {
        if left == 0 {
            break;
        }
        let id = ObjectId { layer, chunk: spec.chunk };
        let view = match look.object(id) {
            Ok(view) => view,
            Err(_) => {
                is_away = true;
                break;
            }
        };
        for (at, block) in spec.range.blocks().enumerate() {
            if !found[at].0.is_absent() {
                continue;
            }
            found[at].1 = layer;
            let held = match spec.which {
                _ if view.is_unknown() => Ok(Held::ABSENT),
                Which::Visible => look.visible(&view, block),
                Which::Exact(version) => look.exact(&view, block, version),
            };
            match held {
                Ok(held) if held.is_absent() && matches!(spec.which, Which::Exact(_)) && !is_away => {
                    return Err(Refusal::Failed(ReadError::Missing));
                }
                Ok(held) if held.is_absent() => {}
                Ok(held) => {
                    found[at].0 = held;
                    left -= 1;
                }
                Err(Stop::Away) => is_away = true,
                Err(Stop::Lost) if is_away => {}
                Err(Stop::Lost) => return Err(Refusal::Failed(ReadError::Unreadable(id))),
            }
        }
    }
    if is_away {
        return Err(Refusal::Away);
    }
    if let (Which::Exact(_), true) = (spec.which, left > 0) {
        return Err(Refusal::Failed(ReadError::Missing));
    }
    Ok(found)
}

fn damaged(spec: &ReadSpec, held: &Resolved) -> Vec<(LayerId, u16, Entry)> {
    (held.iter().zip(spec.range.blocks()))
        .filter(|((h, _), _)| h.place.kind() == Kind::Damaged)
        .map(|((h, layer), block)| (*layer, block, h.entry()))
        .collect()
}

fn runs_with_data(spec: &ReadSpec, held: &Resolved) -> Vec<BlockRange> {
    let mut runs: Vec<BlockRange> = Vec::new();
    for ((h, _), block) in held.iter().zip(spec.range.blocks()) {
        if h.place.block().is_none() {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.end() == block => run.count += 1,
            _ => runs.push(BlockRange::new(block, 1)),
        }
    }
    runs
}
