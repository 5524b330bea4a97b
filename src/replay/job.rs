//! One replay at work: as many shards at a time as there are processors, a thread each.
//!
//! Limits: for each shard at work a reader's queue and a batch; all batches together hold at most [`BATCHES`] times what
//! one of the live fold does, about 300 bytes an event, unless there are more processors than that.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use adtally_streams::names::events_stream;
use async_nats::Client;
use async_nats::jetstream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::range::Range;
use super::source::Source;
use super::{ReplayError, ShardStatus, State, Status};
use crate::archive;
use crate::log::streams::info_of;
use crate::projector::rebuild::{Ended, Rebuild};
use crate::projector::{BatchLimits, ProjectorHandle};
use crate::store::{self, Building, Memory};

/// How many times the live fold's batch is held in the batches of all shards at work.
const BATCHES: usize = 8;
/// How many times the live fold's batch one is at most: a larger one saves little more.
const BATCH_TIMES: usize = 4;
/// How far from the end of a stream that still grows a generation may be put into use: the projector folds on.
const NEAR_MESSAGES: u64 = 64;

/// Where the generation in use is.
#[derive(Clone)]
pub enum Place {
    /// In a data folder that this process holds and does not serve.
    Stopped(Memory),
    /// Open in this process, whose projector folds on.
    Live(ProjectorHandle),
}

/// What is to be replayed where.
#[derive(Clone)]
pub struct Job {
    /// The connection to the broker.
    pub client: Client,
    /// The data folder.
    pub data_dir: PathBuf,
    /// Where the generations in use are.
    pub place: Place,
    /// The shards.
    pub shards: Vec<u16>,
    /// What part of the log.
    pub range: Range,
    /// Where the archive is that has what the streams have no longer.
    pub archive: archive::Place,
    /// Interrupts it.
    pub stop: CancellationToken,
}

/// A replay that is under way, or has ended.
#[derive(Debug)]
pub struct Started {
    /// How far it is.
    pub status: watch::Receiver<Status>,
    /// Interrupts it.
    pub stop: CancellationToken,
    /// Ends when it has.
    pub task: JoinHandle<()>,
}

impl Job {
    /// Looks whether everything can be replayed, removes what interrupted ones have left, and starts. Nothing is
    /// begun when one of the shards cannot be.
    ///
    /// # Errors
    /// [`ReplayError`] when the log is not there or has not what is needed, or the folder cannot be written.
    pub async fn start(self) -> Result<Started, ReplayError> {
        let jetstream = jetstream::new(self.client.clone());
        let mut sources = Vec::with_capacity(self.shards.len());
        for shard in &self.shards {
            let (data_dir, archive) = (&self.data_dir, &self.archive);
            let source = Source::find(&jetstream, data_dir, archive, *shard, &self.range);
            sources.push(source.await?);
        }
        let job = self.clone();
        let checked = tokio::task::spawn_blocking(move || -> Result<_, ReplayError> {
            for source in &sources {
                job.same_log(source)?;
                store::remove_unfinished(&job.data_dir, source.shard)?;
            }
            Ok(sources)
        });
        let sources = checked.await.map_err(|_| ReplayError::Panicked {
            shard: self.shards[0],
        })??;
        let generation = store::new_name();
        let (status, seen) = watch::channel(self.first_status(&generation, &sources));
        let stop = self.stop.clone();
        let task = tokio::spawn(self.run(generation, sources, status));
        Ok(Started {
            status: seen,
            stop,
            task,
        })
    }

