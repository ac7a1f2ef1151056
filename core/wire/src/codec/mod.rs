//! How values become bytes: in the order of their fields, little endian, no padding.
//!
//! A list is a u32 count and its elements; an option a byte 0 or 1 and the value; an enum a byte and its fields; a
//! duration nanoseconds in a u64. Every value has exactly one encoding.
mod client;
mod peer;
mod words;

pub use client::{decode_reply, decode_request, encode_reply, encode_request};
pub use peer::{decode_peer, encode_peer, peer_payload_len};

use crate::error::WireError;
use alloc::vec::Vec;
use smallvec::{Array, SmallVec};

/// Most elements of a list.
pub const LIST_MAX: usize = 1 << 16;
/// Elements a list is given room for before the first is read.
const RESERVE_MAX: usize = 512;

/// Bytes not read yet.
pub(crate) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(WireError::Truncated(what))?;
        self.0 = rest;
        Ok(taken)
    }
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(WireError::Truncated(what))?;
        self.0 = rest;
        Ok(*taken)
    }
    pub fn end(self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::Trailing(self.0.len())) }
    }
    /// The count of a list whose elements have at least `min` bytes each.
    fn count(&mut self, min: usize) -> Result<usize, WireError> {
        let count = u32::get(self)? as usize;
        if count > LIST_MAX {
            return Err(WireError::TooLong { what: "a list", len: count, max: LIST_MAX });
        }
        if count * min > self.0.len() {
            return Err(WireError::Truncated("a list"));
        }
        Ok(count)
    }
}

/// A value with a layout.
pub(crate) trait Wire: Sized {
    /// Fewest bytes it has.
    const MIN: usize;
    fn put(&self, out: &mut Vec<u8>);
    fn get(from: &mut Reader<'_>) -> Result<Self, WireError>;
    /// Any value that is allowed.
    #[cfg(test)]
    fn sample(source: &mut Source) -> Self;
}

/// Reads exactly one value.
pub(crate) fn whole<T: Wire>(bytes: &[u8]) -> Result<T, WireError> {
    let mut from = Reader(bytes);
    let value = T::get(&mut from)?;
    from.end()?;
    Ok(value)
}

/// Numbers for tests, from a seed.
#[cfg(test)]
pub(crate) struct Source(pub u64);

#[cfg(test)]
impl Source {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

macro_rules! numbers { ($($name:ident),*) => { $(
    impl Wire for $name {
        const MIN: usize = size_of::<$name>();
        fn put(&self, out: &mut Vec<u8>) {
            out.extend_from_slice(&self.to_le_bytes());
        }
        fn get(from: &mut Reader<'_>) -> Result<Self, WireError> {
            Ok($name::from_le_bytes(from.array("a number")?))
        }
        #[cfg(test)]
        fn sample(source: &mut Source) -> Self {
            // small, large and middling ones alike
            (source.next() as $name) >> (source.below(8) as u32 * $name::BITS / 8)
        }
    }
)* } }
numbers!(u8, u16, u32, u64, u128);

impl Wire for bool {
    const MIN: usize = 1;
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, WireError> {
        match u8::get(from)? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(WireError::Tag { what: "truth value", tag }),
        }
    }
    #[cfg(test)]
    fn sample(source: &mut Source) -> Self {
        source.below(2) == 1
    }
}

impl<T: Wire> Wire for Option<T> {
    const MIN: usize = 1;
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(if bool::get(from)? { Some(T::get(from)?) } else { None })
    }
    #[cfg(test)]
    fn sample(source: &mut Source) -> Self {
        bool::sample(source).then(|| T::sample(source))
    }
}

