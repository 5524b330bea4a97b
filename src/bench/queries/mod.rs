//! Questions about a year: adtally beside ClickHouse and DuckDB, over the same events.
//!
//! The year comes in as everybody's events do, by POST into a running deployment; the yardsticks get the same events
//! as a Parquet file. Invariant: an answer counts only when all three gave the same one.

mod load;
mod over_http;
mod questions;

use std::collections::BTreeMap;
use std::io::{BufWriter, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use adtally_projections::cells::Grain;
use adtally_projections::family::Family;
use adtally_streams::names::DEFAULT_SHARDS;
use anyhow::Context as _;
use async_nats::jetstream;
use serde::Deserialize;
use serde_json::{Value, json};

use self::load::{CSV_HEAD, DAYS, HOUR_DAYS, MINUTE_DAYS, Part, Year};
use self::questions::{HOURS, MONTH, Question, YEAR};
use super::Figure;
use super::posting;
use super::yardsticks::Program;
use crate::api_client::Api;
use crate::config::{Bytes, Config, Keep, Span};
use crate::runner::Runner;
use crate::simulate::resolve;
use crate::simulate::wire::{Connection, request};
use crate::store::{Limits, Shards};
use crate::telemetry;

/// Events of a POST.
const BATCH: usize = 5_000;
/// POSTs under way at once.
const CONNECTIONS: usize = 4;
const DAY_S: i64 = 86_400;
/// Days of minutes and hours that are kept beyond those asked about: the year ends at midnight, and now is later.
const SLACK_DAYS: i64 = 2;
/// How often it is looked whether all is counted and sealed, and how long that may take.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(900);
/// Before a question is timed.
const WARM_UP: usize = 3;

/// What somebody took for a question.
#[derive(Clone, Debug, Deserialize)]
struct Asked {
    name: String,
    rows: usize,
    digest: String,
    p50_ms: f64,
    p99_ms: f64,
}

/// What another program made of the same events.
#[derive(Clone, Debug, Deserialize)]
struct Other {
    name: String,
    load_s: f64,
    cells: Value,
    bytes: u64,
    answers: Vec<Asked>,
}

/// Measures in a folder of its own, over a year of `events` events.
pub async fn run(
    folder: &Path,
    config: &Config,
    events: u64,
    time: Duration,
) -> anyhow::Result<Vec<Figure>> {
    std::fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
    let end_s = chrono::Utc::now().timestamp().div_euclid(DAY_S) * DAY_S;
    let mut config = config.clone();
    config.data_dir = folder.join("data");
    config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    // As long as the others are asked to keep them, and what has passed since midnight.
    config.retention.minutes = kept_days(MINUTE_DAYS + SLACK_DAYS);
    config.retention.hours = kept_days(HOUR_DAYS + SLACK_DAYS);
    // A year comes in within minutes, and nothing of it late.
    let at_once = Span(Duration::ZERO);
    config.sealing.minutes_after = at_once;
    config.sealing.hours_after = at_once;
    config.sealing.days_after = at_once;
    let runner = Runner::start(&config).await?;
    let measured = measure(folder, &runner, end_s, events, time).await;
    runner.stop().await;
    let shards = config.streams.shards.unwrap_or(DEFAULT_SHARDS);
    let (mut figures, ours) = measured?;
    figures.extend(without_cache(&config, end_s, &ours).await?);
    let (of_cells, others) = state_bytes(&config.data_dir, shards)?;
    let bytes: u64 = of_cells.values().sum();
    let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let each: Vec<String> = of_cells
        .iter()
        .map(|(family, bytes)| format!("{family} {}", mb(*bytes)))
        .collect();
    figures.push(Figure {
        name: "queries: bytes of cells on disk".to_owned(),
        value: format!("{}: {}", mb(bytes), each.join(", ")),
        yardstick: format!(
            "those of the others: see below; the rest of the state, ids of events above all, takes {}",
            mb(others)
        ),
        ratio: None,
    });
    let folder = folder.to_path_buf();
    let others = tokio::task::spawn_blocking(move || {
        yardsticks(&folder, end_s, &questions::questions(end_s))
    });
    for other in others.await?? {
        figures.extend(held_against(&ours, bytes, &other)?);
    }
    Ok(figures)
}

async fn measure(
    folder: &Path,
    runner: &Runner,
    end_s: i64,
    events: u64,
    time: Duration,
) -> anyhow::Result<(Vec<Figure>, Vec<Asked>)> {
    runner.ready().await?;
    telemetry::say("the catalogue ...");
    let jetstream = jetstream::new(runner.client().clone());
    posting::publish_documents(&jetstream, load::catalogue()).await?;
    posting::publish_catalogue(&jetstream).await?;
    let api = Api::new(&runner.http_url(), None)?;
    let (address, _) = resolve(api.base()).await?;
    let csv = folder.join("events.csv");
    let mut out = BufWriter::new(std::fs::File::create(&csv)?);
    out.write_all(CSV_HEAD.as_bytes())?;
    telemetry::say("a year of the large campaign and of a few small ones ...");
    let began = Instant::now();
    let first = post(address, Year::new(events, end_s, Part::First), &mut out).await?;
    settle(&api, first).await?;
    let before = ask(&api, &questions::small(end_s)).await?;
    telemetry::say("and of a hundred times as many ...");
    let rest = post(address, Year::new(events, end_s, Part::Rest), &mut out).await?;
    out.flush()?;
    settle(&api, first + rest).await?;
    let loaded = began.elapsed();
    let (mut ours, mut of_all) = (Vec::new(), Vec::new());
    for question in questions::questions(end_s) {
        telemetry::say(&format!("{} ...", question.name));
        ours.push(ask(&api, &question).await?);
        of_all.push(ask(&api, &question.with_all_metrics()).await?);
    }
    let mut figures = vec![Figure {
        name: "queries: a year loaded, counted and sealed".to_owned(),
        value: format!("{} events in {:.0} s", first + rest, loaded.as_secs_f64()),
        yardstick: "by POST, into a deployment with everything on".to_owned(),
        ratio: None,
    }];
    figures.extend(growth(&before, &ours));
    figures.extend(all_metrics(&ours, &of_all)?);
    figures.extend(over_http::run(&api, address, end_s, time).await?);
    Ok((figures, ours))
}

/// The same questions of the same folder, with no block kept from one to the next.
async fn without_cache(config: &Config, end_s: i64, ours: &[Asked]) -> anyhow::Result<Vec<Figure>> {
    telemetry::say("the same without the block cache ...");
    let mut config = config.clone();
    let with = config.query.block_cache;
    config.query.block_cache = Bytes(0);
    let runner = Runner::start(&config).await?;
    let asked = async {
        runner.ready().await?;
        let api = Api::new(&runner.http_url(), None)?;
        let mut figures = Vec::new();
        for (question, ours) in questions::questions(end_s).iter().zip(ours) {
            let without = ask(&api, question).await?;
            anyhow::ensure!(
                without.digest == ours.digest,
                "{} is answered otherwise without the block cache",
                question.name
            );
            figures.push(Figure {
                name: format!("queries: {}, block cache of {with}", question.name),
                value: format!("p50 {:.2} ms", ours.p50_ms),
                yardstick: format!("p50 {:.2} ms without", without.p50_ms),
                ratio: Some(ours.p50_ms / without.p50_ms),
            });
        }
        anyhow::Ok(figures)
    };
    let figures = asked.await;
    runner.stop().await;
    figures
}

/// What the same questions cost when they are about all of adtally's metrics and not about the three that the others have.
fn all_metrics(ours: &[Asked], of_all: &[Asked]) -> anyhow::Result<Vec<Figure>> {
    let both = ours.iter().zip(of_all);
    both.map(|(three, all)| {
        anyhow::ensure!(
            three.digest == all.digest,
            "{} is answered otherwise with all metrics",
            three.name
        );
        Ok(Figure {
            name: format!("queries: {}, all sixteen metrics", three.name),
            value: format!("p50 {:.2} ms", all.p50_ms),
            yardstick: format!("p50 {:.2} ms of three", three.p50_ms),
            ratio: Some(all.p50_ms / three.p50_ms),
        })
    })
    .collect()
}

/// What a year costs beside a month, and what a hundred times the campaigns cost a small one.
fn growth(before: &Asked, ours: &[Asked]) -> Vec<Figure> {
    let of = |name: &str| ours.iter().find(|asked| asked.name == name);
    let beside = |name: &str, asked: &Asked, yardstick: &Asked| Figure {
        name: format!("queries: {name}"),
        value: format!("p50 {:.2} ms", asked.p50_ms),
        yardstick: format!("p50 {:.2} ms", yardstick.p50_ms),
        ratio: Some(asked.p50_ms / yardstick.p50_ms),
    };
    let mut figures = Vec::new();
    for (name, month) in [
        ("a year by day beside a month by hour", HOURS),
        (
            "a year beside a month of the same, a twelfth of its rows",
            MONTH,
        ),
    ] {
        if let (Some(year), Some(month)) = (of(YEAR), of(month)) {
            figures.push(beside(name, year, month));
        }
    }
    if let Some(now) = of(&before.name) {
        figures.push(beside(
            "a small campaign among 2,000 beside among 20",
            now,
            before,
        ));
    }
    figures
}

/// Bytes of the files of a stopped folder's shards that hold cells and what marks them, by family, and of the rest, once
/// nothing is left to be compacted.
fn state_bytes(data_dir: &Path, shards: u16) -> anyhow::Result<(BTreeMap<&'static str, u64>, u64)> {
    let shards = Shards::open(data_dir, shards, Limits::default())?;
    let (mut of_cells, mut all) = (BTreeMap::new(), 0);
    let families = Grain::ALL
        .iter()
        .flat_map(|grain| [grain.blocks(), grain.family()]);
    let families: Vec<&str> = families
        .chain([Family::OpenSpans])
        .map(Family::name)
        .collect();
    for shard in shards.set().iter() {
        shard.settle()?;
        all += shard.file_bytes(|_| true)?;
        for family in &families {
            *of_cells.entry(*family).or_default() += shard.file_bytes(|name| name == *family)?;
        }
    }
    shards.close()?;
    let others = all - of_cells.values().sum::<u64>();
    Ok((of_cells, others))
}

/// Posts a part of the year and writes it for the others; answers how many events.
async fn post(
    address: SocketAddr,
    year: Year,
    csv: &mut impl std::io::Write,
) -> anyhow::Result<u64> {
    let (bodies, waiting) = shared_queue();
    let mut posting = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let waiting = std::sync::Arc::clone(&waiting);
        posting.spawn(async move {
            let mut connection = Connection::open(address, None).await?;
            loop {
                let next = waiting.lock().await.recv().await;
                let Some((count, body)): Option<(usize, String)> = next else {
                    return anyhow::Ok(());
                };
                let head = "Content-Type: application/x-ndjson\r\n";
                let request = request("POST", "/api/v1/events", "bench", head, body.as_bytes());
                let answer = connection.exchange(&request).await?;
                let said = String::from_utf8_lossy(&answer.body);
                anyhow::ensure!(
                    answer.status == 202 && said.starts_with(&format!("{{\"accepted\":{count},")),
                    "a POST was answered {}: {}",
                    answer.status,
                    said.chars().take(300).collect::<String>()
                );
            }
        });
    }
    drop(waiting);
    let (mut events, mut line) = (0, String::new());
    'year: for day in year {
        for batch in day.chunks(BATCH) {
            let mut body = String::with_capacity(batch.len() * 160);
            line.clear();
            for event in batch {
                event.post(&mut body);
                event.csv(&mut line);
            }
            csv.write_all(line.as_bytes())?;
            events += batch.len() as u64;
            if bodies.send((batch.len(), body)).await.is_err() {
                break 'year;
            }
        }
    }
    drop(bodies);
    while let Some(posted) = posting.join_next().await {
        posted??;
    }
    Ok(events)
}

