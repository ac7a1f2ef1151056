//! What a copy durably knows of its group beside blocks: promise, floor, sessions, request records (R5, R13, R21, R31).
//!
//! The store keeps one per group, journals what changes it and writes it to the group table at a checkpoint (S13);
//! `replication` keeps its own, applied when a record is submitted. Both call [`Ledger::apply`], so they cannot differ.
use crate::geometry::{BlockRange, ObjectId};
use crate::ids::{AttachmentId, Generation, QueueId, SessionId};
use crate::record::{Body, Record, Table, Write};
use crate::request::{Mark, RequestId, RequestNote};
use crate::version::{Epoch, Version};
use alloc::collections::{BTreeMap, VecDeque};

/// A remembered request: it took effect at `version`, or, when `void`, a takeover at `version` did not find it whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Note {
    /// Number in its queue.
    pub number: u64,
    /// Piece of the request.
    pub piece: u16,
    /// Records of the same request at lower versions count for nothing (R12).
    pub is_void: bool,
    /// The generation it was sent under.
    pub generation: Generation,
    /// The write that carried it.
    pub version: Version,
    /// Its object.
    pub object: ObjectId,
    /// All its blocks.
    pub range: BlockRange,
}

impl Note {
    fn key(&self) -> (u64, u16, Version) {
        (self.number, self.piece, self.version)
    }
}

/// The records of one queue of one session, by number, piece and version.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct QueueLog {
    /// Numbers below it have no record and are executed no more.
    pub mark: u64,
    /// What is remembered.
    pub notes: VecDeque<Note>,
}

/// A queue of a session of an attachment.
pub type QueueKey = (AttachmentId, SessionId, QueueId);

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ledger {
    /// The number of the group's assignment to this slice (R20); 0 before the first.
    pub assignment: u64,
    /// Lower epochs are refused (R5).
    pub promise: Epoch,
    /// All versions at or below it are committed (R13).
    pub floor: Version,
    /// The floor it had before it came to count as zero: taken again when an operator accepts what this copy holds (R28), so that a
    /// takeover looks at no more than it would have (R41).
    pub former_floor: Version,
    /// The floor to take once in-sync (R15); `None` when none was given in this join.
    pub point: Option<Version>,
    /// The highest version this copy took as one of the in-sync, or its floor: what was committed up to there it has. One whose
    /// top is below another's floor does not hold what it acknowledged: its journal lost its end (R12).
    pub top: Version,
    /// The highest version it took at all.
    pub latest: Version,
    /// A join began and did not end: what is taken does not raise `top`, for what lies below may not have come yet.
    pub is_joining: bool,
    /// `touched` of emptied objects at or below it may be forgotten here (R18). A copy whose top is below it cannot be compared
    /// by what was touched.
    pub forgotten: Version,
    /// Per attachment the generation and session below which requests are refused.
    pub sessions: BTreeMap<AttachmentId, (Generation, SessionId)>,
    /// Per queue its mark and records.
    pub queues: BTreeMap<QueueKey, QueueLog>,
    /// Queues of older sessions may be kept: the floor looks for them only then, not with every write.
    pub has_old: bool,
}

impl QueueLog {
    fn insert(&mut self, note: Note) {
        // nearly all come in order
        if self.notes.back().is_none_or(|last| last.key() < note.key()) {
            return self.notes.push_back(note);
        }
        let at = self.notes.partition_point(|n| n.key() < note.key());
        if self.notes.get(at).is_some_and(|n| n.key() == note.key()) {
            // of one version the later record wins; a void one stays void
            let was_void = self.notes[at].is_void;
            self.notes[at] = Note { is_void: note.is_void || was_void, ..note };
        } else {
            self.notes.insert(at, note);
        }
    }
    /// The highest record of a request, unless it is void.
    fn find(&self, id: &RequestId) -> Option<Version> {
        // a new request is nearly always above all that came before
        if self.notes.back().is_none_or(|last| (last.number, last.piece) < (id.number, id.piece)) {
            return None;
        }
        let at = self.notes.partition_point(|n| (n.number, n.piece) < (id.number, id.piece));
        let same = self.notes.iter().skip(at).take_while(|n| (n.number, n.piece) == (id.number, id.piece));
        same.last().filter(|n| !n.is_void).map(|n| n.version)
    }
    fn raise_mark(&mut self, below: u64) {
        self.mark = self.mark.max(below);
        while self.notes.front().is_some_and(|n| n.number < self.mark) {
            self.notes.pop_front();
        }
    }
}

impl Ledger {
    /// Applies a record.
    pub fn apply(&mut self, record: &Record) {
        self.take(record.promise, &record.body);
    }

