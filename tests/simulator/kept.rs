//! What an outbox keeps on its disk: runs of rows, openings, acknowledged positions.

use std::collections::BTreeMap;
use std::rc::Rc;

use adtally_streams::id::{Epoch, Id};
use adtally_streams::lane::Lane;
use adtally_streams::row::{Run, recovered_lane};

use crate::disk::Image;

/// What is remembered of an opening.
#[derive(Clone, Copy, Debug)]
pub struct EpochRecord {
    /// Its epoch.
    pub epoch: Epoch,
    /// When it was opened, by the process's clock.
    pub opened_ms: i64,
    /// The log has been told that nothing more will come from it.
    pub is_drained: bool,
}

/// What an outbox keeps on disk.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Whose it is.
    pub producer: Option<Id>,
    /// Every opening.
    pub epochs: BTreeMap<Epoch, EpochRecord>,
    runs: BTreeMap<(Epoch, usize, u64), Rc<[u8]>>,
    acked: BTreeMap<(Epoch, usize), u64>,
}

/// One write of a batch.
#[derive(Clone, Debug)]
pub enum Write {
    /// The producer's id.
    Producer(Id),
    /// An opening.
    Opened(EpochRecord),
    /// A run of a lane, under its first counter.
    Run(Epoch, usize, u64, Rc<[u8]>),
    /// How far a lane is acknowledged.
    Acked(Epoch, usize, u64),
    /// Acknowledged runs that lie wholly below a counter are deleted.
    Evict(Epoch, usize, u64),
}

impl Image for Kept {
    type Batch = Vec<Write>;

    fn apply(&mut self, batch: &Self::Batch) {
        for write in batch {
            match write {
                Write::Producer(id) => self.producer = Some(id.clone()),
                Write::Opened(record) => drop(self.epochs.insert(record.epoch, *record)),
                Write::Run(epoch, lane, first, value) => {
                    self.runs.insert((*epoch, *lane, *first), Rc::clone(value));
                }
                Write::Acked(epoch, lane, acked) => {
                    self.acked.insert((*epoch, *lane), *acked);
                }
                Write::Evict(epoch, lane, below) => {
                    self.runs.retain(|(e, l, first), value| {
                        let count = Run::parse(value).map_or(0, |run| run.count);
                        (e, l) != (epoch, lane) || first + count > *below
                    });
                }
            }
        }
    }
}

impl Kept {
    fn runs_of(&self, epoch: Epoch, lane: usize) -> impl Iterator<Item = (u64, Run<'_>)> {
        self.runs
            .range((epoch, lane, 0)..=(epoch, lane, u64::MAX))
            .map(|((.., first), value)| {
                (
                    *first,
                    Run::parse(value).expect("the group commit wrote it"),
                )
            })
    }

    /// Hands the rows from `from` up to but without `until` to `each`, until it says false.
    pub fn rows(
        &self,
        epoch: Epoch,
        lane: usize,
        (from, until): (u64, u64),
        mut each: impl FnMut(&[u8]) -> bool,
    ) {
        self.rows_at(epoch, lane, (from, until), |_, row| each(row));
    }

    /// The same, each row with its counter.
    pub fn rows_at(
        &self,
        epoch: Epoch,
        lane: usize,
        (from, until): (u64, u64),
        mut each: impl FnMut(u64, &[u8]) -> bool,
    ) {
        for (first, mut run) in self.runs_of(epoch, lane) {
            for counter in first..first + run.count {
                let row = run.next_row().expect("a run holds as many rows as it says");
                if counter >= until || (counter >= from && !each(counter, row)) {
                    return;
                }
            }
        }
    }

    /// A lane of an earlier opening, as its runs and its acknowledged position say.
    pub fn recover(&self, epoch: Epoch, lane: usize) -> Lane {
        let acked = self.acked.get(&(epoch, lane)).copied().unwrap_or(0);
        let runs: Vec<_> = self
            .runs_of(epoch, lane)
            .filter(|(first, run)| first + run.count > acked)
            .map(|(first, run)| run.info(first, acked).expect("a run that is whole"))
            .collect();
        recovered_lane(acked, &runs).expect("batches are lost from the end only")
    }
}
