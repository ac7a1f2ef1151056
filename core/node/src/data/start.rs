//! Starting the thread of a slice, and the way to talk to it.
use super::machine::Opened;
use super::thread::{self, ThreadConfig};
use crate::seam::{FromSlice, ToSlice};
use sarsen_buffer::{Arena, Pool};
use sarsen_ring::{Ring, RingConfig, Waker};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

/// Bytes of a slice's buffers that the kernel keeps at hand (L5): what small requests need; 1 MiB ones find the rest elsewhere.
const ARENA_BYTES: usize = 16 << 20;

/// Each refusal is one warning (L8).
static REFUSAL: Once = Once::new();
static RING_REFUSAL: Once = Once::new();

/// A way to a slice's thread.
#[derive(Clone, Debug)]
pub struct SliceHandle {
    sender: Sender<ToSlice>,
    waker: Waker,
}

impl SliceHandle {
    /// Sends and wakes; nothing when the thread has ended.
    pub fn send(&self, message: ToSlice) {
        if self.sender.send(message).is_ok() {
            self.waker.wake();
        }
    }
}

/// A started thread: the way to it, what its opening found, and its end.
pub struct Started<F> {
    /// The way to it.
    pub handle: SliceHandle,
    /// What `open` found.
    pub facts: F,
    /// Its end.
    pub thread: JoinHandle<()>,
}

/// Starts a thread that opens a store with `open`, waits for the registration and turns from then on. Returns when the
/// store is open, or is not and why.
pub fn start_slice<S, F>(
    name: String,
    ring: RingConfig,
    config: ThreadConfig,
    open: impl FnOnce(&mut Ring, &Pool) -> Result<(S, F), String> + Send + 'static,
) -> Result<Started<F>, String>
where
    S: Opened,
    F: Send + 'static,
{
    let (sender, inbox) = mpsc::channel();
    let (opened, opening) = mpsc::channel();
    let body = move || {
        if config.marks_thread
            && let Err(refusal) = sarsen_ring::mark_io_thread()
        {
            REFUSAL.call_once(|| tracing::warn!("{refusal}"));
        }
        let pool = Pool::over(Arena::new(ARENA_BYTES.min(config.budget.share().payload)));
        let result = Ring::new(ring, &pool)
            .map_err(|why| why.to_string())
            .inspect(|ring| {
                if let Some(refusal) = ring.refusal().filter(|_| config.marks_thread) {
                    RING_REFUSAL.call_once(|| tracing::warn!("{refusal}"));
                }
            })
            .and_then(|mut ring| open(&mut ring, &pool).map(|(store, facts)| (ring, store, facts)));
        match result {
            Ok((ring, store, facts)) => {
                let _ = opened.send(Ok((ring.waker(), facts)));
                let reports = config.reports.clone();
                // a machine that finds itself inconsistent ends its slice, not the node
                let ended = catch_unwind(AssertUnwindSafe(|| thread::run(ring, store, inbox, config)));
                let slice = thread::current_slice().unwrap_or_default();
                if let Err(panic) = ended {
                    let why = (panic.downcast_ref::<String>().map(String::as_str))
                        .or(panic.downcast_ref::<&str>().copied())
                        .unwrap_or("it panicked");
                    reports(FromSlice::Failed { slice, why: why.to_owned() });
                }
                // whoever counts threads counts those of drives that were never registered, too
                reports(FromSlice::Stopped { slice });
            }
            Err(why) => drop(opened.send(Err(why))),
        }
    };
    let thread = std::thread::Builder::new().name(name).spawn(body).map_err(|why| why.to_string())?;
    match opening.recv() {
        Ok(Ok((waker, facts))) => Ok(Started { handle: SliceHandle { sender, waker }, facts, thread }),
        Ok(Err(why)) => Err(why),
        Err(_) => Err("the thread that opens it ended; its panic is in the log".into()),
    }
}
