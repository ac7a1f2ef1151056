//! Reads: resolve the chain of layers, coalesce, verify (S2). And the listings that replication asks for.
use crate::disk::Disk;
use crate::events::{Event, ReadData, ReadError, ReadSpec, Token, Which};
use crate::place::{Held, Kind};
use crate::store::{Op, Store, has_data};
use sarsen_buffer::{Buf, block_checksum};
use sarsen_types::record::{BlockStack, Entry};
use sarsen_types::{BLOCK_SIZE, BLOCKS_PER_CHUNK, BlockRange, GroupId, Instant, LayerId, ObjectId, Version};
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// A read under way.
#[derive(Debug)]
struct Read {
    token: Token,
    spec: ReadSpec,
    /// One a block: the entry, and the layer it was found in.
    held: SmallVec<[(Held, LayerId); 1]>,
    parts: SmallVec<[Part; 1]>,
    left: usize,
    since: Instant,
}

/// Neighbouring blocks on the disk.
#[derive(Debug)]
struct Part {
    blocks: usize,
    buf: Option<Buf>,
    is_ok: bool,
}

/// Reads by number; places are not reused while one is under way that may look at them (R10).
#[derive(Debug, Default)]
pub struct Reads {
    map: BTreeMap<u64, Read>,
    next: u64,
}

impl Reads {
    /// The number of the next read.
    pub fn next_number(&self) -> u64 {
        self.next
    }
    /// The lowest number under way; the next one's when none is.
    pub fn oldest_number(&self) -> u64 {
        self.map.first_key_value().map_or(self.next, |r| *r.0)
    }
    /// When the oldest was submitted.
    pub fn oldest(&self) -> Option<Instant> {
        self.map.first_key_value().map(|r| r.1.since)
    }
}

impl<D: Disk> Store<D> {
    /// Reads blocks; answered by `Read`.
    pub fn read(&mut self, token: Token, spec: ReadSpec) {
        let held = match self.resolve(&spec) {
            Ok(held) => held,
            Err(why) => return self.ready.push(Event::Read(token, Err(why))),
        };
        let damaged: Vec<_> = (held.iter().zip(spec.range.blocks()))
            .filter(|((h, _), _)| h.place.kind() == Kind::Damaged)
            .map(|((h, layer), block)| (*layer, block, h.entry()))
            .collect();
        if !damaged.is_empty() {
            return self.ready.push(Event::Read(token, Err(ReadError::Corrupt(damaged))));
        }
        let number = self.reads.next;
        self.reads.next += 1;
        let mut parts: SmallVec<[Part; 1]> = SmallVec::new();
        let mut starts: SmallVec<[u64; 1]> = SmallVec::new();
        for (h, _) in held.iter().filter(|(h, _)| has_data(*h)) {
            let block = h.place.block().expect("data have a block");
            match (parts.last_mut(), starts.last()) {
                (Some(part), Some(start)) if start + part.blocks as u64 == block => part.blocks += 1,
                _ => {
                    parts.push(Part { blocks: 1, buf: None, is_ok: false });
                    starts.push(block);
                }
            }
        }
        let left = parts.len();
        let sizes: SmallVec<[usize; 1]> = parts.iter().map(|p| p.blocks).collect();
        let since = self.clock();
        self.reads.map.insert(number, Read { token, spec, held, parts, left, since });
        if left == 0 {
            return self.read_ended(number);
        }
        for (part, (blocks, start)) in sizes.iter().zip(starts).enumerate() {
            let buf = self.options.pool.take(blocks * BLOCK_SIZE);
            let (id, offset) = (self.op(Op::Read(number, part)), self.byte(start));
            self.disk.read(id, offset, buf);
        }
    }

    pub(crate) fn read_completed(&mut self, number: u64, part: usize, buf: Option<Buf>, is_ok: bool) {
        let Some(read) = self.reads.map.get_mut(&number) else { return };
        read.parts[part].buf = buf;
        read.parts[part].is_ok = is_ok;
        read.left -= 1;
        if read.left == 0 {
            self.read_ended(number);
        }
    }

