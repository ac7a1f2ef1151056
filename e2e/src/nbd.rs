//! A client of the NBD protocol of our own: simple replies, any number of requests in flight, every answer seen.
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const COMMAND_READ: u16 = 0;

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Bytes that follow.
    Write,
    /// Make durable what was answered.
    Flush,
    /// Give space back.
    Trim,
    /// Write zeroes.
    Zeroes,
}

impl Command {
    fn number(self) -> u16 {
        match self {
            Command::Write => 1,
            Command::Flush => 3,
            Command::Trim => 4,
            Command::Zeroes => 6,
        }
    }
}

/// A connection in transmission.
#[derive(Debug)]
pub struct Client {
    read: BufReader<UnixStream>,
    write: UnixStream,
    size: u64,
    flags: u16,
    next: u64,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn take<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

impl Client {
    /// Connects to the export `name` at a unix socket.
    pub fn connect(path: &Path, name: &str) -> io::Result<Client> {
        let mut write = UnixStream::connect(path)?;
        let mut read = BufReader::new(write.try_clone()?);
        if u64::from_be_bytes(take(&mut read)?) != INIT_MAGIC
            || u64::from_be_bytes(take(&mut read)?) != OPTION_MAGIC
        {
            return Err(bad("not an NBD server of the new style"));
        }
        let _flags = u16::from_be_bytes(take(&mut read)?);
        // Fixed new style, no zeroes.
        write.write_all(&3u32.to_be_bytes())?;
        let mut option = Vec::new();
        option.extend(OPTION_MAGIC.to_be_bytes());
        option.extend(OPTION_GO.to_be_bytes());
        option.extend((name.len() as u32 + 6).to_be_bytes());
        option.extend((name.len() as u32).to_be_bytes());
        option.extend(name.as_bytes());
        option.extend(0u16.to_be_bytes());
        write.write_all(&option)?;
        let mut found = None;
        loop {
            if u64::from_be_bytes(take(&mut read)?) != OPTION_REPLY_MAGIC {
                return Err(bad("not a reply to an option"));
            }
            let _option = u32::from_be_bytes(take(&mut read)?);
            let kind = u32::from_be_bytes(take(&mut read)?);
            let len = u32::from_be_bytes(take(&mut read)?) as usize;
            let mut data = vec![0; len];
            read.read_exact(&mut data)?;
            match kind {
                REPLY_ACK => break,
                REPLY_INFO if data.len() == 12 && data[..2] == [0, 0] => {
                    let size = u64::from_be_bytes(data[2..10].try_into().expect("8 bytes"));
                    found = Some((size, u16::from_be_bytes([data[10], data[11]])));
                }
                REPLY_INFO => {}
                refused => {
                    let why = String::from_utf8_lossy(&data).into_owned();
                    return Err(bad(&format!("refused with {refused:#x}: {why}")));
                }
            }
        }
        let (size, flags) = found.ok_or_else(|| bad("no size"))?;
        Ok(Client { read, write, size, flags, next: 1 })
    }

    /// Bytes of the export.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its transmission flags.
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// How long an answer may take before it is an error; never an error without.
    pub fn limit(&self, limit: Option<Duration>) -> io::Result<()> {
        self.write.set_read_timeout(limit)
    }

    fn send(&mut self, command: u16, offset: u64, len: u32, payload: &[u8]) -> io::Result<u64> {
        let handle = self.next;
        self.next += 1;
        let mut frame = Vec::with_capacity(28 + payload.len());
        frame.extend(REQUEST_MAGIC.to_be_bytes());
        frame.extend(0u16.to_be_bytes());
        frame.extend(command.to_be_bytes());
        frame.extend(handle.to_be_bytes());
        frame.extend(offset.to_be_bytes());
        frame.extend(len.to_be_bytes());
        frame.extend(payload);
        self.write.write_all(&frame)?;
        Ok(handle)
    }

    /// Sends a write; its answer comes from [`Client::answer`] under the handle returned.
    pub fn send_write(&mut self, offset: u64, data: &[u8]) -> io::Result<u64> {
        self.send(Command::Write.number(), offset, data.len() as u32, data)
    }

    /// Sends what has no data; as [`Client::send_write`].
    pub fn send_command(&mut self, command: Command, offset: u64, len: u32) -> io::Result<u64> {
        self.send(command.number(), offset, len, &[])
    }

    /// The next answer to anything but a read: its handle and its errno, 0 for done.
    pub fn answer(&mut self) -> io::Result<(u64, u32)> {
        if u32::from_be_bytes(take(&mut self.read)?) != REPLY_MAGIC {
            return Err(bad("not a reply"));
        }
        let errno = u32::from_be_bytes(take(&mut self.read)?);
        Ok((u64::from_be_bytes(take(&mut self.read)?), errno))
    }

    fn done(&mut self, handle: u64) -> io::Result<()> {
        let (whose, errno) = self.answer()?;
        if whose != handle {
            return Err(bad("the answer to something else"));
        }
        if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno as i32)) }
    }

    /// Writes, and waits for the answer.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let handle = self.send_write(offset, data)?;
        self.done(handle)
    }

    /// Reads, and waits for the answer.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let handle = self.send(COMMAND_READ, offset, data.len() as u32, &[])?;
        self.done(handle)?;
        self.read.read_exact(data)
    }

    /// Does something without data, and waits for the answer.
    pub fn command(&mut self, command: Command, offset: u64, len: u32) -> io::Result<()> {
        let handle = self.send_command(command, offset, len)?;
        self.done(handle)
    }
}
