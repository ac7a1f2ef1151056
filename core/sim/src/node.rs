//! A node: one drive, one slice; how it opens, registers, ends and comes back.
use crate::cluster::Cluster;
use rand::Rng;
use rand::rngs::SmallRng;
use sarsen_buffer::Pool;
use sarsen_control::command::{Answer, Command, Register};
use sarsen_control::hand_over;
use sarsen_slice::{Config, Input, Output, Slice};
use sarsen_store::drive::{self, FormatParams, slice_identity};
use sarsen_store::memory::{Fate, Image, MemDisk};
use sarsen_store::{Options, SliceRegion, Store};
use sarsen_types::view::NodeAddress;
use sarsen_types::*;

/// Bytes of a drive.
pub const DRIVE_BYTES: u64 = 40 << 20;
/// A stopping node waits so long between the steps of handing over, as `sarsen node` does.
const CONFIRM: Duration = Duration::from_millis(200);
/// Between leaving in_sync and the end of its process.
const LEFT: Duration = Duration::from_millis(50);
/// A node that stops and hands nothing over within this stops all the same.
const HAND_OVER_MAX: Duration = Duration::from_secs(3);
/// Of a start's chances that its drive's image, as it was before, is what a roll-back will bring one day.
const KEEPS_IMAGE: f64 = 0.3;

/// How a node ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Its process ends: its connections with it, and all that was written stays.
    Kill,
    /// Its power goes: nobody is told, and what was not synced is kept, lost or torn as the dice say.
    PowerLoss,
}

/// A planned stop, and since when its step lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stopping {
    HandsOver(Instant),
    Confirms(Instant),
    Leaves(Instant),
}

/// What a registration will say: the ids its superblock held, and whether its journal is broken.
#[derive(Clone, Debug)]
struct Claim {
    held: Vec<OpenId>,
    is_broken: bool,
}

/// See the module.
pub struct Node {
    identity: DriveIdentity,
    /// What it runs; `None` while it is down.
    pub slice: Option<Slice<MemDisk>>,
    /// Its drive while it is down.
    pub disk: Option<Image>,
    /// Where the slice is on the drive.
    pub region: SliceRegion,
    pool: Pool,
    /// What becomes free on its drive is taken first.
    reuses_soon: bool,
    /// Its drive's present opening.
    pub open: OpenId,
    /// Metadata's id of its drive's slice.
    pub id: Option<SliceId>,
    /// When its slice began, by its clock.
    pub since: Instant,
    /// When its clock last stood still, by that clock: whoever it heard before may lead still for all it knows (R2).
    pub stood_still: Instant,
    /// When its registration is answered.
    pub registers_at: Option<Instant>,
    /// Its clock against the simulator's: offset, and drift in parts per thousand.
    offset: u64,
    drift: i64,
    /// Takes no turns until then; its clock stops too when set.
    pub paused_until: Option<(Instant, bool)>,
    stopped: u64,
    /// Deaf to the metadata.
    pub is_cut_off: bool,
    /// When it learns of the newest metadata.
    pub learns_at: Option<Instant>,
    claim: Option<Claim>,
    /// Its disk completes nothing until then.
    pub hung_until: Option<Instant>,
    /// Starts again then.
    pub returns_at: Option<Instant>,
    stopping: Option<Stopping>,
    /// Its drive as it was before one of its openings: what a roll-back brings.
    pub older: Option<Image>,
    /// Bits of its drive flipped, and nobody knows which.
    pub is_rotten: bool,
    /// Bits of its drive flipped once: what is corrupt there has a cause.
    pub had_rot: bool,
    /// The drive it had before, gone for good: somebody may say so (R28).
    pub lost: Option<DriveId>,
    /// Its drive ended under it (S9).
    pub has_failed: bool,
    /// Its power is off: nobody hears that it is gone.
    pub is_dark: bool,
    /// Drives it had.
    drives: u32,
    pub(crate) out: Vec<Output>,
    /// Something came since its last turn.
    pub(crate) is_touched: bool,
    /// What came while it stood still.
    pub(crate) later: Vec<Input>,
}

