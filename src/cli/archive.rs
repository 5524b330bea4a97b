//! `adtally archive`: what is archived, whether it is whole, archiving by hand, and erasing one user.
//!
//! List, check and erase need the archive's store and no broker.

use adtally_archive::erase::{Pseudonym, is_user_hash};
use adtally_archive::manifest::{Erasure, SegmentEntry};
use adtally_archive::read::SegmentReader;
use adtally_archive::user_hash;
use adtally_streams::time::to_rfc3339;
use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::located::located;
use super::output::Output;
use super::{Exit, Usage};
use crate::archive::{
    ArchiveError, Archiver, Close, EraseRequest, Manifest, Passed, Place, Store, erase, shards,
};
use crate::config::{Config, Role};
use crate::deployment::Deployment;
use crate::log::streams;
use crate::simulate::report::grouped;
use crate::{fail_points, signals, telemetry};

/// `adtally archive`.
#[derive(Debug, Subcommand)]
pub enum Archive {
    /// List the segments that the manifest names
    List,
    /// Read every file back and hold it against the manifest; exit 1 when one is damaged or missing
    Check,
    /// Archive now what is closed, as the role archiver does by itself; nothing is purged
    Run(RunArgs),
    /// Put a random pseudonym in the place of one user, in every file, and record it in the manifest
    Erase(EraseArgs),
}

/// `adtally archive run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The hour that is not over too: all that the streams hold
    #[arg(long)]
    pub open_hour: bool,
}

/// `adtally archive erase`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("whom").required(true).multiple(false))]
pub struct EraseArgs {
    /// The user as the column user_id_hash has it: 16 hexadecimal digits
    #[arg(long, group = "whom", value_name = "HASH")]
    pub user: Option<String>,
    /// The user as the publisher names it; only its hash is used
    #[arg(long, group = "whom", value_name = "ID")]
    pub user_id: Option<String>,
    /// Who says so, for the record [default: the user of this system]
    #[arg(long, value_name = "WHO")]
    pub by: Option<String>,
}

/// Runs `adtally archive`.
pub async fn run(command: &Archive, config: &Config, output: Output) -> anyhow::Result<Exit> {
    // An archive elsewhere needs no data folder.
    let config = &match config.archive.url {
        None => located(config, Role::Archiver).await?,
        Some(_) => config.clone(),
    };
    match command {
        Archive::List => list(config, output).await,
        Archive::Check => check(config, output).await,
        Archive::Run(args) => archive(args, config, output).await,
        Archive::Erase(args) => erase_user(args, config, output).await,
    }
}

fn store(config: &Config) -> anyhow::Result<Store> {
    let place = Place::of(config)?;
    Store::open_if_there(&place)?.with_context(|| {
        format!("nothing was ever archived in {place}: name another folder with --data-dir, or set archive.url")
    })
}

/// A segment as it is listed.
#[derive(Serialize)]
struct Line {
    log_time_from: String,
    log_time_to: String,
    #[serde(flatten)]
    entry: SegmentEntry,
}

async fn list(config: &Config, output: Output) -> anyhow::Result<Exit> {
    let store = store(config)?;
    let mut lines = Vec::new();
    for shard in shards(&store).await? {
        let chain = Manifest::new(store.clone(), shard).read().await?;
        lines.extend(chain.entries().iter().map(|entry| Line {
            log_time_from: to_rfc3339(entry.log_time_from_ms),
            log_time_to: to_rfc3339(entry.log_time_to_ms),
            entry: entry.clone(),
        }));
    }
    let header = [
        "shard", "first", "last", "from", "to", "events", "bytes", "erasures", "file",
    ];
    output.rows(&header, &lines, |line| {
        let entry = &line.entry;
        vec![
            entry.shard.to_string(),
            entry.first.to_string(),
            entry.last.to_string(),
            line.log_time_from.clone(),
            line.log_time_to.clone(),
            grouped(entry.rows.events() as i64),
            grouped(entry.file.bytes as i64),
            entry.erasures.len().to_string(),
            entry.file.path.clone(),
        ]
    })?;
    Ok(Exit::Done)
}

/// A file that is not what the manifest says, or a manifest that is none.
#[derive(Serialize)]
struct Fault {
    shard: u16,
    first: Option<u64>,
    last: Option<u64>,
    what: String,
}

