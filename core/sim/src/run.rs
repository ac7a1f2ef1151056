//! One seed from start to quiet.
use crate::agree::{Which, agree};
use crate::check::History;
use crate::cluster::{Cluster, Shape};
use crate::failure::{Failure, caught};
use crate::faults::{Fault, aim, calm_down, draw, may, mend, strike};
use crate::script::{Act, Part, Plan, Script};
use crate::story::{Story, Subject, seconds};
use crate::workload::Client;
use rand::Rng;
use rand::rngs::SmallRng;
use sarsen_slice::{Counters, LeaseMode};
use sarsen_types::{Duration, Instant};
use std::collections::BTreeMap;

/// Client operations of a seed, at least.
pub const OPERATIONS_MIN: u64 = 2_000;
/// Faults of a seed, at least.
pub const FAULTS_MIN: u32 = 12;
/// Rot does not begin before so many faults: from then on less may happen to the other drives.
const ROT_AFTER: u32 = 5;
/// Clients of a seed.
const CLIENTS: usize = 4;
/// A seed that takes longer than this hangs.
const TIME_MAX: Duration = Duration::from_secs(1_800);
/// Once faults stop, everything is in sync again within this.
const CALM_MAX: Duration = Duration::from_secs(180);
/// A fault that waits for calm waits no longer than this.
const ARMED_MAX: Duration = Duration::from_secs(40);
/// How long writes are watched after a fault with a bound of time.
const WATCHED: Duration = Duration::from_millis(4500);

/// Requests that are answered at all are answered within this while all is well.
const PROMPT: Duration = Duration::from_millis(60);

/// What a seed met.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Rare events of the slices.
    pub counters: Counters,
    /// Rare events of the cluster.
    pub events: BTreeMap<&'static str, u64>,
    /// Requests answered.
    pub operations: u64,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// Simulated time.
    pub time: Duration,
    /// The longest wait of a write for a node that died, and for one that stopped in order.
    pub waits: [Duration; 2],
}

/// A seed being played.
struct Play {
    lease: LeaseMode,
    cluster: Cluster,
    clients: Vec<Client>,
    history: History,
    outcome: Outcome,
    plan: Plan,
    faults: u32,
    next_fault: Instant,
    /// The dice that a script has for the act under way.
    dice: Option<SmallRng>,
    /// A fault that waits for calm, and since when.
    armed: Option<(Fault, Instant)>,
    /// A fault whose bound of time is being watched, and until when.
    watched: Option<(Fault, Instant)>,
}

/// A run, told.
pub struct Told {
    /// How it failed, if it did.
    pub failure: Option<Failure>,
    /// What was done in it.
    pub script: Script,
    /// What mattered, and the verdict.
    pub lines: Vec<String>,
}

/// Odd seeds lease by the clock, even ones confirm.
pub fn lease_of(seed: u64) -> LeaseMode {
    if seed.is_multiple_of(2) { LeaseMode::Confirm } else { LeaseMode::Clock }
}

/// Runs a seed.
///
/// # Panics
/// If a checker objects: the message says what was seen.
pub fn run(seed: u64) -> Outcome {
    let mut play = Play::new(seed, Shape::of(seed), Plan::default());
    play.all();
    play.outcome()
}

/// Runs a seed and keeps its script; or a part of that. Told, with `is_told`.
pub fn play(seed: u64, part: Option<(&Script, &Part)>, is_told: bool) -> Told {
    let shape = Shape::of(seed);
    let mut play = match part {
        None => Play::new(seed, shape, Plan::default()),
        Some((script, part)) => {
            let nodes = part.nodes.unwrap_or(shape.nodes).clamp(shape.copies.into(), shape.nodes);
            let groups = part.groups.unwrap_or(shape.groups).clamp(1, shape.groups);
            let plan = Plan::follow(script, part, CLIENTS);
            Play::new(seed, Shape { nodes, groups, ..shape }, plan)
        }
    };
    if is_told {
        play.cluster.story = Story::begun();
    }
    let failure = caught(|| {
        play.all();
        play.judge_outcome();
    });
    let mut script = std::mem::take(&mut play.plan.written);
    if script.end == Instant(0) {
        script.end = play.cluster.now;
    }
    let lines = if is_told { play.told(failure.as_ref().err()) } else { Vec::new() };
    Told { failure: failure.err(), script, lines }
}

impl Play {
    fn new(seed: u64, shape: Shape, plan: Plan) -> Play {
        let lease = lease_of(seed);
        let mut cluster = Cluster::new(seed, shape, lease);
        let shared = cluster.make_volume("shared");
        let mut clients = Vec::new();
        for index in 0..CLIENTS {
            let own = format!("own{index}");
            let (name, volume) = match index {
                0 | 1 => (own.as_str(), cluster.make_volume(&own)),
                _ => ("shared", shared),
            };
            clients.push(Client::new(&mut cluster, index, volume, name));
        }
        let next_fault = cluster.now + Duration::from_secs(4);
        Play {
            lease,
            cluster,
            clients,
            history: History::default(),
            outcome: Outcome::default(),
            plan,
            faults: 0,
            next_fault,
            dice: None,
            armed: None,
            watched: None,
        }
    }

