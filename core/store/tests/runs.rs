//! Runs (S13): where few entries lie over many leaves a checkpoint writes a run in place of them; what it says is read,
//! listed, covered, recovered and merged as if it stood in leaves, and survives crashes, rot and dropped copies.
mod support;
use sarsen_store::events::ReadError;
use sarsen_types::record::Body;
use sarsen_types::{BlockRange, Epoch, LayerId, ObjectId, Version};
use support::*;

const SIZE: u64 = 512 << 20;

fn bench() -> Bench {
    Bench::new(SIZE, 16 << 20).spilling()
}

/// Pages of one kind that the newest root names, about: those ever written and not written over.
fn pages(bench: &Bench, kind: u16) -> Vec<u64> {
    let image = bench.image();
    let is_page = |block: &u64| {
        let data = image.block(*block).unwrap();
        data[8..12] == *b"SMP1" && data[14..16] == kind.to_le_bytes()
    };
    image.blocks().filter(is_page).collect()
}

/// Blocks here and there of 30 objects, a checkpoint after each round.
fn rounds(bench: &mut Bench, count: u16) {
    for round in 0..count {
        for chunk in 1..=30u32 {
            let block = (u32::from(round) * 97 + chunk * 31) % 1000;
            bench.write(object(chunk), one(block as u16), (round % 100) as u8 + 1);
        }
        bench.checkpoint();
    }
}

fn block_of(round: u16, chunk: u32) -> u16 {
    ((u32::from(round) * 97 + chunk * 31) % 1000) as u16
}

#[test]
fn entries_of_runs_are_read_until_and_after_they_are_merged() {
    let mut bench = bench();
    for chunk in 1..=30 {
        bench.write(object(chunk), BlockRange::new(1000, 4), 200);
    }
    bench.checkpoint();
    let mut written = Vec::new();
    for round in 0..90 {
        let before = bench.store.disk().written_bytes;
        for chunk in 1..=30u32 {
            bench.write(object(chunk), one(block_of(round, chunk)), (round % 100) as u8 + 1);
        }
        bench.checkpoint();
        written.push(bench.store.disk().written_bytes - before);
        if round % 7 == 0 {
            bench.audit();
            bench = bench.restart();
            bench.audit();
        }
        for chunk in [1, 17, 30] {
            for r in 0..=round {
                assert_eq!(
                    bench.read(object(chunk), block_of(r, chunk)),
                    Ok((r % 100) as u8 + 1),
                    "{r} {chunk}"
                );
            }
            assert_eq!(bench.read(object(chunk), 1003), Ok(200));
        }
    }
    // most checkpoints write a run, and that with the full list all leaves
    let leaf = 4096;
    let merges = written.iter().filter(|w| **w > written[1] + 20 * leaf).count();
    assert!((1..4).contains(&merges), "{written:?}");
    assert!(!pages(&bench, 10).is_empty());
}

/// What is overwritten in a run comes back to be free with the run that covers it, and all of it with a merge.
#[test]
fn overwriting_through_runs_does_not_fill_the_drive() {
    let mut bench = bench();
    rounds(&mut bench, 1);
    let before = bench.used();
    for round in 0..60u16 {
        for chunk in 1..=30u32 {
            bench.write(object(chunk), one(block_of(0, chunk)), round as u8 + 1);
        }
        bench.checkpoint();
    }
    bench.audit();
    assert!(bench.used() <= before + 64, "{} blocks are used, {before} were", bench.used());
    assert_eq!(bench.read(object(7), block_of(0, 7)), Ok(60));
}

/// R14: a recovery reaches under what runs say, from a run too.
#[test]
fn a_recovery_reaches_into_older_runs_and_leaves() {
    let mut bench = bench();
    rounds(&mut bench, 3);
    bench.epoch = 2;
    // told to be absent, of everything older than epoch 2
    for chunk in 1..=30u32 {
        bench.recover(object(chunk), one(block_of(1, chunk)), 2, None, Version::ZERO);
    }
    bench.checkpoint();
    let check = |bench: &mut Bench| {
        for chunk in [2, 29] {
            assert_eq!(bench.read(object(chunk), block_of(1, chunk)), Ok(0));
            assert_eq!(bench.read(object(chunk), block_of(2, chunk)), Ok(3));
        }
    };
    check(&mut bench);
    bench.audit();
    let mut bench = bench.restart();
    check(&mut bench);
    for round in 0..40 {
        for chunk in 1..=30u32 {
            bench.write(object(chunk), one(1000 + round % 20), 9);
        }
        bench.checkpoint();
    }
    check(&mut bench);
    bench.audit();
}

