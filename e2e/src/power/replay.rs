//! Every point of the log: the drive as power would have left it there, opened, and each block held against what was answered.
use super::guest::{Plan, VOLUME_BLOCKS};
use super::history::{self, BLOCK, Expected};
use super::image::{Bytes, Overlay};
use super::layout::Layout;
use super::log::{Entry, Log, SECTOR, What};
use super::machine::{DRIVE, Left};
use super::trace::{Trace, in_flight};
use super::{product, reader};
use anyhow::{Context, Result, bail, ensure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sarsen_buffer::Pool;
use std::fmt;
use std::sync::Arc;

/// Bytes of what a failure tells of writes in flight.
const TOLD_MAX: usize = 400;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Depth {
    /// Of so many points of the log one is looked at.
    pub every: usize,
    /// Draws, at each point, of what the disk kept of the writes in flight.
    pub draws: usize,
    /// How often the real program is started.
    pub products: usize,
}

/// What was done and found.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    entries: usize,
    writes: usize,
    fua: usize,
    flushes: usize,
    discards: usize,
    checkpoints: usize,
    answers: u64,
    points: usize,
    drawn: usize,
    lost: usize,
    torn: usize,
    most_in_flight: usize,
    products: usize,
    blocks: u64,
    replayed: u64,
    damaged: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "log: {} entries, {} writes ({} with FUA), {} flushes, {} discards, {} answers marked, {} checkpoints beside them",
            self.entries, self.writes, self.fua, self.flushes, self.discards, self.answers, self.checkpoints
        )?;
        writeln!(
            f,
            "opened: at {} points with what was durable, and {} times with some of what was in flight (up to {} writes; {} lost, {} torn); {} times by the program",
            self.points, self.drawn, self.most_in_flight, self.lost, self.torn, self.products
        )?;
        write!(
            f,
            "read: {} blocks; {} journal blocks replayed, {} damaged entries of writes nobody was answered",
            self.blocks, self.replayed, self.damaged
        )
    }
}

/// A play of the log.
struct Play<'a> {
    log: &'a Log,
    left: &'a Left,
    bytes: Bytes,
    layout: Layout,
    expected: Expected,
    pool: Pool,
    rng: SmallRng,
    summary: Summary,
}

/// Plays what a run left.
pub fn run(left: &Left, plan: &Plan, depth: Depth) -> Result<Summary> {
    let log = Log::open(&left.log()).context("the log")?;
    let text = std::fs::read_to_string(left.out("requests"))?;
    let expected = Expected::new(history::from_text(&text)?);
    let times = Trace::parse(&std::fs::read_to_string(left.out("trace"))?)?.of(&log.entries)?;
    let flying = in_flight(&times);
    let mut bytes: Bytes = Arc::new(vec![0; DRIVE as usize]);
    for entry in &log.entries {
        apply(&log, entry, &mut bytes)?;
    }
    let layout = Layout::find(Overlay::new(bytes)).context("the drive as the run left it")?;
    let bytes: Bytes = Arc::new(vec![0; DRIVE as usize]);
    let rng = SmallRng::seed_from_u64(plan.seed);
    let summary = count(&log.entries);
    let mut play = Play { log: &log, left, bytes, layout, expected, pool: Pool::new(), rng, summary };
    let sent = sent_at(&log.entries);
    let is_answer = |e: &Entry| matches!(&e.what, What::Mark(m) if history::read_mark(m).is_some());
    let root = play.layout.root / SECTOR;
    let first = log.entries.iter().position(is_answer).context("an answer")?;
    let last = log.entries.iter().rposition(is_answer).context("an answer")?;
    let ends_checkpoint = |e: &&Entry| matches!(e.what, What::Write(_)) && e.sector == root;
    play.summary.checkpoints = log.entries[first..].iter().filter(ends_checkpoint).count();
    // the real program knows the metadata of its last life only
    let is_life = |e: &Entry| matches!(&e.what, What::Mark(m) if m == "life:1");
    let life = log.entries.iter().position(is_life).context("a second life")?;
    let lived = life + (last - life) / 8;
    let mut due = lived;
    let step = ((last - lived) / depth.products.max(1)).max(1);
    let mut places = 0;
    for (at, entry) in log.entries.iter().enumerate() {
        play.expected.sent = sent[at];
        // a mark changes what must be there and not the drive: all of a row are judged at once
        let is_mark = matches!(entry.what, What::Mark(_));
        places += usize::from(!is_mark);
        if at >= first && !is_mark && places.is_multiple_of(depth.every) {
            play.point(at, &flying[at], depth.draws)?;
        }
        if depth.products > 0 && at >= due && !is_mark {
            play.product(at, &flying[at], (plan.data_port, plan.api_port))?;
            due += step;
        }
        apply(&log, entry, &mut play.bytes)?;
        if let What::Mark(mark) = &entry.what
            && let Some((id, _)) = history::read_mark(mark)
        {
            play.expected.answer(id)?;
        }
    }
    play.point(log.entries.len(), &[], 0)?;
    ensure!(play.summary.fua + play.summary.flushes > 0, "the log holds no flush");
    ensure!(play.expected.done == play.summary.answers, "not every answer was met");
    Ok(play.summary)
}

