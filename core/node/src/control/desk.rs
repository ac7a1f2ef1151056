//! What all tasks of the control thread share: who we are, the metadata as known here, and the way to the leader.
use super::clock::Clock;
use super::raft::Raft;
use super::shown::Shown;
use super::ways::first;
use rand::TryRngCore;
use rand::rngs::OsRng;
use sarsen_api::ErrorBody;
use sarsen_control::state::Node;
use sarsen_control::{Answer, Command, Entry, State};
use sarsen_types::{DriveId, NodeId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// How long one try at the leader may take.
const TRY_MAX: Duration = Duration::from_secs(3);
/// The header of a request that was handed on: who gets it answers, or refuses.
pub const FORWARDED: &str = "sarsen-forwarded";
/// How long it may take to say that a node is alive.
const ALIVE_MAX: Duration = Duration::from_secs(1);
/// Other nodes that one try goes through.
const DOORS_MAX: usize = 3;
/// Between tries at a leader that is not there yet.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// See the module.
pub struct Desk {
    /// This node.
    pub me: NodeId,
    /// Its raft.
    pub raft: Raft,
    /// The metadata as applied here.
    pub state: watch::Receiver<Arc<State>>,
    /// The index of the last entry that `state` shows.
    pub index: watch::Receiver<u64>,
    /// For HTTP between nodes.
    pub http: reqwest::Client,
    /// Nodes show each other this; none in `sarsen dev`.
    pub node_token: Option<String>,
    /// Administrators and hosts show this; none in `sarsen dev`.
    pub admin_token: Option<String>,
    /// On the leader: the cluster's time.
    pub clock: Mutex<Clock>,
    /// On the leader: when each node was heard last.
    pub heard: Mutex<BTreeMap<NodeId, Instant>>,
    /// On the leader: how full drives are.
    pub space: Mutex<BTreeMap<DriveId, Room>>,
    /// Nodes that said that they stop.
    pub stopping: Mutex<std::collections::BTreeSet<NodeId>>,
    /// By what `state` and `index` are raised.
    pub shown: Shown,
    /// Which of the other nodes is asked first.
    pub turn: AtomicUsize,
    /// The leader did not hear this node straight.
    pub is_cut: tokio::sync::Notify,
}

/// An answer, and the entry that a state must show to contain what it says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// What was answered.
    pub answer: Answer,
    /// The entry.
    pub index: u64,
}

/// What a node tells the leader, often.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Alive {
    /// Who.
    pub node: NodeId,
    /// It stops in order: it will not be heard any more.
    pub is_stopping: bool,
    /// How full its drives are.
    pub space: Vec<(DriveId, Room)>,
}

/// How full a drive is, or a slice of it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Room {
    /// Blocks it can hold.
    pub total_blocks: u64,
    /// Of them used.
    pub used_blocks: u64,
    /// The slices that take no more data of clients (S16).
    pub full: Vec<u8>,
}
impl<'a> std::iter::Sum<&'a Room> for Room {
    fn sum<I: Iterator<Item = &'a Room>>(all: I) -> Room {
        all.fold(Room::default(), |mut sum, one| {
            (sum.total_blocks, sum.used_blocks) =
                (sum.total_blocks + one.total_blocks, sum.used_blocks + one.used_blocks);
            sum.full.extend(&one.full);
            sum
        })
    }
}

/// Milliseconds since 1970, by this machine's wall clock.
fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// A command on its way to the leader, who stamps it.
fn unstamped(command: Command, request: Option<u128>) -> Entry {
    Entry { at_ms: 0, wall_ms: None, request, command }
}

/// 128 bits nobody can foretell.
pub fn random() -> u128 {
    let mut bytes = [0; 16];
    OsRng.try_fill_bytes(&mut bytes).expect("the system has randomness");
    u128::from_le_bytes(bytes)
}

/// There is no leader now.
pub fn no_leader() -> ErrorBody {
    ErrorBody::new("no_leader", "no majority of the cluster's nodes agrees on a leader now")
        .hint("it passes within seconds while a majority of the nodes runs")
}

