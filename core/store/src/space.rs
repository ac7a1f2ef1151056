//! Which blocks of a slice are free (S12): a bit a block, in pages that are read when they are needed, and what must pass
//! before a freed block may be written again.
//!
//! *Settled* blocks are those that the next root names, directly or through its pages; *held* ones are named by entries not
//! merged yet, or were freed and are not reusable yet. A block is one of these or free, never both.
use crate::bytes::{Malformed, Reader, Writer};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Blocks of a region: the unit in which space is filled.
pub const REGION: u64 = 1024;
/// Regions of a bitmap page.
const REGIONS: u64 = 31;
/// Blocks of a bitmap page.
pub const SPAN: u64 = REGION * REGIONS;
const WORDS: usize = SPAN as usize / 64;
const REGION_WORDS: usize = REGION as usize / 64;
/// Copies of each bitmap page on disk: two versions, each twice.
pub const BITMAP_COPIES: u64 = 4;
/// A region whose page was not read yet.
const UNKNOWN: u16 = u16::MAX;
/// Regions whose space is being given back to the device at once, at most.
const TRIMMED_MAX: usize = 8;
/// With less than this part free nothing is given back: what is being trimmed cannot be taken (S16).
const TRIM_PART: u64 = 5;
/// Writes of at least so many blocks look for runs in empty regions (S15).
pub const RUN_BLOCKS_MIN: u64 = 16;
/// Regions that a long write looks through for a run, at most.
const LONG_REGIONS_MAX: u32 = 4;
/// Pieces of long writes that take any hole, after no run was found.
const WITHOUT_RUNS: u32 = 4096;

type Bits = Box<[u64; WORDS]>;

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

/// Whose blocks are taken: each fills a region of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// Small writes thread through holes.
    Small = 0,
    /// Long ones take runs (S15).
    Long = 1,
    /// Map pages.
    Map = 2,
    /// Their twins, elsewhere.
    Twin = 3,
}

/// Where the current version of a bitmap page lies, as the root says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    /// Which of the two versions is current.
    pub version: u8,
    /// Whether any was ever written; if not, all is free.
    pub is_written: bool,
    /// Of its checksum.
    pub sum: u32,
    /// Free blocks by it.
    pub free: u16,
}

impl Span {
    /// Bytes of it.
    pub const BYTES: usize = 8;
    /// Appends it.
    pub fn put(self, w: &mut Writer) {
        w.u8(self.version).u8(self.is_written.into()).u32(self.sum).u16(self.free);
    }
    /// Takes it.
    pub fn get(r: &mut Reader<'_>) -> Result<Span, Malformed> {
        let (version, is_written) = (r.get_u8()? & 1, r.get_u8()? != 0);
        Ok(Span { version, is_written, sum: r.get_u32()?, free: r.get_u16()? })
    }
}

#[derive(Debug, Default)]
struct Page {
    span: Span,
    settled: Option<Bits>,
    held: Option<Bits>,
    held_count: u32,
    is_dirty: bool,
}

impl Page {
    /// Whether its bits are known: it is in memory, or was never written, for nothing was ever settled there.
    fn is_known(&self) -> bool {
        self.settled.is_some() || !self.span.is_written
    }
    /// A word of its bits, when they are known.
    fn settled_word(&self, word: usize) -> Option<u64> {
        match &self.settled {
            Some(bits) => Some(bits[word]),
            None => self.is_known().then_some(0),
        }
    }
    /// Its bits, to be changed. It is known: what is held was allocated from it, what is displaced was read with it.
    fn settled_bits(&mut self) -> &mut Bits {
        assert!(self.is_known(), "a page of the bitmap that is changed was read");
        self.settled.get_or_insert_with(|| Box::new([0; WORDS]))
    }
}

