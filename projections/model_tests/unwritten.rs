//! A fold of which no cell is written, held against one of which all are, in the model's worlds.

use super::world::{Message, Random, Wild, World};
use super::{SEEDS, entry, open, plainly, wildly};
use crate::cells::Grain;
use crate::compare::{Differences, Fingerprint, Slots};
use crate::dump::{Source, is_of_cells, shown_horizon};
use crate::family::{Changes, Family, Op, Target};
use crate::memory::Memory;
use crate::spans::Retention;
use crate::unwritten::{Compared, Unwritten};

/// Goes on from a state, in batches of any size, without writing a cell.
fn go_on(
    mut state: Memory,
    log: &[Message],
    whole: &Memory,
    slots: Option<&Slots>,
    random: &mut Random,
) -> Compared {
    let horizon = shown_horizon(whole).unwrap();
    let mut unwritten = Unwritten::begin(&state, horizon, slots).unwrap();
    let mut fold = open(&state).keeping_cells();
    let mut rest = log;
    while !rest.is_empty() {
        let (batch, after) = rest.split_at(rest.len().min(1 + random.below(20) as usize));
        let entries: Vec<_> = batch.iter().map(entry).collect();
        let folded = fold.fold(&entries, |reads| Ok::<_, ()>(state.read(reads)));
        let folded = folded.unwrap();
        unwritten.take(&folded).unwrap();
        let is_cell = |target| matches!(target, Target::Family(family) if is_of_cells(family));
        assert!(!folded.changes.iter().any(|change| is_cell(change.target)));
        state.write(&folded.changes);
        rest = after;
    }
    unwritten.finish(&state).unwrap()
}

/// A row of a family, any one; none where it has none.
fn row(state: &Memory, family: Family, random: &mut Random) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    let Ok(()) = state.scan(family, &mut |k, v| all.push((k.to_vec(), v.to_vec())));
    let at = random.below(all.len().max(1) as u64) as usize;
    all.into_iter().nth(at)
}

/// Damages a state in one row: it is gone, counts double, or is one that no question reads.
fn damage(state: &mut Memory, random: &mut Random) -> bool {
    let grain = Grain::ALL[random.below(3) as usize];
    let Some((key, value)) = row(state, grain.family(), random) else {
        return false;
    };
    let mut changes = Changes::default();
    match random.below(3) {
        0 => changes.delete(grain.family(), |k| k.extend_from_slice(&key)),
        1 => changes.push_with(
            Target::Family(grain.family()),
            Op::Merge,
            |k| k.extend_from_slice(&key),
            |v| v.extend_from_slice(&value),
        ),
        _ => {
            let Some((marker, _)) = row(state, Family::OpenSpans, random) else {
                return false;
            };
            changes.delete(Family::OpenSpans, |k| k.extend_from_slice(&marker));
        }
    }
    state.write(&changes);
    true
}

#[test]
fn a_fold_without_cells_comes_to_what_one_with_cells_comes_to_and_tells_the_same_differences() {
    let mut found = 0;
    for seed in 5_000..5_000 + SEEDS {
        let mut world = World::run(seed, Wild::default());
        let (log, random) = (&world.log, &mut world.random);
        for retention in [Retention::ALL, Retention::OF_QUARTERS] {
            let mut whole = plainly(log, retention);
            let cut = random.below(log.len() as u64 + 1) as usize;
            let begun = wildly(&log[..cut], retention, random);
            let of_whole = Fingerprint::of(&whole).unwrap();
            let again = go_on(begun.clone(), &log[cut..], &whole, None, random).print;
            assert!(of_whole.differing(&again).is_empty(), "seed {seed}");
            assert_eq!(of_whole.hash(), again.hash(), "seed {seed}");

            let sound = whole.clone();
            if !damage(&mut whole, random) {
                continue;
            }
            let slots = Fingerprint::of(&whole).unwrap().differing(&again);
            if slots.is_empty() {
                // What was damaged is past the horizon.
                assert!(retention == Retention::OF_QUARTERS, "seed {seed}");
                continue;
            }
            let damaged = slots.lines(&whole).unwrap();
            let held = go_on(begun, &log[cut..], &whole, Some(&slots), random);
            let told = Differences::of(&slots, &damaged, &held.lines);
            assert_eq!(
                told,
                Differences::of(&slots, &damaged, &slots.lines(&sound).unwrap()),
                "seed {seed}"
            );
            assert!(!told.list.is_empty() && !told.more, "seed {seed}");
            assert!(
                told.list
                    .iter()
                    .all(|d| d.campaign.is_some() && d.day.is_some())
            );
            found += 1;
        }
    }
    assert!(found > SEEDS, "{found} damages were found");
}
