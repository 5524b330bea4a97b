//! `adtally producers salvage`: an outbox that will not open is read, piece by piece, and what can be read becomes a
//! new one with which `serve` starts.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::args::Salvage;
use crate::cli::output::Output;
use crate::cli::{Exit, Usage};
use crate::config::Config;
use crate::data_dir::{self, DataDir, DataDirError};
use crate::outbox::{Owner, SalvageOptions, Salvaged, SalvagedLane, salvage};
use crate::runner::known_shards;
use crate::simulate::report::grouped;

/// Stretches of one lane that the text names; JSON names all.
const MAX_STRETCHES: usize = 12;

/// Runs `adtally producers salvage`; [`Exit::No`] when counters are lost, or may be.
pub fn run(args: &Salvage, config: &Config, output: Output) -> anyhow::Result<Exit> {
    let (outboxes, _held) = outboxes(args, config)?;
    if args.to.is_some() && outboxes.len() > 1 {
        return Err(Usage("--to is one folder: name one outbox with --outbox".into()).into());
    }
    let mut all = Vec::new();
    for outbox in outboxes {
        all.push(one(args, &outbox).with_context(|| format!("the outbox {}", outbox.display()))?);
    }
    if output.json {
        output.json(&all)?;
    } else {
        all.iter()
            .try_for_each(|salvaged| print(salvaged, args, output))?;
    }
    let loses = |salvaged: &Salvaged| salvaged.lost() > 0 || salvaged.tail_unknown;
    Ok(match all.iter().any(loses) {
        true => Exit::No,
        false => Exit::Done,
    })
}

/// The outboxes that are meant, and the data folder, which nobody may serve meanwhile.
fn outboxes(args: &Salvage, config: &Config) -> anyhow::Result<(Vec<PathBuf>, Option<DataDir>)> {
    if let Some(outbox) = &args.outbox {
        // Where it lies in a data folder, that one must not be served.
        let folder = outbox.parent().filter(|p| data_dir::exists(p));
        let held = folder.map(DataDir::take).transpose()?;
        return Ok((vec![outbox.clone()], held));
    }
    if !data_dir::exists(&config.data_dir) {
        let path = config.data_dir.clone();
        return Err(DataDirError::Missing { path }.into());
    }
    let held = DataDir::take(&config.data_dir)?;
    let outboxes: Vec<PathBuf> = [Owner::Collector, Owner::Intake]
        .into_iter()
        .map(|owner| config.data_dir.join(format!("outbox-{}", owner.name())))
        .filter(|dir| dir.is_dir())
        .collect();
    anyhow::ensure!(
        !outboxes.is_empty(),
        "there is no outbox in {}",
        config.data_dir.display()
    );
    Ok((outboxes, Some(held)))
}

fn one(args: &Salvage, outbox: &Path) -> anyhow::Result<Salvaged> {
    let name = outbox
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default();
    let owner = match name.contains(Owner::Intake.name()) {
        true => Owner::Intake,
        false => Owner::Collector,
    };
    let beside = |what: &str| outbox.with_file_name(format!("{name}.{what}"));
    let options = SalvageOptions {
        outbox: outbox.to_owned(),
        to: match args.replace {
            true => Some(beside("salvaged")),
            false => args.to.clone(),
        },
        shards: outbox.parent().and_then(known_shards),
        producer_name: owner.name().to_owned(),
    };
    let mut salvaged = salvage(&options)?;
    if args.replace
        && let Some(new) = salvaged.to.take()
    {
        let at = chrono::Utc::now().format("%Y%m%dT%H%M%SZ");
        let aside = beside(&format!("damaged-{at}"));
        std::fs::rename(outbox, &aside)
            .with_context(|| format!("setting it aside as {}", aside.display()))?;
        std::fs::rename(&new, outbox)
            .with_context(|| format!("putting {} in its place: do that by hand", new.display()))?;
        salvaged.to = Some(outbox.to_owned());
        salvaged.set_aside = Some(aside);
    }
    Ok(salvaged)
}

fn print(salvaged: &Salvaged, args: &Salvage, output: Output) -> anyhow::Result<()> {
    let grouped = |n: u64| grouped(n as i64);
    let name = salvaged.outbox.display();
    if salvaged.whole {
        return output.line(&format!(
            "{name} is whole: {} unsent events and {} sent ones that are kept. `adtally serve` opens it.",
            grouped(salvaged.unsent),
            grouped(salvaged.sent)
        ));
    }
    output.line(&format!("{name} is damaged:"))?;
    for problem in &salvaged.problems {
        output.line(&format!("  {problem}"))?;
    }
    output.line(&format!(
        "Readable of {}: {} events that the broker may lack, {} that it acknowledged.",
        salvaged.producer,
        grouped(salvaged.unsent),
        grouped(salvaged.sent)
    ))?;
    for epoch in &salvaged.epochs {
        for lane in epoch.lanes.iter().filter(|lane| !lane.lost.is_empty()) {
            output.line(&format!(
                "  epoch {}, {}: counters {} cannot be read, and were not known to be acknowledged",
                epoch.epoch,
                lane_name(lane),
                stretches(&lane.lost)
            ))?;
        }
    }
    match salvaged.lost() {
        0 => output.line("Between what is readable no counter is missing.")?,
        n => output.line(&format!(
            "{} counters are lost, unless the log has them: `adtally producers list` says so after the start.",
            grouped(n)
        ))?,
    }
    if salvaged.tail_unknown {
        output.line("What was written after a lane's last readable counter may be lost too. The log names it, as far as it was announced, half a minute after the start: `adtally producers list`.")?;
    }
    if salvaged.producer_is_new {
        output.line("The producer's name cannot be read, so the new outbox has a new one: retire the old one's open epochs (`adtally producers list`, `adtally producers retire`).")?;
    }
    match (&salvaged.to, &salvaged.set_aside) {
        (Some(to), Some(aside)) => output.line(&format!(
            "{} is the new outbox, and the damaged one is {}. Start `adtally serve`.",
            to.display(),
            aside.display()
        )),
        (Some(to), None) => output.line(&format!(
            "{} is the new outbox. Put it in the place of the damaged one, keep that one, and start `adtally serve`:\n  mv {name} {name}.damaged && mv {} {name}",
            to.display(),
            to.display()
        )),
        (None, _) if args.to.is_none() => output.line(
            "Nothing was written. --replace puts a new outbox of what is readable in its place and keeps this one beside it.",
        ),
        (None, _) => Ok(()),
    }
}

fn lane_name(lane: &SalvagedLane) -> String {
    match lane.shard {
        Some(shard) => format!("{} of shard {shard}", lane.kind),
        None => "records of refused events".to_owned(),
    }
}

fn stretches(stretches: &[(u64, u64)]) -> String {
    let mut text: Vec<String> = stretches
        .iter()
        .take(MAX_STRETCHES)
        .map(|(first, last)| format!("{first} to {last}"))
        .collect();
    let more = stretches.len().saturating_sub(MAX_STRETCHES);
    if more > 0 {
        text.push(format!("{more} more stretches (--json)"));
    }
    text.join(", ")
}
