//! `adtally keys`: made once, shown once, revoked for good. What the catalogue keeps is a hash.

use std::sync::Arc;

use adtally_streams::documents::{ApiKey, Document, DocumentKind, Scope};
use adtally_streams::id::Id;
use anyhow::Context as _;
use serde_json::json;

use super::args::{CreateKey, Keys};
use super::catalog::{Open, close};
use super::output::Output;
use super::{Exit, Usage};
use crate::config::Config;
use crate::deployment::Deployment;
use crate::http::auth;

/// Runs `adtally keys`.
pub async fn run(command: &Keys, config: &Config, output: Output) -> anyhow::Result<Exit> {
    match command {
        Keys::Create(create) => make(create, config, output).await,
        Keys::List => list(config, output).await,
        Keys::Revoke { key_id } => revoke(key_id, config, output).await,
    }
}

async fn make(create: &CreateKey, config: &Config, output: Output) -> anyhow::Result<Exit> {
    let scope = scope_of(create)?;
    let secret = auth::secret_text(rand::random());
    let key = ApiKey {
        key_id: Id::new(&format!("key-{:08x}", rand::random::<u32>())).context("a key's id")?,
        name: create.name.clone(),
        scope,
        secret_sha256: auth::secret_hash(&secret),
        created_at: chrono::Utc::now().timestamp_millis(),
        revoked: false,
    };
    let deployment = Deployment::find(config, true).await?;
    let made = publish(&deployment, key.clone()).await;
    deployment.close().await;
    made.context("no key was made")?;
    if output.json {
        output.json(&json!({"key_id": key.key_id, "key": secret}))?;
    } else {
        output.line(&secret)?;
        eprintln!("This is {}; it is not shown again.", key.key_id);
    }
    Ok(Exit::Done)
}

fn scope_of(create: &CreateKey) -> anyhow::Result<Scope> {
    match (&create.advertiser, create.publisher) {
        (Some(id), _) => Ok(Scope::Advertiser(
            Id::new(id).map_err(|e| Usage(format!("--advertiser {id}: {e}")))?,
        )),
        (None, true) => Ok(Scope::Publisher),
        (None, false) => Ok(Scope::Admin),
    }
}

async fn publish(deployment: &Deployment, key: ApiKey) -> anyhow::Result<()> {
    let open = Open::of(deployment).await?;
    let published = open.handle.publish(Document::Key(Arc::new(key))).await;
    open.close().await;
    published?;
    Ok(())
}

async fn list(config: &Config, output: Output) -> anyhow::Result<Exit> {
    let deployment = Deployment::find(config, false).await?;
    let open = Open::of(&deployment).await;
    let mut keys: Vec<ApiKey> = open
        .as_ref()
        .map(|o| o.handle.read().keys().map(|k| (**k).clone()).collect())
        .unwrap_or_default();
    close(open, deployment).await?;
    keys.sort_by(|a, b| {
        a.created_at
            .cmp(&b.created_at)
            .then_with(|| a.key_id.as_str().cmp(b.key_id.as_str()))
    });
    output.rows(&["key", "name", "opens", "made", "revoked"], &keys, |key| {
        let opens = match &key.scope {
            Scope::Advertiser(id) => format!("advertiser {id}"),
            Scope::Publisher => "publisher".into(),
            Scope::Admin => "admin".into(),
        };
        let made = adtally_streams::time::to_rfc3339(key.created_at);
        vec![
            key.key_id.to_string(),
            key.name.clone(),
            opens,
            made,
            key.revoked.to_string(),
        ]
    })?;
    Ok(Exit::Done)
}

async fn revoke(key_id: &str, config: &Config, output: Output) -> anyhow::Result<Exit> {
    let deployment = Deployment::find(config, false).await?;
    let revoked = revoke_in(&deployment, key_id).await;
    deployment.close().await;
    let revoked = revoked?;
    if output.json {
        output.json(&json!({"key_id": key_id, "revoked": revoked}))?;
    }
    if revoked {
        eprintln!("{key_id} opens nothing any more.");
        Ok(Exit::Done)
    } else {
        Ok(output.no(&format!(
            "there is no key {key_id}; `adtally keys list` shows which there are"
        )))
    }
}

async fn revoke_in(deployment: &Deployment, key_id: &str) -> anyhow::Result<bool> {
    let open = Open::of(deployment).await?;
    let found = open.handle.read().document(DocumentKind::Key, key_id);
    let done = match found {
        Some(Document::Key(key)) => {
            let revoked = ApiKey {
                revoked: true,
                ..(*key).clone()
            };
            open.handle
                .publish(Document::Key(Arc::new(revoked)))
                .await
                .map(|_| true)
        }
        _ => Ok(false),
    };
    open.close().await;
    Ok(done?)
}
