//! Drives that are given up as lost (R28).
mod support;
use sarsen_control::{Answer, Command, health};
use sarsen_types::*;
use support::*;

#[test]
fn groups_go_on_without_a_drive_that_is_given_up_once_no_host_can_use_it() {
    // R28: alone in sync, it may serve reads to whoever still reaches it, so nobody else may lead before
    let mut c = Cluster::new(4);
    let (host, first) = attached(&mut c, "host");
    c.lose(2);
    c.lose(3);
    let alone: Vec<GroupId> = c.groups().filter(|g| g.in_sync == [slice(1)]).map(|g| g.group).collect();
    assert!(!alone.is_empty());
    assert!(matches!(c.apply(forget(&c, 1, false)), Answer::Refused(why) if why.message.contains("is up")));
    c.apply(Command::Heard { node: NodeId(1), is_up: false });
    for n in [2, 3] {
        c.apply(Command::Heard { node: NodeId(n), is_up: true });
    }
    assert_eq!(c.state.sole().get(&DriveId(1)), None, "each has another complete copy");
    assert_eq!(c.apply(forget(&c, 1, false)), Answer::Done);
    let since = c.state.revision;
    let map = c.state.volume_map(host).unwrap();
    assert!(map.revision >= since && !map.nodes.contains_key(&DriveId(1)), "no way leads there");
    // retired at once: nothing of it is taken, and its node being heard again changes nothing
    assert!(matches!(c.register(1, 2, &[1]), Answer::Refused(why) if why.message.contains("given up")));
    c.apply(Command::Heard { node: NodeId(1), is_up: true });
    assert!(!c.state.is_up(slice(1)));
    assert!(alone.iter().all(|g| c.state.groups[g].in_sync == [slice(1)]));
    let (_, why) = health(&c.state);
    assert!(why.iter().any(|w| w.contains("drive 1") && w.contains("host")), "{why:?}");
    // an older map, and a process of another life, are no word of the host's
    let (again, second) = attached(&mut c, "host");
    assert!(again == host && second > first);
    assert!(c.state.waits_to_pass(host, since) && !c.state.waits_to_pass(host, Revision(since.0 - 1)));
    c.apply(Command::Passed { attachment: host, session: second, revision: Revision(since.0 - 1) });
    c.apply(Command::Passed { attachment: host, session: first, revision: since });
    assert!(c.state.drives.contains_key(&DriveId(1)));
    c.apply(Command::Passed { attachment: host, session: second, revision: since });
    assert!(!c.state.drives.contains_key(&DriveId(1)));
    let is_well = |g: &GroupState| !g.members.iter().any(|m| m.slice == slice(1)) && !g.is_damaged;
    assert!(c.groups().all(is_well));
    assert!(alone.iter().all(|g| c.state.groups[g].primary_since == c.state.groups[g].epoch));
    assert!(matches!(c.register(1, 3, &[2, 1]), Answer::Refused(_)), "for good");
    assert_eq!(c.apply(forget(&c, 1, false)), Answer::Done, "said again");
    // what is left is brought back to three copies, those that lost a member among them
    for _ in 0..10 {
        c.look(&[1]);
        c.promote_all();
    }
    assert!(c.groups().all(|g| g.in_sync.len() == 3));
}

#[test]
fn a_host_that_is_detached_by_force_or_gone_is_not_waited_for() {
    for how in 0..3 {
        let mut c = Cluster::new(3);
        let (host, session) = attached(&mut c, "host");
        c.lose(2);
        c.lose(3);
        c.apply(Command::Heard { node: NodeId(1), is_up: false });
        c.apply(forget(&c, 1, false));
        assert!(c.state.drives.contains_key(&DriveId(1)));
        c.apply(match how {
            0 => Command::DetachForced { attachment: host },
            1 => Command::Release { attachment: host, session: Some(session) },
            _ => forget(&c, 1, true),
        });
        assert!(!c.state.drives.contains_key(&DriveId(1)), "{how}");
        assert!(c.groups().all(|g| g.in_sync == [slice(3)]), "the complete copy leads (R11)");
    }
}

#[test]
fn what_nobody_else_has_is_lost_only_by_the_operators_word() {
    // two of two copies: the first commits alone while the second is away, and is then gone for good
    let mut c = Cluster::of(2, 2);
    let all: Vec<GroupId> = c.groups().map(|g| g.group).collect();
    c.lose(2);
    c.apply(Command::Heard { node: NodeId(1), is_up: false });
    assert_eq!(c.state.sole()[&DriveId(1)], all);
    c.apply(forget(&c, 1, true));
    assert!(c.groups().all(|g| g.in_sync == [slice(2)] && g.is_damaged));
    c.apply(Command::Heard { node: NodeId(2), is_up: true });
    assert_eq!(c.apply(accept(2, &all)), Answer::Groups(all.clone()));
    // then that one is lost too, and there is nobody at all
    c.apply(Command::Heard { node: NodeId(2), is_up: false });
    assert!(
        matches!(c.apply(forget(&c, 2, true)), Answer::Refused(why) if why.message.contains("no other copy"))
    );
    c.node(3);
    c.register(3, 1, &[]);
    c.apply(forget(&c, 2, true));
    assert!(c.groups().all(|g| g.in_sync == [slice(3)] && g.is_damaged && g.members.len() == 1));
    assert_eq!(c.apply(accept(3, &all)), Answer::Groups(all));
}

#[test]
fn what_is_lost_with_a_drive_was_named_and_is_judged_again_when_it_goes() {
    // found in review: what had become its alone since the operator looked was lost with the rest
    let mut c = Cluster::new(3);
    let (host, session) = attached(&mut c, "host");
    c.lose(2);
    c.lose(3);
    c.apply(Command::Heard { node: NodeId(1), is_up: false });
    c.apply(Command::Heard { node: NodeId(3), is_up: true });
    let forget = |groups: &[GroupId]| Command::Forget {
        drive: DriveId(1),
        groups: Some(groups.to_vec()),
        is_powered_off: false,
    };
    assert_eq!(c.apply(forget(&[])), Answer::Done, "drive 3 has all");
    assert_eq!(c.register(3, 9, &[]), Answer::Registered { drive: DriveId(3), is_stale: true });
    let all: Vec<GroupId> = c.groups().map(|g| g.group).collect();
    assert_eq!(c.state.unnamed(DriveId(1)), all, "and now it has not");
    c.apply(Command::Release { attachment: host, session: Some(session) });
    assert!(c.state.drives.contains_key(&DriveId(1)));
    let (_, why) = health(&c.state);
    assert!(why.iter().any(|w| w.contains("drive 1") && w.contains("forget 1 --lost")), "{why:?}");
    for part in [&[][..], &all[1..]] {
        let refused = c.apply(forget(part));
        assert!(matches!(refused, Answer::Refused(why) if why.message.contains("the only complete copy")));
    }
    assert_eq!(c.apply(forget(&all)), Answer::Done);
    assert!(!c.state.drives.contains_key(&DriveId(1)) && c.groups().all(|g| g.is_damaged));
}

#[test]
fn a_copy_on_a_drive_that_is_given_up_too_is_no_other() {
    let mut c = Cluster::new(3);
    let _host = attached(&mut c, "host");
    c.lose(2);
    c.lose(3);
    c.apply(Command::Heard { node: NodeId(1), is_up: false });
    assert_eq!(c.apply(forget(&c, 3, false)), Answer::Done);
    let all: Vec<GroupId> = c.groups().map(|g| g.group).collect();
    assert!(c.state.drives.contains_key(&DriveId(3)) && c.state.sole()[&DriveId(1)] == all);
}
