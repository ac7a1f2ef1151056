//! Reads a drive that may not open, and says what is there: for `sarsen drive inspect`.
use crate::disk::Disk;
use crate::drive::{APART, Refused, SUPER_FORMAT, Superblock, copies, decode, foreign, slice_identity};
use crate::leaf;
use crate::open::{Blocking, Map, OpenError, Root, read_map, read_root};
use crate::page::{HEADER, PageKind, Twin, unseal};
use crate::region::SliceRegion;
use crate::run;
use crate::table::{self, lines};
use sarsen_buffer::Pool;
use sarsen_types::{BLOCK_SIZE, ClusterId, DriveIdentity, OpenId};
use serde::Serialize;
use std::fmt;

/// Places of map pages that an inspection lists, at most.
const SAMPLE_MAX: usize = 4096;

/// A stretch of the drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Extent {
    /// Its first byte.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
}

/// What was found where a superblock or root belongs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Found {
    /// The byte of the drive where it lies.
    pub offset: u64,
    /// `None` when it is not legible.
    pub number: Option<u64>,
    /// What is there, in words.
    pub says: String,
}

/// A slice, as far as it is legible. Offsets are bytes of the drive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SliceInspection {
    /// Where it lies.
    pub extent: Extent,
    /// Where its checkpoint roots lie.
    pub roots: Vec<u64>,
    /// What is there.
    pub root_states: Vec<Found>,
    /// The journal.
    pub ring: Extent,
    /// Data and map pages.
    pub data: Extent,
    /// The number of the root in use.
    pub checkpoint_sequence: Option<u64>,
    /// The journal sequence that replay begins with.
    pub journal_sequence: Option<u64>,
    /// Groups in its map.
    pub groups: u64,
    /// Objects in its map.
    pub objects: u64,
    /// Where pages of the map in use lie: a sample; of pages that lie in two places the first.
    pub map_pages: Vec<u64>,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

/// What a drive says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Inspection {
    /// Bytes of the file or device.
    pub size: u64,
    /// The format of superblocks this program knows.
    pub format: u32,
    /// The drive.
    pub identity: Option<DriveIdentity>,
    /// Its cluster; `None` also when it belongs to none yet.
    pub cluster: Option<ClusterId>,
    /// The id last acknowledged as registered (R1).
    pub registered: Option<OpenId>,
    /// Ids of opens since.
    pub opens: Vec<OpenId>,
    /// Bytes it was formatted with.
    pub formatted_size: Option<u64>,
    /// Where superblocks lie.
    pub superblocks: Vec<u64>,
    /// What is there.
    pub superblock_states: Vec<Found>,
    /// Its slices.
    pub slices: Vec<SliceInspection>,
    /// Why it does not open, or what of it is damaged; empty when nothing is.
    pub problems: Vec<String>,
    /// Whether it would open.
    pub opens_well: bool,
}

/// Reads a drive without changing anything.
pub fn inspect<D: Disk>(disk: &mut D) -> Inspection {
    let blocks = disk.size() / BLOCK_SIZE as u64;
    let mut found = Inspection {
        size: disk.size(),
        format: SUPER_FORMAT,
        identity: None,
        cluster: None,
        registered: None,
        opens: Vec::new(),
        formatted_size: None,
        superblocks: Vec::new(),
        superblock_states: Vec::new(),
        slices: Vec::new(),
        problems: Vec::new(),
        opens_well: false,
    };
    if blocks < 3 * APART {
        found.problems.push("not a Sarsen drive: too small to be one".into());
        return found;
    }
    let newest = superblocks(disk, blocks, &mut found);
    let Some(newest) = newest else { return found };
    found.identity = Some(newest.identity);
    found.cluster = newest.cluster;
    found.registered = newest.registered;
    found.opens = newest.opens.clone();
    found.formatted_size = Some(newest.size);
    found.opens_well = true;
    if disk.size() < newest.size {
        found.opens_well = false;
        found.problems.push(format!(
            "truncated: its superblock says {} bytes, it has {}",
            newest.size,
            disk.size()
        ));
    }
    for (index, region) in newest.slices.iter().enumerate() {
        let slice = slice(disk, slice_identity(newest.identity, index as u8), region);
        found.opens_well &= slice.checkpoint_sequence.is_some();
        found.slices.push(slice);
    }
    found
}

