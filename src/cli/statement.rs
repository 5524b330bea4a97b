//! `adtally statement`: an advertiser's month, as of a time of the log, and its closing.
//!
//! The command reads the log itself, from its beginning, into a folder that goes away with it. So it proves what a
//! running `serve` says of the same time, and needs no more than the broker.

use adtally_projections::spans::{Margins, Retention};
use adtally_projections::statement::Statement;
use adtally_streams::id::Id;
use adtally_streams::time::{parse_time_text, to_rfc3339};
use anyhow::Context as _;
use comfy_table::Table;

use super::args::Statement as Args;
use super::output::Output;
use super::{Exit, Usage};
use crate::archive;
use crate::config::Config;
use crate::deployment::Deployment;
use crate::log::streams;
use crate::query::{Cancel, DEADLINE};
use crate::replay::at::{self, SETTLED_AFTER};
use crate::scratch::Scratch;
use crate::signals;
use crate::statement::{self, Asked, Closed, Document, Ground, StatementError};
use crate::store::{Limits, Memory};
use crate::table::table;

/// Memory of the state that is made: it is written once and read once.
const MEMORY: Limits = Limits {
    block_cache_bytes: 16 << 20,
    write_buffer_bytes: 128 << 20,
    retention: Retention::ALL,
    margins: Margins::USUAL,
};

/// Runs `adtally statement`.
pub async fn run(args: &Args, config: &Config, output: Output) -> anyhow::Result<Exit> {
    let usage = |name: &str, why: String| Usage(format!("{name}: {why}"));
    let asked = Asked {
        advertiser: Id::new(&args.advertiser).map_err(|e| usage("--advertiser", e.to_string()))?,
        month: args
            .month
            .parse()
            .map_err(|e: adtally_projections::month::BadMonth| usage("--month", e.to_string()))?,
    };
    let as_of_ms = match &args.as_of {
        None => None,
        Some(text) => Some(parse_time_text(text).map_err(|e| usage("--as-of", e.to_string()))?),
    };
    let deployment = Deployment::find(config, false).await?;
    let done = made(&deployment, config, &asked, as_of_ms, args.close).await;
    deployment.close().await;
    let (document, statement, exit) = done?;
    print(&document, &statement, output)?;
    Ok(exit)
}

/// A statement with its document, and how the command ends.
type Made = (Document, Statement, Exit);

async fn made(
    deployment: &Deployment,
    config: &Config,
    asked: &Asked,
    as_of_ms: Option<i64>,
    close: bool,
) -> anyhow::Result<Made> {
    let client = &deployment.client;
    let closed = Closed::read(client, as_of_ms, &asked.advertiser).await?;
    if let Some(made) = as_closed(&closed, asked, close) {
        return Ok(made);
    }
    let time_ms = settled(as_of_ms).await?;
    let jetstream = deployment.jetstream();
    let shards = streams::shards_of_running(&jetstream).await?;
    let shards = shards.context("there are no EVENTS streams on this NATS")?;
    let scratch = Scratch::make_in(&std::env::temp_dir())?;
    let memory = Memory::start(scratch.path(), MEMORY)?;
    let stop = signals::stop_on_signal();
    // The proof begins with the log's first message, and with no state that somebody has made.
    let log = at::Log {
        client,
        shards,
        checkpoints: None,
        archive: &archive::Place::of(config)?,
    };
    let state = at::open(log, time_ms, scratch, &memory, &stop).await?;
    let ground = Ground::read(client, Some(time_ms), &asked.advertiser).await?;
    let of = asked.clone();
    let computed = tokio::task::spawn_blocking(move || {
        statement::at_state(&state, &ground, &of, &Cancel::after(DEADLINE * 20))
    });
    let computed = computed.await.context("computing the statement")??;
    let document = computed.document();
    if !close {
        return Ok((document, computed.statement, Exit::Done));
    }
    statement::fit_to_close(&computed, asked, time_ms)?;
    match statement::close(client, asked, document.sealed).await {
        Ok(document) => Ok((document, computed.statement, Exit::Done)),
        Err(error @ StatementError::AlreadyClosed { .. }) => {
            let closed = Closed::read(client, None, &asked.advertiser).await?;
            as_closed(&closed, asked, close).ok_or(error.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// What has been closed stands; whoever wanted to close it has not.
fn as_closed(closed: &Closed, asked: &Asked, close: bool) -> Option<Made> {
    let (statement, document) = closed.find(asked)?;
    if close {
        let subject = asked.subject();
        tracing::warn!("{}", StatementError::AlreadyClosed { subject });
    }
    let exit = if close { Exit::No } else { Exit::Done };
    Some((document.clone(), statement.clone(), exit))
}

/// The log time that is meant, once nothing can bear it any more.
async fn settled(as_of_ms: Option<i64>) -> anyhow::Result<i64> {
    let now_ms = chrono::Utc::now().timestamp_millis();
    let Some(as_of_ms) = as_of_ms else {
        tokio::time::sleep(SETTLED_AFTER).await;
        return Ok(now_ms);
    };
    statement::check_settled(as_of_ms, now_ms)?;
    Ok(as_of_ms)
}

fn print(document: &Document, statement: &Statement, output: Output) -> anyhow::Result<()> {
    if output.json {
        let mut json = document.json();
        json.push(b'\n');
        return output.raw(&String::from_utf8(json)?);
    }
    let s = statement;
    let lines = lines(s);
    let mut text = format!(
        "{} of {} ({} to {}), {}\n{lines}\ntotal {} {}\nas of {}, complete through {}\n",
        s.month,
        s.advertiser_id,
        s.start,
        s.end,
        s.time_zone,
        s.totals.amount,
        s.currency_code,
        s.as_of,
        s.complete_through.as_deref().unwrap_or("nothing"),
    );
    let positions: Vec<String> = s
        .positions
        .iter()
        .map(|(name, n)| format!("{name}={n}"))
        .collect();
    text += &format!(
        "positions {}\nsha256 {}\n",
        positions.join(" "),
        document.hash()
    );
    text += &match &document.closed {
        Some(closed) => format!(
            "closed at {} as message {} of STATEMENTS",
            to_rfc3339(closed.at_ms),
            closed.sequence
        ),
        None => "not closed".to_owned(),
    };
    output.line(&text)
}

/// A row for each campaign, and for each adjustment of a month that is closed.
fn lines(s: &Statement) -> Table {
    let mut lines = table(&[
        "campaign",
        "paid by",
        "clicks",
        "impressions",
        "invalid clicks",
        "over budget",
        "micros",
        "amount",
    ]);
    for line in &s.lines {
        let reasons = line.invalid_clicks_by_reason.iter();
        let reasons: Vec<String> = reasons
            .map(|r| format!("{} {}", r.invalid_clicks, r.reason))
            .collect();
        lines.add_row(vec![
            line.campaign_id.to_string(),
            format!("{:?}", line.pricing_model).to_lowercase(),
            line.clicks.to_string(),
            line.impressions.map_or(String::new(), |n| n.to_string()),
            reasons.join(", "),
            line.over_delivery_micros.to_string(),
            line.cost_micros.to_string(),
            line.amount.clone(),
        ]);
    }
    for a in &s.adjustments {
        lines.add_row(vec![
            format!("{} in {}", a.campaign_id, a.month),
            if a.cost_micros < 0 {
                "credit"
            } else {
                "charge"
            }
            .to_owned(),
            a.clicks.to_string(),
            a.impressions.to_string(),
            String::new(),
            String::new(),
            a.cost_micros.to_string(),
            a.amount.clone(),
        ]);
    }
    lines
}
