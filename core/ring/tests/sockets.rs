//! Rings that talk over real sockets.
use sarsen_buffer::Pool;
use sarsen_ring::{ConnId, Event, Ring, RingConfig, now};
use sarsen_types::Duration;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

fn ring(defer_taskrun: bool) -> Ring {
    Ring::new(RingConfig { defer_taskrun, ..RingConfig::default() }, &Pool::new()).unwrap()
}
fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}
/// Turns until `wanted` finds its event.
fn until<T>(ring: &mut Ring, mut wanted: impl FnMut(&mut Ring, Event) -> Option<T>) -> T {
    let deadline = now() + Duration::from_secs(10);
    let mut events = Vec::new();
    loop {
        assert!(ring.turn(Some(deadline), &mut events) < deadline, "nothing happened for ten seconds");
        let mut found = None;
        for event in events.drain(..) {
            if let Some(value) = wanted(ring, event) {
                found = Some(value);
            }
        }
        if let Some(found) = found {
            return found;
        }
    }
}
/// Both ends of a TCP connection on one ring.
fn pair(ring: &mut Ring) -> (ConnId, ConnId) {
    let (_, address) = ring.listen_tcp(loopback()).unwrap();
    let dialed = ring.connect_tcp(address).unwrap();
    let (mut connected, mut accepted) = (false, None);
    let accepted = until(ring, |_, event| {
        match event {
            Event::Connected(conn) => connected = conn == dialed,
            Event::Accepted { conn, .. } => accepted = Some(conn),
            other => panic!("{other:?}"),
        }
        accepted.filter(|_| connected)
    });
    (dialed, accepted)
}

#[test]
fn frames_go_both_ways_over_tcp_and_unix_sockets_with_either_set_up() {
    for defer_taskrun in [true, false] {
        let ring = &mut ring(defer_taskrun);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        ring.listen_unix(&path).unwrap();
        let (_, address) = ring.listen_tcp(loopback()).unwrap();
        for dialed in [ring.connect_tcp(address).unwrap(), ring.connect_unix(&path).unwrap()] {
            // sent before it stands
            let payload = ring.pool().copy_of(&[7; 8192]);
            ring.send(dialed, b"ping", Some(payload));
            let answer = until(ring, |ring, event| match event {
                Event::Readable(conn) if conn == dialed => {
                    (ring.received(conn).len() == 4).then(|| ring.received(conn).to_vec())
                }
                Event::Readable(conn) => {
                    if ring.received(conn).len() == 4 + 8192 {
                        assert_eq!(&ring.received(conn)[..5], b"ping\x07");
                        ring.consume(conn, 4 + 8192);
                        ring.send(conn, b"pong", None);
                    }
                    None
                }
                Event::Closed { why, .. } => panic!("{why}"),
                _ => None,
            });
            assert_eq!(answer, b"pong");
        }
    }
}

#[test]
fn a_large_payload_goes_straight_into_its_buffer_and_what_follows_it_is_not_lost() {
    let ring = &mut ring(true);
    let (a, b) = pair(ring);
    let bytes: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
    for round in 0..20 {
        let payload = ring.pool().copy_of(&bytes);
        ring.send(a, b"head", Some(payload));
        ring.send(a, b"next", None);
        let mut filled = None;
        let mut asked = false;
        until(ring, |ring, event| {
            match event {
                Event::Readable(conn) if !asked && ring.received(conn).len() >= 4 => {
                    assert_eq!((conn, &ring.received(conn)[..4]), (b, &b"head"[..]));
                    ring.consume(conn, 4);
                    let buf = ring.pool().take(bytes.len());
                    ring.receive_into(conn, buf);
                    asked = true;
                }
                Event::Filled { buf, .. } => filled = Some(buf),
                _ => {}
            }
            (filled.is_some() && ring.received(b) == b"next").then_some(())
        });
        assert!(filled.is_some_and(|buf| *buf == bytes[..]), "round {round}");
        ring.consume(b, 4);
    }
}

#[test]
fn a_buffer_is_filled_from_bytes_that_are_here_already() {
    let ring = &mut ring(true);
    let (a, b) = pair(ring);
    ring.send(a, b"0123456789", None);
    until(ring, |ring, event| matches!(event, Event::Readable(_)).then(|| ring.received(b).len() == 10));
    let buf = ring.pool().take(4);
    ring.receive_into(b, buf);
    let buf = until(ring, |_, event| match event {
        Event::Filled { conn, buf } => Some((conn, buf)),
        _ => None,
    });
    assert_eq!((buf.0, &*buf.1, ring.received(b)), (b, &b"0123"[..], &b"456789"[..]));
}

