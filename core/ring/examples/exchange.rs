//! CPU time of an exchange between two rings: 4 KiB one way, a short answer back. `cargo run --release -p sarsen-ring --example exchange`
use sarsen_buffer::Pool;
use sarsen_ring::{ConnId, Event, Ring, RingConfig, now};
use sarsen_types::{Duration, Instant};
use std::path::Path;

const HEAD: usize = 160;
const PAYLOAD: usize = 4096;
const FRAME: usize = HEAD + PAYLOAD;
const ANSWER: usize = 48;

fn ring(defer_taskrun: bool) -> Ring {
    let config = RingConfig { defer_taskrun, ..RingConfig::default() };
    Ring::new(config, &Pool::new()).unwrap_or_else(|why| panic!("{why}"))
}

/// Answers each frame until the connection ends.
fn serve(mut ring: Ring) {
    let mut events = Vec::new();
    loop {
        ring.turn(None, &mut events);
        for event in events.drain(..) {
            match event {
                Event::Readable(conn) => {
                    let frames = ring.received(conn).len() / FRAME;
                    for _ in 0..frames {
                        let mut slot = ring.pool().take(PAYLOAD);
                        slot.get_mut().copy_from_slice(&ring.received(conn)[HEAD..FRAME]);
                        ring.consume(conn, FRAME);
                        ring.send(conn, &[1; ANSWER], None);
                    }
                }
                Event::Closed { .. } => return,
                _ => {}
            }
        }
    }
}

fn cpu_time() -> Duration {
    // SAFETY: a zeroed rusage is a valid one to be written to.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is live.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    let micros = |t: libc::timeval| t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64;
    Duration::from_micros(micros(usage.ru_utime) + micros(usage.ru_stime))
}

fn drive(ring: &mut Ring, conn: ConnId, depth: usize, for_: Duration) -> u64 {
    let payload = ring.pool().take_zeroed(PAYLOAD);
    let (mut out, mut done) = (0, 0);
    let (mut events, end) = (Vec::new(), now() + for_);
    let mut time = Instant(0);
    while time < end || out > 0 {
        while out < depth && time < end {
            ring.send(conn, &[2; HEAD], Some(payload.clone()));
            out += 1;
        }
        time = ring.turn(None, &mut events);
        events.clear();
        let answers = ring.received(conn).len() / ANSWER;
        ring.consume(conn, answers * ANSWER);
        out -= answers;
        done += answers as u64;
    }
    done
}

fn measure(defer: bool, path: Option<&Path>, depth: usize) {
    let (to_us, address) = std::sync::mpsc::channel();
    let unix = path.map(Path::to_owned);
    let thread = std::thread::spawn(move || {
        let mut ring = ring(defer);
        match unix {
            Some(path) => {
                ring.listen_unix(&path).expect("a socket");
                to_us.send(None).expect("the other side waits");
            }
            None => {
                let (_, address) = ring.listen_tcp(([127, 0, 0, 1], 0).into()).expect("a port");
                to_us.send(Some(address)).expect("the other side waits");
            }
        }
        serve(ring);
    });
    let mut ring = ring(defer);
    let conn = match address.recv().expect("the address") {
        Some(address) => ring.connect_tcp(address),
        None => ring.connect_unix(path.expect("a path")),
    }
    .expect("a connection");
    drive(&mut ring, conn, depth, Duration::from_millis(200));
    let (cpu, start, turns) = (cpu_time(), now(), ring.counters());
    let done = drive(&mut ring, conn, depth, Duration::from_secs(2));
    let (cpu, wall, after) = (cpu_time() - cpu, now().since(start), ring.counters());
    println!(
        "{} {} depth {depth:3}: {:7.0} exchanges/s, {:6.1} CPU-us each, {:.2} system calls a turn, {:.1} exchanges a turn",
        if path.is_some() { "unix" } else { "tcp " },
        if defer { "deferred" } else { "plain   " },
        done as f64 / wall.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / done as f64,
        (after.1 - turns.1) as f64 / (after.0 - turns.0) as f64,
        done as f64 / (after.0 - turns.0) as f64,
    );
    ring.close(conn);
    ring.turn(Some(now()), &mut Vec::new());
    thread.join().expect("it ends");
}

fn main() {
    let dir = std::env::temp_dir().join(format!("sarsen-exchange-{}", std::process::id()));
    for defer in [true, false] {
        for depth in [1, 32] {
            measure(defer, None, depth);
            measure(defer, Some(&dir), depth);
        }
    }
    let _ = std::fs::remove_file(dir);
}
