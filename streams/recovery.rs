//! Recovery: the lanes of an earlier opening, put together from what its disk says.
//!
//! A lane is contiguous, so a lane of which a part is lost for good is shipped in parts, one after the other: the
//! later part begins past what is lost, and by announcing that everything before it is acknowledged it has the log
//! name those counters as lost.

use crate::lane::Lane;
use crate::row::{MissingRun, RunInfo};

/// A lane's parts, as its runs from counter `acked` on, its acknowledged position, and what of it is known to be lost
/// (half-open, ascending) say. At least one part, though it may be empty.
///
/// Only acknowledged runs are ever deleted, so a lane that begins past its position has been acknowledged so far,
/// and the position was not yet written again.
///
/// # Errors
/// [`MissingRun`] when runs are gone that are not known to be lost: the disk is damaged.
pub fn recovered_parts(
    acked: u64,
    runs: &[RunInfo],
    lost: &[(u64, u64)],
) -> Result<Vec<Lane>, MissingRun> {
    let acked = runs.first().map_or(acked, |run| run.first.max(acked));
    let (mut parts, mut lane) = (Vec::new(), Lane::starting_at(acked));
    for run in runs {
        let (expected, found) = (lane.head(), run.first);
        if found != expected {
            if !lost.contains(&(expected, found)) {
                return Err(MissingRun { expected, found });
            }
            parts.push(std::mem::replace(&mut lane, Lane::starting_at(found)));
        }
        lane.accepted(run.count, run.bytes, run.oldest_ms);
    }
    parts.push(lane);
    Ok(parts)
}

/// The lanes of an epoch's parts, each part with one lane for each of `lanes`. A lane that has fewer parts than others
/// is empty in those that follow, and ends where it ends.
pub fn epoch_parts(lanes: &[Vec<Lane>]) -> Vec<Vec<Lane>> {
    let count = lanes.iter().map(Vec::len).max().unwrap_or(0);
    let part = |n: usize| {
        lanes.iter().map(move |parts| match parts.get(n) {
            Some(lane) => lane.clone(),
            None => Lane::starting_at(parts.last().map_or(0, Lane::head)),
        })
    };
    (0..count).map(|n| part(n).collect()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn run(first: u64, count: u64) -> RunInfo {
        RunInfo {
            first,
            count,
            oldest_ms: first as i64,
            bytes: count * 10,
        }
    }

    fn ends(lanes: &[Lane]) -> Vec<(u64, u64)> {
        lanes.iter().map(|l| (l.acked(), l.head())).collect()
    }

    #[test]
    fn a_whole_lane_is_one_part_and_a_hole_that_nobody_declared_is_damage() {
        assert_eq!(ends(&recovered_parts(7, &[], &[]).unwrap()), [(7, 7)]);
        let runs = [run(3, 2), run(5, 4)];
        assert_eq!(ends(&recovered_parts(3, &runs, &[]).unwrap()), [(3, 9)]);
        assert_eq!(
            ends(&recovered_parts(1, &runs, &[]).unwrap()),
            [(3, 9)],
            "what lies before was acknowledged and evicted"
        );
        let missing = MissingRun {
            expected: 5,
            found: 6,
        };
        for lost in [&[][..], &[(4, 6)], &[(5, 7)]] {
            let parts = recovered_parts(3, &[run(3, 2), run(6, 1)], lost);
            assert_eq!(parts.unwrap_err(), missing);
        }
    }

    #[test]
    fn a_lane_with_declared_holes_is_shipped_in_parts_and_its_epoch_waits_for_all() {
        let runs = [run(0, 2), run(5, 1), run(8, 3)];
        let torn = recovered_parts(0, &runs, &[(2, 5), (6, 8)]).unwrap();
        assert_eq!(ends(&torn), [(0, 2), (5, 6), (8, 11)]);
        let whole = recovered_parts(4, &[run(4, 6)], &[]).unwrap();
        let parts = epoch_parts(&[torn, whole]);
        let ends: Vec<_> = parts.iter().map(|lanes| ends(lanes)).collect();
        assert_eq!(
            ends,
            [[(0, 2), (4, 10)], [(5, 6), (10, 10)], [(8, 11), (10, 10)]]
        );
        assert_eq!(
            parts[0].iter().map(Lane::waiting).collect::<Vec<_>>(),
            [2, 6]
        );
    }
}
