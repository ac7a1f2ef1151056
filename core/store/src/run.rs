//! Runs: settled entries that were not worth a leaf each, sorted, in pages that lie over the leaves of one table page's objects
//! (S13).
//!
//! ```text
//! slot -> list of runs (at most 14, the oldest first, a filter each) -> run (about 160 entries)
//! ```
//!
//! A checkpoint that finds few entries for many leaves writes a run in place of the leaves; when the list is full, all its
//! runs are merged at once. A lookup asks the filters, so that mostly none or one run is read. Both kinds of pages lie in two
//! places each.
use crate::bytes::{Malformed, Reader, Writer, get_object, put_object};
use crate::page::{PAYLOAD, Twin};
use crate::place::{ENTRY_BYTES, Held};
use crate::stack::{Over, Role, Stack};
use sarsen_buffer::bytes_checksum;
use sarsen_types::{BLOCKS_PER_CHUNK, ObjectId, Version};
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// Runs of a table page.
pub const RUNS_MAX: usize = 14;
/// Bytes of a filter.
const FILTER: usize = 256;
/// Bits of a filter that an entry sets.
const PROBES: u32 = 5;
/// Bytes of a run in its list.
const ITEM: usize = Twin::BYTES + 2 + FILTER;
const _: () = assert!(4 + RUNS_MAX * ITEM <= PAYLOAD);
/// Bytes of an object in a run: its key, and how many blocks follow.
const OBJECT: usize = 12 + 2;
/// In a block's number: what lies under it counts only from a version on, which follows.
const HAS_CUT: u16 = 1 << 15;
/// Bytes of an entry: role and what is held.
const OVER: usize = 1 + ENTRY_BYTES;

/// Entries by object and block, each settled.
pub type Entries = BTreeMap<(ObjectId, u16), Stack>;

/// A run, as its list knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// Where it lies.
    pub page: Twin,
    /// Blocks it has entries of.
    pub blocks: u16,
    filter: Box<[u8; FILTER]>,
}

/// Bits of a filter: CRC-64/NVME of layer, chunk and block; its halves h and k (odd) give bits h + i k.
fn bits(id: ObjectId, block: u16) -> impl Iterator<Item = usize> {
    let mut key = [0; 14];
    key[..8].copy_from_slice(&id.layer.0.to_le_bytes());
    key[8..12].copy_from_slice(&id.chunk.0.to_le_bytes());
    key[12..].copy_from_slice(&block.to_le_bytes());
    let sum = bytes_checksum(&key).0;
    let (first, step) = (sum as u32, (sum >> 32) as u32 | 1);
    (0..PROBES).map(move |i| first.wrapping_add(i.wrapping_mul(step)) as usize % (8 * FILTER))
}

impl Run {
    /// A run of these entries, written to `page`.
    pub fn of<'a>(entries: impl Iterator<Item = &'a (ObjectId, u16)>, page: Twin) -> Run {
        let mut run = Run { page, blocks: 0, filter: Box::new([0; FILTER]) };
        for &(id, block) in entries {
            run.blocks += 1;
            bits(id, block).for_each(|bit| run.filter[bit / 8] |= 1 << (bit % 8));
        }
        run
    }
}

/// The payload of a list of runs.
pub fn put_list(runs: &[Run]) -> Vec<u8> {
    let mut w = Writer::page();
    w.u32(runs.len() as u32);
    for run in runs {
        run.page.put(&mut w);
        w.u16(run.blocks).raw(&run.filter[..]);
    }
    w.0
}

/// The runs of a list's payload.
pub fn list(payload: &[u8]) -> Result<Vec<Run>, Malformed> {
    let mut r = Reader::new(payload);
    let count = r.count(ITEM)?;
    if count == 0 || count > RUNS_MAX {
        return r.fail("as many runs as a list has");
    }
    (0..count)
        .map(|_| {
            let (page, blocks) = (Twin::get(&mut r)?, r.get_u16()?);
            let filter = Box::new(r.take(FILTER)?.try_into().expect("as many as were taken"));
            Ok(Run { page, blocks, filter })
        })
        .collect()
}

