//! A node's directory: its lock, who it is, its raft database, its unix socket.
use super::log::Log;
use anyhow::{Context, anyhow, bail};
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
    /// Its raft has begun: the database is in the directory since, or something is wrong.
    #[serde(default)]
    pub has_raft: bool,
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
                Card { identity: super::desk::random(), place: None, has_raft: false }
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
    /// Opens raft's database; makes it the first time, and never again. A node without the one it had would vote anew in terms in
    /// which it has voted, and deny what it acknowledged; the first would begin the cluster a second time, empty (found in review).
    pub fn open_raft(&mut self) -> anyhow::Result<Log> {
        let path = self.path.join("raft.redb");
        let is_missing = match fs::metadata(&path) {
            Ok(found) => found.len() == 0,
            Err(why) => why.kind() == std::io::ErrorKind::NotFound,
        };
        if self.card.has_raft && is_missing {
            bail!(
                "{} is missing or empty, and it held this node's part of the cluster's metadata: put it back if it was moved \
                 (an older copy of it will not do), or start the node as a new one, with an empty --dir, an --api address that no \
                 node had, and --join; its drives keep their data",
                path.display()
            );
        }
        let log = Log::open(&path).map_err(|why| anyhow!("the raft database {}: {why}", path.display()))?;
        if !self.card.has_raft {
            // the file is there for good before it is noted that it is
            let synced = File::open(&self.path).and_then(|d| d.sync_all());
            synced.with_context(|| format!("sync the directory {}", self.path.display()))?;
            self.card.has_raft = true;
            self.save()?;
        }
        Ok(log)
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

    #[test]
    fn raft_begins_once() {
        let dir = tempfile::tempdir().unwrap();
        let raft = dir.path().join("raft.redb");
        // a card as older versions wrote it, and what is opened then is noted
        std::fs::write(dir.path().join("node.json"), r#"{"identity": 7, "place": null}"#).unwrap();
        drop(Directory::open(dir.path()).unwrap().open_raft().unwrap());
        drop(Directory::open(dir.path()).unwrap().open_raft().unwrap());
        for is_emptied in [false, true] {
            match is_emptied {
                true => drop(File::create(&raft).unwrap()),
                false => std::fs::remove_file(&raft).unwrap(),
            }
            let why = Directory::open(dir.path()).unwrap().open_raft().err().unwrap().to_string();
            assert!(why.contains(raft.to_str().unwrap()) && why.contains("--join"), "{why}");
        }
    }
}