    /// All parts are here: every checksum is verified before the bytes leave the drive.
    fn read_ended(&mut self, number: u64) {
        let Some(read) = self.reads.map.remove(&number) else { return };
        let Read { token, spec, held, mut parts, .. } = read;
        let mut corrupt = Vec::new();
        let (mut part, mut at) = (0, 0);
        for ((h, layer), block) in held.iter().zip(spec.range.blocks()) {
            if !has_data(*h) {
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
                let id = ObjectId { layer: *layer, chunk: spec.chunk };
                self.group(spec.group).damage(id, block, h.version);
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

    /// The entry of each block, and where in the chain it was found: entry, zero entry, or ask the parent.
    fn resolve(&self, spec: &ReadSpec) -> Result<SmallVec<[(Held, LayerId); 1]>, ReadError> {
        let mut found = SmallVec::new();
        let Some(group) = self.groups.get(&spec.group) else {
            let head = spec.layers.first().copied().unwrap_or_default();
            return match spec.which {
                Which::Visible => Ok(spec.range.blocks().map(|_| (Held::ABSENT, head)).collect()),
                Which::Exact(_) => Err(ReadError::Missing),
            };
        };
        for block in spec.range.blocks() {
            found.push(self.resolve_one(group, spec, block)?);
        }
        Ok(found)
    }

    fn resolve_one(
        &self,
        group: &crate::group::Group,
        spec: &ReadSpec,
        block: u16,
    ) -> Result<(Held, LayerId), ReadError> {
        let mut last = spec.layers.first().copied().unwrap_or_default();
        for &layer in &spec.layers {
            let id = ObjectId { layer, chunk: spec.chunk };
            last = layer;
            let held = match spec.which {
                Which::Visible => group.visible(id, block),
                Which::Exact(version) => {
                    let object = group.objects.get(&id);
                    match object.and_then(|o| o.exact(block, version)) {
                        Some(held) => held,
                        None if object.is_some_and(|o| o.is_lost(block)) => {
                            return Err(ReadError::Unreadable(id));
                        }
                        None => return Err(ReadError::Missing),
                    }
                }
            };
            if held.is_absent() && group.objects.get(&id).is_some_and(|o| o.is_lost(block)) {
                return Err(ReadError::Unreadable(id));
            }
            if !held.is_absent() {
                return Ok((held, layer));
            }
        }
        Ok((Held::ABSENT, last))
    }

    /// Which blocks hold data, as runs; answered by `Status`.
    pub fn status(&mut self, token: Token, spec: ReadSpec) {
        let result = self.resolve(&spec).map(|held| {
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
        });
        self.ready.push(Event::Status(token, result));
    }

    // ---- listings ----

    /// Blocks with an entry above `above`, with all that is held of each down to the first at or below (R12, R13).
    pub fn list_stacks(
        &mut self,
        token: Token,
        group: GroupId,
        above: Version,
        after: Option<(ObjectId, u16)>,
        max: usize,
    ) {
        let mut blocks = Vec::new();
        let mut is_last = true;
        if let Some(group) = self.groups.get(&group) {
            let from = after.map_or(ObjectId::default(), |a| a.0);
            'all: for (id, object) in group.objects.range(from..).filter(|o| o.1.touched > above) {
                for block in 0..BLOCKS_PER_CHUNK {
                    if after.is_some_and(|a| (*id, block) <= a) || object.top(block).version <= above {
                        continue;
                    }
                    if blocks.len() == max {
                        is_last = false;
                        break 'all;
                    }
                    let stack = stack_of(object, block, above);
                    blocks.push(BlockStack { object: *id, family: object.family, block, stack });
                }
            }
        }
        self.ready.push(Event::Stacks { token, blocks, is_last });
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
        let mut objects = Vec::new();
        let mut is_last = true;
        if let Some(group) = self.groups.get(&group) {
            let listed =
                group.objects.iter().filter(|(id, o)| o.touched > above && after.is_none_or(|a| **id > a));
            for (id, object) in listed {
                if objects.len() == max {
                    is_last = false;
                    break;
                }
                objects.push((*id, object.touched));
            }
        }
        self.ready.push(Event::Touched { token, objects, is_last });
    }

    /// The entries of an object, the committed ones or the top ones, as runs.
    pub fn list_entries(&mut self, token: Token, group: GroupId, object: ObjectId, visible_only: bool) {
        let (mut touched, mut runs) = (Version::ZERO, Vec::new());
        let mut result = Ok(());
        if let Some(g) = self.groups.get(&group)
            && let Some(o) = g.objects.get(&object)
        {
            touched = o.touched;
            if o.lost.is_some() {
                result = Err(ReadError::Unreadable(object));
            }
            for block in 0..BLOCKS_PER_CHUNK {
                let held = if visible_only { g.visible(object, block) } else { o.top(block) };
                let entry = held.entry();
                if runs.last().is_none_or(|r: &(u16, Entry)| r.1 != entry) {
                    runs.push((block, entry));
                }
            }
        } else {
            runs.push((0, Entry::Absent));
        }
        self.ready.push(Event::Entries { token, touched, runs: result.map(|()| runs) });
    }
}

fn stack_of(object: &crate::object::Object, block: u16, above: Version) -> SmallVec<[Entry; 2]> {
    let mut stack = SmallVec::new();
    let over = object.over.get(&block).into_iter().flat_map(|s| s.iter().rev().copied());
    for held in over.chain(Some(object.base_of(block)).filter(|h| !h.is_absent())) {
        stack.push(held.entry());
        if held.version <= above {
            break;
        }
    }
    stack
}

impl<D: Disk> Store<D> {
    /// The highest entry of every block of a group: for checkers.
    pub fn top_entries(&self, group: GroupId) -> impl Iterator<Item = ((ObjectId, u16), Entry)> {
        self.groups.get(&group).into_iter().flat_map(|g| {
            g.objects
                .iter()
                .flat_map(|(id, o)| (0..BLOCKS_PER_CHUNK).map(move |b| ((*id, b), o.top(b).entry())))
                .filter(|(_, e)| *e != Entry::Absent)
        })
    }
}
