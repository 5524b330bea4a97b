//! The catalogue's documents: advertisers, campaigns, ads and keys, as JSON with the contract's names.
//!
//! A document that exists has been checked field by field, so nothing behind it checks again. What depends on the
//! other documents is [`crate::catalogue`]'s.

use std::sync::Arc;

use chrono_tz::Tz;
use serde::{Deserialize, Serialize, Serializer};

use crate::event::Kind;
use crate::id::Id;
use crate::money::{Currency, Micros};
use crate::names::CATALOG_PREFIX;
use crate::refusal::cut_at_char;

/// The longest name of anything in the catalogue, in bytes.
pub const NAME_MAX_BYTES: usize = 256;
/// The longest creative variant, in bytes; on an event a longer one is counted as `other`.
pub const CREATIVE_MAX_BYTES: usize = 64;
/// The longest document, in bytes.
pub const DOCUMENT_MAX_BYTES: usize = 64 * 1024;
/// The most shards over which one ad is spread.
pub const MAX_SPREAD: u16 = crate::names::MAX_SHARDS;

/// What a document is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DocumentKind {
    /// `catalog.advertiser.<id>`
    Advertiser,
    /// `catalog.campaign.<id>`
    Campaign,
    /// `catalog.ad.<id>`
    Ad,
    /// `catalog.key.<id>`
    Key,
}

impl DocumentKind {
    /// Every kind, what is referred to before what refers to it.
    pub const ALL: [DocumentKind; 4] = [
        DocumentKind::Advertiser,
        DocumentKind::Campaign,
        DocumentKind::Ad,
        DocumentKind::Key,
    ];

    /// The kind's name, the second token of its subjects.
    pub fn name(self) -> &'static str {
        match self {
            DocumentKind::Advertiser => "advertiser",
            DocumentKind::Campaign => "campaign",
            DocumentKind::Ad => "ad",
            DocumentKind::Key => "key",
        }
    }

    /// The name of the kind's id field.
    pub fn id_field(self) -> &'static str {
        match self {
            DocumentKind::Advertiser => "advertiser_id",
            DocumentKind::Campaign => "campaign_id",
            DocumentKind::Ad => "ad_id",
            DocumentKind::Key => "key_id",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<DocumentKind> {
        DocumentKind::ALL.into_iter().find(|k| k.name() == name)
    }
}

/// A company that pays for clicks or impressions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advertiser {
    /// The advertiser.
    pub advertiser_id: Id,
    /// For people.
    pub name: String,
    /// The one currency of its money. Fixed at creation.
    pub currency_code: Currency,
    /// The clock of its hours and days. Fixed at creation.
    #[serde(with = "zone_text")]
    pub time_zone: Tz,
}

/// Whether a campaign or an ad is billed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is.
    #[default]
    Active,
    /// Not at present.
    Paused,
    /// No more.
    Ended,
}

impl Status {
    /// The status of that name.
    pub fn from_name(name: &str) -> Option<Status> {
        match name {
            "active" => Some(Status::Active),
            "paused" => Some(Status::Paused),
            "ended" => Some(Status::Ended),
            _ => None,
        }
    }
}

/// What is billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PricingModel {
    /// Clicks, each at the price.
    Cpc,
    /// Impressions, each at a thousandth of the price.
    Cpm,
}

/// A campaign's price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pricing {
    /// What is billed.
    pub model: PricingModel,
    /// Of a click, or of a thousand impressions, in micros; for `cpm` a multiple of 1,000.
    pub price_micros: Micros,
}

impl Pricing {
    /// What one event of `kind` costs, in micros.
    pub fn cost_of(self, kind: Kind) -> Micros {
        match (self.model, kind) {
            (PricingModel::Cpc, Kind::Click) => self.price_micros,
            (PricingModel::Cpm, Kind::Impression) => self.price_micros / 1_000,
            _ => 0,
        }
    }
}

