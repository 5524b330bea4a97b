//! Names and limits that more than one process must agree on: streams, subjects, headers, sizes.
//!
//! A name here is part of what operators type; a limit here is part of what a reader may rely on.

use crate::event::Kind;

/// Work-queue stream of single events as people publish them.
pub const INTAKE_STREAM: &str = "INTAKE";
/// Subjects that publishers may write: `ads.<kind>.<key>`.
pub const INTAKE_SUBJECTS: &str = "ads.>";
/// Durable consumer that all intakes share.
pub const INTAKE_CONSUMER: &str = "intake";
/// Stream of catalogue documents, all history.
pub const CATALOG_STREAM: &str = "CATALOG";
/// Prefix of catalogue subjects: `catalog.<type>.<id>`.
pub const CATALOG_PREFIX: &str = "catalog";
/// Stream of what was refused.
pub const QUARANTINE_STREAM: &str = "QUARANTINE";
/// Prefix of quarantine subjects: `quarantine.<reason>`.
pub const QUARANTINE_PREFIX: &str = "quarantine";
/// Stream of closed statements.
pub const STATEMENTS_STREAM: &str = "STATEMENTS";
/// Key-value bucket of the day keys that hash client addresses.
pub const DAY_KEYS_BUCKET: &str = "ADTALLY_DAY_KEYS";
/// NATS request subject on which a running `serve` answers the command line: `adtally.ctl.<verb>`.
pub const CONTROL_PREFIX: &str = "adtally.ctl";
/// Likewise, of what a running `serve` does at an operator's word: `adtally.act.<verb>`.
pub const ACT_PREFIX: &str = "adtally.act";

/// Shards when none are configured. Fixed once the streams exist.
pub const DEFAULT_SHARDS: u16 = 8;
/// The most shards a deployment may have.
pub const MAX_SHARDS: u16 = 256;
/// The most events in one frame that a writer cuts.
pub const FRAME_MAX_EVENTS: usize = 1_024;
/// The most events in a frame that a reader accepts.
pub const FRAME_MAX_EVENTS_READ: usize = 4_096;
/// The most bytes of one frame that a writer cuts; the broker's own limit is 1 MiB.
pub const FRAME_MAX_BYTES: usize = 512 * 1024;
/// Payload bytes of a refused event that are kept.
pub const QUARANTINE_MAX_PAYLOAD: usize = 256 * 1024;
/// The broker's own limit on a message.
pub const BROKER_MAX_MESSAGE: usize = 1024 * 1024;
/// How long an event's id is remembered, in milliseconds of log time (contract: 7 days).
pub const ID_HORIZON_MS: i64 = 7 * 86_400_000;
/// An event counts as late past this difference between arrival and event time.
pub const LATE_AFTER_MS: i64 = 5 * 60_000;
/// An event further ahead of its arrival than this is refused.
pub const MAX_FUTURE_MS: i64 = 5 * 60_000;
/// Creative variants of an ad that are counted by name when the catalogue lists none.
pub const MAX_CREATIVES_PER_AD: usize = 256;
/// The most bytes of the reason that an operator gives for declaring a producer gone.
pub const REASON_MAX_BYTES: usize = 256;
/// What a dimension's value becomes when it is not one that is counted by name.
pub const OTHER: &str = "other";

/// The stream that holds shard `p`.
pub fn events_stream(p: u16) -> String {
    format!("EVENTS_{p}")
}

/// The subject on which shard `p` takes frames of `kind`.
pub fn events_subject(p: u16, kind: Kind) -> String {
    format!("events.{p}.{}", kind.name())
}

/// The subject on which an idle producer announces its watermark to shard `p`.
pub fn watermark_subject(p: u16) -> String {
    format!("events.{p}.watermark")
}

/// Every subject of shard `p`.
pub fn events_subjects(p: u16) -> String {
    format!("events.{p}.>")
}

/// 32-bit FNV-1a (<http://www.isthe.com/chongo/tech/comp/fnv/>): fixed forever, since it places every ad.
pub fn fnv1a32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |h, b| {
        (h ^ u32::from(*b)).wrapping_mul(0x0100_0193)
    })
}

/// The shard of an ad (or, for conversions, of an advertiser): `fnv1a32(key) % shards`.
///
/// `spread` above 1 places an ad's events on up to `spread` shards by their own ids: slot 0 is the ad's own
/// shard, slot n the next nth shard, so that the shards of a spread ad differ as long as there are enough.
pub fn shard_of(key: &str, event_id: &str, spread: u16, shards: u16) -> u16 {
    let home = fnv1a32(key.as_bytes()) % u32::from(shards);
    if spread <= 1 {
        return home as u16;
    }
    let slot = fnv1a32(event_id.as_bytes()) % u32::from(spread);
    ((home + slot) % u32::from(shards)) as u16
}
