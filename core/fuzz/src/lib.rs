//! What the fuzz targets share: bytes that a fuzzer chose, read as numbers.
#![forbid(unsafe_code)]

/// Bytes to decide by; zeroes when they have run out.
pub struct Choices<'a>(pub &'a [u8]);

impl Choices<'_> {
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
    /// A number below `end`, of two bytes.
    pub fn below(&mut self, end: u16) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()]) % end
    }
}
