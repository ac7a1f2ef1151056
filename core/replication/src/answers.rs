//! Answers of other copies, and of the store, to what a group asked.
use crate::cx::Cx;
use crate::group::{Group, Role};
use crate::io::{Blocks, ReadFailed};
use alloc::vec::Vec;
use sarsen_types::record::Entry;
use sarsen_types::{Checksum, ChunkIndex, Epoch, FamilyId, SliceId, Version};
use sarsen_wire::peer::GroupBody;

impl<P: Clone> Group<P> {
    /// An answer of another copy, in our epoch.
    pub fn answered(&mut self, cx: &mut Cx<P>, from: SliceId, body: GroupBody, payload: Option<P>) {
        if !matches!(self.role, Role::Primary(_)) {
            return;
        }
        match body {
            GroupBody::TailA { floor, top } => self.floor_came(cx, from, floor, top),
            GroupBody::StopA => self.confirmed_stop(cx, from),
            GroupBody::TailPageA { after, blocks, is_last } => {
                self.stacks_came(cx, from, after, blocks, is_last)
            }
            GroupBody::TailNotesA { skip, sessions, notes, is_last, .. } => {
                for (attachment, generation, session) in sessions {
                    let known = self.ledger.sessions.entry(attachment).or_default();
                    *known = (known.0.max(generation), known.1.max(session));
                }
                self.notes_came(cx, from, skip, notes, is_last);
            }
            GroupBody::FetchA { token, checksums, .. } => {
                let is_winner = self.winner_fetched(cx, from, token, &checksums, payload.clone());
                if !is_winner {
                    self.repair_fetched(cx, from, token, &checksums, payload);
                }
            }
            GroupBody::JoinA { since, floor, top } => self.join_told(cx, from, since, floor, top),
            GroupBody::TouchedA { objects, is_last, .. } => self.peer_touched(cx, from, &objects, is_last),
            GroupBody::VersionsA { object, sending, runs } => {
                self.peer_versions(cx, from, object, sending, runs)
            }
            GroupBody::RecoverA { object, sending } => self.recovered(cx, from, object, sending),
            GroupBody::TableA { sending } => self.records_held(cx, from, sending),
            GroupBody::JoinFailed => self.join_failed(cx, from),
            GroupBody::FenceA { attachment, generation } => {
                self.fence_known(cx, from, attachment, generation)
            }
            _ => {}
        }
    }

    /// Blocks another copy asked for were read, or not.
    pub fn fetched_here(
        &mut self,
        cx: &mut Cx<P>,
        to: SliceId,
        epoch: Epoch,
        token: u64,
        (family, chunk, first): (FamilyId, ChunkIndex, u16),
        done: Result<Blocks<P>, ReadFailed>,
    ) {
        let (mut checksums, mut payload) = (Vec::<Checksum>::new(), None);
        if let Ok(blocks) = done {
            checksums.extend(blocks.entries.iter().filter_map(|e| match e {
                Entry::Data(_, checksum) => Some(*checksum),
                _ => None,
            }));
            if checksums.len() == blocks.entries.len() {
                payload = blocks.data;
            } else {
                checksums.clear();
            }
        }
        let body = GroupBody::FetchA { token, family, chunk, first, checksums };
        cx.send(to, self.id, epoch, Version::ZERO, body, payload);
    }
}
