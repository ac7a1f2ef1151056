//! What the client asked and what it was answered: what each block may hold when power goes.
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Bytes of a block.
pub const BLOCK: usize = 4096;

/// One request. Its id is its place in the history, from 1; those of one block are never under way together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// The first block.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// Zeroes, not data.
    pub is_zero: bool,
}

impl Request {
    /// Whether both touch a block.
    pub fn meets(&self, other: &Request) -> bool {
        self.first < other.first + other.count && other.first < self.first + self.count
    }
}

/// What request `id` writes to `block`: every 16 bytes say whose they are and where they lie.
pub fn contents(id: u64, block: u64, into: &mut [u8]) {
    for (at, part) in into.chunks_exact_mut(16).enumerate() {
        part[..8].copy_from_slice(&id.to_le_bytes());
        part[8..].copy_from_slice(&(block << 8 | at as u64).to_le_bytes());
    }
}

/// The mark that tells that a request was answered, when so many had been sent.
pub fn mark(id: u64, sent: u64) -> String {
    format!("a:{id}:{sent}")
}

/// What a mark tells.
pub fn read_mark(text: &str) -> Option<(u64, u64)> {
    let (id, sent) = text.strip_prefix("a:")?.split_once(':')?;
    Some((id.parse().ok()?, sent.parse().ok()?))
}

/// All requests as a text, a line each.
pub fn to_text(requests: &[Request]) -> String {
    let mut text = String::new();
    for Request { first, count, is_zero } in requests {
        let _ = writeln!(text, "{first} {count} {}", u8::from(*is_zero));
    }
    text
}

/// The text, read.
pub fn from_text(text: &str) -> Result<Vec<Request>> {
    let request = |line: &str| {
        let numbers: Vec<u64> = line.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
        let [first, count, zero] = numbers[..] else { return None };
        Some(Request { first, count, is_zero: zero == 1 })
    };
    text.lines().map(|line| request(line).with_context(|| format!("a request: {line}"))).collect()
}

/// What must and may be there at one moment.
#[derive(Debug)]
pub struct Expected {
    requests: Vec<Request>,
    /// Of each block the ids of requests, ascending.
    of_block: BTreeMap<u64, Vec<u64>>,
    /// Of each block the last that was answered.
    answered: BTreeMap<u64, u64>,
    /// How many were sent, at most.
    pub sent: u64,
    /// How many were answered.
    pub done: u64,
}

impl Expected {
    /// Before anything was asked.
    pub fn new(requests: Vec<Request>) -> Expected {
        let mut of_block: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (at, request) in requests.iter().enumerate() {
            for block in request.first..request.first + request.count {
                of_block.entry(block).or_default().push(at as u64 + 1);
            }
        }
        Expected { requests, of_block, answered: BTreeMap::new(), sent: 0, done: 0 }
    }

    /// A request was answered.
    pub fn answer(&mut self, id: u64) -> Result<()> {
        let request = self.requests.get(id as usize - 1).context("an answer to nothing")?;
        for block in request.first..request.first + request.count {
            let last = self.answered.insert(block, id);
            ensure!(last.is_none_or(|last| last < id), "block {block} was asked for twice at once");
        }
        self.done += 1;
        Ok(())
    }

    /// Whether `held` may be in `block`: the last answer or what was sent after it. `scratch` is a block of memory.
    pub fn check(&self, block: u64, held: Option<&[u8]>, scratch: &mut [u8]) -> Result<(), String> {
        let must = self.answered.get(&block).copied().unwrap_or(0);
        let held = held.filter(|h| h.iter().any(|b| *b != 0));
        let is_zero = |id: u64| self.requests[id as usize - 1].is_zero;
        let all = self.of_block.get(&block).map_or(&[][..], |all| all);
        let Some(held) = held else {
            let sent = all.iter().filter(|id| (must.max(1)..=self.sent).contains(id));
            return match must == 0 || sent.clone().any(|id| is_zero(*id)) {
                true => Ok(()),
                false => Err(format!("block {block} holds zeroes, request {must} was answered")),
            };
        };
        let id = u64::from_le_bytes(held[..8].try_into().expect("8 bytes"));
        let is_asked = all.binary_search(&id).is_ok() && !is_zero(id);
        if is_asked {
            contents(id, block, scratch);
        }
        if !is_asked || scratch != held {
            return Err(format!(
                "block {block} holds what nobody wrote there; it begins {:02x?}",
                &held[..16]
            ));
        }
        if id < must {
            return Err(format!("block {block} holds request {id}, the later request {must} was answered"));
        }
        match id <= self.sent {
            true => Ok(()),
            false => Err(format!("block {block} holds request {id}, only {} were sent", self.sent)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_answer_or_what_came_after_it_is_taken() {
        let data = Request { first: 4, count: 2, is_zero: false };
        let requests = vec![data, data, Request { first: 5, count: 1, is_zero: true }, data];
        assert_eq!(from_text(&to_text(&requests)).unwrap(), requests);
        let mut expected = Expected::new(requests);
        let (mut held, mut scratch) = ([0; BLOCK], [0; BLOCK]);
        let mut check = |e: &Expected, block, id| {
            if id > 0 {
                contents(id, 5, &mut held);
            }
            e.check(block, (id > 0).then_some(&held[..]), &mut scratch)
        };
        expected.sent = 1;
        assert!(check(&expected, 5, 0).is_ok() && check(&expected, 5, 1).is_ok());
        assert!(check(&expected, 5, 2).unwrap_err().contains("only 1"));
        assert!(check(&expected, 4, 1).unwrap_err().contains("nobody"));
        (1..=2).for_each(|id| expected.answer(id).unwrap());
        expected.sent = 2;
        assert!(check(&expected, 5, 1).unwrap_err().contains("later request 2"));
        assert!(check(&expected, 5, 0).unwrap_err().contains("zeroes"));
        expected.sent = 3;
        assert!(check(&expected, 5, 0).is_ok() && check(&expected, 5, 2).is_ok());
        assert_eq!(read_mark(&mark(7, 9)), Some((7, 9)));
    }
}
