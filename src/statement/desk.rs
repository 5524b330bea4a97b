//! Statements for the HTTP API: those of now from the state in use, those of a past time from the log, read again.
//!
//! Reading the log takes as long as it takes: whoever asks waits for a while, then hears that it is under way, and asks
//! again. One time is read at once, and the last few states stay open for a while, so that many may ask about one.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use adtally_projections::spans::{Margins, Retention};
use async_nats::Client;
use futures_util::future::{BoxFuture, FutureExt, Shared};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::closed::Closed;
use super::compute::{Ground, at_state, compute};
use super::{Asked, Document, StatementError, check_settled};
use crate::archive;
use crate::query::shard::SnapshotSet;
use crate::query::{Cancel, DEADLINE, Engine};
use crate::replay::at::{self, StateAt};
use crate::scratch::Scratch;
use crate::store::{Limits, Memory};

/// How long somebody waits for a state before he hears that it is under way.
const WAIT: Duration = Duration::from_secs(20);
/// Past states that stay open.
const MAX_OPEN: usize = 2;
/// How long one stays open after it was last asked for.
const OPEN_FOR: Duration = Duration::from_secs(600);
/// How often one is looked for that nobody needs.
const TIDY_EVERY: Duration = Duration::from_secs(30);
/// Memory of all past states: they are written once and read seldom.
const MEMORY: Limits = Limits {
    block_cache_bytes: 16 << 20,
    write_buffer_bytes: 64 << 20,
    retention: Retention::ALL,
    margins: Margins::USUAL,
};

type Opening = Shared<BoxFuture<'static, Result<Arc<StateAt>, Arc<StatementError>>>>;

struct Open {
    time_ms: i64,
    asked: Instant,
    state: Opening,
}

/// Answers for statements.
#[derive(Clone)]
pub struct Desk {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    engine: Engine,
    shards: u16,
    data_dir: PathBuf,
    archive: archive::Place,
    stop: CancellationToken,
    open: Mutex<Vec<Open>>,
}

impl Desk {
    /// Over the state that `engine` reads and the log of that many shards; past states begin with the checkpoints of
    /// the data folder and lie in its scratch folder; what the log's streams have no longer is in the archive. The task
    /// ends, with every state closed, after `stop`.
    pub fn start(
        client: Client,
        engine: Engine,
        shards: u16,
        (data_dir, archive): (PathBuf, archive::Place),
        stop: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let open = Mutex::default();
        let desk = Self {
            inner: Arc::new(Inner {
                client,
                engine,
                shards,
                data_dir,
                archive,
                stop,
                open,
            }),
        };
        let tidying = tokio::spawn(desk.clone().tidy());
        (desk, tidying)
    }

    /// Closes what nobody has asked for in a while, and at the end everything.
    async fn tidy(self) {
        loop {
            let ends = tokio::select! {
                () = self.inner.stop.cancelled() => true,
                () = tokio::time::sleep(TIDY_EVERY) => false,
            };
            let old = |open: &Open| ends || open.asked.elapsed() >= OPEN_FOR;
            let closing: Vec<Open> = self.open().extract_if(.., |open| old(open)).collect();
            // RocksDB closes and files are removed in the thread that drops the last of it.
            if tokio::task::spawn_blocking(move || drop(closing))
                .await
                .is_err()
            {
                tracing::error!("closing a state of the past panicked");
            }
            if ends {
                return;
            }
        }
    }

    /// The statement as of a log time, or as of now.
    ///
    /// # Errors
    /// [`StatementError`]; [`StatementError::Folding`] and [`StatementError::Busy`] go away by themselves.
    pub async fn statement(
        &self,
        asked: Asked,
        as_of_ms: Option<i64>,
    ) -> Result<Document, StatementError> {
        let client = &self.inner.client;
        let closed = Closed::read(client, as_of_ms, &asked.advertiser).await?;
        if let Some((_, document)) = closed.find(&asked) {
            return Ok(document.clone());
        }
        if let Some(as_of_ms) = as_of_ms {
            check_settled(as_of_ms, chrono::Utc::now().timestamp_millis())?;
        }
        let state = match as_of_ms {
            Some(time_ms) => Some(self.state(time_ms).await?),
            None => None,
        };
        let ground = Arc::new(Ground::read(client, as_of_ms, &asked.advertiser).await?);
        let Some(state) = state else {
            let of_now = move |set: &SnapshotSet<'_>, cancel: &Cancel| {
                // What goes wrong about the state is the engine's to tell; the rest is passed through.
                match compute(set, &ground, &asked, cancel) {
                    Err(StatementError::Query(error)) => Err(error),
                    other => Ok(other.map(|computed| computed.document())),
                }
            };
            return self.inner.engine.run("statement", of_now).await?;
        };
        let cancel = Cancel::after(DEADLINE);
        let computed =
            tokio::task::spawn_blocking(move || at_state(&state, &ground, &asked, &cancel));
        let computed = computed.await.map_err(|error| {
            StatementError::Query(crate::query::QueryError::Store(error.to_string()))
        })??;
        Ok(computed.document())
    }

    fn open(&self) -> MutexGuard<'_, Vec<Open>> {
        self.inner
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The state at a log time, which may have to be made.
    async fn state(&self, time_ms: i64) -> Result<Arc<StateAt>, StatementError> {
        let opening = self.opening(time_ms)?;
        let Ok(opened) = tokio::time::timeout(WAIT, opening).await else {
            return Err(StatementError::Folding);
        };
        opened.map_err(|error| {
            // It may go better the next time.
            self.open().retain(|open| open.time_ms != time_ms);
            let told = crate::query::QueryError::Store(error.to_string());
            match Arc::try_unwrap(error) {
                Ok(error) => error,
                Err(_) => StatementError::Query(told),
            }
        })
    }

    fn opening(&self, time_ms: i64) -> Result<Opening, StatementError> {
        let mut open = self.open();
        let now = Instant::now();
        if let Some(known) = open.iter_mut().find(|o| o.time_ms == time_ms) {
            known.asked = now;
            return Ok(known.state.clone());
        }
        if open.iter().any(|o| o.state.peek().is_none()) {
            return Err(StatementError::Busy);
        }
        while open.len() >= MAX_OPEN {
            let oldest = (0..open.len()).min_by_key(|at| open[*at].asked);
            let oldest = open.remove(oldest.unwrap_or_default());
            tokio::task::spawn_blocking(move || drop(oldest));
        }
        let inner = Arc::clone(&self.inner);
        let state = async move {
            let opened = open_at(&inner, time_ms).await;
            opened.map(Arc::new).map_err(Arc::new)
        };
        let state = state.boxed().shared();
        // It goes on while nobody waits for it.
        tokio::spawn(state.clone());
        open.push(Open {
            time_ms,
            asked: now,
            state: state.clone(),
        });
        Ok(state)
    }
}

async fn open_at(inner: &Inner, time_ms: i64) -> Result<StateAt, StatementError> {
    let data_dir = &inner.data_dir;
    let scratch = Scratch::make(data_dir)?;
    let memory = Memory::start(data_dir, MEMORY)?;
    let log = at::Log {
        client: &inner.client,
        shards: inner.shards,
        checkpoints: Some(data_dir),
        archive: &inner.archive,
    };
    Ok(at::open(log, time_ms, scratch, &memory, &inner.stop).await?)
}
