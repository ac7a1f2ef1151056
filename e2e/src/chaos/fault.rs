//! What goes wrong. Each fault ends by itself: what it stopped runs again when it returns.
use super::cluster::{Cluster, NODES};
use super::drive::Mood;
use crate::nbd;
use anyhow::{Context, Result, ensure};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The number of the export whose clients share a volume.
pub const SHARED: usize = 0;
/// The volume that fills the drives, and nothing else.
pub const FILLER: &str = "filler";
/// Its bytes: more than a drive holds.
pub const FILLER_SIZE: &str = "1GiB";
/// How long a node whose drive is dead may go on.
const DEATH_MAX: Duration = Duration::from_secs(30);
/// What an answer may take while the drives are filled.
const FILL_MAX: Duration = Duration::from_secs(120);
/// Clocks are stepped by at most this many seconds.
const STEP_MAX: i64 = 1_000_000;

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
    /// Nothing passes between two nodes.
    CutLink,
    /// Nothing passes from one node to another, but the other way.
    CutOneWay,
    /// A node is reached by nobody.
    Isolate,
    /// Between an export and a node nothing passes, in one direction or both.
    CutExport,
    /// All that a node sends and receives passes slowly.
    SlowLink,
    /// One node is cut off while another is killed and comes back.
    KillBesideCut,
    /// SIGKILL to the export whose clients connect again, and another at its place.
    KillExport,
    /// A drive gives errors for everything, then works again.
    DriveFails,
    /// A drive answers nothing for 0.1 to 12 s.
    DriveHangs,
    /// A drive hangs, and its node is killed.
    KillBesideHang,
    /// A node starts while its drive hangs.
    StartBesideHang,
    /// A drive is pulled out; its node starts without it, in vain; it comes back.
    DriveGone,
    /// All drives are filled to the brim, then emptied.
    DriveFull,
    /// The time of day of a node jumps, there and back.
    ClockStep,
}

/// All of them.
pub const ALL: [Fault; 22] = [
    Fault::Kill,
    Fault::Blink,
    Fault::Pause,
    Fault::PauseTwo,
    Fault::KillTwo,
    Fault::KillAll,
    Fault::Stop,
    Fault::KillBesidePause,
    Fault::CutLink,
    Fault::CutOneWay,
    Fault::Isolate,
    Fault::CutExport,
    Fault::SlowLink,
    Fault::KillBesideCut,
    Fault::KillExport,
    Fault::DriveFails,
    Fault::DriveHangs,
    Fault::KillBesideHang,
    Fault::StartBesideHang,
    Fault::DriveGone,
    Fault::DriveFull,
    Fault::ClockStep,
];

fn some_time(random: &mut SmallRng, most_ms: u64) -> Duration {
    Duration::from_millis(random.random_range(100..=most_ms))
}

