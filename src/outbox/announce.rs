//! Announcements: an idle shard is told the watermark every few seconds, and the end of an epoch to every shard.
//!
//! So a lost tail is seen and an offline edge is named from the log alone. Announcements carry no message id and
//! no counters: the newest one counts.

use std::sync::Arc;
use std::time::Duration;

use adtally_streams::frame::encode_announcement;
use adtally_streams::names::{events_stream, watermark_subject};
use adtally_streams::watermark::{LastWord, Watermark};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::Instant;

use super::disk::EpochRecord;
use super::epoch::EpochLanes;
use super::shared::{Shared, now_ms};
use crate::fail_points::{Point, pass};
use crate::log::publisher::Outcome;

/// A shard that has had no frame for this long is told the watermark.
pub(super) const IDLE_AFTER: Duration = Duration::from_secs(2);
/// How often idle shards are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Announcements under way at once.
const AT_ONCE: usize = 16;
/// The pause before the end of an epoch is announced again where that was not acknowledged.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Tells idle shards the watermark until the outbox ends; all of them at once at the opening. The log is also reminded
/// of the settled epochs at the opening, and when it has lost what it had acknowledged: then it may have lost, with the
/// events, what was announced of them.
pub(super) async fn keep_telling(shared: Arc<Shared>, settled: Vec<Arc<EpochLanes>>) {
    let mut sequences = vec![0; usize::from(shared.current.shards)];
    let mut remind = true;
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let idle_since = now_ms() - IDLE_AFTER.as_millis() as i64;
        let idle = (0..shared.current.shards).filter(|shard| shared.told_ms(*shard) <= idle_since);
        let telling = stream::iter(idle.collect::<Vec<_>>())
            .map(|shard| {
                let shared = &shared;
                async move {
                    tell_current(shared, shard)
                        .await
                        .map(|sequence| (shard, sequence))
                }
            })
            .buffer_unordered(AT_ONCE)
            .filter_map(|told| async move { told })
            .collect::<Vec<_>>();
        let told = tokio::select! {
            () = shared.stop.cancelled() => return,
            told = telling => told,
        };
        for (shard, sequence) in told {
            let before = std::mem::replace(&mut sequences[usize::from(shard)], sequence);
            if sequence <= before {
                metrics::counter!("adtally_stream_losses_total").increment(1);
                tracing::error!(
                    stream = events_stream(shard),
                    sequence,
                    before,
                    "the stream gives a sequence again: its broker has lost messages that it had acknowledged; `adtally producers list` names what is missing"
                );
                remind = true;
            }
        }
        if remind && !sequences.contains(&0) {
            remind = !remind_of(&shared, &settled).await;
        }
    }
}

/// Says of every settled epoch again that nothing more will come, and how much came; whether all of it was said.
async fn remind_of(shared: &Arc<Shared>, settled: &[Arc<EpochLanes>]) -> bool {
    for epoch in settled {
        let shards = (0..epoch.shards).map(|shard| async move {
            let watermark = Watermark {
                drained: true,
                ..shared.watermark_of(epoch, shard)
            };
            tell(shared, epoch, shard, &watermark).await.is_some()
        });
        let telling = stream::iter(shards)
            .buffer_unordered(AT_ONCE)
            .all(|told| async move { told });
        tokio::select! {
            () = shared.stop.cancelled() => return false,
            all = telling => if !all { return false },
        }
    }
    true
}

/// Announces this opening's watermark to a shard; its sequence there, when the broker has it.
async fn tell_current(shared: &Shared, shard: u16) -> Option<u64> {
    let watermark = shared.watermark(shard);
    let sequence = tell(shared, &shared.current, shard, &watermark).await?;
    shared.told(shard);
    shared.heard(shard);
    Some(sequence)
}

