//! Volumes, and the group table that a policy gets with its first (R38).
use crate::command::{Answer, Refusal, RefusalKind};
use crate::state::{Layer, NAME_MAX, State, Volume};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use sarsen_types::limits::VOLUME_BYTES_MAX;
use sarsen_types::{BLOCK_SIZE, Epoch, FamilyId, GroupId, GroupState, LayerId, Member, VolumeId};

/// Groups of a policy in `sarsen dev`.
const GROUPS_DEV: u32 = 64;
/// Groups of a policy for each slice it may use.
const GROUPS_PER_SLICE: u32 = 64;
/// Groups of a policy, at least.
const GROUPS_MIN: u32 = 256;
/// Groups of a policy, at most: the table goes to every client.
const GROUPS_MAX: u32 = 1 << 14;
const _: () =
    assert!(GROUPS_DEV.is_power_of_two() && GROUPS_MIN.is_power_of_two() && GROUPS_MAX.is_power_of_two());

fn refused(kind: RefusalKind, message: String) -> Answer {
    Answer::Refused(Refusal::new(kind, message))
}
fn no_volume(volume: VolumeId) -> Answer {
    refused(RefusalKind::NotFound, format!("volume number {volume} does not exist any more"))
}

fn check_size(size: u64) -> Result<(), Refusal> {
    let bad = |what: String| Err(Refusal::new(RefusalKind::Invalid, what));
    if size == 0 || !size.is_multiple_of(BLOCK_SIZE as u64) {
        return bad(format!("a volume has a multiple of {BLOCK_SIZE} bytes, and {size} is none"));
    }
    if size > VOLUME_BYTES_MAX {
        return bad(format!("a volume has at most {VOLUME_BYTES_MAX} bytes, and {size} is more"));
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(fits) || name.starts_with(['.', '-']) {
        let what = format!("{name:?} is no name of a volume");
        let hint = "1 to 128 letters, digits, '.', '_' and '-', not beginning with '.' or '-'";
        return Err(Refusal::new(RefusalKind::Invalid, what).hint(hint));
    }
    Ok(())
}

impl State {
    pub(crate) fn create_volume(&mut self, name: &str, size: u64, policy: &str) -> Answer {
        if let Err(why) = check_name(name).and(check_size(size)) {
            return Answer::Refused(why);
        }
        if let Some((id, there)) = self.volume_named(name) {
            if there.size == size && there.policy == policy {
                return Answer::Volume(id);
            }
            let what = format!("volume {name} exists, with {} bytes", there.size);
            return refused(RefusalKind::Exists, what);
        }
        if let Err(why) = self.make_table(policy) {
            return Answer::Refused(why);
        }
        let id = VolumeId(self.next_wide());
        let (family, head) = (FamilyId(self.next_wide()), LayerId(self.next_wide()));
        self.layers.insert(head, Layer { family, parent: None, volume: id });
        let volume = Volume {
            name: String::from(name),
            size,
            policy: String::from(policy),
            family,
            head,
            changed: self.revision,
        };
        self.volumes.insert(id, volume);
        self.tell(format!("volume {name} was created with {size} bytes"));
        Answer::Volume(id)
    }

    pub(crate) fn grow_volume(&mut self, id: VolumeId, size: u64) -> Answer {
        if let Err(why) = check_size(size) {
            return Answer::Refused(why);
        }
        let revision = self.revision;
        let Some(volume) = self.volumes.get_mut(&id) else { return no_volume(id) };
        if size < volume.size {
            let what =
                format!("volume {} has {} bytes: it does not shrink to {size}", volume.name, volume.size);
            return refused(RefusalKind::Invalid, what);
        }
        if size > volume.size {
            (volume.size, volume.changed) = (size, revision);
            let what = format!("volume {} has {size} bytes now", volume.name);
            self.tell(what);
            self.changes_map();
        }
        Answer::Volume(id)
    }

    pub(crate) fn delete_volume(&mut self, id: VolumeId) -> Answer {
        let Some(volume) = self.volumes.get(&id) else { return no_volume(id) };
        if let Some((_, a)) = self.attachments_of(id).next() {
            let what = format!("volume {} is in use by {}", volume.name, a.owner);
            let why = Refusal::new(RefusalKind::Attached, what);
            return Answer::Refused(why.hint("end its use first, or detach it by force"));
        }
        let name = volume.name.clone();
        self.volumes.remove(&id);
        let gone: Vec<LayerId> =
            self.layers.iter().filter(|(_, l)| l.volume == id).map(|(id, _)| *id).collect();
        for layer in gone {
            self.layers.remove(&layer);
            self.bury(layer);
        }
        self.tell(format!("volume {name} was deleted"));
        self.changes_map();
        Answer::Done
    }

    /// The table of a policy: made with its first volume, then fixed (R38).
    fn make_table(&mut self, name: &str) -> Result<(), Refusal> {
        let Some(policy) = self.policies.get(name) else {
            let what = format!("there is no policy {name}");
            return Err(Refusal::new(RefusalKind::NotFound, what));
        };
        if !policy.table.is_empty() {
            return Ok(());
        }
        let (copies, min_copies) = (policy.copies, policy.min_copies);
        let sites = self.sites();
        let count = match self.is_dev {
            true => GROUPS_DEV,
            false => {
                (sites.len() as u32 * GROUPS_PER_SLICE).next_power_of_two().clamp(GROUPS_MIN, GROUPS_MAX)
            }
        };
        let table = sarsen_placement::assign(count, copies, &sites).map_err(|why| {
            let why = Refusal::new(RefusalKind::Unable, format!("policy {name}: {why}"));
            why.hint("start more nodes with drives, or wait until those there are have registered")
        })?;
        let mut ids = Vec::new();
        for slices in table {
            self.last.group += 1;
            let group = GroupId(self.last.group);
            let mut members = Vec::new();
            for slice in &slices {
                self.last.assignment += 1;
                members.push(Member { slice: *slice, assignment: self.last.assignment });
            }
            let state = GroupState {
                group,
                epoch: Epoch(1),
                primary: slices[0],
                primary_since: Epoch(1),
                in_sync: slices.clone(),
                joining: Vec::new(),
                complete: slices,
                could_commit: Epoch(1),
                members,
                min_copies,
                is_damaged: false,
            };
            self.groups.insert(group, state);
            ids.push(group);
        }
        if let Some(policy) = self.policies.get_mut(name) {
            policy.table = ids;
        }
        self.changes_map();
        Ok(())
    }
}
