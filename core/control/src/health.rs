//! Whether the cluster is healthy, and why not, in words.
use crate::change::is_spent;
use crate::state::{Drive, Forgetting, State};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use sarsen_types::{DriveId, SliceId};

/// How the cluster is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Health {
    /// Every node and drive is up and every group has all its copies in sync.
    Ok,
    /// All volumes can be read and written.
    Degraded,
    /// Some cannot.
    Unavailable,
}

/// What a drive that is given up stays for.
fn what_for(state: &State, id: DriveId, forgetting: &Forgetting) -> String {
    let unnamed = state.unnamed(id).len();
    let owners: Vec<&str> = state.owners(&forgetting.hosts).collect();
    if unnamed > 0 {
        return format!(
            ", but it has the only complete copy of {unnamed} more groups by now: `sarsen drive forget {id} --lost` names them"
        );
    }
    if owners.is_empty() {
        return String::from(", and stays until a drive is up that can take its place");
    }
    format!(" once these hosts use it no more: {}; one that is gone is detached by force", owners.join(", "))
}

/// Of a drive that is so full an operator should know, in per cent.
const FILLING_PER_CENT: u128 = 85;

/// Drives that take no more data of clients, and the groups that have a copy in sync there: each write of theirs gets ENOSPC (S16).
fn full(state: &State) -> Option<String> {
    let is_full = |s: &SliceId| state.drives.get(&s.drive).is_some_and(|d| d.full.contains(&s.index));
    let groups = state.groups.values().filter(|g| g.in_sync.iter().any(is_full)).count();
    let drives = state.drives.iter().filter(|(_, d)| !d.full.is_empty());
    let places: Vec<String> = drives.map(|(id, d)| format!("{id} ({} on node {})", d.path, d.node)).collect();
    (groups > 0).then(|| {
        format!(
            "{groups} of {} groups cannot be written, writes get ENOSPC: full are the drives {}; discard or delete what is not needed",
            state.groups.len(),
            places.join(", ")
        )
    })
}

/// Drives that will be full one day: nothing is wrong yet.
fn filling(state: &State) -> impl Iterator<Item = String> {
    // what a drive says of itself may be any number (fuzzer of the metadata)
    let per_cent = |d: &Drive| u128::from(d.used_blocks) * 100 / u128::from(d.total_blocks.max(1));
    let is_filling = move |d: &Drive| d.full.is_empty() && per_cent(d) >= FILLING_PER_CENT;
    let there = state.drives.iter().filter(|(_, d)| d.total_blocks > 0 && state.is_drive_up(d));
    there.filter(move |(_, d)| is_filling(d)).map(move |(id, d)| {
        let per_cent = per_cent(d);
        format!(
            "drive {id} ({} on node {}) is {per_cent} % full: near 95 % writes get ENOSPC",
            d.path, d.node
        )
    })
}

/// How the cluster is, and what is wrong, worst first. What is only to be looked after comes last, of a cluster that is ok too.
pub fn health(state: &State) -> (Health, Vec<String>) {
    let mut health = Health::Ok;
    let mut reasons = Vec::new();
    let (mut short, mut joining, mut stuck) = (0usize, 0usize, 0usize);
    for g in state.groups.values() {
        // a copy in sync that is away is one that every write waits for, and a takeover too, until it is removed (R9, R12, R27)
        let waits = g.in_sync.iter().any(|s| !state.is_up(*s));
        short += usize::from(!state.is_whole(g));
        joining += usize::from(!state.is_whole(g) && !g.joining.is_empty());
        stuck += usize::from(waits || !g.may_commit());
    }
    let all = state.groups.len();
    for (id, damaged) in state.damaged() {
        health = Health::Unavailable;
        let (drive, damaged) = (&state.drives[&id], damaged.len());
        let (path, node) = (&drive.path, drive.node);
        reasons.push(format!(
            "{damaged} of {all} groups wait: their only copy in sync, on drive {id} ({path} on node {node}), may lack what \
             it acknowledged; `sarsen drive accept-damage {id}` serves them as they are"
        ));
    }
    if stuck > 0 {
        health = Health::Unavailable;
        reasons
            .push(format!("{stuck} of {all} groups cannot be written: copies in sync are away and not removed yet, or too few are left"));
    }
    if let Some(why) = full(state) {
        health = Health::Unavailable;
        reasons.push(why);
    }
    let mut spent = state.groups.values().filter(|g| is_spent(g));
    if let Some(first) = spent.next() {
        reasons.push(format!(
            "{} of {all} groups have used up their epochs, group {} among them: they wait for ever for the next copy that fails; \
             copy their volumes to another cluster",
            1 + spent.count(),
            first.group
        ));
    }
    for (id, node) in state.nodes.iter().filter(|(_, n)| !n.is_up) {
        reasons.push(format!("node {id} ({}) is down", node.api));
    }
    for (id, drive) in &state.drives {
        let is_lone = state.nodes.get(&drive.node).is_some_and(|n| n.is_up) && !drive.is_up;
        let place = format!("drive {id} ({} on node {})", drive.path, drive.node);
        if let Some(forgetting) = &drive.forgetting {
            reasons.push(format!("{place} is given up{}", what_for(state, *id, forgetting)));
            continue;
        }
        match &drive.failure {
            Some(why) => reasons.push(format!("{place} failed: {why}")),
            None if is_lone => reasons.push(format!("{place} is down")),
            None if drive.is_stale => reasons.push(format!("{place} is stale, and is being emptied")),
            None => {}
        }
    }
    if short > 0 {
        reasons.push(format!("{short} of {all} groups lack copies, {joining} of them are recovering"));
    }
    if !reasons.is_empty() {
        health = health.max(Health::Degraded);
    }
    reasons.extend(filling(state));
    (health, reasons)
}
