//! Generations: each is one complete built state of a shard in a folder of its own.
//!
//! Invariant: `CURRENT` names a whole generation at every instant: it is replaced by renaming a synced file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use adtally_projections::position::Position;

use super::{Memory, Shard, StoreError};
use crate::fail_points::{Point, pass, pass_or_fail};

/// The file in a shard's folder that names the generation in use.
const CURRENT: &str = "CURRENT";
/// How every generation's name begins.
const PREFIX: &str = "g-";
/// The longest name of a generation, in bytes.
const MAX_NAME: usize = 64;
/// How the name of the mark ends that stands beside a generation while it is built.
const BUILDING: &str = ".building";

/// The folder of a shard: `<data-dir>/shards/<p>`.
pub fn shard_folder(data_dir: &Path, shard: u16) -> PathBuf {
    data_dir.join("shards").join(shard.to_string())
}

/// A new name; later ones sort after earlier ones.
pub fn new_name() -> String {
    format!("{PREFIX}{}", uuid::Uuid::now_v7())
}

/// The generation that a shard's folder has in use; none in a new folder.
pub fn current(folder: &Path) -> Result<Option<String>, StoreError> {
    let path = folder.join(CURRENT);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io(&path)(error)),
    };
    let name = text.trim_end();
    if !is_name(name) || !folder.join(name).is_dir() {
        return Err(StoreError::BadCurrent {
            path,
            said: name.chars().take(MAX_NAME).collect(),
        });
    }
    Ok(Some(name.to_owned()))
}

fn is_name(name: &str) -> bool {
    name.starts_with(PREFIX)
        && name.len() <= MAX_NAME
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// The mark of a generation that is being built.
pub fn building_mark(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}{BUILDING}"))
}

/// The generation that a shard has in use; none where it was never opened.
///
/// # Errors
/// [`StoreError`] when `CURRENT` cannot be read or names none.
pub fn in_use(data_dir: &Path, shard: u16) -> Result<Option<String>, StoreError> {
    current(&shard_folder(data_dir, shard))
}

/// The position of the generation that a shard has in use; none where it has none, or is before its first message.
///
/// # Errors
/// [`StoreError`] when it cannot be opened or read.
pub fn position_in_use(
    data_dir: &Path,
    shard: u16,
    memory: &Memory,
) -> Result<Option<Position>, StoreError> {
    let folder = shard_folder(data_dir, shard);
    let Some(name) = current(&folder)? else {
        return Ok(None);
    };
    let shard = Shard::open(shard, &name, &folder.join(&name), memory)?;
    let position = shard.snapshot()?.position();
    shard.close()?;
    Ok(position)
}

/// Removes what interrupted builds of a shard have left behind; answers what it removed. A generation that was
/// named before its mark went away is whole, and only loses the mark.
///
/// # Errors
/// [`StoreError`] when the folder cannot be read, or something in it cannot be removed.
pub fn remove_unfinished(data_dir: &Path, shard: u16) -> Result<Vec<PathBuf>, StoreError> {
    let folder = shard_folder(data_dir, shard);
    // One that names nothing is in nobody's use, and a rebuild is what mends it.
    let current = current(&folder).unwrap_or(None);
    let mut removed = Vec::new();
    for name in names(&folder)? {
        let Some(built) = name.strip_suffix(BUILDING).filter(|name| is_name(name)) else {
            continue;
        };
        if current.as_deref() == Some(built) {
            let mark = folder.join(&name);
            fs::remove_file(&mark).map_err(StoreError::io(&mark))?;
            continue;
        }
        remove(&folder, built)?;
        removed.push(folder.join(built));
    }
    Ok(removed)
}

/// Removes every generation of a shard that is not in use; answers which. A shard that has none in use keeps all.
///
/// # Errors
/// [`StoreError`] when `CURRENT` cannot be read, or something cannot be removed.
pub fn prune(data_dir: &Path, shard: u16) -> Result<Vec<PathBuf>, StoreError> {
    remove_unfinished(data_dir, shard)?;
    let folder = shard_folder(data_dir, shard);
    let Some(current) = current(&folder)? else {
        return Ok(Vec::new());
    };
    let mut removed = Vec::new();
    for name in names(&folder)? {
        if is_name(&name) && name != current {
            remove(&folder, &name)?;
            removed.push(folder.join(name));
        }
    }
    Ok(removed)
}

/// Removes a generation, its mark last: until then it is known to be no whole one.
pub fn remove(folder: &Path, name: &str) -> Result<(), StoreError> {
    let (generation, mark) = (folder.join(name), building_mark(folder, name));
    // What is removed by half must not pass for whole.
    if generation.is_dir() {
        File::create(&mark).map_err(StoreError::io(&mark))?;
        fs::remove_dir_all(&generation).map_err(StoreError::io(&generation))?;
    }
    match fs::remove_file(&mark) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io(&mark)(error)),
        _ => Ok(()),
    }
}

/// The names in a shard's folder, in order; none where there is no folder.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io(folder)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(StoreError::io(folder))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Puts a generation into use.
pub fn set_current(folder: &Path, name: &str) -> Result<(), StoreError> {
    let path = folder.join(CURRENT);
    let new = folder.join("CURRENT.new");
    let write = || {
        let mut file = File::create(&new)?;
        writeln!(file, "{name}")?;
        file.sync_all()?;
        pass_or_fail(Point::GenerationWritten)?;
        fs::rename(&new, &path)?;
        File::open(folder)?.sync_all()?;
        pass(Point::GenerationNamed);
        Ok(())
    };
    write().map_err(StoreError::io(&path))
}
