//! Facts: what only the outside knows of an event, gathered so that admission itself can stay pure.
//!
//! What the payload says of its visitor (address, user agent) goes before what the connection says, since a
//! publisher's server is not the visitor.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use adtally_streams::admit::Facts;
use adtally_streams::event::{Flags, Kind, TEXT_MAX_BYTES};
use adtally_streams::parse::RawEvent;
use ipnet::IpNet;

use super::address::{client_address, limit_key};
use super::agent::Agents;
use super::geo::{Geo, GeoError};
use super::headers::Headers;
use super::keys::{DayKeys, Hashed, day_of};
use super::limit::AddressLimit;
use super::prefetch::is_prefetch;

/// What a connection tells of whoever sent an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// The visitor's address, where the visitor's own browser made the request.
    pub address: Option<IpAddr>,
    /// Its user agent.
    pub user_agent: Option<Arc<str>>,
    /// The page it came from.
    pub referrer: Option<Arc<str>>,
    /// Whether it announced a prefetch.
    pub is_prefetch: bool,
    /// Whether the event counts towards the address limit: clicks that a collector answers.
    pub is_limited: bool,
    /// Whether the event's id was made here.
    pub has_minted_id: bool,
    /// What a lenient way in has mended.
    pub mended: Flags,
}

impl Sender {
    /// What a browser's request tells. `trusted` are the proxies whose word is taken for the address, `texts` what
    /// the request before it on the same connection has said: mostly the same.
    pub fn of_browser(
        peer: IpAddr,
        headers: &(impl Headers + ?Sized),
        trusted: &[IpNet],
        texts: &mut Texts,
    ) -> Self {
        Self {
            address: Some(client_address(peer, headers, trusted)),
            user_agent: header_text(headers.one("user-agent"), &mut texts.user_agent),
            referrer: header_text(headers.one("referer"), &mut texts.referrer),
            is_prefetch: is_prefetch(headers),
            ..Self::default()
        }
    }
}

/// The texts that a connection's last request had: they are shared by the next one that says the same.
#[derive(Debug, Default)]
pub struct Texts {
    user_agent: Option<Arc<str>>,
    referrer: Option<Arc<str>>,
}

/// A header as text, cut at [`TEXT_MAX_BYTES`]; bytes that are not UTF-8 are replaced. Empty counts as absent.
fn header_text(value: Option<&[u8]>, last: &mut Option<Arc<str>>) -> Option<Arc<str>> {
    let value = value.filter(|value| !value.is_empty())?;
    if let Some(last) = last.as_ref().filter(|last| last.as_bytes() == value) {
        return Some(last.clone());
    }
    // What is text already is told so much more quickly.
    let text =
        std::str::from_utf8(value).map_or_else(|_| String::from_utf8_lossy(value), Cow::Borrowed);
    let text: Arc<str> = Arc::from(&text[..text.floor_char_boundary(TEXT_MAX_BYTES)]);
    *last = Some(text.clone());
    Some(text)
}

/// Where facts come from: the bot list, the GeoIP database, the day keys, the address limit.
pub struct FactSource {
    agents: Agents,
    geo: Option<Geo>,
    keys: DayKeys,
    limit: AddressLimit,
    trusted: Vec<IpNet>,
}

impl FactSource {
    /// Reads the GeoIP database, where one is configured, and prepares the rest.
    pub fn open(keys: DayKeys, geo: Option<&Path>, trusted: Vec<IpNet>) -> Result<Self, GeoError> {
        let geo = geo.map(Geo::open).transpose()?;
        Ok(Self {
            agents: Agents::default(),
            geo,
            keys,
            limit: AddressLimit::default(),
            trusted,
        })
    }

    /// The proxies whose X-Forwarded-For is believed.
    pub fn trusted(&self) -> &[IpNet] {
        &self.trusted
    }

    /// The day keys.
    pub fn keys(&self) -> &DayKeys {
        &self.keys
    }

