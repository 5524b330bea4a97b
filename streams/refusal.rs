//! Why an event is refused, and the record that QUARANTINE keeps of it.
//!
//! Reasons are names that operators filter by, so they are never renamed. A record is a JSON message that fits
//! into a broker message whatever the payload was.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::names::{QUARANTINE_MAX_PAYLOAD, QUARANTINE_PREFIX};
use crate::time::to_rfc3339;

/// The longest explanation that is kept, in bytes.
pub const DETAIL_MAX_BYTES: usize = 512;
/// The longest subject that is kept, in bytes.
pub const SUBJECT_MAX_BYTES: usize = 1_024;
/// What the text of a payload may take once JSON has escaped it: a control character takes six bytes, so 256 KiB
/// of them would be more than the broker's message.
const ESCAPED_MAX_BYTES: usize = 640 * 1024;

/// Why an event is refused. The names are part of what operators filter by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Neither a JSON object nor a MessagePack map, or broken, or followed by something else.
    InvalidPayload,
    /// The kind is not impression, click or conversion.
    UnknownKind,
    /// The subject is not `ads.<kind>.<key>`.
    BadSubject,
    /// The subject's last token and the payload name different ads or advertisers.
    SubjectMismatch,
    /// An impression or click without `ad_id`.
    MissingAdId,
    /// A conversion without `advertiser_id`.
    MissingAdvertiserId,
    /// No `<kind>_id` and no `Nats-Msg-Id`.
    MissingEventId,
    /// An id that does not match `[A-Za-z0-9_:-]{1,64}`.
    BadId,
    /// A field of another type than the contract's.
    BadType,
    /// A `ts` that is not a time, or of a year outside 0001 to 9999.
    BadTs,
    /// A `ts` more than five minutes ahead of the arrival.
    TsInFuture,
    /// An amount below zero or above the limit.
    BadAmount,
    /// A currency code that is not three letters.
    BadCurrency,
    /// A text that is not what its field holds, or not UTF-8.
    BadText,
    /// A conversion with neither `click_id` nor `user_id`.
    MissingClickOrUser,
    /// The ad is not in the catalogue and the event names no campaign.
    UnknownAd,
    /// More bytes than one event may have.
    TooLarge,
    /// A signed landing URL that is forged, expired, or not one to redirect to.
    BadSignature,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 18] = [
        Reason::InvalidPayload,
        Reason::UnknownKind,
        Reason::BadSubject,
        Reason::SubjectMismatch,
        Reason::MissingAdId,
        Reason::MissingAdvertiserId,
        Reason::MissingEventId,
        Reason::BadId,
        Reason::BadType,
        Reason::BadTs,
        Reason::TsInFuture,
        Reason::BadAmount,
        Reason::BadCurrency,
        Reason::BadText,
        Reason::MissingClickOrUser,
        Reason::UnknownAd,
        Reason::TooLarge,
        Reason::BadSignature,
    ];

    /// The name, in quarantine subjects, answers and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Reason::InvalidPayload => "invalid_payload",
            Reason::UnknownKind => "unknown_kind",
            Reason::BadSubject => "bad_subject",
            Reason::SubjectMismatch => "subject_mismatch",
            Reason::MissingAdId => "missing_ad_id",
            Reason::MissingAdvertiserId => "missing_advertiser_id",
            Reason::MissingEventId => "missing_event_id",
            Reason::BadId => "bad_id",
            Reason::BadType => "bad_type",
            Reason::BadTs => "bad_ts",
            Reason::TsInFuture => "ts_in_future",
            Reason::BadAmount => "bad_amount",
            Reason::BadCurrency => "bad_currency",
            Reason::BadText => "bad_text",
            Reason::MissingClickOrUser => "missing_click_or_user",
            Reason::UnknownAd => "unknown_ad",
            Reason::TooLarge => "too_large",
            Reason::BadSignature => "bad_signature",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An event that is not counted: why, and what to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Refusal {
    /// The reason's stable name.
    pub reason: Reason,
    /// What is wrong with which field, for a person; at most [`DETAIL_MAX_BYTES`].
    pub detail: String,
}

impl Refusal {
    /// A refusal; the detail is cut at [`DETAIL_MAX_BYTES`].
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        detail.truncate(cut_at_char(&detail, DETAIL_MAX_BYTES).len());
        Self { reason, detail }
    }
}

/// What QUARANTINE keeps of a refused event. Its JSON has exactly the contract's names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineRecord {
    /// Why it was refused.
    pub reason: Reason,
    /// What is wrong with it, for a person.
    pub detail: String,
    /// The subject on which it came, or the way in for an event that came over HTTP.
    pub subject: String,
    /// The stream that held it; none for an event that came over HTTP.
    pub stream: Option<String>,
    /// Its sequence in that stream.
    pub sequence: Option<u64>,
    /// When it reached the border: RFC 3339, UTC, milliseconds.
    pub received_at: String,
    /// Its bytes, where they are UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// Its bytes in Base64, where they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
    /// Whether the payload was longer than what is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

