//! Distinct visitors over shards, campaigns and days, against sets of the plain events.

use std::collections::BTreeSet;

use super::*;
use crate::query::uniques;

/// 600 users, each of whom sees ads of both campaigns on three days in New York and clicks on some.
fn events() -> Vec<Plain> {
    let mut out = Vec::new();
    for user in 1..=600u32 {
        for day in 4..7 {
            // 23:30 of that day in New York is the next day in UTC.
            let time = format!("2024-03-{day:02}T23:30:00-05:00");
            let campaign = ["spring", "autumn"][user as usize % 2];
            let ad = ["banner", "tower", "board"][user as usize % 3];
            let kind = match user % 5 == 0 && day == 5 {
                true => Kind::Click,
                false => Kind::Impression,
            };
            let verdict = (user % 50 == 1).then_some(EdgeReason::KnownBot);
            out.push(Plain {
                kind,
                verdict,
                user: user * day % 450,
                ..click(campaign, ad, &time)
            });
        }
    }
    out
}

fn ask(campaigns: &[&str], start: &str, end: &str) -> Result<uniques::Answer, QueryError> {
    let catalogue = catalogue();
    let set = folded(&events(), &catalogue, 5);
    let subject = named("campaign_id", campaigns);
    uniques::answer(&subject, &span(start, end), || &catalogue, &set, &cancel())
}

fn want(campaigns: &[&str], kind: Kind, days: std::ops::Range<&str>) -> u64 {
    let (from, to) = (ms(days.start), ms(days.end));
    let counts = |e: &&Plain| {
        e.kind == kind
            && e.user > 0
            && e.verdict.is_none()
            && campaigns.contains(&e.campaign)
            && (from..to).contains(&e.time_ms)
    };
    let users: BTreeSet<u32> = events().iter().filter(counts).map(|e| e.user).collect();
    users.len() as u64
}

#[test]
fn visitors_of_several_shards_campaigns_and_days_count_once() {
    let both = &["spring", "autumn"][..];
    for campaigns in [&both[..1], &both[1..], both] {
        for (start, end) in [
            ("2024-03-04T00:00:00-05:00", "2024-03-07T00:00:00-05:00"),
            ("2024-03-05T00:00:00-05:00", "2024-03-06T00:00:00-05:00"),
            ("2024-03-09T00:00:00-05:00", "2024-03-10T00:00:00-05:00"),
        ] {
            let found = ask(campaigns, start, end).unwrap();
            let clickers = want(campaigns, Kind::Click, start..end);
            assert_eq!(found.clickers.estimate, clickers, "{campaigns:?} {start}");
            let reached = want(campaigns, Kind::Impression, start..end);
            // Past 384 visitors within three standard errors.
            let off = found.reached.estimate.abs_diff(reached) as f64;
            let allowed = if reached > 384 {
                0.049 * reached as f64
            } else {
                0.0
            };
            assert!(
                off <= allowed,
                "{campaigns:?} {start}: {:?} of {reached}",
                found.reached
            );
        }
    }
}

#[test]
fn a_range_is_widened_to_the_campaigns_own_days() {
    // An instant of the 5th in New York, written as one of the 6th in UTC.
    let found = ask(&["spring"], "2024-03-06T03:00:00Z", "2024-03-06T03:00:01Z").unwrap();
    assert_eq!(found.start_ms, ms("2024-03-05T00:00:00-05:00"));
    assert_eq!(found.end_ms, ms("2024-03-06T00:00:00-05:00"));
    let whole = want(
        &["spring"],
        Kind::Click,
        "2024-03-05T00:00:00-05:00".."2024-03-06T00:00:00-05:00",
    );
    assert_eq!(found.clickers.estimate, whole);
    assert!(whole > 5);
}

#[test]
fn campaigns_of_different_days_are_refused() {
    let error = ask(&["spring", "surf"], "2024-03-04", "2024-03-07").unwrap_err();
    assert!(
        matches!(
            error,
            QueryError::Asked {
                parameter: Some("campaign_id"),
                ..
            }
        ),
        "{error}"
    );
}
