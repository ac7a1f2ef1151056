//! Heartbeats of a slice with all its partners, what rides on them, and grants (R3, R7, R9, R10, L7).
use crate::group::Role;
use crate::io::Output;
use crate::machine::Machine;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use sarsen_types::limits::HEARTBEAT;
use sarsen_types::{Epoch, GroupId, SliceId, Version};
use sarsen_wire::peer::{Beat, BeatAck, PeerMessage};

impl<P: Clone> Machine<P> {
    pub(crate) fn beat_came(&mut self, from: SliceId, beat: &Beat) {
        if self.cx.is_hung {
            return; // R9: a live thread over a hung disk must not hold a group; what the heartbeat told comes again (R10)
        }
        let groups = &self.groups;
        let holds = |id: GroupId| {
            let group = groups.get(&id)?;
            (group.is_current() && group.state.primary == from).then_some(group.seen)
        };
        let (ack, covered) = self.cx.peers.at(from).echo(beat, holds);
        let now = self.cx.now;
        for id in covered {
            if let Some(group) = self.groups.get_mut(&id) {
                group.heard = now;
                group.note_acked(from, now);
            }
        }
        for &(id, epoch, floor) in &beat.floors {
            self.with(id, |g, cx| {
                if g.is_current() && g.seen == epoch && g.state.primary == from {
                    g.take_floor(cx, floor);
                }
            });
        }
        self.cx.out.push(Output::Send { to: from, message: PeerMessage::BeatAck(ack), payload: None });
    }

    pub(crate) fn echo_came(&mut self, from: SliceId, ack: &BeatAck) {
        let Some(covered) = self.cx.peers.at(from).echoed(ack) else {
            self.cx.peers.beat_now |= !ack.matched;
            return;
        };
        for &(group, epoch) in &covered.groups {
            self.with(group, |g, cx| {
                if g.leads(epoch) {
                    g.leased(cx, from, &covered);
                }
            });
        }
    }

    pub(crate) fn beat(&mut self) {
        if core::mem::take(&mut self.cx.led_changed) {
            self.list_led();
        }
        let now = self.cx.now;
        let is_due = now >= self.next_beat;
        if !(is_due || self.cx.peers.beat_now) || self.cx.is_hung {
            if is_due {
                self.next_beat = now + HEARTBEAT;
            }
            return;
        }
        self.cx.peers.beat_now = false;
        if is_due {
            self.next_beat = now + HEARTBEAT;
        }
        let round = self.cx.peers.next_round;
        self.cx.peers.next_round += 1;
        // rounds for reads come with every turn (R4), floors do not: they travel on Prepare too
        let floors = if is_due { self.moved_floors(round) } else { Vec::new() };
        for (&to, peer) in self.cx.peers.map.iter_mut().filter(|(_, p)| p.is_up && p.leads_any()) {
            let mut beat = peer.beat(now, round);
            beat.floors = floors.iter().filter(|f| peer.leads(f.0)).copied().collect();
            peer.floors_in(&beat);
            self.cx.out.push(Output::Send { to, message: PeerMessage::Beat(beat), payload: None });
        }
    }

    /// R10, R43: floors that some copy has not acknowledged.
    fn moved_floors(&mut self, round: u64) -> Vec<(GroupId, Epoch, Version)> {
        let mut floors = Vec::new();
        for group in self.groups.values_mut() {
            let Role::Primary(primary) = &group.role else { continue };
            let floor = group.floor_to_tell();
            if floor == Version::ZERO {
                continue;
            }
            if group.floor_told.0 != floor {
                group.floor_told = (floor, round);
            }
            let told = group.floor_told.1;
            let has_it = |c: &SliceId| primary.leases.iter().any(|l| l.slice == *c && l.floors >= told);
            if !primary.copies.iter().skip(1).all(has_it) {
                floors.push((group.id, group.state.epoch, floor));
            }
        }
        floors
    }

    /// Makes the lists of heartbeats anew: which groups we lead with whom.
    fn list_led(&mut self) {
        let mut lists: BTreeMap<SliceId, Vec<(GroupId, Epoch)>> = BTreeMap::new();
        for group in self.groups.values() {
            let Role::Primary(primary) = &group.role else { continue };
            if !group.is_current() || group.gives_way(primary) {
                continue;
            }
            for &to in primary.copies.iter().skip(1) {
                lists.entry(to).or_default().push((group.id, primary.epoch));
            }
        }
        for (slice, peer) in &mut self.cx.peers.map {
            self.cx.peers.beat_now |= peer.set_led(lists.remove(slice).unwrap_or_default());
        }
        for (slice, led) in lists {
            self.cx.peers.beat_now |= self.cx.peers.at(slice).set_led(led);
        }
    }

    pub(crate) fn grant(&mut self) {
        let is_full = self.cx.is_full;
        let share = self.cx.memory.grant(self.cx.peers.map.values().filter(|p| p.is_up).count());
        for (&to, peer) in &mut self.cx.peers.map {
            if let Some(grant) = peer.grant(share, is_full) {
                self.cx.out.push(Output::Send { to, message: PeerMessage::Grant(grant), payload: None });
            }
        }
    }
}
