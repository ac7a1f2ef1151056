//! One client's connection: what it sends goes in, answers and block requests come out.
use crate::export::Export;
use crate::handshake::{Haggle, Haggled};
use crate::proto::{OPTION_REPLY_MAGIC, Violation};
use crate::serve::Serve;
use sarsen_block::{Completion, Request};
use sarsen_buffer::{Buf, Pool};

/// What a connection wants done.
pub trait Out {
    /// Bytes for the client: `head`, then `payload`.
    fn send(&mut self, head: &[u8], payload: Option<Buf>);
    /// A request for the volume.
    fn submit(&mut self, request: Request);
}

/// What is to follow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// Give more bytes: at least so many in all, those not used included.
    Bytes(usize),
    /// Fill the buffer with the bytes after those used, and give it to [`Connection::filled`].
    Fill(Buf),
    /// Nothing more is taken for now: so much is under way, a buffer is being filled, or the client said goodbye and waits for
    /// its last answers.
    Rest,
    /// The client is done: close the connection when everything was sent.
    Close,
}

/// What came of the bytes given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Bytes that are not to be given again.
    pub used: usize,
    /// What is to follow.
    pub next: Next,
}

enum Stage {
    Haggle(Haggle),
    Serve(Serve),
    Over,
}

/// See the module.
pub struct Connection {
    stage: Stage,
    base: u64,
}

impl Connection {
    /// A new client. Its requests have tags from `base` on, which names it: the lower 32 bits are the connection's.
    pub fn new(base: u64, out: &mut impl Out) -> Connection {
        debug_assert_eq!(base as u32, 0);
        Connection { stage: Stage::Haggle(Haggle::new(out)), base }
    }

    /// Takes what was received and not used yet.
    pub fn receive(
        &mut self,
        export: &Export,
        pool: &Pool,
        bytes: &[u8],
        out: &mut impl Out,
    ) -> Result<Progress, Violation> {
        let mut used = 0;
        if let Stage::Haggle(haggle) = &mut self.stage {
            let (taken, haggled) = haggle.receive(export, bytes, out)?;
            used = taken;
            match haggled {
                Haggled::More(bytes) => return Ok(Progress { used, next: Next::Bytes(bytes) }),
                Haggled::Aborted => {
                    self.stage = Stage::Over;
                }
                Haggled::Agreed(terms) => self.stage = Stage::Serve(Serve::new(self.base, terms)),
            }
        }
        match &mut self.stage {
            Stage::Serve(serve) => {
                let progress = serve.receive(export, pool, &bytes[used..], out)?;
                Ok(Progress { used: used + progress.used, next: progress.next })
            }
            _ => Ok(Progress { used, next: Next::Close }),
        }
    }

    /// A buffer that was asked for is full.
    pub fn filled(&mut self, buf: Buf, out: &mut impl Out) {
        if let Stage::Serve(serve) = &mut self.stage {
            serve.filled(buf, out);
        }
    }

    /// A request of this connection ended.
    pub fn complete(&mut self, completion: Completion, pool: &Pool, out: &mut impl Out) {
        if let Stage::Serve(serve) = &mut self.stage {
            serve.complete(completion, pool, out);
        }
    }

    /// Requests not answered yet.
    pub fn in_flight(&self) -> usize {
        match &self.stage {
            Stage::Serve(serve) => serve.in_flight(),
            _ => 0,
        }
    }
    /// Bytes of their payload: of what they brought, or are to bring.
    pub fn payload(&self) -> u64 {
        match &self.stage {
            Stage::Serve(serve) => serve.payload(),
            _ => 0,
        }
    }
    /// Whether so much is under way that nothing more is taken.
    pub fn is_full(&self) -> bool {
        matches!(&self.stage, Stage::Serve(serve) if serve.is_full())
    }
    /// Whether the handshake is over.
    pub fn is_serving(&self) -> bool {
        matches!(self.stage, Stage::Serve(_))
    }
    /// Whether the client said goodbye.
    pub fn is_ending(&self) -> bool {
        matches!(&self.stage, Stage::Serve(serve) if serve.is_ending())
    }
    /// Whether the client said goodbye and all its requests were answered: close when everything was sent.
    pub fn is_over(&self) -> bool {
        match &self.stage {
            Stage::Haggle(_) => false,
            Stage::Serve(serve) => serve.is_over(),
            Stage::Over => true,
        }
    }
}

/// The answer to an option.
pub(crate) fn send_option_reply(option: u32, kind: u32, data: &[u8], out: &mut impl Out) {
    let mut head = Vec::with_capacity(20 + data.len());
    head.extend(OPTION_REPLY_MAGIC.to_be_bytes());
    head.extend(option.to_be_bytes());
    head.extend(kind.to_be_bytes());
    head.extend((data.len() as u32).to_be_bytes());
    head.extend(data);
    out.send(&head, None);
}
