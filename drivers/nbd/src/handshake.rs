//! The handshake: flags, then options until one of them begins the transmission.
use crate::connection::{Out, send_option_reply as reply};
use crate::export::Export;
use crate::proto::*;

/// What the handshake came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// Structured replies.
    pub is_structured: bool,
    /// `base:allocation` may be asked for.
    pub has_allocation: bool,
}

/// How far it is.
pub enum Haggled {
    /// So many bytes are needed.
    More(usize),
    /// The client gave up.
    Aborted,
    /// Transmission begins.
    Agreed(Terms),
}

/// See the module.
pub struct Haggle {
    client_flags: Option<u32>,
    options: u32,
    terms: Terms,
}

impl Haggle {
    /// Greets the client.
    pub fn new(out: &mut impl Out) -> Haggle {
        let mut head = [0; 18];
        head[..8].copy_from_slice(&INIT_MAGIC.to_be_bytes());
        head[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        head[16..].copy_from_slice(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
        out.send(&head, None);
        let terms = Terms { is_structured: false, has_allocation: false };
        Haggle { client_flags: None, options: 0, terms }
    }

    /// Takes bytes; gives how many were used.
    pub fn receive(
        &mut self,
        export: &Export,
        bytes: &[u8],
        out: &mut impl Out,
    ) -> Result<(usize, Haggled), Violation> {
        let mut used = 0;
        if self.client_flags.is_none() {
            let Some(flags) = bytes.first_chunk() else { return Ok((0, Haggled::More(4))) };
            let flags = u32::from_be_bytes(*flags);
            if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
                return Err(Violation::Flags(flags));
            }
            self.client_flags = Some(flags);
            used = 4;
        }
        loop {
            let rest = &bytes[used..];
            let Some(head) = rest.first_chunk::<OPTION_LEN>() else {
                return Ok((used, Haggled::More(OPTION_LEN)));
            };
            let magic = u64::from_be_bytes(head[..8].try_into().expect("8 bytes"));
            if magic != OPTION_MAGIC {
                return Err(Violation::OptionMagic(magic));
            }
            let option = u32::from_be_bytes(head[8..12].try_into().expect("4 bytes"));
            let len = u32::from_be_bytes(head[12..].try_into().expect("4 bytes"));
            if len > OPTION_BYTES_MAX {
                return Err(Violation::OptionLength(len));
            }
            let whole = OPTION_LEN + len as usize;
            let Some(data) = rest.get(OPTION_LEN..whole) else {
                return Ok((used, Haggled::More(whole)));
            };
            self.options += 1;
            if self.options > OPTIONS_MAX {
                return Err(Violation::TooManyOptions);
            }
            used += whole;
            match self.option(export, option, data, out)? {
                None => {}
                Some(end) => return Ok((used, end)),
            }
        }
    }

    fn option(
        &mut self,
        export: &Export,
        option: u32,
        data: &[u8],
        out: &mut impl Out,
    ) -> Result<Option<Haggled>, Violation> {
        match option {
            option::EXPORT_NAME => {
                if !export.is_called(data) {
                    return Err(Violation::UnknownExport);
                }
                let mut head = [0; 134];
                head[..8].copy_from_slice(&export.size.to_be_bytes());
                head[8..10].copy_from_slice(&export.flags(self.terms.is_structured).to_be_bytes());
                let no_zeroes = self.client_flags.is_some_and(|f| f & u32::from(NO_ZEROES) != 0);
                out.send(if no_zeroes { &head[..10] } else { &head }, None);
                return Ok(Some(Haggled::Agreed(self.terms)));
            }
            option::ABORT => {
                reply(option, option_reply::ACK, &[], out);
                return Ok(Some(Haggled::Aborted));
            }
            option::LIST if data.is_empty() => {
                let mut entry = (export.name.len() as u32).to_be_bytes().to_vec();
                entry.extend(export.name.as_bytes());
                reply(option, option_reply::SERVER, &entry, out);
                reply(option, option_reply::ACK, &[], out);
            }
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.terms.is_structured = true;
                reply(option, option_reply::ACK, &[], out);
            }
            option::INFO | option::GO => match wanted_infos(data) {
                None => reply(option, option_reply::INVALID, b"the option is not well formed", out),
                Some((name, _)) if !export.is_called(name) => {
                    reply(option, option_reply::UNKNOWN, b"there is no such export", out);
                }
                Some((_, infos)) => {
                    self.infos(export, option, infos, out);
                    reply(option, option_reply::ACK, &[], out);
                    if option == option::GO {
                        return Ok(Some(Haggled::Agreed(self.terms)));
                    }
                }
            },
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(export, option, data, out),
            option::LIST | option::STRUCTURED_REPLY => {
                reply(option, option_reply::INVALID, b"the option takes no data", out);
            }
            _ => reply(option, option_reply::UNSUPPORTED, b"the option is not known here", out),
        }
        Ok(None)
    }

