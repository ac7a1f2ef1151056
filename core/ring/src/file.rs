//! Opening what a drive is on: how it is written to, and who else must not (S5, S9, L6).
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long another opener's lock is waited for: a process that was killed leaves its last requests in flight (S9).
const LOCK_WAIT: Duration = Duration::from_secs(10);

const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// Why a drive's file or device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("{path}: {why}")]
    Io {
        /// The file or device.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// Another process has it.
    #[error("{0} is in use by another process: stop it first (for a device: unmount it)")]
    InUse(PathBuf),
    /// Neither a file nor a block device.
    #[error("{0} is neither a file nor a block device")]
    Kind(PathBuf),
    /// Where its blocks begin cannot be aligned.
    #[error("{0} does not begin on a physical block: make the partition start at a multiple of 1 MiB")]
    Misaligned(PathBuf),
}

/// An open drive: shared by its slices, each of which makes a [`crate::RingDisk`] of its part.
#[derive(Debug)]
pub struct DriveFile {
    file: File,
    path: PathBuf,
    size: u64,
    is_device: bool,
    is_direct: bool,
    is_inline: bool,
    write_through: bool,
    can_trim: bool,
}

impl DriveFile {
    /// Opens a file (under a lock) or a block device (exclusively) for reading and writing.
    pub fn open(path: &Path) -> Result<DriveFile, FileError> {
        DriveFile::open_waiting(path, LOCK_WAIT)
    }

