//! The driver of a projector: the real fold of each shard, over a model disk that loses what was not synced.

use adtally_projections::completeness::{Producer, complete_through};
use adtally_projections::dump::Source;
use adtally_projections::family::{Changes, Family, Target, Values};
use adtally_projections::fold::{Entry, Fold};
use adtally_projections::ids;
use adtally_projections::memory::Memory;
use adtally_projections::position::POSITION_KEY;
use adtally_projections::seal::seal;
use adtally_projections::sections::OpenSection;
use adtally_projections::spans::Horizon;

use crate::broker::Message;
use crate::bugs::Bug;
use crate::disk::{Disk, Image};

/// The creation time of every stream; nobody makes them anew here.
const STREAM_CREATED_NS: i64 = 1_704_844_800_000_000_000;

/// One of so many open spans is sealed after each batch.
const SEALED_OF_OPEN: u64 = 5;

/// A batch that ends at such a sequence is followed by a checkpoint.
const CHECKPOINT_AT: u64 = 7;

/// One write to a shard's state.
#[derive(Clone, Debug)]
pub enum Batch {
    /// What a fold changed.
    Changes(Changes),
    /// Log days of the id index past the horizon at that log time are dropped.
    DropIds(i64),
}

impl Image for Memory {
    type Batch = Batch;

    fn apply(&mut self, batch: &Batch) {
        match batch {
            Batch::Changes(changes) => self.write(changes),
            Batch::DropIds(log_time_ms) => {
                self.drop_ids(|day| ids::may_drop(day, *log_time_ms));
            }
        }
    }
}

/// One shard of one projector.
#[derive(Debug)]
pub struct Shard {
    /// Its state.
    pub disk: Disk<Memory>,
    /// The fold in memory; none while the process is down.
    pub fold: Option<Fold>,
    /// A copy of the state at some position, whole and durable; none before the first.
    pub checkpoint: Option<Memory>,
    /// The second half of a commit that a planted bug has cut in two.
    pub second_half: Option<Changes>,
    /// Checkpoints are made: only where a replay will ask for one, since each is a copy of the state.
    makes_checkpoints: bool,
    log_day: i32,
    bug: Option<Bug>,
}

impl Shard {
    /// An empty state.
    pub fn new(bug: Option<Bug>, makes_checkpoints: bool) -> Self {
        Self {
            disk: Disk::new(Memory::default()),
            fold: None,
            checkpoint: None,
            second_half: None,
            makes_checkpoints,
            log_day: i32::MIN,
            bug,
        }
    }

    /// Goes on where the state is.
    pub fn open(&mut self) {
        let values = self.disk.read().read(&Fold::open_reads());
        let fold = Fold::open(&values, STREAM_CREATED_NS).expect("the fold wrote the state");
        self.fold = Some(fold);
        self.log_day = i32::MIN;
    }

    /// The process has died; what is on disk stays.
    pub fn die(&mut self) {
        self.fold = None;
        self.second_half = None;
    }

    /// How far the state is; none while the process is down.
    pub fn sequence(&self) -> Option<u64> {
        self.fold.as_ref().map(|fold| fold.position().sequence)
    }

    /// Folds messages and writes what comes of them. A planted bug leaves a second half for a later write.
    pub fn fold(&mut self, messages: &[Message]) {
        let entries: Vec<Entry> = messages
            .iter()
            .map(|m| Entry::decode(m.sequence, m.broker_ms, &m.subject, &m.payload))
            .collect();
        self.fold_entries(&entries);
    }

    /// Likewise, of what has been read already.
    pub fn fold_entries(&mut self, entries: &[Entry]) {
        let Some(fold) = &mut self.fold else { return };
        let (state, bug) = (self.disk.read(), self.bug);
        let folded = fold
            .fold(entries, |reads| {
                let mut values = state.read(reads);
                if bug == Some(Bug::HorizonByDeletion) {
                    hold_forever(&mut values);
                }
                Ok::<_, std::convert::Infallible>(values)
            })
            .expect("the fold wrote the state");
        let position = fold.position();
        if bug == Some(Bug::PositionApart) {
            let (first, second) = halves(&folded.changes);
            self.disk.write(Batch::Changes(first));
            self.second_half = Some(second);
            return;
        }
        self.disk.write(Batch::Changes(folded.changes));
        self.seal(position.sequence);
        let day = ids::log_day(position.log_time_ms);
        if day != self.log_day {
            self.log_day = day;
            self.disk.write(Batch::DropIds(position.log_time_ms));
        }
        // By the sequence and not by lot, so that every seed's world stays what it was.
        if self.makes_checkpoints && position.sequence.is_multiple_of(CHECKPOINT_AT) {
            self.checkpoint = Some(self.disk.read().clone());
        }
    }

    /// Seals some of the open sections, whether or not they are over: when that is done must change nothing.
    fn seal(&mut self, sequence: u64) {
        let mut open = Vec::new();
        let mut marker = |key: &[u8], _: &[u8]| {
            open.push(OpenSection::decode(key).expect("the fold wrote the marker"));
        };
        let Ok(()) = self.disk.read().scan(Family::OpenSpans, &mut marker);
        let chosen = |at: &usize| (*at as u64 + sequence).is_multiple_of(SEALED_OF_OPEN);
        for (_, section) in open.into_iter().enumerate().filter(|(at, _)| chosen(at)) {
            let mut changes = Changes::default();
            let (campaign, sections) = (section.campaign, [section.section]);
            let (state, horizon) = (self.disk.read(), Horizon::default());
            let sealed = seal(state, campaign, &sections, &horizon, &mut changes)
                .expect("the fold and the sealing wrote the state");
            self.disk.write(Batch::Changes(changes));
            if let (1, Some(fold)) = (sealed.done, &mut self.fold) {
                fold.forget_section(&section);
            }
        }
    }

    /// Writes what a planted bug has left.
    pub fn finish(&mut self) {
        if let Some(second) = self.second_half.take() {
            self.disk.write(Batch::Changes(second));
        }
    }

    /// Every producer that the state knows.
    pub fn producers(&self) -> Vec<Producer> {
        let mut found = Vec::new();
        let mut each = |key: &[u8], value: &[u8]| {
            found.push(Producer::decode(key, value).expect("the fold wrote the row"));
        };
        let Ok(()) = self.disk.read().scan(Family::Completeness, &mut each);
        found
    }

    /// The arrival time up to which the state says that it holds everything.
    pub fn complete_through(&self) -> Option<i64> {
        complete_through(self.producers().iter())
    }
}

/// What is stored of an id holds whatever its age.
fn hold_forever(values: &mut Values) {
    for record in values.ids.iter_mut().flatten() {
        record.log_time_ms = i64::MAX;
    }
}

/// The position, and then everything else.
fn halves(changes: &Changes) -> (Changes, Changes) {
    let (mut position, mut rest) = (Changes::default(), Changes::default());
    for change in changes.iter() {
        let is_position =
            change.target == Target::Family(Family::Meta) && change.key == POSITION_KEY;
        let half = if is_position {
            &mut position
        } else {
            &mut rest
        };
        half.push_with(
            change.target,
            change.op,
            |k| k.extend_from_slice(change.key),
            |v| v.extend_from_slice(change.value),
        );
    }
    (position, rest)
}
