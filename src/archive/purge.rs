//! Purging a stream of what the archive holds: the only place where anything leaves an EVENTS stream.

use std::time::{Duration, Instant};

use adtally_archive::chain::Chain;
use adtally_streams::names::events_stream;
use async_nats::jetstream;
use serde::Deserialize;
use serde_json::json;

use super::archiver::{created_ns, now_ms};
use super::{ArchiveError, Archiver};
use crate::control::{self, Verb};
use crate::fail_points::{Point, pass};
use crate::log::LogError;
use crate::log::streams::{get_stream, info_of};

/// How long projectors that are behind what may leave the stream are left alone before they are asked again: they are
/// so by days.
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// What a process with the role projector answers to [`Verb::Positions`].
#[derive(Deserialize)]
struct Positions {
    positions: Vec<u64>,
}

/// The least position of the shard in all states on this NATS that a running process folds on; none while there is
/// no such process. An error keeps everything.
pub(super) async fn least_position(
    client: &async_nats::Client,
    shard: u16,
) -> Result<Option<u64>, ArchiveError> {
    let answers = control::ask_all(client, Verb::Positions, &json!({})).await;
    let answers = answers
        .map_err(|error| LogError::unreachable("how far the projectors are".to_owned(), error))?;
    let of_shard = |answer: serde_json::Value| {
        let positions: Positions = serde_json::from_value(answer).ok()?;
        positions.positions.get(usize::from(shard)).copied()
    };
    Ok(answers.into_iter().filter_map(of_shard).min())
}

/// The last sequence of the entries that may leave the stream: older than `before_ms`, and folded by everybody.
pub(super) fn purgeable(chain: &Chain, before_ms: i64, position: Option<u64>) -> Option<u64> {
    let may_go = |last: u64, to_ms: i64| {
        to_ms < before_ms && position.is_none_or(|position| last <= position)
    };
    let entries = chain.entries().iter();
    entries
        .take_while(|entry| may_go(entry.last, entry.log_time_to_ms))
        .last()
        .map(|entry| entry.last)
}

impl Archiver {
    /// Purges what was archived more than `keep` of log time ago, after reading each of its files back. Answers the
    /// last sequence that is gone now; none when nothing had to go.
    ///
    /// # Errors
    /// [`ArchiveError`]; a file that is damaged keeps its messages and all behind them in the stream.
    pub async fn purge(&mut self, keep: Duration) -> Result<Option<u64>, ArchiveError> {
        let stream = events_stream(self.shard);
        let jetstream = jetstream::new(self.client.clone());
        let keep_ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        let before_ms = now_ms().saturating_sub(keep_ms);
        let oldest = purgeable(&self.manifest.known()?, before_ms, None);
        let is_left_alone = || self.held.is_some_and(|at| at.elapsed() < ASK_AGAIN);
        if oldest.is_none_or(|last| last <= self.purged) || is_left_alone() {
            return Ok(None);
        }
        // An erasure may have put other files in the place of those that are known.
        let chain = self.manifest.read().await?;
        let info = info_of(&jetstream, &stream).await?;
        let first = info.state.first_sequence;
        let position = least_position(&self.client, self.shard).await?;
        self.tell_held(purgeable(&chain, before_ms, None), position);
        let Some(last) = purgeable(&chain, before_ms, position).filter(|last| *last >= first)
        else {
            self.purged = self.purged.max(first.saturating_sub(1));
            return Ok(None);
        };
        if chain.stream_created_ns() != Some(created_ns(&info)) {
            return Err(ArchiveError::OtherStream {
                place: self.store.place().to_owned(),
                stream,
                archived: chain.stream_created_ns().unwrap_or_default(),
                found: created_ns(&info),
            });
        }
        for entry in chain.of_sequences(first, last + 1) {
            self.store.get_verified(&entry.file).await?;
        }
        pass(Point::ArchivePurging);
        let handle = get_stream(&jetstream, &stream).await?;
        // Up to a sequence, without that one.
        let purged = handle.purge().sequence(last + 1).await;
        purged.map_err(|error| {
            LogError::refused(format!("a purge of {stream} up to {last}"), error)
        })?;
        self.purged = last;
        pass(Point::ArchivePurged);
        Ok(Some(last))
    }
}

impl Archiver {
    /// Notes whether what may leave the stream by its age, up to `oldest`, is kept there for a projector, and says so
    /// when that begins and when it ends.
    fn tell_held(&mut self, oldest: Option<u64>, position: Option<u64>) {
        let shard = self.shard;
        let behind = position.filter(|position| oldest.is_some_and(|last| last > *position));
        let was_held = self.held.is_some();
        self.held = behind.map(|_| Instant::now());
        metrics::gauge!("adtally_archive_purge_held", "shard" => shard.to_string())
            .set(if behind.is_some() { 1.0 } else { 0.0 });
        match behind {
            Some(position) if !was_held => tracing::warn!(
                shard,
                position,
                archived = oldest,
                "a projector has not folded what is archived and old enough to leave the stream: it stays there until then"
            ),
            None if was_held => {
                tracing::info!(shard, "the projectors have folded what was kept for them");
            }
            Some(_) | None => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::archive::tests::entry;

    #[test]
    fn only_what_is_old_and_folded_may_go() {
        let entries = [
            entry(1, 10, 1_000),
            entry(11, 20, 2_000),
            entry(21, 30, 3_000),
        ];
        let chain = Chain::of(0, entries).unwrap();
        assert_eq!(purgeable(&chain, 999, None), None);
        assert_eq!(purgeable(&chain, 1_001, None), Some(10));
        assert_eq!(purgeable(&chain, 9_000, None), Some(30));
        assert_eq!(purgeable(&chain, 9_000, Some(29)), Some(20));
        assert_eq!(purgeable(&chain, 9_000, Some(9)), None);
        assert_eq!(purgeable(&chain, 2_000, Some(30)), Some(10));
    }
}
