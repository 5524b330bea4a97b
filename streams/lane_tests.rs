//! Lanes held against a model that remembers every event: nothing is announced before its acknowledgement.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use proptest::prelude::*;

use crate::lane::*;
use crate::names::FRAME_MAX_EVENTS;

#[test]
fn a_frame_holds_what_its_budget_says() {
    let mut budget = FrameBudget::new(1 << 20);
    assert_eq!((0..2_000).take_while(|_| budget.admits(100)).count(), 1_024);
    // 10,000 bytes less 2,048 are 7,952; a row of 372 costs 500.
    let mut budget = FrameBudget::new(10_000);
    assert_eq!((0..2_000).take_while(|_| budget.admits(372)).count(), 15);
    let mut budget = FrameBudget::new(10_000);
    assert!(budget.admits(50_000), "the first row always fits");
    assert!(!budget.admits(1));
}

#[test]
fn one_small_frame_or_four_full_ones_are_under_way() {
    let mut lane = Lane::default();
    assert!(!lane.may_cut(1 << 19));
    lane.accepted(10, 1_000, 5);
    assert!(lane.may_cut(1 << 19));
    assert_eq!(lane.cut(10, 1_000), 0);
    lane.accepted(FRAME_MAX_EVENTS as u64 - 1, 100_000, 6);
    assert!(
        !lane.may_cut(1 << 19),
        "a small frame waits for the one before it"
    );
    lane.accepted(1, 100, 6);
    for n in 0..3 {
        assert!(lane.may_cut(1 << 19), "a full frame does not wait");
        assert_eq!(lane.cut(FRAME_MAX_EVENTS as u64, 100_100), 10 + n * 1_024);
        lane.accepted(FRAME_MAX_EVENTS as u64, 100_100, 7);
    }
    assert!(!lane.may_cut(1 << 19), "four are under way");
    assert_eq!(
        lane.landed(10),
        0,
        "acknowledged out of order: nothing is contiguous yet"
    );
    assert_eq!(lane.landed(0), 1_034);
    assert!(lane.may_cut(1 << 19));
    assert_eq!(
        lane.landed(12_345),
        1_034,
        "a frame that is not under way changes nothing"
    );
    assert_eq!(
        (lane.acked(), lane.unacked(), lane.waiting()),
        (1_034, 3 * 1_024, 1_024)
    );
}

#[test]
fn frames_that_are_not_full_are_cut_apart_and_nothing_else_waits() {
    let ms = Duration::from_millis;
    let lane = |events, row_bytes| {
        let mut lane = Lane::default();
        lane.accepted(events, row_bytes, 1);
        lane
    };
    for (what, lane, since_last, due) in [
        ("nothing waits", lane(0, 0), None, None),
        ("the first one", lane(1, 100), None, Some(0)),
        ("just after one", lane(1, 100), Some(0), Some(100)),
        ("a little later", lane(1_023, 102_300), Some(3), Some(97)),
        ("in time", lane(1_023, 102_300), Some(100), Some(0)),
        ("after a rest", lane(1, 100), Some(5_000), Some(0)),
        ("a full frame", lane(1_024, 102_400), Some(0), Some(0)),
        ("many bytes", lane(2, 1 << 19), Some(0), Some(0)),
    ] {
        let cut_in = lane.cut_in(1 << 19, since_last.map(ms));
        assert_eq!(cut_in, due.map(ms), "{what}");
    }
    let mut under_way = lane(1, 100);
    under_way.cut(1, 100);
    under_way.accepted(300, 30_000, 2);
    assert_eq!(
        under_way.cut_in(1 << 19, Some(ms(5_000))),
        None,
        "less than a full frame waits for the one that is under way"
    );
}

#[test]
fn waiting_bytes_make_a_frame_full() {
    let mut lane = Lane::default();
    lane.accepted(1, 10, 1);
    lane.cut(1, 10);
    lane.accepted(100, 90_000, 1);
    assert!(!lane.may_cut(200_000));
    // 90,000 bytes and 100 times 128 are 102,800.
    assert!(lane.may_cut(102_800));
}

