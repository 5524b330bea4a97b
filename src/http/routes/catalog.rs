//! `/api/v1/catalog/{advertisers|campaigns|ads}[/{id}]`: reading and writing the catalogue.
//!
//! A PUT returns when its own revision is in force in this process; what arrives after that is counted by it. Keys
//! that are no fields are passed over, and a header of the answer names them. An
//! advertiser's key reads its own documents; only an admin's writes.

use std::collections::BinaryHeap;

use adtally_streams::catalogue::{Catalogue, CatalogueError, Document, DocumentKind};
use adtally_streams::document_keys::{MAX_TOLD, UnknownKey, unknown_keys};
use adtally_streams::documents::DOCUMENT_MAX_BYTES;
use adtally_streams::id::Id;
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::path_id;
use crate::catalogue_feed::PublishError;
use crate::http::AppState;
use crate::http::auth::Access;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::schemas;
use crate::misspelt;
use crate::read_body::read_body;

/// How many documents a page has when no limit is asked for.
const DEFAULT_LIMIT: usize = 1_000;
/// The most documents of one page.
const MAX_LIMIT: usize = 10_000;
/// The most documents of one PUT.
const MAX_PUT_DOCUMENTS: usize = 10_000;
/// The largest body of a PUT of several documents, in bytes.
const MAX_PUT_BYTES: usize = 8 << 20;
/// The revision of the catalogue that an answer shows.
const REVISION: HeaderName = HeaderName::from_static("x-adtally-catalog-revision");
/// The keys of what was put that are no fields, and which fields they may be meant for.
const UNKNOWN: HeaderName = HeaderName::from_static("x-adtally-unknown-fields");

/// The four routes of one kind of document. Their documentation needs literal paths, hence a macro.
macro_rules! routes_of {
    ($module:ident, $kind:expr, $list_path:literal, $one_path:literal, $one:ident, $many:ident, $what:literal) => {
        mod $module {
            use super::*;

            #[doc = concat!("Lists ", $what, "s, sorted by id.")]
            #[utoipa::path(
                get, path = $list_path, tag = "catalogue", operation_id = concat!("list_", $what, "s"),
                summary = concat!("Lists ", $what, "s, sorted by id."),
                params(
                    ("limit" = Option<u32>, Query, description = "How many, at most 10,000; 1,000 when absent"),
                    ("after" = Option<String>, Query, description = "`next` of the page before"),
                ),
                responses((status = 200, description = "A page", body = schemas::$many), schemas::QuestionProblems),
            )]
            pub async fn list(
                State(state): State<AppState>,
                access: Access,
                RawQuery(query): RawQuery,
            ) -> Result<Response, Problem> {
                super::list($kind, &state, &access, query.as_deref())
            }

            #[doc = concat!("Puts several ", $what, "s in force, all or none of them checked; one object is read as a list of one.")]
            #[utoipa::path(
                put, path = $list_path, tag = "catalogue", operation_id = concat!("put_", $what, "s"),
                summary = concat!("Puts several ", $what, "s in force, all or none of them checked; one object is read as a list of one."),
                request_body = Vec<schemas::$one>,
                responses((status = 200, description = "All are in force. The header X-Adtally-Unknown-Fields names keys that are no fields and were passed over", body = schemas::$many), schemas::PutProblems),
            )]
            pub async fn put_list(
                State(state): State<AppState>,
                access: Access,
                request: Request,
            ) -> Result<Response, Problem> {
                super::put_list($kind, &state, &access, request).await
            }

            #[doc = concat!("Shows one ", $what, ".")]
            #[utoipa::path(
                get, path = $one_path, tag = "catalogue", operation_id = concat!("get_", $what),
                summary = concat!("Shows one ", $what, "."),
                params(("id" = String, Path, description = "Its id")),
                responses((status = 200, description = "It", body = schemas::$one), schemas::LookUpProblems),
            )]
            pub async fn one(
                State(state): State<AppState>,
                access: Access,
                path: Result<Path<String>, PathRejection>,
                RawQuery(query): RawQuery,
            ) -> Result<Response, Problem> {
                Params::read(query.as_deref(), &[])?;
                super::one($kind, &state, &access, path)
            }

            #[doc = concat!("Puts one ", $what, " in force. It counts for every event that arrives after the answer.")]
            #[utoipa::path(
                put, path = $one_path, tag = "catalogue", operation_id = concat!("put_", $what),
                summary = concat!("Puts one ", $what, " in force. It counts for every event that arrives after the answer."),
                params(("id" = String, Path, description = "Its id; the body may leave it out, and must agree otherwise")),
                request_body = schemas::$one,
                responses(
                    (status = 200, description = "It is in force. The header X-Adtally-Unknown-Fields names keys that are no fields and were passed over", body = schemas::$one),
                    (status = 201, description = "The same, and it is new", body = schemas::$one),
                    schemas::PutProblems,
                ),
            )]
            pub async fn put_one(
                State(state): State<AppState>,
                access: Access,
                path: Result<Path<String>, PathRejection>,
                request: Request,
            ) -> Result<Response, Problem> {
                super::put_one($kind, &state, &access, path, request).await
            }
        }
    };
}

