//! Packing: which of a lane's waiting rows become the next frame, and the message that carries them.
//!
//! Pure: the caller reads rows and publishes. What is cut leaves the lane's waiting part at once, and comes back
//! only with a recovery, under the same counters.

use crate::event::{Event, Kind};
use crate::event_row::{BadRow, Rows};
use crate::frame::{Header, encode_rows};
use crate::id::{Epoch, Id, frame_message_id};
use crate::lane::{FrameBudget, Lane};
use crate::names::{FRAME_MAX_BYTES, FRAME_MAX_EVENTS, events_subject};
use crate::row::ROW_PREFIX_BYTES;
use crate::watermark::Watermark;

/// What headers add to a message, at most.
const MESSAGE_HEADERS_BYTES: usize = 4 << 10;

/// The largest frame, in bytes, that both this program and a broker of that largest message take.
pub fn frame_max_bytes(broker_max_message: usize) -> usize {
    FRAME_MAX_BYTES.min(broker_max_message.saturating_sub(MESSAGE_HEADERS_BYTES))
}

/// The next frame of a lane while its rows are read: all that waits, within a frame's limits.
#[derive(Debug)]
pub struct Packing {
    from: u64,
    until: u64,
    budget: FrameBudget,
    rows: Rows,
    row_bytes: u64,
}

impl Packing {
    /// Begins with what waits in the lane now.
    pub fn begin(lane: &Lane, max_bytes: usize) -> Self {
        let from = lane.next();
        let until = from + lane.waiting().min(FRAME_MAX_EVENTS as u64);
        Self {
            from,
            until,
            budget: FrameBudget::new(max_bytes),
            rows: Rows::with_capacity((until - from) as usize, max_bytes.min(lane.waiting_bytes())),
            row_bytes: 0,
        }
    }

    /// The counter of the first row to read.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// The first counter past the last row to read.
    pub fn until(&self) -> u64 {
        self.until
    }

    /// The counter of the next row.
    pub fn next(&self) -> u64 {
        self.from + self.rows.len() as u64
    }

    /// Takes the next row; false when it and what follows belong to a later frame.
    ///
    /// # Errors
    /// [`BadRow`] when the row is no event's: the disk is damaged.
    pub fn take(&mut self, row: &[u8]) -> Result<bool, BadRow> {
        if !self.budget.admits(row.len()) {
            return Ok(false);
        }
        self.rows.push(row)?;
        self.row_bytes += (row.len() + ROW_PREFIX_BYTES) as u64;
        Ok(true)
    }

    /// The message of the rows that were taken; none when there are none. To be made before they are cut, so that
    /// rows which cannot be read stay in their lane. Its watermark must never count them as stored.
    ///
    /// # Errors
    /// [`BadRow`] when one of them is no event's: the disk is damaged.
    pub fn message(
        &self,
        shard: u16,
        kind: Kind,
        producer: &Id,
        epoch: Epoch,
        watermark: Watermark,
    ) -> Result<Option<Outgoing>, BadRow> {
        let count = self.rows.len() as u64;
        if count == 0 {
            return Ok(None);
        }
        let header = Header {
            kind,
            producer: producer.clone(),
            epoch,
            first: self.from,
            count: count as u32,
            watermark,
        };
        Ok(Some(Outgoing {
            subject: events_subject(shard, kind),
            id: frame_message_id(epoch, kind, self.from, self.from + count - 1),
            payload: encode_rows(&header, &self.rows)?,
        }))
    }

    /// Takes the rows out of the lane, which nobody else has cut meanwhile; none when there were none to read, which
    /// a disk that holds what the lane says never answers.
    pub fn cut(self, lane: &mut Lane) -> Option<Cut> {
        if self.rows.is_empty() {
            return None;
        }
        let first = lane.cut(self.rows.len() as u64, self.row_bytes);
        Some(Cut {
            first,
            rows: self.rows,
            row_bytes: self.row_bytes,
        })
    }
}

