//! What of one object is not merged into its leaves yet: two generations, so that a checkpoint sees the one of its cut.
use crate::leaf::leaf_of;
use crate::place::Held;
use crate::stack::{Gone, Role, Stack};
use sarsen_types::{FamilyId, Version};
use std::collections::BTreeMap;

/// Unmerged entries by block.
pub type Stacks = BTreeMap<u16, Stack>;

/// One generation of changes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Delta {
    /// The entries.
    pub stacks: Stacks,
    /// The highest version of an operation of this generation.
    pub touched: Version,
    /// Leaves that its entries are of, by bit.
    pub leaves: u8,
    /// Whether there is anything to merge, be it only `touched`.
    pub is_changed: bool,
}

/// See the module. An object without changes is not kept: it is what its line and leaves say.
#[derive(Debug, Default)]
pub struct Object {
    /// Seeds its checksums.
    pub family: FamilyId,
    /// Since the last cut.
    pub over: Delta,
    /// Before the cut of the checkpoint that is being made.
    pub frozen: Delta,
}

impl Object {
    /// The stack of a block, to be changed: since the last cut.
    pub fn stack(&mut self, block: u16) -> &mut Stack {
        self.over.leaves |= 1 << leaf_of(block);
        self.over.is_changed = true;
        self.over.stacks.entry(block).or_default()
    }

    /// The stacks of a block, the newest first.
    pub fn stacks(&self, block: u16) -> [Option<&Stack>; 2] {
        [self.over.stacks.get(&block), self.frozen.stacks.get(&block)]
    }

    /// An ordered write: never in the place of a higher version (R5). Gives what nobody names after it.
    pub fn write(&mut self, block: u16, held: Held) -> Option<Held> {
        self.stack(block).write(held)
    }

    /// R14.
    pub fn recover(&mut self, block: u16, held: Held, low: Version) -> Gone {
        self.stack(block).recover(held, low)
    }

    /// R26.
    pub fn repair(&mut self, block: u16, held: Held) -> Option<Held> {
        self.stack(block).repair(held)
    }

    /// An operation of this version was done on it.
    pub fn touch(&mut self, version: Version) {
        self.over.touched = self.over.touched.max(version);
        self.over.is_changed = true;
    }

    /// The highest version of an operation not merged.
    pub fn touched(&self) -> Version {
        self.over.touched.max(self.frozen.touched)
    }

    /// The cut of a checkpoint: what there is belongs to it.
    pub fn freeze(&mut self) {
        debug_assert!(!self.frozen.is_changed, "one flush of an object at a time (S14)");
        self.frozen = std::mem::take(&mut self.over);
    }

    /// Puts back what a checkpoint did not merge.
    pub fn slide_under(&mut self, left: Stacks, gone: &mut Vec<Held>) {
        for (block, older) in left {
            self.stack(block).slide_under(older, gone);
        }
    }

    /// Whether it is to be kept.
    pub fn is_changed(&self) -> bool {
        self.over.is_changed || self.frozen.is_changed
    }

    /// Every place that its unmerged entries own.
    pub fn owned(&self) -> impl Iterator<Item = Held> {
        let stacks = self.over.stacks.values().chain(self.frozen.stacks.values());
        stacks.flat_map(|s| s.entries.iter()).filter(|o| o.role != Role::Mark).map(|o| o.held)
    }
}
