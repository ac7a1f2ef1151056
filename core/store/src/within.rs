//! Whether what a page of the map names lies where it can. A page is read only where its checksum stands in what names it, so
//! this is about errors of a program: they must not become reads outside of the slice, or blocks that count as free twice.
use crate::page::{PageKind, Twin};
use crate::place::Held;
use crate::region::SliceRegion;
use crate::table::Slot;
use crate::{leaf, run, table};

/// Whether a page can be of this slice; its payload is legible.
pub fn is_inside(region: &SliceRegion, kind: PageKind, payload: &[u8]) -> bool {
    match kind {
        PageKind::Table => table::lines(payload).is_ok_and(|lines| {
            let mut leaves = lines.iter().flat_map(|(_, line)| line.leaves).filter(|p| !p.is_none());
            leaves.all(|p| region.may_hold_map(p.block))
        }),
        PageKind::Run => run::entries(payload)
            .is_ok_and(|all| all.values().flat_map(|s| &s.entries).all(|o| is_held_inside(region, o.held))),
        PageKind::Runs => {
            run::list(payload).is_ok_and(|runs| runs.iter().all(|r| is_twin_inside(region, r.page)))
        }
        kind => leaf::entries(kind, payload).all(|held| is_held_inside(region, held)),
    }
}

/// Whether an entry's data can lie where it says.
fn is_held_inside(region: &SliceRegion, held: Held) -> bool {
    held.place.block().is_none_or(|block| region.may_hold(block))
}

/// Whether both places of a page are for the map.
fn is_twin_inside(region: &SliceRegion, twin: Twin) -> bool {
    twin.at.iter().all(|block| region.may_hold_map(*block))
}

/// Whether the pages that a slot names are.
pub fn is_slot_inside(region: &SliceRegion, slot: &Slot) -> bool {
    is_twin_inside(region, slot.page) && (slot.runs.is_none() || is_twin_inside(region, slot.runs))
}
