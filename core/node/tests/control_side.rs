//! Three whole nodes with real drives and sockets: joining, volumes, a node that stops, one that comes back.
use openraft::storage::RaftLogStorage;
use openraft::{BasicNode, Vote};
use sarsen_api::{ApiError, Attach, Client, CreateVolume, Health};
use sarsen_control::State;
use sarsen_node::NodeConfig;
use sarsen_node::control::directory::{Directory, Place};
use sarsen_node::control::log::Log;
use sarsen_node::control::machine::Machine;
use sarsen_node::control::raft::{self, Network};
use sarsen_node::control::run::Node;
use sarsen_ring::{BlockingDisk, DriveFile};
use sarsen_store::drive::FormatParams;
use sarsen_types::{AttachmentId, BLOCK_SIZE, ClusterId, DriveIdentity, NodeId, Revision, SessionId};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

const DRIVE: u64 = 256 << 20;

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn format(path: &Path, identity: u128) {
    std::fs::File::create(path).unwrap().set_len(DRIVE).unwrap();
    let file = Arc::new(DriveFile::open(path).unwrap());
    let mut disk = BlockingDisk::new(file, 0, DRIVE / BLOCK_SIZE as u64 * BLOCK_SIZE as u64);
    let params = FormatParams { identity: DriveIdentity(identity), slices: 1 };
    sarsen_store::drive::format(&mut disk, params).unwrap();
}

fn config(dir: &Path, number: u32, join: Option<SocketAddr>, key: Option<[u8; 32]>) -> NodeConfig {
    let drive = dir.join(format!("drive{number}"));
    if !drive.exists() {
        format(&drive, u128::from(number) + 77);
    }
    NodeConfig {
        dir: dir.join(format!("node{number}")),
        listen: free_address(),
        api: free_address(),
        key,
        join: join.iter().map(|a| format!("http://{a}")).collect(),
        drives: vec![drive],
        lease: None,
        copies: None,
        is_dev: true,
        is_tcp_only: false,
        memory: None,
    }
}

