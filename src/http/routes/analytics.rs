//! `GET /api/v1/analytics`: counts by time and dimensions.

use adtally_projections::buckets::Granularity;
use adtally_projections::metrics::Metrics;
use adtally_projections::partial::Dimension;
use adtally_projections::ratios::{Chosen, Metric};
use adtally_streams::event::Device;
use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::{at, confine, span, time_zone, utc};
use crate::http::AppState;
use crate::http::auth::Access;
use crate::http::gzip;
use crate::http::params::{Params, not_one_of};
use crate::http::problem::Problem;
use crate::http::render::{Format, Rendered, serialize_figures};
use crate::http::schemas::{AnalyticsAnswer, QuestionProblems};
use crate::query::Cancel;
use crate::query::analytics::{Answer, Explained, Question, answer};
use crate::query::scope::Subject;
use crate::query::shard::{AsOf, SnapshotSet};
use crate::query::unread::Share;

const KNOWN: [&str; 15] = [
    "campaign_id",
    "ad_id",
    "advertiser_id",
    "start",
    "end",
    "granularity",
    "group_by",
    "metrics",
    "region",
    "device",
    "creative",
    "time_zone",
    "fill",
    "format",
    "explain",
];
/// The most values of all filters of one question together.
const MAX_FILTER_VALUES: usize = 1_000;

/// Counts, money and ratios by time and dimensions.
///
/// At least one of `campaign_id`, `ad_id` and `advertiser_id` is required. Several values of one name are OR,
/// different names AND. An answer has at most 10,000 buckets and 1,000,000 rows.
#[utoipa::path(
    get, path = "/api/v1/analytics", tag = "queries",
    params(
        ("campaign_id" = Option<Vec<String>>, Query, description = "Campaigns to count"),
        ("ad_id" = Option<Vec<String>>, Query, description = "Ads to count"),
        ("advertiser_id" = Option<Vec<String>>, Query, description = "Advertisers to count"),
        ("start" = Option<String>, Query, description = "The first instant: RFC 3339, or without an offset, as 2024-02-09T14:00, on the question's clock (a time that it shows twice is the first one, one that it skips the instant of the change). 24 hours before `end` when absent. Widened to whole buckets"),
        ("end" = Option<String>, Query, description = "The instant after the last one, likewise. Now when absent"),
        ("granularity" = Option<String>, Query, description = "minute, hour, day or total. When absent: minute up to 6 hours, hour up to 7 days, day up to 9,998 days, else total"),
        ("group_by" = Option<Vec<String>>, Query, description = "Any of campaign_id, ad_id, creative, region, device: separated by commas, repeated, or both. Rows are sorted by time and then in this order"),
        ("metrics" = Option<Vec<String>>, Query, description = "Answer with these metrics only, in the order in which all of them stand: separated by commas, repeated, or both. All when absent. Nothing else is read, so an answer with few is quicker; its rows are the same"),
        ("region" = Option<Vec<String>>, Query, description = "Count these regions only"),
        ("device" = Option<Vec<String>>, Query, description = "Count these device classes only: ios, android, mobile, tablet, desktop, tv, other"),
        ("creative" = Option<Vec<String>>, Query, description = "Count these creative variants only"),
        ("time_zone" = Option<String>, Query, description = "The clock of hours and days, by its IANA name; the advertiser's when absent"),
        ("fill" = Option<String>, Query, description = "zero (default): a row for every bucket and every group seen in the range; none: only where something was counted"),
        ("format" = Option<String>, Query, description = "json (default), csv or ndjson; the last two hold the rows, and the header X-Adtally-As-Of says which state they are"),
        ("explain" = Option<bool>, Query, description = "true adds the plan to JSON"),
    ),
    responses(
        (status = 200, description = "The counts", content(
            (AnalyticsAnswer = "application/json"), (String = "text/csv"), (String = "application/x-ndjson"),
        )),
        QuestionProblems,
    ),
)]
pub async fn analytics(
    State(state): State<AppState>,
    access: Access,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let params = Params::read(query.as_deref(), &KNOWN)?;
    let mut question = question(&params)?;
    let format = params
        .choice("format", &Format::NAMES, Format::from_name)?
        .unwrap_or_default();
    let explain = params
        .choice("explain", &["true", "false"], |text| {
            text.parse::<bool>().ok()
        })?
        .unwrap_or_default();
    question.subject = confine(question.subject, &access, &state.catalogue.read())?;
    let (catalogue, room) = (state.catalogue, state.engine.room());
    let run = move |set: &SnapshotSet<'_>, cancel: &Cancel| {
        let answer = answer(&question, || catalogue.read(), set, cancel)?;
        let share = room.take(answer.table.len(), cancel)?;
        Ok((answer, share))
    };
    let (answer, share) = state.engine.run("analytics", run).await?;
    let printed = state.engine.printed_rows();
    let takes_gzip = gzip::is_accepted(&headers);
    Ok(rendered(answer, share, format, explain).into_response(printed, takes_gzip))
}

