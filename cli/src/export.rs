//! `sarsen export`: a volume over NBD, in the foreground.
use crate::cluster::Where;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use clap::{Args, Subcommand};
use sarsen_host::{ExportConfig, Listen, export_nbd};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Make a volume a device, in the foreground
#[derive(Debug, Args)]
pub struct Export {
    #[command(subcommand)]
    way: Way,
}

#[derive(Debug, Subcommand)]
enum Way {
    /// Over NBD, for QEMU, libvirt and tools
    Nbd {
        /// The volume
        name: String,
        /// A unix socket to listen at
        #[arg(long, required_unless_present = "listen", conflicts_with = "listen")]
        socket: Option<PathBuf>,
        /// A TCP port to listen at
        #[arg(long, value_name = "IP:PORT")]
        listen: Option<SocketAddr>,
        /// Refuse writes
        #[arg(long)]
        read_only: bool,
        /// The cluster's key
        #[arg(long, env = "SARSEN_KEY", value_name = "FILE")]
        key: Option<PathBuf>,
    },
}

impl Export {
    /// Exports until it is told to end.
    pub async fn run(self, place: &Where, output: Output) -> Outcome {
        let Way::Nbd { name, socket, listen, read_only, key } = self.way;
        let key = key.as_deref().map(crate::key::load).transpose()?;
        let listen = match (socket, listen) {
            (Some(path), _) => Listen::Socket(std::path::absolute(path)?),
            (None, Some(address)) => Listen::Tcp(address),
            (None, None) => {
                return Err(Failure::new("nowhere to listen").hint("--socket PATH or --listen IP:PORT"));
            }
        };
        let token = place.token.clone().or_else(|| key.as_ref().map(sarsen_api::token_of));
        let api = place.api_url.split(',').map(str::to_owned).collect();
        let config = ExportConfig { volume: name.clone(), listen, api, token, key, read_only };
        let ready = |size: u64, at: &Listen| {
            let url = match at {
                Listen::Socket(path) => format!("nbd+unix:///{name}?socket={}", path.display()),
                Listen::Tcp(address) => format!("nbd://{address}/{name}"),
            };
            let shown = serde_json::json!({ "volume": name, "size": size, "nbd": url });
            let _ = output.show(&shown, |_| format!("{name} is exported at {url}"));
        };
        Ok(export_nbd(config, ready).await?)
    }
}
