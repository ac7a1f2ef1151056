//! Memory that a socket still reads after a send without copying has ended (L4).
use crate::ring::ConnId;
use sarsen_buffer::Buf;

/// When payloads are sent without being copied into the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ZeroCopy {
    /// Never.
    Never,
    /// To other machines, batches with at least so many bytes of payload; not any more on a connection of which the kernel
    /// reports that it copied after all.
    Remote(usize),
    /// To everybody, whatever the kernel reports: for tests.
    Always(usize),
}

/// One send's memory.
#[derive(Default)]
pub(crate) struct Pinned {
    pub conn: Option<ConnId>,
    pub heads: Vec<u8>,
    pub payloads: Vec<Buf>,
}

/// Sends whose memory the kernel may still read, by number.
#[derive(Default)]
pub(crate) struct PinnedSends {
    #[expect(clippy::vec_box, reason = "the kernel is given addresses of what is inside")]
    entries: Vec<Box<Pinned>>,
    free: Vec<u32>,
}

impl PinnedSends {
    pub fn take(&mut self, conn: ConnId) -> (u32, &mut Pinned) {
        let number = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Box::default());
            self.entries.len() as u32 - 1
        });
        let entry = &mut self.entries[number as usize];
        entry.conn = Some(conn);
        (number, entry)
    }
    pub fn conn(&self, number: u32) -> ConnId {
        self.entries[number as usize].conn.expect("a send in flight has a connection")
    }
    /// The kernel reads it no more.
    pub fn release(&mut self, number: u32) -> ConnId {
        let entry = &mut self.entries[number as usize];
        entry.heads.clear();
        entry.payloads.clear();
        self.free.push(number);
        entry.conn.take().expect("a send is released once")
    }
}
