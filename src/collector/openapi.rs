//! What the collector's routes say of themselves in the API's description.

use std::collections::BTreeMap;

use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Required, Response, ResponseBuilder};
use utoipa::{IntoParams, IntoResponses, PartialSchema};

use crate::http::problem::PROBLEM_JSON;

/// The description of the collector's routes.
#[derive(utoipa::OpenApi)]
#[openapi(paths(
    super::click,
    super::click_by_path,
    super::impression,
    super::conversion,
    super::conversion_by_form
))]
pub struct CollectorApi;

const AD: (&str, &str) = ("ad_id", "The ad; required");
const EVENT: [(&str, &str); 6] = [
    (
        "campaign_id",
        "The campaign; compared with the catalogue's, which stands",
    ),
    ("creative", "The creative variant"),
    ("user_id", "The visitor, as the publisher names them"),
    (
        "device",
        "ios, android, mobile, tablet, desktop, tv or other; from the user agent when absent",
    ),
    ("geo", "ISO 3166 code of the region"),
    (
        "ts",
        "When it happened: RFC 3339, or an integer of seconds (below 10^11) or milliseconds; now when absent",
    ),
];
const CLICK: [(&str, &str); 5] = [
    ("click_id", "The click's id; a new one when absent"),
    ("impression_id", "The impression that was clicked on"),
    (
        "url",
        "Where to go instead of the ad's landing page; needs exp and sig",
    ),
    ("exp", "Until when the signature holds, in Unix seconds"),
    (
        "sig",
        "Hex HMAC-SHA256 over `<ad_id>\\n<url>\\n<exp>` with the signing secret",
    ),
];
const CONVERSION: [(&str, &str); 8] = [
    ("advertiser_id", "The advertiser; required"),
    (
        "click_id",
        "The click that led here; this or user_id is required",
    ),
    ("user_id", "The visitor"),
    ("value_micros", "What it was worth, in micros"),
    ("currency_code", "ISO 4217; the advertiser's when absent"),
    ("order_id", "The advertiser's order"),
    (
        "conversion_id",
        "The conversion's id; a new one when absent",
    ),
    ("ts", "When it happened; now when absent"),
];

fn parameters<'a>(of: impl IntoIterator<Item = &'a (&'a str, &'a str)>) -> Vec<Parameter> {
    of.into_iter()
        .map(|(name, description)| {
            ParameterBuilder::new()
                .name(*name)
                .parameter_in(ParameterIn::Query)
                .required(Required::False)
                .description(Some(*description))
                .schema(Some(String::schema()))
                .build()
        })
        .collect()
}

/// Parameters of `/click`.
pub enum ClickParams {}

impl IntoParams for ClickParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        parameters([AD].iter().chain(&EVENT).chain(&CLICK))
    }
}

/// Parameters of `/c/{ad_id}`, besides the ad in the path.
pub enum ClickByPathParams {}

impl IntoParams for ClickByPathParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        parameters(EVENT.iter().chain(&CLICK))
    }
}

/// Parameters of `/i`.
pub enum ImpressionParams {}

impl IntoParams for ImpressionParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        parameters(
            [
                AD,
                (
                    "impression_id",
                    "The impression's id; a new one when absent",
                ),
            ]
            .iter()
            .chain(&EVENT),
        )
    }
}

/// Parameters of `/conversion`.
pub enum ConversionParams {}

impl IntoParams for ConversionParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        parameters(&CONVERSION)
    }
}

/// The problems of a collector's route.
pub enum CollectorProblems {}

impl IntoResponses for CollectorProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let all = [
            (
                "400",
                "A required parameter is missing, or a signature is forged or past",
            ),
            (
                "404",
                "The ad is not known, and no valid signed url says where to go",
            ),
            ("503", "Nothing was recorded; see Retry-After"),
        ];
        let problem = |(status, description): (&str, &str)| {
            let content = ContentBuilder::new()
                .schema(Some(Ref::from_schema_name("Problem")))
                .build();
            let response = ResponseBuilder::new()
                .description(description)
                .content(PROBLEM_JSON, content);
            (status.to_owned(), RefOr::T(response.build()))
        };
        all.into_iter().map(problem).collect()
    }
}
