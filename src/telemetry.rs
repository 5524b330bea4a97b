//! Logs to stderr and the recorder behind `/metrics`.
//!
//! Stdout belongs to data, so every log line goes to stderr: text for people, JSON when the output is for programs.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::prelude::*;

use crate::metric_names;
use crate::query::block_cache::Told;

/// Upper bounds of latency histograms, in seconds: from a fast fsync to a slow query.
const SECONDS_BUCKETS: [f64; 14] = [
    0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];

/// Upper bounds of the sizes of frames and batches, in events.
const EVENTS_BUCKETS: [f64; 11] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0,
];

/// Why there are no logs or metrics.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter is unreadable.
    #[error("log filter `{filter}`: {detail}; write a level such as info, or adtally=debug,info")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Logging or recording was set up twice in one process.
    #[error("telemetry: {0}")]
    Twice(String),
}

/// Sends logs that pass `filter` to stderr.
pub fn logs(filter: &str, json: bool) -> Result<(), TelemetryError> {
    let parsed = EnvFilter::try_new(filter).map_err(|e| TelemetryError::Filter {
        filter: filter.into(),
        detail: e.to_string(),
    })?;
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let lines = if json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_target(false).boxed()
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(parsed))
        .with(Told.with_filter(Told::filter()))
        .try_init()
        .map_err(|e| TelemetryError::Twice(e.to_string()))
}

/// The recorder of this process: there can be only one.
static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Records metrics from here on, and gives the handle that renders them.
pub fn metrics() -> Result<PrometheusHandle, TelemetryError> {
    if let Some(handle) = RECORDER.get() {
        return Ok(handle.clone());
    }
    let twice = |e: metrics_exporter_prometheus::BuildError| TelemetryError::Twice(e.to_string());
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS)
        .and_then(|b| {
            b.set_buckets_for_metric(Matcher::Suffix("_frame_events".into()), &EVENTS_BUCKETS)
        })
        .map_err(twice)?
        .install_recorder()
        .map(|handle| {
            metric_names::describe();
            begin_at_zero();
            RECORDER.get_or_init(|| handle).clone()
        })
        .map_err(twice)
}

/// Counters that an operator is woken by, and that most processes never touch.
const BEGIN_AT_ZERO: [&str; 11] = [
    "adtally_archive_failures_total",
    "adtally_catalogue_documents_bad_total",
    "adtally_catalogue_stale_total",
    "adtally_clock_steps_total",
    "adtally_day_key_failures_total",
    "adtally_http_panics_total",
    "adtally_intake_interruptions_total",
    "adtally_message_id_taken_total",
    "adtally_nats_restarts_total",
    "adtally_nats_servers_left_total",
    "adtally_stream_losses_total",
];

/// Shows them from the start: Prometheus sees no increase in a series that begins with its first one.
fn begin_at_zero() {
    for name in BEGIN_AT_ZERO {
        metrics::counter!(name).increment(0);
    }
}

/// A line for the person who waits, on stderr.
pub fn say(text: &str) {
    eprintln!("{text}");
}
