//! Questions about the projector's state: asked of the running `serve`, or read from the data folder of a stopped
//! one. Both give the same answer, so a command need not know which it was.

use std::path::Path;

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::Config;
use crate::control::{self, Verb};
use crate::data_dir::{self, DataDir, DataDirError};
use crate::deployment::{self, Deployment};
use crate::store::{Limits, Shards, StoreError};

/// The answer to `verb`, which `read` gives from a folder that nobody serves.
pub async fn answer<T: DeserializeOwned>(
    config: &Config,
    verb: Verb,
    read: fn(&Shards) -> Result<T, StoreError>,
) -> anyhow::Result<T> {
    match stopped(config)? {
        Some(dir) => read_folder(&dir, read),
        None => ask(config, verb).await,
    }
}

/// The data folder, when it is the one that is meant and nobody serves it.
pub fn stopped(config: &Config) -> anyhow::Result<Option<DataDir>> {
    if deployment::nats_options(&config.nats).is_some() {
        return Ok(None);
    }
    if !data_dir::exists(&config.data_dir) {
        return Err(DataDirError::Missing {
            path: config.data_dir.clone(),
        }
        .into());
    }
    match DataDir::take(&config.data_dir) {
        Ok(dir) => Ok(Some(dir)),
        Err(DataDirError::InUse { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn ask<T: DeserializeOwned>(config: &Config, verb: Verb) -> anyhow::Result<T> {
    let deployment = Deployment::find(config, false).await?;
    let answer = control::ask(&deployment.client, verb, &Value::Null).await;
    deployment.close().await;
    serde_json::from_value(answer?)
        .context("the running `serve` is of another version: its answer cannot be read")
}

/// What `read` says of the state in a folder.
pub fn read_folder<T>(
    dir: &DataDir,
    read: fn(&Shards) -> Result<T, StoreError>,
) -> anyhow::Result<T> {
    let count = shards_on_disk(dir.path());
    if count == 0 {
        anyhow::bail!("no projector has ever run in {}", dir.path().display());
    }
    let shards = Shards::open(dir.path(), count, Limits::default())?;
    let answer = read(&shards);
    shards.close()?;
    Ok(answer?)
}

/// How many shards the folder holds the state of.
pub fn shards_on_disk(data_dir: &Path) -> u16 {
    let entries = std::fs::read_dir(data_dir.join("shards"))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|e| e.file_name().to_str()?.parse::<u16>().ok())
        .map(|n| n + 1)
        .max()
        .unwrap_or(0)
}
