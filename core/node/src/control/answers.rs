//! What the API shows: the state in the API's words.
use super::api::{Failure, Hand, odd, write};
use super::desk::Desk;
use super::volumes::{Done, fresh};
use axum::Json;
use axum::extract::{Path, Query, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use openraft::{BasicNode, RaftMetrics};
use sarsen_api as api;
use sarsen_control::{Answer, Command, State};
use sarsen_types::{BLOCK_SIZE, DriveId, GroupId, SliceId};
use serde::Deserialize;
use std::time::Duration;
use tokio::time::Instant;

fn texts<'a>(slices: impl IntoIterator<Item = &'a SliceId>) -> Vec<String> {
    slices.into_iter().map(SliceId::to_string).collect()
}
fn bytes(blocks: u64) -> u64 {
    blocks.saturating_mul(BLOCK_SIZE as u64)
}

/// How long a cluster that has no leader may take to get one before that is said.
const ELECTION_MAX: Duration = Duration::from_secs(2);
/// How long a majority may take to say that this node leads.
const MAJORITY_MAX: Duration = Duration::from_secs(2);

/// Whether a leader comes soon, in place of none or of one that does not answer.
pub async fn comes_a_leader(desk: &Desk) -> bool {
    let of = |m: &RaftMetrics<u64, BasicNode>| (m.current_leader, m.current_term);
    let before = of(&desk.raft.metrics().borrow());
    let leads_anew = |m: &RaftMetrics<u64, BasicNode>| m.current_leader.is_some() && of(m) != before;
    desk.raft.wait(Some(ELECTION_MAX)).metrics(leads_anew, "a leader").await.is_ok()
}

/// `GET /v1/status`: of a leader, or, where there is none, what this node knew last.
pub async fn status(Shared(desk): Hand) -> Json<api::Status> {
    // a leader that the others left does not know it before it asks them
    let has_majority =
        matches!(tokio::time::timeout(MAJORITY_MAX, desk.raft.ensure_linearizable()).await, Ok(Ok(_)));
    let state = desk.now();
    let (mut health, mut reasons) = sarsen_control::health(&state);
    if !has_majority {
        health = sarsen_control::Health::Unavailable;
        let why = "no majority of the cluster's nodes is there: nothing can be changed, and what follows may be old";
        reasons.insert(0, why.into());
    }
    let health = match health {
        sarsen_control::Health::Ok => api::Health::Ok,
        sarsen_control::Health::Degraded => api::Health::Degraded,
        sarsen_control::Health::Unavailable => api::Health::Unavailable,
    };
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Json(api::Status {
        health,
        reasons,
        cluster: state.cluster.to_string(),
        revision: state.revision.0,
        leader: desk.leads().then_some(desk.me.0),
        nodes: count(state.nodes.len()),
        nodes_up: count(state.nodes.values().filter(|n| n.is_up).count()),
        drives: count(state.drives.len()),
        drives_up: count(state.drives.values().filter(|d| state.is_drive_up(d)).count()),
        groups: count(state.groups.len()),
        groups_whole: count(state.groups.values().filter(|g| state.is_whole(g)).count()),
        volumes: count(state.volumes.len()),
        total_bytes: bytes(state.drives.values().map(|d| d.total_blocks).sum()),
        used_bytes: bytes(state.drives.values().map(|d| d.used_blocks).sum()),
    })
}

/// `GET /v1/nodes`
pub async fn nodes(Shared(desk): Hand) -> Done<Vec<api::Node>> {
    let state = fresh(&desk).await?;
    let metrics = desk.raft.metrics().borrow().clone();
    let voters: Vec<u64> = metrics.membership_config.membership().voter_ids().collect();
    let node = |(id, n): (&sarsen_types::NodeId, &sarsen_control::state::Node)| api::Node {
        id: id.0,
        api: format!("http://{}", n.api),
        data: n.address.data.clone(),
        is_up: n.is_up,
        is_voter: voters.contains(&u64::from(id.0)),
        is_leader: metrics.current_leader == Some(u64::from(id.0)),
        drives: state.drives.iter().filter(|(_, d)| d.node == *id).map(|(d, _)| d.0).collect(),
    };
    Ok(Json(state.nodes.iter().map(node).collect()))
}

/// `GET /v1/drives`
pub async fn drives(Shared(desk): Hand) -> Done<Vec<api::Drive>> {
    let state = fresh(&desk).await?;
    let (mut damaged, sole) = (state.damaged(), state.sole());
    damaged.retain(|id, _| state.can_accept(*id));
    let drive = |(id, d): (&sarsen_types::DriveId, &sarsen_control::state::Drive)| api::Drive {
        id: id.0,
        identity: d.identity.to_string(),
        node: d.node.0,
        path: d.path.clone(),
        class: d.class.clone(),
        slices: d.slices,
        size: d.size,
        total_bytes: bytes(d.total_blocks),
        used_bytes: bytes(d.used_blocks),
        is_up: state.is_drive_up(d),
        is_stale: d.is_stale,
        damaged_groups: damaged.get(id).into_iter().flatten().map(|g| g.0).collect(),
        sole_groups: sole.get(id).into_iter().flatten().map(|g| g.0).collect(),
        is_given_up: d.forgetting.is_some(),
        waits_for: d.forgetting.iter().flat_map(|f| state.owners(&f.hosts)).map(str::to_owned).collect(),
        failure: d.failure.clone(),
    };
    Ok(Json(state.drives.iter().map(drive).collect()))
}

