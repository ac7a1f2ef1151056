//! The REST API: any node answers; what needs the leader is handed on to it.
use super::desk::{Alive, Desk, FORWARDED, Outcome, no_leader};
use super::{answers, volumes};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use sarsen_api::token::is_equal;
use sarsen_api::{ErrorBody, REQUEST_HEADER};
use sarsen_control::{Answer, Command, Entry, Refusal, RefusalKind};
use sarsen_types::Revision;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a request of a client.
const BODY_MAX: usize = 1 << 20;
/// Bytes of a message between nodes: a part of a snapshot is the longest.
const NODE_BODY_MAX: usize = 64 << 20;
/// How long the leader may take for a request that was handed on.
const FORWARD_MAX: Duration = Duration::from_secs(30);

/// Digits of an id of a request, at most.
const ID_DIGITS: usize = 32;
/// What an id of a request is.
const ID_HINT: &str =
    "1 to 32 hexadecimal digits, the same when the call is repeated, and others for every other call";

/// The desk as handlers get it.
pub type Hand = Shared<Arc<Desk>>;

/// A failure with its HTTP status.
#[derive(Debug)]
pub struct Failure(pub StatusCode, pub ErrorBody);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}
impl From<Refusal> for Failure {
    fn from(why: Refusal) -> Failure {
        let (status, code) = match why.kind {
            RefusalKind::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            RefusalKind::Exists => (StatusCode::CONFLICT, "exists"),
            RefusalKind::Attached => (StatusCode::CONFLICT, "attached"),
            RefusalKind::Unable | RefusalKind::Early => (StatusCode::CONFLICT, "unable"),
            RefusalKind::Invalid => (StatusCode::BAD_REQUEST, "invalid"),
        };
        Failure(status, ErrorBody { code: code.into(), message: why.message, hint: why.hint })
    }
}
impl From<ErrorBody> for Failure {
    /// Of the way to the leader: it passes.
    fn from(body: ErrorBody) -> Failure {
        Failure(StatusCode::SERVICE_UNAVAILABLE, body)
    }
}

/// All routes.
pub fn router(desk: Arc<Desk>) -> Router {
    let led = Router::new()
        .route("/v1/status", get(answers::status))
        .route("/v1/nodes", get(answers::nodes))
        .route("/v1/drives", get(answers::drives))
        .route("/v1/drives/{id}/accept-damage", post(answers::accept_damage))
        .route("/v1/drives/{id}/forget", post(answers::forget_drive))
        .route("/v1/groups", get(answers::groups))
        .route("/v1/pools", get(answers::pools))
        .route("/v1/policies", get(answers::policies))
        .route("/v1/events", get(answers::events))
        .route("/v1/settings", get(answers::settings).patch(answers::set))
        .route("/v1/volumes", get(volumes::list).post(volumes::create))
        .route("/v1/volumes/{name}", get(volumes::show).delete(volumes::delete))
        .route("/v1/volumes/{name}/grow", post(volumes::grow))
        .route("/v1/volumes/{name}/attachments", post(volumes::attach))
        .route("/v1/attachments", get(volumes::attachments))
        .route("/v1/attachments/{id}", delete(volumes::release))
        .route("/v1/attachments/{id}/detach", post(volumes::detach))
        .layer(middleware::from_fn_with_state(desk.clone(), to_leader));
    let own = Router::new()
        .route("/v1/attachments/{id}/map", get(volumes::map))
        .route("/v1/watch", get(answers::watch));
    let clients = led
        .merge(own)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn_with_state(desk.clone(), check_admin));
    let nodes = Router::new()
        .route("/raft/append", post(append))
        .route("/raft/vote", post(vote))
        .route("/raft/snapshot", post(snapshot))
        .route("/internal/command", post(command))
        .route("/internal/alive", post(alive))
        .route("/internal/index", post(volumes::index))
        .route("/internal/state", post(lend))
        .route("/internal/join", post(super::join::accept))
        .layer(DefaultBodyLimit::max(NODE_BODY_MAX))
        .layer(middleware::from_fn_with_state(desk.clone(), check_node));
    let open = Router::new().route("/v1/ping", get(async || Json(serde_json::json!({ "name": "sarsen" }))));
    Router::new().merge(clients).merge(nodes).merge(open).fallback(unknown).with_state(desk)
}

