//! Which open sections are to be sealed at a log time, and which of them together.
//!
//! Invariant: a section is due once it is over and its margin has passed; what came late for it, once as much has passed
//! since then, so that late events one by one do not each make its blocks anew. With a section that is due everything of
//! its span that is over is sealed, come late or not. So the blocks of a campaign's span are made anew at most once for
//! each of its sections, and once a margin for what comes late.

use std::collections::{BTreeMap, BTreeSet};

use crate::sections::{OpenSection, Section};
use crate::spans::{Margins, Span};
use crate::symbols::Symbol;

#[derive(Clone, Copy, Debug)]
struct Due {
    /// When it is over and its margin has passed.
    closed_ms: i64,
    /// When it is to be sealed.
    due_ms: i64,
}

/// Open sections by the log time at which they are due.
#[derive(Debug)]
pub struct Waiting {
    margins: Margins,
    most: usize,
    by_time: BTreeSet<(i64, OpenSection)>,
    sections: BTreeMap<OpenSection, Due>,
    has_more: bool,
}

impl Waiting {
    /// Nothing waits. At most `most` sections are known, those due first; whoever adds more is told by
    /// [`Waiting::has_room_for_more`] when to look for the others again.
    pub fn new(margins: Margins, most: usize) -> Self {
        Self {
            margins,
            most,
            by_time: BTreeSet::new(),
            sections: BTreeMap::new(),
            has_more: false,
        }
    }

    /// Adds a section that got a row at a log time, with the offset of a cell of it where that is known. One that waits
    /// already goes on waiting as it does.
    pub fn add(&mut self, open: OpenSection, offset_s: Option<i32>, opened_ms: i64) {
        let margin_ms = self.margins.after_ms[open.section.grain as usize];
        let end_ms = open.section.end_ms(offset_s);
        let due = Due {
            closed_ms: end_ms.saturating_add(margin_ms),
            due_ms: end_ms.max(opened_ms).saturating_add(margin_ms),
        };
        if self.sections.contains_key(&open) {
            return;
        }
        self.sections.insert(open, due);
        self.by_time.insert((due.due_ms, open));
        if self.sections.len() > self.most
            && let Some((_, last)) = self.by_time.pop_last()
        {
            self.sections.remove(&last);
            self.has_more = true;
        }
    }

    /// A section is not to be sealed any more.
    pub fn remove(&mut self, open: &OpenSection) {
        if let Some(due) = self.sections.remove(open) {
            self.by_time.remove(&(due.due_ms, *open));
        }
    }

    /// A campaign's span is not to be sealed any more.
    pub fn remove_span(&mut self, campaign: Symbol, span: Span) {
        let of_span: Vec<OpenSection> = self.of_span(campaign, span).map(|(s, _)| s).collect();
        of_span.iter().for_each(|section| self.remove(section));
    }

    fn of_span(&self, campaign: Symbol, span: Span) -> impl Iterator<Item = (OpenSection, Due)> {
        let bound = |first: i64| OpenSection {
            campaign,
            section: Section {
                grain: span.grain,
                first,
                offset_s: i32::MIN,
            },
        };
        let (from, to) = span.hot_range();
        self.sections
            .range(bound(from)..bound(to))
            .filter(move |(open, _)| open.section.span() == span)
            .map(|(open, due)| (*open, *due))
    }

    /// Whether a section is due at a log time.
    pub fn is_due(&self, log_time_ms: i64) -> bool {
        self.by_time
            .first()
            .is_some_and(|(due_ms, _)| *due_ms <= log_time_ms)
    }

    /// The campaign and the sections of one span, in order, that are to be sealed at a log time; none when nothing is due.
    pub fn due(&self, log_time_ms: i64) -> Option<(Symbol, Vec<Section>)> {
        let (due_ms, first) = *self.by_time.first()?;
        if due_ms > log_time_ms {
            return None;
        }
        let sections = self
            .of_span(first.campaign, first.section.span())
            .filter(|(_, due)| due.closed_ms <= log_time_ms)
            .map(|(open, _)| open.section)
            .collect();
        Some((first.campaign, sections))
    }

    /// How many sections are due.
    pub fn behind(&self, log_time_ms: i64) -> usize {
        self.by_time
            .range(..=(log_time_ms, OpenSection::MAX))
            .count()
    }

    /// Whether some had no room, and half of the room is free.
    pub fn has_room_for_more(&self) -> bool {
        self.has_more && self.sections.len() <= self.most / 2
    }

    /// They are about to be added again.
    pub fn look_again(&mut self) {
        self.has_more = false;
    }
}

#[cfg(test)]
#[path = "waiting_tests.rs"]
mod tests;
