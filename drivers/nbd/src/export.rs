//! What is exported, as clients are told of it.
use crate::proto::export_flag::*;
use sarsen_block::Limits;

/// See the module. Its owner keeps `size` as the volume has it: a client that connects again sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Export {
    /// The volume's name; the empty name means the same.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Bytes.
    pub size: u64,
    /// What requests may be.
    pub limits: Limits,
}

impl Export {
    /// Whether a client that asks for `name` means this.
    pub fn is_called(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.name.as_bytes()
    }
    /// The flags a client is told.
    pub fn flags(&self, is_structured: bool) -> u16 {
        let mut flags = HAS_FLAGS
            | SEND_FLUSH
            | SEND_FUA
            | SEND_TRIM
            | SEND_WRITE_ZEROES
            | SEND_FAST_ZERO
            | CAN_MULTI_CONN;
        if is_structured {
            flags |= SEND_DF;
        }
        if self.limits.is_read_only {
            flags |= READ_ONLY;
        }
        flags
    }
}
