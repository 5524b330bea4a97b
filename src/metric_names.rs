//! What every metric of `/metrics` counts: the HELP lines, for whoever looks at a graph at night.
//!
//! One list, so that a metric cannot be there without a word about it: a test holds the list against the sources.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// How a metric moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    /// Only up, from the start of the process.
    Counter,
    /// Up and down.
    Gauge,
    /// How often a value was how large.
    Histogram,
}

use Sort::{Counter, Gauge, Histogram};

/// Every metric there is.
const METRICS: &[(&str, Sort, &str)] = &[
    (
        "adtally_address_limit_forgotten_total",
        Counter,
        "Addresses that the collector's limit forgot because it had no room for more",
    ),
    (
        "adtally_answers_cut_off_total",
        Counter,
        "Large answers that were cut off because their client did not read them within five minutes",
    ),
    (
        "adtally_archive_bytes_total",
        Counter,
        "Bytes of files that this process has archived, by shard",
    ),
    (
        "adtally_archive_events_total",
        Counter,
        "Events that this process has archived, by shard",
    ),
    (
        "adtally_archive_failures_total",
        Counter,
        "Turns of the archiver that failed; the events stay in their stream, and it is tried again",
    ),
    (
        "adtally_archive_purge_held",
        Gauge,
        "Whether a projector that is days behind keeps the shard's stream from being purged (1)",
    ),
    (
        "adtally_archive_purged_sequence",
        Gauge,
        "Sequence up to which this process has purged a stream, by shard",
    ),
    (
        "adtally_archive_written_timestamp_seconds",
        Gauge,
        "When this process last archived something, by shard, in seconds of the Unix epoch",
    ),
    (
        "adtally_block_cache_bytes",
        Gauge,
        "Memory of unpacked blocks of sealed cells, each of one shard, that are kept for further questions",
    ),
    (
        "adtally_block_cache_capacity_bytes",
        Gauge,
        "Most that may be kept of unpacked blocks, by tier; 0 on disk also where its folder could not be opened",
    ),
    (
        "adtally_block_cache_errors_total",
        Counter,
        "Times that the disk part of the block cache failed or found something damaged, by action; the store was read instead",
    ),
    (
        "adtally_block_cache_hits_total",
        Counter,
        "Blocks that a question found unpacked, by tier: memory or disk",
    ),
    (
        "adtally_block_cache_misses_total",
        Counter,
        "Blocks that a question looked for in the block cache and had to unpack",
    ),
    (
        "adtally_blocks_damaged_total",
        Counter,
        "Times that a block of sealed cells could not be read, by shard: `adtally replay --from beginning --shard N` rebuilds it",
    ),
    (
        "adtally_blocks_expired_total",
        Counter,
        "Blocks of sealed cells that were deleted because they are past their retention",
    ),
    (
        "adtally_blocks_sealed_total",
        Counter,
        "Blocks of sealed cells that were written, of all cuboids",
    ),
    (
        "adtally_catalogue_documents_bad_total",
        Counter,
        "Catalogue documents that were skipped because they are wrong; the earlier ones stand",
    ),
    (
        "adtally_catalogue_revision",
        Gauge,
        "Sequence of CATALOG up to which the catalogue is applied",
    ),
    (
        "adtally_catalogue_stale_total",
        Counter,
        "Admissions that went on with the catalogue as known, because the broker did not say how far CATALOG is",
    ),
    (
        "adtally_checkpoint_duration_seconds",
        Histogram,
        "Time to make a checkpoint of a shard",
    ),
    (
        "adtally_checkpoint_failures_total",
        Counter,
        "Checkpoints that could not be made; the log says why, and the fold goes on",
    ),
    (
        "adtally_checkpoint_timestamp_seconds",
        Gauge,
        "When the newest checkpoint of a shard was made, Unix seconds",
    ),
    (
        "adtally_checkpoints_kept",
        Gauge,
        "Checkpoints of a shard that are on disk",
    ),
    (
        "adtally_checkpoints_total",
        Counter,
        "Checkpoints that were made",
    ),
    (
        "adtally_cells_sealed_total",
        Counter,
        "Cells that were taken from rows into blocks",
    ),
    (
        "adtally_clock_steps_total",
        Counter,
        "Steps of this machine's clock by 5 s or more while the process ran; the log says when and how far",
    ),
    (
        "adtally_day_key_failures_total",
        Counter,
        "Times that no day key came from the broker; events of that day go without an address hash meanwhile",
    ),
    (
        "adtally_duplicates_total",
        Counter,
        "Events that were there already: by the ledger (sent again) or by their id (published again)",
    ),
    (
        "adtally_events_accepted_total",
        Counter,
        "Events that are durable, by kind and way in",
    ),
    (
        "adtally_events_folded_total",
        Counter,
        "Events that the fold applied for the first time",
    ),
    (
        "adtally_events_refused_total",
        Counter,
        "Events that were refused, by reason and way in",
    ),
    (
        "adtally_shard_questions_total",
        Counter,
        "Questions about a shard that an API elsewhere asked and this process answered",
    ),
    (
        "adtally_store_memory_bytes",
        Gauge,
        "Memory of the shards' stores, by part: cached blocks, writes not yet in files",
    ),
    (
        "adtally_fold_batch_seconds",
        Histogram,
        "Time to fold and write one batch of messages",
    ),
    (
        "adtally_fold_refused_total",
        Counter,
        "Events in readable frames that the fold refused; `adtally events bad` shows the frames",
    ),
    (
        "adtally_flush_waits_total",
        Counter,
        "Batches of the fold that waited for flushes, since unflushed writes were a quarter over store.write_buffers",
    ),
    (
        "adtally_frames_bad_total",
        Counter,
        "Messages of the log that could not be applied; `adtally events bad` shows them",
    ),
    (
        "adtally_frames_bytes_total",
        Counter,
        "Bytes of frames that the broker acknowledged",
    ),
    (
        "adtally_frames_events_total",
        Counter,
        "Events in frames that the broker acknowledged",
    ),
    (
        "adtally_frames_published_total",
        Counter,
        "Frames that the broker acknowledged",
    ),
    (
        "adtally_http_panics_total",
        Counter,
        "Requests whose handling panicked: a defect",
    ),
    (
        "adtally_http_problems_total",
        Counter,
        "Answers that are problems, by status and type",
    ),
    (
        "adtally_id_conflicts_total",
        Counter,
        "Events that did not count because another one, of other content, has their id; `adtally events conflicts` shows them",
    ),
    (
        "adtally_intake_batches_total",
        Counter,
        "Batches of published events that were taken from INTAKE",
    ),
    (
        "adtally_intake_interruptions_total",
        Counter,
        "Times that the intake could not go on and tried again",
    ),
    (
        "adtally_intake_waiting_messages",
        Gauge,
        "Messages that wait in INTAKE",
    ),
    (
        "adtally_ledger_gap_events",
        Gauge,
        "Events that producers announced and the fold has not: outstanding are on their way, lost are not in the log; `adtally producers list` says whose",
    ),
    (
        "adtally_stream_losses_total",
        Counter,
        "Times that a stream gave a sequence again: its broker lost what it had acknowledged; `adtally producers list` names it",
    ),
    (
        "adtally_message_id_taken_total",
        Counter,
        "Messages whose id the broker held for another one: a cloned disk",
    ),
    (
        "adtally_messages_folded_total",
        Counter,
        "Messages of the log that the fold has read",
    ),
    (
        "adtally_nats_servers_left_total",
        Counter,
        "Times that a NATS server was left for another, because its streams had no leader that it could reach",
    ),
    (
        "adtally_nats_restarts_total",
        Counter,
        "Times that the nats-server of our own died and was started again",
    ),
    (
        "adtally_outbox_capacity_bytes",
        Gauge,
        "Unsent bytes that an outbox may hold before events are answered 503",
    ),
    (
        "adtally_outbox_events_total",
        Counter,
        "Events that an outbox wrote to disk",
    ),
    (
        "adtally_outbox_fsyncs_total",
        Counter,
        "Synced writes of an outbox",
    ),
    (
        "adtally_outbox_full_lanes",
        Gauge,
        "Lanes of an outbox whose stream takes no more",
    ),
    (
        "adtally_outbox_oldest_unacked_seconds",
        Gauge,
        "Age of the oldest event that the broker has not acknowledged",
    ),
    (
        "adtally_outbox_sent_bytes",
        Gauge,
        "Bytes of sent events that an outbox keeps",
    ),
    (
        "adtally_outbox_unsent_bytes",
        Gauge,
        "Bytes of events that the broker has not acknowledged",
    ),
    (
        "adtally_outbox_unsent_events",
        Gauge,
        "Events that the broker has not acknowledged",
    ),
    (
        "adtally_printed_rows_bytes",
        Gauge,
        "Memory of texts of rows of large answers that are kept for further answers",
    ),
    (
        "adtally_printed_rows_hits_total",
        Counter,
        "Stretches of rows of large answers whose text an earlier answer had, and was sent again",
    ),
    (
        "adtally_printed_rows_misses_total",
        Counter,
        "Stretches of rows of large answers that were looked for and printed",
    ),
    (
        "adtally_publish_retries_total",
        Counter,
        "Messages sent to the broker again, by why",
    ),
    (
        "adtally_quarantined_total",
        Counter,
        "Records that are in QUARANTINE",
    ),
    (
        "adtally_queries_total",
        Counter,
        "Questions answered, by question and outcome",
    ),
    (
        "adtally_query_cells_read_total",
        Counter,
        "Cells read for questions, by level of buckets",
    ),
    (
        "adtally_query_duration_seconds",
        Histogram,
        "Time to answer a question",
    ),
    (
        "adtally_query_unread_rows",
        Gauge,
        "Rows of large answers that wait in memory for whoever asked to read them",
    ),
    (
        "adtally_reader_rebuilds_total",
        Counter,
        "Times that a reader of a stream was built again",
    ),
    (
        "adtally_seal_seconds",
        Histogram,
        "Time of one portion of sealing, during which its shard is not folded",
    ),
    (
        "adtally_seal_spans_behind",
        Gauge,
        "Spans of campaigns that are due and not sealed yet",
    ),
    (
        "adtally_shard_lag_messages",
        Gauge,
        "Messages of a shard's stream that are not applied yet",
    ),
    (
        "adtally_shard_log_time_seconds",
        Gauge,
        "Log time that a shard has reached, Unix seconds",
    ),
    (
        "adtally_shard_position",
        Gauge,
        "Sequence of its stream that a shard has applied",
    ),
    ("adtally_stream_bytes", Gauge, "Bytes that a stream holds"),
    (
        "adtally_stream_max_bytes",
        Gauge,
        "Bytes that a stream may hold; 0 for no limit",
    ),
    (
        "adtally_united_blocks_bytes",
        Gauge,
        "Memory of blocks of all shards added up that are kept for further questions",
    ),
    (
        "adtally_united_blocks_hits_total",
        Counter,
        "Spans of which a question found the blocks of all shards added up",
    ),
    (
        "adtally_united_blocks_misses_total",
        Counter,
        "Spans of which it did not and read the blocks of each shard, or added them up for the next one",
    ),
    (
        "adtally_verify_differences",
        Gauge,
        "What the last verification found, by sort: lines of the state that are not the log's, lost events, missing sequences, bad messages",
    ),
    (
        "adtally_verify_failed",
        Gauge,
        "Whether the last verification could not be done (1); the log says why",
    ),
    (
        "adtally_verify_last_duration_seconds",
        Gauge,
        "How long the last verification took",
    ),
    (
        "adtally_verify_runs_total",
        Counter,
        "Verifications that this process made by itself, by outcome",
    ),
    (
        "adtally_verify_timestamp_seconds",
        Gauge,
        "When the last verification ended, Unix seconds",
    ),
];

