//! A verification at work: some shards at a time, each folded again into a generation of its own in scratch, compared
//! and removed.
//!
//! Limits: as much of RocksDB's memory as [`MEMORY`] for all of them together; for each shard that is at work a
//! reader's queue (8 MiB), a batch (16 MiB), two fingerprints (4 MiB each) and the names of its symbols; on disk a
//! second copy of each such shard's state, for which there must be room before it begins.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use adtally_projections::compare::{Differences, Fingerprint};
use adtally_projections::position::Position;
use adtally_projections::spans::{Margins, Retention};
use adtally_streams::event::Kind;
use adtally_streams::names::events_stream;
use adtally_streams::time::to_rfc3339;
use async_nats::Client;
use async_nats::jetstream::{self, Context};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::{Bad, MAX_TOLD, ShardVerdict, Told, Verdict, VerifyError};
use crate::archive;
use crate::frozen::FrozenShard;
use crate::log::reader::message_at;
use crate::log::streams::info_of;
use crate::producers::Sums;
use crate::projector::rebuild::{Ended, Rebuild, Seen};
use crate::projector::reports::{self, ProducerReport};
use crate::projector::{ProjectorError, Until};
use crate::replay::range::{From, Range, To};
use crate::replay::source::Source;
use crate::store::{self, Building, Limits, Memory, Shard, checkpoints};

/// RocksDB's memory for everything that a verification has open.
pub const MEMORY: Limits = Limits {
    block_cache_bytes: 64 << 20,
    write_buffer_bytes: 64 << 20,
    retention: Retention::ALL,
    margins: Margins::USUAL,
};
/// Room on the disk beyond a second copy of a shard's state: its write-ahead log and what is being compacted.
const SPARE_BYTES: u64 = 256 << 20;
/// Messages that are asked for before a position whose own message is gone.
const END_LOOKED_AT: u64 = 10_000;

/// What is to be verified.
#[derive(Clone)]
pub struct Job {
    /// The connection to the broker.
    pub client: Client,
    /// The data folder, for its checkpoints.
    pub data_dir: PathBuf,
    /// Where the archive is that has what the streams have no longer.
    pub archive: archive::Place,
    /// The states that are checked, at their positions.
    pub frozen: Vec<FrozenShard>,
    /// Where they are folded again; nothing stays there.
    pub scratch: PathBuf,
    /// Each begins with the newest checkpoint at or before that, or with the log.
    pub from: From,
    /// How long the states keep cells.
    pub retention: Retention,
    /// How many shards at once.
    pub at_once: usize,
    /// Interrupts it.
    pub stop: CancellationToken,
}

/// How far it is, in messages of all shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Read again.
    pub messages: u64,
    /// To be read, as far as is known.
    pub of: u64,
}

/// A shard's end in the log that is to be verified, and where the fold begins.
struct Plan {
    frozen: FrozenShard,
    generation: String,
    live: Position,
    source: Source,
    /// The last message that the stream has up to the position.
    end: u64,
    /// The stream's last sequence, where that is before the position.
    ends_at: Option<u64>,
}

struct Found {
    verdict: ShardVerdict,
    reports: Vec<ProducerReport>,
}

impl Job {
    /// Verifies all of it; `told` hears how far it is.
    ///
    /// # Errors
    /// [`VerifyError`] when it cannot be done.
    pub async fn run(self, told: watch::Sender<Progress>) -> Result<Verdict, VerifyError> {
        let began = Instant::now();
        let limits = Limits {
            retention: self.retention,
            ..MEMORY
        };
        let memory = Memory::start(&self.scratch, limits)?;
        let jetstream = jetstream::new(self.client.clone());
        let (mut plans, mut verdicts) = (Vec::new(), Vec::new());
        for frozen in &self.frozen {
            match self.plan(&jetstream, frozen).await? {
                Some(plan) => plans.push(plan),
                None => verdicts.push(ShardVerdict {
                    shard: frozen.shard,
                    ..ShardVerdict::default()
                }),
            }
        }
        let of = plans
            .iter()
            .map(|p| p.end.saturating_sub(p.source.begins_after()));
        told.send_replace(Progress {
            messages: 0,
            of: of.sum(),
        });
        let permits = Arc::new(Semaphore::new(self.at_once.max(1)));
        let (job, told) = (Arc::new(self), Arc::new(told));
        let works = plans.into_iter().map(|plan| {
            let (job, told, memory) = (Arc::clone(&job), Arc::clone(&told), memory.clone());
            let permits = Arc::clone(&permits);
            async move {
                let shard = plan.frozen.shard;
                let _permit = permits.acquire_owned().await;
                let work = tokio::task::spawn_blocking({
                    let job = Arc::clone(&job);
                    move || job.one(&plan, &memory, &told)
                });
                let found = work.await;
                let found = found.unwrap_or(Err(VerifyError::Panicked { shard }));
                if found.is_err() {
                    // The others would work for no verdict.
                    job.stop.cancel();
                }
                found
            }
        });
        let done = futures_util::future::join_all(works).await;
        let (mut sums, mut errors) = (Sums::default(), Vec::new());
        for found in done {
            match found {
                Ok(found) => {
                    let shard = found.verdict.shard;
                    found.reports.into_iter().for_each(|r| sums.add(shard, r));
                    verdicts.push(found.verdict);
                }
                Err(error) => errors.push(error),
            }
        }
        if let Some(error) = cause(errors) {
            return Err(error);
        }
        verdicts.sort_by_key(|v| v.shard);
        Ok(Verdict::of(verdicts, sums, began.elapsed().as_secs_f64()))
    }

