//! Delivery: what is done with one message until the broker has it, as decisions over plain data.
//!
//! A message id is bound to its content, so a message is sent again under the same id as often as it takes, and a
//! duplicate is believed only where it can be ours. The caller publishes, reads back and waits as it is told.

use std::time::Duration;

use crate::frame::{EventMessage, decode_events};

/// The first pause before a message is sent again; it doubles.
pub const RETRY_MIN: Duration = Duration::from_millis(50);
/// The longest pause while it is unknown whether the broker has the message.
pub const RETRY_MAX: Duration = Duration::from_secs(2);
/// The longest pause while the stream takes no more.
pub const FULL_RETRY_MAX: Duration = Duration::from_secs(5);
/// The pause after a message was refused as it is.
pub const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// What is known of a message after publishing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The stream holds it.
    Stored {
        /// The stream.
        stream: String,
        /// Its sequence there.
        sequence: u64,
        /// The stream held a message of this id already; this one was not stored.
        duplicate: bool,
    },
    /// It may be stored or not: send it again under the same id.
    Unknown(String),
    /// The stream takes no more: nothing is stored. Keep it, and try again later.
    Full(String),
    /// It is larger than the broker takes: nothing is stored, and trying again will not help.
    TooLarge(String),
    /// Another message came first on the subject: nothing is stored.
    Conflict(String),
    /// The broker refuses it for another reason: nothing is stored.
    Refused(String),
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The broker has the message: nothing.
    Done,
    /// Read what the stream holds there, and hand it to [`Delivery::read_back`].
    ReadBack {
        /// The stream.
        stream: String,
        /// The sequence.
        sequence: u64,
    },
    /// Publish after that pause, under [`Delivery::id`].
    Publish(Duration),
}

/// One message on its way.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The id that binds the message to its content.
    name: String,
    /// The id it is sent under: the name, or another one where the name is taken.
    id: String,
    renamed: u32,
    ours_may_be_there: bool,
    is_full: bool,
    retry: Duration,
}

impl Delivery {
    /// A message that has not been sent yet.
    pub fn new(name: String) -> Self {
        Self {
            id: name.clone(),
            name,
            renamed: 0,
            ours_may_be_there: false,
            is_full: false,
            retry: RETRY_MIN,
        }
    }

    /// The dedup id under which it is to be published.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How often its id was taken by another message.
    pub fn renamed(&self) -> u32 {
        self.renamed
    }

    /// Whether its stream was full the last time that it said what it is.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// The broker has answered a publish, or has not.
    pub fn answered(&mut self, outcome: &Outcome) -> Step {
        match outcome {
            Outcome::Stored { duplicate, .. } if !duplicate || self.ours_may_be_there => Step::Done,
            // Nothing of ours can be there under this opening: somebody else may speak under our id.
            Outcome::Stored {
                stream, sequence, ..
            } => Step::ReadBack {
                stream: stream.clone(),
                sequence: *sequence,
            },
            Outcome::Unknown(_) => {
                self.ours_may_be_there = true;
                Step::Publish(self.pause(RETRY_MAX))
            }
            Outcome::Full(_) => {
                self.is_full = true;
                Step::Publish(self.pause(FULL_RETRY_MAX))
            }
            Outcome::TooLarge(_) | Outcome::Refused(_) | Outcome::Conflict(_) => {
                self.retry = REFUSED_PAUSE;
                Step::Publish(self.pause(REFUSED_PAUSE))
            }
        }
    }

    /// What the stream holds under the id is the same, or not; none when it could not be read. Answers the pause
    /// after which to publish again; none when the broker has the message.
    pub fn read_back(&mut self, is_same: Option<bool>) -> Option<Duration> {
        match is_same {
            Some(true) => None,
            Some(false) => {
                self.renamed += 1;
                self.id = format!("{}-r{}", self.name, self.renamed);
                Some(Duration::ZERO)
            }
            None => Some(self.pause(RETRY_MAX)),
        }
    }

