//! Bad input of every kind: drives that are not what they should be, full drives, garbage on every port.
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use sarsen_e2e::checker::Checker;
use sarsen_e2e::dev::Dev;
use sarsen_e2e::nbd::{Client, Command};
use sarsen_e2e::program::{command, run, sarsen, succeed, wait_until};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
const BLOCK: usize = 4096;
/// Connections with garbage that stay open.
const KEPT_MAX: usize = 200;

/// What `sarsen drive inspect` says of a drive that it should not like.
fn inspect(path: &Path) -> String {
    let output = run(command(sarsen()).args(["drive", "inspect"]).arg(path), LIMIT).unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("panicked"), "{said}");
    said
}

fn format(path: &Path) {
    succeed(command(sarsen()).args(["drive", "format"]).arg(path).args(["--size", "1GiB"]), LIMIT).unwrap();
}

#[test]
fn a_drive_with_data_of_others_is_not_formatted() {
    let dir = tempfile::tempdir().unwrap();
    let drive = dir.path().join("drive");
    format(&drive);
    let again = run(command(sarsen()).args(["drive", "format"]).arg(&drive), LIMIT).unwrap();
    assert!(!again.status.success(), "a formatted drive is not formatted again unasked");
    let ext4 = dir.path().join("ext4");
    succeed(command("mkfs.ext4").arg("-q").arg(&ext4).arg("64m"), LIMIT).unwrap();
    let foreign = run(command(sarsen()).args(["drive", "format"]).arg(&ext4), LIMIT).unwrap();
    assert!(!foreign.status.success(), "a file system is not overwritten unasked");
    // btrfs leaves its first 64 KiB alone, and some formats mark only their end
    for (at, bytes) in [(0x10040, &b"_BHRfS_M"[..]), ((64 << 20) - 4096, b"superblock of a RAID")] {
        let marked = dir.path().join("marked");
        File::create(&marked).unwrap().set_len(64 << 20).unwrap();
        OpenOptions::new().write(true).open(&marked).unwrap().write_all_at(bytes, at).unwrap();
        let foreign = run(command(sarsen()).args(["drive", "format"]).arg(&marked), LIMIT).unwrap();
        assert!(!foreign.status.success(), "a mark at {at:#x} is not overwritten unasked");
    }
}

#[test]
fn what_is_no_drive_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("what");
    for (what, bytes) in [("nothing", 0), ("a few bytes", 10), ("zeroes", 64 << 20)] {
        File::create(&path).unwrap().set_len(bytes).unwrap();
        let output = run(command(sarsen()).args(["drive", "inspect"]).arg(&path), LIMIT).unwrap();
        assert!(!output.status.success(), "{what}");
        assert!(inspect(&path).contains("not"), "{what}: {}", inspect(&path));
    }
    let missing =
        run(command(sarsen()).args(["drive", "inspect"]).arg(dir.path().join("missing")), LIMIT).unwrap();
    assert!(!missing.status.success());
}

/// Writes a superblock of a format that this version does not know, intact and in all its places.
fn make_newer(drive: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(drive).unwrap();
    let blocks = file.metadata().unwrap().len() / BLOCK as u64;
    for at in [0, 256, blocks - 1] {
        let mut block = [0; BLOCK];
        file.read_exact_at(&mut block, at * BLOCK as u64).unwrap();
        // checksum 8, magic 4, page format 2, kind 2, then the format of superblocks
        block[16..20].copy_from_slice(&77u32.to_le_bytes());
        let sum = sarsen_buffer::bytes_checksum(&block[8..]).0;
        block[..8].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&block, at * BLOCK as u64).unwrap();
    }
}

fn make_ext4(drive: &Path) {
    let file = OpenOptions::new().write(true).open(drive).unwrap();
    let len = file.metadata().unwrap().len();
    // nothing of what was there is left, holes included
    file.set_len(0).unwrap();
    file.set_len(len).unwrap();
    succeed(command("mkfs.ext4").args(["-q", "-F"]).arg(drive), LIMIT).unwrap();
}

