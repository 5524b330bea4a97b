//! Schemas of the API's description that no derive can make: answers whose fields depend on the question, and
//! documents that live in the pure crates.

use std::borrow::Cow;
use std::collections::BTreeMap;

use adtally_projections::partial::Dimension;
use adtally_projections::ratios::Metric;
use serde_json::{Map, Value, json};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder, Schema};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

use crate::http::problem::PROBLEM_JSON;

macro_rules! schemas {
    ($($(#[$doc:meta])* $name:ident = $json:expr;)*) => {$(
        $(#[$doc])*
        pub enum $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                serde_json::from_value($json).expect("the schemas of this file are JSON schemas, as a test says")
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($name))
            }
        }
    )*};
}

fn object(properties: Map<String, Value>, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required})
}

/// The figures of a row or of a whole answer.
fn figures() -> Map<String, Value> {
    let schema = |name: &str| match name {
        "ctr" | "invalid_click_rate" => json!({"type": ["number", "null"]}),
        _ if name.starts_with("average_") || name.contains("conversion") => {
            json!({"type": ["integer", "null"]})
        }
        _ => json!({"type": "integer"}),
    };
    Metric::NAMES
        .iter()
        .map(|name| ((*name).to_owned(), schema(name)))
        .collect()
}

fn row() -> Value {
    let mut properties = figures();
    properties.insert(
        "time".into(),
        json!({"type": "string", "description": "The bucket's start, with the zone's offset then"}),
    );
    for dimension in Dimension::ALL {
        let description = format!("Where grouped by {}", dimension.name());
        properties.insert(
            dimension.name().into(),
            json!({"type": "string", "description": description}),
        );
    }
    // Without `metrics` every metric is there.
    object(properties, &["time"])
}

fn top_row() -> Value {
    let mut properties = figures();
    properties.insert("ad_id".into(), json!({"type": "string"}));
    let required: Vec<_> = std::iter::once("ad_id").chain(Metric::NAMES).collect();
    object(properties, &required)
}

fn as_of() -> Value {
    json!({
        "type": "object",
        "description": "The one state that the answer is made of: its generation (those of several processes with commas between them), the applied sequence of each shard's stream, and where shards are remote which process answered for each",
        "properties": {"generation": {"type": "string"}, "events.0": {"type": "integer"}, "replica.0": {"type": "string"}},
        "required": ["generation"],
        "additionalProperties": {"type": ["integer", "string"]},
    })
}

fn time_or_null(description: &str) -> Value {
    json!({"type": ["string", "null"], "description": description})
}

/// An answer about a range, in one currency.
fn framed(rows: Value, more: Value) -> Value {
    let mut range = json!({
        "start": {"type": "string", "description": "The first instant that is counted, after widening"},
        "end": {"type": "string", "description": "The instant after the last"},
        "currency_code": {"type": ["string", "null"]},
    });
    if let (Value::Object(range), Value::Object(more)) = (&mut range, more) {
        range.extend(more);
    }
    answered(rows, range)
}

/// An answer with rows, which says what it is made of.
fn answered(rows: Value, more: Value) -> Value {
    let Value::Object(mut properties) = json!({
        "time_zone": {"type": "string"},
        "rows": {"type": "array", "items": rows},
        "as_of": as_of(),
        "complete_through": time_or_null("Everything that arrived up to then is counted"),
        "judged_through": time_or_null("Null, as no judge runs"),
    }) else {
        return Value::Null;
    };
    if let Value::Object(more) = more {
        properties.extend(more);
    }
    let required: Vec<String> = properties
        .keys()
        .filter(|name| *name != "plan")
        .cloned()
        .collect();
    json!({"type": "object", "properties": properties, "required": required})
}

/// A size with the bounds of its estimate.
fn estimate(description: &str) -> Value {
    let bounded = |description: &str| json!({"type": "integer", "description": description});
    json!({
        "type": "object",
        "description": description,
        "properties": {
            "estimate": bounded("The likeliest number; exact up to 384"),
            "lower": bounded("Not fewer, in 95 of a hundred cases (two standard deviations)"),
            "upper": bounded("Not more, likewise"),
        },
        "required": ["estimate", "lower", "upper"],
    })
}

