//! Ids (R42): never reused, little endian wherever they are written.
use core::fmt;
use serde::{Deserialize, Serialize};

macro_rules! ids { ($($(#[$doc:meta])* $name:ident($inner:ty) = $prefix:literal;)*) => { $(
    $(#[$doc])*
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
    #[serde(transparent)]
    pub struct $name(pub $inner);
    impl fmt::Debug for $name {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, concat!($prefix, "{}"), self.0) }
    }
    impl fmt::Display for $name {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}", self.0) }
    }
)* } }

ids! {
    /// A server process that owns drives.
    NodeId(u32) = "node ";
    /// A drive as metadata number it.
    DriveId(u32) = "drive ";
    /// A placement group.
    GroupId(u32) = "group ";
    /// The blocks written between two snapshots.
    LayerId(u64) = "layer ";
    /// A volume with all its snapshots and clones; seeds the checksums (R25).
    FamilyId(u64) = "family ";
    /// What users create.
    VolumeId(u64) = "volume ";
    /// The right of one host to use one volume.
    AttachmentId(u64) = "attachment ";
    /// Fences an attachment: a forced detach raises it (R31).
    Generation(u32) = "generation ";
    /// One life of one driver process on an attachment; numbered by metadata (R21).
    SessionId(u64) = "session ";
    /// One stream of requests of a session.
    QueueId(u16) = "queue ";
    /// The number of a state of the cluster metadata.
    Revision(u64) = "revision ";
}

macro_rules! random_ids { ($($(#[$doc:meta])* $name:ident;)*) => { $(
    $(#[$doc])*
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    pub struct $name(pub u128);
    impl fmt::Debug for $name {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{:032x}", self.0) }
    }
    impl fmt::Display for $name {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{:032x}", self.0) }
    }
    impl core::str::FromStr for $name {
        type Err = core::num::ParseIntError;
        fn from_str(s: &str) -> Result<Self, Self::Err> { u128::from_str_radix(s, 16).map($name) }
    }
    impl Serialize for $name {
        fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> { s.collect_str(self) }
    }
    impl<'de> Deserialize<'de> for $name {
        fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
            let text = alloc::string::String::deserialize(d)?;
            text.parse().map_err(|_| serde::de::Error::custom("an id of 32 hexadecimal digits was expected"))
        }
    }
)* } }

random_ids! {
    /// 128 random bits that name a cluster; in every superblock and hello.
    ClusterId;
    /// 128 random bits given to a drive when it is formatted.
    DriveIdentity;
    /// 128 random bits for one opening of a drive (R1).
    OpenId;
}

/// A part of a drive that is a store of its own: the home of copies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct SliceId {
    /// The drive it is a part of.
    pub drive: DriveId,
    /// Its place on the drive, from 0.
    pub index: u8,
}

impl SliceId {
    /// Slice `index` of drive `drive`.
    pub const fn new(drive: u32, index: u8) -> SliceId {
        SliceId { drive: DriveId(drive), index }
    }
}
impl fmt::Debug for SliceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.drive.0, self.index)
    }
}
impl fmt::Display for SliceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.drive.0, self.index)
    }
}