impl QuarantineRecord {
    /// Keeps of `payload` what fits: at most [`QUARANTINE_MAX_PAYLOAD`] bytes, and for a text that JSON must
    /// escape heavily as much as the broker's message can carry.
    ///
    /// `received_ms` is the arrival time in milliseconds of the Unix epoch.
    pub fn new(refusal: Refusal, subject: &str, received_ms: i64, payload: &[u8]) -> Self {
        let mut record = Self {
            reason: refusal.reason,
            detail: cut_at_char(&refusal.detail, DETAIL_MAX_BYTES).to_owned(),
            subject: cut_at_char(subject, SUBJECT_MAX_BYTES).to_owned(),
            stream: None,
            sequence: None,
            received_at: to_rfc3339(received_ms),
            payload: None,
            payload_base64: None,
            truncated: false,
        };
        match std::str::from_utf8(payload) {
            Ok(text) => {
                let kept = cut_escaped(cut_at_char(text, QUARANTINE_MAX_PAYLOAD));
                record.truncated = kept.len() < text.len();
                record.payload = Some(kept.to_owned());
            }
            Err(_) => {
                let kept = &payload[..payload.len().min(QUARANTINE_MAX_PAYLOAD)];
                record.truncated = kept.len() < payload.len();
                record.payload_base64 = Some(BASE64.encode(kept));
            }
        }
        record
    }

    /// Adds where the broker held the event.
    pub fn from_stream(mut self, stream: &str, sequence: u64) -> Self {
        self.stream = Some(stream.to_owned());
        self.sequence = Some(sequence);
        self
    }

    /// The subject on which the record is published: `quarantine.<reason>`.
    pub fn publish_subject(&self) -> String {
        format!("{QUARANTINE_PREFIX}.{}", self.reason.name())
    }

    /// The message, a JSON object below the broker's limit.
    pub fn to_json_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record of texts and numbers always has a JSON form")
    }
}

/// The longest prefix of at most `max` bytes that ends between two characters.
pub fn cut_at_char(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

fn cut_escaped(text: &str) -> &str {
    // Twice as long is the worst that quotes and backslashes do, and that fits.
    let mut room = ESCAPED_MAX_BYTES;
    for (at, c) in text.char_indices() {
        let cost = match c {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            '\0'..='\u{1f}' => 6,
            _ => c.len_utf8(),
        };
        match room.checked_sub(cost) {
            Some(left) => room = left,
            None => return &text[..at],
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::names::BROKER_MAX_MESSAGE;

    const SECOND: i64 = 1_000;

    fn record(payload: &[u8]) -> QuarantineRecord {
        let refusal = Refusal::new(Reason::BadId, "ad_id: an id is 1 to 64 characters");
        QuarantineRecord::new(refusal, "ads.click.a1", 1_707_487_500 * SECOND + 7, payload)
    }

    #[test]
    fn every_name_is_its_serde_name_and_is_used_once() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        for reason in Reason::ALL {
            assert_eq!(
                serde_json::to_string(&reason).unwrap(),
                format!("\"{}\"", reason.name())
            );
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
    }

    #[test]
    fn a_record_is_the_json_of_the_contract() {
        let bytes = record(b"{\"x\":\"\xc3\xa9\"}")
            .from_stream("INTAKE", 42)
            .to_json_bytes();
        assert_eq!(
            std::str::from_utf8(&bytes).unwrap(),
            r#"{"reason":"bad_id","detail":"ad_id: an id is 1 to 64 characters","subject":"ads.click.a1","stream":"INTAKE","sequence":42,"received_at":"2024-02-09T14:05:00.007Z","payload":"{\"x\":\"é\"}"}"#
        );
        let bytes = record(&[0x81, 0xa1, 0xff]).to_json_bytes();
        assert_eq!(
            std::str::from_utf8(&bytes).unwrap(),
            r#"{"reason":"bad_id","detail":"ad_id: an id is 1 to 64 characters","subject":"ads.click.a1","stream":null,"sequence":null,"received_at":"2024-02-09T14:05:00.007Z","payload_base64":"gaH/"}"#
        );
        assert_eq!(record(b"").publish_subject(), "quarantine.bad_id");
    }

    #[test]
    fn a_long_payload_is_cut_between_characters_and_says_so() {
        let whole = record("x".repeat(262_144).as_bytes());
        assert_eq!(
            (whole.payload.as_ref().unwrap().len(), whole.truncated),
            (262_144, false)
        );
        let cut = record("x".repeat(262_145).as_bytes());
        assert_eq!(
            (cut.payload.as_ref().unwrap().len(), cut.truncated),
            (262_144, true)
        );
        // 3-byte characters: 87,381 of them are 262,143 bytes, and the next one would pass the limit.
        let cut = record("€".repeat(100_000).as_bytes());
        assert_eq!(
            (cut.payload.as_ref().unwrap().len(), cut.truncated),
            (262_143, true)
        );
        let cut = record(&vec![0xff; 300_000]);
        // ceil(262,144 / 3) * 4
        assert_eq!(
            (cut.payload_base64.as_ref().unwrap().len(), cut.truncated),
            (349_528, true)
        );
        let json: serde_json::Value = serde_json::from_slice(&cut.to_json_bytes()).unwrap();
        assert_eq!(json["truncated"], serde_json::Value::Bool(true));
    }

    #[test]
    fn no_payload_makes_a_message_that_the_broker_refuses() {
        for filler in ["\u{1}", "\"", "\\", "\u{7f}", "\n", "é", "\u{10ffff}"] {
            let record = record(filler.repeat(400_000).as_bytes());
            assert!(record.truncated);
            assert!(
                record.to_json_bytes().len() < BROKER_MAX_MESSAGE * 3 / 4,
                "{filler:?}"
            );
        }
    }

    #[test]
    fn a_detail_is_cut_between_characters() {
        let refusal = Refusal::new(Reason::BadText, "é".repeat(400));
        assert_eq!(refusal.detail.len(), 512);
        assert_eq!(
            Refusal::new(Reason::BadText, "€".repeat(400)).detail.len(),
            510
        );
    }
}
