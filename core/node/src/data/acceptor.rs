//! The data port of a node (L1): reads hellos, proves the key both ways, hands sockets to slices' threads.
use super::budget::Budget;
use super::start::SliceHandle;
use crate::seam::{Identity, ToSlice};
use sarsen_api::proof as key;
use sarsen_buffer::Pool;
use sarsen_ring::{ConnId, Event, ListenerId, Ring, RingConfig, RingError, Waker};
use sarsen_types::{Duration, Instant, SliceId};
use sarsen_wire::handshake::{Acceptor, HandshakeError};
use sarsen_wire::hello::{Hello, HelloRefusal};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

/// A hello that is not proven by then is dropped.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// Hellos under way at once. One more drops the oldest: a real one takes milliseconds.
const PENDING_MAX: usize = 512;
/// Refused hellos are logged at most this often.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Where the port is.
#[derive(Clone, Debug)]
pub struct DataPortConfig {
    /// TCP address; port 0 picks one.
    pub listen: SocketAddr,
    /// A unix socket beside it, for what runs on the same kernel (L1).
    pub unix: Option<PathBuf>,
}

/// Why there is no port.
#[derive(Debug, thiserror::Error)]
pub enum DataPortError {
    /// The ring or a listener failed; it says what to do.
    #[error("the data port: {0}")]
    Ring(#[from] RingError),
    /// No thread could be started.
    #[error("the data port got no thread: {0}")]
    Thread(std::io::Error),
}

type Routes = Arc<Mutex<BTreeMap<SliceId, SliceHandle>>>;

/// The port. Dropping it closes it; connections that were handed over live on.
pub struct DataPort {
    identity: Arc<Identity>,
    budget: Arc<Budget>,
    address: SocketAddr,
    unix: Option<PathBuf>,
    routes: Routes,
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl DataPort {
    /// Listens, on a thread of its own.
    pub fn start(config: DataPortConfig, identity: Arc<Identity>) -> Result<DataPort, DataPortError> {
        let (started, starting) = mpsc::channel();
        let routes = Routes::default();
        let stop = Arc::new(AtomicBool::new(false));
        let unix = config.unix.clone();
        let (to_routes, to_stop, to_identity) = (routes.clone(), stop.clone(), identity.clone());
        let body = move || match Desk::open(&config, to_identity, to_routes) {
            Ok((mut desk, address)) => {
                let _ = started.send(Ok((address, desk.ring.waker())));
                desk.run(&to_stop);
            }
            Err(why) => drop(started.send(Err(why))),
        };
        let thread = std::thread::Builder::new()
            .name("data-port".into())
            .spawn(body)
            .map_err(DataPortError::Thread)?;
        let (address, waker) = starting.recv().expect("the thread answers before it ends")?;
        Ok(DataPort {
            identity,
            budget: Arc::default(),
            address,
            unix,
            routes,
            stop,
            waker,
            thread: Some(thread),
        })
    }
    /// The TCP address, with the port that was picked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
    /// The unix socket.
    pub fn unix(&self) -> Option<&Path> {
        self.unix.as_deref()
    }
    /// What the slices that are reached here share.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }
    /// Who the node is.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }
    /// Hellos for `id` go to `slice` from now on. Called by [`super::DriveHandle::registered`].
    pub fn serve(&self, id: SliceId, slice: SliceHandle) {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).insert(id, slice);
    }
    /// Hellos for `id` are refused from now on.
    pub fn withdraw(&self, id: SliceId) {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

impl Drop for DataPort {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(path) = &self.unix {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A connection whose hello is being read.
struct Pending {
    conn: ConnId,
    acceptor: Acceptor,
    /// Proven, and waiting for its socket to be quiet.
    proven: Option<(Hello, SliceHandle)>,
    until: Instant,
}

/// The port's thread.
struct Desk {
    ring: Ring,
    identity: Arc<Identity>,
    routes: Routes,
    /// In the order they came.
    pending: VecDeque<Pending>,
    out: Vec<u8>,
    reported: Instant,
    unreported: u64,
}

impl Desk {
    fn open(
        config: &DataPortConfig,
        identity: Arc<Identity>,
        routes: Routes,
    ) -> Result<(Desk, SocketAddr), DataPortError> {
        let mut ring = Ring::new(RingConfig { entries: 64, ..RingConfig::default() }, &Pool::new())?;
        let (_, address): (ListenerId, _) = ring.listen_tcp(config.listen)?;
        if let Some(path) = &config.unix {
            ring.listen_unix(path)?;
        }
        let (pending, out) = (VecDeque::new(), Vec::new());
        Ok((Desk { ring, identity, routes, pending, out, reported: Instant(0), unreported: 0 }, address))
    }

    fn run(&mut self, stop: &AtomicBool) {
        let mut events = Vec::new();
        while !stop.load(Ordering::Acquire) {
            let deadline = self.pending.front().map(|p| p.until);
            let now = self.ring.turn(deadline, &mut events);
            for event in events.drain(..) {
                self.event(now, event);
            }
            self.hand_over();
            while self.pending.front().is_some_and(|p| p.until <= now) {
                let late = self.pending.pop_front().expect("looked at");
                self.ring.close(late.conn);
            }
        }
    }

    fn event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Accepted { conn, .. } => {
                if self.pending.len() >= PENDING_MAX
                    && let Some(oldest) = self.pending.pop_front()
                {
                    self.ring.close(oldest.conn);
                }
                let boot_id = self.identity.boot_id.clone();
                let acceptor = Acceptor::new(self.identity.cluster, boot_id, key::nonce());
                self.pending.push_back(Pending { conn, acceptor, proven: None, until: now + HELLO_DEADLINE });
            }
            Event::Readable(conn) => self.read(now, conn),
            Event::Closed { conn, .. } => self.pending.retain(|p| p.conn != conn),
            Event::Connected(_) | Event::Filled { .. } | Event::Woken => {}
        }
    }

    fn read(&mut self, now: Instant, conn: ConnId) {
        let Some(at) = self.pending.iter().position(|p| p.conn == conn) else { return };
        let pending = &mut self.pending[at];
        if pending.proven.is_some() {
            return;
        }
        self.out.clear();
        let identity = &self.identity;
        let prove = identity.key.as_ref().map(|key| move |bytes: &[u8]| key::prove(key, bytes));
        let mac = prove.as_ref().map(|p| p as &dyn Fn(&[u8]) -> [u8; 32]);
        let progress = pending.acceptor.receive(self.ring.received(conn), mac, &mut self.out);
        match progress {
            Ok(progress) => {
                self.ring.consume(conn, progress.used);
                if let Some(hello) = progress.done {
                    let route =
                        self.routes.lock().unwrap_or_else(PoisonError::into_inner).get(&hello.to).cloned();
                    match route {
                        Some(slice) => pending.proven = Some((hello, slice)),
                        None => {
                            Acceptor::refuse(HelloRefusal::Slice { slice: hello.to }, &mut self.out);
                            self.ring.send(conn, &self.out, None);
                            self.ring.close_when_sent(conn);
                            return;
                        }
                    }
                }
                if !self.out.is_empty() {
                    self.ring.send(conn, &self.out, None);
                }
            }
            Err(why) => {
                self.ring.send(conn, &self.out, None);
                // what it sent beyond its hello is read and dropped by the close; the refusal is on its way before
                self.ring.close_when_sent(conn);
                self.report(now, conn, &why);
            }
        }
    }

    /// Gives the sockets of proven hellos to their slices' threads, which say that they are ready.
    fn hand_over(&mut self) {
        for at in (0..self.pending.len()).rev() {
            if self.pending[at].proven.is_none() {
                continue;
            }
            let Some((socket, rest)) = self.ring.release(self.pending[at].conn) else { continue };
            let pending = self.pending.remove(at).expect("looked at");
            let (hello, slice) = pending.proven.expect("looked at");
            slice.send(ToSlice::Accepted { socket, hello: hello.encode(), rest });
        }
    }

    /// Anybody can connect: what strangers do is logged once a second at most.
    fn report(&mut self, now: Instant, conn: ConnId, why: &HandshakeError) {
        if now.since(self.reported) < REPORT_EVERY {
            self.unreported += 1;
            return;
        }
        let from = self.ring.peer_name(conn);
        tracing::warn!(%from, unreported = self.unreported, "a data connection was refused: {why}");
        (self.reported, self.unreported) = (now, 0);
    }
}
