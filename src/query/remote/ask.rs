//! Shards that are elsewhere: whoever has one holds a snapshot for us, and answers what a question asks of it.
//!
//! Invariant: a question sees one snapshot of each shard, whoever holds it, or it fails and is asked again as a whole;
//! it is never answered from fewer shards than there are.

use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use adtally_projections::family::Family;
use adtally_projections::partial::{Names, ShardSums};
use adtally_projections::plan::Plan;
use adtally_projections::position::POSITION_KEY;
use adtally_projections::spans::Retention;
use adtally_projections::symbols::{Space, Symbol};
use adtally_streams::id::Id;
use async_nats::{Client, StatusCode, Subscriber};
use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::runtime::Handle;

use super::wire::{
    Answer, Ask, MAX_ANSWER_BYTES, NAMES_A_MESSAGE, Opened, Page, Part, Request, Row, SumsAsked,
    decode, dialect, encode, open_all_subject, open_subject, session_subject,
};
use crate::query::QueryError;
use crate::query::analytics::Question;
use crate::query::read::Read;
use crate::query::scope::{Numbers, ShardScope};
use crate::query::shard::{EachRow, Elsewhere, Shard, ShardRead, SnapshotSet, Snapshots};

/// How long the first process that is asked for a shard may take to take a snapshot, which is a matter of
/// milliseconds; then all of them are asked, and whoever is first counts.
const FIRST_WITHIN: Duration = Duration::from_millis(1_000);
/// How long they may take.
const ANY_WITHIN: Duration = Duration::from_millis(2_000);
/// How long a process that works on a question may be silent: it says every half second that it does.
const SILENT_FOR: Duration = Duration::from_millis(2_500);

/// Snapshots of shards that other processes have.
pub struct Remote {
    client: Client,
    shards: u16,
    runtime: Handle,
}

impl Remote {
    /// All of that many shards, asked for over `client`. Must be called within a Tokio runtime.
    pub fn new(client: Client, shards: u16) -> Self {
        Self {
            client,
            shards,
            runtime: Handle::current(),
        }
    }

    /// The numbers of all of them.
    pub fn shards(&self) -> std::ops::Range<u16> {
        0..self.shards
    }

    /// The shards for which nobody answers at this moment. An answer that says what is wrong is one.
    pub async fn away(&self) -> Vec<u16> {
        let opened = join_all(self.shards().map(|shard| self.open(shard))).await;
        let away = opened.into_iter().filter_map(|opened| match opened {
            Err(QueryError::ShardsAway(shards)) => Some(shards),
            Ok(_) | Err(_) => None,
        });
        away.flatten().collect()
    }

    async fn open(&self, shard: u16) -> Result<RemoteRows, QueryError> {
        let gone = |_| QueryError::ShardsAway(vec![shard]);
        let inbox = self.client.new_inbox();
        let answers = self.client.subscribe(inbox.clone()).await.map_err(gone)?;
        let mut line = Line {
            client: self.client.clone(),
            shard,
            inbox,
            answers,
            number: 0,
        };
        let ask = || Ask::Open(shard);
        let first = line.ask(&open_subject(shard), 0, ask(), FIRST_WITHIN).await;
        let opened = match first {
            Ok(opened) => opened,
            Err(QueryError::ShardsAway(_)) => {
                line.ask(&open_all_subject(shard), 0, ask(), ANY_WITHIN)
                    .await?
            }
            Err(error) => return Err(error),
        };
        match opened {
            Answer::Opened(opened) => Ok(RemoteRows {
                runtime: self.runtime.clone(),
                subject: session_subject(&opened.replica),
                opened: *opened,
                line: Mutex::new(line),
            }),
            other => Err(unexpected(shard, other)),
        }
    }
}

