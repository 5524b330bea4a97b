//! The cells of a state that a fold has counted and nobody has written: what a verification needs of them, and no more.
//!
//! Invariant: together with the rows of the state it comes to what the state would come to if the cells were rows, for
//! what a line adds to a comparison is linear in its counters ([`crate::line_hash`]). So verifying folds as anybody
//! folds, and spares making, writing, merging, sealing and reading nine rows of ten. It holds a fingerprint, the lines of
//! some slots where they are asked for, and the names of the symbols.

use crate::codec::Damaged;
use crate::compare::{Cells, Fingerprint, Held, Holder, Printer, Slots};
use crate::dump::{DumpError, Source, is_of_cells, visit_cells_of, visit_rows};
use crate::dump_names::Names;
use crate::family::{Family, Target};
use crate::fold::Folded;
use crate::spans::{Horizon, Span};

/// What it comes to.
#[derive(Debug)]
pub struct Compared {
    /// The fingerprint.
    pub print: Fingerprint,
    /// The lines of the slots that were asked for.
    pub lines: Held,
}

/// Cells that are counted and not written.
#[derive(Debug)]
pub struct Unwritten {
    names: Names,
    horizon: Horizon,
    printer: Printer,
    holder: Option<Holder>,
}

impl Unwritten {
    /// Begins with the cells that a state has as rows and blocks. Nothing is shown before the horizon: that of the state
    /// with which it is to be compared. Lines are held of the slots, where some are given.
    ///
    /// # Errors
    /// [`DumpError`] when the state cannot be read.
    pub fn begin<S: Source>(
        state: &S,
        horizon: Horizon,
        slots: Option<&Slots>,
    ) -> Result<Self, DumpError<S::Error>> {
        let names = Names::read(state).map_err(DumpError::Read)?;
        let mut begun = Self {
            names,
            horizon,
            printer: Printer::default(),
            holder: slots.map(|slots| Holder::new(slots.clone())),
        };
        visit_cells_of(state, &mut begun.taker())?;
        Ok(begun)
    }

    fn taker(&mut self) -> Cells<'_> {
        Cells {
            names: &self.names,
            printer: &mut self.printer,
            holder: self.holder.as_mut(),
        }
    }

    /// Takes the cells of a batch that a fold made no rows of.
    ///
    /// # Errors
    /// [`Damaged`] when it has made rows of them; it is then of no use.
    pub fn take(&mut self, folded: &Folded) -> Result<(), Damaged> {
        for change in folded.changes.iter() {
            match change.target {
                Target::Family(family) if is_of_cells(family) => {
                    return Err(Damaged { what: "change" });
                }
                // A name comes before the first cell under it.
                Target::Family(Family::Symbols) => self.names.take(change.key, change.value),
                Target::Family(_) | Target::Ids(_) => {}
            }
        }
        let horizon = self.horizon;
        let mut taker = self.taker();
        folded.counted.each_row(|row, cells| {
            if horizon.keeps(Span::of(row.bucket)) {
                taker.counted(row, cells);
            }
        });
        Ok(())
    }

    /// What it comes to with the rows of the state that was written without it.
    ///
    /// # Errors
    /// [`DumpError`] when they cannot be read.
    pub fn finish<S: Source>(mut self, state: &S) -> Result<Compared, DumpError<S::Error>> {
        let (printer, mut holder) = (&mut self.printer, self.holder.as_mut());
        visit_rows(state, &self.names, &mut |line| {
            printer.line(&line);
            if let Some(holder) = &mut holder {
                holder.line(&line);
            }
        })?;
        let lines = self.holder.map(|holder| holder.finish(&self.names));
        Ok(Compared {
            print: self.printer.finish(),
            lines: lines.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
#[path = "unwritten_tests.rs"]
mod tests;