    /// Looks at a shard's stream; none while its state is before the first message.
    async fn plan(
        &self,
        jetstream: &Context,
        frozen: &FrozenShard,
    ) -> Result<Option<Plan>, VerifyError> {
        let Some(record) = &frozen.record else {
            return Ok(None);
        };
        let (shard, live) = (frozen.shard, record.position());
        let stream = events_stream(shard);
        let info = info_of(jetstream, &stream).await?;
        let found = info.created.unix_timestamp_nanos() as i64;
        if found != live.stream_created_ns {
            return Err(VerifyError::OtherStream {
                shard,
                stream,
                folded: live.stream_created_ns,
                found,
            });
        }
        let last = info.state.last_sequence;
        let mut until = live.sequence.min(last);
        let source = loop {
            let range = Range {
                from: self.from,
                to: Some(To::Sequence(until)),
            };
            let (data_dir, archive) = (&self.data_dir, &self.archive);
            let source = Source::find(jetstream, data_dir, archive, shard, &range).await?;
            // A checkpoint is not held against itself.
            match source.from.as_ref().map(store::Checkpoint::state) {
                Some(state) if state == frozen.state => until = live.sequence - 1,
                _ => break source,
            }
        };
        let end = end_of(
            jetstream,
            &stream,
            live.sequence.min(last),
            // What is archived is read there, whether it ends with a message or not.
            source
                .begins_after()
                .max(source.archived)
                .min(live.sequence.min(last)),
        );
        Ok(Some(Plan {
            frozen: frozen.clone(),
            generation: record.generation.clone(),
            live,
            end: end.await?,
            source,
            ends_at: (last < live.sequence).then_some(last),
        }))
    }

    /// Verifies one shard. Blocks.
    fn one(
        &self,
        plan: &Plan,
        memory: &Memory,
        told: &watch::Sender<Progress>,
    ) -> Result<Found, VerifyError> {
        if self.stop.is_cancelled() {
            return Err(VerifyError::Interrupted);
        }
        let shard = plan.frozen.shard;
        self.room_for(plan)?;
        let from = plan.source.from.as_ref();
        let name = store::new_name();
        let building = Building::begin(&self.scratch, shard, &name, from, memory)?;
        let found = self.fold_and_compare(plan, building.shard(), memory, told);
        building.discard();
        found
    }

    fn fold_and_compare(
        &self,
        plan: &Plan,
        again: &Arc<Shard>,
        memory: &Memory,
        told: &watch::Sender<Progress>,
    ) -> Result<Found, VerifyError> {
        let shard = plan.frozen.shard;
        let seen = self.fold(plan, again, told)?;
        let state = &plan.frozen.state;
        let live = Shard::open_read_only(shard, &plan.generation, state, memory)?;
        let (mut live, mut again) = (live.snapshot()?, again.snapshot()?);
        // Under a setting that was changed one of them may have deleted what the other one keeps.
        let both = live.deleted()?.and(&again.deleted()?);
        live.show_from(both);
        again.show_from(both);
        let prints = [Fingerprint::of(&live)?, Fingerprint::of(&again)?];
        let slots = prints[0].differing(&prints[1]);
        let found = match slots.is_empty() {
            true => Differences::default(),
            false => Differences::of(&slots, &slots.lines(&live)?, &slots.lines(&again)?),
        };
        let mut bad = reports::bad_frames(&again)?;
        bad.truncate(MAX_TOLD);
        let verdict = ShardVerdict {
            shard,
            generation: plan.generation.clone(),
            from_sequence: plan.source.begins_after(),
            sequence: plan.live.sequence,
            log_time: Some(to_rfc3339(plan.live.log_time_ms)),
            messages: seen.messages,
            events: Kind::ALL
                .into_iter()
                .map(|kind| (kind.name(), seen.events[kind as usize]))
                .collect(),
            lines: prints[0].lines,
            live_hash: prints[0].hash(),
            again_hash: prints[1].hash(),
            more_differences: found.more || found.list.len() > MAX_TOLD,
            differences: found
                .list
                .into_iter()
                .take(MAX_TOLD)
                .map(Told::from)
                .collect(),
            stream_ends_at: plan.ends_at,
            missing: seen.missing,
            missing_messages: seen.missing_messages,
            bad_frames: bad.into_iter().map(Bad::from).collect(),
            bad_frames_count: reports::incident_counts(&again)?.bad_frames,
        };
        let reports = reports::producers(&again)?;
        Ok(Found { verdict, reports })
    }

