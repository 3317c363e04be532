//! The file of a log: a magic number, then records.
//!
//! A record is written in one piece after what it tells of has happened. A process that is
//! killed leaves at most its last record cut short; who opens the log again takes that
//! for never written and goes on after the last whole one.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::frame::{Chain, HEAD, TAIL};
use super::{Result, damaged};

/// The first bytes of a log; the last of them is the format's version.
pub const MAGIC: [u8; 8] = *b"APTLOG\n\x01";

/// Reads a log from its beginning.
pub struct Reader {
    file: BufReader<File>,
    chain: Chain,
    at: u64,
    size: u64,
}

impl Reader {
    /// Opens a log; it may be one that another process is writing.
    ///
    /// # Errors
    ///
    /// The file cannot be opened, or is no log of this version.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = BufReader::new(File::open(path)?);
        let size = file.get_ref().metadata()?.len();
        let mut magic = Vec::new();
        file.by_ref().take(MAGIC.len() as u64).read_to_end(&mut magic)?;
        if magic != MAGIC {
            return damaged(0, "it does not begin as a log of this version");
        }
        Ok(Self { file, chain: Chain::new(&MAGIC), at: MAGIC.len() as u64, size })
    }

    /// The next payload; `None` at the end, and where the last record was cut short.
    ///
    /// # Errors
    ///
    /// A record that is not as it was written.
    pub fn read(&mut self) -> Result<Option<Vec<u8>>> {
        let left = self.size - self.at;
        if left < HEAD as u64 {
            return Ok(None);
        }
        let mut head = [0; HEAD];
        self.file.read_exact(&mut head)?;
        let length = self.chain.length(head, self.at)?;
        if left < (HEAD + length + TAIL) as u64 {
            return Ok(None);
        }
        let (mut payload, mut tail) = (vec![0; length], [0; TAIL]);
        self.file.read_exact(&mut payload)?;
        self.file.read_exact(&mut tail)?;
        self.chain.check(&payload, tail, self.at)?;
        self.at += (HEAD + length + TAIL) as u64;
        Ok(Some(payload))
    }

    /// The checksum of everything read so far.
    pub fn chain(&self) -> u64 {
        self.chain.value()
    }

    /// Bytes read.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Bytes of a record that was cut short, after [`read`](Self::read) gave `None`.
    pub fn cut_short(&self) -> u64 {
        self.size - self.at
    }

    /// Goes on writing where reading ended; what was cut short is removed.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn into_writer(self, path: &Path) -> Result<Writer> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.set_len(self.at)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Writer { file, chain: self.chain, size: self.at, whole: true })
    }
}

/// Appends to a log.
pub struct Writer {
    file: File,
    chain: Chain,
    size: u64,
    /// Whether every record asked for is in the file.
    whole: bool,
}

impl Writer {
    /// A new, empty log.
    ///
    /// # Errors
    ///
    /// The file is there already, or cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(&MAGIC)?;
        let size = MAGIC.len() as u64;
        Ok(Self { file, chain: Chain::new(&MAGIC), size, whole: true })
    }

    /// Hands a record to the system: a killed process does not take it along, a machine
    /// that loses power may; see [`sync`](Self::sync).
    ///
    /// # Errors
    ///
    /// The record cannot be written; from then on the log takes none.
    pub fn append(&mut self, payload: &[u8]) -> Result<()> {
        if !self.whole {
            return damaged(self.size, "a record before could not be written");
        }
        let (mut chain, mut bytes) = (self.chain, Vec::with_capacity(payload.len() + HEAD + TAIL));
        chain.append(payload, &mut bytes)?;
        if let Err(error) = self.file.write_all(&bytes) {
            self.whole = false;
            self.file.set_len(self.size)?;
            return Err(error.into());
        }
        self.chain = chain;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Waits until everything is on the disk.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn sync(&self) -> Result<()> {
        Ok(self.file.sync_data()?)
    }

    /// The checksum of the whole log.
    pub fn chain(&self) -> u64 {
        self.chain.value()
    }

    /// Bytes of the log.
    pub fn size(&self) -> u64 {
        self.size
    }
}
