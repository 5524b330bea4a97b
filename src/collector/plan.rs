//! What a request to the collector comes to, decided purely over its parameters, the time and the catalogue.
//!
//! "A person who clicks on a known ad always arrives" is decided here, and so is everything that is not answered
//! with a redirect. The handlers only carry plans out.

use std::sync::Arc;

use adtally_streams::catalogue::{Catalogue, expand_landing_url};
use adtally_streams::event::{Flags, Kind};
use adtally_streams::id::Id;
use adtally_streams::money::{Currency, MAX_MICROS};
use adtally_streams::parse::RawEvent;
use adtally_streams::refusal::{Reason, Refusal};

use super::lenient::Lenient;
use super::query::{Given, Params};
use super::signed::{BadSignature, Signer, header_form};
use crate::http::problem::{Problem, quote};

/// An event to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The event.
    pub raw: RawEvent,
    /// What was left out of it.
    pub mended: Flags,
    /// Whether its id was made here.
    pub has_minted_id: bool,
    /// Where a click leads: visible ASCII, fit for a header.
    pub location: Option<Arc<str>>,
}

/// A request that is not answered as hoped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The answer.
    pub problem: Problem,
    /// Why, for the counter and the record.
    pub refusal: Refusal,
}

impl Refused {
    fn parameter(reason: Reason, name: &str, detail: impl std::fmt::Display) -> Box<Self> {
        let problem = Problem::bad_parameter(name, format!("`{name}`: {detail}"));
        Box::new(Self {
            problem,
            refusal: Refusal::new(reason, format!("{name}: {detail}")),
        })
    }

    fn unknown_ad(ad_id: &Id, what_helps: &str) -> Box<Self> {
        let detail = format!("the ad {ad_id} is not in the catalogue; {what_helps}");
        Box::new(Self {
            problem: Problem::not_found(detail.clone()).blaming("ad_id"),
            refusal: Refusal::new(Reason::UnknownAd, format!("ad_id: {detail}")),
        })
    }

    /// Whether the request was not about an event at all, so that there is nothing to keep a record of.
    pub fn is_about_nothing(&self) -> bool {
        matches!(
            self.refusal.reason,
            Reason::MissingAdId | Reason::MissingAdvertiserId
        )
    }
}

/// What every plan is made over.
pub struct Context<'a> {
    /// The request's parameters.
    pub params: &'a Params<'a>,
    /// When it arrived, in milliseconds of the Unix epoch.
    pub now_ms: i64,
    /// How old a given time may be, in milliseconds.
    pub max_age_ms: i64,
}

impl<'a> Context<'a> {
    fn lenient(&self) -> Lenient<'a> {
        Lenient::new(self.params, self.now_ms, self.max_age_ms)
    }
}

/// An id that must be there.
fn required_id(given: &Given<'_>, name: &str, missing: Reason) -> Result<Id, Box<Refused>> {
    match given {
        Given::Absent => Err(Refused::parameter(missing, name, "is required")),
        Given::Text(text) => {
            Id::new(text).map_err(|error| Refused::parameter(Reason::BadId, name, error))
        }
        Given::NotText => Err(Refused::parameter(Reason::BadId, name, "is not UTF-8")),
    }
}

/// A click. `ad_id` is the path's or the parameter's; `mint` makes an id where none was given.
pub fn plan_click(
    context: &Context<'_>,
    ad_id: &Given<'_>,
    signer: Option<&Signer>,
    catalogue: &Catalogue,
    mint: impl FnOnce() -> Id,
) -> Result<Planned, Box<Refused>> {
    let ad_id = required_id(ad_id, "ad_id", Reason::MissingAdId)?;
    let signed = signed_location(context, &ad_id, signer)?;
    let mut lenient = context.lenient();
    let given_id = lenient.id("click_id", Flags::BAD_ID);
    let has_minted_id = given_id.is_none();
    let mut raw = RawEvent::new(Kind::Click, given_id.unwrap_or_else(mint), ad_id);
    lenient.placement(&mut raw);
    raw.impression_id = lenient.id("impression_id", Flags::BAD_ID);
    let location = match (signed, catalogue.ad(raw.key.as_str())) {
        (Some(url), _) => url,
        (None, Some(ad)) => {
            let creative = raw.creative.as_deref().unwrap_or_default();
            let campaign = ad.campaign_id.as_str();
            expand_landing_url(
                &ad.landing_url,
                raw.id.as_str(),
                ad.ad_id.as_str(),
                campaign,
                creative,
            )
        }
        (None, None) => {
            return Err(Refused::unknown_ad(
                &raw.key,
                "publish it, or link with a signed `url`",
            ));
        }
    };
    Ok(Planned {
        raw,
        mended: lenient.mended,
        has_minted_id,
        location: Some(Arc::from(location)),
    })
}

