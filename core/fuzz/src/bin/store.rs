//! Operations of a store against a model: what is written, recovered, repaired, dropped, settled, merged, moved, and started again in
//! order or after power was lost, is read as the model has it, and the map is right.
#![no_main]
#[path = "../../../store/tests/support/mod.rs"]
mod support;
use libfuzzer_sys::fuzz_target;
use sarsen_fuzz::Choices;
use sarsen_store::Token;
use sarsen_store::events::{Event, ReadError, ReadSpec, Which};
use sarsen_store::memory::Fate;
use sarsen_types::record::{Body, Entry};
use sarsen_types::{BlockRange, Epoch, Instant, LayerId, ObjectId, Version};
use std::collections::{BTreeMap, BTreeSet};
use support::*;

const SIZE: u64 = 48 << 20;
/// Objects, and blocks at the start of each: few, so that they meet.
const OBJECTS: u16 = 20;
const BLOCKS: u16 = 200;
/// Of these an input has no more: each looks at everything.
const RESTARTS_MAX: u32 = 8;

/// What was asked of a block.
#[derive(Clone, Copy, Debug)]
struct Known {
    version: Version,
    /// 0 is zeroes.
    content: u8,
    /// It was said to be persisted.
    is_sure: bool,
    /// It was found damaged after power was lost, and not repaired.
    is_damaged: bool,
}

struct Walk<'a> {
    choices: Choices<'a>,
    bench: Bench,
    /// Of each block, ascending.
    model: BTreeMap<(ObjectId, u16), Vec<Known>>,
    /// Writes of which nothing was heard yet, by token.
    waiting: BTreeMap<Token, (ObjectId, BlockRange, Version)>,
    content: u8,
    layers: [u64; 2],
    restarts: u32,
}

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices(bytes);
    let how = choices.byte();
    let bench = Bench::with(SIZE, 0, how & 2 == 0);
    let bench = if how & 1 == 1 { bench.spilling() } else { bench };
    let (model, waiting) = (BTreeMap::new(), BTreeMap::new());
    let mut walk = Walk { choices, bench, model, waiting, content: 0, layers: [1, 2], restarts: 0 };
    while walk.choices.are_left() {
        match walk.choices.byte() % 40 {
            0..16 => walk.write(false),
            16..19 => walk.write(true),
            19 => walk.recover(false),
            20 => walk.recover(true),
            21..23 => walk.settle(),
            23..27 => walk.bench.turn(),
            27 => walk.checkpoint(),
            28 => walk.bench.store.ask_checkpoint(),
            29 => walk.bench.store.rewind_allocation(),
            30 => walk.restart(),
            31 => walk.start_again(),
            32 => walk.lose_power(),
            33 => walk.bench.store.disk_mut().is_held = true,
            34 => let_go(&mut walk.bench),
            35 | 36 => walk.complete(),
            37 => walk.repair(),
            38 => walk.drop_layer(),
            _ => walk.ask(),
        }
        walk.listen();
    }
    let_go(&mut walk.bench);
    walk.check();
    walk.checkpoint();
    walk.bench.audit();
    walk.check();
    walk.restarts = 0;
    walk.restart();
    walk.check();
});

