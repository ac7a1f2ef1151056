//! A cluster with a key, each node and each export on a host of its own, each drive one that misbehaves when told.
use super::drive::{Mood, MoodyDrive};
use super::net::{Host, Net};
use crate::process::signal;
use crate::program::{self, command, succeed, wait_until};
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Nodes, and so copies of everything.
pub const NODES: u32 = 3;
/// Bytes of a drive: so few that one is full soon.
const DRIVE: &str = "1GiB";
/// What a command of an operator may take.
const COMMAND_MAX: Duration = Duration::from_secs(60);
/// How long a node that hands over may take.
const STOP_MAX: Duration = Duration::from_secs(30);
/// How long a cluster may take to be whole again after the worst fault: a start that misses a copy waits 30 s for it (R27).
const WHOLE_MAX: Duration = Duration::from_secs(180);
/// How long an export may take to come up.
const UP_MAX: Duration = Duration::from_secs(60);
const DATA_PORT: u16 = 21001;
const API_PORT: u16 = 21000;
/// Lies about the time of day to the program it is loaded into.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

struct Node {
    process: Option<Child>,
    drive: MoodyDrive,
}

struct Export {
    volume: String,
    process: Option<Child>,
}

/// See the module.
pub struct Cluster {
    // in this order they end: nobody waits for a drive that is not there any more
    exports: Vec<Export>,
    nodes: Vec<Node>,
    net: Net,
    token: String,
    has_clocks: bool,
    dir: TempDir,
}

impl Cluster {
    /// Nodes, and a volume for each (name, size), exported.
    pub fn start(volumes: &[(&str, &str)], lease: &str) -> Result<Cluster> {
        let dir = tempfile::Builder::new().prefix("sarsen-chaos-").tempdir()?;
        let net = Net::new(NODES + volumes.len() as u32)?;
        let key = dir.path().join("key");
        succeed(command(program::sarsen()).args(["key", "create"]).arg(&key), COMMAND_MAX)?;
        let token = succeed(command(program::sarsen()).args(["key", "token"]).arg(&key), COMMAND_MAX)?;
        let token = token.trim().to_owned();
        fs::write(dir.path().join("lease"), lease)?;
        let has_clocks = Path::new(FAKETIME).exists();
        let mut cluster = Cluster { exports: Vec::new(), nodes: Vec::new(), net, token, has_clocks, dir };
        for id in 1..=NODES {
            cluster.add_node(id)?;
        }
        wait_until(
            "all drives are up",
            COMMAND_MAX,
            || Ok(cluster.json(&["status"])?["drives_up"] == NODES),
        )?;
        for (volume, size) in volumes {
            cluster.sarsen(&["volume", "create", volume, "--size", size])?;
            cluster.exports.push(Export { volume: (*volume).to_owned(), process: None });
            cluster.start_export(cluster.exports.len() - 1)?;
        }
        cluster.wait_ok()?;
        Ok(cluster)
    }

    fn add_node(&mut self, id: u32) -> Result<()> {
        let (file, place) = (self.path(&format!("drive-{id}.img")), self.path(&format!("drive-{id}")));
        succeed(
            command(program::sarsen()).args(["drive", "format", "--size", DRIVE]).arg(&file),
            COMMAND_MAX,
        )?;
        fs::create_dir(&place)?;
        self.step_clock(id, 0)?;
        let drive = MoodyDrive::mount(&file, &place)?;
        self.nodes.push(Node { process: None, drive });
        self.start_node(id)?;
        wait_until("the node is a member", COMMAND_MAX, || {
            Ok(self.json(&["node", "list"])?.as_array().is_some_and(|n| n.len() as u32 == id))
        })?;
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn log(&self, name: &str) -> Result<File> {
        Ok(File::options().create(true).append(true).open(self.path(name))?)
    }
    fn url(&self, id: u32) -> String {
        format!("http://{}:{API_PORT}", self.net.address(id))
    }
    fn urls(&self) -> String {
        (1..=NODES).map(|id| self.url(id)).collect::<Vec<_>>().join(",")
    }
    fn node(&mut self, id: u32) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }

    /// The network.
    pub fn net(&self) -> &Net {
        &self.net
    }
    /// The host of the n-th export, counted from 0.
    pub fn host_of_export(&self, at: usize) -> Host {
        NODES + 1 + at as Host
    }
    /// How many there are.
    pub fn exports(&self) -> usize {
        self.exports.len()
    }
    /// Where everything is kept.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
    /// Keeps everything for who wants to read it.
    pub fn keep(mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }
    /// The socket of a volume.
    pub fn socket(&self, volume: &str) -> PathBuf {
        self.path(&format!("{volume}.sock"))
    }
    /// Whether clocks can be stepped.
    pub fn has_clocks(&self) -> bool {
        self.has_clocks
    }

    /// Starts a node that does not run.
    pub fn start_node(&mut self, id: u32) -> Result<()> {
        ensure!(self.node(id).process.is_none(), "node {id} runs already");
        let address = self.net.address(id);
        let mut node = self.net.on(id, program::sarsen());
        node.args(["node", "--dir"]).arg(self.path(&format!("node-{id}")));
        node.args(["--listen", &format!("{address}:{DATA_PORT}"), "--api", &format!("{address}:{API_PORT}")]);
        node.arg("--key").arg(self.path("key")).arg("--drive").arg(self.nodes[id as usize - 1].drive.path());
        node.args(["--lease", &fs::read_to_string(self.path("lease"))?]);
        let others: Vec<String> = (1..id).map(|id| self.url(id)).collect();
        if !others.is_empty() {
            node.args(["--join", &others.join(",")]);
        }
        if self.has_clocks {
            node.env("LD_PRELOAD", FAKETIME).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
            node.env("FAKETIME_TIMESTAMP_FILE", self.path(&format!("clock-{id}")));
            node.env("FAKETIME_CACHE_DURATION", "1");
        }
        node.stdin(Stdio::null()).stdout(Stdio::null()).stderr(self.log(&format!("node-{id}.log"))?);
        self.node(id).process = Some(node.spawn()?);
        Ok(())
    }

