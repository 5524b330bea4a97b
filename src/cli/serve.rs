//! `adtally serve`: runs the roles until a signal or a failure ends them.

use super::{Exit, Usage};
use crate::config::Config;
use crate::runner::Runner;
use crate::{fail_points, signals, telemetry};

/// Runs `adtally serve`.
pub async fn run(config: &Config) -> anyhow::Result<Exit> {
    fail_points::arm_from_environment().map_err(|bad| Usage(bad.to_string()))?;
    let stop = signals::stop_on_signal();
    let runner = tokio::select! {
        runner = Runner::start(config) => runner?,
        () = stop.cancelled() => return Ok(Exit::Done),
    };
    announce(config, &runner);
    let failure = tokio::select! {
        () = stop.cancelled() => None,
        failure = runner.failed() => Some(failure),
    };
    runner.stop().await;
    match failure {
        Some(failure) => Err(failure),
        None => Ok(Exit::Done),
    }
}

/// Says on stderr where it is.
fn announce(config: &Config, runner: &Runner) {
    let (http, nats) = (runner.http_url(), runner.nats_url());
    let roles: Vec<&str> = config.roles.iter().map(|r| r.name()).collect();
    let folder = config.data_dir.display();
    if config.json {
        let line = serde_json::json!({
            "listening": http,
            "nats": nats,
            "roles": roles,
            "data_dir": config.data_dir,
        });
        telemetry::say(&line.to_string());
    } else {
        let broker = nats.map_or_else(
            || "the NATS that was given".into(),
            |url| format!("its own NATS at {url}"),
        );
        telemetry::say(&format!(
            "adtally listens on {http} as {} with {broker}; data in {folder}",
            roles.join(", ")
        ));
    }
}
