//! Random operations against an obvious model: a list of versions a block. Memory is small, so that checkpoints, pages that
//! are away, and generations of unmerged entries meet everything else.
mod support;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sarsen_store::Token;
use sarsen_store::events::Event;
use sarsen_types::record::{Body, Entry};
use sarsen_types::{BlockRange, Epoch, Instant, LayerId, ObjectId, Version};
use std::collections::BTreeMap;
use support::*;

const SIZE: u64 = 128 << 20;
const MEMORY: usize = 512 << 10;
const OBJECTS: u32 = 48;

/// (version, content), ascending; 0 is a zero entry.
type Block = Vec<(Version, u8)>;

#[derive(Default)]
struct Model {
    blocks: BTreeMap<(ObjectId, u16), Block>,
    touched: BTreeMap<ObjectId, Version>,
    floor: Version,
    layer: u64,
}

impl Model {
    fn visible(&self, at: (ObjectId, u16)) -> u8 {
        let block = self.blocks.get(&at);
        block.and_then(|b| b.iter().rev().find(|e| e.0 <= self.floor)).map_or(0, |e| e.1)
    }
}

struct Walk {
    bench: Bench,
    model: Model,
    rng: SmallRng,
}

impl Walk {
    fn object(&mut self) -> ObjectId {
        let layer = self.model.layer + self.rng.random_range(0..2);
        ObjectId::new(layer, self.rng.random_range(0..OBJECTS))
    }

    fn range(&mut self) -> BlockRange {
        let first = self.rng.random_range(0..1024u16);
        let most = (1024 - first).min(if self.rng.random_bool(0.8) { 4 } else { 64 });
        BlockRange::new(first, self.rng.random_range(1..=most))
    }

    fn write(&mut self) {
        let (object, range) = (self.object(), self.range());
        let content = if self.rng.random_bool(0.15) { 0 } else { self.rng.random_range(1..=255) };
        let version = self.bench.write(object, range, content);
        range
            .blocks()
            .for_each(|b| self.model.blocks.entry((object, b)).or_default().push((version, content)));
        self.model.touched.insert(object, version);
    }

    /// As in a join: all below a new epoch becomes what is given (R14).
    fn recover(&mut self) {
        let (object, range) = (self.object(), self.range());
        let given = self.bench.version();
        self.settle();
        self.bench.epoch += 1;
        let low = Version::start(Epoch(self.bench.epoch));
        let content = self.rng.random_bool(0.7).then(|| self.rng.random_range(1..=255));
        // a version of the old epoch that nothing else has
        let given = Version(given.0 + 1);
        self.bench.recover(object, range, self.bench.epoch, content, given);
        for block in range.blocks() {
            let entries = self.model.blocks.entry((object, block)).or_default();
            entries.retain(|e| e.0 >= low);
            if let Some(content) = content {
                entries.insert(0, (given, content));
            }
        }
        let touched = self.model.touched.entry(object).or_default();
        *touched = given.max(*touched);
    }

    fn settle(&mut self) {
        self.bench.settle();
        self.model.floor = self.bench.version();
    }

    fn drop_layer(&mut self) {
        let layer = self.model.layer;
        self.bench.persist(Body::DropLayer { layer: LayerId(layer) }, None);
        self.bench.quiet();
        self.model.blocks.retain(|(id, _), _| id.layer.0 != layer);
        self.model.touched.retain(|id, _| id.layer.0 != layer);
        self.model.layer += 1;
    }

    fn restart(&mut self, is_crash: bool) {
        self.bench.quiet();
        let bench = std::mem::replace(&mut self.bench, Bench::new(64 << 20, MEMORY));
        self.bench = if is_crash { bench.restarted(bench.image()) } else { bench.restart() };
        // a floor that no journal block told is not known any more
        self.model.floor = self.bench.store.ledger(GROUP).map_or(Version::ZERO, |l| l.floor);
    }

    fn check_reads(&mut self) {
        for _ in 0..8 {
            let (object, block) = (self.object(), self.rng.random_range(0..1024));
            let known: Vec<_> = self.model.blocks.keys().copied().collect();
            let some = known.get(self.rng.random_range(0..known.len().max(1))).copied();
            for at in some.into_iter().chain([(object, block)]) {
                assert_eq!(self.bench.read(at.0, at.1), Ok(self.model.visible(at)), "{at:?}");
            }
        }
    }

