//! The types that raft works with, and how nodes reach each other: HTTP POST on the API port, with the nodes' token.
use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{BasicNode, Config, SnapshotPolicy};
use sarsen_control::State;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Cursor;
use std::sync::Arc;
use tokio::sync::watch;

openraft::declare_raft_types!(
    /// What raft replicates here: commands of the metadata.
    pub Types:
        D = sarsen_control::Entry,
        R = sarsen_control::Answer,
        NodeId = u64,
        Node = BasicNode,
        Entry = openraft::Entry<Types>,
        SnapshotData = Cursor<Vec<u8>>,
);

/// The raft of this node.
pub type Raft = openraft::Raft<Types>;

/// Beats and elections as R40 says: an election 700 to 1,000 ms after the last beat. For openraft gives a leader a lease of
/// `election_timeout_max` and lets a time between `min` and `max` pass after that; with 600 and 1,200 the death of the
/// leader's node was felt for 2.6 s, that of another for 1.5 s.
pub fn config() -> Config {
    Config {
        cluster_name: "sarsen".into(),
        heartbeat_interval: 150,
        election_timeout_min: 200,
        election_timeout_max: 500,
        install_snapshot_timeout: 5000,
        max_payload_entries: 256,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(5000),
        max_in_snapshot_log_to_keep: 1000,
        ..Config::default()
    }
}

/// Makes a line to each node.
pub struct Network {
    /// For HTTP.
    pub http: reqwest::Client,
    /// The nodes' token; none in `sarsen dev`.
    pub token: Option<String>,
    /// Where nodes are now: their addresses are state (R42).
    pub state: watch::Receiver<Arc<State>>,
}

/// A line to one node.
pub struct Line {
    http: reqwest::Client,
    token: Option<String>,
    state: watch::Receiver<Arc<State>>,
    target: u64,
    given: String,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Line;
    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Line {
        let (http, token, state) = (self.http.clone(), self.token.clone(), self.state.clone());
        Line { http, token, state, target, given: node.addr.clone() }
    }
}

type Failure<E> = RPCError<u64, BasicNode, E>;

impl Line {
    fn address(&self) -> String {
        let state = self.state.borrow();
        let known = u32::try_from(self.target).ok().and_then(|id| state.nodes.get(&sarsen_types::NodeId(id)));
        known.map_or_else(|| self.given.clone(), |n| n.api.clone())
    }

    async fn call<B: Serialize, A: DeserializeOwned, E>(
        &self,
        what: &str,
        body: &B,
        option: RPCOption,
    ) -> Result<A, Failure<E>>
    where
        E: std::error::Error + DeserializeOwned,
    {
        let url = format!("http://{}/raft/{what}", self.address());
        let mut request = self.http.post(url).timeout(option.hard_ttl()).json(body);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.map_err(|why| match why.is_connect() {
            // raft waits longer before it tries an unreachable node again
            true => RPCError::Unreachable(Unreachable::new(&why)),
            false => RPCError::Network(NetworkError::new(&why)),
        })?;
        let lost = |why: reqwest::Error| RPCError::Network(NetworkError::new(&why));
        let response = response.error_for_status().map_err(lost)?;
        let answer: Result<A, E> = response.json().await.map_err(lost)?;
        answer.map_err(|why| RPCError::RemoteError(RemoteError::new(self.target, why)))
    }
}

impl RaftNetwork<Types> for Line {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure<RaftError<u64>>> {
        self.call("append", &rpc, option).await
    }
    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failure<RaftError<u64, InstallSnapshotError>>> {
        self.call("snapshot", &rpc, option).await
    }
    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, Failure<RaftError<u64>>> {
        self.call("vote", &rpc, option).await
    }
    fn backoff(&self) -> openraft::network::Backoff {
        openraft::network::Backoff::new(std::iter::repeat(std::time::Duration::from_millis(200)))
    }
}
