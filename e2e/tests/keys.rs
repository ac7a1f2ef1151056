//! A cluster with a key: nodes prove it to each other, hosts to nodes, and the API wants its token.
use sarsen_e2e::program::{command, run, sarsen, succeed, wait_until};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const QUICK: Duration = Duration::from_secs(60);

/// Nodes of a cluster, each started as an operator starts them.
struct Cluster {
    dir: tempfile::TempDir,
    ports: Vec<(u16, u16)>,
    token: String,
    nodes: Vec<Child>,
}

/// A port that is free now.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Cluster {
    fn start() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        succeed(command(sarsen()).args(["key", "create"]).arg(&key), QUICK).unwrap();
        let token = succeed(command(sarsen()).args(["key", "token"]).arg(&key), QUICK).unwrap();
        let ports = (0..3).map(|_| (port(), port())).collect();
        let mut cluster = Cluster { dir, ports, token: token.trim().to_owned(), nodes: Vec::new() };
        for node in 0..3 {
            let drive = cluster.path(&format!("drive-{node}"));
            let format = ["drive", "format", "--size", "1GiB"];
            succeed(command(sarsen()).args(format).arg(&drive), QUICK).unwrap();
            let child = cluster.node(node, &key).spawn().unwrap();
            cluster.nodes.push(child);
            wait_until("the node is a member", QUICK, || {
                let nodes = succeed(&mut cluster.cli(&["node", "list", "--json"]), QUICK)?;
                let nodes: serde_json::Value = serde_json::from_str(&nodes)?;
                Ok(nodes.as_array().is_some_and(|n| n.len() == node + 1))
            })
            .unwrap();
        }
        wait_until("all drives are up", QUICK, || {
            let status = succeed(&mut cluster.cli(&["status", "--json"]), QUICK)?;
            Ok(serde_json::from_str::<serde_json::Value>(&status)?["drives_up"] == 3)
        })
        .unwrap();
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Node number `at`, with this key.
    fn node(&self, at: usize, key: &Path) -> Command {
        let (data, api) = self.ports[at];
        let mut node = command(sarsen());
        node.args(["node", "--dir"]).arg(self.path(&format!("node-{at}")));
        node.args(["--listen", &format!("127.0.0.1:{data}"), "--api", &format!("127.0.0.1:{api}")]);
        node.arg("--key").arg(key).arg("--drive").arg(self.path(&format!("drive-{at}")));
        if at > 0 {
            node.args(["--join", &self.url(0)]);
        }
        let log = std::fs::File::create(self.path(&format!("node-{at}.log"))).unwrap();
        node.stdin(Stdio::null()).stderr(log);
        node
    }

    fn url(&self, at: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[at].1)
    }

    /// An operator's command, with the token.
    fn cli(&self, args: &[&str]) -> Command {
        let mut cli = command(sarsen());
        cli.args(args).env("SARSEN_API", self.url(0)).env("SARSEN_TOKEN", &self.token);
        cli
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

#[test]
fn who_does_not_know_the_key_is_refused_everywhere() {
    let cluster = Cluster::start();
    let key = cluster.path("key");
    succeed(&mut cluster.cli(&["volume", "create", "v", "--size", "64MiB"]), QUICK).unwrap();

    // Without the token the API says nothing, with a wrong one neither.
    for token in ["", "00112233445566778899aabbccddeeff"] {
        let refused = run(cluster.cli(&["status"]).env("SARSEN_TOKEN", token), QUICK).unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("token"), "{said}");
    }

    // A host with the key uses the volume; one with another key gets neither attachment nor data.
    let socket = cluster.path("v.sock");
    let export = ["export", "nbd", "v", "--socket"];
    let mut own = cluster.cli(&export);
    own.env_remove("SARSEN_TOKEN").arg(&socket).arg("--key").arg(&key);
    let mut own = own.stdout(Stdio::null()).spawn().unwrap();
    wait_until("the export is there", QUICK, || Ok(socket.exists())).unwrap();
    let url = format!("nbd+unix:///?socket={}", socket.display());
    let io = |what: &str| succeed(command("qemu-io").args(["-f", "raw", "-c", what, &url]), QUICK).unwrap();
    io("write -P 5 1M 1M");
    assert!(io("read -P 5 1M 1M").contains("read 1048576/1048576"));
    sarsen_e2e::process::signal(own.id(), libc::SIGTERM);
    assert!(sarsen_e2e::program::wait(&mut own, QUICK).unwrap().success());

    let other = cluster.path("other");
    succeed(command(sarsen()).args(["key", "create"]).arg(&other), QUICK).unwrap();
    let mut stranger = cluster.cli(&export);
    stranger.env_remove("SARSEN_TOKEN").arg(&socket).arg("--key").arg(&other);
    let refused = run(&mut stranger, QUICK).unwrap();
    assert!(!refused.status.success(), "an export with another key was given the volume");

    // Neither does a node without the right key get in.
    let drive = cluster.path("drive-9");
    succeed(command(sarsen()).args(["drive", "format", "--size", "1GiB"]).arg(&drive), QUICK).unwrap();
    let mut node = command(sarsen());
    node.args(["node", "--dir"]).arg(cluster.path("node-9")).arg("--key").arg(&other);
    node.args(["--listen", "127.0.0.1:0", "--api", "127.0.0.1:0", "--join", &cluster.url(0)]);
    let mut node = node.arg("--drive").arg(&drive).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let nodes = succeed(&mut cluster.cli(&["node", "list", "--json"]), QUICK).unwrap();
    let nodes: serde_json::Value = serde_json::from_str(&nodes).unwrap();
    assert_eq!(nodes.as_array().unwrap().len(), 3, "{nodes}");
    let _ = node.kill();
    let _ = node.wait();

    // Nothing listens on more than loopback without a key.
    let mut open = command(sarsen());
    open.args(["node", "--dir"]).arg(cluster.path("node-8"));
    open.args(["--listen", "0.0.0.0:0", "--api", "127.0.0.1:0", "--dev"]);
    let refused = run(&mut open, QUICK).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("loopback"), "{said}");
}
