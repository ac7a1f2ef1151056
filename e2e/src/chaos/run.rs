//! The loop: a fault, a pause, the next; clients beside it; judgement at the end.
use super::fault::{ALL, Fault};
use super::shared::Shared;
use crate::checker::Checker;
use crate::dev::Dev;
use anyhow::{Context, Result, ensure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Clients on the shared region.
const CLIENTS: u64 = 6;
/// Cells that they share: few, so that they meet.
const CELLS: usize = 48;
/// The longest pause between two faults.
const REST_MAX_MS: u64 = 4000;

/// What a run came to.
#[derive(Debug, Default)]
pub struct Summary {
    /// By kind: how often, and the longest that an operation waited.
    pub faults: BTreeMap<Fault, (u32, Duration)>,
    /// Operations on the shared region.
    pub shared: usize,
    /// Answered writes on volumes of their own.
    pub answered: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:20} {:>6} {:>14}", "fault", "times", "longest wait")?;
        for (fault, (times, longest)) in &self.faults {
            writeln!(f, "{:20} {times:>6} {:>12.2} s", format!("{fault:?}"), longest.as_secs_f32())?;
        }
        write!(f, "{} operations on shared cells, {} answered writes beside them", self.shared, self.answered)
    }
}

/// Runs for `time`: every fault and every choice of a client is drawn from `seed`; what they meet is not.
pub fn run(seed: u64, time: Duration) -> Result<Summary> {
    let dev = Dev::start(&["--drive-size", "2GiB", "--volume", "shared:64MiB", "--volume", "own:64MiB"])?;
    dev.wait_ok()?;
    let shared = Shared::new(&dev.socket("shared"), "shared", CELLS);
    let mut checker = Checker::new(&dev.socket("own"), "own", 64 << 20, 3, 4, seed);
    let mut struck: Vec<(Fault, Instant)> = Vec::new();
    let stop = AtomicBool::new(false);
    let (spell, clients) = checker.beside(|| {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (1..=CLIENTS)
                .map(|number| {
                    scope.spawn({
                        let (shared, stop) = (&shared, &stop);
                        move || shared.client(number, seed, stop)
                    })
                })
                .collect();
            let faults = strike_for(&dev, seed, time, &mut struck);
            let calm = faults.and_then(|()| dev.wait_ok().map(drop));
            stop.store(true, Ordering::Relaxed);
            let clients: Vec<_> =
                clients.into_iter().map(|c| c.join().expect("a client does not panic")).collect();
            calm.map(|()| clients)
        })
    });
    for client in clients? {
        client.context("a client of the shared region")?;
    }
    ensure!(spell.errors == 0, "{} writes were refused", spell.errors);
    shared.read_all()?;
    let mut summary =
        Summary { shared: shared.check()?, answered: spell.answered as usize, ..Summary::default() };
    checker.verify()?;
    let waits = shared.waits.lock().expect("no client panics");
    for (at, (fault, began)) in struck.iter().enumerate() {
        let until = struck.get(at + 1).map_or(Instant::now(), |next| next.1);
        let of_it = waits.iter().filter(|w| w.ended >= *began && w.ended < until).map(|w| w.took);
        let entry = summary.faults.entry(*fault).or_default();
        *entry = (entry.0 + 1, entry.1.max(of_it.max().unwrap_or_default()));
    }
    Ok(summary)
}

fn strike_for(dev: &Dev, seed: u64, time: Duration, struck: &mut Vec<(Fault, Instant)>) -> Result<()> {
    let mut random = SmallRng::seed_from_u64(seed);
    let until = Instant::now() + time;
    while Instant::now() < until {
        let fault = ALL[random.random_range(0..ALL.len())];
        println!("{:6.1} s to go: {fault:?}", (until - Instant::now()).as_secs_f32());
        struck.push((fault, Instant::now()));
        fault.strike(dev, &mut random).with_context(|| format!("{fault:?}"))?;
        std::thread::sleep(Duration::from_millis(random.random_range(0..REST_MAX_MS)));
    }
    Ok(())
}
