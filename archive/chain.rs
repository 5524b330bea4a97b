//! A shard's entries as a chain: which sequences the archive holds, without gap or overlap.

use std::collections::BTreeMap;

use crate::manifest::{SegmentEntry, read_segment_path};

/// The entries in force of one shard, each beginning where the one before it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    entries: Vec<SegmentEntry>,
}

/// The entries of a shard are no chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Sequences that no entry answers for, or more than one.
    #[error(
        "the archive of shard {shard} goes on at sequence {found} ({path}) where {expected} should follow: an entry of its manifest is missing, or was put there by hand"
    )]
    Broken {
        /// The shard.
        shard: u16,
        /// The sequence after the last one of the entry before.
        expected: u64,
        /// The first sequence of the entry.
        found: u64,
        /// The entry.
        path: String,
    },
    /// Entries of two streams.
    #[error(
        "{path} is of a stream that was created at {found} ns of the Unix epoch, and the archive of shard {shard} of one of {expected}: give another deployment another folder or prefix"
    )]
    OtherStream {
        /// The shard.
        shard: u16,
        /// Creation of the stream that the archive is of.
        expected: i64,
        /// Creation of the stream that the entry is of.
        found: i64,
        /// The entry.
        path: String,
    },
}

impl Chain {
    /// The chain of a shard's entries, in any order and with their earlier revisions.
    ///
    /// # Errors
    /// [`ChainError`] when they are none.
    pub fn of(
        shard: u16,
        entries: impl IntoIterator<Item = SegmentEntry>,
    ) -> Result<Self, ChainError> {
        let mut newest: BTreeMap<u64, SegmentEntry> = BTreeMap::new();
        for entry in entries {
            match newest.get(&entry.first) {
                Some(known) if known.revision >= entry.revision => {}
                _ => {
                    newest.insert(entry.first, entry);
                }
            }
        }
        let mut chain = Self::default();
        for entry in newest.into_values() {
            chain.append(shard, entry)?;
        }
        Ok(chain)
    }

    /// Adds the entry that follows.
    ///
    /// # Errors
    /// [`ChainError`] when it does not.
    pub fn append(&mut self, shard: u16, entry: SegmentEntry) -> Result<(), ChainError> {
        if let Some(before) = self.entries.last() {
            let path = entry.path();
            if before.stream_created_ns != entry.stream_created_ns {
                return Err(ChainError::OtherStream {
                    shard,
                    expected: before.stream_created_ns,
                    found: entry.stream_created_ns,
                    path,
                });
            }
            if entry.first != before.last + 1 || entry.last < entry.first {
                return Err(ChainError::Broken {
                    shard,
                    expected: before.last + 1,
                    found: entry.first,
                    path,
                });
            }
        }
        self.entries.push(entry);
        Ok(())
    }

    /// Its entries, in order.
    pub fn entries(&self) -> &[SegmentEntry] {
        &self.entries
    }

    /// The first sequence that it answers for; none while it is empty.
    pub fn first(&self) -> Option<u64> {
        self.entries.first().map(|entry| entry.first)
    }

    /// The last sequence that it answers for; none while it is empty.
    pub fn last(&self) -> Option<u64> {
        self.entries.last().map(|entry| entry.last)
    }

    /// Log time of its last message.
    pub fn log_time_ms(&self) -> Option<i64> {
        self.entries.last().map(|entry| entry.log_time_to_ms)
    }

    /// Creation of the stream that it is of.
    pub fn stream_created_ns(&self) -> Option<i64> {
        self.entries.first().map(|entry| entry.stream_created_ns)
    }

    /// The entries that hold anything of the sequences from `first` to before `end`.
    pub fn of_sequences(&self, first: u64, end: u64) -> &[SegmentEntry] {
        let from = self.entries.partition_point(|entry| entry.last < first);
        let to = self.entries.partition_point(|entry| entry.first < end);
        &self.entries[from..to.max(from)]
    }

    /// Whether a segment's file that no entry of the chain names can never be named by one, so that it may go:
    /// another entry answers for its sequences, in that revision or a later one. Who has just put a file and not
    /// yet its entry is left alone, unless it is `stale`.
    pub fn is_left_over(&self, path: &str, stale: bool) -> bool {
        if self.entries.iter().any(|entry| entry.file.path == path) {
            return false;
        }
        let Some((first, revision)) = read_segment_path(path) else {
            return false;
        };
        if self.last().is_none_or(|last| first > last) {
            // The next archiver writes these sequences, and then the file is left over.
            return false;
        }
        match self.entries.iter().find(|entry| entry.first == first) {
            Some(entry) => revision <= entry.revision || stale,
            None => true,
        }
    }
}
