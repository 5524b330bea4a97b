//! `adtally demo`: prints what the demo finds, and keeps it running until it is stopped.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::args::Cli;
use super::args::Demo as Args;
use super::output::Output;
use super::{Exit, Usage};
use crate::config::Config;
use crate::demo::{Demo, Options};
use crate::signals;
use crate::telemetry;

/// Runs `adtally demo`.
pub async fn run(args: &Args, cli: &Cli, config: &Config, output: Output) -> anyhow::Result<Exit> {
    if !args.rate.is_finite() || args.rate <= 0.0 {
        return Err(Usage("--rate is a number of events a second above 0".into()).into());
    }
    let options = Options {
        traffic: Duration::from_secs(args.seconds),
        rate: args.rate,
        seed: args.seed,
        exit: args.exit,
        data_dir: cli.common.data_dir.clone(),
    };
    telemetry::say(&format!(
        "Starting a nats-server and adtally, then {} events a second for {} s ...",
        args.rate, args.seconds
    ));
    let stop = signals::stop_on_signal();
    let mut demo = Demo::start(&options, config, &stop).await?;
    let shown = show(&mut demo, &options, output, &stop).await;
    demo.end().await;
    shown
}

async fn show(
    demo: &mut Demo,
    options: &Options,
    output: Output,
    stop: &CancellationToken,
) -> anyhow::Result<Exit> {
    let report = demo.report().await?;
    if output.json {
        output.json(&report)?;
    } else {
        output.raw(&report.text())?;
    }
    if !options.exit && !stop.is_cancelled() {
        if !output.json {
            output.line("\nTry, in another terminal:\n")?;
            demo.lines()
                .iter()
                .try_for_each(|line| output.line(&format!("  {line}")))?;
        }
        telemetry::say("\nTraffic goes on; ctrl-C ends it.");
        demo.go_on(options.rate, stop).await?;
        telemetry::say("Stopping ...");
    }
    Ok(if report.equal { Exit::Done } else { Exit::No })
}
