//! Erasing one user: their rows get another name, and the manifest a record of it.

use adtally_archive::erase::{Pseudonym, erase as rewrite};
use adtally_archive::manifest::{Erasure, FileRef, Hour, SegmentEntry, segment_path};
use adtally_streams::time::to_rfc3339;
use bytes::Bytes;

use super::archiver::{now_ms, put_segment};
use super::store::sha256;
use super::{ArchiveError, Manifest, Store};

/// Whom to erase, and at whose word.
#[derive(Clone, Debug)]
pub struct EraseRequest {
    /// The user's hash, as the column `user_id_hash` has it.
    pub user: String,
    /// Who says so.
    pub by: String,
}

/// Rewrites every file of a shard that has rows of the user; answers the records. The file from before is removed
/// once the new one is named. May be stopped anywhere and begun again.
///
/// # Errors
/// [`ArchiveError`]; what was rewritten before it stays.
pub async fn erase(
    store: &Store,
    shard: u16,
    request: &EraseRequest,
    pseudonym: &Pseudonym,
) -> Result<Vec<Erasure>, ArchiveError> {
    let mut manifest = Manifest::new(store.clone(), shard);
    let mut done = Vec::new();
    let mut erased_to = 0;
    loop {
        let chain = manifest.read().await?;
        let next = chain.entries().iter().find(|e| e.first > erased_to);
        let Some(entry) = next.cloned() else {
            break;
        };
        match erase_in(store, &mut manifest, &entry, request, pseudonym).await? {
            Outcome::Nothing => {}
            Outcome::Erased(record) => done.push(record),
            // Somebody else has rewritten it meanwhile: the newer file is looked at.
            Outcome::Again => continue,
        }
        erased_to = entry.first;
    }
    // The files from before, of an erasure that was interrupted too.
    let chain = manifest.read().await?;
    for path in manifest.left_over(&chain, chrono::Utc::now()).await? {
        store.remove(&path).await?;
    }
    Ok(done)
}

enum Outcome {
    Nothing,
    Erased(Erasure),
    Again,
}

async fn erase_in(
    store: &Store,
    manifest: &mut Manifest,
    entry: &SegmentEntry,
    request: &EraseRequest,
    pseudonym: &Pseudonym,
) -> Result<Outcome, ArchiveError> {
    let bytes = store.get_verified(&entry.file).await?;
    let (user, pseudonym) = (request.user.clone(), pseudonym.clone());
    let rewritten = tokio::task::spawn_blocking(move || rewrite(bytes, &user, &pseudonym)).await;
    let rewritten = rewritten.map_err(|_| ArchiveError::Interrupted)?;
    let Some(erased) = rewritten.map_err(|error| ArchiveError::Damaged {
        place: store.place().to_owned(),
        path: entry.file.path.clone(),
        why: error.to_string(),
    })?
    else {
        return Ok(Outcome::Nothing);
    };
    let revision = entry.revision + 1;
    let hour = Hour::of(entry.log_time_from_ms);
    let unique = format!("{:016x}", rand::random::<u64>());
    let bytes = Bytes::from(erased.bytes);
    let after = FileRef {
        path: segment_path(entry.shard, hour, entry.first, revision, &unique),
        bytes: bytes.len() as u64,
        sha256: sha256(&bytes),
    };
    let record = Erasure {
        at: to_rfc3339(now_ms()),
        by: request.by.clone(),
        rows: erased.rows,
        before: entry.file.clone(),
        after: after.clone(),
    };
    let mut new = entry.clone();
    new.revision = revision;
    new.file = after;
    new.erasures.push(record.clone());
    match put_segment(store, manifest, new, bytes).await? {
        true => {
            store.remove(&entry.file.path).await?;
            Ok(Outcome::Erased(record))
        }
        false => Ok(Outcome::Again),
    }
}
