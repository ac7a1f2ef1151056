//! How an export ends: under load, with answers on their way, and when its session is over.
mod support;
use sarsen_host::Listen;
use sarsen_host::serve::{FLUSH_MAX, Served, Told};
use sarsen_wire::client::{ClientResult, Refusal};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::*;

/// The error number of a volume that was taken away.
const ESHUTDOWN: u32 = 108;

fn ends(served: &mut Served) -> String {
    let mut why = None;
    until(|| {
        why = served.ended.try_recv().ok();
        why.is_some()
    });
    why.expect("it ended")
}

#[test]
fn an_export_ends_under_load_with_all_answered_that_it_took() {
    // found in review: it read on, never came to its end, and was killed with its attachment kept
    let slice = Slice::start();
    let mut served = export(&slice, tcp());
    let mut client = connect_tcp(&served);
    let mut answers = client.0.try_clone().unwrap();
    let is_over = AtomicBool::new(false);
    let taken = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut at = 0;
            while !is_over.load(Ordering::Relaxed)
                && client.0.write_all(&write_request(at, begin_of(0) + at % 256 * 4096, 1)).is_ok()
            {
                at += 1;
            }
        });
        let reader = scope.spawn(move || {
            let mut bytes = 0;
            let mut room = [0; 64 << 10];
            while let Ok(len) = answers.read(&mut room) {
                if len == 0 {
                    break;
                }
                bytes += len;
            }
            bytes / 16
        });
        until(|| slice.writes().len() > 200);
        let begun = Instant::now();
        served.tell.send(Told::Stop);
        assert_eq!(ends(&mut served), "stopped");
        assert!(begun.elapsed() < FLUSH_MAX, "{:?}", begun.elapsed());
        is_over.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert_eq!(taken, slice.writes().len(), "what was carried out was answered");
}

#[test]
fn an_export_that_ends_waits_for_what_is_under_way_and_for_who_has_not_read_its_answers() {
    let dir = tempfile::tempdir().unwrap();
    let slice = Slice::start();
    let mut served = export(&slice, Listen::Socket(dir.path().join("nbd.sock")));
    let mut client = connect_unix(&served);
    slice.hold(0);
    client.ask(READ, 1, begin_of(1), 8 << 20);
    client.ask(READ, 2, begin_of(0), 4096);
    slice.await_held(1);
    served.tell.send(Told::Stop);
    std::thread::sleep(FLUSH_MAX + Duration::from_millis(200));
    slice.let_go();
    assert_eq!((client.reply(8 << 20), client.reply(4096)), ((0, 1), (0, 2)));
    assert_eq!(ends(&mut served), "stopped");
}

#[test]
fn when_the_session_is_over_clients_are_told_before_the_connection_ends() {
    // found in review: the answers were made, and never sent
    for is_refused in [true, false] {
        let slice = Slice::start();
        let mut served = export(&slice, tcp());
        let mut client = connect_tcp(&served);
        slice.hold(0);
        for cookie in 0..5 {
            client.ask(READ, cookie, begin_of(0), 4096);
        }
        slice.await_held(5);
        match is_refused {
            true => {
                slice.refuse(ClientResult::Refused(Refusal::OldSession));
                client.ask(TRIM, 5, begin_of(1), 4096);
            }
            false => served.tell.send(Told::Gone),
        }
        let count = 5 + u64::from(is_refused);
        let mut told: Vec<_> = (0..count).map(|_| client.reply(0)).collect();
        told.sort();
        assert!(told.into_iter().eq((0..count).map(|cookie| (ESHUTDOWN, cookie))));
        let why = ends(&mut served);
        assert!(why.contains(if is_refused { "attached again" } else { "detached" }), "{why}");
    }
}
