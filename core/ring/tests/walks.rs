//! Random walks over everything a ring offers: bytes arrive in order, whatever is closed, filled or handed over meanwhile.
use sarsen_buffer::Arena;
use sarsen_buffer::Pool;
use sarsen_ring::{ConnId, Event, Ring, RingConfig, ZeroCopy, now};
use sarsen_types::Duration;
use std::collections::BTreeMap;

/// Numbers from a seed.
struct Dice(u64);
impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % bound as u64) as usize
    }
}

/// The byte at a place of every stream.
fn byte(at: usize) -> u8 {
    (at.wrapping_mul(2_654_435_761) >> 13) as u8
}
fn bytes(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(byte).collect()
}

#[derive(Default)]
struct End {
    sent: usize,
    seen: usize,
    is_filling: bool,
    will_close: bool,
}

fn walk(seed: u64) -> (usize, usize) {
    let dice = &mut Dice(seed);
    let pool = Pool::over(Arena::new(2 << 20).filter(|_| dice.below(2) == 0));
    let config = RingConfig {
        keeps_files: dice.below(4) > 0,
        wide_inputs: [0, 300_000, 8 << 20][dice.below(3)],
        entries: [8, 64][dice.below(2)],
        defer_taskrun: dice.below(4) > 0,
        send_batch_bytes: [5000, 1 << 20][dice.below(2)],
        zero_copy: [ZeroCopy::Always(1), ZeroCopy::Always(50_000), ZeroCopy::Remote(1)][dice.below(3)],
    };
    let mut ring = Ring::new(config, &pool).unwrap();
    let (_, address) = ring.listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut ends: BTreeMap<ConnId, End> = BTreeMap::new();
    let mut events = Vec::new();
    let (mut total, mut closed) = (0, 0);
    for _ in 0..400 {
        for _ in 0..dice.below(6) {
            let picked = (!ends.is_empty()).then(|| *ends.keys().nth(dice.below(ends.len())).unwrap());
            match (dice.below(24), picked) {
                (0, _) if ends.len() < 12 => {
                    let conn = ring.connect_tcp(address).unwrap();
                    ends.insert(conn, End::default());
                }
                (1, Some(conn)) => {
                    ring.close(conn);
                    ends.remove(&conn);
                    closed += 1;
                }
                (2, Some(conn)) => {
                    ring.close_when_sent(conn);
                    ends.get_mut(&conn).unwrap().will_close = true;
                    ends.remove(&conn);
                    closed += 1;
                }
                (3, Some(conn)) if !ends[&conn].is_filling => {
                    // the socket goes to another owner and comes back
                    if let Some((fd, rest)) = ring.release(conn) {
                        let end = ends.remove(&conn).unwrap();
                        let again = ring.adopt(fd, &rest);
                        assert!(ends.insert(again, end).is_none(), "an id is used once");
                    }
                }
                (4..=7, Some(conn)) if !ends[&conn].is_filling => {
                    let most = [100, 200_000][dice.below(2)];
                    let len = 1 + dice.below(most);
                    ring.receive_into(conn, pool.take(len));
                    ends.get_mut(&conn).unwrap().is_filling = true;
                }
                (8..=10, Some(conn)) if !ends[&conn].is_filling => {
                    ring.make_room(conn, 1 + dice.below(600_000));
                }
                (_, Some(conn)) if ring.queued(conn) < 4 << 20 => {
                    let end = ends.get_mut(&conn).unwrap();
                    let (head, tail) = (dice.below(500), dice.below(100_000) * dice.below(2));
                    let payload = (tail > 0).then(|| pool.copy_of(&bytes(end.sent + head, tail)));
                    ring.send(conn, &bytes(end.sent, head), payload);
                    end.sent += head + tail;
                }
                _ => {}
            }
        }
        ring.turn(Some(now() + Duration::from_micros(dice.below(200) as u64)), &mut events);
        for event in events.drain(..) {
            match event {
                Event::Accepted { conn, .. } => assert!(ends.insert(conn, End::default()).is_none()),
                Event::Filled { conn, buf } => {
                    let Some(end) = ends.get_mut(&conn) else { continue };
                    assert!(end.is_filling && *buf == bytes(end.seen, buf.len())[..], "seed {seed}");
                    (end.seen, end.is_filling) = (end.seen + buf.len(), false);
                    total += buf.len();
                }
                Event::Closed { conn, .. } => {
                    assert!(ends.remove(&conn).is_some(), "told of one that is known")
                }
                Event::Readable(conn) => assert!(ends.contains_key(&conn), "told of one that is known"),
                Event::Connected(_) | Event::Woken => {}
            }
        }
        for (&conn, end) in &mut ends {
            if end.is_filling || dice.below(3) == 0 {
                continue;
            }
            let here = ring.received(conn);
            let take = if dice.below(3) == 0 { dice.below(here.len() + 1) } else { here.len() };
            assert!(here[..take] == bytes(end.seen, take)[..], "seed {seed}");
            end.seen += take;
            total += take;
            ring.consume(conn, take);
        }
    }
    // What nobody reads stays where it is, and its memory with it: a send without a copy that the other end has no room for does not
    // end with the ring, which forgets it then (met on a busy machine).
    for _ in 0..200 {
        ring.turn(Some(now() + Duration::from_millis(1)), &mut events);
        for event in events.drain(..) {
            if let Event::Closed { conn, .. } = event {
                ends.remove(&conn);
            }
        }
        for conn in ends.keys() {
            let here = ring.received(*conn).len();
            ring.consume(*conn, here);
        }
    }
    drop(ring);
    assert_eq!(pool.live_bytes(), 0, "seed {seed}: every buffer came back");
    (total, closed)
}

#[test]
fn streams_stay_in_order_through_closes_fills_and_hand_overs() {
    let (mut total, mut closed) = (0, 0);
    for seed in 0..20 {
        let (bytes, ends) = walk(seed);
        total += bytes;
        closed += ends;
    }
    assert!(total > 10 << 20 && closed > 100, "the walks went nowhere: {total} bytes, {closed} closed");
}