    /// Applies what a record says, under the promise it carries: the one place that says what a record does to a ledger.
    pub fn take(&mut self, promise: Epoch, body: &Body) {
        self.promise = self.promise.max(promise);
        match body {
            Body::Promise | Body::Repair { .. } | Body::DropLayer { .. } => {}
            Body::Recover(recover) => {
                self.latest = self.latest.max(recover.touched);
                if self.is_joining {
                    // the records come again after it, and the point with them: it says that nothing recovered is missing
                    self.point = None;
                }
            }
            Body::JoinBegan => (self.point, self.is_joining) = (None, true),
            Body::Distrust => self.distrust(),
            Body::Assign { assignment } => {
                *self = Ledger { assignment: *assignment, promise: self.promise, ..Ledger::default() }
            }
            Body::DropGroup => *self = Ledger { promise: self.promise, ..Ledger::default() },
            Body::Write(write) => self.apply_write(write),
            Body::Table(table) => self.apply_table(table),
            Body::Forget { attachment } => {
                self.sessions.remove(attachment);
                self.queues.retain(|key, _| key.0 != *attachment);
            }
            Body::Fence { attachment, generation } => {
                self.raise_session(*attachment, *generation, SessionId(0))
            }
        }
    }

    fn apply_write(&mut self, write: &Write) {
        self.latest = self.latest.max(write.version);
        if !self.is_joining {
            self.top = self.top.max(write.version);
        }
        if write.takeover.is_some() {
            self.void_lost(write);
        }
        for note in &write.requests {
            let id = note.id;
            self.raise_session(id.attachment, id.generation, id.session);
            self.queue(&id).insert(note_of(note, write.version, false));
        }
        for mark in &write.marks {
            self.raise_mark(mark);
        }
    }

    /// R12: the requests a takeover names as not found, and our own of lower epochs that name one of its blocks and
    /// that it does not carry (a joiner has records that no takeover asked for), take no effect any more.
    fn void_lost(&mut self, write: &Write) {
        let mut lost = alloc::vec::Vec::new();
        for (key, log) in &self.queues {
            for n in &log.notes {
                let id = request_id(key, n);
                let meets = n.object == write.object && n.range.overlaps(write.range);
                if !n.is_void
                    && n.version < Version::start(write.version.epoch())
                    && meets
                    && !write.carries(&id)
                {
                    lost.push(RequestNote { id, object: n.object, range: n.range });
                }
            }
        }
        for note in write.voided().iter().chain(&lost) {
            let log = self.queue(&note.id);
            if note.id.number >= log.mark {
                log.insert(note_of(note, write.version, true));
            }
        }
    }

    fn apply_table(&mut self, table: &Table) {
        if table.is_first {
            let low = Version::start(table.since);
            for log in self.queues.values_mut() {
                log.notes.retain(|n| n.version >= low);
                log.mark = 0;
            }
        }
        for &(attachment, generation, session) in &table.sessions {
            self.raise_session(attachment, generation, session);
        }
        for (note, version) in &table.requests {
            self.queue(&note.id).insert(note_of(note, *version, false));
        }
        for mark in &table.marks {
            self.raise_mark(mark);
        }
        if let Some(point) = table.point {
            self.point = Some(point.floor);
            self.forgotten = self.forgotten.max(point.forgotten);
        }
    }

    /// What this copy holds counts for nothing (R1, S8): it is compared from the beginning.
    pub fn distrust(&mut self) {
        self.former_floor = self.former_floor.max(self.floor);
        (self.floor, self.point) = (Version::ZERO, None);
        (self.top, self.latest) = (Version::ZERO, Version::ZERO);
    }

    /// Metadata name this copy among the in-sync: a join it was in is over, if all of it came here (R15).
    pub fn ends_join(&mut self) {
        if self.is_joining && self.point.is_some() {
            self.end_join();
        }
    }

    fn end_join(&mut self) {
        self.is_joining = false;
        self.top = self.top.max(self.latest);
    }

    /// What was touched at or below the floor may be forgotten from now on (R18).
    pub fn forgets(&mut self) {
        self.forgotten = self.forgotten.max(self.floor);
    }

    /// Whether all that is remembered of an attachment's requests is at or below the floor: no takeover asks for it then.
    pub fn is_settled(&self, attachment: AttachmentId) -> bool {
        let low = (attachment, SessionId(0), QueueId(0));
        let own = self.queues.range(low..).take_while(|(key, _)| key.0 == attachment);
        own.flat_map(|(_, log)| &log.notes).all(|n| n.version <= self.floor)
    }