/// Whether what was read as the bits of a page of so many blocks can be that.
fn is_right(bits: &Bits, page: &Page, blocks: u64) -> bool {
    let used: u64 = bits.iter().map(|word| u64::from(word.count_ones())).sum();
    let is_behind = |(at, word): (usize, &u64)| match blocks.saturating_sub(64 * at as u64) {
        left @ 0..64 => word >> left != 0,
        _ => false,
    };
    let is_held = |held: &Bits| bits.iter().zip(held.iter()).any(|(word, held)| word & held != 0);
    used + u64::from(page.span.free) == blocks
        && !bits.iter().enumerate().any(is_behind)
        && !page.held.as_ref().is_some_and(is_held)
}

/// See the module. Blocks are numbered from the start of the slice.
#[derive(Debug)]
pub struct Space {
    first: u64,
    end: u64,
    pages: Vec<Page>,
    /// Free blocks by region, where its page is in memory.
    regions: Vec<u16>,
    /// Per stream: the next block to look at, and the end of its region.
    cursors: [(u64, u64); 4],
    /// Pieces of long writes that take any hole from now on: there were no runs.
    without_runs: u32,
    free: u64,
    limbo: VecDeque<(u64, Barrier)>,
    /// Those that wait for a root.
    limbo_of_roots: VecDeque<(u64, Barrier)>,
    /// Regions that became wholly empty, and were not given back to the device since.
    emptied: BTreeSet<usize>,
    /// Those that are being given back: not to be taken before that is done (S16).
    trimmed: BTreeSet<usize>,
    /// Blocks that a write failed on: they stay held for the life of this opening (S9).
    aside: BTreeSet<u64>,
    /// A page whose reading would bring more free space than what is in memory has.
    wanted: Option<u64>,
    /// What became free, the last at the end, where that is taken first.
    recent: Option<Vec<u64>>,
}

/// Bitmap pages for so many blocks.
pub fn pages_of(blocks: u64) -> u64 {
    blocks.div_ceil(SPAN)
}

impl Space {
    /// Blocks `first .. end`, used as `spans` say; all free where there are none.
    pub fn new(first: u64, end: u64, spans: &[Span]) -> Space {
        let count = pages_of(end - first);
        let mut pages: Vec<Page> = (0..count).map(|_| Page::default()).collect();
        let mut free = 0;
        for (at, page) in pages.iter_mut().enumerate() {
            let blocks = SPAN.min(end - first - at as u64 * SPAN);
            page.span = Span { free: blocks as u16, ..Span::default() };
            if let Some(span) = spans.get(at) {
                page.span = *span;
            }
            free += u64::from(page.span.free);
        }
        let regions = vec![UNKNOWN; (end - first).div_ceil(REGION) as usize];
        let mut space = Space {
            first,
            end,
            pages,
            regions,
            cursors: [(0, 0); 4],
            without_runs: 0,
            free,
            limbo: VecDeque::new(),
            limbo_of_roots: VecDeque::new(),
            emptied: BTreeSet::new(),
            trimmed: BTreeSet::new(),
            aside: BTreeSet::new(),
            wanted: None,
            recent: None,
        };
        for at in 0..count {
            if space.pages[at as usize].is_known() {
                space.count_regions(at);
            }
        }
        space
    }

    /// From now on what became free last is taken first, whatever the stream: a block that is free too early is written again
    /// at once. For tests: it tears apart what would lie beside each other.
    pub fn reusing_soon(self) -> Space {
        Space { recent: Some(Vec::new()), ..self }
    }

    /// Blocks that can hold data.
    pub fn total(&self) -> u64 {
        self.end - self.first
    }
    /// Blocks free now; what waits to become free counts as used.
    pub fn free(&self) -> u64 {
        self.free
    }
    /// Whether the block lies in what is allocated.
    pub fn contains(&self, block: u64) -> bool {
        self.first <= block && block < self.end
    }
    /// Bytes of memory of its pages.
    pub fn bytes(&self) -> usize {
        let bits = |p: &Page| usize::from(p.settled.is_some()) + usize::from(p.held.is_some());
        self.pages.iter().map(bits).sum::<usize>() * WORDS * 8 + self.regions.len() * 2
    }

