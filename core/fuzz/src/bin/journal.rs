//! The journal: blocks with any content that are sealed and chained as they should be, or not quite, are replayed or the journal
//! ends before them; the drive opens, twice as the same, and what it has then can be looked at.
#![no_main]
use libfuzzer_sys::fuzz_target;
use sarsen_buffer::bytes_checksum;
use sarsen_fuzz::Choices;
use sarsen_fuzz::sample::{self, HEAD_AT, Sample};
use sarsen_store::bytes::{Reader, Writer, get_record, put_record};
use sarsen_store::events::Event;
use sarsen_store::group::{Group, Left};
use sarsen_store::journal;
use sarsen_store::memory::MemDisk;
use sarsen_store::{Opened, Store, Token};
use sarsen_types::record::BlockStack;
use sarsen_types::{DriveIdentity, GroupId, Instant, Ledger, Version};
use std::sync::LazyLock;

static SAMPLE: LazyLock<Sample> = LazyLock::new(Sample::new);

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices(bytes);
    match choices.byte() {
        n @ 0..48 => record(n, choices.0),
        n => ring(&mut choices, n),
    }
});

/// One record, or one block, without a drive.
fn record(n: u8, bytes: &[u8]) {
    let _ = journal::peek(bytes, DriveIdentity(0));
    if let Ok((record, places)) = get_record(&mut Reader::new(bytes)) {
        let mut w = Writer::default();
        put_record(&mut w, &record, &places);
        assert_eq!(get_record(&mut Reader::new(&w.0)), Ok((record.clone(), places.clone())));
        let mut group = Group::default();
        (0..1 + n % 3).for_each(|_| group.apply(&record, &places, &mut Left::default()));
        group.settle(Version(u64::MAX), &mut Vec::new());
    }
}

/// Where the journal goes on.
struct Head {
    unit: u64,
    sequence: u64,
    previous: u64,
}

/// Blocks behind what the root names.
fn ring(choices: &mut Choices<'_>, how: u8) {
    let number = |at: usize| u64::from_le_bytes(SAMPLE.root()[at..at + 8].try_into().expect("8 bytes"));
    let mut head =
        Head { unit: number(HEAD_AT), sequence: number(HEAD_AT + 8), previous: number(HEAD_AT + 16) };
    let region = SAMPLE.region;
    let mut disk = sample::drive(&SAMPLE.image);
    let mut blocks = 0;
    while choices.are_left() && blocks < 24 {
        blocks += 1;
        let block = block(choices, &mut head);
        let units = block.len() as u64 / 4096;
        if head.unit + units > region.ring_blocks {
            head.unit = 0;
        }
        sample::put(&mut disk, region.offset / 4096 + region.ring_first + head.unit, &block);
        head.unit += units + u64::from(block[15]);
    }
    if how & 6 == 6 {
        assert_eq!(entries(&disk), entries(&disk), "a drive opens twice as the same");
    }
    if let Ok((mut store, _)) = Store::open(disk, region, sample::options()) {
        sample::look(&mut store);
        if how & 1 != 0 {
            sample::go_on(&mut store);
            sample::look(&mut store);
        }
    }
}

/// What a drive has when it is opened: of each group its ledger, and its entries that are not merged.
type Found = (Opened, Vec<(Option<Ledger>, Vec<BlockStack>)>);

fn entries(disk: &MemDisk) -> Option<Found> {
    let opened = Store::open(sample::drive(disk.image()), SAMPLE.region, sample::options());
    let (mut store, opened) = opened.ok()?;
    let groups: Vec<GroupId> = store.groups().collect();
    let mut of_group = |group| {
        let mut events = Vec::new();
        store.list_stacks(Token(0), group, Version::ZERO, None, 32);
        (0..4).for_each(|_| store.finish(Instant(0), &mut events));
        let stacks = events.into_iter().find_map(|event| match event {
            Event::Stacks { blocks, .. } => Some(blocks),
            _ => None,
        });
        (store.ledger(group).cloned(), stacks.unwrap_or_default())
    };
    Some((opened, groups.into_iter().map(&mut of_group).collect()))
}

/// A block with what the fuzzer says, at the head or elsewhere; the head is that behind it.
fn block(choices: &mut Choices<'_>, head: &mut Head) -> Vec<u8> {
    let what = choices.byte();
    let (floors, records) = (choices.byte() % 4, choices.byte() % 8);
    let len = usize::from(choices.word() % 6000);
    let (mut sequence, mut previous, mut durable) = (head.sequence, head.previous, 0);
    let mut data = 0;
    // what is not as it should be
    match what % 16 {
        1 => sequence = sequence.wrapping_add(u64::from(choices.byte())),
        2 => previous ^= u64::from(choices.byte()),
        3 => durable = sequence.wrapping_add(u64::from(choices.byte())).wrapping_sub(128),
        4 => sequence = choices.long(),
        5 => durable = choices.long(),
        6 => data = choices.byte(),
        7 => head.unit += u64::from(choices.byte()),
        8 => data = 1 + what / 64,
        _ => durable = sequence - 1,
    }
    let body = choices.take(len);
    let units = (80 + body.len()).div_ceil(4096);
    let mut block = Vec::with_capacity(units * 4096);
    block.extend_from_slice(&[0; 8]);
    block.extend_from_slice(b"SJB1\x01\0");
    block.extend_from_slice(&[if what % 16 == 9 { choices.byte() } else { units as u8 }, data]);
    block.extend_from_slice(&sample::DRIVE.0.to_le_bytes());
    block.extend_from_slice(&1u128.to_le_bytes());
    for number in [sequence, previous, durable] {
        block.extend_from_slice(&number.to_le_bytes());
    }
    block.extend_from_slice(&u32::from(floors).to_le_bytes());
    block.extend_from_slice(&u32::from(records).to_le_bytes());
    block.extend_from_slice(body);
    block.resize(units * 4096, 0);
    let sum = bytes_checksum(&block[8..]).0;
    block[..8].copy_from_slice(&sum.to_le_bytes());
    *head = Head { unit: head.unit, sequence: head.sequence + 1, previous: sum };
    if what % 16 == 10 {
        block[usize::from(choices.word() % 4096)] ^= 1;
    }
    block
}
