//! The longest records there are fit a journal block (S11): one that did not would end the drive, and those of all copies with it.
mod support;
use sarsen_buffer::{Pool, block_checksum};
use sarsen_store::Token;
use sarsen_store::journal::Draft;
use sarsen_types::limits::{PAGE_ENTRIES_MAX, PIECE_BLOCKS_MAX, REQUEST_WINDOW_MAX};
use sarsen_types::record::{Body, Content, Entry, Point, Recover, Table, Write};
use sarsen_types::*;
use support::*;

const CONTENT: u8 = 9;

/// A request for a piece of `object(1)`.
fn note(session: u64, number: u64) -> RequestNote {
    let attachment = AttachmentId(u64::MAX);
    let id = RequestId { attachment, session: SessionId(session), number, ..RequestId::default() };
    RequestNote { id, object: object(1), range: BlockRange::new(0, PIECE_BLOCKS_MAX) }
}

fn marks() -> impl Iterator<Item = Mark> {
    let mark = |queue| Mark { attachment: AttachmentId(1), session: SessionId(1), queue, below: 1 };
    (1..=PAGE_ENTRIES_MAX as u16).map(move |queue| mark(QueueId(queue)))
}

/// What a takeover may write for a volume with one host: a whole piece, with as many requests found whole as its session may
/// have open, as many that were not found, of the session before it, and all the marks that one record bears.
fn longest_write(payload: &[u8]) -> Write {
    let of = |session| (0..REQUEST_WINDOW_MAX as u64).map(move |number| note(session, number));
    let sum = |block| block_checksum(FAMILY, object(1).chunk, block, &payload[..4096]);
    Write {
        version: Version::new(Epoch(2), 1),
        object: object(1),
        family: FAMILY,
        range: BlockRange::new(0, PIECE_BLOCKS_MAX),
        content: Content::Data((0..PIECE_BLOCKS_MAX).map(sum).collect()),
        requests: of(2).collect(),
        marks: marks().collect(),
        takeover: Some(of(1).collect()),
    }
}

/// The longest of what a join sends.
fn longest_of_a_join() -> [Body; 2] {
    let entry = Entry::Data(Version::new(Epoch(1), 1), Checksum(1));
    let recover = Recover {
        object: object(1),
        family: FAMILY,
        since: Epoch(1),
        first: 0,
        entries: vec![entry; usize::from(PIECE_BLOCKS_MAX)],
        touched: Version::ZERO,
    };
    let sessions = (0..PAGE_ENTRIES_MAX as u64).map(|n| (AttachmentId(n), Generation(1), SessionId(1)));
    let requests = (0..PAGE_ENTRIES_MAX as u64).map(|number| (note(1, number), Version::ZERO));
    let table = Table {
        since: Epoch(1),
        is_first: true,
        sessions: sessions.collect(),
        marks: marks().collect(),
        requests: requests.collect(),
        point: Some(Point::default()),
    };
    [Body::Recover(recover), Body::Table(table)]
}

#[test]
fn every_record_fits_a_block() {
    let write = Body::Write(longest_write(&[0; 4096]));
    for body in longest_of_a_join().into_iter().chain([write]) {
        let record = Record { group: GROUP, promise: Epoch(1), body };
        let places = vec![1; usize::from(record.data_blocks())];
        let mut draft = Draft::default();
        assert!(
            draft.record(&record, &places),
            "longer than a block: {:.60}...",
            format!("{:?}", record.body)
        );
        println!("{} units: {:.60}...", draft.units(), format!("{:?}", record.body));
    }
}

#[test]
fn a_takeovers_longest_write_is_taken_beside_all_else_of_its_turn_and_found_again() {
    let mut bench = Bench::new(64 << 20, 4 << 20);
    // floors go before records, and take so much of a block that it does not fit beside them
    let others = || (1000..3000).map(GroupId);
    for group in others() {
        let record = Record { group, promise: Epoch(1), body: Body::Promise };
        bench.store.persist(Token(u64::from(group.0) << 32), record, None);
    }
    bench.quiet();
    others().for_each(|group| bench.store.raise_floor(group, Version::new(Epoch(1), 1)));
    let before = bench.write(object(2), one(3), 7);
    bench.epoch = 2;
    let payload = Pool::new().copy_of(&[CONTENT; PIECE_BLOCKS_MAX as usize * 4096]);
    let token = bench.persist(Body::Write(longest_write(&payload)), Some(payload));
    bench.quiet();
    assert!(bench.persisted.contains(&token));
    let replayed = bench.restarted(bench.image());
    bench.store.force_checkpoint();
    bench.turn();
    for mut bench in [replayed, bench.restart()] {
        // a floor above them would let go what the older session asked
        bench.store.commit(GROUP, before);
        bench.store.commit(GROUP, Version::new(Epoch(2), 1));
        assert_eq!((bench.read(object(1), 63), bench.read(object(2), 3)), (Ok(CONTENT), Ok(7)));
        let ledger = bench.store.ledger(GROUP).unwrap();
        let (void, whole): (Vec<_>, Vec<_>) = ledger.notes().partition(|(_, note)| note.is_void);
        assert_eq!((void.len(), whole.len()), (REQUEST_WINDOW_MAX, REQUEST_WINDOW_MAX));
        assert_eq!(ledger.marks().count(), PAGE_ENTRIES_MAX);
        assert!(others().all(|g| bench.store.ledger(g).unwrap().floor == Version::new(Epoch(1), 1)));
    }
}
