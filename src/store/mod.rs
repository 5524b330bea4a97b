//! The store: the state of every shard in RocksDB, and how it is read and written as plain rows.
//!
//! Invariant: a fold's changes and its position are one write, and a reader sees one instant of one generation.
//! Nothing here knows the log. RocksDB's calls block: callers use threads of their own, never the async ones.

mod building;
mod campaigns;
pub mod checkpoints;
mod generations;
mod id_days;
mod names;
mod of_version;
mod open_producers;
mod options;
mod shard;
mod shards;
mod snapshot;
#[cfg(test)]
mod tests;
mod versions;

pub use building::{Building, Installing};
pub use campaigns::{Counted, OfCampaign};
pub use checkpoints::{Checkpoint, Record, Retention};
pub use generations::{in_use, new_name, position_in_use, prune, remove_unfinished, shard_folder};
pub use open_producers::Open;
pub use options::{Limits, Memory};
pub use shard::Shard;
pub use shards::Shards;
pub use snapshot::ShardSnapshot;
pub use versions::Version;

use std::io;
use std::path::{Path, PathBuf};

use adtally_projections::codec::Damaged;

/// Why the store cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// RocksDB says so.
    #[error(
        "state in {path}: RocksDB could not {action}: {source}; if the disk is well, stop `serve` and rebuild the state from the log with `adtally replay --from beginning`"
    )]
    Rocks {
        /// The generation's folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What RocksDB says.
        source: rocksdb::Error,
    },
    /// A row cannot be read.
    #[error("state in {path}: {source}")]
    Damaged {
        /// The generation's folder.
        path: PathBuf,
        /// Which row.
        source: Damaged,
    },
    /// The system refused.
    #[error("state folder {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file that names the open generation names none.
    #[error(
        "{path} names no generation of this folder (it says {said:?}): restore it, or rebuild the shard from the log with `adtally replay --from beginning`"
    )]
    BadCurrent {
        /// The file.
        path: PathBuf,
        /// Its first bytes.
        said: String,
    },
}

impl StoreError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}
