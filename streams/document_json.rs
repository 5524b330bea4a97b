//! From JSON to a checked catalogue document: every complaint names its field and says what the field should be.
//!
//! Unknown keys are passed over, so that an older program reads what a newer one has published; whoever takes a
//! document from people tells them ([`crate::document_keys`]).

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::document_keys::{MAX_TOLD, UnknownKey, unknown_keys};
use crate::documents::{
    Ad, Advertiser, ApiKey, CREATIVE_MAX_BYTES, Campaign, CatalogueError, DOCUMENT_MAX_BYTES,
    Document, DocumentKind, MAX_SPREAD, NAME_MAX_BYTES, Pricing, PricingModel, Scope, Status,
    parse_hash,
};
use crate::id::Id;
use crate::landing::check_landing_url;
use crate::money::{Currency, MAX_MICROS, Micros};
use crate::names::MAX_CREATIVES_PER_AD;
use crate::time::parse_rfc3339;

/// The most documents in one catalogue file.
pub const FILE_MAX_DOCUMENTS: usize = 1_000_000;

impl Document {
    /// Reads a JSON object. `id` is what the subject or the path says: it fills the id field where the object
    /// leaves it out, and must agree with it otherwise.
    pub fn from_json(
        kind: DocumentKind,
        id: Option<&str>,
        json: &[u8],
    ) -> Result<Document, CatalogueError> {
        if json.len() > DOCUMENT_MAX_BYTES {
            return Err(CatalogueError::TooLarge(json.len()));
        }
        let value =
            serde_json::from_slice(json).map_err(|e| CatalogueError::NotAnObject(e.to_string()))?;
        Document::from_value(kind, id, &value)
    }

    /// The same of JSON that is already parsed.
    pub fn from_value(
        kind: DocumentKind,
        id: Option<&str>,
        value: &Value,
    ) -> Result<Document, CatalogueError> {
        let Value::Object(object) = value else {
            return Err(CatalogueError::NotAnObject(format!(
                "this is {}",
                type_of(value)
            )));
        };
        let fields = Fields { object, path: "" };
        let own = own_id(&fields, kind, id)?;
        Ok(match kind {
            DocumentKind::Advertiser => Document::Advertiser(Arc::new(advertiser(&fields, own)?)),
            DocumentKind::Campaign => Document::Campaign(Arc::new(campaign(&fields, own)?)),
            DocumentKind::Ad => Document::Ad(Arc::new(ad(&fields, own)?)),
            DocumentKind::Key => Document::Key(Arc::new(key(&fields, own)?)),
        })
    }
}

/// What `catalog apply` reads: `{"advertisers":[..],"campaigns":[..],"ads":[..]}`, in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogueFile {
    /// The documents, advertisers before campaigns before ads, each in the order of the file.
    pub documents: Vec<Document>,
    /// The first [`MAX_TOLD`] keys in them from which nothing was read.
    pub unknown: Vec<UnknownKey>,
}

impl CatalogueFile {
    /// Reads a file. An error names the list, the place in it and the field: `campaigns[2].pricing.model`. A
    /// list of another name is refused too, since nothing in it would be applied.
    pub fn from_json(json: &[u8]) -> Result<Self, CatalogueError> {
        let value: Value =
            serde_json::from_slice(json).map_err(|e| CatalogueError::NotAnObject(e.to_string()))?;
        let Value::Object(object) = &value else {
            return Err(CatalogueError::NotAnObject(format!(
                "this is {}",
                type_of(&value)
            )));
        };
        let lists = [
            ("advertisers", DocumentKind::Advertiser),
            ("campaigns", DocumentKind::Campaign),
            ("ads", DocumentKind::Ad),
        ];
        if let Some(unknown) = object
            .keys()
            .find(|k| !lists.iter().any(|(name, _)| name == k))
        {
            let problem = "a catalogue file holds the lists advertisers, campaigns and ads";
            return Err(CatalogueError::field(
                unknown.chars().take(64).collect::<String>(),
                problem,
            ));
        }
        let mut file = Self::default();
        for (name, kind) in lists {
            let items = match object.get(name) {
                None | Some(Value::Null) => continue,
                Some(Value::Array(items)) => items,
                Some(other) => return Err(wrong_type(name, "a list", other)),
            };
            if file.documents.len() + items.len() > FILE_MAX_DOCUMENTS {
                let problem = format!("one file holds at most {FILE_MAX_DOCUMENTS} documents");
                return Err(CatalogueError::field(name, problem));
            }
            for (at, item) in items.iter().enumerate() {
                let document = Document::from_value(kind, None, item);
                file.documents
                    .push(document.map_err(|e| placed(e, name, at))?);
                if file.unknown.len() < MAX_TOLD {
                    let unknown = unknown_keys(kind, item, &format!("{name}[{at}]."));
                    file.unknown.extend(unknown);
                    file.unknown.truncate(MAX_TOLD);
                }
            }
        }
        Ok(file)
    }
}

