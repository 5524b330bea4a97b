//! The archive: the log moved from the streams into Parquet files, in a folder or in S3, and back.
//!
//! Invariant: nothing leaves a stream before the manifest holds it and its file was read back from the store with the
//! checksum that the manifest names. The manifest's entries are the one truth: each is put only where none is, after
//! its file, so a crash anywhere leaves a file that nobody names, and neither a gap nor a double.
//!
//! What a file holds is decided in the crate `adtally-archive`; here are the stores, the streams and the clock.

mod archiver;
mod earlier;
mod erase;
mod manifest;
mod purge;
mod run;
mod store;
#[cfg(test)]
mod tests;

use adtally_archive::FormatError;
use adtally_archive::chain::ChainError;

use crate::log::LogError;

pub use archiver::{Archiver, Close, Passed};
pub use earlier::{Coverage, cover};
pub use erase::{EraseRequest, erase};
pub use manifest::{Manifest, shards};
pub use run::serve;
pub use store::{Place, Store};

/// Why the archive cannot do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The setting does not name a store.
    #[error(
        "archive.url {url}: {why}. Write s3://BUCKET/PREFIX or file:///FOLDER, or leave it out for the data folder"
    )]
    Url {
        /// What it says.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// The store does not do what it is asked.
    #[error("the archive in {place}: {doing}: {source}")]
    Store {
        /// Where it is.
        place: String,
        /// What was asked.
        doing: String,
        /// What it says.
        source: object_store::Error,
    },
    /// A file that the manifest names is not there, or is another one.
    #[error(
        "the archive in {place} is damaged: {path} {why}. docs/runbook/archive-damaged.md says what to do"
    )]
    Damaged {
        /// Where the archive is.
        place: String,
        /// The file.
        path: String,
        /// In what way.
        why: String,
    },
    /// The manifest is no chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The stream and the archive do not belong together.
    #[error(
        "{stream} was created at {found} ns of the Unix epoch, and the archive in {place} is of a stream created at {archived}: give this deployment another archive.url"
    )]
    OtherStream {
        /// Where the archive is.
        place: String,
        /// The stream.
        stream: String,
        /// Creation of the stream that is archived.
        archived: i64,
        /// Creation of the stream that is there.
        found: i64,
    },
    /// Messages that were not archived are gone from the stream.
    #[error(
        "{stream} begins at sequence {first}, and the archive in {place} ends at {last}: what is between is in neither, so somebody else has purged it"
    )]
    Gap {
        /// Where the archive is.
        place: String,
        /// The stream.
        stream: String,
        /// Its first sequence.
        first: u64,
        /// The archive's last one.
        last: u64,
    },
    /// The stream ends before the archive does.
    #[error(
        "{stream} ends at sequence {last}, and the archive in {place} at {archived}: the broker has lost its end and gives the sequences to other messages. Nothing is archived any more"
    )]
    Shorter {
        /// Where the archive is.
        place: String,
        /// The stream.
        stream: String,
        /// Its last sequence.
        last: u64,
        /// The archive's last one.
        archived: u64,
    },
    /// The stream has fallen silent.
    #[error("{stream} has {last} messages and has given none after {position}")]
    Silent {
        /// The stream.
        stream: String,
        /// Its last sequence.
        last: u64,
        /// The last one that came.
        position: u64,
    },
    /// A file cannot be written in memory.
    #[error("writing Parquet: {0}")]
    Format(#[from] FormatError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// It was told to stop.
    #[error("interrupted; what was archived stays, and the next run goes on from there")]
    Interrupted,
}
