//! Tests of questions over states that the fold itself made of frames, held against sums over the plain events.
#![allow(clippy::unwrap_used)]

mod answers;
mod asked;
mod derived;
mod producers;
mod sealed;
mod uniques;
mod united;
mod watched;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use adtally_projections::bounds::Bound;
use adtally_projections::dump::Source as _;
use adtally_projections::family::{Changes, Family, Reads, Target};
use adtally_projections::fold::{Entry, Fold};
use adtally_projections::memory::Memory;
use adtally_projections::ratios::Chosen;
use adtally_projections::seal::seal;
use adtally_projections::sections::OpenSection;
use adtally_projections::spans::{Horizon, Retention};
use adtally_streams::catalogue::Catalogue;
use adtally_streams::event::{
    Body, ClickDetail, Device, EdgeReason, Event, Flags, Kind, Placement,
};
use adtally_streams::frame::{Header, encode};
use adtally_streams::id::{Epoch, Id};
use adtally_streams::names::{events_subject, shard_of};
use adtally_streams::time::offset_at;
use adtally_streams::watermark::Watermark;

use super::analytics::{Answer, Question, Span, answer};
use super::scope::Subject;
use super::shard::{EachRow, Shard, ShardRead, SnapshotSet};
use super::{Cancel, QueryError};

const SHARDS: u16 = 3;

pub(crate) fn id(text: &str) -> Id {
    Id::new(text).unwrap()
}

pub(crate) fn ms(text: &str) -> i64 {
    chrono::DateTime::parse_from_rfc3339(text)
        .unwrap()
        .timestamp_millis()
}

/// Two campaigns of New York, one of Lord Howe, one of UTC in the currency of New York's.
pub(crate) fn catalogue() -> Catalogue {
    let mut catalogue = Catalogue::default();
    let documents = [
        (
            "advertiser.acme",
            r#"{"currency_code":"USD","time_zone":"America/New_York"}"#,
        ),
        (
            "advertiser.island",
            r#"{"currency_code":"AUD","time_zone":"Australia/Lord_Howe"}"#,
        ),
        (
            "advertiser.zulu",
            r#"{"currency_code":"USD","time_zone":"UTC"}"#,
        ),
        (
            "campaign.spring",
            r#"{"advertiser_id":"acme","pricing":{"model":"cpc","price_micros":1000},"daily_budget_micros":10000}"#,
        ),
        (
            "campaign.autumn",
            r#"{"advertiser_id":"acme","pricing":{"model":"cpc","price_micros":1000}}"#,
        ),
        (
            "campaign.surf",
            r#"{"advertiser_id":"island","pricing":{"model":"cpc","price_micros":1000}}"#,
        ),
        (
            "campaign.noon",
            r#"{"advertiser_id":"zulu","pricing":{"model":"cpc","price_micros":1000}}"#,
        ),
        (
            "ad.banner",
            r#"{"campaign_id":"spring","landing_url":"https://a.example/"}"#,
        ),
    ];
    for (n, (name, json)) in documents.iter().enumerate() {
        catalogue
            .apply(n as u64 + 1, &format!("catalog.{name}"), json.as_bytes())
            .unwrap();
    }
    catalogue
}

/// An event as the border would stamp it.
#[derive(Clone, Debug)]
pub(crate) struct Plain {
    pub kind: Kind,
    pub campaign: &'static str,
    pub ad: &'static str,
    pub creative: &'static str,
    pub region: &'static str,
    pub device: Device,
    pub time_ms: i64,
    pub cost_micros: i64,
    pub verdict: Option<EdgeReason>,
    /// Number of the user; 0 for nobody.
    pub user: u32,
}

pub(crate) fn click(campaign: &'static str, ad: &'static str, time: &str) -> Plain {
    Plain {
        kind: Kind::Click,
        campaign,
        ad,
        creative: "",
        region: "",
        device: Device::Ios,
        time_ms: ms(time),
        cost_micros: 1_000,
        verdict: None,
        user: 0,
    }
}

fn stamped(n: usize, plain: &Plain, catalogue: &Catalogue) -> Event {
    let owner = catalogue
        .campaign(plain.campaign)
        .and_then(|c| catalogue.advertiser(c.advertiser_id.as_str()));
    let placement = Placement {
        ad_id: id(plain.ad),
        campaign_id: id(plain.campaign),
        creative: Arc::from(plain.creative),
        region: Arc::from(plain.region),
        device: plain.device,
        cost_micros: plain.cost_micros,
        verdict: plain.verdict,
    };
    Event {
        id: id(&format!("event-{n}")),
        event_time_ms: plain.time_ms,
        arrival_ms: plain.time_ms,
        advertiser_id: owner.map(|o| o.advertiser_id.clone()),
        currency: owner.map(|o| o.currency_code),
        utc_offset_s: owner.map_or(0, |o| offset_at(o.time_zone, plain.time_ms)),
        catalogue_revision: 1,
        content_hash: n as u64,
        flags: Flags::default(),
        address_hash: None,
        user_id: (plain.user > 0).then(|| id(&format!("user-{}", plain.user))),
        user_agent: None,
        referrer: None,
        body: match plain.kind {
            Kind::Impression => Body::Impression(placement),
            _ => Body::Click(placement, ClickDetail::default()),
        },
    }
}

pub(super) struct Rows(pub Memory);

