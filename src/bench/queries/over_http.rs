//! The first five questions by HTTP, from many clients, while events are folded: what a dashboard's users wait. The two
//! that are large are asked for all metrics too.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::super::posting::Posting;
use super::super::{Figure, ms, percentile};
use super::questions::{HOURS, MONTH, Question, YEAR, questions};
use crate::api_client::Api;
use crate::telemetry;

/// Clients that ask at once.
const CLIENTS: usize = 50;
/// Between two questions of one client, a dashboard's refresh.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// Events a second meanwhile.
const EVENTS_PER_S: f64 = 10_000.0;

/// The questions with large answers.
const LARGE: [&str; 2] = [HOURS, YEAR];

/// Measures each of the five by itself for `time`.
pub async fn run(
    api: &Api,
    address: SocketAddr,
    end_s: i64,
    time: Duration,
) -> anyhow::Result<Vec<Figure>> {
    let posting = Posting::start()?;
    let mut figures = Vec::new();
    let asked = questions(end_s);
    let five = asked.iter().filter(|question| question.name != MONTH);
    let mut five: Vec<Question> = five.take(5).cloned().collect();
    let large = asked
        .iter()
        .filter(|question| LARGE.contains(&question.name));
    five.extend(large.map(Question::with_all_metrics));
    for question in &five {
        let what = match question.all_metrics {
            true => format!("{}, all sixteen metrics,", question.name),
            false => question.name.to_owned(),
        };
        telemetry::say(&format!(
            "{what} by HTTP, {CLIENTS} clients, {EVENTS_PER_S} events/s ..."
        ));
        let load = posting.post(address, Some(EVENTS_PER_S), time);
        let (load, waited) = tokio::join!(load, clients(api, question, time));
        let (load, (mut waited, bytes)) = (load?, waited?);
        waited.sort_unstable();
        figures.push(Figure {
            name: format!("queries: {what} by HTTP, {CLIENTS} clients"),
            value: format!(
                "p50 {:.1} ms, p99 {:.1} ms, {} answers of {:.0} kB",
                ms(percentile(&waited, 0.5)),
                ms(percentile(&waited, 0.99)),
                waited.len(),
                bytes as f64 / 1e3
            ),
            yardstick: format!(
                "while {:.0} events/s were answered",
                load.events as f64 / load.elapsed.as_secs_f64()
            ),
            ratio: None,
        });
    }
    Ok(figures)
}

/// How long each of the clients' questions took, and the bytes of an answer.
async fn clients(
    api: &Api,
    question: &Question,
    time: Duration,
) -> anyhow::Result<(Vec<Duration>, usize)> {
    let began = Instant::now();
    let mut asking = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let (api, path) = (api.clone(), question.path());
        asking.spawn(async move {
            // Not all at the same instant.
            tokio::time::sleep(ASK_EVERY * client as u32 / CLIENTS as u32).await;
            let (mut waited, mut bytes) = (Vec::new(), 0);
            while began.elapsed() < time {
                let asked = Instant::now();
                bytes = api.get_text(&path).await?.len();
                waited.push(asked.elapsed());
                tokio::time::sleep(ASK_EVERY.saturating_sub(asked.elapsed())).await;
            }
            anyhow::Ok((waited, bytes))
        });
    }
    let (mut all, mut bytes) = (Vec::new(), 0);
    while let Some(asked) = asking.join_next().await {
        let (waited, size) = asked??;
        all.extend(waited);
        bytes = size;
    }
    Ok((all, bytes))
}
