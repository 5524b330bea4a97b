//! What a process that has no shards of its own asks one that has, and what that answers: MessagePack maps.
//!
//! Invariant: both sides speak the same version and know the same time zones, or the question is refused before
//! anything is counted: a plan is made anew on the other side, and must be the same plan.

use std::collections::BTreeSet;

use adtally_projections::buckets::Granularity;
use adtally_projections::family::Family;
use adtally_projections::partial::Dimension;
use adtally_projections::plan::{Plan, Source};
use adtally_projections::ratios::{Chosen, Metric};
use adtally_projections::spans::{Horizon, Retention};
use adtally_projections::symbols::Symbol;
use adtally_streams::event::Device;
use adtally_streams::id::Id;
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use crate::query::QueryError;
use crate::query::analytics::{Question, Span};
use crate::query::read::Read;
use crate::query::scope::{Numbers, ShardScope, Subject};

/// The version of what stands here. A process of another version is not asked.
pub const PROTOCOL: u16 = 1;

/// Bytes of an answer in one message, well under the broker's limit; what is longer comes in parts.
pub const PART_BYTES: usize = 512 << 10;
/// The longest answer, in parts: a million rows of sums ([`adtally_projections::partial::MAX_ROWS`]) with room for
/// their names. A longer one is refused.
pub const MAX_ANSWER_BYTES: usize = 256 << 20;
/// Names in one message of a question: at 64 bytes a name, half of what the broker takes.
pub const NAMES_A_MESSAGE: usize = 8_192;

/// The version and the time zones that a process knows.
pub fn dialect() -> String {
    format!("{PROTOCOL}/{}", chrono_tz::IANA_TZDB_VERSION)
}

/// The subject on which whoever has the shard is asked to open it; one of them answers.
pub fn open_subject(shard: u16) -> String {
    format!("adtally.query.{shard}")
}

/// Likewise; all of them answer.
pub fn open_all_subject(shard: u16) -> String {
    format!("adtally.query.{shard}.all")
}

/// The subject on which one process is asked about what it has opened.
pub fn session_subject(replica: &str) -> String {
    format!("adtally.query.at.{replica}")
}

/// One question.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// [`dialect`].
    pub dialect: String,
    /// The session; 0 to open one.
    pub session: u64,
    /// Counts the questions of a session; the answer says it again.
    pub number: u64,
    /// What is asked.
    pub ask: Ask,
}

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Take a snapshot of the shard and hold it. Answered by [`Opened`].
    Open(u16),
    /// The value of a row; an optional byte string.
    Get {
        /// Name of the family.
        family: String,
        /// The key.
        #[serde(with = "serde_bytes")]
        key: Vec<u8>,
    },
    /// Rows from a key on, as many as fit one message: [`Page`].
    Scan {
        /// Name of the family.
        family: String,
        /// The first key.
        #[serde(with = "serde_bytes")]
        from: Vec<u8>,
        /// The key after the last.
        #[serde(with = "serde_bytes")]
        to: Vec<u8>,
    },
    /// The campaigns that ads were counted under.
    CampaignsOfAds(BTreeSet<Id>),
    /// The shard's numbers of ads and campaigns: [`Numbers`].
    Numbers {
        /// The ads.
        ads: BTreeSet<Id>,
        /// The campaigns.
        campaigns: Vec<Id>,
    },
    /// The shard's numbers of names.
    Symbols {
        /// Number of the space.
        space: u8,
        /// The names.
        names: Vec<String>,
    },
    /// The sums of a plan: [`Sums`].
    Sums(Box<SumsAsked>),
    /// The next part of the last answer.
    More,
    /// Let go of the snapshot. Not answered.
    Close,
}

/// What is asked for when sums are.
#[derive(Debug, Serialize, Deserialize)]
pub struct SumsAsked {
    scope: ShardScope,
    group_by: Vec<Dimension>,
    /// Names of the metrics that are wanted; all where an older process names none. One that does not know them sums
    /// all, of which the asker takes what it wants.
    #[serde(default)]
    metrics: Vec<String>,
    creatives: BTreeSet<String>,
    regions: BTreeSet<String>,
    devices: Vec<u8>,
    start_ms: i64,
    end_ms: i64,
    granularity: Granularity,
    zone: String,
    minutes_only: bool,
    horizon: Horizon,
}

impl SumsAsked {
    /// Of a scope, question and plan.
    pub fn of(scope: &ShardScope, question: &Question, plan: &Plan) -> Self {
        Self {
            scope: scope.clone(),
            group_by: question.group_by.clone(),
            metrics: question
                .metrics
                .metrics()
                .map(|metric| metric.name().to_owned())
                .collect(),
            creatives: question.creatives.clone(),
            regions: question.regions.clone(),
            devices: question
                .devices
                .iter()
                .map(|device| *device as u8)
                .collect(),
            start_ms: plan.start_ms,
            end_ms: plan.end_ms,
            granularity: plan.granularity,
            zone: plan.zone.name().to_owned(),
            minutes_only: plan.source == Source::Minutes,
            horizon: plan.horizon,
        }
    }