fn blank(identity: DriveIdentity) -> (Image, SliceRegion) {
    let mut disk = MemDisk::new(DRIVE_BYTES);
    let superblock = drive::format(&mut disk, FormatParams { identity, slices: 1 }).expect("it fits");
    (disk.crash(|| Fate::Kept), superblock.slices[0])
}

/// How a node makes itself known.
pub fn node_command(node: usize) -> Command {
    let address = NodeAddress { data: String::new(), unix: None, boot_id: node.to_string() };
    Command::Node { identity: node as u128 + 1, api: format!("http://node{node}"), address }
}

fn identity(node: usize, drives: u32) -> DriveIdentity {
    DriveIdentity((node as u128 + 1) << 32 | u128::from(drives) << 16)
}

impl Node {
    /// A node with a blank drive, not started.
    pub fn new(at: usize, pool: Pool, reuses_soon: bool, rng: &mut SmallRng) -> Node {
        let identity = identity(at, 1);
        let (image, region) = blank(identity);
        Node {
            identity,
            slice: None,
            disk: Some(image),
            region,
            pool,
            reuses_soon,
            open: OpenId(0),
            id: None,
            since: Instant(0),
            stood_still: Instant(0),
            registers_at: None,
            offset: rng.random_range(1_000_000_000..50_000_000_000),
            drift: rng.random_range(-9..=9),
            paused_until: None,
            stopped: 0,
            is_cut_off: false,
            learns_at: None,
            claim: None,
            hung_until: None,
            returns_at: None,
            stopping: None,
            older: None,
            is_rotten: false,
            had_rot: false,
            lost: None,
            has_failed: false,
            is_dark: false,
            drives: 1,
            out: Vec::new(),
            is_touched: false,
            later: Vec::new(),
        }
    }

    /// Its own clock.
    pub fn clock(&self, now: Instant) -> Instant {
        let t = (now.0 - self.stopped) as i64;
        Instant((t + t * self.drift / 1000) as u64 + self.offset)
    }

    /// Time passes.
    pub fn pass(&mut self, now: Instant, tick: Duration) {
        if let Some((until, stops_clock)) = self.paused_until {
            if stops_clock {
                self.stopped += tick.as_nanos() as u64;
                self.stood_still = self.clock(now);
            }
            if until <= now {
                self.paused_until = None;
            }
        }
        if self.hung_until.is_some_and(|until| until <= now) {
            self.hung_until = None;
        }
    }

    /// Whether it is up and registered: what streams and views are for.
    pub fn is_up(&self) -> bool {
        self.slice.is_some() && self.registers_at.is_none()
    }

    /// Whether it is up, awake, heard, and knows the newest metadata.
    pub fn is_fine(&self, now: Instant, revision: Revision) -> bool {
        self.is_up()
            && self.paused_until.is_none_or(|p| p.0 <= now)
            && self.hung_until.is_none_or(|h| h <= now)
            && !self.is_cut_off
            && self.stopping.is_none()
            && self.slice.as_ref().is_some_and(|s| s.machine().view().revision == revision)
    }

    /// Its store, while it is up.
    pub fn store(&self) -> Option<&Store<MemDisk>> {
        self.slice.as_ref().map(|s| s.store())
    }

    /// Its store, to be asked what waits for the disk.
    pub fn store_mut(&mut self) -> Option<&mut Store<MemDisk>> {
        self.is_touched = true;
        self.slice.as_mut().map(|s| s.store_mut())
    }

    /// What is durable on its drive, to be damaged.
    pub fn image_mut(&mut self) -> Option<&mut Image> {
        match &mut self.slice {
            Some(slice) => Some(slice.store_mut().disk_mut().image_mut()),
            None => self.disk.as_mut(),
        }
    }

