//! What is done in a run, with its times: faults, repairs, requests. All else of a run is luck.
//!
//! Who plays a seed writes its script; who shrinks it plays parts of that script. What the dice say is then drawn as ever and
//! not done: so the whole script is the seed's run to the letter, and what is left out moves nothing else to another time.
use crate::faults::Fault;
use crate::workload::Wish;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use sarsen_types::{Duration, Instant};
use std::collections::VecDeque;

/// Something that is done to the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// What only somebody can put right is put right.
    Mend,
    /// A fault strikes; where it wants calm, once there is.
    Strike(Fault),
}

/// An act, and when it is done.
#[derive(Clone, Debug)]
pub struct Due {
    /// The tick.
    pub at: Instant,
    /// Which of the tick's chances (see `Play::weather`).
    pub turn: u8,
    /// What.
    pub act: Act,
    /// The dice as they lay when it struck: they say where, and how.
    pub dice: Option<SmallRng>,
}

/// A request, and when it is asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The tick.
    pub at: Instant,
    /// By which client.
    pub client: usize,
    /// What.
    pub wish: Wish,
}

/// All that was done in a run.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// In order.
    pub acts: Vec<Due>,
    /// In order.
    pub asked: Vec<Asked>,
    /// When the faults ended, or the run did.
    pub end: Instant,
}

/// A part of a script, and on what it is played.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Part {
    /// Of the acts.
    pub acts: Vec<usize>,
    /// Of the requests.
    pub asked: Vec<usize>,
    /// The calm at the end begins no later.
    pub until: Option<Instant>,
    /// All is done so much earlier.
    pub earlier: Duration,
    /// Fewer nodes than the seed has.
    pub nodes: Option<usize>,
    /// Fewer groups than the seed has.
    pub groups: Option<u32>,
    /// Other dice for all that is luck; 0 are the seed's own.
    pub dice: u64,
}

impl Part {
    /// All of a script.
    pub fn all(script: &Script) -> Part {
        Part {
            acts: (0..script.acts.len()).collect(),
            asked: (0..script.asked.len()).collect(),
            ..Part::default()
        }
    }
}

/// A part of a script that is being played.
struct Followed {
    acts: VecDeque<Due>,
    /// By client, with their numbers.
    asked: Vec<VecDeque<(usize, Asked)>>,
    end: Instant,
    earlier: Duration,
    dice: u64,
}

/// What is done next: as the dice say, or as a script does.
#[derive(Default)]
pub struct Plan {
    /// What was done so far.
    pub written: Script,
    follows: Option<Followed>,
}

impl Plan {
    /// A part of a script is played, by so many clients.
    pub fn follow(script: &Script, part: &Part, clients: usize) -> Plan {
        let sooner = |at: Instant| Instant(at.0.saturating_sub(part.earlier.as_nanos() as u64));
        let acts = part.acts.iter().filter_map(|a| script.acts.get(*a));
        let of = |client: usize| {
            let all = part.asked.iter().filter_map(|a| Some((*a, script.asked.get(*a)?)));
            let own = all.filter(|(_, asked)| asked.client == client);
            own.map(|(n, asked)| (n, Asked { at: sooner(asked.at), ..asked.clone() })).collect()
        };
        let follows = Followed {
            acts: acts.map(|due| Due { at: sooner(due.at), ..due.clone() }).collect(),
            asked: (0..clients).map(of).collect(),
            end: sooner(part.until.unwrap_or(script.end)),
            earlier: part.earlier,
            dice: part.dice,
        };
        Plan { written: Script::default(), follows: Some(follows) }
    }

    /// When the script ends, where there is one.
    pub fn end(&self) -> Option<Instant> {
        self.follows.as_ref().map(|f| f.end)
    }

    /// Other dice than the seed's own, new ones each tick: what is left out in one changes no later one's.
    pub fn dice_of(&self, now: Instant) -> Option<SmallRng> {
        let follows = self.follows.as_ref().filter(|f| f.dice > 0)?;
        let tick = (now + follows.earlier).0 / 1_000_000;
        Some(SmallRng::seed_from_u64(follows.dice << 40 ^ tick))
    }

    /// What is done in this turn of a tick, with the dice that a script has for it.
    pub fn act(&mut self, now: Instant, turn: u8, drawn: Option<Act>) -> Option<(Act, Option<SmallRng>)> {
        match &mut self.follows {
            None => {
                let act = drawn?;
                self.written.acts.push(Due { at: now, turn, act, dice: None });
                Some((act, None))
            }
            Some(follows) => {
                let due = follows.acts.pop_front_if(|due| (due.at, due.turn) <= (now, turn))?;
                Some((due.act, due.dice))
            }
        }
    }

    /// The last act struck, the dice lying so.
    pub fn struck(&mut self, dice: &SmallRng) {
        if let Some(due) = self.written.acts.last_mut() {
            due.dice = Some(dice.clone());
        }
    }

