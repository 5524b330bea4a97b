//! Snapshots that are held for others: a thread each, which answers what it is asked of its one shard.
//!
//! Invariant: all that a session answers is read from the one snapshot that it was opened with. It ends when its asker
//! closes it, or is not heard of any more; how many there are is limited.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use adtally_projections::family::Family;
use adtally_projections::position::POSITION_KEY;
use adtally_projections::symbols::Space;
use adtally_streams::id::Id;
use tokio::sync::oneshot;

use super::wire::{
    Answer, Ask, Failure, MAX_ANSWER_BYTES, Opened, PART_BYTES, Page, Part, Row, Sums, encode,
    family,
};
use crate::query::analytics::part;
use crate::query::scope::{campaigns_of_ads, numbers};
use crate::query::shard::{Help, Shard, Snapshots};
use crate::query::{Cancel, CancelOnDrop, DEADLINE, QueryError};

/// The most snapshots that are held for others; one more is refused as busy. Each is a thread and what RocksDB may
/// not yet remove: 64 questions over 8 shards.
pub const MAX_SESSIONS: usize = 512;
/// How long one is held at most: as long as a question may take, and a little.
const HELD_FOR: Duration = DEADLINE.saturating_add(Duration::from_secs(5));
/// Bytes of rows in one answer to [`Ask::Scan`].
const PAGE_BYTES: usize = PART_BYTES - (8 << 10);

/// A question of a session and where its answer goes: a part as it travels.
type Work = (u64, Ask, oneshot::Sender<Vec<u8>>);

struct Held {
    to: SyncSender<Work>,
    /// Dropped with it: what is being worked on for it stops.
    _waiting: CancelOnDrop,
}

/// What this process holds for others.
#[derive(Clone)]
pub struct Sessions {
    snapshots: Arc<dyn Snapshots>,
    replica: String,
    held: Arc<Mutex<HashMap<u64, Held>>>,
}

impl Sessions {
    /// None yet, over a source of snapshots, in the process of that name.
    pub fn new(snapshots: Arc<dyn Snapshots>, replica: String) -> Self {
        Self {
            snapshots,
            replica,
            held: Arc::default(),
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<u64, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of a session.
    pub fn close(&self, session: u64) {
        self.held().remove(&session);
    }

    /// Lets go of all of them.
    pub fn end(&self) {
        self.held().clear();
    }

    /// Answers one question of a session; `Ask::Open` begins one. The answer as it travels.
    pub async fn answer(&self, session: u64, number: u64, ask: Ask) -> Vec<u8> {
        let to = match &ask {
            Ask::Open(shard) => match self.open(*shard) {
                Ok(to) => Some(to),
                Err(failure) => return failed(number, failure),
            },
            _ => self.held().get(&session).map(|held| held.to.clone()),
        };
        let (sender, answer) = oneshot::channel();
        let sent = to.is_some_and(|to| to.try_send((number, ask, sender)).is_ok());
        match sent {
            true => answer
                .await
                .unwrap_or_else(|_| failed(number, Failure::Gone)),
            false => failed(number, Failure::Gone),
        }
    }

    /// Begins a session's thread.
    fn open(&self, shard: u16) -> Result<SyncSender<Work>, Failure> {
        let session = rand::random::<u64>().max(1);
        let cancel = Cancel::after(HELD_FOR);
        // One question at a time is asked, and its answer waited for.
        let (to, work) = sync_channel(1);
        {
            let mut held = self.held();
            if held.len() >= MAX_SESSIONS {
                return Err(Failure::Busy);
            }
            let _waiting = CancelOnDrop(cancel.clone());
            held.insert(
                session,
                Held {
                    to: to.clone(),
                    _waiting,
                },
            );
        }
        let sessions = self.clone();
        let begun = std::thread::Builder::new()
            .name(format!("query-{shard}"))
            .spawn(move || {
                sessions.run(session, shard, &cancel, &work);
                sessions.close(session);
            });
        match begun {
            Ok(_) => Ok(to),
            Err(error) => {
                self.close(session);
                Err(Failure::Store(error.to_string()))
            }
        }
    }

    fn run(&self, session: u64, number: u16, cancel: &Cancel, work: &Receiver<Work>) {
        let mut run = |set: &crate::query::shard::SnapshotSet<'_>| {
            let Some(shard) = set.shards.iter().find(|shard| shard.number == number) else {
                return;
            };
            let session = Session {
                session,
                replica: &self.replica,
                generation: &set.generation,
                shard,
                cancel,
            };
            session.serve(work);
        };
        if let Err(error) = self.snapshots.with(&mut run) {
            tracing::error!(shard = number, %error, "no snapshot was taken for another process");
        }
    }
}

fn failed(number: u64, failure: Failure) -> Vec<u8> {
    encode(&Part {
        number,
        more: false,
        bytes: encode(&Answer::Failed(failure)),
    })
}

/// A snapshot that is held, on its thread.
struct Session<'s> {
    session: u64,
    replica: &'s str,
    generation: &'s str,
    shard: &'s Shard<'s>,
    cancel: &'s Cancel,
}

