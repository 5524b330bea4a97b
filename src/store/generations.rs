//! Generations: each is one complete built state of a shard in a folder of its own.
//!
//! Invariant: `CURRENT` names a whole generation at every instant: it is replaced by renaming a synced file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::StoreError;
use crate::fail_points::{Point, pass, pass_or_fail};

/// The file in a shard's folder that names the generation in use.
const CURRENT: &str = "CURRENT";
/// How every generation's name begins.
const PREFIX: &str = "g-";
/// The longest name of a generation, in bytes.
const MAX_NAME: usize = 64;

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
    let well_formed = name.starts_with(PREFIX)
        && name.len() <= MAX_NAME
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !well_formed || !folder.join(name).is_dir() {
        return Err(StoreError::BadCurrent {
            path,
            said: name.chars().take(MAX_NAME).collect(),
        });
    }
    Ok(Some(name.to_owned()))
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
