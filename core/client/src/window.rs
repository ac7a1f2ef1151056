//! The numbers of one group's requests that are not all answered yet: the mark, the bound, and who overlaps whom.
//!
//! ```text
//!   number   17    18    21    22    30          mark = 17: the lowest unanswered
//!            open  done  open  done  open        at most 1,024 entries (R21)
//! ```
//! `answered_below` is the number of the first entry: it is always an open one, since answered ones leave from the front.
use sarsen_types::limits::REQUEST_WINDOW_MAX;
use sarsen_types::{BlockRange, ChunkIndex};
use std::collections::VecDeque;

/// One number.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// It; ascending.
    pub number: u64,
    /// The piece; `None` once it was answered.
    pub piece: Option<u32>,
    /// When it came, among all of the session's: what came earlier, whatever its number.
    pub order: u64,
    /// Its chunk.
    pub chunk: ChunkIndex,
    /// Its blocks.
    pub range: BlockRange,
    /// Whether it changes them.
    pub is_write: bool,
    /// It failed, and an earlier sending of it may lie somewhere still: until the mark has passed it, and a slice that reads it
    /// late refuses it, no write of its blocks is sent (found in review).
    pub is_haunting: bool,
}

impl Entry {
    fn overlaps(&self, other: &Entry) -> bool {
        self.chunk == other.chunk && self.range.overlaps(other.range)
    }
    /// R22: whether this one waits for `earlier`. Reads wait for nobody: whatever order they come in is linearizable.
    fn waits_for(&self, earlier: &Entry) -> bool {
        self.is_write
            && earlier.is_write
            && (earlier.piece.is_some() || earlier.is_haunting)
            && earlier.order < self.order
            && self.overlaps(earlier)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Window {
    entries: VecDeque<Entry>,
}

impl Window {
    /// Whether one more number may be given out.
    pub fn has_room(&self) -> bool {
        self.entries.len() < REQUEST_WINDOW_MAX
    }
    /// Adds a number, higher than all before. Gives how many open ones it must wait for.
    pub fn push(&mut self, entry: Entry) -> u32 {
        debug_assert!(self.entries.back().is_none_or(|last| last.number < entry.number));
        let blockers = match entry.is_write {
            true => self.entries.iter().filter(|earlier| entry.waits_for(earlier)).count(),
            false => 0,
        };
        self.entries.push_back(entry);
        blockers as u32
    }
    /// The lowest number not answered; `next` when all are.
    pub fn mark(&self, next: u64) -> u64 {
        self.entries.front().map_or(next, |e| e.number)
    }
    /// The open piece of a number.
    pub fn find(&self, number: u64) -> Option<u32> {
        self.entries[self.place(number)?].piece
    }
    fn place(&self, number: u64) -> Option<usize> {
        let at = self.entries.partition_point(|e| e.number < number);
        (self.entries.get(at)?.number == number).then_some(at)
    }
    /// A number was answered: those that waited for it go to `freed`, in the order they came, each for one blocker less.
    pub fn answer(&mut self, number: u64, freed: &mut Vec<u32>) {
        let Some(at) = self.place(number) else { return };
        let entry = self.entries[at];
        if entry.is_write {
            let waited = self.entries.iter().filter(|later| later.waits_for(&entry));
            freed.extend(waited.filter_map(|later| later.piece));
        }
        self.entries[at].piece = None;
        self.trim(freed);
    }
    /// A number that may be executed late failed: those that wait for it do so until the mark has passed it; but for those of
    /// lower numbers, which hold the mark up.
    pub fn haunt(&mut self, number: u64, freed: &mut Vec<u32>) {
        let Some(at) = self.place(number) else { return };
        let entry = self.entries[at];
        let waited = self.entries.iter().take(at).filter(|lower| lower.waits_for(&entry));
        freed.extend(waited.filter_map(|lower| lower.piece));
        (self.entries[at].piece, self.entries[at].is_haunting) = (None, true);
        self.trim(freed);
    }
    /// A number counts for nothing any more, and its piece goes on under a new one: nobody waits for that less.
    pub fn drop_number(&mut self, number: u64, freed: &mut Vec<u32>) {
        if let Some(at) = self.place(number) {
            self.entries[at].piece = None;
            self.trim(freed);
        }
    }
    fn trim(&mut self, freed: &mut Vec<u32>) {
        while let Some(entry) = self.entries.pop_front_if(|e| e.piece.is_none()) {
            if entry.is_haunting {
                let waited = self.entries.iter().filter(|later| later.waits_for(&entry));
                freed.extend(waited.filter_map(|later| later.piece));
            }
        }
    }
    /// The open pieces, by number.
    pub fn open(&self) -> impl Iterator<Item = u32> {
        self.entries.iter().filter_map(|e| e.piece)
    }
    /// Forgets all.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64, first: u16, count: u16, is_write: bool) -> Entry {
        Entry {
            number,
            piece: Some(number as u32),
            order: number,
            chunk: ChunkIndex(0),
            range: BlockRange::new(first, count),
            is_write,
            is_haunting: false,
        }
    }

    #[test]
    fn the_mark_is_the_lowest_number_not_answered() {
        let mut window = Window::default();
        assert_eq!(window.mark(5), 5);
        for number in [5, 7, 9] {
            window.push(entry(number, number as u16, 1, true));
        }
        window.answer(7, &mut Vec::new());
        assert_eq!(window.mark(10), 5);
        window.answer(5, &mut Vec::new());
        assert_eq!(window.mark(10), 9);
        window.answer(9, &mut Vec::new());
        assert_eq!(window.mark(10), 10);
    }

    #[test]
    fn a_write_waits_for_every_earlier_write_it_overlaps_and_for_no_read() {
        let mut window = Window::default();
        assert_eq!(window.push(entry(1, 0, 2, true)), 0);
        assert_eq!(window.push(entry(2, 2, 2, true)), 0);
        assert_eq!(window.push(entry(3, 0, 8, false)), 0);
        assert_eq!(window.push(entry(4, 1, 2, true)), 2);
        let mut freed = Vec::new();
        window.answer(3, &mut freed);
        assert_eq!(freed, []);
        window.answer(1, &mut freed);
        window.answer(2, &mut freed);
        assert_eq!(freed, [4, 4]);
    }

    #[test]
    fn a_write_under_a_new_number_is_still_waited_for() {
        let mut window = Window::default();
        window.push(entry(1, 0, 1, true));
        assert_eq!(window.push(entry(2, 0, 1, true)), 1);
        window.drop_number(1, &mut Vec::new());
        assert_eq!(window.push(Entry { number: 3, piece: Some(1), ..entry(1, 0, 1, true) }), 0);
        let mut freed = Vec::new();
        window.answer(3, &mut freed);
        assert_eq!(freed, [2]);
    }

    #[test]
    fn a_number_that_failed_and_may_come_late_is_waited_for_until_the_mark_has_passed_it() {
        let mut window = Window::default();
        window.push(entry(1, 9, 1, true));
        window.push(entry(2, 0, 1, true));
        assert_eq!(window.push(entry(3, 0, 1, true)), 1);
        let mut freed = Vec::new();
        window.haunt(2, &mut freed);
        assert_eq!(window.push(entry(4, 0, 1, true)), 2);
        assert_eq!((&freed[..], window.mark(5)), (&[][..], 1));
        window.answer(1, &mut freed);
        assert_eq!((&freed[..], window.mark(5)), (&[3, 4][..], 3));
        // one of a lower number that came later does not wait: it would hold up the mark
        let mut window = Window::default();
        window.push(Entry { order: 5, ..entry(1, 0, 1, true) });
        window.push(Entry { order: 1, ..entry(2, 0, 1, true) });
        let mut freed = Vec::new();
        window.haunt(2, &mut freed);
        assert_eq!(freed, [1]);
    }

    #[test]
    fn the_window_is_bounded_by_answered_numbers_too() {
        let mut window = Window::default();
        for number in 0..REQUEST_WINDOW_MAX as u64 {
            assert!(window.has_room());
            window.push(entry(number, (number % 1000) as u16, 1, false));
        }
        window.answer(5, &mut Vec::new());
        assert!(!window.has_room(), "number 0 is open still");
        window.answer(0, &mut Vec::new());
        assert!(window.has_room());
    }
}
