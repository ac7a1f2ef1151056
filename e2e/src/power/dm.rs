//! A device of dm-log-writes, made and marked by `ioctl`s of device mapper (`include/uapi/linux/dm-ioctl.h`).
use anyhow::{Context, Result};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

const CONTROL: &str = "/dev/mapper/control";
const NAME: &str = "power";
/// Bytes of `struct dm_ioctl`.
const HEAD: usize = 312;
/// Bytes of `struct dm_target_spec`.
const SPEC: usize = 40;
const CREATE: u64 = 3;
const REMOVE: u64 = 4;
/// Without the flag that means suspend: resume.
const SUSPEND: u64 = 6;
const TABLE_LOAD: u64 = 9;
const TARGET_MSG: u64 = 14;

/// The device.
#[derive(Debug)]
pub struct LogWrites {
    control: File,
}

impl LogWrites {
    /// Over `device`, of so many sectors; its log goes to `log`.
    pub fn make(device: &Path, sectors: u64, log: &Path) -> Result<LogWrites> {
        let control = File::options().read(true).write(true).open(CONTROL).context(CONTROL)?;
        let made = LogWrites { control };
        made.call(CREATE, 0, &[]).context("create")?;
        let mut table = vec![0; SPEC];
        table[8..16].copy_from_slice(&sectors.to_le_bytes());
        table[24..34].copy_from_slice(b"log-writes");
        table.extend(format!("{} {}\0", device.display(), log.display()).bytes());
        table.resize(table.len().next_multiple_of(8), 0);
        made.call(TABLE_LOAD, 1, &table).context("load the table")?;
        made.call(SUSPEND, 0, &[]).context("resume")?;
        Ok(made)
    }

    /// Where it is: the first, and only, device.
    pub fn path(&self) -> PathBuf {
        "/dev/dm-0".into()
    }

    /// Puts a word into the log: behind every write that was durable when this was called.
    pub fn mark(&self, word: &str) -> Result<()> {
        let mut message = vec![0; 8];
        message.extend(format!("mark {word}\0").bytes());
        self.call(TARGET_MSG, 0, &message).with_context(|| format!("mark {word}"))
    }

    /// Takes it away; the log is complete then.
    pub fn remove(self) -> Result<()> {
        self.call(REMOVE, 0, &[]).context("remove")
    }

    fn call(&self, number: u64, targets: u32, payload: &[u8]) -> Result<()> {
        let mut bytes = vec![0u8; (HEAD + payload.len()).max(1024)];
        let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        put(0, 4); // version 4.0.0
        put(12, (HEAD + payload.len()).max(1024) as u32);
        put(16, HEAD as u32);
        put(20, targets);
        bytes[48..48 + NAME.len()].copy_from_slice(NAME.as_bytes());
        bytes[HEAD..HEAD + payload.len()].copy_from_slice(payload);
        // _IOWR(0xfd, number, struct dm_ioctl)
        let request = 3 << 30 | (HEAD as u64) << 16 | 0xfd << 8 | number;
        // SAFETY: the kernel reads and writes as many bytes as the head says, and that is the length.
        let result = unsafe { libc::ioctl(self.control.as_raw_fd(), request, bytes.as_mut_ptr()) };
        match result {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error().into()),
        }
    }
}
