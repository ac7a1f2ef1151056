//! Operations of a store against a model: what is written, recovered, settled, merged, moved and started again is read as the
//! model has it, and the map is right.
#![no_main]
#[path = "../../../store/tests/support/mod.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod support;
use libfuzzer_sys::fuzz_target;
use sarsen_fuzz::Choices;
use sarsen_types::{BlockRange, Epoch, ObjectId, Version};
use std::collections::BTreeMap;
use support::*;

const SIZE: u64 = 64 << 20;
/// Objects, and blocks at the start of each: few, so that they meet.
const OBJECTS: u16 = 50;
const BLOCKS: u16 = 200;

/// (version, content) of each block, ascending; content 0 is zeroes.
type Model = BTreeMap<(ObjectId, u16), Vec<(Version, u8)>>;

struct Walk<'a> {
    choices: Choices<'a>,
    bench: Bench,
    model: Model,
    content: u8,
}

impl Walk<'_> {
    fn place(&mut self) -> (ObjectId, BlockRange) {
        let object = object(u32::from(self.choices.below(OBJECTS)));
        let first = self.choices.below(BLOCKS);
        let count = match self.choices.byte() {
            n @ 0..240 => u16::from(n % 4) + 1,
            n => u16::from(n - 239) * 4,
        };
        (object, BlockRange::new(first, count))
    }

    fn write(&mut self, is_zero: bool) {
        let (object, range) = self.place();
        self.content = self.content % 250 + 1;
        let content = if is_zero { 0 } else { self.content };
        let version = self.bench.write(object, range, content);
        for block in range.blocks() {
            self.model.entry((object, block)).or_default().push((version, content));
        }
    }

    /// As in a join: all below a new epoch becomes what is given (R14).
    fn recover(&mut self, is_absent: bool) {
        let (object, range) = self.place();
        self.bench.settle();
        let given = Version(self.bench.version().0 + 1);
        self.bench.epoch += 1;
        self.content = self.content % 250 + 1;
        let content = (!is_absent).then_some(self.content);
        self.bench.recover(object, range, self.bench.epoch, content, given);
        let low = Version::start(Epoch(self.bench.epoch));
        for block in range.blocks() {
            let entries = self.model.entry((object, block)).or_default();
            entries.retain(|e| e.0 >= low);
            entries.splice(0..0, content.map(|c| (given, c)));
        }
    }

    fn start_again(&mut self, is_clean: bool) {
        self.bench.quiet();
        let bench = std::mem::replace(&mut self.bench, Bench::new(SIZE, 0));
        self.bench = match is_clean {
            true => bench.restart(),
            false => bench.restarted(bench.image()),
        };
        self.bench.audit();
    }

    fn check(&mut self) {
        self.bench.settle();
        for ((object, block), entries) in &self.model {
            let wanted = entries.iter().max_by_key(|e| e.0).map_or(0, |e| e.1);
            assert_eq!(self.bench.read(*object, *block), Ok(wanted), "{block} of {object:?}");
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices(bytes);
    let bench = Bench::new(SIZE, 0);
    let bench = if choices.byte() & 1 == 1 { bench.spilling() } else { bench };
    let mut walk = Walk { choices, bench, model: Model::new(), content: 0 };
    while walk.choices.are_left() {
        match walk.choices.byte() % 32 {
            0..16 => walk.write(false),
            16..19 => walk.write(true),
            19 => walk.recover(false),
            20 => walk.recover(true),
            21..24 => walk.bench.settle(),
            24..27 => walk.bench.turn(),
            27 => walk.bench.checkpoint(),
            28 => walk.bench.store.ask_checkpoint(),
            29 => walk.bench.store.rewind_allocation(),
            30 => walk.start_again(false),
            _ => walk.start_again(true),
        }
    }
    walk.check();
    walk.bench.checkpoint();
    walk.bench.audit();
    walk.check();
    walk.start_again(true);
    walk.check();
});