/// Events that are on their way in one frame.
#[derive(Debug)]
pub struct Cut {
    /// Counter of the first one.
    pub first: u64,
    /// The rows of all of them, at least one, of one kind.
    pub rows: Rows,
    /// Bytes of their rows with their prefixes.
    pub row_bytes: u64,
}

impl Cut {
    /// The events, read from their rows.
    ///
    /// # Errors
    /// [`BadRow`] when one of them is no event's.
    pub fn events(&self) -> Result<Vec<Event>, BadRow> {
        self.rows.events()
    }
}

/// A message and the id that binds it to its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where it goes.
    pub subject: String,
    /// The broker's dedup id.
    pub id: String,
    /// What it holds.
    pub payload: Vec<u8>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::frame::{EventMessage, decode_events};
    use crate::row::event_row;

    fn click(n: u64) -> Event {
        let event = serde_json::json!({"i": format!("click-{n}"), "t": 5, "a": 6,
            "b": {"c": [{"a": "ad", "c": "campaign"}, {}]}});
        serde_json::from_value(event).unwrap()
    }

    #[test]
    fn a_frame_takes_what_waits_and_leaves_the_rest() {
        let rows: Vec<Vec<u8>> = (0..5).map(|n| event_row(&click(n))).collect();
        let bytes: u64 = rows.iter().map(|r| (r.len() + 4) as u64).sum();
        let mut lane = Lane::starting_at(7);
        lane.accepted(5, bytes, 6);
        let mut packing = Packing::begin(&lane, FRAME_MAX_BYTES);
        assert_eq!((packing.from(), packing.until()), (7, 12));
        for row in &rows[..3] {
            assert!(packing.take(row).unwrap());
        }
        assert_eq!(packing.next(), 10);
        let producer = Id::new("collector-1").unwrap();
        let watermark = Watermark::default();
        let message = packing.message(3, Kind::Click, &producer, Epoch(0xab), watermark);
        let message = message.unwrap().unwrap();
        let cut = packing.cut(&mut lane).unwrap();
        assert_eq!((lane.next(), lane.waiting(), lane.unacked()), (10, 2, 5));
        assert_eq!(cut.events().unwrap(), (0..3).map(click).collect::<Vec<_>>());
        assert_eq!(message.subject, "events.3.click");
        assert_eq!(message.id, "00000000000000ab-click-7-9");
        let EventMessage::Frame(frame) = decode_events(&message.payload).unwrap() else {
            panic!("a frame");
        };
        assert_eq!((frame.header.first, frame.header.count), (7, 3));
        assert_eq!(frame.events, (0..3).map(click).collect::<Vec<_>>());
    }

    #[test]
    fn a_row_that_does_not_fit_ends_the_frame_and_one_that_is_no_event_is_an_error() {
        let row = event_row(&click(1));
        let mut lane = Lane::default();
        lane.accepted(3, 3 * (row.len() as u64 + 4), 6);
        // Room for one event and a bit.
        let mut packing =
            Packing::begin(&lane, crate::lane::FRAME_OVERHEAD_BYTES + row.len() + 200);
        assert!(packing.take(&row).unwrap());
        assert!(!packing.take(&row).unwrap());
        assert_eq!(packing.next(), 1);
        assert!(
            Packing::begin(&lane, FRAME_MAX_BYTES)
                .take(b"\xc1")
                .is_err()
        );
        let nothing = Packing::begin(&lane, FRAME_MAX_BYTES);
        assert!(nothing.cut(&mut lane).is_none());
        assert_eq!(lane.waiting(), 3, "what was not read still waits");
    }

    #[test]
    fn a_smaller_broker_gets_smaller_frames() {
        assert_eq!(frame_max_bytes(1 << 20), FRAME_MAX_BYTES);
        assert_eq!(frame_max_bytes(64 << 10), 60 << 10);
        assert_eq!(frame_max_bytes(100), 0);
    }
}
