//! A node's directory: its lock, who it is, its raft database, its unix socket.
use anyhow::{Context, bail};
use sarsen_types::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Who a node is, once it is one of a cluster.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Card {
    /// 128 random bits, made before it joined: joining again gives the same number.
    pub identity: u128,
    /// What it is in the cluster; `None` before it joined.
    pub place: Option<Place>,
}

/// A node's place in its cluster.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Place {
    /// Its number.
    pub node: NodeId,
    /// The cluster.
    pub cluster: ClusterId,
    /// It began the cluster.
    pub is_founder: bool,
}

/// The directory, locked for this process.
pub struct Directory {
    path: PathBuf,
    _lock: File,
    /// What its card says.
    pub card: Card,
}

impl Directory {
    /// Opens the directory, or makes it, for this process alone.
    pub fn open(path: &Path) -> anyhow::Result<Directory> {
        fs::create_dir_all(path).with_context(|| format!("make the directory {}", path.display()))?;
        let lock = File::create(path.join("lock")).with_context(|| format!("write to {}", path.display()))?;
        if lock.try_lock().is_err() {
            bail!("another process runs a node in {}: a directory is one node's", path.display());
        }
        let file = path.join("node.json");
        let card = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} does not say who this node is", file.display()))?,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
                Card { identity: super::desk::random(), place: None }
            }
            Err(why) => return Err(why).with_context(|| format!("read {}", file.display())),
        };
        let directory = Directory { path: path.to_owned(), _lock: lock, card };
        directory.save()?;
        Ok(directory)
    }
    /// Remembers the node's place, durably.
    pub fn settle(&mut self, place: Place) -> anyhow::Result<()> {
        self.card.place = Some(place);
        self.save()
    }
    fn save(&self) -> anyhow::Result<()> {
        let (file, fresh) = (self.path.join("node.json"), self.path.join("node.json.new"));
        let write = || -> std::io::Result<()> {
            let mut out = File::create(&fresh)?;
            out.write_all(&serde_json::to_vec_pretty(&self.card)?)?;
            out.sync_all()?;
            fs::rename(&fresh, &file)?;
            File::open(&self.path)?.sync_all()
        };
        write().with_context(|| format!("write {}", file.display()))
    }
    /// The raft database.
    pub fn raft(&self) -> PathBuf {
        self.path.join("raft.redb")
    }
    /// The data port's unix socket.
    pub fn socket(&self) -> PathBuf {
        self.path.join("data.sock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_one_processs_and_remembers_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Directory::open(dir.path()).unwrap();
        assert!(Directory::open(dir.path()).is_err());
        let place = Place { node: NodeId(4), cluster: ClusterId(9), is_founder: false };
        first.settle(place).unwrap();
        let identity = first.card.identity;
        drop(first);
        let again = Directory::open(dir.path()).unwrap();
        assert_eq!((again.card.identity, again.card.place.unwrap().node), (identity, NodeId(4)));
    }
}
