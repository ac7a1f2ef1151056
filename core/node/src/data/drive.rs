//! Opening a drive: its lock, its superblock with a fresh open id, its slices' stores and threads.
use super::format::{DriveFormat, SliceFacts};
use super::slice::SarsenFormat;
use super::start::{SliceHandle, start_slice};
use super::thread::ThreadConfig;
use super::{DataPort, Reports};
use crate::seam::{PeerAddress, ToSlice};
use rand::TryRngCore;
use rand::rngs::OsRng;
use sarsen_ring::{DriveFile, FileError, RingConfig};
use sarsen_slice::LeaseMode;
use sarsen_types::{ClusterId, DriveId, DriveIdentity, Duration, OpenId, SliceId, View};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Bytes of memory for the maps of one drive, when nothing else is said.
pub const MEMORY_DEFAULT: usize = 256 << 20;

/// What a drive is opened with.
#[derive(Clone, Debug)]
pub struct DriveConfig {
    /// The file or block device.
    pub path: PathBuf,
    /// How its slices lease reads (R4).
    pub lease: LeaseMode,
    /// Bytes of memory for its stores, split over its slices (S4).
    pub memory: usize,
    /// How the rings of its slices are set up.
    pub ring: RingConfig,
    /// Mark its threads as I/O flushers (L8); not in `sarsen dev`.
    pub marks_threads: bool,
    /// How long a planned stop waits for other copies to lead what is led here.
    pub stop_max: Duration,
}

impl DriveConfig {
    /// The drive at `path`, with the usual settings.
    pub fn new(path: PathBuf, lease: LeaseMode) -> DriveConfig {
        let (memory, ring) = (MEMORY_DEFAULT, RingConfig::default());
        DriveConfig { path, lease, memory, ring, marks_threads: true, stop_max: Duration::from_secs(5) }
    }
}

/// Why a drive is not open.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// Its file or device could not be opened.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is on it says why.
    #[error("{path}: {why}")]
    Open {
        /// The drive.
        path: PathBuf,
        /// What it is and what to do.
        why: String,
    },
    /// It belongs to another cluster (R42).
    #[error("{path} belongs to cluster {found}, this node to {ours}: use another drive, or format it anew")]
    OtherCluster {
        /// The drive.
        path: PathBuf,
        /// Whose it is.
        found: ClusterId,
        /// Ours.
        ours: ClusterId,
    },
}

/// What metadata want to know of a drive at its registration (R1).
#[derive(Clone, Debug)]
pub struct DriveFacts {
    /// Where it is.
    pub path: PathBuf,
    /// The drive.
    pub identity: DriveIdentity,
    /// The cluster that it was registered in; `None` when it never was.
    pub cluster: Option<ClusterId>,
    /// This opening.
    pub open: OpenId,
    /// The ids its superblock held before this opening: the one last acknowledged as registered and those of opens since.
    /// The drive is current if what metadata hold is one of them (R1).
    pub opens: Vec<OpenId>,
    /// Slices.
    pub slices: u8,
    /// Bytes of the file or device.
    pub size: u64,
    /// Blocks of data that its slices can hold.
    pub total_blocks: u64,
    /// Of them used.
    pub used_blocks: u64,
    /// Whether a slice opened with a broken middle (S8): the drive registers as stale.
    pub is_broken: bool,
    /// What it is made of, as far as the system says: `nvme`, `ssd` or `hdd`; of a file what its file system is on.
    pub class: &'static str,
}

/// An open drive. Dropping it stops its threads without handing over.
pub struct DriveHandle {
    facts: DriveFacts,
    file: Arc<DriveFile>,
    format: Arc<dyn Registers>,
    slices: Vec<SliceHandle>,
    threads: Vec<JoinHandle<()>>,
    port: Arc<DataPort>,
    name: Mutex<Name>,
}

/// What an opened drive is known as.
#[derive(Default)]
struct Name {
    /// The number metadata gave it, once it is registered.
    id: Option<DriveId>,
    /// It is served no more.
    is_over: bool,
}

/// The part of a format that is needed after the drive was opened.
trait Registers: Send + Sync {
    fn registered(&self, file: &Arc<DriveFile>, cluster: ClusterId, open: OpenId) -> Result<(), String>;
}
impl<F: DriveFormat> Registers for F {
    fn registered(&self, file: &Arc<DriveFile>, cluster: ClusterId, open: OpenId) -> Result<(), String> {
        DriveFormat::registered(self, file, cluster, open)
    }
}

/// Opens a drive and starts its slices' threads, which answer nothing before [`DriveHandle::registered`] (R1).
pub fn open_drive(
    config: DriveConfig,
    port: &Arc<DataPort>,
    reports: Reports,
) -> Result<DriveHandle, DriveError> {
    open_drive_of(SarsenFormat::default(), config, port, reports)
}

