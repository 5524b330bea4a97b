//! Why a message of an EVENTS stream is not a frame.
//!
//! A frame that cannot be read is recorded and shows as a gap in its producer's lane; it never stops a fold. The
//! reason's name is a metric label, so it is stable.

/// Why the bytes are not a frame that this reader can believe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The checksum at the end is not that of the bytes before it.
    #[error(
        "frame of {bytes} bytes says checksum {said:08x} and has {found:08x}: the bytes were changed after they were written"
    )]
    BadChecksum {
        /// The checksum that the frame holds.
        said: u32,
        /// The checksum of its bytes.
        found: u32,
        /// The frame's length.
        bytes: usize,
    },
    /// Not the MessagePack map that every frame is.
    #[error("frame is not the MessagePack map that it should be: {0}")]
    BadMap(String),
    /// Written by a later version of this program.
    #[error("frame has layout {0}, and this program reads layout {expected}: update it", expected = crate::frame::VERSION)]
    UnknownVersion(u8),
    /// A kind of event that this program does not know.
    #[error("frame holds events of kind {0}, which this program does not know: update it")]
    UnknownKind(u8),
    /// A codec bit that this program does not know.
    #[error("frame is packed by codec {0}, which this program does not know: update it")]
    UnknownCodec(u8),
    /// No events, more than a reader accepts, or counters past the end of numbers.
    #[error("frame says that it holds {count} events from counter {first} on, outside 1 to {most} of them", most = crate::names::FRAME_MAX_EVENTS_READ)]
    BadCount {
        /// Counter of the first.
        first: u64,
        /// How many.
        count: u32,
    },
    /// A part declares more bytes than a reader reserves.
    #[error(
        "frame declares {said} bytes for its {part} part, above the {most} that a reader reserves"
    )]
    TooLarge {
        /// Which part.
        part: &'static str,
        /// What it declares.
        said: u64,
        /// What a reader reserves at most.
        most: usize,
    },
    /// A part does not unpack to exactly the length that it declares.
    #[error("frame's {part} part does not unpack to the {said} bytes that it declares")]
    BadLength {
        /// Which part.
        part: &'static str,
        /// What it declares.
        said: usize,
    },
    /// A column ends early.
    #[error("frame ends inside a column")]
    Short,
    /// Bytes are left behind the last column.
    #[error("frame has bytes behind its last column")]
    Trailing,
    /// A number that is not in its shortest form, too long, or out of its range.
    #[error("frame has a number that is badly formed or out of its range")]
    BadNumber,
    /// A dictionary is empty or larger than the values that could need it.
    #[error("frame has a dictionary that is empty or larger than its events")]
    BadDictionary,
    /// A symbol points behind its dictionary.
    #[error("frame has a symbol behind the end of its dictionary")]
    BadSymbol,
    /// An id outside the contract's alphabet or length.
    #[error("frame has an id that is none: {0}")]
    BadId(#[from] crate::id::BadId),
    /// A currency that is not three upper-case letters.
    #[error("frame has a currency code that is none")]
    BadCurrency,
    /// A text that is not UTF-8.
    #[error("frame has a text that is not UTF-8")]
    BadText,
    /// A device class, verdict or mode without a meaning.
    #[error("frame has a device class, verdict or mode that this program does not know")]
    UnknownNumber,
}

impl FrameError {
    /// A stable name, for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            FrameError::BadChecksum { .. } => "bad_checksum",
            FrameError::BadMap(_) => "bad_map",
            FrameError::UnknownVersion(_) => "unknown_version",
            FrameError::UnknownKind(_) => "unknown_kind",
            FrameError::UnknownCodec(_) => "unknown_codec",
            FrameError::BadCount { .. } => "bad_count",
            FrameError::TooLarge { .. } => "too_large",
            FrameError::BadLength { .. } => "bad_length",
            FrameError::Short => "short",
            FrameError::Trailing => "trailing",
            FrameError::BadNumber => "bad_number",
            FrameError::BadDictionary => "bad_dictionary",
            FrameError::BadSymbol => "bad_symbol",
            FrameError::BadId(_) => "bad_id",
            FrameError::BadCurrency => "bad_currency",
            FrameError::BadText => "bad_text",
            FrameError::UnknownNumber => "unknown_number",
        }
    }
}