/// A campaign of one advertiser.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Campaign {
    /// The campaign.
    pub campaign_id: Id,
    /// Who pays. Never changes.
    pub advertiser_id: Id,
    /// For people.
    pub name: String,
    /// Whether it is billed.
    pub status: Status,
    /// What is billed, and at which price.
    pub pricing: Pricing,
    /// What it may cost a day, in micros.
    pub daily_budget_micros: Option<Micros>,
    /// When it begins, in milliseconds of the Unix epoch; RFC 3339 in JSON.
    #[serde(with = "time_text")]
    pub start: Option<i64>,
    /// The first instant at which it has ended, likewise.
    #[serde(with = "time_text")]
    pub end: Option<i64>,
}

impl Campaign {
    /// Whether an event at this time (milliseconds of the Unix epoch) is billed: status, and start <= time < end.
    pub fn is_active_at(&self, ms: i64) -> bool {
        self.status == Status::Active
            && self.start.is_none_or(|s| s <= ms)
            && self.end.is_none_or(|e| ms < e)
    }
}

/// An ad of one campaign at a time; it may move to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ad {
    /// The ad.
    pub ad_id: Id,
    /// The campaign under which new events are counted.
    pub campaign_id: Id,
    /// Where a click leads; may hold macros, see [`crate::landing`].
    pub landing_url: String,
    /// Whether it is billed.
    pub status: Status,
    /// The variants that are counted by name; none listed means whatever comes, up to a limit.
    pub creatives: Vec<Arc<str>>,
    /// Over how many shards its events are spread. Fixed at creation; a document that leaves it out keeps what it
    /// was, 1 for a new ad. In the catalogue it always stands there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<u16>,
}

impl Ad {
    /// Over how many shards its events are spread: 1 unless it says more.
    pub fn spread(&self) -> u16 {
        self.spread.unwrap_or(1)
    }
}

/// What a key opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Its own advertiser's data, and posting its own conversions.
    Advertiser(Id),
    /// Posting events.
    Publisher,
    /// Everything.
    Admin,
}

/// A key of the API. The secret itself is nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// The key's public name.
    pub key_id: Id,
    /// For people.
    pub name: String,
    /// What it opens: `"publisher"`, `"admin"` or `{"advertiser":"<id>"}`. Never changes.
    pub scope: Scope,
    /// SHA-256 of the secret, 64 lower-case hexadecimal digits. Never changes.
    #[serde(with = "hash_text")]
    pub secret_sha256: [u8; 32],
    /// When it was made, in milliseconds of the Unix epoch; RFC 3339 in JSON.
    #[serde(with = "time_text_required")]
    pub created_at: i64,
    /// Whether it opens nothing any more. Cannot be taken back.
    pub revoked: bool,
}

/// One document of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// An advertiser.
    Advertiser(Arc<Advertiser>),
    /// A campaign.
    Campaign(Arc<Campaign>),
    /// An ad.
    Ad(Arc<Ad>),
    /// A key.
    Key(Arc<ApiKey>),
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Document::Advertiser(d) => d.serialize(s),
            Document::Campaign(d) => d.serialize(s),
            Document::Ad(d) => d.serialize(s),
            Document::Key(d) => d.serialize(s),
        }
    }
}

impl Document {
    /// What it is about.
    pub fn kind(&self) -> DocumentKind {
        match self {
            Document::Advertiser(_) => DocumentKind::Advertiser,
            Document::Campaign(_) => DocumentKind::Campaign,
            Document::Ad(_) => DocumentKind::Ad,
            Document::Key(_) => DocumentKind::Key,
        }
    }

    /// Its id.
    pub fn id(&self) -> &Id {
        match self {
            Document::Advertiser(d) => &d.advertiser_id,
            Document::Campaign(d) => &d.campaign_id,
            Document::Ad(d) => &d.ad_id,
            Document::Key(d) => &d.key_id,
        }
    }

    /// The subject on which it is published: `catalog.<kind>.<id>`.
    pub fn subject(&self) -> String {
        subject_of(self.kind(), self.id())
    }

    /// Its JSON, with exactly the contract's names.
    pub fn to_json_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a document of texts and numbers always has a JSON form")
    }
}

/// The subject on which the document of that kind and id is published.
pub fn subject_of(kind: DocumentKind, id: &Id) -> String {
    format!("{CATALOG_PREFIX}.{}.{id}", kind.name())
}

