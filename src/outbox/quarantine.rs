//! The quarantine lane: records of refused events, as durable as events, one message each.

use std::sync::Arc;

use adtally_streams::lane::quarantine_message_id;
use adtally_streams::names::QUARANTINE_PREFIX;
use adtally_streams::packing::Outgoing;
use adtally_streams::refusal::{QuarantineRecord, cut_at_char};
use adtally_streams::row::{ROW_PREFIX_BYTES, refused_parts};
use tokio::task::JoinSet;

use super::OutboxError;
use super::epoch::EpochLanes;
use super::shared::Shared;
use super::shipper::{deliver, pause};
use crate::fail_points::{Point, pass};

/// Records that may be under way at once.
const IN_FLIGHT_MAX: usize = 32;
/// Bytes of records that are read at once; one record is always read.
const READ_MAX_BYTES: usize = 4 << 20;
/// What headers and other fields add to a record, at most.
const RECORD_OVERHEAD_BYTES: usize = 16 << 10;
/// The pause after the disk could not be read.
const TROUBLE_PAUSE: std::time::Duration = std::time::Duration::from_secs(5);

/// Ships the records of an epoch; until there are none, or until the outbox ends.
pub(super) async fn ship(shared: Arc<Shared>, epoch: Arc<EpochLanes>, until_empty: bool) {
    let lane = epoch.quarantine_lane();
    let mut flights = JoinSet::new();
    loop {
        let room = IN_FLIGHT_MAX.saturating_sub(flights.len());
        if room > 0 && epoch.cell(lane).lock().waiting() > 0 {
            match read(&shared, &epoch, room).await {
                Ok(records) => {
                    for record in records {
                        flights.spawn(fly(Arc::clone(&shared), Arc::clone(&epoch), record));
                    }
                    continue;
                }
                Err(error) => {
                    tracing::error!(%error, epoch = %epoch.epoch, "records of refused events cannot be read from the outbox and wait");
                    pause(&shared, TROUBLE_PAUSE).await;
                }
            }
        }
        if until_empty && epoch.cell(lane).lock().unacked() == 0 {
            return;
        }
        tokio::select! {
            () = shared.stop.cancelled() => return,
            Some(landed) = flights.join_next(), if !flights.is_empty() => {
                if let Err(error) = landed {
                    tracing::error!(%error, "sending the record of a refused event panicked; it is on disk for the next start");
                }
            }
            () = epoch.cell(lane).work.notified() => {}
        }
    }
}

struct Record {
    first: u64,
    row_bytes: u64,
    message: Outgoing,
}

async fn fly(shared: Arc<Shared>, epoch: Arc<EpochLanes>, record: Record) {
    if deliver(&shared, record.message, |stored, ours| stored == ours).await {
        pass(Point::QuarantineAcknowledged);
        metrics::counter!("adtally_quarantined_total").increment(1);
        shared.landed(
            &epoch,
            epoch.quarantine_lane(),
            record.first,
            record.row_bytes,
        );
    }
}

async fn read(
    shared: &Arc<Shared>,
    epoch: &Arc<EpochLanes>,
    at_most: usize,
) -> Result<Vec<Record>, OutboxError> {
    let (reading, of) = (Arc::clone(shared), Arc::clone(epoch));
    match tokio::task::spawn_blocking(move || take(&reading, &of, at_most)).await {
        Ok(records) => records,
        Err(panic) if panic.is_panic() => std::panic::resume_unwind(panic.into_panic()),
        Err(_) => Ok(Vec::new()),
    }
}

fn take(shared: &Shared, epoch: &EpochLanes, at_most: usize) -> Result<Vec<Record>, OutboxError> {
    let damaged = |what: String| OutboxError::Damaged {
        dir: shared.disk.dir().to_owned(),
        what,
    };
    let lane = epoch.quarantine_lane();
    let (from, waiting) = {
        let state = epoch.cell(lane).lock();
        (state.next(), state.waiting())
    };
    let max_bytes = shared
        .broker
        .max_payload()
        .saturating_sub(RECORD_OVERHEAD_BYTES);
    let mut records: Vec<Record> = Vec::new();
    let mut bytes = 0;
    shared.disk.rows(
        epoch.epoch,
        epoch.key(lane),
        from,
        from + waiting.min(at_most as u64),
        |row| {
            if bytes + row.len() > READ_MAX_BYTES && !records.is_empty() {
                return Ok(false);
            }
            bytes += row.len();
            let first = from + records.len() as u64;
            let (reason, json) = refused_parts(row)
                .ok_or_else(|| damaged(format!("a refused event's record at {first}")))?;
            let payload = fitting(json, max_bytes);
            let message = Outgoing {
                subject: format!("{QUARANTINE_PREFIX}.{reason}"),
                id: quarantine_message_id(epoch.epoch, first),
                payload,
            };
            records.push(Record {
                first,
                row_bytes: (row.len() + ROW_PREFIX_BYTES) as u64,
                message,
            });
            Ok(true)
        },
    )?;
    if records.is_empty() {
        return Err(damaged(format!(
            "no record of a refused event at {from} of epoch {}",
            epoch.epoch
        )));
    }
    let mut state = epoch.cell(lane).lock();
    for record in &records {
        state.cut(1, record.row_bytes);
    }
    drop(state);
    pass(Point::QuarantineCut);
    Ok(records)
}

/// The record, cut further where the broker takes less than 1 MiB.
fn fitting(json: &[u8], max_bytes: usize) -> Vec<u8> {
    if json.len() <= max_bytes {
        return json.to_vec();
    }
    let Ok(mut record) = serde_json::from_slice::<QuarantineRecord>(json) else {
        return json.to_vec();
    };
    // Escaped, a byte takes six at most.
    let keep = max_bytes / 8;
    if let Some(text) = &mut record.payload {
        text.truncate(cut_at_char(text, keep).len());
    }
    if let Some(text) = &mut record.payload_base64 {
        // Four characters are three bytes, so that what is left can still be decoded.
        text.truncate(text.len().min(keep / 4 * 4));
    }
    record.truncated = true;
    record.to_json_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use adtally_streams::refusal::{Reason, Refusal};

    use super::*;

    #[test]
    fn a_record_fits_a_smaller_broker_too() {
        for payload in [
            &b"\x01\xff".repeat(60_000)[..],
            "\u{1}\"x".repeat(60_000).as_bytes(),
        ] {
            let refusal = Refusal::new(Reason::InvalidPayload, "neither JSON nor MessagePack");
            let json = QuarantineRecord::new(refusal, "ads.click.a", 5, payload).to_json_bytes();
            assert_eq!(fitting(&json, json.len()), json);
            let cut = fitting(&json, 64 << 10);
            assert!(cut.len() <= 64 << 10, "{}", cut.len());
            let value: serde_json::Value = serde_json::from_slice(&cut).unwrap();
            assert_eq!(
                (value["truncated"].as_bool(), value["reason"].as_str()),
                (Some(true), Some("invalid_payload"))
            );
        }
    }
}