#[test]
fn the_index_stays_bounded_through_a_long_backlog() {
    let mut index = ArrivalIndex::default();
    for n in 0..2_000_000_u64 {
        index.push(n + 1, n as i64 * 1_000);
    }
    assert_eq!(index.oldest_ms(), Some(0));
    index.acknowledged(1_000_000);
    let oldest = index.oldest_ms().unwrap();
    assert!(oldest <= 1_000_000_000, "never younger than the truth");
    assert!(oldest >= 990_000_000, "and near it: {oldest}");
    index.acknowledged(2_000_000);
    assert_eq!(index.oldest_ms(), None);
}

#[test]
fn a_limit_holds_the_announcement_back() {
    let mut in_flight = InFlight::default();
    assert_eq!(through_ms(in_flight.horizon(1_000), None), 999);
    in_flight.limit(Some(500));
    assert_eq!(through_ms(in_flight.horizon(2_000), None), 499);
    in_flight.limit(None);
    assert_eq!(
        in_flight.arrive(1_500),
        2_000,
        "the clock stepped back behind what was announced"
    );
    assert_eq!(
        through_ms(in_flight.horizon(3_000), Some(i64::MIN)),
        0,
        "never negative"
    );
    assert_eq!(through_ms(in_flight.horizon(3_000), None), 1_999);
    in_flight.leave(2_000);
    in_flight.leave(2_000);
    assert_eq!(through_ms(in_flight.horizon(3_000), None), 2_999);
}

#[test]
fn message_ids_read_as_the_design_says() {
    assert_eq!(
        quarantine_message_id(Epoch(0xab), 7),
        "00000000000000ab-quarantine-7-7"
    );
}

#[derive(Clone, Debug)]
enum Step {
    Tick(i64),
    Arrive,
    ArriveOld(i64),
    GiveUp(usize),
    Accept(usize, usize),
    Cut(usize, u64),
    Land(usize, usize),
    Announce,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (-50_i64..400).prop_map(Step::Tick),
        6 => Just(Step::Arrive),
        1 => (0_i64..2_000).prop_map(Step::ArriveOld),
        1 => (0_usize..8).prop_map(Step::GiveUp),
        6 => (0_usize..8, 0_usize..3).prop_map(|(a, b)| Step::Accept(a, b)),
        4 => (0_usize..3, 1_u64..6).prop_map(|(a, b)| Step::Cut(a, b)),
        4 => (0_usize..3, 0_usize..4).prop_map(|(a, b)| Step::Land(a, b)),
        3 => Just(Step::Announce),
    ]
}

/// Every event, remembered one by one.
#[derive(Clone, Debug)]
struct Seen {
    arrival: i64,
    lane: Option<(usize, u64)>,
    acked: bool,
    given_up: bool,
}

#[derive(Default)]
struct Model {
    now: i64,
    limit: i64,
    lanes: [Lane; 3],
    in_flight: InFlight,
    seen: Vec<Seen>,
    flights: [Vec<(u64, u64)>; 3],
    announced: i64,
}

impl Model {
    fn nth_open(&self, n: usize) -> Option<usize> {
        let open: Vec<usize> = (0..self.seen.len())
            .filter(|i| self.seen[*i].lane.is_none() && !self.seen[*i].given_up)
            .collect();
        open.get(n % open.len().max(1)).copied()
    }

