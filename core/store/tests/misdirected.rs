//! Writes that go to another place than they were sent to: what they hit is found by its checksum, and so is what they left as it
//! was. Neither is ever served.
mod support;
use sarsen_store::events::ReadError;
use sarsen_types::{BlockRange, Epoch, ObjectId, Version};
use support::*;

const SIZE: u64 = 40 << 20;
/// Blocks of a write that is too long to lie in the journal (S10).
const LONG: u16 = 64;

fn range() -> BlockRange {
    BlockRange::new(0, LONG)
}

/// Blocks of the disk that hold data with this first byte, ascending.
fn lies(bench: &Bench, content: u8) -> Vec<u64> {
    let image = bench.image();
    let is_it = |block: &u64| {
        let data = image.block(*block).unwrap();
        data[0] == content && data[1..].iter().all(|b| *b == 0)
    };
    image.blocks().filter(is_it).collect()
}

fn is_corrupt(read: &Result<u8, ReadError>) -> bool {
    matches!(read, Err(ReadError::Corrupt(_)))
}

/// Writes an object of half a chunk.
fn write_half(bench: &mut Bench, content: u8) {
    for first in (0..512).step_by(usize::from(LONG)) {
        bench.write(object(1), BlockRange::new(first, LONG), content);
    }
    bench.settle();
}

/// An object written, then again, so that its first data lie where nobody looks, and the next write of it goes there since
/// nearly all else is full; and a neighbour above them.
fn rewritten() -> Bench {
    let mut bench = Bench::new(SIZE, 4 << 20);
    write_half(&mut bench, 11);
    bench.write(object(2), range(), 22);
    bench.settle();
    for chunk in 100.. {
        let space = bench.store.space();
        let left = (space.total_blocks - space.used_blocks).saturating_sub(512 + 200);
        if left == 0 {
            break;
        }
        bench.write(object(chunk), BlockRange::new(0, left.min(64) as u16), 99);
        bench.settle();
    }
    write_half(&mut bench, 12);
    bench.checkpoint();
    assert!(bench.refused.is_empty());
    bench.store.rewind_allocation();
    bench
}

/// The next write of `object(1)` hits its neighbour instead. What it is replaced by comes of a group's other copy.
#[test]
fn what_a_misdirected_write_hit_and_what_it_left_stale_are_found_and_made_good() {
    // the ninth version that was written is the neighbour's; and where the next goes when it goes where it was sent
    let mut bench = rewritten();
    let (mut stale, victim) = (lies(&bench, 11), lies(&bench, 22));
    stale.truncate(LONG.into());
    bench.write(object(1), range(), 13);
    bench.settle();
    assert_eq!(lies(&bench, 13), stale, "in the place of the oldest");
    assert!(victim[0] > stale[0], "{victim:?} {stale:?}");

    let neighbours = Version::new(Epoch(1), 9);
    for (is_restarted, is_mapped) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut bench = rewritten();
        bench.store.disk_mut().misdirect = Some(victim[0] - stale[0]);
        let newest = bench.write(object(1), range(), 13);
        bench.settle();
        assert_eq!(lies(&bench, 13), victim, "it went astray, and was answered");
        assert_eq!(lies(&bench, 11).len(), 512, "what is there is what was");
        if is_mapped {
            bench.checkpoint();
        }
        let mut bench = if is_restarted { bench.restarted(bench.image()) } else { bench };
        bench.store.raise_floor(GROUP, newest); // its group knows that it is committed
        for block in 0..LONG {
            for object in [object(1), object(2)] {
                let read = bench.read(object, block);
                assert!(is_corrupt(&read), "block {block} of {object:?} was served: {read:?}");
            }
        }
        make_good(&mut bench, object(1), 13, newest);
        make_good(&mut bench, object(2), 22, neighbours);
        bench.audit();
        bench.checkpoint();
        let mut bench = bench.restart();
        for block in 0..LONG {
            assert_eq!((bench.read(object(1), block), bench.read(object(2), block)), (Ok(13), Ok(22)));
        }
        bench.audit();
    }
}

/// R26: the same version of each block again, from another copy.
fn make_good(bench: &mut Bench, object: ObjectId, content: u8, version: Version) {
    (0..LONG).for_each(|block| bench.repair(object, block, content, version));
    bench.settle();
    (0..LONG).for_each(|block| assert_eq!(bench.read(object, block), Ok(content)));
}