    fn at(&self, block: u64) -> (usize, usize, u64) {
        let offset = block - self.first;
        ((offset / SPAN) as usize, (offset % SPAN) as usize / 64, 1 << (offset % 64))
    }

    // ---- pages ----

    /// The number of the page that has a block's bit, when it is not in memory.
    pub fn is_away(&self, block: u64) -> Option<u64> {
        let (page, _, _) = self.at(block);
        (!self.pages[page].is_known()).then_some(page as u64)
    }
    /// A page to read so that there is more to allocate from.
    pub fn wanted(&self) -> Option<u64> {
        self.wanted
    }
    /// Where a page's current version is, by the root.
    pub fn span(&self, page: u64) -> Span {
        self.pages[page as usize].span
    }

    /// A page was read. It must say what the root says of it, and nothing of what entries that are not merged hold: its blocks
    /// would count as free, or as used, twice.
    pub fn take_in(&mut self, page: u64, payload: &[u8]) -> Result<(), Malformed> {
        let mut r = Reader::new(payload);
        if r.get_u64()? != page {
            return r.fail("the bitmap of this part of the slice");
        }
        let mut bits = Box::new([0u64; WORDS]);
        for word in bits.iter_mut() {
            *word = r.get_u64()?;
        }
        let known = &self.pages[page as usize];
        if known.settled.is_none() && !is_right(&bits, known, SPAN.min(self.total() - page * SPAN)) {
            return r.fail("as many used blocks as the root says, none of them held");
        }
        self.load(page, bits);
        Ok(())
    }

    fn load(&mut self, page: u64, bits: Bits) {
        if self.wanted == Some(page) {
            self.wanted = None;
        }
        let p = &mut self.pages[page as usize];
        if p.settled.is_some() {
            return;
        }
        p.settled = Some(bits);
        self.count_regions(page);
    }

    /// Counts what is free in the regions of a page that is known.
    fn count_regions(&mut self, page: u64) {
        let first_region = (page * REGIONS) as usize;
        for region in first_region..(first_region + REGIONS as usize).min(self.regions.len()) {
            self.regions[region] = self.count(region);
        }
    }

    fn count(&self, region: usize) -> u16 {
        let page = &self.pages[region / REGIONS as usize];
        let word = region % REGIONS as usize * REGION_WORDS;
        let blocks = REGION.min(self.total() - region as u64 * REGION);
        let used = |bits: &Option<Bits>| {
            bits.as_ref()
                .map_or(0, |b| b[word..word + REGION_WORDS].iter().map(|w| w.count_ones()).sum::<u32>())
        };
        (blocks as u32 - used(&page.settled) - used(&page.held)) as u16
    }

    /// The payloads of pages that changed since they were written, with their numbers.
    pub fn changed(&self) -> Vec<u64> {
        (0..self.pages.len() as u64).filter(|p| self.pages[*p as usize].is_dirty).collect()
    }

    /// The payload of a page.
    pub fn encode(&self, page: u64) -> Vec<u8> {
        let mut w = Writer::page();
        w.u64(page);
        if let Some(bits) = &self.pages[page as usize].settled {
            for word in bits.iter() {
                w.u64(*word);
            }
        }
        w.0
    }

    /// A page is being written: its other version becomes the current one. Gives that.
    pub fn written(&mut self, page: u64, sum: u32) -> Span {
        let p = &mut self.pages[page as usize];
        p.is_dirty = false;
        p.span = Span { version: p.span.version ^ 1, is_written: true, sum, free: p.span.free };
        p.span
    }

    /// One of its two places is bad: it is written with the next checkpoint though nothing changed.
    pub fn write_anew(&mut self, page: u64) {
        self.pages[page as usize].is_dirty = true;
    }

    /// What the root says of all pages.
    pub fn spans(&self) -> impl Iterator<Item = Span> {
        self.pages.iter().map(|p| p.span)
    }

    // ---- taking ----

