//! Bytes in pieces: what was read, as views and runs of zeroes, so that nothing is copied to join them.
use crate::pool::Buf;
use smallvec::SmallVec;

/// A run of bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// These.
    Data(Buf),
    /// So many zeroes, which nobody stores.
    Zeroes(usize),
}

impl Part {
    /// Bytes of it.
    pub fn len(&self) -> usize {
        match self {
            Part::Data(buf) => buf.len(),
            Part::Zeroes(len) => *len,
        }
    }
    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Runs, one after the other.
pub type Parts = SmallVec<[Part; 2]>;

/// Appends a run; zeroes join zeroes.
pub fn push_part(parts: &mut Parts, part: Part) {
    match (parts.last_mut(), &part) {
        _ if part.is_empty() => {}
        (Some(Part::Zeroes(before)), Part::Zeroes(more)) => *before += more,
        _ => parts.push(part),
    }
}

/// All bytes, copied together: for tests and tools.
pub fn joined(parts: &[Part]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(parts.iter().map(Part::len).sum());
    for part in parts {
        match part {
            Part::Data(buf) => bytes.extend_from_slice(buf),
            Part::Zeroes(len) => bytes.resize(bytes.len() + len, 0),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pool;

    #[test]
    fn zeroes_join_zeroes_and_nothing_is_lost() {
        let pool = Pool::new();
        let mut parts = Parts::new();
        for part in [
            Part::Zeroes(2),
            Part::Zeroes(3),
            Part::Zeroes(0),
            Part::Data(pool.copy_of(b"abc")),
            Part::Zeroes(1),
        ] {
            push_part(&mut parts, part);
        }
        assert_eq!(parts.len(), 3);
        assert_eq!(joined(&parts), b"\0\0\0\0\0abc\0");
    }
}
