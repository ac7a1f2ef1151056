//! The command line that scripts outside rely on.
use sarsen_e2e::checker::Checker;
use sarsen_e2e::dev::Dev;
use sarsen_e2e::process;
use sarsen_e2e::program::{command, run, sarsen, succeed, wait_until};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

const QUICK: Duration = Duration::from_secs(60);

fn plain(args: &[&str]) -> Command {
    let mut command = command(sarsen());
    command.args(args).env_remove("SARSEN_API");
    command
}

/// What it said when it refused; a failure if it did not.
fn refused(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "not refused: {}{said}", String::from_utf8_lossy(&output.stdout));
    assert!(output.stdout.is_empty(), "errors go to stderr only");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn dev_says_where_everything_is_in_one_line() {
    let dev = Dev::start(&["--nodes", "1", "--volume", "a:64MiB", "--volume", "b:1GiB"]).unwrap();
    let show = dev.show().unwrap();
    assert_eq!(show.nodes.len(), 1);
    assert!(show.nodes[0].pid.is_some_and(process::is_alive));
    assert!(show.api.iter().all(|url| url.starts_with("http://127.0.0.1:")));
    let volumes: Vec<(&str, u64)> = show.volumes.iter().map(|v| (v.name.as_str(), v.size)).collect();
    assert_eq!(volumes, [("a", 64 << 20), ("b", 1 << 30)]);
    for volume in &show.volumes {
        assert_eq!(volume.nbd, format!("nbd+unix:///?socket={}", dev.socket(&volume.name).display()));
        let size = succeed(command("nbdinfo").args(["--size", &volume.nbd]), QUICK).unwrap();
        assert_eq!(size.trim(), volume.size.to_string());
    }
}

#[test]
fn the_nouns_answer_in_tables_and_in_json() {
    let dev = Dev::start(&["--volume", "v:64MiB"]).unwrap();
    for args in [
        &["status"][..],
        &["node", "list"],
        &["drive", "list"],
        &["group", "list"],
        &["volume", "list"],
        &["pool", "list"],
        &["policy", "list"],
        &["attachment", "list"],
        &["event", "list"],
        &["volume", "show", "v"],
    ] {
        let text = dev.sarsen(args, None).unwrap();
        assert!(!text.trim().is_empty(), "{args:?}");
        let json = dev.json(args).unwrap();
        assert!(json.is_array() || json.is_object(), "{args:?}: {json}");
    }
    assert_eq!(dev.json(&["node", "list"]).unwrap().as_array().unwrap().len(), 3);
    assert_eq!(dev.json(&["drive", "list"]).unwrap().as_array().unwrap().len(), 3);
    dev.wait_ok().unwrap();
    let status = dev.json(&["status"]).unwrap();
    assert_eq!(status["reasons"].as_array().unwrap().len(), 0, "{status}");

    dev.sarsen(&["volume", "create", "w", "--size", "1GiB"], None).unwrap();
    dev.sarsen(&["volume", "grow", "w", "--size", "2GiB"], None).unwrap();
    assert_eq!(dev.json(&["volume", "show", "w"]).unwrap()["size"], 2u64 << 30);
    let shrunk = dev.try_sarsen(&["volume", "grow", "w", "--size", "1GiB"]).unwrap();
    refused(&shrunk);
    dev.sarsen(&["volume", "delete", "w"], None).unwrap();
    refused(&dev.try_sarsen(&["volume", "show", "w"]).unwrap());
    refused(&dev.try_sarsen(&["volume", "create", "x", "--size", "10 parsecs"]).unwrap());
}

#[test]
fn a_dead_node_is_skipped_by_the_command_line() {
    let dev = Dev::start(&["--volume", "v:64MiB"]).unwrap();
    let api = dev.at_start().api.clone();
    let with = format!("http://127.0.0.1:1,{}", api[1]);
    succeed(plain(&["status"]).env("SARSEN_API", with), QUICK).unwrap();
    let none = run(plain(&["status"]).env("SARSEN_API", "http://127.0.0.1:1"), QUICK).unwrap();
    assert!(refused(&none).contains("127.0.0.1:1"), "it says whom it asked");
}

#[test]
fn the_same_directory_resumes_and_other_flags_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start_in(dir.path(), &["--nodes", "1", "--volume", "v:64MiB"]).unwrap();
    let url = dev.url("v");
    let io = |what: &str| succeed(command("qemu-io").args(["-f", "raw", "-c", what, &url]), QUICK).unwrap();
    io("write -P 9 4096 65536");
    let twice = run(plain(&["dev", "--dir"]).arg(dir.path()), QUICK).unwrap();
    assert!(refused(&twice).contains("already"));
    dev.stop().unwrap();
    let others: [&[&str]; 7] = [
        &["--nodes", "3"],
        &["--drives", "2"],
        &["--drive-size", "5GiB"],
        &["--copies", "3"],
        &["--lease", "clock"],
        &["--volume", "v:128MiB"],
        &["--volume", "v:64MiB", "--volume", "w:64MiB"],
    ];
    for flags in others {
        let other = run(plain(&["dev", "--dir"]).arg(dir.path()).args(flags), QUICK).unwrap();
        let said = refused(&other);
        assert!(said.contains(flags[0]), "{flags:?}: {said}");
    }
    let many = run(plain(&["dev", "--nodes", "3", "--drives", "2", "--dir"]).arg(dir.path()), QUICK).unwrap();
    let said = refused(&many);
    assert!(said.contains("--nodes") && said.contains("--drives"), "{said}");
    // The same flags again are no others.
    let mut same = Dev::start_in(dir.path(), &["--nodes", "1", "--volume", "v:64MiB"]).unwrap();
    same.stop().unwrap();
    let mut again = Dev::start_in(dir.path(), &[]).unwrap();
    assert!(io("read -P 9 4096 65536").contains("read 65536/65536"));
    again.stop().unwrap();
}

