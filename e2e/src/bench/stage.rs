//! A cluster of three nodes with one written volume, beside its floors: what workloads, latency and idling are measured on.
use super::cost::Cost;
use super::flags::{Flags, MEMORY};
use super::floors::{Nbdkit, RawFile};
use super::workload::Workload;
use crate::dev::Dev;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Copies of each block.
pub const COPIES: f64 = 3.0;

/// See the module.
#[derive(Debug)]
pub struct Stage {
    /// The name of the place: memory, disk.
    pub name: &'static str,
    /// Where drives are.
    pub place: PathBuf,
    /// Bytes of the volume.
    pub size: u64,
    /// The cluster; its volume is `v`.
    pub dev: Dev,
    /// What it cost when it was empty.
    pub empty: Cost,
    /// The NBD hop alone.
    pub front: Nbdkit,
    /// One file.
    pub raw: RawFile,
}

impl Stage {
    /// Brings everything up and writes the volume once.
    pub fn set(name: &'static str, place: &Path, flags: &Flags) -> Result<Stage> {
        let size = flags.size();
        let front = Nbdkit::start(size)?;
        let raw = RawFile::make(place, size)?;
        let mut given = flags.common();
        given.push(format!("--volume=v:{}MiB", size >> 20));
        given.push(format!("--drive-size={}MiB", flags.drive_mib(name)));
        let mut dev = Dev::start_on(place, &given.iter().map(String::as_str).collect::<Vec<_>>())?;
        dev.wait_ok()?;
        if name == MEMORY {
            dev.touch_drives(3)?;
        }
        let empty = Cost::of(&dev);
        Workload::FILL.run(&Workload::nbd(&dev.url("v")), size, None).context("fill the volume")?;
        front.fill(size)?;
        Ok(Stage { name, place: place.to_owned(), size, dev, empty, front, raw })
    }

    /// fio's arguments for the volume.
    pub fn volume(&self) -> Vec<String> {
        Workload::nbd(&self.dev.url("v"))
    }
}
