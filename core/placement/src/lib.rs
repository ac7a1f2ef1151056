//! Pure placement: which slices hold the copies of a group, who leads it, and who replaces a copy that is lost.
//!
//! An explicit table, not a hash ring: any constraint can be met, few groups move when the cluster changes, and an
//! operator can read why. Equal inputs give equal tables on every node, so ties are broken by a mix of group and slice
//! number, not by chance.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod assign;
pub mod partners;
pub mod primaries;
pub mod replace;

pub use assign::{Site, TooFew, assign};
pub use partners::Partners;
pub use primaries::spread;
pub use replace::replacement;

/// A number that looks random, the same everywhere (SplitMix64's finaliser).
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_mul(0xd1b5_4a32_d192_ed03);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
pub(crate) fn key(slice: sarsen_types::SliceId) -> u64 {
    u64::from(slice.drive.0) << 8 | u64::from(slice.index)
}
