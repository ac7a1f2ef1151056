//! The life of a node: from its directory to a planned stop.
use super::clock::Clock;
use super::desk::{Alive, Desk};
use super::directory::{Directory, Place};
use super::drives::{self, Drives};
use super::join::{self, Wish};
use super::machine::Machine;
use super::raft::{self, Network, Raft};
use super::shown::Shown;
use super::{api, lead};
use crate::data::drive::MEMORY_DEFAULT;
use crate::data::{DataPort, DataPortConfig, DriveConfig, Reports};
use crate::seam::{FromSlice, Identity};
use anyhow::{Context, anyhow, bail};
use openraft::BasicNode;
use sarsen_api::token::{node_token_of, token_of};
use sarsen_control::state::COPIES_DEFAULT;
use sarsen_control::{Answer, Command, State, hand_over, is_missed};
use sarsen_slice::LeaseMode;
use sarsen_types::view::NodeAddress;
use sarsen_types::{ClusterId, NodeId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

type RaftState = openraft::RaftState<u64, BasicNode, openraft::TokioInstant>;

/// Between two words to the leader that this node is alive.
const ALIVE_EVERY: Duration = Duration::from_millis(300);
/// How long a planned stop waits for others to take over.
const HAND_OVER_MAX: Duration = Duration::from_secs(3);
/// How long the old primaries go on confirming that they stopped (R2), before they leave in_sync.
const CONFIRM: Duration = Duration::from_millis(200);
/// Between two tries to leave.
const LEAVE_AGAIN: Duration = Duration::from_millis(50);
/// How long the drives' threads may take to end.
const STOP_MAX: Duration = Duration::from_secs(10);
/// How long a planned stop waits for a snapshot of the metadata.
const SNAPSHOT_MAX: Duration = Duration::from_secs(2);
/// How long the data port of a node that was here before may take to become free.
const PLACE_MAX: Duration = Duration::from_secs(3);

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its directory.
    pub dir: PathBuf,
    /// Its data port.
    pub listen: SocketAddr,
    /// Its API.
    pub api: SocketAddr,
    /// The cluster's key; `None` for `sarsen dev` alone, on loopback.
    pub key: Option<[u8; 32]>,
    /// APIs of nodes that take it in, the first time it starts; none: it begins a cluster. Later they help it to say where it is,
    /// should all the others have moved since.
    pub join: Vec<String>,
    /// Its drives, formatted.
    pub drives: Vec<PathBuf>,
    /// How reads are leased; `None`: by rounds where the CPU reports a hypervisor, else by the clock (R4).
    pub lease: Option<LeaseMode>,
    /// Copies of the default policy, when it begins a cluster.
    pub copies: Option<u8>,
    /// Small tables, no marks on threads.
    pub is_dev: bool,
    /// Bytes of memory for the maps of all drives together (S4); without, as much for each as is usual.
    pub memory: Option<u64>,
    /// No unix socket beside the data port: what runs on the same kernel comes by TCP too, as from other machines.
    pub is_tcp_only: bool,
}

/// Runs a node until SIGTERM or SIGINT, and through the hand-over that follows.
pub async fn run(config: NodeConfig) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let node = tokio::select! {
        node = Node::start(config) => node?,
        _ = term.recv() => return Ok(()),
        _ = int.recv() => return Ok(()),
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        ended = node.ended() => return ended,
    }
    node.stop().await
}

/// A running node.
pub struct Node {
    desk: Arc<Desk>,
    drives: Arc<Drives>,
    is_stopping: watch::Sender<bool>,
    _port: Arc<DataPort>,
    directory: Directory,
    api: SocketAddr,
    tasks: JoinSet<()>,
}

fn boot_id() -> anyhow::Result<String> {
    let text =
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").context("read the kernel's boot id")?;
    Ok(text.trim().to_owned())
}

