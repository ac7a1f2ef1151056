//! Drives on real block devices: loop devices, which only root can make.
use sarsen_e2e::checker::Checker;
use sarsen_e2e::nodes::Nodes;
use sarsen_e2e::program::{command, run, sarsen, succeed, wait_until};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);

/// A loop device over a sparse file.
struct Loop {
    path: PathBuf,
    _file: tempfile::NamedTempFile,
}

impl Loop {
    /// Of so many bytes.
    fn new(bytes: u64) -> Loop {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        let made = succeed(command("losetup").args(["-f", "--show"]).arg(file.path()), LIMIT).unwrap();
        let device = Loop { path: made.trim().into(), _file: file };
        device.set_write_cache("write back");
        device
    }
    /// Says whether it has a cache that keeps writes back. The system remembers that for the next that is made.
    fn set_write_cache(&self, kind: &str) {
        fs::write(self.fact("queue/write_cache"), kind).unwrap();
    }
    /// What the system says of it.
    fn fact(&self, name: &str) -> PathBuf {
        Path::new("/sys/block").join(self.path.file_name().unwrap()).join(name)
    }
    /// Flushes that the device was given.
    fn flushes(&self) -> u64 {
        let stat = fs::read_to_string(self.fact("stat")).unwrap();
        stat.split_whitespace().nth(15).expect("flushes are counted").parse().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = fs::write(self.fact("queue/write_cache"), "write back");
        let _ = run(command("losetup").arg("-d").arg(&self.path), LIMIT);
    }
}

/// Root gets loop devices wherever there are any; a test without them would show nothing.
fn has_devices() -> bool {
    // SAFETY: no pointers.
    let is_root = unsafe { libc::geteuid() } == 0;
    let has = is_root && Path::new("/dev/loop-control").exists();
    if !has {
        eprintln!("no loop devices, or not root: nothing was tested");
    }
    has
}

