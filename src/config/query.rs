//! The settings of questions.

use serde::{Deserialize, Serialize};

use super::{Bytes, ConfigError};

/// How questions are answered.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Query {
    /// Whose shards the role api reads.
    pub shards: QueryShards,
    /// Memory of unpacked blocks and of printed rows; zero: none are kept.
    pub block_cache: Bytes,
    /// Room on disk for those that memory has none for; zero: none.
    pub block_cache_disk: Bytes,
}

/// Whose shards the role api reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueryShards {
    /// Those that this process folds.
    #[default]
    Local,
    /// Those of the processes with the role projector, asked over NATS.
    Remote,
}

impl Default for Query {
    fn default() -> Self {
        Self {
            shards: QueryShards::default(),
            block_cache: Bytes(128 << 20),
            block_cache_disk: Bytes(0),
        }
    }
}

/// Disk comes after memory, and is given out in portions of some size.
pub(super) fn check(query: &Query) -> Result<(), ConfigError> {
    let (memory, disk) = (query.block_cache, query.block_cache_disk);
    let detail = match disk {
        Bytes(0) => return Ok(()),
        _ if memory == Bytes(0) => {
            "it takes what query.block_cache has no room for, and that is 0B".to_owned()
        }
        _ if disk < MIN_BLOCK_CACHE_DISK => {
            format!("{disk} is under the least, {MIN_BLOCK_CACHE_DISK}; 0B keeps none on disk")
        }
        _ => return Ok(()),
    };
    Err(ConfigError::BadValue {
        place: "query.block_cache_disk".into(),
        detail,
    })
}

/// The least room on disk for unpacked blocks: some of the files that it is given out in.
const MIN_BLOCK_CACHE_DISK: Bytes = Bytes(128 << 20);