    /// The scope, question and plan again.
    pub fn read(self) -> Result<(ShardScope, Question, Plan), QueryError> {
        let unknown =
            |what: &str| QueryError::Store(format!("a process asked for an unknown {what}"));
        let zone: Tz = self.zone.parse().map_err(|_| unknown("time zone"))?;
        let source = match self.minutes_only {
            true => Source::Minutes,
            false => Source::Civil,
        };
        let plan = Plan::new(self.start_ms, self.end_ms, self.granularity, zone, source)?
            .within(&self.horizon)?;
        let devices = self.devices.iter().map(|n| Device::from_number(*n));
        let span = Span {
            start: None,
            end: None,
            now_ms: 0,
        };
        let question = Question {
            group_by: self.group_by,
            metrics: metrics(&self.metrics),
            creatives: self.creatives,
            regions: self.regions,
            devices: devices
                .collect::<Option<_>>()
                .ok_or_else(|| unknown("device"))?,
            ..Question::of(Subject::default(), span)
        };
        Ok((self.scope, question, plan))
    }
}

/// The metrics of those names; all for none, and for one that this process does not know.
fn metrics(names: &[String]) -> Chosen {
    let known = names.iter().map(|name| Metric::from_name(name));
    match known.collect::<Option<Chosen>>() {
        Some(chosen) if !names.is_empty() => chosen,
        _ => Chosen::ALL,
    }
}

/// The family of that name.
pub fn family(name: &str) -> Result<Family, QueryError> {
    Family::ALL
        .into_iter()
        .find(|family| family.name() == name)
        .ok_or_else(|| QueryError::Store(format!("a process asked for rows of `{name}`")))
}

/// A row that was read.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row(
    #[serde(with = "serde_bytes")] pub Vec<u8>,
    #[serde(with = "serde_bytes")] pub Vec<u8>,
);

/// Rows in the order of their keys.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Page {
    /// The rows.
    pub rows: Vec<Row>,
    /// Whether there are more after them.
    pub more: bool,
}

/// A snapshot that is held.
#[derive(Debug, Serialize, Deserialize)]
pub struct Opened {
    /// What to ask it by.
    pub session: u64,
    /// Which process holds it.
    pub replica: String,
    /// Its generation.
    pub generation: String,
    /// Rows that nearly every question reads: the position, and the first producers.
    pub position: Option<serde_bytes::ByteBuf>,
    /// How long that process keeps cells.
    pub retention: Retention,
    /// The rows of producers.
    pub producers: Page,
}

