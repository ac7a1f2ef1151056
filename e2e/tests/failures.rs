//! Nodes die, one after the other or all at once, under writers whose every answer is remembered.
use sarsen_e2e::checker::Checker;
use sarsen_e2e::dev::Dev;
use sarsen_e2e::fio;
use sarsen_e2e::program::{is_long, wait_until};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What a write may wait for one dead node, and what one may wait on a machine whose two cores also run the test.
const STALL_MAX: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 6 });

/// How long a voter may be lost until another has its vote: 30 s, and what a machine whose two cores also run the test needs.
const VOTE_MAX: Duration = Duration::from_secs(60);

/// Kills each node in turn, starts it again, waits for its recovery. When each was killed.
fn kill_each_node(dev: &Dev) -> Vec<Instant> {
    let mut killed = Vec::new();
    for node in dev.show().unwrap().nodes {
        thread::sleep(Duration::from_secs(2));
        killed.push(Instant::now());
        dev.kill_node(node.id).unwrap();
        // Longer than GRACE, so that the others have gone on without it.
        thread::sleep(Duration::from_secs(4));
        wait_until("all can be written without it", Duration::from_secs(30), || {
            Ok(dev.health()?.0 == "degraded")
        })
        .unwrap();
        let (_, reasons) = dev.health().unwrap();
        assert!(!reasons.as_array().unwrap().is_empty(), "degraded without a reason");
        dev.start_node(node.id).unwrap();
        let took = dev.wait_ok().unwrap();
        println!("node {} recovered in {:.1} s", node.id, took.as_secs_f32());
    }
    killed
}

#[test]
fn no_write_fails_while_each_node_in_turn_is_killed_and_recovers() {
    let dev = Dev::start(&["--volume", "fio:512MiB", "--volume", "checked:64MiB"]).unwrap();
    dev.wait_ok().unwrap();
    let mut checker = Checker::new(&dev.socket("checked"), "checked", 64 << 20, 4, 4, 1);
    let url = dev.url("fio");
    let is_over = AtomicBool::new(false);
    let (spell, (killed, fio)) = checker.beside(|| {
        thread::scope(|scope| {
            let fio = scope.spawn(|| fio_until(&url, &is_over));
            let killed = catch_unwind(AssertUnwindSafe(|| kill_each_node(&dev)));
            is_over.store(true, Ordering::Relaxed);
            let fio = fio.join().expect("fio ran to its end");
            (killed.unwrap_or_else(|why| resume_unwind(why)), fio)
        })
    });
    for (node, at) in killed.iter().enumerate() {
        let felt = spell.longest_between(*at, *at + Duration::from_secs(4));
        println!("node {}: its death was felt for {:.2} s", node + 1, felt.as_secs_f32());
    }
    println!("fio: {} I/Os, longest stall {:.2} s", fio.0, fio.1.as_secs_f32());
    println!("checker: {} writes, longest stall {:.2} s", spell.answered, spell.longest.as_secs_f32());
    spell.expect_clean();
    assert!(spell.answered > 100);
    assert!(fio.1.max(spell.longest) < STALL_MAX, "a write waited longer than {STALL_MAX:?}");
    checker.verify().unwrap();
}

/// Writes at random and verifies, again and again; I/Os and the longest wait.
fn fio_until(url: &str, is_over: &AtomicBool) -> (u64, Duration) {
    let (mut loops, mut ios, mut longest) = (0, 0, Duration::ZERO);
    while !is_over.load(Ordering::Relaxed) || loops == 0 {
        loops += 1;
        let args = [
            "--ioengine=nbd",
            &format!("--uri={url}"),
            "--rw=randwrite",
            "--bs=4k",
            "--size=512m",
            "--io_size=64m",
            "--iodepth=16",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--do_verify=1",
            "--verify_state_save=0",
            &format!("--randseed={loops}"),
        ];
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        let measured = fio::run(&args, Duration::from_secs(600)).expect("fio sees no error");
        longest = longest.max(measured.longest);
        ios += measured.ios;
    }
    (ios, longest)
}

#[test]
fn every_answered_write_is_there_after_everything_was_killed() {
    let rounds = if is_long() { 50 } else { 10 };
    let mut dev = Dev::start(&["--volume", "v:64MiB"]).unwrap();
    let mut checker = Checker::new(&dev.socket("v"), "v", 64 << 20, 4, 8, 2);
    // A node that has just started leads nothing for GRACE (R2).
    checker.write_for(Duration::from_secs(2)).expect_clean();
    let mut answered = 0;
    for round in 1..=rounds {
        let (spell, ()) = checker.beside(|| {
            // Not always at the same place of a checkpoint or a heartbeat.
            thread::sleep(Duration::from_millis(700 + 173 * (round % 7)));
            dev.kill_everything();
        });
        let took = dev.resume().unwrap();
        answered += spell.answered;
        println!(
            "round {round}: {} answered, {} under way, serves again after {:.1} s",
            spell.answered,
            spell.pending,
            took.as_secs_f32()
        );
        assert_eq!(spell.errors, 0);
        checker.verify().unwrap();
    }
    assert!(answered > rounds * 10, "only {answered} writes in {rounds} rounds");
}

