//! `adtally restore`: a backup put into a data folder, which then catches up from the log.

use std::path::Path;

use anyhow::Context as _;
use async_nats::jetstream;
use tokio_util::sync::CancellationToken;

use super::args::Restore as Args;
use super::backup::bytes_bar;
use super::output::Output;
use super::{Exit, Usage};
use crate::backup::{self, Meter, Restore, Restored};
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::deployment;
use crate::fail_points;
use crate::log::connect::{self, NatsOptions};
use crate::log::embedded::NatsServer;
use crate::signals;
use crate::simulate::report::grouped;
use crate::telemetry;

/// What the broker's list of connections shows.
const CLIENT_NAME: &str = "adtally command";

/// Runs `adtally restore`.
pub async fn run(args: &Args, config: &Config, output: Output) -> anyhow::Result<Exit> {
    fail_points::arm_from_environment().map_err(|bad| Usage(bad.to_string()))?;
    let stop = signals::stop_on_signal();
    let restore = Restore::open(&args.dir)?;
    let dir = DataDir::take(&config.data_dir)?;
    tokio::task::block_in_place(|| verify(&restore, &dir, args.force, &stop))?;
    same_log(&restore, &dir, config).await?;
    let restored = tokio::task::block_in_place(|| put(restore, &dir, &stop))?;
    report(&restored, dir.path(), output)?;
    Ok(Exit::Done)
}

fn verify(
    restore: &Restore,
    dir: &DataDir,
    force: bool,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    restore.may_be_put(dir, force)?;
    let bar = bytes_bar(restore.bytes());
    let told = |bytes| bar.inc(bytes);
    let meter = Meter { told: &told, stop };
    let verified = restore.verify(&meter);
    bar.finish_and_clear();
    Ok(verified?)
}

fn put(restore: Restore, dir: &DataDir, stop: &CancellationToken) -> anyhow::Result<Restored> {
    let bar = bytes_bar(restore.bytes());
    let told = |bytes| bar.inc(bytes);
    let meter = Meter { told: &told, stop };
    let restored = restore.put(dir, &meter);
    bar.finish_and_clear();
    Ok(restored?)
}

/// Holds the backup against the log: the one that is named, or that of the folder's own nats-server.
async fn same_log(restore: &Restore, dir: &DataDir, config: &Config) -> anyhow::Result<()> {
    let (options, server) = match deployment::nats_options(&config.nats) {
        Some(options) => (options, None),
        None if dir.path().join("nats").is_dir() => {
            let server = NatsServer::start(dir.path()).await?;
            (NatsOptions::of_url(server.url()), Some(server))
        }
        None => {
            telemetry::say(
                "The log was not looked at, since no NATS is named and none of its own ever ran in the data folder; `serve` refuses another one.",
            );
            return Ok(());
        }
    };
    let checked = async {
        let client = connect::connect(&options, CLIENT_NAME).await?;
        let jetstream = jetstream::new(client);
        backup::check_stream(&jetstream, restore.manifest()).await?;
        anyhow::Ok(())
    };
    let checked = checked.await.context("holding the backup against the log");
    if let Some(server) = server {
        server.stop().await;
    }
    checked
}

fn report(restored: &Restored, data_dir: &Path, output: Output) -> anyhow::Result<()> {
    if output.json {
        return output.json(&serde_json::json!({
            "data_dir": data_dir,
            "generation": restored.generation,
            "bytes": restored.bytes,
            "made_at": restored.manifest.made_at,
            "shards": restored.manifest.shards,
        }));
    }
    output.line(&format!(
        "{} bytes of the backup of {} are in use in {} as {}; a start catches up from the log.",
        grouped(restored.bytes as i64),
        restored.manifest.made_at,
        data_dir.display(),
        restored.generation
    ))
}
