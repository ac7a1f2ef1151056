//! From what is seen to commands: members join again, lost copies are placed anew, leaders spread out (R19, R20).
//!
//! Pure and repeatable: run again on the state that its commands made, it asks for nothing more until time passes. Every
//! command names the epochs it was made for, so one that comes late changes nothing.
use crate::command::{Command, Move};
use crate::state::{Image, Out, State};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use sarsen_placement::Partners;
use sarsen_types::{DriveId, GroupChange, GroupState, NodeId, OpenId, Proposal, SliceId};

/// A node that was not heard for this long is down.
pub const SILENT_MS: u64 = 1800;
/// A node that was heard within this is up.
pub const HEARD_MS: u64 = 1000;
/// The back-off of a first repeated join; doubles with each (R19).
pub const JOIN_BACKOFF_MS: u64 = 500;
/// The longest back-off of joins.
pub const JOIN_BACKOFF_MAX_MS: u64 = 60_000;
/// Groups that one slice is joining at a time: recovery is bounded, and yields to clients.
pub const JOINS_PER_SLICE_MAX: usize = 32;
/// Leaders that move in one round of balancing.
pub const BALANCE_MOVES_MAX: usize = 4;
/// A primary that is down this long is replaced though no copy asked for it: longer than `settle` (R27), within which
/// copies wait for each other.
pub const LOST_PRIMARY_MS: u64 = 40_000;
// A node must not flap between up and down, and a copy must have had its chance to ask.
const _: () = assert!(HEARD_MS < SILENT_MS);
const _: () = assert!(LOST_PRIMARY_MS > sarsen_types::limits::SETTLE.as_millis() as u64);

/// What to do now. `heard`: per node how many milliseconds ago the leader heard it (a new leader counts from its election).
pub fn reconcile(state: &State, heard: &BTreeMap<NodeId, u64>, now_ms: u64) -> Vec<Command> {
    let mut commands = nodes(state, heard);
    let (joins, places, unplaces) = groups(state, heard, now_ms);
    let mut lost = lost_primaries(state, now_ms);
    lost.extend(lost_joins(state));
    commands.extend((!lost.is_empty()).then_some(Command::Judge(lost)));
    commands.extend((!joins.is_empty()).then_some(Command::Join(joins)));
    commands.extend((!places.is_empty()).then_some(Command::Place(places)));
    commands.extend((!unplaces.is_empty()).then_some(Command::Unplace(unplaces)));
    commands
}

/// Images whose drive's node spoke after they were opened: what it answered meanwhile they lack (R1). `spoke`: per node how many
/// milliseconds ago it did, of those that this leader heard itself.
pub fn outlived(state: &State, spoke: &BTreeMap<NodeId, u64>, now_ms: u64) -> Vec<(DriveId, OpenId)> {
    let mut found = Vec::new();
    for (id, drive) in state.drives.iter().filter(|(_, d)| state.is_drive_up(d)) {
        let Some(ago) = spoke.get(&drive.node) else { continue };
        // the cluster's clock may gain a quarter
        let is_so = |i: &&Image| !i.is_behind && *ago < now_ms.saturating_sub(i.since_ms) / 5 * 4;
        found.extend(drive.images.iter().filter(is_so).map(|i| (*id, i.open)));
    }
    found
}

fn nodes(state: &State, heard: &BTreeMap<NodeId, u64>) -> Vec<Command> {
    let mut commands = Vec::new();
    for (id, node) in &state.nodes {
        let Some(ago) = heard.get(id) else { continue };
        let is_up = if node.is_up { *ago < SILENT_MS } else { *ago < HEARD_MS };
        if is_up != node.is_up {
            commands.push(Command::Heard { node: *id, is_up });
        }
    }
    commands
}

fn wait_of(out: &Out) -> u64 {
    match out.joins {
        0 => 0,
        n => (JOIN_BACKOFF_MS << (n - 1).min(10)).min(JOIN_BACKOFF_MAX_MS),
    }
}

