//! A file or block device, read and written at once: for tools and for formatting.
use crate::disk::{Bufs, Completion, Disk, DiskError, OpId};
use sarsen_buffer::Buf;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// See the module. Every operation is done when it is submitted.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    size: u64,
    done: Vec<Completion>,
}

impl FileDisk {
    /// A file, or a block device, of `size` bytes.
    pub fn new(file: File, size: u64) -> FileDisk {
        FileDisk { file, size, done: Vec::new() }
    }

    fn end(&mut self, id: OpId, buf: Option<Buf>, result: std::io::Result<()>) {
        let result = result.map_err(|e| DiskError::Io(e.raw_os_error().unwrap_or(libc::EIO)));
        self.done.push(Completion { id, buf, result });
    }
}

impl Disk for FileDisk {
    fn size(&self) -> u64 {
        self.size
    }
    fn read(&mut self, id: OpId, offset: u64, mut buf: Buf) {
        let result = self.file.read_exact_at(buf.get_mut(), offset);
        self.end(id, Some(buf), result);
    }
    fn write(&mut self, id: OpId, offset: u64, bufs: Bufs) {
        let mut at = offset;
        let mut result = Ok(());
        for buf in &bufs {
            result = result.and_then(|()| self.file.write_all_at(buf, at));
            at += buf.len() as u64;
        }
        self.end(id, None, result);
    }
    fn flush(&mut self, id: OpId) {
        let result = self.file.sync_data();
        self.end(id, None, result);
    }
    fn trim(&mut self, id: OpId, _offset: u64, _len: u64) {
        self.end(id, None, Ok(()));
    }
    fn writes_are_durable(&self) -> bool {
        false
    }
    fn poll(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.done);
    }
    fn wait(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.done);
    }
}
