//! The position: how far of which stream a state is the fold.
//!
//! Invariant: it is written in the same batch as everything that it speaks of. The stream's creation time and the
//! last message's checksum say that the stream in front of us is the one that was folded.

use crate::codec::{Damaged, Reader};

/// How a state's rows are written. A state of another number is not read, nor folded on: it is rebuilt from the
/// log. 2: cells in lists by campaign, bucket and ad. 3: the id index by id and owner. 4: sketches of visitors, and
/// closed spans sealed in blocks. 6: blocks of regions, of devices and of buckets alone.
pub const STATE_FORMAT: u8 = 6;

/// The applied end of a shard's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Sequence of the last message that was applied; 0 before the first one.
    pub sequence: u64,
    /// When the broker created the stream, in nanoseconds of the Unix epoch.
    pub stream_created_ns: i64,
    /// Checksum of that message's payload, [`adtally_streams::frame::frame_crc`].
    pub crc: u32,
    /// Log time: the running maximum of the broker's timestamps, in Unix milliseconds.
    pub log_time_ms: i64,
}

impl Position {
    /// The position before the first message of a stream.
    pub fn start(stream_created_ns: i64) -> Self {
        Self {
            sequence: 0,
            stream_created_ns,
            crc: 0,
            log_time_ms: 0,
        }
    }

    /// Appends the row's value.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(STATE_FORMAT);
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.stream_created_ns.to_be_bytes());
        out.extend_from_slice(&self.crc.to_be_bytes());
        out.extend_from_slice(&self.log_time_ms.to_be_bytes());
    }

    /// Reads the row's value.
    pub fn decode(value: &[u8]) -> Result<Self, Damaged> {
        let mut r = Reader::new(value, "position");
        if r.u8()? != STATE_FORMAT {
            return Err(Damaged {
                what: "position of another version of adtally",
            });
        }
        let position = Self {
            sequence: r.u64()?,
            stream_created_ns: r.u64()? as i64,
            crc: r.u32()?,
            log_time_ms: r.u64()? as i64,
        };
        r.end()?;
        Ok(position)
    }
}

/// Row in [`crate::family::Family::Meta`].
pub const POSITION_KEY: &[u8] = b"position";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_position_returns_and_that_of_another_format_is_refused() {
        let position = Position {
            sequence: 7,
            stream_created_ns: -1,
            crc: 9,
            log_time_ms: 1_700_000_000_000,
        };
        let mut row = Vec::new();
        position.encode(&mut row);
        assert_eq!(Position::decode(&row), Ok(position));
        // Format 1 began with the sequence.
        let error = Position::decode(&row[1..]).unwrap_err();
        assert!(error.to_string().contains("another version"), "{error}");
    }
}
