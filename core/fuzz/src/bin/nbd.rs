//! A client of the NBD driver that says anything, in pieces: it is served or dropped, the volume sees requests inside it alone,
//! and while it speaks the protocol each of its requests gets one answer, and each read what was written.
#![no_main]
#[path = "../../../../drivers/nbd/tests/support/mod.rs"]
mod support;
use libfuzzer_sys::fuzz_target;
use sarsen_block::Limits;
use sarsen_fuzz::Choices;
use std::collections::BTreeMap;
use support::*;

/// The longest payload that is made: longer than what is copied from what was received, into more than one block.
const PAYLOAD_MAX: u32 = 20 << 10;
/// The longest read that is asked for on purpose: all that is answered is held in memory.
const READ_MAX: u32 = 72 << 10;

/// What a request is to be answered, by its cookie.
struct Asked {
    command: u16,
    offset: u64,
    /// What a read inside the volume gives.
    data: Option<Vec<u8>>,
    /// What came of it so far.
    read: Vec<u8>,
}

struct Client<'a> {
    choices: Choices<'a>,
    server: Server,
    piece: usize,
    /// It said something else than the protocol has: answers are not looked at any more.
    is_strange: bool,
    is_read_only: bool,
    is_structured: bool,
    cookie: u64,
    asked: BTreeMap<u64, Asked>,
    /// Blocks that were written.
    volume: BTreeMap<u64, Vec<u8>>,
    answers: Vec<u8>,
}

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices(bytes);
    let (how, piece) = (choices.byte(), choices.byte());
    let (is_structured, is_read_only) = (how & 2 != 0, how & 4 != 0);
    let limits = Limits { is_read_only, ..Limits::default() };
    let is_serving = how & 1 != 0;
    let server = if is_serving { serving(limits, is_structured) } else { Server::with(limits) };
    let mut client = Client {
        choices,
        server,
        piece: usize::from(piece) * 3 + 1,
        is_strange: !is_serving,
        is_read_only,
        is_structured,
        cookie: 0,
        asked: BTreeMap::new(),
        volume: BTreeMap::new(),
        answers: Vec::new(),
    };
    if how & 8 != 0 && !is_serving {
        client.say(&3u32.to_be_bytes());
    }
    while client.choices.are_left() && !client.server.is_closed && client.talk() {}
    client.server.is_carrying_out = true;
    client.server.carry_out();
    if client.server.go_on().is_ok() && !client.is_strange {
        client.listen();
        assert!(client.server.connection.in_flight() > 0 || client.asked.is_empty(), "all is answered");
    }
});

