//! Disks of a ring: on a real file system and in memory, alone and beside sockets.
use sarsen_buffer::{Arena, Pool};
use sarsen_ring::{BlockingDisk, DriveFile, FileError, Ring, RingConfig, RingDisk, now};
use sarsen_store::disk::{Completion, Disk, DiskError, OpId};
use sarsen_types::Duration;
use smallvec::smallvec;
use std::path::Path;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

fn drive(folder: &Path) -> (tempfile::TempDir, Arc<DriveFile>) {
    let dir = tempfile::tempdir_in(folder).unwrap();
    let path = dir.path().join("drive");
    std::fs::File::create(&path).unwrap().set_len(16 * MIB).unwrap();
    (dir, Arc::new(DriveFile::open(&path).unwrap()))
}
/// Its first 2 MiB of buffers lie in memory that the kernel keeps at hand.
fn ring() -> (Ring, Pool) {
    let pool = Pool::over(Arena::new(2 << 20));
    (Ring::new(RingConfig::default(), &pool).unwrap(), pool)
}
/// Where files are on a device, and where they are in memory if the system has such a place.
fn folders() -> Vec<std::path::PathBuf> {
    [std::env::temp_dir(), "/dev/shm".into()].into_iter().filter(|f| f.is_dir()).collect()
}
fn turn_until(ring: &mut Ring, disk: &mut RingDisk, count: usize) -> Vec<Completion> {
    let mut done = Vec::new();
    let deadline = now() + Duration::from_secs(10);
    while done.len() < count {
        assert!(ring.turn(Some(deadline), &mut Vec::new()) < deadline, "the disk does not answer");
        disk.poll(&mut done);
    }
    done
}

#[test]
fn what_was_written_is_read_in_turns_and_by_waiting() {
    for folder in folders() {
        let (_dir, file) = drive(&folder);
        let (mut ring, pool) = ring();
        let mut disk = ring.disk(file.clone(), 4 * MIB, 8 * MIB);
        let (one, two) = (pool.copy_of(&[1; 4096]), pool.copy_of(&[2; 8192]));
        disk.write(OpId(1), 0, smallvec![one.clone()]);
        disk.write(OpId(2), 4096, smallvec![two.clone(), one.clone()]);
        let done = turn_until(&mut ring, &mut disk, 2);
        assert!(done.iter().all(|c| c.result.is_ok() && c.buf.is_none()), "{done:?}");
        disk.flush(OpId(3));
        disk.read(OpId(4), 0, pool.take(16384));
        let mut done = turn_until(&mut ring, &mut disk, 2);
        done.sort_by_key(|c| c.id);
        let wanted = [&one[..], &two[..], &one[..]].concat();
        assert_eq!(done[1].buf.as_deref(), Some(&wanted[..]));

        // its part begins where it was told
        let mut whole = ring.disk(file, 0, 16 * MIB);
        whole.read(OpId(5), 4 * MIB, pool.take(4096));
        let mut done = Vec::new();
        whole.wait(&mut done);
        assert_eq!((done[0].id, done[0].buf.as_deref()), (OpId(5), Some(&one[..])));
        done.clear();
        whole.wait(&mut done);
        assert!(done.is_empty(), "waiting for nothing returns");
    }
}