fn halve(drive: &Path) {
    let file = OpenOptions::new().write(true).open(drive).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

fn copy(from: &Path, to: &Path) {
    succeed(command("cp").arg("--sparse=always").args([from, to]), LIMIT).unwrap();
}

#[test]
fn drives_that_are_not_what_they_should_be_are_refused_and_it_is_said_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let mut other = Dev::start_in(dir.path(), &["--nodes", "1", "--drive-size", "1GiB"]).unwrap();
    other.stop().unwrap();
    let (theirs, kept) = (other.drive(1), dir.path().join("kept"));
    let dev = Dev::start(&["--drive-size", "1GiB", "--volume", "v:64MiB"]).unwrap();
    let mut client = Client::connect(&dev.socket("v"), "v").unwrap();
    client.limit(Some(Duration::from_secs(60))).unwrap();
    client.write(0, &[1; BLOCK]).unwrap();
    dev.stop_node(2).unwrap();
    let drive = dev.drive(2);
    copy(&drive, &kept);

    type Change<'a> = &'a dyn Fn(&Path);
    let cases: [(&str, Change<'_>, &[&str]); 6] = [
        ("truncated", &halve, &["truncated", "536870912"]),
        ("zeroes", &|drive| File::create(drive).unwrap().set_len(1 << 30).unwrap(), &["not a Sarsen drive"]),
        ("a file system", &make_ext4, &["not a Sarsen drive", "ext4"]),
        ("newer", &make_newer, &["format 77", "upgrade"]),
        ("another cluster's", &|drive| copy(&theirs, drive), &["belongs to cluster"]),
        ("gone", &|drive| fs::remove_file(drive).unwrap(), &["No such file"]),
    ];
    for (round, (what, change, words)) in cases.iter().enumerate() {
        copy(&kept, &drive);
        change(&drive);
        let refused = dev.try_sarsen(&["dev", "start-node", "2", "--dir", &dev.dir().display().to_string()]);
        let refused = refused.unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success(), "{what}: it was taken");
        assert!(!said.contains("panicked"), "{what}: {said}");
        assert!(said.contains("drive-1.img"), "{what}: which drive? {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{what}: {said}");
        // The others serve.
        client.write(0, &[round as u8; BLOCK]).unwrap();
        let (health, reasons) = dev.health().unwrap();
        assert_eq!(health, "degraded", "{what}: {reasons}");
    }
    copy(&kept, &drive);
    dev.start_node(2).unwrap();
    dev.wait_ok().unwrap();
    let mut back = [0; BLOCK];
    client.read(0, &mut back).unwrap();
    assert_eq!(back, [cases.len() as u8 - 1; BLOCK]);
}

#[test]
fn a_cluster_that_starts_without_one_of_its_drives_serves_what_was_answered() {
    let mut dev = Dev::start(&["--drive-size", "1GiB", "--volume", "v:64MiB"]).unwrap();
    let mut checker = Checker::new(&dev.socket("v"), "v", 64 << 20, 2, 4, 9);
    checker.write_for(Duration::from_secs(3)).expect_clean();
    dev.stop().unwrap();
    make_ext4(&dev.drive(2));
    // Copies that are not heard from since the start are given `settle` (R27).
    let took = dev.resume().unwrap();
    println!("serves after {:.1} s without node 2", took.as_secs_f32());
    let (health, reasons) = dev.health().unwrap();
    assert_eq!(health, "degraded", "{reasons}");
    checker.verify().unwrap();
    checker.write_for(Duration::from_secs(1)).expect_clean();
    checker.verify().unwrap();
}

#[test]
fn a_full_cluster_says_so_and_stays_usable() {
    let dev = Dev::start(&["--drive-size", "512MiB", "--volume", "v:4GiB"]).unwrap();
    let mut client = Client::connect(&dev.socket("v"), "v").unwrap();
    client.limit(Some(Duration::from_secs(60))).unwrap();
    let piece = 256 << 10;
    let mut random = SmallRng::seed_from_u64(5);
    let mut data = vec![0; piece];
    random.fill_bytes(&mut data);
    let mut written = 0u64;
    let full = loop {
        data[..8].copy_from_slice(&written.to_le_bytes());
        match client.write(written, &data) {
            Ok(()) => written += piece as u64,
            Err(why) => break why,
        }
        assert!(written < 1 << 30, "drives of 512 MiB hold more than 1 GiB");
    };
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC), "{full}");
    assert!(written > 384 << 20, "full after {written} bytes");
    wait_until("the operator is told", Duration::from_secs(10), || {
        // what a checkpoint gave back is filled too
        while client.write(written, &data).is_ok() {
            written += piece as u64;
            data[..8].copy_from_slice(&written.to_le_bytes());
        }
        let (health, reasons) = dev.health()?;
        Ok(health == "unavailable" && reasons.to_string().contains("writes get ENOSPC: full are the drives"))
    })
    .unwrap();
    println!("{}", dev.health().unwrap().1);
    let mut back = vec![0; piece];
    for at in [0, written / 2 / piece as u64 * piece as u64, written - piece as u64] {
        client.read(at, &mut back).unwrap();
        assert_eq!(back[..8], at.to_le_bytes(), "what was answered is there");
        assert_eq!(back[8..], data[8..]);
    }
    client.command(Command::Trim, 0, 128 << 20).unwrap();
    wait_until("space returns after a discard", Duration::from_secs(30), || {
        Ok(client.write(0, &data).is_ok())
    })
    .unwrap();
    client.read(0, &mut back).unwrap();
    assert_eq!(back, data);
    // And again, with what was given back: it is not usable once only.
    for at in (0..96 << 20).step_by(piece) {
        client.write(at, &data).unwrap();
    }
    wait_until("it is ok again", Duration::from_secs(20), || Ok(dev.health()?.0 == "ok")).unwrap();
    let (_, reasons) = dev.health().unwrap();
    assert!(
        reasons.to_string().contains("% full"),
        "a drive that was full a moment ago is nearly so: {reasons}"
    );
}

