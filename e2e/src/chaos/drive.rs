//! A drive that misbehaves on command: a file served by FUSE over a plain one.
use anyhow::{Context, Result};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite,
    Request, WriteFlags,
};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

const FILE: INodeNo = INodeNo(2);
const NAME: &str = "drive";
/// Nothing is remembered by the kernel: what is asked comes here.
const FORGET: Duration = Duration::ZERO;

/// What a drive does with what it is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mood {
    /// It.
    Works,
    /// An error.
    Fails,
    /// Nothing, until its mood changes.
    Hangs,
    /// It was pulled out: what has it open meets errors, who looks for it finds nothing.
    Gone,
}

type Parked = Box<dyn FnOnce(&Shared) + Send>;

struct Shared {
    file: File,
    state: Mutex<(Mood, Vec<Parked>)>,
}

/// See the module.
pub struct MoodyDrive {
    shared: Arc<Shared>,
    path: PathBuf,
    _session: BackgroundSession,
}

impl MoodyDrive {
    /// Serves the file `of` below the empty directory `at`.
    pub fn mount(of: &Path, at: &Path) -> Result<MoodyDrive> {
        let file =
            File::options().read(true).write(true).open(of).with_context(|| of.display().to_string())?;
        let shared = Arc::new(Shared { file, state: Mutex::new((Mood::Works, Vec::new())) });
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("moody".to_owned()), MountOption::RW];
        let session = fuser::spawn_mount(Served(shared.clone()), at, &config)
            .with_context(|| format!("mount {}", at.display()))?;
        Ok(MoodyDrive { shared, path: at.join(NAME), _session: session })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes its mood; what hung is judged by the new one.
    pub fn set(&self, mood: Mood) {
        let parked = {
            let mut state = self.shared.state.lock().expect("no thread panics");
            state.0 = mood;
            std::mem::take(&mut state.1)
        };
        parked.into_iter().for_each(|work| self.shared.work(work));
    }
}

impl Shared {
    fn mood(&self) -> Mood {
        self.state.lock().expect("no thread panics").0
    }

    /// Does it now, or when the drive hangs no longer.
    fn work(&self, work: Parked) {
        let mut state = self.state.lock().expect("no thread panics");
        if state.0 == Mood::Hangs {
            state.1.push(work);
        } else {
            drop(state);
            work(self);
        }
    }

    /// The error that it meets instead, in a bad mood.
    fn allow(&self) -> Result<(), Errno> {
        match self.mood() {
            Mood::Works | Mood::Hangs => Ok(()),
            Mood::Fails => Err(Errno::EIO),
            Mood::Gone => Err(Errno::ENODEV),
        }
    }

    fn attr(&self) -> FileAttr {
        use std::os::unix::fs::MetadataExt;
        let (size, blocks) = self.file.metadata().map_or((0, 0), |m| (m.len(), m.blocks()));
        FileAttr { size, blocks, ..attr(FILE, FileType::RegularFile) }
    }
}

fn attr(ino: INodeNo, kind: FileType) -> FileAttr {
    FileAttr {
        ino,
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0o700,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

struct Served(Arc<Shared>);

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let is_it = parent == INodeNo::ROOT && name == NAME && self.0.mood() != Mood::Gone;
        match is_it {
            true => reply.entry(&FORGET, &self.0.attr(), fuser::Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match ino {
            FILE => reply.attr(&FORGET, &self.0.attr()),
            ino => reply.attr(&FORGET, &attr(ino, FileType::Directory)),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.0.allow() {
            Ok(()) => reply.opened(
                FileHandle(0),
                FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES,
            ),
            Err(why) => reply.error(why),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.0.work(Box::new(move |of| {
            let mut bytes = vec![0; size as usize];
            let read = of.allow().and_then(|()| Ok(of.file.read_at(&mut bytes, offset)?));
            match read {
                Ok(len) => reply.data(&bytes[..len]),
                Err(why) => reply.error(why),
            }
        }));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = data.to_vec();
        self.0.work(Box::new(move |of| {
            let written = of.allow().and_then(|()| Ok(of.file.write_all_at(&data, offset)?));
            match written {
                Ok(()) => reply.written(data.len() as u32),
                Err(why) => reply.error(why),
            }
        }));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.0.work(Box::new(move |of| match of.allow() {
            // the machine does not lose power
            Ok(()) => reply.ok(),
            Err(why) => reply.error(why),
        }));
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.0.work(Box::new(move |of| {
            // SAFETY: no pointers; the file is open.
            let done = || match unsafe {
                libc::fallocate64(of.file.as_raw_fd(), mode, offset as i64, length as i64)
            } {
                0 => Ok(()),
                _ => Err(Errno::from(std::io::Error::last_os_error())),
            };
            match of.allow().and_then(|()| done()) {
                Ok(()) => reply.ok(),
                Err(why) => reply.error(why),
            }
        }));
    }
}
