//! A drive: superblocks, slices, formatting, inspection (S1, S5, R1).
use crate::bytes::{Malformed, Reader, Writer};
use crate::checkpoint::empty_root;
use crate::disk::Disk;
use crate::open::{Blocking, OpenError};
use crate::page::{PageKind, seal, unseal};
use crate::region::SliceRegion;
use sarsen_buffer::Pool;
use sarsen_types::limits::{JOURNAL_WINDOW_MAX, OPENS_MAX, SLICES_MAX};
use sarsen_types::{BLOCK_SIZE, ClusterId, DriveIdentity, OpenId};

pub use crate::inspect::{Inspection, inspect};

/// Blocks between the copies of a superblock, and of a root, at least (S5).
pub(crate) const APART: u64 = (1 << 20) / BLOCK_SIZE as u64;
/// The smallest slice: room for roots, ring and some data.
pub const SLICE_BYTES_MIN: u64 = 32 << 20;
/// Journal blocks in flight, at most, in any superblock: replay keeps twice as many in memory.
const WINDOW_MAX: u32 = 1 << 16;
/// The layout of superblocks this program writes.
pub const SUPER_FORMAT: u32 = 1;

/// What a drive says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// Given when it was formatted.
    pub identity: DriveIdentity,
    /// The cluster it belongs to; `None` until it is first registered.
    pub cluster: Option<ClusterId>,
    /// Bytes of the drive when it was formatted.
    pub size: u64,
    /// Its slices.
    pub slices: Vec<SliceRegion>,
    /// Journal blocks that may be in flight in each: what tells a hole from an end (S5, S8).
    pub window: u32,
    /// The id last acknowledged as registered (R1).
    pub registered: Option<OpenId>,
    /// Ids of opens since.
    pub opens: Vec<OpenId>,
    /// Raised by each write of it.
    pub generation: u64,
}

impl Superblock {
    /// All ids it holds: a registration is current only if metadata's is among them (R1).
    pub fn ids(&self) -> Vec<OpenId> {
        self.registered.into_iter().chain(self.opens.iter().copied()).collect()
    }
}

/// How a drive is formatted.
#[derive(Clone, Copy, Debug)]
pub struct FormatParams {
    /// 128 random bits.
    pub identity: DriveIdentity,
    /// Slices, 1 to [`SLICES_MAX`].
    pub slices: u8,
}

/// The drive's identity as a slice's blocks carry it: the slice's number is folded into the low byte.
pub fn slice_identity(drive: DriveIdentity, slice: u8) -> DriveIdentity {
    DriveIdentity(drive.0 ^ u128::from(slice))
}

/// Where superblocks lie: two at the start, one at the end.
pub(crate) fn copies(blocks: u64) -> [u64; 3] {
    [0, APART, blocks - 1]
}

/// Bytes of a slice's journal ring: a 64th of it, 64 MiB to 1 GiB; smaller for slices under 4 GiB.
fn ring_blocks(slice: u64) -> u64 {
    let bytes = slice * BLOCK_SIZE as u64;
    let ring = match bytes {
        0..0x1_0000_0000 => (bytes / 32).clamp(2 << 20, 64 << 20),
        _ => (bytes / 64).clamp(64 << 20, 1 << 30),
    };
    ring / BLOCK_SIZE as u64
}

fn lay_out(size: u64, slices: u8) -> Result<Vec<SliceRegion>, OpenError> {
    let blocks = size / BLOCK_SIZE as u64;
    let room = blocks.saturating_sub(3 * APART);
    let each = room / u64::from(slices.max(1));
    if each * (BLOCK_SIZE as u64) < SLICE_BYTES_MIN {
        return Err(OpenError::Refused(format!(
            "too small: {size} bytes for {slices} slices; a slice needs {} MiB and the drive 3 MiB beside",
            SLICE_BYTES_MIN >> 20
        )));
    }
    let region = |n: u64| SliceRegion {
        offset: (2 * APART + n * each) * BLOCK_SIZE as u64,
        blocks: each,
        ring_first: APART,
        ring_blocks: ring_blocks(each),
    };
    Ok((0..u64::from(slices)).map(region).collect())
}