    fn arrive(&mut self, arrival: i64) {
        self.seen.push(Seen {
            arrival,
            lane: None,
            acked: false,
            given_up: false,
        });
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Tick(by) => self.now = (self.now + by).max(0),
            Step::Arrive => {
                let at = self.in_flight.arrive(self.now);
                self.arrive(at);
            }
            Step::ArriveOld(back) => {
                let at = (self.now - back).max(self.limit);
                let at = self.in_flight.arrive_at(at);
                self.arrive(at);
            }
            Step::GiveUp(n) => {
                if let Some(i) = self.nth_open(n) {
                    self.seen[i].given_up = true;
                    self.in_flight.leave(self.seen[i].arrival);
                }
            }
            Step::Accept(n, lane) => {
                if let Some(i) = self.nth_open(n) {
                    self.seen[i].lane = Some((lane, self.lanes[lane].head()));
                    self.lanes[lane].accepted(1, 100, self.seen[i].arrival);
                    self.in_flight.leave(self.seen[i].arrival);
                }
            }
            Step::Cut(lane, count) => {
                let (before, waiting) = (self.lanes[lane].next(), self.lanes[lane].waiting());
                let first = self.lanes[lane].cut(count, count * 100);
                assert_eq!(first, before);
                if waiting > 0 {
                    self.flights[lane].push((first, first + count.min(waiting)));
                }
            }
            Step::Land(lane, n) => {
                if !self.flights[lane].is_empty() {
                    let at = n % self.flights[lane].len();
                    let (first, end) = self.flights[lane].remove(at);
                    self.lanes[lane].landed(first);
                    for event in &mut self.seen {
                        event.acked |= event
                            .lane
                            .is_some_and(|(l, c)| l == lane && c >= first && c < end);
                    }
                }
            }
            Step::Announce => self.announce(),
        }
    }

    fn announce(&mut self) {
        // The limit rises as far as the model will ever send old arrivals.
        self.limit = self.limit.max(self.now - 1_000);
        self.in_flight.limit(Some(self.limit));
        let horizon = self.in_flight.horizon(self.now);
        let oldest = self.lanes.iter().filter_map(Lane::oldest_ms).min();
        self.announced = self.announced.max(through_ms(horizon, oldest));
        for (n, lane) in self.lanes.iter().enumerate() {
            let of_lane = self
                .seen
                .iter()
                .filter(|e| e.lane.is_some_and(|(l, _)| l == n));
            let first_unacked = of_lane
                .clone()
                .filter(|e| !e.acked)
                .filter_map(|e| e.lane)
                .map(|(_, c)| c)
                .min();
            assert_eq!(lane.head(), of_lane.count() as u64);
            assert_eq!(lane.acked(), first_unacked.unwrap_or(lane.head()));
        }
        self.check();
    }

    /// Whatever has been announced holds for every event there ever was, those that came later too.
    fn check(&self) {
        for event in self.seen.iter().filter(|e| !e.given_up && !e.acked) {
            assert!(
                event.arrival > self.announced,
                "{event:?} is announced by {}",
                self.announced
            );
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_announced_before_its_acknowledgement(steps in prop::collection::vec(step(), 1..300)) {
        let mut model = Model { now: 10_000, ..Model::default() };
        for step in steps {
            model.run(step);
            model.check();
        }
        // Everything lands in the end, and then nothing holds the announcement back but the clock.
        while model.nth_open(0).is_some() {
            model.run(Step::Accept(0, 0));
        }
        for lane in 0..3 {
            model.run(Step::Cut(lane, 1 << 40));
            while !model.flights[lane].is_empty() {
                model.run(Step::Land(lane, 0));
            }
        }
        model.in_flight.limit(None);
        prop_assert_eq!(model.lanes.iter().filter_map(Lane::oldest_ms).min(), None);
        prop_assert_eq!(model.in_flight.horizon(i64::MAX), i64::MAX);
    }

    #[test]
    fn the_index_is_never_younger_than_the_truth(
        runs in prop::collection::vec((1_u64..5, 0_i64..5_000), 1..200),
        acks in prop::collection::vec(0_u64..1_000, 1..20),
    ) {
        let mut index = ArrivalIndex::default();
        let mut truth: Vec<(u64, i64)> = Vec::new();
        let mut end = 0;
        for (count, arrival) in runs {
            end += count;
            index.push(end, arrival);
            truth.push((end, arrival));
        }
        let mut acks = acks;
        acks.sort_unstable();
        for acked in acks {
            index.acknowledged(acked);
            let oldest = truth.iter().filter(|(end, _)| *end > acked).map(|(_, a)| *a).min();
            match (index.oldest_ms(), oldest) {
                (Some(said), Some(real)) => prop_assert!(said <= real && said > real - ARRIVAL_MERGE_MS),
                (said, real) => prop_assert_eq!(said, real),
            }
        }
    }
}

#[test]
fn an_arrival_that_another_clock_dates_is_later_than_whatever_was_announced() {
    let mut arrivals = InFlight::default();
    arrivals.limit(Some(100));
    assert_eq!(arrivals.horizon(500), 100);
    // The broker has another leader, whose clock is behind.
    assert_eq!(arrivals.arrive_at(95), 100);
    assert_eq!(arrivals.arrive_at(130), 130);
    arrivals.limit(Some(200));
    assert_eq!(arrivals.horizon(500), 100);
    arrivals.leave(100);
    assert_eq!(arrivals.horizon(500), 130);
    arrivals.limit(Some(90));
    assert_eq!(
        arrivals.horizon(500),
        90,
        "what is not known to be complete is not announced"
    );
    assert_eq!(
        arrivals.arrive_at(95),
        130,
        "and yet 130 has been announced"
    );
}
