//! Memory and what an open reads are bounded, however much is mapped (S4, S3).
mod support;
use sarsen_store::store::SPILL_FROM;
use support::*;

/// 10, 100 and 1,000 GB of map: an object of 4 MiB each, found again after the restart. What an open reads beside the ring,
/// which it always reads whole, stays a fraction of a thousandth of what is mapped.
#[test]
fn what_is_read_at_open_does_not_grow_with_the_map() {
    const GB: u64 = 1_000_000_000;
    let mut read = Vec::new();
    for gigabytes in [10, 100, 1000] {
        let mut bench = Bench::new(1_100 * GB, 256 << 20);
        let objects = (gigabytes * GB / sarsen_types::CHUNK_SIZE) as u32;
        for chunk in 0..objects {
            bench.write(object(chunk), one(chunk as u16 % 1024), (chunk % 251) as u8 + 1);
            if chunk % 512 == 511 {
                bench.settle();
            }
        }
        bench.checkpoint();
        let mut bench = bench.restart();
        let ring = bench.region().ring_blocks * 4096;
        read.push(bench.opened.read_bytes - ring);
        for chunk in [0, objects / 3, objects - 1] {
            assert_eq!(bench.read(object(chunk), chunk as u16 % 1024), Ok((chunk % 251) as u8 + 1));
        }
        println!(
            "{gigabytes} GB of map: {} bytes read at open beside a ring of {ring}",
            read.last().unwrap()
        );
        assert_eq!(bench.opened.replayed, 0);
    }
    // two windows of the ring are read once more; the rest is slots of the table and facts of the bitmaps
    assert!(read[2] < 3 << 20, "less than 3 MiB are read for 1,000 GB of map, not {}", read[2]);
    assert!(read[2] - read[0] < 512 << 10, "less than 512 KiB more than for 10 GB: {read:?}");
}

/// Random writes over many more objects than the memory holds pages or entries of.
#[test]
fn memory_stays_what_it_was_set_to() {
    const MEMORY: usize = 4 << 20;
    const OBJECTS: u64 = 600;
    let mut bench = Bench::new(4 << 30, MEMORY);
    let (mut state, mut most) = (1u64, 0);
    let mut last = std::collections::BTreeMap::new();
    for n in 0..60_000u64 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let (chunk, block) = ((state >> 33) % OBJECTS, (state >> 20) as u16 % 1024);
        let content = (n % 255) as u8 + 1;
        bench.write(object(chunk as u32), one(block), content);
        last.insert((chunk, block), content);
        if n % 64 == 0 {
            bench.settle();
            most = most.max(bench.store.memory());
        }
    }
    bench.checkpoint();
    for (at, ((chunk, block), content)) in last.iter().enumerate() {
        if at % 37 == 0 {
            assert_eq!(bench.read(object(*chunk as u32), *block), Ok(*content));
        }
    }
    most = most.max(bench.store.memory());
    println!("at most {most} bytes of memory, {MEMORY} were set");
    // bitmaps come beside it: 32 MB a TB
    assert!(most < MEMORY + (1 << 20), "{most} bytes of memory, {MEMORY} were set");
    bench.audit();
}

/// Bytes written for each byte of random 4 KiB writes, 32 at once, over a hundredth of a terabyte with a hundredth of the memory:
/// as many entries come to a leaf as on a whole one. Runs are what keeps a leaf from being written for each entry (S13).
#[test]
fn random_writes_over_a_terabyte_do_not_write_a_leaf_each() {
    const OBJECTS: u64 = 2_400;
    const WRITES: u64 = 300_000;
    let amplification = |spill_from: usize| {
        let mut bench = Bench::new(11_000_000_000, 2_560 << 10).spilling_from(spill_from);
        let mut state = 1u64;
        for n in 0..WRITES {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (chunk, block) = ((state >> 33) % OBJECTS, (state >> 20) as u16 % 1024);
            bench.write(object(chunk as u32), one(block), (n % 255) as u8 + 1);
            if n % 32 == 31 {
                bench.settle();
            }
        }
        bench.store.disk().written_bytes as f64 / (WRITES * 4096) as f64
    };
    let (with, without) = (amplification(SPILL_FROM), amplification(usize::MAX));
    println!("{with:.2} bytes written per byte with runs, {without:.2} without");
    assert!(with < 1.5 && without > 1.15 * with, "{with:.2} with runs, {without:.2} without");
}

/// A page that a checkpoint writes may leave the cache before it reaches the disk, which still has something else in its
/// place: read from there, it was taken for rotten, and its object for lost.
#[test]
fn a_page_that_is_being_written_is_not_read_from_the_disk() {
    let mut bench = Bench::new(1 << 30, 0);
    for chunk in 100..400 {
        bench.write(object(chunk), one(1), 9);
    }
    bench.checkpoint();
    for chunk in 0..2 {
        for first in (0..1024).step_by(64) {
            bench.write(object(chunk), sarsen_types::BlockRange::new(first, 64), 7);
        }
    }
    bench.settle();
    bench.store.disk_mut().is_held = true;
    bench.store.ask_checkpoint();
    bench.turn();
    let writes = bench.store.disk().waiting();
    assert!(writes > 12, "{writes} pages are being written");
    // other pages push them out of the cache; the disk completes reads alone
    for round in 0..2 {
        for chunk in 100..400 {
            assert_eq!(read_while_writes_wait(&mut bench, chunk, 1, writes), Ok(9));
        }
        let content = read_while_writes_wait(&mut bench, round, 700, writes);
        assert_eq!(content, Ok(7));
    }
    assert!(bench.noticed.is_empty(), "{:?}", bench.noticed);
}

fn read_while_writes_wait(
    bench: &mut Bench,
    chunk: u32,
    block: u16,
    writes: usize,
) -> Result<u8, sarsen_store::events::ReadError> {
    bench.ask(object(chunk), block);
    for _ in 0..32 {
        if let Some(answer) = bench.answer() {
            return answer;
        }
        while bench.store.disk().waiting() > writes {
            bench.store.disk_mut().complete(writes);
        }
    }
    panic!(
        "a read of {chunk} is answered: {} wait of {writes}, {:?}",
        bench.store.disk().waiting(),
        bench.noticed
    )
}
