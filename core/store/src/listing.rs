//! Listings that replication asks for: what changed above a version, and all entries of an object (R12, R13, R18).
use crate::lookup::{Lookup, Stop};
use crate::table;
use crate::{group::Group, place::Held};
use sarsen_types::record::{BlockStack, Entry};
use sarsen_types::{BLOCKS_PER_CHUNK, ObjectId, Version};
use std::collections::BTreeMap;

/// Pages that one try of a listing asks for at once.
const AHEAD_MAX: usize = 16;

/// Objects touched above `above`, ascending from the first after `after`: at most `max`, and whether there are no more.
/// Emptied ones are among them (R18).
pub fn touched(
    group: &Group,
    look: &mut Lookup<'_>,
    above: Version,
    after: Option<ObjectId>,
    max: usize,
) -> Result<(Vec<(ObjectId, Version)>, bool), Stop> {
    let mut found: BTreeMap<ObjectId, Version> = BTreeMap::new();
    let is_new = |id: &ObjectId| after.is_none_or(|a| *id > a);
    let mut low = after.unwrap_or_default();
    let slots = &group.directory.slots;
    let mut slot = after.and_then(|a| group.directory.slot_of(a)).unwrap_or(0);
    let mut is_away = false;
    loop {
        if let Some(s) = slots.get(slot).filter(|s| s.touched > above) {
            match look.table(slot) {
                Some(payload) => {
                    let lines = table::lines(payload).unwrap_or_default();
                    let live = lines.iter().filter(|(id, _)| !group.dropping.contains(&id.layer));
                    for (id, line) in live.filter(|(id, l)| is_new(id) && l.touched > above) {
                        let known = found.entry(*id).or_default();
                        *known = line.touched.max(*known);
                    }
                }
                None => is_away = true,
            }
            debug_assert!(s.lines > 0);
        }
        // unmerged objects up to where the next slot begins
        let end = slots.get(slot + 1).map(|s| s.first);
        let objects = group.objects.range(low..).take_while(|(id, _)| end.is_none_or(|e| **id < e));
        for (id, object) in objects.filter(|(id, o)| is_new(id) && o.touched() > above) {
            let known = found.entry(*id).or_default();
            *known = object.touched().max(*known);
        }
        match end {
            _ if is_away && look.wants.len() >= AHEAD_MAX => return Err(Stop::Away),
            Some(end) if is_away || found.len() < max => (low, slot) = (low.max(end), slot + 1),
            _ if is_away => return Err(Stop::Away),
            end => {
                let is_last = end.is_none() && found.len() <= max;
                return Ok((found.into_iter().take(max).collect(), is_last));
            }
        }
    }
}

/// Blocks with an entry above `above`, each with all that is held of it down to the first at or below (R12, R13): at most
/// `max`, and whether there are no more. What is found before a page is missing is given at once.
pub fn stacks(
    group: &Group,
    look: &mut Lookup<'_>,
    above: Version,
    after: Option<(ObjectId, u16)>,
    max: usize,
) -> Result<(Vec<BlockStack>, bool), Stop> {
    let mut blocks: Vec<BlockStack> = Vec::new();
    // the object of `after` itself may have more blocks: start just below it
    let mut from = after.and_then(|(id, _)| before(id));
    loop {
        let (objects, is_last) = match touched(group, look, above, from, AHEAD_MAX) {
            Err(_) if !blocks.is_empty() => return Ok((blocks, false)),
            objects => objects?,
        };
        from = objects.last().map(|o| o.0).or(from);
        for (id, _) in objects {
            match of_object(look, id, above, after, max, &mut blocks) {
                Ok(true) => {}
                Ok(false) => return Ok((blocks, false)),
                Err(_) if !blocks.is_empty() => return Ok((blocks, false)),
                Err(why) => return Err(why),
            }
        }
        if is_last {
            return Ok((blocks, true));
        }
    }
}

/// The object just below, if there is any.
fn before(id: ObjectId) -> Option<ObjectId> {
    match (id.layer.0, id.chunk.0) {
        (0, 0) => None,
        (layer, 0) => Some(ObjectId::new(layer - 1, u32::MAX)),
        (layer, chunk) => Some(ObjectId::new(layer, chunk - 1)),
    }
}

/// Adds an object's blocks; `false` when the page is full.
fn of_object(
    look: &mut Lookup<'_>,
    id: ObjectId,
    above: Version,
    after: Option<(ObjectId, u16)>,
    max: usize,
    blocks: &mut Vec<BlockStack>,
) -> Result<bool, Stop> {
    let view = look.object(id)?;
    let family = view.changes.map(|o| o.family).or(view.line.map(|l| l.family)).unwrap_or_default();
    let mut is_away = false;
    for block in (0..BLOCKS_PER_CHUNK).filter(|b| after.is_none_or(|a| (id, *b) > a)) {
        match look.stack(&view, block, above) {
            Ok(stack) if stack.first().is_some_and(|h| h.version > above) && !is_away => {
                if blocks.len() == max {
                    return Ok(false);
                }
                let stack = stack.iter().map(|h| h.entry()).collect();
                blocks.push(BlockStack { object: id, family, block, stack });
            }
            Ok(_) => {}
            Err(_) => is_away = true,
        }
    }
    if is_away { Err(Stop::Away) } else { Ok(true) }
}

/// All entries of an object as runs, the committed ones or the top ones, with its `touched`; `Lost` when a leaf is bad.
pub fn entries(
    look: &mut Lookup<'_>,
    id: ObjectId,
    visible_only: bool,
) -> Result<(Version, Vec<(u16, Entry)>), (Version, Stop)> {
    let mut runs: Vec<(u16, Entry)> = Vec::new();
    let view = look.object(id).map_err(|why| (Version::ZERO, why))?;
    let touched = view.touched();
    if view.is_unknown() {
        return Ok((touched, vec![(0, Entry::Absent)]));
    }
    let mut stop = None;
    for block in 0..BLOCKS_PER_CHUNK {
        let held = if visible_only { look.visible(&view, block) } else { look.top(&view, block) };
        match held.map(Held::entry) {
            Ok(entry) if runs.last().is_none_or(|r| r.1 != entry) => runs.push((block, entry)),
            Ok(_) => {}
            Err(Stop::Away) => stop = Some(Stop::Away),
            Err(why) => stop = stop.or(Some(why)),
        }
    }
    match stop {
        Some(why) => Err((touched, why)),
        None => Ok((touched, runs)),
    }
}
