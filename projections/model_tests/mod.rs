//! The fold against a small world: whatever producers and broker do, what was answered counts once.
//!
//! The oracle is plain code over what was answered and what the log holds; it shares nothing with the fold but the
//! text of a dump's lines.

#![allow(clippy::unwrap_used)]

mod oracle;
mod sealing;
mod unwritten;
mod visitors;
mod world;

use std::collections::BTreeSet;

use adtally_streams::event::Kind;

use crate::completeness::{self, Producer};
use crate::dump::{Source, dump};
use crate::family::{Family, Target};
use crate::fold::{Entry, Fold};
use crate::ids;
use crate::ledger::{self, Intervals};
use crate::memory::Memory;
use crate::spans::Retention;
use crate::totals::{self, Totals};
use world::{Message, Random, Wild, World};

/// Worlds of each sort.
const SEEDS: u64 = 150;

fn open(state: &Memory) -> Fold {
    Fold::open(&state.read(&Fold::open_reads()), 4_711).unwrap()
}

fn entry(message: &Message) -> Entry {
    Entry::decode(
        message.sequence,
        message.broker_ms,
        &message.subject,
        &message.payload,
    )
}

fn fold(fold: &mut Fold, entries: &[Entry], state: &mut Memory) {
    let folded = fold
        .fold(entries, |reads| Ok::<_, ()>(state.read(reads)))
        .unwrap();
    state.write(&folded.changes);
}

/// One message a batch, from one end to the other, never sealed.
fn plainly(log: &[Message], retention: Retention) -> Memory {
    let mut state = Memory::default();
    state.keep(retention);
    let mut all = open(&state);
    log.iter()
        .for_each(|message| fold(&mut all, &[entry(message)], &mut state));
    state
}

/// In batches of any size, with restarts, messages that come twice, a batch that is lost before it is written,
/// log days dropped as soon as they may be, and any spans sealed at any time.
fn wildly(log: &[Message], retention: Retention, random: &mut Random) -> Memory {
    let entries: Vec<Entry> = log.iter().map(entry).collect();
    let mut state = Memory::default();
    state.keep(retention);
    let mut all = open(&state);
    let mut at = 0;
    while at < entries.len() {
        let end = entries.len().min(at + 1 + random.below(20) as usize);
        let from = at.saturating_sub(random.below(3) as usize);
        if random.percent(10) {
            all.fold(&entries[from..end], |reads| Ok::<_, ()>(state.read(reads)))
                .unwrap();
            all = open(&state);
            continue;
        }
        fold(&mut all, &entries[from..end], &mut state);
        let log_time_ms = all.position().log_time_ms;
        state.drop_ids(|day| ids::may_drop(day, log_time_ms));
        sealing::at_random(&mut state, &mut all, random);
        if random.percent(20) {
            all = open(&state);
        }
        at = end;
    }
    state
}

fn counted(state: &Memory) -> BTreeSet<String> {
    dump(state)
        .unwrap()
        .iter()
        .filter(oracle::is_counted)
        .map(|line| oracle::without_bytes(line))
        .collect()
}

fn assert_lines(seed: u64, have: &BTreeSet<String>, want: &BTreeSet<String>) {
    let missing: Vec<_> = want.difference(have).take(5).collect();
    let surplus: Vec<_> = have.difference(want).take(5).collect();
    assert!(
        have == want,
        "seed {seed}: missing {missing:#?}, surplus {surplus:#?}"
    );
}

fn assert_totals(seed: u64, state: &Memory, want: &[Totals; 3]) {
    for kind in Kind::ALL {
        let mut key = Vec::new();
        totals::key(&mut key, kind);
        let have = state
            .get(Target::Family(Family::Totals), &key)
            .map_or(Totals::default(), |v| Totals::decode(v).unwrap());
        assert_eq!(have, want[kind as usize], "seed {seed}, {kind}");
        let sum = have.applied
            + have.duplicates_ledger
            + have.duplicates_id
            + have.conflicts
            + have.refused;
        assert_eq!(
            have.events, sum,
            "seed {seed}, {kind}: every event became something"
        );
    }
}

