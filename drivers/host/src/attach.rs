//! The right to use a volume: asked for, followed while the export runs, given back at its end (R44).
use crate::doubt::Doubts;
use crate::serve::{Bound, FLUSH_MAX, Served, Told, bind};
use anyhow::{Context, anyhow, bail};
use sarsen_api::{ApiError, Attach, Client};
use sarsen_types::{AttachmentId, ClusterId, Generation, Revision, SessionId, VolumeMap};
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Between two tries while no node answers.
const AGAIN: Duration = Duration::from_millis(300);
/// How long what is under way may take once the export is told to end, and so the release of its right.
const END_MAX: Duration = Duration::from_secs(5);
/// How long an export may take to end in all.
pub const STOP_MAX: Duration = END_MAX.saturating_add(FLUSH_MAX).saturating_add(END_MAX);
/// Bytes of a unix socket's path, its end included.
const SOCKET_PATH_MAX: usize = 108;

/// Digits of a machine's id that an owner shows.
const MACHINE_ID_SHOWN: usize = 8;

/// Where an export takes connections.
#[derive(Clone, Debug)]
pub enum Listen {
    /// A unix socket.
    Socket(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
}

/// What is exported, and where.
#[derive(Clone, Debug)]
pub struct ExportConfig {
    /// The volume's name.
    pub volume: String,
    /// Where.
    pub listen: Listen,
    /// URLs of nodes.
    pub api: Vec<String>,
    /// The administrator's token.
    pub token: Option<String>,
    /// The cluster's key; `None` only with `sarsen dev`.
    pub key: Option<[u8; 32]>,
    /// Refuse writes.
    pub read_only: bool,
}

impl ExportConfig {
    /// Who attaches, in words that stay the same over a restart and name the place.
    fn owner(&self) -> String {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let (host, machine) = (read("/proc/sys/kernel/hostname"), read("/etc/machine-id"));
        // two machines may be called the same, and export at the same place
        let machine = machine.get(..MACHINE_ID_SHOWN).map(|id| format!("/{id}")).unwrap_or_default();
        let place = match &self.listen {
            Listen::Socket(path) => path.display().to_string(),
            Listen::Tcp(address) => address.to_string(),
        };
        format!("{host}{machine}:{place}")
    }

    /// Gives up the place before anything was served there.
    fn leave(&self, bound: Bound, why: ApiError) -> anyhow::Error {
        drop(bound);
        self.remove_socket();
        why.into()
    }

