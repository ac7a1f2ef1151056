//! The virtual machine: emulated (TCG), with a drive that has a write-back cache, a disk for the log, and one for what is kept.
use super::guest::Plan;
use super::initramfs;
use crate::program::{self, command, succeed};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// Bytes of the drive: its ring is so small that a checkpoint comes every few hundred writes.
pub const DRIVE: u64 = 72 << 20;
/// Sparse, both.
const LOG: u64 = 16 << 30;
const OUT: u64 = 256 << 20;
/// How long everything inside may take.
const RUN_MAX: Duration = Duration::from_secs(40 * 60);
/// Without the instruction cmpxchg16b, which QEMU 7.2 miscomputes: lists of the kernel's memory are corrupt then. It has another way.
const CPU: &str = "Nehalem,-cx16";

/// What a run leaves.
#[derive(Clone, Debug)]
pub struct Left(pub PathBuf);

impl Left {
    /// The log of dm-log-writes.
    pub fn log(&self) -> PathBuf {
        self.0.join("log.img")
    }
    /// A file that the machine kept.
    pub fn out(&self, name: &str) -> PathBuf {
        self.0.join("out").join(name)
    }
}

/// The kernel's image in the package unpacked at `kernel`.
fn image(kernel: &Path) -> Result<PathBuf> {
    let mut files = std::fs::read_dir(kernel.join("boot"))?.flatten().map(|e| e.path());
    let is_image = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz"));
    files.find(is_image).with_context(|| format!("no kernel in {}", kernel.display()))
}

/// A program without what debuggers want, which is most of it; its name here.
fn stripped(program: &Path, to: &Path) -> Result<PathBuf> {
    succeed(command("strip").arg("-o").arg(to).arg(program), Duration::from_secs(60))?;
    Ok(to.to_owned())
}

/// Runs the machine to its end; `dir` takes its disks.
pub fn run(kernel: &Path, dir: &Path, plan: &Plan) -> Result<Left> {
    let own = std::env::current_exe()?;
    let initrd = dir.join("initramfs");
    let programs = [("sarsen", program::sarsen()), ("power", own.as_path())];
    let programs = programs.map(|(name, path)| (name, stripped(path, &dir.join(name))));
    std::fs::write(&initrd, initramfs::make(kernel, programs)?)?;
    let mut disks = Vec::new();
    for (name, size) in [("drive", DRIVE), ("log", LOG), ("out", OUT)] {
        let path = dir.join(format!("{name}.img"));
        File::create(&path)?.set_len(size)?;
        // discards of the drive are kept from nothing: dm-log-writes has seen them
        disks.push(format!(
            "file={},if=none,id={name},format=raw,cache=writeback,discard=unmap",
            path.display()
        ));
    }
    let words = format!(
        "console=ttyS0 quiet panic=-1 REQUESTS={} SEED={} DATA_PORT={} API_PORT={} DENY={}",
        plan.requests, plan.seed, plan.data_port, plan.api_port, plan.denies_cache
    );
    let mut qemu = command("qemu-system-x86_64");
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", "2", "-m", "1024"]);
    qemu.args(["-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(image(kernel)?).arg("-initrd").arg(&initrd).args(["-append", &words]);
    for (disk, name) in disks.iter().zip(["drive", "log", "out"]) {
        qemu.args(["-drive", disk, "-device", &format!("virtio-blk-pci,drive={name},write-cache=on")]);
    }
    let console = File::create(dir.join("console"))?;
    qemu.stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console);
    let mut machine = qemu.spawn().context("start qemu-system-x86_64")?;
    let ended = program::wait(&mut machine, RUN_MAX).context("the machine");
    let said = crate::dev::tail(&dir.join("console"), 12);
    ended.with_context(|| said.clone())?;

    let left = Left(dir.to_owned());
    std::fs::create_dir_all(dir.join("out"))?;
    let mut tar = command("tar");
    tar.arg("-xf").arg(dir.join("out.img")).arg("-C").arg(dir.join("out"));
    succeed(&mut tar, Duration::from_secs(60)).with_context(|| said.clone())?;
    ensure!(left.out("well").exists(), "the run inside failed: {said}");
    println!(
        "{}",
        said.lines()
            .filter(|l| l.starts_with("the ") || l.starts_with("life"))
            .collect::<Vec<_>>()
            .join("\n")
    );
    Ok(left)
}
