//! A drive that is gone for good is given up by an operator, and its groups go on (R28).
use sarsen_e2e::checker::Checker;
use sarsen_e2e::dev::Dev;
use sarsen_e2e::process::signal;
use sarsen_e2e::program::wait_until;
use serde_json::Value;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

fn groups(dev: &Dev) -> Vec<Value> {
    dev.json(&["group", "list"]).unwrap().as_array().unwrap().clone()
}
/// Whether no group counts the first drive of a node, given by its number, among its copies in sync.
fn is_out(dev: &Dev, drive: u32) -> bool {
    let name = format!("{drive}.0");
    groups(dev).iter().all(|g| !g["in_sync"].as_array().unwrap().contains(&Value::from(name.clone())))
}
/// How many groups have one copy in sync, on that drive.
fn alone_on(dev: &Dev, drive: u32) -> usize {
    groups(dev).iter().filter(|g| g["in_sync"] == serde_json::json!([format!("{drive}.0")])).count()
}
/// The drive of a node.
fn drive_of(dev: &Dev, node: u32) -> u32 {
    let drives = dev.json(&["drive", "list"]).unwrap();
    let of = drives.as_array().unwrap().iter().find(|d| d["node"] == node).expect("it has a drive");
    u32::try_from(of["id"].as_u64().unwrap()).unwrap()
}
fn said(dev: &Dev, args: &[&str]) -> String {
    let refused = dev.try_sarsen(args).unwrap();
    assert!(!refused.status.success(), "{args:?} is refused");
    String::from_utf8_lossy(&refused.stderr).into_owned()
}

#[test]
fn groups_go_on_without_a_drive_that_is_given_up_though_its_process_lives() {
    let dev = Dev::start(&["--nodes", "5", "--drive-size", "2GiB", "--volume", "v:64MiB"]).unwrap();
    dev.wait_ok().unwrap();
    let mut checker = Checker::new(&dev.socket("v"), "v", 64 << 20, 4, 4, 21);
    let log = dev.dir().join("node-1.log");
    let (spell, lost) = checker.beside(|| {
        let lost = drive_of(&dev, 1);
        for node in [2, 3] {
            dev.kill_node(node).unwrap();
            let drive = drive_of(&dev, node);
            wait_until("its copies are out", SOON, || Ok(is_out(&dev, drive))).unwrap();
        }
        println!("{} groups have their only copy in sync on drive {lost}", alone_on(&dev, lost));
        assert!(alone_on(&dev, lost) > 0);
        let up = said(&dev, &["drive", "forget", &lost.to_string(), "--lost"]);
        assert!(up.contains("is up"), "{up}");
        // it stands still: nobody can know whether it will ever answer a read again
        let zombie = dev.pid_of(1).unwrap();
        signal(zombie, libc::SIGSTOP);
        for node in [2, 3] {
            dev.start_node(node).unwrap();
        }
        wait_until("it is missed", SOON, || Ok(dev.health()?.0 == "unavailable")).unwrap();
        let word = said(&dev, &["drive", "forget", &lost.to_string()]);
        assert!(word.contains("--lost"), "{word}");
        // the export acknowledges that it knows no way there any more
        let done = dev.json(&["drive", "forget", &lost.to_string(), "--lost"]).unwrap();
        assert_eq!((&done["forgotten"], &done["lost_groups"]), (&Value::from(lost), &serde_json::json!([])));
        wait_until("all can be written again", SOON, || Ok(dev.health()?.0 == "degraded")).unwrap();
        wait_until("all is whole but for a node", SOON, || {
            Ok(groups(&dev).iter().all(|g| g["in_sync"].as_array().is_some_and(|s| s.len() == 3)))
        })
        .unwrap();
        signal(zombie, libc::SIGCONT);
        wait_until("it ends its drive", SOON, || {
            Ok(std::fs::read_to_string(&log)?.contains("was given up as lost: it ends here"))
        })
        .unwrap();
        lost
    });
    assert_eq!(spell.errors, 0);
    checker.verify().unwrap();
    checker.write_for(Duration::from_secs(1)).expect_clean();
    // it comes back only blank
    dev.kill_node(1).unwrap();
    let _ = dev.try_sarsen(&["dev", "start-node", "1", "--dir", dev.dir().to_str().unwrap()]).unwrap();
    let why = format!("it is drive {lost}, which was given up");
    wait_until("it is refused", SOON, || Ok(std::fs::read_to_string(&log)?.contains(&why))).unwrap();
    wait_until("its process has ended", SOON, || {
        Ok(dev.show()?.nodes.iter().any(|n| n.id == 1 && n.pid.is_none()))
    })
    .unwrap();
    let path = dev.drive(1);
    dev.sarsen(&["drive", "format", "--force", path.to_str().unwrap()], None).unwrap();
    dev.start_node(1).unwrap();
    wait_until("the blank drive is there", SOON, || {
        let drives = dev.json(&["drive", "list"])?;
        let is_new = |d: &Value| d["node"] == 1 && d["id"] != lost && d["is_up"] == true;
        Ok(drives.as_array().is_some_and(|all| all.iter().any(is_new)))
    })
    .unwrap();
    dev.wait_ok().unwrap();
    checker.verify().unwrap();
}

#[test]
fn what_only_the_lost_drive_had_is_given_up_by_name() {
    let flags = ["--nodes", "3", "--copies", "2", "--drive-size", "2GiB", "--volume", "v:64MiB"];
    let dev = Dev::start(&flags).unwrap();
    dev.wait_ok().unwrap();
    let mut checker = Checker::new(&dev.socket("v"), "v", 64 << 20, 4, 4, 22);
    let (lost, away) = (drive_of(&dev, 1).to_string(), drive_of(&dev, 2));
    dev.kill_node(2).unwrap();
    wait_until("its copies are out", SOON, || Ok(is_out(&dev, away))).unwrap();
    checker.write_for(Duration::from_secs(1)).expect_clean();
    dev.kill_node(1).unwrap();
    dev.start_node(2).unwrap();
    wait_until("it is missed", SOON, || Ok(dev.health()?.0 == "unavailable")).unwrap();
    let named = said(&dev, &["drive", "forget", &lost, "--lost", "--powered-off"]);
    assert!(named.contains("only complete copy of groups") && named.contains("--yes"), "{named}");
    let done = dev.json(&["drive", "forget", &lost, "--lost", "--powered-off", "--yes"]).unwrap();
    assert!(!done["lost_groups"].as_array().unwrap().is_empty());
    wait_until("somebody is to accept", SOON, || Ok(dev.health()?.1.to_string().contains("accept-damage")))
        .unwrap();
    for drive in dev.json(&["drive", "list"]).unwrap().as_array().unwrap() {
        if drive["damaged_groups"].as_array().is_some_and(|g| !g.is_empty()) {
            dev.sarsen(&["drive", "accept-damage", &drive["id"].to_string(), "--yes"], None).unwrap();
        }
    }
    wait_until("all can be written again", SOON, || Ok(dev.health()?.0 == "degraded")).unwrap();
    // what it had is lost, so nothing is asked of what was written before
    let mut fresh = Checker::new(&dev.socket("v"), "v", 64 << 20, 4, 4, 23);
    fresh.write_for(Duration::from_secs(2)).expect_clean();
}
