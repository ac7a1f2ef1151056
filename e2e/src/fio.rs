//! fio, with what it measured.
use crate::program::{command, succeed};
use anyhow::{Context, Result};
use serde_json::Value;
use std::time::Duration;

/// What one run measured.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Reads and writes done.
    pub ios: u64,
    /// Per second.
    pub iops: f64,
    /// Bytes per second.
    pub bytes_per_second: f64,
    /// Mean latency.
    pub mean: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// The longest.
    pub longest: Duration,
    /// CPU time of fio itself.
    pub cpu: Duration,
}

/// Runs fio with these arguments (`--ioengine` and the rest), at most `limit`.
pub fn run(args: &[String], limit: Duration) -> Result<Measured> {
    run_on(&[], std::slice::from_ref(&args.to_vec()), limit)
}

/// As [`run`], with arguments for all and one job for each of `places` (`--ioengine` and what it needs): their sum.
pub fn run_on(all: &[String], places: &[Vec<String>], limit: Duration) -> Result<Measured> {
    let mut fio = command("fio");
    fio.args(["--output-format=json", "--name=global", "--thread=1", "--group_reporting=1"]).args(all);
    for (number, place) in places.iter().enumerate() {
        fio.arg(format!("--name=job{number}")).args(place);
    }
    let text = succeed(&mut fio, limit)?;
    // Warnings may come before the JSON.
    let start = text.find('{').with_context(|| format!("fio said: {text}"))?;
    let all: Value = serde_json::from_str(&text[start..]).with_context(|| format!("fio said: {text}"))?;
    read(&all["jobs"][0]).with_context(|| format!("fio said: {text}"))
}

fn read(job: &Value) -> Result<Measured> {
    anyhow::ensure!(job["error"].as_i64() == Some(0), "fio failed with errno {}", job["error"]);
    let nanos = |value: &Value| Duration::from_nanos(value.as_f64().unwrap_or(0.0) as u64);
    let mut measured = Measured::default();
    let mut weighted = 0.0;
    for direction in ["read", "write"] {
        let of = &job[direction];
        let ios = of["total_ios"].as_u64().context("no total_ios")?;
        measured.ios += ios;
        measured.iops += of["iops"].as_f64().unwrap_or(0.0);
        measured.bytes_per_second += of["bw_bytes"].as_f64().unwrap_or(0.0);
        weighted += of["clat_ns"]["mean"].as_f64().unwrap_or(0.0) * ios as f64;
        measured.p99 = measured.p99.max(nanos(&of["clat_ns"]["percentile"]["99.000000"]));
        measured.longest = measured.longest.max(nanos(&of["clat_ns"]["max"]));
    }
    if measured.ios > 0 {
        measured.mean = Duration::from_nanos((weighted / measured.ios as f64) as u64);
    }
    let runtime = job["job_runtime"].as_f64().unwrap_or(0.0) / 1000.0;
    let percent = job["usr_cpu"].as_f64().unwrap_or(0.0) + job["sys_cpu"].as_f64().unwrap_or(0.0);
    measured.cpu = Duration::from_secs_f64(runtime * percent / 100.0);
    Ok(measured)
}