    fn options(&self) -> Options {
        let drive = slice_identity(self.identity, 0);
        let usual = Options::new(self.pool.clone(), drive, self.open, 16 << 20);
        let usual = Options { reuses_soon: self.reuses_soon, ..usual };
        // objects are few here: now and then anything is worth a run, else nothing ever is (S13)
        match self.open.0.is_multiple_of(2) {
            true => Options { spill_from: 1, ..usual },
            false => usual,
        }
    }
}

impl Cluster {
    /// Opens a node's drive and its slice; it registers soon. A drive that rot made unreadable is lost: another comes.
    pub fn start(&mut self, node: usize) {
        if self.nodes[node].slice.is_some() {
            return;
        }
        self.hang_up_on(node);
        self.opens += 1;
        let keeps = self.rng.random_bool(KEEPS_IMAGE);
        let longest = if self.is_gentle() { 30 } else { 300 };
        let delay = Duration::from_millis(self.rng.random_range(1..longest));
        let (now, lease, started, opens) = (self.now, self.lease, self.clock(node), self.opens);
        let (memory, epoch_writes) = (self.memory, self.epoch_writes);
        let n = &mut self.nodes[node];
        (n.returns_at, n.stopping, n.is_dark) = (None, None, false);
        let Some(image) = n.disk.take() else { return };
        if n.older.is_none() || (keeps && !n.is_rotten) {
            n.older = Some(image.clone());
        }
        n.open = OpenId(opens);
        let (store, opened, held) = match n.opened(image) {
            Ok(opened) => opened,
            Err(why) => return self.does_not_open(node, &why),
        };
        let config = Config { id: n.id.unwrap_or_default(), lease, started, memory, epoch_writes };
        n.slice = Some(Slice::new(config, store, n.pool.clone()));
        (n.since, n.registers_at) = (started, Some(now + delay));
        (n.paused_until, n.hung_until, n.learns_at) = (None, None, None);
        n.later.clear();
        n.claim = Some(Claim { held, is_broken: opened.is_broken });
        self.say(|| format!("node {node} starts: {opened:?}"));
        self.tell(|| format!("node {node} starts"));
        *self.events.entry("damaged entries at open").or_default() += opened.damaged;
        *self.events.entry("map pages with a bad twin at open").or_default() += opened.ailing;
        if opened.is_broken {
            self.count("journals with a broken middle");
        }
    }

    fn does_not_open(&mut self, node: usize, why: &str) {
        assert!(self.nodes[node].is_rotten, "node {node} does not open, and nothing rotted: {why}");
        self.tell(|| format!("node {node} does not open: {why}"));
        self.count("drives that rot made unreadable");
        self.lose_drive(node);
        self.start(node);
    }

    /// A node's drive ended: its process says so, and another drive comes.
    pub(crate) fn drive_failed(&mut self, node: usize, why: String) {
        assert!(self.nodes[node].is_rotten, "node {node}'s drive failed, and nothing rotted: {why}");
        self.tell(|| format!("node {node}'s drive failed: {why}"));
        let n = &mut self.nodes[node];
        n.has_failed = true;
        let (drive, open) = (n.id.unwrap_or_default().drive, n.open);
        if !n.is_cut_off {
            self.command(Command::Failed { drive, open, why });
        }
    }

    /// A node's drive is gone for good: a blank one takes its place, which metadata do not know yet.
    pub fn lose_drive(&mut self, node: usize) {
        self.end(node, End::Kill);
        let n = &mut self.nodes[node];
        n.lost = n.id.map(|id| id.drive);
        n.drives += 1;
        n.identity = identity(node, n.drives);
        let (image, region) = blank(n.identity);
        (n.disk, n.region, n.id, n.older, n.is_rotten) = (Some(image), region, None, None, false);
        n.had_rot = false;
        self.damaged = Some(node);
        self.count("drives lost");
        self.tell(|| format!("the drive of node {node} is gone, and it has a blank one"));
    }