fn superblocks<D: Disk>(disk: &mut D, blocks: u64, found: &mut Inspection) -> Option<Superblock> {
    let mut newest: Option<Superblock> = None;
    let (mut newer, mut first) = (None, None);
    for block in copies(blocks) {
        let mut io = Blocking { disk, pool: Pool::new(), offset: 0, read_bytes: 0 };
        let offset = block * BLOCK_SIZE as u64;
        let buf = io.read(block, 1);
        if block == 0 {
            first = buf.as_ref().and_then(|b| foreign(b));
        }
        let (number, says) = match buf.map(|buf| decode(&buf)) {
            None => (None, "unreadable".to_owned()),
            Some(Ok(s)) => {
                let is_newest = newest.as_ref().is_none_or(|n| n.generation < s.generation);
                let number = s.generation;
                if is_newest {
                    newest = Some(s);
                }
                (Some(number), format!("intact, generation {number}"))
            }
            Some(Err(Refused::Newer(format))) => {
                newer = Some(format);
                (None, format!("of format {format}, this program knows {SUPER_FORMAT}"))
            }
            Some(Err(Refused::Malformed(why))) => (None, why.to_string()),
        };
        if number.is_none() && newer.is_none() {
            found.problems.push(format!("the superblock at byte {offset} is damaged: {says}"));
        }
        found.superblocks.push(offset);
        found.superblock_states.push(Found { offset, number, says });
    }
    if let Some(format) = newer {
        found.problems = vec![format!("of format {format}, this program knows {SUPER_FORMAT}: upgrade it")];
        return None;
    }
    if newest.is_none() {
        found.problems = vec![match first {
            Some(what) => format!("not a Sarsen drive: it looks like {what}"),
            None => "not a Sarsen drive".into(),
        }];
    }
    newest
}

fn slice<D: Disk>(disk: &mut D, identity: DriveIdentity, region: &SliceRegion) -> SliceInspection {
    let byte = |block: u64| region.offset + block * BLOCK_SIZE as u64;
    let extent =
        |first: u64, end: u64| Extent { offset: byte(first), len: (end - first) * BLOCK_SIZE as u64 };
    let mut found = SliceInspection {
        extent: extent(0, region.blocks),
        roots: region.roots().map(byte).to_vec(),
        root_states: Vec::new(),
        ring: extent(region.ring_first, region.data_first()),
        data: extent(region.data_first(), region.blocks - 1),
        checkpoint_sequence: None,
        journal_sequence: None,
        groups: 0,
        objects: 0,
        map_pages: Vec::new(),
        problems: Vec::new(),
    };
    let mut io = Blocking { disk, pool: Pool::new(), offset: region.offset, read_bytes: 0 };
    let mut newest: Option<Root> = None;
    for root in region.roots() {
        let (number, says) = match io.read(root, 1).map(|buf| read_root(&buf, identity, region)) {
            None => (None, "unreadable".to_owned()),
            Some(Ok(root)) => {
                let number = root.number;
                if newest.as_ref().is_none_or(|n| n.number < number) {
                    newest = Some(root);
                }
                (Some(number), format!("intact, checkpoint {number}"))
            }
            Some(Err(why)) => (None, why.to_string()),
        };
        if number.is_none() {
            found.problems.push(format!("the root at byte {} is damaged: {says}", byte(root)));
        }
        found.root_states.push(Found { offset: byte(root), number, says });
    }
    let Some(root) = newest else {
        found.problems.push("both checkpoint roots are unreadable: it does not open".into());
        return found;
    };
    found.journal_sequence = Some(root.head.sequence);
    match read_map(&mut io, &root, region) {
        Ok(map) => {
            found.checkpoint_sequence = Some(root.number);
            found.groups = map.groups.len() as u64;
            found.objects = map.groups.values().map(|g| g.directory.objects()).sum();
            if map.ailing > 0 {
                found
                    .problems
                    .push(format!("{} map pages are legible in one of their two places alone", map.ailing));
            }
            if map.given_up > 0 {
                found.problems.push(format!(
                    "{} leaves were given up in its life: the blocks they named stay in use",
                    map.given_up
                ));
            }
            walk(&mut io, region, &map, &mut found);
        }
        Err(why) => found.problems.push(why.to_string()),
    }
    found
}

