//! Bad input of every kind: drives that are not what they should be, full drives, garbage on every port.
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use sarsen_e2e::checker::Checker;
use sarsen_e2e::dev::{Dev, tail};
use sarsen_e2e::nbd::{Client, Command};
use sarsen_e2e::program::{command, run, sarsen, succeed, wait_until};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const BLOCK: usize = 4096;

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

/// A cluster of one node is stopped, its drive is changed, and it is started again: what the node says.
fn said_of(change: impl FnOnce(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start_in(dir.path(), &["--nodes", "3", "--volume", "v:64MiB"]).unwrap();
    dev.stop().unwrap();
    change(&dev.drive(2));
    dev.resume().unwrap();
    let mut said = String::new();
    wait_until("the node says what is wrong with its drive", Duration::from_secs(20), || {
        said = tail(&dir.path().join("node-2.log"), 30);
        Ok(said.contains("drive-1.img"))
    })
    .unwrap();
    // The others serve.
    let (health, reasons) = dev.health().unwrap();
    assert_eq!(health, "degraded", "{reasons}");
    let mut client = Client::connect(&dev.socket("v"), "v").unwrap();
    client.limit(Some(Duration::from_secs(60))).unwrap();
    client.write(0, &[7; BLOCK]).unwrap();
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn a_truncated_drive_is_refused() {
    let said = said_of(|drive| {
        let file = OpenOptions::new().write(true).open(drive).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    });
    assert!(said.contains("truncated") || said.contains("smaller") || said.contains("bytes"), "{said}");
}

#[test]
fn a_foreign_drive_is_refused() {
    let said = said_of(|drive| {
        succeed(command("mkfs.ext4").args(["-q", "-F"]).arg(drive), LIMIT).unwrap();
        // Whatever lies between what mkfs writes.
        let file = OpenOptions::new().write(true).open(drive).unwrap();
        let len = file.metadata().unwrap().len();
        for at in (0..len).step_by(1 << 20).chain([len - BLOCK as u64]) {
            file.write_all_at(&[0xee; BLOCK], at).unwrap();
        }
    });
    assert!(said.contains("not") && said.contains("Sarsen"), "{said}");
}

#[test]
fn a_drive_of_another_cluster_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut other = Dev::start_in(dir.path(), &["--nodes", "1"]).unwrap();
    other.stop().unwrap();
    let theirs = other.drive(1);
    let said = said_of(|drive| {
        fs::remove_file(drive).unwrap();
        succeed(command("cp").arg("--sparse=always").arg(&theirs).arg(drive), LIMIT).unwrap();
    });
    assert!(said.contains("cluster"), "{said}");
}

#[test]
fn a_full_cluster_says_so_and_stays_usable() {
    let dev = Dev::start(&["--drive-size", "1GiB", "--volume", "v:4GiB"]).unwrap();
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
        assert!(written < 2 << 30, "1 GiB drives hold more than 2 GiB");
    };
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC), "{full}");
    assert!(written > 512 << 20, "full after {written} bytes");
    let mut back = vec![0; piece];
    for at in [0, written / 2 / piece as u64 * piece as u64, written - piece as u64] {
        client.read(at, &mut back).unwrap();
        assert_eq!(back[..8], at.to_le_bytes(), "what was answered is there");
        assert_eq!(back[8..], data[8..]);
    }
    client.command(Command::Trim, 0, 256 << 20).unwrap();
    wait_until("space returns after a discard", Duration::from_secs(30), || {
        Ok(client.write(0, &data).is_ok())
    })
    .unwrap();
    client.read(0, &mut back).unwrap();
    assert_eq!(back, data);
    assert_eq!(dev.health().unwrap().0, "ok", "a full cluster is whole");
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
    let stop = AtomicBool::new(false);
    let mut checker = Checker::new(&dev.socket("v"), "v", 64 << 20, 2, 4, 6);
    let mut random = SmallRng::seed_from_u64(7);
    thread::scope(|scope| {
        let writing = scope.spawn(|| checker.write(&stop));
        let mut kept: Vec<Box<dyn Read>> = Vec::new();
        for round in 0..40 {
            for port in &ports {
                let Ok(mut stream) = TcpStream::connect(("127.0.0.1", *port)) else { continue };
                // It may close at any time; that is what it should do.
                let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
                let _ = stream.write_all(&garbage(&mut random));
                if round % 4 == 0 {
                    kept.push(Box::new(stream));
                }
            }
            for socket in &sockets {
                let Ok(mut stream) = UnixStream::connect(socket) else { continue };
                let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
                let _ = stream.write_all(&garbage(&mut random));
                if round % 4 == 0 {
                    kept.push(Box::new(stream));
                }
            }
        }
        drop(kept);
        thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
        let spell = writing.join().unwrap().unwrap();
        println!("{} writes beside the garbage, longest stall {:?}", spell.answered, spell.longest);
        assert_eq!((spell.errors, spell.pending), (0, 0));
        assert!(spell.answered > 50);
    });
    checker.verify().unwrap();
    assert_eq!(dev.health().unwrap().0, "ok");
    let now = dev.pids();
    assert!(pids.iter().all(|p| now.contains(p)), "a process ended: {pids:?}, then {now:?}");
}