/// Bodies that wait, with how many events each has: whoever posts takes the next one.
type Bodies = tokio::sync::mpsc::Receiver<(usize, String)>;

fn shared_queue() -> (
    tokio::sync::mpsc::Sender<(usize, String)>,
    std::sync::Arc<tokio::sync::Mutex<Bodies>>,
) {
    let (bodies, waiting) = tokio::sync::mpsc::channel(CONNECTIONS);
    (
        bodies,
        std::sync::Arc::new(tokio::sync::Mutex::new(waiting)),
    )
}

fn kept_days(days: i64) -> Keep {
    Keep(Some(Duration::from_secs((days * DAY_S) as u64)))
}

/// Waits until so many events are counted, and no span is due to be sealed.
async fn settle(api: &Api, events: u64) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    let query = [
        ("advertiser_id", load::ADVERTISER),
        ("start", "2000-01-01T00:00:00Z"),
        ("end", "2100-01-01T00:00:00Z"),
        ("granularity", "total"),
    ];
    loop {
        let answer = api.get("/api/v1/analytics", &query).await?;
        let metric = |name: &str| answer["totals"][name].as_u64().unwrap_or(0);
        let counted = metric("impressions") + metric("gross_clicks");
        let behind = spans_behind(&api.get_text("/metrics").await?);
        if counted == events && behind == 0.0 {
            return Ok(());
        }
        anyhow::ensure!(
            counted <= events && Instant::now() < until,
            "{counted} of {events} events are counted after {} s, and {behind} spans are not sealed",
            PATIENCE.as_secs()
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How many spans are due and not sealed, of all shards, as /metrics says.
fn spans_behind(metrics: &str) -> f64 {
    let values = metrics
        .lines()
        .filter(|line| line.starts_with("adtally_seal_spans_behind"))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    values.sum()
}

/// Asks a question, and what the engine took for it by its own word: what the others are timed for too.
async fn ask(api: &Api, question: &Question) -> anyhow::Result<Asked> {
    let path = question.path();
    let answer = api.get(&path, &[]).await?;
    let (digest, rows) = question.digest(&answer)?;
    let mut took = Vec::new();
    for run in 0..WARM_UP + question.runs {
        // Not kept: ten megabytes that a client copies between two questions would put out what the next one is made of.
        let end = api.get_end(&path, None).await?;
        let ms = took_ms(&String::from_utf8_lossy(&end.last));
        let ms = ms.context("the plan says how long it took")?;
        if run >= WARM_UP {
            took.push(ms);
        }
    }
    took.sort_by(f64::total_cmp);
    Ok(Asked {
        name: question.name.to_owned(),
        rows,
        digest,
        p50_ms: took[took.len() / 2],
        p99_ms: took[(took.len() * 99 / 100).min(took.len() - 1)],
    })
}

/// What an answer's plan says, without reading all of its rows.
fn took_ms(answer: &str) -> Option<f64> {
    let (_, behind) = answer.rsplit_once("\"took_ms\":")?;
    let end = behind.find([',', '}'])?;
    behind[..end].parse().ok()
}

fn held_against(ours: &[Asked], bytes: u64, other: &Other) -> anyhow::Result<Vec<Figure>> {
    let mut figures = vec![Figure {
        name: format!("queries: bytes on disk beside {}", other.name),
        value: format!("{:.0} MB", bytes as f64 / 1e6),
        yardstick: format!(
            "{:.0} MB of {} cells, loaded in {:.0} s",
            other.bytes as f64 / 1e6,
            other.cells,
            other.load_s
        ),
        ratio: Some(bytes as f64 / other.bytes as f64),
    }];
    for (ours, theirs) in ours.iter().zip(&other.answers) {
        anyhow::ensure!(
            ours.name == theirs.name && ours.digest == theirs.digest && ours.rows == theirs.rows,
            "{} answers {} otherwise: {} rows, and adtally {}",
            other.name,
            theirs.name,
            theirs.rows,
            ours.rows
        );
        let told =
            |asked: &Asked| format!("p50 {:.2} ms, p99 {:.2} ms", asked.p50_ms, asked.p99_ms);
        figures.push(Figure {
            name: format!(
                "queries: {}, {} rows, beside {}",
                ours.name, ours.rows, other.name
            ),
            value: told(ours),
            yardstick: format!("{}, the same answer", told(theirs)),
            ratio: Some(ours.p50_ms / theirs.p50_ms),
        });
    }
    Ok(figures)
}

/// Runs DuckDB and ClickHouse over the same events; none where they are not installed.
fn yardsticks(folder: &Path, end_s: i64, asked: &[Question]) -> anyhow::Result<Vec<Other>> {
    let Some(program) = Program::find("cells.py") else {
        return Ok(Vec::new());
    };
    let questions = folder.join("questions.json");
    let kept_from = |days: i64| end_s - days * DAY_S;
    let kept = json!({"minute": kept_from(MINUTE_DAYS), "hour": kept_from(HOUR_DAYS), "day": kept_from(DAYS)});
    std::fs::write(
        &questions,
        json!({"kept_from_s": kept, "questions": asked}).to_string(),
    )?;
    program.ask(folder, &folder.join("events.csv"), &[&questions])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_and_the_metrics_say_is_read() {
        let answer = r#"{"rows":[{"time":"took_ms"}],"plan":{"took_ms":1.25,"buckets":24}}"#;
        assert_eq!(took_ms(answer), Some(1.25));
        assert_eq!(took_ms(r#"{"rows":[]}"#), None);
        let metrics = "# TYPE adtally_seal_spans_behind gauge\n\
            adtally_seal_spans_behind{shard=\"0\"} 3\nadtally_seal_spans_behind{shard=\"1\"} 4\nother 9\n";
        assert_eq!(spans_behind(metrics), 7.0);
    }
}
