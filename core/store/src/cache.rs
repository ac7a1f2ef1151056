//! Map pages in memory: a bounded number of them, the ones not used for longest go first (S4).
use crate::leaf;
use crate::page::{HEADER, PageKind, Pointer, unseal};
use crate::{run, table};
use sarsen_buffer::Buf;
use std::collections::{HashMap, HashSet, VecDeque};

/// Pages it holds at least, whatever memory it is given: what one request may need at once.
const PAGES_MIN: usize = 256;

/// A page in memory, verified.
#[derive(Debug)]
struct Cached {
    buf: Buf,
    sum: u32,
    is_used: std::cell::Cell<bool>,
}

/// What is known of a page.
#[derive(Debug)]
pub enum Found<'a> {
    /// Its payload.
    Here(&'a [u8]),
    /// It is to be read.
    Away,
    /// It was read, and is not what its pointer names.
    Bad,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Cache {
    pages: HashMap<u64, Cached>,
    /// In the order they are looked at for leaving: a second chance for those used since (CLOCK).
    clock: VecDeque<u64>,
    bad: HashSet<Pointer>,
    pages_max: usize,
}

impl Cache {
    /// A cache of so many bytes.
    pub fn new(bytes: usize) -> Cache {
        Cache { pages_max: (bytes / sarsen_types::BLOCK_SIZE).max(PAGES_MIN), ..Cache::default() }
    }

    /// The page a pointer names. A page of another checksum in its block is an older one: it is to be read.
    pub fn get(&self, pointer: Pointer) -> Found<'_> {
        match self.pages.get(&pointer.block) {
            Some(page) if page.sum == pointer.sum => {
                page.is_used.set(true);
                Found::Here(&page.buf[HEADER..])
            }
            _ if !self.bad.is_empty() && self.bad.contains(&pointer) => Found::Bad,
            _ => Found::Away,
        }
    }

    /// A page that was just written.
    pub fn put(&mut self, pointer: Pointer, buf: Buf) {
        let page = Cached { buf, sum: pointer.sum, is_used: std::cell::Cell::new(false) };
        if self.pages.insert(pointer.block, page).is_none() {
            self.clock.push_back(pointer.block);
        }
        while self.pages.len() > self.pages_max {
            let Some(block) = self.clock.pop_front() else { return };
            match self.pages.get(&block) {
                Some(page) if page.is_used.replace(false) && block != pointer.block => {
                    self.clock.push_back(block);
                }
                Some(_) if block == pointer.block => self.clock.push_back(block),
                Some(_) => drop(self.pages.remove(&block)),
                None => {}
            }
        }
    }

    /// A page that was read: kept when it is what its pointer names, and legible.
    pub fn take_in(&mut self, pointer: Pointer, kind: PageKind, buf: Option<Buf>) -> bool {
        let check = |payload: &[u8]| match kind {
            PageKind::Table => table::check(payload),
            PageKind::Run => run::entries(payload).map(drop),
            PageKind::Runs => run::list(payload).map(drop),
            _ => leaf::check(kind, payload),
        };
        match buf.filter(|buf| unseal(buf, kind, Some(pointer.sum)).and_then(check).is_ok()) {
            Some(buf) => {
                self.put(pointer, buf);
                true
            }
            None => false,
        }
    }

    /// A page cannot be read.
    pub fn lose(&mut self, pointer: Pointer) {
        self.bad.insert(pointer);
    }

    /// Nothing names the page any more.
    pub fn forget(&mut self, block: u64) {
        self.pages.remove(&block);
        if !self.bad.is_empty() {
            self.bad.retain(|p| p.block != block);
        }
    }

    /// Bytes of pages.
    pub fn bytes(&self) -> usize {
        self.pages.len() * sarsen_types::BLOCK_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::seal;
    use sarsen_buffer::Pool;

    #[test]
    fn it_stays_bounded_and_keeps_what_is_used() {
        let pool = Pool::new();
        let mut cache = Cache::new(0);
        let mut pointers = Vec::new();
        for block in 1..=3 * PAGES_MIN as u64 {
            let (buf, sum) = seal(&pool, PageKind::Dense, &block.to_le_bytes());
            let pointer = Pointer { block, sum };
            assert!(cache.take_in(pointer, PageKind::Dense, Some(buf)));
            pointers.push(pointer);
            assert!(matches!(cache.get(pointers[0]), Found::Here(_)));
        }
        assert_eq!(cache.bytes() / 4096, PAGES_MIN);
        assert!(matches!(cache.get(pointers[10]), Found::Away));
    }

    #[test]
    fn a_page_of_another_checksum_is_not_the_one_that_is_asked() {
        let pool = Pool::new();
        let mut cache = Cache::new(0);
        let (buf, sum) = seal(&pool, PageKind::Dense, b"new");
        let old = Pointer { block: 7, sum: sum ^ 1 };
        assert!(!cache.take_in(old, PageKind::Dense, Some(buf.clone())));
        cache.lose(old);
        assert!(matches!(cache.get(old), Found::Bad));
        cache.put(Pointer { block: 7, sum }, buf);
        assert!(matches!(cache.get(Pointer { block: 7, sum }), Found::Here(_)));
        assert!(matches!(cache.get(old), Found::Bad));
        cache.forget(7);
        assert!(matches!(cache.get(old), Found::Away));
    }
}
