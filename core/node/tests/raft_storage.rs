//! The storage of Raft against the suite that openraft has for storages: each of its tests on a database of its own.
use openraft::StorageError;
use openraft::testing::{StoreBuilder, Suite};
use sarsen_control::State;
use sarsen_node::control::log::Log;
use sarsen_node::control::machine::Machine;
use sarsen_node::control::raft::Types;
use std::sync::Arc;
use tokio::sync::watch;

struct Fresh;

impl StoreBuilder<Types, Log, Machine, tempfile::TempDir> for Fresh {
    async fn build(&self) -> Result<(tempfile::TempDir, Log, Machine), StorageError<u64>> {
        let dir = tempfile::tempdir().expect("a folder");
        let log = Log::open(&dir.path().join("raft.redb")).expect("a database");
        let (state, index) = (watch::channel(Arc::new(State::default())).0, watch::channel(0).0);
        let machine = Machine::open(log.clone(), state, index).expect("no snapshot yet");
        Ok((dir, log, machine))
    }
}

#[test]
fn it_is_what_raft_expects_of_a_storage() {
    Suite::test_all(Fresh).unwrap();
}
