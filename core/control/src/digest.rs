//! By what a command is known again when it comes a second time under its id (R30): FNV-1a over its kind and what it names. The
//! number lies in logs and snapshots and is equal on every node, so it is made of values alone, not of how some library writes them.
use crate::command::Command;
use sarsen_types::GroupId;

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

#[derive(Clone, Copy)]
struct Digest(u64);

impl Digest {
    /// Of a command of some kind; kinds keep their numbers.
    fn of(kind: u8) -> Digest {
        Digest(OFFSET).bytes(&[kind])
    }
    fn bytes(self, bytes: &[u8]) -> Digest {
        Digest(bytes.iter().fold(self.0, |d, b| (d ^ u64::from(*b)).wrapping_mul(PRIME)))
    }
    fn number(self, number: impl Into<u128>) -> Digest {
        self.bytes(&number.into().to_le_bytes())
    }
    fn text(self, text: &str) -> Digest {
        self.number(text.len() as u64).bytes(text.as_bytes())
    }
    fn groups(self, groups: Option<&[GroupId]>) -> Digest {
        let Some(groups) = groups else { return self.number(0u8) };
        groups.iter().fold(self.number(1u8), |d, g| d.number(g.0))
    }
}

impl Command {
    /// See the module. What nodes ask of themselves has an id that nobody else knows: there the kind and whom it is about will do.
    pub(crate) fn digest(&self) -> u64 {
        let digest = match self {
            Command::Begin { cluster, .. } => Digest::of(1).number(cluster.0),
            Command::Node { identity, .. } => Digest::of(2).number(*identity),
            Command::Heard { node, is_up } => Digest::of(3).number(node.0).number(*is_up),
            Command::Register(r) => Digest::of(4).number(r.identity.0).number(r.open.0),
            Command::Trust { drive, open } => Digest::of(5).number(drive.0).number(open.0),
            Command::Failed { drive, open, .. } => Digest::of(6).number(drive.0).number(open.0),
            Command::Space(_) => Digest::of(7),
            Command::Judge(_) => Digest::of(8),
            Command::Join(_) => Digest::of(9),
            Command::Lead(_) => Digest::of(10),
            Command::Place(_) => Digest::of(11),
            Command::Unplace(_) => Digest::of(12),
            Command::Stopping { node } => Digest::of(13).number(node.0),
            Command::Leave { node } => Digest::of(14).number(node.0),
            Command::Rotten { slice, .. } => Digest::of(15).number(slice.drive.0).number(slice.index),
            Command::Passed { attachment, session, revision } => {
                Digest::of(16).number(attachment.0).number(session.0).number(revision.0)
            }
            Command::CreateVolume { name, size, policy } => {
                Digest::of(17).text(name).number(*size).text(policy)
            }
            Command::GrowVolume { volume, size } => Digest::of(18).number(volume.0).number(*size),
            // by its name, where it was called so: a repeated call finds another of that name, or none
            Command::DeleteVolume { name: Some(name), .. } => Digest::of(19).text(name),
            Command::DeleteVolume { volume, name: None } => Digest::of(20).number(volume.0),
            Command::Attach { volume, owner, exclusive, read_only } => {
                Digest::of(21).number(volume.0).text(owner).number(*exclusive).number(*read_only)
            }
            Command::Release { attachment, session } => {
                Digest::of(22).number(attachment.0).number(session.map_or(0, |s| s.0))
            }
            Command::DetachForced { attachment } => Digest::of(23).number(attachment.0),
            Command::AcceptDamage { drive, groups } => {
                Digest::of(24).number(drive.0).groups(groups.as_deref())
            }
            Command::Forget { drive, groups, is_powered_off } => {
                Digest::of(25).number(drive.0).number(*is_powered_off).groups(groups.as_deref())
            }
            Command::SetDownOut { ms } => Digest::of(26).number(*ms),
            Command::Dropped { drive, open, revision } => {
                Digest::of(27).number(drive.0).number(open.0).number(revision.0)
            }
            Command::Full(_) => Digest::of(28),
            Command::Alarmed { slice, .. } => Digest::of(29).number(slice.drive.0).number(slice.index),
            Command::Outlived(_) => Digest::of(30),
        };
        digest.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use sarsen_types::{AttachmentId, DriveId, SessionId, VolumeId};

    #[test]
    fn commands_that_differ_are_told_apart() {
        let create = |name: &str, size, policy: &str| Command::CreateVolume {
            name: name.into(),
            size,
            policy: policy.into(),
        };
        let attach = |volume, owner: &str, exclusive, read_only| Command::Attach {
            volume: VolumeId(volume),
            owner: owner.into(),
            exclusive,
            read_only,
        };
        let forget = |drive, groups: Option<Vec<GroupId>>, is_powered_off| Command::Forget {
            drive: DriveId(drive),
            groups,
            is_powered_off,
        };
        let delete = |volume, name: Option<&str>| Command::DeleteVolume {
            volume: VolumeId(volume),
            name: name.map(Into::into),
        };
        let release = |attachment, session| Command::Release {
            attachment: AttachmentId(attachment),
            session: Some(SessionId(session)),
        };
        let all = [
            create("a", 1, "bc"),
            create("ab", 1, "c"),
            create("a", 2, "bc"),
            attach(1, "a", true, false),
            attach(1, "a", false, true),
            attach(2, "a", true, false),
            attach(1, "b", true, false),
            forget(1, None, false),
            forget(1, Some(vec![]), false),
            forget(1, Some(vec![GroupId(1)]), false),
            forget(1, Some(vec![GroupId(1)]), true),
            forget(2, Some(vec![GroupId(1)]), false),
            Command::AcceptDamage { drive: DriveId(1), groups: Some(vec![GroupId(1)]) },
            delete(1, None),
            delete(1, Some("a")),
            delete(1, Some("b")),
            release(1, 2),
            release(2, 1),
            Command::DetachForced { attachment: AttachmentId(1) },
            Command::GrowVolume { volume: VolumeId(1), size: 1 },
            Command::SetDownOut { ms: 1 },
            Command::SetDownOut { ms: 2 },
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all[at + 1..].iter().all(|other| one.digest() != other.digest()), "{one:?}");
        }
        assert_eq!(delete(7, Some("a")).digest(), delete(0, Some("a")).digest(), "called by its name");
    }

    #[test]
    fn a_digest_stays_what_it_is() {
        // it lies in logs and snapshots
        assert_eq!(Digest::of(b'a').0, 0xaf63_dc4c_8601_ec8c, "FNV-1a of \"a\"");
        assert_eq!(Command::SetDownOut { ms: 1 }.digest(), 0x00d9_1e72_ccd8_070c);
    }
}