    /// Up to `most` neighbouring blocks, going on where the stream's last allocation ended; `None` when none is at hand:
    /// then [`Space::wanted`] says which page to read, or all is used.
    pub fn take(&mut self, stream: Stream, most: u64) -> Option<(u64, u64)> {
        if let Some(block) = self.take_recent() {
            return Some((block, 1));
        }
        // S15: a long write passes over holes too short for it, and what it passes over small ones fill; but where the emptiest
        // regions have nothing longer, it takes what there is, and does not look again for a while
        let is_choosy = stream == Stream::Long && self.without_runs == 0;
        let least = if is_choosy { most.min(RUN_BLOCKS_MIN) } else { 1 };
        if stream == Stream::Long {
            self.without_runs = self.without_runs.saturating_sub(1);
        }
        let mut regions = 0;
        loop {
            let (from, end) = self.cursors[stream as usize];
            if let Some(start) = self.next_free(from, end) {
                let mut count = 0;
                while count < most && start + count < end && self.is_free(start + count) {
                    count += 1;
                }
                self.cursors[stream as usize].0 = start + count;
                if count < least && regions < LONG_REGIONS_MAX {
                    continue;
                }
                if count < least {
                    self.without_runs = WITHOUT_RUNS;
                }
                (start..start + count).for_each(|block| self.hold(block));
                return Some((start, count));
            }
            self.cursors[stream as usize] = self.next_region(stream)?;
            regions += 1;
        }
    }

    fn take_recent(&mut self) -> Option<u64> {
        while let Some(block) = self.recent.as_mut()?.pop() {
            let region = ((block - self.first) / REGION) as usize;
            // taken meanwhile, in its turn; or being given back to the device
            if self.is_free(block) && !self.trimmed.contains(&region) {
                self.hold(block);
                return Some(block);
            }
        }
        None
    }

    /// Streams begin anew at the emptiest region's first hole: as in a store that is full, what was freed is soon taken.
    pub fn rewind(&mut self) {
        self.cursors = [(0, 0); 4];
    }

    fn is_free(&self, block: u64) -> bool {
        let (page, word, bit) = self.at(block);
        let page = &self.pages[page];
        page.settled_word(word).is_some_and(|b| b & bit == 0)
            && page.held.as_ref().is_none_or(|b| b[word] & bit == 0)
    }

    fn next_free(&self, from: u64, end: u64) -> Option<u64> {
        let mut block = from;
        while block < end {
            let (page, word, bit) = self.at(block);
            let page = &self.pages[page];
            let used = page.settled_word(word)? | page.held.as_ref().map_or(0, |b| b[word]);
            let open = !used & !(bit - 1);
            if open != 0 {
                let found = block - u64::from(bit.trailing_zeros()) + u64::from(open.trailing_zeros());
                return (found < end).then_some(found);
            }
            block += 64 - u64::from(bit.trailing_zeros());
        }
        None
    }

    /// The emptiest region nobody fills (S15), among those in memory; the lowest of equals, so that space is filled in
    /// ascending order. Twins look from the far end, to lie apart.
    fn next_region(&mut self, stream: Stream) -> Option<(u64, u64)> {
        let open: [u64; 4] =
            self.cursors.map(|c| if c.1 == 0 { u64::MAX } else { (c.1 - 1 - self.first) / REGION });
        let mut best: Option<(u16, usize)> = None;
        for (region, &free) in self.regions.iter().enumerate() {
            if free == UNKNOWN
                || free == 0
                || open.contains(&(region as u64))
                || self.trimmed.contains(&region)
            {
                continue;
            }
            let is_better = match best {
                None => true,
                Some((most, _)) if stream == Stream::Twin => free >= most,
                Some((most, _)) => free > most,
            };
            if is_better {
                best = Some((free, region));
            }
        }
        self.want_page(best.map_or(0, |b| b.0));
        // with nothing else left, what another stream has begun is finished together
        let best = best.or_else(|| {
            (self.regions.iter().enumerate())
                .filter(|(region, free)| **free != UNKNOWN && **free > 0 && !self.trimmed.contains(region))
                .map(|(region, free)| (*free, region))
                .max()
        });
        let (_, region) = best?;
        let start = self.first + region as u64 * REGION;
        Some((start, (start + REGION).min(self.end)))
    }