async fn until<T>(what: &str, limit: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until_ok(client: &Client, limit: Duration) {
    let mut last = String::new();
    let end = Instant::now() + limit;
    while Instant::now() < end {
        match client.status().await {
            Ok(status) if status.health == Health::Ok => return,
            other => last = format!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the cluster is not ok within {limit:?}: {last}");
}

fn client(nodes: &[&NodeConfig]) -> Client {
    let token = nodes[0].key.as_ref().map(sarsen_api::token_of);
    Client::new(nodes.iter().map(|n| n.api.to_string()).collect(), token).unwrap()
}

#[tokio::test]
async fn three_nodes_make_a_cluster_that_survives_a_planned_stop_and_a_return() {
    let dir = tempfile::tempdir().unwrap();
    let key = Some([7; 32]);
    let first = config(dir.path(), 1, None, key);
    let second = config(dir.path(), 2, Some(first.api), key);
    let third = config(dir.path(), 3, Some(first.api), key);
    let one = Node::start(first.clone()).await.unwrap();
    let two = Node::start(second.clone()).await.unwrap();
    let three = Node::start(third.clone()).await.unwrap();
    assert_eq!((one.id().0, two.id().0, three.id().0), (1, 2, 3));

    // any node answers, followers through the leader
    let all = client(&[&first, &second, &third]);
    let of_third = client(&[&third]);
    until_ok(&of_third, Duration::from_secs(10)).await;
    until("three voters", Duration::from_secs(10), async || {
        (all.nodes().await.ok()?.iter().filter(|n| n.is_voter).count() == 3).then_some(())
    })
    .await;

    let create = CreateVolume { name: "alpha".into(), size: 64 << 20, policy: None };
    let volume = of_third.create_volume(&create).await.unwrap();
    assert_eq!(of_third.create_volume(&create).await.unwrap().id, volume.id, "the same again is the same");
    let other = CreateVolume { size: 128 << 20, ..create };
    assert_eq!(all.create_volume(&other).await.unwrap_err().code(), Some("exists"));
    until_ok(&all, Duration::from_secs(10)).await;
    assert_eq!(all.groups().await.unwrap().len(), 64);

    // one owner at a time, with a new session for each of its lives (R44)
    let attach = Attach { owner: "here:/a.sock".into(), exclusive: true, read_only: false };
    let right = all.attach("alpha", &attach).await.unwrap();
    let again = all.attach("alpha", &attach).await.unwrap();
    assert_eq!((right.id, right.generation), (again.id, again.generation));
    assert!(again.session > right.session);
    let thief = Attach { owner: "there:/b.sock".into(), ..attach.clone() };
    match all.attach("alpha", &thief).await {
        Err(ApiError::Refused { status: 409, body }) => assert!(body.message.contains("here:/a.sock")),
        other => panic!("{other:?}"),
    }
    let map =
        of_third.volume_map(AttachmentId(right.id), SessionId(right.session), Revision(0)).await.unwrap();
    assert_eq!((map.table.len(), map.leaders.len(), map.session.0), (64, 64, again.session));

    // a planned stop hands over: no group is led there, and all volumes can be used
    three.stop().await.unwrap();
    let rest = client(&[&first, &second]);
    let groups = rest.groups().await.unwrap();
    assert!(groups.iter().all(|g| g.in_sync.len() == 2 && !g.primary.starts_with("3.")), "{groups:?}");
    until("the stop is seen", Duration::from_secs(5), async || {
        (rest.status().await.ok()?.health == Health::Degraded).then_some(())
    })
    .await;

    // it comes back with what it had, and is brought up to date
    let three = Node::start(third.clone()).await.unwrap();
    assert_eq!(three.id().0, 3);
    until_ok(&all, Duration::from_secs(30)).await;

    // a forced detach ends when every group has fenced the old generation (R31)
    let (id, [ended, lives]) = (AttachmentId(right.id), [right, again].map(|r| SessionId(r.session)));
    // what an earlier life says late, or who looked before, does not end the one there is
    assert_eq!(all.release(id, ended).await.unwrap_err().code(), Some("attached"));
    assert_eq!(all.detach(id, ended, false).await.unwrap_err().code(), Some("attached"));
    all.detach(id, lives, true).await.unwrap();
    until("the attachment is gone", Duration::from_secs(10), async || {
        all.attachments().await.ok()?.is_empty().then_some(())
    })
    .await;
    all.attach("alpha", &thief).await.unwrap();
    assert_eq!(all.delete_volume("alpha", None).await.unwrap_err().code(), Some("attached"));

    // who shows no token of the cluster gets nothing
    let stranger = Client::new(vec![first.api.to_string()], None).unwrap();
    assert_eq!(stranger.status().await.unwrap_err().code(), Some("unauthorized"));
    for node in [one, two, three] {
        node.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_whole_cluster_comes_back_from_its_directories() {
    let dir = tempfile::tempdir().unwrap();
    let first = config(dir.path(), 1, None, None);
    let second = config(dir.path(), 2, Some(first.api), None);
    let third = config(dir.path(), 3, Some(first.api), None);
    let mut nodes = Vec::new();
    for config in [&first, &second, &third] {
        nodes.push(Node::start(config.clone()).await.unwrap());
    }
    let all = client(&[&first, &second, &third]);
    until_ok(&all, Duration::from_secs(10)).await;
    let create = CreateVolume { name: "beta".into(), size: 64 << 20, policy: None };
    all.create_volume(&create).await.unwrap();
    until_ok(&all, Duration::from_secs(10)).await;
    deletes_once(&all, first.api).await;
    // events are told as they happen, by any node
    let last = all.events(0).await.unwrap().last().unwrap().number;
    let (create, of_third) = (CreateVolume { name: "delta".into(), ..create }, client(&[&third]));
    let (told, made) = tokio::join!(of_third.watch(last), all.create_volume(&create));
    let told = told.unwrap();
    assert!(told.len() == 1 && told[0].number > last && told[0].text.contains("delta"), "{told:?}");
    made.unwrap();
    for node in nodes {
        node.stop().await.unwrap();
    }
    let (one, two, three) =
        tokio::join!(Node::start(first.clone()), Node::start(second.clone()), Node::start(third.clone()));
    let nodes = [one.unwrap(), two.unwrap(), three.unwrap()];
    until_ok(&all, Duration::from_secs(60)).await;
    let names: Vec<String> = all.volumes().await.unwrap().into_iter().map(|v| v.name).collect();
    assert_eq!(names, ["beta", "delta"]);
    for node in nodes {
        node.stop().await.unwrap();
    }
}

/// R30: a call that takes something away has an id, and is carried out once for it.
async fn deletes_once(all: &Client, api: SocketAddr) {
    let create = CreateVolume { name: "gamma".into(), size: 64 << 20, policy: None };
    all.create_volume(&create).await.unwrap();
    let http = reqwest::Client::new();
    let delete_of = async |which: &str, id: Option<&str>| {
        let call = http.delete(format!("http://{api}/v1/volumes/{which}"));
        let call = id.into_iter().fold(call, |call, id| call.header(sarsen_api::REQUEST_HEADER, id));
        call.send().await.unwrap().status().as_u16()
    };
    let delete = async |id: Option<&str>| delete_of("gamma", id).await;
    let exists = async || all.volumes().await.unwrap().iter().any(|v| v.name == "gamma");
    // what is no id is not taken for none
    for id in [None, Some(""), Some("+a1"), Some("g"), Some("123456781234567812345678123456781")] {
        assert_eq!((delete(id).await, exists().await), (400, true), "{id:?}");
    }
    let number = all.volume("gamma").await.unwrap().id;
    assert_eq!((delete_of("gamma?id=1", Some("b1")).await, exists().await), (404, true));
    let done = delete(Some("a1")).await;
    assert!((200..300).contains(&done) && !exists().await, "{done}");
    // its answer was lost: the same call is answered the same, and does not touch what has the name since
    all.create_volume(&create).await.unwrap();
    assert_eq!((delete(Some("a1")).await, exists().await), (done, true));
    // and the id stands for no other call
    assert_eq!(delete_of("beta", Some("a1")).await, 400);
    assert!(all.volume("beta").await.is_ok() && all.delete_volume("gamma", Some(number)).await.is_err());
    assert_eq!((delete(Some("a2")).await, exists().await), (done, false));
}

#[tokio::test]
async fn a_drive_that_is_none_is_refused_by_name_and_a_node_without_key_stays_on_loopback() {
    let dir = tempfile::tempdir().unwrap();
    let blank = dir.path().join("blank");
    std::fs::File::create(&blank).unwrap().set_len(DRIVE).unwrap();
    let bad = NodeConfig { drives: vec![blank.clone()], ..config(dir.path(), 1, None, None) };
    let why = Node::start(bad).await.err().unwrap().to_string();
    assert!(why.contains(blank.to_str().unwrap()), "{why}");
    let open = NodeConfig { listen: "0.0.0.0:0".parse().unwrap(), ..config(dir.path(), 2, None, None) };
    assert!(Node::start(open).await.err().unwrap().to_string().contains("--key"));
}

#[tokio::test]
async fn a_node_without_the_raft_database_it_had_does_not_begin_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), 1, None, None);
    Node::start(config.clone()).await.unwrap().stop().await.unwrap();
    let raft = config.dir.join("raft.redb");
    // what it was stopped with is in a snapshot: the next to start, perhaps of another version, has little to carry out again
    let mut log = Log::open(&raft).unwrap();
    let saved = log.snapshot().unwrap().unwrap().0.last_log_id.unwrap();
    let last = log.get_log_state().await.unwrap().last_log_id.unwrap();
    assert!(saved.index + 3 >= last.index, "{saved} {last}");
    drop(log);
    std::fs::remove_file(raft).unwrap();
    let why = Node::start(config).await.err().unwrap().to_string();
    assert!(why.contains("raft.redb is missing"), "{why}");
}

/// The leader sends to where a node was, so it does not hear from the leader who that is (R42: addresses may change).
#[tokio::test]
async fn a_node_whose_api_moved_says_so_through_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let first = config(dir.path(), 1, None, None);
    let second = config(dir.path(), 2, Some(first.api), None);
    let third = config(dir.path(), 3, Some(first.api), None);
    let one = Node::start(first.clone()).await.unwrap();
    let two = Node::start(second.clone()).await.unwrap();
    let three = Node::start(third.clone()).await.unwrap();
    let all = client(&[&first, &second]);
    until("three voters", Duration::from_secs(10), async || {
        (all.nodes().await.ok()?.iter().filter(|n| n.is_voter).count() == 3).then_some(())
    })
    .await;
    three.stop().await.unwrap();
    // it has asked for votes in vain: what it remembers does not say who leads either
    let mut log = Log::open(&third.dir.join("raft.redb")).unwrap();
    let term = log.read_vote().await.unwrap().unwrap().leader_id.term;
    log.save_vote(&Vote::new(term + 1, 3)).await.unwrap();
    drop(log);
    let moved = NodeConfig { api: free_address(), join: Vec::new(), ..third };
    let started = tokio::time::timeout(Duration::from_secs(20), Node::start(moved.clone())).await;
    let three = started.expect("it says where it is").unwrap();
    until_ok(&client(&[&moved]), Duration::from_secs(30)).await;
    let nodes = all.nodes().await.unwrap();
    assert_eq!(nodes.iter().find(|n| n.id == 3).unwrap().api, format!("http://{}", moved.api));
    for node in [one, two, three] {
        node.stop().await.unwrap();
    }
}

/// Its first node was killed when raft had begun, and the cluster had not.
#[tokio::test]
async fn a_cluster_that_was_cut_short_in_its_beginning_begins() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), 1, None, None);
    let all = client(&[&config]);
    let mut directory = Directory::open(&config.dir).unwrap();
    let place = Place { node: NodeId(1), cluster: ClusterId(9), is_founder: true };
    directory.settle(place).unwrap();
    let log = directory.open_raft().unwrap();
    let (states, state) = watch::channel(Arc::new(State::default()));
    let machine = Machine::open(log.clone(), states, watch::channel(0).0).unwrap();
    let network = Network { http: reqwest::Client::new(), token: None, state };
    let settings = Arc::new(raft::config().validate().unwrap());
    let begun = raft::Raft::new(1, settings, network, log, machine).await.unwrap();
    begun.initialize(BTreeMap::from([(1, BasicNode::new(config.api.to_string()))])).await.unwrap();
    begun.shutdown().await.unwrap();
    drop((begun, directory));
    // and as often as it is started after that it is the same cluster
    for _ in 0..2 {
        let node = Node::start(config.clone()).await.unwrap();
        assert_eq!(all.status().await.unwrap().cluster, ClusterId(9).to_string());
        assert_eq!(all.policies().await.unwrap().len(), 1);
        node.stop().await.unwrap();
    }
}
