//! `adtally bench`: prints every figure beside its yardstick.

use std::time::Duration;

use super::Exit;
use super::args::Bench;
use super::output::Output;
use crate::bench::{self, Options};
use crate::config::Config;

/// Runs `adtally bench`.
pub async fn run(args: &Bench, config: &Config, output: Output) -> anyhow::Result<Exit> {
    let options = Options {
        time: Duration::from_secs(args.seconds.max(1)),
        only: args.only.clone(),
        events: args.events.clone(),
        shards: args.shards.clone(),
    };
    let figures = bench::run(&options, config).await?;
    output.rows(
        &["figure", "measured", "yardstick", "ratio"],
        &figures,
        |f| {
            let ratio = f.ratio.map(|r| format!("{r:.3}")).unwrap_or_default();
            vec![f.name.clone(), f.value.clone(), f.yardstick.clone(), ratio]
        },
    )?;
    Ok(Exit::Done)
}
