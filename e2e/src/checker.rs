//! Writes whose answers are remembered here, in a process that nobody kills: afterwards each cell must hold what was
//! answered last, or what was sent after it and never answered.
use crate::nbd::Client;
use anyhow::{Context, Result, bail};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a cell: the smallest write, and less than a block, so that parts of blocks are written too.
pub const CELL: usize = 512;
/// Cells of a stripe: all cells of a stripe are one writer's.
const STRIPE: u64 = 2048;
/// Cells of the longest write.
const WRITE_CELLS_MAX: u64 = 256;
/// Words of 8 bytes of a cell.
const WORDS: usize = CELL / 8;

/// What is known of a cell: the number of the last answered write, and of one that was sent after it.
#[derive(Clone, Copy, Default, Debug)]
struct Cell {
    answered: u32,
    pending: Option<u32>,
}

/// A wait this long is a stall.
const STALL: Duration = Duration::from_millis(100);
/// After an answer that there is no space.
const FULL_REST: Duration = Duration::from_millis(200);

/// An answer that was long in coming.
#[derive(Clone, Copy, Debug)]
pub struct Stall {
    /// When the request was sent.
    pub since: Instant,
    /// How long it took.
    pub lasted: Duration,
}

/// What a spell of writing came to.
#[derive(Clone, Debug, Default)]
pub struct Spell {
    /// Writes answered.
    pub answered: u64,
    /// Writes sent and not answered when it ended.
    pub pending: u64,
    /// The longest time from a request to its answer.
    pub longest: Duration,
    /// Answers that were errors.
    pub errors: u64,
    /// Answers that there is no space; these writes were sent again, as they were.
    pub full: u64,
    /// Every wait that was a stall.
    pub stalls: Vec<Stall>,
}

impl Spell {
    /// Fails unless every write was answered, and none with an error.
    pub fn expect_clean(&self) -> &Spell {
        assert_eq!((self.errors, self.pending), (0, 0), "errors, and writes without an answer");
        self
    }

    /// The longest stall of requests that were under way between two moments.
    pub fn longest_between(&self, from: Instant, to: Instant) -> Duration {
        let felt = self.stalls.iter().filter(|s| s.since <= to && s.since + s.lasted >= from);
        felt.map(|s| s.lasted).max().unwrap_or_default()
    }
}

/// The memory of one volume's region, and its writers.
#[derive(Debug)]
pub struct Checker {
    socket: PathBuf,
    name: String,
    seed: u64,
    writers: Vec<Writer>,
    depth: usize,
}

/// A write on its way.
#[derive(Clone, Copy, Debug)]
struct Sent {
    first: u64,
    count: u64,
    number: u32,
    at: Instant,
}

#[derive(Debug)]
struct Writer {
    cells: BTreeMap<u64, Vec<Cell>>,
    number: u32,
    random: SmallRng,
}

impl Checker {
    /// Of the first `bytes` of the volume `name` at `socket`, with `writers` connections of `depth` requests each.
    pub fn new(socket: &Path, name: &str, bytes: u64, writers: usize, depth: usize, seed: u64) -> Checker {
        let stripes = bytes / CELL as u64 / STRIPE;
        assert!(stripes >= writers as u64, "each writer needs a stripe of its own");
        let writers = (0..writers as u64)
            .map(|writer| {
                let own = (0..stripes).filter(|stripe| stripe % writers as u64 == writer);
                let cells = own.map(|stripe| (stripe, vec![Cell::default(); STRIPE as usize])).collect();
                Writer { cells, number: 0, random: SmallRng::seed_from_u64(seed ^ (writer << 32)) }
            })
            .collect();
        Checker { socket: socket.to_owned(), name: name.to_owned(), seed, writers, depth }
    }

