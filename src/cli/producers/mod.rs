//! `adtally producers`: who writes the log, what of it is missing, and what can be done about that.

pub mod args;
mod list;
mod resend;
mod retire;
mod salvage;
mod scene;

pub use list::print;

use args::Producers;

use super::Exit;
use super::output::Output;
use crate::config::Config;

/// Runs `adtally producers`.
pub async fn run(command: &Producers, config: &Config, output: Output) -> anyhow::Result<Exit> {
    match command {
        Producers::List(args) => list::run(args, config, output).await,
        Producers::Resend(args) => resend::run(args, config, output).await,
        Producers::Retire(args) => retire::run(args, config, output).await,
        Producers::Salvage(args) => {
            tokio::task::block_in_place(|| salvage::run(args, config, output))
        }
    }
}