/// Tells a shard that nothing more will come from an epoch; whether the broker has that.
async fn tell_end(shared: &Shared, epoch: &EpochLanes, shard: u16) -> bool {
    let is_current = epoch.epoch == shared.current.epoch;
    match LastWord::next(is_current, shared.is_heard(shard)) {
        LastWord::Successor if tell_current(shared, shard).await.is_none() => return false,
        LastWord::Successor | LastWord::End => {}
    }
    let watermark = Watermark {
        drained: true,
        ..shared.watermark_of(epoch, shard)
    };
    tell(shared, epoch, shard, &watermark).await.is_some()
}

/// Announces a watermark to a shard; its sequence there, when the broker has it.
async fn tell(
    shared: &Shared,
    epoch: &EpochLanes,
    shard: u16,
    watermark: &Watermark,
) -> Option<u64> {
    let payload = Bytes::from(encode_announcement(
        &shared.producer,
        epoch.epoch,
        watermark,
    ));
    match shared
        .broker
        .publish(watermark_subject(shard), None, payload)
        .await
    {
        Outcome::Stored { sequence, .. } => {
            pass(Point::EpochAnnounced);
            Some(sequence)
        }
        other => {
            tracing::debug!(
                shard,
                ?other,
                "an announcement was not acknowledged; the next one says the same and more"
            );
            None
        }
    }
}

/// Ships what there is until the deadline, then says that nothing more will come. Whether that was said.
pub(super) async fn drain(shared: &Arc<Shared>, until: Instant) -> bool {
    loop {
        let progress = shared.progress.notified();
        if shared.unsent_events() == 0 && shared.recovering().is_empty() {
            break;
        }
        // Whoever could not ship a lane for a while tries again at once.
        shared.current.wake();
        if tokio::time::timeout_at(until, progress).await.is_err() {
            let left = shared.unsent_events();
            tracing::warn!(
                events = left,
                "the outbox was not drained in time; what is left stays on disk for the next start"
            );
            return false;
        }
    }
    let current = Arc::clone(&shared.current);
    drained(shared, &current, Some(until)).await
}

/// Tells every shard of an epoch that nothing more will come from it, until all have been told; then keeps that.
/// False when the outbox ends, or the deadline passes, before.
pub(super) async fn drained(
    shared: &Arc<Shared>,
    epoch: &Arc<EpochLanes>,
    until: Option<Instant>,
) -> bool {
    let mut left: Vec<u16> = (0..epoch.shards).collect();
    while !left.is_empty() {
        let round = stream::iter(left.clone())
            .map(|shard| async move { (shard, tell_end(shared, epoch, shard).await) })
            .buffer_unordered(AT_ONCE)
            .filter_map(|(shard, told)| async move { (!told).then_some(shard) })
            .collect::<Vec<u16>>();
        let far = Instant::now() + Duration::from_secs(86_400);
        tokio::select! {
            () = shared.stop.cancelled() => return false,
            () = tokio::time::sleep_until(until.unwrap_or(far)) => return false,
            rest = round => left = rest,
        }
        if !left.is_empty() {
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
    pass(Point::EpochToldDrained);
    let (disk, epoch) = (Arc::clone(shared), Arc::clone(epoch));
    let kept = tokio::task::spawn_blocking(move || mark_drained(&disk, &epoch)).await;
    pass(Point::EpochDrained);
    match kept {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(%error, "that an epoch is drained was not kept; the next start says it again");
            true
        }
        Err(_) => false,
    }
}

fn mark_drained(shared: &Shared, epoch: &EpochLanes) -> Result<(), super::OutboxError> {
    let known = shared
        .disk
        .epochs()?
        .into_iter()
        .find(|r| r.epoch == epoch.epoch);
    let fresh = EpochRecord {
        epoch: epoch.epoch,
        shards: epoch.shards,
        opened_ms: now_ms(),
        drained: false,
        lost: Vec::new(),
    };
    shared.disk.put_epoch(&EpochRecord {
        drained: true,
        ..known.unwrap_or(fresh)
    })
}
