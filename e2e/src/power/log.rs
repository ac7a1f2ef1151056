//! The log of dm-log-writes, read.
//!
//! The format is that of the kernel's `Documentation/admin-guide/device-mapper/log-writes.rst` and `drivers/md/dm-log-writes.c`:
//! a super block in the first sector, then entries, each a sector of its own with its data behind it. A write is logged once it is
//! durable: with FUA when it completes, else when a flush does that was sent after it completed. So the first entries, however
//! many, are what power leaves at some moment of a disk that loses all it may.
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a sector as entries count them, whatever the device's.
pub const SECTOR: u64 = 512;
/// `WRITE_LOG_MAGIC` and `WRITE_LOG_VERSION`.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;
/// Bytes of an entry before the text of a mark: sector, sectors, flags, length, each le64.
const HEAD: usize = 32;

/// What an entry says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// Bytes; where in the log they are.
    Write(u64),
    /// A flush without data.
    Flush,
    /// Sectors given back.
    Discard,
    /// A word from user space.
    Mark(String),
}

/// An entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The first sector of the device.
    pub sector: u64,
    /// How many.
    pub sectors: u64,
    /// Whether it was durable when it completed.
    pub fua: bool,
    /// What.
    pub what: What,
}

/// An open log.
#[derive(Debug)]
pub struct Log {
    file: File,
    /// In the order in which they became durable.
    pub entries: Vec<Entry>,
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

impl Log {
    /// Reads the entries; data stay in the file.
    pub fn open(path: &Path) -> Result<Log> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let mut first = [0; HEAD];
        file.read_exact_at(&mut first, 0)?;
        ensure!(number(&first, 0) == MAGIC && number(&first, 8) == VERSION, "not a log of dm-log-writes");
        let count = number(&first, 16);
        let unit = u64::from(u32::from_le_bytes(first[24..28].try_into().expect("4 bytes")));
        ensure!(unit >= SECTOR && unit.is_power_of_two() && unit <= 4096, "sectors of {unit} bytes");
        let mut entries = Vec::new();
        let mut at = unit;
        let mut head = vec![0; unit as usize];
        for number_of in 0..count {
            file.read_exact_at(&mut head, at).with_context(|| format!("entry {number_of} of {count}"))?;
            at += unit;
            let (sector, sectors, flags) = (number(&head, 0), number(&head, 8), number(&head, 16));
            let len = number(&head, 24) as usize;
            let what = match flags {
                f if f & MARK != 0 => {
                    let text = head.get(HEAD..HEAD + len).context("a mark that does not fit its sector")?;
                    What::Mark(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
                }
                f if f & DISCARD != 0 => What::Discard,
                f if f & FLUSH != 0 && sectors == 0 => What::Flush,
                _ => {
                    let data = at;
                    at += (sectors * SECTOR).next_multiple_of(unit);
                    What::Write(data)
                }
            };
            entries.push(Entry { sector, sectors, fua: flags & FUA != 0, what });
        }
        Ok(Log { file, entries })
    }

    /// The bytes of a write; none of anything else.
    pub fn data(&self, entry: &Entry) -> Result<Vec<u8>> {
        let What::Write(at) = entry.what else { return Ok(Vec::new()) };
        let mut bytes = vec![0; (entry.sectors * SECTOR) as usize];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(words: [u64; 4], tail: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        bytes.extend(tail);
        bytes.resize(512, 0);
        bytes
    }

    #[test]
    fn every_kind_of_entry_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut bytes = sector([MAGIC, VERSION, 5, 512], &[]);
        bytes.extend(sector([16, 2, FUA, 0], &[]));
        bytes.extend([7; 1024]);
        bytes.extend(sector([0, 0, MARK, 5], b"a:1:2"));
        bytes.extend(sector([0, 0, FLUSH, 0], &[]));
        bytes.extend(sector([64, 8, DISCARD, 0], &[]));
        bytes.extend(sector([8, 1, 0, 0], &[]));
        bytes.extend([9; 512]);
        std::fs::write(&path, bytes).unwrap();
        let log = Log::open(&path).unwrap();
        let kinds: Vec<&What> = log.entries.iter().map(|e| &e.what).collect();
        assert_eq!(kinds[1..4], [&What::Mark("a:1:2".into()), &What::Flush, &What::Discard]);
        assert_eq!(log.data(&log.entries[0]).unwrap(), [7; 1024]);
        assert_eq!(log.data(&log.entries[4]).unwrap(), [9; 512]);
        assert_eq!((log.entries[0].sector, log.entries[0].fua, log.entries[4].fua), (16, true, false));
    }
}
