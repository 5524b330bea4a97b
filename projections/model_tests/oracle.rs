//! What must have been counted, in plain maps and with a calendar crate's arithmetic, as lines of the dump.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use adtally_streams::event::{Body, Event, Flags, Kind};
use chrono::{DateTime, FixedOffset, NaiveDate, TimeZone, Timelike, Utc};

use super::world::{Message, Said};
use crate::conversions::ConversionSum;
use crate::metrics::Metrics;
use crate::spend::Spend;
use crate::totals::Totals;
use crate::verdicts::FraudSum;

const WEEK_MS: i64 = 7 * 24 * 60 * 60 * 1_000;

/// Events that count, with the creative each is counted under, and what became of the others.
#[derive(Default)]
pub struct Counted {
    pub events: Vec<(Event, String)>,
    pub totals: [Totals; 3],
    pub bad: u64,
    /// By epoch and kind: counters in the log.
    pub counters: HashMap<(u64, Kind), HashSet<u64>>,
    /// By epoch and kind: acknowledged and head, as announced.
    pub announced: HashMap<(u64, Kind), (u64, u64)>,
}

fn identity(event: &Event) -> (Kind, String, String) {
    (event.kind(), event.key().to_owned(), event.id.to_string())
}

/// What a log says, message by message.
pub fn of_log(log: &[Message]) -> Counted {
    let mut out = Counted::default();
    let mut ids: HashMap<(Kind, String, String), (i64, u64)> = HashMap::new();
    let mut creatives: HashMap<String, Vec<String>> = HashMap::new();
    let mut log_time = 0;
    for message in log {
        log_time = log_time.max(message.broker_ms);
        let watermark = match &message.said {
            Said::Nothing => {
                out.bad += 1;
                continue;
            }
            Said::Announcement {
                epoch, watermark, ..
            } => (epoch.0, watermark),
            Said::Frame {
                epoch,
                kind,
                first,
                events,
                watermark,
                ..
            } => {
                let totals = &mut out.totals[*kind as usize];
                totals.frames += 1;
                for (event, counter) in events.iter().zip(*first..) {
                    totals.events += 1;
                    if !out
                        .counters
                        .entry((epoch.0, *kind))
                        .or_default()
                        .insert(counter)
                    {
                        totals.duplicates_ledger += 1;
                        continue;
                    }
                    if *kind == Kind::Click || !event.flags.has(Flags::MINTED_ID) {
                        match ids.get(&identity(event)) {
                            Some((at, hash)) if log_time - at <= WEEK_MS => {
                                match *hash == event.content_hash {
                                    true => totals.duplicates_id += 1,
                                    false => totals.conflicts += 1,
                                }
                                continue;
                            }
                            _ => drop(ids.insert(identity(event), (log_time, event.content_hash))),
                        }
                    }
                    totals.applied += 1;
                    totals.judged_invalid +=
                        i64::from(event.placement().is_some_and(|p| p.verdict.is_some()));
                    let creative = creative_of(&mut creatives, event);
                    out.events.push((event.clone(), creative));
                }
                (epoch.0, watermark)
            }
        };
        for kind in Kind::ALL {
            let announced = out.announced.entry((watermark.0, kind)).or_default();
            announced.0 = announced.0.max(watermark.1.acked[kind as usize]);
            announced.1 = announced.1.max(watermark.1.heads[kind as usize]);
        }
    }
    out
}

/// The first 256 names of an ad count, then `other`.
fn creative_of(creatives: &mut HashMap<String, Vec<String>>, event: &Event) -> String {
    let Some(placement) = event.placement() else {
        return String::new();
    };
    let name = placement.creative.to_string();
    let known = creatives.entry(placement.ad_id.to_string()).or_default();
    if name.is_empty() || name == "other" || known.contains(&name) {
        return name;
    }
    if known.len() == 256 {
        return "other".to_owned();
    }
    known.push(name.clone());
    name
}

/// What was answered, each event once, whatever became of it on its way.
pub fn of_answers(answered: &[Event]) -> Vec<(Event, String)> {
    let mut seen = HashSet::new();
    let first = |event: &&Event| seen.insert(identity(event));
    answered
        .iter()
        .filter(first)
        .map(|e| {
            (
                e.clone(),
                e.placement().map_or("", |p| &*p.creative).to_owned(),
            )
        })
        .collect()
}

fn buckets(event: &Event) -> [String; 3] {
    let utc: DateTime<Utc> = Utc.timestamp_millis_opt(event.event_time_ms).unwrap();
    let civil = utc.with_timezone(&FixedOffset::east_opt(event.utc_offset_s).unwrap());
    let minute = utc
        .with_second(0)
        .unwrap()
        .with_nanosecond(0)
        .unwrap()
        .timestamp()
        / 60;
    let hour = civil
        .with_minute(0)
        .unwrap()
        .with_second(0)
        .unwrap()
        .with_nanosecond(0)
        .unwrap()
        .timestamp();
    let day = (civil.date_naive() - NaiveDate::from_ymd_opt(1970, 1, 1).unwrap()).num_days();
    [
        format!("minute={minute}"),
        format!("hour={hour}{:+}", event.utc_offset_s),
        format!("day={day}"),
    ]
}