    /// Writes while `work` runs, however that ends, and gives what both came to.
    pub fn beside<T>(&mut self, work: impl FnOnce() -> T) -> (Spell, T) {
        /// A panic of the work must not leave writers that nobody stops.
        struct Stops<'a>(&'a AtomicBool);
        impl Drop for Stops<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| self.write(&stop));
            let stops = Stops(&stop);
            let done = work();
            drop(stops);
            let spell = writing.join().expect("writers do not panic").expect("writers connect");
            (spell, done)
        })
    }

    /// Writes for some time.
    pub fn write_for(&mut self, time: Duration) -> Spell {
        self.beside(|| std::thread::sleep(time)).0
    }

    /// Writes until `stop` or the connections end. Which answers came is remembered.
    fn write(&mut self, stop: &AtomicBool) -> Result<Spell> {
        let (socket, name, seed, depth) = (&self.socket, &self.name, self.seed, self.depth);
        let spells = std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .writers
                .iter_mut()
                .map(|writer| scope.spawn(move || writer.write(socket, name, seed, depth, stop)))
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().expect("a writer does not panic"))
                .collect::<Result<Vec<Spell>>>()
        })?;
        let mut sum = Spell::default();
        for spell in spells {
            sum.answered += spell.answered;
            sum.pending += spell.pending;
            sum.errors += spell.errors;
            sum.full += spell.full;
            sum.longest = sum.longest.max(spell.longest);
            sum.stalls.extend(spell.stalls);
        }
        Ok(sum)
    }

    /// Reads everything; a failure that names the first cell that holds what it must not. What it saw is settled: it must
    /// be seen from now on.
    pub fn verify(&mut self) -> Result<()> {
        let mut client = Client::connect(&self.socket, &self.name).context("connect to read back")?;
        client.limit(Some(Duration::from_secs(120)))?;
        let mut data = vec![0; STRIPE as usize * CELL];
        for writer in &mut self.writers {
            for (stripe, cells) in &mut writer.cells {
                let first = stripe * STRIPE;
                client
                    .read(first * CELL as u64, &mut data)
                    .with_context(|| format!("read stripe {stripe}"))?;
                for (at, (cell, bytes)) in cells.iter_mut().zip(data.chunks_exact(CELL)).enumerate() {
                    let number = number_in(self.seed, first + at as u64, bytes)?;
                    if number != cell.answered && Some(number) != cell.pending {
                        bail!(
                            "cell {} holds write {number}; write {} was answered, {:?} was on its way",
                            first + at as u64,
                            cell.answered,
                            cell.pending
                        );
                    }
                    *cell = Cell { answered: number, pending: None };
                }
            }
        }
        Ok(())
    }
}

impl Sent {
    /// Sends it; false when the connection ended.
    fn send(self, client: &mut Client, seed: u64, under_way: &mut BTreeMap<u64, Sent>) -> bool {
        let cells = self.first..self.first + self.count;
        let data: Vec<u8> = cells.flat_map(|cell| content(seed, cell, self.number)).collect();
        let sent = client.send_write(self.first * CELL as u64, &data);
        sent.map(|handle| under_way.insert(handle, Sent { at: Instant::now(), ..self })).is_ok()
    }
}

impl Writer {
    fn write(
        &mut self,
        socket: &Path,
        name: &str,
        seed: u64,
        depth: usize,
        stop: &AtomicBool,
    ) -> Result<Spell> {
        let mut client = Client::connect(socket, name).context("connect to write")?;
        let mut spell = Spell::default();
        let mut under_way: BTreeMap<u64, Sent> = BTreeMap::new();
        let mut ended = false;
        loop {
            let wants_more = !stop.load(Ordering::Relaxed);
            while wants_more && !ended && under_way.len() < depth {
                let Some((first, count)) = self.choose(&under_way) else { break };
                self.number += 1;
                let write = Sent { first, count, number: self.number, at: Instant::now() };
                for cell in first..first + count {
                    self.cell(cell).pending = Some(self.number);
                }
                ended = !write.send(&mut client, seed, &mut under_way);
            }
            if ended || under_way.is_empty() {
                break;
            }
            let Ok((handle, errno)) = client.answer() else { break };
            let write = under_way.remove(&handle).context("an answer to nothing")?;
            let lasted = write.at.elapsed();
            spell.longest = spell.longest.max(lasted);
            if lasted >= STALL {
                spell.stalls.push(Stall { since: write.at, lasted });
            }
            match errno as i32 {
                0 => {
                    spell.answered += 1;
                    for cell in write.first..write.first + write.count {
                        *self.cell(cell) = Cell { answered: write.number, pending: None };
                    }
                }
                libc::ENOSPC => {
                    // what a client does who keeps what it could not write
                    spell.full += 1;
                    std::thread::sleep(FULL_REST);
                    ended = !write.send(&mut client, seed, &mut under_way);
                }
                // Refused whole: what was there before is there still. But a piece of it may have been done.
                _ => spell.errors += 1,
            }
        }
        spell.pending = under_way.len() as u64;
        Ok(spell)
    }