/// Looks at pages of the map, as many as fit the sample: leaves first, then pages that lie in two places.
fn walk<D: Disk>(io: &mut Blocking<'_, D>, region: &SliceRegion, map: &Map, found: &mut SliceInspection) {
    let byte = |block: u64| region.offset + block * BLOCK_SIZE as u64;
    let (mut bad_leaves, mut ailing) = (0u64, 0);
    let mut twins: Vec<u64> = map.stream_pages.iter().step_by(2).copied().collect();
    for directory in map.groups.values().map(|g| &g.directory) {
        twins.extend(directory.index.iter().map(|t| t.at[0]));
        for slot in &directory.slots {
            if found.map_pages.len() >= SAMPLE_MAX {
                break;
            }
            twins.push(slot.page.at[0]);
            twins.extend(runs(io, region, slot.runs, &mut ailing, &mut found.problems));
            let illegible = |why| OpenError::NoMap { block: slot.page.at[0], why };
            let table = match io
                .twin(region, PageKind::Table, slot.page, &mut ailing)
                .and_then(|buf| table::check(&buf[HEADER..]).and(lines(&buf[HEADER..])).map_err(illegible))
            {
                Ok(table) => table,
                Err(why) => {
                    found.problems.push(why.to_string());
                    continue;
                }
            };
            for (_, line) in table {
                let kind = if line.is_sparse { PageKind::Sparse } else { PageKind::Dense };
                for pointer in line.leaves.iter().filter(|p| !p.is_none()) {
                    found.map_pages.push(byte(pointer.block));
                    let buf = io.read(pointer.block, 1);
                    let payload = buf.as_ref().and_then(|b| unseal(b, kind, Some(pointer.sum)).ok());
                    bad_leaves += u64::from(payload.is_none_or(|p| leaf::check(kind, p).is_err()));
                }
            }
        }
    }
    if bad_leaves > 0 {
        found.problems.push(format!(
            "{bad_leaves} leaves are unreadable: their objects are recovered from other copies"
        ));
    }
    if ailing > 0 {
        found.problems.push(format!("{ailing} table pages are legible in one of their two places alone"));
    }
    found.map_pages.extend(twins.into_iter().map(byte));
    found.map_pages.truncate(SAMPLE_MAX);
}

/// The list of a table page's runs, and the runs, each read.
fn runs<D: Disk>(
    io: &mut Blocking<'_, D>,
    region: &SliceRegion,
    list: Twin,
    ailing: &mut u64,
    problems: &mut Vec<String>,
) -> Vec<u64> {
    let mut pages = Vec::new();
    if list.is_none() {
        return pages;
    }
    pages.push(list.at[0]);
    let illegible = |why| OpenError::NoMap { block: list.at[0], why };
    let read = io.twin(region, PageKind::Runs, list, ailing);
    match read.and_then(|buf| run::list(&buf[HEADER..]).map_err(illegible)) {
        Ok(runs) => {
            for run in runs {
                pages.push(run.page.at[0]);
                let read = io.twin(region, PageKind::Run, run.page, ailing);
                problems.extend(read.err().map(|why| why.to_string()));
            }
        }
        Err(why) => problems.push(why.to_string()),
    }
    pages
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "size        {} bytes", self.size)?;
        if let Some(identity) = self.identity {
            writeln!(f, "drive       {identity}")?;
            match self.cluster {
                Some(cluster) => writeln!(f, "cluster     {cluster}")?,
                None => writeln!(f, "cluster     none yet")?,
            }
            match self.registered {
                Some(open) => writeln!(f, "registered  {open}, opened {} times since", self.opens.len())?,
                None => writeln!(f, "registered  never, opened {} times", self.opens.len())?,
            }
        }
        for s in &self.superblock_states {
            writeln!(f, "superblock  at byte {}: {}", s.offset, s.says)?;
        }
        for (index, s) in self.slices.iter().enumerate() {
            let mib = |e: Extent| e.len >> 20;
            writeln!(
                f,
                "slice {index}     {} MiB at byte {}, journal {} MiB at byte {}, {} groups, {} objects",
                mib(s.extent),
                s.extent.offset,
                mib(s.ring),
                s.ring.offset,
                s.groups,
                s.objects
            )?;
            for root in &s.root_states {
                writeln!(f, "  root      at byte {}: {}", root.offset, root.says)?;
            }
            for problem in &s.problems {
                writeln!(f, "  problem   {problem}")?;
            }
        }
        for problem in &self.problems {
            writeln!(f, "problem     {problem}")?;
        }
        match self.opens_well {
            true => write!(f, "it opens"),
            false => write!(f, "it does not open"),
        }
    }
}
