//! A request, which is answered exactly once, and its answer.
use sarsen_buffer::{Buf, Parts};
use std::fmt;

/// The driver's name of a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tag(pub u64);

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// The bytes.
    Read,
    /// The bytes, laid out as whole blocks: the first at `offset % 4096` of the buffer, which ends with the last block
    /// touched. Nobody changes it any more (D1).
    Write(Buf),
    /// The bytes read as zeroes from now on.
    Zero,
    /// The bytes are of no use any more: what is given back reads as zeroes, what is not stays as it was.
    Trim,
    /// Which bytes hold data.
    Status,
}

/// See the module. Dropped without an answer it panics in debug builds: some driver would wait for ever.
pub struct Request {
    tag: Tag,
    op: Op,
    offset: u64,
    len: u64,
    is_answered: bool,
}

impl Request {
    /// Asks `op` of `len` bytes at `offset`.
    pub fn new(tag: Tag, op: Op, offset: u64, len: u64) -> Request {
        Request { tag, op, offset, len, is_answered: false }
    }
    /// The driver's name of it.
    pub fn tag(&self) -> Tag {
        self.tag
    }
    /// What is asked.
    pub fn op(&self) -> &Op {
        &self.op
    }
    /// Where, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }
    /// How many bytes.
    pub fn len(&self) -> u64 {
        self.len
    }
    /// Whether it is about no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// The data of a write, for who carries it out; a view of it may stay.
    pub fn data(&self) -> Option<&Buf> {
        match &self.op {
            Op::Write(data) => Some(data),
            _ => None,
        }
    }
    /// Takes the data of a write out.
    pub fn take_op(&mut self) -> Op {
        std::mem::replace(&mut self.op, Op::Read)
    }
    /// Answers it.
    pub fn complete(mut self, result: Result<Answer, Failure>) -> Completion {
        self.is_answered = true;
        Completion { tag: self.tag, result }
    }
    /// Lets it go unanswered: whoever asked is gone with the process.
    pub fn abandon(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        debug_assert!(self.is_answered || std::thread::panicking(), "{self:?} was dropped unanswered");
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.op {
            Op::Read => "read",
            Op::Write(_) => "write",
            Op::Zero => "zero",
            Op::Trim => "trim",
            Op::Status => "status",
        };
        write!(f, "{name} {} of {}+{}", self.tag.0, self.offset, self.len)
    }
}

/// A run of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Where, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// Whether it may hold data; it reads as zeroes else.
    pub is_data: bool,
}

/// What a request brought.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It took effect, durably.
    Done,
    /// The bytes, exactly as many as were asked for.
    Data(Parts),
    /// Runs from `offset` on, ascending and without gaps; they may end before what was asked for does.
    Extents(Vec<Extent>),
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The bytes lie beyond the end.
    OutOfBounds,
    /// The volume may not be written.
    ReadOnly,
    /// There is no space left.
    NoSpace,
    /// The bytes cannot be had.
    Broken,
    /// The volume was taken away.
    Gone,
}

/// A request that ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Completion {
    /// The driver's name of it.
    pub tag: Tag,
    /// How.
    pub result: Result<Answer, Failure>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_carries_the_name_of_its_request() {
        let request = Request::new(Tag(7), Op::Read, 0, 1);
        assert_eq!(
            request.complete(Err(Failure::Gone)),
            Completion { tag: Tag(7), result: Err(Failure::Gone) }
        );
        Request::new(Tag(8), Op::Trim, 0, 1).abandon();
    }

    #[test]
    #[should_panic(expected = "dropped unanswered")]
    #[cfg(debug_assertions)]
    fn a_request_that_is_dropped_unanswered_panics() {
        drop(Request::new(Tag(7), Op::Read, 0, 1));
    }
}
