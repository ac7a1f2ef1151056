//! Two nodes open one drive: its own, and another a copy of its image. A sole copy has no other that would stop it (R1), so its
//! node must, once metadata say that it was opened elsewhere.
use sarsen_e2e::checker::Checker;
use sarsen_e2e::nodes::{Nodes, format};
use sarsen_e2e::program::{command, succeed, wait_until};
use serde_json::Value;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
/// From the registration of the second opening until the first has ended.
const ENDED_MAX: Duration = Duration::from_secs(3);
/// How long a request that was answered later may have been on its way already.
const ON_ITS_WAY: Duration = Duration::from_millis(200);

/// The drive that a node said it had registered as, at that path.
fn drive_at(nodes: &Nodes, path: &str) -> u64 {
    let drives = nodes.json(&["drive", "list"]).unwrap();
    let of = drives.as_array().unwrap().iter().find(|d| d["path"] == path);
    of.unwrap_or_else(|| panic!("{path} is none of {drives}"))["id"].as_u64().unwrap()
}

/// The second node opens an image of before the first one's last start. What the first answered since is not in the image, and the
/// image is known to be old: nothing of it is served. Clients wait from the moment the first ends, until an operator ends the
/// image's node and says that the first one's drive is whole; then all is there that was ever answered.
#[test]
fn a_sole_copy_opened_elsewhere_from_an_older_image_ends_and_what_it_answered_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let drives: Vec<PathBuf> = (0..2).map(|n| dir.path().join(format!("drive-{n}"))).collect();
    drives.iter().for_each(|drive| format(drive).unwrap());
    // metadata do not stop while nodes are restarted: a third node votes, and holds nothing
    let witness = dir.path().join("drive-2");
    format(&witness).unwrap();
    let mut nodes = Nodes::start(&[drives.clone(), vec![witness]].concat(), 1).unwrap();
    let socket = nodes.export("v", "64MiB").unwrap();
    nodes.wait_ok().unwrap();
    let mut checker = Checker::new(&socket, "v", 64 << 20, 2, 4, 41);
    checker.write_for(Duration::from_secs(2)).expect_clean();
    nodes.stop_node(1).unwrap();
    let image = dir.path().join("image");
    succeed(command("cp").arg("--sparse=always").args([&drives[1], &image]), LIMIT).unwrap();
    nodes.start_node(1).unwrap();
    nodes.wait_ok().unwrap();
    let name = drives[1].to_str().unwrap();
    let drive = drive_at(&nodes, name);
    let ended = format!("drive {drive} ({name}) was opened elsewhere: it ends here");
    let stale = format!("drive {drive} ({}) is registered, stale", image.display());

    // whose end, should something fail, ends the writers too
    let (spell, (nodes, registered, over)) = checker.beside(move || {
        thread::sleep(Duration::from_secs(2));
        nodes.stop_node(2).unwrap();
        nodes.drives(2).push(image.clone());
        nodes.start_node(2).unwrap();
        wait_until("the image is opened", LIMIT, || Ok(nodes.log(2).contains(&stale))).unwrap();
        let registered = Instant::now();
        wait_until("its own node ends it", LIMIT, || Ok(nodes.log(1).contains(&ended))).unwrap();
        let took = registered.elapsed();
        println!("its own node ended it {:.3} s after the image was opened", took.as_secs_f32());
        assert!(took < ENDED_MAX, "it served beside the image for {took:?}");
        assert!(
            nodes.json(&["node", "list"]).unwrap().as_array().unwrap().iter().all(|n| n["is_up"] == true)
        );
        // nobody serves it: neither the one that is not asked any more nor the one that may lack what was answered
        thread::sleep(ENDED_MAX + ON_ITS_WAY + Duration::from_secs(1));
        let (health, reasons) = nodes.health().unwrap();
        assert!(health == "unavailable" && reasons.contains("accept-damage"), "{health}: {reasons}");
        let over = Instant::now();
        nodes.stop_node(2).unwrap();
        nodes.drives(2).pop();
        nodes.start_node(2).unwrap();
        nodes.stop_node(1).unwrap();
        nodes.start_node(1).unwrap();
        let own = format!("drive {drive} ({name}) is registered, stale");
        wait_until("it is back", LIMIT, || Ok(nodes.log(1).contains(&own))).unwrap();
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
    let waited = spell.longest_between(registered + ENDED_MAX, over);
    println!("{} writes were answered, the longest after {:.1} s", spell.answered, waited.as_secs_f32());
    assert!(
        waited > (over - registered).saturating_sub(ENDED_MAX + ON_ITS_WAY),
        "it was served meanwhile: {waited:?}"
    );
    checker.verify().unwrap();
    checker.write_for(Duration::from_secs(1)).expect_clean();
    checker.verify().unwrap();
    drop(nodes);
}
