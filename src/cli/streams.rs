//! `adtally streams`: made from the definitions that the binary carries, never changed once they are there.

use super::Exit;
use super::args::Streams;
use super::output::Output;
use crate::border;
use crate::config::Config;
use crate::deployment::{Deployment, limits};
use crate::log::streams;

/// Runs `adtally streams`.
pub async fn run(command: &Streams, config: &Config, output: Output) -> anyhow::Result<Exit> {
    let apply = matches!(command, Streams::Apply(_));
    let deployment = Deployment::find(config, apply).await?;
    let done = if apply {
        apply_to(&deployment, config, output).await
    } else {
        check(&deployment, config, output).await
    };
    deployment.close().await;
    done
}

async fn apply_to(
    deployment: &Deployment,
    config: &Config,
    output: Output,
) -> anyhow::Result<Exit> {
    let ensured = streams::ensure_heeding(
        &deployment.jetstream(),
        config.streams.shards,
        &limits(config),
        &deployment.refusals,
    )
    .await?;
    border::keys::make_bucket(&deployment.jetstream())
        .await
        .map_err(anyhow::Error::msg)?;
    if output.json {
        output.json(&ensured)?;
        return Ok(Exit::Done);
    }
    let made = if ensured.created.is_empty() {
        "none".into()
    } else {
        ensured.created.join(", ")
    };
    output.line(&format!("{} shards; made: {made}.", ensured.shards))?;
    for difference in &ensured.differences {
        output.line(&difference.to_string())?;
    }
    Ok(Exit::Done)
}

async fn check(deployment: &Deployment, config: &Config, output: Output) -> anyhow::Result<Exit> {
    let differences = streams::check(
        &deployment.jetstream(),
        config.streams.shards,
        &limits(config),
    )
    .await?;
    if differences.is_empty() && !output.json {
        output.line("Every stream is as defined.")?;
    } else {
        output.rows(
            &["stream", "field", "defined", "running"],
            &differences,
            |d| {
                vec![
                    d.stream.clone(),
                    d.field.to_string(),
                    d.wanted.clone(),
                    d.found.clone(),
                ]
            },
        )?;
    }
    Ok(if differences.is_empty() {
        Exit::Done
    } else {
        Exit::No
    })
}
