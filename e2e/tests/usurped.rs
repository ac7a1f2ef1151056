//! A drive is opened by another node than its own: an image of it while it is served, and when its node is gone; and the drive
//! itself, moved. There is one copy, so nobody else would tell (R1).
use sarsen_e2e::checker::Checker;
use sarsen_e2e::nodes::{Nodes, format};
use sarsen_e2e::program::{command, succeed, wait_until};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
/// For how long it is watched that nothing is served.
const WATCHED: Duration = Duration::from_secs(2);

/// The drive that a node said it had registered as, at that path.
fn drive_at(nodes: &Nodes, path: &str) -> u64 {
    let drives = nodes.json(&["drive", "list"]).unwrap();
    let of = drives.as_array().unwrap().iter().find(|d| d["path"] == path);
    of.unwrap_or_else(|| panic!("{path} is none of {drives}"))["id"].as_u64().unwrap()
}

/// Three nodes with a drive each, a volume of one copy on them that is exported, and who writes to it. All vote: metadata do
/// not stop while one is away.
fn of_one_copy(dir: &Path, seed: u64) -> (Nodes, Vec<PathBuf>, Checker) {
    let drives: Vec<PathBuf> = (0..3).map(|n| dir.join(format!("drive-{n}"))).collect();
    drives.iter().for_each(|drive| format(drive).unwrap());
    let mut nodes = Nodes::start(&drives, 1).unwrap();
    let socket = nodes.export("v", "64MiB").unwrap();
    nodes.wait_ok().unwrap();
    (nodes, drives, Checker::new(&socket, "v", 64 << 20, 2, 4, seed))
}

fn wait_log(nodes: &Nodes, at: usize, text: &str) {
    wait_until(text, LIMIT, || Ok(nodes.log(at).contains(text))).unwrap();
}

fn wait_down(nodes: &Nodes, at: usize) {
    wait_until("it is missed", LIMIT, || {
        Ok(nodes
            .json(&["node", "list"])?
            .as_array()
            .unwrap()
            .iter()
            .any(|n| n["id"] == at + 1 && n["is_up"] == false))
    })
    .unwrap();
}

/// The image was copied while its drive was served, and holds the current open id. While the drive is served it is refused, and the
/// drive goes on. When the drive's node is gone, it is known to lack something: nothing of it is served, clients wait, until an
/// operator ends the image's node and says that the drive is whole; then all is there that was ever answered.
#[test]
fn an_image_of_a_served_drive_is_refused_and_never_served_and_nothing_answered_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (mut nodes, drives, mut checker) = of_one_copy(dir.path(), 41);
    checker.write_for(Duration::from_secs(2)).expect_clean();
    let image = dir.path().join("image");
    succeed(command("cp").arg("--sparse=always").args([&drives[1], &image]), LIMIT).unwrap();
    let name = drives[1].to_str().unwrap();
    let drive = drive_at(&nodes, name);
    let stale = format!("drive {drive} ({}) is registered, stale", image.display());

    // whose end, should something fail, ends the writers too
    let (spell, mut nodes) = checker.beside(move || {
        nodes.stop_node(2).unwrap();
        nodes.drives(2).push(image);
        nodes.start_node(2).unwrap();
        wait_log(
            &nodes,
            2,
            &format!("it is an image of drive {drive}, which node 2 serves as {name}: it lacks"),
        );
        nodes.wait_ok().unwrap();
        nodes
    });
    spell.expect_clean();
    checker.verify().unwrap();

    let (spell, (nodes, registered, over)) = checker.beside(move || {
        nodes.kill_node(1).unwrap();
        wait_down(&nodes, 1);
        nodes.stop_node(2).unwrap();
        nodes.start_node(2).unwrap();
        wait_log(&nodes, 2, &stale);
        let registered = Instant::now();
        wait_until("an operator is asked", LIMIT, || Ok(nodes.health()?.1.contains("accept-damage")))
            .unwrap();
        thread::sleep(WATCHED);
        assert_eq!(nodes.health().unwrap().0, "unavailable");
        let over = Instant::now();
        nodes.stop_node(2).unwrap();
        nodes.drives(2).pop();
        nodes.start_node(2).unwrap();
        nodes.start_node(1).unwrap();
        wait_log(&nodes, 1, &format!("drive {drive} ({name}) is registered, stale"));
        wait_until("somebody is to accept", LIMIT, || {
            let drives = nodes.json(&["drive", "list"])?;
            let of =
                drives.as_array().unwrap().iter().find(|d| d["id"] == drive).map(|d| &d["damaged_groups"]);
            Ok(of.and_then(Value::as_array).is_some_and(|groups| !groups.is_empty()))
        })
        .unwrap();
        nodes.sarsen(&["drive", "accept-damage", &drive.to_string(), "--yes"]).unwrap();
        nodes.wait_ok().unwrap();
        (nodes, registered, over)
    });
    assert_eq!(spell.errors, 0, "clients wait, and see no error");
    let waited = spell.longest_between(registered, over);
    println!("{} writes were answered, the longest after {:.1} s", spell.answered, waited.as_secs_f32());
    assert!(waited >= over - registered, "the image was served meanwhile: {waited:?}");
    checker.verify().unwrap();
    checker.write_for(Duration::from_secs(1)).expect_clean();
    checker.verify().unwrap();
    drop(nodes);
}

/// A drive that is moved to another node the moment its own is killed is current, though that one is not missed yet.
#[test]
fn a_drive_moved_in_haste_is_served_with_all_that_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (mut nodes, drives, mut checker) = of_one_copy(dir.path(), 43);
    checker.write_for(Duration::from_secs(1)).expect_clean();
    let moved = drives[1].clone();
    let drive = drive_at(&nodes, moved.to_str().unwrap());
    let (spell, nodes) = checker.beside(move || {
        nodes.stop_node(2).unwrap();
        nodes.drives(2).push(moved.clone());
        nodes.kill_node(1).unwrap();
        nodes.start_node(2).unwrap();
        wait_log(&nodes, 2, &format!("drive {drive} ({}) is registered\n", moved.display()));
        nodes.drives(1).clear();
        nodes.start_node(1).unwrap();
        nodes.wait_ok().unwrap();
        nodes
    });
    assert_eq!(spell.errors, 0, "clients wait, and see no error");
    checker.verify().unwrap();
    checker.write_for(Duration::from_secs(1)).expect_clean();
    checker.verify().unwrap();
    drop(nodes);
}
