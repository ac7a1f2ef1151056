//! Raft's state machine: the metadata in memory, published to this process with each step; snapshots in redb.
use super::log::{Log, Meta, Upto};
use super::raft::Types;
use super::shown::Shown;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::{
    BasicNode, Entry, EntryPayload, LogId, OptionalSend, StorageError, StorageIOError, StoredMembership,
};
use sarsen_control::{Answer, State};
use std::io::Cursor;
use std::sync::Arc;
use tokio::sync::watch;

/// The metadata as of the last applied entry.
pub struct Machine {
    log: Log,
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, BasicNode>,
    state: Arc<State>,
    shown: Shown,
    saved: Saved,
}

/// Tells the log up to where the durable snapshot reaches; ends with the machine and its builders.
type Saved = Arc<watch::Sender<Upto>>;

/// Makes a snapshot durable, and says so.
async fn save(log: &Log, saved: &Saved, meta: &Meta, bytes: Vec<u8>) -> Result<(), StorageError<u64>> {
    let upto = log.save_snapshot(meta, bytes).await.map_err(failed)?;
    saved.send_modify(|known| *known = upto.max(*known));
    Ok(())
}

fn failed(why: impl std::fmt::Display) -> StorageError<u64> {
    StorageIOError::read_state_machine(&std::io::Error::other(why.to_string())).into()
}

impl Machine {
    /// From the newest snapshot. Publishes to `state` and `index`.
    pub fn open(
        log: Log,
        state: watch::Sender<Arc<State>>,
        index: watch::Sender<u64>,
    ) -> Result<Machine, Box<dyn std::error::Error + Send + Sync>> {
        let snapshot = log.snapshot()?;
        let upto = snapshot.as_ref().and_then(|(meta, _)| meta.last_log_id);
        let (saved, told) = watch::channel(upto);
        log.follow(told)?;
        let membership = StoredMembership::default();
        let (shown, saved) = (Shown::new(state, index), Arc::new(saved));
        let mut machine = Machine { log, applied: None, membership, state: Arc::default(), shown, saved };
        if let Some((meta, bytes)) = snapshot {
            machine.become_(&meta, serde_json::from_slice(&bytes)?);
        }
        Ok(machine)
    }
    fn become_(&mut self, meta: &Meta, state: State) {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.state = Arc::new(state);
        self.show();
    }
    fn show(&self) {
        self.shown.show(&self.state, self.applied.map_or(0, |l| l.index));
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>), StorageError<u64>> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answer>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut state = State::clone(&self.state);
        let mut answers = Vec::new();
        let before = state.revision;
        for entry in entries {
            self.applied = Some(entry.log_id);
            answers.push(match entry.payload {
                EntryPayload::Blank => Answer::Done,
                EntryPayload::Normal(command) => state.apply(&command),
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Answer::Done
                }
            });
        }
        if state.revision != before {
            self.state = Arc::new(state);
        }
        self.show();
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let (log, state) = (self.log.clone(), self.state.clone());
        let (applied, membership) = (self.applied, self.membership.clone());
        Builder { log, state, applied, membership, saved: self.saved.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError<u64>> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &Meta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError<u64>> {
        let bytes = snapshot.into_inner();
        let state: State = serde_json::from_slice(&bytes).map_err(failed)?;
        save(&self.log, &self.saved, meta, bytes).await?;
        self.become_(meta, state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError<u64>> {
        let newest = self.log.snapshot().map_err(failed)?;
        Ok(newest.map(|(meta, bytes)| Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }))
    }
}

/// The metadata of one moment, on their way to a snapshot.
pub struct Builder {
    log: Log,
    state: Arc<State>,
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, BasicNode>,
    saved: Saved,
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError<u64>> {
        let bytes = serde_json::to_vec(&*self.state).map_err(failed)?;
        let snapshot_id = self.applied.map_or_else(|| "0".to_owned(), |l| format!("{}", l.index));
        let last_membership = self.membership.clone();
        let meta = Meta { last_log_id: self.applied, last_membership, snapshot_id };
        // where a newer one is kept, raft too goes by that and leaves ours
        save(&self.log, &self.saved, &meta, bytes.clone()).await?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) })
    }
}
