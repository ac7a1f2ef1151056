//! Logs and snapshots that older versions wrote are read (found in review: a field without a default made them unreadable).
use sarsen_control::{Answer, Command, Entry, State, command};
use sarsen_types::view::NodeAddress;
use sarsen_types::*;
use serde_json::{Value, json};

fn apply(state: &mut State, command: Command) -> Answer {
    state.apply(&Entry { at_ms: 1_000_000, wall_ms: None, request: None, command })
}

/// One node, one drive, one volume of one copy.
fn cluster() -> State {
    let mut state = State::default();
    apply(&mut state, Command::Begin { cluster: ClusterId(5), copies: 1, is_dev: true });
    let address = NodeAddress { data: "10.0.0.1:1".into(), unix: None, boot_id: String::new() };
    apply(&mut state, Command::Node { identity: 1, api: "10.0.0.1:2".into(), address });
    apply(&mut state, register(1, &[]));
    let create = Command::CreateVolume { name: "one".into(), size: 1 << 30, policy: "default".into() };
    assert!(matches!(apply(&mut state, create), Answer::Volume(_)));
    state
}
fn register(open: u128, held: &[u128]) -> Command {
    let register = json!({
        "identity": DriveIdentity(1), "node": 1, "open": OpenId(open),
        "opens": held.iter().map(|o| OpenId(*o)).collect::<Vec<_>>(), "path": "/drive", "class": "ssd", "slices": 1,
        "size": 1 << 30, "total_blocks": 200_000, "used_blocks": 0, "is_broken": false
    });
    Command::Register(serde_json::from_value(register).unwrap())
}
fn of_old(text: &str) -> Command {
    serde_json::from_str::<Entry>(&format!(r#"{{"at_ms":1,"request":null,"command":{text}}}"#))
        .unwrap()
        .command
}

/// Takes fields out of each value of a map, as a version did not know them.
fn without(state: &mut Value, map: &str, fields: &[&str]) {
    for value in state[map].as_object_mut().unwrap().values_mut() {
        let value = value.as_object_mut().unwrap();
        fields.iter().for_each(|f| assert!(value.remove(*f).is_some(), "{map} have no {f}"));
    }
}

#[test]
fn a_snapshot_of_the_first_version_is_read() {
    let mut state = cluster();
    let create = Command::CreateVolume { name: "two".into(), size: 4096, policy: "default".into() };
    let asked = Entry { at_ms: 1_000_000, wall_ms: None, request: Some(7), command: create };
    let made = state.apply(&asked);
    let mut old = serde_json::to_value(&state).unwrap();
    for field in ["forgotten", "back", "wall_ms"] {
        old.as_object_mut().unwrap().remove(field).unwrap();
    }
    without(&mut old, "groups", &["could_commit", "is_damaged"]);
    without(&mut old, "nodes", &["is_stopping"]);
    without(&mut old, "drives", &["forgetting", "full", "images", "former"]);
    without(&mut old, "answered", &["digest"]);
    let mut read: State = serde_json::from_value(old.clone()).unwrap();
    assert_eq!(read.apply(&asked), made, "nobody wrote down what was asked: the id will do");
    read.answered.clone_from(&state.answered);
    read.wall_ms = state.wall_ms;
    assert_eq!(read, state);
    // in what epoch a group could commit last nobody wrote down: what its copies hold may have been answered until now
    for group in old["groups"].as_object_mut().unwrap().values_mut() {
        group["epoch"] = json!(9);
        group["damage"] = json!("Waits");
    }
    let read: State = serde_json::from_value(old).unwrap();
    assert!(read.groups.values().all(|g| g.could_commit == Epoch(9) && g.is_damaged));
}

#[test]
fn commands_mean_what_they_meant() {
    let mut state = cluster();
    apply(&mut state, register(9, &[])); // a rolled-back image is the only copy
    apply(&mut state, Command::Trust { drive: DriveId(1), open: OpenId(9) });
    let damaged: Vec<GroupId> = state.groups.keys().copied().collect();
    assert!(state.groups.values().all(|g| g.is_damaged));
    let accept = of_old(r#"{"AcceptDamage":{"drive":1}}"#);
    assert_eq!(apply(&mut state, accept), Answer::Groups(damaged), "all of them, as there was no choice");
    assert!(state.groups.values().all(|g| !g.is_damaged));

    let attach =
        Command::Attach { volume: VolumeId(1), owner: "a".into(), exclusive: true, read_only: false };
    let Answer::Attached { attachment, .. } = apply(&mut state, attach) else { panic!() };
    let release = of_old(&format!(r#"{{"Release":{{"attachment":{}}}}}"#, attachment.0));
    assert_eq!(apply(&mut state, release), Answer::Done);
    assert!(state.attachments.is_empty(), "whatever session had it");
    assert_eq!(apply(&mut state, of_old(r#"{"DeleteVolume":{"volume":1}}"#)), Answer::Done);

    let address = NodeAddress { data: "10.0.0.2:1".into(), unix: None, boot_id: String::new() };
    apply(&mut state, Command::Node { identity: 2, api: "10.0.0.2:2".into(), address });
    let Command::Register(first) = register(1, &[]) else { panic!() };
    let second = command::Register { identity: DriveIdentity(2), node: NodeId(2), ..first };
    apply(&mut state, Command::Register(second));
    apply(&mut state, Command::Heard { node: NodeId(1), is_up: false });
    assert!(!state.sole().is_empty());
    let forget = of_old(r#"{"Forget":{"drive":1,"is_powered_off":true}}"#);
    assert_eq!(apply(&mut state, forget), Answer::Done);
    assert!(!state.drives.contains_key(&DriveId(1)), "whatever it had alone");
}