#[test]
fn nothing_outlives_dev() {
    let mut dev = Dev::start(&["--volume", "v:64MiB"]).unwrap();
    let pids = dev.pids();
    assert!(pids.len() >= 5, "dev, three nodes, an export: {pids:?}");
    dev.stop().unwrap();
    assert!(!pids.iter().any(|p| process::is_alive(*p)), "SIGTERM ends all of it");
    dev.resume().unwrap();
    let pids = dev.pids();
    dev.interrupt().unwrap();
    assert!(!pids.iter().any(|p| process::is_alive(*p)), "Ctrl-C ends all of it");
    dev.resume().unwrap();
    let pids = dev.pids();
    process::kill(dev.pid());
    wait_until("the death of dev ends all of it", Duration::from_secs(10), || {
        Ok(!pids.iter().any(|p| process::is_alive(*p)))
    })
    .unwrap();
}

#[test]
fn a_killed_node_stays_dead_until_it_is_started() {
    let dev = Dev::start(&["--volume", "v:64MiB"]).unwrap();
    dev.kill_node(2).unwrap();
    refused(&dev.try_sarsen(&["dev", "stop-node", "2", "--dir", &dev.dir().display().to_string()]).unwrap());
    std::thread::sleep(Duration::from_secs(1));
    let state = |id: u32| dev.show().unwrap().nodes.into_iter().find(|n| n.id == id).unwrap().pid;
    assert_eq!(state(2), None);
    dev.start_node(2).unwrap();
    assert!(state(2).is_some_and(process::is_alive));
    let dir = dev.dir().display().to_string();
    let said = refused(&dev.try_sarsen(&["dev", "start-node", "2", "--dir", &dir]).unwrap());
    assert!(said.contains("runs already"), "{said}");
    let said = refused(&dev.try_sarsen(&["dev", "start-node", "7", "--dir", &dir]).unwrap());
    assert!(said.contains("no node 7"), "{said}");
    // Its death may not have been noticed yet: longer than GRACE.
    std::thread::sleep(Duration::from_secs(2));
    dev.wait_ok().unwrap();
    // Handed over first: what it led is led by others when it is gone, and it is nowhere in sync.
    dev.stop_node(3).unwrap();
    assert_eq!(state(3), None);
    let groups = dev.json(&["group", "list"]).unwrap();
    let held = |slices: &serde_json::Value| slices.as_array().unwrap().iter().any(|s| s == "3.0");
    for group in groups.as_array().unwrap() {
        assert!(group["primary"] != "3.0" && !held(&group["in_sync"]), "{group}");
    }
    dev.start_node(3).unwrap();
    dev.wait_ok().unwrap();
}

#[test]
fn a_second_export_is_refused_and_names_the_first() {
    let dev = Dev::start(&["--nodes", "1", "--volume", "v:64MiB"]).unwrap();
    let socket = dev.dir().join("second.sock").display().to_string();
    let said = refused(&dev.try_sarsen(&["export", "nbd", "v", "--socket", &socket]).unwrap());
    assert!(said.contains("v.nbd.sock") || said.contains("attach"), "it names the first: {said}");
    let url = dev.url("v");
    succeed(command("qemu-io").args(["-f", "raw", "-c", "write 0 4096", &url]), QUICK).unwrap();
}

#[test]
fn a_volume_grows_under_its_export() {
    let dev = Dev::start(&["--nodes", "1", "--volume", "v:64MiB"]).unwrap();
    let size = || succeed(command("nbdinfo").args(["--size", &dev.url("v")]), QUICK).unwrap();
    assert_eq!(size().trim(), (64u64 << 20).to_string());
    dev.sarsen(&["volume", "grow", "v", "--size", "128MiB"], None).unwrap();
    wait_until("clients that come later see the new size", Duration::from_secs(5), || {
        Ok(size().trim() == (128u64 << 20).to_string())
    })
    .unwrap();
    assert_eq!(dev.show().unwrap().volumes[0].size, 128 << 20);
    let url = dev.url("v");
    succeed(command("qemu-io").args(["-f", "raw", "-c", "write 100M 4096", &url]), QUICK).unwrap();
}