    /// What a client asks now, and the number of that.
    pub fn wish(&self, now: Instant, client: usize, drawn: Option<Wish>) -> Option<(usize, Wish)> {
        match &self.follows {
            None => Some((self.written.asked.len(), drawn?)),
            Some(follows) => {
                let (number, asked) = follows.asked[client].front()?;
                (asked.at <= now).then_some((*number, asked.wish))
            }
        }
    }

    /// That will never be asked.
    pub fn dropped(&mut self, client: usize) {
        if let Some(follows) = &mut self.follows {
            follows.asked[client].pop_front();
        }
    }

    /// That was asked.
    pub fn asked(&mut self, now: Instant, client: usize, wish: Wish) {
        match &mut self.follows {
            None => self.written.asked.push(Asked { at: now, client, wish }),
            Some(follows) => _ = follows.asked[client].pop_front(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Kind;

    fn ms(n: u64) -> Instant {
        Instant(0) + Duration::from_millis(n)
    }
    fn wish(chunk: u32) -> Wish {
        Wish { chunk, offset: 0, len: 4096, kind: Kind::Read }
    }

    /// Two acts in one tick, one later; three requests of two clients.
    fn script() -> Script {
        let mut plan = Plan::default();
        assert_eq!(plan.act(ms(5), 0, None).map(|a| a.0), None);
        plan.act(ms(5), 1, Some(Act::Strike(Fault::Kill)));
        plan.struck(&SmallRng::seed_from_u64(1));
        plan.act(ms(5), 2, Some(Act::Mend));
        plan.act(ms(9), 2, Some(Act::Mend));
        for (at, client, chunk) in [(3, 0, 1), (4, 1, 2), (8, 0, 3)] {
            assert_eq!(plan.wish(ms(at), client, None), None);
            plan.wish(ms(at), client, Some(wish(chunk))).unwrap();
            plan.asked(ms(at), client, wish(chunk));
        }
        plan.written.end = ms(20);
        plan.written
    }

    #[test]
    fn all_of_a_script_is_what_was_done_in_each_turn() {
        let script = script();
        let mut plan = Plan::follow(&script, &Part::all(&script), 2);
        let mut done = Vec::new();
        for at in 0..12 {
            for turn in 0..3 {
                // what the dice say is not done
                let act = plan.act(ms(at), turn, Some(Act::Strike(Fault::Rot)));
                done.extend(act.map(|(act, dice)| (at, turn, act, dice.is_some())));
            }
        }
        let kill = Act::Strike(Fault::Kill);
        assert_eq!(done, [(5, 1, kill, true), (5, 2, Act::Mend, false), (9, 2, Act::Mend, false)]);
        assert_eq!(plan.end(), Some(ms(20)));
    }

    #[test]
    fn a_part_keeps_times_and_numbers() {
        let script = script();
        let part = Part { acts: vec![2], asked: vec![2], ..Part::default() };
        let mut plan = Plan::follow(&script, &part, 2);
        assert_eq!(plan.act(ms(8), 2, None).map(|a| a.0), None);
        // late, it is done in any turn
        assert_eq!(plan.act(ms(10), 0, None).map(|a| a.0), Some(Act::Mend));
        assert_eq!(plan.wish(ms(7), 0, Some(wish(9))), None);
        assert_eq!(plan.wish(ms(8), 0, Some(wish(9))), Some((2, wish(3))));
        assert_eq!(plan.wish(ms(8), 0, None), Some((2, wish(3))), "until it was asked");
        plan.asked(ms(8), 0, wish(3));
        assert_eq!(plan.wish(ms(9), 0, None), None);
        assert_eq!(plan.wish(ms(9), 1, None), None);
    }

    #[test]
    fn a_part_may_be_played_earlier() {
        let script = script();
        let part = Part { earlier: Duration::from_millis(2), until: Some(ms(10)), ..Part::all(&script) };
        let mut plan = Plan::follow(&script, &part, 2);
        assert_eq!(plan.wish(ms(1), 0, None), Some((0, wish(1))));
        assert_eq!(plan.act(ms(3), 1, None).map(|a| a.0), Some(Act::Strike(Fault::Kill)));
        assert_eq!(plan.end(), Some(ms(8)));
    }

    #[test]
    fn other_dice_fall_by_the_time_alone() {
        let script = script();
        let dice = |dice, at, earlier| {
            let part = Part { dice, earlier: Duration::from_millis(earlier), ..Part::all(&script) };
            Plan::follow(&script, &part, 2).dice_of(ms(at))
        };
        assert!(dice(0, 5, 0).is_none() && Plan::default().dice_of(ms(5)).is_none());
        assert_eq!(dice(1, 5, 0), dice(1, 5, 0));
        assert_eq!(dice(1, 5, 0), dice(1, 3, 2), "played earlier, they fall the same");
        assert_ne!(dice(1, 5, 0), dice(1, 6, 0));
        assert_ne!(dice(1, 5, 0), dice(2, 5, 0));
    }
}