    /// Nobody listens any more.
    fn remove_socket(&self) {
        if let Listen::Socket(path) = &self.listen {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Takes away the socket that an export that died left; one that still listens is not touched.
    fn clear_socket(&self) -> anyhow::Result<()> {
        let Listen::Socket(path) = &self.listen else { return Ok(()) };
        let len = path.as_os_str().len();
        if len >= SOCKET_PATH_MAX {
            bail!(
                "the path of a socket has at most {} bytes, and {} has {len}",
                SOCKET_PATH_MAX - 1,
                path.display()
            );
        }
        let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
        if !found.file_type().is_socket() {
            bail!("{} exists and is no socket: name another path", path.display());
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            bail!("{} is in use by another export: stop that one, or name another path", path.display());
        }
        std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

/// Exports a volume over NBD until SIGTERM or SIGINT. `ready` is told the size and the place once clients may connect.
/// The death of any node, and of all, is waited out.
pub async fn export_nbd(config: ExportConfig, ready: impl FnOnce(u64, &Listen)) -> anyhow::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    config.clear_socket()?;
    let api = Client::new(config.api.clone(), config.token.clone())?;
    let cluster: u128 = u128::from_str_radix(&api.status().await?.cluster, 16).context("the cluster's id")?;
    // an absolute path, so that the same place is the same owner
    let owner = config.owner();
    if config.key.is_some()
        && let Err(refusal) = sarsen_ring::lock_memory()
    {
        eprintln!("warning: {refusal}");
    }
    // first the place, then the right: one that has the same place runs on, and a right that cannot be used is not taken
    let bound = bind(&config)?;
    let ask = Attach { owner, exclusive: true, read_only: config.read_only };
    let attached = match api.attach(&config.volume, &ask).await {
        Ok(attached) => attached,
        Err(why) => return Err(config.leave(bound, why)),
    };
    let (id, session) = (AttachmentId(attached.id), SessionId(attached.session));
    let map = match api.volume_map(id, session, Revision(0)).await {
        Ok(map) => Arc::new(map),
        Err(why) => {
            let _ = tokio::time::timeout(END_MAX, api.release(id, session)).await;
            return Err(config.leave(bound, why));
        }
    };
    let grant = (id, Generation(attached.generation), session);
    let size = map.size;
    let mut served = bound.serve(ClusterId(cluster), grant, map.clone());
    ready(size, &served.at);
    let why = tokio::select! {
        _ = term.recv() => None,
        _ = int.recv() => None,
        why = follow(&api, (id, session), map, &served.tell, &mut served.goes_by, &mut served.doubts) => {
            // clients are told, and not just cut off (found in review)
            served.tell.send(Told::Gone);
            let _ = tokio::time::timeout(FLUSH_MAX, &mut served.ended).await;
            Some(why)
        }
        why = &mut served.ended => Some(anyhow!(why.unwrap_or_else(|_| "the data thread ended".into()))),
    };
    let taken = end(served, why.is_none()).await;
    config.remove_socket();
    match why {
        Some(why) => Err(why),
        None => {
            if !taken {
                eprintln!(
                    "requests that nobody answered are left: the attachment stays, and a new export of it goes on"
                );
            } else {
                let _ = tokio::time::timeout(END_MAX, api.release(id, session)).await;
            }
            Ok(())
        }
    }
}

/// Passes every newer map on; ends only when the attachment does. A newer one is asked for when the data thread goes by the
/// last: asking says so (R28). When there is reason to doubt the last, the next node is asked and the one asked now is not
/// waited for: it may have lost its power, with the slices that led (found in review).
async fn follow(
    api: &Client,
    (id, session): (AttachmentId, SessionId),
    first: Arc<VolumeMap>,
    tell: &Way,
    goes_by: &mut watch::Receiver<Revision>,
    doubts: &mut Doubts,
) -> anyhow::Error {
    let mut known = first.revision;
    loop {
        let Some(asked) = unless_doubted(api.volume_map(id, session, known), doubts).await else {
            api.ask_another();
            continue;
        };
        match asked {
            Ok(map) => {
                if map.revision > known {
                    known = map.revision;
                    doubts.calm();
                    tell.send(Told::Map(Arc::new(map)));
                    if goes_by.wait_for(|at| *at >= known).await.is_err() {
                        return anyhow!("the data thread ended");
                    }
                }
            }
            Err(ApiError::Refused { status: 404, .. }) => return anyhow!("the attachment was taken away"),
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

/// What comes of asking; nothing when a doubt comes first. An answer that is there counts: it may be the newer map, and a doubt is
/// kept meanwhile (found in review).
async fn unless_doubted<T>(asking: impl Future<Output = T>, doubts: &mut Doubts) -> Option<T> {
    tokio::select! {
        biased;
        answer = asking => Some(answer),
        () = doubts.arise() => None,
    }
}

/// Lets what is under way be answered; whether it was.
async fn end(mut served: Served, is_asked: bool) -> bool {
    if !is_asked {
        return false;
    }
    served.tell.send(Told::Stop);
    tokio::time::timeout(END_MAX + FLUSH_MAX, &mut served.ended).await.is_ok()
}

/// The way to the data thread: a channel and what wakes it.
#[derive(Clone, Debug)]
pub struct Way {
    /// The channel.
    pub sender: Sender<Told>,
    /// What wakes it.
    pub waker: sarsen_ring::Waker,
}

impl Way {
    /// Sends and wakes.
    pub fn send(&self, told: Told) {
        if self.sender.send(told).is_ok() {
            self.waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_buffer::Pool;
    use sarsen_ring::{Ring, RingConfig};
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Instant;

    fn map(revision: u64) -> VolumeMap {
        VolumeMap {
            revision: Revision(revision),
            volume: sarsen_types::VolumeId(1),
            name: "v".into(),
            size: 1 << 20,
            family: sarsen_types::FamilyId(1),
            layer: sarsen_types::LayerId(1),
            attachment: AttachmentId(1),
            generation: Generation(1),
            session: SessionId(1),
            read_only: false,
            table: vec![],
            leaders: Default::default(),
            addresses: Default::default(),
            nodes: Default::default(),
        }
    }

    /// A node that answers every call with this; one that lost its power answers none.
    fn node(answer: Option<VolumeMap>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for mut socket in listener.incoming().flatten() {
                if let Some(map) = &answer {
                    let _ = socket.read(&mut [0; 4096]);
                    let body = serde_json::to_string(map).expect("a map");
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                        body.len()
                    );
                    let _ = socket.write_all(format!("{head}{body}").as_bytes());
                }
                kept.push(socket);
            }
        });
        url
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_answer_that_is_there_counts_though_there_is_a_doubt_and_the_doubt_is_kept() {
        for _ in 0..50 {
            let mut doubts = Doubts::default();
            doubts.raiser().notify_one();
            assert_eq!(unless_doubted(std::future::ready(7), &mut doubts).await, Some(7));
            assert_eq!(unless_doubted(std::future::pending::<u8>(), &mut doubts).await, None);
        }
    }

    #[test]
    fn when_a_slice_is_lost_the_next_node_is_asked_for_the_map_and_the_last_not_waited_for() {
        // found in review: the node that was asked had lost its power with the slice, and was waited for 25 seconds
        let api = Client::new(vec![node(None), node(None), node(Some(map(9)))], None).expect("a client");
        let ring = Ring::new(RingConfig::default(), &Pool::new()).expect("a ring");
        let (sender, inbox) = std::sync::mpsc::channel();
        let tell = Way { sender, waker: ring.waker() };
        let (_goes, mut goes_by) = watch::channel(Revision(5));
        let mut doubts = Doubts::default();
        let raise = doubts.raiser();
        let begun = Instant::now();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let us = (AttachmentId(1), SessionId(1));
            let follows = follow(&api, us, Arc::new(map(5)), &tell, &mut goes_by, &mut doubts);
            let fails = async {
                loop {
                    // dials that fail, again and again
                    raise.notify_one();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    if let Ok(Told::Map(map)) = inbox.try_recv() {
                        return map.revision;
                    }
                }
            };
            tokio::select! {
                why = follows => panic!("{why}"),
                revision = fails => assert_eq!(revision, Revision(9)),
            }
        });
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }
}
