//! Streams to other slices: who dials whom, which connection counts, when to try again (L2, R43).
use crate::seam::PeerAddress;
use sarsen_ring::ConnId;
use sarsen_types::{DriveId, Duration, Instant, OpenId, SliceId, View};
use sarsen_wire::hello::PeerHello;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Wait after a first failed dial; doubles.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// Longest wait between two dials.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Where the stream to one slice is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Not there; the lower id dials from this moment on.
    Down { until: Instant },
    /// Being dialed.
    Dialing(ConnId),
    /// There.
    Up(ConnId),
}

#[derive(Debug)]
struct Link {
    state: State,
    backoff: Duration,
    /// Of what it dialed: the opening of its drive, and the highest counter.
    seen: Option<(OpenId, u64)>,
    /// The unix socket did not answer: TCP is next.
    prefers_tcp: bool,
    is_partner: bool,
}

/// What is to be done about a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dial {
    /// To whom.
    pub to: SliceId,
    /// Where.
    pub address: PeerAddress,
    /// Whether by its unix socket.
    pub by_unix: bool,
    /// The counter of the hello (R43).
    pub counter: u64,
}

/// The streams of one slice.
#[derive(Debug)]
pub struct Links {
    me: SliceId,
    links: BTreeMap<SliceId, Link>,
    addresses: Arc<BTreeMap<DriveId, PeerAddress>>,
    counter: u64,
    /// When to look for dials again; `None` when nothing is due before something changes.
    due: Option<Instant>,
}

impl Links {
    /// Of slice `me`, which has no partner yet.
    pub fn new(me: SliceId) -> Links {
        Links { me, links: BTreeMap::new(), addresses: Arc::default(), counter: 0, due: None }
    }

    /// The slices that share a group with this one (L7). Gives the streams that are wanted no more.
    pub fn learned(&mut self, now: Instant, view: &View) -> Vec<ConnId> {
        for link in self.links.values_mut() {
            link.is_partner = false;
        }
        let me = self.me;
        for member in view.groups.iter().flat_map(|g| &g.members).map(|m| m.slice).filter(|&s| s != me) {
            self.link(now, member).is_partner = true;
        }
        self.due = Some(now);
        let mut unwanted = Vec::new();
        // who dialed ends it: the other end may know an older view
        self.links.retain(|&slice, link| match link.state {
            _ if link.is_partner || slice < me => true,
            State::Up(conn) | State::Dialing(conn) => {
                unwanted.push(conn);
                false
            }
            State::Down { .. } => false,
        });
        unwanted
    }

    /// Where drives are reached. A link whose address changed is dialed at once.
    pub fn moved(&mut self, now: Instant, addresses: Arc<BTreeMap<DriveId, PeerAddress>>) {
        for (slice, link) in &mut self.links {
            if self.addresses.get(&slice.drive) != addresses.get(&slice.drive) {
                link.backoff = RETRY_FIRST;
                link.prefers_tcp = false;
                if matches!(link.state, State::Down { .. }) {
                    link.state = State::Down { until: now };
                }
            }
        }
        self.addresses = addresses;
        self.due = Some(now);
    }

    fn link(&mut self, now: Instant, slice: SliceId) -> &mut Link {
        self.links.entry(slice).or_insert(Link {
            state: State::Down { until: now },
            backoff: RETRY_FIRST,
            seen: None,
            prefers_tcp: false,
            is_partner: false,
        })
    }

    /// A link to dial now, if there is one; [`Links::dialing`] or [`Links::lost`] is to follow.
    pub fn next_dial(&mut self, now: Instant) -> Option<Dial> {
        if self.due.is_none_or(|due| due > now) {
            return None;
        }
        self.due = None;
        for (&slice, link) in &mut self.links {
            let State::Down { until } = link.state else { continue };
            // the lower id dials (R43)
            if !link.is_partner || slice < self.me {
                continue;
            }
            let Some(address) = self.addresses.get(&slice.drive) else { continue };
            if until > now {
                self.due = Instant::earliest(self.due, Some(until));
                continue;
            }
            let by_unix = address.same_kernel && address.unix.is_some() && !link.prefers_tcp;
            self.counter += 1;
            self.due = Some(now);
            return Some(Dial { to: slice, address: address.clone(), by_unix, counter: self.counter });
        }
        None
    }

    /// The dial is under way.
    pub fn dialing(&mut self, slice: SliceId, conn: ConnId) {
        if let Some(link) = self.links.get_mut(&slice) {
            link.state = State::Dialing(conn);
        }
    }

    /// A dialed connection stands. Whether it is still wanted.
    pub fn dialed(&mut self, slice: SliceId, conn: ConnId) -> bool {
        match self.links.get_mut(&slice) {
            Some(link) if link.state == State::Dialing(conn) => {
                (link.state, link.backoff) = (State::Up(conn), RETRY_FIRST);
                true
            }
            _ => false,
        }
    }

    /// A slice dialed this one. `Err` when a newer connection of it is known, or it is not its part to dial; else the
    /// connection that this one replaces, if there is one (R43).
    pub fn accepted(&mut self, now: Instant, hello: &PeerHello, conn: ConnId) -> Result<Option<ConnId>, ()> {
        if hello.slice >= self.me {
            return Err(());
        }
        let link = self.link(now, hello.slice);
        // of another opening of its drive the later one is the living one: each opening holds the drive's lock
        if link.seen.is_some_and(|(open, counter)| open == hello.open && counter >= hello.counter) {
            return Err(());
        }
        link.seen = Some((hello.open, hello.counter));
        let before = match link.state {
            State::Up(before) | State::Dialing(before) => Some(before),
            State::Down { .. } => None,
        };
        link.state = State::Up(conn);
        Ok(before)
    }