    /// The facts of one event. Its day's key must have been fetched before ([`DayKeys::ensure`]); an address
    /// without a key is a flag. A limited click is counted here, so this is called once an event.
    pub fn of(&self, raw: &RawEvent, sender: &Sender, arrival_ms: i64) -> Facts {
        let mut facts = Facts {
            arrival_ms,
            is_prefetch: sender.is_prefetch,
            minted_id: sender.has_minted_id,
            user_agent: sender.user_agent.clone(),
            referrer: sender.referrer.clone(),
            mended: sender.mended,
            ..Facts::default()
        };
        if let Some(user_agent) = raw.user_agent.as_ref().or(sender.user_agent.as_ref()) {
            let agent = self.agents.judge(user_agent);
            facts.is_bot = agent.is_bot;
            facts.device_from_agent = Some(agent.device);
        }
        let address = raw.ip.or(sender.address);
        if let (Some(geo), Some(address)) = (&self.geo, address)
            && raw.region.is_none()
            && raw.kind != Kind::Conversion
        {
            facts.region_from_address = geo.region(address);
        }
        let hashed = address
            .map(Hashed::Address)
            .or_else(|| raw.ip_hash.as_deref().map(Hashed::Given));
        if let Some(hashed) = hashed {
            let day = day_of(raw.ts_ms.unwrap_or(arrival_ms));
            facts.address_hash = self.keys.hash(day, hashed);
            facts.no_address_key = facts.address_hash.is_none();
        }
        if let Some(address) = address.filter(|_| sender.is_limited) {
            facts.over_address_limit = self.limit.is_past(limit_key(address), arrival_ms);
        }
        facts
    }
}

