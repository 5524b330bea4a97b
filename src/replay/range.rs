//! What part of the log a replay is about, as people write it, and whether a stream has it. Pure.

use adtally_projections::position::Position;
use adtally_streams::names::events_stream;
use adtally_streams::time::parse_rfc3339;
use serde::{Deserialize, Serialize};

use super::ReplayError;
use crate::config::Span;
use crate::projector::Until;

/// Checkpoints that an error names.
const NAMED_CHECKPOINTS: usize = 5;

/// Where it begins: at the newest state at or before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// The log's beginning.
    Beginning,
    /// A sequence of one stream.
    Sequence(u64),
    /// A log time, Unix milliseconds.
    Time(i64),
}

/// Where it ends, with that included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum To {
    /// A sequence of one stream.
    Sequence(u64),
    /// A log time, Unix milliseconds.
    Time(i64),
}

/// What is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Its beginning.
    pub from: From,
    /// Its end; none: with the stream, and then the new generation is put into use.
    pub to: Option<To>,
}

/// What a stream holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its first sequence; that after the last one while it is empty.
    pub first: u64,
    /// When its first message was stored, Unix milliseconds; none while it is empty.
    pub first_ms: Option<i64>,
    /// Its last sequence.
    pub last: u64,
}

impl Range {
    /// Reads `--from` and `--to`; `one_shard`: sequences are those of one stream. `now_ms` is where a span is
    /// counted back from.
    ///
    /// # Errors
    /// What is wrong, in words for whoever typed it.
    pub fn read(
        from: &str,
        to: Option<&str>,
        one_shard: bool,
        now_ms: i64,
    ) -> Result<Self, String> {
        let from = read_from(from, one_shard, now_ms)?;
        let to = to.map(|to| read_to(to, one_shard, now_ms)).transpose()?;
        let backwards = match (from, to) {
            (From::Sequence(from), Some(To::Sequence(to))) => to < from,
            (From::Time(from), Some(To::Time(to))) => to < from,
            _ => false,
        };
        if backwards {
            return Err("--to is before --from".to_owned());
        }
        Ok(Self { from, to })
    }

    /// Where the fold ends.
    pub fn until(&self) -> Until {
        match self.to {
            None => Until::default(),
            Some(To::Sequence(sequence)) => Until {
                sequence: Some(sequence),
                time_ms: None,
            },
            Some(To::Time(ms)) => Until {
                sequence: None,
                time_ms: Some(ms),
            },
        }
    }

    /// Whether a state of that position may be begun with: everything from the beginning of the range on is read
    /// again, and nothing past its end is in it.
    pub fn may_begin_at(&self, position: &Position) -> bool {
        let before = match self.from {
            From::Beginning => false,
            From::Sequence(from) => position.sequence < from,
            From::Time(from) => position.log_time_ms < from,
        };
        let within = match self.to {
            None => true,
            Some(To::Sequence(to)) => position.sequence <= to,
            Some(To::Time(to)) => position.log_time_ms <= to,
        };
        before && within
    }

    /// Whether a shard's stream can be replayed over this range from a state at `begins_after` on, 0 for the empty
    /// one; `kept` are the positions of all its checkpoints, the newest last.
    ///
    /// # Errors
    /// [`ReplayError::Purged`] and [`ReplayError::PastEnd`].
    pub fn check(
        &self,
        shard: u16,
        held: Held,
        begins_after: u64,
        kept: &[Position],
    ) -> Result<(), ReplayError> {
        let stream = events_stream(shard);
        if held.first > begins_after + 1 {
            let covering = |position: &&Position| position.sequence + 1 >= held.first;
            let newest = kept.iter().rev().filter(covering);
            return Err(ReplayError::Purged {
                stream,
                first: held.first,
                first_ms: held.first_ms,
                covered: newest
                    .take(NAMED_CHECKPOINTS)
                    .map(|p| (p.sequence, p.log_time_ms))
                    .collect(),
            });
        }
        let past = |asked: u64, last: u64| ReplayError::PastEnd {
            stream: events_stream(shard),
            last,
            asked,
        };
        match (self.from, self.to) {
            (From::Sequence(from), _) if from > held.last + 1 => Err(past(from, held.last)),
            (_, Some(To::Sequence(to))) if to > held.last => Err(past(to, held.last)),
            _ => Ok(()),
        }
    }
}

fn read_from(text: &str, one_shard: bool, now_ms: i64) -> Result<From, String> {
    if text == "beginning" {
        return Ok(From::Beginning);
    }
    if let Ok(sequence) = text.parse::<u64>() {
        return of_one_stream("--from", sequence, one_shard).map(From::Sequence);
    }
    if let Ok(ms) = parse_rfc3339(text) {
        return of_the_past("--from", text, ms, now_ms).map(From::Time);
    }
    match text.parse::<Span>() {
        Ok(span) => {
            let back = i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX);
            Ok(From::Time(now_ms.saturating_sub(back)))
        }
        Err(_) => Err(format!(
            "--from {text}: write beginning, a sequence (with --shard), a time such as 2024-02-09T14:05:00Z, or a span such as 6h"
        )),
    }
}

