//! Deleted layers, kept until no drive holds anything of them (R20).
//!
//! Each is dropped twice: what a primary that had not heard of the deletion sent to a joining copy that had is dropped the
//! second time, when every copy has heard of it.
use crate::state::{Drive, State};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use sarsen_types::{DriveId, LayerId, OpenId, Revision};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// A deleted layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tombstone {
    /// The revision since which drives are asked to drop it.
    pub since: Revision,
    /// Every drive dropped it once before.
    pub is_second: bool,
}

impl State {
    /// A layer is no more.
    pub(crate) fn bury(&mut self, layer: LayerId) {
        self.dropped_layers.insert(layer, Tombstone { since: self.revision, is_second: false });
    }

    /// What a drive has still to drop.
    pub(crate) fn tombstones_for(&self, drive: DriveId) -> Vec<(Revision, LayerId)> {
        let known = self.drives.get(&drive).map_or(Revision(0), |d| d.dropped);
        let buried = self.dropped_layers.iter().filter(|(_, t)| t.since > known);
        let mut all: Vec<_> = buried.map(|(layer, t)| (t.since, *layer)).collect();
        all.sort_unstable();
        all
    }

    /// A drive dropped all it was asked to up to this revision.
    pub(crate) fn dropped(&mut self, drive: DriveId, open: OpenId, revision: Revision) {
        if let Some(d) = self.drives.get_mut(&drive).filter(|d| d.open == open) {
            d.dropped = d.dropped.max(revision);
        }
    }

    /// What every drive dropped twice is forgotten (found in review: each start of a slice dropped anew, in each of its groups,
    /// all that was ever deleted). Looked at after each command: drives come, go and are given up.
    pub(crate) fn turn_tombstones(&mut self) {
        if self.dropped_layers.is_empty() {
            return;
        }
        let by =
            |drives: &mut dyn Iterator<Item = &Drive>| drives.map(|d| d.dropped).min().unwrap_or_default();
        let by_all = by(&mut self.drives.values());
        // who is away drops all of it once it is back: the others need not wait to be asked again
        let by_those_up = by(&mut self.drives.values().filter(|d| self.is_drive_up(d)));
        let now = self.revision;
        self.dropped_layers.retain(|_, t| {
            let is_over = t.is_second && t.since <= by_all;
            if !t.is_second && t.since <= by_those_up {
                *t = Tombstone { since: now, is_second: true };
            }
            !is_over
        });
    }
}

/// Older versions wrote no more than which layers these are: they are dropped as if deleted at first.
pub(crate) fn read<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<LayerId, Tombstone>, D::Error> {
    struct Tombstones;
    impl<'de> Visitor<'de> for Tombstones {
        type Value = BTreeMap<LayerId, Tombstone>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("layers, or a tombstone for each")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut all = BTreeMap::new();
            while let Some((layer, tombstone)) = map.next_entry()? {
                all.insert(layer, tombstone);
            }
            Ok(all)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut layers: A) -> Result<Self::Value, A::Error> {
            let mut all = BTreeMap::new();
            while let Some(layer) = layers.next_element()? {
                all.insert(layer, Tombstone { since: Revision(1), is_second: false });
            }
            Ok(all)
        }
    }
    from.deserialize_any(Tombstones)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Held {
        #[serde(deserialize_with = "read")]
        all: BTreeMap<LayerId, Tombstone>,
    }

    #[test]
    fn what_an_older_version_wrote_is_read() {
        let tombstone = |since, is_second| Tombstone { since: Revision(since), is_second };
        let before: Held = serde_json::from_str(r#"{"all":[3,9]}"#).unwrap();
        assert_eq!(before.all, [(LayerId(3), tombstone(1, false)), (LayerId(9), tombstone(1, false))].into());
        let now = Held { all: [(LayerId(7), tombstone(12, true))].into() };
        let again: Held = serde_json::from_str(&serde_json::to_string(&now).unwrap()).unwrap();
        assert_eq!(again, now);
    }
}
