//! The end of a world: every answered event is counted once, refused with a record, or named as lost.

use std::collections::{BTreeMap, BTreeSet};

use adtally_projections::dump::dump;
use adtally_projections::family::{Family, Target};
use adtally_projections::totals::{self, Totals};
use adtally_streams::event::Kind;
use adtally_streams::id::Epoch;

use crate::oracle::{Expected, Fate, Told, is_counted};
use crate::projector::Shard;
use crate::replay::{self, replayed};
use crate::report::Happening;
use crate::resend::gaps;
use crate::world::World;

impl World {
    /// Holds what was folded against what was told.
    pub fn verdict(&mut self) {
        let expected: Vec<Expected> = self.broker.streams[..usize::from(self.plan.shards)]
            .iter()
            .map(|log| Told::expected(&self.oracle, &log.messages))
            .collect();
        let found = (0..self.plan.shards)
            .try_for_each(|shard| self.check_shard(shard, &expected[usize::from(shard)]))
            .and_then(|()| self.check_answers(&expected))
            .and_then(|()| self.check_items());
        if let Err(what) = found {
            self.oracle.violated(|| what);
        }
        for totals in expected.iter().flat_map(|e| &e.totals) {
            let add = |n: i64| n.max(0) as u64;
            self.coverage
                .add(Happening::DuplicateById, add(totals.duplicates_id));
            self.coverage
                .add(Happening::Conflict, add(totals.conflicts));
        }
    }

    fn check_shard(&mut self, number: u16, expected: &Expected) -> Result<(), String> {
        let at = usize::from(number);
        let mut first: Option<Vec<String>> = None;
        for projector in 0..self.projectors.len() {
            let shard = &self.projectors[projector].shards[at];
            let lines = dump(shard.disk.read()).map_err(|e| format!("shard {number}: {e}"))?;
            let name = format!("shard {number} of projector {projector}");
            check_totals(&name, shard, &expected.totals)?;
            check_lost(&name, shard, expected)?;
            match &first {
                // The same lines are as right as the first ones.
                Some(first) if *first == lines => {}
                Some(_) => return Err(format!("the projectors' states of shard {number} differ")),
                None => {
                    check_lines(&name, &lines, expected)?;
                    first = Some(lines);
                }
            }
        }
        self.check_replay(number, first.as_ref())?;
        self.digest(first.unwrap_or_default().join("\n").as_bytes());
        Ok(())
    }

    /// A replay, in one world of a few, comes to the same state.
    fn check_replay(&mut self, number: u16, lines: Option<&Vec<String>>) -> Result<(), String> {
        let Some(plan) = replay::Plan::of(self.seed) else {
            return Ok(());
        };
        let shard = &self.projectors[0].shards[usize::from(number)];
        let log = &self.broker.streams[usize::from(number)].messages;
        let again =
            replayed(shard, log, plan).map_err(|e| format!("a replay of shard {number}: {e}"))?;
        let is_from_checkpoint = plan.from_checkpoint && shard.checkpoint.is_some();
        self.coverage.note(match is_from_checkpoint {
            true => Happening::ReplayFromCheckpoint,
            false => Happening::Replay,
        });
        if Some(&again) != lines {
            let of = |lines: &[String]| lines.iter().cloned().collect::<BTreeSet<_>>();
            let (again, lines) = (of(&again), of(lines.map_or(&[], |lines| lines)));
            let missing: Vec<_> = lines.difference(&again).take(3).collect();
            let surplus: Vec<_> = again.difference(&lines).take(3).collect();
            return Err(format!(
                "a replay of shard {number}: missing {missing:#?}, surplus {surplus:#?}"
            ));
        }
        Ok(())
    }

