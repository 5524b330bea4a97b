//! `adtally events tail`: the log, decoded: one line of JSON an event, in the order of the log's time.

use std::time::Duration;

use adtally_streams::event::{Body, Event, Flags, Kind, Placement};
use adtally_streams::frame::{EventFrame, EventMessage, decode_events};
use adtally_streams::names;
use adtally_streams::time::{parse_rfc3339, to_rfc3339};
use async_nats::jetstream::{self, consumer};
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, select_all};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::args::Tail;
use super::output::Output;
use super::{Exit, Usage};
use crate::config::{Config, Span};
use crate::deployment::Deployment;
use crate::log::streams;
use crate::signals;

/// How long the next message of a stream that says there is one may take.
const NEXT_WITHIN: Duration = Duration::from_secs(20);
/// Messages from the end in which the newest events are looked for first; doubled until there are enough.
const FIRST_WINDOW: u64 = 64;

/// Where to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
enum From {
    Beginning,
    Sequence(u64),
    Time(i64),
    /// The newest events.
    Last(usize),
}

/// One event or finding, with its place in the log.
struct Line {
    broker_ms: i64,
    value: Value,
}

/// Runs `adtally events tail`.
pub async fn run(tail: &Tail, config: &Config, output: Output) -> anyhow::Result<Exit> {
    let kind = match &tail.kind {
        None => None,
        Some(name) => Some(Kind::from_name(name).ok_or_else(|| {
            Usage(format!(
                "--kind {name}: the kinds are impression, click and conversion"
            ))
        })?),
    };
    let from = from_of(tail, chrono::Utc::now().timestamp_millis())?;
    let stop = signals::stop_on_signal();
    let deployment = Deployment::find(config, false).await?;
    let done = tail_of(&deployment, tail, kind, &from, output, &stop).await;
    deployment.close().await;
    done.map(|()| Exit::Done)
}

fn from_of(tail: &Tail, now_ms: i64) -> anyhow::Result<From> {
    let Some(text) = tail.from.as_deref() else {
        return Ok(From::Last(tail.lines));
    };
    if text == "beginning" {
        return Ok(From::Beginning);
    }
    if let Ok(sequence) = text.parse::<u64>() {
        if tail.shard.is_none() {
            return Err(Usage(format!(
                "--from {text}: a sequence is one stream's, so it needs --shard"
            ))
            .into());
        }
        return Ok(From::Sequence(sequence.max(1)));
    }
    if let Ok(ms) = parse_rfc3339(text) {
        return Ok(From::Time(ms));
    }
    match text.parse::<Span>() {
        Ok(span) => Ok(From::Time(now_ms - span.0.as_millis() as i64)),
        Err(_) => Err(Usage(format!(
            "--from {text}: write beginning, a sequence (with --shard), a time such as 2024-02-09T14:05:00Z, or a span such as 6h"
        ))
        .into()),
    }
}

async fn tail_of(
    deployment: &Deployment,
    tail: &Tail,
    kind: Option<Kind>,
    from: &From,
    output: Output,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let jetstream = deployment.jetstream();
    let count = streams::shards_of_running(&jetstream)
        .await?
        .unwrap_or_default();
    let shards: Vec<u16> = match tail.shard {
        Some(p) if p < count => vec![p],
        Some(p) => {
            return Err(Usage(format!(
                "--shard {p}: this deployment has the shards 0 to {}",
                count.max(1) - 1
            ))
            .into());
        }
        None => (0..count).collect(),
    };
    let mut readers = Vec::new();
    for shard in shards {
        readers.push(Reader::open(&jetstream, shard, kind, from).await?);
    }
    let skip = match from {
        From::Last(n) => Some(*n),
        _ => None,
    };
    print_what_is_there(&mut readers, skip, output, stop).await?;
    if tail.follow {
        follow(readers, output, stop).await?;
    }
    Ok(())
}

/// Prints what the streams hold now, merged by the log's time; of `last` given, only that many from the end.
async fn print_what_is_there(
    readers: &mut [Reader],
    last: Option<usize>,
    output: Output,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut kept = std::collections::VecDeque::new();
    let mut heads: Vec<Option<Vec<Line>>> = Vec::new();
    for reader in readers.iter_mut() {
        heads.push(reader.next().await?);
    }
    while !stop.is_cancelled() {
        let earliest = heads
            .iter()
            .enumerate()
            .filter_map(|(i, head)| {
                head.as_ref()
                    .map(|lines| (lines.first().map_or(i64::MIN, |l| l.broker_ms), i))
            })
            .min();
        let Some((_, index)) = earliest else {
            break;
        };
        let lines =
            std::mem::replace(&mut heads[index], readers[index].next().await?).unwrap_or_default();
        for line in lines {
            match last {
                None => output.json(&line.value)?,
                Some(0) => {}
                Some(n) => {
                    if kept.len() == n {
                        kept.pop_front();
                    }
                    kept.push_back(line.value);
                }
            }
        }
    }
    kept.iter().try_for_each(|value| output.json(value))
}