    fn infos(&self, export: &Export, option: u32, infos: &[u8], out: &mut impl Out) {
        let mut about = info::EXPORT.to_be_bytes().to_vec();
        about.extend(export.size.to_be_bytes());
        about.extend(export.flags(self.terms.is_structured).to_be_bytes());
        reply(option, option_reply::INFO, &about, out);
        let mut told = [false; 4];
        for wanted in infos.chunks_exact(2).map(|w| u16::from_be_bytes([w[0], w[1]])) {
            let mut about = wanted.to_be_bytes().to_vec();
            match wanted {
                info::NAME => about.extend(export.name.as_bytes()),
                info::DESCRIPTION => about.extend(export.description.as_bytes()),
                info::BLOCK_SIZE => {
                    for size in [1, export.limits.block, export.limits.request_max] {
                        about.extend(size.to_be_bytes());
                    }
                }
                // what is not known need not be told
                _ => continue,
            }
            // each is told once, however often it is asked for
            if !std::mem::replace(&mut told[wanted as usize], true) {
                reply(option, option_reply::INFO, &about, out);
            }
        }
    }

    fn contexts(&mut self, export: &Export, option: u32, data: &[u8], out: &mut impl Out) {
        let is_set = option == option::SET_META_CONTEXT;
        if !self.terms.is_structured {
            return reply(option, option_reply::INVALID, b"structured replies come first", out);
        }
        if is_set {
            self.terms.has_allocation = false;
        }
        let Some((name, queries)) = queries(data) else {
            return reply(option, option_reply::INVALID, b"the option is not well formed", out);
        };
        if !export.is_called(name) {
            return reply(option, option_reply::UNKNOWN, b"there is no such export", out);
        }
        let is_wanted = match queries.is_empty() {
            true => !is_set,
            false => queries.iter().any(|q| *q == ALLOCATION.as_bytes() || (!is_set && *q == b"base:")),
        };
        if is_wanted {
            let mut context = (if is_set { ALLOCATION_ID } else { 0 }).to_be_bytes().to_vec();
            context.extend(ALLOCATION.as_bytes());
            reply(option, option_reply::META_CONTEXT, &context, out);
            self.terms.has_allocation |= is_set;
        }
        reply(option, option_reply::ACK, &[], out);
    }
}

/// A text with its length before it, and what is left.
fn text(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = data.split_first_chunk()?;
    rest.split_at_checked(u32::from_be_bytes(*len) as usize)
}

/// The name, and the list of infos that are wanted.
fn wanted_infos(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = text(data)?;
    let (count, rest) = rest.split_first_chunk()?;
    (rest.len() == usize::from(u16::from_be_bytes(*count)) * 2).then_some((name, rest))
}

/// The name, and the queries.
fn queries(data: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let (name, rest) = text(data)?;
    let (count, mut rest) = rest.split_first_chunk()?;
    let count = u32::from_be_bytes(*count);
    if count > QUERIES_MAX {
        return None;
    }
    let mut queries = Vec::new();
    for _ in 0..count {
        let (query, after) = text(rest)?;
        queries.push(query);
        rest = after;
    }
    rest.is_empty().then_some((name, queries))
}
