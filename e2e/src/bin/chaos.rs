//! Chaos: real processes, faults drawn from a seed, clients whose every operation is judged.
use clap::Parser;
use sarsen_e2e::chaos::run::{Plan, run};
use std::process::ExitCode;
use std::time::Duration;

/// Faults at random against a cluster of this machine, under clients that remember everything (wants root)
#[derive(Parser)]
struct Flags {
    /// What is drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// For how long
    #[arg(long, default_value_t = 180)]
    seconds: u64,
    /// How reads are leased
    #[arg(long, default_value = "clock", value_parser = ["clock", "confirm"])]
    lease: String,
    /// Only these faults, separated by commas
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    /// After a failure, leave logs and drives where they are
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let Flags { seed, seconds, lease, faults, keep } = Flags::parse();
    let ended = Plan::faults_of(&faults).and_then(|faults| {
        let time = Duration::from_secs(seconds);
        run(&Plan { seed, time, lease: lease.clone(), faults, keeps: keep })
    });
    match ended {
        Ok(summary) => {
            println!("{summary}\nnothing lost, nothing stale, nothing refused");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why:?}\nagain: e2e/chaos --seed {seed} --seconds {seconds} --lease {lease}");
            ExitCode::FAILURE
        }
    }
}