    fn cell(&mut self, cell: u64) -> &mut Cell {
        let stripe = self.cells.get_mut(&(cell / STRIPE)).expect("a cell of its own");
        &mut stripe[(cell % STRIPE) as usize]
    }

    /// Cells to write next: none that are under way, so that each has one possible successor.
    fn choose(&mut self, under_way: &BTreeMap<u64, Sent>) -> Option<(u64, u64)> {
        for _ in 0..32 {
            let at = self.random.random_range(0..self.cells.len());
            let stripe = *self.cells.keys().nth(at)?;
            let (count, align) = match self.random.random_range(0..8) {
                0 => (1, 1),
                1 => (self.random.random_range(1..12), 1),
                2..=5 => (8, 8),
                6 => (self.random.random_range(1..8) * 8, 8),
                _ => (WRITE_CELLS_MAX, 8),
            };
            let first = stripe * STRIPE + self.random.random_range(0..=(STRIPE - count) / align) * align;
            let is_free = under_way.values().all(|w| first + count <= w.first || w.first + w.count <= first);
            let is_settled = (first..first + count).all(|cell| self.cell(cell).pending.is_none());
            if is_free && is_settled {
                return Some((first, count));
            }
        }
        None
    }
}

fn word(seed: u64, cell: u64, number: u32, at: usize) -> u64 {
    let mut x = seed ^ cell.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(number) << 24) ^ at as u64;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What write `number` puts into a cell: where it belongs and its number, then words that follow from them.
fn content(seed: u64, cell: u64, number: u32) -> [u8; CELL] {
    let mut bytes = [0; CELL];
    for (at, place) in bytes.chunks_exact_mut(8).enumerate() {
        let value = match at {
            0 => cell,
            1 => u64::from(number),
            _ => word(seed, cell, number, at),
        };
        place.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// Which write a cell holds, 0 for none; a failure when it holds nothing that was ever written to it.
fn number_in(seed: u64, cell: u64, bytes: &[u8]) -> Result<u32> {
    if bytes.iter().all(|b| *b == 0) {
        return Ok(0);
    }
    let at = |word: usize| u64::from_le_bytes(bytes[word * 8..word * 8 + 8].try_into().expect("8 bytes"));
    let number = at(1) as u32;
    if at(0) != cell || at(1) >> 32 != 0 || bytes != content(seed, cell, number) {
        let differ = (2..WORDS).filter(|w| at(*w) != word(seed, cell, number, *w)).count();
        bail!(
            "cell {cell} holds what nobody wrote: it says cell {} write {}, {differ} words differ",
            at(0),
            at(1)
        );
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_says_which_write_it_holds() {
        let bytes = content(7, 1234, 9);
        assert_eq!(number_in(7, 1234, &bytes).unwrap(), 9);
        assert_eq!(number_in(7, 1234, &[0; CELL]).unwrap(), 0);
        assert!(number_in(7, 1235, &bytes).is_err());
        assert!(number_in(8, 1234, &bytes).is_err());
        for bit in (0..CELL * 8).step_by(37) {
            let mut rotten = bytes;
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert!(number_in(7, 1234, &rotten).is_err(), "bit {bit}");
        }
    }
}