    /// Kills (SIGKILL) a node. What it had asked of a drive that hangs keeps it from ending.
    pub fn kill_node(&mut self, id: u32) -> Result<()> {
        let Some(mut process) = self.node(id).process.take() else { return Ok(()) };
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// Ends a node in order: it hands over.
    pub fn stop_node(&mut self, id: u32) -> Result<()> {
        let mut process = self.node(id).process.take().context("it does not run")?;
        signal(process.id(), libc::SIGTERM);
        let status = program::wait(&mut process, STOP_MAX).with_context(|| format!("node {id} stops"))?;
        ensure!(status.success(), "node {id} ended with {status}");
        Ok(())
    }

    /// Waits for the end of a node that ends by itself. Whether it did.
    pub fn has_ended(&mut self, id: u32, limit: Duration) -> Result<bool> {
        let until = std::time::Instant::now() + limit;
        while std::time::Instant::now() < until {
            let Some(process) = &mut self.node(id).process else { return Ok(true) };
            if process.try_wait()?.is_some() {
                self.node(id).process = None;
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(false)
    }

    /// Sends a signal to a node.
    pub fn signal_node(&mut self, id: u32, what: libc::c_int) -> Result<()> {
        signal(self.node(id).process.as_ref().context("it does not run")?.id(), what);
        Ok(())
    }

    /// Changes what the drive of a node does.
    pub fn set_drive(&mut self, id: u32, mood: Mood) {
        self.node(id).drive.set(mood);
    }

    /// From now on the node's time of day is off by so many seconds.
    pub fn step_clock(&self, id: u32, seconds: i64) -> Result<()> {
        // Renamed into place: it is never read half written.
        let (place, new) = (self.path(&format!("clock-{id}")), self.path(&format!("clock-{id}.new")));
        fs::write(&new, format!("{seconds:+}"))?;
        Ok(fs::rename(new, place)?)
    }

    /// Starts the export number `at`, and waits until it takes clients.
    pub fn start_export(&mut self, at: usize) -> Result<()> {
        let volume = self.exports[at].volume.clone();
        let mut export = self.net.on(self.host_of_export(at), program::sarsen());
        export.args(["export", "nbd", &volume, "--socket"]).arg(self.socket(&volume));
        export.arg("--key").arg(self.path("key")).env("SARSEN_API", self.urls());
        export.stdin(Stdio::null()).stdout(Stdio::null()).stderr(self.log(&format!("{volume}.log"))?);
        self.exports[at].process = Some(export.spawn()?);
        let socket = self.socket(&volume);
        wait_until(&format!("the export of {volume}"), UP_MAX, || {
            Ok(std::os::unix::net::UnixStream::connect(&socket).is_ok())
        })?;
        Ok(())
    }

    /// Kills (SIGKILL) an export.
    pub fn kill_export(&mut self, at: usize) -> Result<()> {
        let mut process = self.exports[at].process.take().context("it does not run")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// An operator's command on the host of the first export; what it printed.
    pub fn sarsen(&self, args: &[&str]) -> Result<String> {
        succeed(&mut self.command(args), COMMAND_MAX)
    }
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.net.on(self.host_of_export(0), program::sarsen());
        command.args(args).env("SARSEN_API", self.urls()).env("SARSEN_TOKEN", &self.token);
        command
    }
    fn json(&self, args: &[&str]) -> Result<serde_json::Value> {
        let mut all = args.to_vec();
        all.push("--json");
        let said = self.sarsen(&all)?;
        serde_json::from_str(&said).with_context(|| format!("{args:?} said: {said}"))
    }

    /// Waits until so many drives are up.
    pub fn wait_drives(&self, count: u32) -> Result<()> {
        wait_until(&format!("{count} drives are up"), COMMAND_MAX, || {
            Ok(self.json(&["status"])?["drives_up"] == count)
        })
        .map(drop)
    }

    /// Waits until the cluster says that all is well, and none of its processes ended by itself. How long that took.
    pub fn wait_ok(&mut self) -> Result<Duration> {
        let mut last = String::new();
        let took = wait_until("the cluster is ok", WHOLE_MAX, || {
            let status = self.json(&["status"])?;
            last = format!("{} {}", status["health"], status["reasons"]);
            Ok(status["health"] == "ok")
        })
        .with_context(|| format!("last: {last}"))?;
        self.all_run()?;
        Ok(took)
    }

    /// Fails if a process that nobody ended is gone.
    pub fn all_run(&mut self) -> Result<()> {
        let nodes =
            self.nodes.iter_mut().enumerate().map(|(at, n)| (format!("node {}", at + 1), &mut n.process));
        let exports =
            self.exports.iter_mut().map(|e| (format!("the export of {}", e.volume), &mut e.process));
        for (what, process) in nodes.chain(exports) {
            let ended = process.as_mut().map(Child::try_wait).transpose()?.flatten();
            if let Some(status) = ended {
                bail!("{what} ended by itself: {status}");
            }
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // a drive that hangs holds the processes that wait for it
        self.nodes.iter().for_each(|node| node.drive.set(Mood::Fails));
        let processes = self.exports.iter_mut().map(|e| &mut e.process);
        for process in processes.chain(self.nodes.iter_mut().map(|n| &mut n.process)).flatten() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
