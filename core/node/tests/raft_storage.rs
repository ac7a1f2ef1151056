//! The storage of Raft against the suite that openraft has for storages: each of its tests on a database of its own. And what
//! the suite does not ask: that log and snapshot never have a gap between them.
use openraft::storage::{RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, LogId, StorageError, StoredMembership};
use sarsen_control::State;
use sarsen_node::control::log::{Log, Meta};
use sarsen_node::control::machine::Machine;
use sarsen_node::control::raft::Types;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

fn machine_of(log: &Log) -> Machine {
    let (state, index) = (watch::channel(Arc::new(State::default())).0, watch::channel(0).0);
    Machine::open(log.clone(), state, index).expect("no snapshot yet")
}
fn log_at(dir: &Path, name: &str) -> Log {
    Log::open(&dir.join(name)).expect("a database")
}

struct Fresh;

impl StoreBuilder<Types, Log, Machine, tempfile::TempDir> for Fresh {
    async fn build(&self) -> Result<(tempfile::TempDir, Log, Machine), StorageError<u64>> {
        let dir = tempfile::tempdir().expect("a folder");
        // two databases: the suite purges what no snapshot covers, and that waits for one in the same
        let (log, snapshots) = (log_at(dir.path(), "raft.redb"), log_at(dir.path(), "snapshots.redb"));
        let machine = machine_of(&snapshots);
        Ok((dir, log, machine))
    }
}

#[test]
fn it_is_what_raft_expects_of_a_storage() {
    Suite::test_all(Fresh).unwrap();
}

fn entry(index: u64) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(1, 1), index)
}
/// The leader's snapshot up to an entry arrives.
async fn install(machine: &mut Machine, index: u64) {
    let last_membership = StoredMembership::default();
    let meta = Meta { last_log_id: Some(entry(index)), last_membership, snapshot_id: index.to_string() };
    let bytes = Box::new(Cursor::new(serde_json::to_vec(&State::default()).unwrap()));
    machine.install_snapshot(&meta, bytes).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_that_is_built_does_not_take_the_place_of_a_newer_one_that_came_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let log = log_at(dir.path(), "raft.redb");
    let mut machine = machine_of(&log);
    let mut builder = machine.get_snapshot_builder().await;
    install(&mut machine, 5).await;
    builder.build_snapshot().await.unwrap();
    let kept = machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(kept.meta.last_log_id, Some(entry(5)));
}

#[tokio::test]
async fn nothing_is_purged_before_the_snapshot_that_covers_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = log_at(dir.path(), "raft.redb");
    let mut machine = machine_of(&log);
    let purge = |index| {
        let mut log = log.clone();
        tokio::spawn(async move { log.purge(entry(index)).await })
    };
    let (purged, never) = (purge(5), purge(9));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!purged.is_finished());
    install(&mut machine, 5).await;
    purged.await.unwrap().unwrap();
    // one that never comes is not waited for
    drop(machine);
    assert!(never.await.unwrap().is_err());
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(entry(5)));
}
