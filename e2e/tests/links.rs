//! Nodes on hosts of their own, between which links are cut.
use anyhow::{Context, Result};
use sarsen_e2e::chaos::net::{Net, leave_mounts};
use sarsen_e2e::checker::Checker;
use sarsen_e2e::program::{command, sarsen, succeed, wait_until};
use serde_json::Value;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const NODES: u32 = 4;
/// The host of the export.
const HOST: u32 = NODES + 1;
/// What a command, or a step of a start, may take.
const STEP_MAX: Duration = Duration::from_secs(60);
/// How long the leader does not reach one.
const SILENCE: Duration = Duration::from_secs(6);
/// What a write may wait: for a dead node 3 s; here what that needs goes round, on a machine whose cores also run the test.
const STALL_MAX: Duration = Duration::from_secs(if cfg!(debug_assertions) { 15 } else { 8 });

struct Cluster {
    processes: Vec<Child>,
    net: Net,
    token: String,
    dir: TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Cluster {
    /// Nodes with a drive each, and a volume that is exported.
    fn start(size: &str) -> Result<Cluster> {
        let (dir, net) = (TempDir::new()?, Net::new(HOST)?);
        let key = dir.path().join("key");
        succeed(command(sarsen()).args(["key", "create"]).arg(&key), STEP_MAX)?;
        let token = succeed(command(sarsen()).args(["key", "token"]).arg(&key), STEP_MAX)?.trim().to_owned();
        let mut cluster = Cluster { processes: Vec::new(), net, token, dir };
        for id in 1..=NODES {
            let drive = cluster.dir.path().join(format!("drive-{id}"));
            let format = ["drive", "format", "--size", "1GiB", "--sparse"];
            succeed(command(sarsen()).args(format).arg(&drive), STEP_MAX)?;
            let address = cluster.net.address(id);
            let mut node = vec![
                "--listen".into(),
                format!("{address}:21001"),
                "--api".into(),
                format!("{address}:21000"),
            ];
            if id > 1 {
                node.extend(["--join".into(), cluster.urls(id - 1)]);
            }
            let paths = [
                ("--dir", format!("node-{id}")),
                ("--key", "key".into()),
                ("--drive", format!("drive-{id}")),
            ];
            for (flag, name) in paths {
                node.extend([flag.into(), cluster.dir.path().join(name).display().to_string()]);
            }
            cluster.run(id, "node", &node)?;
            wait_until("the drive is up", STEP_MAX, || {
                Ok(cluster.json(&["status"]).is_ok_and(|s| s["drives_up"] == id && s["nodes"] == id))
            })?;
        }
        cluster.sarsen(&["volume", "create", "v", "--size", size])?;
        cluster.export("v")?;
        wait_until("the cluster is ok", STEP_MAX, || Ok(cluster.json(&["status"])?["health"] == "ok"))?;
        Ok(cluster)
    }

    fn run(&mut self, host: u32, what: &str, flags: &[String]) -> Result<()> {
        let mut program = self.net.on(host, sarsen());
        program.arg(what).args(flags).env("SARSEN_API", self.urls(NODES)).env("SARSEN_TOKEN", &self.token);
        let log = File::create(self.dir.path().join(format!("{what}-{host}.log")))?;
        program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.processes.push(program.spawn()?);
        Ok(())
    }
    fn urls(&self, nodes: u32) -> String {
        let urls: Vec<String> =
            (1..=nodes).map(|id| format!("http://{}:21000", self.net.address(id))).collect();
        urls.join(",")
    }
    /// Takes connections when it returns.
    fn export(&mut self, volume: &str) -> Result<PathBuf> {
        let socket = self.dir.path().join(format!("{volume}.sock"));
        let key = self.dir.path().join("key").display().to_string();
        let flags = ["nbd", volume, "--socket", &socket.display().to_string(), "--key", &key];
        self.run(HOST, "export", &flags.map(str::to_owned))?;
        wait_until("the export", STEP_MAX, || Ok(std::os::unix::net::UnixStream::connect(&socket).is_ok()))?;
        Ok(socket)
    }
    fn sarsen(&self, args: &[&str]) -> Result<String> {
        let mut command = self.net.on(HOST, sarsen());
        command.args(args).env("SARSEN_API", self.urls(NODES)).env("SARSEN_TOKEN", &self.token);
        succeed(&mut command, STEP_MAX)
    }
    fn json(&self, args: &[&str]) -> Result<Value> {
        serde_json::from_str(&self.sarsen(&[args, &["--json"]].concat())?).context("JSON")
    }
    /// From now on nothing that is said to or by the API of one arrives at the other: their slices reach each other still.
    fn cut_api(&self, from: u32, to: u32) -> Result<()> {
        for port in ["sport", "dport"] {
            let rule =
                format!("add rule ip cuts in ip saddr {} tcp {port} 21000 drop", self.net.address(from));
            succeed(self.net.on(to, "nft").arg(rule), STEP_MAX)?;
        }
        Ok(())
    }
    /// From now on nothing that one asks of the other's API arrives, but what it answers does.
    fn silence_api(&self, from: u32, to: u32) -> Result<()> {
        let rule = format!("add rule ip cuts in ip saddr {} tcp dport 21000 drop", self.net.address(from));
        succeed(self.net.on(to, "nft").arg(rule), STEP_MAX).map(drop)
    }
    fn kill_node(&mut self, id: u32) -> Result<()> {
        let process = &mut self.processes[id as usize - 1];
        process.kill()?;
        process.wait()?;
        Ok(())
    }
}

/// R44: a slice may use any node it can reach.
#[test]
fn a_dead_copy_is_removed_by_a_primary_that_does_not_reach_the_leader() {
    // SAFETY: no pointers.
    if unsafe { libc::geteuid() } != 0 {
        return eprintln!("not run: network namespaces want root");
    }
    leave_mounts().unwrap();
    let mut cluster = Cluster::start("512MiB").unwrap();
    let nodes = cluster.json(&["node", "list"]).unwrap();
    let nodes = nodes.as_array().unwrap();
    let ids = |is: &str, not: &str| {
        let mut of = nodes.iter().filter(|n| n[is] == true && n[not] != true);
        of.next().unwrap()["id"].as_u64().unwrap() as u32
    };
    // of three votes the leader has its own, and that of who is neither cut nor dead
    let (leader, cut, dead) = (ids("is_leader", ""), ids("is_voter", "is_leader"), ids("is_up", "is_voter"));
    // groups that only a primary cut from the leader can change
    let groups = cluster.json(&["group", "list"]).unwrap();
    let is_of =
        |copies: &Value, node: u32| copies.as_array().unwrap().iter().any(|s| *s == format!("{node}.0"));
    let concerned = |groups: &Value| -> Vec<u64> {
        let all = groups.as_array().unwrap().iter();
        let led = all.filter(|g| g["primary"] == format!("{cut}.0") && is_of(&g["in_sync"], dead));
        led.map(|g| g["id"].as_u64().unwrap()).collect()
    };
    assert!(concerned(&groups).len() > 20, "{groups}");
    // R44: a node that the leader does not reach, and that reaches the leader, has the metadata of others: who may write to a new
    // volume, among them. It has no vote, so it cannot make itself the leader.
    cluster.silence_api(leader, dead).unwrap();
    cluster.sarsen(&["volume", "create", "w", "--size", "512MiB"]).unwrap();
    let socket = cluster.export("w").unwrap();
    let (spell, ()) = Checker::new(&socket, "w", 512 << 20, 4, 8, 5).beside(|| {
        std::thread::sleep(SILENCE);
        cluster.net.mend().unwrap();
    });
    println!("{} writes to a new volume, longest stall {:.2} s", spell.answered, spell.longest.as_secs_f32());
    spell.expect_clean();
    assert!(spell.longest < SILENCE, "until the leader reached it again a write waited: {:?}", spell.longest);
    let mut checker = Checker::new(&cluster.dir.path().join("v.sock"), "v", 512 << 20, 4, 8, 3);
    let (spell, (nodes, left)) = checker.beside(|| {
        std::thread::sleep(Duration::from_secs(1));
        cluster.cut_api(leader, cut).unwrap();
        cluster.cut_api(cut, leader).unwrap();
        // long enough for it to be taken for dead
        std::thread::sleep(Duration::from_secs(4));
        let nodes = cluster.json(&["node", "list"]).unwrap();
        cluster.kill_node(dead).unwrap();
        std::thread::sleep(Duration::from_secs(20));
        (nodes, concerned(&cluster.json(&["group", "list"]).unwrap()))
    });
    println!("{} writes, longest stall {:.2} s", spell.answered, spell.longest.as_secs_f32());
    spell.expect_clean();
    let is_up = |id: u32| nodes.as_array().unwrap().iter().any(|n| n["id"] == id && n["is_up"] == true);
    assert!((1..=NODES).all(is_up), "{nodes}");
    assert_eq!(left, [0; 0], "the dead copy of these groups was not removed");
    assert!(spell.longest < STALL_MAX, "a write waited longer than {STALL_MAX:?}");
    // and the link is whole again
    cluster.net.mend().unwrap();
    checker.write_for(Duration::from_secs(2)).expect_clean();
    checker.verify().unwrap();
}
