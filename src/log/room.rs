//! How large the EVENTS streams are made where nobody has chosen that: as the definition says, or as large as the broker
//! has room for, all of them alike.
//!
//! A broker reserves the maximum of a stream when it is made, and a cluster counts what is reserved a second late: it
//! gives eight streams made at once more than it has, and takes nothing back afterwards, since a server that has
//! promised too much refuses every change. So the first stream is made with the room of all that are missing, which is
//! one question about one number, and is then given its own share; what it gave up is there for the others.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, Info};
use tokio::time::Instant;

use super::LogError;
use super::definitions::shard_of_name;
use super::making::Maker;
use super::streams::{LEADER_WAIT, RETRY_PAUSE, StreamsError};

/// The definition's maximum is halved down to this while the broker has no room for it.
const EVENTS_MIN_BYTES: i64 = 64 << 20;
/// How long the room that was found is waited for: servers of a cluster tell each other once a second.
const COUNTED_WITHIN: Duration = Duration::from_secs(5);

/// What the streams take that are still to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Missing {
    /// EVENTS streams.
    events: i64,
    /// Bytes of all others together.
    others_bytes: i64,
}

impl Missing {
    fn of(configs: &[Config]) -> Self {
        let others = configs.iter().filter(|config| !is_events(config));
        Self {
            events: configs.iter().filter(|config| is_events(config)).count() as i64,
            others_bytes: others.fold(0, |sum, c| sum.saturating_add(c.max_bytes.max(0))),
        }
    }

    /// Bytes of all, where each EVENTS stream gets `share`.
    fn bytes(self, share: i64) -> i64 {
        share
            .saturating_mul(self.events)
            .saturating_add(self.others_bytes)
    }

    /// The share that was given where somebody else has made the first stream, which has `found` bytes and no more
    /// than `most` of its own.
    fn share_of(self, found: i64, most: i64) -> i64 {
        match found {
            // Without a maximum, or with its own share already.
            ..=0 => most,
            own if own <= most => own,
            // Still with the room of all.
            all => (all.saturating_sub(self.others_bytes) / self.events.max(1))
                .clamp(EVENTS_MIN_BYTES, most.max(EVENTS_MIN_BYTES)),
        }
    }
}

impl Maker<'_> {
    /// Makes the first EVENTS stream of those that are `missing` with the room of all of them, and gives it its share;
    /// what it was made as has the maximum that the others are to have.
    pub(super) async fn make_room(
        &self,
        first: &Config,
        missing: &[Config],
    ) -> Result<Config, StreamsError> {
        let all = Missing::of(missing);
        let mut share = first.max_bytes;
        let mut asked = all.bytes(share);
        loop {
            let config = Config {
                max_bytes: asked,
                ..first.clone()
            };
            match self.create(&config).await {
                Ok(mut made) => {
                    if made.max_bytes != asked {
                        share = all.share_of(made.max_bytes, share);
                    }
                    if made.max_bytes > share {
                        made.max_bytes = share;
                        self.give(&made).await?;
                    }
                    made.max_bytes = share;
                    return Ok(made);
                }
                // What may be had together is not told where one may not have that much: its share alone, then.
                Err(StreamsError::TooLarge { .. }) if asked > share => asked = share,
                Err(StreamsError::TooLarge { .. }) if share / 2 >= EVENTS_MIN_BYTES => {
                    share = halved(share);
                    asked = share;
                }
                Err(StreamsError::NoRoom { .. }) if share / 2 >= EVENTS_MIN_BYTES => {
                    share = halved(share);
                    asked = all.bytes(share);
                }
                Err(StreamsError::NoRoom { why, .. }) if asked > share => {
                    return Err(StreamsError::NoRoomForAll {
                        streams: missing.len(),
                        bytes: asked,
                        why,
                    });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives EVENTS streams that nobody has ever written to at most `max_bytes`: whoever made one with the room of all
    /// was interrupted before he gave it its share.
    pub(super) async fn give_back(&self, found: &[Info], max_bytes: i64) -> Result<(), LogError> {
        let is_unused = |info: &&Info| {
            is_events(&info.config)
                && info.state.last_sequence == 0
                && info.config.max_bytes > max_bytes
        };
        for info in found.iter().filter(is_unused) {
            let config = Config {
                max_bytes,
                ..info.config.clone()
            };
            self.give(&config).await?;
        }
        Ok(())
    }

    /// Changes a stream that was just made, for which it may have no leader yet.
    async fn give(&self, config: &Config) -> Result<(), LogError> {
        let until = Instant::now() + LEADER_WAIT;
        let subject = format!("$JS.API.STREAM.UPDATE.{}", config.name);
        let asked = || format!("to give {} its maximum", config.name);
        loop {
            let mut refused = self.refusals.listen();
            let answer = tokio::select! {
                answer = self.jetstream.update_stream(config) => answer,
                why = refused.of(&subject) => return Err(LogError::refused(asked(), why)),
            };
            match answer {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= until => {
                    return Err(LogError::refused(asked(), error));
                }
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// Makes a stream for which [`Maker::make_room`] has found room, which a cluster may not have counted yet.
    pub(super) async fn create_in_room(&self, config: &Config) -> Result<Config, StreamsError> {
        let until = Instant::now() + COUNTED_WITHIN;
        loop {
            match self.create(config).await {
                Err(StreamsError::NoRoom { .. }) if Instant::now() < until => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                made => return made,
            }
        }
    }
}

/// Whether it is the definition of an EVENTS stream.
pub(super) fn is_events(config: &Config) -> bool {
    shard_of_name(&config.name).is_some()
}

fn halved(share: i64) -> i64 {
    let max_bytes = share / 2;
    tracing::warn!(
        max_bytes,
        "the broker has little room; the EVENTS streams get a smaller maximum"
    );
    max_bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::definitions::{Limits, definitions};

    const GIB: i64 = 1 << 30;

    #[test]
    fn what_is_missing_takes_its_maxima_together() {
        let all = definitions(8, &Limits::default());
        let missing = Missing::of(&all);
        // INTAKE and QUARANTINE take 1 GiB each; CATALOG and STATEMENTS have no maximum.
        let expected = Missing {
            events: 8,
            others_bytes: 2 * GIB,
        };
        assert_eq!(missing, expected);
        assert_eq!(missing.bytes(4 * GIB), 34 * GIB);
        let three_events = Missing {
            events: 3,
            others_bytes: 0,
        };
        assert_eq!(Missing::of(&all[9..]), three_events);
    }

    #[test]
    fn a_share_that_somebody_else_has_given_is_found() {
        let missing = Missing {
            events: 8,
            others_bytes: 2 * GIB,
        };
        for (found, expected) in [
            (-1, 4 * GIB),
            (GIB, GIB),
            (4 * GIB, 4 * GIB),
            // The room of all is still in one.
            (34 * GIB, 4 * GIB),
            (18 * GIB, 2 * GIB),
            (10 * GIB, GIB),
            // No room of all that we would have asked for.
            (i64::MAX, 4 * GIB),
            (4 * GIB + 1, (2 * GIB + 1) / 8),
        ] {
            assert_eq!(missing.share_of(found, 4 * GIB), expected, "{found}");
        }
    }
}