fn groups(state: &State, heard: &BTreeMap<NodeId, u64>, now_ms: u64) -> (Vec<Move>, Vec<Move>, Vec<Move>) {
    let (mut joins, mut places, mut unplaces) = (Vec::new(), Vec::new(), Vec::new());
    let mut joining: BTreeMap<SliceId, usize> = BTreeMap::new();
    let mut held: BTreeMap<SliceId, u64> = BTreeMap::new();
    for g in state.groups.values() {
        g.joining.iter().for_each(|j| *joining.entry(j.slice).or_default() += 1);
        g.members.iter().for_each(|m| *held.entry(m.slice).or_default() += 1);
    }
    let groups_now: Vec<Vec<SliceId>> = state.groups.values().map(slices_of).collect();
    let mut partners = Partners::of(groups_now.iter().map(Vec::as_slice));
    // A new leader believes what the last one recorded only of nodes that it has heard itself.
    let is_heard = |s: SliceId| {
        let node = state.drives.get(&s.drive).map(|d| d.node);
        node.and_then(|n| heard.get(&n)).is_some_and(|ago| *ago < HEARD_MS)
    };
    let mut sites = state.sites();
    sites.retain(|s| is_heard(s.slice) && state.is_staying(s.slice));
    for g in state.changeable() {
        let out = state.out.get(&g.group).map_or(&[][..], Vec::as_slice);
        let at = |slice| Move { group: g.group, epoch: g.epoch, slice };
        let copies = state.copies_of(g.group);
        if state.is_whole(g) {
            // Whole without them: what is not in sync is not needed.
            if g.joining.is_empty() && g.members.len() > g.in_sync.len() {
                unplaces.extend(out.iter().find(|o| !g.complete.contains(&o.slice)).map(|o| at(o.slice)));
            }
            continue;
        }
        if !state.is_up(g.primary) || g.in_sync.len() + g.joining.len() >= copies {
            continue;
        }
        let is_idle = |o: &&Out| g.join_of(o.slice).is_none();
        let can_join = |o: &&Out| {
            is_heard(o.slice)
                && state.is_staying(o.slice)
                && state.drives.get(&o.slice.drive).is_some_and(|d| !d.is_stale)
        };
        let is_due = |o: &&Out| now_ms >= o.joined_ms + wait_of(o);
        let next = out.iter().filter(is_idle).filter(can_join).find(is_due);
        if let Some(o) = next {
            let busy = joining.entry(o.slice).or_default();
            if *busy < JOINS_PER_SLICE_MAX {
                *busy += 1;
                joins.push(at(o.slice));
            }
            continue;
        }
        if let Some(slice) = place(state, g, out, &sites, &held, &partners, now_ms) {
            let busy = joining.entry(slice).or_default();
            if *busy < JOINS_PER_SLICE_MAX {
                *busy += 1;
                *held.entry(slice).or_default() += 1;
                let mut members = slices_of(g);
                members.push(slice);
                partners.note(&members);
                places.push(at(slice));
            }
        }
    }
    (joins, places, unplaces)
}

fn slices_of(g: &GroupState) -> Vec<SliceId> {
    g.members.iter().map(|m| m.slice).collect()
}

/// A site for a copy in place of one that was out of sync for `down_out`, however healthy its drive looks (R19).
fn place(
    state: &State,
    g: &GroupState,
    out: &[Out],
    sites: &[sarsen_placement::Site],
    held: &BTreeMap<SliceId, u64>,
    partners: &Partners,
    now_ms: u64,
) -> Option<SliceId> {
    let is_late = |o: &Out| now_ms >= o.since_ms.saturating_add(state.settings.down_out_ms);
    let hoped = out.iter().filter(|o| !is_late(o) || g.join_of(o.slice).is_some());
    let counted: Vec<SliceId> = g.in_sync.iter().copied().chain(hoped.map(|o| o.slice)).collect();
    if counted.len() >= state.copies_of(g.group) {
        return None;
    }
    let taken: Vec<u32> = counted.iter().map(|s| state.domain(*s)).collect();
    let free: Vec<_> = sites.iter().copied().filter(|s| g.assignment_of(s.slice).is_none()).collect();
    let held = |s| held.get(&s).copied().unwrap_or(0);
    sarsen_placement::replacement(g.group.0, &taken, &free, held, |s| partners.is_beyond(&counted, s))
}