impl Snapshots for Remote {
    fn with(&self, work: &mut dyn FnMut(&SnapshotSet<'_>)) -> Result<(), QueryError> {
        let opening = join_all(self.shards().map(|shard| self.open(shard)));
        let (mut shards, mut away) = (Vec::new(), Vec::new());
        for (number, opened) in (0..).zip(self.runtime.block_on(opening)) {
            match opened {
                Ok(rows) => shards.push((number, rows)),
                Err(QueryError::ShardsAway(more)) => away.extend(more),
                Err(error) => return Err(error),
            }
        }
        if !away.is_empty() {
            return Err(QueryError::ShardsAway(away));
        }
        let generations: BTreeSet<&str> = shards
            .iter()
            .map(|(_, rows)| rows.opened.generation.as_str())
            .collect();
        let generation = generations.into_iter().collect::<Vec<_>>().join(",");
        let shards = shards.into_iter().map(|(number, rows)| Shard {
            number,
            rows: Box::new(rows) as Box<dyn ShardRead>,
        });
        work(&SnapshotSet {
            generation,
            shards: shards.collect(),
            united: None,
        });
        Ok(())
    }
}

fn unexpected(shard: u16, answer: Answer) -> QueryError {
    match answer {
        Answer::Failed(failure) => failure.of(shard),
        _ => QueryError::Store(format!("shard {shard}: an answer to another question")),
    }
}

/// A way to ask and be answered: one question at a time.
struct Line {
    client: Client,
    shard: u16,
    inbox: String,
    answers: Subscriber,
    number: u64,
}

impl Line {
    fn gone(&self) -> QueryError {
        QueryError::ShardsAway(vec![self.shard])
    }

    /// Asks, and gathers the parts of the answer. `silent` is how long nothing may come.
    async fn ask(
        &mut self,
        subject: &str,
        session: u64,
        ask: Ask,
        silent: Duration,
    ) -> Result<Answer, QueryError> {
        let mut whole: Vec<u8> = Vec::new();
        let mut next = ask;
        loop {
            let part = self.part(subject, session, next, silent).await?;
            if whole.len() + part.bytes.len() > MAX_ANSWER_BYTES {
                return Err(QueryError::Store(format!(
                    "shard {}: an answer of more than {MAX_ANSWER_BYTES} bytes",
                    self.shard
                )));
            }
            whole.extend_from_slice(&part.bytes);
            if !part.more {
                break;
            }
            next = Ask::More;
        }
        match decode(&whole) {
            Ok(Answer::Failed(failure)) => Err(failure.of(self.shard)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(QueryError::Store(format!("shard {}: {error}", self.shard))),
        }
    }

    async fn part(
        &mut self,
        subject: &str,
        session: u64,
        ask: Ask,
        silent: Duration,
    ) -> Result<Part, QueryError> {
        self.number += 1;
        let request = encode(&Request {
            dialect: dialect(),
            session,
            number: self.number,
            ask,
        });
        if request.len() > self.client.server_info().max_payload {
            let detail =
                "the question names more than fits a message of the broker; ask for fewer at once";
            return Err(QueryError::asked(None, detail));
        }
        let (subject, inbox) = (subject.to_owned(), self.inbox.clone());
        self.client
            .publish_with_reply(subject, inbox, request.into())
            .await
            .map_err(|_| self.gone())?;
        loop {
            let next = tokio::time::timeout(silent, self.answers.next()).await;
            let Ok(Some(message)) = next else {
                return Err(self.gone());
            };
            if message.status == Some(StatusCode::NO_RESPONDERS) {
                return Err(self.gone());
            }
            // An empty one says that the process is at work.
            if message.payload.is_empty() {
                continue;
            }
            let part: Part = decode(&message.payload)
                .map_err(|error| QueryError::Store(format!("shard {}: {error}", self.shard)))?;
            // What somebody else answers to a question that has been answered is too late.
            if part.number == self.number {
                return Ok(part);
            }
        }
    }
}

/// One shard at one moment, in another process.
struct RemoteRows {
    runtime: Handle,
    subject: String,
    opened: Opened,
    line: Mutex<Line>,
}

impl Drop for RemoteRows {
    fn drop(&mut self) {
        let line = self.line.get_mut().unwrap_or_else(PoisonError::into_inner);
        let close = encode(&Request {
            dialect: dialect(),
            session: self.opened.session,
            number: 0,
            ask: Ask::Close,
        });
        let (client, subject) = (line.client.clone(), self.subject.clone());
        // Best effort: a session that is not closed ends by itself.
        self.runtime
            .spawn(async move { client.publish(subject, close.into()).await });
    }
}

impl RemoteRows {
    fn ask(&self, ask: Ask) -> Result<Answer, QueryError> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        self.runtime
            .block_on(line.ask(&self.subject, self.opened.session, ask, SILENT_FOR))
    }

    fn unexpected(&self, answer: Answer) -> QueryError {
        let line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        unexpected(line.shard, answer)
    }