routes_of!(
    advertisers,
    DocumentKind::Advertiser,
    "/api/v1/catalog/advertisers",
    "/api/v1/catalog/advertisers/{id}",
    Advertiser,
    Advertisers,
    "advertiser"
);
routes_of!(
    campaigns,
    DocumentKind::Campaign,
    "/api/v1/catalog/campaigns",
    "/api/v1/catalog/campaigns/{id}",
    Campaign,
    Campaigns,
    "campaign"
);
routes_of!(
    ads,
    DocumentKind::Ad,
    "/api/v1/catalog/ads",
    "/api/v1/catalog/ads/{id}",
    Ad,
    Ads,
    "ad"
);

pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(advertisers::list, advertisers::put_list))
        .routes(routes!(advertisers::one, advertisers::put_one))
        .routes(routes!(campaigns::list, campaigns::put_list))
        .routes(routes!(campaigns::one, campaigns::put_one))
        .routes(routes!(ads::list, ads::put_list))
        .routes(routes!(ads::one, ads::put_one))
}

fn list(
    kind: DocumentKind,
    state: &AppState,
    access: &Access,
    query: Option<&str>,
) -> Result<Response, Problem> {
    let params = Params::read(query, &["limit", "after"])?;
    let limit = params.limit("limit", DEFAULT_LIMIT, MAX_LIMIT)?;
    let after = params
        .one("after")?
        .map(|text| super::id("after", text))
        .transpose()?;
    let own = access.sight()?;
    let catalogue = state.catalogue.read();
    // One more than the page, so that its end is known.
    let mut ids = first_ids(kind, &catalogue, own, after.as_ref(), limit + 1);
    let more = ids.len() > limit;
    ids.truncate(limit);
    let next = ids.last().filter(|_| more).map(|id| id.to_string());
    let documents: Vec<Value> = ids
        .iter()
        .filter_map(|id| catalogue.document(kind, id.as_str()))
        .map(|d| json!(d))
        .collect();
    let mut body = Map::new();
    body.insert(plural(kind).to_owned(), Value::Array(documents));
    body.insert("next".to_owned(), json!(next));
    Ok((revision(catalogue.revision()), Json(body)).into_response())
}

/// The `keep` least ids of a kind past `after` that the asker may see, sorted.
fn first_ids(
    kind: DocumentKind,
    catalogue: &Catalogue,
    own: Option<&Id>,
    after: Option<&Id>,
    keep: usize,
) -> Vec<Id> {
    let mut least: BinaryHeap<Id> = BinaryHeap::with_capacity(keep + 1);
    let mut offer = |id: &Id, owner: Option<&Id>| {
        if own.is_some_and(|own| owner != Some(own)) || after.is_some_and(|after| id <= after) {
            return;
        }
        if least.len() < keep || least.peek().is_some_and(|greatest| id < greatest) {
            least.push(id.clone());
            if least.len() > keep {
                least.pop();
            }
        }
    };
    match kind {
        DocumentKind::Advertiser => catalogue
            .advertisers()
            .for_each(|d| offer(&d.advertiser_id, Some(&d.advertiser_id))),
        DocumentKind::Campaign => catalogue
            .campaigns()
            .for_each(|d| offer(&d.campaign_id, Some(&d.advertiser_id))),
        DocumentKind::Ad => catalogue
            .ads()
            .for_each(|d| offer(&d.ad_id, owner_of(catalogue, &d.campaign_id))),
        // Keys have no route.
        DocumentKind::Key => {}
    }
    least.into_sorted_vec()
}

fn owner_of<'c>(catalogue: &'c Catalogue, campaign: &Id) -> Option<&'c Id> {
    catalogue
        .campaign(campaign.as_str())
        .map(|c| &c.advertiser_id)
}

fn plural(kind: DocumentKind) -> &'static str {
    match kind {
        DocumentKind::Advertiser => "advertisers",
        DocumentKind::Campaign => "campaigns",
        DocumentKind::Ad => "ads",
        DocumentKind::Key => "keys",
    }
}

fn one(
    kind: DocumentKind,
    state: &AppState,
    access: &Access,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let id = path_id(path, "id")?;
    let catalogue = state.catalogue.read();
    let document = catalogue.document(kind, id.as_str());
    let owner = document.as_ref().and_then(|d| match d {
        Document::Advertiser(d) => Some(&d.advertiser_id),
        Document::Campaign(d) => Some(&d.advertiser_id),
        Document::Ad(d) => owner_of(&catalogue, &d.campaign_id),
        Document::Key(_) => None,
    });
    access.require_sight_of(owner)?;
    match document {
        Some(document) => Ok((revision(catalogue.revision()), Json(document)).into_response()),
        None => Err(Problem::not_found(format!(
            "there is no {} {id}",
            kind.name()
        ))),
    }
}

