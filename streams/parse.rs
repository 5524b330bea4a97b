//! From bytes to a raw event: what a publisher said, checked field by field, before anything is looked up.
//!
//! Every way in makes the same [`RawEvent`], so that the same event by two ways has the same content hash. A refusal
//! names the field and the rule; no bytes whatever make a panic.

use std::net::IpAddr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::dimensions;
use crate::event::{Device, Kind, TEXT_MAX_BYTES};
use crate::id::Id;
use crate::money::{Currency, MAX_MICROS, Micros};
use crate::payload::{Field, Fields, Scalar};
use crate::refusal::{Reason, Refusal, cut_at_char};
use crate::time;

/// The first token of a subject on which events are published.
const SUBJECT_PREFIX: &str = "ads";

/// What a publisher said of one event. Texts are already bounded and normalised; nothing has been looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEvent {
    /// What happened.
    pub kind: Kind,
    /// `impression_id`, `click_id` or `conversion_id`.
    pub id: Id,
    /// `ad_id`, or a conversion's `advertiser_id`.
    pub key: Id,
    /// When it happened, in milliseconds of the Unix epoch; absent means at its arrival.
    pub ts_ms: Option<i64>,
    /// The campaign that the publisher names.
    pub campaign_id: Option<Id>,
    /// Creative variant: at most 64 bytes without control characters, or `other`; never empty.
    pub creative: Option<Arc<str>>,
    /// The visitor as the publisher names them.
    pub user_id: Option<Id>,
    /// Device class.
    pub device: Option<Device>,
    /// `geo`: a code of ISO 3166, or `other`.
    pub region: Option<Arc<str>>,
    /// Client address. Only the border sees it, to hash it; it goes no further.
    pub ip: Option<IpAddr>,
    /// Client address as hashed by the publisher; the border hashes it once more.
    pub ip_hash: Option<Arc<str>>,
    /// User agent, cut at [`crate::event::TEXT_MAX_BYTES`].
    pub user_agent: Option<Arc<str>>,
    /// Page that the client came from, cut likewise.
    pub referrer: Option<Arc<str>>,
    /// Price of this event, in micros.
    pub cost_micros: Option<Micros>,
    /// The impression that a click names.
    pub impression_id: Option<Id>,
    /// Where a click led, cut likewise.
    pub landing_url: Option<Arc<str>>,
    /// The click that a conversion names.
    pub click_id: Option<Id>,
    /// What a conversion was worth, in micros.
    pub value_micros: Option<Micros>,
    /// The currency of that value.
    pub currency: Option<Currency>,
    /// The advertiser's order.
    pub order_id: Option<Id>,
}

impl RawEvent {
    /// An event with its identity and nothing else.
    pub fn new(kind: Kind, id: Id, key: Id) -> Self {
        Self {
            kind,
            id,
            key,
            ts_ms: None,
            campaign_id: None,
            creative: None,
            user_id: None,
            device: None,
            region: None,
            ip: None,
            ip_hash: None,
            user_agent: None,
            referrer: None,
            cost_micros: None,
            impression_id: None,
            landing_url: None,
            click_id: None,
            value_micros: None,
            currency: None,
            order_id: None,
        }
    }

    /// The event of one message: `kind` and `subject_key` are the subject's ([`parse_subject`]), `nats_msg_id` is the
    /// `Nats-Msg-Id` header. The payload is a JSON object or a MessagePack map, told apart by its first byte.
    pub fn from_payload(
        kind: Kind,
        subject_key: Option<&str>,
        nats_msg_id: Option<&str>,
        payload: &[u8],
    ) -> Result<Self, Refusal> {
        build(kind, subject_key, nats_msg_id, Fields::read(payload)?)
    }

    /// The event of one JSON object that says its `kind` itself, as `POST /api/v1/events` takes them.
    pub fn from_json_object(payload: &[u8]) -> Result<Self, Refusal> {
        let mut fields = Fields::read_json(payload)?;
        let kind = match fields.take(Field::Kind) {
            Scalar::Text(name) => Kind::from_name(&name).ok_or_else(|| unknown_kind(&name))?,
            Scalar::Absent => {
                return Err(Refusal::new(Reason::UnknownKind, "kind: is required here"));
            }
            other => return Err(wrong_type(Field::Kind, "a text", &other)),
        };
        build(kind, None, None, fields)
    }

