//! The manifest of one shard in its store.

use std::collections::{BTreeMap, BTreeSet};

use adtally_archive::chain::Chain;
use adtally_archive::manifest::{
    ENTRY_VERSION, MANIFEST, SegmentEntry, entry_folder, entry_path, log_folder, read_entry_path,
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt};

use super::{ArchiveError, Store};

/// Entries that are asked for at once.
const AT_ONCE: usize = 16;
/// A file of an erasure that was never named is left over once it is this old, in seconds: whoever wrote it names it
/// within moments, and puts it again should it be gone.
const STALE_AFTER_S: i64 = 3_600;

/// What is known of a shard's manifest; entries never change, so each is read once.
#[derive(Debug)]
pub struct Manifest {
    store: Store,
    shard: u16,
    known: BTreeMap<(u64, u32), SegmentEntry>,
}

impl Manifest {
    /// Of that shard, with nothing known yet.
    pub fn new(store: Store, shard: u16) -> Self {
        Self {
            store,
            shard,
            known: BTreeMap::new(),
        }
    }

    /// The chain as far as it was read, without asking the store.
    ///
    /// # Errors
    /// [`ArchiveError::Chain`].
    pub fn known(&self) -> Result<Chain, ArchiveError> {
        Ok(Chain::of(self.shard, self.known.values().cloned())?)
    }

    /// Reads what is new, and gives the chain.
    ///
    /// # Errors
    /// [`ArchiveError`] when an entry cannot be read, or they are no chain.
    pub async fn read(&mut self) -> Result<Chain, ArchiveError> {
        self.read_after(None).await
    }

    /// Reads what has been added behind the last entry that is known, and gives the chain. What an erasure has put in
    /// the place of an earlier entry may be passed over.
    ///
    /// # Errors
    /// As [`Manifest::read`].
    pub async fn read_on(&mut self) -> Result<Chain, ArchiveError> {
        let last = self.known.last_key_value();
        let last = last.map(|((first, revision), _)| entry_path(self.shard, *first, *revision));
        self.read_after(last).await
    }

    async fn read_after(&mut self, path: Option<String>) -> Result<Chain, ArchiveError> {
        let folder = entry_folder(self.shard);
        let objects = match path {
            None => self.store.list(&folder).await?,
            Some(path) => self.store.list_after(&folder, &path).await?,
        };
        let new = objects.into_iter().filter_map(|object| {
            let path = object.location.to_string();
            let key = read_entry_path(&path)?;
            (!self.known.contains_key(&key)).then_some((key, path))
        });
        let new: Vec<_> = new.collect();
        let store = &self.store;
        let reading = futures_util::stream::iter(new).map(|(key, path)| async move {
            let bytes = store.get(&path).await?;
            let bytes = bytes.ok_or_else(|| damaged(store, &path, "is missing".to_owned()))?;
            Ok::<_, ArchiveError>((key, read_entry(store, &path, key, &bytes)?))
        });
        let read: Vec<_> = reading.buffer_unordered(AT_ONCE).try_collect().await?;
        self.known.extend(read);
        self.known()
    }

    /// Puts an entry; false where there is one of that sequence and revision already.
    ///
    /// # Errors
    /// [`ArchiveError::Store`].
    pub async fn put(&mut self, entry: SegmentEntry) -> Result<bool, ArchiveError> {
        let text = serde_json::to_vec_pretty(&entry).expect("numbers and texts always serialize");
        let put = self.store.put_new(&entry.path(), Bytes::from(text)).await?;
        if put {
            self.known.insert((entry.first, entry.revision), entry);
        }
        Ok(put)
    }

    /// Files that no entry names and none ever will: what crashes, lost races and erasures have left.
    ///
    /// # Errors
    /// [`ArchiveError::Store`].
    pub async fn left_over(
        &self,
        chain: &Chain,
        now: DateTime<Utc>,
    ) -> Result<Vec<String>, ArchiveError> {
        let objects = self.store.list(&log_folder(self.shard)).await?;
        let left = objects.into_iter().filter_map(|object| {
            let path = object.location.to_string();
            let stale = (now - object.last_modified).num_seconds() > STALE_AFTER_S;
            chain.is_left_over(&path, stale).then_some(path)
        });
        Ok(left.collect())
    }
}

/// The shards of which anything is archived, in order.
///
/// # Errors
/// [`ArchiveError::Store`].
pub async fn shards(store: &Store) -> Result<Vec<u16>, ArchiveError> {
    let objects = store.list(MANIFEST).await?;
    let shard = |object: object_store::ObjectMeta| {
        let path = object.location.to_string();
        let folder = path.strip_prefix(MANIFEST)?.strip_prefix("/shard=")?;
        folder.split('/').next()?.parse().ok()
    };
    let shards: BTreeSet<u16> = objects.into_iter().filter_map(shard).collect();
    Ok(shards.into_iter().collect())
}

fn damaged(store: &Store, path: &str, why: String) -> ArchiveError {
    ArchiveError::Damaged {
        place: store.place().to_owned(),
        path: path.to_owned(),
        why,
    }
}

fn read_entry(
    store: &Store,
    path: &str,
    (first, revision): (u64, u32),
    bytes: &[u8],
) -> Result<SegmentEntry, ArchiveError> {
    let entry: SegmentEntry = serde_json::from_slice(bytes)
        .map_err(|error| damaged(store, path, format!("cannot be read: {error}")))?;
    if entry.version != ENTRY_VERSION {
        let why = format!(
            "has layout {}, and this program reads {ENTRY_VERSION}",
            entry.version
        );
        return Err(damaged(store, path, why));
    }
    if (entry.first, entry.revision) != (first, revision) {
        return Err(damaged(
            store,
            path,
            "is the entry of another segment".to_owned(),
        ));
    }
    Ok(entry)
}
