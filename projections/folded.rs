//! What folding a batch came to.

use adtally_streams::event::Kind;

use crate::applied::Applied;
use crate::counted::Counted;
use crate::family::Changes;
use crate::sections::OpenSection;
use crate::totals::Totals;

/// What a batch came to.
#[derive(Debug, Default)]
pub struct Folded {
    /// What is to be written, all at once; empty when no message of the batch was new.
    pub changes: Changes,
    /// What was counted, by [`Kind`].
    pub totals: [Totals; Kind::ALL.len()],
    /// Messages that could not be applied, and frames of which some events were refused.
    pub bad_frames: u64,
    /// Messages that were new.
    pub messages: u64,
    /// Campaigns' sections that have got their first rows since they were sealed, each with the offset of a cell.
    pub opened: Vec<(OpenSection, i32)>,
    /// The cells, of a fold that makes no rows of them.
    pub counted: Counted,
}

impl Folded {
    pub(crate) fn count_judged(&mut self, applied: &Applied<'_>) {
        let judged = applied
            .events
            .iter()
            .filter(|at| applied.frame.verdict[**at as usize].is_some())
            .count();
        let totals = &mut self.totals[applied.kind() as usize];
        totals.applied += applied.events.len() as i64;
        totals.judged_invalid += judged as i64;
    }
}
