//! Writing a backup.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use adtally_projections::position::STATE_FORMAT;
use adtally_streams::time::to_rfc3339;
use serde::Serialize;

use super::files::{self, Meter};
use super::{BESIDES, BackupError, FORMAT, MANIFEST, Manifest, ManifestFile, ManifestShard};
use super::{io_at, shard_path};
use crate::frozen::FrozenShard;
use crate::store::checkpoints::is_state_file;

/// A backup that was written.
#[derive(Clone, Debug, Serialize)]
pub struct Written {
    /// Its folder.
    pub folder: PathBuf,
    /// Bytes of its files.
    pub bytes: u64,
    /// What it holds.
    pub manifest: Manifest,
}

/// Writes the frozen state of a data folder into the folder `to`; `of` hears how many bytes there are to be copied.
/// Blocks.
///
/// # Errors
/// [`BackupError`]; nothing is left of it then.
pub fn write(
    data_dir: &Path,
    frozen: &[FrozenShard],
    to: &Path,
    of: &dyn Fn(u64),
    meter: &Meter<'_>,
) -> Result<Written, BackupError> {
    empty(to)?;
    let partial = partial(to);
    let parent = parent(to);
    fs::create_dir_all(&parent).map_err(io_at(&parent))?;
    match fs::create_dir(&partial) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(BackupError::Partial { path: partial });
        }
        made => made.map_err(io_at(&partial))?,
    }
    let written = fill(data_dir, frozen, &partial, of, meter).and_then(|manifest| {
        // An empty folder gives way.
        fs::rename(&partial, to).map_err(io_at(to))?;
        files::sync(&parent)?;
        Ok(manifest)
    });
    match written {
        Ok(manifest) => Ok(Written {
            folder: to.to_path_buf(),
            bytes: manifest.files.iter().map(|f| f.bytes).sum(),
            manifest,
        }),
        Err(error) => {
            if let Err(left) = fs::remove_dir_all(&partial) {
                tracing::warn!(folder = %partial.display(), error = %left, "an unfinished backup stays behind");
            }
            Err(error)
        }
    }
}

/// Refuses a folder that has anything in it.
fn empty(to: &Path) -> Result<(), BackupError> {
    match fs::read_dir(to).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Err(BackupError::NotEmpty {
            path: to.to_path_buf(),
        }),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_at(to)(error)),
        _ => Ok(()),
    }
}

fn partial(to: &Path) -> PathBuf {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    to.with_file_name(name)
}

fn parent(to: &Path) -> PathBuf {
    match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// What is copied: from where, and its path in the backup.
fn sources(data_dir: &Path, frozen: &[FrozenShard]) -> Result<Vec<(PathBuf, String)>, BackupError> {
    let mut sources = Vec::new();
    for shard in frozen.iter().filter(|s| s.record.is_some()) {
        for name in files::names(&shard.state)? {
            if is_state_file(&name) {
                let path = format!("{}/{name}", shard_path(shard.shard));
                sources.push((shard.state.join(&name), path));
            }
        }
    }
    let besides = BESIDES
        .iter()
        .map(|name| (data_dir.join(name), (*name).to_owned()));
    sources.extend(besides.filter(|(path, _)| path.is_file()));
    Ok(sources)
}

fn fill(
    data_dir: &Path,
    frozen: &[FrozenShard],
    folder: &Path,
    of: &dyn Fn(u64),
    meter: &Meter<'_>,
) -> Result<Manifest, BackupError> {
    let sources = sources(data_dir, frozen)?;
    let length = |(path, _): &(PathBuf, String)| fs::metadata(path).map_or(0, |m| m.len());
    of(sources.iter().map(length).sum());
    let mut copied = Vec::with_capacity(sources.len());
    for (source, path) in sources {
        let target = folder.join(&path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(io_at(parent))?;
        }
        let (bytes, sha256) = files::copy(&source, &target, meter)?;
        copied.push(ManifestFile {
            path,
            bytes,
            sha256,
        });
    }
    let manifest = Manifest {
        format: FORMAT,
        adtally: env!("CARGO_PKG_VERSION").to_owned(),
        state_format: STATE_FORMAT,
        made_at: to_rfc3339(chrono::Utc::now().timestamp_millis()),
        shards: frozen
            .iter()
            .map(|s| ManifestShard {
                shard: s.shard,
                record: s.record.clone(),
            })
            .collect(),
        files: copied,
    };
    let path = folder.join(MANIFEST);
    let put = || {
        let mut file = File::create(&path)?;
        serde_json::to_writer_pretty(&mut file, &manifest)?;
        file.write_all(b"\n")?;
        file.sync_all()
    };
    put().map_err(io_at(&path))?;
    for shard in frozen.iter().filter(|s| s.record.is_some()) {
        files::sync(&folder.join(shard_path(shard.shard)))?;
    }
    let shards = folder.join("shards");
    if shards.is_dir() {
        files::sync(&shards)?;
    }
    files::sync(folder)?;
    Ok(manifest)
}