    /// From start to quiet.
    fn all(&mut self) {
        while self.goes_on() {
            self.weather();
            self.tick();
            assert!(
                self.cluster.now < Instant(0) + TIME_MAX,
                "{} requests are answered within {TIME_MAX:?}\n{}\n{}",
                self.answered(),
                self.clients.iter().flat_map(Client::describe).collect::<Vec<_>>().join("\n"),
                self.cluster.describe().join("\n")
            );
        }
        self.plan.written.end = self.cluster.now;
        self.quiet();
    }

    fn goes_on(&self) -> bool {
        self.watched.is_some()
            || match self.plan.end() {
                None => self.answered() < OPERATIONS_MIN || self.faults < FAULTS_MIN,
                Some(end) => self.cluster.now < end,
            }
    }

    /// What mattered to the checker that objects, and the verdict.
    fn told(&self, failure: Option<&Failure>) -> Vec<String> {
        let story = &self.cluster.story;
        let has_subject =
            |f: &Failure| ["check.rs", "watch.rs", "agree.rs"].iter().any(|at| f.place.contains(at));
        let subject = failure.filter(|f| has_subject(f)).and_then(|_| story.subject());
        let mut lines = story.lines(subject);
        let says = failure.map_or("all is well", |f| f.says.split([';', '\n']).next().unwrap_or(&f.says));
        lines.push(format!("{}  verdict: {}", seconds(self.cluster.now), story.verdict(says)));
        lines
    }

    fn answered(&self) -> u64 {
        self.clients.iter().map(|c| c.work.answered_count).sum()
    }

    fn outcome(self) -> Outcome {
        self.judge_outcome();
        let operations = self.answered();
        let mut outcome = self.outcome;
        outcome.operations = operations;
        outcome.counters = self.cluster.totals();
        outcome.events = self.cluster.events;
        outcome.time = Duration::from_nanos(self.cluster.now.0);
        outcome
    }

    fn judge_outcome(&self) {
        let counters = self.cluster.totals();
        assert!(
            counters.unrepairable == 0,
            "a block was intact on no copy, and one drive is damaged at most"
        );
        assert!(
            counters.contradictions == 0,
            "two copies held one version of a block with different contents (R26)"
        );
    }

    /// Faults come, one after the other. A tick has three turns in which something may be done.
    fn weather(&mut self) {
        let now = self.cluster.now;
        if let Some((fault, until)) = self.watched {
            if now >= until {
                self.judge_waits(fault);
            }
            return;
        }
        if let Some((fault, since)) = self.armed {
            calm_down(&mut self.cluster);
            self.cluster.gentle_until = now + Duration::from_millis(2);
            // nothing is lost or late from here on; what was lost before shows by then as a request that waits
            let is_ready = now.since(since) > PROMPT;
            if is_ready && self.strike(fault) || now.since(since) >= ARMED_MAX {
                self.armed = None;
            }
            return;
        }
        if now >= self.next_fault {
            let pause = self.cluster.rng.random_range(100..5000);
            self.next_fault = now + Duration::from_millis(pause);
            let mends = self.cluster.rng.random_bool(0.4);
            self.act(0, mends.then_some(Act::Mend));
            let may_stop_clocks = self.lease == LeaseMode::Confirm;
            let fault = draw(&mut self.cluster, may_stop_clocks, self.faults >= ROT_AFTER);
            self.act(1, Some(Act::Strike(fault)));
        }
        let mends = self.cluster.rng.random_range(0..4000) == 0;
        self.act(2, mends.then_some(Act::Mend));
    }

    /// What was drawn is done; where a script is played, what that says.
    fn act(&mut self, turn: u8, drawn: Option<Act>) {
        let now = self.cluster.now;
        let Some((act, dice)) = self.plan.act(now, turn, drawn) else { return };
        self.dice = dice;
        match act {
            Act::Mend => mend(&mut self.cluster),
            Act::Strike(fault) if fault.wants_calm() => self.armed = Some((fault, now)),
            Act::Strike(fault) => _ = self.strike(fault),
        }
    }

    fn strike(&mut self, fault: Fault) -> bool {
        // what waits already waits for something else: a request that was lost, say
        let now = self.cluster.now;
        if fault.wait_max().is_some() && self.clients.iter().any(|c| c.longest_open(now) > PROMPT) {
            return false;
        }
        if !may(&self.cluster, fault) {
            aim(&mut self.cluster);
            return false;
        }
        let usual = self.cluster.rng.clone();
        self.plan.struck(&usual);
        if let Some(dice) = &self.dice {
            self.cluster.rng = dice.clone();
        }
        let has_struck = strike(&mut self.cluster, &mut self.clients, fault);
        if self.plan.dice_of(now).is_some() {
            self.cluster.rng = usual;
        }
        if !has_struck {
            return false;
        }
        self.cluster.say(|| format!("fault {fault:?}"));
        self.faults += 1;
        *self.outcome.faults.entry(format!("{fault:?}")).or_default() += 1;
        if fault.wait_max().is_some() {
            let until = self.cluster.now + WATCHED;
            self.watched = Some((fault, until));
            self.cluster.gentle_until = until;
            let now = self.cluster.now;
            self.clients.iter_mut().for_each(|c| c.watch(now));
        }
        true
    }

