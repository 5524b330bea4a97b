//! What the projectors say of themselves on the metrics page.
//!
//! Invariant: every event that did not count is in a counter here as it is in the state's totals.

use std::time::Duration;

use adtally_projections::fold::Folded;
use adtally_streams::event::Kind;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::Progress;
use super::reports;
use super::sealer::Portion;
use crate::store::{Shard, StoreError};

struct KindMetrics {
    applied: Counter,
    by_ledger: Counter,
    by_id: Counter,
    conflicts: Counter,
    refused: Counter,
    lost: Gauge,
    outstanding: Gauge,
}

/// The metrics of one shard.
pub struct ShardMetrics {
    kinds: [KindMetrics; Kind::ALL.len()],
    messages: Counter,
    bad: Counter,
    position: Gauge,
    log_time: Gauge,
    lag: Gauge,
    batch: Histogram,
    blocks: Gauge,
    writes: Gauge,
    blocks_sealed: Counter,
    cells_sealed: Counter,
    blocks_damaged: Counter,
    blocks_expired: Counter,
    seal: Histogram,
    behind: Gauge,
}

impl ShardMetrics {
    /// The metrics of a shard.
    pub fn new(shard: u16) -> Self {
        let shard = shard.to_string();
        let kinds = Kind::ALL.map(|kind| {
            let name = kind.name();
            let duplicates = |line: &'static str| {
                counter!("adtally_duplicates_total", "line" => line, "kind" => name, "shard" => shard.clone())
            };
            let gap = |state: &'static str| {
                gauge!("adtally_ledger_gap_events", "state" => state, "kind" => name, "shard" => shard.clone())
            };
            KindMetrics {
                applied: counter!("adtally_events_folded_total", "kind" => name, "shard" => shard.clone()),
                by_ledger: duplicates("ledger"),
                by_id: duplicates("id"),
                conflicts: counter!("adtally_id_conflicts_total", "kind" => name, "shard" => shard.clone()),
                refused: counter!("adtally_fold_refused_total", "kind" => name, "shard" => shard.clone()),
                lost: gap("lost"),
                outstanding: gap("outstanding"),
            }
        });
        Self {
            kinds,
            messages: counter!("adtally_messages_folded_total", "shard" => shard.clone()),
            bad: counter!("adtally_frames_bad_total", "shard" => shard.clone()),
            position: gauge!("adtally_shard_position", "shard" => shard.clone()),
            log_time: gauge!("adtally_shard_log_time_seconds", "shard" => shard.clone()),
            lag: gauge!("adtally_shard_lag_messages", "shard" => shard.clone()),
            blocks_sealed: counter!("adtally_blocks_sealed_total", "shard" => shard.clone()),
            cells_sealed: counter!("adtally_cells_sealed_total", "shard" => shard.clone()),
            blocks_damaged: counter!("adtally_blocks_damaged_total", "shard" => shard.clone()),
            blocks_expired: counter!("adtally_blocks_expired_total", "shard" => shard.clone()),
            seal: histogram!("adtally_seal_seconds", "shard" => shard.clone()),
            behind: gauge!("adtally_seal_spans_behind", "shard" => shard.clone()),
            batch: histogram!("adtally_fold_batch_seconds", "shard" => shard),
            blocks: gauge!("adtally_store_memory_bytes", "part" => "blocks"),
            writes: gauge!("adtally_store_memory_bytes", "part" => "unflushed_writes"),
        }
    }

    /// Goes on from what the state holds, so that the counters say what was ever folded, over restarts and on every
    /// replica alike.
    ///
    /// # Errors
    /// [`StoreError`] when the state cannot be read.
    pub fn restore(&self, shard: &Shard) -> Result<(), StoreError> {
        let snapshot = shard.snapshot()?;
        for (metrics, totals) in self.kinds.iter().zip(reports::totals(&snapshot)?) {
            metrics.applied.absolute(totals.applied as u64);
            metrics.by_ledger.absolute(totals.duplicates_ledger as u64);
            metrics.by_id.absolute(totals.duplicates_id as u64);
            metrics.conflicts.absolute(totals.conflicts as u64);
            metrics.refused.absolute(totals.refused as u64);
        }
        self.bad
            .absolute(reports::incident_counts(&snapshot)?.bad_frames);
        Ok(())
    }

    /// A batch was written.
    pub fn batch(&self, folded: &Folded, progress: Progress, lag: u64, took: Duration) {
        for (metrics, totals) in self.kinds.iter().zip(&folded.totals) {
            metrics.applied.increment(totals.applied as u64);
            metrics.by_ledger.increment(totals.duplicates_ledger as u64);
            metrics.by_id.increment(totals.duplicates_id as u64);
            metrics.conflicts.increment(totals.conflicts as u64);
            metrics.refused.increment(totals.refused as u64);
        }
        self.messages.increment(folded.messages);
        self.bad.increment(folded.bad_frames);
        self.position.set(progress.sequence as f64);
        self.log_time.set(progress.log_time_ms as f64 / 1_000.0);
        self.lag.set(lag as f64);
        self.batch.record(took.as_secs_f64());
    }

    /// A portion was sealed, and so many spans are still due.
    pub fn sealed(&self, portion: &Portion, behind: usize) {
        self.blocks_sealed.increment(portion.sealed.blocks);
        self.cells_sealed.increment(portion.sealed.cells);
        self.blocks_damaged.increment(portion.damaged);
        self.blocks_expired.increment(portion.expired);
        self.seal.record(portion.took.as_secs_f64());
        self.behind.set(behind as f64);
    }

    /// Counts what is missing of every lane, and what the store holds in memory.
    ///
    /// # Errors
    /// [`StoreError`] when the state cannot be read.
    pub fn gaps(&self, shard: &Shard) -> Result<(), StoreError> {
        let (blocks, writes) = shard.memory();
        self.blocks.set(blocks as f64);
        self.writes.set(writes as f64);
        let mut sums = [(0u64, 0u64); Kind::ALL.len()];
        for report in reports::producers(&shard.snapshot()?)? {
            for (sum, gap) in sums.iter_mut().zip(&report.gaps) {
                sum.0 += gap.lost_events();
                sum.1 += gap.outstanding_events();
            }
        }
        for (metrics, (lost, outstanding)) in self.kinds.iter().zip(sums) {
            metrics.lost.set(lost as f64);
            metrics.outstanding.set(outstanding as f64);
        }
        Ok(())
    }
}
