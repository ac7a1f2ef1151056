//! A part-block write over what is committed: whole blocks with their checksums come out.
use sarsen_buffer::{Buf, Pool, block_checksum};
use sarsen_replication::Read;
use sarsen_store::events::ReadData;
use sarsen_types::record::Entry;
use sarsen_types::{BLOCK_SIZE, Checksum};
use smallvec::SmallVec;

/// A merge that waits for its blocks.
#[derive(Debug)]
pub struct Merge {
    /// The blocks it lies in.
    pub read: Read,
    /// In the chunk, in bytes.
    pub offset: u32,
    /// In bytes.
    pub len: u32,
    /// The bytes, laid out as blocks; `None`: zeroes.
    pub payload: Option<Buf>,
}

impl Merge {
    /// Lays the bytes over the blocks that were read.
    pub fn apply(&self, pool: &Pool, under: &ReadData) -> (Buf, SmallVec<[Checksum; 4]>) {
        let range = self.read.range;
        let mut merged = pool.take_zeroed(range.bytes());
        let bytes = merged.get_mut();
        let mut data = under.data.iter().flat_map(|d| d.chunks_exact(BLOCK_SIZE));
        for (at, entry) in under.entries.iter().enumerate() {
            if matches!(entry, Entry::Data(..))
                && let Some(block) = data.next()
            {
                bytes[at * BLOCK_SIZE..][..BLOCK_SIZE].copy_from_slice(block);
            }
        }
        let start = self.offset as usize - range.first as usize * BLOCK_SIZE;
        let end = start + self.len as usize;
        match &self.payload {
            Some(payload) => bytes[start..end].copy_from_slice(&payload[start..end]),
            None => bytes[start..end].fill(0),
        }
        let checksum = |(at, block): (usize, &[u8])| {
            block_checksum(self.read.family, self.read.chunk, range.first + at as u16, block)
        };
        let checksums = bytes.chunks_exact(BLOCK_SIZE).enumerate().map(checksum).collect();
        (merged, checksums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_replication::Which;
    use sarsen_types::{BlockRange, ChunkIndex, FamilyId, GroupId, Version};
    use smallvec::smallvec;

    #[test]
    fn only_the_bytes_written_change() {
        let pool = Pool::new();
        let read = Read {
            group: GroupId(1),
            layers: smallvec![],
            family: FamilyId(1),
            chunk: ChunkIndex(0),
            range: BlockRange::new(1, 2),
            which: Which::Visible,
        };
        let mut payload = pool.take_zeroed(2 * BLOCK_SIZE);
        payload.get_mut().fill(7);
        let merge = Merge { read, offset: 4096 + 4000, len: 200, payload: Some(payload) };
        let mut old = pool.take(BLOCK_SIZE);
        old.get_mut().fill(3);
        let under = ReadData {
            entries: smallvec![Entry::Data(Version(1), Checksum(0)), Entry::Absent],
            data: Some(old),
        };
        let (merged, checksums) = merge.apply(&pool, &under);
        assert_eq!((merged[3999], merged[4000], merged[4199], merged[4200]), (3, 7, 7, 0));
        assert_eq!(checksums[1], block_checksum(FamilyId(1), ChunkIndex(0), 2, &merged[4096..]));
    }
}
