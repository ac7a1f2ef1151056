//! Connections to slices: which there are, how they are dialed, what proves them.
use sarsen_api::proof;
use sarsen_ring::{ConnId, Ring};
use sarsen_types::{ClusterId, Duration, Instant, SliceId, VolumeMap};
use sarsen_wire::client::Greeting;
use sarsen_wire::handshake::Dialer;
use sarsen_wire::hello::{From, Hello};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A connection that does not stand by then is given up.
pub const DIAL_MAX: Duration = Duration::from_secs(2);

/// What every hello of this export says.
#[derive(Clone, Debug)]
pub struct Party {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its key.
    pub key: Option<[u8; 32]>,
    /// The kernel we run on: slices on it are reached by their unix socket (L1).
    pub boot_id: String,
    /// Whose queue it is.
    pub greeting: Greeting,
}

/// The kernel this runs on.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Connections by slice.
#[derive(Debug, Default)]
pub struct Links {
    by_slice: BTreeMap<SliceId, ConnId>,
    dialing: BTreeMap<SliceId, (ConnId, Instant)>,
    /// Slices that did not answer the last dial by their unix socket: TCP is next.
    prefers_tcp: BTreeSet<SliceId>,
}

impl Links {
    /// The connection to a slice that stands.
    pub fn get(&self, slice: SliceId) -> Option<ConnId> {
        self.by_slice.get(&slice).copied()
    }

    /// Dials a slice; nothing when its address is not known.
    pub fn dial(
        &mut self,
        ring: &mut Ring,
        now: Instant,
        map: &VolumeMap,
        us: &Party,
        slice: SliceId,
    ) -> Option<(ConnId, Dialer)> {
        let address = map.nodes.get(&slice.drive).and_then(|node| map.addresses.get(node))?;
        // one kernel may have several file systems: where the socket is not to be seen, TCP is
        let may_unix = address.boot_id == us.boot_id && !self.prefers_tcp.contains(&slice);
        let unix = address.unix.as_ref().filter(|_| may_unix);
        let conn = match unix.and_then(|path| ring.connect_unix(Path::new(path)).ok()) {
            Some(conn) => conn,
            None => ring.connect_tcp(address.data.parse().ok()?).ok()?,
        };
        let hello = Hello {
            version: 0,
            cluster: us.cluster,
            has_key: us.key.is_some(),
            nonce: proof::nonce(),
            boot_id: us.boot_id.clone(),
            to: slice,
            from: From::Client(us.greeting),
        };
        let mut head = Vec::new();
        let dialer = Dialer::new(hello, &mut head);
        ring.send(conn, &head, None);
        self.dialing.insert(slice, (conn, now + DIAL_MAX));
        Some((conn, dialer))
    }

    /// A connection stands.
    pub fn stands(&mut self, slice: SliceId, conn: ConnId) {
        self.dialing.remove(&slice);
        self.by_slice.insert(slice, conn);
    }

    /// A connection is gone.
    pub fn gone(&mut self, slice: SliceId) -> Option<ConnId> {
        let dialed = self.dialing.remove(&slice).map(|d| d.0);
        // the other way is tried in turn
        if dialed.is_some() && !self.prefers_tcp.remove(&slice) {
            self.prefers_tcp.insert(slice);
        }
        self.by_slice.remove(&slice).or(dialed)
    }

    /// Slices whose dial took too long.
    pub fn overdue(&self, now: Instant) -> Vec<SliceId> {
        self.dialing.iter().filter(|d| d.1.1 <= now).map(|d| *d.0).collect()
    }

    /// When the next dial is given up.
    pub fn deadline(&self) -> Option<Instant> {
        self.dialing.values().map(|d| d.1).min()
    }
}
