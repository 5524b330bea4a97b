//! `adtally producers retire`: an operator's word, in the log, that a producer will never send again.
//!
//! The fold takes it from the log as it takes everything, so a replay comes to the same state. It hides nothing: what
//! the producer announced and never sent is lost from then on, and stays named.

use std::collections::BTreeMap;
use std::time::Duration;

use adtally_streams::frame::encode_retirement;
use adtally_streams::id::{Epoch, Id};
use adtally_streams::names::{REASON_MAX_BYTES, watermark_subject};
use anyhow::Context as _;
use bytes::Bytes;

use super::args::Retire;
use super::list;
use super::scene::{self, Scene};
use crate::cli::output::Output;
use crate::cli::{Exit, Usage};
use crate::config::Config;
use crate::log::publisher::{Outcome, Publisher};
use crate::log::streams;
use crate::producers::holders::Holder;
use crate::producers::{Row, State};
use crate::telemetry;

/// Whoever was heard within this is alive. An idle producer speaks every few seconds.
const ALIVE_WITHIN: Duration = Duration::from_secs(300);
/// Times that the word is sent to a shard before that is given up.
const ATTEMPTS: u32 = 5;
/// The pause between two of them.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs `adtally producers retire`; [`Exit::No`] when there is nothing to retire or it is refused.
pub async fn run(args: &Retire, config: &Config, output: Output) -> anyhow::Result<Exit> {
    let reason = args.reason.trim();
    if reason.is_empty() || reason.len() > REASON_MAX_BYTES || reason.contains(char::is_control) {
        return Err(Usage(format!(
            "--reason: say why in one line of 1 to {REASON_MAX_BYTES} bytes; it is written into the log"
        ))
        .into());
    }
    let scene = Scene::open(config).await?;
    let done = retire(args, reason, &scene, output).await;
    scene.close().await;
    done
}

async fn retire(
    args: &Retire,
    reason: &str,
    scene: &Scene,
    output: Output,
) -> anyhow::Result<Exit> {
    let meant = |row: &Row| {
        let epoch = args.epoch.is_none_or(|e| e.to_string() == row.epoch);
        epoch && row.producer == args.producer.as_str()
    };
    let listed = scene.rows(false).await?;
    let rows: Vec<Row> = listed.rows.into_iter().filter(|row| meant(row)).collect();
    if rows.is_empty() {
        return Ok(output.no(&format!(
            "The log knows no such producer or epoch: {}. `adtally producers list` names those that it knows.",
            args.producer
        )));
    }
    let open: Vec<&Row> = rows.iter().filter(|r| r.state == State::Open).collect();
    if !args.force {
        let holders = scene.holders(&[]).await?;
        let now_ms = chrono::Utc::now().timestamp_millis();
        if let Some(why) = open.iter().find_map(|row| alive(row, &holders, now_ms)) {
            return Ok(output.no(&why));
        }
    }
    let mut sequences = BTreeMap::new();
    for row in &open {
        let epoch = row.epoch.parse().context("an epoch of the list")?;
        announce(scene, &args.producer, epoch, reason, &mut sequences).await?;
    }
    if !listed.from_log {
        scene.folded(&sequences).await?;
    }
    let listed = scene.rows(listed.from_log).await?;
    let mut rows: Vec<Row> = listed.rows.into_iter().filter(|row| meant(row)).collect();
    let gaps = scene::gaps(&rows);
    if !gaps.is_empty() {
        scene::note_holders(&mut rows, &scene.holders(&gaps).await?)?;
    }
    list::print(&rows, output)?;
    if open.is_empty() {
        telemetry::say("Nothing was to be done: what is named is over already.");
    }
    Ok(Exit::Done)
}

/// Why an epoch is taken for alive; none when it is not.
fn alive(row: &Row, holders: &[Holder], now_ms: i64) -> Option<String> {
    let epoch: Epoch = row.epoch.parse().ok()?;
    if let Some(holder) = holders.iter().find(|h| h.ships(epoch)) {
        return Some(format!(
            "Epoch {epoch} of {} is not retired: {} has it in hand and sends what it holds. --force retires it all the same.",
            row.producer,
            holder.name()
        ));
    }
    let here = |h: &&Holder| h.producer().as_str() == row.producer && !h.is_running();
    if let Some(holder) = holders.iter().find(here) {
        return Some(format!(
            "Epoch {epoch} of {} is not retired: its outbox is here, in {}. Start `adtally serve` on that folder, and it sends what it holds. --force retires it all the same.",
            row.producer,
            holder.name()
        ));
    }
    let silent_ms = now_ms - row.last_seen_ms;
    (silent_ms < ALIVE_WITHIN.as_millis() as i64).then(|| {
        format!(
            "Epoch {epoch} of {} is not retired: it was heard {} s ago. Wait until it has been silent for {} minutes, or retire it with --force.",
            row.producer,
            (silent_ms / 1_000).max(0),
            ALIVE_WITHIN.as_secs() / 60
        )
    })
}

/// Says it to every shard, and notes where in its stream the word stands.
async fn announce(
    scene: &Scene,
    producer: &Id,
    epoch: Epoch,
    reason: &str,
    sequences: &mut BTreeMap<u16, u64>,
) -> anyhow::Result<()> {
    let publisher = Publisher::new(scene.deployment.client.clone());
    let shards = streams::shards_of_running(publisher.jetstream())
        .await?
        .unwrap_or_default();
    let payload = Bytes::from(encode_retirement(producer, epoch, reason));
    for shard in 0..shards {
        let sequence = publish(&publisher, &watermark_subject(shard), &payload)
            .await
            .map_err(|why| {
                anyhow::anyhow!("epoch {epoch} is not retired for shard {shard} and those after it: {why}. Say it again; what was said is said")
            })?;
        sequences.insert(shard, sequence);
    }
    Ok(())
}

async fn publish(publisher: &Publisher, subject: &str, payload: &Bytes) -> Result<u64, String> {
    let mut why = String::new();
    for _ in 0..ATTEMPTS {
        match publisher.publish(subject, None, payload.clone()).await {
            Outcome::Stored { sequence, .. } => return Ok(sequence),
            Outcome::Refused(said) | Outcome::TooLarge(said) | Outcome::Conflict(said) => {
                return Err(said);
            }
            Outcome::Unknown(said) | Outcome::Full(said) => why = said,
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(why)
}
