//! What happened to a search, on disk: an append-only log of calls.
//!
//! A search is a function of the calls made to it, so the calls are what is kept: a
//! log outlives any change of what the engine holds in memory. [`record`] is a call as
//! bytes, [`frame`] makes of records a chain in which no byte can change unseen, and
//! [`log`] is the file. So that long logs need not be replayed from their beginning,
//! snapshots stand beside them: [`state`] is what a search holds in memory, [`whole`] a
//! file that is written in one step. Depends on the standard library alone.

pub mod frame;
pub mod log;
pub mod record;
pub mod state;
pub mod whole;

use std::fmt;
use std::io;

/// What is wrong with a file.
#[derive(Debug)]
pub enum Error {
    /// The system's answer.
    Io(io::Error),
    /// Bytes that were not written so.
    Damaged {
        /// Where in the file, or in the record.
        at: u64,
        /// What was found there.
        what: String,
    },
    /// More than the format can hold.
    TooLarge {
        /// What of.
        what: &'static str,
        /// The size.
        got: usize,
        /// The largest.
        limit: usize,
    },
}

/// `Result` with this module's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Damaged { at, what } => write!(f, "damaged at byte {at}: {what}"),
            Self::TooLarge { what, got, limit } => {
                write!(f, "{what}: got {got}, expected at most {limit}")
            }
        }
    }
}

impl std::error::Error for Error {}

fn damaged<T>(at: u64, what: impl Into<String>) -> Result<T> {
    Err(Error::Damaged { at, what: what.into() })
}
