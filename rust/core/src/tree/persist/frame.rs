//! Records in a chain: each carries its length and two checksums that depend on all
//! records before it.
//!
//! ```text
//! length     u32   bytes of the payload
//! head       u32   checksum of the length and the chain
//! payload
//! checksum   u64   of the payload and the chain; the chain of the next record
//! ```
//!
//! All integers are little-endian, checksums are XXH3. The head says whether a length
//! can be believed before memory is asked for, and tells a record that was cut short
//! (the last one, when the writer was killed) from one that was changed. A record taken
//! out, doubled or moved does not fit into the chain.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Error, Result, damaged};

/// Bytes before a payload.
pub const HEAD: usize = 8;
/// Bytes after it.
pub const TAIL: usize = 8;

/// The checksum of everything so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain(u64);

impl Chain {
    /// The chain of a file that begins with these bytes.
    pub fn new(magic: &[u8]) -> Self {
        Self(xxh3_64_with_seed(magic, 0))
    }

    /// As a number.
    pub fn value(self) -> u64 {
        self.0
    }

    fn head(self, length: u32) -> u32 {
        xxh3_64_with_seed(&length.to_le_bytes(), self.0) as u32
    }

    fn after(self, payload: &[u8]) -> Self {
        // Another seed than the head's, so that neither can stand for the other.
        Self(xxh3_64_with_seed(payload, !self.0))
    }

    /// Appends a payload to `out` as a record.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] for a payload of 2^32 bytes or more.
    pub fn append(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let limit = u32::MAX as usize;
        let Ok(length) = u32::try_from(payload.len()) else {
            return Err(Error::TooLarge { what: "bytes of a record", got: payload.len(), limit });
        };
        out.extend(length.to_le_bytes());
        out.extend(self.head(length).to_le_bytes());
        out.extend(payload);
        *self = self.after(payload);
        out.extend(self.0.to_le_bytes());
        Ok(())
    }

    /// The payload's length that a record's first bytes give.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] at byte `at`.
    pub fn length(self, head: [u8; HEAD], at: u64) -> Result<usize> {
        let [a, b, c, d, e, f, g, h] = head;
        let length = u32::from_le_bytes([a, b, c, d]);
        if u32::from_le_bytes([e, f, g, h]) != self.head(length) {
            return damaged(at, "the head of a record does not fit to what comes before it");
        }
        Ok(length as usize)
    }

    /// Goes on to the next record.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] at byte `at` if the checksum is another.
    pub fn check(&mut self, payload: &[u8], tail: [u8; TAIL], at: u64) -> Result<()> {
        let next = self.after(payload);
        if next.0 != u64::from_le_bytes(tail) {
            return damaged(at, "a record's checksum does not fit to its content");
        }
        *self = next;
        Ok(())
    }
}
