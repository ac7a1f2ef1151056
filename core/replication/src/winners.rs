//! The blocks that won a takeover: read here or fetched from a copy that has them intact (R12).
use crate::cx::Cx;
use crate::group::{Group, Role};
use crate::io::{Blocks, Read, ReadFailed, Which};
use crate::primary::Phase;
use crate::takeover::{Fetched, Fetching};
use crate::wait::Wait;
use alloc::vec::Vec;
use sarsen_types::record::{Content, Entry};
use sarsen_types::{Alarm, Checksum, SliceId};
use sarsen_wire::peer::GroupBody;
use smallvec::{SmallVec, smallvec};

/// Tells a takeover's fetches from those of repairs.
const TOKEN_OF_WINNERS: u64 = 1 << 63;

fn token_of(attempt: u32, rewrite: usize) -> u64 {
    TOKEN_OF_WINNERS | u64::from(attempt & 0x7fff_ffff) << 32 | rewrite as u64
}

impl<P: Clone> Group<P> {
    /// Gets a winner's blocks: from our own store when they are intact here, else from a copy that has them.
    pub(crate) fn fetch_winner(&mut self, cx: &mut Cx<P>, at: usize) {
        let (id, epoch, me) = (self.id, self.state.epoch, cx.me);
        let Role::Primary(primary) = &mut self.role else { return };
        let Phase::Collect(takeover) = &mut primary.phase else { return };
        let token = token_of(takeover.attempt, at);
        let fetching = &mut takeover.rewrites[at];
        let rewrite = &fetching.rewrite;
        let Some(Entry::Data(version, _) | Entry::Damaged(version, _)) = rewrite.winner else {
            // nothing wins: the blocks read as never written. With one layer that is zero; a layer that lies on
            // another needs a versioned absent entry, which comes with snapshots.
            fetching.content = Some(Fetched::Write(None, Content::Zero));
            return;
        };
        let Some(holder) = rewrite.holders.get(fetching.tried % rewrite.holders.len().max(1)) else {
            return self.winner_failed(cx, at);
        };
        (fetching.tried, fetching.asked) = (fetching.tried + 1, holder.slice);
        let (object, range, to) = (rewrite.object, rewrite.range, holder.slice);
        if to == me {
            let read = Read {
                group: id,
                layers: smallvec![object.layer],
                family: rewrite.family,
                chunk: object.chunk,
                range,
                which: Which::Exact(version),
            };
            cx.read(read, Wait::Winner { group: id, epoch, token });
        } else {
            self.send(cx, to, GroupBody::FetchQ { token, object, range, version }, None);
        }
    }

    pub(crate) fn fetch_winners_of(&mut self, cx: &mut Cx<P>, from: SliceId) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Phase::Collect(takeover) = &mut primary.phase else { return };
        let lost = |f: &Fetching<P>| f.content.is_none() && f.tried > 0 && f.asked == from;
        let mut again = Vec::new();
        for (at, fetching) in takeover.rewrites.iter_mut().enumerate().filter(|(_, f)| lost(f)) {
            fetching.tried -= 1; // its answer was lost: that is none
            again.push(at);
        }
        for at in again {
            self.fetch_winner(cx, at);
        }
    }

    /// Our own store gave a winner's blocks.
    pub fn winner_read(&mut self, cx: &mut Cx<P>, token: u64, done: Result<Blocks<P>, ReadFailed>) {
        let Some(at) = self.winner_of(token, cx.me) else { return };
        match done {
            Ok(blocks) => {
                let checksums = blocks.entries.iter().filter_map(|e| match e {
                    Entry::Data(_, checksum) => Some(*checksum),
                    _ => None,
                });
                self.winner_came(cx, at, checksums.collect(), blocks.data);
            }
            Err(_) => self.winner_failed(cx, at),
        }
    }

    /// Another copy gave a winner's blocks; `false` when the token is not of a takeover.
    pub fn winner_fetched(
        &mut self,
        cx: &mut Cx<P>,
        from: SliceId,
        token: u64,
        checksums: &[Checksum],
        payload: Option<P>,
    ) -> bool {
        if token & TOKEN_OF_WINNERS == 0 {
            return false;
        }
        match self.winner_of(token, from) {
            Some(at) if payload.is_some() => self.winner_came(cx, at, checksums.into(), payload),
            Some(at) => self.winner_failed(cx, at),
            None => {} // of a takeover that started again, or asked of another since
        }
        true
    }

    /// The place of a rewrite whose blocks `from` was asked for last.
    fn winner_of(&self, token: u64, from: SliceId) -> Option<usize> {
        let Role::Primary(primary) = &self.role else { return None };
        let Phase::Collect(takeover) = &primary.phase else { return None };
        let at = token as u32 as usize;
        let fetching = takeover.rewrites.get(at)?;
        (token == token_of(takeover.attempt, at) && fetching.asked == from && fetching.content.is_none())
            .then_some(at)
    }

    fn winner_failed(&mut self, cx: &mut Cx<P>, at: usize) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Phase::Collect(takeover) = &mut primary.phase else { return };
        let Some(fetching) = takeover.rewrites.get_mut(at) else { return };
        if fetching.tried < fetching.rewrite.holders.len() {
            return self.fetch_winner(cx, at);
        }
        if fetching.rewrite.winner.is_some_and(|w| w.version() <= takeover.floor) {
            fetching.content = Some(Fetched::Leave);
            cx.counters.unrepairable += 1;
            let (object, range) = (fetching.rewrite.object, fetching.rewrite.range);
            let what = alloc::format!("{object:?} {range:?} of {:?} is intact on no in-sync copy", self.id);
            cx.raise(self.id, Alarm::Gone, range.count as usize, what);
            return self.write_when_fetched(cx);
        }
        // it rotted since it was listed: listed again, it is damaged, and the next version wins (R12)
        self.take_over(cx);
    }

    fn winner_came(
        &mut self,
        cx: &mut Cx<P>,
        at: usize,
        checksums: SmallVec<[Checksum; 4]>,
        payload: Option<P>,
    ) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Phase::Collect(takeover) = &mut primary.phase else { return };
        let Some(fetching) = takeover.rewrites.get_mut(at).filter(|f| f.content.is_none()) else { return };
        if checksums[..] != fetching.rewrite.checksums[..] {
            return self.winner_failed(cx, at);
        }
        fetching.content = Some(Fetched::Write(payload, Content::Data(checksums)));
        self.write_when_fetched(cx);
    }
}
