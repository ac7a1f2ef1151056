//! A cluster with a key: nodes prove it to each other, hosts to nodes, and the API wants its token.
use sarsen_e2e::nodes::{Nodes, format};
use sarsen_e2e::program::{command, run, sarsen, succeed, wait_until};
use std::process::Stdio;
use std::time::Duration;

const QUICK: Duration = Duration::from_secs(60);

#[test]
fn who_does_not_know_the_key_is_refused_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let drives: Vec<_> = (0..3).map(|n| dir.path().join(format!("drive-{n}"))).collect();
    drives.iter().for_each(|drive| format(drive).unwrap());
    let cluster = Nodes::start(&drives, 3).unwrap();
    let key = cluster.key();
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
    format(&drive).unwrap();
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
