//! Epochs, versions and checksums.
use core::fmt;
use serde::{Deserialize, Serialize};

/// The number of a group's configuration; 24 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The highest epoch a version can hold.
    pub const MAX: Epoch = Epoch((1 << 24) - 1);
    /// The next one.
    pub const fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}
impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}
impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// `epoch << 40 | sequence`: the total order of writes inside a group. Sequences start at 1 in each epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

/// Bits of a version that are its sequence.
pub const SEQUENCE_BITS: u32 = 40;

impl Version {
    /// Below every version: the floor of an empty copy, the version of an absent entry.
    pub const ZERO: Version = Version(0);
    /// The last sequence of an epoch.
    pub const SEQUENCE_MAX: u64 = (1 << SEQUENCE_BITS) - 1;

    /// Sequence `sequence` of epoch `epoch`.
    pub const fn new(epoch: Epoch, sequence: u64) -> Version {
        debug_assert!(sequence <= Version::SEQUENCE_MAX, "the sequence of an epoch is full");
        Version((epoch.0 as u64) << SEQUENCE_BITS | sequence)
    }
    /// Below every write of `epoch`, above every write of the one before.
    pub const fn start(epoch: Epoch) -> Version {
        Version::new(epoch, 0)
    }
    /// Its epoch.
    pub const fn epoch(self) -> Epoch {
        Epoch((self.0 >> SEQUENCE_BITS) as u32)
    }
    /// Its sequence inside the epoch.
    pub const fn sequence(self) -> u64 {
        self.0 & Version::SEQUENCE_MAX
    }
    /// The greatest value below it. Zero stays zero.
    pub const fn before(self) -> Version {
        Version(self.0.saturating_sub(1))
    }
}
impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}", self.epoch().0, self.sequence())
    }
}

/// CRC-64/NVME over le64 family, le32 chunk, le32 block and the 4,096 bytes (S2, R25). Computed in `sarsen-buffer`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Checksum(pub u64);

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_epoch_is_above_every_sequence_of_an_earlier_one() {
        let low = Version::new(Epoch(3), (1 << SEQUENCE_BITS) - 1);
        assert!(low < Version::start(Epoch(4)));
        assert_eq!((low.epoch(), low.sequence()), (Epoch(3), (1 << SEQUENCE_BITS) - 1));
        assert_eq!(Version::start(Epoch(4)).before(), low);
    }
}
