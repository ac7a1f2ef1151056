//! Real data: a Debian root file system goes in with one client and comes out identical with another.
use sarsen_e2e::dev::Dev;
use sarsen_e2e::image;
use sarsen_e2e::program::{command, succeed};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(600);
const GIB: u64 = 1 << 30;

#[test]
fn a_root_file_system_comes_back_identical() {
    let scratch = tempfile::tempdir().unwrap();
    let image = scratch.path().join("root.img");
    step("make the image", || image::make(&image, scratch.path(), GIB + GIB / 32, 3 * GIB / 2).unwrap());
    let mut dev = Dev::start(&["--volume", "root:1536MiB"]).unwrap();
    let url = dev.url("root");
    let convert = ["convert", "-n", "-f", "raw", "-O", "raw", "-W", "-m", "8"];
    step("qemu-img convert", || {
        succeed(command("qemu-img").args(convert).arg(&image).arg(&url), LIMIT).unwrap()
    });
    let back = scratch.path().join("back.img");
    step("nbdcopy back", || succeed(command("nbdcopy").arg(&url).arg(&back), LIMIT).unwrap());
    step("cmp", || succeed(command("cmp").arg(&image).arg(&back), LIMIT).unwrap());
    step("e2fsck", || image::check(&back).unwrap());

    // And once more after a restart of everything, with the other client.
    dev.stop().unwrap();
    dev.resume().unwrap();
    let compare = ["compare", "-f", "raw", "-F", "raw"];
    let url = dev.url("root");
    step("qemu-img compare", || {
        succeed(command("qemu-img").args(compare).arg(&image).arg(&url), LIMIT).unwrap()
    });
}

/// Does it, and says how long it took.
fn step<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    println!("{what}: {:.1} s", start.elapsed().as_secs_f32());
    done
}

#[test]
fn what_was_discarded_reads_as_zeroes_and_its_space_returns() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data.img");
    let random = format!("if=/dev/urandom of={} bs=1M count=256 status=none", data.display());
    succeed(command("dd").args(random.split(' ')), LIMIT).unwrap();
    let dev = Dev::start(&["--volume", "v:256MiB"]).unwrap();
    let url = dev.url("v");
    succeed(command("nbdcopy").arg(&data).arg(&url), LIMIT).unwrap();
    let io =
        |what: &str| succeed(command("qemu-io").args(["-f", "raw", "-c", what]).arg(&url), LIMIT).unwrap();
    io("discard 0 64M");
    io("write -z 64M 64M");
    io("write -P 7 1000 100");
    assert!(
        io("read -P 0 2048 134215680").contains("read 134215680/134215680"),
        "zeroes where it was discarded"
    );
    assert!(
        io("read -P 7 1000 100").contains("read 100/100"),
        "the bytes written in the middle of a discarded block"
    );
    let status = succeed(command("nbdinfo").args(["--map"]).arg(&url), LIMIT).unwrap();
    assert!(status.contains("hole"), "block status knows of holes: {status}");
}
