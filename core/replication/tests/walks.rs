//! Seeded walks over one group: crashes with torn queues, cuts, delays, hung and full drives, images rolled back, clocks
//! that stop, joins, retries, duplicates, new sessions; then calm, and every answer must hold.
//!
//! `SEED=n WALKS=1 cargo test -p sarsen-replication --test walks -- --nocapture` repeats one.
mod support;
use sarsen_types::*;
use sarsen_wire::client::ClientResult;
use std::collections::BTreeMap;
use support::Cluster;

/// A small generator, so that a seed means the same everywhere: SplitMix64.
struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// One request of the one client. It sends none that overlaps an earlier unanswered one (R22).
struct Sent {
    number: u64,
    /// Counted over the chunks.
    first: u16,
    count: u16,
    content: u64,
    is_answered: bool,
    /// Its session is over.
    is_given_up: bool,
}

/// Blocks of each of two chunks that are written.
const BLOCKS: u16 = 6;
const CHUNKS: u16 = 2;

struct Walk {
    c: Cluster,
    rng: Rng,
    sent: Vec<Sent>,
    next: u64,
    reads: BTreeMap<u64, (u16, usize)>,
    /// Per block the position in its history of the newest content answered or read.
    seen: Vec<usize>,
    history: Vec<Vec<u64>>,
    /// An image of a drive.
    image: Option<(usize, support::store::Disk)>,
    is_confirming: bool,
}

impl Walk {
    fn new(seed: u64) -> Walk {
        let mut rng = Rng(seed);
        let n = 2 + rng.below(2) as usize;
        let min = if n == 2 { 1 } else { 1 + rng.below(2) as u8 };
        let is_confirming = rng.chance(30);
        Walk {
            c: if is_confirming { Cluster::confirming(n, min) } else { Cluster::new(n, min) },
            image: None,
            is_confirming,
            rng,
            sent: vec![],
            next: 1,
            reads: BTreeMap::new(),
            seen: vec![0; (BLOCKS * CHUNKS) as usize],
            history: vec![vec![0]; (BLOCKS * CHUNKS) as usize],
        }
    }

    fn act(&mut self) {
        let n = self.c.nodes.len() as u64;
        let node = self.rng.below(n) as usize;
        match self.rng.below(114) {
            100..114 => self.act_rarely(node),
            0..30 => self.send(),
            30..45 => self.retry(),
            45..60 => self.read(),
            60..66 => {
                let durable = self.rng.below(5) as usize;
                let torn: Vec<u16> = (0..BLOCKS).filter(|_| self.rng.chance(40)).collect();
                self.c.crash_torn(node, durable, &torn);
            }
            66..76 => {
                if self.c.nodes[node].is_none() {
                    self.c.start(node);
                }
            }
            76..79 => {
                let other = (node + 1) % n as usize;
                self.c.disconnect(node, other);
            }
            79..81 => self.c.isolate(node),
            81..83 => {
                let other = (node + 1) % n as usize;
                self.c.separate(node, other);
            }
            83..87 => self.c.reconnect(),
            87..92 => {
                if let Some(x) = self.c.nodes[node].as_mut() {
                    x.store.is_slow = !x.store.is_slow;
                }
            }
            92..94 => {
                let by = self.c.state.in_sync[self.rng.below(self.c.state.in_sync.len() as u64) as usize];
                let by = by.drive.0 as usize - 1;
                let keep = self.rng.chance(50);
                // it asked for it, or metadata saw it up: it was not rolled back since
                if by != self.c.lead() && !self.c.stale.contains(&by) {
                    self.c.take_over(by, keep);
                }
            }
            94..97 => {
                let away = |c: &Cluster| {
                    !c.state.is_in_sync(support::slice(node))
                        && c.state.join_of(support::slice(node)).is_none()
                };
                if away(&self.c) {
                    self.c.join(node);
                }
            }
            _ => self.c.metadata_is_away = !self.c.metadata_is_away,
        }
        let steps = if self.rng.chance(20) { 200 } else { 8 };
        for _ in 0..self.rng.below(steps) {
            self.c.step();
            self.look();
        }
        self.look();
    }

    fn act_rarely(&mut self, node: usize) {
        let n = self.c.nodes.len() as u64;
        let other = (node + 1) % n as usize;
        match self.rng.below(20) {
            0..4 => drop(self.c.stalled.insert((node, other))),
            4..8 => self.c.stalled.clear(),
            8 if self.is_confirming => drop(self.c.asleep.insert(node)),
            8..10 => self.c.asleep.clear(),
            10 if self.c.nodes[node].is_some() => self.image = Some((node, self.c.image(node))),
            11 | 12 => self.roll_back(),
            13 => {
                if let Some(x) = self.c.nodes[node].as_mut() {
                    x.store.is_full = !x.store.is_full;
                }
            }
            14 => self.c.change(|_| {}),
            15 | 16 => self.repeat(),
            17 if self.c.nodes[node].is_some() => {
                let is_hung = self.rng.chance(50);
                self.c.hang(node, is_hung);
            }
            18 => self.new_session(),
            _ => {}
        }
    }

