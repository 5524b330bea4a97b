//! What a shard must have counted, as lines of its canonical dump: sums under strings, and a calendar by hand.

use std::collections::{BTreeMap, BTreeSet};

use adtally_projections::conversions::ConversionSum;
use adtally_projections::metrics::Metrics;
use adtally_projections::spend::Spend;
use adtally_projections::verdicts::FraudSum;
use adtally_streams::event::Kind;
use adtally_streams::money::Currency;

use super::judge::Counted;

/// Which lines of a dump [`lines`] speaks of.
pub fn is_counted(line: &str) -> bool {
    ["cell ", "spend ", "fraud ", "fraud_click ", "conversions "]
        .iter()
        .any(|prefix| line.starts_with(prefix))
}

/// The lines that those events come to.
pub fn lines<'a>(events: impl Iterator<Item = &'a Counted>) -> BTreeSet<String> {
    let mut cells: BTreeMap<String, Metrics> = BTreeMap::new();
    let mut spend: BTreeMap<String, Spend> = BTreeMap::new();
    let mut fraud: BTreeMap<String, FraudSum> = BTreeMap::new();
    let mut conversions: BTreeMap<String, ConversionSum> = BTreeMap::new();
    let mut clicks: BTreeMap<String, String> = BTreeMap::new();
    let mut out = BTreeSet::new();
    for event in events {
        let second = event.time_ms.div_euclid(1_000);
        let minute = second.div_euclid(60);
        let civil_s = second + event.offset_s;
        let hour_s = civil_s.div_euclid(3_600) * 3_600 - event.offset_s;
        let day = civil_s.div_euclid(86_400);
        let amount = event.amount_micros;
        if event.kind == Kind::Conversion {
            let currency = event.currency.and_then(|c| Currency::new(c).ok());
            let key = format!("conversions {} day={day} {currency:?}", event.key);
            let sum = conversions.entry(key).or_default();
            sum.conversions += 1;
            sum.value_micros += amount;
            continue;
        }
        let is_click = event.kind == Kind::Click;
        let is_invalid = event.invalid.is_some();
        let Counted {
            campaign,
            key: ad,
            creative,
            region,
            device,
            ..
        } = event;
        let not_charged = if is_invalid { amount } else { 0 };
        for bucket in [
            format!("minute={minute}"),
            format!("hour={hour_s}{:+}", event.offset_s),
            format!("day={day}"),
        ] {
            let key = format!(
                "cell {campaign} {bucket} ad={ad} creative={creative:?} region={region} device={device}"
            );
            let m = cells.entry(key).or_default();
            m.impressions += i64::from(!is_click && !is_invalid);
            m.invalid_impressions += i64::from(!is_click && is_invalid);
            m.gross_clicks += i64::from(is_click);
            m.general_invalid_clicks += i64::from(is_click && is_invalid);
            m.gross_cost_micros += amount;
            m.cost_not_charged_micros += not_charged;
            m.late_events += i64::from(event.is_late);
        }
        for row in ["None".to_owned(), format!("Some({day})")] {
            let sum = spend.entry(format!("spend {campaign} {row}")).or_default();
            sum.gross_micros += amount;
            sum.not_charged_micros += not_charged;
        }
        if let (true, Some(reason)) = (is_click, event.invalid) {
            let sum = fraud
                .entry(format!("fraud {campaign} minute={minute} {reason}/0"))
                .or_default();
            sum.invalid_clicks += 1;
            sum.cost_micros += amount;
            // Of a click whose id has come again after its horizon, at the same time, the later one is listed.
            let name = format!("fraud_click {campaign} {} {ad} {}", event.time_ms, event.id);
            let rest = format!(
                "{reason}/0 general cost={amount} creative={creative:?} region={region} device={device}"
            );
            clicks.insert(name, rest);
        }
    }
    out.extend(cells.iter().map(|(k, v)| format!("{k} {v}")));
    // What never cost anything has no row.
    let spent = spend.iter().filter(|(_, v)| v.gross_micros != 0);
    out.extend(spent.map(|(k, v)| format!("{k} {v:?}")));
    out.extend(clicks.iter().map(|(k, v)| format!("{k} {v}")));
    out.extend(fraud.iter().map(|(k, v)| format!("{k} {v:?}")));
    out.extend(conversions.iter().map(|(k, v)| format!("{k} {v:?}")));
    out
}
