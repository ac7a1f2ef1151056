//! Raft's log and vote in redb: durable before they are acknowledged.
use super::raft::Types;
use openraft::storage::{LogFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{Entry, LogId, OptionalSend, StorageError, StorageIOError, Vote};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::Arc;

const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const FACTS: TableDefinition<&str, &[u8]> = TableDefinition::new("facts");
const VOTE: &str = "vote";
const PURGED: &str = "purged";
/// The newest snapshot: its description, and its bytes.
pub const SNAPSHOT_META: &str = "snapshot meta";
/// See [`SNAPSHOT_META`].
pub const SNAPSHOT: &str = "snapshot";

/// A failure of the database, as an error that says so.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The database of a node's raft. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    database: Arc<Database>,
}

fn reading(why: Failure) -> StorageError<u64> {
    StorageIOError::read_logs(&std::io::Error::other(why)).into()
}
fn writing(why: Failure) -> StorageError<u64> {
    StorageIOError::write_logs(&std::io::Error::other(why)).into()
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
        Ok(Log { database: Arc::new(database) })
    }

    /// The fact called `name`.
    pub fn fact<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        self.bytes(name)?.map(|b| Ok(serde_json::from_slice(&b)?)).transpose()
    }
    /// The bytes of the fact called `name`.
    pub fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>, Failure> {
        let read = self.database.begin_read()?;
        let table = read.open_table(FACTS)?;
        Ok(table.get(name)?.map(|b| b.value().to_vec()))
    }
    /// Makes facts durable, all or none, on a thread that may block.
    pub async fn save(&self, facts: Vec<(&'static str, Vec<u8>)>) -> Result<(), Failure> {
        self.blocking(move |database| {
            let write = database.begin_write()?;
            {
                let mut table = write.open_table(FACTS)?;
                for (name, bytes) in &facts {
                    table.insert(name, bytes.as_slice())?;
                }
            }
            Ok(write.commit()?)
        })
        .await
    }
    async fn save_fact<T: Serialize>(&self, name: &'static str, value: &T) -> Result<(), Failure> {
        self.save(vec![(name, serde_json::to_vec(value)?)]).await
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
        self.remove((0, log_id.index), Some(log_id)).await.map_err(writing)
    }
}