impl Walk<'_> {
    fn object(&mut self) -> ObjectId {
        let number = self.choices.below(OBJECTS);
        ObjectId::new(self.layers[usize::from(number % 2)], u32::from(number / 2))
    }
    fn place(&mut self) -> (ObjectId, BlockRange) {
        let object = self.object();
        let first = self.choices.below(BLOCKS);
        let count = match self.choices.byte() {
            n @ 0..240 => u16::from(n % 4) + 1,
            n => u16::from(n - 239) * 4,
        };
        (object, BlockRange::new(first, count))
    }
    fn next_content(&mut self) -> u8 {
        self.content = self.content % 250 + 1;
        self.content
    }

    fn write(&mut self, is_zero: bool) {
        let (object, range) = self.place();
        let content = if is_zero { 0 } else { self.next_content() };
        let version = self.bench.write(object, range, content);
        for block in range.blocks() {
            let known = Known { version, content, is_sure: false, is_damaged: false };
            self.model.entry((object, block)).or_default().push(known);
        }
        self.waiting.insert(Token(version.sequence()), (object, range, version));
    }

    /// What was said of writes.
    fn listen(&mut self) {
        let persisted = std::mem::take(&mut self.bench.persisted);
        for (object, range, version) in persisted.iter().filter_map(|t| self.waiting.remove(t)) {
            for block in range.blocks() {
                let all = self.model.get_mut(&(object, block)).into_iter().flatten();
                all.filter(|k| k.version == version).for_each(|k| k.is_sure = true);
            }
        }
        let refused = std::mem::take(&mut self.bench.refused);
        for (object, range, version) in refused.iter().filter_map(|t| self.waiting.remove(t)) {
            for block in range.blocks() {
                let all = self.model.get_mut(&(object, block));
                all.into_iter().for_each(|all| all.retain(|k| k.version != version));
            }
        }
    }

    fn settle(&mut self) {
        self.bench.settle();
        self.listen();
        assert!(self.waiting.is_empty(), "everything is answered");
    }

    fn checkpoint(&mut self) {
        self.settle();
        self.bench.store.force_checkpoint();
        self.bench.turn();
    }

    /// What was asked last was done, or there was no space for it.
    fn was_done(&mut self) -> bool {
        let token = Token(self.bench.version().sequence());
        self.bench.quiet();
        let is_done = self.bench.persisted.contains(&token);
        assert!(is_done || self.bench.refused.contains(&token), "everything is answered");
        self.listen();
        is_done
    }

    /// As in a join: all below a new epoch becomes what is given (R14).
    fn recover(&mut self, is_absent: bool) {
        let (object, range) = self.place();
        self.settle();
        let version = Version(self.bench.version().0 + 1);
        self.bench.epoch += 1;
        let content = (!is_absent).then(|| self.next_content());
        self.bench.recover(object, range, self.bench.epoch, content, version);
        if !self.was_done() {
            return;
        }
        let low = Version::start(Epoch(self.bench.epoch));
        for block in range.blocks() {
            let all = self.model.entry((object, block)).or_default();
            all.retain(|k| k.version >= low);
            let given = content.map(|content| Known { version, content, is_sure: true, is_damaged: false });
            all.splice(0..0, given);
        }
    }

    /// The same data again for a block, be it damaged or not (R26).
    fn repair(&mut self) {
        self.settle();
        let from = (self.object(), self.choices.below(BLOCKS));
        let Some((&(object, block), all)) = self.model.range(from..).next() else { return };
        let Some(&Known { version, content: content @ 1.., .. }) = all.last() else { return };
        self.bench.repair(object, block, content, version);
        if self.was_done() {
            let known = self.model.get_mut(&(object, block)).and_then(|all| all.last_mut());
            known.into_iter().for_each(|k| (k.is_sure, k.is_damaged) = (true, false));
        }
    }

    /// A layer goes, and never comes back (R20).
    fn drop_layer(&mut self) {
        let which = usize::from(self.choices.byte() % 2);
        self.settle();
        let layer = self.layers[which];
        self.bench.persist(Body::DropLayer { layer: LayerId(layer) }, None);
        self.bench.quiet();
        self.model.retain(|(object, _), _| object.layer.0 != layer);
        self.layers[which] += 2;
    }

    /// A read is under way; what it gives is not looked at.
    fn ask(&mut self) {
        let (object, range) = self.place();
        self.bench.ask(object, range.first);
    }

    /// Some of what the disk was asked ends, in any order.
    fn complete(&mut self) {
        let (count, at) = (self.choices.byte() % 8, usize::from(self.choices.byte()));
        for _ in 0..count {
            let waiting = self.bench.store.disk().waiting();
            self.bench.store.disk_mut().complete(at % waiting.max(1));
        }
        self.bench.turn();
    }

    fn may_restart(&mut self) -> bool {
        self.restarts += 1;
        self.restarts <= RESTARTS_MAX
    }

    /// The end in order, and a start.
    fn restart(&mut self) {
        if self.may_restart() {
            self.bench.quiet();
            self.listen();
            let bench = std::mem::replace(&mut self.bench, Bench::new(SIZE, 0));
            self.bench = bench.restart();
            self.look();
        }
    }

    /// A start after an end without notice, of which the disk knew nothing.
    fn start_again(&mut self) {
        if self.may_restart() {
            self.bench.quiet();
            self.listen();
            self.bench.store.disk_mut().is_held = false;
            let bench = std::mem::replace(&mut self.bench, Bench::new(SIZE, 0));
            self.bench = bench.crashed(|| Fate::Kept);
            self.look();
        }
    }

    /// Power is lost: of what was not durable some is there, some is not, and some is torn.
    fn lose_power(&mut self) {
        let (kept, mut seed) = (self.choices.byte() % 100, u32::from(self.choices.word()));
        if self.may_restart() {
            let bench = std::mem::replace(&mut self.bench, Bench::new(SIZE, 0));
            self.bench = bench.crashed(|| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                match (seed >> 16) as u8 % 100 {
                    n if n < kept => Fate::Kept,
                    n if n < kept + 10 => Fate::Torn((seed >> 8) as usize % 4096),
                    _ => Fate::Lost,
                }
            });
            self.look();
        }
    }

    /// After a start: what was persisted is there, or something newer that was asked for.
    fn look(&mut self) {
        assert!(!self.bench.opened.is_broken, "the journal has no hole");
        self.waiting.clear();
        self.bench.audit();
        let objects: BTreeSet<ObjectId> = self.model.keys().map(|k| k.0).collect();
        let mut data = Vec::new();
        for object in objects {
            self.bench.store.list_entries(Token(0), GROUP, object, false);
            let listed = self.events().into_iter().find_map(|event| match event {
                Event::Entries { runs, .. } => Some(runs.expect("the map is legible")),
                _ => None,
            });
            let runs = listed.expect("an answer");
            for (&(_, block), all) in self.model.range_mut((object, 0)..=(object, u16::MAX)) {
                let entry = runs.iter().rev().find(|r| r.0 <= block).map_or(Entry::Absent, |r| r.1);
                let found = entry.version();
                let must = all.iter().filter(|k| k.is_sure).map(|k| k.version).max().unwrap_or_default();
                assert!(found >= must, "{block} of {object:?}: {entry:?} is there, {must:?} was persisted");
                // what is not there now never will be
                all.retain(|k| k.version <= found);
                match (entry, all.last_mut()) {
                    (Entry::Absent, None) => continue,
                    (Entry::Zero(v), Some(k)) if k.version == v && k.content == 0 => k.is_sure = true,
                    (Entry::Data(v, _), Some(k)) if k.version == v && !k.is_damaged => {
                        k.is_sure = true;
                        data.push((object, block, v, k.content));
                    }
                    (Entry::Damaged(v, _), Some(k)) if k.version == v && (v > must || k.is_damaged) => {
                        (k.is_sure, k.is_damaged) = (true, true);
                    }
                    other => panic!("{block} of {object:?}: {other:?}"),
                }
            }
        }
        self.read_all(&data);
    }

    /// Each block has this content at this version.
    fn read_all(&mut self, data: &[(ObjectId, u16, Version, u8)]) {
        for some in data.chunks(64) {
            for (at, (object, block, version, _)) in some.iter().enumerate() {
                let spec = ReadSpec {
                    group: GROUP,
                    layers: [object.layer].into_iter().collect(),
                    family: FAMILY,
                    chunk: object.chunk,
                    range: one(*block),
                    which: Which::Exact(*version),
                };
                self.bench.store.read(Token(at as u64), spec);
            }
            let mut left = some.len();
            for event in self.events() {
                if let Event::Read(Token(at), read) = event {
                    let first = read.expect("intact").data.map(|d| d[0]);
                    assert_eq!(first, Some(some[at as usize].3), "{:?}", some[at as usize]);
                    left -= 1;
                }
            }
            assert_eq!(left, 0, "all reads are answered");
        }
    }

    fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        (0..8).for_each(|_| self.bench.store.finish(Instant(0), &mut events));
        events
    }

    fn check(&mut self) {
        self.settle();
        for ((object, block), all) in &self.model {
            let read = self.bench.read(*object, *block);
            match all.last() {
                Some(k) if k.is_damaged => {
                    assert!(matches!(read, Err(ReadError::Corrupt(_))), "{k:?}: {read:?}")
                }
                known => {
                    let wanted = known.map_or(0, |k| k.content);
                    assert_eq!(read, Ok(wanted), "{block} of {object:?}");
                }
            }
        }
    }
}
