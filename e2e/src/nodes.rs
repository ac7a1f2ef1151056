//! A cluster of `sarsen node` processes with a key and drives that the test brings, each started as an operator starts it.
use crate::dev::UP_MAX;
use crate::program::{command, sarsen, succeed, wait_until};
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// How long a command may take.
const QUICK: Duration = Duration::from_secs(60);

/// Running nodes, and exports of their volumes. All end with it.
#[derive(Debug)]
pub struct Nodes {
    dir: TempDir,
    token: String,
    nodes: Vec<Node>,
    exports: Vec<Child>,
}

#[derive(Debug)]
struct Node {
    data: u16,
    api: u16,
    drives: Vec<PathBuf>,
    child: Option<Child>,
}

/// A port that is free now.
fn port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Makes a drive of a gibibyte, or of all of a device.
pub fn format(path: &Path) -> Result<()> {
    succeed(command(sarsen()).args(["drive", "format", "--size", "1GiB"]).arg(path), QUICK).map(drop)
}

impl Nodes {
    /// One node for each drive, which is formatted, and as many copies of what they store.
    pub fn start(drives: &[PathBuf], copies: u8) -> Result<Nodes> {
        let dir = tempfile::Builder::new().prefix("sarsen-e2e-").tempdir()?;
        let key = dir.path().join("key");
        succeed(command(sarsen()).args(["key", "create"]).arg(&key), QUICK)?;
        let token = succeed(command(sarsen()).args(["key", "token"]).arg(&key), QUICK)?;
        let node = |drive: &PathBuf| {
            Ok(Node { data: port()?, api: port()?, drives: vec![drive.clone()], child: None })
        };
        let nodes = drives.iter().map(node).collect::<Result<Vec<_>>>()?;
        let mut all = Nodes { dir, token: token.trim().to_owned(), nodes, exports: Vec::new() };
        for at in 0..drives.len() {
            let mut first = all.command(at, &all.key())?;
            let copies = copies.to_string();
            let child =
                if at == 0 { first.args(["--dev-copies", &copies]).spawn()? } else { first.spawn()? };
            all.nodes[at].child = Some(child);
            wait_until("the node is a member", UP_MAX, || {
                Ok(all.json(&["node", "list"])?.as_array().is_some_and(|n| n.len() == at + 1))
            })?;
        }
        wait_until("all drives are up", UP_MAX, || Ok(all.json(&["status"])?["drives_up"] == drives.len()))?;
        Ok(all)
    }

    /// A place for something of the test's, gone with it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    /// The cluster's key.
    pub fn key(&self) -> PathBuf {
        self.path("key")
    }
    /// Where a node writes what happens.
    pub fn log(&self, at: usize) -> String {
        std::fs::read_to_string(self.path(&format!("node-{at}.log"))).unwrap_or_default()
    }
    /// The API of a node, by its place from 0.
    pub fn url(&self, at: usize) -> String {
        format!("http://127.0.0.1:{}", self.nodes[at].api)
    }
    /// The drives that a node serves from its next start on.
    pub fn drives(&mut self, at: usize) -> &mut Vec<PathBuf> {
        &mut self.nodes[at].drives
    }

    /// How a node is started, with this key.
    pub fn command(&self, at: usize, key: &Path) -> Result<Command> {
        let Node { data, api, drives, .. } = &self.nodes[at];
        let mut node = command(sarsen());
        node.args(["node", "--dir"]).arg(self.path(&format!("node-{at}")));
        node.args(["--listen", &format!("127.0.0.1:{data}"), "--api", &format!("127.0.0.1:{api}")]);
        node.arg("--key").arg(key);
        for drive in drives {
            node.arg("--drive").arg(drive);
        }
        if at > 0 {
            node.args(["--join", &self.url(0)]);
        }
        let log = File::options().create(true).append(true).open(self.path(&format!("node-{at}.log")))?;
        node.stdin(Stdio::null()).stderr(log);
        Ok(node)
    }

    /// Starts a node that was ended.
    pub fn start_node(&mut self, at: usize) -> Result<()> {
        anyhow::ensure!(self.nodes[at].child.is_none(), "it runs");
        self.nodes[at].child = Some(self.command(at, &self.key())?.spawn()?);
        Ok(())
    }
    /// kill -9.
    pub fn kill_node(&mut self, at: usize) -> Result<()> {
        let mut child = self.nodes[at].child.take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }
    /// Ends a node as an init system does.
    pub fn stop_node(&mut self, at: usize) -> Result<()> {
        let mut child = self.nodes[at].child.take().context("it does not run")?;
        crate::process::signal(child.id(), libc::SIGTERM);
        crate::program::wait(&mut child, QUICK).map(drop)
    }
    /// Its process.
    pub fn pid(&self, at: usize) -> u32 {
        self.nodes[at].child.as_ref().expect("it runs").id()
    }

    /// An operator's command, with the token.
    pub fn cli(&self, args: &[&str]) -> Command {
        let urls: Vec<String> = (0..self.nodes.len()).map(|at| self.url(at)).collect();
        let mut cli = command(sarsen());
        cli.args(args).env("SARSEN_API", urls.join(",")).env("SARSEN_TOKEN", &self.token);
        cli
    }
    /// What an operator's command printed.
    pub fn sarsen(&self, args: &[&str]) -> Result<String> {
        succeed(&mut self.cli(args), QUICK)
    }
    /// What it printed with `--json`.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let line = self.sarsen(&[args, &["--json"]].concat())?;
        serde_json::from_str(&line).with_context(|| format!("{args:?} said: {line}"))
    }
    /// `ok`, `degraded` or `unavailable`, and why.
    pub fn health(&self) -> Result<(String, String)> {
        let status = self.json(&["status"])?;
        Ok((status["health"].as_str().unwrap_or_default().to_owned(), status["reasons"].to_string()))
    }
    /// Waits until it is `ok`.
    pub fn wait_ok(&self) -> Result<Duration> {
        let mut last = String::new();
        wait_until("the cluster is ok", crate::dev::RECOVER_MAX, || {
            let (health, reasons) = self.health()?;
            last = format!("{health} {reasons}");
            Ok(health == "ok")
        })
        .with_context(|| format!("last: {last}"))
    }

    /// Makes a volume and exports it. The socket.
    pub fn export(&mut self, volume: &str, size: &str) -> Result<PathBuf> {
        self.sarsen(&["volume", "create", volume, "--size", size])?;
        let socket = self.path(&format!("{volume}.sock"));
        let mut export = self.cli(&["export", "nbd", volume, "--socket"]);
        export.env_remove("SARSEN_TOKEN").arg(&socket).arg("--key").arg(self.key());
        let log = File::create(self.path(&format!("{volume}.log")))?;
        self.exports.push(export.stdout(Stdio::null()).stderr(log).spawn()?);
        wait_until("the export is there", UP_MAX, || Ok(socket.exists()))?;
        Ok(socket)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in self.exports.iter_mut().chain(self.nodes.iter_mut().filter_map(|n| n.child.as_mut())) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for at in 0..self.nodes.len() {
                let log = self.path(&format!("node-{at}.log"));
                eprintln!("-- the end of {}\n{}", log.display(), crate::dev::tail(&log, 15));
            }
            eprintln!("left for reading: {}", self.dir.path().display());
            self.dir.disable_cleanup(true);
        }
    }
}
