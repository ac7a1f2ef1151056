//! Power that goes in a real kernel: a run in a virtual machine, and its log played to every point.
use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use sarsen_e2e::power::guest::{self, Plan};
use sarsen_e2e::power::machine::{self, Left};
use sarsen_e2e::power::replay::{self, Depth};
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Instant;

/// The product on a drive that loses what was not flushed: played to every point at which power may go
#[derive(Parser)]
struct Flags {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The whole: a machine with this kernel, then the play of its log
    Run {
        /// A Debian kernel package, unpacked
        #[arg(long)]
        kernel: PathBuf,
        /// Requests of the client
        #[arg(long, default_value_t = 3000)]
        requests: u64,
        #[command(flatten)]
        more: More,
        /// Let the device deny that it has a cache: the play must then fail
        #[arg(long)]
        deny_cache: bool,
        /// Keep what the machine left in this directory
        #[arg(long)]
        keep: Option<PathBuf>,
    },
    /// Play again what a run left
    Replay {
        /// Its directory
        dir: PathBuf,
        #[command(flatten)]
        more: More,
    },
    /// What runs inside the machine
    #[command(hide = true)]
    Guest {
        #[arg(long)]
        requests: u64,
        #[arg(long)]
        seed: u64,
        #[arg(long)]
        data_port: u16,
        #[arg(long)]
        api_port: u16,
        #[arg(long, action = clap::ArgAction::Set)]
        denies_cache: bool,
    },
}

#[derive(Args)]
struct More {
    /// What is drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Of so many points of the log one is looked at
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// Draws at each point of what was kept of the writes in flight
    #[arg(long, default_value_t = 2)]
    draws: usize,
    /// How often the real program is started on what was left
    #[arg(long, default_value_t = 12)]
    products: usize,
}

impl More {
    fn depth(&self) -> Depth {
        Depth { every: self.every.max(1), draws: self.draws, products: self.products }
    }
    fn plan(&self, requests: u64, denies_cache: bool) -> Result<Plan> {
        // both are held until both are known, so that they differ
        let held = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let [data_port, api_port] = held.map(|l| l.local_addr().map(|a| a.port()));
        Ok(Plan { requests, seed: self.seed, data_port: data_port?, api_port: api_port?, denies_cache })
    }
}

fn main() -> Result<()> {
    match Flags::parse().what {
        What::Guest { requests, seed, data_port, api_port, denies_cache } => {
            guest::run(&Plan { requests, seed, data_port, api_port, denies_cache })
        }
        What::Replay { dir, more } => play(&Left(dir), &more.plan(0, false)?, &more),
        What::Run { kernel, requests, more, deny_cache, keep } => {
            let own = tempfile::Builder::new().prefix("sarsen-power-").tempdir()?;
            let dir = keep.as_deref().unwrap_or(own.path());
            std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
            let plan = more.plan(requests, deny_cache)?;
            let start = Instant::now();
            let left = machine::run(&kernel, dir, &plan)?;
            println!("the machine took {} s", start.elapsed().as_secs());
            play(&left, &plan, &more)
        }
    }
}

fn play(left: &Left, plan: &Plan, more: &More) -> Result<()> {
    let start = Instant::now();
    let summary = replay::run(left, plan, more.depth())?;
    println!("{summary}\nthe play took {} s\nwhat was answered is there", start.elapsed().as_secs());
    Ok(())
}
