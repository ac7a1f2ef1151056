//! What an operator is told of a cluster: groups that change no more.
mod support;
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
