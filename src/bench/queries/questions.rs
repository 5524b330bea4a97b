//! The questions, each as a query of the API and as the yardsticks' program takes it, and an answer's digest, which
//! is the same whoever answers.

use anyhow::Context as _;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::load::{LARGE, SMALL, tail_campaign};

const DAY_S: i64 = 86_400;
/// What the yardsticks' cells have, and so what all are asked for.
const METRICS: [&str; 3] = ["impressions", "clicks", "cost_micros"];
/// Two questions that differ in how much time they are about, and another large one.
pub const YEAR: &str = "1 y by day by region and device";
pub const HOURS: &str = "30 d by hour by region";
pub const MONTH: &str = "30 d by day by region and device";

/// A question.
#[derive(Clone, Debug, Serialize)]
pub struct Question {
    /// What it asks.
    pub name: &'static str,
    /// Of which campaign.
    pub campaign: String,
    /// Length of a bucket; `total` for one.
    pub grain: &'static str,
    /// The range, in seconds of the Unix epoch.
    pub start_s: i64,
    /// The end of the range.
    pub end_s: i64,
    /// Dimensions, by the API's names.
    pub group_by: &'static [&'static str],
    /// The one device that counts.
    pub device: Option<&'static str>,
    /// How often it is asked.
    pub runs: usize,
    /// Whether adtally is to say all its metrics, and not only those that the others have too.
    #[serde(skip)]
    pub all_metrics: bool,
}

/// The questions about a year that ends at `end_s`.
pub fn questions(end_s: i64) -> Vec<Question> {
    let ask = |name, grain, days: i64, group_by, runs| Question {
        name,
        campaign: LARGE.to_owned(),
        grain,
        start_s: end_s - days * DAY_S,
        end_s,
        group_by,
        device: None,
        runs,
        all_metrics: false,
    };
    let of_ios = |question: Question| Question {
        device: Some("ios"),
        ..question
    };
    vec![
        ask("24 h by hour by device", "hour", 1, &["device"], 200),
        ask(HOURS, "hour", 30, &["region"], 100),
        ask(YEAR, "day", 365, &["region", "device"], 50),
        ask(MONTH, "day", 30, &["region", "device"], 100),
        ask("1 d by minute", "minute", 1, &[], 100),
        ask("top ads over 30 d", "total", 30, &["ad_id"], 100),
        of_ios(ask(
            "30 d by day by ad and region, one device",
            "day",
            30,
            &["ad_id", "region"],
            30,
        )),
        of_ios(ask(
            "30 d by hour by ad and region, one device",
            "hour",
            30,
            &["ad_id", "region"],
            10,
        )),
        small(end_s),
    ]
}

/// The question about a small campaign.
pub fn small(end_s: i64) -> Question {
    Question {
        name: "a small campaign, 30 d by hour by region",
        campaign: tail_campaign(SMALL),
        grain: "hour",
        start_s: end_s - 30 * DAY_S,
        end_s,
        group_by: &["region"],
        device: None,
        runs: 200,
        all_metrics: false,
    }
}

impl Question {
    /// The same of all metrics.
    pub fn with_all_metrics(&self) -> Self {
        Self {
            all_metrics: true,
            ..self.clone()
        }
    }

    /// The path of the API that asks it, with the plan, by which the answer says how long it took.
    pub fn path(&self) -> String {
        let at = |s| {
            chrono::DateTime::from_timestamp(s, 0)
                .unwrap_or_default()
                .format("%Y-%m-%dT%H:%M:%SZ")
        };
        let mut path = format!(
            "/api/v1/analytics?campaign_id={}&granularity={}&start={}&end={}&fill=none&explain=true",
            self.campaign,
            self.grain,
            at(self.start_s),
            at(self.end_s)
        );
        if !self.all_metrics {
            path.push_str(&format!("&metrics={}", METRICS.join(",")));
        }
        if !self.group_by.is_empty() {
            path.push_str(&format!("&group_by={}", self.group_by.join(",")));
        }
        if let Some(device) = self.device {
            path.push_str(&format!("&device={device}"));
        }
        path
    }

    /// The digest of the API's answer, as the yardsticks' program makes its own, and how many rows it has.
    pub fn digest(&self, answer: &Value) -> anyhow::Result<(String, usize)> {
        let rows = answer["rows"].as_array().context("an answer has rows")?;
        let mut lines = rows
            .iter()
            .map(|row| {
                let time = row["time"].as_str().context("a row has a time")?;
                let time = chrono::DateTime::parse_from_rfc3339(time)?.timestamp();
                let group = self
                    .group_by
                    .iter()
                    .map(|name| row[name].as_str().unwrap_or_default());
                let mut fields: Vec<String> = vec![time.to_string()];
                fields.extend(group.map(str::to_owned));
                for metric in METRICS {
                    fields.push(
                        row[metric]
                            .as_i64()
                            .context("a row has metrics")?
                            .to_string(),
                    );
                }
                Ok(fields.join("|"))
            })
            .collect::<anyhow::Result<Vec<String>>>()?;
        lines.sort_unstable();
        let mut hash = Sha256::new();
        for line in &lines {
            hash.update(line.as_bytes());
            hash.update(b"\n");
        }
        let digest = hash.finalize();
        Ok((
            digest.iter().map(|b| format!("{b:02x}")).collect(),
            lines.len(),
        ))
    }
}
