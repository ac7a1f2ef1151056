//! `sarsen drive`: formats a drive, reads one that will not open, lists those of the cluster.
use crate::cluster::{Cluster, Where};
use crate::failure::{During, Failure, Outcome};
use crate::forget::{Forget, names};
use crate::output::Output;
use crate::size::Size;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use sarsen_store::drive::{FormatParams, Superblock, format, read};
use sarsen_store::file::FileDisk;
use sarsen_types::{BLOCK_SIZE, DriveIdentity};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a file may still be locked.
const LOCK_WAIT: Duration = Duration::from_secs(3);
/// Bytes at both ends of a drive that are zero where nobody uses it.
const LOOKED_AT: usize = 1 << 20;
/// Bytes of zeroes written at once.
const ZEROES: usize = 1 << 20;

/// Drives
#[derive(Debug, Args)]
pub struct Drive {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Format a file or a block device; what is on it is lost
    Format {
        /// The file, made if it is not there, or the device
        path: PathBuf,
        /// Size of a file that is made or grown
        #[arg(long)]
        size: Option<Size>,
        /// Slices: stores of their own, each with a thread [default: 1]
        #[arg(long)]
        slices: Option<u8>,
        /// Write a file whole now, so that no write has to make room for itself later
        #[arg(long, conflicts_with = "sparse")]
        prewrite: bool,
        /// Leave a file's holes: its file system may then be full before the drive is
        #[arg(long)]
        sparse: bool,
        /// Format although it holds something else
        #[arg(long)]
        force: bool,
    },
    /// Say what a drive is, also when it does not open
    Inspect {
        /// The file or device
        path: PathBuf,
    },
    /// The drives of the cluster
    List,
    /// Serve the groups of which a drive has the only copy in sync, though it may lack what it acknowledged
    AcceptDamage {
        /// The drive's number
        id: u32,
        /// Without it the groups are only named
        #[arg(long)]
        yes: bool,
    },
    Forget(Forget),
}

impl Drive {
    /// Does it.
    pub async fn run(self, place: &Where, output: Output) -> Outcome {
        match self.verb {
            Verb::Format { path, size, slices, prewrite, sparse, force } => {
                refuse_foreign(&path, force)?;
                let room = match (prewrite, sparse) {
                    (true, _) => Room::Written,
                    (_, true) => Room::Sparse,
                    _ => Room::Allocated,
                };
                let made = format_file(&path, size, slices, room)?;
                let facts = serde_json::json!({
                    "path": path, "identity": made.identity.to_string(), "size": made.size, "slices": made.slices.len(),
                });
                output.show(&facts, |_| format!("formatted {}", path.display()))
            }
            Verb::Inspect { path } => inspect(&path, output),
            Verb::AcceptDamage { id, yes } => accept_damage(&place.cluster()?, id, yes, output).await,
            Verb::Forget(forget) => forget.run(&place.cluster()?, output).await,
            Verb::List => {
                let drives = place.cluster()?.drives().await?;
                let head = ["id", "node", "class", "state", "size", "used", "path"];
                output.list(&drives, &head, |d| {
                    let state = match (d.is_up, d.is_stale) {
                        _ if d.is_given_up => format!("given up, waits for {}", d.waits_for.join(", ")),
                        (true, false) => "up".to_owned(),
                        (true, true) => "up, stale".to_owned(),
                        _ => format!("down: {}", d.failure.as_deref().unwrap_or("its node does not answer")),
                    };
                    let (size, used) = (Size(d.total_bytes).to_string(), Size(d.used_bytes).to_string());
                    vec![
                        d.id.to_string(),
                        d.node.to_string(),
                        d.class.clone(),
                        state,
                        size,
                        used,
                        d.path.clone(),
                    ]
                })
            }
        }
    }
}

/// R28: the operator's word that what a drive lacks is lost.
async fn accept_damage(cluster: &Cluster, id: u32, yes: bool, output: Output) -> Outcome {
    let drives = cluster.drives().await?;
    let drive = drives.iter().find(|d| d.id == id);
    let groups = drive.map_or(&[][..], |d| &d.damaged_groups);
    if !yes && !groups.is_empty() {
        let what =
            format!("drive {id} may lack the last writes, discards among them, of groups {}", names(groups));
        return Err(
            Failure::new(what).hint("if no other copy can be brought back, --yes serves them as they are")
        );
    }
    let accepted = cluster.api().accept_damage(id, groups).await?;
    output.show(&accepted, |a| format!("served as they are: groups {}", names(&a.groups)))
}

