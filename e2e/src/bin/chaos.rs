//! Chaos: real processes, faults drawn from a seed, clients whose every operation is judged.
use clap::Parser;
use std::process::ExitCode;
use std::time::Duration;

/// Faults at random against a cluster of this machine, under clients that remember everything
#[derive(Parser)]
struct Flags {
    /// What is drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// For how long
    #[arg(long, default_value_t = 180)]
    seconds: u64,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    match sarsen_e2e::chaos::run::run(flags.seed, Duration::from_secs(flags.seconds)) {
        Ok(summary) => {
            println!("{summary}\nnothing lost, nothing stale, nothing refused");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why:?}\nagain: e2e/chaos --seed {} --seconds {}", flags.seed, flags.seconds);
            ExitCode::FAILURE
        }
    }
}
