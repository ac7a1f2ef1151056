//! Numbers of the protocol, its limits here, and why a connection is dropped.
use sarsen_block::Failure;

pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

pub const FIXED_NEWSTYLE: u16 = 1;
pub const NO_ZEROES: u16 = 2;

pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

pub mod option_reply {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    const ERROR: u32 = 1 << 31;
    pub const UNSUPPORTED: u32 = ERROR + 1;
    pub const INVALID: u32 = ERROR + 3;
    pub const UNKNOWN: u32 = ERROR + 6;
}

pub mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

pub mod export_flag {
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

pub mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISCONNECT: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

pub mod command_flag {
    pub const FUA: u16 = 1;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
    pub const FAST_ZERO: u16 = 1 << 4;
}

pub mod chunk {
    pub const DONE: u16 = 1;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const ERROR: u16 = 32769;
}

/// The one metadata context there is, and its number on the wire.
pub const ALLOCATION: &str = "base:allocation";
pub const ALLOCATION_ID: u32 = 1;
/// States of `base:allocation`: nothing is stored there, and it reads as zeroes.
pub const HOLE_AND_ZERO: u32 = 1 | 2;

/// Bytes of a request's header.
pub const REQUEST_LEN: usize = 28;
/// Bytes of an option's header.
pub const OPTION_LEN: usize = 16;

/// Longest option, in bytes: a name of the longest sort and some queries.
pub const OPTION_BYTES_MAX: u32 = 16 << 10;
/// Options one connection may send.
pub const OPTIONS_MAX: u32 = 256;
/// Queries of metadata contexts in one option.
pub const QUERIES_MAX: u32 = 64;
/// Requests of one connection under way; it is not read from while there are more.
pub const IN_FLIGHT_MAX: usize = 1024;
/// Bytes of one connection's requests under way; it is not read from while there are more.
pub const IN_FLIGHT_BYTES_MAX: u64 = 64 << 20;
/// A payload of up to this many bytes is copied out of what was received; a longer one is received into its buffer.
pub const COPIED_MAX: usize = 16 << 10;
/// Bytes that one question for the state of blocks is answered for; the client asks on.
pub const STATUS_BYTES_MAX: u64 = 256 << 20;
/// Runs in one answer about the state of blocks.
pub const STATUS_EXTENTS_MAX: usize = 2048;

pub const EPERM: u32 = 1;
pub const EIO: u32 = 5;
pub const EINVAL: u32 = 22;
pub const ENOSPC: u32 = 28;
pub const ESHUTDOWN: u32 = 108;

/// The error number of a failure, as the protocol has it for a command.
pub fn errno(failure: Failure, command: u16) -> u32 {
    match failure {
        Failure::OutOfBounds if matches!(command, command::WRITE | command::WRITE_ZEROES) => ENOSPC,
        Failure::OutOfBounds => EINVAL,
        Failure::ReadOnly => EPERM,
        Failure::NoSpace => ENOSPC,
        Failure::Broken => EIO,
        Failure::Gone => ESHUTDOWN,
    }
}

/// Why a client is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// Its first word is not that of a client.
    #[error("the client's flags {0:#x} are not known")]
    Flags(u32),
    /// An option does not begin as options do.
    #[error("an option begins with {0:#x}: this is no NBD client")]
    OptionMagic(u64),
    /// An option is too long.
    #[error("an option of {0} bytes is longer than any there is")]
    OptionLength(u32),
    /// It haggles without end.
    #[error("the client sent more than {OPTIONS_MAX} options")]
    TooManyOptions,
    /// The name is not here, and the option it came with has no answer that says so.
    #[error("the client wants an export that is not here")]
    UnknownExport,
    /// A request does not begin as requests do.
    #[error("a request begins with {0:#x}: the stream lost its place")]
    RequestMagic(u32),
    /// A write that is longer than was said to be allowed.
    #[error("a write of {0} bytes is longer than the limit the client was told")]
    WriteLength(u32),
}