    /// Hash of what the publisher gave: 64 bits of SHA-256 over the fields that are there, in a fixed order, each as
    /// its name, a zero byte, its length (4 bytes) and its value; numbers as 8 bytes, all big-endian.
    ///
    /// Two events of one id whose hashes differ are two events, and one of them is not counted. Neither the order of
    /// keys nor the format nor the spelling of a time changes it.
    pub fn content_hash(&self) -> u64 {
        let mut hash = FieldHash(Vec::with_capacity(HASHED_BYTES));
        hash.text("kind", Some(self.kind.name()));
        hash.text("id", Some(self.id.as_str()));
        hash.text("key", Some(self.key.as_str()));
        hash.number("ts", self.ts_ms);
        hash.text("campaign_id", self.campaign_id.as_ref().map(Id::as_str));
        hash.text("creative", self.creative.as_deref());
        hash.text("user_id", self.user_id.as_ref().map(Id::as_str));
        hash.text("device", self.device.map(Device::name));
        hash.text("geo", self.region.as_deref());
        if let Some(ip) = self.ip {
            hash.text("ip", Some(&ip.to_string()));
        }
        hash.text("ip_hash", self.ip_hash.as_deref());
        hash.text("user_agent", self.user_agent.as_deref());
        hash.text("referrer", self.referrer.as_deref());
        hash.number("cost_micros", self.cost_micros);
        hash.text("impression_id", self.impression_id.as_ref().map(Id::as_str));
        hash.text("landing_url", self.landing_url.as_deref());
        hash.text("click_id", self.click_id.as_ref().map(Id::as_str));
        hash.number("value_micros", self.value_micros);
        hash.text(
            "currency_code",
            self.currency.as_ref().map(Currency::as_str),
        );
        hash.text("order_id", self.order_id.as_ref().map(Id::as_str));
        hash.finish()
    }
}

/// Bytes of the fields of most events, as they are hashed. More are no problem.
const HASHED_BYTES: usize = 512;

/// The fields one after the other. They are hashed in one piece: what a hash function does for every piece that it
/// is given costs more than the hashing of a few bytes.
struct FieldHash(Vec<u8>);

impl FieldHash {
    fn text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.bytes(name, value.as_bytes());
        }
    }

    fn number(&mut self, name: &str, value: Option<i64>) {
        if let Some(value) = value {
            self.bytes(name, &value.to_be_bytes());
        }
    }

    fn bytes(&mut self, name: &str, value: &[u8]) {
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(0);
        self.0
            .extend_from_slice(&(value.len() as u32).to_be_bytes());
        self.0.extend_from_slice(value);
    }

    fn finish(self) -> u64 {
        let digest: [u8; 32] = Sha256::digest(&self.0).into();
        let (head, _) = digest
            .split_first_chunk::<8>()
            .expect("a SHA-256 has 32 bytes");
        u64::from_be_bytes(*head)
    }
}

/// What a subject says of the event published on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject<'a> {
    /// What happened.
    pub kind: Kind,
    /// The ad, or a conversion's advertiser; not yet checked.
    pub key: &'a str,
}

/// Reads `ads.<kind>.<key>`.
pub fn parse_subject(subject: &str) -> Result<Subject<'_>, Refusal> {
    let bad = || {
        let shown = cut_at_char(subject, 200);
        Refusal::new(
            Reason::BadSubject,
            format!("an event is published on ads.<kind>.<key>, and this came on {shown}"),
        )
    };
    let mut tokens = subject.split('.');
    let (prefix, kind, key) = (tokens.next(), tokens.next(), tokens.next());
    let (Some(SUBJECT_PREFIX), Some(kind)) = (prefix, kind) else {
        return Err(bad());
    };
    let kind = Kind::from_name(kind).ok_or_else(|| unknown_kind(kind))?;
    match (key, tokens.next()) {
        (Some(key), None) if !key.is_empty() => Ok(Subject { kind, key }),
        _ => Err(bad()),
    }
}

