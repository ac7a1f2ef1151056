//! A pool of page-aligned slots in a few sizes, and counted views into them.
use crate::arena::Arena;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::rc::Rc;

/// Sizes of slots, in bytes. A request for more than the last is served by a slot of its own, not kept.
const CLASSES: [usize; 7] = [4096, 16 << 10, 64 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20];
/// Alignment of every slot: what O_DIRECT asks for at most.
const ALIGN: usize = 4096;
/// Bytes of free slots kept for reuse, of all classes together and beside the arena's; more are given back.
const KEPT_BYTES_MAX: usize = 16 << 20;

struct Slot {
    memory: NonNull<u8>,
    len: usize,
    class: usize,
    views: Cell<u32>,
    account: Cell<Account>,
    /// Its memory is the arena's.
    is_cut: bool,
}

/// Whom a slot is counted for.
#[derive(Clone, Copy)]
enum Account {
    Main,
    Beside,
}

struct Shared {
    arena: Option<Arena>,
    free: RefCell<[Vec<NonNull<Slot>>; CLASSES.len()]>,
    /// Bytes in the free lists that are not the arena's.
    free_bytes: Cell<usize>,
    /// By account.
    live_bytes: [Cell<usize>; 2],
}

/// Slots of one thread.
#[derive(Clone)]
pub struct Pool {
    shared: Rc<Shared>,
    account: Account,
}

/// A counted view into a slot of a pool.
pub struct Buf {
    slot: NonNull<Slot>,
    start: u32,
    len: u32,
    pool: Rc<Shared>,
}

impl Default for Pool {
    fn default() -> Pool {
        Pool::new()
    }
}

impl Pool {
    /// An empty pool.
    pub fn new() -> Pool {
        Pool::over(None)
    }

    /// An empty pool whose slots are cut from an arena first, as long as it has room.
    pub fn over(arena: Option<Arena>) -> Pool {
        let (free, free_bytes, live_bytes) = Default::default();
        Pool { shared: Rc::new(Shared { arena, free, free_bytes, live_bytes }), account: Account::Main }
    }

    /// The same slots, counted apart: for what is bounded by other means than the rest (S4).
    pub fn beside(&self) -> Pool {
        Pool { shared: self.shared.clone(), account: Account::Beside }
    }

    /// What its slots are cut from first.
    pub fn arena(&self) -> Option<&Arena> {
        self.shared.arena.as_ref()
    }

    /// A buffer of `len` bytes, with whatever its slot held before. Bounds on memory are its callers' (permits, grants).
    pub fn take(&self, len: usize) -> Buf {
        let class = CLASSES.iter().position(|&c| len <= c).unwrap_or(CLASSES.len());
        let shared = &*self.shared;
        let reused = shared.free.borrow_mut().get_mut(class).and_then(Vec::pop);
        let slot = reused.unwrap_or_else(|| Slot::new(class, len, self.arena()));
        // SAFETY: slots are live while they are in the free list or have a view; this one came from the list or is new.
        let slot_ref = unsafe { slot.as_ref() };
        if reused.is_some() && !slot_ref.is_cut {
            shared.free_bytes.set(shared.free_bytes.get() - slot_ref.len);
        }
        slot_ref.views.set(1);
        slot_ref.account.set(self.account);
        let live = &shared.live_bytes[self.account as usize];
        live.set(live.get() + slot_ref.len);
        Buf { slot, start: 0, len: len as u32, pool: self.shared.clone() }
    }

    /// A zeroed buffer of `len` bytes.
    pub fn take_zeroed(&self, len: usize) -> Buf {
        let mut buf = self.take(len);
        buf.get_mut().fill(0);
        buf
    }

    /// A copy of `bytes`.
    pub fn copy_of(&self, bytes: &[u8]) -> Buf {
        let mut buf = self.take(bytes.len());
        buf.get_mut().copy_from_slice(bytes);
        buf
    }

