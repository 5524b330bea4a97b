//! Closed statements: messages of STATEMENTS, one a subject, which never change.

use adtally_projections::statement::{Statement, open};
use adtally_streams::id::Id;
use adtally_streams::names::STATEMENTS_STREAM;
use async_nats::Client;
use async_nats::jetstream;

use super::wire::{packed, unpacked};
use super::{Asked, ClosedAt, Document, StatementError};
use crate::log::publisher::{Outcome, Publisher};
use crate::log::reader::next_of_subject;

/// An advertiser's closed statements at a log time.
#[derive(Default)]
pub struct Closed {
    /// Each with its document, in the order in which they were closed.
    all: Vec<(Statement, Document)>,
}

impl Closed {
    /// Reads those that were closed at or before `time_ms`; all without a time.
    ///
    /// # Errors
    /// [`StatementError`] when STATEMENTS cannot be read, or holds something else.
    pub async fn read(
        client: &Client,
        time_ms: Option<i64>,
        advertiser: &Id,
    ) -> Result<Self, StatementError> {
        let jetstream = jetstream::new(client.clone());
        let subject = format!("statements.{advertiser}.*");
        let (mut closed, mut from) = (Self::default(), 1);
        while let Some(message) =
            next_of_subject(&jetstream, STATEMENTS_STREAM, &subject, from).await?
        {
            if time_ms.is_some_and(|time_ms| message.broker_ms > time_ms) {
                break;
            }
            let sequence = message.sequence;
            let damaged = |source| StatementError::Damaged { sequence, source };
            let sealed = unpacked(&message.payload).map_err(damaged)?;
            let statement = open(&sealed).map_err(damaged)?;
            let document = Document {
                sealed,
                closed: Some(ClosedAt {
                    sequence,
                    at_ms: message.broker_ms,
                }),
            };
            closed.all.push((statement, document));
            from = sequence + 1;
        }
        Ok(closed)
    }

    /// That of a month.
    pub fn find(&self, asked: &Asked) -> Option<&(Statement, Document)> {
        self.all.iter().find(|(s, _)| s.month == asked.month)
    }

    /// All of them.
    pub fn statements(&self) -> Vec<Statement> {
        self.all.iter().map(|(s, _)| s.clone()).collect()
    }
}

/// Closes a statement: publishes its bytes, unless the month is closed already. To close it with the same bytes again
/// is to have closed it. What a message of the broker cannot hold is published packed.
///
/// # Errors
/// [`StatementError::AlreadyClosed`], [`StatementError::TooLarge`] and [`StatementError::NotStored`].
pub async fn close(
    client: &Client,
    asked: &Asked,
    sealed: Vec<u8>,
) -> Result<Document, StatementError> {
    let subject = asked.subject();
    let most = client.server_info().max_payload;
    let message = packed(&sealed, most)?;
    let bytes = message.len();
    let publisher = Publisher::new(client.clone());
    let unstored = match publisher.publish_first(&subject, message).await {
        Outcome::Stored { .. } | Outcome::Conflict(_) => None,
        // The stream takes less than the server.
        Outcome::TooLarge(_) => return Err(StatementError::TooLarge { bytes, most }),
        Outcome::Full(why) | Outcome::Refused(why) | Outcome::Unknown(why) => Some(why),
    };
    // What stands there decides, whatever became of the acknowledgement.
    let jetstream = jetstream::new(client.clone());
    match next_of_subject(&jetstream, STATEMENTS_STREAM, &subject, 1).await? {
        Some(message) if unpacked(&message.payload).is_ok_and(|stored| stored == sealed) => {
            Ok(Document {
                sealed,
                closed: Some(ClosedAt {
                    sequence: message.sequence,
                    at_ms: message.broker_ms,
                }),
            })
        }
        Some(_) => Err(StatementError::AlreadyClosed { subject }),
        None => Err(StatementError::NotStored {
            subject,
            why: unstored.unwrap_or_else(|| "the stream does not hold it".into()),
        }),
    }
}

#[cfg(test)]
impl Closed {
    /// Those statements, closed.
    pub fn of(statements: Vec<Statement>) -> Self {
        let sealed = |statement: &Statement| adtally_projections::statement::sealed(statement);
        let document = |statement: Statement| {
            let document = Document {
                sealed: sealed(&statement),
                closed: None,
            };
            (statement, document)
        };
        Self {
            all: statements.into_iter().map(document).collect(),
        }
    }
}