fn placed(error: CatalogueError, list: &str, at: usize) -> CatalogueError {
    match error {
        CatalogueError::Field { field, problem } => CatalogueError::Field {
            field: format!("{list}[{at}].{field}"),
            problem,
        },
        CatalogueError::NotAnObject(problem) => {
            CatalogueError::field(format!("{list}[{at}]"), problem)
        }
        other => other,
    }
}

fn own_id(
    fields: &Fields<'_>,
    kind: DocumentKind,
    given: Option<&str>,
) -> Result<Id, CatalogueError> {
    let name = kind.id_field();
    let inside = fields.id(name)?;
    match (inside, given) {
        (Some(inside), Some(given)) if inside.as_str() != given => Err(CatalogueError::field(
            name,
            format!(
                "the document says {inside}, and it was given as {}",
                given.chars().take(80).collect::<String>()
            ),
        )),
        (Some(inside), _) => Ok(inside),
        (None, Some(given)) => {
            Id::new(given).map_err(|e| CatalogueError::field(name, e.to_string()))
        }
        (None, None) => Err(fields.missing(name)),
    }
}

fn advertiser(fields: &Fields<'_>, advertiser_id: Id) -> Result<Advertiser, CatalogueError> {
    let code = fields.required_text("currency_code")?;
    let zone = fields.required_text("time_zone")?;
    Ok(Advertiser {
        name: fields.name(&advertiser_id)?,
        currency_code: Currency::new(code)
            .map_err(|e| CatalogueError::field("currency_code", e.to_string()))?,
        time_zone: zone.parse().map_err(|_| {
            CatalogueError::field("time_zone", "an IANA time zone, such as America/New_York")
        })?,
        advertiser_id,
    })
}

fn campaign(fields: &Fields<'_>, campaign_id: Id) -> Result<Campaign, CatalogueError> {
    let start = fields.time("start")?;
    let end = fields.time("end")?;
    if let (Some(start), Some(end)) = (start, end)
        && start >= end
    {
        return Err(CatalogueError::field(
            "end",
            "a campaign ends after its start",
        ));
    }
    Ok(Campaign {
        advertiser_id: fields
            .id("advertiser_id")?
            .ok_or_else(|| fields.missing("advertiser_id"))?,
        name: fields.name(&campaign_id)?,
        status: fields.status()?,
        pricing: pricing(fields)?,
        daily_budget_micros: fields.micros("daily_budget_micros")?,
        start,
        end,
        campaign_id,
    })
}

fn pricing(fields: &Fields<'_>) -> Result<Pricing, CatalogueError> {
    let fields = match fields.get("pricing") {
        Some(Value::Object(object)) => Fields {
            object,
            path: "pricing.",
        },
        Some(other) => {
            return Err(wrong_type(
                "pricing",
                "an object of model and price_micros",
                other,
            ));
        }
        None => return Err(fields.missing("pricing")),
    };
    let model = match fields.required_text("model")? {
        "cpc" => PricingModel::Cpc,
        "cpm" => PricingModel::Cpm,
        _ => {
            return Err(CatalogueError::field(
                "pricing.model",
                "cpc (per click) or cpm (per thousand impressions)",
            ));
        }
    };
    let price_micros = fields
        .micros("price_micros")?
        .ok_or_else(|| fields.missing("price_micros"))?;
    if model == PricingModel::Cpm && price_micros % 1_000 != 0 {
        let problem =
            "a cpm price is a multiple of 1,000 micros, so that one impression costs whole micros";
        return Err(CatalogueError::field("pricing.price_micros", problem));
    }
    Ok(Pricing {
        model,
        price_micros,
    })
}

fn ad(fields: &Fields<'_>, ad_id: Id) -> Result<Ad, CatalogueError> {
    let landing_url = fields.required_text("landing_url")?;
    check_landing_url(landing_url)
        .map_err(|e| CatalogueError::field("landing_url", e.to_string()))?;
    Ok(Ad {
        campaign_id: fields
            .id("campaign_id")?
            .ok_or_else(|| fields.missing("campaign_id"))?,
        landing_url: landing_url.to_owned(),
        status: fields.status()?,
        creatives: creatives(fields)?,
        spread: spread(fields)?,
        ad_id,
    })
}

fn creatives(fields: &Fields<'_>) -> Result<Vec<Arc<str>>, CatalogueError> {
    let items = match fields.get("creatives") {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong_type("creatives", "a list of texts", other)),
    };
    if items.len() > MAX_CREATIVES_PER_AD {
        let problem = format!(
            "an ad lists at most {MAX_CREATIVES_PER_AD} creative variants, and here are {}",
            items.len()
        );
        return Err(CatalogueError::field("creatives", problem));
    }
    let mut creatives: Vec<Arc<str>> = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        let field = format!("creatives[{at}]");
        let Value::String(text) = item else {
            return Err(wrong_type(&field, "a text", item));
        };
        if text.is_empty() || text.len() > CREATIVE_MAX_BYTES || text.chars().any(char::is_control)
        {
            let problem = format!("1 to {CREATIVE_MAX_BYTES} bytes without control characters");
            return Err(CatalogueError::field(field, problem));
        }
        if !creatives.iter().any(|c| **c == **text) {
            creatives.push(Arc::from(text.as_str()));
        }
    }
    Ok(creatives)
}

