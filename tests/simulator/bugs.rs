//! Bugs that are planted to see that the simulator finds them.
//!
//! They live in the drivers of this crate, around the code under test and not in it: nothing that is shipped knows
//! of them.

/// A classic bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A collector answers when the batch is written and not yet synced.
    AnswerBeforeSync,
    /// The position is committed in a batch of its own, before what it speaks of.
    PositionApart,
    /// A frame's message id names its first counter only, so that a frame that is cut anew collides with it.
    IdByFirstCounter,
    /// An id is a duplicate for as long as its row is stored, and not for seven days of log time.
    HorizonByDeletion,
    /// The watermark takes what has been sent for acknowledged.
    WatermarkBeforeAck,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 5] = [
        Bug::AnswerBeforeSync,
        Bug::PositionApart,
        Bug::IdByFirstCounter,
        Bug::HorizonByDeletion,
        Bug::WatermarkBeforeAck,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Bug::AnswerBeforeSync => "answer-before-sync",
            Bug::PositionApart => "position-apart",
            Bug::IdByFirstCounter => "id-by-first-counter",
            Bug::HorizonByDeletion => "horizon-by-deletion",
            Bug::WatermarkBeforeAck => "watermark-before-ack",
        }
    }

    /// The bug of that name.
    pub fn from_name(name: &str) -> Option<Bug> {
        Bug::ALL.into_iter().find(|bug| bug.name() == name)
    }
}