/// The address to listen on. The kernel takes the ring of a process that was killed apart some time after its end, and its
/// listening socket with it (found by chaos, seed 1: a node started at once after SIGKILL).
async fn free_place(listen: SocketAddr) -> std::io::Result<SocketAddr> {
    let until = tokio::time::Instant::now() + PLACE_MAX;
    loop {
        match std::net::TcpListener::bind(listen).and_then(|l| l.local_addr()) {
            Err(why)
                if why.kind() == std::io::ErrorKind::AddrInUse && tokio::time::Instant::now() < until =>
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            place => return place,
        }
    }
}

/// `clock` only where the CPU says that no hypervisor is there: no guest clock sees its pauses (R4).
fn default_lease() -> LeaseMode {
    match std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|cpu| is_bare_metal(&cpu)) {
        true => LeaseMode::Clock,
        false => LeaseMode::Confirm,
    }
}

/// By the kernel's description of the CPU. Only x86 has a word for a hypervisor, in its flags; what others do not say proves
/// nothing (found in review).
fn is_bare_metal(cpu: &str) -> bool {
    let mut flags = cpu.lines().filter(|l| l.starts_with("flags"));
    flags.next().is_some_and(|l| !l.split_whitespace().any(|f| f == "hypervisor"))
}

impl Node {
    /// Starts it; returns when all drives are registered.
    pub async fn start(config: NodeConfig) -> anyhow::Result<Node> {
        let loopback = config.listen.ip().is_loopback() && config.api.ip().is_loopback();
        if config.key.is_none() && !loopback {
            bail!("a node without --key listens on loopback only: make a key with `sarsen key create FILE`");
        }
        if !config.is_dev
            && let Err(refusal) = sarsen_ring::lock_memory()
        {
            tracing::warn!("{refusal}");
        }
        let mut directory = Directory::open(&config.dir)?;
        let listener =
            TcpListener::bind(config.api).await.with_context(|| format!("listen on {}", config.api))?;
        let api_address = listener.local_addr()?;
        let data = free_place(config.listen).await.with_context(|| format!("listen on {}", config.listen))?;
        let boot_id = boot_id()?;
        let unix = (!config.is_tcp_only).then(|| directory.socket());
        let address = NodeAddress {
            data: data.to_string(),
            unix: unix.as_ref().map(|path| path.display().to_string()),
            boot_id: boot_id.clone(),
        };
        let http = reqwest::Client::builder().no_proxy().connect_timeout(Duration::from_secs(1)).build()?;
        let node_token = config.key.as_ref().map(node_token_of);
        let place = match directory.card.place {
            Some(place) => place,
            None => {
                let api = api_address.to_string();
                let wish = Wish { identity: directory.card.identity, api, address: address.clone() };
                let place = match config.join.is_empty() {
                    true => {
                        let cluster = ClusterId(super::desk::random());
                        Place { node: NodeId(1), cluster, is_founder: true }
                    }
                    false => {
                        let welcome = join::ask(&http, node_token.as_deref(), &config.join, &wish).await?;
                        Place { node: welcome.node, cluster: welcome.cluster, is_founder: false }
                    }
                };
                directory.settle(place)?;
                place
            }
        };
        let (me, cluster, key) = (place.node, place.cluster, config.key);
        let identity = Arc::new(Identity { cluster, node: me, key, boot_id: boot_id.clone() });
        let port_config = DataPortConfig { listen: data, unix };
        let port = tokio::task::spawn_blocking(move || DataPort::start(port_config, identity)).await??;
        let port = Arc::new(port);
        // Drives are opened first: what is wrong with them is said before anything is asked of the cluster.
        let (reports, heard) = mpsc::unbounded_channel::<FromSlice>();
        let reports: Reports = Arc::new(move |report| drop(reports.send(report)));
        let lease = config.lease.unwrap_or_else(default_lease);
        let drive_config = |path: &PathBuf| DriveConfig {
            marks_threads: !config.is_dev,
            memory: config
                .memory
                .map_or(MEMORY_DEFAULT, |all| (all / config.drives.len().max(1) as u64) as usize),
            ..DriveConfig::new(path.clone(), lease)
        };
        let configs = config.drives.iter().map(drive_config).collect();
        let handles = drives::open(configs, &port, &reports).await?;
        // from here on it takes part in elections: it must answer soon
        let desk = open_desk(&mut directory, place, &config, http).await?;

        let identity = directory.card.identity;
        let announce = Command::Node { identity, api: api_address.to_string(), address };
        if place.is_founder {
            begin(&desk, &config, place, &announce).await?;
        }
        let routes = api::router(desk.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(axum::serve(listener, routes).await) });
        match desk.announce(announce, &config.join).await {
            Answer::Node(node) if node == place.node => {}
            other => bail!(
                "the cluster knows this node as another: {other:?}; its directory is of another cluster"
            ),
        }
        let drives = Arc::new(Drives::new(desk.clone(), boot_id, handles));
        let (is_stopping, stopping) = watch::channel(false);
        let (own, led) = (drives.clone(), desk.clone());
        tasks.spawn(async move { own.listen(heard).await });
        tasks.spawn(lead::run(led));
        tasks.spawn(be_alive(desk.clone(), drives.clone(), stopping));
        tasks.spawn(borrow(desk.clone()));
        let own = drives.clone();
        tasks.spawn(async move { own.follow().await });
        drives.register().await?;
        tracing::info!("node {me} serves: API http://{api_address}, data {data}");
        Ok(Node { desk, drives, is_stopping, _port: port, directory, api: api_address, tasks })
    }

    /// Its number.
    pub fn id(&self) -> NodeId {
        self.desk.me
    }
    /// Where its API is.
    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// Ends only when raft does, by a failure of its disk.
    pub async fn ended(&self) -> anyhow::Result<()> {
        let mut metrics = self.desk.raft.metrics();
        let fatal = metrics.wait_for(|m| m.running_state.is_err()).await;
        match fatal {
            Ok(metrics) => match &metrics.running_state {
                Err(why) => Err(anyhow!("raft ended: {why}")),
                Ok(()) => Err(anyhow!("raft ended")),
            },
            Err(_) => Err(anyhow!("raft ended")),
        }
    }

    /// Hands over what it leads, leaves in_sync, then ends. Clients wait for one change of epoch, not for silence (R2).
    pub async fn stop(mut self) -> anyhow::Result<()> {
        tracing::info!("node {} stops: it hands over what it leads", self.desk.me);
        let handed = tokio::time::timeout(HAND_OVER_MAX, self.hand_over()).await;
        if handed.is_err() {
            tracing::warn!(
                "nobody takes over all that this node leads: its groups wait until others do, or it is back"
            );
        }
        let _ = self.is_stopping.send(true);
        let ended = self.drives.stop(STOP_MAX).await;
        let alive = Alive { node: self.desk.me, is_stopping: true, space: Vec::new() };
        self.desk.say_alive(alive).await;
        save_metadata(&self.desk.raft).await;
        let _ = tokio::time::timeout(Duration::from_secs(2), self.desk.raft.shutdown()).await;
        self.tasks.shutdown().await;
        let _ = std::fs::remove_file(self.directory.socket());
        ended
    }

    async fn hand_over(&self) {
        let me = self.desk.me;
        // Said first: nodes that stop together hand nothing over to each other.
        self.desk.ask(Command::Stopping { node: me }).await;
        // What changes epochs in the meantime voids a part of the command: it is asked for again.
        while let Some(command) = hand_over(&self.desk.now(), me) {
            self.desk.ask(command).await;
        }
        tokio::time::sleep(CONFIRM).await;
        self.desk.ask(Command::Leave { node: me }).await;
        // Copies that come back just now let this one go a little later.
        while is_missed(&self.desk.now(), me) {
            tokio::time::sleep(LEAVE_AGAIN).await;
            self.desk.ask(Command::Leave { node: me }).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A snapshot of all that was applied: what starts next, be it of another version, then carries out few commands that this one
/// has carried out (found in review).
async fn save_metadata(raft: &Raft) {
    let applied = raft.metrics().borrow().last_applied;
    if raft.trigger().snapshot().await.is_ok() {
        let _ = raft.wait(Some(SNAPSHOT_MAX)).metrics(|m| m.snapshot >= applied, "a snapshot").await;
    }
}

async fn open_desk(
    directory: &mut Directory,
    place: Place,
    config: &NodeConfig,
    http: reqwest::Client,
) -> anyhow::Result<Arc<Desk>> {
    let failed = |why: Box<dyn std::error::Error + Send + Sync>| anyhow!("the raft database: {why}");
    let log = directory.open_raft()?;
    let (states, state) = watch::channel(Arc::new(State::default()));
    let (indexes, index) = watch::channel(0);
    let shown = Shown::new(states.clone(), indexes.clone());
    let machine = Machine::open(log.clone(), states, indexes).map_err(failed)?;
    let (node_token, admin_token) =
        (config.key.as_ref().map(node_token_of), config.key.as_ref().map(token_of));
    let network = Network { http: http.clone(), token: node_token.clone(), state: state.clone() };
    let settings = Arc::new(raft::config().validate()?);
    let raft = Raft::new(u64::from(place.node.0), settings, network, log, machine).await?;
    let (heard, space, stopping, turn, is_cut) = Default::default();
    let clock = std::sync::Mutex::new(Clock::default());
    Ok(Arc::new(Desk {
        me: place.node,
        raft,
        state,
        index,
        http,
        node_token,
        admin_token,
        clock,
        heard,
        space,
        stopping,
        shown,
        turn,
        is_cut,
    }))
}

/// The first node's first entries: a cluster of one, before anybody can join it. It is asked to begin whenever this node alone
/// votes, since the process may have been killed when raft had begun and the cluster had not (found in review).
async fn begin(desk: &Desk, config: &NodeConfig, place: Place, announce: &Command) -> anyhow::Result<()> {
    let me = u64::from(place.node.0);
    let voters = |s: &RaftState| s.membership_state.effective().voter_ids().collect::<Vec<u64>>();
    let voters = desk.raft.with_raft_state(voters).await?;
    if voters.is_empty() {
        let Command::Node { api, .. } = announce else { bail!("a node tells its addresses") };
        desk.raft.initialize(BTreeMap::from([(me, BasicNode::new(api.clone()))])).await?;
    } else if voters != [me] {
        return Ok(()); // others have joined what had begun
    }
    let copies = config.copies.unwrap_or(COPIES_DEFAULT);
    desk.ask(Command::Begin { cluster: place.cluster, copies, is_dev: config.is_dev }).await;
    if desk.now().nodes.is_empty() {
        desk.ask(announce.clone()).await; // the first to do so has number 1
    }
    Ok(())
}

/// Borrows the metadata when the node seems to be cut off: beside what says that it is alive, which must not wait for it.
async fn borrow(desk: Arc<Desk>) {
    loop {
        desk.is_cut.notified().await;
        desk.borrow().await;
    }
}

async fn be_alive(desk: Arc<Desk>, drives: Arc<Drives>, mut stopping: watch::Receiver<bool>) {
    let mut due = 0; // what the leader showed the last time
    while !*stopping.borrow_and_update() {
        let alive = Alive { node: desk.me, is_stopping: false, space: drives.space() };
        let heard = desk.say_alive(alive).await;
        let is_behind = *desk.index.borrow() < due;
        due = heard.map_or(due, |(_, shown)| shown);
        // where no leader hears it straight, or what it showed does not come, none may be able to send: raft brings nothing then
        if is_behind || !heard.is_some_and(|(is_straight, _)| is_straight) {
            desk.is_cut.notify_one();
        }
        let _ = tokio::time::timeout(ALIVE_EVERY, stopping.changed()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_trusted_only_where_the_cpu_says_that_nobody_stops_it() {
        assert!(is_bare_metal("processor\t: 0\nflags\t\t: fpu vme sse2\n"));
        assert!(!is_bare_metal("processor\t: 0\nflags\t\t: fpu hypervisor sse2\n"));
        // arm64 has no word for it
        assert!(!is_bare_metal("processor\t: 0\nFeatures\t: fp asimd evtstrm\n"));
        assert!(!is_bare_metal(""));
    }
}