impl ShardRead for Rows {
    fn retention(&self) -> Retention {
        self.0.retention()
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, QueryError> {
        Ok(self.0.get(Target::Family(family), key).map(<[u8]>::to_vec))
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        each: EachRow<'_>,
    ) -> Result<(), QueryError> {
        let mut flow = Ok(ControlFlow::Continue(()));
        let Ok(()) = self.0.scan(family, &mut |key, value| {
            if matches!(flow, Ok(ControlFlow::Continue(()))) && key >= from && key < to {
                flow = each(key, value);
            }
        });
        flow.map(|_| ())
    }
}

/// Seals the open sections that are chosen, by their place in order.
pub(super) fn seal_some(state: &mut Memory, fold: &mut Fold, chosen: impl Fn(usize) -> bool) {
    let mut open = Vec::new();
    let Ok(()) = state.scan(Family::OpenSpans, &mut |key, _| {
        open.push(OpenSection::decode(key).unwrap());
    });
    for (_, section) in open.into_iter().enumerate().filter(|(n, _)| chosen(*n)) {
        let mut changes = Changes::default();
        let (campaign, sections) = (section.campaign, [section.section]);
        let sealed = seal(
            state,
            campaign,
            &sections,
            &Horizon::default(),
            &mut changes,
        )
        .unwrap();
        state.write(&changes);
        if sealed.done == 1 {
            fold.forget_section(&section);
        }
    }
}

/// The state of every shard after the events, in the order given, with a producer complete through `through_ms`:
/// some spans never sealed, some sealed, some with rows that came after that.
pub(crate) fn folded(
    events: &[Plain],
    catalogue: &Catalogue,
    through_ms: i64,
) -> SnapshotSet<'static> {
    states(
        events,
        catalogue,
        through_ms,
        |state, fold, number, sequence| {
            seal_some(state, fold, |n| {
                (n as u64 + u64::from(number) + sequence).is_multiple_of(3)
            });
        },
    )
}

/// What a shard's stream has of events: impressions first, 50 a message.
pub(super) fn entries(
    events: &[Plain],
    catalogue: &Catalogue,
    through_ms: i64,
    number: u16,
) -> Vec<Entry> {
    let stamp = |(n, plain)| stamped(n, plain, catalogue);
    let events: Vec<Event> = events.iter().enumerate().map(stamp).collect();
    let mut out = Vec::new();
    for kind in [Kind::Impression, Kind::Click] {
        let is_mine =
            |e: &&Event| e.kind() == kind && shard_of(e.key(), e.id.as_str(), 1, SHARDS) == number;
        let mine: Vec<Event> = events.iter().filter(is_mine).cloned().collect();
        for (at, chunk) in mine.chunks(50).enumerate() {
            let header = Header {
                kind,
                producer: id("collector-1"),
                epoch: Epoch(7),
                first: at as u64 * 50,
                count: chunk.len() as u32,
                watermark: Watermark {
                    through_ms,
                    ..Watermark::default()
                },
            };
            let (sequence, frame) = (out.len() as u64 + 1, encode(&header, chunk));
            let subject = events_subject(number, kind);
            out.push(Entry::decode(sequence, 1_000, &subject, &frame));
        }
    }
    out
}

/// The same, with `after` called after each batch of a shard, with its number and sequence.
pub(super) fn states(
    events: &[Plain],
    catalogue: &Catalogue,
    through_ms: i64,
    after: impl Fn(&mut Memory, &mut Fold, u16, u64),
) -> SnapshotSet<'static> {
    let shards = (0..SHARDS).map(|number| {
        let mut state = Memory::default();
        let mut fold = Fold::open(&state.read(&Fold::open_reads()), 1).unwrap();
        for entry in entries(events, catalogue, through_ms, number) {
            let sequence = entry.sequence;
            let read = |reads: &Reads| Ok::<_, std::convert::Infallible>(state.read(reads));
            let folded = fold.fold(&[entry], read).unwrap();
            state.write(&folded.changes);
            after(&mut state, &mut fold, number, sequence);
        }
        Shard {
            number,
            rows: Box::new(Rows(state)) as Box<dyn ShardRead>,
        }
    });
    SnapshotSet {
        generation: "g-1".to_owned(),
        shards: shards.collect(),
        united: None,
    }
}

pub(crate) fn cancel() -> Cancel {
    Cancel::after(Duration::from_secs(60))
}

pub(crate) fn named(kind: &str, names: &[&str]) -> Subject {
    let ids: BTreeSet<Id> = names.iter().map(|n| id(n)).collect();
    match kind {
        "campaign_id" => Subject {
            campaigns: ids,
            ..Subject::default()
        },
        "ad_id" => Subject {
            ads: ids,
            ..Subject::default()
        },
        _ => Subject {
            advertisers: ids,
            ..Subject::default()
        },
    }
}

pub(crate) fn span(start: &str, end: &str) -> Span {
    let bound = |text| Some(Bound::parse(text).unwrap());
    Span {
        start: bound(start),
        end: bound(end),
        now_ms: ms("2024-06-01T00:00:00Z"),
    }
}

pub(crate) fn question(subject: Subject, span: Span) -> Question {
    Question {
        subject,
        span,
        granularity: None,
        group_by: vec![],
        metrics: Chosen::ALL,
        creatives: BTreeSet::new(),
        regions: BTreeSet::new(),
        devices: BTreeSet::new(),
        time_zone: None,
        fill: false,
    }
}

pub(crate) fn ask(
    question: &Question,
    set: &SnapshotSet<'_>,
    catalogue: &Catalogue,
) -> Result<Answer, QueryError> {
    answer(question, || catalogue, set, &cancel())
}
