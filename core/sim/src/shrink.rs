//! A seed that fails, made small: parts of its script are left out as long as it fails the same way.
use crate::cluster::Shape;
use crate::failure::Failure;
use crate::numbers::written;
use crate::run::play;
use crate::script::{Act, Part, Script};
use sarsen_types::{Duration, Instant};

/// Dice that a part is tried with before it is given up: what surrounds what was left out falls differently, and it may take
/// some luck to fail all the same.
const DICE: u64 = 4;
/// Of all runs this part may look for other dice that the whole script fails with.
const STEADY_PART: u32 = 5;
/// How long before the first thing that is done a run may begin: by then all is up and served.
const LEAD: Duration = Duration::from_secs(3);
/// Calm begins so long after the last thing that is done, if that will do.
const ENDS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(5)];

/// As few of `parts` as still fail: pieces are left out, half of them first, then smaller ones, until none of the last size,
/// one, can be.
pub fn fewer<T: Copy>(mut parts: Vec<T>, mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    if parts.is_empty() || fails(&[]) {
        return Vec::new();
    }
    let mut size = parts.len().div_ceil(2);
    loop {
        let mut at = 0;
        let mut is_smaller = false;
        while at < parts.len() && parts.len() > 1 {
            let end = (at + size).min(parts.len());
            let rest: Vec<T> = parts[..at].iter().chain(&parts[end..]).copied().collect();
            if !rest.is_empty() && fails(&rest) {
                (parts, is_smaller) = (rest, true);
            } else {
                at = end;
            }
        }
        if size == 1 && !is_smaller {
            return parts;
        }
        size = size.min(parts.len()).div_ceil(2);
    }
}

/// What became of a seed.
pub struct Shrunk {
    /// All that was done in it.
    pub script: Script,
    /// What of that still fails.
    pub part: Part,
    /// How.
    pub failure: Failure,
    /// Runs that it took.
    pub runs: u32,
}

struct Search<'a> {
    seed: u64,
    script: &'a Script,
    failure: Failure,
    /// The smallest so far.
    best: Part,
    runs: u32,
    runs_max: u32,
}

/// Shrinks a seed, in so many runs at most; `None` when it passes. `progress` is told the smallest part so far, and after how
/// many runs. Panics are looked at: [`crate::failure::watch`] is to be called first.
pub fn shrink(seed: u64, runs_max: u32, mut progress: impl FnMut(&Script, &Part, u32)) -> Option<Shrunk> {
    let first = play(seed, None, false);
    let (script, failure) = (first.script, first.failure?);
    let all = Part::all(&script);
    let mut search = Search { seed, script: &script, failure, best: all.clone(), runs: 1, runs_max };
    // what fails before anything is done fails by itself; otherwise all of a script is the run again
    assert!(search.fails_with(&all, 0), "the script of seed {seed} is not what it did");
    // with dice of their own, later ticks do not change with what is left out of earlier ones: much more can go
    let _ = (1..=u64::from(runs_max / STEADY_PART)).any(|dice| search.fails_with(&all, dice));
    loop {
        let before = search.best.clone();
        search.less(&mut progress);
        let is_done = |p: &Part| (p.acts.len(), p.asked.len()) == (before.acts.len(), before.asked.len());
        if is_done(&search.best) || search.runs >= runs_max {
            break;
        }
    }
    search.nearer();
    progress(&script, &search.best, search.runs);
    let (part, failure, runs) = (search.best, search.failure, search.runs);
    Some(Shrunk { part, failure, runs, script })
}

