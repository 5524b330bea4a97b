//! What goes wrong with the cache, told once in a while and counted each time.
//!
//! foyer does not return the errors of its writes, nor say that something on disk was damaged: it logs them. So its
//! log lines are what is counted here; they are not shown beside, since a broken disk would repeat them endlessly.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Filter, Layer};

/// How often at most a log line says that something is wrong.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// When it was told last, and how often something has gone wrong since.
static LAST: Mutex<(Option<Instant>, u64)> = Mutex::new((None, 0));

/// Counts that something went wrong, and tells it unless that was done a moment ago.
pub fn failed(action: &'static str, why: &str) {
    metrics::counter!("adtally_block_cache_errors_total", "action" => action).increment(1);
    let mut last = LAST
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let (told, since) = &mut *last;
    if told.is_some_and(|told| told.elapsed() < TOLD_EVERY) {
        *since += 1;
        return;
    }
    let untold = std::mem::take(since);
    *told = Some(Instant::now());
    // The line itself passes through the layer below, which looks at others only.
    drop(last);
    tracing::warn!(
        action,
        why,
        untold,
        "the disk part of the block cache has failed; questions read the store instead"
    );
}

/// Hears what foyer's disk part logs.
#[derive(Debug)]
pub struct Told;

impl Told {
    /// What it hears: warnings and errors of the disk part.
    pub fn filter<S: Subscriber>() -> impl Filter<S> {
        Targets::new().with_target("foyer_storage", Level::WARN)
    }
}

impl<S: Subscriber> Layer<S> for Told {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        failed(action(event.metadata().target()), &line.0);
    }
}

/// Which action a line of that module is about.
fn action(target: &str) -> &'static str {
    match target.rsplit("::").next() {
        Some("flusher" | "buffer" | "reclaimer") => "write",
        Some("recover" | "scanner" | "manager") => "open",
        _ => "read",
    }
}

/// The message of an event and its error.
#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if matches!(field.name(), "message" | "e" | "error") {
            let text = format!("{value:?}");
            if !self.0.is_empty() {
                self.0.push_str(": ");
            }
            self.0.extend(text.chars().take(MAX_TEXT));
        }
    }
}

/// Characters of a message that are told.
const MAX_TEXT: usize = 300;
