//! `adtally backup`: the state of every shard, copied into a folder while the service goes on.

use std::path::Path;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use super::args::Backup;
use super::folder::{Holder, Scene};
use super::located::located;
use super::output::Output;
use super::state::shards_on_disk;
use super::{Exit, Usage, verify};
use crate::backup::{self, Claim, Meter, Written};
use crate::config::{Config, Role};
use crate::data_dir::{self, DataDir, DataDirError};
use crate::fail_points;
use crate::frozen::{self, FrozenShard};
use crate::scratch::Scratch;
use crate::signals;
use crate::simulate::report::grouped;

/// What a bar over bytes looks like.
const BAR: &str = "{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left";

/// Runs `adtally backup`.
pub async fn run(args: &Backup, config: &Config, output: Output) -> anyhow::Result<Exit> {
    fail_points::arm_from_environment().map_err(|bad| Usage(bad.to_string()))?;
    let stop = signals::stop_on_signal();
    let config = &located(config, Role::Projector).await?;
    let written = make(&args.dir, config, &stop).await?;
    let manifest = &written.manifest;
    if output.json {
        output.json(&serde_json::json!({
            "folder": written.folder,
            "bytes": written.bytes,
            "files": manifest.files.len(),
            "made_at": manifest.made_at,
            "shards": manifest.shards,
        }))?;
        return Ok(Exit::Done);
    }
    let sequences: Vec<String> = manifest
        .shards
        .iter()
        .map(|s| s.record.as_ref().map_or(0, |r| r.sequence).to_string())
        .collect();
    output.line(&format!(
        "{} bytes in {} files are in {}: {} shards up to the sequences {}.",
        grouped(written.bytes as i64),
        grouped(manifest.files.len() as i64),
        written.folder.display(),
        manifest.shards.len(),
        sequences.join(", ")
    ))?;
    Ok(Exit::Done)
}

async fn make(to: &Path, config: &Config, stop: &CancellationToken) -> anyhow::Result<Written> {
    let data_dir = &config.data_dir;
    if !data_dir::exists(data_dir) {
        return Err(DataDirError::Missing {
            path: data_dir.clone(),
        }
        .into());
    }
    let count = shards_on_disk(data_dir);
    anyhow::ensure!(
        count > 0,
        "no projector has ever run in {}",
        data_dir.display()
    );
    // Before any work: what is in the way is said at once.
    let to = Claim::take(to)?;
    let shards: Vec<u16> = (0..count).collect();
    match DataDir::take(data_dir) {
        Ok(_held) => {
            let copy = || -> anyhow::Result<Written> {
                let frozen = frozen::of_stopped(data_dir, &shards)?;
                copy(data_dir, &frozen, to, stop)
            };
            tokio::task::block_in_place(copy)
        }
        Err(DataDirError::InUse { .. }) => {
            let scene = Scene::open(config).await?;
            let written = of_running(&scene, data_dir, &shards, to, stop).await;
            scene.deployment.close().await;
            written
        }
        Err(error) => Err(error.into()),
    }
}

async fn of_running(
    scene: &Scene,
    data_dir: &Path,
    shards: &[u16],
    to: Claim,
    stop: &CancellationToken,
) -> anyhow::Result<Written> {
    anyhow::ensure!(
        matches!(scene.holder, Holder::Process(_)),
        "the `serve` of {} has just ended: try again",
        data_dir.display()
    );
    let scratch = Scratch::make(data_dir)?;
    let frozen = verify::freeze(scene, data_dir, shards, scratch.path()).await?;
    tokio::task::block_in_place(|| copy(data_dir, &frozen, to, stop))
}

fn copy(
    data_dir: &Path,
    frozen: &[FrozenShard],
    to: Claim,
    stop: &CancellationToken,
) -> anyhow::Result<Written> {
    let bar = bytes_bar(0);
    let told = |bytes| bar.inc(bytes);
    let meter = Meter { told: &told, stop };
    let written = backup::write(data_dir, frozen, to, &|of| bar.set_length(of), &meter);
    bar.finish_and_clear();
    written.with_context(|| format!("backing up {}", data_dir.display()))
}

/// A bar over bytes, on stderr.
pub fn bytes_bar(of: u64) -> ProgressBar {
    let bar = ProgressBar::new(of);
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style);
    }
    bar
}
