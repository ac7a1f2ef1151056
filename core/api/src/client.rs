//! The typed client: a list of nodes, of which it asks one that answers.
use crate::error::{ApiError, ErrorBody};
use crate::types::*;
use crate::{MAP_WAIT_SECONDS, REQUEST_HEADER};
use rand::TryRngCore;
use reqwest::{Method, Response, StatusCode};
use sarsen_types::{AttachmentId, Revision, SessionId, VolumeMap};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A node that does not take a connection by then is dead.
const CONNECT_MAX: Duration = Duration::from_millis(1500);
/// An answer is waited for this long, beside the wait that was asked for.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long a cluster may take to elect a leader, before its `no_leader` is handed to the caller.
const LEADER_MAX: Duration = Duration::from_secs(10);
/// A node that is silent for this long while it is waited for is asked whether it is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(2);
/// And so often again.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// One whose machine says nothing for this long, to that or to a call, is dead: nothing else tells of one that lost its power.
const SILENT_MAX: Duration = Duration::from_secs(4);
/// Between two rounds over all nodes.
const ROUND: Duration = Duration::from_millis(100);

/// See the module. Cheap to share by reference; all calls may run at once.
pub struct Client {
    http: reqwest::Client,
    urls: Vec<String>,
    /// The node that was asked last, whether it answered or not.
    last: AtomicUsize,
    token: Option<String>,
    patience: Duration,
}