    /// Bytes of slots in use that were taken here, not [`Pool::beside`].
    pub fn live_bytes(&self) -> usize {
        self.shared.live_bytes[self.account as usize].get()
    }
}

impl Slot {
    fn new(class: usize, len: usize, arena: Option<&Arena>) -> NonNull<Slot> {
        let len = CLASSES.get(class).copied().unwrap_or(len.next_multiple_of(ALIGN)).max(ALIGN);
        let slot = |memory, is_cut| {
            let (views, account) = (Cell::new(0), Cell::new(Account::Main));
            NonNull::from(Box::leak(Box::new(Slot { memory, len, class, views, account, is_cut })))
        };
        // one of no class is not kept, and what was cut is not given back
        if let Some(memory) = arena.filter(|_| class < CLASSES.len()).and_then(|a| a.cut(len)) {
            return slot(memory, true);
        }
        let layout = Layout::from_size_align(len, ALIGN).expect("a slot's size is bounded");
        // SAFETY: the layout has a size above zero.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(layout) };
        slot(memory, false)
    }

    /// # Safety
    /// `slot` came from `Slot::new`, has no view, and is used no more.
    unsafe fn free(slot: NonNull<Slot>) {
        // SAFETY: by the caller's promise this is the box of `Slot::new`, and its memory has the layout given there.
        unsafe {
            let slot = Box::from_raw(slot.as_ptr());
            if !slot.is_cut {
                dealloc(slot.memory.as_ptr(), Layout::from_size_align_unchecked(slot.len, ALIGN));
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for slot in self.free.get_mut().iter_mut().flat_map(std::mem::take) {
            // SAFETY: a slot in the free list has no view, and the list is gone with this.
            unsafe { Slot::free(slot) };
        }
    }
}

impl Buf {
    fn slot(&self) -> &Slot {
        // SAFETY: a view keeps its slot live.
        unsafe { self.slot.as_ref() }
    }

    /// The address of its first byte; valid while any view of the slot lives.
    pub fn as_ptr(&self) -> *const u8 {
        // SAFETY: start lies inside the slot.
        unsafe { self.slot().memory.as_ptr().add(self.start as usize) }
    }

    /// The bytes, to be changed.
    ///
    /// # Panics
    /// If another view of the slot exists: what a kernel or another owner may read does not change under it.
    pub fn get_mut(&mut self) -> &mut [u8] {
        assert_eq!(self.slot().views.get(), 1, "a buffer with several views is not changed");
        // SAFETY: the only view, borrowed mutably; the range lies inside the slot.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr().cast_mut(), self.len as usize) }
    }

    /// Whether it is the only view of its slot.
    pub fn is_unique(&self) -> bool {
        self.slot().views.get() == 1
    }

    /// A view of a part of it.
    ///
    /// # Panics
    /// If the range is not inside it.
    pub fn slice(&self, range: Range<usize>) -> Buf {
        assert!(range.start <= range.end && range.end <= self.len as usize, "a view lies inside its buffer");
        let mut view = self.clone();
        view.start += range.start as u32;
        view.len = (range.end - range.start) as u32;
        view
    }

    /// This view made smaller. Unlike [`Buf::slice`] it makes no second view, so the bytes can still be changed.
    ///
    /// # Panics
    /// If the range is not inside it.
    pub fn narrow(mut self, range: Range<usize>) -> Buf {
        assert!(range.start <= range.end && range.end <= self.len as usize, "a view lies inside its buffer");
        self.start += range.start as u32;
        self.len = (range.end - range.start) as u32;
        self
    }

    /// This view made larger by so many bytes of its slot, before and after it: [`Buf::narrow`] undone.
    ///
    /// # Panics
    /// If the slot has not so many.
    pub fn widen(mut self, before: usize, after: usize) -> Buf {
        let end = self.start as usize + self.len as usize + after;
        assert!(before <= self.start as usize && end <= self.slot().len, "a view lies inside its slot");
        self.start -= before as u32;
        self.len += (before + after) as u32;
        self
    }

    /// A view of `count` blocks from block `first` of it.
    pub fn blocks(&self, first: usize, count: usize) -> Buf {
        self.slice(first * sarsen_types::BLOCK_SIZE..(first + count) * sarsen_types::BLOCK_SIZE)
    }
}

impl Clone for Buf {
    fn clone(&self) -> Buf {
        self.slot().views.set(self.slot().views.get() + 1);
        Buf { slot: self.slot, start: self.start, len: self.len, pool: self.pool.clone() }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let slot = self.slot();
        slot.views.set(slot.views.get() - 1);
        if slot.views.get() > 0 {
            return;
        }
        let live = &self.pool.live_bytes[slot.account.get() as usize];
        live.set(live.get() - slot.len);
        let free_bytes = self.pool.free_bytes.get() + if slot.is_cut { 0 } else { slot.len };
        let mut free = self.pool.free.borrow_mut();
        match free.get_mut(slot.class) {
            Some(list) if slot.is_cut || free_bytes <= KEPT_BYTES_MAX => {
                self.pool.free_bytes.set(free_bytes);
                list.push(self.slot);
            }
            // SAFETY: this was its last view.
            _ => unsafe { Slot::free(self.slot) },
        }
    }
}

impl Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the range lies inside the slot, and nobody has a mutable view while this one exists.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len as usize) }
    }
}
impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.len)
    }
}
impl PartialEq for Buf {
    fn eq(&self, other: &Buf) -> bool {
        **self == **other
    }
}
impl Eq for Buf {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_returns_with_its_last_view() {
        let pool = Pool::new();
        let whole = pool.take_zeroed(8192);
        let part = whole.blocks(1, 1);
        let address = whole.as_ptr();
        drop(whole);
        assert_eq!(pool.live_bytes(), 16 << 10);
        assert_eq!((part.len(), part.as_ptr()), (4096, address.wrapping_add(4096)));
        drop(part);
        assert_eq!(pool.live_bytes(), 0);
        assert_eq!(pool.take(5000).as_ptr(), address);
    }