    /// Every answered event is readable in its shard, or is refused with a record, or its counter is named as lost.
    fn check_answers(&mut self, expected: &[Expected]) -> Result<(), String> {
        let mut lost_named = 0;
        for (id, copy) in self.oracle.copies.iter().enumerate() {
            if !copy.is_answered {
                continue;
            }
            match &copy.fate {
                Fate::Refused(reason) if copy.stored_at.is_none() => {
                    return Err(format!("event {id}, refused as {reason}, has no record"));
                }
                Fate::Refused(_) => self.coverage.note(Happening::RefusedEvent),
                Fate::Counts(event) => {
                    let expected = &expected[usize::from(event.shard)];
                    if expected.readable.contains(&(id as u32)) {
                        continue;
                    }
                    let is_lost = expected.lost_copies.contains(&(id as u32));
                    if !is_lost {
                        return Err(format!(
                            "event {id} was answered by process {} and is nowhere",
                            copy.process
                        ));
                    }
                    lost_named += 1;
                }
            }
        }
        self.coverage.add(Happening::LostNamed, lost_named);
        let twice = expected
            .iter()
            .flat_map(|e| &e.counted)
            .find(|(_, n)| **n > 1);
        match twice.filter(|_| !self.plan.has_days) {
            Some((identity, n)) => Err(format!("{identity} counts {n} times")),
            None => Ok(()),
        }
    }

    /// Every event that INTAKE has acknowledged is in an outbox that has acknowledged it in turn.
    fn check_items(&self) -> Result<(), String> {
        for (at, (_, accepted, is_told)) in self.items.iter().enumerate() {
            let is_durable = |copy: &u32| self.oracle.copies[*copy as usize].is_answered;
            if *is_told && !accepted.iter().any(is_durable) {
                return Err(format!("message {} of INTAKE is gone", at + 1));
            }
        }
        Ok(())
    }
}

fn check_lines(name: &str, lines: &[String], expected: &Expected) -> Result<(), String> {
    let counted: BTreeSet<&String> = lines.iter().filter(|line| is_counted(line)).collect();
    let want: BTreeSet<&String> = expected.lines.iter().collect();
    if counted != want {
        let missing: Vec<_> = want.difference(&counted).take(3).collect();
        let surplus: Vec<_> = counted.difference(&want).take(3).collect();
        return Err(format!(
            "{name}: missing {missing:#?}, surplus {surplus:#?}"
        ));
    }
    let of = |prefix: &str| lines.iter().filter(|l| l.starts_with(prefix)).count() as i64;
    let conflicts: i64 = expected.totals.iter().map(|t| t.conflicts).sum();
    let records = (of("bad_frame "), of("conflict "));
    if records != (expected.bad_frames as i64, conflicts) {
        return Err(format!(
            "{name}: {records:?} records of bad messages and conflicts, and there were {} and {conflicts}",
            expected.bad_frames
        ));
    }
    Ok(())
}

fn check_totals(name: &str, shard: &Shard, expected: &[Totals; 3]) -> Result<(), String> {
    for kind in Kind::ALL {
        let mut key = Vec::new();
        totals::key(&mut key, kind);
        let row = shard.disk.read().get(Target::Family(Family::Totals), &key);
        let found = row.map_or(Ok(Totals::default()), Totals::decode);
        let want = expected[kind as usize];
        if found.as_ref() != Ok(&want) {
            return Err(format!("{name}, {kind}: {found:?} instead of {want:?}"));
        }
    }
    Ok(())
}

/// What the state calls lost is what cannot be read, no more and no less, and nothing is on its way any more.
fn check_lost(name: &str, shard: &Shard, expected: &Expected) -> Result<(), String> {
    let (gaps, outstanding) = gaps(shard);
    let mut named: BTreeMap<(Epoch, Kind), BTreeSet<u64>> = BTreeMap::new();
    for lost in gaps {
        let counters = named.entry((lost.epoch, lost.kind)).or_default();
        counters.extend(lost.range.0..lost.range.1);
    }
    if named != expected.lost || outstanding > 0 {
        return Err(format!(
            "{name} calls {named:?} lost and {outstanding} on their way, and lost are {:?}",
            expected.lost
        ));
    }
    Ok(())
}