    /// A node's drive comes back as it was before its present opening, or one before that.
    pub fn roll_back(&mut self, node: usize) {
        self.end(node, End::Kill);
        let n = &mut self.nodes[node];
        let Some(older) = n.older.clone() else { return };
        (n.disk, n.is_rotten) = (Some(older), false);
        self.damaged = Some(node);
        self.tell(|| format!("the drive of node {node} is as it was at an earlier time"));
        self.count("drive images rolled back");
    }

    /// The metadata take a node's drive; what they answer may be lost, then it asks again.
    pub fn register(&mut self, node: usize) {
        let n = &self.nodes[node];
        let Some(claim) = n.claim.clone() else { return };
        // a process that began tells its addresses first: whatever drives it had are down until they register
        self.command(node_command(node));
        if let Some(drive) = self.nodes[node].lost.take()
            && self.rng.random_bool(0.5)
        {
            let groups = Some(self.meta.state.sole().remove(&drive).unwrap_or_default());
            self.command(Command::Forget { drive, groups, is_powered_off: true });
            assert!(!self.meta.state.drives.contains_key(&drive), "nobody uses {drive} any more");
            self.count("drives given up as lost");
        }
        let n = &self.nodes[node];
        let command = Command::Register(Register {
            identity: n.identity,
            node: NodeId(node as u32 + 1),
            open: n.open,
            opens: claim.held,
            path: format!("drive{node}"),
            class: "ssd".into(),
            slices: 1,
            size: DRIVE_BYTES,
            total_blocks: 8192,
            used_blocks: 0,
            is_broken: claim.is_broken,
        });
        let Answer::Registered { drive, is_stale } = self.command(command) else {
            panic!("a registration is accepted")
        };
        if self.bad_luck(0.1) {
            self.count("registrations whose answer was lost");
            let wait = Duration::from_millis(self.rng.random_range(20..600));
            self.nodes[node].registers_at = Some(self.now + wait);
            return;
        }
        let id = SliceId { drive, index: 0 };
        if is_stale {
            self.count("stale drives registered");
        }
        let (lease, started) = (self.lease, self.clock(node));
        let (memory, epoch_writes) = (self.memory, self.epoch_writes);
        let n = &mut self.nodes[node];
        (n.registers_at, n.claim) = (None, None);
        if n.id.replace(id).is_none() {
            // now that the slice has a name, it is made anew with it
            let store = n.slice.take().expect("it was just started").into_store();
            n.slice =
                Some(Slice::new(Config { id, lease, started, memory, epoch_writes }, store, n.pool.clone()));
            n.since = started;
        }
        let open = n.open;
        let disk = n.slice.as_mut().expect("it registers because it is up").store_mut().disk_mut();
        disk.beside(|disk| {
            let mut superblock = drive::read(disk).expect("superblocks have copies");
            drive::note_registered(disk, &mut superblock, ClusterId(7), open).expect("the disk writes");
        });
        let view = self.view(id);
        let stale = if is_stale { ", stale" } else { "" };
        self.tell(|| format!("node {node} is registered{stale}, its slice is {id}"));
        self.input(node, Input::Registered { view, is_stale });
    }

    /// What was written and never rotted is what is read: a block was not used again before nothing needed it (R10, S12).
    pub fn check_damage(&self, node: usize) {
        let n = &self.nodes[node];
        let Some(tally) = n.slice.as_ref().map(|slice| slice.store().tally()) else { return };
        let (damaged, outrun) = (tally.damaged, tally.outrun);
        assert!(damaged == 0 || n.had_rot, "{damaged} blocks of node {node} are corrupt, and nothing rotted");
        assert!(
            outrun == 0 || n.had_rot,
            "{outrun} blocks of node {node} were written again while they were read"
        );
    }