    /// Takes back the records of a write that was submitted and could not be made durable (R7).
    pub fn forget(&mut self, version: Version) {
        for log in self.queues.values_mut() {
            log.notes.retain(|n| n.version != version);
        }
    }

    fn queue(&mut self, id: &RequestId) -> &mut QueueLog {
        let Ledger { queues, has_old, .. } = self;
        queues.entry((id.attachment, id.session, id.queue)).or_insert_with(|| {
            *has_old = true;
            QueueLog::default()
        })
    }

    /// Puts a record back as a store wrote it down.
    pub fn restore(&mut self, note: &RequestNote, version: Version, is_void: bool) {
        self.queue(&note.id).insert(note_of(note, version, is_void));
    }

    /// Raises a queue's mark and forgets what is below it.
    pub fn raise_mark(&mut self, mark: &Mark) {
        let Ledger { queues, has_old, .. } = self;
        let log = queues.entry((mark.attachment, mark.session, mark.queue)).or_insert_with(|| {
            *has_old = true;
            QueueLog::default()
        });
        log.raise_mark(mark.below);
    }

    fn raise_session(&mut self, attachment: AttachmentId, generation: Generation, session: SessionId) {
        let known = self.sessions.entry(attachment).or_default();
        self.has_old |= session > known.1;
        *known = (known.0.max(generation), known.1.max(session));
    }

    /// Raises the floor (R13, R15) and forgets what only an older session could still have asked for.
    pub fn raise_floor(&mut self, floor: Version) {
        if floor <= self.floor {
            return;
        }
        (self.floor, self.former_floor) = (floor, Version::ZERO);
        if self.is_joining {
            self.end_join(); // only an in-sync copy's floor moves
        }
        self.top = self.top.max(floor);
        if !self.has_old {
            return;
        }
        self.has_old = false;
        let Ledger { queues, sessions, has_old, .. } = self;
        queues.retain(|(attachment, session, _), log| {
            if sessions.get(attachment).is_none_or(|known| known.1 <= *session) {
                return true;
            }
            log.notes.retain(|n| n.version > floor);
            *has_old |= !log.notes.is_empty();
            !log.notes.is_empty()
        });
    }

    /// Whether the request took effect, by what this copy was told: the highest record of it that is not void.
    pub fn find(&self, id: &RequestId) -> Option<Version> {
        self.queues.get(&(id.attachment, id.session, id.queue))?.find(id)
    }

    /// What [`Ledger::find`] and [`Ledger::mark_of`] say, looked up once: every write asks both.
    pub fn find_with_mark(&self, id: &RequestId) -> (Option<Version>, u64) {
        match self.queues.get(&(id.attachment, id.session, id.queue)) {
            Some(log) => (log.find(id), log.mark),
            None => (None, 0),
        }
    }

    /// Whether a takeover above `version` voided the request (R12).
    pub fn is_voided(&self, id: &RequestId, version: Version) -> bool {
        let Some(log) = self.queues.get(&(id.attachment, id.session, id.queue)) else { return false };
        let at =
            log.notes.partition_point(|n| (n.number, n.piece, n.version) <= (id.number, id.piece, version));
        let same = log.notes.iter().skip(at).take_while(|n| (n.number, n.piece) == (id.number, id.piece));
        same.into_iter().any(|n| n.is_void)
    }

    /// The mark of a request's queue: a number below it with no record is executed no more.
    pub fn mark_of(&self, id: &RequestId) -> u64 {
        self.queues.get(&(id.attachment, id.session, id.queue)).map_or(0, |log| log.mark)
    }

    /// All records with the request each is of.
    pub fn notes(&self) -> impl Iterator<Item = (RequestId, &Note)> {
        self.queues.iter().flat_map(|(key, log)| log.notes.iter().map(|n| (request_id(key, n), n)))
    }

    /// All marks that say something.
    pub fn marks(&self) -> impl Iterator<Item = Mark> {
        self.queues.iter().filter(|(_, log)| log.mark > 0).map(|(key, log)| Mark {
            attachment: key.0,
            session: key.1,
            queue: key.2,
            below: log.mark,
        })
    }
}

fn note_of(note: &RequestNote, version: Version, is_void: bool) -> Note {
    Note {
        number: note.id.number,
        piece: note.id.piece,
        is_void,
        generation: note.id.generation,
        version,
        object: note.object,
        range: note.range,
    }
}

