//! Replay and verification beside a reader of the same streams that decodes every frame and does nothing with it.
//!
//! Invariant: all of them read the same messages from the same nats-server, one thread a shard, in the same process.
//! A replay counts only when it has come to its end, a verification only when it has found no difference.

use std::path::Path;
use std::time::{Duration, Instant};

use adtally_projections::fold::Entry;
use adtally_streams::lane::FRAMES_IN_FLIGHT;
use adtally_streams::names::{events_stream, events_subject};
use anyhow::Context as _;
use async_nats::Client;
use async_nats::jetstream::{self, message::PublishMessage};
use futures_util::{TryStreamExt as _, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Figure;
use super::mixed::{Mixed, ROUND_EVENTS};
use super::usage::Usage;
use crate::archive;
use crate::frozen;
use crate::log::connect::{NatsOptions, connect};
use crate::log::embedded::NatsServer;
use crate::log::reader::ShardReader;
use crate::log::streams::{Limits, ensure, info_of};
use crate::projector::figures::{Framed, peak_memory_bytes};
use crate::replay::range::{From, Range};
use crate::replay::{Job, Place};
use crate::store::{Limits as StoreLimits, Memory};
use crate::telemetry;
use crate::verify;

/// Shards of the measured deployment.
const SHARDS: u16 = 8;
/// Turns of each, in alternation; the medians are compared.
const ROUNDS: usize = 3;

/// What one way through the log took.
#[derive(Clone, Copy, Debug)]
struct Took {
    time: Duration,
    own: Usage,
    broker: Usage,
}

/// A broker that holds the log.
struct Filled {
    server: NatsServer,
    client: Client,
    events: u64,
    bytes: u64,
}

/// Measures with `events` events, ten impressions to a click, in a folder of its own with a nats-server of its own.
pub async fn run(folder: &Path, events: u64) -> anyhow::Result<Vec<Figure>> {
    std::fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
    let filled = fill(folder, events).await?;
    let measured = measure(folder, &filled).await;
    filled.server.stop().await;
    measured
}

async fn fill(folder: &Path, events: u64) -> anyhow::Result<Filled> {
    telemetry::say(&format!("a log of {events} events on {SHARDS} shards ..."));
    let server = NatsServer::start(&folder.join("broker")).await?;
    let client = connect(&NatsOptions::of_url(server.url()), "adtally bench").await?;
    let jetstream = jetstream::new(client.clone());
    ensure(&jetstream, Some(SHARDS), &Limits::default()).await?;
    let each = events / u64::from(SHARDS);
    let mut bytes = 0;
    for shard in 0..SHARDS {
        let mut traffic = Mixed::new(shard, each);
        let mut done = 0;
        while done < each {
            let round = ROUND_EVENTS.min(each - done);
            let making = tokio::task::spawn_blocking(move || {
                let frames = traffic.frames(round);
                (traffic, frames)
            });
            let frames;
            (traffic, frames) = making.await?;
            done += round;
            bytes += frames.iter().map(|f| f.payload.len() as u64).sum::<u64>();
            publish(&jetstream, shard, frames).await?;
        }
    }
    Ok(Filled {
        server,
        client,
        events: each * u64::from(SHARDS),
        bytes,
    })
}

async fn publish(
    jetstream: &jetstream::Context,
    shard: u16,
    frames: Vec<Framed>,
) -> anyhow::Result<()> {
    stream::iter(frames.into_iter().map(Ok))
        .try_for_each_concurrent(FRAMES_IN_FLIGHT, |frame| async move {
            let message = PublishMessage::build().payload(frame.payload.into());
            let subject = events_subject(shard, frame.kind);
            jetstream.send_publish(subject, message).await?.await?;
            Ok(())
        })
        .await
}

async fn measure(folder: &Path, filled: &Filled) -> anyhow::Result<Vec<Figure>> {
    let (mut decoded, mut replayed, mut verified) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        telemetry::say(&format!(
            "decoding, replaying and verifying it, round {} ...",
            round + 1
        ));
        decoded.push(filled.timed(filled.decode()).await?);
        let data_dir = folder.join(format!("state-{round}"));
        replayed.push(filled.timed(filled.replay(&data_dir)).await?);
        verified.push(filled.timed(filled.verify(&data_dir)).await?);
        tokio::fs::remove_dir_all(&data_dir).await?;
    }
    Ok(filled.figures(median(decoded), median(replayed), median(verified)))
}

/// The turn of the median time.
fn median(mut turns: Vec<Took>) -> Took {
    turns.sort_by_key(|took| took.time);
    turns[turns.len() / 2]
}