    /// A node ends.
    pub fn end(&mut self, node: usize, how: End) {
        let n = &mut self.nodes[node];
        (n.stopping, n.returns_at) = (None, None);
        n.later.clear();
        self.check_damage(node);
        let Some(slice) = self.nodes[node].slice.take() else { return };
        self.keep_counters(slice.counters(), slice.store().tally());
        let disk = std::mem::take(slice.into_store().disk_mut());
        let is_dark = how == End::PowerLoss;
        let kept = if is_dark { self.rng.random_range(0..100) } else { 100 };
        let rng = &mut self.rng;
        let mut spoiled = 0;
        let image = disk.crash(|| match rng.random_range(0..100) {
            n if n < kept => Fate::Kept,
            n => {
                spoiled += 1;
                if n % 4 == 0 { Fate::Torn(rng.random_range(0..4096)) } else { Fate::Lost }
            }
        });
        *self.events.entry("writes torn or lost").or_default() += spoiled;
        let n = &mut self.nodes[node];
        (n.disk, n.registers_at, n.claim, n.is_dark) = (Some(image), None, None, is_dark);
        self.tell(|| match how {
            End::Kill => format!("the process of node {node} ends"),
            End::PowerLoss => format!("node {node} loses its power, and {spoiled} of its writes"),
        });
        if !is_dark {
            self.hang_up_on(node);
        }
    }

    /// A node that was to come back does; a drive that failed is replaced.
    pub(crate) fn come_back(&mut self, node: usize) {
        if std::mem::take(&mut self.nodes[node].has_failed) {
            self.count("drives that failed");
            self.lose_drive(node);
        }
        if self.nodes[node].returns_at.is_some_and(|at| at <= self.now) {
            self.start(node);
        }
    }

    // ---- planned stops ----

    /// A node begins to stop in order: it hands over what it leads, leaves in_sync, ends.
    pub fn stop(&mut self, node: usize) {
        self.command(Command::Stopping { node: NodeId(node as u32 + 1) });
        self.nodes[node].stopping = Some(Stopping::HandsOver(self.now));
        self.tell(|| format!("node {node} begins to stop in order"));
        self.count("planned stops");
    }

    /// A planned stop goes on, step by step as `sarsen node` does it.
    pub(crate) fn stop_on(&mut self, node: usize) {
        let id = NodeId(node as u32 + 1);
        let next = match self.nodes[node].stopping {
            None => return,
            Some(Stopping::HandsOver(since)) => match hand_over(&self.meta.state, id) {
                Some(command) if self.now.since(since) < HAND_OVER_MAX => {
                    self.command(command);
                    return;
                }
                _ => Stopping::Confirms(self.now),
            },
            Some(Stopping::Confirms(since)) if self.now.since(since) >= CONFIRM => {
                self.command(Command::Leave { node: id });
                Stopping::Leaves(self.now)
            }
            Some(Stopping::Leaves(since)) if self.now.since(since) >= LEFT => {
                self.meta.forget(id);
                return self.end(node, End::Kill);
            }
            Some(_) => return,
        };
        self.nodes[node].stopping = Some(next);
    }
}

impl Node {
    /// Its drive opened: an open id of its own, then the slice.
    fn opened(&self, image: Image) -> Result<(Store<MemDisk>, sarsen_store::Opened, Vec<OpenId>), String> {
        let mut disk = MemDisk::from_image(DRIVE_BYTES, image);
        let mut superblock = drive::read(&mut disk).map_err(|e| e.to_string())?;
        let held = superblock.ids();
        drive::begin_open(&mut disk, &mut superblock, self.open).map_err(|e| e.to_string())?;
        let (mut store, opened) =
            Store::open(disk, self.region, self.options()).map_err(|e| e.to_string())?;
        store.disk_mut().is_held = true;
        Ok((store, opened, held))
    }
}
