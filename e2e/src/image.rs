//! A root file system of this very machine as an ext4 image: real data, of real sizes and shapes.
use crate::program::{command, succeed};
use anyhow::{Context, Result, ensure};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// Folders of a root file system that tests may read, the ones that are in every Debian first.
const FOLDERS: [&str; 6] =
    ["/usr/bin", "/usr/sbin", "/usr/lib", "/usr/include", "/usr/libexec", "/usr/share"];
/// What has more files than this is left out: `mkfs.ext4 -d` takes minutes for tens of thousands of them.
const FILES_MAX: u64 = 1500;

/// Entries that one `cp` is given.
const BATCH: usize = 256;

/// Fills a tree with copies of real files until they hold at least `bytes`, and makes an ext4 image of `size` from them.
pub fn make(image: &Path, scratch: &Path, bytes: u64, size: u64) -> Result<()> {
    let tree = scratch.join("tree");
    std::fs::create_dir_all(tree.join("etc"))?;
    copy(&["/etc/os-release", "/etc/passwd", "/etc/group"].map(PathBuf::from), &tree.join("etc"))?;
    let mut held = 0;
    // A machine with few packages has the same files several times, under other names.
    for round in 0.. {
        let before = held;
        for folder in FOLDERS.map(Path::new) {
            let to = tree.join(format!("{round}")).join(folder.strip_prefix("/")?);
            std::fs::create_dir_all(&to)?;
            let mut chosen = Vec::new();
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let (len, files) = size_of(&entry.path());
                // One that is larger than what is wanted would not fit the image.
                if files <= FILES_MAX && held < bytes && held + len < bytes + bytes / 8 {
                    held += len;
                    chosen.push(entry.path());
                }
            }
            chosen.chunks(BATCH).try_for_each(|some| copy(some, &to))?;
        }
        if held >= bytes {
            break;
        }
        ensure!(held > before, "there is nothing to fill an image with");
    }
    // An inode for every 4 KiB: small files are many.
    succeed(
        command("mkfs.ext4")
            .args(["-q", "-F", "-i", "4096", "-L", "root", "-d"])
            .arg(&tree)
            .arg(image)
            .arg(format!("{}k", size >> 10)),
        LIMIT,
    )?;
    std::fs::remove_dir_all(&tree)?;
    Ok(())
}

/// Bytes that a file or a folder takes on the disk, and files in it.
fn size_of(path: &Path) -> (u64, u64) {
    let Ok(about) = std::fs::symlink_metadata(path) else { return (0, 0) };
    let mut sum = (about.blocks() * 512, 1);
    if about.is_dir() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            let (len, files) = size_of(&entry.path());
            sum = (sum.0 + len, sum.1 + files);
        }
    }
    sum
}

/// Copies files and folders into `to` with all that files have. What goes away meanwhile is not needed.
fn copy(from: &[PathBuf], to: &Path) -> Result<()> {
    command("cp").arg("-a").args(from).arg(to).stderr(Stdio::null()).status().context("cp").map(drop)
}

/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Checks the file system of an image or device file; a failure unless it is clean.
pub fn check(image: &Path) -> Result<()> {
    succeed(command("e2fsck").args(["-f", "-n"]).arg(image), LIMIT).map(drop)
}