fn statement() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let number = |description: &str| json!({"type": "integer", "description": description});
    let amount = || text("In the currency, rounded once to its minor unit, half away from zero");
    let list = |properties: Value| json!({"type": "array", "items": {"type": "object", "properties": properties}});
    let properties = json!({
        "advertiser_id": id(),
        "month": text("YYYY-MM, of the advertiser's time zone"),
        "time_zone": text("IANA name"),
        "start": text("The month's first instant"),
        "end": text("The instant after its last"),
        "currency_code": text("Of all money"),
        "lines": list(json!({
            "campaign_id": id(),
            "pricing_model": {"type": "string", "enum": ["cpc", "cpm"]},
            "clicks": number("Valid ones"),
            "impressions": {"type": ["integer", "null"], "description": "Valid ones; null where clicks are paid for"},
            "cost_micros": number("Charged"),
            "amount": amount(),
            "invalid_clicks": number("Not charged"),
            "invalid_clicks_by_reason": list(json!({
                "reason": text("The rule"),
                "invalid_clicks": number("How many"),
                "cost_micros": number("Not charged"),
            })),
            "over_delivery_micros": number("By how much days cost more than their daily budget, as that stood at their end; charged all the same"),
        })),
        "adjustments": list(json!({
            "month": text("A month that was closed"),
            "campaign_id": id(),
            "clicks": number("More than were put on closed statements"),
            "impressions": number("Likewise"),
            "cost_micros": number("Likewise; a credit below zero"),
            "amount": amount(),
        })),
        "totals": {"type": "object", "properties": {
            "clicks": number("Of the lines"),
            "cost_micros": number("Of the lines"),
            "adjustments_micros": number("Of the adjustments"),
            "amount": text("The sum of all rounded lines and adjustments"),
        }},
        "as_of": text("The log time up to which it is made"),
        "complete_through": time_or_null("Everything that arrived up to then is counted"),
        "positions": {"type": "object", "description": "The last message of each stream that is in it", "additionalProperties": {"type": "integer"}},
        "sha256": text("Of this object without `sha256` and `closed`, in this order of fields and without white space"),
        "closed": {"type": ["object", "null"], "properties": {"sequence": number("In STATEMENTS"), "at": text("When")}},
    });
    let required: Vec<String> = properties
        .as_object()
        .into_iter()
        .flat_map(|p| p.keys().cloned())
        .collect();
    json!({"type": "object", "properties": properties, "required": required})
}

fn listed(name: &str, document: &str) -> Value {
    json!({
        "type": "object",
        "properties": {
            name: {"type": "array", "items": {"$ref": format!("#/components/schemas/{document}")}},
            "next": {"type": ["string", "null"], "description": "What to ask for as `after` for the next page"},
        },
        "required": [name, "next"],
    })
}

fn id() -> Value {
    json!({"type": "string", "pattern": "^[A-Za-z0-9_:-]{1,64}$"})
}

fn status() -> Value {
    json!({"type": "string", "enum": ["active", "paused", "ended"]})
}