#[test]
fn buffers_inside_and_outside_of_what_the_kernel_keeps_are_written_alike() {
    for folder in folders() {
        let (_dir, file) = drive(&folder);
        let (mut ring, pool) = ring();
        if let Some(refusal) = ring.refusal() {
            assert!(refusal.contains("ulimit") && !refusal.contains('\n'), "{refusal}");
        }
        let mut disk = ring.disk(file, 0, 16 * MIB);
        // twice as many as the arena has room for
        let count = 64;
        for n in 0..count {
            let mut buf = pool.take(64 << 10);
            buf.get_mut().fill(n as u8 + 1);
            disk.write(OpId(n), n * (64 << 10), smallvec![buf.slice(0..4096), buf.slice(4096..64 << 10)]);
            disk.write(OpId(count + n), 8 * MIB + n * 4096, smallvec![buf.slice(4096..8192)]);
        }
        assert!(turn_until(&mut ring, &mut disk, 2 * count as usize).iter().all(|c| c.result.is_ok()));
        let held: Vec<_> = (0..count).map(|_| pool.take(64 << 10)).collect();
        for (n, buf) in held.into_iter().enumerate() {
            disk.read(OpId(n as u64), n as u64 * (64 << 10), buf);
        }
        disk.read(OpId(count), 8 * MIB, pool.take(64 * 4096));
        for done in turn_until(&mut ring, &mut disk, count as usize + 1) {
            let buf = done.buf.unwrap();
            match done.id.0 == count {
                true => (0..count as usize).for_each(|n| assert_eq!(buf[n * 4096], n as u8 + 1)),
                false => assert!(buf.iter().all(|byte| *byte == done.id.0 as u8 + 1), "{:?}", done.id),
            }
        }
    }
}

#[test]
fn a_disk_without_a_ring_sees_what_a_ring_wrote() {
    for folder in folders() {
        let (_dir, file) = drive(&folder);
        let (mut ring, pool) = ring();
        let mut disk = ring.disk(file.clone(), 4096, MIB);
        disk.write(OpId(1), 0, smallvec![pool.copy_of(&[3; 4096])]);
        turn_until(&mut ring, &mut disk, 1);
        let mut blocking = BlockingDisk::new(file, 4096, MIB);
        blocking.read(OpId(2), 0, pool.take(4096));
        blocking.write(OpId(3), 4096, smallvec![pool.copy_of(&[4; 4096]), pool.copy_of(&[5; 4096])]);
        blocking.flush(OpId(4));
        let mut done = Vec::new();
        blocking.wait(&mut done);
        assert!(done.len() == 3 && done.iter().all(|c| c.result.is_ok()), "{done:?}");
        assert_eq!(done[0].buf.as_deref(), Some(&[3; 4096][..]));
        disk.read(OpId(5), 8192, pool.take(4096));
        assert_eq!(turn_until(&mut ring, &mut disk, 1)[0].buf.as_deref(), Some(&[5; 4096][..]));
    }
}

#[test]
fn many_operations_at_once_all_come_back() {
    for folder in folders() {
        let (_dir, file) = drive(&folder);
        let (mut ring, pool) = ring();
        let mut disk = ring.disk(file, 0, 16 * MIB);
        for i in 0..2000u64 {
            disk.write(OpId(i), i % 1000 * 4096, smallvec![pool.copy_of(&[(i % 1000) as u8; 4096])]);
        }
        assert_eq!(turn_until(&mut ring, &mut disk, 2000).len(), 2000);
        for i in 0..1000u64 {
            disk.read(OpId(i), i * 4096, pool.take(4096));
        }
        for done in turn_until(&mut ring, &mut disk, 1000) {
            assert_eq!(done.buf.unwrap()[..], [done.id.0 as u8; 4096], "{:?}", done.id);
        }
        assert_eq!(pool.live_bytes(), 0);
    }
}

#[test]
fn trimmed_space_reads_as_zeroes_and_a_hint_never_fails() {
    for folder in folders() {
        let (_dir, file) = drive(&folder);
        let (mut ring, pool) = ring();
        let mut disk = ring.disk(file, 0, 16 * MIB);
        disk.write(OpId(1), 0, smallvec![pool.copy_of(&[1; 8192])]);
        turn_until(&mut ring, &mut disk, 1);
        disk.trim(OpId(2), 0, 4096);
        disk.trim(OpId(3), 0, 0);
        assert!(turn_until(&mut ring, &mut disk, 2).iter().all(|c| c.result.is_ok()));
        disk.read(OpId(4), 0, pool.take(8192));
        let done = turn_until(&mut ring, &mut disk, 1);
        let bytes = done[0].buf.as_deref().unwrap();
        assert_eq!((bytes[0], bytes[4096]), (0, 1));
    }
}

