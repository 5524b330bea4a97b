//! A verification at work: some shards at a time, each folded again into a generation of its own in scratch, compared
//! and removed.
//!
//! Cells, which are nearly all of a state, are counted in the course of the fold and not written, see
//! [`adtally_projections::unwritten`]: only where the two states differ is it folded a second time, for the lines in
//! which they do.
//!
//! Limits: as much of RocksDB's memory as [`MEMORY`] for all of them together; for each shard that is at work a
//! reader's queue (8 MiB), a batch (16 MiB), two fingerprints (4 MiB each) and twice the names of its symbols; on disk a
//! second copy of what such a shard's state has besides cells, for which there must be room before it begins.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use adtally_projections::compare::{Differences, Fingerprint, Slots};
use adtally_projections::dump::{is_of_cells, shown_horizon};
use adtally_projections::family::Family;
use adtally_projections::incidents::BadFrame;
use adtally_projections::position::Position;
use adtally_projections::spans::{Margins, Retention};
use adtally_projections::unwritten::{Compared, Unwritten};
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
use crate::projector::folder::Folder;
use crate::projector::rebuild::{Ended, Rebuild, Seen};
use crate::projector::reports::{self, ProducerReport};
use crate::projector::{BatchLimits, ProjectorError, Until};
use crate::replay::range::{From, Range, To};
use crate::replay::source::Source;
use crate::store::{self, Building, Limits, Memory, Shard, ShardSnapshot, checkpoints};

/// RocksDB's memory for everything that a verification has open.
pub const MEMORY: Limits = Limits {
    block_cache_bytes: 64 << 20,
    write_buffer_bytes: 64 << 20,
    retention: Retention::ALL,
    margins: Margins::USUAL,
};
/// Room on the disk beyond a second copy of what is written of a shard's state: what is being compacted.
const SPARE_BYTES: u64 = 256 << 20;
/// How many times the live fold's batch is folded at once: the more events, the more of them meet in a cell.
const BATCH_TIMES: usize = 2;
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

