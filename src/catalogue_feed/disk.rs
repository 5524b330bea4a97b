//! The catalogue's copy on disk, so that a start without a broker knows which ads there are.
//!
//! The copy is never the truth: it is replaced by a rename, and one that cannot be read is passed over, because
//! the broker has it all. It names the stream that it was read from.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use adtally_streams::catalogue::Catalogue;
use tokio_util::sync::CancellationToken;

use super::Inner;
use crate::fail_points::{Point, pass, pass_or_fail};

/// How often a changed catalogue is written.
const WRITE_EVERY: Duration = Duration::from_secs(5);
/// What the file begins with; another form gets another number.
const MAGIC: &[u8] = b"adtally catalogue 1\n";

/// Reads a copy: when its stream was created, and the catalogue.
pub(super) fn read(file: &Path) -> Option<(String, Catalogue)> {
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "the catalogue's copy cannot be read; waiting for the broker");
            return None;
        }
    };
    let copy = parse(&bytes);
    if copy.is_none() {
        tracing::warn!(file = %file.display(), "the catalogue's copy is torn or of another version; waiting for the broker");
    }
    copy
}

fn parse(bytes: &[u8]) -> Option<(String, Catalogue)> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let end = rest.iter().position(|b| *b == b'\n')?;
    let created = std::str::from_utf8(&rest[..end]).ok()?;
    Some((
        created.to_owned(),
        Catalogue::from_snapshot(&rest[end + 1..]).ok()?,
    ))
}

/// Replaces the copy, durably.
pub(super) fn write(file: &Path, created: &str, catalogue: &Catalogue) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut out = File::create(&new)?;
    out.write_all(MAGIC)?;
    out.write_all(created.as_bytes())?;
    out.write_all(b"\n")?;
    out.write_all(&catalogue.to_snapshot())?;
    out.sync_all()?;
    pass_or_fail(Point::CatalogueWritten)?;
    fs::rename(&new, file)?;
    if let Some(parent) = file.parent().filter(|p| !p.as_os_str().is_empty()) {
        File::open(parent)?.sync_all()?;
    }
    pass(Point::CatalogueCopied);
    Ok(())
}

/// Writes the catalogue after it has changed, and once more at the end.
pub(super) async fn keep(inner: &Inner, stop: &CancellationToken) {
    let Some(file) = inner.file.clone() else {
        return;
    };
    let mut written = inner
        .created()
        .map(|created| (created, inner.read().revision()));
    loop {
        let is_last = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(WRITE_EVERY) => false,
        };
        let now = inner
            .created()
            .map(|created| (created, inner.read().revision()));
        if let Some((created, revision)) = now.clone()
            && inner.is_warm()
            && now != written
        {
            // Cloning shares the documents; the copy is made outside the lock, so no event waits for the disk.
            let catalogue = inner.read().clone();
            let to = file.clone();
            let result =
                tokio::task::spawn_blocking(move || write(&to, &created, &catalogue)).await;
            match result {
                Ok(Ok(())) => written = now,
                Ok(Err(error)) => {
                    tracing::warn!(file = %file.display(), revision, %error, "the catalogue's copy is not written");
                }
                Err(error) => tracing::warn!(%error, "the catalogue's copy is not written"),
            }
        }
        if is_last {
            return;
        }
    }
}
