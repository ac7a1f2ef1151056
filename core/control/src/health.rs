//! Whether the cluster is healthy, and why not, in words.
use crate::change::is_spent;
use crate::state::{Forgetting, State};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use sarsen_types::DriveId;

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

/// How the cluster is, and what is wrong, worst first.
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
    (health, reasons)
}
