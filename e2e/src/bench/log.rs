//! What nodes logged, with the time: when checkpoints were under way, when a drive was open.
use crate::dev::Dev;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What nodes must be told (`SARSEN_LOG`) to log checkpoints beside what they log anyway.
pub const WITH_CHECKPOINTS: &str = "info,openraft=off,sarsen_node::data::thread=debug";

/// A line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// When it was written, by the wall clock.
    pub at: SystemTime,
    /// What follows the time.
    pub text: String,
}

/// The log of the node with this number, counted from 1.
pub fn of_node(dev: &Dev, node: u32) -> PathBuf {
    dev.dir().join(format!("node-{node}.log"))
}

/// Its lines from `since` on; what has no time is left out.
pub fn lines(log: &Path, since: SystemTime) -> Vec<Line> {
    let text = std::fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter_map(line).filter(|l| l.at >= since).collect()
}

/// `2026-11-27T05:40:50.123456Z  INFO what: said`
fn line(text: &str) -> Option<Line> {
    let (time, rest) = text.split_once('Z')?;
    let (date, time) = time.split_once('T')?;
    let mut date = date.split('-').map(|n| n.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut clock = time.split(':');
    let (hour, minute): (u64, u64) = (clock.next()?.parse().ok()?, clock.next()?.parse().ok()?);
    let second: f64 = clock.next()?.parse().ok()?;
    if year < 1970 || !(1..=12).contains(&month) {
        return None;
    }
    let is_leap = |y: u64| (y.is_multiple_of(4) && !y.is_multiple_of(100)) || y.is_multiple_of(400);
    let mut days: u64 = (1970..year).map(|y| if is_leap(y) { 366 } else { 365 }).sum();
    let february = if is_leap(year) { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    days += months[..month as usize - 1].iter().sum::<u64>() + day.checked_sub(1)?;
    let whole = Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60);
    let at = UNIX_EPOCH + whole + Duration::try_from_secs_f64(second).ok()?;
    Some(Line { at, text: rest.trim().to_owned() })
}

/// A checkpoint of a slice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Its slice and number, as logged.
    pub name: String,
    /// When it began.
    pub began: SystemTime,
    /// When it ended; nothing while it is under way.
    pub ended: Option<SystemTime>,
    /// Per cent of the journal's ring in use when it began.
    pub fill: u64,
}

/// The checkpoints of a log, in the order they began. One that is over within a turn of its thread is not logged.
pub fn checkpoints(lines: &[Line]) -> Vec<Checkpoint> {
    let mut all: Vec<Checkpoint> = Vec::new();
    for line in lines {
        let Some((_, said)) = line.text.split_once(": slice ") else { continue };
        let Some((said, fill)) = said.split_once(", its journal is ") else { continue };
        let fill = fill.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        if let Some((slice, number)) = said.split_once(" began checkpoint ") {
            all.push(Checkpoint { name: format!("{slice} {number}"), began: line.at, ended: None, fill });
        } else if let Some((slice, number)) = said.split_once(" ended checkpoint ") {
            let name = format!("{slice} {number}");
            let open = all.iter_mut().rev().find(|c| c.name == name && c.ended.is_none());
            open.into_iter().for_each(|c| c.ended = Some(line.at));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_time_it_was_written() {
        let line = line("2026-11-27T05:40:50.250000Z  INFO sarsen: it serves").unwrap();
        assert_eq!(line.at, UNIX_EPOCH + Duration::from_millis(1_795_758_050_250));
        assert_eq!(line.text, "INFO sarsen: it serves");
        assert_eq!(super::line("thread 'main' panicked at Z"), None);
    }

    #[test]
    fn a_checkpoint_begins_and_ends() {
        let text = "2026-11-27T05:40:50.0Z DEBUG x: slice 1.0 began checkpoint 7, its journal is 51 % full
2026-11-27T05:40:51.0Z  INFO x: something else
2026-11-27T05:40:52.5Z DEBUG x: slice 1.0 ended checkpoint 7, its journal is 9 % full
2026-11-27T05:40:53.0Z DEBUG x: slice 1.0 began checkpoint 8, its journal is 50 % full";
        let lines: Vec<Line> = text.lines().filter_map(line).collect();
        let all = checkpoints(&lines);
        assert_eq!(all.iter().map(|c| c.fill).collect::<Vec<_>>(), [51, 50]);
        let took = all[0].ended.unwrap().duration_since(all[0].began).unwrap();
        assert_eq!(took, Duration::from_millis(2500));
        assert_eq!(all[1].ended, None);
    }
}
