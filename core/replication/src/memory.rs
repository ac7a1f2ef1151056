//! What a slice keeps of others' data in memory, and for how long of whom (S4, R7, R40, R41).
use crate::clients::kept_by;
use crate::cx::Cx;
use crate::group::{Group, Role};
use crate::machine::Machine;
use crate::peers::GRANT_BLOCKS_MAX;
use crate::requests::Stage;
use sarsen_types::limits::{BACKOFF_FIRST, PIECE_BLOCKS_MAX, SLICE_KEPT_BLOCKS_MAX};
use sarsen_wire::client::{ClientOp, ClientRequest, ClientResult};

/// Of what clients may take, one part in so many is for groups that cannot serve now: others need the rest.
const STUCK_PART: u64 = 4;
/// What one other slice is granted at least: a piece, one that recovery leaves for it, and what is too little to be told (a
/// quarter; simulator, seed 4: the last piece of a join waited for a grant that was never worth a message).
const GRANT_BLOCKS_MIN: u64 = 4 * PIECE_BLOCKS_MAX as u64;
const _: () = assert!(GRANT_BLOCKS_MIN - GRANT_BLOCKS_MIN / 4 >= 2 * PIECE_BLOCKS_MAX as u64);

/// Blocks that a slice may keep in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Of clients' writes, held, waiting or ordered, over all groups it leads; more are told to retry (R40).
    pub clients: u64,
    /// Of Prepares that all other slices together may have under way to it (R7).
    pub peers: u64,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory { clients: SLICE_KEPT_BLOCKS_MAX, peers: 2 * GRANT_BLOCKS_MAX }
    }
}

impl Memory {
    /// What groups that cannot serve now may keep, all together.
    pub fn stuck(&self) -> u64 {
        self.clients / STUCK_PART
    }
    /// What one of `partners` other slices is granted.
    pub fn grant(&self, partners: usize) -> u64 {
        (self.peers / partners.max(1) as u64).clamp(GRANT_BLOCKS_MIN, GRANT_BLOCKS_MAX)
    }
}

/// Blocks of memory that so many blocks of data take: slots come in sizes four times apart.
pub fn slot_blocks(blocks: u64) -> u64 {
    [0, 1, 4, 16, 64].into_iter().find(|slot| blocks <= *slot).unwrap_or(blocks)
}

/// Blocks that a request takes, by what bounds them.
#[derive(Clone, Copy, Default)]
struct Need {
    kept: u64,
    stuck: u64,
    stuck_reads: u64,
}

impl<P> Cx<P> {
    fn has_memory(&self, need: Need) -> bool {
        let fits = |held: u64, more: u64, max: u64| more == 0 || held + more <= max;
        let stuck = self.memory.stuck();
        fits(self.kept_blocks, need.kept, self.memory.clients)
            && fits(self.stuck_blocks, need.stuck, stuck)
            && fits(self.stuck_reads, need.stuck_reads, stuck)
    }
}

impl<P: Clone> Machine<P> {
    /// Counts what is kept; what arrived since was added as it came. One that cannot serve gives up what is too much (found in
    /// review: a group without its copies kept what all others of the slice needed).
    pub(crate) fn count_kept(&mut self) {
        self.cx.counted = self.cx.now;
        let (mut kept, mut stuck, mut reads, mut stuck_reads) = (0, 0, 0, 0);
        for group in self.groups.values() {
            let (own, (own_reads, to_come)) = (group.kept_blocks(), group.read_blocks());
            kept += own;
            stuck += if group.is_stuck() { own } else { 0 };
            reads += to_come;
            stuck_reads += if group.is_answering(&self.cx) { 0 } else { own_reads };
        }
        let max = self.cx.memory.stuck();
        let is_over = |blocks: u64| blocks.checked_sub(max).filter(|over| *over > 0);
        for group in self.groups.values_mut() {
            if let Some(over) = is_over(stuck).filter(|_| group.is_stuck()) {
                let given_up = group.give_up_waiting(&mut self.cx, over);
                (kept, stuck) = (kept - given_up, stuck - given_up);
            }
            if let Some(over) = is_over(stuck_reads).filter(|_| !group.is_answering(&self.cx)) {
                stuck_reads -= group.give_up_reads(&mut self.cx, over);
            }
        }
        (self.cx.kept_blocks, self.cx.stuck_blocks) = (kept, stuck);
        (self.cx.read_blocks, self.cx.stuck_reads) = (reads, stuck_reads);
    }

