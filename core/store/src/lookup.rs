//! What a group holds of an object, from memory: pages that are not there are noted, to be read before the next try.
use crate::cache::{Cache, Found};
use crate::group::Group;
use crate::leaf;
use crate::object::Object;
use crate::page::{PageKind, Pointer, Twin};
use crate::place::Held;
use crate::run;
use crate::stack::{Candidate, Stack, candidates};
use crate::table::{Line, find_line};
use sarsen_types::{ObjectId, Version};
use smallvec::SmallVec;

/// A page that is to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Want {
    /// Where, and what must be there.
    pub pointer: Pointer,
    /// Where else it lies.
    pub twin: Option<u64>,
    /// Its kind.
    pub kind: PageKind,
}

impl Want {
    /// A page that lies in two places.
    pub fn twin(page: Twin, kind: PageKind) -> Want {
        Want { pointer: Pointer { block: page.at[0], sum: page.sum }, twin: Some(page.at[1]), kind }
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Pages are away; they are in [`Lookup::wants`].
    Away,
    /// The leaf of a block is bad, and nothing over it says what the block holds.
    Lost,
}

/// What lies under the unmerged entries of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Under {
    Held(Held),
    Lost,
}

/// See the module.
pub struct Lookup<'a> {
    group: &'a Group,
    cache: &'a Cache,
    /// Pages to read.
    pub wants: SmallVec<[Want; 4]>,
}

/// An object, looked up.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The object.
    pub id: ObjectId,
    /// Its unmerged changes.
    pub changes: Option<&'a Object>,
    /// Its line; `None` where the table has none.
    pub line: Option<Line>,
    /// The runs over its table page; none where it has no line.
    pub runs: Twin,
}

impl View<'_> {
    /// The version of the last operation on it.
    pub fn touched(&self) -> Version {
        self.changes
            .map_or(Version::ZERO, Object::touched)
            .max(self.line.map_or(Version::ZERO, |l| l.touched))
    }
    /// Whether nothing is known of it.
    pub fn is_unknown(&self) -> bool {
        self.changes.is_none() && self.line.is_none()
    }
}