/// The days whose keys the events need: of those that have an address.
pub fn days_needed<'a>(events: impl Iterator<Item = (&'a RawEvent, &'a Sender, i64)>) -> Vec<i64> {
    let mut days: Vec<i64> = events
        .filter(|(raw, sender, _)| {
            raw.ip.is_some() || raw.ip_hash.is_some() || sender.address.is_some()
        })
        .map(|(raw, _, arrival_ms)| day_of(raw.ts_ms.unwrap_or(arrival_ms)))
        .collect();
    days.sort_unstable();
    days.dedup();
    days
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use adtally_streams::event::Device;
    use adtally_streams::id::Id;
    use axum::http::{HeaderMap, HeaderName, header};

    use super::*;
    use crate::border::{keys, keys_file};

    const DAY: i64 = 20_000;
    const NOW: i64 = DAY * keys::DAY_MS + 1_000;
    const IPHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1";

    fn source() -> FactSource {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("day-keys");
        keys_file::write(&file, &BTreeMap::from([(DAY, [7; 32])])).unwrap();
        FactSource::open(DayKeys::open(&file, None).unwrap(), None, Vec::new()).unwrap()
    }

    fn click() -> RawEvent {
        RawEvent::new(Kind::Click, Id::new("c1").unwrap(), Id::new("ad1").unwrap())
    }

    fn browser(headers: &[(&'static str, &str)]) -> Sender {
        let headers: HeaderMap = headers
            .iter()
            .map(|(n, v)| {
                (
                    HeaderName::from_static(n),
                    axum::http::HeaderValue::from_str(v).unwrap(),
                )
            })
            .collect();
        Sender::of_browser(
            "192.0.2.1".parse().unwrap(),
            &headers,
            &[],
            &mut Texts::default(),
        )
    }

    #[test]
    fn a_text_that_is_said_again_is_shared_and_another_one_is_not() {
        let mut texts = Texts::default();
        let mut of = |agent: &str| {
            let headers: HeaderMap = [(header::USER_AGENT, agent.parse().unwrap())]
                .into_iter()
                .collect();
            let peer = "192.0.2.1".parse().unwrap();
            Sender::of_browser(peer, &headers, &[], &mut texts).user_agent
        };
        let (first, again, other, none) = (of("a"), of("a"), of("b"), of(""));
        assert!(Arc::ptr_eq(
            first.as_ref().unwrap(),
            again.as_ref().unwrap()
        ));
        assert_eq!(
            (first.as_deref(), other.as_deref(), none),
            (Some("a"), Some("b"), None)
        );
    }

    #[test]
    fn a_browsers_request_tells_who_came() {
        let sender = browser(&[
            ("user-agent", IPHONE),
            ("referer", "https://news.example/"),
            ("purpose", "prefetch"),
        ]);
        let facts = source().of(&click(), &sender, NOW);
        assert_eq!(facts.device_from_agent, Some(Device::Ios));
        assert!(facts.is_prefetch && !facts.is_bot && !facts.over_address_limit);
        assert_eq!(facts.referrer.as_deref(), Some("https://news.example/"));
        let expected = keys::hash(&[7; 32], Hashed::Address("192.0.2.1".parse().unwrap()));
        assert_eq!(
            (facts.address_hash, facts.no_address_key),
            (Some(expected), false)
        );
    }

    #[test]
    fn the_payload_goes_before_the_connection() {
        let mut raw = click();
        raw.ip = Some("198.51.100.7".parse().unwrap());
        raw.ip_hash = Some("abc".into());
        raw.user_agent = Some("curl/8.5.0".into());
        let facts = source().of(&raw, &browser(&[("user-agent", IPHONE)]), NOW);
        assert!(facts.is_bot);
        assert_eq!(
            facts.address_hash,
            Some(keys::hash(&[7; 32], Hashed::Address(raw.ip.unwrap())))
        );
        raw.ip = None;
        let facts = source().of(&raw, &Sender::default(), NOW);
        assert_eq!(
            facts.address_hash,
            Some(keys::hash(&[7; 32], Hashed::Given("abc")))
        );
    }

    #[test]
    fn no_key_is_a_flag_and_no_address_is_none() {
        let mut raw = click();
        raw.ts_ms = Some(NOW - 40 * keys::DAY_MS);
        let facts = source().of(&raw, &browser(&[]), NOW);
        assert_eq!((facts.address_hash, facts.no_address_key), (None, true));
        let facts = source().of(&raw, &Sender::default(), NOW);
        assert_eq!((facts.address_hash, facts.no_address_key), (None, false));
        assert_eq!(facts.device_from_agent, None);
    }

    #[test]
    fn only_limited_clicks_count_towards_the_limit() {
        let source = source();
        let mut sender = browser(&[]);
        for _ in 0..200 {
            assert!(!source.of(&click(), &sender, NOW).over_address_limit);
        }
        sender.is_limited = true;
        let past = (0..150)
            .filter(|i| source.of(&click(), &sender, NOW + i).over_address_limit)
            .count();
        assert_eq!(past, 50);
    }

    #[test]
    fn the_days_needed_are_those_of_events_with_an_address() {
        let (mut given, plain) = (click(), click());
        given.ip_hash = Some("abc".into());
        given.ts_ms = Some(NOW - keys::DAY_MS);
        let (browser, server) = (browser(&[]), Sender::default());
        let events = [
            (&given, &server, NOW),
            (&plain, &browser, NOW),
            (&plain, &browser, NOW),
            (&plain, &server, 5),
        ];
        assert_eq!(days_needed(events.into_iter()), [DAY - 1, DAY]);
    }

    #[test]
    fn a_header_that_is_long_or_not_text_is_cut_or_mended() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::USER_AGENT,
            axum::http::HeaderValue::from_bytes(b"a\xff").unwrap(),
        );
        headers.insert(
            header::REFERER,
            axum::http::HeaderValue::from_bytes(&[b'x'; 5_000]).unwrap(),
        );
        let sender = Sender::of_browser(
            "192.0.2.1".parse().unwrap(),
            &headers,
            &[],
            &mut Texts::default(),
        );
        assert_eq!(sender.user_agent.as_deref(), Some("a\u{fffd}"));
        assert_eq!(sender.referrer.unwrap().len(), TEXT_MAX_BYTES);
        headers.insert(header::USER_AGENT, axum::http::HeaderValue::from_static(""));
        assert_eq!(
            Sender::of_browser(
                "192.0.2.1".parse().unwrap(),
                &headers,
                &[],
                &mut Texts::default()
            )
            .user_agent,
            None
        );
    }
}