    /// Whether a request comes in: as long as there is memory for it, whatever then becomes of it (R40, R41). It is counted then.
    pub(crate) fn takes_in(&mut self, request: &ClientRequest, has_payload: bool) -> bool {
        let Some(group) = self.groups.get(&request.group) else { return true };
        let blocks = kept_by(request);
        let if_so = |is_it: bool| if is_it { blocks } else { 0 };
        let need = match request.op {
            _ if has_payload => Need { kept: blocks, stuck: if_so(group.is_stuck()), stuck_reads: 0 },
            ClientOp::Read { .. } => {
                Need { stuck_reads: if_so(!group.is_answering(&self.cx)), ..Need::default() }
            }
            _ => return true,
        };
        // what was committed since it was counted last is not kept any more (found in review)
        if !self.cx.has_memory(need) && self.cx.counted != self.cx.now {
            self.count_kept();
        }
        let fits = self.cx.has_memory(need);
        if fits {
            self.cx.kept_blocks += need.kept;
            self.cx.stuck_blocks += need.stuck;
            self.cx.stuck_reads += need.stuck_reads;
        }
        fits
    }

    /// Blocks of reads that clients wait for and whose data are still to come: memory that they will take.
    pub fn read_blocks(&self) -> u64 {
        self.cx.read_blocks
    }
}

impl<P: Clone> Group<P> {
    /// Whether what is asked of it now waits for more than other writes: for a takeover, a view, other copies.
    pub(crate) fn is_stuck(&self) -> bool {
        match &self.role {
            Role::Primary(primary) => !self.is_current() || !primary.is_serving() || !self.state.may_commit(),
            _ => true,
        }
    }

    /// Tells clients to come again with what is not ordered yet, the newest first, until so many blocks are free; how many are.
    fn give_up_waiting(&mut self, cx: &mut Cx<P>, over: u64) -> u64 {
        let mut free = 0;
        let retry = ClientResult::Retry { after: BACKOFF_FIRST };
        while free < over
            && let Some(at) = self.held.iter().rposition(|h| h.payload.is_some())
        {
            let held = self.held.remove(at);
            free += kept_by(&held.request);
            cx.counters.given_up += 1;
            cx.reply(held.asker, retry.clone(), None);
        }
        let Role::Primary(primary) = &mut self.role else { return free };
        let is_idle = |stage: &Stage| matches!(stage, Stage::Whole | Stage::Partial);
        while free < over
            && let Some(at) =
                primary.waiting.iter().rposition(|op| op.payload.is_some() && is_idle(&op.stage))
            && let Some(op) = primary.waiting.remove(at)
        {
            free += kept_by(&op.request);
            cx.counters.given_up += 1;
            cx.reply(op.asker, retry.clone(), None);
        }
        free
    }

    /// Reads that wait for a lease are told to come again, the newest first, until so many blocks are free; how many are.
    fn give_up_reads(&mut self, cx: &mut Cx<P>, over: u64) -> u64 {
        let Role::Primary(primary) = &mut self.role else { return 0 };
        let before = primary.reads.blocks().0;
        let given_up = primary.reads.give_up(over);
        let free = before - primary.reads.blocks().0;
        for asker in given_up {
            cx.counters.given_up += 1;
            cx.reply(asker, ClientResult::Retry { after: BACKOFF_FIRST }, None);
        }
        free
    }

    /// Blocks of reads under way, and those of them whose data are still to come.
    fn read_blocks(&self) -> (u64, u64) {
        let Role::Primary(primary) = &self.role else { return (0, 0) };
        primary.reads.blocks()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partners_share_what_is_granted_and_none_gets_less_than_it_needs() {
        let memory = Memory { clients: 4096, peers: 4096 };
        assert_eq!((memory.grant(0), memory.grant(1), memory.grant(4)), (4096, 4096, 1024));
        assert_eq!(memory.grant(64), GRANT_BLOCKS_MIN);
        assert_eq!(Memory { peers: u64::MAX, ..memory }.grant(1), GRANT_BLOCKS_MAX);
    }
    #[test]
    fn what_lies_in_a_slot_counts_as_all_of_it() {
        let sizes = [0, 1, 2, 4, 5, 16, 17, 64, 65].map(slot_blocks);
        assert_eq!(sizes, [0, 1, 4, 4, 16, 16, 64, 64, 65]);
    }
}
