//! A file of one record, written in one step: whoever reads sees all of it or none.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use super::frame::{Chain, HEAD, TAIL};
use super::{Error, Result, damaged};

/// Writes `payload` under a magic number, through a temporary file beside it.
///
/// # Errors
///
/// The file cannot be written; what was at `path` is still there.
pub fn write(path: &Path, magic: &[u8; 8], payload: &[u8]) -> Result<()> {
    let mut bytes = magic.to_vec();
    Chain::new(magic).append(payload, &mut bytes)?;
    let temporary = path.with_extension("tmp");
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_folder(path)
    });
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(Error::from)
}

/// Makes a rename last through a loss of power, where folders can be waited for.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    // A bare name's parent is empty: it lies in the folder that the process is in.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// The payload of a file that [`write()`] made.
///
/// # Errors
///
/// The file cannot be read, or any byte of it is not as it was written.
pub fn read(path: &Path, magic: &[u8; 8]) -> Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let Some(rest) = bytes.strip_prefix(magic) else {
        return damaged(0, "it does not begin as it should");
    };
    let mut chain = Chain::new(magic);
    let Some((head, rest)) = rest.split_first_chunk::<HEAD>() else {
        return damaged(magic.len() as u64, "it ends too early");
    };
    let length = chain.length(*head, magic.len() as u64)?;
    let (Some(payload), Some(tail)) = (rest.get(..length), rest.get(length..)) else {
        return damaged(bytes.len() as u64, "it ends too early");
    };
    let Ok(tail) = <[u8; TAIL]>::try_from(tail) else {
        return damaged(bytes.len() as u64, "it is longer or shorter than it says");
    };
    chain.check(payload, tail, magic.len() as u64)?;
    Ok(payload.to_vec())
}