    /// Notes the page not in memory with the most free space, when its regions are likely emptier than `best`.
    fn want_page(&mut self, best: u16) {
        if self.wanted.is_some() {
            return;
        }
        let away = self.pages.iter().enumerate().filter(|(_, p)| !p.is_known());
        let emptiest =
            away.map(|(at, p)| (u64::from(p.span.free).saturating_sub(p.held_count.into()), at)).max();
        if let Some((free, at)) = emptiest
            && free > u64::from(best) * REGIONS
        {
            self.wanted = Some(at as u64);
        }
    }

    // ---- marking ----

    fn hold(&mut self, block: u64) {
        let (page, word, bit) = self.at(block);
        let p = &mut self.pages[page];
        let bits = p.held.get_or_insert_with(|| Box::new([0; WORDS]));
        debug_assert_eq!(bits[word] & bit, 0, "block {block} is held already");
        bits[word] |= bit;
        p.held_count += 1;
        self.free -= 1;
        self.region_changed(block, -1);
    }

    fn region_changed(&mut self, block: u64, by: i16) {
        let region = &mut self.regions[((block - self.first) / REGION) as usize];
        if *region != UNKNOWN {
            *region = region.wrapping_add_signed(by);
        }
    }

    fn unhold(&mut self, block: u64) {
        let (page, word, bit) = self.at(block);
        let p = &mut self.pages[page];
        let Some(bits) = &mut p.held else { return };
        assert_ne!(bits[word] & bit, 0, "block {block} was held");
        bits[word] &= !bit;
        p.held_count -= 1;
        if p.held_count == 0 {
            p.held = None;
        }
    }

    /// Found in use by an entry not merged, when the drive was opened.
    pub fn mark_held(&mut self, block: u64) -> Result<(), Malformed> {
        let (page, word, bit) = self.at(block);
        let is_held = self.pages[page].held.as_ref().is_some_and(|b| b[word] & bit != 0);
        if !is_held && self.free == 0 {
            return Err(Malformed { at: 0, what: "a free block for each entry that is not merged" });
        }
        if !is_held {
            self.hold(block);
        }
        Ok(())
    }

    /// A held block is named by what the next root names.
    pub fn settle(&mut self, block: u64) {
        self.unhold(block);
        let (page, word, bit) = self.at(block);
        let p = &mut self.pages[page];
        let bits = p.settled_bits();
        debug_assert_eq!(bits[word] & bit, 0, "block {block} is settled already");
        bits[word] |= bit;
        p.span.free -= 1;
        p.is_dirty = true;
    }

    /// The next root does not name it any more; it is free once the barrier is passed. Its page is in memory.
    pub fn unsettle(&mut self, block: u64, barrier: Barrier) {
        self.rehold(block);
        self.limbo_of_roots.push_back((block, barrier));
    }

    /// The next root does not name it any more, but an entry that is not merged does. Its page is in memory.
    pub fn rehold(&mut self, block: u64) {
        let (page, word, bit) = self.at(block);
        let p = &mut self.pages[page];
        let bits = p.settled_bits();
        assert_ne!(bits[word] & bit, 0, "block {block} was settled");
        bits[word] &= !bit;
        p.span.free += 1;
        p.is_dirty = true;
        let held = p.held.get_or_insert_with(|| Box::new([0; WORDS]));
        held[word] |= bit;
        p.held_count += 1;
    }

    /// Nothing names a held block any more; it is free once the barrier is passed.
    pub fn release(&mut self, block: u64, barrier: Barrier) {
        match barrier.root {
            0 => self.limbo.push_back((block, barrier)),
            _ => self.limbo_of_roots.push_back((block, barrier)),
        }
    }

    /// A block just taken is not needed: nothing was written to it.
    pub fn give_back(&mut self, block: u64) {
        self.set_free(block);
    }