    fn page(&self, family: Family, from: &[u8], to: &[u8]) -> Result<Page, QueryError> {
        match self.ask(Ask::Scan {
            family: family.name().to_owned(),
            from: from.to_vec(),
            to: to.to_vec(),
        })? {
            Answer::Page(page) => Ok(page),
            other => Err(self.unexpected(other)),
        }
    }
}

impl ShardRead for RemoteRows {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, QueryError> {
        if family == Family::Meta && key == POSITION_KEY {
            return Ok(self.opened.position.as_ref().map(|row| row.to_vec()));
        }
        match self.ask(Ask::Get {
            family: family.name().to_owned(),
            key: key.to_vec(),
        })? {
            Answer::Value(value) => Ok(value.map(serde_bytes::ByteBuf::into_vec)),
            other => Err(self.unexpected(other)),
        }
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        each: EachRow<'_>,
    ) -> Result<(), QueryError> {
        let mut from = from.to_vec();
        if family == Family::Completeness && !self.opened.producers.more {
            for Row(key, value) in &self.opened.producers.rows {
                let within = *key >= from && key.as_slice() < to;
                if within && each(key, value)?.is_break() {
                    return Ok(());
                }
            }
            return Ok(());
        }
        loop {
            let mut page = self.page(family, &from, to)?;
            for Row(key, value) in &page.rows {
                if let ControlFlow::Break(()) = each(key, value)? {
                    return Ok(());
                }
            }
            match page.rows.pop().filter(|_| page.more) {
                // The key that follows the last one immediately.
                Some(Row(mut last, _)) => {
                    last.push(0);
                    from = last;
                }
                None => return Ok(()),
            }
        }
    }

    fn retention(&self) -> Retention {
        self.opened.retention
    }

    fn elsewhere(&self) -> Option<&dyn Elsewhere> {
        Some(self)
    }
}

impl Elsewhere for RemoteRows {
    fn replica(&self) -> &str {
        &self.opened.replica
    }

    fn campaigns_of_ads(&self, ads: &BTreeSet<Id>) -> Result<Vec<Id>, QueryError> {
        match self.ask(Ask::CampaignsOfAds(ads.clone()))? {
            Answer::Campaigns(campaigns) => Ok(campaigns),
            other => Err(self.unexpected(other)),
        }
    }

    fn numbers(&self, ads: &BTreeSet<Id>, campaigns: &[&Id]) -> Result<Numbers, QueryError> {
        let mut all = Numbers::default();
        let mut rest: VecDeque<&[&Id]> = campaigns.chunks(NAMES_A_MESSAGE).collect();
        // Of no campaigns, still the ads.
        let mut next = Some(rest.pop_front().unwrap_or_default());
        while let Some(campaigns) = next {
            let (mut scope, counted) = match self.ask(Ask::Numbers {
                ads: ads.clone(),
                campaigns: campaigns.iter().map(|id| (*id).clone()).collect(),
            })? {
                Answer::Numbers(numbers) => *numbers,
                other => return Err(self.unexpected(other)),
            };
            all.0.campaigns.append(&mut scope.campaigns);
            all.0.ads = scope.ads;
            all.1.extend(counted);
            next = rest.pop_front();
        }
        Ok(all)
    }

    fn symbols(&self, space: Space, names: &[&str]) -> Result<Vec<Option<Symbol>>, QueryError> {
        let mut all = Vec::with_capacity(names.len());
        for names in names.chunks(NAMES_A_MESSAGE) {
            match self.ask(Ask::Symbols {
                space: space as u8,
                names: names.iter().map(|name| (*name).to_owned()).collect(),
            })? {
                Answer::Symbols(symbols) if symbols.len() == names.len() => all.extend(symbols),
                other => return Err(self.unexpected(other)),
            }
        }
        Ok(all)
    }

    fn sums(
        &self,
        scope: &ShardScope,
        question: &Question,
        plan: &Plan,
    ) -> Result<(ShardSums, Names, Read), QueryError> {
        let asked = Box::new(SumsAsked::of(scope, question, plan));
        match self.ask(Ask::Sums(asked))? {
            Answer::Sums(sums) => {
                let (part, names) = ShardSums::decode(&question.group_by, &sums.sums)?;
                Ok((part, names, sums.read))
            }
            other => Err(self.unexpected(other)),
        }
    }
}
