//! Which ads stand out: the clicks of the last full hour against the same ad's own hours before.
//!
//! The rule. Clicks of an hour are taken for a count whose variance is `f` times its mean; `2 * sqrt(x + 3/8)` of
//! such a count is close to normal with variance `f`, whatever the mean is (F. J. Anscombe, "The transformation of
//! Poisson, binomial and negative-binomial data", Biometrika 35, 1948, pages 246-254, for `f` = 1). So with `m`
//! the mean of `n` past hours, which is itself uncertain by a variance of `f / n` on that scale,
//!
//! ```text
//! score = 2 * (sqrt(x + 3/8) - sqrt(m + 3/8)) / sqrt(f * (1 + 1/n))
//! ```
//!
//! counts standard deviations. `f` is the past hours' sample variance over their mean, and never less than 1 (R. W.
//! M. Wedderburn, "Quasi-likelihood functions, generalized linear models, and the Gauss-Newton method", Biometrika
//! 61, 1974, pages 439-447): an ad whose clicks come in bursts has to burst more than it is used to.
//!
//! Invariant: a score depends on the ad's own counts alone, so neither order nor shards nor other ads change it.

/// The fewest clicks of the last hour with which an ad is mentioned: fewer can be one person.
pub const MIN_CLICKS: i64 = 5;
/// The fewest past hours that an ad is compared with: a younger ad has no past to stand out against.
pub const MIN_HOURS: usize = 3;
/// The least score of an answer, in standard deviations: a steady ad reaches it in 1 hour of 740.
pub const THRESHOLD: f64 = 3.0;
/// How many hours before the last one are looked at.
pub const PAST_HOURS: i64 = 24;
/// How long before the past hours an ad's first event is looked for, in days: an ad without any for so long counts
/// as one that begins again.
pub const FIRST_EVENT_WITHIN_DAYS: i64 = 30;
/// How many ads are answered when no limit is asked for.
pub const DEFAULT_LIMIT: usize = 10;
/// The most ads that can be asked for.
pub const MAX_LIMIT: usize = 1_000;

/// What was counted of one ad.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// The ad.
    pub ad_id: String,
    /// The campaign that is named with it.
    pub campaign_id: String,
    /// Valid clicks of the last full hour.
    pub clicks: i64,
    /// Valid impressions of that hour.
    pub impressions: i64,
    /// Valid clicks of each past hour, the oldest first; none where the ad had no event of any kind.
    pub past: Vec<Option<i64>>,
    /// Whether the ad had an event before the first of them.
    pub is_older: bool,
}

/// What an ad's past hours were like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Baseline {
    /// How many hours.
    pub hours: usize,
    /// Mean clicks of an hour.
    pub mean: f64,
    /// Their sample variance.
    pub variance: f64,
}

/// An ad that stands out.
#[derive(Clone, Debug, PartialEq)]
pub struct Trend {
    /// The ad.
    pub ad_id: String,
    /// The campaign that is named with it.
    pub campaign_id: String,
    /// Valid clicks of the last full hour.
    pub clicks: i64,
    /// Valid impressions of that hour.
    pub impressions: i64,
    /// What it is compared with.
    pub baseline: Baseline,
    /// By how many standard deviations it stands out.
    pub score: f64,
}

impl Baseline {
    /// The hours from the ad's first event on; none when they are fewer than [`MIN_HOURS`].
    pub fn of(past: &[Option<i64>], is_older: bool) -> Option<Self> {
        let first = if is_older {
            0
        } else {
            past.iter().position(Option::is_some)?
        };
        let clicks: Vec<f64> = past[first..]
            .iter()
            .map(|n| n.unwrap_or(0).max(0) as f64)
            .collect();
        if clicks.len() < MIN_HOURS {
            return None;
        }
        let hours = clicks.len() as f64;
        let mean = clicks.iter().sum::<f64>() / hours;
        let squares: f64 = clicks.iter().map(|n| (n - mean) * (n - mean)).sum();
        Some(Self {
            hours: clicks.len(),
            mean,
            variance: squares / (hours - 1.0),
        })
    }

    /// By how many standard deviations an hour with so many clicks stands out; negative when it is a weak one.
    pub fn score(&self, clicks: i64) -> f64 {
        let stable = |n: f64| 2.0 * (n + 0.375).sqrt();
        let dispersion = if self.mean > 0.0 {
            (self.variance / self.mean).max(1.0)
        } else {
            1.0
        };
        let variance = dispersion * (1.0 + 1.0 / self.hours as f64);
        (stable(clicks.max(0) as f64) - stable(self.mean)) / variance.sqrt()
    }
}