/// What the state says is lost must be what was announced as acknowledged and is not in the log.
fn assert_gaps(seed: u64, state: &Memory, told: &oracle::Counted) -> u64 {
    let mut lost = 0;
    let mut each = |key: &[u8], value: &[u8]| {
        let producer = Producer::decode(key, value).unwrap();
        for kind in Kind::ALL {
            let mut key = Vec::new();
            ledger::key(&mut key, producer.epoch, kind);
            let applied = state.get(Target::Family(Family::Ledger), &key);
            let applied = applied.map_or(Intervals::default(), |v| Intervals::decode(v).unwrap());
            // At its last message no epoch has been silent, so none is settled.
            let at_ms = producer.last_seen_ms;
            let gap = completeness::gap(&producer, kind, &applied, at_ms);
            let lane = (producer.epoch.0, kind);
            let (acked, head) = told.announced[&lane];
            let is_there = |counter: &u64| {
                told.counters
                    .get(&lane)
                    .is_some_and(|c| c.contains(counter))
            };
            assert_eq!(
                gap.lost_events(),
                (0..acked).filter(|c| !is_there(c)).count() as u64,
                "seed {seed}"
            );
            let outstanding = (acked..head.max(acked)).filter(|c| !is_there(c)).count() as u64;
            assert_eq!(gap.outstanding_events(), outstanding, "seed {seed}");
            lost += gap.lost_events();
        }
    };
    let Ok(()) = state.scan(Family::Completeness, &mut each);
    lost
}

/// Folds a world in both manners, holds it against its log, and answers it with its state.
fn check(seed: u64, wild: Wild) -> (World, Memory, u64) {
    let mut world = World::run(seed, wild);
    let state = plainly(&world.log, Retention::ALL);
    let other = wildly(&world.log, Retention::ALL, &mut world.random);
    assert_eq!(
        dump(&state).unwrap(),
        dump(&other).unwrap(),
        "seed {seed}: batches or sealing changed the state"
    );
    sealing::assert_cuboids_agree(&other);
    let told = oracle::of_log(&world.log);
    assert_lines(seed, &counted(&state), &oracle::lines(&told.events));
    assert_totals(seed, &state, &told.totals);
    let bad = dump(&state)
        .unwrap()
        .iter()
        .filter(|line| line.starts_with("bad_frame "))
        .count() as u64;
    assert_eq!(bad, told.bad, "seed {seed}");
    let lost = assert_gaps(seed, &state, &told);
    (world, state, lost)
}

#[test]
fn what_was_answered_counts_once() {
    let mut repeated = 0;
    for seed in 0..SEEDS {
        let (world, state, lost) = check(seed, Wild::default());
        let distinct = oracle::of_answers(&world.answered);
        repeated += world.answered.len() - distinct.len();
        assert_lines(seed, &counted(&state), &oracle::lines(&distinct));
        assert_eq!(lost, 0, "seed {seed}: everything was sent");
    }
    assert!(
        repeated > 1_000,
        "the worlds must hold events that come by two ways, and held {repeated}"
    );
}

#[test]
fn conflicts_and_ids_past_their_horizon_are_as_the_log_has_them() {
    let (mut conflicts, mut repeats) = (0, 0);
    for seed in 1_000..1_000 + SEEDS {
        let (world, state, _) = check(
            seed,
            Wild {
                conflicts_and_days: true,
                ..Wild::default()
            },
        );
        let told = oracle::of_log(&world.log);
        conflicts += told.totals.iter().map(|t| t.conflicts).sum::<i64>();
        let distinct = oracle::of_answers(&world.answered).len();
        repeats += told.events.len() - distinct;
        let lines = dump(&state).unwrap();
        let recorded = lines
            .iter()
            .filter(|line| line.starts_with("conflict "))
            .count() as i64;
        assert_eq!(
            recorded,
            told.totals.iter().map(|t| t.conflicts).sum::<i64>(),
            "seed {seed}"
        );
    }
    assert!(
        conflicts > 500 && repeats > 200,
        "{conflicts} conflicts, {repeats} ids that counted again"
    );
}

#[test]
fn creatives_past_the_limit_are_other() {
    let mut others = 0;
    for seed in 2_000..2_000 + SEEDS / 10 {
        let mut log = Vec::new();
        // Several worlds one after the other on one log, so that an ad sees more names than are counted.
        for part in 0..16 {
            let world = World::run(
                seed * 16 + part,
                Wild {
                    many_creatives: true,
                    ..Wild::default()
                },
            );
            let last = log
                .last()
                .map_or((0, 0), |m: &Message| (m.sequence, m.broker_ms));
            log.extend(world.log.into_iter().map(|m| Message {
                sequence: m.sequence + last.0,
                broker_ms: m.broker_ms.max(last.1),
                ..m
            }));
        }
        let told = oracle::of_log(&log);
        others += told
            .events
            .iter()
            .filter(|(e, c)| c == "other" && *e.placement().unwrap().creative != *"other")
            .count();
        let state = wildly(&log, Retention::ALL, &mut Random(seed));
        assert_lines(seed, &counted(&state), &oracle::lines(&told.events));
    }
    assert!(others > 100, "{others} events past the limit");
}

#[test]
fn what_the_broker_lost_is_a_gap() {
    let lost: u64 = (3_000..3_000 + SEEDS)
        .map(|seed| {
            check(
                seed,
                Wild {
                    losses: true,
                    ..Wild::default()
                },
            )
            .2
        })
        .sum();
    assert!(lost > 200, "{lost} events lost");
}