/// A small write, which lies in the journal with its data (S10). Of a journal that lost its end nothing is left to be seen: the
/// copy's `top` stays behind, by which its group finds it (R12).
#[test]
fn a_journal_block_that_went_astray_is_not_served_either() {
    let mut bench = Bench::new(SIZE, 4 << 20);
    bench.write(object(1), range(), 11);
    bench.checkpoint();
    bench.store.disk_mut().misdirect = Some(100);
    let newest = bench.write(object(1), one(0), 12);
    bench.settle();
    let read = bench.read(object(1), 0);
    assert!(is_corrupt(&read), "{read:?}");
    assert_eq!(bench.read(object(1), 1), Ok(11));
    let mut bench = bench.restarted(bench.image());
    assert!(bench.store.ledger(GROUP).unwrap().top < newest);
    assert_eq!(bench.read(object(1), 0), Ok(11));
}

/// Any one write of a history goes astray, by a little or a lot: data, journal, map, root, over any of these. After a checkpoint
/// and a restart each block is what was written last, or refused; or the drive ended, or says that its journal has a hole (S8). Never is it what was there before, or another's.
#[test]
fn whatever_write_goes_astray_nothing_wrong_is_served() {
    let mut tally = Tally::default();
    for at in 0..40 {
        for by in [1, 64, 257, 4000] {
            astray(at, by, &mut tally);
        }
    }
    println!("{tally:?}");
    assert!(tally.right > 0 && tally.refused > 0 && tally.ended > 0, "{tally:?}");
}

#[derive(Default, Debug)]
struct Tally {
    /// Blocks that were read as they should be.
    right: u32,
    /// Blocks that were refused.
    refused: u32,
    /// Histories in which the drive ended, and said why.
    ended: u32,
    /// Histories after which the journal had a hole.
    broken: u32,
}

/// The `at`-th operation of a history, or the first write after it, goes `by` blocks astray.
fn astray(at: usize, by: u64, tally: &mut Tally) {
    let run = std::panic::AssertUnwindSafe(|| history(at, by));
    let mut bench = match std::panic::catch_unwind(run) {
        Ok(bench) => bench,
        // a root is read again once it is written
        Err(why) if why.downcast_ref::<String>().is_some_and(|w| w.contains("root is not what was")) => {
            return tally.ended += 1;
        }
        Err(why) => std::panic::resume_unwind(why),
    };
    let is_broken = bench.opened.is_broken;
    tally.broken += u32::from(is_broken);
    for chunk in 0..6 {
        for block in [0, 1, 63] {
            let read = bench.read(object(chunk), block);
            match read {
                Ok(content) if content == 100 + chunk as u8 => tally.right += 1,
                Err(_) => tally.refused += 1,
                // stale, and it says so: its group compares it from the beginning
                Ok(_) if is_broken => {}
                Ok(other) => panic!("operation {at} by {by}: block {block} of {chunk} reads {other}"),
            }
        }
    }
}

fn history(at: usize, by: u64) -> Bench {
    let mut bench = Bench::new(SIZE, 4 << 20);
    let writes = |bench: &mut Bench, base: u8| {
        for chunk in 0..6 {
            bench.write(object(chunk), range(), base + chunk as u8);
            bench.turn();
        }
    };
    writes(&mut bench, 50);
    bench.checkpoint();
    bench.store.rewind_allocation();
    bench.store.disk_mut().is_held = true;
    let mut done = 0;
    writes(&mut bench, 100);
    carry_out(&mut bench, (at, by), &mut done);
    bench.store.raise_floor(GROUP, bench.version());
    bench.store.ask_checkpoint();
    carry_out(&mut bench, (at, by), &mut done);
    bench.store.disk_mut().is_held = false;
    bench.quiet();
    bench.restarted(bench.image())
}

/// Completes operations one by one until nothing is asked any more.
fn carry_out(bench: &mut Bench, (at, by): (usize, u64), done: &mut usize) {
    for _ in 0..4 {
        bench.turn();
        while bench.store.disk().waiting() > 0 {
            if *done == at {
                bench.store.disk_mut().misdirect = Some(by);
            }
            *done += 1;
            bench.store.disk_mut().complete(0);
            bench.turn();
        }
    }
}