schemas! {
    /// An answer about counts.
    AnalyticsAnswer = framed(row(), json!({
        "granularity": {"type": "string", "enum": ["minute", "hour", "day", "total"]},
        "group_by": {"type": "array", "items": {"type": "string"}},
        "totals": object(figures(), &[]),
        "plan": {"type": "object", "description": "With explain=true: how the answer was found"},
    }));
    /// An answer about top ads.
    TopAnswer = framed(top_row(), json!({"by": {"type": "string", "enum": ["cost_micros", "clicks", "ctr"]}}));
    /// An answer about windows that end minute by minute.
    RollingAnswer = answered(
        json!({
            "type": "object",
            "properties": {
                "time": {"type": "string", "description": "The window's end, with the zone's offset then; the window is the time before it, without it"},
                "impressions": {"type": "integer"},
                "clicks": {"type": "integer"},
                "ctr": {"type": ["number", "null"]},
            },
            "required": ["time", "impressions", "clicks", "ctr"],
        }),
        json!({"window": {"type": "string", "description": "The length of each window, in minutes", "example": "60m"}}),
    );
    /// An answer about ads that stand out against their own past.
    TrendingAnswer = answered(
        json!({
            "type": "object",
            "properties": {
                "ad_id": {"type": "string"},
                "campaign_id": {"type": "string", "description": "Under which most of the hour's clicks were counted"},
                "clicks": {"type": "integer", "description": "Of the last full hour"},
                "impressions": {"type": "integer", "description": "Of the last full hour"},
                "baseline_clicks_per_hour": {"type": "number", "description": "The mean of the past hours"},
                "baseline_hours": {"type": "integer", "description": "How many past hours the ad is compared with"},
                "score": {"type": "number", "description": "By how many standard deviations the hour stands out"},
            },
            "required": ["ad_id", "campaign_id", "clicks", "impressions", "baseline_clicks_per_hour", "baseline_hours", "score"],
        }),
        json!({
            "start": {"type": "string", "description": "The first instant of the last full hour"},
            "end": {"type": "string", "description": "The instant after it: the beginning of the current minute"},
        }),
    );
    /// An answer about distinct visitors.
    UniquesAnswer = json!({
        "type": "object",
        "properties": {
            "campaign_id": {"type": ["string", "array"], "items": {"type": "string"}, "description": "What was counted; a list where several were asked for"},
            "start": {"type": "string", "description": "The first instant that is counted, after widening to whole days"},
            "end": {"type": "string", "description": "The instant after the last"},
            "time_zone": {"type": "string"},
            "unique_clickers": estimate("Visitors with a click that the border did not judge invalid"),
            "users_reached": estimate("Visitors with an impression that the border did not judge invalid"),
            "relative_standard_error": {"type": "number", "description": "Of an estimate past 384 visitors"},
            "as_of": as_of(),
            "complete_through": time_or_null("Everything that arrived up to then is counted"),
            "judged_through": time_or_null("Null, as no judge runs"),
        },
        "required": ["campaign_id", "start", "end", "time_zone", "unique_clickers", "users_reached", "relative_standard_error", "as_of", "complete_through", "judged_through"],
    });
    /// What an advertiser owes for a month.
    StatementAnswer = statement();
    /// An answer about reasons of invalid clicks.
    FraudAnswer = framed(
        json!({
            "type": "object",
            "properties": {
                "reason": {"type": "string"},
                "rule_version": {"type": "integer"},
                "class": {"type": "string", "enum": ["general", "sophisticated"]},
                "invalid_clicks": {"type": "integer"},
                "cost_micros": {"type": "integer", "description": "Not charged"},
            },
            "required": ["reason", "rule_version", "class", "invalid_clicks", "cost_micros"],
        }),
        json!({"totals": {
            "type": "object",
            "properties": {"invalid_clicks": {"type": "integer"}, "cost_micros": {"type": "integer"}},
            "required": ["invalid_clicks", "cost_micros"],
        }}),
    );
    /// A page of invalid clicks.
    FraudClicksAnswer = framed(
        json!({
            "type": "object",
            "properties": {
                "click_id": {"type": "string"},
                "time": {"type": "string"},
                "ad_id": {"type": "string"},
                "campaign_id": {"type": "string"},
                "reason": {"type": "string"},
                "rule_version": {"type": "integer"},
                "class": {"type": "string", "enum": ["general", "sophisticated"]},
                "score": {"type": ["number", "null"]},
                "cost_micros": {"type": "integer", "description": "Not charged"},
            },
            "required": ["click_id", "time", "ad_id", "campaign_id", "reason", "rule_version", "class", "score", "cost_micros"],
        }),
        json!({"next": {"type": ["string", "null"], "description": "What to ask for as `cursor` for the next page"}}),
    );
    /// A company that pays for clicks or impressions.
    Advertiser = json!({
        "type": "object",
        "properties": {
            "advertiser_id": id(),
            "name": {"type": "string"},
            "currency_code": {"type": "string", "description": "ISO 4217; fixed at creation"},
            "time_zone": {"type": "string", "description": "IANA name; fixed at creation"},
        },
        "required": ["currency_code", "time_zone"],
    });
    /// A campaign of one advertiser.
    Campaign = json!({
        "type": "object",
        "properties": {
            "campaign_id": id(),
            "advertiser_id": {"type": "string", "description": "Fixed at creation"},
            "name": {"type": "string"},
            "status": status(),
            "pricing": {
                "type": "object",
                "properties": {
                    "model": {"type": "string", "enum": ["cpc", "cpm"]},
                    "price_micros": {"type": "integer", "minimum": 0, "description": "Of a click, or of a thousand impressions (a multiple of 1,000)"},
                },
                "required": ["model", "price_micros"],
            },
            "daily_budget_micros": {"type": ["integer", "null"], "minimum": 0},
            "start": {"type": ["string", "null"], "description": "RFC 3339"},
            "end": {"type": ["string", "null"], "description": "RFC 3339; the first instant at which it has ended"},
        },
        "required": ["advertiser_id", "pricing"],
    });
    /// An ad of a campaign.
    Ad = json!({
        "type": "object",
        "properties": {
            "ad_id": id(),
            "campaign_id": id(),
            "landing_url": {"type": "string", "description": "http or https; may hold {click_id}, {ad_id}, {campaign_id}, {creative}"},
            "status": status(),
            "creatives": {"type": "array", "items": {"type": "string"}},
            "spread": {"type": "integer", "minimum": 1, "description": "Over how many shards its events are spread; fixed at creation"},
        },
        "required": ["campaign_id", "landing_url"],
    });
    /// A page of advertisers.
    Advertisers = listed("advertisers", "Advertiser");
    /// A page of campaigns.
    Campaigns = listed("campaigns", "Campaign");
    /// A page of ads.
    Ads = listed("ads", "Ad");
}

