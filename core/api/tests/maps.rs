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