fn question(params: &Params) -> Result<Question, Problem> {
    let subject = Subject {
        campaigns: params.ids("campaign_id")?,
        ads: params.ids("ad_id")?,
        advertisers: params.ids("advertiser_id")?,
        confined_to: None,
    };
    if subject.campaigns.is_empty() && subject.ads.is_empty() && subject.advertisers.is_empty() {
        return Err(Problem::bad_parameter(
            "campaign_id",
            "say what is counted: at least one of campaign_id, ad_id and advertiser_id",
        ));
    }
    let granularities = Granularity::ALL.map(Granularity::name);
    let question = Question {
        subject,
        span: span(params)?,
        granularity: params.choice("granularity", &granularities, Granularity::from_name)?,
        group_by: group_by(params)?,
        metrics: metrics(params)?,
        creatives: params.all("creative").map(str::to_owned).collect(),
        regions: params.all("region").map(region).collect(),
        devices: params.all("device").map(device).collect::<Result<_, _>>()?,
        time_zone: time_zone(params)?,
        fill: params
            .choice("fill", &["zero", "none"], fill)?
            .unwrap_or(true),
    };
    let values = question.subject.campaigns.len()
        + question.subject.ads.len()
        + question.subject.advertisers.len()
        + question.creatives.len()
        + question.regions.len();
    if values > MAX_FILTER_VALUES {
        return Err(Problem::bad_request(format!(
            "one question names at most {MAX_FILTER_VALUES} things"
        )));
    }
    Ok(question)
}

fn fill(text: &str) -> Option<bool> {
    match text {
        "zero" => Some(true),
        "none" => Some(false),
        _ => None,
    }
}

/// A region as it is counted: upper case, `other`, or empty.
fn region(text: &str) -> String {
    if text.eq_ignore_ascii_case(adtally_streams::names::OTHER) {
        text.to_ascii_lowercase()
    } else {
        text.to_ascii_uppercase()
    }
}

fn device(text: &str) -> Result<Device, Problem> {
    let names = Device::ALL.map(Device::name);
    let known = Device::ALL
        .into_iter()
        .find(|d| d.name().eq_ignore_ascii_case(text));
    known.ok_or_else(|| not_one_of("device", text, &names))
}

fn metrics(params: &Params) -> Result<Chosen, Problem> {
    let metric =
        |name| Metric::from_name(name).ok_or_else(|| not_one_of("metrics", name, &Metric::NAMES));
    let mut named = params.listed("metrics").map(metric).peekable();
    match named.peek() {
        None => Ok(Chosen::ALL),
        Some(_) => named.collect(),
    }
}

fn group_by(params: &Params) -> Result<Vec<Dimension>, Problem> {
    let names = Dimension::ALL.map(Dimension::name);
    let mut out = Vec::new();
    for name in params.listed("group_by") {
        let dimension =
            Dimension::from_name(name).ok_or_else(|| not_one_of("group_by", name, &names))?;
        if !out.contains(&dimension) {
            out.push(dimension);
        }
    }
    Ok(out)
}

/// What stands before the rows.
#[derive(Serialize)]
struct Head<'a> {
    start: String,
    end: String,
    granularity: Granularity,
    time_zone: &'a str,
    currency_code: Option<String>,
    group_by: &'a [Dimension],
}

/// What stands after the rows.
#[derive(Serialize)]
struct Tail<'a> {
    #[serde(serialize_with = "totals")]
    totals: (Chosen, Metrics),
    as_of: &'a AsOf,
    complete_through: Option<String>,
    judged_through: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<Explained>,
}

fn totals<S: Serializer>((chosen, sums): &(Chosen, Metrics), s: S) -> Result<S::Ok, S::Error> {
    let mut map = s.serialize_map(None)?;
    serialize_figures(*chosen, sums, &mut map)?;
    map.end()
}