async fn follow(
    readers: Vec<Reader>,
    output: Output,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut all = select_all(readers.into_iter().map(|reader| {
        let shard = reader.shard;
        reader.messages.map(move |message| (shard, message)).boxed()
    }));
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            next = all.next() => next,
        };
        let Some((shard, message)) = next else {
            return Ok(());
        };
        for line in lines_of(shard, &message?)? {
            output.json(&line.value)?;
        }
    }
}

type Messages = BoxStream<'static, Result<jetstream::Message, consumer::pull::OrderedError>>;

/// One shard's stream from some place on.
struct Reader {
    shard: u16,
    messages: Messages,
    /// Messages that are still to come of those that were there at the beginning.
    pending: u64,
}

impl Reader {
    async fn open(
        jetstream: &jetstream::Context,
        shard: u16,
        kind: Option<Kind>,
        from: &From,
    ) -> anyhow::Result<Self> {
        let stream = jetstream.get_stream(names::events_stream(shard)).await?;
        let state = &stream.cached_info().state;
        let (first, last) = (state.first_sequence.max(1), state.last_sequence);
        let policy = match from {
            From::Beginning => consumer::DeliverPolicy::All,
            From::Sequence(n) => consumer::DeliverPolicy::ByStartSequence { start_sequence: *n },
            From::Time(ms) => consumer::DeliverPolicy::ByStartTime {
                start_time: async_nats::datetime::from_nanos(i128::from(*ms) * 1_000_000)
                    .map_err(|e| Usage(format!("--from: {e}")))?,
            },
            From::Last(n) => return Self::last(&stream, shard, kind, *n as u64, first, last).await,
        };
        Self::consume(&stream, shard, kind, policy).await
    }

    /// From far enough back that the newest `n` events are in it, as far as there are so many.
    async fn last(
        stream: &jetstream::stream::Stream,
        shard: u16,
        kind: Option<Kind>,
        n: u64,
        first: u64,
        last: u64,
    ) -> anyhow::Result<Self> {
        let mut window = FIRST_WINDOW.max(n);
        loop {
            let start_sequence = (last + 1).saturating_sub(window).max(first);
            let policy = consumer::DeliverPolicy::ByStartSequence { start_sequence };
            let reader = Self::consume(stream, shard, kind, policy).await?;
            // Every message of a kind holds at least one event.
            if reader.pending >= n || start_sequence == first {
                return Ok(reader);
            }
            window *= 2;
        }
    }

    async fn consume(
        stream: &jetstream::stream::Stream,
        shard: u16,
        kind: Option<Kind>,
        deliver_policy: consumer::DeliverPolicy,
    ) -> anyhow::Result<Self> {
        let kinds = kind.map_or_else(|| Kind::ALL.to_vec(), |k| vec![k]);
        let filter_subjects = kinds
            .iter()
            .map(|k| names::events_subject(shard, *k))
            .collect();
        let config = consumer::pull::OrderedConfig {
            deliver_policy,
            filter_subjects,
            ..Default::default()
        };
        let consumer = stream.create_consumer(config).await?;
        let pending = consumer.cached_info().num_pending;
        let messages = consumer.messages().await?.boxed();
        Ok(Self {
            shard,
            messages,
            pending,
        })
    }

    /// The lines of the next message; none once all that was there is read.
    async fn next(&mut self) -> anyhow::Result<Option<Vec<Line>>> {
        if self.pending == 0 {
            return Ok(None);
        }
        self.pending -= 1;
        match tokio::time::timeout(NEXT_WITHIN, self.messages.next()).await? {
            Some(message) => Ok(Some(lines_of(self.shard, &message?)?)),
            None => Ok(None),
        }
    }
}

