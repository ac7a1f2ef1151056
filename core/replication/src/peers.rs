//! The other slices: streams, heartbeats (R3, L7), rounds (R4), grants (R7).
use crate::memory::slot_blocks;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use sarsen_types::{Epoch, GroupId, Instant, SliceId};
use sarsen_wire::peer::{Beat, BeatAck, Grant, digest};

/// Prepares a slice lets one other have under way to it (R7).
pub const GRANT_PREPARES_MAX: u64 = 2048;
/// Blocks of them, of memory (R7).
pub const GRANT_BLOCKS_MAX: u64 = 16 * 1024;

/// What an echo covers: groups with the moment the heartbeat was sent, and its round.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Covered {
    /// When the heartbeat was sent, by our clock (R3).
    pub sent: Instant,
    /// Its round (R4).
    pub round: u64,
    /// Whether the heartbeat told floors (R10).
    pub has_floors: bool,
    /// The groups.
    pub groups: Vec<(GroupId, Epoch)>,
}

/// One other slice.
#[derive(Debug, Default)]
pub struct Peer {
    /// Whether there is a stream.
    pub is_up: bool,
    /// Counts streams: what was sent on another is lost.
    pub stream: u64,
    /// Whether it runs on our kernel.
    pub same_kernel: bool,
    /// When anything came from it last.
    pub heard: Option<Instant>,
    /// Groups we lead and it has a copy of, ascending.
    led: Vec<(GroupId, Epoch)>,
    led_digest: u64,
    /// The first round of this stream whose heartbeats spoke of the list as it is now; none yet.
    led_since: Option<u64>,
    list_told: bool,
    /// The newest round of this stream that told floors.
    floors_in: Option<u64>,
    /// The groups it told us it leads.
    listed: Vec<(GroupId, Epoch)>,
    listed_digest: u64,
    granted_us: Grant,
    /// What was granted last is for joins first.
    is_for_joins: bool,
    used: Grant,
    granted_it: Grant,
    taken: Grant,
}

impl Peer {
    /// A new stream: nothing of the old one counts.
    pub fn connected(&mut self, same_kernel: bool) {
        let (led, led_digest) = (core::mem::take(&mut self.led), self.led_digest);
        let (stream, heard) = (self.stream + 1, self.heard);
        *self = Peer { is_up: true, stream, same_kernel, heard, led, led_digest, ..Peer::default() };
    }

    /// The groups we lead with it; `true` when they changed, so that a heartbeat is due (R5).
    pub fn set_led(&mut self, led: Vec<(GroupId, Epoch)>) -> bool {
        if led == self.led {
            return false;
        }
        self.led_digest = digest(led.iter().copied());
        self.led = led;
        self.led_since = None;
        self.list_told = false;
        true
    }

    /// Whether a heartbeat has anything to say.
    pub fn leads_any(&self) -> bool {
        !self.led.is_empty()
    }

    /// Whether we lead the group with it.
    pub fn leads(&self, group: GroupId) -> bool {
        self.led.binary_search_by_key(&group, |l| l.0).is_ok()
    }

    /// The next heartbeat.
    pub fn beat(&mut self, now: Instant, round: u64) -> Beat {
        self.led_since.get_or_insert(round);
        let groups = if self.list_told { Vec::new() } else { self.led.clone() };
        self.list_told = true;
        Beat { sent: now, round, digest: self.led_digest, groups, floors: Vec::new() }
    }

    /// Whether a heartbeat tells floors: only its echo says that they arrived (R10).
    pub fn floors_in(&mut self, beat: &Beat) {
        if !beat.floors.is_empty() {
            self.floors_in = Some(beat.round);
        }
    }

    /// A heartbeat came: remembers its list, and echoes. `holds` is the epoch in which we follow a group, if we do.
    pub fn echo(&mut self, beat: &Beat, holds: impl Fn(GroupId) -> Option<Epoch>) -> (BeatAck, Vec<GroupId>) {
        if !beat.groups.is_empty() {
            self.listed.clone_from(&beat.groups);
            self.listed_digest = digest(self.listed.iter().copied());
        }
        let matched = self.listed_digest == beat.digest && !self.listed.is_empty();
        let mut ack = BeatAck { sent: beat.sent, round: beat.round, matched, differ: Vec::new() };
        let mut covered = Vec::new();
        if matched {
            for &(group, epoch) in &self.listed {
                match holds(group) == Some(epoch) {
                    true => covered.push(group),
                    false => ack.differ.push(group),
                }
            }
        }
        (ack, covered)
    }

    /// An echo came: what it covers. An echo of a list that is no longer ours covers nothing (R3).
    pub fn echoed(&mut self, ack: &BeatAck) -> Option<Covered> {
        if self.led_since.is_none_or(|since| ack.round < since) {
            return None;
        }
        if !ack.matched {
            self.list_told = false;
            return None;
        }
        let groups = self.led.iter().copied().filter(|(g, _)| !ack.differ.contains(g)).collect();
        let has_floors = self.floors_in == Some(ack.round);
        Some(Covered { sent: ack.sent, round: ack.round, has_floors, groups })
    }

    /// Whether it granted one more Prepare of so many blocks.
    pub fn has_room(&self, blocks: u64) -> bool {
        self.is_up
            && self.used.prepares < self.granted_us.prepares
            && self.used.blocks + slot_blocks(blocks) <= self.granted_us.blocks
    }

    /// Whether it granted so many blocks of what a join sends: as many stay for clients' writes, but that every other grant is
    /// first looked at by what joins send, or writes would take all of them.
    pub fn has_room_to_recover(&self, blocks: u64) -> bool {
        self.has_room(if self.is_for_joins { blocks } else { 2 * slot_blocks(blocks) })
    }