fn request_id(key: &QueueKey, note: &Note) -> RequestId {
    RequestId {
        attachment: key.0,
        generation: note.generation,
        session: key.1,
        queue: key.2,
        number: note.number,
        piece: note.piece,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{FamilyId, GroupId};
    use crate::record::{Content, Point};
    use smallvec::smallvec;

    fn id(number: u64) -> RequestId {
        RequestId { attachment: AttachmentId(1), session: SessionId(1), number, ..RequestId::default() }
    }
    fn note(number: u64, first: u16, count: u16) -> RequestNote {
        RequestNote { id: id(number), object: ObjectId::new(1, 0), range: BlockRange::new(first, count) }
    }
    fn write(version: Version, note: RequestNote) -> Write {
        Write {
            version,
            object: note.object,
            family: FamilyId(1),
            range: note.range,
            content: Content::Zero,
            requests: smallvec![note],
            marks: smallvec![],
            takeover: None,
        }
    }
    fn record(epoch: u32, body: Body) -> Record {
        Record { group: GroupId(1), promise: Epoch(epoch), body }
    }
    fn v(epoch: u32, sequence: u64) -> Version {
        Version::new(Epoch(epoch), sequence)
    }

    #[test]
    fn a_mark_prunes_what_is_below_it() {
        let mut ledger = Ledger::default();
        ledger.apply(&record(1, Body::Write(write(v(1, 1), note(1, 0, 1)))));
        let mut second = write(v(1, 2), note(2, 0, 1));
        second.marks = smallvec![Mark {
            attachment: AttachmentId(1),
            session: SessionId(1),
            queue: QueueId(0),
            below: 2
        }];
        ledger.apply(&record(1, Body::Write(second)));
        assert_eq!((ledger.find(&id(1)), ledger.find(&id(2))), (None, Some(v(1, 2))));
        assert_eq!(ledger.mark_of(&id(1)), 2);
    }

    #[test]
    fn a_takeovers_write_voids_what_it_does_not_carry() {
        let mut ledger = Ledger::default();
        ledger.apply(&record(1, Body::Write(write(v(1, 1), note(1, 0, 2)))));
        // a rewrite of block 1 that knows nothing of request 1, and names request 7, never seen here
        let rewrite = Write {
            requests: smallvec![],
            takeover: Some(alloc::vec![note(7, 5, 1)]),
            ..write(v(2, 1), note(9, 1, 1))
        };
        ledger.apply(&record(2, Body::Write(rewrite)));
        assert_eq!(ledger.find(&id(1)), None);
        assert!(ledger.notes().any(|(r, n)| r == id(7) && n.is_void));
        // executed again, it counts again
        ledger.apply(&record(2, Body::Write(write(v(2, 2), note(1, 0, 2)))));
        assert_eq!(ledger.find(&id(1)), Some(v(2, 2)));
    }

    #[test]
    fn a_joiners_records_below_the_join_are_replaced_not_united() {
        let mut ledger = Ledger::default();
        ledger.apply(&record(1, Body::Write(write(v(1, 1), note(1, 0, 1)))));
        ledger.apply(&record(3, Body::Write(write(v(3, 1), note(3, 0, 1)))));
        let table = Table {
            since: Epoch(3),
            is_first: true,
            requests: alloc::vec![(note(2, 0, 1), v(2, 1))],
            point: Some(Point { floor: v(3, 0), forgotten: v(2, 0) }),
            ..Table::default()
        };
        ledger.apply(&record(3, Body::Table(table)));
        assert_eq!(
            (ledger.find(&id(1)), ledger.find(&id(2)), ledger.find(&id(3))),
            (None, Some(v(2, 1)), Some(v(3, 1)))
        );
        assert_eq!((ledger.point, ledger.promise), (Some(v(3, 0)), Epoch(3)));
    }

    #[test]
    fn of_an_attachment_that_ended_nothing_is_left() {
        let mut ledger = Ledger::default();
        ledger.apply(&record(1, Body::Write(write(v(1, 1), note(1, 0, 1)))));
        assert!(!ledger.is_settled(AttachmentId(1)));
        ledger.raise_floor(v(1, 1));
        assert!(ledger.is_settled(AttachmentId(1)));
        ledger.apply(&record(1, Body::Forget { attachment: AttachmentId(1) }));
        assert!(ledger.sessions.is_empty() && ledger.queues.is_empty());
        assert_eq!(ledger.floor, v(1, 1));
    }

    #[test]
    fn a_new_assignment_forgets_all_but_the_promise() {
        let mut ledger = Ledger::default();
        ledger.apply(&record(4, Body::Write(write(v(4, 1), note(1, 0, 1)))));
        ledger.raise_floor(v(4, 1));
        ledger.apply(&record(5, Body::Assign { assignment: 2 }));
        assert_eq!(ledger, Ledger { assignment: 2, promise: Epoch(5), ..Ledger::default() });
    }
}
