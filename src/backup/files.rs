//! Files of a backup: read and copied with their checksums.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::{BackupError, io_at};

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// Tells how many bytes were read, and hears whether it is to go on.
pub struct Meter<'a> {
    /// Hears of every chunk.
    pub told: &'a dyn Fn(u64),
    /// Interrupts.
    pub stop: &'a CancellationToken,
}

/// Copies a file, synced; answers its length and SHA-256.
pub fn copy(from: &Path, to: &Path, meter: &Meter<'_>) -> Result<(u64, String), BackupError> {
    let mut out = File::create(to).map_err(io_at(to))?;
    let read = each_chunk(from, meter, |chunk| out.write_all(chunk).map_err(io_at(to)))?;
    out.sync_all().map_err(io_at(to))?;
    Ok(read)
}

/// The length and SHA-256 of a file.
pub fn checksum(path: &Path, meter: &Meter<'_>) -> Result<(u64, String), BackupError> {
    each_chunk(path, meter, |_| Ok(()))
}

fn each_chunk(
    path: &Path,
    meter: &Meter<'_>,
    mut each: impl FnMut(&[u8]) -> Result<(), BackupError>,
) -> Result<(u64, String), BackupError> {
    let mut file = File::open(path).map_err(io_at(path))?;
    let (mut chunk, mut hash, mut bytes) = (vec![0; CHUNK], Sha256::new(), 0);
    loop {
        if meter.stop.is_cancelled() {
            return Err(BackupError::Interrupted);
        }
        let n = file.read(&mut chunk).map_err(io_at(path))?;
        if n == 0 {
            return Ok((bytes, hex::encode(hash.finalize())));
        }
        hash.update(&chunk[..n]);
        each(&chunk[..n])?;
        bytes += n as u64;
        (meter.told)(n as u64);
    }
}

/// Syncs a folder: the names in it.
pub fn sync(folder: &Path) -> Result<(), BackupError> {
    let synced = File::open(folder).and_then(|f| f.sync_all());
    synced.map_err(io_at(folder))
}

/// The names of files in a folder, in order.
pub fn names(folder: &Path) -> Result<Vec<String>, BackupError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_at(folder))? {
        let entry = entry.map_err(io_at(folder))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}
