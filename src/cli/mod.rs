//! The command line: one file a command; this one dispatches and decides the exit status.

mod archive;
pub mod args;
mod backup;
mod bench;
mod catalog;
mod completions;
mod demo;
mod doctor;
mod events;
mod folder;
mod incidents;
mod keys;
mod located;
mod output;
mod producers;
mod replay;
mod restore;
mod serve;
mod settings;
mod simulate;
mod state;
mod statement;
mod streams;
mod verify;

use std::process::ExitCode;

use args::{Cli, Command, Events};
use output::Output;

use crate::config::{Config, ConfigError};
use crate::telemetry::{self, TelemetryError};

/// How a command ended, when it could do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, or yes.
    Done,
    /// The answer is no.
    No,
}

/// The command was asked something that has no meaning.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Runs a command line.
pub fn run(cli: &Cli) -> ExitCode {
    let json = cli.common.json;
    let config = match settings::load(cli) {
        Ok(config) => config,
        Err(error) => return failed(&error.into(), json),
    };
    if let Err(error) = telemetry::logs(&config.log, config.json) {
        return failed(&error.into(), json);
    }
    let output = Output { json: config.json };
    match start(cli, &config, output) {
        Ok(Exit::Done) => ExitCode::SUCCESS,
        Ok(Exit::No) => ExitCode::from(1),
        Err(error) if output::reader_left(&error) => ExitCode::SUCCESS,
        Err(error) => failed(&error, config.json),
    }
}

fn start(cli: &Cli, config: &Config, output: Output) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(dispatch(cli, config, output));
    // A blocking task that hangs must not keep a finished command alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    result
}

async fn dispatch(cli: &Cli, config: &Config, output: Output) -> anyhow::Result<Exit> {
    match &cli.command {
        Command::Serve(_) => serve::run(config).await,
        Command::Demo(args) => demo::run(args, cli, config, output).await,
        Command::Simulate(args) => simulate::run(args, config, output).await,
        Command::Streams(command) => streams::run(command, config, output).await,
        Command::Catalog(command) => catalog::run(command, config, output).await,
        Command::Keys(command) => keys::run(command, config, output).await,
        Command::Producers(command) => producers::run(command, config, output).await,
        Command::Events(Events::Tail(tail)) => events::run(tail, config, output).await,
        Command::Replay(args) => replay::run(args, config, output).await,
        Command::Verify(args) => verify::run(args, config, output).await,
        Command::Backup(args) => backup::run(args, config, output).await,
        Command::Restore(args) => restore::run(args, config, output).await,
        Command::Statement(args) => statement::run(args, config, output).await,
        Command::Archive(command) => archive::run(command, config, output).await,
        Command::Bench(args) => bench::run(args, config, output).await,
        Command::Events(Events::Conflicts(newest)) => {
            incidents::conflicts(newest.lines, config, output).await
        }
        Command::Events(Events::Bad(newest)) => {
            incidents::bad_frames(newest.lines, config, output).await
        }
        Command::Doctor => doctor::run(config, output),
        Command::Completions { shell } => completions::run(*shell, output),
    }
}

/// An error and its causes, without a cause that the words before it have told already.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Says what went wrong on stderr: 2 when the command line or the configuration is to blame, else 3.
fn failed(error: &anyhow::Error, json: bool) -> ExitCode {
    if json {
        telemetry::say(&serde_json::json!({"error": told(error)}).to_string());
    } else {
        telemetry::say(&format!("adtally: {}", told(error)));
    }
    let usage = error.is::<Usage>()
        || error.is::<ConfigError>()
        || matches!(error.downcast_ref(), Some(TelemetryError::Filter { .. }));
    ExitCode::from(if usage { 2 } else { 3 })
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let source = std::io::Error::other("no room");
        let error = Err::<(), _>(ConfigError::Unreadable {
            path: "a.toml".into(),
            source,
        })
        .context("reading the settings")
        .expect_err("it is one");
        assert_eq!(
            told(&error),
            "reading the settings: configuration file a.toml: no room; name another one with --config"
        );
    }
}