    /// The tail and the list of what was touched say what the model says.
    fn check_listings(&mut self) {
        let above = self.model.floor;
        let mut stacks = BTreeMap::new();
        let mut after = None;
        loop {
            self.bench.store.list_stacks(Token(0), GROUP, above, after, 16);
            let (blocks, is_last) = self.wait(|e| match e {
                Event::Stacks { blocks, is_last, .. } => Some((blocks, is_last)),
                _ => None,
            });
            after = blocks.last().map(|b| (b.object, b.block)).or(after);
            stacks.extend(blocks.into_iter().map(|b| ((b.object, b.block), b.stack)));
            if is_last {
                break;
            }
        }
        let tail = self.model.blocks.iter().filter(|b| b.1.last().is_some_and(|e| e.0 > above));
        let tail: BTreeMap<_, _> = tail.map(|(at, b)| (*at, b.last().unwrap().0)).collect();
        let found: BTreeMap<_, _> = stacks.iter().map(|(at, s)| (*at, s[0].version())).collect();
        assert_eq!(found, tail);
        let mut touched = Vec::new();
        let mut after = None;
        loop {
            self.bench.store.list_touched(Token(0), GROUP, Version::ZERO, after, 7);
            let (objects, is_last) = self.wait(|e| match e {
                Event::Touched { objects, is_last, .. } => Some((objects, is_last)),
                _ => None,
            });
            after = objects.last().map(|o| o.0).or(after);
            touched.extend(objects);
            if is_last {
                break;
            }
        }
        assert_eq!(touched, self.model.touched.iter().map(|(o, v)| (*o, *v)).collect::<Vec<_>>());
    }

    fn wait<T>(&mut self, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        let mut events = Vec::new();
        for _ in 0..64 {
            self.bench.store.finish(Instant(0), &mut events);
            if let Some(found) = events.drain(..).find_map(&mut pick) {
                return found;
            }
        }
        panic!("what is asked is answered")
    }

    fn check_all(&mut self) {
        let (found, bad) = self.bench.store.top_entries(GROUP);
        assert!(bad.is_empty());
        let found: BTreeMap<_, _> =
            found.into_iter().map(|(at, e)| (at, (e.version(), matches!(e, Entry::Zero(_))))).collect();
        let tops = self.model.blocks.iter().filter_map(|(at, b)| b.last().map(|e| (*at, (e.0, e.1 == 0))));
        assert_eq!(found, tops.collect());
        self.bench.audit();
    }
}

#[test]
fn random_operations_do_what_the_model_does() {
    let number =
        |name: &str, otherwise| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(otherwise);
    let (first, seeds): (u64, u64) = (number("SEED", 1), number("SEEDS", 12));
    let mut checkpoints = 0;
    for seed in first..first + seeds {
        println!("seed {seed}");
        let mut walk = Walk {
            bench: match seed % 2 {
                0 => Bench::new(SIZE, MEMORY),
                _ => Bench::new(SIZE, MEMORY).spilling(),
            },
            model: Model { layer: 1, ..Model::default() },
            rng: SmallRng::seed_from_u64(seed),
        };
        for _ in 0..1500 {
            match walk.rng.random_range(0..1000) {
                0..700 => walk.write(),
                700..830 => walk.bench.turn(),
                830..880 => walk.recover(),
                880..920 => walk.settle(),
                920..926 => walk.bench.store.ask_checkpoint(),
                926..930 => walk.bench.store.rewind_allocation(),
                930..934 => walk.drop_layer(),
                934..940 => walk.restart(true),
                940..944 => walk.restart(false),
                944..950 => {
                    walk.bench.quiet();
                    walk.check_listings();
                }
                _ => {
                    walk.bench.quiet();
                    walk.check_reads();
                }
            }
        }
        walk.settle();
        walk.check_reads();
        walk.check_all();
        walk.bench.checkpoint();
        walk.check_all();
        walk.restart(false);
        walk.check_all();
        checkpoints += 1;
    }
    assert!(checkpoints > 0);
}