impl<'a> Lookup<'a> {
    /// A look into a group.
    pub fn new(group: &'a Group, cache: &'a Cache) -> Lookup<'a> {
        Lookup { group, cache, wants: SmallVec::new() }
    }

    /// The payload of a table page; `None` while it is away.
    pub fn table(&mut self, slot: usize) -> Option<&'a [u8]> {
        self.twin(self.group.directory.slots[slot].page, PageKind::Table)
    }

    /// The payload of a page that lies in two places; `None` while it is away.
    pub fn twin(&mut self, page: Twin, kind: PageKind) -> Option<&'a [u8]> {
        let want = Want::twin(page, kind);
        match self.cache.get(want.pointer) {
            Found::Here(payload) => Some(payload),
            // both places bad is the end of the drive, and told by the reading of it
            Found::Away | Found::Bad => {
                if !self.wants.contains(&want) {
                    self.wants.push(want);
                }
                None
            }
        }
    }

    /// What runs say of a block, the newest first.
    fn runs(&mut self, view: &View<'a>, block: u16) -> Result<SmallVec<[Stack; 1]>, Stop> {
        let mut found = SmallVec::new();
        if view.runs.is_none() {
            return Ok(found);
        }
        let list = self.twin(view.runs, PageKind::Runs).ok_or(Stop::Away)?;
        let mut is_away = false;
        for page in run::may_have(list, view.id, block) {
            match self.twin(page, PageKind::Run) {
                Some(payload) => found.extend(run::find(payload, view.id, block)),
                None => is_away = true,
            }
        }
        if is_away { Err(Stop::Away) } else { Ok(found) }
    }

    /// An object.
    pub fn object(&mut self, id: ObjectId) -> Result<View<'a>, Stop> {
        let changes = self.group.objects.get(&id);
        let slot = self.group.directory.slot_of(id).filter(|_| !self.group.dropping.contains(&id.layer));
        let nothing = View { id, changes, line: None, runs: Twin::NONE };
        let Some(slot) = slot else { return Ok(nothing) };
        let payload = self.table(slot).ok_or(Stop::Away)?;
        let Some(line) = find_line(payload, id) else { return Ok(nothing) };
        Ok(View { line: Some(line), runs: self.group.directory.slots[slot].runs, ..nothing })
    }

    fn under(&mut self, line: Option<&Line>, block: u16) -> Result<Under, Stop> {
        let Some(line) = line.filter(|l| l.may_have(block)) else { return Ok(Under::Held(Held::ABSENT)) };
        let Some((_, pointer)) = line.leaf(block) else { return Ok(Under::Held(Held::ABSENT)) };
        let kind = if line.is_sparse { PageKind::Sparse } else { PageKind::Dense };
        match self.cache.get(pointer) {
            Found::Here(payload) => Ok(Under::Held(leaf::entry(kind, payload, block))),
            Found::Bad => Ok(Under::Lost),
            Found::Away => {
                if self.wants.last().is_none_or(|w| w.pointer != pointer) {
                    self.wants.push(Want { pointer, twin: None, kind });
                }
                Err(Stop::Away)
            }
        }
    }

    /// All entries of a block, the highest first; `Lost` when the leaf is bad and no recovery told what was there.
    fn entries(&mut self, view: &View<'a>, block: u16) -> Result<(SmallVec<[Candidate; 4]>, bool), Stop> {
        let stacks = view.changes.map_or([None, None], |o| o.stacks(block));
        // what runs and leaf need is asked for together
        let (runs, under) = (self.runs(view, block), self.under(view.line.as_ref(), block));
        let (runs, under) = (runs?, under?);
        let (base, is_lost) = match under {
            Under::Held(held) => (held, false),
            Under::Lost => {
                let is_told = |s: &Stack| s.cut > Version::ZERO;
                (Held::ABSENT, !stacks.into_iter().flatten().chain(&runs).any(is_told))
            }
        };
        Ok((candidates(stacks, &runs, base), is_lost))
    }

    /// The committed entry of a block (design §5.2).
    pub fn visible(&mut self, view: &View<'a>, block: u16) -> Result<Held, Stop> {
        let (entries, is_lost) = self.entries(view, block)?;
        let seen = entries.iter().find(|c| c.is_base || self.group.sees(c.held.version));
        match seen {
            Some(c) => Ok(c.held),
            None if is_lost => Err(Stop::Lost),
            None => Ok(Held::ABSENT),
        }
    }

    /// The highest entry of a block.
    pub fn top(&mut self, view: &View<'a>, block: u16) -> Result<Held, Stop> {
        let (entries, is_lost) = self.entries(view, block)?;
        match entries.first() {
            Some(c) => Ok(c.held),
            None if is_lost => Err(Stop::Lost),
            None => Ok(Held::ABSENT),
        }
    }

    /// The entry of exactly this version; absent when there is none.
    pub fn exact(&mut self, view: &View<'a>, block: u16, version: Version) -> Result<Held, Stop> {
        let (entries, is_lost) = self.entries(view, block)?;
        match entries.iter().find(|c| c.held.version == version) {
            Some(c) => Ok(c.held),
            None if is_lost => Err(Stop::Lost),
            None => Ok(Held::ABSENT),
        }
    }

    /// All entries of a block, the highest first, down to the first at or below `above`. What is lost lies below a floor
    /// and is left out: what is above it is in the journal.
    pub fn stack(
        &mut self,
        view: &View<'a>,
        block: u16,
        above: Version,
    ) -> Result<SmallVec<[Held; 4]>, Stop> {
        let (entries, _) = self.entries(view, block)?;
        let down_to = entries.iter().position(|c| c.held.version <= above).map_or(entries.len(), |at| at + 1);
        Ok(entries[..down_to].iter().map(|c| c.held).collect())
    }
}
