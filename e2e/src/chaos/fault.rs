//! What goes wrong. Each fault ends by itself: what it stopped runs again when it returns.
use crate::dev::Dev;
use crate::process::{kill, signal};
use anyhow::{Context, Result};
use rand::Rng;
use rand::rngs::SmallRng;
use std::thread::sleep;
use std::time::Duration;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// SIGKILL to a node, which is started again after up to six seconds.
    Kill,
    /// The same, and started at once: back before it is missed.
    Blink,
    /// A node stands still for 0.1 to 10 s.
    Pause,
    /// Two nodes stand still at once.
    PauseTwo,
    /// SIGKILL to two nodes.
    KillTwo,
    /// SIGKILL to all nodes.
    KillAll,
    /// A node stops in order, and is started again.
    Stop,
    /// One node stands still while another is killed and comes back.
    KillBesidePause,
}

/// All of them.
pub const ALL: [Fault; 8] = [
    Fault::Kill,
    Fault::Blink,
    Fault::Pause,
    Fault::PauseTwo,
    Fault::KillTwo,
    Fault::KillAll,
    Fault::Stop,
    Fault::KillBesidePause,
];

fn some_time(random: &mut SmallRng, most_ms: u64) -> Duration {
    Duration::from_millis(random.random_range(100..=most_ms))
}

impl Fault {
    /// Makes it happen to nodes drawn from `random`, and puts it right again.
    pub fn strike(self, dev: &Dev, random: &mut SmallRng) -> Result<()> {
        let nodes: Vec<u32> = dev.show()?.nodes.iter().map(|n| n.id).collect();
        let first = nodes[random.random_range(0..nodes.len())];
        let second =
            *nodes.iter().filter(|n| **n != first).nth(random.random_range(0..2)).context("three nodes")?;
        match self {
            Fault::Kill | Fault::Blink => {
                dev.kill_node(first)?;
                if self == Fault::Kill {
                    sleep(some_time(random, 6000));
                }
                dev.start_node(first)
            }
            Fault::Pause | Fault::PauseTwo => {
                let pids = match self {
                    Fault::Pause => vec![dev.pid_of(first)?],
                    _ => vec![dev.pid_of(first)?, dev.pid_of(second)?],
                };
                pids.iter().for_each(|pid| signal(*pid, libc::SIGSTOP));
                sleep(some_time(random, 10_000));
                pids.iter().for_each(|pid| signal(*pid, libc::SIGCONT));
                Ok(())
            }
            Fault::KillTwo | Fault::KillAll => {
                let all = if self == Fault::KillAll { nodes } else { vec![first, second] };
                let pids = all.iter().map(|n| dev.pid_of(*n)).collect::<Result<Vec<u32>>>()?;
                pids.into_iter().for_each(kill);
                all.iter().try_for_each(|n| dev.wait_dead(*n))?;
                sleep(some_time(random, 2000));
                all.iter().try_for_each(|n| dev.start_node(*n))
            }
            Fault::Stop => {
                dev.stop_node(first)?;
                sleep(some_time(random, 3000));
                dev.start_node(first)
            }
            Fault::KillBesidePause => {
                let still = dev.pid_of(first)?;
                signal(still, libc::SIGSTOP);
                let killed = dev.kill_node(second);
                sleep(some_time(random, 5000));
                let started = killed.and_then(|()| dev.start_node(second));
                sleep(some_time(random, 3000));
                signal(still, libc::SIGCONT);
                started
            }
        }
    }
}
