//! Data that lie in the journal (S10) move out of it, at equal version, before their entries are merged: so nothing names a
//! part of the ring that a checkpoint trims.
//!
//! The frozen entry is what moves: until its data are written to their new place it names the old one, and no journal record is
//! needed, for the root that trims the ring is the first to name the new place.
use crate::checkpoint::Hold;
use crate::disk::{Disk, DiskError};
use crate::merge::Batch;
use crate::place::{Held, Kind, Place};
use crate::space::Stream;
use crate::stack::{Over, Role};
use crate::store::{Op, Store};
use sarsen_buffer::{Buf, block_checksum};
use sarsen_types::{BLOCK_SIZE, GroupId, ObjectId};
use smallvec::smallvec;

/// Blocks that move at once.
const MOVES_MAX: usize = 128;

/// A block that moves.
#[derive(Debug)]
pub(crate) struct Move {
    group: GroupId,
    object: ObjectId,
    block: u16,
    /// Its entry, which names the ring.
    held: Held,
    /// Where it goes.
    to: u64,
    is_read: bool,
}

impl<D: Disk> Store<D> {
    /// Moves what a batch is about to merge; held up until it has moved.
    pub(crate) fn move_out(&mut self, batch: &Batch) -> Result<(), Hold> {
        if self.in_ring == 0 {
            return Ok(());
        }
        let mut moves = self.moves_of(batch);
        if moves.is_empty() {
            return Ok(());
        }
        let places = self.map_blocks(moves.iter().map(|_| Stream::Small))?;
        self.checkpoint.moves_began(moves.len());
        for (moved, to) in moves.iter_mut().zip(places) {
            moved.to = to;
        }
        for moved in moves {
            let from = moved.held.place.block().expect("it lies in the ring");
            let buf = self.options.pages.take(BLOCK_SIZE);
            let (id, offset) = (self.op(Op::Move(moved)), self.byte(from));
            self.disk.read(id, offset, buf);
        }
        Err(Hold::Moving)
    }

    fn moves_of(&mut self, batch: &Batch) -> Vec<Move> {
        let mut moves = Vec::new();
        let Batch::Slot { group, objects, .. } = batch else { return moves };
        let region = self.region;
        let Some(known) = self.groups.get_mut(group) else { return moves };
        for object in objects {
            let stacks = known.objects.get_mut(object).map(|o| &mut o.frozen.stacks);
            for (block, stack) in stacks.into_iter().flatten() {
                for over in stack.entries.iter_mut().filter(|o| is_in_ring(o, &region)) {
                    if over.held.place.kind() == Kind::Damaged {
                        over.held.place = Place::LOST;
                        self.in_ring -= 1;
                        continue;
                    }
                    let held = over.held;
                    moves.push(Move {
                        group: *group,
                        object: *object,
                        block: *block,
                        held,
                        to: 0,
                        is_read: false,
                    });
                    if moves.len() == MOVES_MAX {
                        return moves;
                    }
                }
            }
        }
        moves
    }

    pub(crate) fn move_completed(
        &mut self,
        mut moved: Move,
        buf: Option<Buf>,
        result: Result<(), DiskError>,
    ) {
        if !moved.is_read {
            let good = buf.filter(|buf| result.is_ok() && self.is_data_of(&moved, buf));
            if let Some(buf) = good {
                moved.is_read = true;
                let to = self.byte(moved.to);
                let id = self.op(Op::Move(moved));
                return self.disk.write(id, to, smallvec![buf]);
            }
            self.space.give_back(moved.to);
            self.notice(format!(
                "data in the journal at byte {} do not match their checksum",
                self.byte(moved.held.place.block().unwrap_or_default())
            ));
            self.moved(&moved, Place::LOST);
        } else if let Err(why) = result {
            // it is tried again, elsewhere (S9)
            self.set_aside(moved.to, 1, &why);
        } else if !self.moved(&moved, Place::data(moved.to)) {
            self.space.give_back(moved.to);
        }
        self.checkpoint.page_came();
    }

    fn is_data_of(&self, moved: &Move, buf: &[u8]) -> bool {
        let object = self.groups.get(&moved.group).and_then(|g| g.objects.get(&moved.object));
        object.is_some_and(|o| {
            block_checksum(o.family, moved.object.chunk, moved.block, buf) == moved.held.checksum
        })
    }

    /// The entry names another place; `false` when it does not name the old one any more: a read found it damaged.
    fn moved(&mut self, moved: &Move, to: Place) -> bool {
        let object = self.groups.get_mut(&moved.group).and_then(|g| g.objects.get_mut(&moved.object));
        let stack = object.and_then(|o| o.frozen.stacks.get_mut(&moved.block));
        let entry =
            stack.and_then(|s| s.entries.iter_mut().find(|o| o.held == moved.held && o.role != Role::Mark));
        let Some(entry) = entry else { return false };
        entry.held.place = to;
        self.in_ring -= 1;
        self.tally.moved += 1;
        true
    }
}

fn is_in_ring(over: &Over, region: &crate::region::SliceRegion) -> bool {
    over.role != Role::Mark && over.held.place.block().is_some_and(|b| region.is_in_ring(b))
}
