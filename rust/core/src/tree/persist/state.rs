//! What a search holds in memory, as bytes: for snapshots.
//!
//! A type says which fields it has in [`state!`](crate::state); one that is left out does
//! not compile, so that no field can be forgotten. Numbers are little-endian, lengths u64.
//! Reading takes memory only as fast as there are bytes. Depends on `room`.

use std::collections::{BTreeMap, VecDeque};

use super::{Result, damaged};
use crate::tree::room::{Column, Room};

/// Something that can be saved and loaded again.
pub trait State: Sized {
    /// Appends it.
    fn save(&self, out: &mut Vec<u8>);

    /// Reads it.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`](super::Error::Damaged) where the bytes are something else.
    fn load(source: &mut Source<'_>) -> Result<Self>;
}

/// Bytes that are being read.
pub struct Source<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Source<'a> {
    /// From the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next bytes, so many.
    ///
    /// # Errors
    ///
    /// There are not so many.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        match self.bytes.get(self.at..).and_then(|rest| rest.get(..count)) {
            Some(found) => {
                self.at += count;
                Ok(found)
            }
            None => {
                let left = self.bytes.len() - self.at;
                damaged(self.at as u64, format!("got {left} bytes, expected {count}"))
            }
        }
    }

    /// The next bytes, as many as the array has.
    ///
    /// # Errors
    ///
    /// There are not so many.
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// A length of values of at least `size` bytes each, that are there.
    ///
    /// # Errors
    ///
    /// There are not so many.
    pub fn length(&mut self, size: usize) -> Result<usize> {
        let at = self.at as u64;
        let length = u64::from_le_bytes(self.fixed()?);
        let left = (self.bytes.len() - self.at) / size;
        match usize::try_from(length) {
            Ok(length) if length <= left => Ok(length),
            _ => damaged(at, format!("got a length of {length}, expected at most {left}")),
        }
    }

    /// An error at this place.
    ///
    /// # Errors
    ///
    /// Always.
    pub fn refuse<T>(&self, what: impl Into<String>) -> Result<T> {
        damaged(self.at as u64, what)
    }

    /// That nothing is left.
    ///
    /// # Errors
    ///
    /// Something is.
    pub fn end(&self) -> Result<()> {
        if self.at < self.bytes.len() { self.refuse("more bytes than expected") } else { Ok(()) }
    }

    /// Bytes read.
    pub fn at(&self) -> u64 {
        self.at as u64
    }
}

/// States a type's fields, all of them, in the order in which they are saved.
#[macro_export]
macro_rules! state {
    ($type:ty { $($field:ident),* $(,)? }) => {
        impl $crate::tree::persist::state::State for $type {
            fn save(&self, out: &mut Vec<u8>) {
                let Self { $($field),* } = self;
                $( $crate::tree::persist::state::State::save($field, out); )*
            }

            fn load(
                source: &mut $crate::tree::persist::state::Source<'_>,
            ) -> $crate::tree::persist::Result<Self> {
                Ok(Self { $( $field: $crate::tree::persist::state::State::load(source)? ),* })
            }
        }
    };
}

macro_rules! numbers {
    ($($type:ty),*) => {
        $( impl State for $type {
            fn save(&self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }

            fn load(source: &mut Source<'_>) -> Result<Self> {
                Ok(<$type>::from_le_bytes(source.fixed()?))
            }
        } )*
    };
}

numbers!(u8, u16, u32, u64, i64, f32, f64);

impl State for usize {
    fn save(&self, out: &mut Vec<u8>) {
        (*self as u64).save(out);
    }

    fn load(source: &mut Source<'_>) -> Result<Self> {
        match usize::try_from(u64::load(source)?) {
            Ok(value) => Ok(value),
            Err(_) => source.refuse("a number too large for this machine"),
        }
    }
}

impl State for bool {
    fn save(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn load(source: &mut Source<'_>) -> Result<Self> {
        match source.fixed()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [got] => source.refuse(format!("got {got}, expected 0 or 1")),
        }
    }
}

impl<T: State> State for Option<T> {
    fn save(&self, out: &mut Vec<u8>) {
        self.is_some().save(out);
        if let Some(value) = self {
            value.save(out);
        }
    }

    fn load(source: &mut Source<'_>) -> Result<Self> {
        if bool::load(source)? { Ok(Some(T::load(source)?)) } else { Ok(None) }
    }
}

impl<T: State> State for Box<T> {
    fn save(&self, out: &mut Vec<u8>) {
        (**self).save(out);
    }

    fn load(source: &mut Source<'_>) -> Result<Self> {
        Ok(Self::new(T::load(source)?))
    }
}

fn save_all<'a, T: State + 'a>(items: impl ExactSizeIterator<Item = &'a T>, out: &mut Vec<u8>) {
    items.len().save(out);
    for item in items {
        item.save(out);
    }
}

impl<T: State> State for Vec<T> {
    fn save(&self, out: &mut Vec<u8>) {
        save_all(self.iter(), out);
    }

    fn load(source: &mut Source<'_>) -> Result<Self> {
        // Every item is a byte at least; what is pushed has been read.
        let count = source.length(1)?;
        let mut items = Self::new();
        for _ in 0..count {
            items.push(T::load(source)?);
        }
        Ok(items)
    }
}

impl<T: State> State for Column<T> {
    fn save(&self, out: &mut Vec<u8>) {
        save_all(self.iter(), out);
    }

    fn load(source: &mut Source<'_>) -> Result<Self> {
        let items: Vec<T> = State::load(source)?;
        let mut column = Self::with_capacity_in(items.len(), Room::default());
        column.extend(items);
        Ok(column)
    }
}

impl<T: State> State for VecDeque<T> {
    fn save(&self, out: &mut Vec<u8>) {
        save_all(self.iter(), out);
    }

    fn load(source: &mut Source<'_>) -> Result<Self> {
        Ok(Vec::load(source)?.into())
    }
}

impl<T: State> State for Box<[T]> {
    fn save(&self, out: &mut Vec<u8>) {
        save_all(self.iter(), out);
    }

    fn load(source: &mut Source<'_>) -> Result<Self> {
        Ok(Vec::load(source)?.into())
    }
}

impl<K: State + Ord, V: State> State for BTreeMap<K, V> {
    fn save(&self, out: &mut Vec<u8>) {
        self.len().save(out);
        for (key, value) in self {
            key.save(out);
            value.save(out);
        }
    }

    fn load(source: &mut Source<'_>) -> Result<Self> {
        let count = source.length(2)?;
        let mut map = Self::new();
        for _ in 0..count {
            let key = K::load(source)?;
            map.insert(key, V::load(source)?);
        }
        Ok(map)
    }
}

macro_rules! tuples {
    ($(($($name:ident),*)),*) => {
        $( impl<$($name: State),*> State for ($($name,)*) {
            #[allow(non_snake_case)] // a value is called as its type
            fn save(&self, out: &mut Vec<u8>) {
                let ($($name,)*) = self;
                $( $name.save(out); )*
            }

            fn load(source: &mut Source<'_>) -> Result<Self> {
                Ok(($($name::load(source)?,)*))
            }
        } )*
    };
}

tuples!((A, B), (A, B, C, D));
