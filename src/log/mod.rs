//! The log: everything that speaks NATS JetStream, and nothing that knows what the messages mean.
//!
//! Streams and their definitions, one ordered reader a shard, a publisher that says what is known of a message, and
//! a server of one's own where none is given.

mod compare;
pub mod connect;
mod definitions;
pub mod embedded;
mod making;
pub mod publisher;
pub mod quorum;
pub mod reader;
pub mod refusals;
mod room;
pub mod streams;

#[cfg(test)]
mod tests;

/// Something that was asked of the log and not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The stream does not exist.
    #[error("the stream {0} does not exist: `adtally streams apply` or `adtally serve` makes it")]
    NoStream(String),
    /// The broker does not answer, or not in time. Trying again is reasonable.
    #[error(
        "the broker did not answer {asked}: {why}. Is it running, with JetStream, and reachable?"
    )]
    Unreachable {
        /// What was asked.
        asked: String,
        /// What the client library says.
        why: String,
    },
    /// The broker answers with an error.
    #[error("the broker refuses {asked}: {why}")]
    Refused {
        /// What was asked.
        asked: String,
        /// What the broker says.
        why: String,
    },
}

impl LogError {
    pub(crate) fn unreachable(asked: impl Into<String>, why: impl std::fmt::Display) -> Self {
        LogError::Unreachable {
            asked: asked.into(),
            why: why.to_string(),
        }
    }

    pub(crate) fn refused(asked: impl Into<String>, why: impl std::fmt::Display) -> Self {
        LogError::Refused {
            asked: asked.into(),
            why: why.to_string(),
        }
    }
}