fn lines_of(shard: u16, message: &jetstream::Message) -> anyhow::Result<Vec<Line>> {
    let info = message
        .info()
        .map_err(|e| anyhow::anyhow!("a message without its place in the stream: {e}"))?;
    let broker_ms = (info.published.unix_timestamp_nanos() / 1_000_000) as i64;
    let place = json!({
        "stream": names::events_stream(shard),
        "sequence": info.stream_sequence,
        "time": to_rfc3339(broker_ms),
    });
    Ok(match decode_events(&message.payload) {
        Ok(EventMessage::Frame(frame)) => {
            let EventFrame { header, events } = frame;
            (header.first..)
                .zip(&events)
                .map(|(counter, event)| {
                    let mut place = place.clone();
                    place["producer"] = header.producer.to_string().into();
                    place["epoch"] = header.epoch.to_string().into();
                    place["counter"] = counter.into();
                    let mut value = Value::Object(described(event, header.kind));
                    value["log"] = place;
                    Line { broker_ms, value }
                })
                .collect()
        }
        Ok(EventMessage::Announcement { .. }) => Vec::new(),
        Err(error) => {
            vec![Line {
                broker_ms,
                value: json!({"bad_frame": error.to_string(), "log": place}),
            }]
        }
    })
}

/// The event by the contract's names.
fn described(event: &Event, kind: Kind) -> Map<String, Value> {
    let mut map = Map::new();
    let mut put = |name: &str, value: Value| {
        map.insert(name.into(), value);
    };
    put("kind", kind.name().into());
    put(&format!("{}_id", kind.name()), event.id.as_str().into());
    match &event.body {
        Body::Impression(placement) => place(placement, &mut put),
        Body::Click(placement, detail) => {
            place(placement, &mut put);
            optional(&mut put, "impression_id", detail.impression_id.as_ref());
            optional(&mut put, "landing_url", detail.landing_url.as_ref());
        }
        Body::Conversion(detail) => {
            put("value_micros", detail.value_micros.into());
            optional(&mut put, "click_id", detail.click_id.as_ref());
            optional(&mut put, "order_id", detail.order_id.as_ref());
        }
    }
    optional(&mut put, "advertiser_id", event.advertiser_id.as_ref());
    optional(&mut put, "currency_code", event.currency.as_ref());
    optional(&mut put, "user_id", event.user_id.as_ref());
    optional(&mut put, "user_agent", event.user_agent.as_ref());
    optional(&mut put, "referrer", event.referrer.as_ref());
    put("ts", to_rfc3339(event.event_time_ms).into());
    put("arrived", to_rfc3339(event.arrival_ms).into());
    put("utc_offset_s", event.utc_offset_s.into());
    put("catalogue_revision", event.catalogue_revision.into());
    put("flags", flags(event.flags).into());
    map
}

fn place(placement: &Placement, put: &mut impl FnMut(&str, Value)) {
    put("ad_id", placement.ad_id.as_str().into());
    put("campaign_id", placement.campaign_id.as_str().into());
    put("creative", (&*placement.creative).into());
    put("region", (&*placement.region).into());
    put("device", placement.device.name().into());
    put("cost_micros", placement.cost_micros.into());
    put("reason", placement.verdict.map(|v| v.name()).into());
}

fn optional(put: &mut impl FnMut(&str, Value), name: &str, value: Option<&impl ToString>) {
    if let Some(value) = value {
        put(name, value.to_string().into());
    }
}

fn flags(flags: Flags) -> Vec<&'static str> {
    [
        (Flags::CAMPAIGN_MISMATCH, "campaign_mismatch"),
        (Flags::BAD_TIME, "bad_time"),
        (Flags::BAD_ID, "bad_id"),
        (Flags::BAD_PARAMETER, "bad_parameter"),
        (Flags::UNKNOWN_AD, "unknown_ad"),
        (Flags::NO_ADDRESS_KEY, "no_address_key"),
        (Flags::MINTED_ID, "minted_id"),
    ]
    .into_iter()
    .filter(|(flag, _)| flags.has(*flag))
    .map(|(_, name)| name)
    .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_from_is_understood_and_anything_else_is_usage() {
        let from = |text: &str, shard| {
            from_of(
                &Tail {
                    from: Some(text.into()),
                    shard,
                    ..Tail::default()
                },
                86_400_000,
            )
        };
        assert_eq!(from("beginning", None).unwrap(), From::Beginning);
        assert_eq!(from("17", Some(0)).unwrap(), From::Sequence(17));
        assert_eq!(
            from("1970-01-01T00:00:01Z", None).unwrap(),
            From::Time(1_000)
        );
        assert_eq!(from("6h", None).unwrap(), From::Time(18 * 3_600_000));
        for (text, shard) in [("17", None), ("yesterday", None)] {
            assert!(from(text, shard).unwrap_err().is::<Usage>(), "{text}");
        }
    }
}
