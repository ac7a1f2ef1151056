//! What the leader does beside answering: nodes up and down, groups reconciled, voters chosen, space recorded.
use super::desk::{Desk, Room};
use super::voters::next_change;
use openraft::ChangeMembers;
use sarsen_control::{Command, State, balance, outlived, reconcile};
use sarsen_types::{DriveId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Between two looks when nothing changes.
const LOOK: Duration = Duration::from_millis(500);
/// Changes that come together are looked at together.
const GATHER: Duration = Duration::from_millis(30);
/// Between two rounds of balancing leaders.
const BALANCE: Duration = Duration::from_secs(2);
/// How long all must be well before leaders move.
const CALM: Duration = Duration::from_secs(4);
/// Between two records of how full drives are.
const SPACE: Duration = Duration::from_secs(10);
/// Time does not pass for longer without a command, milliseconds.
const TICK_MS: u64 = 60_000;
/// A voter that is down for this long gives its vote to another node, milliseconds.
const VOTER_LOST_MS: u64 = 30_000;
/// A learner that lacks at most this many entries may vote.
const LAG_MAX: u64 = 200;
/// "Not heard", in milliseconds.
const NEVER: u64 = u64::MAX / 4;

/// Runs for the life of the node; acts while it leads.
pub async fn run(desk: Arc<Desk>) {
    let mut states = desk.state.clone();
    let mut led: Option<Led> = None;
    loop {
        match tokio::time::timeout(LOOK, states.changed()).await {
            Ok(Ok(())) => tokio::time::sleep(GATHER).await,
            Ok(Err(_)) => return,
            Err(_) => {}
        }
        states.borrow_and_update();
        if !desk.leads() {
            // whoever leads now ends it, and raft may never answer us about it
            if let Some(change) = led.take().and_then(|led| led.change) {
                change.abort();
            }
            continue;
        }
        let led = led.get_or_insert_with(|| Led::new(&desk));
        led.act(&desk).await;
    }
}

/// One time of leading.
struct Led {
    since: Instant,
    calm_since: Instant,
    balanced: Instant,
    spaced: Instant,
    /// The change of voters that was asked for last. It is two writes, and raft makes the second only while somebody waits for
    /// it: so it has a task of its own, and there is one at a time.
    change: Option<JoinHandle<()>>,
}

impl Led {
    fn new(desk: &Desk) -> Led {
        tracing::info!("node {} leads the metadata", desk.me);
        let now = Instant::now();
        // What another leader heard counts for nothing here.
        desk.heard.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Led { since: now, calm_since: now, balanced: now, spaced: now, change: None }
    }

    async fn act(&mut self, desk: &Arc<Desk>) {
        let state = desk.now();
        let heard = self.heard(desk, &state);
        for command in reconcile(&state, &heard, desk.time_ms()) {
            if desk.write(command, None).await.is_err() {
                return;
            }
        }
        let outlived = outlived(&state, &spoke(desk), desk.time_ms());
        if !outlived.is_empty() && desk.write(Command::Outlived(outlived), None).await.is_err() {
            return;
        }
        let now = Instant::now();
        if balance(&state).is_none() {
            // Even already, or not all is well: in both cases the clock starts again.
            self.calm_since = now;
        } else if now - self.calm_since > CALM && now - self.balanced > BALANCE {
            self.balanced = now;
            if let Some(command) = balance(&state) {
                let _ = desk.write(command, None).await;
            }
        }
        let is_spaced = now - self.spaced > SPACE;
        if is_spaced {
            self.spaced = now;
            record_space(desk, &state).await;
        }
        record_full(desk, &state, is_spaced).await;
        // whoever leads next goes on from the time that the metadata show
        if state.now_ms > 0 && desk.time_ms() > state.now_ms + TICK_MS {
            let _ = desk.write(Command::Space(Vec::new()), None).await;
        }
        choose_voters(desk, &state, &mut self.change);
    }

    fn heard(&self, desk: &Desk, state: &State) -> BTreeMap<NodeId, u64> {
        let heard = desk.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let stopping = desk.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        let ago = |id: &NodeId| match stopping.contains(id) {
            true => NEVER,
            false if *id == desk.me => 0,
            // one that never spoke counts from this leader's election, or from its own start if that was later
            false => match heard.get(id) {
                Some(at) => at.elapsed().as_millis() as u64,
                None => {
                    let started = desk.time_ms().saturating_sub(state.nodes[id].since_ms);
                    (self.since.elapsed().as_millis() as u64).min(started)
                }
            },
        };
        // Of a node that was down before this leader came nothing is known until it is heard.
        let known = |id: &NodeId| state.nodes[id].is_up || heard.contains_key(id) || *id == desk.me;
        state.nodes.keys().filter(|id| known(id)).map(|id| (*id, ago(id))).collect()
    }
}

/// How long ago nodes were heard by this leader, itself among them.
fn spoke(desk: &Desk) -> BTreeMap<NodeId, u64> {
    let heard = desk.heard.lock().unwrap_or_else(PoisonError::into_inner);
    let others = heard.iter().map(|(id, at)| (*id, at.elapsed().as_millis() as u64));
    others.chain([(desk.me, 0)]).collect()
}

async fn record_space(desk: &Desk, state: &State) {
    let told = desk.space.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let differs = |(id, room): &(&DriveId, &Room)| {
        let known = state.drives.get(id).map(|d| (d.total_blocks, d.used_blocks));
        known.is_some_and(|known| known != (room.total_blocks, room.used_blocks))
    };
    let of = |(id, room): (&DriveId, &Room)| (*id, room.total_blocks, room.used_blocks);
    let all: Vec<_> = told.iter().filter(differs).map(of).collect();
    if !all.is_empty() {
        let _ = desk.write(Command::Space(all), None).await;
    }
}

/// That writes get ENOSPC is recorded at once; that they do not any more now and then, so that a drive at its limit does not
/// keep the metadata busy.
async fn record_full(desk: &Desk, state: &State, has_room_again: bool) {
    let told = desk.space.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let differs = |(id, room): &(&DriveId, &Room)| {
        let full: BTreeSet<u8> = room.full.iter().copied().collect();
        let is_news = |known: &BTreeSet<u8>| {
            if has_room_again { full != *known } else { !full.is_subset(known) }
        };
        state.drives.get(id).is_some_and(|d| is_news(&d.full))
    };
    let all: Vec<_> = told.iter().filter(differs).map(|(id, room)| (*id, room.full.clone())).collect();
    if !all.is_empty() {
        let _ = desk.write(Command::Full(all), None).await;
    }
}

fn choose_voters(desk: &Arc<Desk>, state: &State, change: &mut Option<JoinHandle<()>>) {
    if change.as_ref().is_some_and(|c| !c.is_finished()) {
        return;
    }
    let metrics = desk.raft.metrics().borrow().clone();
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let last = metrics.last_log_index.unwrap_or(0);
    let replicated = metrics.replication.clone().unwrap_or_default();
    let is_caught_up = |id: &u64| {
        let matched = replicated.get(id).and_then(|l| *l).map_or(0, |l| l.index);
        *id == u64::from(desk.me.0) || matched + LAG_MAX >= last && matched > 0
    };
    let node = |id: &u64| u32::try_from(*id).ok().and_then(|id| state.nodes.get(&NodeId(id)));
    let fit: Vec<u64> = (membership.learner_ids())
        .filter(|id| node(id).is_some_and(|n| n.is_up) && is_caught_up(id))
        .collect();
    let now = desk.time_ms();
    let is_lost = |id: &u64| node(id).is_some_and(|n| !n.is_up && now > n.since_ms + VOTER_LOST_MS);
    let lost = voters.iter().copied().filter(is_lost).collect();
    if let Some(next) = next_change(membership.get_joint_config(), &lost, fit, state.nodes.len()) {
        let desk = desk.clone();
        *change = Some(tokio::spawn(async move {
            let asked = desk.raft.change_membership(ChangeMembers::ReplaceAllVoters(next.clone()), true);
            if let Err(why) = asked.await {
                tracing::warn!("nodes {next:?} do not vote yet: {why}");
            }
        }));
    }
}
