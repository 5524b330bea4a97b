//! The group commit: everything that waits becomes one write, and then everybody is answered.
//!
//! Pure state of the one writer: which rows of which lane are in the commit under way, and under which counters.
//! The order is the caller's to keep: write with a sync, then show the lanes what is on disk, then answer.

use crate::row::{ROW_PREFIX_BYTES, RunBuilder};

/// Events of one group commit; more wait for the next.
pub const GROUP_MAX_EVENTS: usize = 16_384;
/// Bytes of rows of one group commit.
pub const GROUP_MAX_BYTES: u64 = 8 << 20;
/// Bytes after which a lane's run is closed within a commit, so that the shipper need not read far for a few rows.
pub const RUN_MAX_BYTES: usize = 256 << 10;

/// A row on its way to the disk.
#[derive(Clone, Debug)]
pub struct Row {
    /// Index of its lane in the epoch.
    pub lane: usize,
    /// When the event arrived, in Unix milliseconds; for a refused one the latest time there is, since it holds
    /// nothing back.
    pub arrival_ms: i64,
    /// What is stored.
    pub bytes: Vec<u8>,
}

/// What a lane gained by a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gained {
    /// The lane.
    pub lane: usize,
    /// Events, or records of refused ones.
    pub count: u64,
    /// Bytes of their rows with their prefixes.
    pub row_bytes: u64,
    /// No event of them arrived before this, in Unix milliseconds.
    pub oldest_ms: i64,
}

/// A lane's part of the commit that is being put together.
#[derive(Debug, Default)]
struct Pending {
    run: RunBuilder,
    /// Counter of the run's first event.
    first: u64,
    /// Of all runs of this commit.
    count: u64,
    row_bytes: u64,
    oldest_ms: i64,
}

/// The commit that is being put together, over the lanes of one epoch.
#[derive(Debug)]
pub struct Group {
    lanes: Vec<Pending>,
    touched: Vec<usize>,
    events: usize,
    bytes: u64,
}

impl Group {
    /// An empty commit over that many lanes.
    pub fn new(lanes: usize) -> Self {
        Self {
            lanes: (0..lanes).map(|_| Pending::default()).collect(),
            touched: Vec::new(),
            events: 0,
            bytes: 0,
        }
    }

    /// Whether the commit should be written before more is added.
    pub fn is_full(&self) -> bool {
        self.events >= GROUP_MAX_EVENTS || self.bytes >= GROUP_MAX_BYTES
    }

    /// Events in the commit.
    pub fn events(&self) -> usize {
        self.events
    }

    /// Adds a row. `head` is the counter of the lane's next event, and nobody else adds to a lane while a commit is
    /// under way; `put` takes the lane, the first counter and the value of each run that is to be written.
    pub fn add(
        &mut self,
        row: &Row,
        head: impl FnOnce(usize) -> u64,
        put: &mut impl FnMut(usize, u64, &[u8]),
    ) {
        let stored_bytes = (row.bytes.len() + ROW_PREFIX_BYTES) as u64;
        self.events += 1;
        self.bytes += stored_bytes;
        let lane = &mut self.lanes[row.lane];
        if lane.count == 0 {
            lane.oldest_ms = row.arrival_ms;
            lane.first = head(row.lane);
            self.touched.push(row.lane);
        }
        lane.run.push(&row.bytes, row.arrival_ms);
        lane.count += 1;
        lane.row_bytes += stored_bytes;
        lane.oldest_ms = lane.oldest_ms.min(row.arrival_ms);
        if lane.run.bytes() >= RUN_MAX_BYTES {
            lane.close_run(row.lane, put);
        }
    }

    /// Closes the runs that are open. What `put` has taken is then the whole commit.
    pub fn close(&mut self, put: &mut impl FnMut(usize, u64, &[u8])) {
        for lane in &self.touched {
            self.lanes[*lane].close_run(*lane, put);
        }
    }

    /// What the lanes gained. To be called once the commit is on disk; the next one begins here.
    pub fn committed(&mut self) -> impl Iterator<Item = Gained> {
        (self.events, self.bytes) = (0, 0);
        let lanes = &mut self.lanes;
        self.touched.drain(..).map(|index| {
            let lane = &mut lanes[index];
            Gained {
                lane: index,
                count: std::mem::take(&mut lane.count),
                row_bytes: std::mem::take(&mut lane.row_bytes),
                oldest_ms: lane.oldest_ms,
            }
        })
    }
}

impl Pending {
    fn close_run(&mut self, index: usize, put: &mut impl FnMut(usize, u64, &[u8])) {
        let count = self.run.count();
        if count > 0 {
            put(index, self.first, self.run.finish());
            self.first += count;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::row::Run;

    fn row(lane: usize, arrival_ms: i64, bytes: &[u8]) -> Row {
        Row {
            lane,
            arrival_ms,
            bytes: bytes.to_vec(),
        }
    }

    #[test]
    fn rows_of_a_lane_are_one_run_under_the_counters_from_its_head() {
        let mut group = Group::new(3);
        let heads = [10, 20, 30];
        let mut runs = Vec::new();
        let mut put =
            |lane: usize, first: u64, value: &[u8]| runs.push((lane, first, value.to_vec()));
        for r in [row(2, 9, b"a"), row(0, 7, b"bb"), row(2, 8, b"c")] {
            group.add(&r, |lane| heads[lane], &mut put);
        }
        group.close(&mut put);
        let read: Vec<_> = runs
            .iter()
            .map(|(lane, first, value)| {
                let mut run = Run::parse(value).unwrap();
                let rows: Vec<_> =
                    std::iter::from_fn(|| run.next_row().map(<[u8]>::to_vec)).collect();
                (*lane, *first, run.oldest_ms, rows)
            })
            .collect();
        assert_eq!(
            read,
            [
                (2, 30, 8, vec![b"a".to_vec(), b"c".to_vec()]),
                (0, 10, 7, vec![b"bb".to_vec()])
            ]
        );
        let gained: Vec<_> = group.committed().collect();
        let of = |lane, count, row_bytes, oldest_ms| Gained {
            lane,
            count,
            row_bytes,
            oldest_ms,
        };
        assert_eq!(gained, [of(2, 2, 10, 8), of(0, 1, 6, 7)]);
        assert_eq!((group.events(), group.committed().count()), (0, 0));
    }

    #[test]
    fn a_long_run_is_closed_and_the_next_one_goes_on_with_its_counters() {
        let mut group = Group::new(1);
        let mut firsts = Vec::new();
        let mut put = |_: usize, first: u64, value: &[u8]| {
            firsts.push((first, Run::parse(value).unwrap().count));
        };
        let big = row(0, 5, &vec![0; RUN_MAX_BYTES / 2]);
        for _ in 0..5 {
            group.add(&big, |_| 100, &mut put);
        }
        group.close(&mut put);
        assert_eq!(firsts, [(100, 2), (102, 2), (104, 1)]);
        assert_eq!(group.committed().next().unwrap().count, 5);
    }

    #[test]
    fn a_commit_is_full_by_events_and_by_bytes() {
        let mut group = Group::new(1);
        for n in 0..GROUP_MAX_EVENTS {
            assert!(!group.is_full(), "after {n}");
            group.add(&row(0, 0, b""), |_| 0, &mut |_, _, _| {});
        }
        assert!(group.is_full());
        group.committed().for_each(drop);
        assert!(!group.is_full());
        let chunk = row(0, 0, &vec![0; 1 << 20]);
        for _ in 0..8 {
            group.add(&chunk, |_| 0, &mut |_, _, _| {});
        }
        assert!(group.is_full());
    }
}
