//! The right to use a volume: sessions, exclusive use, forced ends (R21, R31, R44).
use crate::command::{Answer, Refusal, RefusalKind};
use crate::state::{Attachment, State};
use alloc::format;
use alloc::string::String;
use sarsen_types::{AttachmentId, Generation, SessionId, VolumeId};

/// Bytes of an owner's name.
const OWNER_MAX: usize = 4096;

impl State {
    pub(crate) fn attach(&mut self, id: VolumeId, owner: &str, exclusive: bool, read_only: bool) -> Answer {
        let Some(volume) = self.volumes.get(&id) else {
            let what = format!("volume number {id} does not exist any more");
            return Answer::Refused(Refusal::new(RefusalKind::NotFound, what));
        };
        if owner.is_empty() || owner.len() > OWNER_MAX {
            let what = format!("an owner has a name of 1 to {OWNER_MAX} bytes");
            return Answer::Refused(Refusal::new(RefusalKind::Invalid, what));
        }
        let name = volume.name.clone();
        let mut own = None;
        for (at, a) in self.attachments_of(id) {
            let is_own = a.owner == owner && a.fencing.is_none();
            if a.fencing.is_some() {
                let what = format!("volume {name} is being taken from {}", a.owner);
                let why = Refusal::new(RefusalKind::Attached, what);
                return Answer::Refused(why.hint("try again when all groups refuse the old owner"));
            }
            if is_own {
                own = Some(at);
            } else if a.exclusive || exclusive {
                let what = format!("volume {name} is in use by {}", a.owner);
                let why = Refusal::new(RefusalKind::Attached, what);
                return Answer::Refused(why.hint("end that use first, or detach it by force"));
            }
        }
        // A new life of the driver: its requests are told from those of the one before (R21).
        let session = SessionId(self.next_wide());
        let attachment = own.unwrap_or_else(|| AttachmentId(self.next_wide()));
        let generation = self.attachments.get(&attachment).map_or(Generation(1), |a| a.generation);
        let owner = String::from(owner);
        let right =
            Attachment { volume: id, owner, exclusive, read_only, generation, session, fencing: None };
        if own.is_none() {
            self.tell(format!("volume {name} is used by {}", right.owner));
        }
        self.attachments.insert(attachment, right);
        self.changed_volume(id);
        Answer::Attached { attachment, generation, session }
    }

    /// Ends the right of one life. A new life of the same owner has the same attachment, so what the old one says late, or an
    /// operator who looked before, does not end it (found in review).
    pub(crate) fn release(&mut self, id: AttachmentId, session: Option<SessionId>) -> Answer {
        let Some(a) = self.attachments.get(&id) else { return Answer::Done };
        if session.is_some_and(|of| of != a.session) {
            let what = format!("attachment {id} is in use by {} in a newer session, {}", a.owner, a.session);
            let why = Refusal::new(RefusalKind::Attached, what);
            return Answer::Refused(why.hint("`sarsen attachment list` shows who uses it now"));
        }
        // One that is being taken away ends when it is fenced.
        if a.fencing.is_none() {
            self.end_attachment(id);
        }
        Answer::Done
    }

    /// Raises the generation; the right is gone when each group of the volume has fenced the old one.
    pub(crate) fn detach_forced(&mut self, id: AttachmentId) -> Answer {
        let Some(a) = self.attachments.get(&id) else {
            let what = format!("attachment {id} does not exist any more");
            return Answer::Refused(Refusal::new(RefusalKind::NotFound, what));
        };
        if a.fencing.is_some() {
            return Answer::Done;
        }
        let (volume, owner) = (a.volume, a.owner.clone());
        let policy = self.volumes.get(&volume).and_then(|v| self.policies.get(&v.policy));
        let groups = policy.map(|p| p.table.iter().copied().collect()).unwrap_or_default();
        if let Some(a) = self.attachments.get_mut(&id) {
            a.generation = Generation(a.generation.0 + 1);
            a.fencing = Some(groups);
        }
        self.tell(format!("volume number {volume} is taken from {owner} by force"));
        self.changed_volume(volume);
        Answer::Done
    }

    pub(crate) fn end_attachment(&mut self, id: AttachmentId) {
        if let Some(a) = self.attachments.remove(&id) {
            self.tell(format!("volume number {} is no longer used by {}", a.volume, a.owner));
            self.changed_volume(a.volume);
        }
    }

    fn changed_volume(&mut self, id: VolumeId) {
        let revision = self.revision;
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.changed = revision;
        }
        self.changes_map();
    }
}
