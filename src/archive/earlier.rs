//! Reading the archive in place of a stream that has lost its beginning, as a replay does.

use adtally_archive::manifest::SegmentEntry;
use adtally_archive::read::SegmentReader;
use adtally_projections::fold::Entry;
use adtally_streams::names::events_stream;

use super::{ArchiveError, Manifest, Place, Store};
use crate::projector::rebuild::Earlier;

/// What the archive has of a shard before its stream begins.
#[derive(Debug)]
pub struct Coverage {
    /// The first sequence.
    pub first: u64,
    /// Its log time, Unix milliseconds.
    pub first_ms: i64,
    /// The last sequence that it answers for: that before the stream's first one, or later.
    through: u64,
    store: Store,
    entries: Vec<SegmentEntry>,
}

/// Looks what the archive has of a shard whose stream, created at `created_ns`, begins at `stream_first`; none when
/// that does not reach up to there.
///
/// # Errors
/// [`ArchiveError`] when the archive cannot be read, or is of another stream.
pub async fn cover(
    place: &Place,
    shard: u16,
    created_ns: i64,
    stream_first: u64,
) -> Result<Option<Coverage>, ArchiveError> {
    let Some(store) = Store::open_if_there(place)? else {
        return Ok(None);
    };
    let chain = Manifest::new(store.clone(), shard).read().await?;
    let (Some(first), Some(last)) = (chain.entries().first(), chain.last()) else {
        return Ok(None);
    };
    if first.stream_created_ns != created_ns {
        return Err(ArchiveError::OtherStream {
            place: store.place().to_owned(),
            stream: events_stream(shard),
            archived: first.stream_created_ns,
            found: created_ns,
        });
    }
    if last + 1 < stream_first {
        return Ok(None);
    }
    let entries = chain.of_sequences(first.first, stream_first).to_vec();
    let last = entries.last().map_or(0, |entry| entry.last);
    Ok(Some(Coverage {
        first: first.first,
        first_ms: first.log_time_from_ms,
        through: last.max(stream_first.saturating_sub(1)),
        entries,
        store,
    }))
}

impl Coverage {
    /// Its entries from after a position on.
    pub fn after(self, position: u64) -> Reading {
        let later = self.entries.into_iter();
        let entries: Vec<_> = later.filter(|entry| entry.last > position).collect();
        Reading {
            store: self.store,
            files: entries.into_iter(),
            through: self.through,
            open: None,
        }
    }
}

/// The files of an archive, one after the other.
pub struct Reading {
    store: Store,
    files: std::vec::IntoIter<SegmentEntry>,
    through: u64,
    open: Option<(SegmentEntry, SegmentReader)>,
}

impl Reading {
    fn next_entries(&mut self) -> Result<Option<Vec<Entry>>, ArchiveError> {
        loop {
            let (entry, reader) = match &mut self.open {
                Some(open) => open,
                None => {
                    let Some(entry) = self.files.next() else {
                        return Ok(None);
                    };
                    let newest = self.open_newest(entry)?;
                    self.open.insert(newest)
                }
            };
            let read = reader.next_entries();
            let read = read.map_err(|error| damaged(&self.store, entry, &error.to_string()))?;
            match read {
                Some(entries) => return Ok(Some(entries)),
                None => self.open = None,
            }
        }
    }

    /// Opens the file of an entry, or the one that an erasure has put in its place meanwhile, as it has the entry's
    /// before it removes that file.
    fn open_newest(
        &self,
        mut entry: SegmentEntry,
    ) -> Result<(SegmentEntry, SegmentReader), ArchiveError> {
        loop {
            let error = match self.open_file(&entry) {
                Ok(reader) => return Ok((entry, reader)),
                Err(error) => error,
            };
            let runtime = tokio::runtime::Handle::current();
            let mut manifest = Manifest::new(self.store.clone(), entry.shard);
            let chain = runtime.block_on(manifest.read())?;
            let is_newer = |e: &&SegmentEntry| {
                (e.first, e.last) == (entry.first, entry.last) && e.revision > entry.revision
            };
            // Revisions only rise, so this comes to an end.
            match chain.entries().iter().find(is_newer) {
                Some(newer) => entry = newer.clone(),
                None => return Err(error),
            }
        }
    }

    fn open_file(&self, entry: &SegmentEntry) -> Result<SegmentReader, ArchiveError> {
        let runtime = tokio::runtime::Handle::current();
        let bytes = runtime.block_on(self.store.get_verified(&entry.file))?;
        let reader = SegmentReader::open(bytes)
            .map_err(|error| damaged(&self.store, entry, &error.to_string()))?;
        let (found, said) = (reader.rows(), entry.rows.all());
        if found != said {
            let why = format!("has {found} rows, and the manifest says {said}");
            return Err(damaged(&self.store, entry, &why));
        }
        Ok(reader)
    }
}

impl Earlier for Reading {
    fn next(&mut self) -> Result<Option<Vec<Entry>>, String> {
        self.next_entries().map_err(|error| error.to_string())
    }

    fn through(&self) -> u64 {
        self.through
    }
}

fn damaged(store: &Store, entry: &SegmentEntry, why: &str) -> ArchiveError {
    ArchiveError::Damaged {
        place: store.place().to_owned(),
        path: entry.file.path.clone(),
        why: why.to_owned(),
    }
}
