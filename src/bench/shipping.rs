//! Shipping: a full outbox meets its broker, and how soon everything is acknowledged.
//!
//! The yardstick is what the same broker takes in the same run from somebody who has nothing else to do: frames of
//! the same events, packed beforehand, published as they are, with as many under way. Rounds of both alternate, and
//! the medians are compared. Both are measured from the moment at which an eighth is acknowledged, so that frames
//! which the outbox had packed while its broker was away count for nobody.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use adtally_streams::event::{Event, Kind};
use adtally_streams::frame::{Header, encode};
use adtally_streams::id::{Epoch, Id, frame_message_id};
use adtally_streams::lane::FRAMES_IN_FLIGHT;
use adtally_streams::names::{FRAME_MAX_EVENTS, events_subject};
use adtally_streams::watermark::Watermark;
use anyhow::Context as _;
use async_nats::jetstream::{self, message::PublishMessage};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::watch;

use super::Figure;
use super::events::Events;
use super::usage::Usage;
use crate::log::LogError;
use crate::log::connect::{NatsOptions, connect};
use crate::log::embedded::NatsServer;
use crate::log::publisher::{Broker, Outcome, Publisher};
use crate::log::streams::{Limits, ensure};
use crate::outbox::{Item, Outbox, OutboxHandle, OutboxLimits, OutboxOptions, Owner};
use crate::telemetry;

/// Shards of the measured deployment: its lanes are twice as many.
const SHARDS: u16 = 8;
/// Events of a round.
const EVENTS: u64 = 640_000;
/// Rounds of each; odd, so that there is one in the middle.
const ROUNDS: usize = 3;
/// The part of a round's events that is acknowledged before the clock starts.
const WARM_UP: u64 = EVENTS / 8;
/// Events of a call while the outbox is filled, and calls at once.
const BATCH: usize = 500;
const CALLERS: usize = 8;
/// How often the outbox is asked how much is left.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How long a round may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker that is not there until it is let in.
struct Gated {
    publisher: Publisher,
    open: watch::Receiver<bool>,
}

impl Broker for Gated {
    fn publish(
        &self,
        subject: String,
        id: Option<String>,
        payload: Bytes,
    ) -> BoxFuture<'_, Outcome> {
        if *self.open.borrow() {
            Broker::publish(&self.publisher, subject, id, payload)
        } else {
            Box::pin(async { Outcome::Unknown("not let in yet".to_owned()) })
        }
    }

    fn stored(
        &self,
        stream: String,
        sequence: u64,
    ) -> BoxFuture<'_, Result<Option<Bytes>, LogError>> {
        self.publisher.stored(stream, sequence)
    }

    fn connected(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // The sender lives as long as the round.
            let _ = self.open.clone().wait_for(|open| *open).await;
            self.publisher.connected().await;
        })
    }

    fn max_payload(&self) -> usize {
        self.publisher.max_payload()
    }
}

/// One round of either side.
#[derive(Clone, Copy, Debug)]
struct Round {
    events_per_s: f64,
    frames_per_s: f64,
    /// Of both processes, over the measured part.
    own: Usage,
    broker: Usage,
    events: u64,
    /// Bytes of frames for each event.
    frame_bytes: f64,
    /// Events of a frame.
    frame_events: f64,
}

/// What filling the outbox took.
#[derive(Clone, Copy, Debug)]
struct Filled {
    events_per_s: f64,
    fsyncs_per_s: f64,
    own: Usage,
}

/// A frame that is ready to be sent.
struct Ready {
    subject: String,
    id: String,
    payload: Bytes,
    events: u64,
}

/// Measures in a folder of its own, with a nats-server of its own.
pub async fn run(folder: &Path) -> anyhow::Result<Vec<Figure>> {
    std::fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
    let server = NatsServer::start(folder).await?;
    let measured = measure(folder, &server).await;
    server.stop().await;
    measured
}

async fn measure(folder: &Path, server: &NatsServer) -> anyhow::Result<Vec<Figure>> {
    let options = NatsOptions::of_url(server.url());
    let jetstream = jetstream::new(connect(&options, "adtally bench").await?);
    ensure(&jetstream, Some(SHARDS), &Limits::default()).await?;
    let publisher = Publisher::new(connect(&options, "adtally bench outbox").await?);
    let pid = server.pid().context("the nats-server runs")?;
    let (mut raw, mut shipped, mut filled) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        telemetry::say(&format!(
            "shipping {EVENTS} events, round {} ...",
            round + 1
        ));
        let frames = tokio::task::spawn_blocking(move || ready(round as u64)).await?;
        raw.push(publish_raw(&jetstream, frames, pid).await?);
        let dir = folder.join(format!("outbox-{round}"));
        let (fill, ship) = ship(dir, &publisher, round as u64, pid).await?;
        filled.push(fill);
        shipped.push(ship);
    }
    raw.sort_by(|a, b| a.events_per_s.total_cmp(&b.events_per_s));
    shipped.sort_by(|a, b| a.events_per_s.total_cmp(&b.events_per_s));
    filled.sort_by(|a, b| a.events_per_s.total_cmp(&b.events_per_s));
    Ok(figures(
        raw[ROUNDS / 2],
        shipped[ROUNDS / 2],
        filled[ROUNDS / 2],
    ))
}

