//! The clock watched from beside: a step of this machine's clock is said in the log, because nothing else shows it.
//!
//! Invariant of the whole: no event is lost or doubled by a step. Counters, not times, say what was sent; and a time
//! that has been announced is never given to a later event, so after a step back arrivals carry the latest time that
//! was announced until the clock has come past it, or the process starts again. That is what an operator must know.

use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;

/// How often the clock is compared with the one that cannot step.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// From how far on a difference is a step; below, a time service is at work or the process was held up.
const STEP_MIN_MS: i64 = 5_000;

/// Compares the two clocks until told to stop.
pub async fn watch(stop: CancellationToken) {
    let mut before = (SystemTime::now(), Instant::now());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let now = (SystemTime::now(), Instant::now());
        if let Some(step_ms) = step_ms(before.0, now.0, now.1 - before.1) {
            metrics::counter!("adtally_clock_steps_total").increment(1);
            let seconds = step_ms / 1_000;
            if step_ms < 0 {
                tracing::warn!(
                    seconds,
                    "this machine's clock has stepped back: until it is past where it was, events that arrive carry the latest time that was announced; once the clock is right, start this process again"
                );
            } else {
                tracing::warn!(
                    seconds,
                    "this machine's clock has stepped ahead: events without a ts are counted at its time, and a ts counts as late by it; once the clock is right, start this process again"
                );
            }
        }
        before = now;
    }
}

/// By how many milliseconds the clock went further than `passed`, which is what really passed between the two
/// readings; none where that is no step.
fn step_ms(before: SystemTime, now: SystemTime, passed: Duration) -> Option<i64> {
    let signed = |length: Duration| i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
    let went_ms = match now.duration_since(before) {
        Ok(ahead) => signed(ahead),
        Err(back) => -signed(back.duration()),
    };
    let step_ms = went_ms.saturating_sub(signed(passed));
    (step_ms.abs() >= STEP_MIN_MS).then_some(step_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_did_not_pass_is_a_step() {
        let ms = Duration::from_millis;
        let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for (now, passed, step) in [
            (noon + ms(1_000), ms(1_000), None),
            (noon + ms(5_900), ms(1_000), None),
            (noon + ms(6_000), ms(1_000), Some(5_000)),
            (noon + ms(3_601_000), ms(1_000), Some(3_600_000)),
            (noon - ms(3_599_000), ms(1_000), Some(-3_600_000)),
            // A process that was held up for a minute has seen no step.
            (noon + ms(60_000), ms(60_000), None),
        ] {
            assert_eq!(step_ms(noon, now, passed), step, "{now:?} {passed:?}");
        }
    }
}
