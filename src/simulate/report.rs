//! The end of a run: sent, acknowledged, expected and answered, as a table for people and as JSON for programs.

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::{CellAlignment, Table};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use serde::Serialize;

use super::Run;
use super::compare::Comparison;
use super::ledger::{Counts, Summary};
use super::plan::Plan;
use crate::table::table;

/// Differences that the table prints; the JSON report has all.
const SHOWN_DIFFERENCES: usize = 20;

/// A finished run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The traffic's seed.
    pub seed: u64,
    /// Before every catalogue id of the run.
    pub tag: String,
    /// `http` or `nats`.
    pub via: &'static str,
    /// Events made, broken ones and second sends included.
    pub events: u64,
    /// How long sending took.
    pub seconds: f64,
    /// Sends and acknowledgements.
    pub sends: Summary,
    /// Ledger and API.
    pub comparison: Comparison,
    /// Whether everything is as it must be.
    pub equal: bool,
}

impl Report {
    /// The report of `run`.
    pub fn new(run: &Run, events: u64, sending: Duration, comparison: Comparison) -> Self {
        let sends = run.ledger.summary();
        let equal = comparison.differences.is_empty()
            && sends.given_up == 0
            && sends.wrongly_refused == 0
            && sends.broken_accepted == 0
            && sends.broken_refused == sends.broken_sent;
        Self {
            seed: run.seed,
            tag: run.tag.clone(),
            via: run.way.name(),
            events,
            seconds: sending.as_secs_f64(),
            sends,
            comparison,
            equal,
        }
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "{}", self.sends_table());
        let _ = writeln!(out, "{}", self.campaigns_table());
        for line in self.findings() {
            let _ = writeln!(out, "{line}");
        }
        out
    }

    fn sends_table(&self) -> Table {
        let mut table = table(&["kind", "sent", "acknowledged", "distinct"]);
        for (kind, s) in &self.sends.kinds {
            table.add_row([
                (*kind).to_string(),
                grouped(s.sent as i64),
                grouped(s.acknowledged as i64),
                grouped(s.distinct as i64),
            ]);
        }
        table.add_row([
            "broken".to_string(),
            grouped(self.sends.broken_sent as i64),
            format!("{} refused", grouped(self.sends.broken_refused as i64)),
            "0".to_string(),
        ]);
        align(table)
    }

    fn campaigns_table(&self) -> Table {
        let mut header = vec!["campaign".to_string()];
        for what in ["impressions", "clicks", "invalid", "cost"] {
            header.extend([format!("{what}\nsent"), format!("{what}\nAPI")]);
        }
        let names: Vec<&str> = header.iter().map(String::as_str).collect();
        let mut table = table(&names);
        let (mut ours, mut theirs) = (Counts::default(), Counts::default());
        for line in &self.comparison.campaigns {
            ours.add(&line.expected);
            theirs.add(&line.answered);
            let money = |micros| format!("{} {}", amount(micros), line.currency_code);
            table.add_row(row(
                &line.campaign_id,
                &line.expected,
                &line.answered,
                [
                    money(line.expected.cost_micros),
                    money(line.answered.cost_micros),
                ],
            ));
        }
        // Money of different currencies has no sum.
        table.add_row(row("all", &ours, &theirs, [String::new(), String::new()]));
        align(table)
    }

    fn findings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let rate = if self.seconds > 0.0 {
            self.events as f64 / self.seconds
        } else {
            0.0
        };
        lines.push(format!(
            "{} events by {} in {:.1} s ({rate:.0} a second), seed {}, {} sends repeated.",
            grouped(self.events as i64),
            self.via,
            self.seconds,
            self.seed,
            self.sends.retries
        ));
        if self.sends.given_up > 0 {
            lines.push(format!(
                "{} events were never acknowledged: whether they count is unknown.",
                self.sends.given_up
            ));
        }
        if self.sends.wrongly_refused > 0 {
            lines.push(format!(
                "{} sound events were refused.",
                self.sends.wrongly_refused
            ));
        }
        if self.sends.broken_accepted > 0 {
            lines.push(format!(
                "{} broken events were accepted.",
                self.sends.broken_accepted
            ));
        }
        if self.sends.broken_refused != self.sends.broken_sent {
            let (sent, refused) = (self.sends.broken_sent, self.sends.broken_refused);
            lines.push(format!(
                "{sent} broken events were sent and {refused} refused."
            ));
        }
        for d in self.comparison.differences.iter().take(SHOWN_DIFFERENCES) {
            lines.push(format!(
                "{}: {} sent {}, API {}.",
                d.ad_id, d.metric, d.expected, d.answered
            ));
        }
        let hidden = self
            .comparison
            .differences
            .len()
            .saturating_sub(SHOWN_DIFFERENCES);
        if hidden > 0 {
            lines.push(format!(
                "And {hidden} more differences; --report FILE has them all."
            ));
        }
        if !self.comparison.complete {
            lines.push("The API does not yet say that everything acknowledged is counted (complete_through).".into());
        }
        lines.push(if self.equal {
            "Equal: every ad's impressions, clicks, invalid ones and cost are what was sent.".into()
        } else {
            "NOT equal.".into()
        });
        lines
    }
}

fn row(name: &str, ours: &Counts, theirs: &Counts, cost: [String; 2]) -> Vec<String> {
    let pair = |a: i64, b: i64| [grouped(a), grouped(b)];
    let mut cells = vec![name.to_string()];
    cells.extend(pair(ours.impressions, theirs.impressions));
    cells.extend(pair(ours.clicks, theirs.clicks));
    cells.extend(pair(
        ours.invalid_clicks + ours.invalid_impressions,
        theirs.invalid_clicks + theirs.invalid_impressions,
    ));
    cells.extend(cost);
    cells
}

fn align(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// `1234567` as `1,234,567`.
pub fn grouped(n: i64) -> String {
    let digits = n.unsigned_abs().to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if n < 0 {
        out.push('-');
    }
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Micros as units with all the places that are not zero, at least two.
pub fn amount(micros: i64) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let all = micros.unsigned_abs();
    let fraction = format!("{:06}", all % 1_000_000);
    let kept = fraction.trim_end_matches('0').len().max(2);
    format!(
        "{sign}{}.{}",
        grouped((all / 1_000_000) as i64),
        &fraction[..kept]
    )
}

/// A bar on a terminal, nothing elsewhere.
pub fn progress(plan: Plan) -> ProgressBar {
    let expected = plan.events.or(match (plan.rate, plan.duration) {
        (Some(rate), Some(duration)) => Some((rate * duration.as_secs_f64()) as u64),
        _ => None,
    });
    let (bar, template) = match expected {
        Some(n) => (
            ProgressBar::new(n),
            "{wide_bar} {human_pos}/{human_len} events, {rate}, {eta} left",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {human_pos} events, {rate}",
        ),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.with_key(
            "rate",
            |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                // What cannot be drawn is left out of the bar, and nothing else depends on it.
                let _ = write!(out, "{:.0}/s", state.per_sec());
            },
        ));
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [
                grouped(0),
                grouped(999),
                grouped(1_234_567),
                grouped(-1_000)
            ],
            ["0", "999", "1,234,567", "-1,000"]
        );
        assert_eq!(
            [amount(350_000), amount(1_234_500_001), amount(-5)],
            ["0.35", "1,234.500001", "-0.000005"]
        );
    }
}
