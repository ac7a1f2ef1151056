//! A cluster on this machine: `sarsen dev` with its nodes, killed and started as a test wants, ended whatever happens.
use crate::program::{self, command, succeed, wait_until};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a cluster may take to come up.
pub const UP_MAX: Duration = Duration::from_secs(90);
/// How long recovery of a test's small volumes may take.
pub const RECOVER_MAX: Duration = Duration::from_secs(120);

/// Where everything is, as `sarsen dev --json` says: scripts outside rely on just this.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Show {
    /// The API of each node.
    pub api: Vec<String>,
    /// Exported volumes.
    pub volumes: Vec<Volume>,
    /// The nodes.
    pub nodes: Vec<Node>,
}

/// An exported volume.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub size: u64,
    /// Its NBD URL.
    pub nbd: String,
}

/// A node.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its id.
    pub id: u32,
    /// Its process.
    pub pid: Option<u32>,
}

/// A running `sarsen dev`.
#[derive(Debug)]
pub struct Dev {
    dir: Place,
    flags: Vec<String>,
    env: Vec<(String, String)>,
    child: Option<Child>,
    show: Show,
}

#[derive(Debug)]
enum Place {
    Own(TempDir),
    Named(PathBuf),
}

impl Dev {
    /// A new cluster in a directory of its own, with these flags.
    pub fn start(flags: &[&str]) -> Result<Dev> {
        Dev::start_on(&std::env::temp_dir(), flags)
    }

    /// A new cluster in a directory of its own below `parent`.
    pub fn start_on(parent: &Path, flags: &[&str]) -> Result<Dev> {
        Dev::start_with(parent, flags, &[])
    }

    /// As [`Dev::start_on`], all its processes with these variables in their environment.
    pub fn start_with(parent: &Path, flags: &[&str], env: &[(&str, &str)]) -> Result<Dev> {
        let dir =
            tempfile::Builder::new().prefix("sarsen-e2e-").tempdir_in(parent).context("make a directory")?;
        Dev::start_at(Place::Own(dir), flags, env)
    }

    /// A cluster in a directory that stays.
    pub fn start_in(dir: &Path, flags: &[&str]) -> Result<Dev> {
        Dev::start_at(Place::Named(dir.to_owned()), flags, &[])
    }

    fn start_at(dir: Place, flags: &[&str], env: &[(&str, &str)]) -> Result<Dev> {
        let flags = flags.iter().map(|f| (*f).to_owned()).collect();
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let show = Show { api: Vec::new(), volumes: Vec::new(), nodes: Vec::new() };
        let mut dev = Dev { dir, flags, env, child: None, show };
        dev.resume()?;
        Ok(dev)
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        match &self.dir {
            Place::Own(dir) => dir.path(),
            Place::Named(dir) => dir,
        }
    }

    /// The directory of the node with the n-th id, counted from 1, and its first drive.
    pub fn drive(&self, node: u32) -> PathBuf {
        self.dir().join(format!("node-{node}/drive-1.img"))
    }

    /// Has the system, and the host of a virtual machine, give first drives in memory all their pages now: stops, writes each block as it
    /// is, goes on. Else the first use of each would be measured, which was a third of the CPU of large writes.
    pub fn touch_drives(&mut self, nodes: u32) -> Result<()> {
        self.stop()?;
        let mut piece = vec![0; 1 << 20];
        for node in 1..=nodes {
            let file = File::options().read(true).write(true).open(self.drive(node))?;
            for at in (0..file.metadata()?.len()).step_by(piece.len()) {
                let len = file.read_at(&mut piece, at)?;
                file.write_all_at(&piece[..len], at)?;
            }
        }
        self.resume()?;
        self.wait_ok().map(drop)
    }