/// Tells the recorder what every metric is.
pub fn describe() {
    for (name, sort, about) in METRICS {
        match sort {
            Counter => describe_counter!(*name, *about),
            Gauge => describe_gauge!(*name, *about),
            Histogram => describe_histogram!(*name, *about),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// The metric names in the macros of the sources below `folder`.
    fn used_in(folder: &Path, found: &mut BTreeSet<(String, String)>) {
        let name = regex::Regex::new(r#"(counter|gauge|histogram)!\(\s*"(adtally_\w+)""#).unwrap();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                used_in(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for captures in name.captures_iter(&text) {
                    found.insert((captures[2].into(), captures[1].into()));
                }
            }
        }
    }

    #[test]
    fn every_metric_in_the_sources_is_described_by_its_sort_and_named_by_convention() {
        let mut used = BTreeSet::new();
        used_in(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut used,
        );
        let described: BTreeSet<(String, String)> = METRICS
            .iter()
            .map(|(name, sort, _)| ((*name).into(), format!("{sort:?}").to_lowercase()))
            .collect();
        let unknown: Vec<_> = used.difference(&described).collect();
        assert!(unknown.is_empty(), "without a description: {unknown:?}");
        for (name, sort, about) in METRICS {
            assert_eq!(name.ends_with("_total"), *sort == Counter, "{name}");
            assert!(*sort != Histogram || name.ends_with("_seconds"), "{name}");
            assert!(about.starts_with(char::is_uppercase), "{name}: {about}");
        }
    }
}