/// A shard that was folded again.
struct Again {
    seen: Seen,
    compared: Compared,
    bad: Vec<BadFrame>,
    bad_count: u64,
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
        let shard = plan.frozen.shard;
        let state = &plan.frozen.state;
        let live = Shard::open_read_only(shard, &plan.generation, state, memory)?;
        self.room_for(plan, &live)?;
        let mut live = live.snapshot()?;
        let first = self.fold_again(plan, &mut live, None, memory, told)?;
        let again = first.compared.print;
        let print = Fingerprint::of(&live)?;
        let slots = print.differing(&again);
        let found = match slots.is_empty() {
            true => Differences::default(),
            false => self.differences(plan, &mut live, &slots, memory, told)?,
        };
        let mut bad = first.bad;
        bad.truncate(MAX_TOLD);
        // Sums that have saturated are other ones in parts; what decides are the lines.
        let is_equal = found.list.is_empty() && !found.more;
        let verdict = ShardVerdict {
            shard,
            generation: plan.generation.clone(),
            from_sequence: plan.source.begins_after(),
            sequence: plan.live.sequence,
            log_time: Some(to_rfc3339(plan.live.log_time_ms)),
            messages: first.seen.messages,
            events: Kind::ALL
                .into_iter()
                .map(|kind| (kind.name(), first.seen.events[kind as usize]))
                .collect(),
            lines: print.lines,
            live_hash: print.hash(),
            again_hash: if is_equal { print.hash() } else { again.hash() },
            more_differences: found.more || found.list.len() > MAX_TOLD,
            differences: found
                .list
                .into_iter()
                .take(MAX_TOLD)
                .map(Told::from)
                .collect(),
            stream_ends_at: plan.ends_at,
            missing: first.seen.missing,
            missing_messages: first.seen.missing_messages,
            bad_frames: bad.into_iter().map(Bad::from).collect(),
            bad_frames_count: first.bad_count,
        };
        Ok(Found {
            verdict,
            reports: first.reports,
        })
    }

    /// The lines in which the states differ, for which it is folded once more.
    fn differences(
        &self,
        plan: &Plan,
        live: &mut ShardSnapshot<'_>,
        slots: &Slots,
        memory: &Memory,
        told: &watch::Sender<Progress>,
    ) -> Result<Differences, VerifyError> {
        let more = plan.end.saturating_sub(plan.source.begins_after());
        told.send_modify(|p| p.of += more);
        let second = self.fold_again(plan, live, Some(slots), memory, told)?;
        let (live, again) = (slots.lines(live)?, second.compared.lines);
        Ok(Differences::of(slots, &live, &again))
    }

    /// Folds into scratch and says what it comes to, with the lines of some slots where they are given. Both states are
    /// then shown from where both of them keep cells.
    fn fold_again(
        &self,
        plan: &Plan,
        live: &mut ShardSnapshot<'_>,
        slots: Option<&Slots>,
        memory: &Memory,
        told: &watch::Sender<Progress>,
    ) -> Result<Again, VerifyError> {
        if self.stop.is_cancelled() {
            return Err(VerifyError::Interrupted);
        }
        let from = plan.source.from.as_ref();
        let name = store::new_name();
        let building = Building::begin(&self.scratch, plan.frozen.shard, &name, from, memory)?;
        let again = self.fold_in(plan, live, slots, building.shard(), told);
        building.discard();
        again
    }

    fn fold_in(
        &self,
        plan: &Plan,
        live: &mut ShardSnapshot<'_>,
        slots: Option<&Slots>,
        again: &Arc<Shard>,
        told: &watch::Sender<Progress>,
    ) -> Result<Again, VerifyError> {
        let mut cells = {
            let mut begun = again.snapshot()?;
            // Under a setting that was changed one of them may have deleted what the other one keeps.
            let both = live.deleted()?.and(&begun.deleted()?);
            live.show_from(both);
            let horizon = shown_horizon(live)?;
            begun.show_from(horizon);
            Unwritten::begin(&begun, horizon, slots)?
        };
        let seen = self.fold(plan, again, &mut cells, told)?;
        let again = again.snapshot()?;
        Ok(Again {
            seen,
            compared: cells.finish(&again)?,
            bad: reports::bad_frames(&again)?,
            bad_count: reports::incident_counts(&again)?.bad_frames,
            reports: reports::producers(&again)?,
        })
    }

    /// Folds up to the position, as far as the stream has it.
    fn fold(
        &self,
        plan: &Plan,
        again: &Arc<Shard>,
        cells: &mut Unwritten,
        told: &watch::Sender<Progress>,
    ) -> Result<Seen, VerifyError> {
        let until = Until {
            sequence: Some(plan.end),
            time_ms: None,
        };
        let (shard, stop) = (plan.frozen.shard, self.stop.clone());
        let created_ns = plan.live.stream_created_ns;
        let folder = Folder::open_unwritten(Arc::clone(again), created_ns, cells)?;
        let rebuild = Rebuild::of(shard, folder, &self.client, until, stop);
        let mut rebuild = rebuild.in_batches_of(BatchLimits::default().times(BATCH_TIMES));
        let counted = AtomicU64::new(plan.source.begins_after());
        let mut tell = |sequence: u64| {
            let before = counted.swap(sequence, Ordering::Relaxed);
            told.send_modify(|p| p.messages += sequence.saturating_sub(before));
        };
        match plan.source.fold(&mut rebuild, plan.end, &mut tell)? {
            Ended::There | Ended::Until => {}
            Ended::Stopped | Ended::Purged(_) => return Err(VerifyError::Interrupted),
        }
        let mut seen = rebuild.into_seen();
        let there = plan.live.sequence.min(plan.ends_at.unwrap_or(u64::MAX));
        seen.lacks(plan.end + 1, there);
        Ok(seen)
    }

    fn room_for(&self, plan: &Plan, live: &Shard) -> Result<(), VerifyError> {
        let is_cells = |name: &str| {
            Family::ALL
                .iter()
                .any(|f| f.name() == name && is_of_cells(*f))
        };
        let needed = live.file_bytes(|name| !is_cells(name))? + SPARE_BYTES;
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