/// Opens for ourselves alone: a drive that a node serves is not formatted under it.
fn open(path: &Path, size: Option<Size>, is_written: bool) -> Outcome<(File, FileDisk)> {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    let what = format_args!("open {}", path.display()).to_string();
    let known = std::fs::metadata(path).ok();
    let is_device = known.as_ref().is_some_and(|m| m.file_type().is_block_device());
    if let Some(device) = known.filter(|_| is_device && is_written) {
        sarsen_ring::refuse_misaligned(path, device.rdev()).during(&what)?;
    }
    let mut options = OpenOptions::new();
    options.read(true).write(is_written).create(is_written && size.is_some() && !is_device);
    if is_device && is_written {
        options.custom_flags(libc::O_EXCL);
    }
    // what a process that just ended had open the kernel lets go a moment later
    let until = Instant::now() + LOCK_WAIT;
    let wait = || {
        if Instant::now() >= until {
            let hint = "stop the node that serves it; for a device: unmount it";
            return Err(Failure::new(format!("{} is in use", path.display())).hint(hint));
        }
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    };
    let file: File = loop {
        match options.open(path) {
            Err(why) if why.raw_os_error() == Some(libc::EBUSY) => wait()?,
            Err(why) if why.kind() == ErrorKind::NotFound && is_written => {
                return Err(why).during(&what).map_err(|f| f.hint("name a size with --size to make a file"));
            }
            opened => break opened.during(&what)?,
        }
    };
    while is_written && file.try_lock().is_err() {
        wait()?;
    }
    if let Some(size) = size.filter(|_| !is_device)
        && file.metadata().during(&what)?.len() < size.0
    {
        file.set_len(size.0).during(format_args!("make {} {size} long", path.display()))?;
    }
    let bytes = match is_device {
        false => file.metadata().during(&what)?.len(),
        true => {
            use std::io::Seek;
            (&file).seek(std::io::SeekFrom::End(0)).during(&what)?
        }
    };
    // the lock belongs to what was opened, which both have
    let disk = FileDisk::new(file.try_clone().during(&what)?, bytes);
    Ok((file, disk))
}

/// A drive with somebody's data is not formatted by a slip of the finger.
fn refuse_foreign(path: &Path, force: bool) -> Outcome {
    if force || !path.exists() {
        return Ok(());
    }
    use std::io::{Seek, SeekFrom};
    let what = format_args!("read {}", path.display()).to_string();
    let mut file = File::open(path).during(format_args!("open {}", path.display()))?;
    let size = file.seek(SeekFrom::End(0)).during(&what)?;
    // some leave their first 64 KiB to boot loaders, some mark only their end
    let mut is_blank = true;
    for at in [0, size.saturating_sub(LOOKED_AT as u64)] {
        let mut part = vec![0; LOOKED_AT];
        let n = file.read_at(&mut part, at).during(&what)?;
        is_blank &= part[..n].iter().all(|b| *b == 0);
    }
    match is_blank {
        true => Ok(()),
        false => Err(Failure::new(format!("{} holds data", path.display())).hint(
            "`sarsen drive inspect` says what they are; --force formats all the same, and they are lost",
        )),
    }
}

/// What of a file is given room on its file system when it is formatted (S5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// Nothing but what is written.
    Sparse,
    /// All of it; the journals are written.
    Allocated,
    /// All of it is written.
    Written,
}

/// Formats a file or device.
pub fn format_file(path: &Path, size: Option<Size>, slices: Option<u8>, room: Room) -> Outcome<Superblock> {
    // ours alone until all is written: a node that opened it in between would have its journal zeroed (found in review)
    let (file, mut disk) = open(path, size, true)?;
    let mut random = [0; 16];
    File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut random)).during("get random bytes")?;
    let params =
        FormatParams { identity: DriveIdentity(u128::from_le_bytes(random)), slices: slices.unwrap_or(1) };
    let what = format_args!("format {}", path.display()).to_string();
    let made = format(&mut disk, params).during(&what)?;
    make_room(&file, &made, room).during(&what)?;
    Ok(made)
}

/// Gives a file the room it will take; the journals of a device are written too, so that the first round of each is as fast as
/// the second.
fn make_room(file: &File, made: &Superblock, room: Room) -> std::io::Result<()> {
    if room == Room::Sparse {
        return Ok(());
    }
    if file.metadata()?.is_file() {
        use std::os::fd::AsRawFd;
        // SAFETY: no pointers.
        let done = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, made.size as libc::off_t) };
        if done != 0 {
            let why = std::io::Error::last_os_error();
            // a file system without it has no space to promise
            if why.raw_os_error() != Some(libc::EOPNOTSUPP) {
                return Err(why);
            }
        }
    }
    let block = BLOCK_SIZE as u64;
    let parts: Vec<(u64, u64)> = made
        .slices
        .iter()
        .map(|s| match room {
            // all but the roots, which stand at both ends
            Room::Written => (s.offset + block, (s.blocks - 2) * block),
            _ => (s.offset + s.ring_first * block, s.ring_blocks * block),
        })
        .collect();
    let bar = ProgressBar::new(parts.iter().map(|p| p.1).sum());
    bar.set_style(ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {eta}").expect("a template"));
    let zeroes = vec![0; ZEROES];
    for (mut at, len) in parts {
        let end = at + len;
        while at < end {
            let now = ZEROES.min((end - at) as usize);
            file.write_all_at(&zeroes[..now], at)?;
            at += now as u64;
            bar.inc(now as u64);
        }
    }
    file.sync_all()?;
    bar.finish_and_clear();
    Ok(())
}

fn inspect(path: &Path, output: Output) -> Outcome {
    let (_, mut disk) = open(path, None, false)?;
    let found = sarsen_store::inspect::inspect(&mut disk);
    output.show(&found, ToString::to_string)?;
    // what does not open says why, and the command fails
    read(&mut disk).map(drop).map_err(|why| Failure::new(format!("{}: {why}", path.display())))
}
