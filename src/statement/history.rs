//! The catalogue as it was at a log time, and what the campaigns' daily budgets were before.

use std::collections::BTreeMap;
use std::time::Duration;

use adtally_projections::buckets::day_close;
use adtally_streams::catalogue::{Applied, Catalogue, Document};
use adtally_streams::id::Id;
use adtally_streams::names::CATALOG_STREAM;
use async_nats::Client;
use async_nats::jetstream;
use chrono_tz::Tz;

use super::StatementError;
use crate::log::reader::{LogMessage, ShardReader, last_of_subject, next_of_subject};

/// The documents of campaigns.
const CAMPAIGNS: &str = "catalog.campaign.>";
/// How long the next document may take of a stream that says there is one.
const NEXT_WITHIN: Duration = Duration::from_secs(20);

/// An advertiser and its campaigns at a log time.
pub struct History {
    /// Them, and nothing else: what a statement is about needs no more.
    pub catalogue: Catalogue,
    /// The last message of CATALOG that was read: of the advertiser, or of any campaign.
    pub sequence: u64,
    /// Of each campaign: when a budget began to hold, and which.
    budgets: BTreeMap<Id, Vec<(i64, Option<i64>)>>,
}

impl History {
    /// Reads of CATALOG what concerns an advertiser and is at or before `time_ms`; all of it without a time. An
    /// advertiser that is not there has none.
    ///
    /// # Errors
    /// [`StatementError`] when CATALOG cannot be read.
    pub async fn read(
        client: &Client,
        time_ms: Option<i64>,
        advertiser: &Id,
    ) -> Result<Self, StatementError> {
        let jetstream = jetstream::new(client.clone());
        let is_past = |message: &LogMessage| time_ms.is_some_and(|t| message.broker_ms > t);
        let mut history = Self {
            catalogue: Catalogue::default(),
            sequence: 0,
            budgets: BTreeMap::new(),
        };
        let subject = format!("catalog.advertiser.{advertiser}");
        while history.catalogue.advertiser(advertiser.as_str()).is_none() {
            let from = history.sequence + 1;
            let found = next_of_subject(&jetstream, CATALOG_STREAM, &subject, from).await?;
            let Some(document) = found.filter(|message| !is_past(message)) else {
                return Ok(history);
            };
            history.take(&document);
        }
        // What stands before the advertiser is of others.
        let last = last_of_subject(&jetstream, CATALOG_STREAM, CAMPAIGNS).await?;
        let last = last.map_or(0, |message| message.sequence);
        let from = history.sequence + 1;
        let mut reader = ShardReader::open(client.clone(), CATALOG_STREAM, from, Some(CAMPAIGNS));
        while history.sequence < last {
            let next = tokio::time::timeout(NEXT_WITHIN, reader.next()).await;
            let Ok(Some(document)) = next else {
                return Err(StatementError::Silent {
                    last,
                    at: history.sequence,
                });
            };
            if is_past(&document) {
                break;
            }
            history.take(&document);
        }
        Ok(history)
    }

    /// Applies a document. One of another advertiser's campaigns does not fit, as its advertiser is not here; one that
    /// fits nowhere is skipped by every reader of CATALOG.
    fn take(&mut self, message: &LogMessage) {
        self.sequence = message.sequence;
        let applied = self
            .catalogue
            .apply(message.sequence, &message.subject, &message.payload);
        if let Ok(Applied::Changed(Document::Campaign(campaign))) = applied {
            self.budgets
                .entry(campaign.campaign_id.clone())
                .or_default()
                .push((message.broker_ms, campaign.daily_budget_micros));
        }
    }

    /// The daily budget of a campaign that held at the end of a civil day: the last one that the catalogue had by
    /// then, or its first one for days before that.
    pub fn budget(&self, campaign: &Id, day: i64, zone: Tz) -> Option<i64> {
        let budgets = self.budgets.get(campaign)?;
        let end = day_close(zone, day + 1);
        let held = budgets.iter().rev().find(|(at, _)| *at < end);
        held.or(budgets.first())?.1
    }
}

#[cfg(test)]
impl History {
    /// A catalogue at a message, with what budgets campaigns have had since when.
    pub fn of(
        catalogue: Catalogue,
        sequence: u64,
        budgets: BTreeMap<Id, Vec<(i64, Option<i64>)>>,
    ) -> Self {
        Self {
            catalogue,
            sequence,
            budgets,
        }
    }
}