#[test]
fn a_planned_stop_is_hardly_felt() {
    let dev = Dev::start(&["--volume", "v:64MiB"]).unwrap();
    dev.wait_ok().unwrap();
    let mut checker = Checker::new(&dev.socket("v"), "v", 64 << 20, 2, 4, 3);
    let mut steps = Vec::new();
    let (spell, ()) = checker.beside(|| {
        // A node that has just started leads nothing for GRACE (R2): that is the start's, not the stop's.
        thread::sleep(Duration::from_secs(3));
        for node in dev.show().unwrap().nodes {
            steps.push((format!("node {} stops", node.id), Instant::now()));
            // By either way: what an init system does, and the command.
            match node.id {
                1 => dev.terminate_node(1).unwrap(),
                id => dev.stop_node(id).unwrap(),
            }
            thread::sleep(Duration::from_secs(1));
            steps.push((format!("node {} starts", node.id), Instant::now()));
            dev.start_node(node.id).unwrap();
            dev.wait_ok().unwrap();
            thread::sleep(Duration::from_secs(2));
        }
        steps.push(("nothing".to_owned(), Instant::now()));
    });
    for step in steps.windows(2) {
        let felt = spell.longest_between(step[0].1, step[1].1);
        println!("{}: longest stall {:.3} s", step[0].0, felt.as_secs_f32());
    }
    println!("{} writes", spell.answered);
    spell.expect_clean();
    // The rule is 200 ms in the simulator's clock; here two cores also start processes.
    let after = steps[0].1;
    let felt = spell.longest_between(after, after + Duration::from_secs(600));
    assert!(felt < Duration::from_secs(1), "a planned stop was felt for {felt:?}");
    checker.verify().unwrap();
}

#[test]
fn io_waits_while_every_node_is_dead_and_then_goes_on() {
    let dev = Dev::start(&["--volume", "v:64MiB"]).unwrap();
    let mut checker = Checker::new(&dev.socket("v"), "v", 64 << 20, 2, 2, 4);
    let (spell, ()) = checker.beside(|| {
        thread::sleep(Duration::from_secs(1));
        let nodes = dev.show().unwrap().nodes;
        for node in &nodes {
            dev.kill_node(node.id).unwrap();
        }
        thread::sleep(Duration::from_secs(2));
        for node in &nodes {
            dev.start_node(node.id).unwrap();
        }
        dev.wait_ok().unwrap();
        thread::sleep(Duration::from_secs(1));
    });
    spell.expect_clean();
    assert!(spell.longest > Duration::from_secs(2), "nothing waited: {:?}", spell.longest);
    checker.verify().unwrap();
}

/// Nodes that vote on metadata.
fn voters(dev: &Dev) -> Vec<u64> {
    let nodes = dev.json(&["node", "list"]).unwrap();
    let votes = nodes.as_array().unwrap().iter().filter(|n| n["is_voter"] == true);
    votes.map(|n| n["id"].as_u64().unwrap()).collect()
}

/// And so is its vote. Also with the other lease mode than this machine's own.
#[test]
fn a_failed_copy_is_replaced_on_a_fourth_node_after_down_out() {
    let dev = Dev::start(&["--nodes", "4", "--lease", "clock", "--volume", "v:64MiB"]).unwrap();
    dev.wait_ok().unwrap();
    dev.sarsen(&["setting", "set", "--down-out", "4s"], None).unwrap();
    let mut checker = Checker::new(&dev.socket("v"), "v", 64 << 20, 2, 4, 5);
    let copies_on = |node: u64| {
        let drives = dev.json(&["drive", "list"]).unwrap();
        let drive = drives.as_array().unwrap().iter().find(|d| d["node"] == node).unwrap()["id"].to_string();
        let groups = dev.json(&["group", "list"]).unwrap();
        let is_in_sync = |group: &&serde_json::Value| {
            let slices = group["in_sync"].as_array().unwrap();
            slices.iter().any(|s| s.as_str().unwrap().split('.').next() == Some(&drive))
        };
        groups.as_array().unwrap().iter().filter(is_in_sync).count()
    };
    let three = [1, 2, 3];
    wait_until("three nodes vote", Duration::from_secs(30), || Ok(voters(&dev) == three)).unwrap();
    let held = copies_on(2);
    assert!(held > 0, "node 2 holds nothing");
    let (spell, ()) = checker.beside(|| {
        thread::sleep(Duration::from_secs(2));
        let killed = Instant::now();
        dev.kill_node(2).unwrap();
        let took = wait_until("every group has three copies without node 2", Duration::from_secs(90), || {
            let status = dev.json(&["status"])?;
            Ok(status["groups_whole"] == status["groups"] && copies_on(2) == 0)
        });
        println!("{held} copies were replaced within {:.1} s", took.unwrap().as_secs_f32());
        assert_eq!(voters(&dev), three, "nobody gives up a vote that soon");
        wait_until("node 4 votes in its place", VOTE_MAX, || Ok(voters(&dev) == [1, 3, 4])).unwrap();
        println!("its vote after {:.1} s", killed.elapsed().as_secs_f32());
    });
    println!("{} writes, longest stall {:.2} s", spell.answered, spell.longest.as_secs_f32());
    spell.expect_clean();
    let (health, reasons) = dev.health().unwrap();
    assert_eq!(health, "degraded", "node 2 is still away: {reasons}");
    // The new copies carry the data, and the new voter the metadata: another node goes, in order, and all is read and written
    // without it. Of the first three voters one is left.
    dev.stop_node(1).unwrap();
    checker.verify().unwrap();
    checker.write_for(Duration::from_secs(1)).expect_clean();
    dev.sarsen(&["volume", "create", "later", "--size", "64MiB"], None).unwrap();
    assert_eq!(dev.json(&["volume", "show", "later"]).unwrap()["name"], "later");
    dev.start_node(1).unwrap();
    dev.start_node(2).unwrap();
    dev.wait_ok().unwrap();
    checker.verify().unwrap();
}
