//! `sarsen drive`: formats a drive, reads one that will not open, lists those of the cluster.
use crate::cluster::{Cluster, Where};
use crate::failure::{During, Failure, Outcome};
use crate::forget::{Forget, names};
use crate::output::{Output, line_out};
use crate::size::Size;
use clap::{Args, Subcommand};
use sarsen_store::drive::{FormatParams, format, read};
use sarsen_store::file::FileDisk;
use sarsen_types::DriveIdentity;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

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
            Verb::Format { path, size, slices, force } => {
                refuse_foreign(&path, force)?;
                format_file(&path, size, slices)?;
                line_out(&format!("formatted {}", path.display()))
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
    let accepted = cluster.api().accept_damage(id).await?;
    output.show(&accepted, |a| format!("served as they are: groups {}", names(&a.groups)))
}

/// Opens for ourselves alone: a drive that a node serves is not formatted under it.
fn open(path: &Path, size: Option<Size>, is_written: bool) -> Outcome<FileDisk> {
    use std::os::unix::fs::OpenOptionsExt;
    let what = format_args!("open {}", path.display()).to_string();
    let is_device = std::fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device());
    let mut options = OpenOptions::new();
    options.read(true).write(is_written).create(is_written && size.is_some() && !is_device);
    if is_device && is_written {
        options.custom_flags(libc::O_EXCL);
    }
    let file: File = options.open(path).during(&what).map_err(|why| match size {
        None if is_written => why.hint("name a size with --size to make a file"),
        _ => why,
    })?;
    if is_written {
        file.try_lock().map_err(|_| {
            Failure::new(format!("{} is in use", path.display())).hint("stop the node that serves it")
        })?;
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
    Ok(FileDisk::new(file, bytes))
}

/// A drive with somebody's data is not formatted by a slip of the finger.
fn refuse_foreign(path: &Path, force: bool) -> Outcome {
    if force || !path.exists() {
        return Ok(());
    }
    let file = File::open(path).during(format_args!("open {}", path.display()))?;
    let mut head = vec![0; 1 << 16];
    let n = file.read_at(&mut head, 0).during(format_args!("read {}", path.display()))?;
    match head[..n].iter().all(|b| *b == 0) {
        true => Ok(()),
        false => Err(Failure::new(format!("{} holds data", path.display())).hint(
            "`sarsen drive inspect` says what they are; --force formats all the same, and they are lost",
        )),
    }
}

/// Formats a file or device.
pub fn format_file(path: &Path, size: Option<Size>, slices: Option<u8>) -> Outcome {
    let mut disk = open(path, size, true)?;
    let mut random = [0; 16];
    File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut random)).during("get random bytes")?;
    let params =
        FormatParams { identity: DriveIdentity(u128::from_le_bytes(random)), slices: slices.unwrap_or(1) };
    format(&mut disk, params).during(format_args!("format {}", path.display()))?;
    Ok(())
}

fn inspect(path: &Path, output: Output) -> Outcome {
    let mut disk = open(path, None, false)?;
    let found = sarsen_store::inspect::inspect(&mut disk);
    output.show(&found, ToString::to_string)?;
    // what does not open says why, and the command fails
    read(&mut disk).map(drop).map_err(|why| Failure::new(format!("{}: {why}", path.display())))
}
