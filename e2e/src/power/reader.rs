//! A drive, opened and read as a node does that has the only copy: store and replication joined, from the takeover on.
use super::history::BLOCK;
use super::image::Overlay;
use super::layout::{self, Layout};
use anyhow::{Context, Result, bail, ensure};
use sarsen_buffer::{Buf, Pool};
use sarsen_slice::{Config, ConnId, Input, LeaseMode, Memory, Output, Slice};
use sarsen_store::Opened;
use sarsen_types::view::{AttachmentView, LayerView, VolumeView};
use sarsen_types::*;
use sarsen_wire::client::{ClientOp, ClientRequest, ClientResult};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Blocks of one read.
const PIECE: u16 = 64;
/// The only slice: the first drive of a cluster is its number 1.
const ME: SliceId = SliceId::new(1, 0);
const VOLUME: VolumeId = VolumeId(1 << 40);
/// Ours; older ones have ended.
const ATTACHMENT: AttachmentId = AttachmentId(1 << 41);
/// Above whatever was promised.
const EPOCH: Epoch = Epoch(1 << 20);
const STEP: Duration = Duration::from_millis(50);
/// So long, by its own time, a copy that is alone may take to lead and to answer (R2).
const TURNS_MAX: usize = 2_000;

/// The metadata after this drive was registered: it has the only copy of every group.
fn view(layout: &Layout) -> View {
    let group = |(group, assignment): (&GroupId, &u64)| GroupState {
        group: *group,
        epoch: EPOCH,
        primary: ME,
        primary_since: EPOCH,
        in_sync: vec![ME],
        joining: vec![],
        complete: vec![ME],
        could_commit: EPOCH,
        members: vec![Member { slice: ME, assignment: *assignment }],
        min_copies: 1,
        is_damaged: false,
    };
    let mut view = View { revision: Revision(1 << 40), ..View::default() };
    view.groups = layout.groups.iter().map(group).collect();
    view.layers.insert(layout.layer, LayerView { family: layout.family, parent: None });
    let size = (layout.chunks.keys().last().map_or(0, |last| last + 1) as u64) << 22;
    view.volumes.insert(VOLUME, VolumeView { head: layout.layer, size, changed: Revision(1) });
    let (generation, session) = (Generation(1), SessionId(1));
    let attachment = AttachmentView { volume: VOLUME, generation, session, read_only: false };
    view.attachments.insert(ATTACHMENT, attachment);
    view.last_attachment = ATTACHMENT;
    view
}

fn request(layout: &Layout, number: u64, chunk: u32, first: u16) -> ClientRequest {
    ClientRequest {
        group: layout.chunks[&chunk],
        revision: Revision(1 << 40),
        id: RequestId {
            attachment: ATTACHMENT,
            generation: Generation(1),
            session: SessionId(1),
            number,
            ..RequestId::default()
        },
        answered_below: 0,
        volume: VOLUME,
        layer: layout.layer,
        chunk: ChunkIndex(chunk),
        op: ClientOp::Read { range: BlockRange::new(first, PIECE) },
    }
}

/// Opens a drive and tells every block of the volume to `each`: its number and, where it is not zeroes, its bytes. What opening found.
pub fn read_all(
    disk: Overlay,
    layout: &Layout,
    pool: &Pool,
    mut each: impl FnMut(u64, Option<&[u8]>) -> Result<()>,
) -> Result<Opened> {
    let (store, opened) = layout::open(disk, pool).context("the drive does not open")?;
    ensure!(!opened.is_broken, "the journal is taken to have a hole");
    let mut now = Instant(1_000_000_000);
    let config = Config {
        id: ME,
        lease: LeaseMode::Clock,
        started: now,
        memory: Memory::default(),
        epoch_writes: limits::EPOCH_WRITES,
    };
    let mut slice = Slice::new(config, store, pool.clone());
    let mut out = Vec::new();
    slice.step(now, Input::Registered { view: Arc::new(view(layout)), is_stale: false }, &mut out);
    let mut asked = BTreeMap::new();
    for chunk in layout.chunks.keys() {
        for first in (0..BLOCKS_PER_CHUNK).step_by(usize::from(PIECE)) {
            asked.insert(asked.len() as u64 + 1, (*chunk, first));
        }
    }
    let mut left: Vec<u64> = asked.keys().copied().collect();
    let mut waits = 0;
    for _ in 0..TURNS_MAX {
        // a few at a time: reads beyond a slice's memory are told to come again
        while waits < 16
            && let Some(number) = left.pop()
        {
            let (chunk, first) = asked[&number];
            let request = request(layout, number, chunk, first);
            slice.step(now, Input::Client { conn: ConnId(1), request, payload: None }, &mut out);
            waits += 1;
        }
        now += STEP;
        slice.finish(now, &mut out);
        slice.submit(now);
        slice.finish(now, &mut out);
        for output in std::mem::take(&mut out) {
            match output {
                Output::Reply { reply, payload, .. } => {
                    waits -= 1;
                    let (chunk, first) = asked[&reply.number];
                    match reply.result {
                        ClientResult::Data { present, .. } => {
                            let block = u64::from(chunk) * u64::from(BLOCKS_PER_CHUNK) + u64::from(first);
                            tell(block, present, payload.as_ref(), &mut each)?;
                            asked.remove(&reply.number);
                        }
                        ClientResult::Retry { .. } => left.push(reply.number),
                        other => bail!("a read of chunk {chunk} from block {first}: {other:?}"),
                    }
                }
                Output::Failed(why) => bail!("the drive ended: {why}"),
                _ => {}
            }
        }
        if asked.is_empty() {
            return Ok(opened);
        }
    }
    bail!("{} reads are not answered, the first of {:?}", asked.len(), asked.values().next())
}

fn tell(
    first: u64,
    present: u64,
    payload: Option<&Buf>,
    each: &mut impl FnMut(u64, Option<&[u8]>) -> Result<()>,
) -> Result<()> {
    let mut data = payload.into_iter().flat_map(|p| p.chunks_exact(BLOCK));
    for at in 0..u64::from(PIECE) {
        let held = match present >> at & 1 {
            1 => Some(data.next().context("a block of payload for each that is present")?),
            _ => None,
        };
        each(first + at, held)?;
    }
    Ok(())
}
