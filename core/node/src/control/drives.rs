//! This node's drives: opened, registered (R1), told of each revision; and what their slices say, brought to the leader.
use super::desk::{Desk, Room};
use crate::data::{DataPort, DriveConfig, DriveHandle, Reports, open_drive};
use crate::seam::{FromSlice, PeerAddress};
use anyhow::{Context, bail};
use sarsen_control::command::{RefusalKind, Register};
use sarsen_control::{Answer, Command, State};
use sarsen_types::{DriveId, Proposal, Revision, SliceId, View};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

/// Proposals in one command (R44).
const PROPOSALS_MAX: usize = 256;
/// Between tries at a leader that is not there.
const TRY_AGAIN: Duration = Duration::from_millis(50);

type Served = BTreeMap<DriveId, Arc<DriveHandle>>;

/// The drives of this node.
pub struct Drives {
    desk: Arc<Desk>,
    boot_id: String,
    handles: Vec<Arc<DriveHandle>>,
    /// Registered ones, by the number metadata gave them.
    served: Mutex<Served>,
    /// Those, and the ones whose slices are being told.
    named: Mutex<Served>,
    /// How full slices are, as they said last.
    space: Mutex<BTreeMap<DriveId, BTreeMap<u8, Room>>>,
    distrusted: Mutex<BTreeMap<DriveId, BTreeSet<u8>>>,
    /// Up to where each slice carried out deletions.
    dropped: Mutex<BTreeMap<DriveId, BTreeMap<u8, Revision>>>,
    /// Threads of slices that ended.
    ended: watch::Sender<usize>,
    /// A drive is served from now on.
    joined: Notify,
}

/// How long a drive may take to open, a whole ring's replay among it, before the node starts without it.
const OPEN_MAX: Duration = Duration::from_secs(60);
/// Between tries to register a drive that its old node may still serve.
const REGISTER_AGAIN: Duration = Duration::from_millis(500);
/// How long its superblock may take to be written.
const REGISTER_MAX: Duration = Duration::from_secs(20);

/// Opens all drives, beside each other: one that hangs holds up the node for a while, and the others no longer (found in
/// review). One that does not open is reported and left; a node with drives but none that opens does not start.
pub async fn open(
    configs: Vec<DriveConfig>,
    port: &Arc<DataPort>,
    reports: &Reports,
) -> anyhow::Result<Vec<Arc<DriveHandle>>> {
    let (all, mut handles, mut failures) = (configs.len(), Vec::new(), Vec::new());
    let until = tokio::time::Instant::now() + OPEN_MAX;
    let open = |config: DriveConfig| {
        let (path, port, reports) = (config.path.clone(), port.clone(), reports.clone());
        (path, tokio::task::spawn_blocking(move || open_drive(config, &port, reports)))
    };
    let opening: Vec<_> = configs.into_iter().map(open).collect();
    for (path, opened) in opening {
        let failure = match tokio::time::timeout_at(until, opened).await {
            Ok(Ok(Ok(handle))) => {
                let is_same = |h: &&Arc<DriveHandle>| h.facts().identity == handle.facts().identity;
                let Some(same) = handles.iter().find(is_same) else {
                    handles.push(Arc::new(handle));
                    continue;
                };
                handle.abandon();
                format!("{} is a copy of {}: keep one of them", path.display(), same.facts().path.display())
            }
            Ok(Ok(Err(why))) => why.to_string(),
            Ok(Err(why)) => format!("{}: {why}", path.display()),
            Err(_) => {
                format!("{}: it does not answer: look at the device, then restart the node", path.display())
            }
        };
        tracing::error!("a drive does not open: {failure}");
        failures.push(failure);
    }
    if handles.is_empty() && all > 0 {
        bail!("{}", failures.join("; "));
    }
    Ok(handles)
}

impl Drives {
    /// The opened drives, none of them registered yet.
    pub fn new(desk: Arc<Desk>, boot_id: String, handles: Vec<Arc<DriveHandle>>) -> Drives {
        let (served, named, space, distrusted, dropped) = Default::default();
        let (ended, joined) = (watch::channel(0).0, Notify::new());
        Drives { desk, boot_id, handles, served, named, space, distrusted, dropped, ended, joined }
    }

    /// Registers the drives (R1), beside each other: one that hangs holds up the others no longer than itself. From then on each is
    /// served. Returns when all are, or are given up.
    pub async fn register(self: &Arc<Self>) -> anyhow::Result<()> {
        let mut registering = JoinSet::new();
        for handle in self.handles.clone() {
            let own = self.clone();
            registering.spawn(async move { own.register_one(handle).await });
        }
        let mut refused = Vec::new();
        while let Some(registered) = registering.join_next().await {
            refused.extend(registered?.err());
        }
        if !refused.is_empty() && refused.len() == self.handles.len() {
            bail!("{}", refused.join("; "));
        }
        Ok(())
    }

