//! What bounds us from below, measured in the same run: the NBD hop alone, one raw file, one raw write, one round trip.
use super::workload::Workload;
use crate::program::{command, wait_until};
use anyhow::{Context, Result};
use rand::{Rng, SeedableRng};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// `nbdkit memory`: what the NBD hop costs with nothing behind it.
#[derive(Debug)]
pub struct Nbdkit {
    child: Child,
    dir: TempDir,
}

impl Nbdkit {
    /// Serves `size` bytes of memory at a unix socket.
    pub fn start(size: u64) -> Result<Nbdkit> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("nbd.sock");
        let child = command("nbdkit")
            .args(["-f", "--exit-with-parent", "-U"])
            .arg(&socket)
            .args(["memory", &size.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .context("start nbdkit")?;
        wait_until("nbdkit listens", Duration::from_secs(10), || Ok(socket.exists()))?;
        Ok(Nbdkit { child, dir })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("nbd+unix:///?socket={}", self.dir.path().join("nbd.sock").display())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Bytes of its memory, without the `size` bytes that it serves and that were written.
    pub fn memory_beside(&self, size: u64) -> u64 {
        crate::process::memory(self.pid()).saturating_sub(size)
    }

    /// Writes everything once.
    pub fn fill(&self, size: u64) -> Result<()> {
        Workload::FILL.run(&Workload::nbd(&self.url()), size, None).map(drop)
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One file, direct and O_DSYNC: what one durable write costs without anything around it.
#[derive(Debug)]
pub struct RawFile {
    dir: TempDir,
    is_direct: bool,
}

impl RawFile {
    /// Makes a written file of `size` bytes below `place`.
    pub fn make(place: &Path, size: u64) -> Result<RawFile> {
        let dir = tempfile::tempdir_in(place)?;
        let mut raw = RawFile { dir, is_direct: true };
        if Workload::FILL.run(&raw.arguments(), size, None).is_err() {
            // Memory of older kernels has no O_DIRECT.
            raw.is_direct = false;
            Workload::FILL.run(&raw.arguments(), size, None).context("fill the raw file")?;
        }
        Ok(raw)
    }

    /// fio's arguments for it.
    pub fn arguments(&self) -> Vec<String> {
        vec![
            "--ioengine=io_uring".into(),
            format!("--filename={}", self.dir.path().join("raw").display()),
            format!("--direct={}", u8::from(self.is_direct)),
            "--sync=dsync".into(),
        ]
    }
}

/// One direct, O_DSYNC write of 4 KiB after the other, at random places of a written file.
#[derive(Debug)]
pub struct RawWrites {
    file: File,
    _dir: TempDir,
}

/// Bytes of the file that [`RawWrites`] writes to.
const RAW_BYTES: u64 = 64 << 20;

impl RawWrites {
    /// Makes the file below `place`.
    pub fn make(place: &Path) -> Result<RawWrites> {
        let dir = tempfile::tempdir_in(place)?;
        let path = dir.path().join("raw");
        std::fs::write(&path, vec![1; RAW_BYTES as usize]).context("write the raw file")?;
        let open = |flags: libc::c_int| File::options().write(true).custom_flags(flags).open(&path);
        // memory of older kernels has no O_DIRECT
        let file = open(libc::O_DSYNC | libc::O_DIRECT).or_else(|_| open(libc::O_DSYNC))?;
        file.sync_all()?;
        Ok(RawWrites { file, _dir: dir })
    }

    /// How long one takes, on average over `time`.
    pub fn measure(&self, time: Duration) -> Result<Duration> {
        let mut random = rand::rngs::SmallRng::seed_from_u64(1);
        // O_DIRECT wants whole blocks of memory at whole places
        let room = vec![7u8; 8192];
        let skip = room.as_ptr().align_offset(4096);
        let block = &room[skip..skip + 4096];
        let (start, mut count) = (Instant::now(), 0u32);
        while start.elapsed() < time || count == 0 {
            self.file.write_all_at(block, random.random_range(0..RAW_BYTES / 4096) * 4096)?;
            count += 1;
        }
        Ok(start.elapsed() / count)
    }
}

/// Bytes of an answer to a block: as many as an NBD reply has.
const REPLY_BYTES: usize = 16;

/// A block of 4 KiB over loopback TCP to another thread, which sleeps until it comes, and a small answer.
#[derive(Debug)]
pub struct RoundTrips {
    stream: TcpStream,
}

impl RoundTrips {
    /// Starts the one that answers; it ends with the connection.
    pub fn start() -> Result<RoundTrips> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        let (mut other, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        other.set_nodelay(true)?;
        std::thread::spawn(move || {
            let mut block = [0; 4096];
            while other.read_exact(&mut block).and_then(|()| other.write_all(&block[..REPLY_BYTES])).is_ok() {
            }
        });
        Ok(RoundTrips { stream })
    }

    /// How long one takes, on average over `time`.
    pub fn measure(&mut self, time: Duration) -> Result<Duration> {
        let (block, mut reply) = ([7; 4096], [0; REPLY_BYTES]);
        let (start, mut count) = (Instant::now(), 0u32);
        while start.elapsed() < time || count == 0 {
            self.stream.write_all(&block)?;
            self.stream.read_exact(&mut reply)?;
            count += 1;
        }
        Ok(start.elapsed() / count)
    }
}
