//! `adtally catalog`: a file of advertisers, campaigns and ads checked as a whole and published; and what is in force.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use adtally_streams::catalogue::CatalogueFile;
use adtally_streams::documents::{Document, DocumentKind as Kind};
use anyhow::Context as _;
use clap::ValueEnum as _;
use serde::Serialize;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::args::{Catalog, DocumentKind};
use super::output::Output;
use super::{Exit, Usage};
use crate::catalogue_feed::{CatalogueHandle, Freshness};
use crate::config::Config;
use crate::deployment::Deployment;
use crate::misspelt;

/// The largest catalogue file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// The catalogue of a deployment, read to its end, for the time of a command.
pub struct Open {
    /// The catalogue.
    pub handle: CatalogueHandle,
    stop: CancellationToken,
    following: JoinHandle<()>,
}

impl Open {
    /// Reads all of CATALOG.
    pub async fn of(deployment: &Deployment) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let (handle, following) =
            CatalogueHandle::start(deployment.jetstream(), None, stop.clone());
        let open = Self {
            handle,
            stop,
            following,
        };
        open.read_to_the_end().await?;
        Ok(open)
    }

    async fn read_to_the_end(&self) -> anyhow::Result<()> {
        // The barrier knows how far CATALOG is only once the reader has found the stream.
        let patience = tokio::time::Instant::now() + crate::deployment::ANSWER_WITHIN;
        while self.handle.barrier().await != Freshness::Current {
            anyhow::ensure!(
                tokio::time::Instant::now() < patience,
                "the stream CATALOG could not be read: `adtally streams check` says what is missing"
            );
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Ends following it.
    pub async fn close(self) {
        self.stop.cancel();
        if self.following.await.is_err() {
            tracing::debug!("the catalogue's reader had ended early");
        }
    }
}

/// Runs `adtally catalog`.
pub async fn run(command: &Catalog, config: &Config, output: Output) -> anyhow::Result<Exit> {
    match command {
        Catalog::Apply { file } => apply(file, config, output).await,
        Catalog::Get { kind, id } => get(*kind, id, config, output).await,
        Catalog::List { kind } => list(*kind, config, output).await,
    }
}

async fn apply(file: &Path, config: &Config, output: Output) -> anyhow::Result<Exit> {
    // The file is judged before anything is started or asked.
    let text = read(file)?;
    let catalogue =
        CatalogueFile::from_json(&text).map_err(|e| Usage(format!("{}: {e}", file.display())))?;
    for key in &catalogue.unknown {
        let key = misspelt::told(key);
        tracing::warn!(%key, "a key of the catalogue file is no field, and nothing is read from it");
    }
    let deployment = Deployment::find(config, true).await?;
    let done = apply_to(&deployment, &catalogue, file, output).await;
    deployment.close().await;
    done
}

async fn apply_to(
    deployment: &Deployment,
    catalogue: &CatalogueFile,
    file: &Path,
    output: Output,
) -> anyhow::Result<Exit> {
    let open = Open::of(deployment).await?;
    let published = open.handle.publish_all(&catalogue.documents).await;
    open.close().await;
    let revision =
        published.with_context(|| format!("nothing of {} was applied", file.display()))?;
    let count = |kind: Kind| {
        catalogue
            .documents
            .iter()
            .filter(|d| d.kind() == kind)
            .count()
    };
    let (advertisers, campaigns, ads) = (
        count(Kind::Advertiser),
        count(Kind::Campaign),
        count(Kind::Ad),
    );
    if output.json {
        output.json(&json!({"revision": revision, "advertisers": advertisers, "campaigns": campaigns, "ads": ads}))?;
    } else {
        output.line(&format!(
            "{advertisers} advertisers, {campaigns} campaigns and {ads} ads are in force (revision {revision})."
        ))?;
    }
    Ok(Exit::Done)
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let name = file.display();
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin()
            .take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|f| f.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
    };
    read.with_context(|| format!("reading the catalogue file {name}"))?;
    anyhow::ensure!(
        bytes.len() as u64 <= MAX_FILE_BYTES,
        "{name} is larger than {MAX_FILE_BYTES} bytes: split it"
    );
    Ok(bytes)
}

fn kind_of(kind: DocumentKind) -> Kind {
    match kind {
        DocumentKind::Advertisers => Kind::Advertiser,
        DocumentKind::Campaigns => Kind::Campaign,
        DocumentKind::Ads => Kind::Ad,
    }
}