/// The URL of a signed link; none when the link has no `url`. A forged, expired or malformed one is refused, even
/// where the catalogue knows where the ad leads: somebody has tampered with this link.
fn signed_location(
    context: &Context<'_>,
    ad_id: &Id,
    signer: Option<&Signer>,
) -> Result<Option<String>, Box<Refused>> {
    let refuse =
        |error: BadSignature| Refused::parameter(Reason::BadSignature, error.parameter(), error);
    let text = |name: &'static str| match context.params.get(name) {
        Given::Text(text) => Ok(text.as_ref()),
        Given::Absent | Given::NotText => Err(refuse(BadSignature::Incomplete(name))),
    };
    if *context.params.get("url") == Given::Absent {
        return Ok(None);
    }
    let signer = signer.ok_or_else(|| refuse(BadSignature::NoSecret))?;
    let (url, exp, sig) = (text("url")?, text("exp")?, text("sig")?);
    signer
        .check(ad_id.as_str(), url, exp, sig, context.now_ms)
        .map_err(refuse)?;
    Ok(Some(header_form(url)))
}

/// An impression.
pub fn plan_impression(
    context: &Context<'_>,
    catalogue: &Catalogue,
    mint: impl FnOnce() -> Id,
) -> Result<Planned, Box<Refused>> {
    let ad_id = required_id(context.params.get("ad_id"), "ad_id", Reason::MissingAdId)?;
    let mut lenient = context.lenient();
    let given_id = lenient.id("impression_id", Flags::BAD_ID);
    let has_minted_id = given_id.is_none();
    let mut raw = RawEvent::new(Kind::Impression, given_id.unwrap_or_else(mint), ad_id);
    lenient.placement(&mut raw);
    if raw.campaign_id.is_none() && catalogue.ad(raw.key.as_str()).is_none() {
        return Err(Refused::unknown_ad(
            &raw.key,
            "publish it, or name a `campaign_id`",
        ));
    }
    Ok(Planned {
        raw,
        mended: lenient.mended,
        has_minted_id,
        location: None,
    })
}

/// A conversion. Its advertiser's server or page sends it, and it is about money, so what is wrong is refused by
/// name; only its time is mended, as on the other paths.
pub fn plan_conversion(
    context: &Context<'_>,
    mint: impl FnOnce() -> Id,
) -> Result<Planned, Box<Refused>> {
    let advertiser = context.params.get("advertiser_id");
    let advertiser = required_id(advertiser, "advertiser_id", Reason::MissingAdvertiserId)?;
    let optional_id = |name: &str| match context.params.get(name) {
        Given::Absent => Ok(None),
        given => required_id(given, name, Reason::BadId).map(Some),
    };
    let given_id = optional_id("conversion_id")?;
    let has_minted_id = given_id.is_none();
    let mut raw = RawEvent::new(Kind::Conversion, given_id.unwrap_or_else(mint), advertiser);
    raw.click_id = optional_id("click_id")?;
    raw.user_id = optional_id("user_id")?;
    raw.order_id = optional_id("order_id")?;
    if raw.click_id.is_none() && raw.user_id.is_none() {
        return Err(Refused::parameter(
            Reason::MissingClickOrUser,
            "click_id",
            "or `user_id` is required",
        ));
    }
    raw.value_micros = value_micros(context.params.get("value_micros"))?;
    raw.currency = currency(context.params.get("currency_code"))?;
    let mut lenient = context.lenient();
    raw.ts_ms = lenient.time();
    Ok(Planned {
        raw,
        mended: lenient.mended,
        has_minted_id,
        location: None,
    })
}

fn value_micros(given: &Given<'_>) -> Result<Option<i64>, Box<Refused>> {
    let refuse = || {
        let detail = format!("is a whole number of micros from 0 to {MAX_MICROS}");
        Refused::parameter(Reason::BadAmount, "value_micros", detail)
    };
    match given {
        Given::Absent => Ok(None),
        Given::NotText => Err(refuse()),
        Given::Text(text) => match text.parse::<i64>() {
            Ok(micros) if (0..=MAX_MICROS).contains(&micros) => Ok(Some(micros)),
            _ => Err(refuse()),
        },
    }
}

fn currency(given: &Given<'_>) -> Result<Option<Currency>, Box<Refused>> {
    match given {
        Given::Absent => Ok(None),
        Given::NotText => Err(Refused::parameter(
            Reason::BadCurrency,
            "currency_code",
            "is not UTF-8",
        )),
        Given::Text(text) => match Currency::new(text) {
            Ok(currency) => Ok(Some(currency)),
            Err(error) => {
                let detail = format!("{error}, and this is {}", quote(text));
                Err(Refused::parameter(
                    Reason::BadCurrency,
                    "currency_code",
                    detail,
                ))
            }
        },
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
