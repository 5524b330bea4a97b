//! Worlds in a row, the same world twice, and bugs that must be found.

use std::collections::BTreeSet;

use crate::bugs::Bug;
use crate::report::{Coverage, Happening};
use crate::run;

/// Worlds that every run of the tests looks at.
const SEEDS: u64 = 500;
/// Worlds in which something was wrong once, beyond those that every run looks at.
const ONCE_WRONG: [u64; 1] = [
    // The first message by which a shard would hear of an epoch is flipped, and another producer announces the next. (So
    // it was before small frames were paced; since then no byte flips in it, and none of the first 370,000 worlds is so.)
    217_220,
];
/// Worlds in which a planted bug must be found.
const FOUND_WITHIN: u64 = 2_000;

#[test]
fn whatever_happens_what_was_answered_counts_once() {
    let mut coverage = Coverage::default();
    for seed in (0..SEEDS).chain(ONCE_WRONG) {
        let report = run(seed, None, false);
        assert_eq!(
            report.violation, None,
            "seed {seed}; once more, with a trace: make simulate SEED={seed} TRACE=1"
        );
        coverage.merge(&report.coverage);
    }
    let never: Vec<_> = Happening::ALL
        .iter()
        .filter(|what| coverage.of(**what) == 0)
        .collect();
    assert!(never.is_empty(), "never happened: {never:?}");
}

#[test]
fn the_same_seed_is_the_same_world() {
    let digests = || (0..40).map(|seed| run(seed, None, false).digest);
    assert_eq!(digests().collect::<Vec<_>>(), digests().collect::<Vec<_>>());
    assert_eq!(
        digests().collect::<BTreeSet<_>>().len(),
        40,
        "different seeds are different worlds"
    );
    let traced = run(3, None, true);
    assert!(traced.trace.len() > 100, "{} lines", traced.trace.len());
    assert_eq!(
        traced.digest,
        run(3, None, false).digest,
        "looking changes nothing"
    );
}

#[test]
fn every_planted_bug_is_found() {
    for bug in Bug::ALL {
        let found = (0..FOUND_WITHIN).find(|seed| run(*seed, Some(bug), false).violation.is_some());
        let seed = found.unwrap_or_else(|| panic!("{} was not found", bug.name()));
        assert_eq!(
            run(seed, None, false).violation,
            None,
            "the world is well without the bug"
        );
        eprintln!("{}: found in world {seed}", bug.name());
    }
}
