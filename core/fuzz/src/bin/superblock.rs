//! A drive's superblocks: with any content and the right checksum in any of their three places they are a drive that lies
//! inside its device, or an error; what is written is read back.
#![no_main]
use libfuzzer_sys::fuzz_target;
use sarsen_buffer::Pool;
use sarsen_fuzz::Choices;
use sarsen_fuzz::sample::{self, Sample};
use sarsen_store::Store;
use sarsen_store::drive::{self, Superblock};
use sarsen_store::memory::MemDisk;
use sarsen_store::page::{PageKind, seal};
use sarsen_types::{ClusterId, OpenId};
use std::sync::LazyLock;

static SAMPLE: LazyLock<Sample> = LazyLock::new(Sample::new);
/// Its superblock; and where superblocks lie.
static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| SAMPLE.image.block(0).expect("a superblock"));
const PLACES: [u64; 3] = [0, 256, sample::SIZE / 4096 - 1];

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices(bytes);
    let mut disk = sample::drive(&SAMPLE.image);
    let how = choices.byte();
    for (at, place) in PLACES.into_iter().enumerate() {
        if how >> at & 1 == 1 {
            let page = match choices.byte() {
                n @ 0..64 => fresh(&mut choices, n),
                n => edited(&mut choices, n),
            };
            sample::put(&mut disk, place, &page);
        }
    }
    let found = drive::inspect(&mut disk);
    assert!(!found.to_string().is_empty());
    let read = drive::read(&mut disk);
    assert!(read.is_ok() || !found.opens_well, "what opens well is read: {read:?}");
    let Ok(superblock) = read else { return };
    assert_eq!(found.identity, Some(superblock.identity));
    // all three are the newest now
    assert_eq!(drive::read(&mut disk).as_ref(), Ok(&superblock));
    written(&mut disk, superblock, how);
});

/// What a node writes to it is there, and its slices open or do not.
fn written(disk: &mut MemDisk, mut superblock: Superblock, how: u8) {
    if superblock.generation > u64::MAX / 2 {
        return; // no drive is written to as often
    }
    match how & 8 {
        0 => drive::begin_open(disk, &mut superblock, OpenId(9)).expect("a disk that works"),
        _ => {
            drive::note_registered(disk, &mut superblock, ClusterId(7), OpenId(9)).expect("a disk that works")
        }
    }
    assert_eq!(drive::read(disk).as_ref(), Ok(&superblock));
    if how & 16 != 0 {
        for region in &superblock.slices {
            let opened = Store::open(sample::drive(disk.image()), *region, sample::options());
            opened.into_iter().for_each(|(mut store, _)| sample::look(&mut store));
        }
    }
}

/// A payload that is all the fuzzer's, sealed; or bytes that are not.
fn fresh(choices: &mut Choices<'_>, n: u8) -> Vec<u8> {
    let payload = choices.take(usize::from(n) * 16);
    if n & 1 == 0 {
        return seal(&Pool::new(), PageKind::Super, payload).0.to_vec();
    }
    let mut page = vec![0; 4096];
    let at = [0, 0x430, 504, 3000][usize::from(n >> 1 & 3)];
    page[at..at + payload.len()].copy_from_slice(payload);
    page
}

/// The good one with some of its fields overwritten.
fn edited(choices: &mut Choices<'_>, n: u8) -> Vec<u8> {
    let mut page = GOOD.clone();
    for _ in 0..n % 8 {
        // mostly what is said; seldom what nothing is said in
        let at = match choices.byte() {
            n @ 0..250 => 8 + usize::from(n),
            _ => usize::from(choices.word()) % 4080,
        };
        let len = usize::from(choices.byte() % 17);
        let bytes = choices.take(len);
        page[at..at + bytes.len()].copy_from_slice(bytes);
    }
    sample::seal(&mut page);
    page
}