fn read_to(text: &str, one_shard: bool, now_ms: i64) -> Result<To, String> {
    if let Ok(sequence) = text.parse::<u64>() {
        return of_one_stream("--to", sequence, one_shard).map(To::Sequence);
    }
    match parse_rfc3339(text) {
        Ok(ms) => of_the_past("--to", text, ms, now_ms).map(To::Time),
        Err(_) => Err(format!(
            "--to {text}: write a sequence (with --shard), or a time such as 2024-02-09T14:05:00Z"
        )),
    }
}

fn of_one_stream(option: &str, sequence: u64, one_shard: bool) -> Result<u64, String> {
    if one_shard {
        Ok(sequence)
    } else {
        Err(format!(
            "{option} {sequence}: a sequence is one stream's, so it needs --shard"
        ))
    }
}

fn of_the_past(option: &str, text: &str, ms: i64, now_ms: i64) -> Result<i64, String> {
    if ms > now_ms {
        return Err(format!("{option} {text}: that is still to come"));
    }
    Ok(ms)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// 2024-02-09T14:05:00Z.
    const THEN: i64 = 1_707_487_500_000;
    const HELD: Held = Held {
        first: 1,
        first_ms: Some(THEN),
        last: 20,
    };

    fn read(from: &str, to: Option<&str>, one_shard: bool) -> Result<Range, String> {
        Range::read(from, to, one_shard, THEN + 86_400_000)
    }

    #[test]
    fn every_form_of_a_range_is_understood() {
        let of = |from, to| Ok(Range { from, to });
        assert_eq!(read("beginning", None, false), of(From::Beginning, None));
        assert_eq!(
            read("7", Some("9"), true),
            of(From::Sequence(7), Some(To::Sequence(9)))
        );
        assert_eq!(read("1d", None, false), of(From::Time(THEN), None));
        assert_eq!(
            read("beginning", Some("2024-02-09T15:05:00+01:00"), false),
            of(From::Beginning, Some(To::Time(THEN)))
        );
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        for (from, to, one_shard) in [
            ("7", None, false),
            ("beginning", Some("7"), false),
            ("yesterday", None, true),
            ("beginning", Some("6h"), true),
            ("9", Some("8"), true),
            ("2024-02-09T14:05:00Z", Some("2024-02-09T14:04:59Z"), false),
            ("2099-01-01T00:00:00Z", None, false),
            ("beginning", Some("2099-01-01T00:00:00Z"), false),
            ("", None, true),
        ] {
            assert!(read(from, to, one_shard).is_err(), "{from} {to:?}");
        }
    }

    fn at(sequence: u64, log_time_ms: i64) -> Position {
        Position {
            sequence,
            log_time_ms,
            ..Position::start(7)
        }
    }

    #[test]
    fn what_is_begun_with_lies_before_what_is_read_again() {
        let begins = |from, to, sequence, ms| {
            read(from, to, true)
                .unwrap()
                .may_begin_at(&at(sequence, THEN + ms))
        };
        assert!(!begins("beginning", None, 1, 0));
        assert!(begins("7", None, 6, 0) && !begins("7", None, 7, 0));
        assert!(begins("1d", None, 9, -1) && !begins("1d", None, 9, 0));
        assert!(begins("9", Some("12"), 8, 0));
        let early = "2024-02-09T14:04:00Z";
        assert!(begins("9", Some(early), 8, -60_000));
        assert!(!begins("9", Some(early), 8, -59_999));
        assert!(!begins("1d", Some("8"), 9, -1));
    }

    #[test]
    fn a_stream_without_its_beginning_is_refused_by_what_there_is() {
        let all = read("beginning", None, false).unwrap();
        assert!(all.check(3, HELD, 0, &[]).is_ok());
        let empty = Held {
            first: 1,
            first_ms: None,
            last: 0,
        };
        assert!(all.check(3, empty, 0, &[]).is_ok());
        let later = Held { first: 8, ..HELD };
        let text = all.check(3, later, 0, &[at(6, 0)]).unwrap_err().to_string();
        assert!(
            text.contains("EVENTS_3")
                && text.contains("sequence 8 of 2024-02-09T14:05:00")
                && text.contains("Neither the archive nor a checkpoint"),
            "{text}"
        );
        let kept = [at(6, THEN), at(7, THEN), at(9, THEN + 60_000)];
        let text = all.check(3, later, 6, &kept).unwrap_err().to_string();
        assert!(
            text.contains("9 of 2024-02-09T14:06:00") && text.contains("7 of 2024-02-09T14:05:00"),
            "{text}"
        );
        assert!(!text.contains("6 of"), "{text}");
        assert!(all.check(3, later, 7, &kept).is_ok());
        let purged = Held {
            first: 21,
            first_ms: None,
            last: 20,
        };
        let text = all.check(3, purged, 0, &[]).unwrap_err().to_string();
        assert!(text.contains("it begins at sequence 21 now"), "{text}");
    }

    #[test]
    fn a_sequence_that_is_not_there_yet_is_refused() {
        let check = |from: &str, to| read(from, to, true).unwrap().check(0, HELD, 0, &[]);
        assert!(check("21", None).is_ok() && check("1", Some("20")).is_ok());
        assert!(check("22", None).is_err() && check("1", Some("21")).is_err());
    }
}
