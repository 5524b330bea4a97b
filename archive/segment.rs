//! Writing a segment: a run of one shard's messages, one file.
//!
//! Invariant: what a segment holds reads back as the very entries that the log's own messages decode to. Where an
//! event's columns would not say all of a message, the message's bytes are kept beside them.

use adtally_streams::event::Kind;
use adtally_streams::frame::{FoldMessage, WholeMessage, decode_whole, frame_crc};
use parquet::file::writer::SerializedFileWriter;
use serde::{Deserialize, Serialize};

use crate::FormatError;
use crate::row_group::{Envelope, RowGroup};
use crate::schema::{properties, schema};

/// Rows of a row group: enough that its dictionaries cost nothing, and some 30 MB in memory.
pub const ROW_GROUP_MAX_ROWS: usize = 131_072;
/// Bytes of texts in a row group before it is written, whatever its rows: long landing pages, unreadable messages.
const ROW_GROUP_MAX_BLOB_BYTES: usize = 32 << 20;
/// Rows of a file, give or take a message.
pub const FILE_MAX_ROWS: u64 = 2 << 20;
/// Bytes of a file, give or take a row group: it is made in memory, and checked and read whole.
pub const FILE_MAX_BYTES: usize = 64 << 20;

/// How many rows of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Impressions.
    #[serde(default)]
    pub impression: u64,
    /// Clicks.
    #[serde(default)]
    pub click: u64,
    /// Conversions.
    #[serde(default)]
    pub conversion: u64,
    /// Announcements of producers.
    #[serde(default)]
    pub watermark: u64,
    /// Messages as they came.
    #[serde(default)]
    pub message: u64,
}

impl Rows {
    /// All of them.
    pub fn all(&self) -> u64 {
        self.events() + self.watermark + self.message
    }

    /// Those that are events.
    pub fn events(&self) -> u64 {
        self.impression + self.click + self.conversion
    }

    fn add(&mut self, kind: Kind, events: u64) {
        match kind {
            Kind::Impression => self.impression += events,
            Kind::Click => self.click += events,
            Kind::Conversion => self.conversion += events,
        }
    }
}

/// A message of a shard's stream.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its sequence.
    pub sequence: u64,
    /// The broker's timestamp, Unix milliseconds.
    pub broker_ms: i64,
    /// Its subject.
    pub subject: &'a str,
    /// Its payload.
    pub payload: &'a [u8],
}

/// A file that is being written.
pub struct SegmentWriter {
    file: SerializedFileWriter<Vec<u8>>,
    group: RowGroup,
    rows: Rows,
    messages: u64,
}

/// A file that is written.
#[derive(Debug)]
pub struct Segment {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its rows.
    pub rows: Rows,
    /// Its messages.
    pub messages: u64,
}

impl SegmentWriter {
    /// An empty file.
    ///
    /// # Errors
    /// [`FormatError`] by Parquet's word, which it has no reason to give in memory.
    pub fn new() -> Result<Self, FormatError> {
        Ok(Self {
            file: SerializedFileWriter::new(Vec::new(), schema(), properties())?,
            group: RowGroup::default(),
            rows: Rows::default(),
            messages: 0,
        })
    }

    /// Takes the next message of the shard, whatever it is.
    ///
    /// # Errors
    /// As [`SegmentWriter::new`].
    pub fn push(&mut self, message: Message<'_>) -> Result<(), FormatError> {
        let of = Envelope {
            sequence: message.sequence,
            broker_ms: message.broker_ms,
            crc: frame_crc(message.payload),
            subject: message.subject,
            payload: message.payload,
        };
        self.messages += 1;
        match decode_whole(message.payload) {
            Ok(WholeMessage {
                fold: FoldMessage::Frame(frame),
                cold: Some(cold),
                known,
            }) if message.subject.rsplit('.').next() == Some(frame.header.kind.name()) => {
                self.rows.add(frame.header.kind, frame.id.len() as u64);
                self.group.frame(of, &frame, &cold, !known);
            }
            Ok(WholeMessage {
                fold:
                    FoldMessage::Announcement {
                        producer,
                        epoch,
                        watermark,
                        retired,
                    },
                known,
                ..
            }) => {
                self.rows.watermark += 1;
                let author = (&producer, epoch);
                self.group
                    .announcement(of, author, &watermark, retired.as_deref(), !known);
            }
            _ => {
                self.rows.message += 1;
                self.group.opaque(of);
            }
        }
        if self.group.rows() >= ROW_GROUP_MAX_ROWS
            || self.group.blob_bytes() >= ROW_GROUP_MAX_BLOB_BYTES
        {
            self.write_group()?;
        }
        Ok(())
    }

    /// Whether it has reached a limit of a file.
    pub fn is_full(&self) -> bool {
        self.rows.all() >= FILE_MAX_ROWS || self.file.bytes_written() >= FILE_MAX_BYTES
    }

    /// Messages that it holds.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Ends it.
    ///
    /// # Errors
    /// As [`SegmentWriter::new`].
    pub fn finish(mut self) -> Result<Segment, FormatError> {
        if self.group.rows() > 0 {
            self.write_group()?;
        }
        Ok(Segment {
            bytes: self.file.into_inner()?,
            rows: self.rows,
            messages: self.messages,
        })
    }

    fn write_group(&mut self) -> Result<(), FormatError> {
        let group = std::mem::take(&mut self.group);
        group.write(self.file.next_row_group()?)
    }
}

impl std::fmt::Debug for SegmentWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentWriter")
            .field("rows", &self.rows)
            .field("messages", &self.messages)
            .finish_non_exhaustive()
    }
}
