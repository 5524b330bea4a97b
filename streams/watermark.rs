//! What a producer says of itself: how far everything it accepted has reached the broker.
//!
//! A lost tail is seen, and an offline edge is named, from the log alone: every frame's header carries its
//! producer's watermark, and an idle lane announces it every few seconds.

use serde::{Deserialize, Serialize};

use crate::event::Kind;

/// The state of one producer's epoch with respect to one shard. Merged by maximum, field by field, so that
/// order and repetition of announcements do not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// Every event that this epoch accepted with an arrival time up to this one, in any shard, is acknowledged
    /// by the broker; milliseconds of the Unix epoch.
    #[serde(rename = "t")]
    pub through_ms: i64,
    /// By [`Kind`]: every counter of the lane below this one is acknowledged by the broker. What a ledger lacks
    /// below it is lost data.
    #[serde(rename = "a")]
    pub acked: [u64; Kind::ALL.len()],
    /// By [`Kind`]: the next counter of the lane; those from `acked` to here are answered and on their way. What
    /// stays missing here is lost with the producer's disk.
    #[serde(rename = "h")]
    pub heads: [u64; Kind::ALL.len()],
    /// Nothing more will come from this epoch: it no longer holds back completeness.
    #[serde(rename = "d", default)]
    pub drained: bool,
}

impl Watermark {
    /// Takes the later of both, field by field.
    pub fn merge(&mut self, other: &Watermark) {
        self.through_ms = self.through_ms.max(other.through_ms);
        for k in 0..Kind::ALL.len() {
            self.acked[k] = self.acked[k].max(other.acked[k]);
            self.heads[k] = self.heads[k].max(other.heads[k]);
        }
        self.drained |= other.drained;
    }
}

/// What a shard is told next of an epoch that is shipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastWord {
    /// The watermark of the opening that came after it. Only once that is known there may the epoch cease to hold
    /// completeness back: otherwise nobody would hold back for the events of the new opening.
    Successor,
    /// That nothing more comes from it.
    End,
}

impl LastWord {
    /// `is_current`: the epoch is the last opening itself, which nothing comes after. `successor_is_heard`: the
    /// shard has acknowledged a watermark of the last opening.
    pub fn next(is_current: bool, successor_is_heard: bool) -> Self {
        if is_current || successor_is_heard {
            LastWord::End
        } else {
            LastWord::Successor
        }
    }
}

/// The arrival time from which on events may still come out of INTAKE, in Unix milliseconds: before its oldest
/// message's, or before the time at which the broker looked and found none. Without the broker's clock nothing is
/// known of an empty stream.
pub fn intake_limit_ms(
    messages: u64,
    first_ms: Option<i64>,
    broker_ms: Option<i64>,
) -> Option<i64> {
    let at = if messages == 0 { broker_ms } else { first_ms };
    at.map(|ms| ms - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_ends_where_the_one_after_it_is_known() {
        assert_eq!(LastWord::next(false, false), LastWord::Successor);
        assert_eq!(LastWord::next(false, true), LastWord::End);
        assert_eq!(LastWord::next(true, false), LastWord::End);
    }

    #[test]
    fn the_limit_is_before_the_oldest_message() {
        assert_eq!(intake_limit_ms(0, None, Some(5_000)), Some(4_999));
        assert_eq!(intake_limit_ms(3, Some(4_000), Some(5_000)), Some(3_999));
        assert_eq!(intake_limit_ms(0, None, None), None);
    }
}
