//! Rot: bits flip in every part of a drive, under a stopped and under a running node. Noticed, never served, repaired.
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use sarsen_e2e::checker::Checker;
use sarsen_e2e::dev::Dev;
use sarsen_e2e::program::{command, sarsen, succeed, wait_until};
use serde_json::Value;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

const BLOCK: u64 = 4096;

/// Where the parts of a drive are, as `sarsen drive inspect` says.
struct Layout(Value);

impl Layout {
    fn of(drive: &Path) -> Layout {
        let mut inspect = command(sarsen());
        inspect.args(["drive", "inspect", "--json"]).arg(drive);
        let text = succeed(&mut inspect, Duration::from_secs(60)).unwrap();
        Layout(serde_json::from_str(&text).unwrap())
    }
    fn offsets(&self, list: &Value) -> Vec<u64> {
        list.as_array().expect("a list of offsets").iter().map(|o| o.as_u64().expect("an offset")).collect()
    }
    fn superblocks(&self) -> Vec<u64> {
        self.offsets(&self.0["superblocks"])
    }
    fn roots(&self) -> Vec<u64> {
        self.offsets(&self.0["slices"][0]["roots"])
    }
    fn map_pages(&self) -> Vec<u64> {
        self.offsets(&self.0["slices"][0]["map_pages"])
    }
    fn part(&self, name: &str) -> std::ops::Range<u64> {
        let part = &self.0["slices"][0][name];
        let offset = part["offset"].as_u64().expect("an offset");
        offset..offset + part["len"].as_u64().expect("a length")
    }
}

/// Flips one bit in each of the blocks at `offsets` that hold anything.
fn flip(drive: &Path, offsets: &[u64], random: &mut SmallRng) -> usize {
    let file = OpenOptions::new().read(true).write(true).open(drive).unwrap();
    let mut flipped = 0;
    for offset in offsets {
        let mut block = [0; BLOCK as usize];
        file.read_exact_at(&mut block, *offset).unwrap();
        if block.iter().all(|b| *b == 0) {
            continue;
        }
        let bit = random.random_range(0..BLOCK * 8);
        block[(bit / 8) as usize] ^= 1 << (bit % 8);
        file.write_all_at(&block, *offset).unwrap();
        flipped += 1;
    }
    file.sync_all().unwrap();
    flipped
}

/// Some of the blocks of a part that hold data.
fn some_of(drive: &Path, part: std::ops::Range<u64>, most: usize, random: &mut SmallRng) -> Vec<u64> {
    let file = OpenOptions::new().read(true).open(drive).unwrap();
    let mut held: Vec<u64> = part
        .step_by(BLOCK as usize)
        .filter(|offset| {
            let mut word = [0; 64];
            file.read_exact_at(&mut word, *offset).is_ok() && word.iter().any(|b| *b != 0)
        })
        .collect();
    held.shuffle(random);
    held.truncate(most);
    held
}

/// A cluster with a written, checkpointed volume, and what was written.
fn written() -> (Dev, Checker) {
    let dev = Dev::start(&["--drive-size", "2GiB", "--volume", "v:64MiB"]).unwrap();
    dev.wait_ok().unwrap();
    let mut checker = Checker::new(&dev.socket("v"), "v", 64 << 20, 4, 8, 8);
    checker.write_for(Duration::from_secs(4)).expect_clean();
    (dev, checker)
}

/// Rot in node 2's drive while it is stopped; then everything must be as it was, whichever node is asked.
fn rot_while_stopped(what: &str, choose: impl FnOnce(&Path, &Layout, &mut SmallRng) -> Vec<u64>) {
    let mut random = SmallRng::seed_from_u64(11);
    let (dev, mut checker) = written();
    dev.stop_node(2).unwrap();
    let drive = dev.drive(2);
    let offsets = choose(&drive, &Layout::of(&drive), &mut random);
    let flipped = flip(&drive, &offsets, &mut random);
    assert!(flipped > 0, "nothing to flip in {what}");
    // It may be refused as a whole, or come back and be repaired; never may it serve what it has not.
    let came = dev.start_node(2);
    println!(
        "{what}: {flipped} bits flipped; node 2 {}",
        if came.is_ok() { "came back" } else { "was refused" }
    );
    checker.verify().unwrap();
    checker.write_for(Duration::from_secs(2)).expect_clean();
    dev.wait_ok().unwrap();
    // Now the others step aside: what node 2 holds must carry each group once it leads.
    for other in [1, 3] {
        dev.stop_node(other).unwrap();
        checker.verify().unwrap();
        dev.start_node(other).unwrap();
        dev.wait_ok().unwrap();
    }
}

#[test]
fn rotten_data_under_a_stopped_node_is_repaired() {
    rot_while_stopped("data", |drive, layout, random| some_of(drive, layout.part("data"), 400, random));
}

#[test]
fn rotten_map_pages_under_a_stopped_node_are_repaired() {
    rot_while_stopped("map pages", |_, layout, _| layout.map_pages());
}

#[test]
fn a_rotten_superblock_is_survived() {
    rot_while_stopped("a superblock", |_, layout, _| vec![layout.superblocks()[0]]);
}