impl Fault {
    /// Makes it happen to nodes drawn from `random`, and puts it right again.
    pub fn strike(self, cluster: &mut Cluster, random: &mut SmallRng) -> Result<()> {
        let mut nodes: Vec<u32> = (1..=NODES).collect();
        nodes.shuffle(random);
        let (first, second) = (nodes[0], nodes[1]);
        match self {
            Fault::Kill | Fault::Blink => {
                let most = if self == Fault::Kill { 6000 } else { 101 };
                kill(cluster, &nodes[..1], some_time(random, most))
            }
            Fault::KillTwo => kill(cluster, &nodes[..2], some_time(random, 2000)),
            Fault::KillAll => kill(cluster, &nodes, some_time(random, 2000)),
            Fault::Pause => pause(cluster, &nodes[..1], some_time(random, 10_000)),
            Fault::PauseTwo => pause(cluster, &nodes[..2], some_time(random, 10_000)),
            Fault::Stop => {
                cluster.stop_node(first)?;
                sleep(some_time(random, 3000));
                cluster.start_node(first)
            }
            Fault::KillBesidePause => {
                cluster.signal_node(first, libc::SIGSTOP)?;
                let killed = kill(cluster, &[second], some_time(random, 5000));
                sleep(some_time(random, 3000));
                cluster.signal_node(first, libc::SIGCONT)?;
                killed
            }
            Fault::CutLink | Fault::CutOneWay => {
                cluster.net().cut(first, second)?;
                if self == Fault::CutLink {
                    cluster.net().cut(second, first)?;
                }
                sleep(some_time(random, 8000));
                cluster.net().mend()
            }
            Fault::Isolate => {
                cluster.net().isolate(first)?;
                sleep(some_time(random, 8000));
                cluster.net().mend()
            }
            Fault::CutExport => {
                let export = cluster.host_of_export(random.random_range(0..cluster.exports()));
                let ways = random.random_range(1..=3);
                if ways & 1 != 0 {
                    cluster.net().cut(first, export)?;
                }
                if ways & 2 != 0 {
                    cluster.net().cut(export, first)?;
                }
                sleep(some_time(random, 8000));
                cluster.net().mend()
            }
            Fault::SlowLink => {
                cluster.net().slow(first, random.random_range(100..20_000))?;
                sleep(some_time(random, 10_000));
                cluster.net().mend()
            }
            Fault::KillBesideCut => {
                cluster.net().isolate(first)?;
                let killed = kill(cluster, &[second], some_time(random, 5000));
                sleep(some_time(random, 2000));
                cluster.net().mend()?;
                killed
            }
            Fault::KillExport => {
                cluster.kill_export(SHARED)?;
                sleep(some_time(random, 1000));
                cluster.start_export(SHARED)
            }
            Fault::DriveFails => {
                cluster.set_drive(first, Mood::Fails);
                cluster.wait_drives(NODES - 1)?;
                sleep(some_time(random, 3000));
                // a drive that failed is not trusted again by the process that saw it; one that was just starting has ended
                cluster.set_drive(first, Mood::Works);
                if !cluster.has_ended(first, Duration::from_millis(100))? {
                    cluster.stop_node(first)?;
                }
                cluster.start_node(first)
            }
            Fault::DriveHangs => {
                cluster.set_drive(first, Mood::Hangs);
                sleep(some_time(random, 12_000));
                cluster.set_drive(first, Mood::Works);
                Ok(())
            }
            Fault::KillBesideHang => {
                cluster.set_drive(first, Mood::Hangs);
                sleep(some_time(random, 4000));
                cluster.signal_node(first, libc::SIGKILL)?;
                sleep(some_time(random, 4000));
                cluster.set_drive(first, Mood::Works);
                cluster.kill_node(first)?;
                cluster.start_node(first)
            }
            Fault::StartBesideHang => {
                cluster.kill_node(first)?;
                cluster.set_drive(first, Mood::Hangs);
                cluster.start_node(first)?;
                sleep(some_time(random, 8000));
                cluster.set_drive(first, Mood::Works);
                Ok(())
            }
            Fault::DriveGone => {
                cluster.set_drive(first, Mood::Gone);
                cluster.wait_drives(NODES - 1)?;
                cluster.kill_node(first)?;
                cluster.start_node(first)?;
                let ended = cluster.has_ended(first, DEATH_MAX)?;
                ensure!(ended, "node {first} started without its only drive");
                cluster.set_drive(first, Mood::Works);
                cluster.start_node(first)
            }
            Fault::DriveFull => fill(cluster),
            Fault::ClockStep => {
                let off = random.random_range(-STEP_MAX..=STEP_MAX);
                cluster.step_clock(first, off)?;
                sleep(some_time(random, 4000));
                cluster.step_clock(first, 0)
            }
        }
    }
}

fn kill(cluster: &mut Cluster, nodes: &[u32], away: Duration) -> Result<()> {
    nodes.iter().try_for_each(|node| cluster.signal_node(*node, libc::SIGKILL))?;
    nodes.iter().try_for_each(|node| cluster.kill_node(*node))?;
    sleep(away);
    nodes.iter().try_for_each(|node| cluster.start_node(*node))
}

fn pause(cluster: &mut Cluster, nodes: &[u32], still: Duration) -> Result<()> {
    nodes.iter().try_for_each(|node| cluster.signal_node(*node, libc::SIGSTOP))?;
    sleep(still);
    nodes.iter().try_for_each(|node| cluster.signal_node(*node, libc::SIGCONT))
}

/// Writes until there is no space, then gives all of it back.
fn fill(cluster: &Cluster) -> Result<()> {
    let mut client = nbd::Client::connect(&cluster.socket(FILLER), FILLER).context("connect to fill")?;
    client.limit(Some(FILL_MAX))?;
    let data: Vec<u8> = (0..1u32 << 18).flat_map(|word| (word ^ 0x5a5a_5a5a).to_le_bytes()).collect();
    let end = client.size();
    let began = Instant::now();
    let mut at = 0;
    let full = loop {
        if at == end {
            break false;
        }
        match client.write(at, &data) {
            Ok(()) => at += data.len() as u64,
            Err(why) if why.raw_os_error() == Some(libc::ENOSPC) => break true,
            Err(why) => return Err(why).context("fill the drives"),
        }
    };
    ensure!(full, "a volume of {end} bytes found room on smaller drives");
    println!("{:14}full after {} MiB, {:.1} s", "", at >> 20, began.elapsed().as_secs_f32());
    client.command(nbd::Command::Trim, 0, end as u32).context("give space back")
}
