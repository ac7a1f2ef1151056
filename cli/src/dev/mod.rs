//! `sarsen dev`: a whole cluster on this machine, in the foreground, for trying things out and for tests.
//!
//! Reading order: [`settings`] (what a directory was made with), [`fleet`] (the processes), [`bring_up`] (from nothing to
//! a cluster that serves), [`control`] (what may be asked of it), [`show`] (what it says).
mod bring_up;
mod control;
mod fleet;
mod ports;
mod process;
mod settings;
mod show;

use crate::failure::{During, Failure, Outcome};
use crate::output::{Output, line_out};
use crate::size::Size;
use clap::{Args, Subcommand};
use control::Request;
use fleet::Fleet;
use settings::{Flags, Lease, Settings, Volume};
use show::Show;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A whole cluster on this machine, in the foreground
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Dev {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Where it lives; the same directory resumes with all data
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Nodes, each a fault domain [default: 3]
    #[arg(long)]
    nodes: Option<u32>,
    /// Drives of each node [default: 1]
    #[arg(long)]
    drives: Option<u32>,
    /// Size of each drive, a sparse file [default: 10GiB]
    #[arg(long, value_name = "SIZE")]
    drive_size: Option<Size>,
    /// Slices of each drive: stores of their own, each with a thread [default: 1]
    #[arg(long)]
    slices: Option<u8>,
    /// Copies of each block [default: 3, or one a node]
    #[arg(long)]
    copies: Option<u32>,
    /// A volume to create and to export at DIR/NAME.nbd.sock; may be repeated
    #[arg(long = "volume", value_name = "NAME:SIZE")]
    volumes: Vec<Volume>,
    /// How reads are leased [default: as the machine's clock deserves]
    #[arg(long, value_enum)]
    lease: Option<Lease>,
    /// Nodes and exports talk over TCP, as between machines, not over unix sockets
    #[arg(long)]
    tcp_only: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Where everything of a running `sarsen dev` is, as one line of JSON
    Show(Where),
    /// Start a node that is not running
    StartNode(Which),
    /// Stop a node; it hands over first
    StopNode(Which),
}

#[derive(Debug, Args)]
struct Where {
    /// The directory of the running `sarsen dev`
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Which {
    /// The node's id
    id: u32,
    #[command(flatten)]
    place: Where,
}

impl Dev {
    /// Does it. Must run on the main thread: children end when the thread that started them ends.
    pub async fn run(self, output: Output) -> Outcome {
        let flags = Flags {
            nodes: self.nodes,
            drives: self.drives,
            drive_size: self.drive_size,
            slices: self.slices,
            copies: self.copies,
            lease: self.lease,
            tcp_only: self.tcp_only,
            volumes: self.volumes,
        };
        let (dir, request) = match self.verb {
            None => return run(&directory(self.dir)?, &flags, output).await,
            Some(Verb::Show(place)) => (place.dir, Request::Show),
            Some(Verb::StartNode(Which { id, place })) => (place.dir, Request::StartNode { id }),
            Some(Verb::StopNode(Which { id, place })) => (place.dir, Request::StopNode { id }),
        };
        let dir = directory(dir)?;
        let show = control::ask(&dir, request).await?;
        match request {
            // For scripts: one line of JSON, asked for or not.
            Request::Show => Output { json: true }.show(&show, |_| String::new()),
            _ => output.show(&show, |show| {
                let states = show.nodes.iter().map(|node| match node.pid {
                    Some(pid) => format!("node {} runs, pid {pid}", node.id),
                    None => format!("node {} is stopped", node.id),
                });
                states.collect::<Vec<_>>().join("\n")
            }),
        }
    }
}

/// The directory that was named, or the user's own.
fn directory(named: Option<PathBuf>) -> Outcome<PathBuf> {
    let dir = match named {
        Some(dir) => dir,
        None => {
            let of = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
            let state = of("XDG_STATE_HOME").or_else(|| of("HOME").map(|home| home.join(".local/state")));
            state
                .ok_or_else(|| {
                    Failure::new("there is no home directory to put a cluster in").hint("name a --dir")
                })?
                .join("sarsen/dev")
        }
    };
    std::path::absolute(&dir).during(format_args!("find {}", dir.display()))
}

async fn run(dir: &Path, flags: &Flags, output: Output) -> Outcome {
    let mut interrupt = signal(SignalKind::interrupt()).during("listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).during("listen for SIGTERM")?;
    let children = signal(SignalKind::child()).during("listen for the end of children")?;
    control::check_path(&control::path(dir))?;
    let is_new = Settings::load(dir)?.is_none();
    let settings = match Settings::load(dir)? {
        Some(settings) => {
            settings.hold_to(flags, dir)?;
            settings
        }
        None => Settings::new(flags)?,
    };
    fs::create_dir_all(dir).during(format_args!("make {}", dir.display()))?;
    let _lock = lock(dir)?;
    eprintln!("{} {}", if is_new { "making a cluster in" } else { "resuming the cluster in" }, dir.display());
    let started = Instant::now();
    let mut fleet = Fleet::new(dir, settings);
    let listener = control::listen(dir)?;
    let work = async {
        bring_up::bring_up(&mut fleet).await?;
        let show = fleet.show();
        eprintln!("the cluster serves after {:.1} s; Ctrl-C ends it", started.elapsed().as_secs_f32());
        if output.json {
            output.show(&show, |_| String::new())?;
        } else {
            line_out(&show.text(dir))?;
        }
        serve(&mut fleet, &listener, children).await
    };
    let done = tokio::select! {
        done = work => done,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    if done.is_ok() {
        eprintln!("stopping the cluster; the same --dir resumes it with all data");
    }
    tokio::select! {
        () = fleet.end() => {}
        // A second Ctrl-C: whoever is still there dies with us.
        _ = interrupt.recv() => {}
    }
    done
}

/// Holds the directory; two would write to one cluster's drives.
fn lock(dir: &Path) -> Outcome<File> {
    let path = dir.join("dev.lock");
    let file = File::create(&path).during(format_args!("create {}", path.display()))?;
    // SAFETY: no pointers; the descriptor is open.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        return Err(Failure::new(format!("a `sarsen dev` runs in {} already", dir.display()))
            .hint(format!("`sarsen dev show --dir {}` tells where", dir.display())));
    }
    Ok(file)
}

async fn serve(fleet: &mut Fleet, listener: &UnixListener, mut children: Signal) -> Outcome {
    loop {
        let again = fleet.reap();
        let pause = async {
            match again {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = children.recv() => {}
            () = pause => {}
            connection = listener.accept() => {
                let (mut stream, _) = connection.during("accept a connection at dev.sock")?;
                let result = match control::receive(&mut stream).await {
                    Ok(request) => carry_out(fleet, request).await,
                    Err(why) => Err(why),
                };
                control::answer(&mut stream, result).await;
            }
        }
    }
}

async fn carry_out(fleet: &mut Fleet, request: Request) -> Outcome<Show> {
    match request {
        Request::Show => return bring_up::learn_sizes(fleet).await,
        Request::StartNode { id } => {
            let at = fleet.number_of(id)?;
            if fleet.runs(at) {
                return Err(Failure::new(format!("node {id} runs already")));
            }
            fleet.start(at)?;
            bring_up::wait_for_node(fleet, at).await?;
        }
        Request::StopNode { id } => {
            let at = fleet.number_of(id)?;
            fleet.stop(at).await?;
        }
    }
    Ok(fleet.show())
}