impl Client {
    /// A client of the nodes at `urls` (`http://ip:port`, or `ip:port`). Asks nobody yet.
    pub fn new(urls: Vec<String>, token: Option<String>) -> Result<Client, ApiError> {
        let mut clean = Vec::new();
        for url in urls.iter().map(|u| u.trim().trim_end_matches('/')).filter(|u| !u.is_empty()) {
            let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
            let parsed = reqwest::Url::parse(&url)
                .map_err(|why| ApiError::Urls(format!("{url} is not a URL: {why}")))?;
            if parsed.scheme() != "http" {
                return Err(ApiError::Urls(format!("{url}: nodes speak HTTP: give http://IP:PORT")));
            }
            clean.push(url);
        }
        if clean.is_empty() {
            return Err(ApiError::Urls("no URL of a node was given: set SARSEN_API or pass --api".into()));
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_MAX)
            .tcp_keepalive(KEEPALIVE_IDLE)
            .tcp_keepalive_interval(KEEPALIVE_INTERVAL)
            .tcp_user_timeout(SILENT_MAX)
            .no_proxy()
            .build()
            .map_err(|why| ApiError::Urls(format!("no HTTP client: {why}")))?;
        Ok(Client { http, urls: clean, last: AtomicUsize::new(0), token, patience: LEADER_MAX })
    }
    /// From a list separated by commas, as in `SARSEN_API`.
    pub fn from_list(list: &str, token: Option<String>) -> Result<Client, ApiError> {
        Client::new(list.split(',').map(str::to_owned).collect(), token)
    }
    /// How long to go on while nodes answer that there is no leader; zero for a single round.
    pub fn with_patience(mut self, patience: Duration) -> Client {
        self.patience = patience;
        self
    }
    /// The nodes it asks.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Whether any node answers anything at all.
    pub async fn is_answering(&self) -> bool {
        for url in &self.urls {
            if self.http.get(format!("{url}/v1/ping")).timeout(ANSWER_MAX).send().await.is_ok() {
                return true;
            }
        }
        false
    }
    /// How the cluster is.
    pub async fn status(&self) -> Result<Status, ApiError> {
        self.get("/v1/status").await
    }
    /// Nodes.
    pub async fn nodes(&self) -> Result<Vec<Node>, ApiError> {
        self.get("/v1/nodes").await
    }
    /// Drives.
    pub async fn drives(&self) -> Result<Vec<Drive>, ApiError> {
        self.get("/v1/drives").await
    }
    /// Takes what a drive holds as it is, in these groups, of which it has the only copy in sync (R28).
    pub async fn accept_damage(&self, drive: u32, groups: &[u32]) -> Result<Accepted, ApiError> {
        let path = format!("/v1/drives/{drive}/accept-damage");
        let body = AcceptDamage { groups: groups.to_vec() };
        self.call(Method::POST, &path, Some(&body), Duration::ZERO).await
    }
    /// Gives up a drive that is gone for good, and with it these groups, of which it has the only complete copy: it vanishes from
    /// `drives` once no host can use it any more (R28).
    pub async fn forget_drive(&self, drive: u32, groups: &[u32], powered_off: bool) -> Result<(), ApiError> {
        let path = format!("/v1/drives/{drive}/forget");
        let body = ForgetDrive { groups: groups.to_vec(), powered_off };
        self.call::<_, Empty>(Method::POST, &path, Some(&body), Duration::ZERO).await.map(|_| ())
    }
    /// Groups.
    pub async fn groups(&self) -> Result<Vec<Group>, ApiError> {
        self.get("/v1/groups").await
    }
    /// Pools.
    pub async fn pools(&self) -> Result<Vec<Pool>, ApiError> {
        self.get("/v1/pools").await
    }
    /// Policies.
    pub async fn policies(&self) -> Result<Vec<Policy>, ApiError> {
        self.get("/v1/policies").await
    }
    /// Settings.
    pub async fn settings(&self) -> Result<Settings, ApiError> {
        self.get("/v1/settings").await
    }
    /// Changes the settings that are said.
    pub async fn set(&self, settings: &Settings) -> Result<Settings, ApiError> {
        self.call(Method::PATCH, "/v1/settings", Some(settings), Duration::ZERO).await
    }
    /// What happened after event number `after`, oldest first.
    pub async fn events(&self, after: u64) -> Result<Vec<Event>, ApiError> {
        self.get(&format!("/v1/events?after={after}")).await
    }
    /// As events, but waits for one: none after [`MAP_WAIT_SECONDS`].
    pub async fn watch(&self, after: u64) -> Result<Vec<Event>, ApiError> {
        let wait = Duration::from_secs(MAP_WAIT_SECONDS);
        self.call::<(), _>(Method::GET, &format!("/v1/watch?after={after}"), None, wait).await
    }
    /// Volumes.
    pub async fn volumes(&self) -> Result<Vec<Volume>, ApiError> {
        self.get("/v1/volumes").await
    }
    /// The volume called `name`.
    pub async fn volume(&self, name: &str) -> Result<Volume, ApiError> {
        self.get(&format!("/v1/volumes/{}", escape(name))).await
    }
    /// Makes a volume; answers the one there is when its name and size are the same.
    pub async fn create_volume(&self, create: &CreateVolume) -> Result<Volume, ApiError> {
        self.call(Method::POST, "/v1/volumes", Some(create), Duration::ZERO).await
    }
    /// Grows a volume to `size` bytes.
    pub async fn grow_volume(&self, name: &str, size: u64) -> Result<Volume, ApiError> {
        let path = format!("/v1/volumes/{}/grow", escape(name));
        self.call(Method::POST, &path, Some(&GrowVolume { size }), Duration::ZERO).await
    }
    /// Deletes a volume with all its data; with `id` only the one of that number, should another have the name by now.
    pub async fn delete_volume(&self, name: &str, id: Option<u64>) -> Result<(), ApiError> {
        let which = id.map_or_else(String::new, |id| format!("?id={id}"));
        let path = format!("/v1/volumes/{}{which}", escape(name));
        self.call::<(), Empty>(Method::DELETE, &path, None, Duration::ZERO).await.map(|_| ())
    }
    /// Attachments of all volumes.
    pub async fn attachments(&self) -> Result<Vec<Attachment>, ApiError> {
        self.get("/v1/attachments").await
    }
    /// The right to use a volume. Refused with `attached` when another has it (R44).
    pub async fn attach(&self, volume: &str, attach: &Attach) -> Result<Attached, ApiError> {
        let path = format!("/v1/volumes/{}/attachments", escape(volume));
        self.call(Method::POST, &path, Some(attach), Duration::ZERO).await
    }
    /// Gives the right of a session back, after everything was answered; that of a newer session stays.
    pub async fn release(&self, attachment: AttachmentId, session: SessionId) -> Result<(), ApiError> {
        let path = format!("/v1/attachments/{}?session={}", attachment.0, session.0);
        self.call::<(), Empty>(Method::DELETE, &path, None, Duration::ZERO).await.map(|_| ())
    }
    /// Takes the right of a session away; with `force`, whatever session has it by now, it ends when all groups refuse its requests (R31), which is seen in `attachments`.
    pub async fn detach(
        &self,
        attachment: AttachmentId,
        session: SessionId,
        force: bool,
    ) -> Result<(), ApiError> {
        let path = format!("/v1/attachments/{}/detach", attachment.0);
        let body = Detach { session: Some(session.0), force };
        self.call::<_, Empty>(Method::POST, &path, Some(&body), Duration::ZERO).await.map(|_| ())
    }
    /// What a client of the attachment must know, once it is newer than `after`; else, after 20 seconds, as it is. Who asks
    /// says by it that `session` goes by no map older than `after` any more, and has closed what it knew only from those (R28).
    pub async fn volume_map(
        &self,
        attachment: AttachmentId,
        session: SessionId,
        after: Revision,
    ) -> Result<VolumeMap, ApiError> {
        let path = format!("/v1/attachments/{}/map?after={}&session={}", attachment.0, after.0, session.0);
        let map: VolumeMap =
            self.call::<(), _>(Method::GET, &path, None, Duration::from_secs(MAP_WAIT_SECONDS)).await?;
        if map.revision <= after {
            // it knows of nothing new, be it cut off from those that do: another is asked next
            self.ask_another();
        }
        Ok(map)
    }

