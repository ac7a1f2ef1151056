//! Exports: whose place is whose, clients that say nothing, and QEMU across the death of one (D5).
use sarsen_e2e::dev::Dev;
use sarsen_e2e::process;
use sarsen_e2e::program::{command, succeed, wait, wait_until};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

const QUICK: Duration = Duration::from_secs(30);
/// Connections that one export takes at a time.
const CLIENTS_MAX: usize = 256;

/// An export of its own, and its URL.
fn export(dev: &Dev, place: [&str; 2]) -> (Child, String) {
    let mut export = dev.command(&["export", "nbd", "w", "--json"]);
    let mut export = export.args(place).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(export.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|why| panic!("{why}: {line}"));
    let url = said["nbd"].as_str().unwrap().to_owned();
    (export, url)
}
fn with_volume() -> Dev {
    let dev = Dev::start(&["--nodes", "1"]).unwrap();
    dev.sarsen(&["volume", "create", "w", "--size", "64MiB"], None).unwrap();
    dev
}
fn attached(dev: &Dev) -> usize {
    dev.json(&["attachment", "list"]).unwrap().as_array().unwrap().len()
}
/// Ends it in order.
fn end(mut export: Child) {
    process::signal(export.id(), libc::SIGTERM);
    assert!(wait(&mut export, QUICK).unwrap().success());
}

#[test]
fn an_export_at_the_place_of_another_takes_nothing_from_it() {
    // found in review: the same place is the same owner, so the second call took the session, then found the port taken
    let dev = with_volume();
    let socket = dev.dir().join("w.sock").display().to_string();
    for place in [["--listen", "127.0.0.1:0"], ["--socket", &socket]] {
        let (first, url) = export(&dev, place);
        let at = match place[0] {
            "--listen" => url.trim_start_matches("nbd://").trim_end_matches("/w").to_owned(),
            _ => socket.clone(),
        };
        let second = dev.try_sarsen(&["export", "nbd", "w", place[0], &at]).unwrap();
        let said = String::from_utf8_lossy(&second.stderr).into_owned();
        assert!(!second.status.success() && said.contains(&at), "{said}");
        succeed(command("qemu-io").args(["-f", "raw", "-c", "write 0 4096", &url]), QUICK).unwrap();
        end(first);
    }
    // and a place that cannot be had leaves nobody with the volume
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    assert!(!dev.try_sarsen(&["export", "nbd", "w", "--listen", &at]).unwrap().status.success());
    assert_eq!(attached(&dev), 0);
}

#[test]
fn clients_that_say_nothing_keep_nobody_out() {
    let dev = with_volume();
    let (served, url) = export(&dev, ["--listen", "127.0.0.1:0"]);
    let at = url.trim_start_matches("nbd://").trim_end_matches("/w");
    let silent: Vec<TcpStream> = (0..CLIENTS_MAX + 10).map(|_| TcpStream::connect(at).unwrap()).collect();
    succeed(command("qemu-io").args(["-f", "raw", "-c", "write 0 4096", &url]), QUICK).unwrap();
    drop(silent);
    end(served);
}

#[test]
fn qemu_waits_out_the_death_of_an_export() {
    let dev = with_volume();
    let socket = dev.dir().join("w.sock");
    let place = ["--socket", socket.to_str().unwrap()];
    let (mut first, _) = export(&dev, place);
    // as the README says it
    let at = socket.display();
    let options = format!("driver=nbd,server.type=unix,server.path={at},export=w,reconnect-delay=600");
    let mut qemu = command("qemu-io")
        .args(["--image-opts", &options])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut say = qemu.stdin.take().unwrap();
    let mut hear = BufReader::new(qemu.stdout.take().unwrap());
    let mut ask = |what: &str| {
        writeln!(say, "{what}").unwrap();
        say.flush().unwrap();
    };
    let mut answer = || {
        let mut line = String::new();
        while !line.contains("4096/4096 bytes") {
            line.clear();
            assert!(hear.read_line(&mut line).unwrap() > 0, "qemu-io ended");
            assert!(!line.contains("failed") && !line.contains("rror"), "{line}");
        }
    };
    ask("write -P 1 0 4096");
    answer();
    process::kill(first.id());
    first.wait().unwrap();
    ask("write -P 2 4096 4096");
    std::thread::sleep(Duration::from_secs(2));
    let (second, url) = export(&dev, place);
    answer();
    ask("read -P 1 0 4096");
    answer();
    drop(say);
    assert!(wait(&mut qemu, QUICK).unwrap().success());
    succeed(command("qemu-io").args(["-f", "raw", "-c", "read -P 2 4096 4096", &url]), QUICK).unwrap();
    assert!(Path::new(&socket).exists());
    end(second);
    wait_until("it is given back", QUICK, || Ok(attached(&dev) == 0)).unwrap();
}
