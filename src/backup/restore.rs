//! Restoring a backup into a data folder.
//!
//! Invariant: nothing of the data folder is touched before every file of the backup has been read and found to be as
//! it was written; and no shard is switched before all of them are whole on the disk of the data folder.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use adtally_projections::position::STATE_FORMAT;
use async_nats::jetstream::Context;
use serde::Serialize;

use super::claim::UNFINISHED;
use super::files::{self, Meter};
use super::{BESIDES, BackupError, FORMAT, MANIFEST, MAX_MANIFEST_BYTES, Manifest, ManifestFile};
use super::{io_at, shard_path};
use crate::data_dir::DataDir;
use crate::fail_points::{Point, pass};
use crate::projector::same_stream;
use crate::runner::known_shards;
use crate::store::{self, Installing, Memory, checkpoints};

/// A backup that is about to be restored.
#[derive(Debug)]
pub struct Restore {
    folder: PathBuf,
    manifest: Manifest,
}

/// What was restored.
#[derive(Clone, Debug, Serialize)]
pub struct Restored {
    /// The generation that is in use now.
    pub generation: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// What the backup says of itself.
    pub manifest: Manifest,
}

impl Restore {
    /// Reads a backup's manifest.
    ///
    /// # Errors
    /// [`BackupError`] when the folder is no backup that this version can restore.
    pub fn open(folder: &Path) -> Result<Self, BackupError> {
        let none = |why: String| BackupError::NoBackup {
            path: folder.to_path_buf(),
            why,
        };
        if folder.join(UNFINISHED).is_file() && !folder.join(MANIFEST).exists() {
            return Err(none(
                "it is being written, or whoever wrote it was killed".into(),
            ));
        }
        let file = File::open(folder.join(MANIFEST));
        let file = file.map_err(|e| none(format!("its {MANIFEST} cannot be read: {e}")))?;
        let mut text = Vec::new();
        file.take(MAX_MANIFEST_BYTES)
            .read_to_end(&mut text)
            .map_err(io_at(folder))?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|e| none(format!("its {MANIFEST} cannot be read: {e}")))?;
        if manifest.format != FORMAT || manifest.state_format != STATE_FORMAT {
            return Err(BackupError::OtherFormat {
                version: manifest.adtally,
            });
        }
        // A path that leads elsewhere was not written by a backup.
        let is_inside = |file: &ManifestFile| {
            !file.path.starts_with('/')
                && file.path.split('/').all(|p| !matches!(p, "" | "." | ".."))
        };
        if let Some(file) = manifest.files.iter().find(|f| !is_inside(f)) {
            return Err(none(format!("its manifest names {:?}", file.path)));
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            manifest,
        })
    }

    /// What the backup says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Bytes of its files.
    pub fn bytes(&self) -> u64 {
        self.manifest.files.iter().map(|f| f.bytes).sum()
    }

    /// Reads every file and compares it with the manifest. Blocks.
    ///
    /// # Errors
    /// [`BackupError::Damaged`] by the first one that differs.
    pub fn verify(&self, meter: &Meter<'_>) -> Result<(), BackupError> {
        for file in &self.manifest.files {
            let path = self.folder.join(&file.path);
            if !path.is_file() {
                return Err(BackupError::Damaged {
                    path,
                    why: "it is missing".into(),
                });
            }
            same(&path, file, files::checksum(&path, meter)?)?;
        }
        Ok(())
    }

    /// Whether it may be put into a data folder that this process holds. Blocks.
    ///
    /// # Errors
    /// [`BackupError`] when the folder has a state and that is not to be replaced (`force`), or one of another log.
    pub fn may_be_put(&self, dir: &DataDir, force: bool) -> Result<(), BackupError> {
        let path = dir.path();
        let found = self.manifest.shards.len() as u16;
        if let Some(known) = known_shards(path).filter(|known| *known != found) {
            return Err(BackupError::OtherCount {
                path: path.to_path_buf(),
                known,
                found,
            });
        }
        let memory = Memory::start(path, store::Limits::default())?;
        for shard in &self.manifest.shards {
            // One that names nothing is what a restore mends.
            let Ok(Some(generation)) = store::in_use(path, shard.shard) else {
                continue;
            };
            if !force {
                return Err(BackupError::HasState {
                    path: path.to_path_buf(),
                    shard: shard.shard,
                    generation,
                });
            }
            // Likewise one that cannot be read.
            let there = store::position_in_use(path, shard.shard, &memory)
                .ok()
                .flatten();
            if let (Some(there), Some(record)) = (there, &shard.record)
                && there.stream_created_ns != record.stream_created_ns
            {
                return Err(BackupError::OtherState {
                    path: path.to_path_buf(),
                });
            }
        }
        Ok(())
    }

    /// Puts it into a data folder and into use there. Blocks.
    ///
    /// # Errors
    /// [`BackupError`]; what was in use there is then in use still.
    pub fn put(self, dir: &DataDir, meter: &Meter<'_>) -> Result<Restored, BackupError> {
        let generation = store::new_name();
        let mut installing: Vec<Installing> = Vec::new();
        let filled = self.fill(dir, &generation, &mut installing, meter);
        let switched = filled.and_then(|()| {
            pass(Point::RestoreCopied);
            for shard in &installing {
                shard.switch()?;
            }
            self.besides(dir, meter)
        });
        if let Err(error) = switched {
            installing.into_iter().for_each(Installing::discard);
            return Err(error);
        }
        Ok(Restored {
            generation,
            bytes: self.bytes(),
            manifest: self.manifest,
        })
    }

    fn fill(
        &self,
        dir: &DataDir,
        generation: &str,
        installing: &mut Vec<Installing>,
        meter: &Meter<'_>,
    ) -> Result<(), BackupError> {
        for shard in &self.manifest.shards {
            let Some(record) = &shard.record else {
                continue;
            };
            store::remove_unfinished(dir.path(), shard.shard)?;
            let new = Installing::begin(dir.path(), shard.shard, generation)?;
            let folder = new.folder();
            installing.push(new);
            let prefix = format!("{}/", shard_path(shard.shard));
            for file in &self.manifest.files {
                let Some(name) = file.path.strip_prefix(&prefix) else {
                    continue;
                };
                let (from, to) = (self.folder.join(&file.path), folder.join(name));
                same(&from, file, files::copy(&from, &to, meter)?)?;
            }
            files::sync(&folder)?;
            let position = checkpoints::position_in(shard.shard, generation, &folder)?;
            if position != Some(record.position()) {
                return Err(BackupError::Damaged {
                    path: self.folder.join(MANIFEST),
                    why: format!(
                        "it says that shard {} stands at sequence {}, and its files say {}",
                        shard.shard,
                        record.sequence,
                        position.map_or(0, |p| p.sequence)
                    ),
                });
            }
        }
        Ok(())
    }

    /// What else a folder needs; what it has already is newer.
    fn besides(&self, dir: &DataDir, meter: &Meter<'_>) -> Result<(), BackupError> {
        for file in &self.manifest.files {
            let (from, to) = (self.folder.join(&file.path), dir.path().join(&file.path));
            if !BESIDES.contains(&file.path.as_str()) || to.exists() {
                continue;
            }
            let new = to.with_extension("restored");
            same(&from, file, files::copy(&from, &new, meter)?)?;
            fs::rename(&new, &to).map_err(io_at(&to))?;
        }
        files::sync(dir.path())
    }
}

fn same(path: &Path, file: &ManifestFile, read: (u64, String)) -> Result<(), BackupError> {
    let (bytes, sha256) = read;
    let why = if bytes != file.bytes {
        format!("it has {bytes} bytes, and had {}", file.bytes)
    } else if sha256 != file.sha256 {
        "its SHA-256 is another one".to_owned()
    } else {
        return Ok(());
    };
    Err(BackupError::Damaged {
        path: path.to_path_buf(),
        why,
    })
}

/// Refuses a log that is not the one that the backup was folded from, or that does not go on where it ends.
///
/// # Errors
/// [`BackupError::Log`].
pub async fn check_stream(jetstream: &Context, manifest: &Manifest) -> Result<(), BackupError> {
    for shard in &manifest.shards {
        if let Some(record) = &shard.record {
            same_stream(jetstream, shard.shard, record.position()).await?;
        }
    }
    Ok(())
}