impl Desk {
    /// The metadata as known here.
    pub fn now(&self) -> Arc<State> {
        self.state.borrow().clone()
    }
    /// The leader, when there is one: `Ok` of this node, or another's API address.
    pub fn leader(&self) -> Option<Result<(), String>> {
        let metrics = self.raft.metrics().borrow().clone();
        let leader = metrics.current_leader?;
        if leader == u64::from(self.me.0) {
            return Some(Ok(()));
        }
        let state = self.state.borrow();
        let known = u32::try_from(leader).ok().and_then(|id| state.nodes.get(&NodeId(id)));
        let given = || metrics.membership_config.membership().get_node(&leader).map(|n| n.addr.clone());
        known.map(|n| n.api.clone()).or_else(given).map(Err)
    }
    /// Whether this node leads.
    pub fn leads(&self) -> bool {
        matches!(self.leader(), Some(Ok(())))
    }

    /// As the leader: the time by which commands are stamped, and what is due is judged.
    pub fn time_ms(&self) -> u64 {
        let term = self.raft.metrics().borrow().current_term;
        let known = self.state.borrow().now_ms;
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.now(term, known, wall_ms(), Instant::now())
    }

    /// As the leader: replicates a command, and answers when it was applied here.
    pub async fn write(&self, command: Command, request: Option<u128>) -> Result<Outcome, ErrorBody> {
        let entry = Entry { at_ms: self.time_ms(), wall_ms: Some(wall_ms()), request, command };
        match tokio::time::timeout(TRY_MAX, self.raft.client_write(entry)).await {
            Ok(Ok(written)) => Ok(Outcome { answer: written.data, index: written.log_id.index }),
            Ok(Err(_)) | Err(_) => Err(no_leader()),
        }
    }

    /// One try at the leader, wherever it is, and by whatever node can be reached (R44). It may get there by two ways: a command
    /// has an id, or names what it changes by its epoch, or is the same twice (R30).
    pub async fn try_ask(&self, command: &Command, request: Option<u128>) -> Result<Outcome, ErrorBody> {
        self.try_entry(&Arc::new(unstamped(command.clone(), request)), &[]).await
    }
    async fn try_entry(&self, entry: &Arc<Entry>, told: &[String]) -> Result<Outcome, ErrorBody> {
        // one that the others left thinks for a while that it leads
        if self.leads()
            && let Ok(outcome) = self.write(entry.command.clone(), entry.request).await
        {
            return Ok(outcome);
        }
        self.say("/internal/command", entry, told, TRY_MAX).await.map(|(_, outcome)| outcome)
    }

    /// Says something to the leader: straight where it is known, and where that fails or takes long also through a few other nodes, in
    /// turn. Each hands it on to the leader that it knows, and that one to nobody, so it goes in no circle. Also answers whether it
    /// went straight.
    async fn say<B, A>(
        &self,
        path: &'static str,
        what: &Arc<B>,
        told: &[String],
        limit: Duration,
    ) -> Result<(bool, A), ErrorBody>
    where
        B: Serialize + Send + Sync + 'static,
        A: DeserializeOwned + Send + 'static,
    {
        let leader = self.leader().and_then(Result::err);
        let is_known = leader.is_some();
        let others = self.others(told, leader.as_ref());
        let ways = leader.into_iter().chain(others).map(|address| {
            let (http, token, what) = (self.http.clone(), self.node_token.clone(), what.clone());
            async move { post(&http, token.as_deref(), &address, path, &*what, limit).await }
        });
        let (at, answer) = first(ways).await?;
        Ok((is_known && at == 0, answer))
    }

    /// Where others of the cluster may be, a few of them: as the metadata know them, those that are up first and another of these each
    /// time, then as we were told.
    fn others(&self, told: &[String], but: Option<&String>) -> Vec<String> {
        let state = self.now();
        let known = |is_up| {
            let are_so = move |(id, n): &(&NodeId, &Node)| **id != self.me && n.is_up == is_up;
            state.nodes.iter().filter(are_so).map(|(_, n)| n.api.clone()).filter(|api| Some(api) != but)
        };
        let mut all: Vec<String> = known(true).collect();
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % all.len().max(1);
        all.rotate_left(first);
        all.extend(known(false));
        all.extend(told.iter().map(|url| address_of(url).to_owned()).filter(|address| Some(address) != but));
        all.truncate(DOORS_MAX);
        all
    }

    /// Tells the leader that this node is alive: whether it was told so straight, and the last entry that it showed then. Nothing
    /// where none was told.
    pub async fn say_alive(&self, alive: Alive) -> Option<(bool, u64)> {
        if self.leads() {
            return Some((true, self.hear(&alive)));
        }
        self.say("/internal/alive", &Arc::new(alive), &[], ALIVE_MAX).await.ok()
    }