    /// A drive is stopped and its image of before put back, while another copy has all that it had.
    fn roll_back(&mut self) {
        let Some((node, image)) = self.image.take() else { return };
        let me = support::slice(node);
        let has_other = self.c.state.in_sync.iter().any(|s| *s != me);
        if has_other && self.c.stale.is_empty() {
            self.c.crash(node, 0);
            self.c.proposals.retain(|p| p.by != me); // else it becomes the sole copy after its data went
            self.c.roll_back(node, image);
        }
    }

    /// A request that was answered comes once more, late.
    fn repeat(&mut self) {
        let done: Vec<usize> = (0..self.sent.len()).filter(|&s| self.sent[s].is_answered).collect();
        if !done.is_empty() {
            let at = done[self.rng.below(done.len() as u64) as usize];
            self.transmit(at);
        }
    }

    /// The driver's life ends, and another begins: what it reads first never changes but by its own writes (R22).
    fn new_session(&mut self) {
        self.c.reconnect();
        self.c.metadata_is_away = false;
        self.c.start_all();
        for node in 0..self.c.nodes.len() {
            self.c.hang(node, false);
            self.c.store(node).is_full = false;
        }
        self.c.attachment.session = SessionId(self.c.attachment.session.0 + 1);
        self.c.revision += 1;
        let some = self.next;
        self.next += 1;
        let lead = self.c.lead();
        self.c.read(lead, some, 0);
        self.c.run(Duration::from_secs(self.rng.below(4)));
        if self.c.state.in_sync.len() < self.c.nodes.len() {
            self.c.settle(); // what is ordered and uncommitted is neither there nor not there
        }
        self.look();
        self.reads.clear();
        self.sent.iter_mut().for_each(|s| s.is_given_up = true);
        for block in 0..BLOCKS * CHUNKS {
            let number = self.next;
            self.next += 1;
            self.c.chunk = u32::from(block / BLOCKS);
            let value = self.c.value(number, block % BLOCKS);
            let history = &mut self.history[block as usize];
            assert!(
                history[self.seen[block as usize]..].contains(&value),
                "block {block}: {value} of {history:?}"
            );
            *history = vec![value];
            self.seen[block as usize] = 0;
        }
    }

    fn send(&mut self) {
        let chunk = self.rng.below(u64::from(CHUNKS)) as u16;
        let first = self.rng.below(u64::from(BLOCKS)) as u16;
        let count = 1 + self.rng.below(u64::from(BLOCKS - first).min(3)) as u16;
        let first = chunk * BLOCKS + first;
        let is_open = |s: &&Sent| !s.is_answered && !s.is_given_up;
        let clash = |s: &Sent| s.first < first + count && first < s.first + s.count;
        if self.sent.iter().filter(is_open).any(clash) || self.sent.iter().filter(is_open).count() > 6 {
            return;
        }
        let number = self.next;
        self.next += 1;
        let content = if self.rng.chance(15) { 0 } else { number };
        for b in first..first + count {
            self.history[b as usize].push(content);
        }
        self.sent.push(Sent { number, first, count, content, is_answered: false, is_given_up: false });
        self.transmit(self.sent.len() - 1);
    }

    fn transmit(&mut self, at: usize) {
        let to = match self.rng.chance(80) {
            true => self.c.lead(),
            false => self.rng.below(self.c.nodes.len() as u64) as usize,
        };
        let Sent { number, first, count, content, is_given_up, .. } = self.sent[at];
        if is_given_up {
            return;
        }
        let open = self.sent.iter().filter(|s| !s.is_answered && !s.is_given_up).map(|s| s.number).min();
        // what comes late has the mark of its time
        self.c.answered_below = open.unwrap_or(self.next).min(number);
        self.c.chunk = u32::from(first / BLOCKS);
        match content {
            0 => self.c.discard(to, number, first % BLOCKS, count),
            _ => self.c.write(to, number, first % BLOCKS, count, content),
        }
    }

    fn retry(&mut self) {
        let open: Vec<usize> = (0..self.sent.len())
            .filter(|&s| !self.sent[s].is_answered && !self.sent[s].is_given_up)
            .collect();
        if !open.is_empty() {
            let at = open[self.rng.below(open.len() as u64) as usize];
            self.transmit(at);
        }
    }