#[test]
fn a_rotten_root_is_survived() {
    rot_while_stopped("a root", |_, layout, _| vec![layout.roots()[0]]);
}

#[test]
fn a_rotten_journal_is_noticed() {
    rot_while_stopped("the journal", |drive, layout, random| some_of(drive, layout.part("ring"), 40, random));
}

#[test]
fn a_lone_copy_with_a_damaged_journal_waits_for_the_operators_word() {
    // R28: nobody else has what it may lack, so it would serve old data as if they were new
    let mut random = SmallRng::seed_from_u64(13);
    let flags = ["--nodes", "1", "--copies", "1", "--drive-size", "2GiB", "--volume", "v:64MiB"];
    let dev = Dev::start(&flags).unwrap();
    dev.wait_ok().unwrap();
    let mut checker = Checker::new(&dev.socket("v"), "v", 64 << 20, 4, 8, 8);
    checker.write_for(Duration::from_secs(2)).expect_clean();
    dev.kill_node(1).unwrap();
    let drive = dev.drive(1);
    let journal = some_of(&drive, Layout::of(&drive).part("ring"), 400, &mut random);
    assert!(flip(&drive, &journal, &mut random) > 0);
    dev.start_node(1).unwrap();
    wait_until("its groups wait", Duration::from_secs(20), || {
        let (health, reasons) = dev.health()?;
        Ok(health == "unavailable" && reasons.to_string().contains("accept-damage 1"))
    })
    .unwrap();
    let refused = dev.try_sarsen(&["drive", "accept-damage", "1"]).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("groups") && said.contains("--yes"), "{said}");
    let accepted = dev.json(&["drive", "accept-damage", "1", "--yes"]).unwrap();
    let groups = accepted["groups"].as_array().unwrap().len();
    println!("accepted: {groups} groups");
    assert!(groups > 0);
    dev.wait_ok().unwrap();
    let again = dev.try_sarsen(&["drive", "accept-damage", "1", "--yes"]).unwrap();
    assert!(!again.status.success(), "there is nothing to accept any more");
    // what it lacks is lost, so nothing is asked of what was written before; it is served and written again
    let mut fresh = Checker::new(&dev.socket("v"), "v", 64 << 20, 4, 8, 9);
    fresh.write_for(Duration::from_secs(2)).expect_clean();
}

/// What the operator is told of rot.
fn told(dev: &Dev) -> String {
    let events = dev.json(&["event", "list"]).unwrap();
    let texts = events.as_array().unwrap().iter().filter_map(|e| e["text"].as_str());
    texts.filter(|t| t.contains("corrupt")).collect::<Vec<_>>().join("\n")
}

#[test]
fn rotten_data_under_running_nodes_is_never_served() {
    let mut random = SmallRng::seed_from_u64(12);
    let (dev, mut checker) = written();
    // Much on two drives: the third is whole, and there, or a block could be lost that nobody can bring back.
    for node in 1..=2 {
        let drive = dev.drive(node);
        let offsets = some_of(&drive, Layout::of(&drive).part("data"), 2000, &mut random);
        flip(&drive, &offsets, &mut random);
        checker.verify().unwrap();
    }
    checker.write_for(Duration::from_secs(2)).expect_clean();
    checker.verify().unwrap();
    dev.wait_ok().unwrap();
    wait_until("the operator is told", Duration::from_secs(15), || Ok(!told(&dev).is_empty())).unwrap();
    println!("{}", told(&dev));
    assert!(!told(&dev).contains("intact on no copy"), "{}", told(&dev));
    // All is read again while one of them is away, and others lead its groups.
    for node in 1..=2 {
        dev.stop_node(node).unwrap();
        checker.verify().unwrap();
        dev.start_node(node).unwrap();
        dev.wait_ok().unwrap();
    }
}

/// Superblocks, roots and the journal are read when a drive is opened, map pages when they are needed.
#[test]
fn rot_elsewhere_under_running_nodes_is_met_when_they_start_again() {
    let mut random = SmallRng::seed_from_u64(13);
    let (dev, mut checker) = written();
    let layouts: Vec<_> = (1..=3).map(|node| Layout::of(&dev.drive(node))).collect();
    flip(&dev.drive(1), &[layouts[0].superblocks()[0], layouts[0].roots()[1]], &mut random);
    let journal = some_of(&dev.drive(2), layouts[1].part("ring"), 40, &mut random);
    flip(&dev.drive(2), &journal, &mut random);
    let leaves: Vec<u64> = layouts[2].map_pages().into_iter().step_by(5).collect();
    flip(&dev.drive(3), &leaves, &mut random);
    checker.verify().unwrap();
    checker.write_for(Duration::from_secs(2)).expect_clean();
    checker.verify().unwrap();
    for node in 1..=3 {
        dev.kill_node(node).unwrap();
        checker.verify().unwrap();
        dev.start_node(node).unwrap();
        checker.write_for(Duration::from_secs(1)).expect_clean();
        checker.verify().unwrap();
        dev.wait_ok().unwrap();
    }
    checker.verify().unwrap();
}