    #[test]
    fn slots_are_cut_from_the_arena_while_it_has_room_and_come_back_to_the_pool() {
        let pool = Pool::over(Arena::new(2 << 20));
        let all = pool.arena().unwrap().addresses();
        let is_cut = |buf: &Buf| all.contains(&(buf.as_ptr() as usize));
        let mut held: Vec<Buf> = (0..4).map(|_| pool.take(512 << 10)).collect();
        assert!(held.iter().all(is_cut) && held.iter().all(|b| b.iter().all(|byte| *byte == 0)));
        let beside = pool.take(4096);
        assert!(!is_cut(&beside), "there is no room left");
        held.iter_mut().for_each(|b| b.get_mut().fill(7));
        drop(held);
        let again: Vec<Buf> = (0..4).map(|_| pool.take(512 << 10)).collect();
        assert!(again.iter().all(is_cut), "used again, whatever is kept of others");
        drop(pool);
        assert!(again[0].iter().all(|byte| *byte == 7), "a view keeps the arena");
    }

    #[test]
    fn a_view_is_narrowed_and_widened_without_a_second_one() {
        let pool = Pool::new();
        let mut part = pool.take_zeroed(8192).narrow(100..200);
        part.get_mut().fill(1);
        let whole = part.widen(100, 8192 - 200);
        assert_eq!((whole.len(), whole[99], whole[100], whole[199], whole[200]), (8192, 0, 1, 1, 0));
        assert!(whole.is_unique());
    }

    #[test]
    #[should_panic(expected = "several views")]
    fn a_shared_buffer_is_not_changed() {
        let pool = Pool::new();
        let mut first = pool.take(4096);
        let _second = first.clone();
        first.get_mut();
    }
}