/// Reads `catalog.<kind>.<id>`; none for a kind of document that this catalogue does not hold.
pub fn parse_document_subject(subject: &str) -> Option<(DocumentKind, &str)> {
    let rest = subject.strip_prefix(CATALOG_PREFIX)?.strip_prefix('.')?;
    let (kind, id) = rest.split_once('.')?;
    Some((DocumentKind::from_name(kind)?, id))
}

/// A document that is not as the contract says, or does not fit the others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// Not JSON, or not an object.
    #[error("a catalogue document is one JSON object: {0}")]
    NotAnObject(String),
    /// More bytes than [`DOCUMENT_MAX_BYTES`].
    #[error("the document has {0} bytes; the limit is {DOCUMENT_MAX_BYTES}")]
    TooLarge(usize),
    /// A field is missing, of another type, or has a value that it may not have.
    #[error("{field}: {problem}")]
    Field {
        /// The field, with the path to it.
        field: String,
        /// What is wrong with it, and what it should be.
        problem: String,
    },
    /// A field that is fixed at creation would change.
    #[error("{field} of {kind} {id} is fixed at creation: it is {was} and cannot become {wanted}", kind = .kind.name())]
    Immutable {
        /// The kind of document.
        kind: DocumentKind,
        /// The document.
        id: Id,
        /// The field.
        field: &'static str,
        /// Its value.
        was: String,
        /// The value refused.
        wanted: String,
    },
    /// A document refers to one that does not exist.
    #[error("{field}: there is no {kind} {id}; publish it first", kind = .kind.name())]
    Dangling {
        /// The field that refers.
        field: &'static str,
        /// The kind of document referred to.
        kind: DocumentKind,
        /// The document referred to.
        id: Id,
    },
    /// One more document of this kind would pass its limit.
    #[error("the catalogue holds its limit of {limit} documents of the kind {kind}", kind = .kind.name())]
    Full {
        /// The kind of document.
        kind: DocumentKind,
        /// How many it may hold.
        limit: usize,
    },
    /// A saved catalogue that is torn, or of a version that this program does not read.
    #[error(
        "the saved catalogue cannot be used: {0}; delete it, and it is read from the broker again"
    )]
    Snapshot(String),
}

impl CatalogueError {
    /// An error of one field. A value of the user's in `problem` is cut to a readable length.
    pub fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self::Field {
            field: field.into(),
            problem: cut_at_char(&problem, 400).to_owned(),
        }
    }

    /// The field to blame, where it is one.
    pub fn parameter(&self) -> Option<&str> {
        match self {
            CatalogueError::Field { field, .. } => Some(field),
            CatalogueError::Immutable { field, .. } | CatalogueError::Dangling { field, .. } => {
                Some(field)
            }
            _ => None,
        }
    }
}

mod zone_text {
    use super::*;

    pub(super) fn serialize<S: Serializer>(tz: &Tz, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(tz.name())
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Tz, D::Error> {
        let name = String::deserialize(d)?;
        name.parse()
            .map_err(|_| serde::de::Error::custom(format!("{name:?} is not an IANA time zone")))
    }
}

mod time_text {
    use super::*;

    pub(super) fn serialize<S: Serializer>(ms: &Option<i64>, s: S) -> Result<S::Ok, S::Error> {
        ms.map(crate::time::to_rfc3339).serialize(s)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        d: D,
    ) -> Result<Option<i64>, D::Error> {
        let text = Option::<String>::deserialize(d)?;
        text.map(|t| crate::time::parse_rfc3339(&t).map_err(serde::de::Error::custom))
            .transpose()
    }
}

mod time_text_required {
    use super::*;

    pub(super) fn serialize<S: Serializer>(ms: &i64, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&crate::time::to_rfc3339(*ms))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(d: D) -> Result<i64, D::Error> {
        crate::time::parse_rfc3339(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

mod hash_text {
    use super::*;

    pub(super) fn serialize<S: Serializer>(hash: &[u8; 32], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hash.iter().map(|b| format!("{b:02x}")).collect::<String>())
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        d: D,
    ) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(d)?;
        parse_hash(&text)
            .ok_or_else(|| serde::de::Error::custom("a SHA-256 is 64 hexadecimal digits"))
    }
}

/// Reads 64 hexadecimal digits.
pub fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(hash)
}
