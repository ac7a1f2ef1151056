//! `sarsen`: the node, the tools for drives, the operator's commands, and a cluster on one machine.
mod cluster;
mod completion;
mod dev;
mod drive;
mod event;
mod export;
mod failure;
mod forget;
mod key;
mod node;
mod output;
mod setting;
mod size;
mod status;
mod volume;

use clap::{Parser, Subcommand};
use cluster::Where;
use failure::Outcome;
use output::Output;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

/// Replicated block storage from the drives of ordinary servers
#[derive(Debug, Parser)]
#[command(name = "sarsen", version, arg_required_else_help = true, disable_help_subcommand = true)]
struct Sarsen {
    #[command(subcommand)]
    noun: Noun,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Noun {
    Dev(dev::Dev),
    Status(status::StatusArgs),
    Node(node::Node),
    Drive(drive::Drive),
    Volume(volume::Volume),
    Attachment(volume::Attachment),
    Export(export::Export),
    /// Placement groups
    Group(status::Listed),
    /// Sets of drives
    Pool(status::Listed),
    /// How volumes are stored
    Policy(status::Listed),
    Event(event::Event),
    Setting(setting::Setting),
    Key(key::Key),
    Completion(completion::Completion),
}

/// What is logged unless `SARSEN_LOG` says otherwise. Of raft only what ends it, which the node says itself: it logs every
/// message that a dead node does not take, several times a second.
const LOG: &str = "info,openraft=off";

fn main() -> ExitCode {
    let Sarsen { noun, place, output } = Sarsen::parse();
    let level = tracing_subscriber::EnvFilter::try_from_env("SARSEN_LOG").unwrap_or_else(|_| LOG.into());
    tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run(noun, &place, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => why.report(),
    }
}

/// How long the end of the program waits for what hangs in the system: a drive that does not answer.
const END_MAX: Duration = Duration::from_secs(2);

fn run(noun: Noun, place: &Where, output: Output) -> Outcome {
    let runtime = runtime()?;
    let done = run_on(&runtime, noun, place, output);
    runtime.shutdown_timeout(END_MAX);
    done
}

fn run_on(runtime: &tokio::runtime::Runtime, noun: Noun, place: &Where, output: Output) -> Outcome {
    match noun {
        Noun::Dev(dev) => runtime.block_on(dev.run(output)),
        Noun::Status(status) => runtime.block_on(status.run(place, output)),
        Noun::Node(node) => runtime.block_on(node.run(place, output)),
        Noun::Drive(drive) => runtime.block_on(drive.run(place, output)),
        Noun::Volume(volume) => runtime.block_on(volume.run(place, output)),
        Noun::Export(export) => runtime.block_on(export.run(place, output)),
        Noun::Attachment(attachment) => runtime.block_on(attachment.run(place, output)),
        Noun::Group(listed) => runtime.block_on(listed.groups(place, output)),
        Noun::Pool(listed) => runtime.block_on(listed.pools(place, output)),
        Noun::Policy(listed) => runtime.block_on(listed.policies(place, output)),
        Noun::Event(event) => runtime.block_on(event.run(place, output)),
        Noun::Setting(setting) => runtime.block_on(setting.run(place, output)),
        Noun::Key(key) => key.run(),
        Noun::Completion(completion) => completion.run::<Sarsen>(),
    }
}

/// One thread, this one: `dev` needs its children to be this thread's.
fn runtime() -> Outcome<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
