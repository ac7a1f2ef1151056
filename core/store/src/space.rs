//! Which blocks of a slice are free (S12): a bit a block, and what must pass before a freed one may be written again.
use std::collections::VecDeque;

/// What must have happened before a freed block is written again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Barrier {
    /// Journal blocks up to this are durable: the record that freed it is among them (R10).
    pub journal: u64,
    /// Reads before this number have ended.
    pub read: u64,
    /// The root of this number is durable: no map page that recovery could use names it.
    pub root: u64,
}

/// See the module. Blocks are numbered from the start of the slice.
#[derive(Debug)]
pub struct Space {
    /// Referenced by leaves and by map pages: what a checkpoint writes down.
    settled: Vec<u64>,
    /// Referenced by entries not merged yet, or freed and not yet reusable.
    held: Vec<u64>,
    first: u64,
    end: u64,
    cursor: u64,
    free: u64,
    limbo: VecDeque<(u64, Barrier)>,
}

impl Space {
    /// Blocks `first .. end`, all free.
    pub fn new(first: u64, end: u64) -> Space {
        let words = (end as usize).div_ceil(64);
        Space {
            settled: vec![0; words],
            held: vec![0; words],
            first,
            end,
            cursor: first,
            free: end - first,
            limbo: VecDeque::new(),
        }
    }

    fn is_free(&self, block: u64) -> bool {
        let (word, bit) = (block as usize / 64, block % 64);
        (self.settled[word] | self.held[word]) >> bit & 1 == 0
    }

    /// Blocks that can hold data.
    pub fn total(&self) -> u64 {
        self.end - self.first
    }

    /// Blocks free now; what waits to become free counts as used.
    pub fn free(&self) -> u64 {
        self.free
    }

    /// Up to `most` neighbouring blocks, from where the last allocation ended; `None` when none is free. A threaded log:
    /// ascending, through the holes, so random writes become sequential ones.
    pub fn take(&mut self, most: u64) -> Option<(u64, u64)> {
        if self.free == 0 || most == 0 {
            return None;
        }
        let start = self.next_free(self.cursor).or_else(|| self.next_free(self.first))?;
        let mut count = 0;
        while count < most && start + count < self.end && self.is_free(start + count) {
            set(&mut self.held, start + count);
            count += 1;
        }
        self.free -= count;
        self.cursor = if start + count < self.end { start + count } else { self.first };
        Some((start, count))
    }

    fn next_free(&self, from: u64) -> Option<u64> {
        let mut block = from;
        while block < self.end {
            let word = block as usize / 64;
            let open = !(self.settled[word] | self.held[word]) >> (block % 64);
            if open == 0 {
                block = (word as u64 + 1) * 64;
                continue;
            }
            block += u64::from(open.trailing_zeros());
            return (block < self.end).then_some(block);
        }
        None
    }

    /// An entry that names it was merged into a leaf, or it is a map page now.
    pub fn settle(&mut self, block: u64) {
        clear(&mut self.held, block);
        set(&mut self.settled, block);
    }

    /// Found in use when the drive was opened.
    pub fn mark_held(&mut self, block: u64) {
        if self.is_free(block) {
            self.free -= 1;
        }
        if self.settled[block as usize / 64] >> (block % 64) & 1 == 0 {
            set(&mut self.held, block);
        }
    }

    /// Found in use by the map when the drive was opened.
    pub fn mark_settled(&mut self, block: u64) {
        if self.is_free(block) {
            self.free -= 1;
        }
        set(&mut self.settled, block);
    }

    /// Nothing names it any more; it is free once the barrier is passed.
    pub fn release(&mut self, block: u64, barrier: Barrier) {
        clear(&mut self.settled, block);
        set(&mut self.held, block);
        self.limbo.push_back((block, barrier));
    }

    /// Frees what has passed its barrier.
    pub fn pass(&mut self, durable: u64, oldest_read: u64, root: u64) {
        while let Some(&(block, b)) = self.limbo.front() {
            if b.journal > durable || b.read > oldest_read || b.root > root {
                return;
            }
            self.limbo.pop_front();
            clear(&mut self.held, block);
            self.free += 1;
        }
    }

    /// A checkpoint is cut before journal block `sequence`: what waits for that block to say that it is free waits for root
    /// `root` instead, which says it too. A full store may have nothing more to journal.
    pub fn cut(&mut self, sequence: u64, root: u64) {
        for (_, barrier) in self.limbo.iter_mut().filter(|l| l.1.journal >= sequence) {
            *barrier = Barrier { journal: sequence - 1, root: barrier.root.max(root), ..*barrier };
        }
    }

    /// The bits that a checkpoint writes.
    pub fn settled_words(&self) -> &[u64] {
        &self.settled
    }
    /// Whether the block lies in what is allocated.
    pub fn contains(&self, block: u64) -> bool {
        self.first <= block && block < self.end
    }
}

fn set(bits: &mut [u64], block: u64) {
    bits[block as usize / 64] |= 1 << (block % 64);
}
fn clear(bits: &mut [u64], block: u64) {
    bits[block as usize / 64] &= !(1 << (block % 64));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_released_is_free_only_behind_its_barrier() {
        let mut space = Space::new(10, 14);
        assert_eq!(space.take(8), Some((10, 4)));
        assert_eq!(space.take(1), None);
        space.release(12, Barrier { journal: 5, read: 2, root: 1 });
        space.pass(5, 2, 0);
        assert_eq!(space.take(1), None);
        space.pass(5, 2, 1);
        assert_eq!(space.take(8), Some((12, 1)));
    }

    /// A store that was full waited for a journal block that nothing could bring about before it took back what was
    /// discarded.
    #[test]
    fn a_root_says_what_is_free_where_no_journal_block_follows() {
        let mut space = Space::new(10, 14);
        assert_eq!(space.take(8), Some((10, 4)));
        space.release(12, Barrier { journal: 6, read: 0, root: 0 });
        space.cut(6, 2);
        space.pass(5, 0, 1);
        assert_eq!(space.free(), 0);
        space.pass(5, 0, 2);
        assert_eq!(space.free(), 1);
    }

    #[test]
    fn allocation_threads_the_holes() {
        let mut space = Space::new(0, 256);
        for block in [0, 1, 5, 64, 65, 200] {
            space.mark_settled(block);
        }
        assert_eq!(space.take(10), Some((2, 3)));
        assert_eq!(space.take(100), Some((6, 58)));
        assert_eq!(space.take(3), Some((66, 3)));
        assert_eq!(space.free(), 250 - 64);
    }
}