/// Formats a drive: everything on it is lost. Superblocks last, so that a half-formatted drive is none.
pub fn format<D: Disk>(disk: &mut D, params: FormatParams) -> Result<Superblock, OpenError> {
    if params.slices == 0 || params.slices > SLICES_MAX {
        return Err(OpenError::Refused(format!(
            "a drive has 1 to {SLICES_MAX} slices, not {}",
            params.slices
        )));
    }
    let size = disk.size() / BLOCK_SIZE as u64 * BLOCK_SIZE as u64;
    let slices = lay_out(size, params.slices)?;
    let pool = Pool::new();
    let failed = || OpenError::Device("a write failed while formatting".into());
    let blocks = size / BLOCK_SIZE as u64;
    let mut io = Blocking { disk, pool: pool.clone(), offset: 0, read_bytes: 0 };
    for block in copies(blocks) {
        io.write(block, pool.take_zeroed(BLOCK_SIZE)).ok_or_else(failed)?;
    }
    for (index, slice) in slices.iter().enumerate() {
        io.offset = slice.offset;
        let identity = slice_identity(params.identity, index as u8);
        // blocks of an earlier format carry another identity: they are not taken for a journal
        for root in slice.roots() {
            io.write(root, empty_root(&pool, identity)).ok_or_else(failed)?;
        }
    }
    let superblock = Superblock {
        identity: params.identity,
        cluster: None,
        size,
        slices,
        window: JOURNAL_WINDOW_MAX as u32,
        registered: None,
        opens: Vec::new(),
        generation: 1,
    };
    write(disk, &superblock)?;
    Ok(superblock)
}

/// Writes all copies of a superblock, one after the other, each durable before the next.
pub fn write<D: Disk>(disk: &mut D, superblock: &Superblock) -> Result<(), OpenError> {
    let pool = Pool::new();
    let mut io = Blocking { disk, pool: pool.clone(), offset: 0, read_bytes: 0 };
    for block in copies(superblock.size / BLOCK_SIZE as u64) {
        let (buf, _) = seal(&pool, PageKind::Super, &encode(superblock));
        io.write(block, buf).ok_or_else(|| OpenError::Device("a superblock cannot be written".into()))?;
    }
    Ok(())
}

/// A new opening: its id is durable before anything else happens (R1, S6).
pub fn begin_open<D: Disk>(disk: &mut D, superblock: &mut Superblock, open: OpenId) -> Result<(), OpenError> {
    if superblock.opens.len() >= OPENS_MAX {
        superblock.opens.remove(0);
    }
    superblock.opens.push(open);
    superblock.generation += 1;
    write(disk, superblock)
}

/// Metadata acknowledged this opening as registered.
pub fn note_registered<D: Disk>(
    disk: &mut D,
    superblock: &mut Superblock,
    cluster: ClusterId,
    open: OpenId,
) -> Result<(), OpenError> {
    superblock.cluster = Some(cluster);
    superblock.registered = Some(open);
    superblock.opens.clear();
    superblock.generation += 1;
    write(disk, superblock)
}

/// Reads a drive's superblock: the newest intact copy. Damaged copies are written again.
pub fn read<D: Disk>(disk: &mut D) -> Result<Superblock, OpenError> {
    let blocks = disk.size() / BLOCK_SIZE as u64;
    if blocks < 3 * APART {
        return Err(OpenError::Refused(format!(
            "only {} bytes: too small to be a Sarsen drive",
            disk.size()
        )));
    }
    let mut best: Option<Superblock> = None;
    let (mut intact, mut newer) = (0, None);
    let mut first = None;
    for block in copies(blocks) {
        let mut io = Blocking { disk, pool: Pool::new(), offset: 0, read_bytes: 0 };
        let Some(buf) = io.read(block, 1) else { continue };
        if block == 0 {
            first = Some(buf.to_vec());
        }
        match decode(&buf) {
            Ok(s) => {
                intact += 1;
                if best.as_ref().is_none_or(|b| b.generation < s.generation) {
                    best = Some(s);
                }
            }
            Err(Refused::Newer(format)) => newer = Some(format),
            Err(Refused::Malformed(_)) => {}
        }
    }
    if let Some(format) = newer {
        return Err(OpenError::Refused(format!(
            "of format {format}, this program knows {SUPER_FORMAT}: upgrade this node"
        )));
    }
    let Some(superblock) = best else {
        let what = first.and_then(|f| foreign(&f));
        return Err(OpenError::Refused(match what {
            Some(what) => {
                format!("not a Sarsen drive: it looks like {what}; `sarsen drive format` would destroy that")
            }
            None => "not a Sarsen drive: format it with `sarsen drive format`".into(),
        }));
    };
    if disk.size() < superblock.size {
        return Err(OpenError::Refused(format!(
            "truncated: its superblock says {} bytes, it has {}",
            superblock.size,
            disk.size()
        )));
    }
    if intact < copies(blocks).len() {
        write(disk, &superblock)?;
    }
    Ok(superblock)
}