/// The lines of the dump that those events must come to.
pub fn lines(events: &[(Event, String)]) -> BTreeSet<String> {
    let mut cells: BTreeMap<String, Metrics> = BTreeMap::new();
    let mut spend: BTreeMap<String, Spend> = BTreeMap::new();
    let mut fraud: BTreeMap<String, FraudSum> = BTreeMap::new();
    let mut conversions: BTreeMap<String, ConversionSum> = BTreeMap::new();
    let mut visitors: BTreeMap<String, HashSet<String>> = BTreeMap::new();
    let mut out = BTreeSet::new();
    for (event, creative) in events {
        let [minute, hour, day] = buckets(event);
        let (placement, is_click) = match &event.body {
            Body::Impression(p) => (p, false),
            Body::Click(p, _) => (p, true),
            Body::Conversion(detail) => {
                let currency = event.currency;
                let key = format!("conversions {} {day} {currency:?}", event.key());
                let sum = conversions.entry(key).or_default();
                sum.conversions += 1;
                sum.value_micros += detail.value_micros;
                continue;
            }
        };
        let (campaign, ad, cost) = (
            &placement.campaign_id,
            &placement.ad_id,
            placement.cost_micros,
        );
        let invalid = placement.verdict.is_some();
        let (region, device) = (&placement.region, placement.device.name());
        let user = event.user_id.as_ref().map(|id| format!("user {id}"));
        let address = event.address_hash.map(|hash| format!("address {hash}"));
        if let (false, Some(visitor)) = (invalid, user.or(address)) {
            let what = if is_click { "clickers" } else { "reached" };
            let row = format!("uniques {campaign} {what} {day}");
            visitors.entry(row).or_default().insert(visitor);
        }
        for bucket in [&minute, &hour, &day] {
            let key = format!(
                "cell {campaign} {bucket} ad={ad} creative={creative:?} region={region} device={device}"
            );
            let m = cells.entry(key).or_default();
            m.impressions += i64::from(!is_click && !invalid);
            m.invalid_impressions += i64::from(!is_click && invalid);
            m.gross_clicks += i64::from(is_click);
            m.general_invalid_clicks += i64::from(is_click && invalid);
            m.gross_cost_micros += cost;
            m.cost_not_charged_micros += if invalid { cost } else { 0 };
            m.late_events += i64::from(event.arrival_ms - event.event_time_ms > 300_000);
        }
        for row in ["None".to_owned(), format!("Some({})", &day[4..])] {
            let sum = spend.entry(format!("spend {campaign} {row}")).or_default();
            sum.gross_micros += cost;
            sum.not_charged_micros += if invalid { cost } else { 0 };
        }
        if let (true, Some(reason)) = (is_click, placement.verdict) {
            let sum = fraud
                .entry(format!("fraud {campaign} {minute} {}/0", reason.name()))
                .or_default();
            sum.invalid_clicks += 1;
            sum.cost_micros += cost;
            out.insert(format!(
                "fraud_click {campaign} {} {ad} {} {}/0 general cost={cost} creative={creative:?} region={region} device={device}",
                event.event_time_ms,
                event.id,
                reason.name(),
            ));
        }
    }
    out.extend(cells.iter().map(|(k, v)| format!("{k} {v}")));
    // A campaign that never cost anything has no row.
    out.extend(
        spend
            .iter()
            .filter(|(_, v)| v.gross_micros != 0)
            .map(|(k, v)| format!("{k} {v:?}")),
    );
    out.extend(fraud.iter().map(|(k, v)| format!("{k} {v:?}")));
    out.extend(conversions.iter().map(|(k, v)| format!("{k} {v:?}")));
    // So few are counted exactly.
    out.extend(
        visitors
            .iter()
            .map(|(k, v)| format!("{k} estimate={}", v.len())),
    );
    out
}

/// Which lines of a dump [`lines`] speaks of.
pub fn is_counted(line: &&String) -> bool {
    [
        "cell ",
        "spend ",
        "fraud ",
        "fraud_click ",
        "conversions ",
        "uniques ",
    ]
    .iter()
    .any(|prefix| line.starts_with(prefix))
}

/// A line of a dump without what [`lines`] cannot know: the bytes of a sketch.
pub fn without_bytes(line: &str) -> String {
    let known = match line.starts_with("uniques ") {
        true => line.rsplit_once(' ').unwrap().0,
        false => line,
    };
    known.to_owned()
}