impl Session<'_> {
    /// Answers until nobody asks any more.
    fn serve(&self, work: &Receiver<Work>) {
        let until = Instant::now() + HELD_FOR;
        let mut rest: Vec<u8> = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let (number, ask, to) = match work.recv_timeout(left) {
                Ok(work) => work,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            };
            if !matches!(ask, Ask::More) {
                rest = self.whole(ask);
            }
            let behind = rest.split_off(rest.len().min(PART_BYTES));
            let part = Part {
                number,
                more: !behind.is_empty(),
                bytes: std::mem::replace(&mut rest, behind),
            };
            // Who has gone away does not hear it.
            let _ = to.send(encode(&part));
            if self.cancel.check().is_err() {
                return;
            }
        }
    }

    fn whole(&self, ask: Ask) -> Vec<u8> {
        let answer = self
            .answer(ask)
            .unwrap_or_else(|error| Answer::Failed(error.into()));
        let bytes = encode(&answer);
        if bytes.len() > MAX_ANSWER_BYTES {
            let detail = "a shard's part of the answer is too large to be sent; ask for a shorter range, a coarser \
                 granularity, or fewer groups";
            return encode(&Answer::Failed(Failure::Asked(None, detail.into())));
        }
        bytes
    }

    fn answer(&self, ask: Ask) -> Result<Answer, QueryError> {
        let shard = self.shard;
        Ok(match ask {
            Ask::Open(_) => Answer::Opened(Box::new(self.opened()?)),
            Ask::Get { family: name, key } => Answer::Value(
                shard
                    .rows
                    .get(family(&name)?, &key)?
                    .map(serde_bytes::ByteBuf::from),
            ),
            Ask::Scan {
                family: name,
                from,
                to,
            } => Answer::Page(self.page(family(&name)?, &from, &to)?),
            Ask::CampaignsOfAds(ads) => Answer::Campaigns(campaigns_of_ads(shard, &ads)?),
            Ask::Numbers { ads, campaigns } => {
                let campaigns: Vec<&Id> = campaigns.iter().collect();
                Answer::Numbers(Box::new(numbers(
                    shard,
                    &ads,
                    &campaigns,
                    self.cancel,
                    &Help::none(),
                )?))
            }
            Ask::Symbols { space, names } => {
                let space = Space::ALL.into_iter().find(|s| *s as u8 == space);
                let space = space.ok_or_else(|| {
                    QueryError::Store("a process asked for names of an unknown sort".into())
                })?;
                Answer::Symbols(shard.symbols(space, names.iter().map(String::as_str))?)
            }
            Ask::Sums(asked) => {
                let (scope, question, plan) = asked.read()?;
                let (mut sums, names, read) = part(
                    shard,
                    &scope,
                    &question,
                    &plan,
                    None,
                    (self.cancel, &Help::none()),
                )?;
                let mut bytes = Vec::new();
                sums.encode(&names, &mut bytes)?;
                Answer::Sums(Sums { sums: bytes, read })
            }
            Ask::More | Ask::Close => Answer::Failed(Failure::Gone),
        })
    }

    fn opened(&self) -> Result<Opened, QueryError> {
        let position = self.shard.rows.get(Family::Meta, POSITION_KEY)?;
        Ok(Opened {
            session: self.session,
            replica: self.replica.to_owned(),
            generation: self.generation.to_owned(),
            position: position.map(serde_bytes::ByteBuf::from),
            retention: self.shard.rows.retention(),
            producers: self.page(Family::Completeness, &[], &[0xff])?,
        })
    }

    fn page(&self, family: Family, from: &[u8], to: &[u8]) -> Result<Page, QueryError> {
        let mut page = Page::default();
        let mut bytes = 0;
        self.shard.rows.scan(family, from, to, &mut |key, value| {
            // A single row always fits: none is larger than a message.
            if bytes > 0 && bytes + key.len() + value.len() > PAGE_BYTES {
                page.more = true;
                return Ok(ControlFlow::Break(()));
            }
            bytes += key.len() + value.len() + 16;
            page.rows.push(Row(key.to_vec(), value.to_vec()));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(page)
    }
}