async fn put_one(
    kind: DocumentKind,
    state: &AppState,
    access: &Access,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    access.require_admin("write the catalogue")?;
    let (parts, body) = request.into_parts();
    Params::read(parts.uri.query(), &[])?;
    let id = path_id(path, "id")?;
    let body = read_body(&parts.headers, body, DOCUMENT_MAX_BYTES).await?;
    let document = Document::from_json(kind, Some(id.as_str()), &body).map_err(refused)?;
    let is_new = state.catalogue.read().document(kind, id.as_str()).is_none();
    let live = state
        .catalogue
        .publish(document.clone())
        .await
        .map_err(unpublished)?;
    let status = if is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let in_force = state.catalogue.read().completed(document);
    let unknown = serde_json::from_slice(&body)
        .map_or_else(|_| Vec::new(), |document| unknown_keys(kind, &document, ""));
    let answer = (status, revision(live), Json(in_force)).into_response();
    Ok(telling(answer, &unknown))
}

async fn put_list(
    kind: DocumentKind,
    state: &AppState,
    access: &Access,
    request: Request,
) -> Result<Response, Problem> {
    access.require_admin("write the catalogue")?;
    let (parts, body) = request.into_parts();
    Params::read(parts.uri.query(), &[])?;
    let body = read_body(&parts.headers, body, MAX_PUT_BYTES).await?;
    let (documents, unknown) = documents(kind, &body)?;
    let live = state
        .catalogue
        .publish_all(&documents)
        .await
        .map_err(unpublished)?;
    let in_force: Vec<Document> = {
        let catalogue = state.catalogue.read();
        let documents = documents.into_iter();
        documents.map(|d| catalogue.completed(d)).collect()
    };
    let mut answer = Map::new();
    answer.insert(plural(kind).to_owned(), json!(in_force));
    answer.insert("next".to_owned(), Value::Null);
    let answer = (revision(live), Json(answer)).into_response();
    Ok(telling(answer, &unknown))
}

/// The answer, with what of the request is no field.
fn telling(mut answer: Response, unknown: &[UnknownKey]) -> Response {
    let told: Vec<String> = unknown.iter().map(misspelt::told).collect();
    if let Ok(value) = HeaderValue::try_from(told.join(", "))
        && !told.is_empty()
    {
        answer.headers_mut().insert(UNKNOWN, value);
    }
    answer
}

/// The documents of a body, and the first [`MAX_TOLD`] of their keys that are no fields.
fn documents(kind: DocumentKind, body: &[u8]) -> Result<(Vec<Document>, Vec<UnknownKey>), Problem> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|e| Problem::bad_request(format!("the body is not JSON: {e}")))?;
    let items = match value {
        Value::Array(items) => items,
        one => vec![one],
    };
    if items.len() > MAX_PUT_DOCUMENTS {
        return Err(Problem::too_large(format!(
            "one request puts at most {MAX_PUT_DOCUMENTS} documents"
        )));
    }
    let mut unknown = Vec::new();
    let read = |(at, item): (usize, Value)| {
        if unknown.len() < MAX_TOLD {
            unknown.extend(unknown_keys(kind, &item, &format!("[{at}].")));
        }
        Document::from_json(kind, None, item.to_string().as_bytes()).map_err(|error| {
            let parameter = error.parameter().map(|field| format!("[{at}].{field}"));
            let problem = refused(error);
            match parameter {
                Some(parameter) => problem.blaming(parameter),
                None => problem,
            }
        })
    };
    let documents: Result<_, _> = items.into_iter().enumerate().map(read).collect();
    unknown.truncate(MAX_TOLD);
    Ok((documents?, unknown))
}

fn revision(revision: u64) -> [(HeaderName, HeaderValue); 1] {
    [(REVISION, HeaderValue::from(revision))]
}

fn refused(error: CatalogueError) -> Problem {
    let detail = error.to_string();
    match error {
        CatalogueError::NotAnObject(_) => Problem::bad_request(detail),
        CatalogueError::TooLarge(_) => Problem::too_large(detail),
        CatalogueError::Snapshot(_) => Problem::unavailable(detail),
        CatalogueError::Field { .. }
        | CatalogueError::Immutable { .. }
        | CatalogueError::Dangling { .. }
        | CatalogueError::Full { .. } => match error.parameter() {
            Some(parameter) => Problem::unprocessable(detail).blaming(parameter),
            None => Problem::unprocessable(detail),
        },
    }
}

fn unpublished(error: PublishError) -> Problem {
    match error {
        PublishError::Refused(error) => refused(error),
        error @ (PublishError::Unavailable(_) | PublishError::Contended) => {
            Problem::unavailable(error.to_string())
        }
    }
}