impl Client<'_> {
    /// Says one thing; `false` when it was dropped.
    fn talk(&mut self) -> bool {
        let what = self.choices.byte();
        let said = match what % 16 {
            0 => {
                self.server.is_carrying_out = !self.server.is_carrying_out;
                return true;
            }
            1 => {
                self.server.carry_out();
                return self.server.go_on().is_ok();
            }
            2 => {
                self.piece = usize::from(self.choices.byte()) * 31 + 1;
                return true;
            }
            3 => {
                let len = self.choices.byte().into();
                self.is_strange = true;
                self.choices.take(len).to_vec()
            }
            4..8 if !self.server.connection.is_serving() => self.option(what >> 4),
            // a stranger who was let in without structured replies, or with: what follows is looked at no more closely
            _ if !self.server.connection.is_serving() => return true,
            _ => self.request(what >> 4),
        };
        self.say(&said)
    }

    fn say(&mut self, said: &[u8]) -> bool {
        // heads in pieces as small as is wanted, payloads in at most a few dozen
        let (head, payload) = said.split_at(said.len().min(64));
        let of_payload = self.piece.max(payload.len() / 32 + 1);
        for piece in head.chunks(self.piece).chain(payload.chunks(of_payload)) {
            if self.server.receive(piece).is_err() {
                return false;
            }
            if self.server.is_closed {
                break;
            }
        }
        self.listen();
        true
    }

    fn option(&mut self, what: u8) -> Vec<u8> {
        const NAMES: [&str; 4] = ["vol", "", "other", "volume"];
        const QUERIES: [&str; 4] = ["base:allocation", "base:", "other:", "qemu:dirty"];
        let (name, count) = (usize::from(self.choices.byte()) % 4, self.choices.byte() % 5);
        let numbers: Vec<u8> = (0..count).map(|_| self.choices.byte()).collect();
        match what % 8 {
            0 => option(8, &[]),
            1 => contexts(
                9,
                NAMES[name],
                &numbers.iter().map(|n| QUERIES[usize::from(n % 4)]).collect::<Vec<_>>(),
            ),
            2 => contexts(
                10,
                NAMES[name],
                &numbers.iter().map(|n| QUERIES[usize::from(n % 4)]).collect::<Vec<_>>(),
            ),
            3 => go(NAMES[name], &numbers.iter().map(|n| u16::from(n % 6)).collect::<Vec<_>>()),
            4 => option(1, NAMES[name].as_bytes()),
            _ => option(u32::from(what) + u32::from(count), &numbers),
        }
    }

    fn request(&mut self, what: u8) -> Vec<u8> {
        let command = u16::from(what % 8);
        let flags = if what & 8 == 0 { 0 } else { u16::from(self.choices.byte()) };
        let near = self.choices.word();
        let base = [0, 4096 * 512, SIZE - 32768, u64::MAX - 32768][usize::from(near & 3)];
        let offset = base.wrapping_add(u64::from(near >> 2) * 4);
        let len = match self.choices.word() {
            n @ 0..0xf000 => u32::from(n),
            n => 1 << (n & 31),
        };
        self.cookie += 1;
        let cookie = self.cookie;
        let is_write = command == 1;
        let limit = if is_write { PAYLOAD_MAX } else { READ_MAX };
        let len = if len < 1 << 26 && command < 2 { len % limit } else { len };
        let mut bytes = request(flags, command, cookie, offset, len);
        let is_inside = offset.checked_add(u64::from(len)).is_some_and(|end| end <= SIZE);
        if command == 2 {
            self.is_strange = true; // what follows is nobody's
        } else {
            let is_read = command == 0 && is_inside && self.is_taken(flags, 4);
            let data = is_read.then(|| self.read(offset, len as usize));
            self.asked.insert(cookie, Asked { command, offset, data, read: Vec::new() });
        }
        if is_write && len < 1 << 26 {
            let content = cookie as u8 | 1;
            bytes.resize(bytes.len() + len as usize, content);
            if is_inside && self.is_taken(flags, 0) && !self.is_read_only {
                self.write(offset, len as usize, content);
            }
        }
        if matches!(command, 4 | 6) && is_inside && !self.is_read_only {
            let allowed = if command == 6 { 2 | 16 } else { 0 };
            // a trim may leave what it does not cover whole
            let (from, to) = match command {
                4 => (offset.next_multiple_of(4096), (offset + u64::from(len)) / 4096 * 4096),
                _ => (offset, offset + u64::from(len)),
            };
            if self.is_taken(flags, allowed) && from < to {
                self.write(from, (to - from) as usize, 0);
            }
        }
        bytes
    }

    /// Whether a command is carried out with these flags, of which some may be there beside FUA.
    fn is_taken(&self, flags: u16, allowed: u16) -> bool {
        let allowed = if self.is_structured { allowed } else { allowed & !4 };
        flags & !(allowed | 1) == 0
    }

    fn write(&mut self, offset: u64, len: usize, content: u8) {
        let end = offset + len as u64;
        for block in offset / 4096..end.div_ceil(4096) {
            let (from, to) = (offset.max(block * 4096), end.min(block * 4096 + 4096));
            let whole = (from - block * 4096) as usize..(to - block * 4096) as usize;
            if content == 0 && whole.len() == 4096 {
                self.volume.remove(&block);
            } else if content != 0 || self.volume.contains_key(&block) {
                self.volume.entry(block).or_insert_with(|| vec![0; 4096])[whole].fill(content);
            }
        }
    }

    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        let end = offset + len as u64;
        for (block, bytes) in self.volume.range(offset / 4096..end.div_ceil(4096)) {
            let (from, to) = (offset.max(block * 4096), end.min(block * 4096 + 4096));
            let source = &bytes[(from - block * 4096) as usize..(to - block * 4096) as usize];
            data[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
        }
        data
    }

    /// Reads the answers that have come.
    fn listen(&mut self) {
        let sent = self.server.sent();
        if self.is_strange {
            return;
        }
        self.answers.extend(sent);
        let answers = std::mem::take(&mut self.answers);
        let mut left = Choices(&answers);
        while left.are_left() {
            let head = left.take(16);
            let cookie = u64::from_be_bytes(head[8..].try_into().expect("8"));
            let asked = self.asked.get_mut(&cookie).expect("an answer to what was asked, once");
            let is_last = match u32::from_be_bytes(head[..4].try_into().expect("4")) {
                0x6744_6698 => {
                    let is_good = head[4..8] == [0; 4];
                    assert!(!self.is_structured || !matches!(asked.command, 0 | 7), "chunks were agreed");
                    assert!(is_good || asked.data.is_none(), "a good read is answered");
                    if let Some(data) = &asked.data {
                        asked.read = left.take(data.len()).to_vec();
                    }
                    true
                }
                magic => {
                    assert!(magic == 0x668e_33ef && self.is_structured);
                    let kind = u16::from_be_bytes([head[6], head[7]]);
                    let len = u32::from_be_bytes(left.take(4).try_into().expect("4"));
                    let data = left.take(len as usize);
                    assert_eq!(data.len(), len as usize, "a chunk is whole");
                    if matches!(kind, 1 | 2) {
                        let at = u64::from_be_bytes(data[..8].try_into().expect("8"));
                        assert_eq!(at, asked.offset + asked.read.len() as u64, "chunks in order");
                    }
                    match kind {
                        0 => {}
                        1 => asked.read.extend_from_slice(&data[8..]),
                        2 => {
                            let len = u32::from_be_bytes(data[8..].try_into().expect("4"));
                            asked.read.resize(asked.read.len() + len as usize, 0);
                        }
                        5 => assert_eq!(asked.command, 7),
                        _ => assert!(asked.data.is_none(), "a good read is answered"),
                    }
                    head[5] & 1 == 1
                }
            };
            if is_last {
                let asked = self.asked.remove(&cookie).expect("looked at");
                assert!(asked.data.is_none_or(|data| data == asked.read), "a read gives what was written");
            }
        }
    }
}