fn problems(statuses: &[(&str, &str)]) -> BTreeMap<String, RefOr<Response>> {
    let problem = |description: &str| {
        let content = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name("Problem")))
            .build();
        RefOr::T(
            ResponseBuilder::new()
                .description(description)
                .content(PROBLEM_JSON, content)
                .build(),
        )
    };
    statuses
        .iter()
        .map(|(status, description)| ((*status).to_owned(), problem(description)))
        .collect()
}

const BAD: (&str, &str) = (
    "400",
    "The request cannot be answered as it was asked; `parameter` says what is to blame",
);
const NO_KEY: (&str, &str) = ("401", "No key");
const FORBIDDEN: (&str, &str) = (
    "403",
    "The key is unknown or revoked, or this is another advertiser's data",
);
const MISSING: (&str, &str) = ("404", "Nothing such");
const UNAVAILABLE: (&str, &str) = ("503", "Temporarily not answered; see Retry-After");

/// The problems of a question.
pub enum QuestionProblems {}

impl IntoResponses for QuestionProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[BAD, NO_KEY, FORBIDDEN, UNAVAILABLE])
    }
}

/// The problems of something that may not exist.
pub enum LookUpProblems {}

impl IntoResponses for LookUpProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[BAD, NO_KEY, FORBIDDEN, MISSING, UNAVAILABLE])
    }
}

/// The problems of writing the catalogue.
pub enum PutProblems {}

impl IntoResponses for PutProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let content = [
            ("413", "Larger than a document may be"),
            ("422", "A field breaks a rule; `parameter` names it"),
        ];
        problems(&[BAD, NO_KEY, FORBIDDEN, content[0], content[1], UNAVAILABLE])
    }
}