    fn read(&mut self) {
        let to = self.rng.below(self.c.nodes.len() as u64) as usize;
        let number = self.next;
        self.next += 1;
        let block = self.rng.below(u64::from(BLOCKS * CHUNKS)) as u16;
        self.reads.insert(number, (block, self.seen[block as usize]));
        self.c.chunk = u32::from(block / BLOCKS);
        self.c.read(to, number, block % BLOCKS);
    }

    /// What was answered so far must be legal.
    fn look(&mut self) {
        for s in &mut self.sent {
            if !s.is_answered && !s.is_given_up && self.c.is_done(s.number) {
                s.is_answered = true;
                for b in s.first..s.first + s.count {
                    let at = position(&self.history[b as usize], s.content);
                    self.seen[b as usize] = self.seen[b as usize].max(at);
                }
            }
        }
        let mut done = vec![];
        for (&number, &(block, least)) in &self.reads {
            match self.c.replies.get(&(number, 0)) {
                Some((ClientResult::Data { .. }, payload)) => {
                    let value = payload.as_ref().map_or(0, |p| p[0]);
                    let history = &self.history[block as usize];
                    let at = (least..history.len()).find(|&h| history[h] == value);
                    let at = at.unwrap_or_else(|| {
                        panic!("block {block} shows {value}, older than position {least} of {history:?}")
                    });
                    done.push((number, block, at));
                }
                Some((ClientResult::Corrupt { .. }, _)) => {
                    panic!("block {block}: a committed entry is damaged")
                }
                Some(_) => done.push((number, block, 0)),
                None => {}
            }
        }
        for (number, block, at) in done {
            self.reads.remove(&number);
            self.seen[block as usize] = self.seen[block as usize].max(at);
        }
    }

    /// Faults stop: everything is answered, all copies are in sync and equal, and show what was answered.
    fn calm(&mut self) {
        self.c.settle();
        for at in 0..self.sent.len() {
            let Sent { number, first, count, content, is_answered, is_given_up } = self.sent[at];
            if is_answered || is_given_up {
                continue;
            }
            self.c.answered_below = 0;
            self.c.chunk = u32::from(first / BLOCKS);
            let first = first % BLOCKS;
            if content == 0 {
                self.c.run_until("a discard is answered", Duration::from_secs(30), |c| {
                    let lead = c.lead();
                    c.discard(lead, number, first, count);
                    c.step();
                    c.is_done(number)
                });
            } else {
                self.c.write_till_done(number, first, count, content);
            }
            self.look();
        }
        for block in 0..BLOCKS * CHUNKS {
            let number = self.next;
            self.next += 1;
            self.c.chunk = u32::from(block / BLOCKS);
            let value = self.c.value(number, block % BLOCKS);
            let history = &self.history[block as usize];
            assert_eq!(Some(&value), history.last(), "block {block}: {history:?}");
        }
        self.c.settle();
    }
}

/// Where a request's content stands in a block's history: zeroes are told apart by when they came.
fn position(history: &[u64], content: u64) -> usize {
    match content {
        0 => history.iter().position(|h| *h == 0).unwrap_or(0),
        _ => history.iter().rposition(|h| *h == content).unwrap_or(0),
    }
}

#[test]
fn no_walk_loses_an_answered_write() {
    let number =
        |name: &str, otherwise| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(otherwise);
    let (first, walks) = (number("SEED", 1), number("WALKS", 300));
    let mut total = sarsen_replication::Counters::default();
    for seed in first..first + walks {
        let outcome = std::panic::catch_unwind(|| {
            let mut walk = Walk::new(seed);
            walk.c.run(Duration::from_secs(2));
            for _ in 0..120 {
                walk.act();
            }
            walk.calm();
            let mut counters = walk.c.counters;
            for n in walk.c.nodes.iter().flatten() {
                counters.add(n.machine.counters());
            }
            counters
        });
        match outcome {
            Ok(counters) => total.add(&counters),
            Err(why) => {
                eprintln!(
                    "seed {seed} fails; repeat: SEED={seed} WALKS=1 cargo test -p sarsen-replication --test walks"
                );
                std::panic::resume_unwind(why);
            }
        }
    }
    if walks >= 300 {
        for (name, count) in total.each() {
            println!("{name:28} {count}");
        }
        assert!(total.takeovers_with_tail > 0 && total.takeovers_with_void > 0 && total.joins_restarted > 0);
        assert!(total.writes_ordered_again > 0 && total.answered_from_record > 0 && total.promotions > 0);
    }
}
