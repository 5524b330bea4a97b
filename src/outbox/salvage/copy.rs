//! Copies of a damaged outbox: nothing here ever writes into the original.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes that are left out at a time where the disk refuses to read.
const SECTOR_BYTES: usize = 4_096;

/// The files of a RocksDB, without the lock and the text log.
pub(super) fn files_of(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_text = name == "LOCK" || name == "LOG" || name.starts_with("LOG.old");
        if entry.file_type()?.is_file() && !is_text {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a file's name ends so.
pub(super) fn is(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e == extension)
}

/// Copies the files into a folder that is made for them, under the names that `name` gives. What the disk refuses to
/// read is left as zeros, which RocksDB's checksums do not believe; those files are returned.
pub(super) fn copy<'p>(
    files: impl IntoIterator<Item = &'p PathBuf>,
    to: &Path,
    mut name: impl FnMut(&Path) -> PathBuf,
) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(to)?;
    let mut torn = Vec::new();
    for file in files {
        let target = to.join(name(file));
        if fs::copy(file, &target).is_err() && copy_sectors(file, &target)? > 0 {
            torn.push(file.clone());
        }
    }
    Ok(torn)
}

/// The file's own name.
pub(super) fn same(path: &Path) -> PathBuf {
    path.file_name().map(PathBuf::from).unwrap_or_default()
}

/// Copies what can be read of a file; how many of its sectors cannot.
fn copy_sectors(from: &Path, to: &Path) -> io::Result<u64> {
    let (mut from, mut to) = (File::open(from)?, File::create(to)?);
    let length = from.metadata()?.len();
    let (mut at, mut unreadable) = (0, 0);
    while at < length {
        let mut sector = [0; SECTOR_BYTES];
        let part = (length - at).min(SECTOR_BYTES as u64) as usize;
        let read = from
            .seek(SeekFrom::Start(at))
            .and_then(|_| from.read_exact(&mut sector[..part]));
        if read.is_err() {
            sector = [0; SECTOR_BYTES];
            unreadable += 1;
        }
        to.write_all(&sector[..part])?;
        at += part as u64;
    }
    Ok(unreadable)
}