/// The sums of a shard.
#[derive(Debug, Serialize, Deserialize)]
pub struct Sums {
    /// As [`adtally_projections::partial::ShardSums::encode`] writes them.
    #[serde(with = "serde_bytes")]
    pub sums: Vec<u8>,
    /// How much was read for them.
    pub read: Read,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Ask::Open`].
    Opened(Box<Opened>),
    /// To [`Ask::Get`].
    Value(Option<serde_bytes::ByteBuf>),
    /// To [`Ask::Scan`].
    Page(Page),
    /// To [`Ask::CampaignsOfAds`].
    Campaigns(Vec<Id>),
    /// To [`Ask::Numbers`].
    Numbers(Box<Numbers>),
    /// To [`Ask::Symbols`].
    Symbols(Vec<Option<Symbol>>),
    /// To [`Ask::Sums`].
    Sums(Sums),
    /// It could not be answered.
    Failed(Failure),
}

/// Why a question could not be answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// As it was asked.
    Asked(Option<String>, String),
    /// Too much at once.
    Busy,
    /// It took too long.
    TookTooLong,
    /// The snapshot is not held any more, or the shard is not here.
    Gone,
    /// The state cannot be read.
    Store(String),
    /// A block of that campaign and span cannot be read, and why.
    Block(String, String, String),
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Asked { parameter, detail } => {
                Self::Asked(parameter.map(str::to_owned), detail)
            }
            QueryError::NotFound(detail) => Self::Asked(None, detail),
            QueryError::Busy | QueryError::Unread => Self::Busy,
            QueryError::TookTooLong => Self::TookTooLong,
            QueryError::ShardsAway(_) => Self::Gone,
            error @ (QueryError::Store(_) | QueryError::Damaged(_)) => {
                Self::Store(error.to_string())
            }
            QueryError::Block {
                campaign,
                span,
                what,
                ..
            } => Self::Block(campaign, span, what),
        }
    }
}

impl Failure {
    /// The error that it is here, of that shard.
    pub fn of(self, shard: u16) -> QueryError {
        match self {
            // Parameters are named by this program; only theirs are blamed.
            Self::Asked(parameter, detail) => {
                let known = ["end", "granularity"];
                let parameter = known
                    .into_iter()
                    .find(|name| parameter.as_deref() == Some(name));
                QueryError::asked(parameter, detail)
            }
            Self::Busy => QueryError::Busy,
            Self::TookTooLong => QueryError::TookTooLong,
            Self::Gone => QueryError::ShardsAway(vec![shard]),
            Self::Store(detail) => QueryError::Store(format!("shard {shard}: {detail}")),
            Self::Block(campaign, span, what) => QueryError::Block {
                shard,
                campaign,
                span,
                what,
            },
        }
    }
}

/// A part of an answer, as it travels.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    /// Of which question.
    pub number: u64,
    /// Whether more parts follow.
    pub more: bool,
    /// The bytes.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// The bytes of a message.
pub fn encode(message: &impl Serialize) -> Vec<u8> {
    rmp_serde::to_vec_named(message).expect("numbers, texts and bytes have a MessagePack form")
}

/// The message of those bytes.
pub fn decode<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> Result<T, rmp_serde::decode::Error> {
    rmp_serde::from_slice(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use adtally_projections::cells::Grain;

    use super::*;

    const MINUTE_MS: i64 = 60_000;

    #[test]
    fn a_plan_is_made_anew_within_what_the_asker_knows_to_be_kept() {
        let retention = Retention {
            keep_ms: [Some(86_400_000), None, None],
        };
        let now_ms = 29_000_000 * MINUTE_MS;
        let horizon = retention.horizon(now_ms);
        assert!(horizon.first(Grain::Minute).is_some());
        let (start_ms, end_ms) = (now_ms - 2 * MINUTE_MS, now_ms);
        let plan = Plan::new(
            start_ms,
            end_ms,
            Granularity::Minute,
            Tz::UTC,
            Source::Civil,
        );
        let plan = plan.unwrap().within(&horizon).unwrap();
        let span = Span {
            start: None,
            end: None,
            now_ms,
        };
        let question = Question::of(Subject::default(), span);
        let asked = SumsAsked::of(&ShardScope::default(), &question, &plan);
        let bytes = encode(&asked);
        let (_, _, again) = decode::<SumsAsked>(&bytes).unwrap().read().unwrap();
        assert_eq!(format!("{again:?}"), format!("{plan:?}"));
        // Made for a horizon that the range is before, it is refused here as it would be there.
        let later = SumsAsked {
            horizon: retention.horizon(now_ms + 400 * 86_400_000),
            ..asked
        };
        let gone = later.read().map(|(_, _, plan)| plan.gone.len());
        assert_ne!(gone, Ok(0));
    }

    #[test]
    fn metrics_that_are_not_said_or_not_known_are_all() {
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            metrics(&names)
        };
        let clicks = Chosen::from_iter([Metric::Clicks]);
        assert_eq!(of(&["clicks"]), clicks);
        assert_eq!(of(&[]), Chosen::ALL);
        assert_eq!(of(&["clicks", "of_a_later_version"]), Chosen::ALL);
        // As a process asks that knows of no metrics, and as one reads it that knows of none.
        let plan = Plan::new(0, MINUTE_MS, Granularity::Minute, Tz::UTC, Source::Civil).unwrap();
        let span = Span {
            start: None,
            end: None,
            now_ms: 0,
        };
        let question = Question {
            metrics: clicks,
            ..Question::of(Subject::default(), span)
        };
        let asked = encode(&SumsAsked::of(&ShardScope::default(), &question, &plan));
        let mut map: std::collections::BTreeMap<String, serde_json::Value> =
            decode(&asked).unwrap();
        let (_, read, _) = decode::<SumsAsked>(&asked).unwrap().read().unwrap();
        assert_eq!(read.metrics, clicks);
        assert!(map.remove("metrics").is_some());
        let (_, read, _) = decode::<SumsAsked>(&encode(&map)).unwrap().read().unwrap();
        assert_eq!(read.metrics, Chosen::ALL);
    }

    #[test]
    fn a_damaged_block_is_named_to_whoever_asked() {
        let error = QueryError::Block {
            shard: 3,
            campaign: "spring".to_owned(),
            span: "hours of 2024-02-09".to_owned(),
            what: "its checksum is another one".to_owned(),
        };
        let bytes = encode(&Failure::from(error.clone()));
        let failure: Failure = decode(&bytes).unwrap();
        assert_eq!(failure.of(3), error);
    }
}
