//! A client of several nodes, one of which is cut off from the others.
use sarsen_api::Client;
use sarsen_types::*;
use std::io::{Read, Write};
use std::net::TcpListener;

/// A node that answers every call with the map of one revision; its URL.
fn node(revision: u64) -> String {
    let map = VolumeMap {
        revision: Revision(revision),
        volume: VolumeId(1),
        name: "v".into(),
        size: 1 << 20,
        family: FamilyId(1),
        layer: LayerId(1),
        attachment: AttachmentId(1),
        generation: Generation(1),
        session: SessionId(1),
        read_only: false,
        table: vec![],
        leaders: Default::default(),
        addresses: Default::default(),
        nodes: Default::default(),
    };
    let body = serde_json::to_string(&map).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let _ = socket.read(&mut [0; 4096]);
            let head =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = socket.write_all(format!("{head}{body}").as_bytes());
        }
    });
    url
}

#[test]
fn a_node_that_knows_of_nothing_new_is_not_asked_for_ever() {
    // found in review: cut off from the others it answers, and the volume's leaders are elsewhere by then
    let client = Client::new(vec![node(5), node(9)], None).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let revision = |after| {
        let map = client.volume_map(AttachmentId(1), SessionId(1), Revision(after));
        runtime.block_on(map).unwrap().revision.0
    };
    assert_eq!((revision(0), revision(5), revision(5)), (5, 5, 9));
}

/// A node that takes calls and answers none: its process was stopped.
fn stopped_node() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    url
}

/// A node that is down.
fn no_node() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn a_doubt_is_of_the_node_that_is_being_asked() {
    // found in review: the one after the last that had answered was asked instead, the very node that did not answer
    let client = Client::new(vec![no_node(), stopped_node(), node(9)], None).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ask = || client.volume_map(AttachmentId(1), SessionId(1), Revision(5));
    let begun = std::time::Instant::now();
    runtime.block_on(async {
        let in_doubt = tokio::time::timeout(std::time::Duration::from_millis(500), ask()).await;
        assert!(in_doubt.is_err(), "it waits for the node that was stopped");
        client.ask_another();
        assert_eq!(ask().await.unwrap().revision, Revision(9));
    });
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
}