#[test]
fn export_runs_in_the_foreground_and_gives_the_volume_back() {
    let dev = Dev::start(&["--nodes", "1"]).unwrap();
    dev.sarsen(&["volume", "create", "w", "--size", "64MiB"], None).unwrap();
    let socket = dev.dir().join("w.sock");
    for place in [["--socket", socket.to_str().unwrap()], ["--listen", "127.0.0.1:0"]] {
        let mut export = dev.command(&["export", "nbd", "w", "--json"]);
        let mut export = export.args(place).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(export.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let url = said["nbd"].as_str().unwrap();
        let size = succeed(command("nbdinfo").args(["--size", url]), QUICK).unwrap();
        assert_eq!(size.trim(), (64u64 << 20).to_string(), "{url}");
        let attached = dev.json(&["attachment", "list"]).unwrap();
        assert_eq!(attached.as_array().unwrap().len(), 1, "{attached}");
        process::signal(export.id(), libc::SIGTERM);
        assert!(sarsen_e2e::program::wait(&mut export, QUICK).unwrap().success());
        let attached = dev.json(&["attachment", "list"]).unwrap();
        assert!(attached.as_array().unwrap().is_empty(), "{attached}");
    }
}

#[test]
fn shells_complete() {
    for shell in ["bash", "zsh", "fish"] {
        let script = succeed(&mut plain(&["completion", shell]), QUICK).unwrap();
        assert!(script.contains("volume"), "{shell}");
    }
}

#[test]
fn keys_are_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    let make = |file: &Path| run(plain(&["key", "create"]).arg(file), QUICK).unwrap();
    assert!(make(&key).status.success());
    assert!(refused(&make(&key)).contains("hint"));
}

#[test]
fn a_cluster_without_a_majority_says_so() {
    // found in review: a leader that the others left went on reporting what it knew last
    let dev = Dev::start(&["--volume", "v:64MiB"]).unwrap();
    dev.wait_ok().unwrap();
    let nodes = dev.json(&["node", "list"]).unwrap();
    let leads = |n: &&serde_json::Value| n["is_leader"] == true;
    let leader = nodes.as_array().unwrap().iter().find(leads).unwrap()["id"].as_u64().unwrap() as u32;
    let others: Vec<u32> = (1..=3).filter(|n| *n != leader).collect();
    for stays in [leader, others[0]] {
        let gone: Vec<u32> = (1..=3).filter(|n| *n != stays).collect();
        gone.iter().for_each(|n| dev.kill_node(*n).unwrap());
        wait_until("it is said", Duration::from_secs(30), || {
            let (health, reasons) = dev.health()?;
            Ok(health == "unavailable" && reasons.to_string().contains("majority"))
        })
        .unwrap();
        gone.iter().for_each(|n| dev.start_node(*n).unwrap());
        dev.wait_ok().unwrap();
    }
}

#[test]
fn a_blank_drive_of_four_slices_takes_the_place_of_a_lost_one() {
    let dev = Dev::start(&["--drives", "2", "--drive-size", "2GiB", "--volume", "v:64MiB"]).unwrap();
    dev.wait_ok().unwrap();
    let mut checker = Checker::new(&dev.socket("v"), "v", 64 << 20, 4, 4, 31);
    checker.write_for(Duration::from_secs(1)).expect_clean();
    dev.sarsen(&["setting", "set", "--down-out", "1s"], None).unwrap();
    dev.kill_node(3).unwrap();
    let path = dev.drive(3).display().to_string();
    let made = dev.json(&["drive", "format", &path, "--force", "--slices", "4", "--sparse"]).unwrap();
    assert_eq!((&made["slices"], &made["size"]), (&4.into(), &(2u64 << 30).into()));
    dev.start_node(3).unwrap();
    let blank = || {
        let drives = dev.json(&["drive", "list"]).unwrap();
        drives.as_array().unwrap().iter().find(|d| d["slices"] == 4).map(|d| d["id"].as_u64().unwrap())
    };
    let used = || {
        let groups = dev.json(&["group", "list"]).unwrap();
        let of = |name: String| {
            groups
                .as_array()
                .unwrap()
                .iter()
                .any(|g| g["in_sync"].as_array().unwrap().contains(&name.clone().into()))
        };
        blank().map_or(0, |id| (0..4).filter(|slice| of(format!("{id}.{slice}"))).count())
    };
    wait_until("each of its slices has copies in sync", Duration::from_secs(60), || Ok(used() == 4)).unwrap();
    checker.write_for(Duration::from_secs(1)).expect_clean();
    // they serve alone what they have, after a restart too
    dev.kill_node(3).unwrap();
    dev.start_node(3).unwrap();
    wait_until("they are in sync again", Duration::from_secs(60), || Ok(used() == 4)).unwrap();
    let lost = dev.json(&["drive", "list"]).unwrap();
    let lost = lost.as_array().unwrap().iter().find(|d| d["is_up"] == false).unwrap()["id"].to_string();
    dev.sarsen(&["drive", "forget", &lost, "--lost"], None).unwrap();
    dev.wait_ok().unwrap();
    for node in [1, 2] {
        dev.stop_node(node).unwrap();
        checker.verify().unwrap();
        dev.start_node(node).unwrap();
        dev.wait_ok().unwrap();
    }
}