/// The runs that may have entries of a block, the newest first.
pub fn may_have(payload: &[u8], id: ObjectId, block: u16) -> SmallVec<[Twin; 2]> {
    let count = Reader::new(payload).count(ITEM).unwrap_or_default();
    let item = |at: usize| &payload[4 + at * ITEM..][..ITEM];
    let has_bit = |item: &[u8], bit: usize| item[Twin::BYTES + 2 + bit / 8] >> (bit % 8) & 1 == 1;
    (0..count)
        .rev()
        .map(item)
        .filter(|item| bits(id, block).all(|bit| has_bit(item, bit)))
        .filter_map(|item| Twin::get(&mut Reader::new(item)).ok())
        .collect()
}

/// The payloads of as few runs as hold these entries, with the number of blocks in each.
pub fn pack(entries: &Entries) -> Vec<(Vec<u8>, usize)> {
    let mut pages: Vec<(Vec<u8>, usize)> = Vec::new();
    let mut page: Vec<(&(ObjectId, u16), &Stack)> = Vec::new();
    let mut bytes = 4;
    for item in entries {
        let is_next_object = page.last().is_none_or(|l| l.0.0 != item.0.0);
        let of_stack = 3 + if item.1.cut > Version::ZERO { 8 } else { 0 } + item.1.entries.len() * OVER;
        if bytes + of_stack + OBJECT > PAYLOAD {
            pages.push((put(&page), page.len()));
            page.clear();
            bytes = 4 + OBJECT;
        } else if is_next_object {
            bytes += OBJECT;
        }
        bytes += of_stack;
        page.push(item);
    }
    if !page.is_empty() {
        pages.push((put(&page), page.len()));
    }
    pages
}

fn put(entries: &[(&(ObjectId, u16), &Stack)]) -> Vec<u8> {
    let mut w = Writer::page();
    let objects: Vec<_> = entries.chunk_by(|a, b| a.0.0 == b.0.0).collect();
    w.u32(objects.len() as u32);
    for of_object in objects {
        put_object(&mut w, of_object[0].0.0);
        w.u16(of_object.len() as u16);
        for ((_, block), stack) in of_object {
            match stack.cut > Version::ZERO {
                true => w.u16(block | HAS_CUT).u64(stack.cut.0),
                false => w.u16(*block),
            };
            w.u8(stack.entries.len() as u8);
            for over in &stack.entries {
                w.u8(over.role as u8);
                over.held.put(&mut w);
            }
        }
    }
    w.0
}

/// The most entries that a block may have in a run: its highest, and a repair and marks of others.
pub const STACK_MAX: usize = 64;

fn get_stack(r: &mut Reader<'_>) -> Result<(u16, Stack), Malformed> {
    let word = r.get_u16()?;
    let cut = if word & HAS_CUT != 0 { Version(r.get_u64()?) } else { Version::ZERO };
    let block = word & !HAS_CUT;
    if block >= BLOCKS_PER_CHUNK {
        return r.fail("a block of a chunk");
    }
    let count = usize::from(r.get_u8()?);
    if count > STACK_MAX {
        return r.fail("no more entries of a block than a run has");
    }
    let entries = (0..count).map(|_| get_over(r)).collect::<Result<SmallVec<_>, _>>()?;
    Ok((block, Stack { cut, entries }))
}

/// Takes an entry: role and what is held.
pub fn get_over(r: &mut Reader<'_>) -> Result<Over, Malformed> {
    let role = match r.get_u8()? {
        0 => Role::Own,
        1 => Role::Repair,
        2 => Role::Mark,
        _ => return r.fail("a role of an unmerged entry"),
    };
    Ok(Over { held: Held::get(r)?, role })
}

