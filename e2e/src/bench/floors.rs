//! What bounds us from below, measured in the same run: the NBD hop alone, and one raw file.
use super::workload::Workload;
use crate::program::{command, wait_until};
use anyhow::{Context, Result};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;
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
