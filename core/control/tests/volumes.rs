//! Volumes, the rights to use them, and calls that come twice (R20, R21, R30, R31).
mod support;
use sarsen_control::{Answer, Command, Entry, RefusalKind, State};
use sarsen_types::*;
use support::*;

#[test]
fn an_owner_gets_its_attachment_again_with_a_new_session_and_another_is_refused() {
    let mut c = Cluster::new(3);
    let Answer::Attached { attachment, generation, session } = c.apply(attach("a")) else { panic!() };
    let Answer::Attached { attachment: same, session: next, .. } = c.apply(attach("a")) else { panic!() };
    assert!(same == attachment && next > session && generation == Generation(1));
    let Answer::Refused(why) = c.apply(attach("b")) else { panic!() };
    assert!(why.kind == RefusalKind::Attached && why.message.contains("by a"), "{why}");
    let map = c.state.volume_map(attachment).unwrap();
    assert_eq!((map.session, map.leaders.len()), (next, 64));
    // found in review: the life before this one gave its right back late, and ended this one's
    let late = c.apply(Command::Release { attachment, session: Some(session) });
    assert!(matches!(late, Answer::Refused(why) if why.kind == RefusalKind::Attached));
    assert!(c.state.attachments.contains_key(&attachment));
    for _ in 0..2 {
        assert_eq!(c.apply(Command::Release { attachment, session: Some(next) }), Answer::Done);
        assert!(!c.state.attachments.contains_key(&attachment));
    }
    // slices may forget what ended: it is not listed, and no later one has its id
    let view = c.state.view_of(slice(1));
    assert!(view.attachments.is_empty() && view.last_attachment >= attachment);
    let Answer::Attached { attachment: later, .. } = c.apply(attach("b")) else { panic!() };
    assert!(later > view.last_attachment);
}

#[test]
fn a_forced_detach_ends_when_the_last_group_has_fenced_the_old_generation() {
    let mut c = Cluster::new(3);
    let Answer::Attached { attachment, .. } = c.apply(attach("a")) else { panic!() };
    c.apply(Command::DetachForced { attachment });
    assert!(c.state.volume_map(attachment).is_none());
    assert!(matches!(c.apply(attach("b")), Answer::Refused(_)));
    let fences = c.state.view_of(slice(1)).fences;
    assert_eq!((fences[0].1, fences[0].2.len()), (Generation(2), 64));
    let groups: Vec<(GroupId, u32)> = c.groups().map(|g| (g.group, g.primary.drive.0)).collect();
    for (at, (group, primary)) in groups.iter().enumerate() {
        let other = primary % 3 + 1;
        c.propose(*group, other, GroupChange::Fenced(attachment, Generation(2)));
        c.propose(*group, *primary, GroupChange::Fenced(attachment, Generation(1)));
        assert!(
            c.state.attachments.contains_key(&attachment),
            "{at}: only the leader's word on this generation"
        );
        c.propose(*group, *primary, GroupChange::Fenced(attachment, Generation(2)));
    }
    assert!(c.state.attachments.is_empty());
    assert!(matches!(c.apply(attach("b")), Answer::Attached { .. }));
}

#[test]
fn a_volume_in_use_is_not_deleted_and_a_deleted_one_leaves_a_tombstone() {
    let mut c = Cluster::new(3);
    let (attachment, session) = attached(&mut c, "a");
    assert!(matches!(c.apply(delete(1)), Answer::Refused(_)));
    c.apply(Command::Release { attachment, session: Some(session) });
    assert_eq!(c.apply(delete(1)), Answer::Done);
    let view = c.state.view_of(slice(2));
    assert_eq!((view.volumes.len(), view.layers.len(), view.dropped_layers.len()), (0, 0, 1));
}

#[test]
fn a_tombstone_goes_when_every_drive_dropped_the_layer_twice() {
    // found in review: none ever went, and each start of a slice dropped all of them in each of its groups
    let mut c = Cluster::new(3);
    c.apply(attach("a"));
    let attachment = *c.state.attachments.keys().next().unwrap();
    c.apply(Command::Release { attachment, session: None });
    c.apply(Command::DeleteVolume { volume: VolumeId(1), name: None });
    let asked = |c: &Cluster, drive: u32| c.state.view_of(slice(drive)).dropped_layers;
    for round in 0..2 {
        let since = asked(&c, 1)[0].0;
        for drive in 1..=3 {
            assert_eq!(asked(&c, drive).len(), 1, "round {round}");
            let open = c.state.drives[&DriveId(drive)].open;
            // of an opening that is over it counts for nothing
            c.apply(Command::Dropped { drive: DriveId(drive), open: OpenId(open.0 + 1), revision: since });
            assert_eq!(asked(&c, drive).len(), 1, "round {round}");
            c.apply(Command::Dropped { drive: DriveId(drive), open, revision: since });
            let all_did = drive == 3;
            assert_eq!(asked(&c, drive).len(), usize::from(all_did && round == 0), "round {round}");
        }
    }
    assert!(c.state.dropped_layers.is_empty());
}

#[test]
fn a_repeated_request_gets_its_first_answer_and_changes_nothing() {
    let mut c = Cluster::new(3);
    let entry = Entry { at_ms: c.now, wall_ms: None, request: Some(7), command: attach("a") };
    let first = c.state.apply(&entry);
    let state = c.state.clone();
    assert_eq!(c.state.apply(&entry), first);
    assert_eq!(c.state, state);
    // nor the clock (found in review: a node that published by revisions showed another time than one that had more to publish)
    assert_eq!(c.state.apply(&Entry { at_ms: c.now + 5000, ..entry }), first);
    assert_eq!(c.state, state);
}

#[test]
fn an_id_stands_for_one_command() {
    // found in review: whatever came under an id that was answered was told that it had been done
    let mut c = Cluster::new(3);
    let asked = |command| Entry { at_ms: 1_000_000, wall_ms: None, request: Some(7), command };
    let first = c.state.apply(&asked(create("two", 4096)));
    let Answer::Volume(two) = first else { panic!("{first:?}") };
    let state = c.state.clone();
    for other in [create("three", 4096), create("two", 8192), delete(two.0), attach("a")] {
        let refused = c.state.apply(&asked(other));
        assert!(matches!(&refused, Answer::Refused(why) if why.kind == RefusalKind::Invalid), "{refused:?}");
    }
    assert_eq!(c.state, state);
    assert_eq!(c.state.apply(&asked(create("two", 4096))), first);
}

#[test]
fn events_show_the_wall_clock_whatever_the_clock_of_what_is_due() {
    let mut c = Cluster::new(3);
    let heard = |is_up, wall_ms| Entry {
        at_ms: c.now + 10,
        wall_ms,
        request: None,
        command: Command::Heard { node: NodeId(3), is_up },
    };
    let (down, up) = (heard(false, Some(9_000_000)), heard(true, None));
    c.state.apply(&down);
    c.state.apply(&up);
    let at = |n: usize| c.state.events[c.state.events.len() - n].at_ms;
    assert_eq!((at(2), at(1), c.state.now_ms), (9_000_000, c.now + 10, c.now + 10));
}

#[test]
fn a_state_survives_its_way_through_a_snapshot() {
    let mut c = Cluster::new(4);
    c.apply(attach("a"));
    c.state.apply(&Entry {
        at_ms: c.now,
        wall_ms: None,
        request: Some(u128::MAX),
        command: create("two", 4096),
    });
    c.lose(4);
    let bytes = serde_json::to_vec(&c.state).unwrap();
    assert_eq!(serde_json::from_slice::<State>(&bytes).unwrap(), c.state);
}
