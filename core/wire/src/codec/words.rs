//! The layouts of the words of `sarsen-types`.
#[cfg(test)]
use super::Source;
use super::{Reader, Wire, layout};
use crate::error::WireError;
use alloc::vec::Vec;
use sarsen_types::record::{BlockStack, Entry, Point, Recover, Table, Write};
use sarsen_types::*;
use smallvec::SmallVec;

macro_rules! newtypes { ($($name:ident($inner:ty)),*) => { $(
    impl Wire for $name {
        const MIN: usize = <$inner as Wire>::MIN;
        fn put(&self, out: &mut Vec<u8>) {
            self.0.put(out);
        }
        fn get(from: &mut Reader<'_>) -> Result<Self, WireError> {
            Ok($name(<$inner>::get(from)?))
        }
        #[cfg(test)]
        fn sample(source: &mut Source) -> Self {
            $name(<$inner>::sample(source))
        }
    }
)* } }
newtypes!(
    DriveId(u32),
    GroupId(u32),
    LayerId(u64),
    FamilyId(u64),
    VolumeId(u64),
    AttachmentId(u64),
    Generation(u32),
    SessionId(u64),
    QueueId(u16),
    Revision(u64),
    ClusterId(u128),
    OpenId(u128),
    ChunkIndex(u32),
    Instant(u64),
    Version(u64),
    Checksum(u64)
);

layout!(SliceId { drive: DriveId, index: u8 });
layout!(ObjectId { layer: LayerId, chunk: ChunkIndex });
layout!(RequestId {
    attachment: AttachmentId,
    generation: Generation,
    session: SessionId,
    queue: QueueId,
    number: u64,
    piece: u16
});
layout!(RequestNote { id: RequestId, object: ObjectId, range: BlockRange });
layout!(Mark { attachment: AttachmentId, session: SessionId, queue: QueueId, below: u64 });
layout!(Joining { slice: SliceId, since: Epoch });
layout!(Member { slice: SliceId, assignment: u64 });
layout!(GroupState {
    group: GroupId, epoch: Epoch, primary: SliceId, primary_since: Epoch, in_sync: Vec<SliceId>,
    joining: Vec<Joining>, complete: Vec<SliceId>, could_commit: Epoch, members: Vec<Member>, min_copies: u8,
    is_damaged: bool
});
layout!(Point { floor: Version, forgotten: Version });
layout!(Table {
    since: Epoch, is_first: bool, sessions: Vec<(AttachmentId, Generation, SessionId)>, marks: Vec<Mark>,
    requests: Vec<(RequestNote, Version)>, point: Option<Point>
});
layout!(BlockStack { object: ObjectId, family: FamilyId, block: u16, stack: SmallVec<[Entry; 2]> });

impl Wire for Epoch {
    const MIN: usize = 4;
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let epoch = Epoch(u32::get(from)?);
        if epoch > Epoch::MAX {
            return Err(WireError::Value("an epoch"));
        }
        Ok(epoch)
    }
    #[cfg(test)]
    fn sample(source: &mut Source) -> Self {
        Epoch(u32::sample(source) & Epoch::MAX.0)
    }
}

impl Wire for Duration {
    const MIN: usize = 8;
    fn put(&self, out: &mut Vec<u8>) {
        (self.as_nanos() as u64).put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Duration::from_nanos(u64::get(from)?))
    }
    #[cfg(test)]
    fn sample(source: &mut Source) -> Self {
        Duration::from_nanos(u64::sample(source))
    }
}

impl Wire for BlockRange {
    const MIN: usize = 4;
    fn put(&self, out: &mut Vec<u8>) {
        self.first.put(out);
        self.count.put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let range = BlockRange::new(u16::get(from)?, u16::get(from)?);
        if !range.is_valid() {
            return Err(WireError::Value("a range of blocks"));
        }
        Ok(range)
    }
    #[cfg(test)]
    fn sample(source: &mut Source) -> Self {
        let first = source.below(BLOCKS_PER_CHUNK as usize);
        let count = 1 + source.below(BLOCKS_PER_CHUNK as usize - first);
        BlockRange::new(first as u16, count as u16)
    }
}