fn figures(raw: Round, shipped: Round, filled: Filled) -> Vec<Figure> {
    let words = |r: &Round| {
        format!(
            "{:.0} events/s, {:.0} frames/s of {:.0} events, {:.1} bytes an event; processor {:.2} us an event here, {:.2} in nats-server, which writes {:.1} bytes an event",
            r.events_per_s,
            r.frames_per_s,
            r.frame_events,
            r.frame_bytes,
            r.own.cpu_us_per(r.events),
            r.broker.cpu_us_per(r.events),
            r.broker.written_per(r.events),
        )
    };
    vec![
        Figure {
            name: "shipping: outbox to broker to acknowledged".to_owned(),
            value: words(&shipped),
            yardstick: format!("ready frames published raw: {}", words(&raw)),
            ratio: Some(shipped.events_per_s / raw.events_per_s),
        },
        Figure {
            name: format!("shipping: durable in the outbox, {CALLERS} callers of {BATCH} events"),
            value: format!(
                "{:.0} events/s, {:.0} fsyncs/s; processor {:.2} us an event, {:.0} bytes an event written",
                filled.events_per_s,
                filled.fsyncs_per_s,
                filled.own.cpu_us_per(EVENTS),
                filled.own.written_per(EVENTS),
            ),
            yardstick: format!("shipping them: {:.0} events/s", shipped.events_per_s),
            ratio: Some(filled.events_per_s / shipped.events_per_s),
        },
    ]
}

/// The events of a round, lane by lane, in full frames as far as they go.
fn ready(round: u64) -> Vec<Vec<Ready>> {
    let lanes = usize::from(SHARDS) * Kind::ALL.len();
    let mut waiting: Vec<Vec<Event>> = (0..lanes).map(|_| Vec::new()).collect();
    let mut frames: Vec<Vec<Ready>> = (0..lanes).map(|_| Vec::new()).collect();
    let mut firsts = vec![0; lanes];
    let mut events = Events::new(round, SHARDS);
    let epoch = Epoch(0xbe4c_0000 + round);
    let mut cut = |lane: usize, waiting: &mut Vec<Event>| {
        let (shard, kind) = (
            (lane / Kind::ALL.len()) as u16,
            Kind::ALL[lane % Kind::ALL.len()],
        );
        frames[lane].push(frame(epoch, shard, kind, firsts[lane], waiting));
        firsts[lane] += waiting.len() as u64;
        waiting.clear();
    };
    for _ in 0..EVENTS {
        let (shard, event) = events.next();
        let lane = usize::from(shard) * Kind::ALL.len() + event.kind() as usize;
        waiting[lane].push(event);
        if waiting[lane].len() == FRAME_MAX_EVENTS {
            cut(lane, &mut waiting[lane]);
        }
    }
    for (lane, waiting) in waiting.iter_mut().enumerate() {
        if !waiting.is_empty() {
            cut(lane, waiting);
        }
    }
    frames.retain(|lane| !lane.is_empty());
    frames
}

fn frame(epoch: Epoch, shard: u16, kind: Kind, first: u64, events: &[Event]) -> Ready {
    let count = events.len() as u64;
    let header = Header {
        kind,
        producer: Id::new("bench").expect("a plain word is an id"),
        epoch,
        first,
        count: count as u32,
        watermark: Watermark::default(),
    };
    Ready {
        subject: events_subject(shard, kind),
        // Lanes of one epoch and kind stand in different streams, which each have their own ids.
        id: frame_message_id(epoch, kind, first, first + count - 1),
        payload: Bytes::from(encode(&header, events)),
        events: count,
    }
}

/// The measured part of a round: begun when an eighth is acknowledged, over when all is.
struct Watch {
    pid: u32,
    began: Option<(Instant, u64, Usage, Usage)>,
}

impl Watch {
    fn look(&mut self, acked: u64) {
        if self.began.is_none() && acked >= WARM_UP {
            self.began = Some((Instant::now(), acked, Usage::own(), Usage::of(self.pid)));
        }
    }

