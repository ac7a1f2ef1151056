//! Clients on one small region: each writes and reads cells that the others write and read too.
use crate::history::{History, Seen};
use crate::nbd::Client;
use crate::program::wait_until;
use anyhow::{Context, Result, bail};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a cell: one block, which is written and read whole (`README.md`).
const CELL: usize = 4096;
/// What one answer may take: more is a hang.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// Bytes of a chunk: cells are spread over so many of them, and so over groups, which differ in who leads.
const CHUNK: u64 = 4 << 20;
const CHUNKS: usize = 16;
/// Bytes of a volume that holds them all.
pub const BYTES: u64 = CHUNKS as u64 * CHUNK;

fn offset_of(cell: usize) -> u64 {
    (cell % CHUNKS) as u64 * CHUNK + (cell / CHUNKS * CELL) as u64
}

/// After an answer that there is no space.
const FULL_REST: Duration = Duration::from_millis(100);

/// Whether the export at the other end is gone.
fn is_hang_up(why: &std::io::Error) -> bool {
    matches!(why.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// An operation that took long.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// When it was answered.
    pub ended: Instant,
    /// How long it took.
    pub took: Duration,
}

/// See the module.
pub struct Shared {
    socket: PathBuf,
    name: String,
    start: Instant,
    cells: Vec<Mutex<History>>,
    /// Operations of more than 100 ms.
    pub waits: Mutex<Vec<Wait>>,
    /// Writes refused for want of space.
    pub full: AtomicU64,
    /// Connections that ended.
    pub broken: AtomicU64,
}

/// A cell full of one value.
fn filled(value: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(CELL / 8)
}
/// The value of a cell, if it is full of one.
fn value_of(cell: &[u8]) -> Result<u64> {
    let mut words = cell.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().expect("eight bytes")));
    let first = words.next().context("a cell has bytes")?;
    match words.find(|w| *w != first) {
        Some(other) => bail!("a block of two halves: {first} and {other}"),
        None => Ok(first),
    }
}

impl Shared {
    /// The first `cells` cells of the volume `name`, which nobody wrote before.
    pub fn new(socket: &Path, name: &str, cells: usize) -> Shared {
        Shared {
            socket: socket.to_owned(),
            name: name.to_owned(),
            start: Instant::now(),
            cells: (0..cells).map(|_| Mutex::default()).collect(),
            waits: Mutex::default(),
            full: AtomicU64::new(0),
            broken: AtomicU64::new(0),
        }
    }

    /// One client, until it is told to stop; the operations it did. Values are its number and how many it wrote before.
    pub fn client(&self, number: u64, seed: u64, stop: &AtomicBool) -> Result<u64> {
        let mut random = SmallRng::seed_from_u64(seed ^ number << 40);
        let mut client = self.connect()?;
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            count += 1;
            let at = random.random_range(0..self.cells.len());
            let is_write = random.random_bool(0.5);
            self.operate(&mut client, at, is_write.then_some(number << 32 | count))?;
        }
        Ok(count)
    }

    /// Reads every cell once more, so that what is there in the end is judged too.
    pub fn read_all(&self) -> Result<()> {
        let mut client = self.connect()?;
        (0..self.cells.len()).try_for_each(|at| self.operate(&mut client, at, None))
    }

    /// An export that was killed is there again soon.
    fn connect(&self) -> Result<Client> {
        let mut client = Err(std::io::ErrorKind::NotConnected.into());
        wait_until("connect", ANSWER_MAX, || {
            client = Client::connect(&self.socket, &self.name);
            Ok(client.is_ok())
        })?;
        let client = client?;
        client.limit(Some(ANSWER_MAX))?;
        Ok(client)
    }

    fn operate(&self, client: &mut Client, at: usize, write: Option<u64>) -> Result<()> {
        let began = Instant::now();
        let offset = offset_of(at);
        let mut cell = vec![0; CELL];
        let done = match write {
            Some(value) => client.write(offset, &filled(value)).map(|()| value),
            None => match client.read(offset, &mut cell) {
                Ok(()) => Ok(value_of(&cell).with_context(|| format!("cell {at}"))?),
                Err(why) => Err(why),
            },
        };
        let ended = Instant::now();
        let mut history = self.cells[at].lock().expect("no client panics");
        let is_write = write.is_some();
        match (&done, write) {
            (Ok(value), _) => history.note(Seen { value: *value, is_write, began, ended: Some(ended) }),
            (Err(_), Some(value)) => history.note(Seen { value, is_write, began, ended: None }),
            (Err(_), None) => {}
        }
        drop(history);
        let took = ended - began;
        if took > Duration::from_millis(100) {
            self.waits.lock().expect("no client panics").push(Wait { ended, took });
        }
        match done {
            Ok(_) => Ok(()),
            Err(why) if is_write && why.raw_os_error() == Some(libc::ENOSPC) => {
                self.full.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(FULL_REST);
                Ok(())
            }
            Err(why) if is_hang_up(&why) => {
                self.broken.fetch_add(1, Ordering::Relaxed);
                *client = self.connect()?;
                Ok(())
            }
            // an export outlives its nodes: it makes clients wait, and refuses nothing
            Err(why) => Err(why).with_context(|| format!("cell {at}, after {:.1} s", took.as_secs_f32())),
        }
    }

    /// Judges all that was seen; how many operations that were.
    pub fn check(&self) -> Result<usize> {
        let mut count = 0;
        for (at, cell) in self.cells.iter().enumerate() {
            let history = cell.lock().expect("no client panics");
            count += history.len();
            if let Err(why) = history.check(self.start) {
                bail!("cell {at}: {why}");
            }
        }
        Ok(count)
    }
}