    fn set_free(&mut self, block: u64) {
        if self.aside.contains(&block) {
            return;
        }
        self.unhold(block);
        self.free += 1;
        if let Some(recent) = &mut self.recent {
            recent.push(block);
        }
        self.region_changed(block, 1);
        let region = ((block - self.first) / REGION) as usize;
        if u64::from(self.regions[region]) == REGION {
            self.emptied.insert(region);
        }
    }

    // ---- giving back ----

    /// Regions to give back to the device: wholly empty since a checkpoint freed the last of them, and filled by nobody.
    /// First block of each; they are not taken before [`Space::trim_ended`].
    pub fn begin_trims(&mut self) -> Vec<u64> {
        if self.free < self.total() / TRIM_PART || !self.trimmed.is_empty() {
            return Vec::new();
        }
        let open: [u64; 4] =
            self.cursors.map(|c| if c.1 == 0 { u64::MAX } else { (c.1 - 1 - self.first) / REGION });
        let is_empty = |r: &usize| u64::from(self.regions[*r]) == REGION && !open.contains(&(*r as u64));
        // half of what is free stays at hand
        let most = TRIMMED_MAX.min((self.free / REGION / 2) as usize);
        self.emptied.retain(|r| u64::from(self.regions[*r]) == REGION);
        self.trimmed = self.emptied.iter().copied().filter(is_empty).take(most).collect();
        self.emptied.retain(|r| !self.trimmed.contains(r));
        self.trimmed.iter().map(|r| self.first + *r as u64 * REGION).collect()
    }

    /// A region was given back.
    pub fn trim_ended(&mut self, first: u64) {
        self.trimmed.remove(&(((first - self.first) / REGION) as usize));
    }

    /// A checkpoint is cut before journal block `sequence`: what waits for that block to say that it is free waits for root
    /// `root` instead, which says it too. A full store may have nothing more to journal.
    pub fn cut(&mut self, sequence: u64, root: u64) {
        let is_met = |l: &(u64, Barrier)| l.1.journal >= sequence;
        for (_, barrier) in self.limbo_of_roots.iter_mut().filter(|l| is_met(l)) {
            *barrier = Barrier { journal: sequence - 1, root: barrier.root.max(root), ..*barrier };
        }
        let waiting = std::mem::take(&mut self.limbo);
        for (block, barrier) in waiting {
            match is_met(&(block, barrier)) {
                true => {
                    self.limbo_of_roots
                        .push_back((block, Barrier { journal: sequence - 1, root, ..barrier }));
                }
                false => self.limbo.push_back((block, barrier)),
            }
        }
    }

    /// Holds the bits against what is named: `settled` by the map, and `named` by that and by unmerged entries. All pages are
    /// in memory. With `has_bad` leaves more may be in use than is known.
    pub(crate) fn audit(
        &self,
        settled: &BTreeMap<u64, &'static str>,
        named: &BTreeMap<u64, &'static str>,
        has_bad: bool,
    ) -> Result<(), String> {
        let waiting: BTreeSet<u64> = self.limbo.iter().chain(&self.limbo_of_roots).map(|l| l.0).collect();
        let mut free = 0;
        for block in self.first..self.end {
            let (page, word, bit) = self.at(block);
            let page = &self.pages[page];
            let is_settled = page.settled.as_ref().is_some_and(|b| b[word] & bit != 0);
            let is_held = page.held.as_ref().is_some_and(|b| b[word] & bit != 0);
            free += u64::from(!is_settled && !is_held);
            let by = named.get(&block);
            let is_right = match (settled.contains_key(&block), by) {
                (true, _) => is_settled && !is_held,
                (false, Some(_)) => is_held && !is_settled,
                (false, None) => (!is_settled || has_bad) && is_held == waiting.contains(&block),
            };
            if !is_right {
                return Err(format!(
                    "block {block} is settled: {is_settled}, held: {is_held}, waits to be free: {}, named by: {by:?}",
                    waiting.contains(&block)
                ));
            }
        }
        match free == self.free {
            true => Ok(()),
            false => Err(format!("{free} blocks are free, {} are counted", self.free)),
        }
    }