    /// Starts `sarsen dev` again on its directory, after [`Dev::kill_everything`] or [`Dev::stop`]. How long it took.
    pub fn resume(&mut self) -> Result<Duration> {
        anyhow::ensure!(self.child.is_none(), "it runs already");
        let start = Instant::now();
        let log = File::options().create(true).append(true).open(self.dir().join("dev.log"))?;
        let mut child = command(program::sarsen())
            .args(["dev", "--json", "--dir"])
            .arg(self.dir())
            .args(&self.flags)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("start sarsen dev")?;
        let stdout = child.stdout.take().context("its stdout")?;
        self.child = Some(child);
        // The line is read beside us: there is no time limit on reading a pipe.
        let (said, hear) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            let _ = said.send(read.map(|_| line));
        });
        let line = hear.recv_timeout(UP_MAX).context("sarsen dev did not come up in time")??;
        if line.is_empty() {
            bail!("sarsen dev ended: {}", tail(&self.dir().join("dev.log"), 5));
        }
        self.show = serde_json::from_str(&line).with_context(|| format!("sarsen dev said: {line}"))?;
        Ok(start.elapsed())
    }

    /// Where everything was when it came up.
    pub fn at_start(&self) -> &Show {
        &self.show
    }

    /// Where everything is now.
    pub fn show(&self) -> Result<Show> {
        let line = self.sarsen(&["dev", "show", "--dir"], Some(self.dir()))?;
        anyhow::ensure!(line.lines().count() == 1, "dev show says more than one line: {line}");
        serde_json::from_str(&line).with_context(|| format!("dev show said: {line}"))
    }

    /// The URL of a volume.
    pub fn url(&self, volume: &str) -> String {
        let of = self.show.volumes.iter().find(|v| v.name == volume);
        of.unwrap_or_else(|| panic!("{volume} is not exported")).nbd.clone()
    }

    /// The socket of a volume.
    pub fn socket(&self, volume: &str) -> PathBuf {
        self.dir().join(format!("{volume}.nbd.sock"))
    }

    /// The process of `sarsen dev` itself.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Every process of the cluster: `dev`, nodes, exports.
    pub fn pids(&self) -> Vec<u32> {
        let mut all = vec![self.pid()];
        all.extend(crate::process::children(self.pid()));
        all
    }

    /// Kills (SIGKILL) the node with this id; it stays dead.
    pub fn kill_node(&self, id: u32) -> Result<()> {
        crate::process::kill(self.pid_of(id)?);
        self.wait_dead(id)
    }

    /// Asks the node with this id to end (SIGTERM): it hands over first; then it stays dead.
    pub fn terminate_node(&self, id: u32) -> Result<()> {
        crate::process::signal(self.pid_of(id)?, libc::SIGTERM);
        self.wait_dead(id)
    }

    /// The process of the node with this id.
    pub fn pid_of(&self, id: u32) -> Result<u32> {
        let show = self.show()?;
        let node = show.nodes.iter().find(|n| n.id == id).context("no such node")?;
        node.pid.context("it is not running")
    }

    /// Waits until the process of a node is gone.
    pub fn wait_dead(&self, id: u32) -> Result<()> {
        wait_until("dev notices a dead node", Duration::from_secs(15), || {
            Ok(self.show()?.nodes.iter().any(|n| n.id == id && n.pid.is_none()))
        })?;
        Ok(())
    }

    /// Starts a node that is dead or stopped.
    pub fn start_node(&self, id: u32) -> Result<()> {
        self.sarsen(&["dev", "start-node", &id.to_string(), "--dir"], Some(self.dir())).map(drop)
    }

    /// Stops a node; it hands over first.
    pub fn stop_node(&self, id: u32) -> Result<()> {
        self.sarsen(&["dev", "stop-node", &id.to_string(), "--dir"], Some(self.dir())).map(drop)
    }

    /// Kills (SIGKILL) every process at once.
    pub fn kill_everything(&mut self) {
        let pids = self.pids();
        for pid in &pids {
            crate::process::kill(*pid);
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    /// Ends it as an init system does.
    pub fn stop(&mut self) -> Result<()> {
        self.end(libc::SIGTERM)
    }

    /// Ends it as Ctrl-C does.
    pub fn interrupt(&mut self) -> Result<()> {
        self.end(libc::SIGINT)
    }

    fn end(&mut self, signal: libc::c_int) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        crate::process::signal(child.id(), signal);
        let status = program::wait(&mut child, Duration::from_secs(60)).context("sarsen dev ends")?;
        anyhow::ensure!(status.success(), "sarsen dev ended with {status}");
        Ok(())
    }

    /// Runs `sarsen` with these arguments against the cluster; a failure unless it succeeds. What it printed.
    pub fn sarsen(&self, args: &[&str], last: Option<&Path>) -> Result<String> {
        let mut command = self.command(args);
        command.args(last);
        succeed(&mut command, Duration::from_secs(60))
    }

    /// As [`Dev::sarsen`], whether it succeeds or not.
    pub fn try_sarsen(&self, args: &[&str]) -> Result<Output> {
        program::run(&mut self.command(args), Duration::from_secs(60))
    }

    /// The program with these arguments, told where the cluster is.
    pub fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = command(program::sarsen());
        command.args(args).env("SARSEN_API", self.show.api.join(","));
        command
    }

    /// What `sarsen ... --json` printed.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let mut all = args.to_vec();
        all.push("--json");
        let line = self.sarsen(&all, None)?;
        serde_json::from_str(&line).with_context(|| format!("{args:?} said: {line}"))
    }

    /// `ok`, `degraded` or `unavailable`, and why.
    pub fn health(&self) -> Result<(String, Value)> {
        let status = self.json(&["status"])?;
        let health = status["health"].as_str().context("status has no health")?.to_owned();
        Ok((health, status["reasons"].clone()))
    }

    /// Waits until it is `ok`. How long that took.
    pub fn wait_ok(&self) -> Result<Duration> {
        let mut last = String::new();
        wait_until("the cluster is ok", RECOVER_MAX, || {
            let (health, reasons) = self.health()?;
            last = format!("{health} {reasons}");
            Ok(health == "ok")
        })
        .with_context(|| format!("last: {last}"))
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill_everything();
        }
        if std::thread::panicking() {
            report(self.dir());
            if let Place::Own(dir) = &mut self.dir {
                dir.disable_cleanup(true);
            }
        }
    }
}

/// Prints the ends of all logs.
fn report(dir: &Path) {
    eprintln!("left for reading: {}", dir.display());
    let logs = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    for log in logs.filter(|p| p.extension().is_some_and(|e| e == "log")) {
        eprintln!("-- the end of {}\n{}", log.display(), tail(&log, 15));
    }
}

/// The last lines of a file.
pub fn tail(path: &Path, count: usize) -> String {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
