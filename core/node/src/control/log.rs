//! Raft's log and vote in redb: durable before they are acknowledged.
use super::raft::Types;
use openraft::storage::{LogFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{BasicNode, Entry, LogId, OptionalSend, SnapshotMeta, StorageError, StorageIOError, Vote};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;

const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const FACTS: TableDefinition<&str, &[u8]> = TableDefinition::new("facts");
const VOTE: &str = "vote";
const PURGED: &str = "purged";
/// The newest snapshot: its description, and its bytes.
const SNAPSHOT_META: &str = "snapshot meta";
const SNAPSHOT: &str = "snapshot";

/// A failure of the database, as an error that says so.
type Failure = Box<dyn std::error::Error + Send + Sync>;
/// What a snapshot is of.
pub type Meta = SnapshotMeta<u64, BasicNode>;
/// Up to where the durable snapshot reaches.
pub type Upto = Option<LogId<u64>>;

/// The database of a node's raft. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    database: Arc<Database>,
    /// Told by the state machine whose snapshots lie in the same database.
    saved: Arc<OnceLock<watch::Receiver<Upto>>>,
}

fn reading(why: Failure) -> StorageError<u64> {
    StorageIOError::read_logs(&std::io::Error::other(why)).into()
}
fn writing(why: Failure) -> StorageError<u64> {
    StorageIOError::write_logs(&std::io::Error::other(why)).into()
}

fn fact_of<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<Option<T>, Failure> {
    table.get(name)?.map(|b| Ok(serde_json::from_slice(b.value())?)).transpose()
}

/// Bytes of the database that are kept in memory (S4).
const CACHE: usize = 32 << 20;

impl Log {
    /// Opens the database at `path`, or makes one.
    pub fn open(path: &Path) -> Result<Log, Failure> {
        let database = Database::builder().set_cache_size(CACHE).create(path)?;
        let write = database.begin_write()?;
        write.open_table(LOG)?;
        write.open_table(FACTS)?;
        write.commit()?;
        Ok(Log { database: Arc::new(database), saved: Arc::default() })
    }

    /// The fact called `name`.
    fn fact<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        fact_of(&self.database.begin_read()?.open_table(FACTS)?, name)
    }
    async fn save_fact<T: Serialize>(&self, name: &'static str, value: &T) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(value)?;
        self.blocking(move |database| {
            let write = database.begin_write()?;
            write.open_table(FACTS)?.insert(name, bytes.as_slice())?;
            Ok(write.commit()?)
        })
        .await
    }
    /// The newest snapshot: what it is of, and its bytes.
    pub fn snapshot(&self) -> Result<Option<(Meta, Vec<u8>)>, Failure> {
        let table = self.database.begin_read()?.open_table(FACTS)?;
        let bytes = table.get(SNAPSHOT)?.map(|b| b.value().to_vec());
        Ok(fact_of(&table, SNAPSHOT_META)?.zip(bytes))
    }
    /// Makes a snapshot durable, unless one that covers as much is there: a build takes its time, and a newer snapshot may come
    /// from the leader meanwhile, with which the log before it goes (found in review). Answers up to where the one there is reaches.
    pub async fn save_snapshot(&self, meta: &Meta, bytes: Vec<u8>) -> Result<Upto, Failure> {
        let (upto, described) = (meta.last_log_id, serde_json::to_vec(meta)?);
        self.blocking(move |database| {
            let write = database.begin_write()?;
            let known: Option<Meta> = fact_of(&write.open_table(FACTS)?, SNAPSHOT_META)?;
            if let Some(known) = known.filter(|known| known.last_log_id >= upto) {
                return Ok(known.last_log_id);
            }
            {
                let mut table = write.open_table(FACTS)?;
                table.insert(SNAPSHOT_META, described.as_slice())?;
                table.insert(SNAPSHOT, bytes.as_slice())?;
            }
            write.commit()?;
            Ok(upto)
        })
        .await
    }
    /// What is purged waits for these snapshots from now on: those of one state machine.
    pub fn follow(&self, saved: watch::Receiver<Upto>) -> Result<(), Failure> {
        self.saved.set(saved).map_err(|_| "another state machine has its snapshots in this database".into())
    }
    /// Until the durable snapshot covers an entry. Raft purges at once what a snapshot covers that is only about to be installed: a
    /// node killed in between would have neither (found in review).
    async fn covered(&self, entry: LogId<u64>) -> Result<(), Failure> {
        let Some(mut saved) = self.saved.get().cloned() else { return Ok(()) };
        let reached = saved.wait_for(|upto| *upto >= Some(entry)).await;
        reached.map(drop).map_err(|_| "the state machine ended before its snapshot was durable".into())
    }
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let database = self.database.clone();
        tokio::task::spawn_blocking(move || work(&database)).await?
    }

    fn entries(&self, range: impl RangeBounds<u64>) -> Result<Vec<Entry<Types>>, Failure> {
        let read = self.database.begin_read()?;
        let table = read.open_table(LOG)?;
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        let mut entries = Vec::new();
        for item in table.range::<u64>(bounds)? {
            entries.push(serde_json::from_slice(item?.1.value())?);
        }
        Ok(entries)
    }
    fn last(&self) -> Result<Option<LogId<u64>>, Failure> {
        let read = self.database.begin_read()?;
        let table = read.open_table(LOG)?;
        let Some(last) = table.last()? else { return Ok(None) };
        let entry: Entry<Types> = serde_json::from_slice(last.1.value())?;
        Ok(Some(entry.log_id))
    }
    async fn remove(&self, range: (u64, u64), purged: Option<LogId<u64>>) -> Result<(), Failure> {
        self.blocking(move |database| {
            let write = database.begin_write()?;
            {
                let mut table = write.open_table(LOG)?;
                table.retain_in(range.0..=range.1, |_, _| false)?;
                if let Some(purged) = purged {
                    write.open_table(FACTS)?.insert(PURGED, serde_json::to_vec(&purged)?.as_slice())?;
                }
            }
            Ok(write.commit()?)
        })
        .await
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry<Types>>, StorageError<u64>> {
        self.entries(range).map_err(reading)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError<u64>> {
        let last_purged_log_id = self.fact(PURGED).map_err(reading)?;
        let last_log_id = self.last().map_err(reading)?.or(last_purged_log_id);
        Ok(LogState { last_purged_log_id, last_log_id })
    }
    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }
    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError<u64>> {
        self.save_fact(VOTE, vote).await.map_err(writing)
    }
    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        self.fact(VOTE).map_err(reading)
    }
    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut rows = Vec::new();
        for entry in entries {
            rows.push((entry.log_id.index, serde_json::to_vec(&entry).map_err(|e| writing(e.into()))?));
        }
        let written = self.blocking(move |database| {
            let write = database.begin_write()?;
            {
                let mut table = write.open_table(LOG)?;
                for (index, bytes) in &rows {
                    table.insert(index, bytes.as_slice())?;
                }
            }
            Ok(write.commit()?) // synced: redb's default durability
        });
        match written.await {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(why) => {
                callback.log_io_completed(Err(std::io::Error::other(why.to_string())));
                Err(writing(why))
            }
        }
    }
    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        self.remove((log_id.index, u64::MAX), None).await.map_err(writing)
    }
    async fn purge(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        self.covered(log_id).await.map_err(writing)?;
        self.remove((0, log_id.index), Some(log_id)).await.map_err(writing)
    }
}