    /// As [`DriveFile::open`], waiting at most `wait` for another opener to let go.
    pub fn open_waiting(path: &Path, wait: Duration) -> Result<DriveFile, FileError> {
        let io_error = |why| FileError::Io { path: path.to_owned(), why };
        let kind = std::fs::metadata(path).map_err(io_error)?.file_type();
        let is_device = kind.is_block_device();
        if !is_device && !kind.is_file() {
            return Err(FileError::Kind(path.to_owned()));
        }
        let until = Instant::now() + wait;
        let (file, is_direct) = loop {
            match open_once(path, is_device) {
                Ok(opened) => break opened,
                Err(why) if why.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(why) if why.raw_os_error() == Some(libc::EBUSY) => {
                    return Err(FileError::InUse(path.to_owned()));
                }
                Err(why) => return Err(io_error(why)),
            }
        };
        if !is_device {
            // The lock belongs to the open file, which requests in flight keep alive: it is not free before they ended.
            // SAFETY: no pointers.
            while unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
                if Instant::now() >= until {
                    return Err(FileError::InUse(path.to_owned()));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let metadata = file.metadata().map_err(io_error)?;
        let size = if is_device { device_size(&file).map_err(io_error)? } else { metadata.len() };
        let queue = is_device.then(|| queue_folder(metadata.rdev())).flatten();
        let fact = |name: &str| queue.as_ref().and_then(|q| std::fs::read_to_string(q.join(name)).ok());
        if is_device {
            refuse_misaligned(path, metadata.rdev())?;
        }
        let is_inline = !is_device && is_memory_backed(&file);
        // the holes of a file that was allocated whole stay allocated: its space was promised
        let is_sparse = metadata.blocks() * 512 < size / 10 * 9;
        Ok(DriveFile {
            // what goes through the page cache is durable by a flag only
            write_through: is_direct
                && fact("write_cache").is_some_and(|cache| cache.trim() == "write through"),
            can_trim: is_device || is_inline || is_sparse,
            path: path.to_owned(),
            file,
            size,
            is_device,
            is_direct,
            is_inline,
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Bytes of it.
    pub fn size(&self) -> u64 {
        self.size
    }
    /// Whether it is a block device.
    pub fn is_device(&self) -> bool {
        self.is_device
    }
    /// Whether it is read and written past the page cache. Where not, say so to the operator (S5).
    pub fn is_direct(&self) -> bool {
        self.is_direct
    }
    /// Whether it lies in memory, and is written at once by the thread itself (L6).
    pub fn is_inline(&self) -> bool {
        self.is_inline
    }
    /// Whether a completed write is durable without a flag: a whole device without a volatile cache, or memory.
    pub fn is_write_through(&self) -> bool {
        self.write_through || self.is_inline
    }
    /// Whether unused space may be given back.
    pub fn can_trim(&self) -> bool {
        self.can_trim
    }
    /// What it is made of, as far as the system says: `nvme`, `ssd` or `hdd`; of a file what its file system is on.
    pub fn class(&self) -> &'static str {
        let Ok(metadata) = self.file.metadata() else { return "ssd" };
        let device = if self.is_device { metadata.rdev() } else { metadata.dev() };
        let Some(queue) = queue_folder(device) else { return "ssd" };
        let name = queue.parent().and_then(|p| p.file_name()).map(|n| n.to_string_lossy().into_owned());
        let rotates = std::fs::read_to_string(queue.join("rotational")).is_ok_and(|r| r.trim() == "1");
        match (rotates, name.is_some_and(|n| n.starts_with("nvme"))) {
            (true, _) => "hdd",
            (false, true) => "nvme",
            (false, false) => "ssd",
        }
    }
    pub(crate) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Opens past the page cache where that is allowed.
fn open_once(path: &Path, is_device: bool) -> io::Result<(File, bool)> {
    let exclusive = if is_device { libc::O_EXCL } else { 0 };
    let open = |flags| OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    match open(exclusive | libc::O_DIRECT) {
        Ok(file) => Ok((file, true)),
        Err(why) if why.raw_os_error() == Some(libc::EINVAL) => Ok((open(exclusive)?, false)),
        Err(why) => Err(why),
    }
}

fn device_size(file: &File) -> io::Result<u64> {
    use std::io::{Seek, SeekFrom};
    let mut file: &File = file;
    file.seek(SeekFrom::End(0))
}

fn is_memory_backed(file: &File) -> bool {
    // SAFETY: a zeroed statfs is a valid one to be written to.
    let mut facts: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and the pointer live.
    let result = unsafe { libc::fstatfs(file.as_raw_fd(), &mut facts) };
    result == 0 && [TMPFS_MAGIC, RAMFS_MAGIC, HUGETLBFS_MAGIC].contains(&(facts.f_type as i64 & 0xffff_ffff))
}

/// Refuses a device that begins off its physical blocks (S5): each write of a block would be two, and could tear.
pub fn refuse_misaligned(path: &Path, device: u64) -> Result<(), FileError> {
    let queue = queue_folder(device);
    let block = queue.and_then(|q| std::fs::read_to_string(q.join("physical_block_size")).ok());
    match is_misaligned(device, block) {
        true => Err(FileError::Misaligned(path.to_owned())),
        false => Ok(()),
    }
}

/// Whether a device, or partition, begins off its physical blocks (S5).
fn is_misaligned(device: u64, physical_block: Option<String>) -> bool {
    let Some(folder) = device_folder(device) else { return false };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let fact = |name: &str| std::fs::read_to_string(folder.join(name)).ok().and_then(|text| number(&text));
    let start = fact("start").unwrap_or(0) * 512;
    let block = physical_block.as_deref().and_then(number).unwrap_or(512).max(1);
    fact("alignment_offset").unwrap_or(0) != 0 || !start.is_multiple_of(block)
}

/// The folder where the system describes a device.
fn device_folder(device: u64) -> Option<PathBuf> {
    let folder = format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device));
    std::fs::canonicalize(folder).ok()
}

/// The folder where the system describes the queue of a device, or of the device a partition is on.
fn queue_folder(device: u64) -> Option<PathBuf> {
    let block = device_folder(device)?;
    [block.join("queue"), block.parent()?.join("queue")].into_iter().find(|q| q.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_opened_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("drive");
        File::create(&path).unwrap().set_len(1 << 20).unwrap();
        let first = DriveFile::open(&path).unwrap();
        assert_eq!((first.size(), first.can_trim()), (1 << 20, true));
        assert!(matches!(DriveFile::open_waiting(&path, Duration::ZERO), Err(FileError::InUse(_))));
        drop(first);
        DriveFile::open(&path).unwrap();
    }

    #[test]
    fn what_is_no_file_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(DriveFile::open(dir.path()), Err(FileError::Kind(_))));
        let missing = DriveFile::open(&dir.path().join("missing")).unwrap_err();
        assert!(missing.to_string().contains("missing"), "{missing}");
    }
}