fn encode(s: &Superblock) -> Vec<u8> {
    let mut w = Writer::default();
    w.u32(SUPER_FORMAT).u64(s.generation).u128(s.identity.0).u128(s.cluster.map_or(0, |c| c.0)).u64(s.size);
    w.u128(s.registered.map_or(0, |o| o.0)).u32(s.opens.len() as u32);
    for open in &s.opens {
        w.u128(open.0);
    }
    w.u32(s.slices.len() as u32);
    for slice in &s.slices {
        w.u64(slice.offset).u64(slice.blocks).u64(slice.ring_first).u64(slice.ring_blocks);
    }
    w.u32(s.window);
    w.0
}

pub(crate) enum Refused {
    Newer(u32),
    Malformed(Malformed),
}
impl From<Malformed> for Refused {
    fn from(m: Malformed) -> Refused {
        Refused::Malformed(m)
    }
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Superblock, Refused> {
    let mut r = Reader::new(unseal(bytes, PageKind::Super, None)?);
    let format = r.get_u32()?;
    if format != SUPER_FORMAT {
        return Err(Refused::Newer(format));
    }
    let generation = r.get_u64()?;
    let some = |id: u128| (id != 0).then_some(id);
    let (identity, cluster, size) =
        (DriveIdentity(r.get_u128()?), some(r.get_u128()?).map(ClusterId), r.get_u64()?);
    if size / (BLOCK_SIZE as u64) < 3 * APART {
        return Err(r.fail::<()>("bytes of a drive").unwrap_err().into());
    }
    let registered = some(r.get_u128()?).map(OpenId);
    let opens = (0..r.count(16)?).map(|_| r.get_u128().map(OpenId)).collect::<Result<_, _>>()?;
    let n = r.count(32)?;
    if n == 0 || n > SLICES_MAX as usize {
        return Err(r.fail::<()>("1 to 16 slices").unwrap_err().into());
    }
    let slice = |r: &mut Reader<'_>| {
        Ok::<_, Malformed>(SliceRegion {
            offset: r.get_u64()?,
            blocks: r.get_u64()?,
            ring_first: r.get_u64()?,
            ring_blocks: r.get_u64()?,
        })
    };
    let slices = (0..n).map(|_| slice(&mut r)).collect::<Result<Vec<_>, _>>()?;
    if !slices.iter().all(|s| s.fits(size)) {
        return Err(r.fail::<()>("slices inside the drive").unwrap_err().into());
    }
    // of drives from before it was written down
    let window = match r.get_u32()? {
        0 => JOURNAL_WINDOW_MAX as u32,
        window if window <= WINDOW_MAX => window,
        _ => return Err(r.fail::<()>("a window that replay has memory for").unwrap_err().into()),
    };
    Ok(Superblock { identity, cluster, size, slices, window, registered, opens, generation })
}

/// What a first block that is not ours may be.
pub(crate) fn foreign(first: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, magic: &[u8]| first.get(offset..offset + magic.len()) == Some(magic);
    let known: [(usize, &[u8], &str); 6] = [
        (0x438, &[0x53, 0xef], "an ext4 file system"),
        (512, b"EFI PART", "a disk with a partition table"),
        (0, b"XFSB", "an XFS file system"),
        (0, b"LUKS", "an encrypted volume"),
        (512, b"LABELONE", "an LVM volume"),
        (510, &[0x55, 0xaa], "a disk with a boot sector"),
    ];
    known.iter().find(|(offset, magic, _)| at(*offset, magic)).map(|k| k.2)
}