impl<T: Wire> Wire for Vec<T> {
    const MIN: usize = 4;
    fn put(&self, out: &mut Vec<u8>) {
        put_list(self, out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = from.count(T::MIN)?;
        let mut list = Vec::with_capacity(count.min(RESERVE_MAX));
        for _ in 0..count {
            list.push(T::get(from)?);
        }
        Ok(list)
    }
    #[cfg(test)]
    fn sample(source: &mut Source) -> Self {
        (0..source.below(6)).map(|_| T::sample(source)).collect()
    }
}

impl<A: Array> Wire for SmallVec<A>
where
    A::Item: Wire,
{
    const MIN: usize = 4;
    fn put(&self, out: &mut Vec<u8>) {
        put_list(self, out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = from.count(A::Item::MIN)?;
        let mut list = SmallVec::with_capacity(count.min(RESERVE_MAX));
        for _ in 0..count {
            list.push(A::Item::get(from)?);
        }
        Ok(list)
    }
    #[cfg(test)]
    fn sample(source: &mut Source) -> Self {
        (0..source.below(6)).map(|_| A::Item::sample(source)).collect()
    }
}

fn put_list<T: Wire>(list: &[T], out: &mut Vec<u8>) {
    assert!(list.len() <= LIST_MAX, "a list of {} is above its limit", list.len());
    (list.len() as u32).put(out);
    for value in list {
        value.put(out);
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    const MIN: usize = A::MIN + B::MIN;
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok((A::get(from)?, B::get(from)?))
    }
    #[cfg(test)]
    fn sample(source: &mut Source) -> Self {
        (A::sample(source), B::sample(source))
    }
}

impl<A: Wire, B: Wire, C: Wire> Wire for (A, B, C) {
    const MIN: usize = A::MIN + B::MIN + C::MIN;
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
        self.2.put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok((A::get(from)?, B::get(from)?, C::get(from)?))
    }
    #[cfg(test)]
    fn sample(source: &mut Source) -> Self {
        (A::sample(source), B::sample(source), C::sample(source))
    }
}

/// The layout of a struct: its fields in this order. With `check`, what is refused besides.
macro_rules! layout {
    ($name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        impl $crate::codec::Wire for $name {
            const MIN: usize = 0 $(+ <$type as $crate::codec::Wire>::MIN)*;
            fn put(&self, out: &mut ::alloc::vec::Vec<u8>) {
                $($crate::codec::Wire::put(&self.$field, out);)*
            }
            fn get(from: &mut $crate::codec::Reader<'_>) -> Result<Self, $crate::error::WireError> {
                Ok($name { $($field: <$type as $crate::codec::Wire>::get(from)?),* })
            }
            #[cfg(test)]
            fn sample(source: &mut $crate::codec::Source) -> Self {
                $name { $($field: <$type as $crate::codec::Wire>::sample(source)),* }
            }
        }
    };
}

/// The layout of a message enum: a byte that is the tag, then the fields in this order.
macro_rules! tagged {
    ($name:ident, $what:literal { $($tag:literal = $variant:ident $(($inner:ty))? $({ $($field:ident: $type:ty),* $(,)? })?),* $(,)? }) => {
        impl $crate::codec::Wire for $name {
            const MIN: usize = 1;
            fn put(&self, out: &mut ::alloc::vec::Vec<u8>) {
                match self {
                    $(tagged!(@pattern $name $variant $(($inner))? $({ $($field),* })? inner) => {
                        out.push($tag);
                        $(<$inner as $crate::codec::Wire>::put(inner, out);)?
                        $($(<$type as $crate::codec::Wire>::put($field, out);)*)?
                    })*
                }
            }
            fn get(from: &mut $crate::codec::Reader<'_>) -> Result<Self, $crate::error::WireError> {
                match <u8 as $crate::codec::Wire>::get(from)? {
                    $($tag => {
                        $(let inner = <$inner as $crate::codec::Wire>::get(from)?;)?
                        $($(let $field = <$type as $crate::codec::Wire>::get(from)?;)*)?
                        Ok(tagged!(@pattern $name $variant $(($inner))? $({ $($field),* })? inner))
                    })*
                    tag => Err($crate::error::WireError::Tag { what: $what, tag }),
                }
            }
            #[cfg(test)]
            fn sample(source: &mut $crate::codec::Source) -> Self {
                const TAGS: &[u8] = &[$($tag),*];
                match TAGS[source.below(TAGS.len())] {
                    $($tag => {
                        $(let inner = <$inner as $crate::codec::Wire>::sample(source);)?
                        $($(let $field = <$type as $crate::codec::Wire>::sample(source);)*)?
                        tagged!(@pattern $name $variant $(($inner))? $({ $($field),* })? inner)
                    })*
                    _ => unreachable!("a tag of the list"),
                }
            }
        }
    };
    (@pattern $name:ident $variant:ident $inner:ident) => { $name::$variant };
    (@pattern $name:ident $variant:ident ($type:ty) $inner:ident) => { $name::$variant($inner) };
    (@pattern $name:ident $variant:ident { $($field:ident),* } $inner:ident) => { $name::$variant { $($field),* } };
}

pub(crate) use {layout, tagged};