/// `POST /v1/drives/{id}/accept-damage`
pub async fn accept_damage(
    Shared(desk): Hand,
    Path(id): Path<u32>,
    headers: HeaderMap,
    Json(asked): Json<api::AcceptDamage>,
) -> Result<Json<api::Accepted>, Failure> {
    let groups = Some(named(asked.groups));
    let command = Command::AcceptDamage { drive: DriveId(id), groups };
    match write(&desk, &headers, command).await? {
        Answer::Groups(groups) => Ok(Json(api::Accepted { groups: groups.iter().map(|g| g.0).collect() })),
        other => Err(odd(&other)),
    }
}

/// `POST /v1/drives/{id}/forget`
pub async fn forget_drive(
    Shared(desk): Hand,
    Path(id): Path<u32>,
    headers: HeaderMap,
    Json(asked): Json<api::ForgetDrive>,
) -> Result<StatusCode, Failure> {
    let groups = Some(named(asked.groups));
    let command = Command::Forget { drive: DriveId(id), groups, is_powered_off: asked.powered_off };
    write(&desk, &headers, command).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Groups that a caller names, in whatever order: the same call has the same ones (R30).
fn named(groups: Vec<u32>) -> Vec<GroupId> {
    let all: std::collections::BTreeSet<u32> = groups.into_iter().collect();
    all.into_iter().map(GroupId).collect()
}

/// `GET /v1/groups`
pub async fn groups(Shared(desk): Hand) -> Done<Vec<api::Group>> {
    let state = fresh(&desk).await?;
    let group = |g: &sarsen_types::GroupState| api::Group {
        id: g.group.0,
        policy: state.policy_of(g.group).map_or_else(String::new, |(name, _)| name.to_owned()),
        epoch: g.epoch.0,
        primary: g.primary.to_string(),
        in_sync: texts(&g.in_sync),
        joining: texts(g.joining.iter().map(|j| &j.slice)),
        members: texts(g.members.iter().map(|m| &m.slice)),
        min_copies: g.min_copies,
    };
    Ok(Json(state.groups.values().map(group).collect()))
}

/// `GET /v1/pools`
pub async fn pools(Shared(desk): Hand) -> Json<Vec<api::Pool>> {
    let drives = desk.now().drives.keys().map(|d| d.0).collect();
    Json(vec![api::Pool { name: "default".into(), drives }])
}

/// `GET /v1/policies`
pub async fn policies(Shared(desk): Hand) -> Json<Vec<api::Policy>> {
    let policy = |(name, p): (&String, &sarsen_control::state::Policy)| api::Policy {
        name: name.clone(),
        pool: "default".into(),
        copies: p.copies,
        min_copies: p.min_copies,
        groups: p.table.len() as u32,
    };
    Json(desk.now().policies.iter().map(policy).collect())
}

/// Which events.
#[derive(Deserialize)]
pub struct After {
    /// Those with greater numbers.
    #[serde(default)]
    pub after: u64,
}

fn events_after(state: &State, after: u64) -> Vec<api::Event> {
    let newer = state.events.iter().filter(|e| e.number > after);
    newer.map(|e| api::Event { number: e.number, at_ms: e.at_ms, text: e.text.clone() }).collect()
}

/// `GET /v1/events?after=`
pub async fn events(Shared(desk): Hand, Query(query): Query<After>) -> Done<Vec<api::Event>> {
    Ok(Json(events_after(&*fresh(&desk).await?, query.after)))
}

/// `GET /v1/watch?after=`: as events, held until there is one, or for [`api::MAP_WAIT_SECONDS`]. Any node answers, from its own
/// copy of the metadata.
pub async fn watch(Shared(desk): Hand, Query(query): Query<After>) -> Json<Vec<api::Event>> {
    let until = Instant::now() + Duration::from_secs(api::MAP_WAIT_SECONDS);
    let mut states = desk.state.clone();
    loop {
        let events = events_after(&states.borrow_and_update(), query.after);
        // nothing comes any more in time, or from a node that stops
        if !events.is_empty() || !matches!(tokio::time::timeout_at(until, states.changed()).await, Ok(Ok(())))
        {
            return Json(events);
        }
    }
}

fn settings_of(state: &State) -> api::Settings {
    api::Settings { down_out_seconds: Some(state.settings.down_out_ms / 1000) }
}

/// `GET /v1/settings`
pub async fn settings(Shared(desk): Hand) -> Json<api::Settings> {
    Json(settings_of(&desk.now()))
}

/// `PATCH /v1/settings`
pub async fn set(
    Shared(desk): Hand,
    headers: HeaderMap,
    Json(asked): Json<api::Settings>,
) -> Result<Json<api::Settings>, Failure> {
    if let Some(seconds) = asked.down_out_seconds {
        let ms = seconds.saturating_mul(1000);
        write(&desk, &headers, Command::SetDownOut { ms }).await?;
    }
    Ok(Json(settings_of(&desk.now())))
}