    /// What was to be sent on this stream is not.
    pub fn refund(&mut self, stream: u64, blocks: u64) {
        if stream == self.stream {
            self.used.prepares -= 1;
            self.used.blocks -= slot_blocks(blocks);
        }
    }

    /// Whether it said that it is full (S16).
    pub fn is_full(&self) -> bool {
        self.granted_us.is_full
    }

    /// A Prepare goes out. What must be sent whatever was granted (R16) may run over: it counts all the same.
    pub fn spend(&mut self, blocks: u64) {
        self.used.prepares += 1;
        self.used.blocks += slot_blocks(blocks);
    }

    /// It granted more.
    pub fn granted(&mut self, grant: Grant) {
        self.granted_us = grant;
        self.is_for_joins = !self.is_for_joins;
    }

    /// A Prepare of it is durable here, and its place free again.
    pub fn done(&mut self, blocks: u64) {
        self.taken.prepares += 1;
        self.taken.blocks += slot_blocks(blocks);
    }

    /// What to grant it now, when it is worth a message: `blocks` of memory are its share.
    pub fn grant(&mut self, blocks: u64, is_full: bool) -> Option<Grant> {
        let next = Grant {
            prepares: self.taken.prepares + GRANT_PREPARES_MAX,
            // what was granted stays granted, though it shares with more now
            blocks: (self.taken.blocks + blocks).max(self.granted_it.blocks),
            is_full,
        };
        let worth = next.prepares - self.granted_it.prepares >= GRANT_PREPARES_MAX / 4
            || next.blocks - self.granted_it.blocks >= blocks / 4
            || next.is_full != self.granted_it.is_full;
        (self.is_up && worth).then(|| {
            self.granted_it = next;
            next
        })
    }
}

/// All other slices.
#[derive(Debug, Default)]
pub struct Peers {
    /// By slice.
    pub map: BTreeMap<SliceId, Peer>,
    /// The round that the next heartbeats begin (R4).
    pub next_round: u64,
    /// Heartbeats are due now: a list changed, or a read waits for a round.
    pub beat_now: bool,
}

impl Peers {
    /// The slice, known from now on.
    pub fn at(&mut self, slice: SliceId) -> &mut Peer {
        self.map.entry(slice).or_default()
    }
    /// Whether there is a stream to it.
    pub fn is_up(&self, slice: SliceId) -> bool {
        self.map.get(&slice).is_some_and(|p| p.is_up)
    }
    /// Its current stream.
    pub fn stream(&self, slice: SliceId) -> u64 {
        self.map.get(&slice).map_or(0, |p| p.stream)
    }
    /// Whether it runs on our kernel.
    pub fn same_kernel(&self, slice: SliceId) -> bool {
        self.map.get(&slice).is_some_and(|p| p.same_kernel)
    }
    /// When it was heard from last.
    pub fn heard(&self, slice: SliceId) -> Option<Instant> {
        self.map.get(&slice).and_then(|p| p.heard)
    }
    /// Whether it has room for one more Prepare.
    pub fn has_room(&self, slice: SliceId, blocks: u64) -> bool {
        self.map.get(&slice).is_some_and(|p| p.has_room(blocks))
    }
    /// Something it sent on this stream, of what was granted to it, takes no place here any more.
    pub fn done(&mut self, slice: SliceId, stream: u64, blocks: u64) {
        if let Some(peer) = self.map.get_mut(&slice).filter(|p| p.stream == stream) {
            peer.done(blocks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Peer, Peer) {
        let (mut a, mut b) = (Peer::default(), Peer::default());
        a.connected(false);
        b.connected(false);
        (a, b)
    }

    #[test]
    fn an_echo_of_an_old_list_covers_nothing() {
        let (mut primary, mut replica) = pair();
        primary.set_led(alloc::vec![(GroupId(1), Epoch(1))]);
        let beat = primary.beat(Instant(5), 1);
        let (ack, covered) = replica.echo(&beat, |_| Some(Epoch(1)));
        assert_eq!(covered, [GroupId(1)]);
        primary.set_led(alloc::vec![(GroupId(1), Epoch(2))]);
        assert_eq!(primary.echoed(&ack), None);
    }

    #[test]
    fn a_group_in_another_epoch_is_named_and_loses_the_lease() {
        let (mut primary, mut replica) = pair();
        primary.set_led(alloc::vec![(GroupId(1), Epoch(1)), (GroupId(2), Epoch(1))]);
        let beat = primary.beat(Instant(5), 1);
        let (ack, _) = replica.echo(&beat, |g| Some(Epoch(g.0)));
        assert_eq!(ack.differ, [GroupId(2)]);
        let covered = primary.echoed(&ack).unwrap();
        assert_eq!((covered.sent, covered.groups), (Instant(5), alloc::vec![(GroupId(1), Epoch(1))]));
        // the next heartbeat needs no list: the digest says which it was
        let beat = primary.beat(Instant(9), 2);
        assert!(beat.groups.is_empty());
        let (ack, covered) = replica.echo(&beat, |_| Some(Epoch(1)));
        assert_eq!((ack.matched, covered.len()), (true, 2));
    }

    #[test]
    fn a_new_stream_forgets_grants_and_lists() {
        let (mut primary, mut replica) = pair();
        primary.set_led(alloc::vec![(GroupId(1), Epoch(1))]);
        primary.granted(replica.grant(256, false).unwrap());
        assert!(primary.has_room(64));
        primary.beat(Instant(1), 1);
        primary.connected(false);
        assert!(!primary.has_room(1));
        assert_eq!(primary.beat(Instant(2), 2).groups.len(), 1);
    }
}