/// All entries of a run's payload.
pub fn entries(payload: &[u8]) -> Result<Entries, Malformed> {
    let mut r = Reader::new(payload);
    let mut found = Entries::new();
    for _ in 0..r.count(OBJECT)? {
        let (id, blocks) = (get_object(&mut r)?, r.get_u16()?);
        let is_behind = found.last_key_value().is_none_or(|l: (&(ObjectId, u16), _)| l.0.0 < id);
        if blocks == 0 || !is_behind {
            return r.fail("objects, ascending, of which something is said");
        }
        for _ in 0..blocks {
            let (block, stack) = get_stack(&mut r)?;
            if found.last_key_value().is_some_and(|l| *l.0 >= (id, block)) || stack.is_empty() {
                return r.fail("blocks, ascending, of which something is said");
            }
            found.insert((id, block), stack);
        }
    }
    Ok(found)
}

/// The entries of one block in a run's payload.
pub fn find(payload: &[u8], id: ObjectId, block: u16) -> Option<Stack> {
    let mut r = Reader::new(payload);
    for _ in 0..r.count(OBJECT).ok()? {
        let object = get_object(&mut r).ok()?;
        for _ in 0..r.get_u16().ok()? {
            if object == id {
                let (found, stack) = get_stack(&mut r).ok()?;
                if found == block {
                    return Some(stack);
                }
            } else {
                let cut = if r.get_u16().ok()? & HAS_CUT != 0 { 8 } else { 0 };
                r.take(cut).ok()?;
                let count = usize::from(r.get_u8().ok()?);
                r.take(count * OVER).ok()?;
            }
        }
        if object >= id {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Place;
    use sarsen_types::Checksum;

    fn filled(count: u32) -> Entries {
        let mut all = Entries::new();
        for n in 0..count {
            let held = |v: u32| Held {
                version: Version(u64::from(v)),
                place: Place::data(u64::from(n)),
                checksum: Checksum(9),
            };
            let mut stack = Stack::default();
            match n % 3 {
                0 => drop(stack.write(held(4))),
                1 => drop(stack.recover(held(3), Version(5))),
                _ => {
                    stack.write(held(4));
                    stack.mark(held(7));
                }
            }
            all.insert((ObjectId::new(2, n / 5), (n % 5 * 204) as u16), stack);
        }
        all
    }

    #[test]
    fn entries_come_back_one_by_one_and_all_together() {
        let all = filled(500);
        let pages = pack(&all);
        assert!(pages.len() > 2 && pages.iter().all(|p| p.0.len() <= PAYLOAD));
        let again: Entries = pages.iter().flat_map(|p| entries(&p.0).unwrap()).collect();
        assert_eq!(again, all);
        assert_eq!(pages.iter().map(|p| p.1).sum::<usize>(), all.len());
        for ((id, block), stack) in &all {
            let found: Vec<Stack> = pages.iter().filter_map(|p| find(&p.0, *id, *block)).collect();
            assert_eq!(found, std::slice::from_ref(stack));
        }
        assert_eq!(find(&pages[0].0, ObjectId::new(2, 0), 1), None);
        assert_eq!(find(&pages[0].0, ObjectId::new(1, 0), 0), None);
        for len in 0..pages[0].0.len() {
            assert!(entries(&pages[0].0[..len]).is_err());
        }
    }

    #[test]
    fn filters_pass_over_most_runs_and_never_over_the_right_one() {
        let all = filled(2000);
        let mut runs = Vec::new();
        for (number, (payload, _)) in pack(&all).into_iter().take(RUNS_MAX).enumerate() {
            let keys = entries(&payload).unwrap();
            runs.push(Run::of(keys.keys(), Twin { at: [number as u64 + 1, 9], sum: 7 }));
        }
        let payload = put_list(&runs);
        assert_eq!(list(&payload).unwrap(), runs);
        let mut read = 0;
        for (id, block) in all.keys().take(1000) {
            let asked = may_have(&payload, *id, *block);
            assert!(!asked.is_empty());
            read += asked.len();
        }
        assert!(read < 1100, "{read} runs are read for 1,000 blocks");
    }
}