    /// A state of another stream is not replaced by accident. One that cannot be read may be: that mends it.
    fn same_log(&self, source: &Source) -> Result<(), ReplayError> {
        let Place::Stopped(memory) = &self.place else {
            // The projector has looked, and folds no other stream.
            return Ok(());
        };
        match store::position_in_use(&self.data_dir, source.shard, memory) {
            Ok(Some(position)) if position.stream_created_ns != source.created_ns => {
                Err(ReplayError::OtherStream {
                    shard: source.shard,
                    stream: events_stream(source.shard),
                    folded: position.stream_created_ns,
                    found: source.created_ns,
                })
            }
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(shard = source.shard, %error, "the state in use cannot be read; it is built anew");
                Ok(())
            }
        }
    }

    fn first_status(&self, generation: &str, sources: &[Source]) -> Status {
        let shards = sources.iter().map(|source| {
            let folder = self.data_dir.join("shards").join(source.shard.to_string());
            ShardStatus {
                shard: source.shard,
                state: State::Folding,
                from_sequence: source.begins_after(),
                sequence: source.begins_after(),
                last_sequence: self.range.until().sequence.unwrap_or(source.last),
                messages_per_second: 0.0,
                seconds_left: None,
                folder: folder.join(generation),
            }
        });
        Status {
            generation: generation.to_owned(),
            shards: shards.collect(),
            finished: false,
            error: None,
        }
    }

    async fn run(self, generation: String, sources: Vec<Source>, status: watch::Sender<Status>) {
        let (job, status) = (Arc::new(self), Arc::new(status));
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let at_once = processors.min(sources.len()).max(1);
        let limits = BatchLimits::default().times((BATCHES / at_once).clamp(1, BATCH_TIMES));
        let permits = Arc::new(Semaphore::new(at_once));
        let threads = sources.into_iter().enumerate().map(|(index, source)| {
            let (job, generation) = (Arc::clone(&job), generation.clone());
            let (status, permits) = (Arc::clone(&status), Arc::clone(&permits));
            let shard = source.shard;
            let stop = job.stop.clone();
            async move {
                let _permit = permits.acquire_owned().await;
                let tell = Tell {
                    status,
                    index,
                    began: Instant::now(),
                };
                let work = move || job.one(source, &generation, limits, &tell);
                let done = tokio::task::spawn_blocking(work).await;
                let done = done.unwrap_or(Err(ReplayError::Panicked { shard }));
                if done.is_err() {
                    // The others would go on for a result that is no whole one.
                    stop.cancel();
                }
                done
            }
        });
        let done = futures_util::future::join_all(threads).await;
        let errors: Vec<ReplayError> = done.into_iter().filter_map(Result::err).collect();
        let cause = errors
            .iter()
            .find(|error| !matches!(error, ReplayError::Interrupted))
            .or(errors.first());
        let error = cause.map(ToString::to_string);
        if let Some(error) = &error {
            tracing::warn!(%generation, %error, "the replay did not come to its end");
        }
        status.send_modify(|status| {
            status.finished = true;
            status.error = error;
        });
    }

    /// Replays one shard. Blocks.
    fn one(
        &self,
        source: Source,
        generation: &str,
        limits: BatchLimits,
        tell: &Tell,
    ) -> Result<(), ReplayError> {
        if self.stop.is_cancelled() {
            return Err(ReplayError::Interrupted);
        }
        let from = source.from.as_ref();
        let building = match &self.place {
            Place::Stopped(memory) => {
                Building::begin(&self.data_dir, source.shard, generation, from, memory)?
            }
            Place::Live(projector) => {
                let shards = projector.shards();
                shards.build_beside(source.shard, generation, from)?
            }
        };
        let built = self.build(&source, &building, limits, tell);
        match &built {
            Ok(state) => {
                tell.state(*state);
                if matches!(self.place, Place::Stopped(_)) {
                    building.shard().close()?;
                }
            }
            Err(_) => building.discard(),
        }
        built.map(drop)
    }

    fn build(
        &self,
        source: &Source,
        building: &Building,
        limits: BatchLimits,
        tell: &Tell,
    ) -> Result<State, ReplayError> {
        let runtime = tokio::runtime::Handle::current();
        let jetstream = jetstream::new(self.client.clone());
        let until = self.range.until();
        let mut rebuild = Rebuild::begin(
            building.shard(),
            &self.client,
            source.created_ns,
            until,
            self.stop.clone(),
        )?
        .in_batches_of(limits);
        let mut last = source.last;
        loop {
            match source.fold(&mut rebuild, last, &mut |sequence| tell.at(sequence))? {
                Ended::Stopped => return Err(ReplayError::Interrupted),
                Ended::Until => break,
                Ended::There if until.is_somewhere() => break,
                Ended::There | Ended::Purged(_) => {}
            }
            let stream = events_stream(source.shard);
            last = runtime
                .block_on(info_of(&jetstream, &stream))?
                .state
                .last_sequence;
            tell.last(last);
            if last <= rebuild.sequence() + NEAR_MESSAGES {
                break;
            }
        }
        if until.is_somewhere() {
            building.keep()?;
            return Ok(State::Built);
        }
        match &self.place {
            Place::Stopped(_) => self.switch(building)?,
            Place::Live(projector) => {
                // What is on disk already need not be written while the shard stands still.
                building.shard().flush()?;
                self.hand_over(projector, &mut rebuild, source, building, tell)?;
            }
        }
        Ok(State::Switched)
    }

    /// The last moment at which an interruption is heard.
    fn switch(&self, building: &Building) -> Result<(), ReplayError> {
        if self.stop.is_cancelled() {
            return Err(ReplayError::Interrupted);
        }
        Ok(building.switch()?)
    }

    /// Exchanges the generation under a projector that folds on. Questions are answered throughout: from the old
    /// one until the new one is at least as far, then from the new one.
    fn hand_over(
        &self,
        projector: &ProjectorHandle,
        rebuild: &mut Rebuild,
        source: &Source,
        building: &Building,
        tell: &Tell,
    ) -> Result<(), ReplayError> {
        let shard = building.shard();
        let runtime = tokio::runtime::Handle::current();
        let stands = runtime.block_on(async {
            tokio::select! {
                stands = projector.stand_still(shard.number()) => stands,
                () = self.stop.cancelled() => None,
            }
        });
        let stands = stands.ok_or(ReplayError::Interrupted)?;
        match source.fold(rebuild, stands.sequence, &mut |sequence| tell.at(sequence))? {
            Ended::There => {}
            Ended::Until | Ended::Stopped | Ended::Purged(_) => {
                return Err(ReplayError::Interrupted);
            }
        }
        self.switch(building)?;
        projector.shards().replace(Arc::clone(shard));
        stands.go_on(Arc::clone(shard));
        Ok(())
    }
}

/// Tells how far a shard is.
struct Tell {
    status: Arc<watch::Sender<Status>>,
    index: usize,
    began: Instant,
}

impl Tell {
    fn at(&self, sequence: u64) {
        let seconds = self.began.elapsed().as_secs_f64();
        self.change(|shard| shard.at(sequence, seconds));
    }

    fn last(&self, last: u64) {
        self.change(|shard| shard.last_sequence = shard.last_sequence.max(last));
    }

    fn state(&self, state: State) {
        self.change(|shard| {
            shard.state = state;
            shard.last_sequence = shard.sequence;
            shard.seconds_left = Some(0);
        });
    }

    fn change(&self, change: impl FnOnce(&mut ShardStatus)) {
        self.status.send_modify(|status| {
            if let Some(shard) = status.shards.get_mut(self.index) {
                change(shard);
            }
        });
    }
}
