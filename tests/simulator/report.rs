//! What a world came to: how often each thing happened, and what was not as it must be.

// One list: a thing that could happen and did not stand among all of them would never be missed.
macro_rules! happenings {
    ($($name:ident,)*) => {
        /// Things that happen in a world, each counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Happening {
            $($name,)*
        }

        impl Happening {
            /// All of them.
            pub const ALL: &'static [Happening] = &[$(Happening::$name),*];
        }
    };
}

happenings! {
    AnsweredEvent,
    RefusedEvent,
    ClientRetry,
    SecondWay,
    OtherContent,
    GroupCommit,
    Frame,
    PacedFrame,
    FullFlight,
    Announcement,
    LostRequest,
    LostAck,
    NoResponders,
    StreamFull,
    Duplicate,
    ReadBack,
    Renamed,
    LateDelivery,
    Kill,
    PowerLoss,
    TornTail,
    RecoveredEpoch,
    Drain,
    Clone,
    BrokerKill,
    Election,
    ClockStep,
    LogTimeBack,
    Partition,
    TimeJump,
    SkippedSequence,
    FlippedByte,
    Resend,
    Eviction,
    CatalogueChange,
    StaleCatalogue,
    IntakeRedelivery,
    FoldBatch,
    FoldAgain,
    ProjectorKill,
    ProjectorPowerLoss,
    DuplicateById,
    Conflict,
    LostNamed,
    Replay,
    ReplayFromCheckpoint,
}

/// How often each thing happened.
#[derive(Clone, Debug)]
pub struct Coverage([u64; Happening::ALL.len()]);

impl Default for Coverage {
    fn default() -> Self {
        Self([0; Happening::ALL.len()])
    }
}

impl Coverage {
    /// It happened once more.
    pub fn note(&mut self, what: Happening) {
        self.add(what, 1);
    }

    /// It happened `n` times more.
    pub fn add(&mut self, what: Happening, n: u64) {
        self.0[what as usize] += n;
    }

    /// How often it happened.
    pub fn of(&self, what: Happening) -> u64 {
        self.0[what as usize]
    }

    /// Adds another world's.
    pub fn merge(&mut self, other: &Coverage) {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a += b);
    }

    /// Everything with its count, in words.
    pub fn lines(&self) -> Vec<String> {
        Happening::ALL
            .iter()
            .map(|what| format!("{:<20} {:>12}", format!("{what:?}"), self.of(*what)))
            .collect()
    }
}

/// What a world came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The first thing that was not as it must be.
    pub violation: Option<String>,
    /// A number over everything that happened: the same seed, the same number.
    pub digest: u64,
    /// Virtual time that passed, in milliseconds.
    pub virtual_ms: i64,
    /// How often each thing happened.
    pub coverage: Coverage,
    /// What happened, line by line, where it was asked for.
    pub trace: Vec<String>,
}