fn unknown_kind(name: &str) -> Refusal {
    let shown = cut_at_char(name, 64);
    Refusal::new(
        Reason::UnknownKind,
        format!("kind: impression, click or conversion, and this is {shown:?}"),
    )
}

/// Checks the fields of one payload in a fixed order: identity, then time, then what the kind has.
fn build(
    kind: Kind,
    subject_key: Option<&str>,
    msg_id: Option<&str>,
    mut fields: Fields<'_>,
) -> Result<RawEvent, Refusal> {
    let key = event_key(kind, subject_key, &mut fields)?;
    let id = event_id(kind, msg_id, &mut fields)?;
    let mut raw = RawEvent::new(kind, id, key);
    raw.ts_ms = timestamp(&mut fields)?;
    raw.user_id = optional_id(&mut fields, Field::UserId)?;
    if kind == Kind::Conversion {
        raw.click_id = optional_id(&mut fields, Field::ClickId)?;
        raw.order_id = optional_id(&mut fields, Field::OrderId)?;
        raw.value_micros = amount(&mut fields, Field::ValueMicros)?;
        raw.currency = currency(&mut fields)?;
        return Ok(raw);
    }
    raw.campaign_id = optional_id(&mut fields, Field::CampaignId)?;
    raw.creative = text(&mut fields, Field::Creative)?
        .as_deref()
        .and_then(dimensions::creative);
    raw.device = text(&mut fields, Field::Device)?
        .as_deref()
        .map(|name| Device::from_name(name.trim()));
    raw.region = text(&mut fields, Field::Geo)?
        .as_deref()
        .and_then(dimensions::region);
    raw.ip = address(&mut fields)?;
    raw.ip_hash = long_text(&mut fields, Field::IpHash)?;
    raw.user_agent = long_text(&mut fields, Field::UserAgent)?;
    raw.referrer = long_text(&mut fields, Field::Referrer)?;
    raw.cost_micros = amount(&mut fields, Field::CostMicros)?;
    if kind == Kind::Click {
        raw.impression_id = optional_id(&mut fields, Field::ImpressionId)?;
        raw.landing_url = long_text(&mut fields, Field::LandingUrl)?;
    }
    Ok(raw)
}

fn event_key(
    kind: Kind,
    subject_key: Option<&str>,
    fields: &mut Fields<'_>,
) -> Result<Id, Refusal> {
    let (field, missing) = match kind {
        Kind::Conversion => (Field::AdvertiserId, Reason::MissingAdvertiserId),
        Kind::Impression | Kind::Click => (Field::AdId, Reason::MissingAdId),
    };
    let inside = optional_id(fields, field)?;
    match (inside, subject_key) {
        (Some(inside), Some(outside)) if inside.as_str() != outside => {
            let detail = format!(
                "{}: the payload says {inside}, and the subject {}",
                field.name(),
                cut_at_char(outside, 80)
            );
            Err(Refusal::new(Reason::SubjectMismatch, detail))
        }
        (Some(inside), _) => Ok(inside),
        (None, Some(outside)) => checked_id(outside, "the subject's last token"),
        (None, None) => Err(Refusal::new(
            missing,
            format!("{}: is required", field.name()),
        )),
    }
}

fn event_id(kind: Kind, msg_id: Option<&str>, fields: &mut Fields<'_>) -> Result<Id, Refusal> {
    let field = match kind {
        Kind::Impression => Field::ImpressionId,
        Kind::Click => Field::ClickId,
        Kind::Conversion => Field::ConversionId,
    };
    if let Some(id) = optional_id(fields, field)? {
        return Ok(id);
    }
    let Some(msg_id) = msg_id.filter(|header| !header.is_empty()) else {
        let detail = format!(
            "{}: is required, there or in the Nats-Msg-Id header",
            field.name()
        );
        return Err(Refusal::new(Reason::MissingEventId, detail));
    };
    let prefixed = msg_id
        .strip_prefix(kind.name())
        .and_then(|rest| rest.strip_prefix(':'));
    checked_id(prefixed.unwrap_or(msg_id), "Nats-Msg-Id")
}

fn checked_id(id: &str, name: &str) -> Result<Id, Refusal> {
    Id::new(id).map_err(|e| Refusal::new(Reason::BadId, format!("{name}: {e}")))
}