    /// The next call asks the next node first: there is reason to doubt the one that was asked last. That may be one that is
    /// being asked, and is not waited for (found in review: it was asked again instead, when those before it were down).
    pub fn ask_another(&self) {
        let next = |last| Some((last + 1) % self.urls.len());
        let _ = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, ApiError> {
        self.call::<(), A>(Method::GET, path, None, Duration::ZERO).await
    }

    /// Asks one node after the other until one answers. A repeated change carries the id of its first sending.
    async fn call<B: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        wait: Duration,
    ) -> Result<A, ApiError> {
        let id = request_id();
        let until = Instant::now() + self.patience;
        loop {
            let mut tried = Vec::new();
            let mut passing = None;
            let first = self.last.load(Ordering::Relaxed);
            for at in 0..self.urls.len() {
                let at = (first + at) % self.urls.len();
                let url = &self.urls[at];
                self.last.store(at, Ordering::Relaxed);
                let mut request = self
                    .http
                    .request(method.clone(), format!("{url}{path}"))
                    .timeout(ANSWER_MAX + wait)
                    .header(REQUEST_HEADER, &id);
                if let Some(token) = &self.token {
                    request = request.bearer_auth(token);
                }
                if let Some(body) = body {
                    request = request.json(body);
                }
                match request.send().await {
                    Err(why) => tried.push(format!("{url}: {}", innermost(&why))),
                    Ok(response) => match read(url, response).await {
                        Ok(answer) => return Ok(answer),
                        Err(why) if why.is_passing() => passing = Some(why),
                        Err(why) => return Err(why),
                    },
                }
            }
            match passing {
                None => return Err(ApiError::Unreachable { tried }),
                Some(why) if Instant::now() >= until => return Err(why),
                Some(_) => tokio::time::sleep(ROUND).await,
            }
        }
    }
}

/// An answer without content.
#[derive(serde::Deserialize)]
struct Empty {}

async fn read<A: DeserializeOwned>(url: &str, response: Response) -> Result<A, ApiError> {
    let status = response.status();
    let lost = |why: reqwest::Error| ApiError::Unreachable { tried: vec![format!("{url}: {why}")] };
    let bytes = response.bytes().await.map_err(lost)?;
    let garbled = |why: String| ApiError::Garbled { url: url.to_owned(), why };
    if status.is_success() {
        let text: &[u8] = if status == StatusCode::NO_CONTENT { b"{}" } else { &bytes };
        return serde_json::from_slice(text).map_err(|why| garbled(why.to_string()));
    }
    match serde_json::from_slice::<ErrorBody>(&bytes) {
        Ok(body) => Err(ApiError::Refused { status: status.as_u16(), body }),
        Err(_) => Err(garbled(format!("HTTP status {status}"))),
    }
}

/// The cause of a failure that a reader can use ("connection refused"), not the layers above it.
fn innermost(why: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = why;
    while let Some(next) = deepest.source() {
        deepest = next;
    }
    deepest.to_string()
}

fn request_id() -> String {
    let mut bytes = [0; 16];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).expect("the system has randomness");
    format!("{:032x}", u128::from_le_bytes(bytes))
}

fn escape(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    name.bytes().map(|b| if plain(b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}