    fn end(self, frames: u64, bytes: u64) -> anyhow::Result<Round> {
        let (at, acked, own, broker) = self.began.context("an eighth was acknowledged")?;
        let (elapsed, events) = (at.elapsed().as_secs_f64(), EVENTS - acked);
        let frame_events = EVENTS as f64 / frames.max(1) as f64;
        Ok(Round {
            events_per_s: events as f64 / elapsed,
            frames_per_s: events as f64 / frame_events / elapsed,
            own: Usage::own().since(own),
            broker: Usage::of(self.pid).since(broker),
            events,
            frame_bytes: bytes as f64 / EVENTS as f64,
            frame_events,
        })
    }
}

async fn publish_raw(
    jetstream: &jetstream::Context,
    lanes: Vec<Vec<Ready>>,
    pid: u32,
) -> anyhow::Result<Round> {
    let frames = lanes.iter().map(Vec::len).sum::<usize>() as u64;
    let bytes = lanes.iter().flatten().map(|f| f.payload.len() as u64).sum();
    let acked = Arc::new(AtomicU64::new(0));
    let mut publishing = tokio::task::JoinSet::new();
    for lane in lanes {
        let (jetstream, acked) = (jetstream.clone(), Arc::clone(&acked));
        publishing.spawn(async move {
            let sent =
                stream::iter(lane)
                    .map(Ok)
                    .try_for_each_concurrent(FRAMES_IN_FLIGHT, |frame| {
                        let (jetstream, acked) = (&jetstream, &acked);
                        async move {
                            let message = PublishMessage::build()
                                .payload(frame.payload)
                                .message_id(frame.id);
                            let ack = jetstream
                                .send_publish(frame.subject, message)
                                .await?
                                .await?;
                            anyhow::ensure!(!ack.duplicate, "the broker had this frame already");
                            acked.fetch_add(frame.events, Ordering::Relaxed);
                            Ok(())
                        }
                    });
            sent.await
        });
    }
    let mut watch = Watch { pid, began: None };
    until_all(|| acked.load(Ordering::Relaxed), &mut watch).await?;
    let round = watch.end(frames, bytes)?;
    while let Some(sent) = publishing.join_next().await {
        sent??;
    }
    Ok(round)
}

async fn until_all(acked: impl Fn() -> u64, watch: &mut Watch) -> anyhow::Result<()> {
    let patient_until = Instant::now() + PATIENCE;
    while acked() < EVENTS {
        watch.look(acked());
        anyhow::ensure!(
            Instant::now() < patient_until,
            "the broker took too long: {} of {EVENTS} events",
            acked()
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn ship(
    dir: PathBuf,
    publisher: &Publisher,
    round: u64,
    pid: u32,
) -> anyhow::Result<(Filled, Round)> {
    let (let_in, open) = watch::channel(false);
    let broker = Gated {
        publisher: publisher.clone(),
        open,
    };
    let options = OutboxOptions {
        dir,
        owner: Owner::Collector,
        producer_name: "bench".to_owned(),
        shards: SHARDS,
        limits: OutboxLimits::default(),
    };
    let outbox = Outbox::open(options, Arc::new(broker))?;
    let handle = outbox.handle();
    let filled = fill(&handle, round).await?;
    let mut watch = Watch { pid, began: None };
    let_in.send_replace(true);
    until_all(|| EVENTS - handle.status().unsent_events, &mut watch).await?;
    let status = handle.status();
    let round = watch.end(status.frames, status.framed_bytes)?;
    let left = outbox.drain(PATIENCE).await.left_events;
    anyhow::ensure!(left == 0, "{left} events were left");
    Ok((filled, round))
}

/// Fills the outbox as a collector does: several requests at once, each with a batch. Making the events is part of
/// the processor time that is told.
async fn fill(handle: &OutboxHandle, round: u64) -> anyhow::Result<Filled> {
    let (began, before) = (Instant::now(), Usage::own());
    let mut filling = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let handle = handle.clone();
        filling.spawn(async move {
            let mut events = Events::new(round * CALLERS as u64 + caller as u64, SHARDS);
            for _ in 0..EVENTS as usize / CALLERS / BATCH {
                let item = |(shard, event)| Item::Event { shard, event };
                let batch: Vec<Item> = (0..BATCH).map(|_| item(events.next())).collect();
                handle.accept(batch).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(filled) = filling.join_next().await {
        filled??;
    }
    let elapsed = began.elapsed().as_secs_f64();
    Ok(Filled {
        events_per_s: EVENTS as f64 / elapsed,
        fsyncs_per_s: handle.status().fsyncs as f64 / elapsed,
        own: Usage::own().since(before),
    })
}