fn optional_id(fields: &mut Fields<'_>, field: Field) -> Result<Option<Id>, Refusal> {
    match fields.take(field) {
        Scalar::Absent => Ok(None),
        Scalar::Text(id) => checked_id(&id, field.name()).map(Some),
        Scalar::Bytes => Err(bytes_for_text(field)),
        other => Err(wrong_type(field, "a text", &other)),
    }
}

/// A text as it stands; an empty one counts as absent.
fn text<'de>(
    fields: &mut Fields<'de>,
    field: Field,
) -> Result<Option<std::borrow::Cow<'de, str>>, Refusal> {
    match fields.take(field) {
        Scalar::Absent => Ok(None),
        Scalar::Text(text) => Ok(Some(text).filter(|t| !t.is_empty())),
        Scalar::Bytes => Err(bytes_for_text(field)),
        other => Err(wrong_type(field, "a text", &other)),
    }
}

fn long_text(fields: &mut Fields<'_>, field: Field) -> Result<Option<Arc<str>>, Refusal> {
    Ok(text(fields, field)?.map(|text| Arc::from(cut_at_char(&text, TEXT_MAX_BYTES))))
}

fn address(fields: &mut Fields<'_>) -> Result<Option<IpAddr>, Refusal> {
    let Some(text) = text(fields, Field::Ip)? else {
        return Ok(None);
    };
    let refuse = |_| {
        Refusal::new(
            Reason::BadText,
            "ip: an IPv4 or IPv6 address without a port",
        )
    };
    text.trim().parse().map(Some).map_err(refuse)
}

fn timestamp(fields: &mut Fields<'_>) -> Result<Option<i64>, Refusal> {
    let read = match fields.take(Field::Ts) {
        Scalar::Absent => return Ok(None),
        Scalar::Text(text) => time::parse_rfc3339(&text),
        Scalar::Integer(n) => time::from_number(n),
        Scalar::Huge => Err(time::BadTime::OutOfRange),
        Scalar::Bytes => return Err(bytes_for_text(Field::Ts)),
        other => return Err(wrong_type(Field::Ts, "RFC 3339 or a whole number", &other)),
    };
    read.map(Some)
        .map_err(|e| Refusal::new(Reason::BadTs, format!("ts: {e}")))
}

fn amount(fields: &mut Fields<'_>, field: Field) -> Result<Option<Micros>, Refusal> {
    match fields.take(field) {
        Scalar::Absent => Ok(None),
        Scalar::Integer(n) if (0..=MAX_MICROS).contains(&n) => Ok(Some(n)),
        Scalar::Integer(_) | Scalar::Huge => Err(Refusal::new(
            Reason::BadAmount,
            format!("{}: micros from 0 to {MAX_MICROS}", field.name()),
        )),
        other => Err(wrong_type(field, "a whole number of micros", &other)),
    }
}

fn currency(fields: &mut Fields<'_>) -> Result<Option<Currency>, Refusal> {
    match fields.take(Field::CurrencyCode) {
        Scalar::Absent => Ok(None),
        Scalar::Text(code) => {
            let refuse = |e| Refusal::new(Reason::BadCurrency, format!("currency_code: {e}"));
            Currency::new(&code).map(Some).map_err(refuse)
        }
        Scalar::Bytes => Err(bytes_for_text(Field::CurrencyCode)),
        other => Err(wrong_type(Field::CurrencyCode, "a text", &other)),
    }
}

fn bytes_for_text(field: Field) -> Refusal {
    Refusal::new(
        Reason::BadText,
        format!("{}: a text in UTF-8, and this is bytes", field.name()),
    )
}

fn wrong_type(field: Field, wanted: &str, found: &Scalar<'_>) -> Refusal {
    let found = match found {
        Scalar::Absent => "null",
        Scalar::Text(_) => "a text",
        Scalar::Bytes => "bytes",
        Scalar::Integer(_) | Scalar::Huge => "a number",
        Scalar::Other(name) => name,
    };
    Refusal::new(
        Reason::BadType,
        format!("{}: {wanted}, and this is {found}", field.name()),
    )
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "parse_properties.rs"]
mod properties;
