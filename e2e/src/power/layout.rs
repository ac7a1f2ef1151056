//! Where the volume lies on its only drive: read once from what the run left, as the metadata would tell it.
use super::history::BLOCK;
use super::image::Overlay;
use anyhow::{Context, Result, ensure};
use sarsen_buffer::Pool;
use sarsen_store::drive::{self, slice_identity};
use sarsen_store::events::Event;
use sarsen_store::{Opened, Options, Store, Token};
use sarsen_types::{FamilyId, GroupId, Instant, LayerId, OpenId, Version};
use std::collections::BTreeMap;

/// Bytes of memory for maps: little, so that they are read from the drive.
const MEMORY: usize = 16 << 20;

/// See the module.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The head layer.
    pub layer: LayerId,
    /// Seeds the checksums.
    pub family: FamilyId,
    /// The group of each chunk.
    pub chunks: BTreeMap<u32, GroupId>,
    /// The first byte of the block that a checkpoint ends with writing: the second root.
    pub root: u64,
    /// The number of each group's assignment to the drive.
    pub groups: BTreeMap<GroupId, u64>,
}

/// Opens the drive's only slice as a node does: a fresh open id first (R1).
pub fn open(mut disk: Overlay, pool: &Pool) -> Result<(Store<Overlay>, Opened)> {
    let mut superblock = drive::read(&mut disk)?;
    ensure!(superblock.slices.len() == 1, "a drive of one slice");
    let open = OpenId(0xffff);
    drive::begin_open(&mut disk, &mut superblock, open)?;
    let identity = slice_identity(superblock.identity, 0);
    let window = superblock.window as usize;
    let options = Options { window, ..Options::new(pool.clone(), identity, open, MEMORY) };
    Ok(Store::open(disk, superblock.slices[0], options)?)
}

impl Layout {
    /// Of a drive on which every chunk of the one volume was written.
    pub fn find(mut disk: Overlay) -> Result<Layout> {
        let region = drive::read(&mut disk)?.slices[0];
        let root = region.offset + region.roots()[1] * BLOCK as u64;
        let (mut store, _) = open(disk, &Pool::new())?;
        let mut chunks = BTreeMap::new();
        let mut of = None;
        let groups: Vec<GroupId> = store.groups().collect();
        for group in &groups {
            let mut after = None;
            loop {
                store.list_stacks(Token(0), *group, Version::ZERO, after, 64);
                let mut events = Vec::new();
                let found = (0..64).find_map(|_| {
                    store.finish(Instant(0), &mut events);
                    events.drain(..).find_map(|event| match event {
                        Event::Stacks { blocks, is_last, .. } => Some((blocks, is_last)),
                        _ => None,
                    })
                });
                let (blocks, is_last) = found.context("a listing is answered")?;
                for block in &blocks {
                    let this = (block.object.layer, block.family);
                    ensure!(*of.get_or_insert(this) == this, "there is one volume");
                    chunks.insert(block.object.chunk.0, *group);
                }
                after = blocks.last().map(|b| (b.object, b.block));
                if is_last {
                    break;
                }
            }
        }
        let (layer, family) = of.context("a drive with a volume on it")?;
        let assignment = |g: &GroupId| (*g, store.ledger(*g).map_or(0, |ledger| ledger.assignment));
        Ok(Layout { layer, family, chunks, root, groups: groups.iter().map(assignment).collect() })
    }
}
