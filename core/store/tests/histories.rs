//! Every crash point of every short history: after each operation of the disk, with what was not synced lost, kept, torn, or
//! every second block of it kept.
mod support;
use sarsen_store::memory::Fate;
use std::collections::BTreeMap;
use support::*;

const SIZE: u64 = 40 << 20;

/// What a history is made of. Blocks overlap, so that order shows.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Two blocks of the first object.
    WriteTwo,
    /// The second of them, and the one after.
    WriteOver,
    /// A block of another object.
    WriteElsewhere,
    Discard,
    /// All that is persisted is committed.
    Settle,
    /// A checkpoint begins.
    Checkpoint,
}
use Step::*;
const STEPS: [Step; 6] = [WriteTwo, WriteOver, WriteElsewhere, Discard, Settle, Checkpoint];

/// Blocks in the order they were written: (version, content).
type Written = BTreeMap<(u32, u16), Vec<(u64, u8)>>;

struct History {
    bench: Bench,
    written: Written,
    asked: u64,
}

impl History {
    fn new(is_durable: bool) -> History {
        let mut bench = Bench::with(SIZE, 4 << 20, is_durable);
        bench.store.disk_mut().is_held = true;
        History { bench, written: Written::new(), asked: 0 }
    }

    fn write(&mut self, chunk: u32, first: u16, count: u16, content: u8) {
        let version = self.bench.write(object(chunk), sarsen_types::BlockRange::new(first, count), content);
        for block in first..first + count {
            self.written.entry((chunk, block)).or_default().push((version.sequence(), content));
        }
        self.asked = version.sequence();
    }

    fn step(&mut self, step: Step) {
        let content = self.asked as u8 + 1;
        self.bench.store.rewind_allocation();
        match step {
            WriteTwo => self.write(1, 7, 2, content),
            WriteOver => self.write(1, 8, 2, content),
            WriteElsewhere => self.write(9, 300, 1, content),
            Discard => self.write(1, 7, 3, 0),
            Settle => {
                let durable = self.durable();
                let floor = sarsen_types::Version::new(sarsen_types::Epoch(1), durable);
                self.bench.store.raise_floor(GROUP, floor);
            }
            Checkpoint => self.bench.store.ask_checkpoint(),
        }
        self.bench.turn();
    }

    /// The version up to which all is persisted.
    fn durable(&self) -> u64 {
        self.bench.persisted.iter().map(|t| t.0).max().unwrap_or(0)
    }

    /// Lets the disk complete one operation.
    fn complete_one(&mut self) -> bool {
        if self.bench.store.disk().waiting() == 0 {
            return false;
        }
        self.bench.store.disk_mut().complete(0);
        self.bench.turn();
        true
    }

    /// What is there after a crash holds against what was persisted.
    fn crash(mut self, fate: impl FnMut() -> Fate, why: &str) {
        let disk = std::mem::take(self.bench.store.disk_mut());
        let mut again = self.bench.restarted(disk.crash(fate));
        assert!(!again.opened.is_broken, "{why}: a crash leaves no hole");
        again.audit();
        // all that is there becomes visible
        again.store.raise_floor(GROUP, again.version());
        let durable = self.durable();
        for ((chunk, block), entries) in &self.written {
            let must = entries.iter().rev().find(|e| e.0 <= durable);
            let may: Vec<u8> = entries.iter().filter(|e| e.0 > durable).chain(must).map(|e| e.1).collect();
            match again.read(object(*chunk), *block) {
                Ok(found) => assert!(
                    may.contains(&found) || (must.is_none() && found == 0),
                    "{why}: block {block} of {chunk} holds {found}, may hold {may:?}"
                ),
                // torn and never answered: its group decides
                Err(_) => {
                    assert!(entries.last().is_some_and(|e| e.0 > durable), "{why}: block {block} is lost")
                }
            }
        }
        again.checkpoint();
        again.audit();
    }
}

fn run(steps: &[Step], completed: usize, is_durable: bool) -> Option<History> {
    let mut history = History::new(is_durable);
    let mut left = completed;
    for (at, step) in steps.iter().enumerate() {
        history.step(*step);
        // half of what there is to complete completes before the next step, so that steps overlap
        // but the first checkpoint ends, so that there is something for a second to displace
        let is_first = matches!(step, Checkpoint) && !steps[..at].iter().any(|s| matches!(s, Checkpoint));
        let until = match at + 1 == steps.len() || is_first {
            true => usize::MAX,
            false => history.bench.store.disk().waiting() / 2 + 1,
        };
        for _ in 0..until {
            if left == 0 {
                return Some(history);
            }
            if !history.complete_one() {
                break;
            }
            left -= 1;
        }
    }
    (left == 0).then_some(history)
}

fn all_crash_points(steps: &[Step]) -> u32 {
    let mut points = 0;
    for is_durable in [false, true] {
        for completed in 0.. {
            if run(steps, completed, is_durable).is_none() {
                break;
            }
            for fate in 0..4 {
                let history = run(steps, completed, is_durable).expect("it was run before");
                let why = format!("{steps:?}, {completed} completed, durable {is_durable}, fate {fate}");
                let mut count = 0;
                let decide = || {
                    count += 1;
                    match fate {
                        0 => Fate::Lost,
                        1 => Fate::Kept,
                        2 => Fate::Torn(2048),
                        _ if count % 2 == 0 => Fate::Kept,
                        _ => Fate::Lost,
                    }
                };
                history.crash(decide, &why);
                points += 1;
            }
        }
    }
    points
}

#[test]
fn every_crash_point_of_every_history_of_two_steps() {
    let mut points = 0;
    for first in STEPS {
        for second in STEPS {
            points += all_crash_points(&[first, second]);
        }
    }
    println!("{points} crash points");
}

/// Three steps whose last is a checkpoint or an overwrite after one: where a place could be reused too early.
#[test]
fn every_crash_point_of_histories_around_a_checkpoint() {
    let mut points = 0;
    for first in [WriteTwo, Discard, WriteElsewhere] {
        for last in [WriteOver, Discard, Checkpoint] {
            points += all_crash_points(&[first, Settle, Checkpoint, last]);
        }
    }
    // what the second checkpoint displaces must not be written before its root is there
    points += all_crash_points(&[
        WriteTwo,
        Settle,
        Checkpoint,
        WriteOver,
        Settle,
        Checkpoint,
        WriteElsewhere,
        WriteTwo,
    ]);
    println!("{points} crash points");
}