    fn pause(&mut self, longest: Duration) -> Duration {
        let pause = self.retry;
        self.retry = (self.retry * 2).min(longest);
        pause
    }
}

/// Whether a stored message holds what ours does: the same events under the same counters. Its watermark may be
/// another one, since a frame that is cut again after a crash has a new one.
pub fn same_frame(stored: &[u8], ours: &[u8]) -> bool {
    if stored == ours {
        return true;
    }
    match (decode_events(stored), decode_events(ours)) {
        (Ok(EventMessage::Frame(stored)), Ok(EventMessage::Frame(ours))) => {
            (stored.header.epoch, stored.header.kind, stored.header.first)
                == (ours.header.epoch, ours.header.kind, ours.header.first)
                && stored.events == ours.events
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(duplicate: bool) -> Outcome {
        Outcome::Stored {
            stream: "EVENTS_0".to_owned(),
            sequence: 9,
            duplicate,
        }
    }

    fn unknown() -> Outcome {
        Outcome::Unknown("no acknowledgement".to_owned())
    }

    fn millis(step: Step) -> u64 {
        match step {
            Step::Publish(pause) => pause.as_millis() as u64,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_duplicate_is_believed_after_an_unknown_outcome_and_looked_at_before() {
        let mut delivery = Delivery::new("e-click-0-4".to_owned());
        assert_eq!(delivery.answered(&stored(false)), Step::Done);
        let mut delivery = Delivery::new("e-click-0-4".to_owned());
        delivery.answered(&unknown());
        assert_eq!(delivery.id(), "e-click-0-4", "the same id again");
        assert_eq!(delivery.answered(&stored(true)), Step::Done);
        let mut delivery = Delivery::new("e-click-0-4".to_owned());
        let looked_at = Step::ReadBack {
            stream: "EVENTS_0".to_owned(),
            sequence: 9,
        };
        assert_eq!(delivery.answered(&stored(true)), looked_at);
        assert_eq!(delivery.read_back(Some(true)), None);
    }

    #[test]
    fn a_taken_id_is_given_up_for_another_one_each_time() {
        let mut delivery = Delivery::new("e-click-0-4".to_owned());
        delivery.answered(&stored(true));
        assert_eq!(delivery.read_back(Some(false)), Some(Duration::ZERO));
        assert_eq!(delivery.id(), "e-click-0-4-r1");
        delivery.answered(&stored(true));
        assert_eq!(
            delivery.read_back(None),
            Some(RETRY_MIN),
            "nothing is known"
        );
        assert_eq!(delivery.id(), "e-click-0-4-r1");
        delivery.answered(&stored(true));
        delivery.read_back(Some(false));
        assert_eq!((delivery.id(), delivery.renamed()), ("e-click-0-4-r2", 2));
    }

    #[test]
    fn pauses_double_up_to_what_the_outcome_allows() {
        let mut delivery = Delivery::new("m".to_owned());
        let pauses: Vec<_> = (0..8)
            .map(|_| millis(delivery.answered(&unknown())))
            .collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1_600, 2_000, 2_000]);
        let full = Outcome::Full("maximum bytes exceeded".to_owned());
        assert!(!delivery.is_full());
        assert_eq!(millis(delivery.answered(&full)), 2_000);
        assert!(delivery.is_full());
        assert_eq!(millis(delivery.answered(&full)), 4_000);
        assert_eq!(millis(delivery.answered(&full)), 5_000);
        let mut delivery = Delivery::new("m".to_owned());
        let refused = Outcome::Refused("no permission".to_owned());
        assert_eq!(millis(delivery.answered(&refused)), 5_000);
    }

    #[test]
    fn nonsense_is_the_same_only_as_itself() {
        assert!(same_frame(b"x", b"x"));
        assert!(!same_frame(b"x", b"y"));
    }
}
