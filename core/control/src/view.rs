//! What slices and clients are told.
use crate::state::State;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use sarsen_types::view::{AttachmentView, LayerView, VolumeView};
use sarsen_types::{AttachmentId, Generation, GroupId, SliceId, View, VolumeMap};

impl State {
    /// The metadata as `slice` needs them.
    pub fn view_of(&self, slice: SliceId) -> View {
        let is_member = |g: &&sarsen_types::GroupState| g.assignment_of(slice).is_some();
        let groups: Vec<_> = self.groups.values().filter(is_member).cloned().collect();
        let mut view = self.shared_view();
        view.dropped_layers = self.tombstones_for(slice.drive);
        for (_, _, fenced) in &mut view.fences {
            fenced.retain(|f| groups.iter().any(|g| g.group == *f));
        }
        view.fences.retain(|(_, _, fenced)| !fenced.is_empty());
        view.groups = groups;
        // Only what is whole without this slice, at this revision (R20).
        let gone = self.retired.iter().filter(|r| r.slice == slice);
        let gone = gone.filter(|r| match self.groups.get(&r.group) {
            Some(g) => g.assignment_of(slice).is_none() && self.is_whole(g),
            None => true,
        });
        view.dropped_groups = gone.map(|r| (r.group, r.assignment)).collect();
        view
    }

    /// What is the same for all slices.
    fn shared_view(&self) -> View {
        let layers = self.layers.iter();
        let fencing = |(id, a): (&AttachmentId, &crate::state::Attachment)| -> Option<(AttachmentId, Generation, Vec<GroupId>)> {
            a.fencing.as_ref().map(|left| (*id, a.generation, left.iter().copied().collect()))
        };
        View {
            revision: self.revision,
            groups: Vec::new(),
            layers: layers.map(|(id, l)| (*id, LayerView { family: l.family, parent: l.parent })).collect(),
            volumes: (self.volumes.iter())
                .map(|(id, v)| (*id, VolumeView { head: v.head, size: v.size, changed: v.changed }))
                .collect(),
            attachments: (self.attachments.iter())
                .map(|(id, a)| {
                    let (volume, generation, session) = (a.volume, a.generation, a.session);
                    (*id, AttachmentView { volume, generation, session, read_only: a.read_only })
                })
                .collect(),
            last_attachment: AttachmentId(self.last.wide),
            dropped_layers: Vec::new(),
            dropped_groups: Vec::new(),
            fences: self.attachments.iter().filter_map(fencing).collect(),
        }
    }

    /// What the client of an attachment must know; `None` when it has none (any more).
    pub fn volume_map(&self, attachment: AttachmentId) -> Option<VolumeMap> {
        let a = self.attachments.get(&attachment).filter(|a| a.fencing.is_none())?;
        let volume = self.volumes.get(&a.volume)?;
        let table = self.policies.get(&volume.policy)?.table.clone();
        let leader = |g: &GroupId| self.groups.get(g).map(|s| (*g, (s.epoch, s.primary)));
        let leaders: BTreeMap<_, _> = table.iter().filter_map(leader).collect();
        Some(VolumeMap {
            revision: self.revision,
            volume: a.volume,
            name: volume.name.clone(),
            size: volume.size,
            family: volume.family,
            layer: volume.head,
            attachment,
            generation: a.generation,
            session: a.session,
            read_only: a.read_only,
            table,
            leaders,
            addresses: self.nodes.iter().map(|(id, n)| (*id, n.address.clone())).collect(),
            // R28: there is no way to a drive that was given up
            nodes: (self.drives.iter().filter(|(_, d)| d.forgetting.is_none()))
                .map(|(id, d)| (*id, d.node))
                .collect(),
        })
    }
}