impl Wire for Entry {
    const MIN: usize = 1;
    fn put(&self, out: &mut Vec<u8>) {
        match *self {
            Entry::Absent => out.push(0),
            Entry::Zero(version) => {
                out.push(1);
                version.put(out);
            }
            Entry::Data(version, checksum) => {
                out.push(2);
                (version, checksum).put(out);
            }
            Entry::Damaged(version, checksum) => {
                out.push(3);
                (version, checksum).put(out);
            }
        }
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(match u8::get(from)? {
            0 => Entry::Absent,
            1 => Entry::Zero(Version::get(from)?),
            2 => Entry::Data(Version::get(from)?, Checksum::get(from)?),
            3 => Entry::Damaged(Version::get(from)?, Checksum::get(from)?),
            tag => return Err(WireError::Tag { what: "entry", tag }),
        })
    }
    #[cfg(test)]
    fn sample(source: &mut Source) -> Self {
        match source.below(4) {
            0 => Entry::Absent,
            1 => Entry::Zero(Version::sample(source)),
            2 => Entry::Data(Version::sample(source), Checksum::sample(source)),
            _ => Entry::Damaged(Version::sample(source), Checksum::sample(source)),
        }
    }
}

impl Wire for Content {
    const MIN: usize = 1;
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Content::Zero => out.push(0),
            Content::Data(checksums) => {
                out.push(1);
                checksums.put(out);
            }
        }
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, WireError> {
        match u8::get(from)? {
            0 => Ok(Content::Zero),
            1 => Ok(Content::Data(SmallVec::get(from)?)),
            tag => Err(WireError::Tag { what: "content", tag }),
        }
    }
    #[cfg(test)]
    fn sample(source: &mut Source) -> Self {
        if bool::sample(source) { Content::Zero } else { Content::Data(SmallVec::sample(source)) }
    }
}

impl Wire for Write {
    const MIN: usize =
        Version::MIN + ObjectId::MIN + FamilyId::MIN + BlockRange::MIN + Content::MIN + 4 + 4 + 1;
    fn put(&self, out: &mut Vec<u8>) {
        self.version.put(out);
        self.object.put(out);
        self.family.put(out);
        self.range.put(out);
        self.content.put(out);
        self.requests.put(out);
        self.marks.put(out);
        self.takeover.put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let write = Write {
            version: Wire::get(from)?,
            object: Wire::get(from)?,
            family: Wire::get(from)?,
            range: Wire::get(from)?,
            content: Wire::get(from)?,
            requests: Wire::get(from)?,
            marks: Wire::get(from)?,
            takeover: Wire::get(from)?,
        };
        if let Content::Data(checksums) = &write.content
            && (write.range.count > limits::PIECE_BLOCKS_MAX || checksums.len() != write.range.count as usize)
        {
            return Err(WireError::Value("the blocks of a write"));
        }
        Ok(write)
    }
    #[cfg(test)]
    fn sample(source: &mut Source) -> Self {
        let mut range = BlockRange::sample(source);
        let content = if bool::sample(source) {
            Content::Zero
        } else {
            range.count = range.count.min(1 + source.below(64) as u16);
            Content::Data(range.blocks().map(|_| Checksum::sample(source)).collect())
        };
        Write {
            version: Wire::sample(source),
            object: Wire::sample(source),
            family: Wire::sample(source),
            range,
            content,
            requests: Wire::sample(source),
            marks: Wire::sample(source),
            takeover: Wire::sample(source),
        }
    }
}

impl Wire for Recover {
    const MIN: usize = ObjectId::MIN + FamilyId::MIN + Epoch::MIN + 2 + 4 + Version::MIN;
    fn put(&self, out: &mut Vec<u8>) {
        self.object.put(out);
        self.family.put(out);
        self.since.put(out);
        self.first.put(out);
        self.entries.put(out);
        self.touched.put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let recover = Recover {
            object: Wire::get(from)?,
            family: Wire::get(from)?,
            since: Wire::get(from)?,
            first: Wire::get(from)?,
            entries: Wire::get(from)?,
            touched: Wire::get(from)?,
        };
        // no entries at all: only `touched` travels (R18)
        let count = recover.entries.len();
        if count > limits::PIECE_BLOCKS_MAX as usize
            || recover.first as usize + count > BLOCKS_PER_CHUNK as usize
            || !recover.entries.iter().all(|e| e.is_intact())
        {
            return Err(WireError::Value("the blocks of a recovery"));
        }
        Ok(recover)
    }
    #[cfg(test)]
    fn sample(source: &mut Source) -> Self {
        let first = source.below(BLOCKS_PER_CHUNK as usize - 64) as u16;
        let entries =
            (0..source.below(65)).map(|_| Entry::sample(source)).filter(|e| e.is_intact()).collect();
        Recover {
            object: Wire::sample(source),
            family: Wire::sample(source),
            since: Wire::sample(source),
            first,
            entries,
            touched: Wire::sample(source),
        }
    }
}
