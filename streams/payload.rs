//! One event's payload, JSON or MessagePack, as the contract's fields with their scalar values.
//!
//! Both formats go through one visitor, so that they cannot differ in what they accept. Nothing is believed that a
//! payload declares of itself: a map of four billion entries ends where its bytes end, and nesting has a limit.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::names::BROKER_MAX_MESSAGE;
use crate::refusal::{Reason, Refusal};

/// The most bytes of one event's payload: what the broker takes as one message.
pub const PAYLOAD_MAX_BYTES: usize = BROKER_MAX_MESSAGE;
/// How deep a MessagePack payload may nest in what is passed over; the JSON reader passes over any depth in a
/// loop, and this one calls itself.
const MAX_DEPTH: usize = 128;

/// The fields that an event may have; anything else in a payload is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Kind,
    ImpressionId,
    ClickId,
    ConversionId,
    AdId,
    AdvertiserId,
    Ts,
    CampaignId,
    Creative,
    UserId,
    Device,
    Geo,
    Ip,
    IpHash,
    UserAgent,
    Referrer,
    CostMicros,
    LandingUrl,
    ValueMicros,
    CurrencyCode,
    OrderId,
}

const FIELD_COUNT: usize = Field::OrderId as usize + 1;

impl Field {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Field::Kind => "kind",
            Field::ImpressionId => "impression_id",
            Field::ClickId => "click_id",
            Field::ConversionId => "conversion_id",
            Field::AdId => "ad_id",
            Field::AdvertiserId => "advertiser_id",
            Field::Ts => "ts",
            Field::CampaignId => "campaign_id",
            Field::Creative => "creative",
            Field::UserId => "user_id",
            Field::Device => "device",
            Field::Geo => "geo",
            Field::Ip => "ip",
            Field::IpHash => "ip_hash",
            Field::UserAgent => "user_agent",
            Field::Referrer => "referrer",
            Field::CostMicros => "cost_micros",
            Field::LandingUrl => "landing_url",
            Field::ValueMicros => "value_micros",
            Field::CurrencyCode => "currency_code",
            Field::OrderId => "order_id",
        }
    }

    fn from_name(name: &str) -> Option<Field> {
        Some(match name {
            "kind" => Field::Kind,
            "impression_id" => Field::ImpressionId,
            "click_id" => Field::ClickId,
            "conversion_id" => Field::ConversionId,
            "ad_id" => Field::AdId,
            "advertiser_id" => Field::AdvertiserId,
            "ts" => Field::Ts,
            "campaign_id" => Field::CampaignId,
            "creative" => Field::Creative,
            "user_id" => Field::UserId,
            "device" => Field::Device,
            "geo" => Field::Geo,
            "ip" => Field::Ip,
            "ip_hash" => Field::IpHash,
            "user_agent" => Field::UserAgent,
            "referrer" => Field::Referrer,
            "cost_micros" => Field::CostMicros,
            "landing_url" => Field::LandingUrl,
            "value_micros" => Field::ValueMicros,
            "currency_code" => Field::CurrencyCode,
            "order_id" => Field::OrderId,
            _ => return None,
        })
    }
}

/// A field's value, as far as the contract's fields need one.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Scalar<'de> {
    /// Not there, or null.
    #[default]
    Absent,
    /// A text.
    Text(Cow<'de, str>),
    /// MessagePack bytes, or a MessagePack text that is not UTF-8.
    Bytes,
    /// A whole number.
    Integer(i64),
    /// A whole number above 2^63.
    Huge,
    /// Of a type that no field has, named for people.
    Other(&'static str),
}

/// The values of one payload.
#[derive(Debug)]
pub(crate) struct Fields<'de> {
    values: [Scalar<'de>; FIELD_COUNT],
}

impl<'de> Fields<'de> {
    /// Reads a payload; its first byte tells whether it is JSON or MessagePack.
    pub(crate) fn read(payload: &'de [u8]) -> Result<Self, Refusal> {
        match payload.first() {
            Some(0x80..=0x8f | 0xde | 0xdf) => {
                check_size(payload).and_then(Self::read_message_pack)
            }
            _ => Self::read_json(payload),
        }
    }

    /// Reads a JSON object, with white space and a byte order mark around it.
    pub(crate) fn read_json(payload: &'de [u8]) -> Result<Self, Refusal> {
        let text = check_size(payload)?.trim_ascii_start();
        let text = text
            .strip_prefix(b"\xef\xbb\xbf")
            .unwrap_or(text)
            .trim_ascii_start();
        if text.first() != Some(&b'{') {
            return Err(Refusal::new(
                Reason::InvalidPayload,
                "neither a JSON object nor a MessagePack map",
            ));
        }
        let mut reader = serde_json::Deserializer::from_slice(text);
        let refuse = |e| Refusal::new(Reason::InvalidPayload, format!("not a JSON object: {e}"));
        let fields = Fields::deserialize(&mut reader).map_err(refuse)?;
        reader.end().map_err(refuse)?;
        Ok(fields)
    }

    fn read_message_pack(payload: &'de [u8]) -> Result<Self, Refusal> {
        let mut reader = rmp_serde::Deserializer::from_read_ref(payload);
        reader.set_max_depth(MAX_DEPTH);
        let refuse = |e: &dyn fmt::Display| {
            Refusal::new(
                Reason::InvalidPayload,
                format!("not a MessagePack map: {e}"),
            )
        };
        let fields = Fields::deserialize(&mut reader).map_err(|e| refuse(&e))?;
        // The reader does not say how far it got. Asking for one more value fails for want of a marker only when
        // there is not a single byte left.
        match <()>::deserialize(&mut reader) {
            Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(fields),
            _ => Err(refuse(&"something follows it")),
        }
    }

    pub(crate) fn take(&mut self, field: Field) -> Scalar<'de> {
        std::mem::take(&mut self.values[field as usize])
    }
}

fn check_size(payload: &[u8]) -> Result<&[u8], Refusal> {
    if payload.len() > PAYLOAD_MAX_BYTES {
        let detail = format!(
            "the payload has {} bytes; the limit is {PAYLOAD_MAX_BYTES}",
            payload.len()
        );
        return Err(Refusal::new(Reason::TooLarge, detail));
    }
    Ok(payload)
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of the event's fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields {
            values: std::array::from_fn(|_| Scalar::Absent),
        };
        // Of a name that stands there twice the last value counts, as JSON readers everywhere have it.
        while let Some(Key(key)) = map.next_key()? {
            match key {
                Some(field) => fields.values[field as usize] = map.next_value()?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(fields)
    }
}

/// A key of the map: one of the contract's names, or something to pass over with its value.
struct Key(Option<Field>);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let Scalar::Text(name) = Scalar::deserialize(d)? else {
            return Ok(Key(None));
        };
        Ok(Key(Field::from_name(&name)))
    }
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Absent)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Other("true or false"))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Self::Value, E> {
        Ok(Scalar::Integer(n))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(n).map_or(Scalar::Huge, Scalar::Integer))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Scalar::Other("a number with a fraction or an exponent"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Borrowed(text)))
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Self::Value, E> {
        Ok(Scalar::Bytes)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other("an object"))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        extension: D,
    ) -> Result<Self::Value, D::Error> {
        extension.deserialize_any(IgnoredAny)?;
        Ok(Scalar::Other("a MessagePack extension"))
    }
}

#[cfg(test)]
#[path = "payload_tests.rs"]
mod tests;
