//! Whether a stream is the one that a state was folded from.
//!
//! Invariant: nothing is folded onto a state from another stream, nor past a hole: either would be a wrong count
//! that no later check could find.

use adtally_projections::position::Position;
use adtally_streams::frame::frame_crc;
use adtally_streams::names::events_stream;
use async_nats::jetstream::Context;

use super::ProjectorError;
use crate::log::LogError;
use crate::log::reader::message_at;
use crate::log::streams::info_of;

/// What the broker says of a shard's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// When it was created, in nanoseconds of the Unix epoch.
    pub created_ns: i64,
    /// Its first sequence; that after the last one while it is empty.
    pub first: u64,
    /// Its last sequence; 0 before the first message.
    pub last: u64,
    /// Checksum of the message at the state's position, where it has that.
    pub crc: Option<u32>,
    /// Copies of it: with more than one, its leader may change.
    pub replicas: usize,
}

/// Asks the broker about a shard's stream.
pub async fn facts(
    jetstream: &Context,
    shard: u16,
    position: Option<Position>,
) -> Result<Facts, LogError> {
    let stream = events_stream(shard);
    let info = info_of(jetstream, &stream).await?;
    let crc = match position {
        Some(position) if position.sequence > 0 => {
            message_at(jetstream, &stream, position.sequence)
                .await?
                .map(|message| frame_crc(&message.payload))
        }
        _ => None,
    };
    Ok(Facts {
        created_ns: info.created.unix_timestamp_nanos() as i64,
        first: info.state.first_sequence,
        last: info.state.last_sequence,
        crc,
        replicas: info.config.num_replicas,
    })
}

/// Refuses a stream that is not the one from which a state at that position was folded, or does not go on there.
///
/// # Errors
/// [`ProjectorError`] by what differs.
pub async fn same_stream(
    jetstream: &Context,
    shard: u16,
    position: Position,
) -> Result<(), ProjectorError> {
    let facts = facts(jetstream, shard, Some(position))
        .await
        .map_err(|source| ProjectorError::Log { shard, source })?;
    check(shard, Some(position), &facts)
}

/// Refuses a stream that does not go on where the state ends.
pub fn check(shard: u16, position: Option<Position>, facts: &Facts) -> Result<(), ProjectorError> {
    let stream = events_stream(shard);
    let sequence = position.map_or(0, |position| position.sequence);
    if let Some(position) = position {
        if position.stream_created_ns != facts.created_ns {
            let (folded, found) = (position.stream_created_ns, facts.created_ns);
            return Err(ProjectorError::OtherStream {
                shard,
                stream,
                folded,
                found,
            });
        }
        if facts.last < sequence {
            return Err(ProjectorError::Shorter {
                shard,
                stream,
                last: facts.last,
                position: sequence,
            });
        }
        if let Some(found) = facts.crc
            && found != position.crc
        {
            let folded = position.crc;
            return Err(ProjectorError::OtherMessage {
                shard,
                stream,
                position: sequence,
                folded,
                found,
            });
        }
    }
    if facts.first > sequence + 1 {
        let before = facts.first - 1;
        return Err(ProjectorError::Purged {
            shard,
            stream,
            first: facts.first,
            position: sequence,
            before,
        });
    }
    Ok(())
}
