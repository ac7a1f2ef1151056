//! Data of small turns lie in the journal (S10) until a checkpoint moves them out: read from there, kept while a read looks at
//! them, moved at equal version, and told to be damaged when they are.
mod support;
use sarsen_store::events::ReadError;
use sarsen_types::BlockRange;
use support::*;

const SIZE: u64 = 64 << 20;

/// Blocks of the disk that hold data with this first byte.
fn lies(bench: &Bench, content: u8) -> Vec<u64> {
    let image = bench.image();
    let is_it = |block: &u64| {
        let data = image.block(*block).unwrap();
        data[0] == content && data[1..].iter().all(|b| *b == 0)
    };
    image.blocks().filter(is_it).collect()
}

fn ring(bench: &Bench) -> std::ops::Range<u64> {
    let region = bench.region();
    bench.on_disk(region.ring_first)..bench.on_disk(region.bitmap_first())
}

#[test]
fn a_small_write_is_one_write_and_moves_out_with_the_checkpoint() {
    let mut bench = Bench::new(SIZE, 4 << 20);
    let before = bench.store.disk().written_bytes;
    bench.write(object(1), BlockRange::new(7, 4), 21);
    bench.quiet();
    assert_eq!(bench.store.disk().written_bytes - before, 5 * 4096, "records and data, nothing else");
    bench.write(object(1), BlockRange::new(20, 5), 22);
    bench.settle();
    assert!(lies(&bench, 21).iter().all(|b| ring(&bench).contains(b)));
    assert!(!lies(&bench, 22).iter().any(|b| ring(&bench).contains(b)), "20 KiB are not small");
    let mut bench = bench.restart();
    assert_eq!((bench.read(object(1), 10), bench.read(object(1), 24)), (Ok(21), Ok(22)));
    bench.audit();
    bench.checkpoint();
    assert_eq!(lies(&bench, 21).iter().filter(|b| !ring(&bench).contains(b)).count(), 4);
    bench.audit();
    let mut bench = bench.restart();
    assert_eq!((bench.read(object(1), 10), bench.read(object(1), 24)), (Ok(21), Ok(22)));
    bench.audit();
}

/// R10: the ring is not written again where a read looks. The read was asked while the data were in the journal, and comes to
/// the disk only when the ring has been gone round.
#[test]
fn the_ring_waits_for_reads_that_look_at_it() {
    let mut bench = Bench::new(SIZE, 4 << 20);
    bench.write(object(1), one(7), 21);
    bench.settle();
    bench.store.disk_mut().is_held = true;
    bench.ask(object(1), 7);
    let mut answer = None;
    for n in 0..3000u32 {
        if n.is_multiple_of(50) {
            bench.store.ask_checkpoint();
        }
        bench.write(object(2), one((n % 1000) as u16), 200);
        answer = answer.or(bench.answer());
        // all but the read, which was asked first
        while bench.store.disk().waiting() > 1 {
            bench.store.disk_mut().complete(1);
            answer = answer.or(bench.answer());
        }
    }
    assert!(answer.is_none(), "the read is still under way");
    let written = bench.persisted.len();
    assert!(written < 3000, "writes wait for the ring, which waits for the read");
    bench.store.disk_mut().complete(0);
    bench.store.disk_mut().is_held = false;
    assert_eq!((0..4).find_map(|_| bench.answer()), Some(Ok(21)));
    bench.quiet();
    assert_eq!(bench.persisted.len(), 3001);
    bench.audit();
}

/// Rot of data in the journal: found by a read or by the move, kept as damaged with its version, and made good by its group.
#[test]
fn rotten_data_in_the_journal_are_told_and_made_good() {
    for is_read_before in [true, false] {
        let mut bench = Bench::new(SIZE, 4 << 20);
        let version = bench.write(object(1), one(7), 21);
        bench.write(object(1), one(8), 23);
        bench.settle();
        let at = lies(&bench, 21)[0];
        bench.store.disk_mut().image_mut().rot(at, 4000);
        let is_damaged = |read: Result<u8, ReadError>| matches!(read, Err(ReadError::Corrupt(_)));
        if is_read_before {
            assert!(is_damaged(bench.read(object(1), 7)));
        }
        bench.checkpoint();
        bench.audit();
        let mut bench = bench.restart();
        assert!(is_damaged(bench.read(object(1), 7)), "with its version, from the leaf");
        assert_eq!(bench.read(object(1), 8), Ok(23));
        bench.recover(object(1), one(7), 9, Some(21), version);
        bench.settle();
        assert_eq!(bench.read(object(1), 7), Ok(21));
        bench.checkpoint();
        bench.audit();
        assert_eq!(bench.restart().read(object(1), 7), Ok(21));
    }
}

/// S9: a move that cannot be written goes elsewhere.
#[test]
fn data_move_past_bad_places() {
    let mut bench = Bench::new(SIZE, 4 << 20);
    for block in 0..8 {
        bench.write(object(1), one(block), 30 + block as u8);
        bench.settle();
    }
    let first = bench.on_disk(bench.region().data_first());
    bench.store.disk_mut().bad = (first..first + 12).step_by(2).collect();
    bench.checkpoint();
    assert!(bench.noticed.iter().any(|n| n.contains("elsewhere")), "{:?}", bench.noticed);
    let all = |bench: &mut Bench| (0..8).all(|b| bench.read(object(1), b) == Ok(30 + b as u8));
    assert!(all(&mut bench));
    bench.audit();
    let mut bench = bench.restart();
    assert!(all(&mut bench));
    bench.audit();
}
