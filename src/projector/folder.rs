//! The fold of one shard and what it has counted: each batch is folded, written, and sealed where spans are over.
//!
//! Invariant: one writer a state. What a batch changes is written at once, all of it or nothing; after an error the state
//! is that of an earlier batch, and the fold must be opened again.
//!
//! A fold that is only to be compared with another state keeps its cells unwritten, and then has nothing to seal.

use std::sync::Arc;
use std::time::{Duration, Instant};

use adtally_projections::family::Reads;
use adtally_projections::fold::{Entry, Fold, Folded};
use adtally_projections::ids;
use adtally_projections::unwritten::Unwritten;

use super::sealer::{Portion, Sealer};
use super::{Progress, ProjectorError};
use crate::fail_points::{Point, pass};
use crate::store::{Shard, StoreError};

/// Where the time of a batch went, decoding apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Reading the state.
    pub read: Duration,
    /// Folding proper.
    pub compute: Duration,
    /// Writing the batch.
    pub write: Duration,
}

/// What becomes of the cells of a fold.
#[derive(Debug)]
enum Cells<'c> {
    /// They are rows, and sealed when their spans are over.
    Written(Box<Sealer>),
    /// They are counted only.
    Unwritten(&'c mut Unwritten),
}

/// The fold of a shard and the state that it writes.
#[derive(Debug)]
pub struct Folder<'c> {
    shard: Arc<Shard>,
    fold: Fold,
    cells: Cells<'c>,
    log_day: i32,
}

impl<'c> Folder<'c> {
    /// Goes on where the state is.
    pub fn open(shard: Arc<Shard>, stream_created_ns: i64) -> Result<Self, ProjectorError> {
        let sealer = Sealer::open(Arc::clone(&shard))?;
        let fold = shard.open_fold(stream_created_ns)?;
        Ok(Self::of(shard, fold, Cells::Written(Box::new(sealer))))
    }

    /// Goes on where the state is, with its cells and those that come in `cells`.
    pub fn open_unwritten(
        shard: Arc<Shard>,
        stream_created_ns: i64,
        cells: &'c mut Unwritten,
    ) -> Result<Self, ProjectorError> {
        let fold = shard.open_fold(stream_created_ns)?.keeping_cells();
        Ok(Self::of(shard, fold, Cells::Unwritten(cells)))
    }

    fn of(shard: Arc<Shard>, fold: Fold, cells: Cells<'c>) -> Self {
        Self {
            shard,
            fold,
            cells,
            log_day: i32::MIN,
        }
    }

    /// How far it is.
    pub fn sequence(&self) -> u64 {
        self.fold.position().sequence
    }

    /// Folds a batch and writes it. After an error it must be opened again.
    pub fn apply(&mut self, entries: &[Entry]) -> Result<Folded, ProjectorError> {
        self.apply_timed(entries).map(|(folded, _)| folded)
    }

    /// The same, and where the time went.
    pub fn apply_timed(&mut self, entries: &[Entry]) -> Result<(Folded, Times), ProjectorError> {
        let shard = &self.shard;
        let mut times = Times::default();
        let began = Instant::now();
        let read = |reads: &Reads| {
            let began = Instant::now();
            let values = shard.read(reads);
            times.read += began.elapsed();
            values
        };
        let folded = self.fold.fold(entries, read);
        let folded = folded.map_err(|source| ProjectorError::Fold {
            shard: shard.number(),
            source,
        })?;
        times.compute = began.elapsed() - times.read;
        pass(Point::FoldBuilt);
        let began = Instant::now();
        self.write(&folded)?;
        times.write = began.elapsed();
        pass(Point::FoldWritten);
        let log_time_ms = self.fold.position().log_time_ms;
        if let Cells::Written(sealer) = &mut self.cells {
            sealer.opened(&folded.opened, log_time_ms);
        }
        let day = ids::log_day(log_time_ms);
        if day != self.log_day {
            self.log_day = day;
            self.shard.drop_expired_ids(log_time_ms)?;
        }
        Ok((folded, times))
    }

    fn write(&mut self, folded: &Folded) -> Result<(), StoreError> {
        if let Cells::Unwritten(cells) = &mut self.cells {
            let taken = cells.take(folded);
            taken.map_err(|source| self.shard.damaged(source))?;
        }
        self.shard.write(&folded.changes)
    }

    /// Whether something is to be sealed, or cells to be deleted, at the log time of the state.
    pub fn is_sealing_due(&self) -> bool {
        let position = self.fold.position();
        match &self.cells {
            Cells::Written(sealer) => position.sequence > 0 && sealer.is_due(position.log_time_ms),
            Cells::Unwritten(_) => false,
        }
    }

    /// Seals a portion of what is due. After an error it must be opened again.
    pub fn seal(&mut self) -> Result<Portion, ProjectorError> {
        let Cells::Written(sealer) = &mut self.cells else {
            return Ok(Portion::default());
        };
        let portion = sealer.portion(self.fold.position().log_time_ms)?;
        portion
            .done
            .iter()
            .for_each(|section| self.fold.forget_section(section));
        Ok(portion)
    }

    /// How many sections of spans are due and not sealed.
    pub fn spans_behind(&self) -> usize {
        match &self.cells {
            Cells::Written(sealer) => sealer.behind(self.fold.position().log_time_ms),
            Cells::Unwritten(_) => 0,
        }
    }

    /// How far it is, for others to see.
    pub fn progress(&self) -> Progress {
        let position = self.fold.position();
        Progress {
            verified: true,
            sequence: position.sequence,
            log_time_ms: position.log_time_ms,
        }
    }
}