#[test]
fn a_file_that_was_cut_short_is_a_failed_read_with_its_buffer_back() {
    for folder in folders() {
        let (dir, file) = drive(&folder);
        let (mut ring, pool) = ring();
        let mut disk = ring.disk(file, 0, 16 * MIB);
        std::fs::OpenOptions::new()
            .write(true)
            .open(dir.path().join("drive"))
            .unwrap()
            .set_len(4096)
            .unwrap();
        disk.read(OpId(1), 0, pool.take(8192));
        let done = turn_until(&mut ring, &mut disk, 1);
        assert_eq!(done[0].result, Err(DiskError::Io(libc::EIO)));
        assert!(done[0].buf.is_some());
    }
}

#[test]
fn sockets_are_not_starved_by_a_disk_in_memory_and_nothing_is_lost_while_a_disk_is_waited_for() {
    for folder in folders() {
        let (_dir, file) = drive(&folder);
        let (mut ring, pool) = ring();
        let mut disk = ring.disk(file, 0, 16 * MIB);
        let (_, address) = ring.listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        ring.turn(Some(now()), &mut Vec::new());
        let _client = std::net::TcpStream::connect(address).unwrap();
        let mut events = Vec::new();
        let (mut turns, mut done) = (0, Vec::new());
        disk.read(OpId(0), 0, pool.take(4096));
        disk.wait(&mut done);
        while events.is_empty() {
            disk.write(OpId(turns), 0, smallvec![pool.take_zeroed(4096)]);
            ring.turn(Some(now() + Duration::from_secs(10)), &mut events);
            disk.poll(&mut done);
            turns += 1;
            assert!(turns < 1000, "the accept is not seen while the disk is busy");
        }
    }
}

/// A loop device over a file. `None` where the system has none to give, or gives none to this user; root gets one.
struct Loop(String);
impl Loop {
    fn over(path: &Path) -> Option<Loop> {
        // SAFETY: no pointers.
        let is_root = unsafe { libc::geteuid() } == 0;
        if !is_root || !Path::new("/dev/loop-control").exists() {
            return None;
        }
        let mut losetup = std::process::Command::new("losetup");
        let made = losetup.args(["-f", "--show"]).arg(path).output().expect("losetup is there");
        assert!(made.status.success(), "no loop device: {}", String::from_utf8_lossy(&made.stderr));
        Some(Loop(String::from_utf8_lossy(&made.stdout).trim().to_owned()))
    }
}
impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["-d", &self.0]).status();
    }
}

#[test]
fn a_block_device_is_opened_by_one_at_a_time_and_written_durably() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::File::create(&path).unwrap().set_len(16 * MIB).unwrap();
    let Some(device) = Loop::over(&path) else {
        return eprintln!("no loop devices, or not root: nothing was tested");
    };
    let file = Arc::new(DriveFile::open(Path::new(&device.0)).unwrap());
    assert!(file.is_device() && file.size() == 16 * MIB && !file.is_inline() && file.can_trim());
    let second = DriveFile::open_waiting(Path::new(&device.0), std::time::Duration::ZERO);
    assert!(matches!(second, Err(FileError::InUse(_))), "{second:?}");
    let (mut ring, pool) = ring();
    let mut disk = ring.disk(file, MIB, 8 * MIB);
    disk.write(OpId(1), 0, smallvec![pool.copy_of(&[7; 4096]), pool.copy_of(&[8; 8192])]);
    turn_until(&mut ring, &mut disk, 1);
    disk.flush(OpId(2));
    disk.trim(OpId(3), 4096, 4096);
    assert!(turn_until(&mut ring, &mut disk, 2).iter().all(|c| c.result.is_ok()));
    disk.read(OpId(4), 0, pool.take(12288));
    let done = turn_until(&mut ring, &mut disk, 1);
    let bytes = done[0].buf.as_deref().unwrap();
    assert_eq!((bytes[0], bytes[4096], bytes[8192]), (7, 0, 8));
    drop((disk, ring));
}
