//! What happens to a message between a process and the broker, and to the broker's answer on its way back.

use adtally_streams::delivery::Outcome;

use crate::broker::{Answer, Mishap, Truth};
use crate::report::Happening;
use crate::world::{Event, Parcel, World};

/// How long a publisher waits for an acknowledgement.
const ACK_TIMEOUT_MS: i64 = 5_000;

impl World {
    /// A message reaches the broker, or does not.
    pub fn arrive(&mut self, parcel: Parcel) {
        if !self.reaches(parcel.process) || self.random.permille(self.plan.lost_request) {
            self.coverage.note(Happening::LostRequest);
            let waited = self.random.between(0, ACK_TIMEOUT_MS);
            self.reply(&parcel, None, waited);
            return;
        }
        let mut answer = self.store(&parcel);
        if self.random.permille(self.plan.duplicate) {
            // The network delivers it twice; which of the two answers comes first is open.
            let second = self.store(&parcel);
            if self.random.permille(500) {
                answer = second;
            }
        }
        if self.random.permille(self.plan.lost_ack) {
            self.coverage.note(Happening::LostAck);
            let waited = self.random.between(0, ACK_TIMEOUT_MS);
            self.reply(&parcel, None, waited);
        } else {
            let delay = self.delay();
            self.reply(&parcel, Some(answer), delay);
        }
    }

    fn store(&mut self, parcel: &Parcel) -> Answer {
        let mut mishap = Mishap::default();
        if self.random.permille(self.plan.skip) {
            mishap.skip = 1 + self.random.below(3);
            self.coverage.note(Happening::SkippedSequence);
        }
        let is_frame = matches!(parcel.truth, Truth::Frame { .. });
        if is_frame && self.random.permille(self.plan.flip) {
            mishap.flip = Some(self.random.bits() >> 1);
        }
        let stream = parcel.shard.map_or(self.broker.quarantine(), usize::from);
        let answer = self.broker.streams[stream].publish(
            self.now_ms,
            parcel.id.as_deref(),
            &parcel.subject,
            &parcel.payload,
            &parcel.truth,
            mishap,
        );
        match answer {
            Answer::Stored {
                duplicate: false,
                sequence,
            } => {
                if mishap.flip.is_some() {
                    self.coverage.note(Happening::FlippedByte);
                }
                self.trace(|| {
                    let (subject, id) = (&parcel.subject, &parcel.id);
                    format!("{subject} holds {id:?} at {sequence}: {:?}", parcel.truth)
                });
                self.digest(&parcel.payload);
                self.oracle.stored(parcel, sequence, mishap.flip.is_none());
                if let Some(shard) = parcel.shard {
                    self.call_projectors(shard);
                }
            }
            Answer::Stored { .. } => self.coverage.note(Happening::Duplicate),
            Answer::Full => self.coverage.note(Happening::StreamFull),
            Answer::NoResponders => self.coverage.note(Happening::NoResponders),
        }
        answer
    }

    fn reply(&mut self, parcel: &Parcel, answer: Option<Answer>, delay_ms: i64) {
        let (process, life) = (parcel.process, parcel.life);
        let event = match (parcel.flight, &parcel.truth) {
            (Some(flight), _) => Event::Outcome {
                process,
                life,
                flight,
                outcome: outcome(answer),
            },
            (None, Truth::Announcement { epoch, drained }) => {
                if !matches!(answer, Some(Answer::Stored { .. })) {
                    return;
                }
                Event::Told {
                    process,
                    life,
                    shard: parcel.shard.expect("announcements go to shards"),
                    epoch: *epoch,
                    drained: *drained,
                }
            }
            _ => return,
        };
        self.after(delay_ms, event);
    }
}

/// What the publisher makes of the broker's answer, or of its silence.
fn outcome(answer: Option<Answer>) -> Outcome {
    match answer {
        Some(Answer::Stored {
            sequence,
            duplicate,
        }) => Outcome::Stored {
            stream: String::new(),
            sequence,
            duplicate,
        },
        Some(Answer::Full) => Outcome::Full("maximum bytes exceeded".to_owned()),
        Some(Answer::NoResponders) => Outcome::Unknown("no responders".to_owned()),
        None => Outcome::Unknown("no acknowledgement".to_owned()),
    }
}
