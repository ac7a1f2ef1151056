//! A root file system of this very machine as an ext4 image: real data, of real sizes and shapes.
use crate::program::{command, succeed};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// Folders of a root file system that tests may read, the ones that are in every Debian first.
const FOLDERS: [&str; 6] =
    ["/usr/bin", "/usr/sbin", "/usr/share", "/usr/include", "/usr/libexec", "/usr/lib"];

/// Fills `tree` with links to real files until they hold at least `bytes`, and makes an ext4 image of `size` from them.
pub fn make(image: &Path, scratch: &Path, bytes: u64, size: u64) -> Result<()> {
    let tree = scratch.join("tree");
    std::fs::create_dir_all(tree.join("etc"))?;
    succeed(
        command("cp").args(["-a", "/etc/os-release", "/etc/passwd", "/etc/group"]).arg(tree.join("etc")),
        LIMIT,
    )?;
    let mut held = 0;
    // A machine with few packages has the same files several times, under other names.
    for round in 0.. {
        let before = held;
        for folder in FOLDERS.map(Path::new) {
            let to = tree.join(format!("{round}")).join(folder.strip_prefix("/")?);
            std::fs::create_dir_all(&to)?;
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                if held >= bytes {
                    break;
                }
                held += copy(&entry.path(), &to)?;
            }
        }
        if held >= bytes {
            break;
        }
        ensure!(held > before, "there is nothing to fill an image with");
    }
    succeed(
        command("mkfs.ext4")
            .args(["-q", "-F", "-L", "root", "-d"])
            .arg(&tree)
            .arg(image)
            .arg(format!("{}k", size >> 10)),
        LIMIT,
    )?;
    std::fs::remove_dir_all(&tree)?;
    Ok(())
}

/// Copies a file or folder into `to` with all that files have; how many bytes that were.
fn copy(from: &Path, to: &Path) -> Result<u64> {
    // What goes away meanwhile is not needed.
    let _ = command("cp").arg("-a").arg(from).arg(to).stderr(Stdio::null()).status().context("cp")?;
    let copied = to.join(from.file_name().context("an entry has a name")?);
    let text = succeed(command("du").args(["-s", "--block-size=1"]).arg(copied), LIMIT).unwrap_or_default();
    Ok(text.split_whitespace().next().and_then(|w| w.parse().ok()).unwrap_or(0))
}

/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Checks the file system of an image or device file; a failure unless it is clean.
pub fn check(image: &Path) -> Result<()> {
    succeed(command("e2fsck").args(["-f", "-n"]).arg(image), LIMIT).map(drop)
}