/// R26: damage of data that a run names is marked over it, repaired over it, and merged as that.
#[test]
fn damage_and_repair_lie_over_runs() {
    let mut bench = bench();
    rounds(&mut bench, 2);
    let damaged = object(5);
    let block = block_of(1, 5);
    let image = bench.image();
    let is_it = |b: &u64| image.block(*b).is_some_and(|d| d[0] == 2 && d[1..].iter().all(|x| *x == 0));
    for b in image.blocks().filter(is_it) {
        bench.store.disk_mut().image_mut().rot(b, 30_000);
    }
    let is_corrupt = |r: Result<u8, ReadError>| matches!(r, Err(ReadError::Corrupt(_)));
    assert!(is_corrupt(bench.read(damaged, block)));
    // the mark becomes part of a run itself
    bench.write(object(6), one(900), 77);
    bench.checkpoint();
    bench.audit();
    let mut bench = bench.restart();
    assert!(is_corrupt(bench.read(damaged, block)));
    let Err(ReadError::Corrupt(list)) = bench.read(damaged, block) else { panic!("it is damaged") };
    let version = list[0].2.version();
    bench.recover(damaged, one(block), 9, Some(2), version);
    bench.checkpoint();
    assert_eq!(bench.read(damaged, block), Ok(2));
    rounds(&mut bench, 40);
    bench.audit();
    let mut bench = bench.restart();
    bench.audit();
    assert_eq!(bench.read(object(6), 900), Ok(77));
}

/// Both kinds of pages lie in two places: one rotten place is noticed, and written anew with the runs merged.
#[test]
fn a_rotten_place_of_a_run_is_noticed_and_made_good() {
    for kind in [10, 11] {
        let mut bench = bench();
        rounds(&mut bench, 3);
        let mut bench = bench.restart();
        let all = pages(&bench, kind);
        assert!(!all.is_empty());
        // the lower place of each twin: what is not in use any more may be among them
        for block in all.iter().take(all.len() / 2) {
            bench.store.disk_mut().image_mut().rot(*block, 999);
        }
        for round in 0..3 {
            for chunk in 1..=30 {
                assert_eq!(bench.read(object(chunk), block_of(round, chunk)), Ok(round as u8 + 1));
            }
        }
        assert!(bench.noticed.iter().any(|n| n.contains("its twin is not")), "{:?}", bench.noticed);
        bench.checkpoint();
        bench.audit();
        let mut bench = bench.restart();
        assert_eq!(bench.read(object(3), block_of(2, 3)), Ok(3));
        assert!(!bench.noticed.iter().any(|n| n.contains("unreadable")), "{:?}", bench.noticed);
        bench.audit();
    }
}

/// A bad leaf under runs: what the runs say is read, the rest is refused, and stays so when the runs are merged.
#[test]
fn runs_over_a_bad_leaf_keep_what_they_say() {
    let mut bench = Bench::new(SIZE, 16 << 20);
    for chunk in 1..=3 {
        bench.write(object(chunk), BlockRange::new(500, 8), 50 + chunk as u8);
    }
    bench.checkpoint();
    let mut bench = bench.restart().spilling();
    let leaves = pages(&bench, 2);
    assert_eq!(leaves.len(), 3);
    for chunk in 1..=3 {
        bench.write(object(chunk), one(10), 60);
        bench.write(object(chunk), one(500), 61);
    }
    bench.checkpoint();
    bench.store.disk_mut().image_mut().rot(leaves[1], 900);
    let mut bench = bench.restart();
    let bad = object(2);
    let check = |bench: &mut Bench| {
        assert_eq!((bench.read(bad, 10), bench.read(bad, 500)), (Ok(60), Ok(61)));
        assert_eq!(bench.read(bad, 501), Err(ReadError::Unreadable(bad)));
        assert_eq!((bench.read(object(1), 501), bench.read(object(3), 500)), (Ok(51), Ok(61)));
    };
    check(&mut bench);
    for round in 0..40 {
        for chunk in [1, 3, 9, 11] {
            bench.write(object(chunk), BlockRange::new(600 + round, 1), 70);
        }
        bench.checkpoint();
        bench.audit();
    }
    check(&mut bench);
    let mut bench = bench.restart();
    check(&mut bench);
    bench.audit();
    for first in (0..1024).step_by(64) {
        bench.recover(bad, BlockRange::new(first, 64), 1, None, Version::ZERO);
    }
    bench.recover(bad, one(501), 1, Some(52), Version::new(Epoch(1), 2));
    bench.checkpoint();
    assert_eq!((bench.read(bad, 501), bench.read(bad, 10)), (Ok(52), Ok(60)));
    bench.audit();
}