impl Search<'_> {
    fn fails_with(&mut self, part: &Part, dice: u64) -> bool {
        let part = Part { dice, ..part.clone() };
        self.runs += 1;
        let failure = play(self.seed, Some((self.script, &part)), false).failure;
        let is_like = failure.is_some_and(|f| f.is_like(&self.failure));
        if is_like {
            self.best = part;
        }
        is_like
    }

    /// Whether a part fails like the seed does, with some dice, those of the best first: then it is the best so far.
    fn fails(&mut self, part: &Part) -> bool {
        let present = self.best.dice;
        let others = (0..DICE).filter(|d| *d != present);
        for dice in std::iter::once(present).chain(others) {
            if self.runs >= self.runs_max {
                return false;
            }
            if self.fails_with(part, dice) {
                return true;
            }
        }
        false
    }

    /// Fewer acts, clients, requests; smaller clusters.
    fn less(&mut self, progress: &mut impl FnMut(&Script, &Part, u32)) {
        let acts = self.best.acts.clone();
        fewer(acts, |acts| self.fails(&Part { acts: acts.to_vec(), ..self.best.clone() }));
        progress(self.script, &self.best, self.runs);
        let client_of = |n: &usize| self.script.asked[*n].client;
        let mut clients: Vec<usize> = self.best.asked.iter().map(client_of).collect();
        clients.sort_unstable();
        clients.dedup();
        fewer(clients, |clients| {
            let asked = &self.best.asked;
            let is_asked = |n: &usize| clients.contains(&self.script.asked[*n].client);
            let asked = asked.iter().copied().filter(is_asked).collect();
            self.fails(&Part { asked, ..self.best.clone() })
        });
        let asked = self.best.asked.clone();
        fewer(asked, |asked| self.fails(&Part { asked: asked.to_vec(), ..self.best.clone() }));
        progress(self.script, &self.best, self.runs);
        let shape = Shape::of(self.seed);
        let fewest = shape.copies as usize;
        if self.best.nodes.is_none() && shape.nodes > fewest {
            self.fails(&Part { nodes: Some(fewest), ..self.best.clone() });
        }
        for groups in 1..self.best.groups.unwrap_or(shape.groups) {
            if self.fails(&Part { groups: Some(groups), ..self.best.clone() }) {
                break;
            }
        }
    }

    /// Begins later, ends earlier.
    fn nearer(&mut self) {
        let (acts, asked) = (&self.best.acts, &self.best.asked);
        let times = acts.iter().map(|a| self.script.acts[*a].at);
        let times = times.chain(asked.iter().map(|a| self.script.asked[*a].at));
        let (Some(first), Some(last)) = (times.clone().min(), times.max()) else { return };
        let earlier = first.since(Instant(0) + LEAD);
        self.fails(&Part { earlier, ..self.best.clone() });
        for after in ENDS {
            let until = Some(last + after);
            if last + after < self.script.end && self.fails(&Part { until, ..self.best.clone() }) {
                break;
            }
        }
    }
}

/// The options that make a run of a part again.
pub fn options(seed: u64, part: &Part) -> String {
    let or_none = |numbers: &[usize]| if numbers.is_empty() { "none".to_owned() } else { written(numbers) };
    let mut all = format!("--seed {seed} --acts {} --requests {}", or_none(&part.acts), or_none(&part.asked));
    let mut add = |name: &str, value: Option<u64>| {
        if let Some(value) = value {
            all += &format!(" --{name} {value}");
        }
    };
    add("until-ms", part.until.map(|at| at.0 / 1_000_000));
    let earlier = part.earlier.as_millis() as u64;
    add("earlier-ms", (earlier > 0).then_some(earlier));
    add("nodes", part.nodes.map(|n| n as u64));
    add("groups", part.groups.map(u64::from));
    add("dice", (part.dice > 0).then_some(part.dice));
    all
}

/// How much is done in a part, in words.
pub fn size(script: &Script, part: &Part) -> String {
    let is_fault = |a: &&usize| script.acts.get(**a).is_some_and(|due| matches!(due.act, Act::Strike(_)));
    let faults = part.acts.iter().filter(is_fault).count();
    let repairs = part.acts.len() - faults;
    let some = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    [some(faults, "fault"), some(repairs, "repair"), some(part.asked.len(), "request")].join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Fault;
    use crate::script::Due;

    #[test]
    fn what_is_needed_is_left() {
        for needed in [vec![], vec![0], vec![99], vec![3, 50], vec![10, 11, 12, 70]] {
            let mut tries = 0;
            let left = fewer((0..100).collect(), |parts| {
                tries += 1;
                needed.iter().all(|n| parts.contains(n))
            });
            assert_eq!(left, needed);
            assert!(tries < 80, "{tries} tries for {needed:?}");
        }
        assert_eq!(fewer(Vec::<u8>::new(), |_| true), []);
        assert_eq!(fewer(vec![1], |parts| parts == [1]), [1]);
    }

    #[test]
    fn what_is_done_is_counted() {
        let at = |act| Due { at: Instant(0), turn: 0, act, dice: None };
        let acts = vec![at(Act::Mend), at(Act::Strike(Fault::Kill)), at(Act::Strike(Fault::Cut))];
        let script = Script { acts, ..Script::default() };
        assert_eq!(size(&script, &Part::all(&script)), "2 faults, 1 repair, 0 requests");
        let part = Part { acts: vec![0, 2], asked: vec![7], ..Part::default() };
        assert_eq!(size(&script, &part), "1 fault, 1 repair, 1 request");
    }

    #[test]
    fn any_of_several_is_enough() {
        let left = fewer((0..50).collect(), |parts| parts.iter().filter(|p| **p % 7 == 0).count() >= 2);
        assert_eq!(left.len(), 2);
    }

    #[test]
    fn a_part_is_made_again_by_its_options() {
        let part = Part { acts: vec![1, 2, 5], ..Part::default() };
        assert_eq!(options(7, &part), "--seed 7 --acts 1-2,5 --requests none");
        let part = Part {
            asked: vec![3],
            until: Some(Instant(9_000_000_000)),
            earlier: Duration::from_millis(20),
            nodes: Some(3),
            groups: Some(1),
            dice: 2,
            acts: vec![],
        };
        let all =
            "--seed 7 --acts none --requests 3 --until-ms 9000 --earlier-ms 20 --nodes 3 --groups 1 --dice 2";
        assert_eq!(options(7, &part), all);
    }
}
