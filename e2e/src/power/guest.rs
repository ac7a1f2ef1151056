//! What runs inside the machine: the product on the logged device, and a client that marks in the log what was answered.
use super::dm::LogWrites;
use super::history::{self, BLOCK, Request};
use crate::nbd::{Client, Command};
use crate::program::{command, succeed, wait_until};
use anyhow::{Context, Result, bail, ensure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

/// Blocks of the volume: six chunks, on a drive of which it is a third, so that places are used again soon.
pub const VOLUME_BLOCKS: u64 = 6 * 1024;
/// Where the program is, and where what is to be kept goes.
const SARSEN: &str = "/bin/sarsen";
const OUT: &str = "/out";
const SOCKET: &str = "/volume.sock";
const TRACING: &str = "/sys/kernel/tracing";
/// Emulated, everything takes ten times as long.
const COMMAND_MAX: Duration = Duration::from_secs(120);
/// Requests after which how many are under way is drawn anew.
const PHASE: u64 = 40;
/// Of a hundred requests so many write zeroes.
const ZEROES: u32 = 4;

/// What is asked of it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many requests.
    pub requests: u64,
    /// What is drawn.
    pub seed: u64,
    /// The node's data port.
    pub data_port: u16,
    /// The node's API.
    pub api_port: u16,
    /// The device denies that it has a cache: nothing is flushed, and what was answered is lost.
    pub denies_cache: bool,
}

/// See the module.
pub fn run(plan: &Plan) -> Result<()> {
    let (drive, log) = (Path::new("/dev/vda"), Path::new("/dev/vdb"));
    wait_until("the disks", COMMAND_MAX, || {
        Ok(drive.exists() && log.exists() && Path::new("/dev/vdc").exists())
    })?;
    let sectors: u64 = fs::read_to_string("/sys/block/vda/size")?.trim().parse()?;
    let device = LogWrites::make(drive, sectors, log)?;
    wait_until("the device", COMMAND_MAX, || Ok(device.path().exists()))?;
    let cache = Path::new("/sys/block/dm-0/queue/write_cache");
    if plan.denies_cache {
        fs::write(cache, "write through").context("deny the cache")?;
    }
    let said = fs::read_to_string(cache)?;
    println!("the device's queue says: {}", said.trim());
    ensure!(plan.denies_cache || said.trim() == "write back", "the device has no cache to lose");
    trace(sectors)?;

    let path = device.path();
    let path = path.to_str().context("a name")?;
    succeed(command(SARSEN).args(["drive", "format", path]), COMMAND_MAX)?;
    println!("the drive is formatted");
    let mut node = start_node(plan, path)?;
    let api = format!("http://127.0.0.1:{}", plan.api_port);
    let sarsen = |args: &[&str]| succeed(command(SARSEN).args(args).env("SARSEN_API", &api), COMMAND_MAX);
    wait_until("the drive is up", COMMAND_MAX, || {
        let status: serde_json::Value = serde_json::from_str(&sarsen(&["status", "--json"])?)?;
        Ok(status["drives_up"] == 1)
    })?;
    let size = format!("{}KiB", VOLUME_BLOCKS * 4);
    sarsen(&["volume", "create", "v", "--size", &size])?;
    let mut export = spawn(&["export", "nbd", "v", "--socket", SOCKET], "export", &api)?;
    wait_until("the export", COMMAND_MAX, || Ok(Path::new(SOCKET).exists()))?;
    println!("the volume is there");

    let mut requests = Vec::new();
    let mut rng = SmallRng::seed_from_u64(plan.seed);
    let lives = [plan.requests / 2, plan.requests];
    for (life, until) in lives.into_iter().enumerate() {
        if life > 0 {
            // killed under its clients: what it had asked of the disk may still come
            node.kill()?;
            node.wait()?;
            node = start_node(plan, path)?;
        }
        let mut client = connect()?;
        write(&device, &mut client, &mut rng, until, &mut requests)?;
        println!("life {}: {} requests answered", life + 1, requests.len());
        device.mark(&format!("life:{}", life + 1))?;
    }
    fs::write(format!("{OUT}/requests"), history::to_text(&requests))?;
    for process in [&mut export, &mut node] {
        process.kill()?;
        process.wait()?;
    }
    keep_trace()?;
    succeed(command("/bin/cp").args(["-r", "/node", OUT]), COMMAND_MAX)?;
    device.remove()
}

fn spawn(args: &[&str], name: &str, api: &str) -> Result<Child> {
    let log = || File::options().create(true).append(true).open(format!("/{name}.log"));
    let mut process = command(SARSEN);
    process.args(args).env("SARSEN_API", api).stdin(Stdio::null()).stdout(log()?).stderr(log()?);
    Ok(process.spawn()?)
}

