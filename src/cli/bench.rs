//! x
use super::Exit;
use super::args::Bench;
use super::output::Output;
use crate::config::Config;
pub async fn run(_a: &Bench, _c: &Config, _o: Output) -> anyhow::Result<Exit> { Ok(Exit::Done) }
