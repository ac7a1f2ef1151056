//! What the fuzz targets share: bytes that a fuzzer chose, read as numbers.
#![forbid(unsafe_code)]
pub mod sample;

/// Bytes to decide by; zeroes when they have run out.
#[derive(Clone)]
pub struct Choices<'a>(pub &'a [u8]);

impl<'a> Choices<'a> {
    /// Whether there are any left.
    pub fn are_left(&self) -> bool {
        !self.0.is_empty()
    }
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }
    /// Two bytes, little endian as all numbers here.
    pub fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }
    /// Eight bytes.
    pub fn long(&mut self) -> u64 {
        (0..8).fold(0, |all, at| all | u64::from(self.byte()) << (8 * at))
    }
    /// A number below `end`, of two bytes.
    pub fn below(&mut self, end: u16) -> u16 {
        self.word() % end
    }
    /// So many bytes as they are, or as many as there are.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
