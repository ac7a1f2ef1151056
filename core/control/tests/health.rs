//! What an operator is told of a cluster: groups that change no more, drives that fill up, data that are lost.
mod support;
use sarsen_control::command::Raised;
use sarsen_control::{Command, Health, health};
use sarsen_types::*;
use support::*;

#[test]
fn a_group_that_used_up_its_epochs_says_so_once_and_is_asked_for_nothing_more() {
    let mut c = Cluster::new(3);
    let group = *c.state.groups.keys().next().unwrap();
    let epoch = Epoch(Epoch::MAX.0 - (1 << 10) - 2);
    c.state.groups.get_mut(&group).unwrap().epoch = epoch;
    let told = |c: &Cluster| c.state.events.iter().filter(|e| e.text.contains("used up its epochs")).count();
    let primary = c.state.groups[&group].primary;
    let others: Vec<u32> = (1..=3).filter(|n| *n != primary.drive.0).collect();
    c.propose(group, primary.drive.0, GroupChange::Remove(slice(others[0])));
    assert_eq!((c.state.groups[&group].epoch, told(&c)), (epoch.next(), 0));
    assert!(!health(&c.state).1.iter().any(|why| why.contains("epochs")));
    // the last one it has
    c.look(&[]);
    let last = c.state.groups[&group].clone();
    assert_eq!((last.epoch, last.joining.len(), told(&c)), (epoch.next().next(), 1, 1));
    assert!(c.state.events.back().unwrap().text.contains(&format!("group {group}")));
    let (how, why) = health(&c.state);
    assert_eq!(how, Health::Degraded, "all can be written still");
    assert!(why.iter().any(|w| w.starts_with("1 of 64 groups have used up their epochs")), "{why:?}");
    // whatever is asked of it, nothing changes, and nobody is told again
    let all = [GroupChange::Promote(slice(others[0])), GroupChange::Expel(slice(others[1]))];
    all.into_iter().for_each(|change| c.propose(group, primary.drive.0, change));
    c.propose(group, others[1], GroupChange::TakeOver);
    c.apply(Command::Heard { node: NodeId(others[0]), is_up: false });
    c.now += 3_600_000;
    let asked = c.look(&[others[0]]);
    let is_of_it = |command: &Command| match command {
        Command::Join(all) | Command::Place(all) | Command::Unplace(all) => {
            all.iter().any(|m| m.group == group)
        }
        Command::Judge(all) => all.iter().any(|p| p.group == group),
        _ => false,
    };
    assert!(!asked.is_empty() && !asked.iter().any(is_of_it), "it is asked for nothing for ever: {asked:?}");
    assert_eq!((&c.state.groups[&group], told(&c)), (&last, 1));
    assert!(!c.state.events.iter().any(|e| e.text.contains("made anew")));
}

#[test]
fn a_drive_that_is_full_makes_what_is_kept_there_unwritable() {
    let mut c = Cluster::new(4);
    let held = c.groups().filter(|g| g.is_in_sync(slice(2))).count();
    assert!((1..64).contains(&held));
    c.apply(Command::Full(vec![(DriveId(2), vec![0])]));
    let (how, why) = health(&c.state);
    assert_eq!((how, why.len()), (Health::Unavailable, 1));
    let said = format!(
        "{held} of 64 groups cannot be written, writes get ENOSPC: full are the drives 2 (/drive2 on node 2)"
    );
    assert!(why[0].starts_with(&said), "{why:?}");
    // a copy that left is waited for by no write
    c.lose(2);
    let (how, why) = health(&c.state);
    assert!(how == Health::Degraded && !why.iter().any(|w| w.contains("ENOSPC")), "{why:?}");
    c.apply(Command::Heard { node: NodeId(2), is_up: true });
    c.look(&[]);
    c.promote_all();
    assert_eq!(health(&c.state).0, Health::Unavailable);
    c.apply(Command::Full(vec![(DriveId(2), vec![])]));
    assert!(!health(&c.state).1.iter().any(|w| w.contains("ENOSPC")));
}

#[test]
fn a_drive_that_fills_up_is_told_of_and_the_cluster_is_ok() {
    let mut c = Cluster::new(3);
    let at = |used| Command::Space(vec![(DriveId(3), 200_000, used)]);
    c.apply(at(169_999));
    assert_eq!(health(&c.state), (Health::Ok, vec![]));
    c.apply(at(170_000));
    let warned = "drive 3 (/drive3 on node 3) is 85 % full: near 95 % writes get ENOSPC";
    assert_eq!(health(&c.state), (Health::Ok, vec![warned.into()]));
    // full it is one thing, not two
    c.apply(Command::Full(vec![(DriveId(3), vec![0])]));
    let (how, why) = health(&c.state);
    assert!(how == Health::Unavailable && why.len() == 1, "{why:?}");
    // and of one that is away nobody knows how full it is
    c.apply(Command::Full(vec![(DriveId(3), vec![])]));
    c.lose(3);
    assert!(!health(&c.state).1.iter().any(|w| w.contains("% full")));
}

#[test]
fn what_groups_found_is_an_event_that_names_group_and_drive() {
    let mut c = Cluster::new(3);
    let before = c.state.events.len();
    let raised = |alarm, groups: &[u32], more, blocks| {
        let groups = groups.iter().map(|g| GroupId(*g)).collect();
        Raised { alarm, groups, more, blocks }
    };
    let alarms = vec![
        raised(Alarm::Contradiction, &[7, 9], 3, 12),
        raised(Alarm::Lost(slice(3)), &[7], 0, 0),
        raised(Alarm::Gone, &[8], 0, 2),
        raised(Alarm::Behind(slice(9)), &[8, 9], 0, 0),
        raised(Alarm::Repaired, &[7], 0, 4),
    ];
    c.apply(Command::Alarmed { slice: slice(2), alarms });
    let told: Vec<&str> = c.state.events.iter().skip(before).map(|e| e.text.as_str()).collect();
    let lead = "drive 2 (/drive2 on node 2) leads";
    let lost = "drive 3 (/drive3 on node 3) was told that more is committed than what led since had: answered writes are lost";
    let expected = [
        format!(
            "{lead} groups 7, 9, 3 more: of 12 blocks two copies hold the same versions with different contents"
        ),
        format!("{lead} group 7: {lost}"),
        format!("{lead} group 8: 2 blocks are intact on no copy: reads of them fail"),
        // a drive that is gone has its number still
        format!(
            "{lead} groups 8, 9: it leads alone and drive 9 holds more: nothing is served until another leads"
        ),
        format!("{lead} group 7: 4 blocks that were answered once were missing or damaged on a copy"),
    ];
    assert_eq!(told.len(), expected.len());
    told.iter().zip(&expected).for_each(|(told, expected)| assert!(told.starts_with(expected), "{told}"));
    let lives = |n: u32| c.state.drives.contains_key(&DriveId(n));
    assert!(lives(2) && !lives(9));
}