#[test]
fn a_stream_of_many_small_frames_arrives_whole_and_in_order() {
    let ring = &mut ring(true);
    let (a, b) = pair(ring);
    let (mut sent, mut seen) = (0u32, 0u32);
    while seen < 50_000 {
        while sent < 50_000 && ring.queued(a) < 1 << 20 {
            ring.send_with(a, None, false, |out| {
                out.extend_from_slice(&[&sent.to_le_bytes()[..], &[0; 36]].concat())
            });
            sent += 1;
        }
        let mut events = Vec::new();
        ring.turn(Some(now() + Duration::from_secs(10)), &mut events);
        assert!(!events.is_empty() || ring.queued(a) > 0);
        while let Some(frame) = ring.received(b).first_chunk::<40>() {
            assert_eq!(u32::from_le_bytes(frame[..4].try_into().unwrap()), seen);
            seen += 1;
            ring.consume(b, 40);
        }
    }
    let (turns, enters) = ring.counters();
    assert!(enters <= turns + 5, "{turns} turns, {enters} system calls (L5)");
}

#[test]
fn who_does_not_read_holds_up_its_sender_and_costs_bounded_memory() {
    let ring = &mut ring(true);
    let (a, b) = pair(ring);
    let payload = ring.pool().take_zeroed(256 << 10);
    for _ in 0..200 {
        ring.send(a, &[], Some(payload.clone()));
    }
    let mut events = Vec::new();
    for _ in 0..200 {
        ring.turn(Some(now() + Duration::from_millis(5)), &mut events);
    }
    assert!(ring.queued(a) > 10 << 20, "the kernel took all but {}", ring.queued(a));
    assert!(ring.received(b).len() <= 256 << 10);
    let mut left = 200 * (256 << 10);
    while left > 0 {
        let here = ring.received(b).len();
        ring.consume(b, here);
        left -= here;
        ring.turn(Some(now() + Duration::from_secs(10)), &mut events);
    }
    assert_eq!(ring.queued(a), 0);
}

#[test]
fn the_end_of_a_connection_is_told_once_and_its_id_means_nothing_afterwards() {
    let ring = &mut ring(true);
    let (a, b) = pair(ring);
    ring.send(a, b"last words", None);
    ring.close_when_sent(a);
    let mut heard = Vec::new();
    let why = until(ring, |ring, event| match event {
        Event::Readable(conn) => {
            heard.extend_from_slice(ring.received(conn));
            None
        }
        Event::Closed { conn, why } => Some((conn, why.kind())),
        _ => None,
    });
    assert_eq!((why, &heard[..]), ((b, ErrorKind::UnexpectedEof), &b"last words"[..]));
    for conn in [a, b] {
        ring.send(conn, b"nobody", None);
        ring.consume(conn, 0);
        ring.close(conn);
        assert_eq!((ring.queued(conn), ring.received(conn)), (0, &[][..]));
    }
    let (c, d) = pair(ring);
    assert!(![a, b].contains(&c) && ![a, b].contains(&d), "an id is not used twice");
}

#[test]
fn dialing_where_nobody_listens_is_told_and_a_dial_can_be_given_up() {
    let ring = &mut ring(true);
    let (listener, address) = ring.listen_tcp(loopback()).unwrap();
    let mut events = Vec::new();
    ring.turn(Some(now()), &mut events);
    ring.unlisten(listener);
    let dialed = ring.connect_tcp(address).unwrap();
    let seen = until(ring, |_, event| match event {
        Event::Closed { conn, why } => Some((conn, why.kind())),
        _ => None,
    });
    assert_eq!(seen, (dialed, ErrorKind::ConnectionRefused));
    // an address of the documentation range answers nobody
    let lost = ring.connect_tcp("192.0.2.1:9".parse().unwrap()).unwrap();
    ring.turn(Some(now()), &mut events);
    ring.close(lost);
    for _ in 0..3 {
        ring.turn(Some(now() + Duration::from_millis(5)), &mut events);
    }
    assert!(!events.iter().any(|e| matches!(e, Event::Closed { conn, .. } if *conn == lost)));
}

#[test]
fn a_socket_is_handed_from_one_thread_to_another_with_what_was_read_past_the_hello() {
    let (to_thread, inbox) = std::sync::mpsc::channel();
    let (to_us, waker) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let ring = &mut ring(true);
        to_us.send(ring.waker()).unwrap();
        let (fd, rest) =
            until(ring, |_, event| matches!(event, Event::Woken).then(|| inbox.try_recv().unwrap()));
        let rest: Vec<u8> = rest;
        let conn = ring.adopt(fd, &rest);
        until(ring, |ring, event| {
            assert!(matches!(event, Event::Readable(_)), "{event:?}");
            (ring.received(conn) == b"after the hello").then_some(())
        });
        ring.send(conn, b"welcome", None);
        ring.close_when_sent(conn);
        while ring.queued(conn) > 0 {
            ring.turn(Some(now() + Duration::from_millis(1)), &mut Vec::new());
        }
    });
    let waker: sarsen_ring::Waker = waker.recv().unwrap();
    let ring = &mut ring(true);
    let (_, address) = ring.listen_tcp(loopback()).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"hello,after").unwrap();
    let conn = until(ring, |ring, event| match event {
        Event::Readable(conn) if ring.received(conn).len() == 11 => Some(conn),
        _ => None,
    });
    ring.consume(conn, 6);
    let handed = ring.release(conn).expect("nothing is in flight");
    to_thread.send(handed).unwrap();
    waker.wake();
    client.write_all(b" the hello").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "welcome");
    thread.join().unwrap();
}