    /// Shows the metadata of another node where they are newer: what raft does not bring here, since the leader does not reach this
    /// node (any node's committed copy will do, R29).
    pub async fn borrow(&self) {
        let known = self.now();
        let after = known.revision;
        let leader = self.leader().and_then(Result::err);
        let ways = self.others(&[], leader.as_ref()).into_iter().map(|address| {
            let (http, token) = (self.http.clone(), self.node_token.clone());
            async move { post(&http, token.as_deref(), &address, "/internal/state", &after, TRY_MAX).await }
        });
        if let Ok((_, Some((index, newer)))) = first::<Option<(u64, Option<State>)>, _>(ways).await {
            self.shown.show(&newer.map_or(known, Arc::new), index);
        }
    }

    /// Asks until there is an answer, and until the metadata here show what it says.
    pub async fn ask(&self, command: Command) -> Answer {
        self.announce(command, &[]).await
    }

    /// Asks as [`Desk::ask`] does, and also at `told`: for what says where this node is now. The leader sends to where it was, so it
    /// does not learn here who leads (found in review), and the others may have moved too.
    pub async fn announce(&self, command: Command, told: &[String]) -> Answer {
        let entry = Arc::new(unstamped(command, Some(random())));
        loop {
            match self.try_entry(&entry, told).await {
                Ok(outcome) => {
                    self.reach(outcome.index).await;
                    return outcome.answer;
                }
                Err(_) => tokio::time::sleep(TRY_AGAIN).await,
            }
        }
    }

    /// Waits until the metadata here show entry `index`.
    pub async fn reach(&self, index: u64) {
        let mut at = self.index.clone();
        let _ = at.wait_for(|now| *now >= index).await;
    }

    /// Posts to another node.
    pub async fn post<B: Serialize, A: serde::de::DeserializeOwned>(
        &self,
        address: &str,
        path: &str,
        body: &B,
    ) -> Result<A, ErrorBody> {
        post(&self.http, self.node_token.as_deref(), address, path, body, TRY_MAX).await
    }
    /// Hands what another node asked on to the leader at `address`, which is the last to get it.
    pub async fn hand_on<B: Serialize, A: serde::de::DeserializeOwned>(
        &self,
        address: &str,
        path: &str,
        body: &B,
    ) -> Result<A, ErrorBody> {
        let request = request(&self.http, self.node_token.as_deref(), address, path, body, TRY_MAX);
        answer(address, request.header(FORWARDED, "1")).await
    }

    /// Notes that a node was heard. The last entry that the metadata here show.
    pub fn hear(&self, alive: &Alive) -> u64 {
        let now = Instant::now();
        let mut stopping = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        match alive.is_stopping {
            true => drop(stopping.insert(alive.node)),
            false => drop(stopping.remove(&alive.node)),
        }
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(alive.node, now);
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        space.extend(alive.space.iter().cloned());
        *self.index.borrow()
    }
}

/// `ip:port` of a URL as it is given to `--join`.
pub fn address_of(url: &str) -> &str {
    url.trim().trim_start_matches("http://").trim_end_matches('/')
}

/// Posts JSON to `path` at `address`, as a node.
pub async fn post<B: Serialize, A: serde::de::DeserializeOwned>(
    http: &reqwest::Client,
    token: Option<&str>,
    address: &str,
    path: &str,
    body: &B,
    limit: Duration,
) -> Result<A, ErrorBody> {
    answer(address, request(http, token, address, path, body, limit)).await
}

fn request<B: Serialize>(
    http: &reqwest::Client,
    token: Option<&str>,
    address: &str,
    path: &str,
    body: &B,
    limit: Duration,
) -> reqwest::RequestBuilder {
    let request = http.post(format!("http://{address}{path}")).timeout(limit).json(body);
    token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth)
}

async fn answer<A: serde::de::DeserializeOwned>(
    address: &str,
    request: reqwest::RequestBuilder,
) -> Result<A, ErrorBody> {
    let failed = |why: reqwest::Error| ErrorBody::new("unreachable", format!("{address}: {why}"));
    let response = request.send().await.map_err(failed)?;
    if response.status().is_success() {
        return response.json().await.map_err(failed);
    }
    let status = response.status();
    let odd = |_| ErrorBody::new("unreachable", format!("{address} answers with HTTP status {status}"));
    Err(response.json().await.unwrap_or_else(odd))
}