    /// A connection of the link ended or never stood. Whether the stream was up on it.
    pub fn lost(&mut self, now: Instant, slice: SliceId, conn: Option<ConnId>) -> bool {
        let Some(link) = self.links.get_mut(&slice) else { return false };
        let was_up = match link.state {
            State::Up(held) if Some(held) == conn => true,
            State::Dialing(held) if Some(held) == conn => false,
            State::Down { .. } if conn.is_none() => false,
            _ => return false,
        };
        if !was_up {
            link.prefers_tcp = !link.prefers_tcp;
        }
        link.state = State::Down { until: now + link.backoff };
        link.backoff = (link.backoff * 2).min(RETRY_MAX);
        self.due = Instant::earliest(self.due, Some(now));
        was_up
    }

    /// The stream to a slice, when it is up.
    pub fn stream(&self, slice: SliceId) -> Option<ConnId> {
        match self.links.get(&slice)?.state {
            State::Up(conn) => Some(conn),
            _ => None,
        }
    }

    /// When to ask [`Links::next_dial`] again.
    pub fn deadline(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_types::{Epoch, GroupId, GroupState, Member, NodeId};

    fn view(members: &[u32]) -> View {
        let slice = |&drive| SliceId::new(drive, 0);
        let group = GroupState {
            group: GroupId(1),
            epoch: Epoch(1),
            primary: slice(&members[0]),
            primary_since: Epoch(1),
            in_sync: vec![],
            joining: vec![],
            complete: vec![],
            could_commit: Epoch(1),
            members: members.iter().map(|d| Member { slice: slice(d), assignment: 1 }).collect(),
            min_copies: 1,
            is_damaged: false,
        };
        View { groups: vec![group], ..View::default() }
    }
    fn addresses(drives: &[u32]) -> Arc<BTreeMap<DriveId, PeerAddress>> {
        let address = |&drive: &u32| PeerAddress {
            node: NodeId(drive),
            data: format!("127.0.0.1:{drive}"),
            unix: Some(format!("{drive}.sock")),
            same_kernel: true,
        };
        Arc::new(drives.iter().map(|d| (DriveId(*d), address(d))).collect())
    }
    fn links(me: u32) -> Links {
        let mut links = Links::new(SliceId::new(me, 0));
        links.learned(Instant(0), &view(&[1, 2, 3]));
        links.moved(Instant(0), addresses(&[1, 2, 3]));
        links
    }
    fn hello(drive: u32, open: u128, counter: u64) -> PeerHello {
        PeerHello { slice: SliceId::new(drive, 0), open: OpenId(open), counter }
    }

    #[test]
    fn the_lower_id_dials_and_with_a_growing_counter() {
        let mut links = links(2);
        let dial = links.next_dial(Instant(0)).unwrap();
        assert_eq!((dial.to, dial.by_unix, dial.counter), (SliceId::new(3, 0), true, 1));
        links.dialing(dial.to, ConnId(7));
        assert_eq!(links.next_dial(Instant(0)), None);
        assert!(!links.lost(Instant(0), dial.to, Some(ConnId(7))));
        assert_eq!(links.next_dial(Instant(1)), None, "not before the back-off");
        let later = Instant(0) + RETRY_FIRST;
        assert_eq!(links.deadline(), Some(later));
        let dial = links.next_dial(later).unwrap();
        assert_eq!((dial.by_unix, dial.counter), (false, 2), "the other way is tried in turn");
    }

    #[test]
    fn a_higher_counter_replaces_the_connection_and_a_lower_one_is_refused() {
        let mut links = links(2);
        assert_eq!(links.accepted(Instant(0), &hello(1, 5, 3), ConnId(1)), Ok(None));
        assert_eq!(links.accepted(Instant(0), &hello(1, 5, 2), ConnId(2)), Err(()));
        assert_eq!(links.accepted(Instant(0), &hello(1, 5, 3), ConnId(2)), Err(()));
        assert_eq!(links.accepted(Instant(0), &hello(1, 5, 4), ConnId(3)), Ok(Some(ConnId(1))));
        // the end of the replaced one says nothing about the link
        assert!(!links.lost(Instant(0), SliceId::new(1, 0), Some(ConnId(1))));
        assert_eq!(links.stream(SliceId::new(1, 0)), Some(ConnId(3)));
        // its drive was opened anew: counters begin again
        assert_eq!(links.accepted(Instant(0), &hello(1, 6, 1), ConnId(4)), Ok(Some(ConnId(3))));
        assert_eq!(
            links.accepted(Instant(0), &hello(3, 6, 1), ConnId(5)),
            Err(()),
            "the higher id does not dial"
        );
    }

    #[test]
    fn who_shares_no_group_any_more_is_dialed_no_more() {
        let mut links = links(1);
        for conn in [1, 2] {
            let dial = links.next_dial(Instant(0)).unwrap();
            links.dialing(dial.to, ConnId(conn));
            assert!(links.dialed(dial.to, ConnId(conn)));
        }
        assert_eq!(links.learned(Instant(0), &view(&[1, 2])), vec![ConnId(2)]);
        assert_eq!(links.next_dial(Instant(0)), None);
        assert!(!links.dialed(SliceId::new(3, 0), ConnId(9)));
    }
}
