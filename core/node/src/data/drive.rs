//! Opening a drive: its superblock, a fresh open id, its slices' stores and threads.
use super::start::SliceHandle;
use super::{DataPort, Reports};
use crate::seam::{PeerAddress, ToSlice};
use sarsen_slice::LeaseMode;
use sarsen_types::{ClusterId, DriveId, DriveIdentity, OpenId, View};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What a drive is opened with.
#[derive(Clone, Debug)]
pub struct DriveConfig {
    /// The file or block device.
    pub path: PathBuf,
    /// How its slices lease reads (R4).
    pub lease: LeaseMode,
    /// Bytes of memory for its stores, split over its slices (S4).
    pub memory: usize,
}

/// Why a drive is not open.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The store says why.
    #[error("{path}: {why}")]
    Open {
        /// The drive.
        path: PathBuf,
        /// What it is and what to do.
        why: String,
    },
}

/// What metadata want to know of a drive at its registration (R1).
#[derive(Clone, Debug)]
pub struct DriveFacts {
    /// The drive.
    pub identity: DriveIdentity,
    /// The cluster it was formatted for or has joined.
    pub cluster: Option<ClusterId>,
    /// This opening.
    pub open: OpenId,
    /// The ids its superblock holds: the one last acknowledged as registered and those of opens since (R1).
    pub opens: Vec<OpenId>,
    /// Slices.
    pub slices: u8,
    /// Blocks of data of all slices.
    pub total_blocks: u64,
    /// Of them used.
    pub used_blocks: u64,
    /// Whether it opened with a broken middle (S8): registers as stale.
    pub is_broken: bool,
    /// What it is made of, as far as the system says: `nvme`, `ssd` or `hdd`; a file is what its file system is on.
    pub class: &'static str,
}

/// An open drive.
pub struct DriveHandle {
    facts: DriveFacts,
    slices: Vec<SliceHandle>,
}

/// Opens a drive and starts its slices' threads, which answer nothing before [`DriveHandle::registered`] (R1).
pub fn open_drive(
    config: DriveConfig,
    port: &Arc<DataPort>,
    reports: Reports,
) -> Result<DriveHandle, DriveError> {
    let _ = (port, reports);
    Err(DriveError::Open { path: config.path, why: "this build cannot open drives yet".into() })
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
    /// Metadata accepted the registration (R1): written to the superblock, told to every slice, served by the port.
    pub fn registered(
        &self,
        id: DriveId,
        cluster: ClusterId,
        view: &[Arc<View>],
        is_stale: bool,
    ) -> Result<(), DriveError> {
        let _ = (id, cluster, view, is_stale);
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
    /// Hand over, then end the threads: each reports `Stopped`.
    pub fn stop(&self) {
        for slice in &self.slices {
            slice.send(ToSlice::Stop);
        }
    }
    /// Waits for the threads.
    pub fn join(self) {}
}
