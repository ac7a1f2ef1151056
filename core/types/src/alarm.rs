//! What an operator must hear of a group (R12, R26, R27): a node's log is read by nobody.
use crate::SliceId;
use serde::{Deserialize, Serialize};

/// What the primary of a group found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Alarm {
    /// Blocks of which two copies hold the same version with different contents, each with its right checksum: nobody can tell
    /// which is right (R26).
    Contradiction,
    /// This slice was told that more is committed than any copy had that led since: answered writes are lost (R27).
    Lost(SliceId),
    /// Blocks that are intact on no copy: reads of them fail (R26).
    Gone,
    /// It leads alone and holds less than this slice: nothing is served until another leads (R27).
    Behind(SliceId),
    /// Blocks below a floor that were missing or damaged on a copy: the takeover writes them again (R12).
    Repaired,
}
