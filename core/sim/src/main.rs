//! Runs seeds, in both lease modes, and prints the one that fails with the command that repeats it.
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use sarsen_sim::run::{Outcome, run};
use sarsen_slice::LeaseMode;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A whole cluster on one thread, from a seed.
#[derive(Parser)]
struct Args {
    /// How many seeds; odd ones lease by the clock, even ones confirm.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Only this seed; `TRACE=1` tells what happens in it.
    #[arg(long)]
    seed: Option<u64>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

fn lease(seed: u64) -> LeaseMode {
    if seed.is_multiple_of(2) { LeaseMode::Confirm } else { LeaseMode::Clock }
}

/// Events of which some must be met in a run of CI's length.
const MUST: [&str; 14] = [
    "takeovers",
    "takeovers_with_tail",
    "waits_ended_early",
    "writes_ordered_again",
    "joins",
    "joins_restarted",
    "objects_recovered",
    "promotions",
    "answered_from_record",
    "retries_joined",
    "overlaps_waited",
    "merges",
    "repairs",
    "prepares_sent_again",
];

fn main() -> ExitCode {
    let args = Args::parse();
    let seeds: Vec<u64> = match args.seed {
        Some(seed) => vec![seed],
        None => (args.from..args.from + args.seeds).collect(),
    };
    let bar = ProgressBar::new(seeds.len() as u64);
    bar.set_style(
        ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {eta} left").expect("a template"),
    );
    let (next, has_failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let total: Mutex<(BTreeMap<String, u64>, u64)> = Mutex::default();
    if args.seed.is_none() {
        std::panic::set_hook(Box::new(|_| {}));
    }
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.min(seeds.len()) {
            scope.spawn(|| {
                while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    if has_failed.load(Ordering::Relaxed) {
                        return;
                    }
                    match catch_unwind(AssertUnwindSafe(|| run(seed, lease(seed)))) {
                        Ok(outcome) => add(&mut total.lock().expect("nobody panics with it"), &outcome),
                        Err(why) => {
                            has_failed.store(true, Ordering::Relaxed);
                            let why = (why.downcast_ref::<String>().map(String::as_str))
                                .or(why.downcast_ref::<&str>().copied())
                                .unwrap_or("it panicked");
                            bar.suspend(|| {
                                println!("seed {seed} fails: {why}");
                                println!(
                                    "repeat it: TRACE=1 cargo run --release -p sarsen-sim -- --seed {seed}"
                                );
                            });
                        }
                    }
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let (counters, operations) = total.into_inner().expect("nobody panics with it");
    for (name, count) in &counters {
        println!("{name:40} {count}");
    }
    println!("{operations} operations answered in {} seeds", seeds.len());
    if has_failed.load(Ordering::Relaxed) {
        return ExitCode::FAILURE;
    }
    let missing: Vec<&str> = MUST
        .iter()
        .copied()
        .filter(|m| seeds.len() >= 200 && counters.get(*m).copied().unwrap_or(0) == 0)
        .collect();
    if !missing.is_empty() {
        println!("never met, so never tested: {}", missing.join(", "));
        return ExitCode::FAILURE;
    }
    println!("all {} seeds pass", seeds.len());
    ExitCode::SUCCESS
}

fn add(total: &mut (BTreeMap<String, u64>, u64), outcome: &Outcome) {
    for (name, count) in outcome.counters.each() {
        *total.0.entry(name.to_owned()).or_default() += count;
    }
    for (name, count) in &outcome.events {
        *total.0.entry((*name).to_owned()).or_default() += count;
    }
    for (name, count) in &outcome.faults {
        *total.0.entry(format!("fault {name}")).or_default() += count;
    }
    total.1 += outcome.operations;
}