    /// One that is refused, or fails, ends, and is told of; the others are served all the same.
    async fn register_one(&self, handle: Arc<DriveHandle>) -> Result<(), String> {
        let facts = handle.facts();
        let register = Register {
            identity: facts.identity,
            node: self.desk.me,
            open: facts.open,
            opens: facts.opens.clone(),
            path: facts.path.display().to_string(),
            class: facts.class.to_owned(),
            slices: facts.slices,
            size: facts.size,
            total_blocks: facts.total_blocks,
            used_blocks: facts.used_blocks,
            is_broken: facts.is_broken,
        };
        let answer = loop {
            match self.desk.ask(Command::Register(register.clone())).await {
                Answer::Refused(why) if why.kind == RefusalKind::Early => {
                    tracing::info!("{}: {why}; asked again", facts.path.display());
                    tokio::time::sleep(REGISTER_AGAIN).await;
                }
                answer => break answer,
            }
        };
        let (id, is_stale) = match answer {
            Answer::Registered { drive, is_stale } => (drive, is_stale),
            Answer::Refused(why) => {
                tracing::error!("{}: {why}", facts.path.display());
                handle.abandon();
                return Err(format!("{}: {why}", facts.path.display()));
            }
            other => unreachable!("a registration answers {other:?}"),
        };
        let state = self.desk.now();
        let views = views(&state, id, facts.slices);
        // its slices may say something before we come back from telling them (found in review: that their floors are zero was
        // said to nobody, and the drive stayed stale)
        self.named.lock().unwrap_or_else(PoisonError::into_inner).insert(id, handle.clone());
        let (own, given) = (handle.clone(), views);
        let written = tokio::task::spawn_blocking(move || own.registered(id, &given, is_stale));
        let failure = match tokio::time::timeout(REGISTER_MAX, written).await {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(why))) => Some(why.to_string()),
            Ok(Err(why)) => Some(why.to_string()),
            Err(_) => Some("it does not answer".to_owned()),
        };
        if let Some(why) = failure {
            tracing::error!("drive {id} ({}): {why}", facts.path.display());
            handle.abandon();
            let failed = format!("{}: {why}", facts.path.display());
            self.later(Command::Failed { drive: id, open: facts.open, why });
            return Err(failed);
        }
        self.served.lock().unwrap_or_else(PoisonError::into_inner).insert(id, handle.clone());
        self.joined.notify_one();
        let stale = if is_stale { ", stale" } else { "" };
        tracing::info!("drive {id} ({}) is registered{stale}", facts.path.display());
        Ok(())
    }

    /// Tells the drives of each revision, for the life of the node.
    pub async fn follow(&self) {
        let mut states = self.desk.state.clone();
        let mut told: BTreeMap<DriveId, Revision> = BTreeMap::new();
        let mut known = BTreeMap::new();
        loop {
            // first whom we serve: the state is then one that shows their registrations
            let served = self.served.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let state = states.borrow_and_update().clone();
            let served = self.end_usurped(&state, served);
            let peers = peers(&state, &self.boot_id);
            if peers != known {
                let all = Arc::new(peers.clone());
                served.values().for_each(|handle| handle.peers(&all));
                known = peers;
            }
            for (id, handle) in &served {
                if told.insert(*id, state.revision) != Some(state.revision) {
                    handle.learned(&views(&state, *id, handle.facts().slices));
                }
            }
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return },
                // it knows the revision of its registration, which may be an older one, and nobody else's address
                () = self.joined.notified() => known.clear(),
            }
        }
    }

    /// R1, R28: a drive that was registered by another opening (a copy of its image), or given up as lost, is not ours any
    /// more: it ends here, since a sole copy has no other to stop it.
    fn end_usurped(&self, state: &State, mut served: Served) -> Served {
        served.retain(|id, handle| {
            let is_forgotten = state.forgotten.contains_key(&handle.facts().identity);
            let is_current = state.drives.get(id).is_none_or(|d| d.open == handle.facts().open);
            let is_ours = is_current && !is_forgotten;
            if !is_ours {
                let why = if is_forgotten { "given up as lost" } else { "opened elsewhere" };
                tracing::error!("drive {id} ({}) was {why}: it ends here", handle.facts().path.display());
                handle.abandon();
                self.served.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
            }
            is_ours
        });
        served
    }

    /// Carries what slices say to the leader, for the life of the node.
    pub async fn listen(&self, mut reports: mpsc::UnboundedReceiver<FromSlice>) {
        let mut waiting: Vec<Proposal> = Vec::new();
        loop {
            if waiting.is_empty() {
                match reports.recv().await {
                    Some(report) => self.hear(report, &mut waiting),
                    None => return,
                }
            }
            while let Ok(report) = reports.try_recv() {
                self.hear(report, &mut waiting);
            }
            self.propose(&mut waiting).await;
        }
    }

    fn hear(&self, report: FromSlice, waiting: &mut Vec<Proposal>) {
        match report {
            // asked again while there is no leader, it is still one
            FromSlice::Propose(proposal) if waiting.contains(&proposal) => {}
            FromSlice::Propose(proposal) => waiting.push(proposal),
            FromSlice::Space { slice, total_blocks, used_blocks, is_full } => {
                let full = is_full.then_some(slice.index).into_iter().collect();
                let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
                let of_drive = space.entry(slice.drive).or_default();
                of_drive.insert(slice.index, Room { total_blocks, used_blocks, full });
            }
            FromSlice::Rotten { slice, rot } => {
                tracing::warn!("slice {slice} met rot: {rot:?}");
                self.later(Command::Rotten { slice, rot });
            }
            // each was logged in words
            FromSlice::Alarmed { slice, alarms } => self.later(Command::Alarmed { slice, alarms }),
            FromSlice::Report { slice, text } => tracing::warn!("slice {slice}: {text}"),
            FromSlice::Stopped { slice } => {
                tracing::info!("slice {slice} stopped");
                self.ended.send_modify(|n| *n += 1);
            }
            FromSlice::Failed { slice, why } => {
                tracing::error!("slice {slice}: its drive failed: {why}");
                let handle = self.named(slice.drive);
                if let Some(open) = handle.map(|h| h.facts().open) {
                    self.later(Command::Failed { drive: slice.drive, open, why });
                }
            }
            FromSlice::Distrusted { slice } => self.distrusted(slice),
            FromSlice::Dropped { slice, revision } => self.dropped(slice, revision),
        }
    }

    /// What all slices of a drive dropped the drive does not hold any more (R20).
    fn dropped(&self, slice: SliceId, revision: Revision) {
        let Some(handle) = self.named(slice.drive) else { return };
        let mut all = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        let said = all.entry(slice.drive).or_default();
        said.insert(slice.index, revision);
        if said.len() == usize::from(handle.facts().slices) {
            let revision = said.values().copied().min().unwrap_or_default();
            self.later(Command::Dropped { drive: slice.drive, open: handle.facts().open, revision });
        }
    }

    /// Once all slices of a stale drive said that their floors durably count as zero, metadata may trust it again (R1).
    fn distrusted(&self, slice: SliceId) {
        let Some(handle) = self.named(slice.drive) else { return };
        let mut all = self.distrusted.lock().unwrap_or_else(PoisonError::into_inner);
        let said = all.entry(slice.drive).or_default();
        said.insert(slice.index);
        if said.len() == usize::from(handle.facts().slices) {
            said.clear();
            self.later(Command::Trust { drive: slice.drive, open: handle.facts().open });
        }
    }

    fn named(&self, drive: DriveId) -> Option<Arc<DriveHandle>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner).get(&drive).cloned()
    }
    fn later(&self, command: Command) {
        let desk = self.desk.clone();
        tokio::spawn(async move { desk.ask(command).await });
    }

    /// One try; what is void by now is dropped, what could not be told stays.
    async fn propose(&self, waiting: &mut Vec<Proposal>) {
        let state = self.desk.now();
        waiting.retain(|p| state.groups.get(&p.group).is_none_or(|g| g.epoch <= p.epoch));
        if waiting.is_empty() {
            return;
        }
        let now = waiting.len().min(PROPOSALS_MAX);
        match self.desk.try_ask(&Command::Judge(waiting[..now].to_vec()), None).await {
            Ok(_) => drop(waiting.drain(..now)),
            Err(_) => tokio::time::sleep(TRY_AGAIN).await,
        }
    }

    /// How full the drives are.
    pub fn space(&self) -> Vec<(DriveId, Room)> {
        let space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        space.iter().map(|(drive, slices)| (*drive, slices.values().sum())).collect()
    }

    /// Ends the drives in order; waits for their threads, as long as `limit`.
    pub async fn stop(&self, limit: Duration) -> anyhow::Result<()> {
        self.handles.iter().for_each(|handle| handle.stop());
        let all: usize = self.handles.iter().map(|h| usize::from(h.facts().slices)).sum();
        let mut ended = self.ended.subscribe();
        tokio::time::timeout(limit, ended.wait_for(|n| *n >= all))
            .await
            .context("the drives' threads do not end")?
            .context("nobody counts the threads that end")?;
        Ok(())
    }
}

fn views(state: &State, drive: DriveId, slices: u8) -> Vec<Arc<View>> {
    (0..slices).map(|index| Arc::new(state.view_of(SliceId { drive, index }))).collect()
}

fn peers(state: &State, boot_id: &str) -> BTreeMap<DriveId, PeerAddress> {
    let address = |(id, drive): (&DriveId, &sarsen_control::state::Drive)| {
        let node = state.nodes.get(&drive.node)?;
        let same_kernel = node.address.boot_id == boot_id;
        let unix = node.address.unix.clone().filter(|_| same_kernel);
        let data = node.address.data.clone();
        Some((*id, PeerAddress { node: drive.node, data, unix, same_kernel }))
    };
    state.drives.iter().filter_map(address).collect()
}