fn start_node(plan: &Plan, drive: &str) -> Result<Child> {
    let (listen, api) = (format!("127.0.0.1:{}", plan.data_port), format!("127.0.0.1:{}", plan.api_port));
    let place = ["node", "--dir", "/node", "--listen", &listen, "--api", &api, "--drive", drive];
    let how = ["--dev", "--dev-copies", "1", "--memory", "32MiB"];
    spawn(&[&place[..], &how[..]].concat(), "node", "")
}

fn connect() -> Result<Client> {
    let client = Client::connect(Path::new(SOCKET), "v")?;
    client.limit(Some(COMMAND_MAX))?;
    ensure!(client.size() == VOLUME_BLOCKS * BLOCK as u64, "the export has {} bytes", client.size());
    Ok(client)
}

/// A request at a place of its own among those under way.
fn draw(rng: &mut SmallRng, under_way: &[(u64, u64, Request)]) -> Request {
    loop {
        let count = match rng.random_range(0..100) {
            0..60 => 1,
            60..82 => rng.random_range(2..=8),
            82..96 => rng.random_range(9..=64),
            _ => rng.random_range(65..=300),
        };
        // half of them go where others went just before
        let room = if rng.random_bool(0.5) { 512 } else { VOLUME_BLOCKS };
        let first = rng.random_range(0..room).min(VOLUME_BLOCKS - count);
        let request = Request { first, count, is_zero: rng.random_range(0..100) < ZEROES };
        if !under_way.iter().any(|(_, _, other)| other.meets(&request)) {
            return request;
        }
    }
}

/// Sends requests until there are `until`, and waits for all of them; marks each answer.
fn write(
    device: &LogWrites,
    client: &mut Client,
    rng: &mut SmallRng,
    until: u64,
    requests: &mut Vec<Request>,
) -> Result<()> {
    let mut under_way: Vec<(u64, u64, Request)> = Vec::new();
    let mut deep = 1;
    let mut bytes = Vec::new();
    while (requests.len() as u64) < until || !under_way.is_empty() {
        let sent = requests.len() as u64;
        if sent.is_multiple_of(PHASE) {
            deep = [1, 2, 4, 8, 16, 32][rng.random_range(0..6)];
        }
        if sent < until && under_way.len() < deep {
            // every chunk is written once
            let request = match sent {
                0..6 => Request { first: sent * 1024, count: 1, is_zero: false },
                _ => draw(rng, &under_way),
            };
            requests.push(request);
            let (id, at) = (sent + 1, request.first * BLOCK as u64);
            let len = request.count as usize * BLOCK;
            let handle = if request.is_zero {
                client.send_command(Command::Zeroes, at, len as u32)?
            } else {
                bytes.resize(len, 0);
                for (block, part) in (request.first..).zip(bytes.chunks_exact_mut(BLOCK)) {
                    history::contents(id, block, part);
                }
                client.send_write(at, &bytes)?
            };
            under_way.push((handle, id, request));
            continue;
        }
        let (handle, errno) = client.answer()?;
        let Some(at) = under_way.iter().position(|(h, _, _)| *h == handle) else {
            bail!("an answer to nothing")
        };
        let (_, id, request) = under_way.swap_remove(at);
        ensure!(errno == 0, "request {id}, {request:?}, failed with errno {errno}");
        device.mark(&history::mark(id, sent))?;
    }
    Ok(())
}

/// The kernel tells of every request to the device when it is sent and when it ends.
fn trace(sectors: u64) -> Result<()> {
    let set = |file: &str, value: &str| {
        fs::write(format!("{TRACING}/{file}"), value).with_context(|| format!("{file} of tracing"))
    };
    let of = fs::read_to_string("/sys/block/dm-0/dev")?;
    let (major, minor) = of.trim().split_once(':').context("numbers of the device")?;
    let number = major.parse::<u64>()? << 20 | minor.parse::<u64>()?;
    ensure!(sectors > 0, "a device without sectors");
    set("trace_clock", "counter")?;
    set("buffer_size_kb", "65536")?;
    for event in ["block_bio_queue", "block_bio_complete"] {
        set(&format!("events/block/{event}/filter"), &format!("dev == {number}"))?;
        set(&format!("events/block/{event}/enable"), "1")?;
    }
    Ok(())
}

fn keep_trace() -> Result<()> {
    fs::write(format!("{TRACING}/tracing_on"), "0")?;
    for cpu in fs::read_dir(format!("{TRACING}/per_cpu"))? {
        let stats = fs::read_to_string(cpu?.path().join("stats"))?;
        let lost = stats.lines().filter_map(|l| l.strip_prefix("overrun: ")).any(|l| l.trim() != "0");
        ensure!(!lost, "the trace has lost events: {stats}");
    }
    let mut text = Vec::new();
    File::open(format!("{TRACING}/trace"))?.read_to_end(&mut text)?;
    Ok(fs::write(format!("{OUT}/trace"), text)?)
}
