//! The state of a group as metadata record it. Every change is a compare-and-set that raises the epoch.
use crate::ids::{GroupId, SliceId};
use crate::version::Epoch;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A copy that is being brought up to date.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Joining {
    /// Where.
    pub slice: SliceId,
    /// The epoch in which this join began (R14, R17).
    pub since: Epoch,
}

/// A slice that has, or is to have, a copy, and the number of that assignment (R20).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Where.
    pub slice: SliceId,
    /// Raised each time the group is assigned to the slice anew; data of another number count for nothing.
    pub assignment: u64,
}

/// A group in one epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct GroupState {
    /// The group.
    pub group: GroupId,
    /// Raised by every change.
    pub epoch: Epoch,
    /// Who orders and answers.
    pub primary: SliceId,
    /// The first epoch of the unbroken row in which `primary` led, with no takeover owed since (R5).
    pub primary_since: Epoch,
    /// Copies that hold every answered write, the primary among them.
    pub in_sync: Vec<SliceId>,
    /// Copies that are being brought up to date.
    pub joining: Vec<Joining>,
    /// `in_sync` plus the copies removed since the group could last commit (R11).
    pub complete: Vec<SliceId>,
    /// The last epoch in which a write could be committed: this one, if one can. What was ordered in a later one was answered by
    /// nobody.
    pub could_commit: Epoch,
    /// All slices the group is assigned to, whatever their state.
    pub members: Vec<Member>,
    /// Copies that must be in sync for a write to commit (R9).
    pub min_copies: u8,
    /// The only in-sync copy may lack what it acknowledged: it does not lead before an operator accepts that (R28).
    pub is_damaged: bool,
}

/// A group as logs and snapshots hold it, those of older versions too (found in review: they could not be read).
#[derive(Deserialize)]
struct Written {
    group: GroupId,
    epoch: Epoch,
    primary: SliceId,
    primary_since: Epoch,
    in_sync: Vec<SliceId>,
    joining: Vec<Joining>,
    complete: Vec<SliceId>,
    #[serde(default)]
    could_commit: Option<Epoch>,
    members: Vec<Member>,
    min_copies: u8,
    #[serde(default)]
    is_damaged: bool,
    /// Written in place of `is_damaged` for a while.
    #[serde(default)]
    damage: Option<String>,
}

impl From<Written> for GroupState {
    fn from(w: Written) -> GroupState {
        GroupState {
            group: w.group,
            epoch: w.epoch,
            primary: w.primary,
            primary_since: w.primary_since,
            in_sync: w.in_sync,
            joining: w.joining,
            complete: w.complete,
            // nobody knows: what was ordered until now may have been answered
            could_commit: w.could_commit.unwrap_or(w.epoch),
            members: w.members,
            min_copies: w.min_copies,
            is_damaged: w.is_damaged || w.damage.as_deref() == Some("Waits"),
        }
    }
}

impl GroupState {
    /// Whether `slice` is in sync.
    pub fn is_in_sync(&self, slice: SliceId) -> bool {
        self.in_sync.contains(&slice)
    }
    /// Whether every member is in sync.
    pub fn is_whole(&self) -> bool {
        !self.members.is_empty() && self.members.iter().all(|m| self.is_in_sync(m.slice))
    }
    /// The join of `slice`, when it is joining.
    pub fn join_of(&self, slice: SliceId) -> Option<Joining> {
        self.joining.iter().copied().find(|j| j.slice == slice)
    }
    /// The number of the assignment of the group to `slice`.
    pub fn assignment_of(&self, slice: SliceId) -> Option<u64> {
        self.members.iter().find(|m| m.slice == slice).map(|m| m.assignment)
    }
    /// One copy is all that is in sync from now on.
    pub fn stand_on(&mut self, slice: SliceId) {
        self.in_sync = alloc::vec![slice];
        self.joining.retain(|j| j.slice != slice);
    }
    /// Whether enough copies are in sync for writes to commit (R9).
    pub fn may_commit(&self) -> bool {
        self.in_sync.len() >= self.min_copies as usize
    }
}