/// Groups whose primary is down for long, with an in-sync copy that is up.
fn lost_primaries(state: &State, now_ms: u64) -> Vec<Proposal> {
    let mut lost = Vec::new();
    for g in state.changeable().filter(|g| !state.is_up(g.primary)) {
        let node = state.drives.get(&g.primary.drive).and_then(|d| state.nodes.get(&d.node));
        if node.is_some_and(|n| now_ms < n.since_ms + LOST_PRIMARY_MS) {
            continue;
        }
        if let Some(by) = g.in_sync.iter().copied().find(|s| state.is_up(*s)) {
            lost.push(Proposal { group: g.group, epoch: g.epoch, by, change: GroupChange::TakeOver });
        }
    }
    lost
}

/// Joins of copies that are down: they end, so that others can take the place (R19); the copy joins again when it is back.
fn lost_joins(state: &State) -> Vec<Proposal> {
    let mut lost = Vec::new();
    for g in state.changeable() {
        if let Some(join) = g.joining.iter().find(|j| !state.is_up(j.slice)) {
            let change = GroupChange::Remove(join.slice);
            lost.push(Proposal { group: g.group, epoch: g.epoch, by: g.primary, change });
        }
    }
    lost
}

/// Leaders that should move so that slices lead evenly; nothing unless every group is whole and every member up. Few at
/// a time: each makes its group's clients wait for a moment.
pub fn balance(state: &State) -> Option<Command> {
    let calm = |g: &GroupState| state.is_whole(g) && g.in_sync.iter().all(|s| state.is_staying(*s));
    if !state.groups.values().all(calm) {
        return None;
    }
    let mut led: BTreeMap<SliceId, usize> = BTreeMap::new();
    for g in state.groups.values() {
        g.in_sync.iter().for_each(|s| _ = led.entry(*s).or_default());
        *led.entry(g.primary).or_default() += 1;
    }
    let mut moves = Vec::new();
    for g in state.changeable() {
        let Some(least) = g.in_sync.iter().copied().min_by_key(|s| (led[s], *s)) else { continue };
        if moves.len() < BALANCE_MOVES_MAX && led[&least] + 2 <= led[&g.primary] {
            *led.entry(g.primary).or_default() -= 1;
            *led.entry(least).or_default() += 1;
            moves.push(Move { group: g.group, epoch: g.epoch, slice: least });
        }
    }
    (!moves.is_empty()).then_some(Command::Lead(moves))
}

/// The groups a node leads, to in-sync copies on other nodes that are up and stay, spread over them (a planned stop).
pub fn hand_over(state: &State, node: NodeId) -> Option<Command> {
    let mut led: BTreeMap<SliceId, usize> = BTreeMap::new();
    state.groups.values().for_each(|g| *led.entry(g.primary).or_default() += 1);
    let mut moves = Vec::new();
    for g in state.changeable().filter(|g| state.domain(g.primary) == node.0) {
        let others = g.in_sync.iter().copied().filter(|s| state.domain(*s) != node.0 && state.is_staying(*s));
        let heir = others.min_by_key(|s| (led.get(s).copied().unwrap_or(0), *s));
        if let Some(slice) = heir {
            *led.entry(slice).or_default() += 1;
            moves.push(Move { group: g.group, epoch: g.epoch, slice });
        }
    }
    (!moves.is_empty()).then_some(Command::Lead(moves))
}

/// Whether a node that wants to leave is worth waiting for: without its copies some group could not commit now, and
/// another copy is being brought up to date there.
pub fn is_missed(state: &State, node: NodeId) -> bool {
    let is_own = |s: &SliceId| state.domain(*s) == node.0;
    (state.groups.values())
        .filter(|g| g.in_sync.iter().any(is_own))
        .any(|g| g.joining.iter().any(|j| state.is_staying(j.slice)))
}