impl Filled {
    async fn timed(&self, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Took> {
        let pid = self.server.pid().context("the nats-server runs")?;
        let (began, own, broker) = (Instant::now(), Usage::own(), Usage::of(pid));
        work.await?;
        Ok(Took {
            time: began.elapsed(),
            own: Usage::own().since(own),
            broker: Usage::of(pid).since(broker),
        })
    }

    /// Reads every shard to its end, a thread each, as a replay does, and decodes as it does.
    async fn decode(&self) -> anyhow::Result<()> {
        let jetstream = jetstream::new(self.client.clone());
        let mut threads = Vec::new();
        for shard in 0..SHARDS {
            let stream = events_stream(shard);
            let last = info_of(&jetstream, &stream).await?.state.last_sequence;
            let reader = ShardReader::open(self.client.clone(), &stream, 1, None);
            threads.push(tokio::task::spawn_blocking(move || decode_to(reader, last)));
        }
        let mut events = 0;
        for thread in threads {
            events += thread.await??;
        }
        anyhow::ensure!(
            events == self.events,
            "{events} of {} events were decoded",
            self.events
        );
        Ok(())
    }

    async fn replay(&self, data_dir: &Path) -> anyhow::Result<()> {
        let job = Job {
            client: self.client.clone(),
            data_dir: data_dir.to_path_buf(),
            place: Place::Stopped(Memory::start(data_dir, StoreLimits::default())?),
            shards: (0..SHARDS).collect(),
            range: Range {
                from: From::Beginning,
                to: None,
            },
            archive: no_archive(data_dir),
            stop: CancellationToken::new(),
        };
        let started = job.start().await?;
        started.task.await.context("the replay")?;
        let status = started.status.borrow().clone();
        anyhow::ensure!(status.error.is_none(), "the replay: {:?}", status.error);
        Ok(())
    }

    async fn verify(&self, data_dir: &Path) -> anyhow::Result<()> {
        let folder = data_dir.to_path_buf();
        let shards: Vec<u16> = (0..SHARDS).collect();
        let frozen = tokio::task::spawn_blocking(move || frozen::of_stopped(&folder, &shards));
        let scratch = data_dir.join("verified");
        std::fs::create_dir(&scratch)?;
        let job = verify::Job {
            client: self.client.clone(),
            data_dir: data_dir.to_path_buf(),
            archive: no_archive(data_dir),
            frozen: frozen.await??,
            scratch,
            from: From::Beginning,
            retention: StoreLimits::default().retention,
            at_once: std::thread::available_parallelism().map_or(1, usize::from),
            stop: CancellationToken::new(),
        };
        let verdict = job.run(watch::Sender::default()).await?;
        anyhow::ensure!(verdict.equal, "the verification found a difference");
        Ok(())
    }

    fn figures(&self, decoded: Took, replayed: Took, verified: Took) -> Vec<Figure> {
        let per_s = |took: &Took| self.events as f64 / took.time.as_secs_f64();
        let words = |took: &Took| {
            format!(
                "{:.2} M events/s, {:.2} us of processor an event here and {:.2} in nats-server",
                per_s(took) / 1e6,
                took.own.cpu_us_per(self.events),
                took.broker.cpu_us_per(self.events),
            )
        };
        let log = format!(
            "{:.1} M events, {:.1} bytes each, {SHARDS} shards",
            self.events as f64 / 1e6,
            self.bytes as f64 / self.events as f64
        );
        let most = peak_memory_bytes().map_or("?".to_owned(), |bytes| (bytes >> 20).to_string());
        vec![
            Figure {
                name: format!("replay: from the beginning, {log}"),
                value: format!("{}; memory at most {most} MiB", words(&replayed)),
                yardstick: format!("a reader that only decodes: {}", words(&decoded)),
                ratio: Some(per_s(&replayed) / per_s(&decoded)),
            },
            Figure {
                name: "replay: verify, of the same".to_owned(),
                value: words(&verified),
                yardstick: format!("the replay: {:.2} M events/s", per_s(&replayed) / 1e6),
                ratio: Some(per_s(&verified) / per_s(&replayed)),
            },
        ]
    }
}

/// Where no archive is: the streams hold everything.
fn no_archive(data_dir: &Path) -> archive::Place {
    archive::Place::Folder(data_dir.join("archive"))
}

/// Decodes a stream up to `last`, and counts its events. Blocks.
fn decode_to(mut reader: ShardReader, last: u64) -> anyhow::Result<u64> {
    let runtime = tokio::runtime::Handle::current();
    let (mut at, mut events) = (0, 0);
    while at < last {
        let mut next = runtime.block_on(reader.next());
        anyhow::ensure!(
            next.is_some(),
            "the stream ended at sequence {at} of {last}"
        );
        while let Some(message) = next {
            at = message.sequence;
            let entry = Entry::decode(at, message.broker_ms, &message.subject, &message.payload);
            events += std::hint::black_box(entry).events() as u64;
            next = reader.try_next();
        }
    }
    Ok(events)
}