#[test]
fn dropped_layers_and_copies_give_back_what_runs_name() {
    let mut bench = bench();
    for round in 0..3u16 {
        for layer in 1..4u64 {
            for chunk in 0..12 {
                let range = BlockRange::new(chunk as u16 * 9 + round * 100, 4);
                bench.write(ObjectId::new(layer, chunk), range, layer as u8 + 10 * round as u8);
            }
        }
        bench.checkpoint();
    }
    assert!(!pages(&bench, 10).is_empty());
    bench.persist(Body::DropLayer { layer: LayerId(2) }, None);
    bench.settle();
    (0..3).for_each(|_| bench.checkpoint());
    bench.audit();
    assert_eq!(bench.read(ObjectId::new(2, 5), 45 + 200), Ok(0));
    assert_eq!(bench.read(ObjectId::new(3, 5), 45 + 200), Ok(23));
    for chunk in 0..30 {
        bench.write(ObjectId::new(3, chunk), one(700), 9);
        bench.write(ObjectId::new(1, chunk), one(700), 9);
    }
    bench.checkpoint();
    bench.persist(Body::DropGroup, None);
    bench.persist(Body::Assign { assignment: 9 }, None);
    bench.write(ObjectId::new(1, 3), one(3), 7);
    bench.settle();
    (0..3).for_each(|_| bench.checkpoint());
    assert!(bench.used() < 40, "{} blocks are used for one", bench.used());
    bench.audit();
    let mut bench = bench.restart();
    assert_eq!((bench.read(ObjectId::new(1, 3), 3), bench.read(ObjectId::new(1, 4), 36)), (Ok(7), Ok(0)));
    bench.audit();
}

/// More objects come to a table page than it has lines, while runs lie over it and a leaf under them is bad: it is split in
/// several batches, each of which meets only its own new entries, and the runs once.
#[test]
fn a_table_page_with_runs_is_split() {
    for is_rotten in [false, true] {
        let mut bench = bench();
        for chunk in 1..=30 {
            bench.write(object(3 * chunk), BlockRange::new(1000, 4), 200);
        }
        bench.checkpoint();
        let leaves = pages(&bench, 2);
        for chunk in 1..=30 {
            bench.write(object(3 * chunk), one(1000 + chunk as u16 % 4), 99);
            bench.write(object(3 * chunk), one(5), 88);
        }
        bench.checkpoint();
        assert!(!pages(&bench, 10).is_empty());
        let mut bench = bench.restart();
        if is_rotten {
            leaves.iter().skip(10).step_by(5).for_each(|b| bench.store.disk_mut().image_mut().rot(*b, 999));
        }
        // new objects between and behind the old ones, and new entries of those, some over what is in a run
        for chunk in 1..=130u32 {
            bench.write(object(chunk), one(5 + (chunk % 7) as u16), 11);
        }
        bench.settle();
        let mut refused = 0;
        for turn in 0..3 {
            for chunk in 1..=130u32 {
                assert_eq!(bench.read(object(chunk), 5 + (chunk % 7) as u16), Ok(11), "{turn} {chunk}");
                if !chunk.is_multiple_of(3) || chunk > 90 {
                    continue;
                }
                assert_eq!(bench.read(object(chunk), 1000 + (chunk / 3) as u16 % 4), Ok(99));
                if !chunk.is_multiple_of(7) {
                    assert_eq!(bench.read(object(chunk), 5), Ok(88));
                }
                match bench.read(object(chunk), 1000 + (chunk / 3 + 1) as u16 % 4) {
                    Err(ReadError::Unreadable(_)) if is_rotten => refused += 1,
                    other => assert_eq!(other, Ok(200)),
                }
            }
            bench.checkpoint();
            bench.audit();
            if turn == 1 {
                bench = bench.restart();
                bench.audit();
            }
        }
        assert_eq!(refused > 0, is_rotten);
    }
}
