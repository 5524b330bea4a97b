//! An event as its publisher sends it: a query string for the collector, a JSON object for POST and NATS.
//!
//! Faults are put in here, so that the same broken event is broken on every way in.

use adtally_streams::event::Kind;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::sample::Sample;
use super::traffic::{Event, Fault};

/// The ad that nobody knows.
const UNKNOWN_AD: &str = "no-such-ad";
/// How far ahead of its arrival a [`Fault::Future`] is, in milliseconds.
const AHEAD_MS: i64 = 3_600_000;

/// The contract's name of the kind's own id.
fn id_field(kind: Kind) -> &'static str {
    match kind {
        Kind::Impression => "impression_id",
        Kind::Click => "click_id",
        Kind::Conversion => "conversion_id",
    }
}

/// The event as a JSON object, without `kind`.
pub fn object(event: &Event, sample: &Sample, now_ms: i64) -> Map<String, Value> {
    let mut map = Map::new();
    let mut put = |name: &str, value: Value| {
        map.insert(name.into(), value);
    };
    put(id_field(event.kind), event.id.clone().into());
    put("user_id", event.user_id().into());
    let campaign = sample.campaign_of(event.ad);
    if event.kind == Kind::Conversion {
        let advertiser = &sample.advertisers[campaign.advertiser];
        put("advertiser_id", advertiser.advertiser_id.clone().into());
        put("value_micros", event.value_micros.into());
        put("currency_code", advertiser.currency.into());
        put("order_id", format!("order-{}", event.visitor).into());
        if let Some(click) = &event.parent_id {
            put("click_id", click.clone().into());
        }
    } else {
        put("ad_id", sample.ads[event.ad].ad_id.clone().into());
        put("creative", event.creative.into());
        put("geo", event.geo.into());
        put("user_agent", event.user_agent.into());
        put("referrer", event.referrer.into());
        put("ip", event.address().into());
        if let Some(device) = event.device {
            put("device", device.into());
        }
        if event.kind == Kind::Click
            && let Some(impression) = &event.parent_id
        {
            put("impression_id", impression.clone().into());
        }
    }
    if let Some(ts) = event.ts_ms {
        put("ts", ts.into());
    }
    if let Some(fault) = event.fault {
        break_it(&mut map, event.kind, fault, now_ms);
    }
    map
}

fn break_it(map: &mut Map<String, Value>, kind: Kind, fault: Fault, now_ms: i64) {
    let key = if kind == Kind::Conversion {
        "advertiser_id"
    } else {
        "ad_id"
    };
    let amount = if kind == Kind::Conversion {
        "value_micros"
    } else {
        "cost_micros"
    };
    match fault {
        // An unknown advertiser's conversion is taken, so a conversion is broken by naming nobody who converted.
        Fault::UnknownAd if kind == Kind::Conversion => {
            map.remove("click_id");
            map.remove("user_id");
        }
        Fault::UnknownAd => {
            map.insert(key.into(), json!(UNKNOWN_AD));
        }
        Fault::NoKey => {
            map.remove(key);
        }
        Fault::BadId => {
            map.insert(id_field(kind).into(), json!("not an/id"));
        }
        Fault::BadTime => {
            map.insert("ts".into(), json!("2024-02-30T25:61:00Z"));
        }
        Fault::Future => {
            map.insert("ts".into(), json!(now_ms + AHEAD_MS));
        }
        Fault::NegativeAmount => {
            map.insert(amount.into(), json!(-1));
        }
        Fault::WrongType => {
            map.insert("user_id".into(), json!(17));
        }
    }
}

/// The subject that a publisher uses. A [`Fault::NoKey`] event has its key on neither side, as far as a subject can
/// lack one: the last token is one that no id may be.
pub fn subject(event: &Event, sample: &Sample) -> String {
    let campaign = sample.campaign_of(event.ad);
    let key = match (event.kind, event.fault) {
        (_, Some(Fault::NoKey)) => "~",
        (Kind::Conversion, _) => &sample.advertisers[campaign.advertiser].advertiser_id,
        (_, Some(Fault::UnknownAd)) => UNKNOWN_AD,
        _ => &sample.ads[event.ad].ad_id,
    };
    format!("ads.{}.{key}", event.kind.name())
}

/// Path and query of the collector's request; none for a fault that the collector mends instead of refusing.
pub fn path(event: &Event, sample: &Sample, now_ms: i64) -> Option<String> {
    let refused = match event.fault {
        None => true,
        Some(Fault::UnknownAd | Fault::NoKey) => true,
        Some(_) => false,
    };
    if !refused {
        return None;
    }
    let mut map = object(event, sample, now_ms);
    for header in ["user_agent", "referrer", "ip"] {
        map.remove(header);
    }
    let mut path = match event.kind {
        Kind::Impression => "/i".to_string(),
        Kind::Conversion => "/conversion".to_string(),
        // Half of the clicks take the short form; the id decides, so that a retry takes the same one.
        Kind::Click
            if event.fault.is_none() && event.id.ends_with(|c: char| c.is_ascii_digit()) =>
        {
            let ad = map.remove("ad_id");
            format!(
                "/c/{}",
                ad.as_ref().and_then(Value::as_str).unwrap_or_default()
            )
        }
        Kind::Click => "/click".to_string(),
    };
    for (n, (name, value)) in map.iter().enumerate() {
        path.push(if n == 0 { '?' } else { '&' });
        path.push_str(name);
        path.push('=');
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_string);
        path.extend(utf8_percent_encode(&text, NON_ALPHANUMERIC));
    }
    Some(path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::super::traffic::Traffic;
    use super::*;

    #[test]
    fn every_sound_event_carries_what_the_contract_requires() {
        let sample = Arc::new(Sample::new(""));
        let mut traffic = Traffic::new(5, &sample);
        for _ in 0..20_000 {
            let event = traffic.next(1_760_000_000_000);
            if event.fault.is_some() {
                continue;
            }
            let map = object(&event, &sample, 0);
            assert!(
                map[id_field(event.kind)]
                    .as_str()
                    .is_some_and(|id| id.len() == 36)
            );
            let subject = subject(&event, &sample);
            let key = if event.kind == Kind::Conversion {
                "advertiser_id"
            } else {
                "ad_id"
            };
            assert!(subject.ends_with(map[key].as_str().unwrap()), "{subject}");
            let path = path(&event, &sample, 0).unwrap();
            assert!(path.is_ascii() && !path.contains(' '), "{path}");
        }
    }
}
