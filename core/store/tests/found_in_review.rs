//! What readers of the code found that no history, walk or seed had met.
mod support;
use sarsen_types::BlockRange;
use support::*;

const SIZE: u64 = 64 << 20;

/// Lets everything end that is in flight.
fn let_go(bench: &mut Bench) {
    bench.store.disk_mut().is_held = false;
    while bench.store.disk_mut().waiting() > 0 {
        bench.store.disk_mut().complete(0);
        bench.turn();
    }
    (0..4).for_each(|_| bench.turn());
}

/// Writes pieces of so many blocks into chunks from `first` on until there is no more space; how many.
fn fill(bench: &mut Bench, first: u32, blocks: u16, content: u8) -> u32 {
    for n in 0.. {
        bench.write(object(first + n / 16), BlockRange::new(n as u16 % 16 * 64, blocks), content);
        bench.quiet();
        if !std::mem::take(&mut bench.refused).is_empty() {
            return n;
        }
    }
    unreachable!()
}

#[test]
fn a_block_recovered_over_an_entry_that_a_checkpoint_froze_has_one_owner_after_a_crash() {
    // the running store kept the later place of the version and freed the earlier one; replay kept the earlier one
    let mut bench = Bench::new(SIZE, 4 << 20);
    bench.epoch = 2;
    fill(&mut bench, 1000, 64, 8);
    bench.write(object(1000), BlockRange::new(0, 64), 0);
    bench.checkpoint();
    let version = bench.write(object(1), BlockRange::new(0, 5), 5);
    bench.quiet();
    bench.store.disk_mut().is_held = true;
    bench.store.ask_checkpoint();
    bench.recover(object(1), BlockRange::new(0, 5), 2, Some(5), version);
    let_go(&mut bench);
    // what the checkpoint freed is taken again
    let written = fill(&mut bench, 2000, 5, 9);
    assert!(written > 0);
    let mut crashed = bench.restarted(bench.image());
    crashed.audit();
    crashed.settle();
    let all = |crashed: &mut Bench, expected: u8| {
        assert_eq!(crashed.read(object(1), 0), Ok(expected));
        for n in 0..written {
            assert_eq!(crashed.read(object(2000 + n / 16), n as u16 % 16 * 64), Ok(9), "{n}");
        }
    };
    all(&mut crashed, 5);
    crashed.write(object(1000), BlockRange::new(64, 64), 0);
    crashed.checkpoint();
    crashed.write(object(1), BlockRange::new(0, 5), 6);
    crashed.checkpoint();
    crashed.audit();
    fill(&mut crashed, 3000, 5, 7);
    all(&mut crashed, 6);
}
