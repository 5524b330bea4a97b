//! Announcements: what is said of an epoch besides its events, by its producer or, of one that is gone, by an operator.

use crate::envelope::{ANNOUNCEMENT, Envelope, put_watermark};
use crate::id::{Epoch, Id};
use crate::names::REASON_MAX_BYTES;
use crate::watermark::Watermark;

/// The message of an idle producer's watermark.
pub fn encode_announcement(producer: &Id, epoch: Epoch, watermark: &Watermark) -> Vec<u8> {
    seal(producer, epoch, watermark, "")
}

/// The message by which an operator declares that an epoch, whose machine or disk is gone for good, will never send
/// again, and why. It holds no counters and so raises none: what the epoch announced and never sent stays missing.
///
/// # Panics
/// When the reason is empty or longer than [`REASON_MAX_BYTES`].
pub fn encode_retirement(producer: &Id, epoch: Epoch, reason: &str) -> Vec<u8> {
    assert!(
        (1..=REASON_MAX_BYTES).contains(&reason.len()),
        "a retirement with a reason of {} bytes",
        reason.len()
    );
    let watermark = Watermark {
        drained: true,
        ..Watermark::default()
    };
    seal(producer, epoch, &watermark, reason)
}

fn seal(producer: &Id, epoch: Epoch, watermark: &Watermark, reason: &str) -> Vec<u8> {
    let mut packed = Vec::with_capacity(64);
    put_watermark(&mut packed, watermark);
    let mut envelope = Envelope::new(ANNOUNCEMENT, producer.as_str(), epoch.0, &packed);
    envelope.reason = reason;
    envelope.seal()
}