    /// The time bounds: a write waits so long at most for one dead node, or for a planned stop.
    fn judge_waits(&mut self, fault: Fault) {
        self.watched = None;
        let (now, max) = (self.cluster.now, fault.wait_max().expect("it is watched"));
        for client in self.clients.iter().filter(|c| c.is_driver() && !c.is_fenced) {
            let longest = client.longest_wait(now);
            assert!(
                longest <= max,
                "{fault:?}: a write waited {longest:?}, and may wait {max:?}\n{}\n{}",
                client.describe().join("\n"),
                self.cluster.describe().join("\n")
            );
            let kept = &mut self.outcome.waits[usize::from(fault == Fault::PlannedStop)];
            *kept = longest.max(*kept);
        }
        mend(&mut self.cluster);
    }

    /// One millisecond of cluster and clients.
    fn tick(&mut self) {
        let Play { cluster, clients, history, plan, .. } = self;
        if let Some(dice) = plan.dice_of(cluster.now) {
            cluster.rng = dice;
        }
        cluster.tick();
        if cluster.story.is_told() {
            cluster.tell_groups();
        }
        while let Some((client, conn)) = cluster.net.hangups.pop_front() {
            clients[client].hung_up(cluster, history, conn);
        }
        while let Some(arrived) = cluster.net.answers.pop_front() {
            clients[arrived.client].answered(cluster, history, arrived);
        }
        for client in clients.iter_mut() {
            client.tick(cluster, history, plan);
        }
    }

    /// Faults have stopped: everything is answered and in sync within a bound, copies agree, and each shows what was
    /// answered.
    fn quiet(&mut self) {
        self.clients.iter_mut().for_each(|c| c.is_busy = false);
        self.cluster.tell(|| "no fault comes any more, and what is wrong is put right".into());
        calm_down(&mut self.cluster);
        let end = self.cluster.now + CALM_MAX;
        loop {
            mend(&mut self.cluster);
            self.tick();
            if self.is_at_rest() && self.settled() {
                break;
            }
            if self.cluster.now >= end {
                let open: Vec<String> = self.clients.iter().flat_map(Client::describe).collect();
                let groups = self.cluster.describe();
                panic!(
                    "not at rest {CALM_MAX:?} after the last fault: {}\n{}",
                    open.join("\n"),
                    groups.join("\n")
                );
            }
        }
        agree(&mut self.cluster, Which::Sound);
        let most = self.cluster.copies as usize;
        for turn in 0..most {
            self.read_all(turn);
        }
        agree(&mut self.cluster, Which::All);
        (0..self.cluster.nodes.len()).for_each(|node| self.cluster.check_damage(node));
        for node in &mut self.cluster.nodes {
            let audit = node.store_mut().map_or(Ok(()), |store| store.audit());
            audit.unwrap_or_else(|why| panic!("the map of a store is wrong: {why}"));
        }
        for key in self.history.keys() {
            self.cluster.story.judge(Subject::Block(key));
            self.history.finish(key);
        }
    }

    fn is_at_rest(&self) -> bool {
        self.cluster.is_whole() && self.clients.iter().all(Client::is_idle)
    }

    /// Two seconds pass without a change.
    fn settled(&mut self) -> bool {
        let revision = self.cluster.meta.state.revision;
        for _ in 0..2000 {
            self.tick();
        }
        self.cluster.meta.state.revision == revision && self.is_at_rest()
    }

    /// Each group is led by its copy number `turn`, and everything is read: from its own drive.
    fn read_all(&mut self, turn: usize) {
        let groups: Vec<_> = self.cluster.meta.state.groups.values().cloned().collect();
        self.cluster.tell(|| format!("all is read, each group led by its copy {turn}"));
        for g in groups {
            let mut copies = g.in_sync.clone();
            copies.sort_unstable();
            self.cluster.lead(g.group, copies[turn % copies.len()]);
        }
        let end = self.cluster.now + CALM_MAX;
        while !self.cluster.is_served_everywhere() {
            assert!(self.cluster.now < end, "a group is not served");
            self.tick();
        }
        let Play { cluster, clients, history, .. } = self;
        clients.iter_mut().for_each(|c| c.read_all(cluster, history));
        while !self.clients.iter().all(Client::is_idle) {
            assert!(self.cluster.now < end, "the last reads are not answered");
            self.tick();
        }
    }
}