/// The ads that stand out, at most `limit`: the greatest score first, then by ad id.
pub fn trends(ads: impl IntoIterator<Item = Counted>, limit: usize) -> Vec<Trend> {
    let stands_out = |ad: Counted| {
        let baseline = Baseline::of(&ad.past, ad.is_older)?;
        let score = baseline.score(ad.clicks);
        (ad.clicks >= MIN_CLICKS && score >= THRESHOLD).then_some(Trend {
            ad_id: ad.ad_id,
            campaign_id: ad.campaign_id,
            clicks: ad.clicks,
            impressions: ad.impressions,
            baseline,
            score,
        })
    };
    let mut found: Vec<Trend> = ads.into_iter().filter_map(stands_out).collect();
    found.sort_by(|a, b| {
        b.score
            .total_cmp(&a.score)
            .then_with(|| a.ad_id.cmp(&b.ad_id))
    });
    found.truncate(limit);
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hours(clicks: &[i64]) -> Vec<Option<i64>> {
        clicks.iter().copied().map(Some).collect()
    }

    fn score(clicks: i64, past: &[i64]) -> f64 {
        Baseline::of(&hours(past), true).unwrap().score(clicks)
    }

    fn ad(ad_id: &str, clicks: i64, past: &[i64]) -> Counted {
        Counted {
            ad_id: ad_id.to_owned(),
            campaign_id: "spring".to_owned(),
            clicks,
            impressions: 100,
            past: hours(past),
            is_older: true,
        }
    }

    #[test]
    fn scores_are_those_of_a_calculator() {
        // 2 * (sqrt(25.375) - sqrt(4.375)) / sqrt(1.25), and over another sqrt(16 / 3) where the variance is 64 / 3.
        for (clicks, past, want) in [
            (25, &[4; 4][..], 5.269446874081107),
            (25, &[0, 8, 0, 8], 2.2817374284233694),
            (4, &[4; 4], 0.0),
            (5, &[0; 24], 3.343126676640219),
            (5, &[0; 3], 2.9549344292724316),
            (9, &[1; 3], 3.2722912577401164),
            (1_000, &[100, 110, 90, 100], 38.657094648683206),
        ] {
            let got = score(clicks, past);
            assert!((got - want).abs() < 1e-9, "{clicks} after {past:?}: {got}");
        }
    }

    #[test]
    fn hours_before_the_first_event_do_not_count_and_silent_ones_after_it_do() {
        let past = [None, None, Some(0), None, Some(6)];
        let young = Baseline::of(&past, false).unwrap();
        assert_eq!((young.hours, young.mean, young.variance), (3, 2.0, 12.0));
        let old = Baseline::of(&past, true).unwrap();
        assert_eq!((old.hours, old.mean), (5, 1.2));
        assert_eq!(Baseline::of(&past[3..], false), None);
        assert_eq!(Baseline::of(&[None; 24], false), None);
        assert_eq!(Baseline::of(&[None; 24], true).unwrap().mean, 0.0);
        assert_eq!(Baseline::of(&[], true), None);
    }

    #[test]
    fn what_stands_out_comes_in_order_and_the_rest_not_at_all() {
        let ads = [
            ad("b", 25, &[4; 4]),
            ad("a", 25, &[4; 4]),
            ad("c", 1_000, &[100, 110, 90, 100]),
            ad("usual", 5, &[4; 4]),
            ad("bursty", 25, &[0, 8, 0, 8]),
            ad("few", 4, &[0; 24]),
            ad("young", 500, &[1, 1]),
            ad("weak", 0, &[50; 24]),
        ];
        let names = |limit| {
            let found = trends(ads.clone(), limit);
            found.into_iter().map(|t| t.ad_id).collect::<Vec<_>>()
        };
        assert_eq!(names(MAX_LIMIT), ["c", "a", "b"]);
        assert_eq!(names(2), ["c", "a"]);
    }

    #[test]
    fn a_steady_ad_stands_out_no_more_often_than_a_normal_variable_passes_three() {
        // One-sided tail of the standard normal distribution past 3.
        let normal_tail = 0.00135;
        for mean in [1, 2, 5, 20, 100, 400] {
            let baseline = Baseline::of(&hours(&[mean; 24]), true).unwrap();
            let (m, mut probability, mut tail) = (mean as f64, (-(mean as f64)).exp(), 0.0);
            for clicks in 0..2_000 {
                if baseline.score(clicks) >= THRESHOLD {
                    tail += probability;
                }
                probability *= m / (clicks + 1) as f64;
            }
            assert!(tail < normal_tail, "Poisson({mean}): {tail}");
            assert!(tail > 0.0, "Poisson({mean})");
        }
    }

    proptest! {
        #[test]
        fn more_clicks_score_higher_and_the_order_of_the_past_does_not_matter(
            past in proptest::collection::vec(0i64..10_000, MIN_HOURS..30),
            clicks in 0i64..1_000_000,
            more in 1i64..1_000,
        ) {
            prop_assert!(score(clicks + more, &past) > score(clicks, &past));
            let mut turned = past.clone();
            turned.reverse();
            prop_assert!((score(clicks, &past) - score(clicks, &turned)).abs() < 1e-6);
            // The textbook's one-pass form of the variance, in whole numbers.
            let (n, sum, squares) = (past.len() as i64, past.iter().sum::<i64>(), past.iter().map(|x| x * x).sum::<i64>());
            let want = (n * squares - sum * sum) as f64 / (n * (n - 1)) as f64;
            let got = Baseline::of(&hours(&past), true).unwrap().variance;
            prop_assert!((got - want).abs() <= 1e-9 * want.max(1.0), "{} {}", got, want);
        }

        #[test]
        fn no_counts_break_it(
            past in proptest::collection::vec(proptest::option::of(any::<i64>()), 0..30),
            clicks in any::<i64>(),
            is_older in any::<bool>(),
        ) {
            if let Some(baseline) = Baseline::of(&past, is_older) {
                prop_assert!(baseline.score(clicks).is_finite());
            }
        }
    }
}
