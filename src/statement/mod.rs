//! Statements: opened at a log time, computed, closed as a fact on STATEMENTS, and answered from there ever after.
//!
//! Invariant: what is computed depends on the log, the catalogue and the closed statements up to one log time, so it
//! is the same bytes for whoever asks for that time again. Closing publishes those bytes under a subject of which the
//! broker takes no second message.

mod closed;
mod compute;
mod desk;
mod history;
#[cfg(test)]
mod tests;
mod wire;

use adtally_projections::month::Month;
use adtally_projections::statement::BadStatement;
use adtally_streams::id::Id;
use adtally_streams::time::to_rfc3339;

use crate::log::LogError;
use crate::query::QueryError;
use crate::replay::ReplayError;
use crate::replay::at::SETTLED_AFTER;
use crate::scratch::ScratchError;
use crate::store::StoreError;

pub use closed::{Closed, close};
pub use compute::{Ground, at_state, fit_to_close};
pub use desk::Desk;

use wire::STATEMENT_MAX_BYTES;

/// Which statement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    /// Of whom.
    pub advertiser: Id,
    /// Of when.
    pub month: Month,
}

impl Asked {
    /// The subject under which it is closed.
    pub fn subject(&self) -> String {
        format!("statements.{}.{}", self.advertiser, self.month)
    }
}

/// A statement as it is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The sealed bytes, see [`adtally_projections::statement::sealed`].
    pub sealed: Vec<u8>,
    /// Where it was closed; none while it is not.
    pub closed: Option<ClosedAt>,
}

/// The event that closed a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedAt {
    /// Its sequence in STATEMENTS.
    pub sequence: u64,
    /// Its time, by the broker's clock, in Unix milliseconds.
    pub at_ms: i64,
}

impl Document {
    /// The hash that proves it.
    pub fn hash(&self) -> &str {
        // The last field of the sealed object, in quotation marks.
        let text = std::str::from_utf8(&self.sealed).unwrap_or_default();
        text.rsplit('"').nth(1).unwrap_or_default()
    }

    /// One JSON object: the sealed one, and `closed` behind its hash.
    pub fn json(&self) -> Vec<u8> {
        let mut out = self.sealed.clone();
        // The object's end moves behind what is added.
        out.pop();
        let closed = match &self.closed {
            Some(closed) => format!(
                "{{\"sequence\":{},\"at\":\"{}\"}}",
                closed.sequence,
                to_rfc3339(closed.at_ms)
            ),
            None => "null".to_owned(),
        };
        out.extend_from_slice(format!(",\"closed\":{closed}}}").as_bytes());
        out
    }
}

/// Refuses a log time that a message may still bear.
///
/// # Errors
/// [`StatementError::NotYet`].
pub fn check_settled(as_of_ms: i64, now_ms: i64) -> Result<(), StatementError> {
    if as_of_ms + SETTLED_AFTER.as_millis() as i64 > now_ms {
        return Err(StatementError::NotYet { as_of_ms });
    }
    Ok(())
}

/// Why there is no statement, or it is not closed.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    /// The catalogue has no such advertiser at that time.
    #[error("the catalogue knows no advertiser {advertiser} at {}", to_rfc3339(*.as_of_ms))]
    NoAdvertiser {
        /// Who.
        advertiser: Id,
        /// When.
        as_of_ms: i64,
    },
    /// A time that is not over.
    #[error(
        "a statement can be made as of a time that is at least {} s ago, and {} is not",
        SETTLED_AFTER.as_secs(), to_rfc3339(*.as_of_ms)
    )]
    NotYet {
        /// The time.
        as_of_ms: i64,
    },
    /// The month goes on.
    #[error("{month} of {advertiser} is not over before {}: it cannot be closed", to_rfc3339(*.end_ms))]
    NotOver {
        /// The month.
        month: Month,
        /// Whose.
        advertiser: Id,
        /// When it is over.
        end_ms: i64,
    },
    /// Something that was answered may not be counted.
    #[error(
        "{month} is complete only up to {}, before its end at {}: {holders}. Wait, start the producer again, or declare it gone with `adtally producers retire`",
        through.map_or("nothing".to_owned(), to_rfc3339), to_rfc3339(*.end_ms)
    )]
    Incomplete {
        /// The month.
        month: Month,
        /// Up to when it is complete.
        through: Option<i64>,
        /// When it is over.
        end_ms: i64,
        /// Who holds it back, in words.
        holders: String,
    },
    /// More than one message.
    #[error(
        "the statement takes {bytes} bytes and a message of the broker at most {most}: raise max_payload of the nats-servers, and max_msg_size of STATEMENTS where it is set, and close it again"
    )]
    TooLarge {
        /// Of the statement, packed.
        bytes: usize,
        /// Of a message.
        most: usize,
    },
    /// More than anybody would read again.
    #[error(
        "the statement takes {bytes} bytes and one that is closed at most {STATEMENT_MAX_BYTES}"
    )]
    TooLong {
        /// Of the statement.
        bytes: usize,
    },
    /// Somebody was first.
    #[error("{subject} was closed before: a closed statement never changes")]
    AlreadyClosed {
        /// Its subject.
        subject: String,
    },
    /// The broker did not take it.
    #[error("{subject} could not be closed: {why}")]
    NotStored {
        /// Its subject.
        subject: String,
        /// What the broker said.
        why: String,
    },
    /// What STATEMENTS holds is no statement.
    #[error("message {sequence} of STATEMENTS is damaged: {source}")]
    Damaged {
        /// Its sequence.
        sequence: u64,
        /// In what way.
        source: BadStatement,
    },
    /// The state at that time is still being made.
    #[error("the log is being read up to that time; ask again in a moment")]
    Folding,
    /// The state at another time is being made.
    #[error("the log is being read up to another time for somebody else; ask again in a moment")]
    Busy,
    /// The catalogue's stream fell silent.
    #[error("CATALOG says that it ends at {last}, and nothing came of it after {at} for a while")]
    Silent {
        /// Its last sequence.
        last: u64,
        /// What was read.
        at: u64,
    },
    /// The counts.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The state at a time.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder of a past state.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
}
