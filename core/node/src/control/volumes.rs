//! Volumes and attachments over the API. Names become ids here, once, at the leader (R30).
use super::api::{Failure, Hand, invalid, odd, request_id, write};
use super::desk::{Desk, no_leader};
use axum::Json;
use axum::extract::{Path, Query, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use sarsen_api as api;
use sarsen_api::{ErrorBody, MAP_WAIT_SECONDS};
use sarsen_control::state::{Attachment, State, Volume};
use sarsen_control::{Answer, Command};
use sarsen_types::{AttachmentId, Revision, SessionId, VolumeId, VolumeMap};
use serde::Deserialize;
use std::time::Duration;
use tokio::time::Instant;

/// An answer, or a failure.
pub type Done<T> = Result<Json<T>, Failure>;

fn attachment_of(state: &State, id: AttachmentId, a: &Attachment) -> api::Attachment {
    api::Attachment {
        id: id.0,
        volume_id: a.volume.0,
        volume: state.volumes.get(&a.volume).map_or_else(String::new, |v| v.name.clone()),
        owner: a.owner.clone(),
        generation: a.generation.0,
        session: a.session.0,
        exclusive: a.exclusive,
        read_only: a.read_only,
        is_detaching: a.fencing.is_some(),
    }
}
fn volume_of(state: &State, id: VolumeId, v: &Volume) -> api::Volume {
    api::Volume {
        id: id.0,
        name: v.name.clone(),
        size: v.size,
        policy: v.policy.clone(),
        attachments: state.attachments_of(id).map(|(at, a)| attachment_of(state, at, a)).collect(),
    }
}
fn named(state: &State, name: &str) -> Result<VolumeId, Failure> {
    state.volume_named(name).map(|(id, _)| id).ok_or_else(|| {
        let body = ErrorBody::new("not_found", format!("there is no volume {name}"));
        Failure(StatusCode::NOT_FOUND, body.hint("`sarsen volume list` shows those there are"))
    })
}

/// A leader's own state may lack what it committed before it was asked: it confirms that it leads, and catches up.
pub async fn fresh(desk: &Desk) -> Result<std::sync::Arc<State>, Failure> {
    let confirmed = tokio::time::timeout(Duration::from_secs(2), desk.raft.ensure_linearizable()).await;
    match confirmed {
        Ok(Ok(_)) => Ok(desk.now()),
        _ => Err(no_leader().into()),
    }
}

fn shown(desk: &Desk, answer: &Answer) -> Done<api::Volume> {
    let state = desk.now();
    let found = match answer {
        Answer::Volume(id) => state.volumes.get(id).map(|v| volume_of(&state, *id, v)),
        _ => None,
    };
    found.map(Json).ok_or_else(|| {
        let body = ErrorBody::new("not_found", "the volume was deleted in the meantime");
        Failure(StatusCode::NOT_FOUND, body)
    })
}

/// `GET /v1/volumes`
pub async fn list(Shared(desk): Hand) -> Done<Vec<api::Volume>> {
    let state = fresh(&desk).await?;
    Ok(Json(state.volumes.iter().map(|(id, v)| volume_of(&state, *id, v)).collect()))
}

/// `POST /v1/volumes`
pub async fn create(
    Shared(desk): Hand,
    headers: HeaderMap,
    Json(asked): Json<api::CreateVolume>,
) -> Done<api::Volume> {
    let policy = asked.policy.unwrap_or_else(|| "default".into());
    let command = Command::CreateVolume { name: asked.name, size: asked.size, policy };
    shown(&desk, &write(&desk, &headers, command).await?)
}

/// `GET /v1/volumes/{name}`
pub async fn show(Shared(desk): Hand, Path(name): Path<String>) -> Done<api::Volume> {
    let state = fresh(&desk).await?;
    let id = named(&state, &name)?;
    Ok(Json(volume_of(&state, id, &state.volumes[&id])))
}

/// `POST /v1/volumes/{name}/grow`
pub async fn grow(
    Shared(desk): Hand,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(asked): Json<api::GrowVolume>,
) -> Done<api::Volume> {
    let volume = named(&*fresh(&desk).await?, &name)?;
    shown(&desk, &write(&desk, &headers, Command::GrowVolume { volume, size: asked.size }).await?)
}

/// Which volume of a name.
#[derive(Deserialize)]
pub struct Which {
    /// Its number, where the caller looked: another that has the name by now is left alone.
    pub id: Option<u64>,
}

/// `DELETE /v1/volumes/{name}?id=`: the name is resolved once; a call that is repeated, under its id, does not touch what has
/// the name since.
pub async fn delete(
    Shared(desk): Hand,
    Path(name): Path<String>,
    Query(which): Query<Which>,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    let state = fresh(&desk).await?;
    // A repeated call, whose first took effect, finds the name gone, or another's: its request id tells (R30).
    let answered = request_id(&headers)?.is_some_and(|id| state.answered.contains_key(&id));
    let volume = match answered {
        true => VolumeId(0), // the remembered answer is given, if it is this call's
        false => named(&state, &name)?,
    };
    if let Some(id) = which.id.filter(|id| !answered && *id != volume.0) {
        let what = format!("volume {name} is number {volume} by now, and not {id}");
        let hint = "`sarsen volume show` tells what it is";
        return Err(Failure(StatusCode::NOT_FOUND, ErrorBody::new("not_found", what).hint(hint)));
    }
    write(&desk, &headers, Command::DeleteVolume { volume, name: Some(name) }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/volumes/{name}/attachments`
pub async fn attach(
    Shared(desk): Hand,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(asked): Json<api::Attach>,
) -> Done<api::Attached> {
    let volume = named(&*fresh(&desk).await?, &name)?;
    let api::Attach { owner, exclusive, read_only } = asked;
    let command = Command::Attach { volume, owner, exclusive, read_only };
    match write(&desk, &headers, command).await? {
        Answer::Attached { attachment, generation, session } => {
            Ok(Json(api::Attached { id: attachment.0, generation: generation.0, session: session.0 }))
        }
        other => Err(odd(&other)),
    }
}

/// `GET /v1/attachments`
pub async fn attachments(Shared(desk): Hand) -> Done<Vec<api::Attachment>> {
    let state = fresh(&desk).await?;
    Ok(Json(state.attachments.iter().map(|(id, a)| attachment_of(&state, *id, a)).collect()))
}

/// Which life of an owner.
#[derive(Deserialize)]
pub struct Life {
    /// Its session.
    pub session: Option<u64>,
}

/// Ends one session; it is named, since another may have begun.
fn release_of(id: u64, session: Option<u64>) -> Result<Command, Failure> {
    let Some(session) = session.map(SessionId) else {
        return Err(invalid(
            "the session that is to end is not named",
            "`session`, as GET /v1/attachments lists it",
        ));
    };
    Ok(Command::Release { attachment: AttachmentId(id), session: Some(session) })
}

/// `DELETE /v1/attachments/{id}?session=`
pub async fn release(
    Shared(desk): Hand,
    Path(id): Path<u64>,
    Query(life): Query<Life>,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    write(&desk, &headers, release_of(id, life.session)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/attachments/{id}/detach`
pub async fn detach(
    Shared(desk): Hand,
    Path(id): Path<u64>,
    headers: HeaderMap,
    Json(asked): Json<api::Detach>,
) -> Result<StatusCode, Failure> {
    let command = match asked.force {
        true => Command::DetachForced { attachment: AttachmentId(id) },
        false => release_of(id, asked.session)?,
    };
    write(&desk, &headers, command).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a map is asked to be newer than, and by whom.
#[derive(Deserialize)]
pub struct After {
    /// A revision: older maps are used no more.
    #[serde(default)]
    pub after: u64,
    /// The session that does not.
    #[serde(default)]
    pub session: u64,
}

/// `GET /v1/attachments/{id}/map?after=`: from this node's own metadata, so that clients learn of changes while a
/// leader is elected; a node that lags behind what the client knows waits until it does not.
pub async fn map(Shared(desk): Hand, Path(id): Path<u64>, Query(query): Query<After>) -> Done<VolumeMap> {
    let (id, after, session) = (AttachmentId(id), Revision(query.after), SessionId(query.session));
    let until = Instant::now() + Duration::from_secs(MAP_WAIT_SECONDS);
    let mut states = desk.state.clone();
    let (mut asked_leader, mut has_passed) = (false, false);
    loop {
        let state = states.borrow_and_update().clone();
        if !has_passed && state.waits_to_pass(id, after) {
            has_passed = true;
            let command = Command::Passed { attachment: id, session, revision: after };
            // without a leader it is said with the next call
            let _ = desk.try_ask(&command, None).await;
            continue;
        }
        match state.volume_map(id) {
            Some(map) if state.map_revision > after || Instant::now() >= until => return Ok(Json(map)),
            Some(_) => {}
            None if asked_leader && state.revision >= after => return Err(gone(&state, id)),
            // It may be newer than what this node has applied: the leader's index tells.
            None => {
                catch_up(&desk).await?;
                asked_leader = true;
                continue;
            }
        }
        let _ = tokio::time::timeout_at(until, states.changed()).await;
    }
}

/// Waits until this node has applied what the leader had committed when it was asked.
async fn catch_up(desk: &Desk) -> Result<(), Failure> {
    let index: u64 = match desk.leader() {
        None => return Err(no_leader().into()),
        Some(Ok(())) => {
            fresh(desk).await?;
            return Ok(());
        }
        Some(Err(address)) => desk.post(&address, "/internal/index", &()).await?,
    };
    match tokio::time::timeout(Duration::from_secs(2), desk.reach(index)).await {
        Ok(()) => Ok(()),
        Err(_) => Err(no_leader().into()),
    }
}

fn gone(state: &State, id: AttachmentId) -> Failure {
    let taken = state.attachments.get(&id).is_some_and(|a| a.fencing.is_some());
    let what = if taken { "is being taken away by force" } else { "does not exist (any more)" };
    Failure(StatusCode::NOT_FOUND, ErrorBody::new("not_found", format!("attachment {id} {what}")))
}

/// `POST /internal/index`: the entry that a state must show to contain all that was committed so far.
pub async fn index(Shared(desk): Hand) -> Done<u64> {
    fresh(&desk).await?;
    Ok(Json(*desk.index.borrow()))
}
