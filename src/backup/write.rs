//! Writing a backup.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use adtally_projections::position::STATE_FORMAT;
use adtally_streams::time::to_rfc3339;
use serde::Serialize;

use super::claim::{Claim, NEW_MANIFEST};
use super::files::{self, Meter};
use super::{BESIDES, BackupError, FORMAT, MANIFEST, Manifest, ManifestFile, ManifestShard};
use super::{SHARDS, io_at, shard_path};
use crate::fail_points::{Point, pass};
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

/// Writes the frozen state of a data folder into the folder of the claim; `of` hears how many bytes there are to be
/// copied. Blocks.
///
/// # Errors
/// [`BackupError`]; nothing is left of it then.
pub fn write(
    data_dir: &Path,
    frozen: &[FrozenShard],
    to: Claim,
    of: &dyn Fn(u64),
    meter: &Meter<'_>,
) -> Result<Written, BackupError> {
    let folder = to.folder().to_path_buf();
    let manifest = fill(data_dir, frozen, &folder, of, meter)?;
    to.finish()?;
    Ok(Written {
        folder,
        bytes: manifest.files.iter().map(|f| f.bytes).sum(),
        manifest,
    })
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
    for shard in frozen.iter().filter(|s| s.record.is_some()) {
        files::sync(&folder.join(shard_path(shard.shard)))?;
    }
    let shards = folder.join(SHARDS);
    if shards.is_dir() {
        files::sync(&shards)?;
    }
    put_manifest(folder, &manifest)?;
    Ok(manifest)
}

/// The last step: from here on the folder is a backup.
fn put_manifest(folder: &Path, manifest: &Manifest) -> Result<(), BackupError> {
    let (new, path) = (folder.join(NEW_MANIFEST), folder.join(MANIFEST));
    let put = || {
        let mut file = File::create(&new)?;
        serde_json::to_writer_pretty(&mut file, manifest)?;
        file.write_all(b"\n")?;
        file.sync_all()
    };
    put().map_err(io_at(&new))?;
    files::sync(folder)?;
    pass(Point::BackupCopied);
    fs::rename(&new, &path).map_err(io_at(&path))?;
    files::sync(folder)?;
    pass(Point::BackupNamed);
    Ok(())
}
