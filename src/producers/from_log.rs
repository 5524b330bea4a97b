//! The same rows read from the log itself, where no projector answers, or where the log is in doubt and not the
//! state: a state that has long applied what the log has lost since says nothing of it.
//!
//! The rules are the fold's own: frames pass a ledger, announcements are maxima, a message that cannot be read
//! leaves a gap. Only what it takes to count counters is kept, so it needs no store.

use std::collections::HashMap;
use std::time::Duration;

use adtally_projections::completeness::{self, Producer};
use adtally_projections::fold::{Content, Entry};
use adtally_projections::ledger::Intervals;
use adtally_streams::event::Kind;
use adtally_streams::id::{Epoch, Id};
use adtally_streams::names::{events_stream, events_subjects};
use adtally_streams::watermark::Watermark;
use anyhow::Context as _;
use async_nats::jetstream::{Context, consumer};
use futures_util::StreamExt;

use super::{Row, Sums};
use crate::log::reader::message_at;
use crate::log::streams;
use crate::projector::reports::ProducerReport;

/// How long the next message of a stream that says there is one may take.
const NEXT_WITHIN: Duration = Duration::from_secs(5);

/// What a shard's log says of its producers.
#[derive(Debug, Default)]
struct Tally {
    producers: HashMap<(Id, Epoch), Producer>,
    lanes: HashMap<(Epoch, Kind), Intervals>,
    log_time_ms: i64,
}

impl Tally {
    fn take(&mut self, entry: Entry) {
        self.log_time_ms = self.log_time_ms.max(entry.broker_ms);
        match entry.content {
            Content::Frame(frame) => {
                let header = frame.header;
                let lane = self.lanes.entry((header.epoch, header.kind)).or_default();
                lane.insert(header.first, header.first + u64::from(header.count));
                self.heard(header.producer, header.epoch, &header.watermark, None);
            }
            Content::Announcement {
                producer,
                epoch,
                watermark,
                retired,
            } => self.heard(producer, epoch, &watermark, retired.as_deref()),
            Content::Bad { .. } => {}
        }
    }

    fn heard(&mut self, id: Id, epoch: Epoch, watermark: &Watermark, retired: Option<&str>) {
        let at_ms = self.log_time_ms;
        let fresh = || Producer::new(&id, epoch, at_ms);
        let producer = self
            .producers
            .entry((id.clone(), epoch))
            .or_insert_with(fresh);
        producer.take(watermark, at_ms);
        if let Some(reason) = retired {
            producer.retire(reason, at_ms);
        }
    }

    fn reports(self) -> impl Iterator<Item = ProducerReport> {
        let none = Intervals::default();
        self.producers.into_values().map(move |producer| {
            let applied = Kind::ALL.map(|kind| {
                self.lanes
                    .get(&(producer.epoch, kind))
                    .unwrap_or(&none)
                    .clone()
            });
            let gap = |kind| {
                completeness::gap(&producer, kind, &applied[kind as usize], self.log_time_ms)
            };
            ProducerReport {
                applied: Kind::ALL.map(|kind| applied[kind as usize].len()),
                gaps: Kind::ALL.map(gap),
                producer,
            }
        })
    }
}

/// Reads every EVENTS stream from its beginning to where it ends now.
///
/// # Errors
/// When there are no streams, or they cannot be read.
pub async fn list(jetstream: &Context) -> anyhow::Result<Vec<Row>> {
    let shards = streams::shards_of_running(jetstream).await?.context(
        "this NATS has no EVENTS streams: `adtally streams apply` or `adtally serve` makes them",
    )?;
    let mut sums = Sums::default();
    for shard in 0..shards {
        let tally = read_shard(jetstream, shard).await?;
        for report in tally.reports() {
            sums.add(shard, report);
        }
    }
    Ok(sums.rows())
}

async fn read_shard(jetstream: &Context, shard: u16) -> anyhow::Result<Tally> {
    let name = events_stream(shard);
    let stream = jetstream.get_stream(&name).await?;
    let config = consumer::pull::OrderedConfig {
        filter_subject: events_subjects(shard),
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await?;
    let there = consumer.cached_info().num_pending;
    let end = stream.cached_info().state.last_sequence;
    let mut tally = Tally::default();
    if there == 0 {
        return Ok(tally);
    }
    let mut messages = consumer.messages().await?;
    for at in 1..=there {
        let message = match tokio::time::timeout(NEXT_WITHIN, messages.next()).await {
            Ok(Some(message)) => message?,
            Ok(None) => break,
            // The broker counts a message that it cannot read any more, and never sends it.
            Err(_) if message_at(jetstream, &name, end).await?.is_none() => break,
            Err(_) => anyhow::bail!("reading {name}: message {at} of {there} did not come"),
        };
        let info = message
            .info()
            .map_err(|e| anyhow::anyhow!("a message without its place in {name}: {e}"))?;
        let broker_ms = (info.published.unix_timestamp_nanos() / 1_000_000) as i64;
        let sequence = info.stream_sequence;
        let last = info.pending == 0 || sequence >= end;
        let entry = Entry::decode(sequence, broker_ms, &message.subject, &message.payload);
        tally.take(entry);
        if last {
            break;
        }
    }
    Ok(tally)
}
