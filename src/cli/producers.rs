//! `adtally producers list`: asked of the running `serve`, or read from the data folder of a stopped one.

use std::path::Path;

use anyhow::Context as _;

use super::output::Output;
use super::{Exit, Usage};
use crate::config::Config;
use crate::control::{self, Verb};
use crate::data_dir::{self, DataDir, DataDirError};
use crate::deployment::{self, Deployment};
use crate::producers::{self, Row};
use crate::simulate::report::grouped;
use crate::store::{Limits, Shards};

/// Runs `adtally producers list`; [`Exit::No`] when something is missing.
pub async fn run(config: &Config, output: Output) -> anyhow::Result<Exit> {
    let rows = match stopped(config)? {
        Some(dir) => read(&dir)?,
        None => ask(config).await?,
    };
    output.rows(
        &[
            "producer",
            "epoch",
            "through",
            "accepted",
            "acknowledged",
            "applied",
            "missing",
            "on the way",
            "state",
        ],
        &rows,
        |row| {
            let total = row.total();
            vec![
                row.producer.clone(),
                row.epoch.clone(),
                row.through.clone().unwrap_or_default(),
                grouped(total.accepted as i64),
                grouped(total.acknowledged as i64),
                grouped(total.applied as i64),
                grouped(total.missing as i64),
                grouped(total.outstanding as i64),
                if row.drained { "drained" } else { "open" }.into(),
            ]
        },
    )?;
    let missing: u64 = rows.iter().map(|r| r.total().missing).sum();
    if missing > 0 {
        eprintln!("{missing} events were acknowledged by the broker and are not in the log.");
    }
    Ok(if missing == 0 { Exit::Done } else { Exit::No })
}

/// The data folder, when it is the one that is meant and nobody serves it.
fn stopped(config: &Config) -> anyhow::Result<Option<DataDir>> {
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

async fn ask(config: &Config) -> anyhow::Result<Vec<Row>> {
    let deployment = Deployment::find(config, false).await?;
    let answer = control::ask(&deployment.client, Verb::Producers).await;
    deployment.close().await;
    serde_json::from_value(answer?)
        .context("the running `serve` is of another version: its answer cannot be read")
}

fn read(dir: &DataDir) -> anyhow::Result<Vec<Row>> {
    let count = shards_on_disk(dir.path());
    if count == 0 {
        return Err(Usage(format!(
            "no projector has ever run in {}",
            dir.path().display()
        ))
        .into());
    }
    let shards = Shards::open(dir.path(), count, Limits::default())?;
    let rows = producers::list(&shards);
    shards.close()?;
    Ok(rows?)
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
