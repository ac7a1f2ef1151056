//! Whether every bound of a group holds (R41): for checkers.
use crate::group::{Group, Role};
use crate::machine::Machine;
use crate::memory::slot_blocks;
use crate::peers::GRANT_PREPARES_MAX;
use alloc::string::String;
use sarsen_types::limits::{
    GROUP_HELD_MAX, GROUP_PENDING_MAX, JOIN_WINDOW_MAX, RECOVER_OBJECTS_MAX, REQUEST_WINDOW_MAX,
};

impl<P: Clone> Machine<P> {
    /// What is beyond its bound, in words; `None` when nothing is.
    pub fn excess(&self) -> Option<String> {
        let kept: u64 = self.groups().map(Group::kept_blocks).sum();
        let rewrites: u64 = self.groups().map(Group::rewritten_blocks).sum();
        let max = self.cx.memory.clients;
        if kept > max + rewrites {
            return Some(alloc::format!("blocks of clients' writes in memory: {kept}, at most {max}"));
        }
        self.groups().find_map(Group::excess)
    }
}

impl<P: Clone> Group<P> {
    /// Blocks that a takeover writes again: no client waits for them.
    fn rewritten_blocks(&self) -> u64 {
        let Role::Primary(primary) = &self.role else { return 0 };
        let rewrites = primary.pending.iter().filter(|p| p.is_rewrite());
        rewrites.map(|p| slot_blocks(u64::from(p.write.data_blocks()))).sum()
    }

    fn excess(&self) -> Option<String> {
        let mut counts = alloc::vec![("requests held", self.held.len(), GROUP_HELD_MAX)];
        match &self.role {
            Role::Replica(replica) => {
                counts.push((
                    "Prepares above the floor",
                    replica.above_floor(),
                    2 * GRANT_PREPARES_MAX as usize,
                ));
            }
            Role::Primary(primary) => {
                let ordered = primary.pending.iter().filter(|p| !p.is_rewrite()).count();
                counts.push(("ordered writes", ordered, GROUP_PENDING_MAX));
                counts.push(("waiting writes", primary.waiting.len(), REQUEST_WINDOW_MAX));
                for join in primary.joins.values() {
                    // from the proposal on a joiner gets what is uncommitted whatever its window (R6)
                    counts.push(("Prepares sent to a joiner", join.unacked(), JOIN_WINDOW_MAX + ordered));
                    counts.push(("Prepares a joiner missed", join.missed_count(), primary.pending.len()));
                    counts.push(("objects on their way to a joiner", join.under_way(), RECOVER_OBJECTS_MAX));
                }
            }
        }
        for log in self.ledger.queues.values() {
            let mut numbers: alloc::vec::Vec<u64> = log.notes.iter().map(|n| n.number).collect();
            numbers.dedup();
            counts.push(("requests remembered of a queue", numbers.len(), REQUEST_WINDOW_MAX));
        }
        let (what, count, max) = counts.into_iter().find(|(_, count, max)| count > max)?;
        Some(alloc::format!("{what} of {:?}: {count}, at most {max}", self.id))
    }
}
