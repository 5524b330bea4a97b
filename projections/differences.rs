//! What differs between two states, told line by line with both values.
//!
//! Invariant: a line that both states have is no difference. Two lines of one key are one difference with two values.

use std::collections::BTreeMap;

use crate::dump::Line;
use crate::dump_line::parts;

/// A line that is held, and what it is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kept {
    section: &'static str,
    campaign: Option<String>,
    day: Option<i32>,
    text: String,
}

impl Kept {
    /// Of a line.
    pub fn of(line: &Line<'_>) -> Self {
        Self {
            section: line.section(),
            campaign: line.campaign().map(str::to_owned),
            day: line.day(),
            text: line.text(),
        }
    }

    /// The family and what of it the line is about.
    fn about(&self) -> (&'static str, &str) {
        (self.section, parts(&self.text).0)
    }

    fn value(&self) -> String {
        parts(&self.text).1.to_owned()
    }
}

/// A difference between two states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The family.
    pub section: &'static str,
    /// The campaign, where the line is about one.
    pub campaign: Option<String>,
    /// The day, counted from 1970-01-01, where the line is about one.
    pub day: Option<i32>,
    /// What the line is about.
    pub key: String,
    /// What one state says; none: it has no such line.
    pub one: Option<String>,
    /// What the other state says.
    pub other: Option<String>,
}

impl Difference {
    fn of(about: &Kept, one: Option<&Kept>, other: Option<&Kept>) -> Self {
        Self {
            section: about.section,
            campaign: about.campaign.clone(),
            day: about.day,
            key: about.about().1.to_owned(),
            one: one.map(Kept::value),
            other: other.map(Kept::value),
        }
    }
}

/// What differs between the lines of two states, which are sorted.
pub fn differences(one: &[Kept], other: &[Kept]) -> Vec<Difference> {
    let mut others: BTreeMap<(&str, &str), Vec<&Kept>> = BTreeMap::new();
    for line in surplus(other, one) {
        others.entry(line.about()).or_default().push(line);
    }
    let mut list: Vec<Difference> = surplus(one, other)
        .map(|line| {
            let pair = others.get_mut(&line.about()).and_then(Vec::pop);
            Difference::of(line, Some(line), pair)
        })
        .collect();
    let alone = others.into_values().flatten();
    list.extend(alone.map(|line| Difference::of(line, None, Some(line))));
    list.sort_by(|a, b| {
        (a.section, &a.campaign, a.day, &a.key).cmp(&(b.section, &b.campaign, b.day, &b.key))
    });
    list
}

/// The lines that the others, which are sorted, have not got.
fn surplus<'a>(of: &'a [Kept], than: &[Kept]) -> impl Iterator<Item = &'a Kept> {
    of.iter().filter(|line| than.binary_search(line).is_err())
}
