//! How a node becomes one of the cluster: it asks any node it was told of, and the leader gives it a number.
use super::api::{Failure, Hand};
use super::desk::{Desk, FORWARDED, address_of, no_leader, post};
use axum::Json;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode};
use openraft::BasicNode;
use sarsen_api::ErrorBody;
use sarsen_control::{Answer, Command};
use sarsen_types::view::NodeAddress;
use sarsen_types::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// How long to look for a node that takes us in.
const JOIN_MAX: Duration = Duration::from_secs(60);
/// Between two rounds over the nodes we were told of.
const ROUND: Duration = Duration::from_millis(200);

/// Who asks to be one of the cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wish {
    /// From its directory.
    pub identity: u128,
    /// `ip:port` of its API.
    pub api: String,
    /// Its data port.
    pub address: NodeAddress,
}

/// It is one now.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// Its number.
    pub node: NodeId,
    /// The cluster's id.
    pub cluster: ClusterId,
}

/// `POST /internal/join`
pub async fn accept(
    Shared(desk): Hand,
    headers: HeaderMap,
    Json(wish): Json<Wish>,
) -> Result<Json<Welcome>, Failure> {
    match desk.leader() {
        Some(Ok(())) => Ok(Json(take_in(&desk, wish).await?)),
        Some(Err(address)) if !headers.contains_key(FORWARDED) => {
            Ok(Json(desk.hand_on(&address, "/internal/join", &wish).await?))
        }
        _ => Err(no_leader().into()),
    }
}

async fn take_in(desk: &Desk, wish: Wish) -> Result<Welcome, Failure> {
    let Wish { identity, api, address } = wish;
    let taken = desk.now().nodes.values().any(|n| n.api == api && n.identity != identity);
    if taken {
        let body =
            ErrorBody::new("exists", format!("another node of this cluster has the API address {api}"));
        return Err(Failure(StatusCode::CONFLICT, body.hint("give each node an address of its own")));
    }
    let outcome = desk.write(Command::Node { identity, api: api.clone(), address }, None).await?;
    let Answer::Node(node) = outcome.answer else { return Err(no_leader().into()) };
    // A learner first; it votes when it has caught up.
    let added = desk.raft.add_learner(u64::from(node.0), BasicNode::new(api), false).await;
    added.map_err(|_| no_leader())?;
    Ok(Welcome { node, cluster: desk.now().cluster })
}

/// Asks the nodes at `through` until one takes us in, or refuses.
pub async fn ask(
    http: &reqwest::Client,
    token: Option<&str>,
    through: &[String],
    wish: &Wish,
) -> anyhow::Result<Welcome> {
    let until = Instant::now() + JOIN_MAX;
    loop {
        let mut last = None;
        for url in through {
            match post(http, token, address_of(url), "/internal/join", wish, Duration::from_secs(5)).await {
                Ok(welcome) => return Ok(welcome),
                Err(why) if ["unreachable", "no_leader"].contains(&why.code.as_str()) => last = Some(why),
                Err(why) => {
                    let hint = why.hint.map_or_else(String::new, |h| format!(": {h}"));
                    anyhow::bail!("the cluster does not take this node in: {}{hint}", why.message);
                }
            }
        }
        if Instant::now() >= until {
            let why = last.map_or_else(|| "no URL was given".to_owned(), |l| l.message);
            anyhow::bail!("no node of --join took this one in for {} s: {why}", JOIN_MAX.as_secs());
        }
        tokio::time::sleep(ROUND).await;
    }
}