/// Bytes that mean something to somebody, and noise.
fn garbage(random: &mut SmallRng) -> Vec<u8> {
    let mut noise = vec![0; random.random_range(1..64 << 10)];
    random.fill_bytes(&mut noise);
    let starts: [&[u8]; 7] = [
        b"",
        b"GET /v1/../../etc/passwd HTTP/1.1\r\n\r\n",
        b"POST /v1/volumes HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\n\r\n{",
        b"NBDMAGICIHAVEOPT\0\0\0\x07\xff\xff\xff\xff",
        b"\0\0\0\x03IHAVEOPT\0\0\0\x07\x7f\xff\xff\xff",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        &[0xff; 64],
    ];
    let start = starts[random.random_range(0..starts.len())];
    [start, &noise].concat()
}

#[test]
fn garbage_on_every_port_harms_nobody() {
    let dev = Dev::start(&["--volume", "v:64MiB"]).unwrap();
    dev.wait_ok().unwrap();
    let pids = dev.pids();
    let settings: serde_json::Value =
        serde_json::from_slice(&fs::read(dev.dir().join("dev.json")).unwrap()).unwrap();
    let ports: Vec<u16> = settings["ports"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|p| [p["data"].as_u64().unwrap() as u16, p["api"].as_u64().unwrap() as u16])
        .collect();
    assert_eq!(ports.len(), 6);
    let mut sockets = vec![dev.socket("v")];
    for node in 1..=3 {
        let inside = fs::read_dir(dev.dir().join(format!("node-{node}"))).unwrap();
        sockets
            .extend(inside.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "sock")));
    }
    let mut checker = Checker::new(&dev.socket("v"), "v", 64 << 20, 2, 4, 6);
    // A node that has just started leads nothing for GRACE (R2): garbage is to be felt, not that.
    checker.write_for(Duration::from_secs(3)).expect_clean();
    let mut random = SmallRng::seed_from_u64(7);
    let (spell, rounds) = checker.beside(|| {
        let mut kept: Vec<Box<dyn Read>> = Vec::new();
        let until = Instant::now() + Duration::from_secs(6);
        let mut rounds = 0;
        while Instant::now() < until {
            let mut keep = |stream: Box<dyn Read>| {
                if rounds % 4 == 0 && kept.len() < KEPT_MAX {
                    kept.push(stream);
                }
            };
            // They may close at any time; that is what they should do.
            for port in &ports {
                let Ok(mut stream) = TcpStream::connect(("127.0.0.1", *port)) else { continue };
                let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
                let _ = stream.write_all(&garbage(&mut random));
                keep(Box::new(stream));
            }
            for socket in &sockets {
                let Ok(mut stream) = UnixStream::connect(socket) else { continue };
                let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
                let _ = stream.write_all(&garbage(&mut random));
                keep(Box::new(stream));
            }
            rounds += 1;
        }
        drop(kept);
        thread::sleep(Duration::from_secs(1));
        rounds
    });
    println!(
        "{} writes beside {rounds} rounds of garbage, longest stall {:.3} s",
        spell.answered,
        spell.longest.as_secs_f32()
    );
    spell.expect_clean();
    assert!(rounds > 10 && spell.answered > 50, "{rounds} rounds, {} writes", spell.answered);
    assert!(spell.longest < Duration::from_secs(2), "garbage held others up for {:?}", spell.longest);
    checker.verify().unwrap();
    assert_eq!(dev.health().unwrap().0, "ok");
    let now = dev.pids();
    assert!(pids.iter().all(|p| now.contains(p)), "a process ended: {pids:?}, then {now:?}");
}
