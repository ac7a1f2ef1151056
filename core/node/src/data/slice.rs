//! Sarsen's own format under a slice's thread: superblock, store, slice.
use super::format::{DriveFormat, SliceFacts, Superblock};
use super::machine::{Machine, Opened};
use sarsen_buffer::Pool;
use sarsen_control::command::Rot;
use sarsen_ring::{BlockingDisk, DriveFile, Ring, RingDisk};
use sarsen_slice::{Config, Input, Output, Slice};
use sarsen_store::{Options, Store, drive};
use sarsen_types::{BLOCK_SIZE, ClusterId, Instant, OpenId};
use std::sync::{Arc, Mutex, PoisonError};

/// The format of `sarsen-store`.
#[derive(Default)]
pub struct SarsenFormat {
    superblock: Mutex<Option<drive::Superblock>>,
}

/// Bytes of a drive that are whole blocks.
fn whole_blocks(file: &DriveFile) -> u64 {
    file.size() / BLOCK_SIZE as u64 * BLOCK_SIZE as u64
}

fn superblock_disk(file: &Arc<DriveFile>) -> BlockingDisk {
    BlockingDisk::new(file.clone(), 0, whole_blocks(file))
}

impl DriveFormat for SarsenFormat {
    type Store = Store<RingDisk>;

    fn open(&self, file: &Arc<DriveFile>, open: OpenId, ours: ClusterId) -> Result<Superblock, String> {
        let mut disk = superblock_disk(file);
        let mut superblock = drive::read(&mut disk).map_err(|why| why.to_string())?;
        let found = Superblock {
            identity: superblock.identity,
            cluster: superblock.cluster,
            opens: superblock.ids(),
            slices: superblock.slices.len() as u8,
        };
        // another cluster's drive is left as it is (R42)
        if superblock.cluster.is_none_or(|cluster| cluster == ours) {
            drive::begin_open(&mut disk, &mut superblock, open).map_err(|why| why.to_string())?;
        }
        *self.superblock.lock().unwrap_or_else(PoisonError::into_inner) = Some(superblock);
        Ok(found)
    }

    fn registered(&self, file: &Arc<DriveFile>, cluster: ClusterId, open: OpenId) -> Result<(), String> {
        let mut held = self.superblock.lock().unwrap_or_else(PoisonError::into_inner);
        let superblock = held.as_mut().expect("a drive is opened before it is registered");
        drive::note_registered(&mut superblock_disk(file), superblock, cluster, open)
            .map_err(|why| why.to_string())
    }

    fn open_slice(
        &self,
        index: u8,
        open: OpenId,
        file: &Arc<DriveFile>,
        ring: &mut Ring,
        memory: usize,
        pool: &Pool,
    ) -> Result<(Store<RingDisk>, SliceFacts), String> {
        let (identity, region, window) = {
            let held = self.superblock.lock().unwrap_or_else(PoisonError::into_inner);
            let superblock = held.as_ref().expect("a drive is opened before its slices");
            (superblock.identity, superblock.slices[usize::from(index)], superblock.window as usize)
        };
        let disk = ring.disk(file.clone(), 0, whole_blocks(file));
        let slice = drive::slice_identity(identity, index);
        let options = Options { window, ..Options::new(pool.clone(), slice, open, memory) };
        let (store, opened) =
            Store::open(disk, region, options).map_err(|why| format!("slice {index}: {why}"))?;
        if opened.replayed + opened.damaged + opened.ailing > 0 {
            tracing::info!(
                drive = %file.path().display(),
                slice = index,
                replayed = opened.replayed,
                damaged = opened.damaged,
                ailing = opened.ailing,
                "the journal was replayed"
            );
        }
        let space = store.space();
        let facts = SliceFacts {
            total_blocks: space.total_blocks,
            used_blocks: space.used_blocks,
            is_broken: opened.is_broken,
        };
        Ok((store, facts))
    }
}

impl Opened for Store<RingDisk> {
    type Machine = Slice<RingDisk>;
    fn begin(self, config: Config, pool: Pool) -> Slice<RingDisk> {
        Slice::new(config, self, pool)
    }
    fn close(self) {
        drop(Store::close(self));
    }
}

impl Machine for Slice<RingDisk> {
    fn step(&mut self, now: Instant, input: Input, out: &mut Vec<Output>) {
        Slice::step(self, now, input, out);
    }
    fn finish(&mut self, now: Instant, out: &mut Vec<Output>) {
        Slice::finish(self, now, out);
    }
    fn submit(&mut self, now: Instant) {
        Slice::submit(self, now);
    }
    fn deadline(&self) -> Option<Instant> {
        Slice::deadline(self)
    }
    fn leads_any(&self) -> bool {
        self.machine().leads_any()
    }
    fn space(&self) -> (u64, u64, bool) {
        let space = self.store().space();
        (space.total_blocks, space.used_blocks, space.client_blocks_free == 0)
    }
    fn read_bytes(&self) -> usize {
        Slice::read_bytes(self)
    }
    fn checkpoint(&self) -> Option<u64> {
        self.store().checkpoint_under_way()
    }
    fn journal_fill(&self) -> u64 {
        self.store().journal_fill()
    }
    fn rot(&self) -> Rot {
        let c = self.counters();
        Rot { repaired: c.repairs, restored: c.objects_restored, lost: 0 }
    }
    fn close(self) {
        drop(self.into_store().close());
    }
}
