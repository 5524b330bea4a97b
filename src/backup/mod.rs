//! Backups of the state: a folder with the files of every shard at one set of positions and a manifest with their
//! checksums, from which a data folder can be made that catches up from the log.
//!
//! Invariant: a folder is a backup once its manifest is in it, which comes there last, by a rename, when everything
//! that it names is on the disk; before that nothing restores it. It is written where it stays, so a mount point will
//! do as well as a folder in one. Files are copied, never linked: a copy that shares its blocks with the original would
//! be lost with it.
//!
//! Neither the log nor an outbox is in it. The log is nats-server's to keep. An outbox is of one epoch, and an epoch
//! that is opened twice would speak twice under the same counters.

mod claim;
mod files;
mod restore;
#[cfg(test)]
mod tests;
mod write;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data_dir::DataDirError;
use crate::projector::ProjectorError;
use crate::store::{Record, StoreError};

pub use claim::Claim;
pub use files::Meter;
pub use restore::{Restore, Restored, check_stream};
pub use write::{Written, write};

/// The manifest's file.
const MANIFEST: &str = "manifest.json";
/// The layout of a backup; another one is not read.
const FORMAT: u32 = 1;
/// The most bytes of a manifest: about a million files.
const MAX_MANIFEST_BYTES: u64 = 256 << 20;
/// Files of the data folder that a backup has besides the shards: what a collector needs to start without a broker.
/// The keys that hash addresses are not among them: they are deleted after 30 days, everywhere.
const BESIDES: [&str; 2] = ["shards-count", "catalogue.snapshot"];

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It would be mixed with something else.
    #[error("{path} is not empty: name a folder that is empty or is not there yet")]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// Another one is being written there.
    #[error("another backup into {path} is at work")]
    AtWork {
        /// The folder.
        path: PathBuf,
    },
    /// An unfinished one is there, and what no backup writes.
    #[error(
        "{path} has an unfinished backup in it, and {found:?}, which is no part of one: take that away, or name another folder"
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// What is in it.
        found: String,
    },
    /// It is none.
    #[error("{path} is no backup: {why}")]
    NoBackup {
        /// The folder.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It was changed.
    #[error("{path} is not as it was written: {why}. Nothing was restored; take another backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How it differs.
        why: String,
    },
    /// Another version's.
    #[error(
        "the backup was written by adtally {version}, whose state has another format: restore it with that version, or build the state anew from the log"
    )]
    OtherFormat {
        /// Who wrote it.
        version: String,
    },
    /// The folder has a state.
    #[error(
        "{path} has a state already, that of shard {shard} is {generation}: name another --data-dir, or give --force to put the backup into use over it"
    )]
    HasState {
        /// The data folder.
        path: PathBuf,
        /// A shard that has one.
        shard: u16,
        /// Its generation.
        generation: String,
    },
    /// The folder's state is of another log.
    #[error(
        "the state in {path} is of another log than the backup: if that is meant, remove {path}/shards first"
    )]
    OtherState {
        /// The data folder.
        path: PathBuf,
    },
    /// The folder is of another deployment.
    #[error("{path} was used with {known} shards and the backup has {found}")]
    OtherCount {
        /// The data folder.
        path: PathBuf,
        /// How many it was used with.
        known: u16,
        /// How many the backup has.
        found: u16,
    },
    /// Somebody interrupted it.
    #[error("interrupted: nothing is left of it")]
    Interrupted,
    /// The log is not the backup's, or does not go on where it ends.
    #[error(transparent)]
    Log(#[from] ProjectorError),
    /// The data folder.
    #[error(transparent)]
    Folder(#[from] DataDirError),
    /// A state cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_path_buf();
    move |source| BackupError::Io { path, source }
}

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The layout, [`FORMAT`].
    pub format: u32,
    /// The version of adtally that wrote it.
    pub adtally: String,
    /// How rows are written.
    pub state_format: u8,
    /// When it was written, RFC 3339, by that machine's clock.
    pub made_at: String,
    /// Every shard of the deployment, in order.
    pub shards: Vec<ManifestShard>,
    /// Every file but the manifest.
    pub files: Vec<ManifestFile>,
}

/// A shard in a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManifestShard {
    /// The shard.
    pub shard: u16,
    /// Where it stands; none before its first message, and then it has no files.
    pub record: Option<Record>,
}

/// A file in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Its path in the backup's folder.
    pub path: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// SHA-256 of it, in hexadecimal.
    pub sha256: String,
}

/// The folder of all shards in a backup.
const SHARDS: &str = "shards";

/// The folder of a shard's files in a backup.
fn shard_path(shard: u16) -> String {
    format!("{SHARDS}/{shard}")
}