/// Formats, and what was said if that was refused.
fn format(path: &Path, force: bool) -> Result<(), String> {
    let mut format = command(sarsen());
    format.args(["drive", "format"]).arg(path).args(force.then_some("--force"));
    let output = run(&mut format, LIMIT).unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn inspect(path: &Path) -> String {
    succeed(command(sarsen()).args(["drive", "inspect"]).arg(path), LIMIT).unwrap()
}

/// That a device is refused because somebody has it, by its name.
fn assert_in_use(path: &Path) {
    let said = format(path, true).expect_err("a device in use was formatted");
    assert!(said.contains(path.to_str().unwrap()) && said.contains("in use"), "{said}");
    assert!(!said.contains("--size"), "no size is missing: {said}");
}

#[test]
fn a_device_that_is_mounted_or_holds_data_is_not_formatted() {
    if !has_devices() {
        return;
    }
    let device = Loop::new(256 << 20);
    succeed(command("mkfs.ext4").arg("-q").arg(&device.path), LIMIT).unwrap();
    let at = tempfile::tempdir().unwrap();
    let note = at.path().join("note");
    succeed(command("mount").args([&device.path, at.path()]), LIMIT).unwrap();
    fs::write(&note, "mine").unwrap();
    let refused = std::panic::catch_unwind(|| assert_in_use(&device.path));
    let kept = fs::read_to_string(&note);
    succeed(command("umount").arg(at.path()), LIMIT).unwrap();
    refused.unwrap();
    assert_eq!(kept.unwrap(), "mine");

    let said = format(&device.path, false).expect_err("a file system was overwritten unasked");
    assert!(said.contains("holds data"), "{said}");
    succeed(command("e2fsck").arg("-fn").arg(&device.path), LIMIT).expect("nothing was written to it");
    format(&device.path, true).unwrap();
    assert!(inspect(&device.path).contains(&(256u64 << 20).to_string()), "{}", inspect(&device.path));
}

#[test]
fn three_nodes_on_block_devices_lose_nothing_to_kill_9() {
    if !has_devices() {
        return;
    }
    let devices: Vec<Loop> = (0..3).map(|_| Loop::new(1 << 30)).collect();
    for device in &devices {
        format(&device.path, false).unwrap();
    }
    let drives: Vec<PathBuf> = devices.iter().map(|d| d.path.clone()).collect();
    let mut nodes = Nodes::start(&drives, 3).unwrap();
    drives.iter().for_each(|drive| assert_in_use(drive));
    for (at, drive) in drives.iter().enumerate() {
        let told =
            nodes.log(at).lines().any(|l| l.contains(drive.to_str().unwrap()) && l.contains("is flushed"));
        assert!(told, "what becomes of its writes is not told: {}", nodes.log(at));
    }
    let listed = nodes.json(&["drive", "list"]).unwrap();
    assert!(
        listed
            .as_array()
            .unwrap()
            .iter()
            .all(|d| d["is_up"] == true && d["total_bytes"].as_u64() > Some(900 << 20)),
        "{listed}"
    );

    // An image, by a client nobody here wrote; and writes that are remembered one by one.
    let image = nodes.path("image");
    let urandom = File::open("/dev/urandom").unwrap();
    std::io::copy(&mut std::io::Read::take(urandom, 64 << 20), &mut File::create(&image).unwrap()).unwrap();
    let url = |socket: &Path| format!("nbd+unix:///?socket={}", socket.display());
    let copied = url(&nodes.export("image", "64MiB").unwrap());
    succeed(command("nbdcopy").arg(&image).arg(&copied), LIMIT).unwrap();
    let socket = nodes.export("checked", "64MiB").unwrap();
    let mut checker = Checker::new(&socket, "checked", 64 << 20, 2, 4, 31);
    let flushed: Vec<u64> = devices.iter().map(Loop::flushes).collect();
    let spell = checker.write_for(Duration::from_secs(2));
    spell.expect_clean();
    for (device, before) in devices.iter().zip(flushed) {
        let flushes = device.flushes() - before;
        println!(
            "{} writes were answered, {} was flushed {flushes} times",
            spell.answered,
            device.path.display()
        );
        // eight may be under way at a time
        assert!(flushes >= spell.answered / 8, "answered without a flush of what keeps writes in its cache");
    }

    // All at once, so that what is there comes from the devices; twice, so that a journal is replayed over a replayed one.
    for round in 1..=2 {
        // whose end, should something fail, ends the writers too
        let (spell, same) = checker.beside(|| {
            let mut nodes = nodes;
            std::thread::sleep(Duration::from_secs(1));
            (0..3).for_each(|at| nodes.kill_node(at).unwrap());
            for drive in &drives {
                let said = inspect(drive);
                assert!(said.contains("slice"), "{said}");
            }
            (0..3).for_each(|at| nodes.start_node(at).unwrap());
            nodes.wait_ok().unwrap();
            nodes
        });
        nodes = same;
        println!(
            "round {round}: {} writes, longest wait {:.1} s",
            spell.answered,
            spell.longest.as_secs_f32()
        );
        assert_eq!(spell.errors, 0);
        checker.verify().unwrap();
    }
    let back = nodes.path("back");
    succeed(command("nbdcopy").arg(&copied).arg(&back), LIMIT).unwrap();
    succeed(command("cmp").args([&image, &back]), LIMIT).unwrap();

    // A device that says it keeps nothing back is not flushed, and that is told.
    nodes.stop_node(0).unwrap();
    devices[0].set_write_cache("write through");
    nodes.start_node(0).unwrap();
    wait_until("it is told", LIMIT, || Ok(nodes.log(0).contains("durable when they end"))).unwrap();
    nodes.wait_ok().unwrap();
    checker.write_for(Duration::from_secs(1)).expect_clean();
    checker.verify().unwrap();

    // As nobody serves them any more they can be formatted again, when that is asked for.
    let started = Instant::now();
    (0..3).for_each(|at| nodes.kill_node(at).unwrap());
    let said = format(&drives[1], false).expect_err("a drive was formatted unasked");
    assert!(said.contains("holds data"), "{said}");
    format(&drives[1], true).unwrap();
    println!("formatted {:.1} s after the end of its node", started.elapsed().as_secs_f32());
}
