//! Requests of clients and what copies remember of them (R21).
use crate::geometry::{BlockRange, ObjectId};
use crate::ids::{AttachmentId, Generation, QueueId, SessionId};
use core::fmt;

/// A request, or a piece of one: what makes a retry recognisable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RequestId {
    /// Whose.
    pub attachment: AttachmentId,
    /// The attachment's generation when it was sent (R31).
    pub generation: Generation,
    /// The life of the driver process.
    pub session: SessionId,
    /// The stream inside the session.
    pub queue: QueueId,
    /// Grows per (session, queue).
    pub number: u64,
    /// The piece of the request, from 0.
    pub piece: u16,
}
impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a{}g{}s{}q{}n{}.{}",
            self.attachment.0, self.generation.0, self.session.0, self.queue.0, self.number, self.piece
        )
    }
}

/// A request as a journal record or a Prepare names it: with *all* its blocks, also where only some are written
/// again by a takeover (R12).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RequestNote {
    /// The request.
    pub id: RequestId,
    /// The object it is about.
    pub object: ObjectId,
    /// All its blocks.
    pub range: BlockRange,
}

/// `answered_below`: the client has the answers of all requests of this queue, in this group, below `below` (R21).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Mark {
    /// Whose queue.
    pub attachment: AttachmentId,
    /// The session of the queue.
    pub session: SessionId,
    /// The queue.
    pub queue: QueueId,
    /// The lowest number that may still be asked for.
    pub below: u64,
}