    /// A write to these blocks failed: they are not free again in the life of this opening, be they named or not (S9).
    pub fn set_aside(&mut self, first: u64, count: u64) {
        self.aside.extend(first..first + count);
    }
    /// What was set aside.
    pub fn aside(&self) -> &BTreeSet<u64> {
        &self.aside
    }

    /// Frees what has passed its barrier.
    pub fn pass(&mut self, durable: u64, oldest_read: u64, root: u64) {
        for which in 0..2 {
            loop {
                let limbo = if which == 0 { &mut self.limbo } else { &mut self.limbo_of_roots };
                let Some(&(block, b)) = limbo.front() else { break };
                if b.journal > durable || b.read > oldest_read || b.root > root {
                    break;
                }
                limbo.pop_front();
                self.set_free(block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_released_is_free_only_behind_its_barrier() {
        let mut space = Space::new(10, 14, &[]);
        assert_eq!(space.take(Stream::Small, 8), Some((10, 4)));
        assert_eq!(space.take(Stream::Small, 1), None);
        space.release(12, Barrier { journal: 5, read: 2, root: 1 });
        space.release(11, Barrier { journal: 4, read: 2, root: 0 });
        space.pass(4, 2, 0);
        assert_eq!(space.take(Stream::Small, 2), Some((11, 1)));
        space.pass(5, 2, 1);
        assert_eq!(space.take(Stream::Small, 8), Some((12, 1)));
    }

    #[test]
    fn what_became_free_last_is_taken_first_where_that_is_asked() {
        let mut space = Space::new(0, 4 * REGION, &[]).reusing_soon();
        assert_eq!(space.take(Stream::Small, 8), Some((0, 8)));
        let barrier = Barrier { journal: 1, read: 0, root: 0 };
        [2, 5].into_iter().for_each(|block| space.release(block, barrier));
        assert_eq!(space.take(Stream::Small, 1), Some((8, 1)), "nothing is free before its barrier");
        space.pass(1, 0, 0);
        assert_eq!(space.take(Stream::Long, 16), Some((5, 1)));
        assert_eq!(space.take(Stream::Map, 1), Some((2, 1)));
        assert_eq!(space.take(Stream::Small, 2), Some((9, 2)));
        // what is being given back is not taken, be it the last that became free
        (0..11).for_each(|block| space.release(block, barrier));
        space.pass(1, 0, 0);
        space.rewind();
        assert_eq!(space.begin_trims(), [0]);
        assert_eq!(space.take(Stream::Small, 1), Some((REGION, 1)));
    }

    /// A store that was full waited for a journal block that nothing could bring about before it took back what was
    /// discarded.
    #[test]
    fn a_root_says_what_is_free_where_no_journal_block_follows() {
        let mut space = Space::new(10, 14, &[]);
        assert_eq!(space.take(Stream::Small, 8), Some((10, 4)));
        space.release(12, Barrier { journal: 6, read: 0, root: 0 });
        space.cut(6, 2);
        space.pass(5, 0, 1);
        assert_eq!(space.free(), 0);
        space.pass(5, 0, 2);
        assert_eq!(space.free(), 1);
    }

    #[test]
    fn small_writes_thread_the_holes_and_long_ones_take_empty_regions() {
        let mut space = Space::new(0, 3 * REGION, &[]);
        for block in [0, 1, 5] {
            space.mark_held(block).unwrap();
        }
        for block in 2 * REGION..2 * REGION + 900 {
            space.mark_held(block).unwrap();
        }
        assert_eq!(space.take(Stream::Long, 64), Some((REGION, 64)));
        assert_eq!(space.take(Stream::Small, 10), Some((2, 3)));
        assert_eq!(space.take(Stream::Small, 100), Some((6, 100)));
        assert_eq!(space.take(Stream::Map, 1), Some((2 * REGION + 900, 1)));
        assert_eq!(space.free(), 3 * REGION - 903 - 64 - 103 - 1);
    }

    #[test]
    fn a_long_write_passes_over_short_holes_while_there_are_longer_ones() {
        let mut space = Space::new(0, 2 * REGION, &[]);
        // of the first region every other block is free, and a run at its end; the second is full but for eight
        for block in (0..REGION - 40).step_by(2).chain(REGION..2 * REGION - 8) {
            space.mark_held(block).unwrap();
        }
        assert_eq!(space.take(Stream::Long, 64), Some((REGION - 41, 41)));
        assert_eq!(space.take(Stream::Small, 64), Some((2 * REGION - 8, 8)));
        let holes: u64 = (REGION - 42) / 2;
        assert_eq!(space.free(), holes);
        for _ in 0..holes {
            assert!(matches!(space.take(Stream::Long, 64), Some((_, 1))), "there is nothing longer");
        }
        assert_eq!((space.free(), space.take(Stream::Long, 64)), (0, None));
    }

    #[test]
    fn pages_come_back_with_what_was_settled_and_are_read_only_when_needed() {
        let end = 3 * SPAN + 100;
        let mut space = Space::new(0, end, &[]);
        let mut taken = Vec::new();
        for _ in 0..3 {
            let (first, count) = space.take(Stream::Small, 700).unwrap();
            (first..first + count).for_each(|b| space.settle(b));
            taken.push((first, count));
        }
        let changed = space.changed();
        assert_eq!(changed, [0]);
        let payload = space.encode(0);
        let span = space.written(0, 77);
        assert_eq!((span.version, span.sum, span.is_written), (1, 77, true));
        let spans: Vec<Span> = space.spans().collect();
        let mut again = Space::new(0, end, &spans);
        assert_eq!((again.free(), again.is_away(5), again.is_away(SPAN)), (space.free(), Some(0), None));
        again.take_in(0, &payload).unwrap();
        assert_eq!(again.is_away(5), None);
        let used: u64 = taken.iter().map(|t| t.1).sum();
        assert_eq!(again.free(), end - used);
        again.unsettle(3, Barrier { journal: 0, read: 0, root: 4 });
        again.pass(9, 9, 3);
        assert_eq!(again.free(), end - used);
        again.pass(9, 9, 4);
        assert_eq!(again.free(), end - used + 1);
    }

    /// Such pages were taken in: a block that an entry held was settled once more, and one behind the end left a region with fewer
    /// free blocks than none (found by the fuzzer of the map).
    #[test]
    fn a_page_that_says_something_else_than_the_root_is_refused() {
        let mut space = Space::new(0, 100, &[]);
        let (first, count) = space.take(Stream::Small, 10).unwrap();
        (first..first + count).for_each(|b| space.settle(b));
        let good = space.encode(0);
        space.written(0, 77);
        let spans: Vec<Span> = space.spans().collect();
        let take_in = |held: u64, payload: &[u8]| {
            let mut again = Space::new(0, 100, &spans);
            again.mark_held(held).unwrap();
            again.take_in(0, payload).is_ok()
        };
        let flipped = |blocks: &[u64]| {
            let mut payload = good.clone();
            blocks.iter().for_each(|b| payload[8 + *b as usize / 8] ^= 1 << (b % 8));
            payload
        };
        assert!(take_in(first + count, &good) && !take_in(first, &good));
        assert!(!take_in(99, &flipped(&[first])) && !take_in(99, &flipped(&[98])));
        assert!(take_in(99, &flipped(&[first, 98])) && !take_in(99, &flipped(&[first, 100])));
        assert!(!take_in(99, &flipped(&[first, SPAN - 1])));
    }

    #[test]
    fn a_slice_whose_pages_are_away_asks_for_the_emptiest() {
        let full = Span { is_written: true, free: 3, ..Span::default() };
        let half = Span { free: 15_000, ..full };
        let mut space = Space::new(0, 2 * SPAN, &[full, half]);
        assert_eq!(space.take(Stream::Small, 1), None);
        assert_eq!(space.wanted(), Some(1));
    }
}
