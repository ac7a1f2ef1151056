//! What is checked while it happens: who answers, whether every copy has what is answered, whether bounds hold.
use crate::cluster::Cluster;
use crate::net::Conn;
use crate::story::Subject;
use sarsen_slice::LeaseMode;
use sarsen_types::{Epoch, GroupId, QueueId, RequestId};
use sarsen_wire::client::{ClientReply, ClientResult};
use std::collections::BTreeMap;

/// What was seen so far.
#[derive(Default)]
pub struct Watch {
    /// The highest epoch in which somebody answered, and who.
    served: BTreeMap<GroupId, (Epoch, usize)>,
    /// Of each group, the epoch that was told of last, and who served then.
    pub(crate) told: BTreeMap<GroupId, (Epoch, Vec<usize>)>,
}

impl Cluster {
    /// A node answers a client.
    ///
    /// # Panics
    /// If it answers a read though another leads already and has served (one primary under lease), or a write that an
    /// in-sync copy does not have.
    pub(crate) fn look_at_answer(&mut self, node: usize, conn: Conn, reply: &ClientReply) {
        let is_read = matches!(reply.result, ClientResult::Data { .. } | ClientResult::Status { .. });
        let is_write = reply.result == ClientResult::Done && reply.number > 0;
        if !(is_read || is_write) {
            return;
        }
        let machine = self.nodes[node].slice.as_ref().expect("it answers because it is up").machine();
        let Some(group) = machine.groups().find(|g| g.id == reply.group) else { return };
        let epoch = group.state.epoch;
        self.story.judge(Subject::Group(reply.group));
        // a read that waited for a round may be answered late: it was true when the round came back (R4)
        let is_leased = self.lease == LeaseMode::Clock;
        let known = self.watch.served.entry(reply.group).or_insert((epoch, node));
        assert!(
            !(is_read && is_leased) || known.1 == node || known.0 <= epoch,
            "node {node} answers a read of group {} in {epoch:?}, and node {} served in {:?}",
            reply.group,
            known.1,
            known.0
        );
        if epoch >= known.0 {
            *known = (epoch, node);
        }
        if is_write {
            self.look_at_copies(conn, reply);
        }
    }

    fn look_at_copies(&self, conn: Conn, reply: &ClientReply) {
        let id = RequestId {
            attachment: conn.greeting.attachment,
            generation: conn.greeting.generation,
            session: conn.greeting.session,
            queue: QueueId(0),
            number: reply.number,
            piece: reply.piece,
        };
        // one that was fenced and has ended asks nothing again, and its records go (seed 5454: an old primary had all
        // acknowledgements, and answered late)
        if !self.meta.state.attachments.contains_key(&id.attachment) {
            return;
        }
        let Some(state) = self.meta.state.groups.get(&reply.group) else { return };
        for &slice in &state.in_sync {
            let Some(node) = self.node_of(slice) else { continue };
            let is_trusted = self.meta.state.drives.get(&slice.drive).is_some_and(|d| !d.is_stale);
            let n = &self.nodes[node];
            let Some(machine) = n.slice.as_ref().filter(|_| n.is_up() && is_trusted).map(|s| s.machine())
            else {
                continue;
            };
            let Some(group) = machine.groups().find(|g| g.id == reply.group) else { continue };
            // what lies below the mark was answered before; and no newer session asks for it
            let is_newest = group.ledger.sessions.get(&id.attachment).is_none_or(|s| s.1 <= id.session);
            let is_asked = is_newest && group.ledger.mark_of(&id) <= id.number;
            assert!(
                !is_asked || group.ledger.find(&id).is_some(),
                "{id:?} of group {} is answered, and node {node}, in sync, has no record of it",
                reply.group
            );
        }
    }

    /// Every bound holds (R41).
    ///
    /// # Panics
    /// If one does not.
    pub(crate) fn look_at_bounds(&self) {
        for (node, n) in self.nodes.iter().enumerate() {
            let Some(slice) = &n.slice else { continue };
            if let Some(what) = slice.machine().excess() {
                panic!("node {node} is beyond a bound: {what}");
            }
        }
    }
}
