//! What is kept: the log at rest, as Parquet files and a manifest that says which of them hold what.
//!
//! Pure code over bytes: no clock, no randomness, no IO. A file holds a run of one shard's messages, an event a row,
//! and reads back as the very entries that a fold was given: archive and stream are one log.

pub mod chain;
pub mod erase;
pub mod manifest;
mod optional;
pub mod read;
mod row_group;
pub mod schema;
pub mod segment;
mod texts;

pub use row_group::user_hash;

#[cfg(test)]
mod tests;

/// A file of the archive that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Parquet's own word.
    #[error("Parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// It is Parquet and not what this program writes.
    #[error("{0}")]
    Content(String),
}

impl FormatError {
    pub(crate) fn content(what: impl Into<String>) -> Self {
        Self::Content(what.into())
    }
}