fn count(entries: &[Entry]) -> Summary {
    let of = |is: &dyn Fn(&Entry) -> bool| entries.iter().filter(|e| is(e)).count();
    Summary {
        entries: entries.len(),
        writes: of(&|e| matches!(e.what, What::Write(_))),
        fua: of(&|e| e.fua && matches!(e.what, What::Write(_))),
        flushes: of(&|e| e.what == What::Flush),
        discards: of(&|e| e.what == What::Discard),
        answers: of(&|e| matches!(&e.what, What::Mark(m) if history::read_mark(m).is_some())) as u64,
        ..Summary::default()
    }
}

/// At each place how many requests were sent at most: the next mark says.
fn sent_at(entries: &[Entry]) -> Vec<u64> {
    let mut next = u64::MAX;
    let mut all = vec![next; entries.len() + 1];
    for (at, entry) in entries.iter().enumerate().rev() {
        if let What::Mark(mark) = &entry.what
            && let Some((_, sent)) = history::read_mark(mark)
        {
            next = sent;
        }
        all[at] = next;
    }
    all
}

/// What became durable is on the drive.
fn apply(log: &Log, entry: &Entry, bytes: &mut Bytes) -> Result<()> {
    let bytes = Arc::get_mut(bytes).context("a drive that nobody else has")?;
    let at = (entry.sector * SECTOR) as usize;
    let len = (entry.sectors * SECTOR) as usize;
    ensure!(at + len <= bytes.len(), "{entry:?} is not on the drive");
    match entry.what {
        What::Write(_) => bytes[at..at + len].copy_from_slice(&log.data(entry)?),
        // what is read after it is anything: here what stands for nothing of ours
        What::Discard => bytes[at..at + len].fill(0xdd),
        What::Flush | What::Mark(_) => {}
    }
    Ok(())
}

impl Play<'_> {
    fn point(&mut self, at: usize, flying: &[usize], draws: usize) -> Result<()> {
        let disk = Overlay::new(self.bytes.clone());
        self.read(disk).with_context(|| format!("power went before entry {at}, with nothing else kept"))?;
        self.summary.points += 1;
        self.summary.most_in_flight = self.summary.most_in_flight.max(flying.len());
        for _ in 0..if flying.is_empty() { 0 } else { draws } {
            let (disk, what) = self.draw(flying)?;
            self.read(disk).with_context(|| format!("power went before entry {at}; in flight: {what}"))?;
            self.summary.drawn += 1;
        }
        Ok(())
    }

    /// The drive with some of what was in flight: each whole, not at all, or some of its sectors.
    fn draw(&mut self, flying: &[usize]) -> Result<(Overlay, String)> {
        let mut disk = Overlay::new(self.bytes.clone());
        let mut told = String::new();
        let kept = self.rng.random_range(0..=100);
        for at in flying {
            let entry = &self.log.entries[*at];
            let data = match entry.what {
                What::Write(_) => self.log.data(entry)?,
                What::Discard => vec![0xdd; (entry.sectors * SECTOR) as usize],
                What::Flush | What::Mark(_) => continue,
            };
            let chance = match self.rng.random_range(0..100) {
                n if n < kept => 1.0,
                n if n % 3 == 0 => self.rng.random_range(0.0..1.0),
                _ => 0.0,
            };
            let mut sectors = 0;
            for (sector, part) in (entry.sector..).zip(data.chunks_exact(SECTOR as usize)) {
                if chance == 1.0 || (chance > 0.0 && self.rng.random_bool(chance)) {
                    disk.put(sector, part);
                    sectors += 1;
                }
            }
            self.summary.lost += usize::from(sectors == 0);
            self.summary.torn += usize::from(sectors > 0 && sectors < entry.sectors);
            if told.len() < TOLD_MAX {
                told += &format!("{at}:{sectors}/{} ", entry.sectors);
            }
        }
        Ok((disk, told))
    }

    fn read(&mut self, disk: Overlay) -> Result<()> {
        let (expected, mut scratch, mut wrong) = (&self.expected, vec![0; BLOCK], Vec::new());
        let mut blocks = 0;
        let opened = reader::read_all(disk, &self.layout, &self.pool, |block, held| {
            blocks += 1;
            wrong.extend(expected.check(block, held, &mut scratch).err());
            Ok(())
        })?;
        self.summary.blocks += blocks;
        self.summary.replayed += opened.replayed;
        self.summary.damaged += opened.damaged;
        judge(&wrong)
    }

    fn product(&mut self, at: usize, flying: &[usize], ports: (u16, u16)) -> Result<()> {
        let (disk, what) = match flying.is_empty() {
            true => (Overlay::new(self.bytes.clone()), "nothing".to_owned()),
            false => self.draw(flying)?,
        };
        let (expected, mut scratch, mut wrong) = (&self.expected, vec![0; BLOCK], Vec::new());
        product::read_all(&disk, self.left, ports, VOLUME_BLOCKS, |block, held| {
            wrong.extend(expected.check(block, held, &mut scratch).err());
            Ok(())
        })
        .and_then(|()| judge(&wrong))
        .with_context(|| format!("power went before entry {at}, the program opened it; in flight: {what}"))?;
        self.summary.products += 1;
        self.summary.blocks += VOLUME_BLOCKS;
        Ok(())
    }
}

fn judge(wrong: &[String]) -> Result<()> {
    match wrong {
        [] => Ok(()),
        [first, ..] => bail!("{} blocks are wrong: {first}", wrong.len()),
    }
}