async fn unknown() -> Failure {
    Failure(StatusCode::NOT_FOUND, ErrorBody::new("no_such_path", "the API has no such path"))
}

fn shows(headers: &HeaderMap, token: Option<&String>) -> bool {
    let Some(token) = token else { return true };
    let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    given.and_then(|v| v.strip_prefix("Bearer ")).is_some_and(|given| is_equal(given, token))
}
fn unauthorized() -> Response {
    let body = ErrorBody::new("unauthorized", "the request shows no token of this cluster");
    Failure(StatusCode::UNAUTHORIZED, body.hint("set SARSEN_TOKEN to what `sarsen key token FILE` prints"))
        .into_response()
}
async fn check_admin(Shared(desk): Hand, request: Request, next: Next) -> Response {
    let (headers, is_node) = (request.headers(), desk.node_token.is_some());
    if shows(headers, desk.admin_token.as_ref()) || is_node && shows(headers, desk.node_token.as_ref()) {
        return next.run(request).await;
    }
    unauthorized()
}
async fn check_node(Shared(desk): Hand, request: Request, next: Next) -> Response {
    match shows(request.headers(), desk.node_token.as_ref()) {
        true => next.run(request).await,
        false => unauthorized(),
    }
}

/// Hands a request on to the leader, once.
async fn to_leader(Shared(desk): Hand, request: Request, next: Next) -> Response {
    let address = match desk.leader() {
        Some(Ok(())) => return next.run(request).await,
        Some(Err(address)) if !request.headers().contains_key(FORWARDED) => address,
        // how the cluster is can be said without a leader, and that is then the worst of it
        _ if is_status(&request) && !answers::comes_a_leader(&desk).await => return next.run(request).await,
        _ => return Failure::from(no_leader()).into_response(),
    };
    let is_status = is_status(&request);
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, BODY_MAX).await else {
        let body = ErrorBody::new("too_long", format!("a request has at most {BODY_MAX} bytes"));
        return Failure(StatusCode::PAYLOAD_TOO_LARGE, body).into_response();
    };
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let mut onward = desk.http.request(parts.method, format!("http://{address}{path}")).timeout(FORWARD_MAX);
    onward = onward.header(FORWARDED, "1").body(body);
    for name in [REQUEST_HEADER, "authorization", "content-type"] {
        if let Some(value) = parts.headers.get(name) {
            onward = onward.header(name, value);
        }
    }
    match onward.send().await {
        Ok(answer) => {
            let status = answer.status();
            let kind = answer.headers().get(header::CONTENT_TYPE).cloned();
            match answer.bytes().await {
                Ok(bytes) => {
                    let mut response = (status, bytes).into_response();
                    if let Some(kind) = kind {
                        response.headers_mut().insert(header::CONTENT_TYPE, kind);
                    }
                    response
                }
                Err(_) => Failure::from(no_leader()).into_response(),
            }
        }
        Err(_) if is_status && !answers::comes_a_leader(&desk).await => {
            answers::status(Shared(desk)).await.into_response()
        }
        Err(_) => Failure::from(no_leader()).into_response(),
    }
}

fn is_status(request: &Request) -> bool {
    request.uri().path() == "/v1/status"
}

/// A request that makes no sense, and what would.
pub fn invalid(what: impl Into<String>, hint: &str) -> Failure {
    Failure(StatusCode::BAD_REQUEST, ErrorBody::new("invalid", what).hint(hint))
}