async fn get(
    kind: DocumentKind,
    id: &str,
    config: &Config,
    output: Output,
) -> anyhow::Result<Exit> {
    let deployment = Deployment::find(config, false).await?;
    let open = Open::of(&deployment).await;
    let document = match &open {
        Ok(open) => open.handle.read().document(kind_of(kind), id),
        Err(_) => None,
    };
    let opened = close(open, deployment).await;
    opened?;
    match document {
        Some(document) => {
            if output.json {
                output.json(&document)?;
            } else {
                output.line(&serde_json::to_string_pretty(&document)?)?;
            }
            Ok(Exit::Done)
        }
        None => Ok(output.no(&format!("there is no {} {id}", kind_of(kind).name()))),
    }
}

/// Closes what was opened, and hands on why it was not.
pub async fn close(open: anyhow::Result<Open>, deployment: Deployment) -> anyhow::Result<()> {
    let result = match open {
        Ok(open) => {
            open.close().await;
            Ok(())
        }
        Err(error) => Err(error),
    };
    deployment.close().await;
    result
}

async fn list(only: Option<DocumentKind>, config: &Config, output: Output) -> anyhow::Result<Exit> {
    let kinds = DocumentKind::value_variants().iter().copied();
    let kinds: Vec<_> = kinds.filter(|k| only.is_none_or(|o| o == *k)).collect();
    let deployment = Deployment::find(config, false).await?;
    let open = Open::of(&deployment).await;
    let lists: Vec<Vec<Document>> = match &open {
        Ok(open) => kinds.iter().map(|k| documents(&open.handle, *k)).collect(),
        Err(_) => Vec::new(),
    };
    close(open, deployment).await?;
    if output.json && only.is_none() {
        let file: BTreeMap<&str, Vec<Document>> =
            kinds.into_iter().map(list_name).zip(lists).collect();
        output.json(&file)?;
        return Ok(Exit::Done);
    }
    for (kind, documents) in kinds.into_iter().zip(lists) {
        output.rows(header(kind), &documents, cells)?;
    }
    Ok(Exit::Done)
}

/// The name of a type's list in a catalogue file.
fn list_name(kind: DocumentKind) -> &'static str {
    match kind {
        DocumentKind::Advertisers => "advertisers",
        DocumentKind::Campaigns => "campaigns",
        DocumentKind::Ads => "ads",
    }
}

fn header(kind: DocumentKind) -> &'static [&'static str] {
    match kind {
        DocumentKind::Advertisers => &["advertiser", "name", "currency", "time zone"],
        DocumentKind::Campaigns => &[
            "campaign",
            "advertiser",
            "status",
            "pricing",
            "price micros",
        ],
        DocumentKind::Ads => &["ad", "campaign", "status", "landing url"],
    }
}

fn documents(handle: &CatalogueHandle, kind: DocumentKind) -> Vec<Document> {
    let catalogue = handle.read();
    let mut documents: Vec<Document> = match kind {
        DocumentKind::Advertisers => catalogue
            .advertisers()
            .cloned()
            .map(Document::Advertiser)
            .collect(),
        DocumentKind::Campaigns => catalogue
            .campaigns()
            .cloned()
            .map(Document::Campaign)
            .collect(),
        DocumentKind::Ads => catalogue.ads().cloned().map(Document::Ad).collect(),
    };
    documents.sort_by(|a, b| a.id().as_str().cmp(b.id().as_str()));
    documents
}

fn cells(document: &Document) -> Vec<String> {
    match document {
        Document::Advertiser(a) => vec![
            a.advertiser_id.to_string(),
            a.name.clone(),
            a.currency_code.to_string(),
            a.time_zone.name().to_string(),
        ],
        Document::Campaign(c) => vec![
            c.campaign_id.to_string(),
            c.advertiser_id.to_string(),
            word(&c.status),
            word(&c.pricing.model),
            c.pricing.price_micros.to_string(),
        ],
        Document::Ad(a) => {
            vec![
                a.ad_id.to_string(),
                a.campaign_id.to_string(),
                word(&a.status),
                a.landing_url.clone(),
            ]
        }
        Document::Key(k) => vec![k.key_id.to_string()],
    }
}

/// An enumeration's word, as JSON has it.
pub fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}
