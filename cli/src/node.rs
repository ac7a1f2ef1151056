//! `sarsen node`: serves drives, as a member of a cluster; or lists the nodes there are.
use crate::cluster::Where;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::size::Size;
use clap::{Args, Subcommand, ValueEnum};
use sarsen_node::NodeConfig;
use sarsen_slice::LeaseMode;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Serve drives as a member of a cluster; or list the nodes there are
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Node {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    serve: Option<Serve>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The nodes of the cluster
    List,
}

#[derive(Debug, Args)]
struct Serve {
    /// Its directory: metadata, identity; drives are named apart
    #[arg(long)]
    dir: PathBuf,
    /// Its data port
    #[arg(long, value_name = "IP:PORT")]
    listen: SocketAddr,
    /// Its API
    #[arg(long, value_name = "IP:PORT")]
    api: SocketAddr,
    /// The cluster's key, made by `sarsen key create`
    #[arg(long, required_unless_present = "dev")]
    key: Option<PathBuf>,
    /// APIs of nodes that take it in; without, it begins a cluster. Later starts ask them too, should it or they have moved
    #[arg(long, value_name = "URL,...", value_delimiter = ',')]
    join: Vec<String>,
    /// A formatted drive to serve; may be repeated
    #[arg(long = "drive", value_name = "PATH")]
    drives: Vec<PathBuf>,
    /// How reads are leased [default: as the machine's clock deserves]
    #[arg(long, value_enum)]
    lease: Option<Lease>,
    /// Memory for the maps of all drives together [default: 256MiB for each]
    #[arg(long)]
    memory: Option<Size>,
    /// No unix socket: what runs on this machine comes over TCP too, as from other machines
    #[arg(long)]
    tcp_only: bool,
    /// For `sarsen dev`: no key, on loopback only
    #[arg(long, hide = true)]
    dev: bool,
    /// For `sarsen dev`: copies of the default policy
    #[arg(long, hide = true)]
    dev_copies: Option<u8>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Lease {
    /// By the clock alone
    Clock,
    /// By a round of heartbeats for each turn of reads
    Confirm,
}

impl Node {
    /// Does it. A node ends with SIGTERM, after it has handed over.
    pub async fn run(self, place: &Where, output: Output) -> Outcome {
        match (self.verb, self.serve) {
            (Some(Verb::List), _) => list(place, output).await,
            (None, Some(serve)) => serve.run().await,
            (None, None) => Err(Failure::new("nothing was asked").hint("`sarsen node --help`")),
        }
    }
}

impl Serve {
    async fn run(self) -> Outcome {
        let is_local = self.listen.ip().is_loopback() && self.api.ip().is_loopback();
        if self.dev && !is_local {
            return Err(Failure::new("without a key a node listens on loopback only")
                .hint("`sarsen key create FILE`, and --key FILE on every node"));
        }
        let key = self.key.as_deref().map(crate::key::load).transpose()?;
        let config = NodeConfig {
            dir: self.dir,
            listen: self.listen,
            api: self.api,
            key,
            join: self.join,
            drives: self.drives,
            lease: self.lease.map(|lease| match lease {
                Lease::Clock => LeaseMode::Clock,
                Lease::Confirm => LeaseMode::Confirm,
            }),
            copies: self.dev_copies,
            is_dev: self.dev,
            memory: self.memory.map(|m| m.0),
            is_tcp_only: self.tcp_only,
        };
        Ok(sarsen_node::run(config).await?)
    }
}

async fn list(place: &Where, output: Output) -> Outcome {
    let nodes = place.cluster()?.nodes().await?;
    output.list(&nodes, &["id", "state", "metadata", "api", "data", "drives"], |n| {
        let state = if n.is_up { "up" } else { "down" };
        let role = match (n.is_leader, n.is_voter) {
            (true, _) => "leads",
            (false, true) => "votes",
            (false, false) => "learns",
        };
        let drives: Vec<String> = n.drives.iter().map(u32::to_string).collect();
        vec![n.id.to_string(), state.into(), role.into(), n.api.clone(), n.data.clone(), drives.join(",")]
    })
}