/// As [`open_drive`], of any format. The open id is durable before a store is opened (S6).
pub fn open_drive_of<F: DriveFormat>(
    format: F,
    config: DriveConfig,
    port: &Arc<DataPort>,
    reports: Reports,
) -> Result<DriveHandle, DriveError> {
    let error = |why: String| DriveError::Open { path: config.path.clone(), why };
    let file = Arc::new(DriveFile::open(&config.path)?);
    if !file.is_direct() && !file.is_inline() {
        tracing::warn!(drive = %config.path.display(), "its file system refuses O_DIRECT: the drive goes through the page cache");
    }
    let durable = if file.is_write_through() {
        "its writes are durable when they end"
    } else {
        "each write is flushed"
    };
    tracing::info!(drive = %config.path.display(), device = file.is_device(), "{durable}");
    let format = Arc::new(format);
    let mut open = [0; 16];
    OsRng.try_fill_bytes(&mut open).map_err(|why| error(format!("the system has no randomness: {why}")))?;
    let open = OpenId(u128::from_le_bytes(open));
    let superblock = format.open(&file, open, port.identity().cluster).map_err(error)?;
    let ours = port.identity().cluster;
    if let Some(found) = superblock.cluster.filter(|&found| found != ours) {
        return Err(DriveError::OtherCluster { path: config.path, found, ours });
    }
    let count = usize::from(superblock.slices.max(1));
    let memory = config.memory / count;
    port.budget().add(count);
    let mut slices = Vec::new();
    let mut threads = Vec::new();
    let mut all = SliceFacts::default();
    let started = sarsen_ring::now();
    for index in 0..superblock.slices {
        let thread_config = ThreadConfig {
            identity: port.identity().clone(),
            reports: reports.clone(),
            lease: config.lease,
            started,
            marks_thread: config.marks_threads,
            stop_max: config.stop_max,
            budget: port.budget().clone(),
        };
        let (format, file) = (format.clone(), file.clone());
        let open_store = move |ring: &mut sarsen_ring::Ring, pool: &sarsen_buffer::Pool| {
            format.open_slice(index, open, &file, ring, memory, pool)
        };
        let name = format!("slice-{index}");
        let started = start_slice(name, config.ring.clone(), thread_config, open_store).map_err(error);
        match started {
            Ok(started) => {
                all.total_blocks += started.facts.total_blocks;
                all.used_blocks += started.facts.used_blocks;
                all.is_broken |= started.facts.is_broken;
                slices.push(started.handle);
                threads.push(started.thread);
            }
            Err(why) => {
                slices.iter().for_each(|slice: &SliceHandle| slice.send(ToSlice::Stop));
                threads.into_iter().for_each(|thread| drop(thread.join()));
                return Err(why);
            }
        }
    }
    let facts = DriveFacts {
        path: config.path,
        identity: superblock.identity,
        cluster: superblock.cluster,
        open,
        opens: superblock.opens.clone(),
        slices: slices.len() as u8,
        size: file.size(),
        total_blocks: all.total_blocks,
        used_blocks: all.used_blocks,
        is_broken: all.is_broken,
        class: file.class(),
    };
    let (name, port) = (Mutex::default(), port.clone());
    Ok(DriveHandle { facts, file, format, slices, threads, port, name })
}

impl DriveHandle {
    /// What it is.
    pub fn facts(&self) -> &DriveFacts {
        &self.facts
    }
    /// Its slices, by index.
    pub fn slices(&self) -> &[SliceHandle] {
        &self.slices
    }
    /// The number metadata gave it, once it is registered.
    pub fn id(&self) -> Option<DriveId> {
        self.name.lock().unwrap_or_else(PoisonError::into_inner).id
    }
    /// Metadata accepted the registration (R1): written to the superblock, told to every slice with its view (by index),
    /// and served by the port. Blocks for the time of a durable write. Once in a drive's opening.
    pub fn registered(&self, id: DriveId, views: &[Arc<View>], is_stale: bool) -> Result<(), DriveError> {
        assert_eq!(views.len(), self.slices.len(), "a view for each slice");
        let error = |why| DriveError::Open { path: self.facts.path.clone(), why };
        // whoever gives the drive up while this takes its time is not held up by it (found in review)
        self.format.registered(&self.file, self.port.identity().cluster, self.facts.open).map_err(error)?;
        let mut name = self.name.lock().unwrap_or_else(PoisonError::into_inner);
        if name.is_over {
            return Err(error("it was given up meanwhile".into()));
        }
        name.id = Some(id);
        for (index, (slice, view)) in self.slices.iter().zip(views).enumerate() {
            let id = SliceId::new(id.0, index as u8);
            slice.send(ToSlice::Registered { id, open: self.facts.open, view: view.clone(), is_stale });
            self.port.serve(id, slice.clone());
        }
        Ok(())
    }
    /// The metadata moved: one view a slice, by index.
    pub fn learned(&self, views: &[Arc<View>]) {
        for (slice, view) in self.slices.iter().zip(views) {
            slice.send(ToSlice::View(view.clone()));
        }
    }
    /// Where drives are reached.
    pub fn peers(&self, peers: &Arc<BTreeMap<DriveId, PeerAddress>>) {
        for slice in &self.slices {
            slice.send(ToSlice::Peers(peers.clone()));
        }
    }
    /// Hand over, then end the threads: each reports `Stopped`. New connections are refused from now on.
    pub fn stop(&self) {
        self.withdraw();
        for slice in &self.slices {
            slice.send(ToSlice::Stop);
        }
    }
    /// The drive is somebody else's now: its threads end at once and write nothing more.
    pub fn abandon(&self) {
        self.withdraw();
        for slice in &self.slices {
            slice.send(ToSlice::Abandon);
        }
    }
    /// Waits for the threads, which were told to stop or whose drive failed.
    pub fn join(mut self) {
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
    fn withdraw(&self) {
        let mut name = self.name.lock().unwrap_or_else(PoisonError::into_inner);
        name.is_over = true;
        let Some(id) = name.id else { return };
        for index in 0..self.slices.len() {
            self.port.withdraw(SliceId::new(id.0, index as u8));
        }
    }
}

impl Drop for DriveHandle {
    fn drop(&mut self) {
        self.stop();
    }
}
