//! `adtally simulate`: finds the deployment, runs the traffic, prints the exact count.

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::args::{Simulate, Via};
use super::output::Output;
use super::{Exit, Usage};
use crate::api_client::Api;
use crate::config::Config;
use crate::data_dir;
use crate::deployment::{Deployment, DeploymentError};
use crate::signals;
use crate::simulate::over_nats::Broker;
use crate::simulate::plan::{Plan, now_ms};
use crate::simulate::report::Report;
use crate::simulate::{Run, Way, unique_tag};

/// Events of a run that says neither how many nor how long.
const DEFAULT_EVENTS: u64 = 10_000;

/// Runs `adtally simulate`.
pub async fn run(command: &Simulate, config: &Config, output: Output) -> anyhow::Result<Exit> {
    let plan = plan_of(command)?;
    let stop = signals::stop_on_signal();
    let (api, way, deployment) = reach(command, config).await?;
    let report = simulate(command, api, way, plan, &stop).await;
    if let Some(deployment) = deployment {
        deployment.close().await;
    }
    let report = report?;
    if let Some(file) = &command.report {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(file, text + "\n")
            .with_context(|| format!("writing the report {}", file.display()))?;
    }
    if output.json {
        output.json(&report)?;
    } else {
        output.raw(&report.text())?;
    }
    Ok(if report.equal { Exit::Done } else { Exit::No })
}

fn plan_of(command: &Simulate) -> anyhow::Result<Plan> {
    if command.rate.is_some_and(|r| !r.is_finite() || r <= 0.0) {
        return Err(Usage("--rate is a number of events a second above 0".into()).into());
    }
    let duration = command.duration.map(|span| span.0);
    let events = command
        .events
        .or(duration.is_none().then_some(DEFAULT_EVENTS));
    Ok(Plan {
        events,
        rate: command.rate,
        duration,
    })
}

/// The API, the way of the events, and the connection that must be closed at the end.
async fn reach(
    command: &Simulate,
    config: &Config,
) -> anyhow::Result<(Api, Way, Option<Deployment>)> {
    let key = config.http.key.clone();
    let known = config
        .http
        .url
        .clone()
        .or_else(|| data_dir::addresses(&config.data_dir).http);
    if command.via == Via::Http
        && let Some(url) = &known
    {
        return Ok((Api::new(url, key)?, Way::Http, None));
    }
    let deployment = Deployment::find(config, false).await?;
    let url = match known {
        Some(url) => Some(url),
        None => deployment.api_url().await,
    };
    let Some(url) = url else {
        deployment.close().await;
        return Err(DeploymentError::NoUrl.into());
    };
    let way = match command.via {
        Via::Http => Way::Http,
        Via::Nats => Way::Nats(Broker {
            jetstream: deployment.jetstream(),
            refusals: deployment.refusals.clone(),
        }),
    };
    Ok((Api::new(&url, key)?, way, Some(deployment)))
}

async fn simulate(
    command: &Simulate,
    api: Api,
    way: Way,
    plan: Plan,
    stop: &CancellationToken,
) -> anyhow::Result<Report> {
    let seed = command.seed.unwrap_or_else(rand::random);
    let mut run = Run::new(api, way, seed, unique_tag(seed, now_ms()), command.senders);
    run.prepare()
        .await
        .context("applying the sample catalogue")?;
    run.send(plan, stop).await?;
    run.report().await.context("comparing with the API")
}