/// The answer of another call, remembered under the id of this one since before ids stood for their calls.
pub fn odd(answer: &Answer) -> Failure {
    invalid(format!("the id of this call was used for another call, which was answered {answer:?}"), ID_HINT)
}

/// The caller's id of its request (R30), if it gives one.
pub fn request_id(headers: &HeaderMap) -> Result<Option<u128>, Failure> {
    let Some(given) = headers.get(REQUEST_HEADER) else { return Ok(None) };
    let is_id = |v: &&str| (1..=ID_DIGITS).contains(&v.len()) && v.bytes().all(|b| b.is_ascii_hexdigit());
    let digits = given.to_str().ok().filter(is_id);
    // taken for none, what is repeated would be done twice (found in review)
    let id = digits.and_then(|v| u128::from_str_radix(v, 16).ok());
    id.map(Some).ok_or_else(|| invalid(format!("the header {REQUEST_HEADER} holds no id"), ID_HINT))
}

/// Has the metadata changed, once for a request's id (R30); what is refused is a failure.
pub async fn write(desk: &Desk, headers: &HeaderMap, command: Command) -> Result<Answer, Failure> {
    let request = request_id(headers)?;
    if request.is_none() && command.is_destructive() {
        let what =
            format!("a call that takes something away has an id of its own: the header {REQUEST_HEADER}");
        return Err(invalid(what, ID_HINT));
    }
    match desk.write(command, request).await?.answer {
        Answer::Refused(why) => Err(why.into()),
        answer => Ok(answer),
    }
}

/// A message between nodes; garbage is refused.
fn read<T: serde::de::DeserializeOwned>(bytes: &Bytes) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|why| {
        let body = ErrorBody::new("invalid", format!("not a message of this version of Sarsen: {why}"));
        Failure(StatusCode::BAD_REQUEST, body)
    })
}
async fn append(Shared(desk): Hand, bytes: Bytes) -> Result<Response, Failure> {
    Ok(Json(desk.raft.append_entries(read(&bytes)?).await).into_response())
}
async fn vote(Shared(desk): Hand, bytes: Bytes) -> Result<Response, Failure> {
    Ok(Json(desk.raft.vote(read(&bytes)?).await).into_response())
}
async fn snapshot(Shared(desk): Hand, bytes: Bytes) -> Result<Response, Failure> {
    Ok(Json(desk.raft.install_snapshot(read(&bytes)?).await).into_response())
}
async fn command(Shared(desk): Hand, headers: HeaderMap, bytes: Bytes) -> Result<Json<Outcome>, Failure> {
    let entry: Entry = read(&bytes)?;
    match desk.leader() {
        Some(Ok(())) => Ok(Json(desk.write(entry.command, entry.request).await?)),
        Some(Err(address)) if !headers.contains_key(FORWARDED) => {
            Ok(Json(desk.hand_on(&address, "/internal/command", &entry).await?))
        }
        _ => Err(no_leader().into()),
    }
}
async fn alive(Shared(desk): Hand, headers: HeaderMap, bytes: Bytes) -> Result<Json<u64>, Failure> {
    let alive: Alive = read(&bytes)?;
    match desk.leader() {
        Some(Ok(())) => Ok(Json(desk.hear(&alive))),
        Some(Err(address)) if !headers.contains_key(FORWARDED) => {
            Ok(Json(desk.hand_on(&address, "/internal/alive", &alive).await?))
        }
        _ => Err(no_leader().into()),
    }
}
/// The entry that the metadata of this node show, for one that has no newer ones, and they themselves where its are older.
async fn lend(Shared(desk): Hand, bytes: Bytes) -> Result<Response, Failure> {
    let after: Revision = read(&bytes)?;
    let index = *desk.index.borrow();
    let state = desk.now();
    let newer = (state.revision > after).then_some(&*state);
    Ok(Json((state.revision >= after).then_some((index, newer))).into_response())
}
