//! The loop: a fault, a pause, the next; clients beside it; judgement at the end.
use super::cluster::Cluster;
use super::fault::{ALL, FILLER, FILLER_SIZE, Fault};
use super::shared::{BYTES, Shared};
use crate::checker::Checker;
use anyhow::{Context, Result, bail, ensure};
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
/// Bytes of the volume that nobody shares.
const OWN_BYTES: u64 = 64 << 20;
/// The longest pause between two faults.
const REST_MAX_MS: u64 = 4000;
/// How often the cluster is left alone after a fault until it is whole: a copy that is out of sync feels no further one.
const WHOLE_AFTER: f64 = 0.6;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What every fault and every choice of a client is drawn from; what they meet is not.
    pub seed: u64,
    /// For how long faults strike.
    pub time: Duration,
    /// How reads are leased.
    pub lease: String,
    /// Faults to draw from.
    pub faults: Vec<Fault>,
    /// Leave the cluster's directory where it is when something fails.
    pub keeps: bool,
}

impl Plan {
    /// The faults with these names; all of them for no name.
    pub fn faults_of(names: &[String]) -> Result<Vec<Fault>> {
        let known = |name: &String| {
            let found = ALL.into_iter().find(|fault| format!("{fault:?}").eq_ignore_ascii_case(name));
            found.with_context(|| format!("there is no fault '{name}'; there are {ALL:?}"))
        };
        match names.is_empty() {
            true => Ok(ALL.to_vec()),
            false => names.iter().map(known).collect(),
        }
    }
}

/// What came of one kind of fault.
#[derive(Clone, Copy, Debug, Default)]
struct Survived {
    times: u32,
    longest_wait: Duration,
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Summary {
    faults: BTreeMap<Fault, Survived>,
    longest_recovery: Duration,
    shared: usize,
    answered: u64,
    refused_full: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:16} {:>6} {:>14}", "fault", "times", "longest wait")?;
        for (fault, Survived { times, longest_wait }) in &self.faults {
            writeln!(f, "{:16} {times:>6} {:>12.2} s", format!("{fault:?}"), longest_wait.as_secs_f32())?;
        }
        writeln!(
            f,
            "all copies in sync after a row of faults: {:.1} s at most",
            self.longest_recovery.as_secs_f32()
        )?;
        write!(
            f,
            "{} operations on shared cells, {} answered writes beside them, {} refused while drives were full",
            self.shared, self.answered, self.refused_full
        )
    }
}

/// Runs it. To be called by a process that has no other threads.
pub fn run(plan: &Plan) -> Result<Summary> {
    super::net::leave_mounts()?;
    let (shared, own) = (BYTES.to_string(), OWN_BYTES.to_string());
    let volumes = [("shared", shared.as_str()), ("own", &own), (FILLER, FILLER_SIZE)];
    let mut cluster = Cluster::start(&volumes, &plan.lease)?;
    match run_on(&mut cluster, plan) {
        Ok(summary) => Ok(summary),
        Err(why) if plan.keeps => Err(why.context(format!("left for reading: {}", cluster.keep().display()))),
        Err(why) => Err(why),
    }
}

fn run_on(cluster: &mut Cluster, plan: &Plan) -> Result<Summary> {
    let shared = Shared::new(&cluster.socket("shared"), "shared", CELLS);
    let mut checker = Checker::new(&cluster.socket("own"), "own", OWN_BYTES, 3, 4, plan.seed);
    let mut struck: Vec<(Fault, Instant)> = Vec::new();
    let stop = AtomicBool::new(false);
    let (spell, ended) = checker.beside(|| {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (1..=CLIENTS)
                .map(|number| {
                    scope.spawn({
                        let (shared, stop) = (&shared, &stop);
                        move || {
                            let done = shared.client(number, plan.seed, stop);
                            // what one client met ends the run
                            if done.is_err() {
                                stop.store(true, Ordering::Relaxed);
                            }
                            done
                        }
                    })
                })
                .collect();
            let calm = strike_for(cluster, plan, &stop, &mut struck);
            stop.store(true, Ordering::Relaxed);
            let clients: Vec<Result<u64>> =
                clients.into_iter().map(|c| c.join().expect("a client does not panic")).collect();
            (calm, clients)
        })
    });
    let (calm, clients) = ended;
    for client in clients {
        client.context("a client of the shared region")?;
    }
    let mut summary = Summary { longest_recovery: calm?, answered: spell.answered, ..Summary::default() };
    // what is lost is told before what was refused
    shared.read_all()?;
    summary.shared = shared.check()?;
    checker.verify()?;
    ensure!(spell.errors == 0, "{} writes were refused", spell.errors);
    ensure!(spell.pending == 0, "the export of own left {} writes without an answer", spell.pending);
    summary.refused_full = spell.full + shared.full.load(Ordering::Relaxed);
    let times = |kind: Fault| struck.iter().filter(|(fault, _)| *fault == kind).count() as u64;
    if summary.refused_full > 0 && times(Fault::DriveFull) == 0 {
        bail!("{} writes were refused for want of space that there was", summary.refused_full);
    }
    let broken = shared.broken.load(Ordering::Relaxed);
    ensure!(broken <= times(Fault::KillExport) * CLIENTS, "{broken} connections broke that nobody cut");
    let waits = shared.waits.lock().expect("no client panics");
    for (at, (fault, began)) in struck.iter().enumerate() {
        let until = struck.get(at + 1).map_or(Instant::now(), |next| next.1);
        let of_it = waits.iter().filter(|w| w.ended >= *began && w.ended < until).map(|w| w.took);
        let survived = summary.faults.entry(*fault).or_default();
        survived.times += 1;
        survived.longest_wait = survived.longest_wait.max(of_it.max().unwrap_or_default());
    }
    Ok(summary)
}

/// Strikes until the time is over; how long recovery took at most.
fn strike_for(
    cluster: &mut Cluster,
    plan: &Plan,
    stop: &AtomicBool,
    struck: &mut Vec<(Fault, Instant)>,
) -> Result<Duration> {
    let mut random = SmallRng::seed_from_u64(plan.seed);
    let until = Instant::now() + plan.time;
    let mut longest = Duration::ZERO;
    while Instant::now() < until && !stop.load(Ordering::Relaxed) {
        let fault = plan.faults[random.random_range(0..plan.faults.len())];
        if fault == Fault::ClockStep && !cluster.has_clocks() {
            continue;
        }
        println!("{:6.1} s to go: {fault:?}", (until - Instant::now()).as_secs_f32());
        struck.push((fault, Instant::now()));
        fault.strike(cluster, &mut random).with_context(|| format!("{fault:?}"))?;
        cluster.all_run()?;
        std::thread::sleep(Duration::from_millis(random.random_range(0..REST_MAX_MS)));
        if random.random_bool(WHOLE_AFTER) {
            longest = longest.max(cluster.wait_ok()?);
        }
    }
    Ok(longest.max(cluster.wait_ok()?))
}
