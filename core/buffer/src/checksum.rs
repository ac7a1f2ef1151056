//! CRC-64/NVME of blocks, seeded with their address (S2, R25).
use crc_fast::{CrcAlgorithm, Digest};
use sarsen_types::{BLOCK_SIZE, Checksum, ChunkIndex, FamilyId};

/// The checksum of a block: CRC-64/NVME over le64 family, le32 chunk, le32 block and its 4,096 bytes.
///
/// Never over layer, version or place: a block keeps it when it moves between layers and drives.
pub fn block_checksum(family: FamilyId, chunk: ChunkIndex, block: u16, data: &[u8]) -> Checksum {
    debug_assert_eq!(data.len(), BLOCK_SIZE);
    let mut seed = [0u8; 16];
    seed[..8].copy_from_slice(&family.0.to_le_bytes());
    seed[8..12].copy_from_slice(&chunk.0.to_le_bytes());
    seed[12..].copy_from_slice(&u32::from(block).to_le_bytes());
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    digest.update(&seed);
    digest.update(data);
    Checksum(digest.finalize())
}

/// CRC-64/NVME of bytes without a seed: of metadata, and of the bytes of a sub-block write (S2).
pub fn bytes_checksum(data: &[u8]) -> Checksum {
    Checksum(crc_fast::checksum(CrcAlgorithm::Crc64Nvme, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_catalogue_is_met() {
        // CRC-64/NVME of "123456789", as the NVM Express NVM command set specification gives it
        assert_eq!(bytes_checksum(b"123456789"), Checksum(0xae8b_1486_0a79_9888));
    }

    #[test]
    fn the_same_bytes_elsewhere_have_another_checksum() {
        let data = [7u8; BLOCK_SIZE];
        let here = block_checksum(FamilyId(1), ChunkIndex(2), 3, &data);
        assert_ne!(here, block_checksum(FamilyId(1), ChunkIndex(2), 4, &data));
        assert_ne!(here, block_checksum(FamilyId(1), ChunkIndex(3), 3, &data));
        assert_ne!(here, block_checksum(FamilyId(2), ChunkIndex(2), 3, &data));
    }
}