#[test]
fn a_turn_ends_at_its_deadline_or_when_another_thread_wakes_it() {
    let ring = &mut ring(true);
    let mut events = Vec::new();
    let start = now();
    let ended = ring.turn(Some(start + Duration::from_millis(30)), &mut events);
    assert!(ended >= start + Duration::from_millis(30) && events.is_empty());

    let waker = ring.waker();
    let thread = std::thread::spawn(move || {
        for _ in 0..1000 {
            waker.wake();
        }
    });
    ring.turn(Some(now() + Duration::from_secs(10)), &mut events);
    assert!(matches!(events[..], [Event::Woken]));
    thread.join().unwrap();
    // a wake-up between turns is not lost
    events.clear();
    ring.waker().wake();
    let start = now();
    ring.turn(Some(start + Duration::from_secs(10)), &mut events);
    assert!(matches!(events[..], [Event::Woken]) && now() < start + Duration::from_secs(5));
}

#[test]
fn a_socket_path_that_is_too_long_and_one_in_use_are_refused_and_a_stale_one_is_replaced() {
    let ring = &mut ring(true);
    let dir = tempfile::tempdir().unwrap();
    let why = ring.listen_unix(&dir.path().join("x".repeat(108))).unwrap_err();
    assert!(why.to_string().contains("107 bytes"), "{why}");
    let path = dir.path().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    ring.listen_unix(&path).unwrap();
    assert!(ring.listen_unix(&path).is_err());
}

#[test]
fn a_ring_that_is_dropped_with_much_in_flight_ends_cleanly() {
    for _ in 0..20 {
        let ring = &mut ring(true);
        let (a, _b) = pair(ring);
        let payload = ring.pool().take_zeroed(512 << 10);
        for _ in 0..40 {
            ring.send(a, b"head", Some(payload.clone()));
        }
        ring.turn(Some(now()), &mut Vec::new());
    }
}

#[test]
fn a_peer_that_left_is_seen_though_nothing_is_received() {
    let ring = &mut ring(true);
    let (_, address) = ring.listen_tcp(loopback()).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let conn = until(ring, |_, event| match event {
        Event::Accepted { conn, .. } => Some(conn),
        _ => None,
    });
    client.write_all(&[7; 64]).unwrap();
    assert!(!ring.is_hung_up(conn));
    drop(client);
    let deadline = now() + Duration::from_secs(10);
    while !ring.is_hung_up(conn) {
        assert!(now() < deadline, "it left, and nobody sees it");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// A client with a plain socket, and the ring's end of it.
fn accepted_from(ring: &mut Ring) -> (TcpStream, ConnId) {
    let (_, address) = ring.listen_tcp(loopback()).unwrap();
    let client = TcpStream::connect(address).unwrap();
    let conn = until(ring, |_, event| match event {
        Event::Accepted { conn, .. } => Some(conn),
        other => panic!("{other:?}"),
    });
    (client, conn)
}

#[test]
fn data_are_acknowledged_by_who_is_there_and_never_by_who_hung_up_behind_what_is_unread() {
    let ring = &mut ring(true);
    let mut events = Vec::new();
    let (mut client, conn) = accepted_from(ring);
    ring.send(conn, b"an answer", None);
    assert!(!ring.is_delivered(conn), "it did not leave yet");
    while !ring.is_delivered(conn) {
        ring.turn(Some(now() + Duration::from_millis(1)), &mut events);
    }
    // so much is sent that its goodbye has no room
    client.set_nonblocking(true).unwrap();
    let mut waited = 0;
    while waited < 50 {
        let is_stuck = client.write(&[1; 64 << 10]).is_err();
        waited = if is_stuck { waited + 1 } else { 0 };
        ring.turn(Some(now() + Duration::from_millis(1)), &mut events);
    }
    client.shutdown(std::net::Shutdown::Both).unwrap();
    ring.turn(Some(now() + Duration::from_millis(50)), &mut events);
    assert!(!ring.shows_hang_up(conn) && !ring.is_hung_up(conn), "nothing is seen of it");
    ring.send(conn, b"another answer", None);
    while !ring.is_hung_up(conn) {
        assert!(!ring.is_delivered(conn) || ring.is_hung_up(conn));
        ring.turn(Some(now() + Duration::from_millis(1)), &mut events);
    }
}
