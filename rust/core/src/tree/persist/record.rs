//! A call as bytes: values with their types, arrays among them.
//!
//! A value is a byte that says what it is, then its content; lengths are u64. Reading
//! checks every length against the bytes that are there before it asks for memory.

use super::state::Source;
use super::{Result, damaged};

/// How deep lists may be in lists.
const DEPTH: usize = 16;

/// An argument of a call, or what it gave.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// Nothing.
    Nothing,
    /// True or false.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A number, bit for bit.
    Float(f64),
    /// A text.
    Text(String),
    /// Some items.
    List(Vec<Item>),
    /// Items by name.
    Map(Vec<(String, Item)>),
    /// Array of booleans.
    Bools(Vec<bool>),
    /// Array of 64-bit integers.
    Ints(Vec<i64>),
    /// Array of 64-bit floats.
    Floats(Vec<f64>),
    /// Array of 32-bit unsigned integers.
    Tokens(Vec<u32>),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// Appends an item.
pub fn encode(item: &Item, out: &mut Vec<u8>) {
    fn array<T: Copy, const N: usize>(
        tag: u8,
        values: &[T],
        bytes: impl Fn(T) -> [u8; N],
        out: &mut Vec<u8>,
    ) {
        out.push(tag);
        out.extend((values.len() as u64).to_le_bytes());
        out.reserve(values.len() * N);
        for &value in values {
            out.extend(bytes(value));
        }
    }
    match item {
        Item::Nothing => out.push(0),
        Item::Bool(v) => out.extend([1, u8::from(*v)]),
        Item::Int(v) => {
            out.push(2);
            out.extend(v.to_le_bytes());
        }
        Item::Float(v) => {
            out.push(3);
            out.extend(v.to_le_bytes());
        }
        Item::Text(v) => array(4, v.as_bytes(), |b| [b], out),
        Item::List(v) => {
            out.push(5);
            out.extend((v.len() as u64).to_le_bytes());
            for item in v {
                encode(item, out);
            }
        }
        Item::Bools(v) => array(6, v, |b| [u8::from(b)], out),
        Item::Ints(v) => array(7, v, i64::to_le_bytes, out),
        Item::Floats(v) => array(8, v, f64::to_le_bytes, out),
        Item::Tokens(v) => array(9, v, u32::to_le_bytes, out),
        Item::Bytes(v) => array(10, v, |b| [b], out),
        Item::Map(v) => {
            out.push(11);
            out.extend((v.len() as u64).to_le_bytes());
            for (name, item) in v {
                array(4, name.as_bytes(), |b| [b], out);
                encode(item, out);
            }
        }
    }
}

/// The item that the bytes are, all of them.
///
/// # Errors
///
/// [`Error::Damaged`](super::Error::Damaged) at a byte that begins nothing, at a length
/// that is larger than what is left, and at lists in lists too deep.
pub fn decode(bytes: &[u8]) -> Result<Item> {
    let mut source = Source::new(bytes);
    let item = source.item(DEPTH)?;
    source.end()?;
    Ok(item)
}

impl Source<'_> {
    fn array<T, const N: usize>(&mut self, value: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
        let count = self.length(N)?;
        let (chunks, _) = self.take(count * N)?.as_chunks::<N>();
        Ok(chunks.iter().map(|&chunk| value(chunk)).collect())
    }

    fn item(&mut self, depth: usize) -> Result<Item> {
        let at = self.at();
        let [tag] = self.fixed()?;
        Ok(match tag {
            0 => Item::Nothing,
            1 => Item::Bool(self.fixed()? != [0]),
            2 => Item::Int(i64::from_le_bytes(self.fixed()?)),
            3 => Item::Float(f64::from_le_bytes(self.fixed()?)),
            4 => {
                let bytes = self.array(|[b]| b)?;
                match String::from_utf8(bytes) {
                    Ok(text) => Item::Text(text),
                    Err(_) => return damaged(at, "a text that is not UTF-8"),
                }
            }
            5 if depth > 0 => {
                let count = self.length(1)?;
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(self.item(depth - 1)?);
                }
                Item::List(items)
            }
            6 => Item::Bools(self.array(|b: [u8; 1]| b != [0])?),
            7 => Item::Ints(self.array(i64::from_le_bytes)?),
            8 => Item::Floats(self.array(f64::from_le_bytes)?),
            9 => Item::Tokens(self.array(u32::from_le_bytes)?),
            10 => Item::Bytes(self.array(|[b]| b)?),
            11 if depth > 0 => {
                let count = self.length(2)?;
                let mut items = Vec::new();
                for _ in 0..count {
                    match self.item(0)? {
                        Item::Text(name) => items.push((name, self.item(depth - 1)?)),
                        _ => return damaged(at, "a name that is no text"),
                    }
                }
                Item::Map(items)
            }
            _ => return damaged(at, format!("got {tag}, expected the beginning of an item")),
        })
    }
}