fn spread(fields: &Fields<'_>) -> Result<Option<u16>, CatalogueError> {
    let Some(value) = fields.get("spread") else {
        return Ok(None);
    };
    let whole = value.as_u64().and_then(|n| u16::try_from(n).ok());
    match whole.filter(|n| (1..=MAX_SPREAD).contains(n)) {
        Some(n) => Ok(Some(n)),
        None => Err(CatalogueError::field(
            "spread",
            format!("a whole number from 1 to {MAX_SPREAD}"),
        )),
    }
}

fn key(fields: &Fields<'_>, key_id: Id) -> Result<ApiKey, CatalogueError> {
    let hash = fields.required_text("secret_sha256")?;
    Ok(ApiKey {
        name: fields.name(&key_id)?,
        scope: scope(fields)?,
        secret_sha256: parse_hash(hash)
            .ok_or_else(|| CatalogueError::field("secret_sha256", "64 hexadecimal digits"))?,
        created_at: fields
            .time("created_at")?
            .ok_or_else(|| fields.missing("created_at"))?,
        revoked: match fields.get("revoked") {
            None => false,
            Some(Value::Bool(revoked)) => *revoked,
            Some(other) => return Err(wrong_type("revoked", "true or false", other)),
        },
        key_id,
    })
}

fn scope(fields: &Fields<'_>) -> Result<Scope, CatalogueError> {
    let problem =
        || CatalogueError::field("scope", r#""publisher", "admin" or {"advertiser":"<id>"}"#);
    match fields.get("scope") {
        Some(Value::String(text)) if text == "publisher" => Ok(Scope::Publisher),
        Some(Value::String(text)) if text == "admin" => Ok(Scope::Admin),
        Some(Value::Object(object)) => {
            let inner = Fields {
                object,
                path: "scope.",
            };
            Ok(Scope::Advertiser(
                inner.id("advertiser")?.ok_or_else(problem)?,
            ))
        }
        Some(_) => Err(problem()),
        None => Err(fields.missing("scope")),
    }
}

/// The fields of one object; null counts as absent.
struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// What stands before a field's name in a complaint: empty, or the object's own name and a dot.
    path: &'static str,
}

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|v| !v.is_null())
    }

    fn error(&self, name: &str, problem: impl Into<String>) -> CatalogueError {
        CatalogueError::field(format!("{}{name}", self.path), problem)
    }

    fn missing(&self, name: &str) -> CatalogueError {
        self.error(name, "is required")
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, CatalogueError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(&format!("{}{name}", self.path), "a text", other)),
        }
    }

    fn required_text(&self, name: &str) -> Result<&'a str, CatalogueError> {
        self.text(name)?.ok_or_else(|| self.missing(name))
    }

    fn id(&self, name: &str) -> Result<Option<Id>, CatalogueError> {
        self.text(name)?
            .map(|t| Id::new(t).map_err(|e| self.error(name, e.to_string())))
            .transpose()
    }

    /// The name for people; its id when none is given.
    fn name(&self, id: &Id) -> Result<String, CatalogueError> {
        let name = self.text("name")?.unwrap_or(id.as_str());
        if name.len() > NAME_MAX_BYTES || name.chars().any(char::is_control) {
            return Err(self.error(
                "name",
                format!("at most {NAME_MAX_BYTES} bytes without control characters"),
            ));
        }
        Ok(name.to_owned())
    }

    fn status(&self) -> Result<Status, CatalogueError> {
        let Some(text) = self.text("status")? else {
            return Ok(Status::default());
        };
        Status::from_name(text).ok_or_else(|| self.error("status", "active, paused or ended"))
    }

    fn micros(&self, name: &str) -> Result<Option<Micros>, CatalogueError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let amount = value.as_i64().filter(|n| (0..=MAX_MICROS).contains(n));
        let problem = || {
            self.error(
                name,
                format!("a whole number of micros from 0 to {MAX_MICROS}"),
            )
        };
        amount.map(Some).ok_or_else(problem)
    }

    fn time(&self, name: &str) -> Result<Option<i64>, CatalogueError> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        parse_rfc3339(text).map(Some).map_err(|_| {
            self.error(
                name,
                "RFC 3339 with an offset, such as 2024-02-09T14:05:00Z, of the years 0001 to 9999",
            )
        })
    }
}

fn wrong_type(field: &str, wanted: &str, value: &Value) -> CatalogueError {
    CatalogueError::field(field, format!("{wanted}, and this is {}", type_of(value)))
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