async fn check(config: &Config, output: Output) -> anyhow::Result<Exit> {
    let store = store(config)?;
    let (mut faults, mut files, mut events, mut left_over) = (Vec::new(), 0u64, 0u64, Vec::new());
    for shard in shards(&store).await? {
        let mut manifest = Manifest::new(store.clone(), shard);
        let chain = match manifest.read().await {
            Ok(chain) => chain,
            Err(error @ (ArchiveError::Damaged { .. } | ArchiveError::Chain(_))) => {
                let what = error.to_string();
                let (first, last) = (None, None);
                faults.push(Fault {
                    shard,
                    first,
                    last,
                    what,
                });
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        for entry in chain.entries() {
            files += 1;
            match check_file(&store, entry).await {
                Ok(()) => events += entry.rows.events(),
                Err(error @ ArchiveError::Damaged { .. }) => faults.push(Fault {
                    shard,
                    first: Some(entry.first),
                    last: Some(entry.last),
                    what: error.to_string(),
                }),
                Err(error) => return Err(error.into()),
            }
        }
        left_over.extend(manifest.left_over(&chain, chrono::Utc::now()).await?);
    }
    if output.json {
        output.json(&json!({
            "files": files, "events": events, "faults": faults, "left_over": left_over,
        }))?;
    } else {
        for fault in &faults {
            output.line(&fault.what)?;
        }
        for path in &left_over {
            output.line(&format!(
                "{path} is named by no entry: the role archiver removes it within an hour"
            ))?;
        }
        let bad = faults.len();
        output.line(&format!(
            "{files} files with {} events read back, {bad} faults.",
            grouped(events as i64)
        ))?;
    }
    Ok(match faults.is_empty() {
        true => Exit::Done,
        false => Exit::No,
    })
}

/// A file is whole when it is the one that was written, and every row group of it can be folded.
async fn check_file(store: &Store, entry: &SegmentEntry) -> Result<(), ArchiveError> {
    let bytes = store.get_verified(&entry.file).await?;
    let (place, entry) = (store.place().to_owned(), entry.clone());
    let read = tokio::task::spawn_blocking(move || {
        let damaged = |why: String| ArchiveError::Damaged {
            place: place.clone(),
            path: entry.file.path.clone(),
            why,
        };
        let mut reader = SegmentReader::open(bytes).map_err(|e| damaged(e.to_string()))?;
        let mut messages = 0;
        while let Some(entries) = reader.next_entries().map_err(|e| damaged(e.to_string()))? {
            messages += entries.len() as u64;
        }
        let said = entry.messages;
        match messages == said {
            true => Ok(()),
            false => Err(damaged(format!(
                "has {messages} messages, and the manifest says {said}"
            ))),
        }
    });
    read.await.map_err(|_| ArchiveError::Interrupted)?
}

async fn archive(args: &RunArgs, config: &Config, output: Output) -> anyhow::Result<Exit> {
    fail_points::arm_from_environment().map_err(|bad| Usage(bad.to_string()))?;
    let stop = signals::stop_on_signal();
    let deployment = Deployment::find(config, false).await?;
    let done = archive_all(args, config, &deployment, &stop).await;
    deployment.close().await;
    let passed = done?;
    if output.json {
        output.json(&json!({
            "segments": passed.segments, "messages": passed.messages,
            "events": passed.events, "bytes": passed.bytes,
        }))?;
    } else {
        output.line(&format!(
            "Archived {} events of {} messages in {} segments, {} bytes.",
            grouped(passed.events as i64),
            grouped(passed.messages as i64),
            passed.segments,
            grouped(passed.bytes as i64)
        ))?;
    }
    Ok(Exit::Done)
}

async fn archive_all(
    args: &RunArgs,
    config: &Config,
    deployment: &Deployment,
    stop: &CancellationToken,
) -> anyhow::Result<Passed> {
    let store = Store::open(&Place::of(config)?)?;
    let count = streams::shards_of_running(&deployment.jetstream()).await?;
    let count = count.context("there are no EVENTS streams on this NATS")?;
    let close = match args.open_hour {
        true => Close::Everything,
        false => Close::Over,
    };
    let mut all = Passed::default();
    for shard in 0..count {
        let (store, client) = (store.clone(), deployment.client.clone());
        let mut archiver = Archiver::new(store, client, shard, stop.child_token());
        let pass = tokio::task::spawn_blocking(move || {
            let passed = archiver.pass(close)?;
            tokio::runtime::Handle::current().block_on(archiver.sweep())?;
            Ok::<_, ArchiveError>(passed)
        });
        let passed = pass.await??;
        all.segments += passed.segments;
        all.messages += passed.messages;
        all.events += passed.events;
        all.bytes += passed.bytes;
    }
    Ok(all)
}

/// What an erasure did in a shard.
#[derive(Serialize)]
struct ErasedIn {
    shard: u16,
    #[serde(flatten)]
    record: Erasure,
}

async fn erase_user(args: &EraseArgs, config: &Config, output: Output) -> anyhow::Result<Exit> {
    let user = match (&args.user, &args.user_id) {
        (Some(hash), _) => hash.trim().to_ascii_lowercase(),
        (None, Some(id)) => user_hash(id),
        (None, None) => return Err(Usage("whom?".to_owned()).into()),
    };
    if !is_user_hash(&user) {
        let why =
            format!("--user {user}: a hash has 16 hexadecimal digits; an id goes to --user-id");
        return Err(Usage(why).into());
    }
    let store = store(config)?;
    let by = args.by.clone().or_else(|| std::env::var("USER").ok());
    let request = EraseRequest {
        user,
        by: by.unwrap_or_else(|| "unknown".to_owned()),
    };
    let pseudonym = Pseudonym::of(rand::random());
    let mut erased = Vec::new();
    for shard in shards(&store).await? {
        let records = erase(&store, shard, &request, &pseudonym).await?;
        erased.extend(records.into_iter().map(|record| ErasedIn { shard, record }));
    }
    let header = ["shard", "rows", "before", "after"];
    output.rows(&header, &erased, |erased| {
        vec![
            erased.shard.to_string(),
            erased.record.rows.to_string(),
            erased.record.before.path.clone(),
            erased.record.after.path.clone(),
        ]
    })?;
    telemetry::say(
        "What the streams still hold is not touched, and is archived under the user's own hash: erase again once it is.",
    );
    Ok(Exit::Done)
}