    /// Folds up to the position, as far as the stream has it.
    fn fold(
        &self,
        plan: &Plan,
        again: &Arc<Shard>,
        told: &watch::Sender<Progress>,
    ) -> Result<Seen, VerifyError> {
        let until = Until {
            sequence: Some(plan.end),
            time_ms: None,
        };
        let created_ns = plan.live.stream_created_ns;
        let stop = self.stop.clone();
        let mut rebuild = Rebuild::begin(again, &self.client, created_ns, until, stop)?;
        let counted = AtomicU64::new(plan.source.begins_after());
        let mut tell = |sequence: u64| {
            let before = counted.swap(sequence, Ordering::Relaxed);
            told.send_modify(|p| p.messages += sequence.saturating_sub(before));
        };
        match plan.source.fold(&mut rebuild, plan.end, &mut tell)? {
            Ended::There | Ended::Until => {}
            Ended::Stopped | Ended::Purged(_) => return Err(VerifyError::Interrupted),
        }
        let mut seen = rebuild.seen().clone();
        let there = plan.live.sequence.min(plan.ends_at.unwrap_or(u64::MAX));
        seen.lacks(plan.end + 1, there);
        Ok(seen)
    }

    fn room_for(&self, plan: &Plan) -> Result<(), VerifyError> {
        let needed = bytes_of(&plan.frozen.state) + SPARE_BYTES;
        match checkpoints::free_bytes(&self.scratch) {
            Some(free) if free < needed => Err(VerifyError::NoRoom {
                shard: plan.frozen.shard,
                folder: self.scratch.display().to_string(),
                needed_mib: needed >> 20,
                free_mib: free >> 20,
            }),
            _ => Ok(()),
        }
    }
}

/// The last sequence up to `last` of which the stream has the message, or `after` when there is none after that: a
/// reader would wait in vain for one that is gone.
async fn end_of(
    jetstream: &Context,
    stream: &str,
    last: u64,
    after: u64,
) -> Result<u64, VerifyError> {
    for sequence in (after + 1..=last).rev().take(END_LOOKED_AT as usize) {
        if message_at(jetstream, stream, sequence).await?.is_some() {
            return Ok(sequence);
        }
    }
    match last.saturating_sub(after) > END_LOOKED_AT {
        true => Err(VerifyError::NoEnd {
            stream: stream.to_owned(),
            looked_at: END_LOOKED_AT,
            last,
        }),
        false => Ok(after),
    }
}

/// The error that ended it, not the interruption of the other shards that followed.
fn cause(errors: Vec<VerifyError>) -> Option<VerifyError> {
    let mut first = None;
    for error in errors {
        let follows = matches!(
            error,
            VerifyError::Interrupted | VerifyError::Projector(ProjectorError::Thread { .. })
        );
        if !follows {
            return Some(error);
        }
        first.get_or_insert(error);
    }
    first
}

/// Bytes of a closed state's files; those that are gone meanwhile count nothing.
fn bytes_of(state: &Path) -> u64 {
    let files = std::fs::read_dir(state).into_iter().flatten().flatten();
    files.filter_map(|f| Some(f.metadata().ok()?.len())).sum()
}

/// The newest checkpoint of each shard at or before `to`, as states to be checked. A copy of each is linked below
/// `into`, so that the retention cannot take it away meanwhile. Blocks.
///
/// # Errors
/// [`VerifyError::NoCheckpoint`], and [`VerifyError::Store`] when one cannot be read or linked.
pub fn checkpoints_at(
    data_dir: &Path,
    shards: &[u16],
    to: To,
    into: &Path,
) -> Result<Vec<FrozenShard>, VerifyError> {
    let is_within = |position: &Position| match to {
        To::Sequence(sequence) => position.sequence <= sequence,
        To::Time(ms) => position.log_time_ms <= ms,
    };
    let at = |p: &Position| format!("sequence {} of {}", p.sequence, to_rfc3339(p.log_time_ms));
    let mut frozen = Vec::new();
    for shard in shards {
        let kept = checkpoints::list(data_dir, *shard)?;
        let chosen = kept.iter().rfind(|c| is_within(&c.record.position()));
        let Some(chosen) = chosen else {
            let oldest = kept.first().map(|c| at(&c.record.position()));
            return Err(VerifyError::NoCheckpoint {
                shard: *shard,
                kept: oldest.map_or("it has none".into(), |o| format!("its oldest is at {o}")),
            });
        };
        let state = into.join(shard.to_string());
        checkpoints::fork(&chosen.state(), &state).map_err(VerifyError::Store)?;
        frozen.push(FrozenShard {
            shard: *shard,
            record: Some(chosen.record.clone()),
            state,
        });
    }
    Ok(frozen)
}