fn rendered(answer: Answer, share: Option<Share>, format: Format, explain: bool) -> Rendered {
    let plan = explain.then(|| answer.explain());
    let zone = answer.plan.zone;
    let head = Head {
        start: at(answer.plan.start_ms, zone),
        end: at(answer.plan.end_ms, zone),
        granularity: answer.plan.granularity,
        time_zone: zone.name(),
        currency_code: answer.currency.map(|c| c.to_string()),
        group_by: &answer.table.group_by,
    };
    let tail = Tail {
        totals: (answer.metrics, answer.table.totals),
        as_of: &answer.as_of,
        complete_through: answer.as_of.complete_through_ms.map(utc),
        judged_through: None,
        plan,
    };
    let json = |value: Result<Vec<u8>, serde_json::Error>| {
        value.expect("texts and numbers always have a JSON form")
    };
    let mut before = json(serde_json::to_vec(&head));
    before.pop();
    before.extend_from_slice(b",\"rows\":");
    let mut after = json(serde_json::to_vec(&tail));
    after[0] = b',';
    let as_of =
        serde_json::to_string(&answer.as_of).expect("texts and numbers always have a JSON form");
    Rendered {
        format,
        table: answer.table,
        metrics: answer.metrics,
        share,
        granularity: answer.plan.granularity,
        zone,
        before,
        after,
        as_of,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn asked(query: &str) -> Result<Question, Problem> {
        question(&Params::read(Some(query), &KNOWN)?)
    }

    #[test]
    fn every_known_parameter_is_described_and_no_other() {
        let document = serde_json::to_value(crate::http::openapi::document()).unwrap();
        let described = document["paths"]["/api/v1/analytics"]["get"]["parameters"]
            .as_array()
            .unwrap();
        let described: BTreeSet<_> = described
            .iter()
            .map(|p| p["name"].as_str().unwrap())
            .collect();
        assert_eq!(described, BTreeSet::from(KNOWN));
    }

    #[test]
    fn lists_may_be_separated_repeated_or_both() {
        let q = asked("ad_id=a&ad_id=b&group_by=device,ad_id&group_by=ad_id&region=us-ca&region=Other&region=&device=IOS").unwrap();
        assert_eq!(q.group_by, [Dimension::Device, Dimension::AdId]);
        assert_eq!(q.subject.ads.len(), 2);
        assert_eq!(
            q.regions,
            BTreeSet::from(["US-CA".to_owned(), "other".to_owned(), String::new()])
        );
        assert_eq!(q.devices, BTreeSet::from([Device::Ios]));
        assert!(q.fill && q.granularity.is_none());
    }

    #[test]
    fn metrics_are_chosen_in_any_order_and_all_when_none_is() {
        let names = |query: &str| {
            let chosen = asked(&format!("campaign_id=a{query}")).unwrap().metrics;
            chosen.metrics().map(Metric::name).collect::<Vec<_>>()
        };
        let table: [(&str, &[&str]); 6] = [
            ("", &Metric::NAMES),
            ("&metrics=", &Metric::NAMES),
            ("&metrics=,&metrics=%20", &Metric::NAMES),
            ("&metrics=ctr", &["ctr"]),
            ("&metrics=ctr,clicks", &["clicks", "ctr"]),
            (
                "&metrics=late_events,%20clicks,clicks&metrics=impressions&metrics=clicks",
                &["impressions", "clicks", "late_events"],
            ),
        ];
        for (query, want) in table {
            assert_eq!(names(query), want, "{query}");
        }
        let detail = |query: &str| asked(query).unwrap_err().detail().to_owned();
        let near = detail("campaign_id=a&metrics=clicks,imprssions");
        assert!(near.contains("did you mean `impressions`?"), "{near}");
        let far = detail("campaign_id=a&metrics=weather");
        assert!(
            far.contains("late_events") && !far.contains("mean"),
            "{far}"
        );
    }

    #[test]
    fn every_complaint_names_its_parameter() {
        for (query, parameter) in [
            ("", "campaign_id"),
            ("campaign_id=a&granularity=second", "granularity"),
            ("campaign_id=a&group_by=colour", "group_by"),
            ("campaign_id=a&metrics=clicks,clikcs", "metrics"),
            ("campaign_id=a&time_zone=Mars/Olympus", "time_zone"),
            ("campaign_id=a&fill=maybe", "fill"),
            ("campaign_id=a&device=fridge", "device"),
            ("campaign_id=a&start=soon", "start"),
            ("advertiser_id=a b", "advertiser_id"),
            ("campaign_id=a&start=2024-01-01&start=2024-01-01", "start"),
        ] {
            let problem = asked(query).unwrap_err();
            assert_eq!(
                (problem.status().as_u16(), problem.parameter()),
                (400, Some(parameter)),
                "{query}"
            );
        }
        let many: String = (0..=MAX_FILTER_VALUES)
            .map(|n| format!("&region=R{n}"))
            .collect();
        assert_eq!(
            asked(&format!("campaign_id=a{many}")).unwrap_err().status(),
            400
        );
    }
}
