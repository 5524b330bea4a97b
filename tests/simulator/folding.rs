//! The projectors' side of the world: when a shard is folded, how much of it, and when a projector dies.

use crate::report::Happening;
use crate::world::{Event, World};

/// By projector: messages that one batch takes at most. The replica's are larger, so that the two cut the log
/// differently.
const BATCH_MAX: [u64; 2] = [24, 150];
/// By projector: how long it gathers at most.
const GATHER_MS: [i64; 2] = [400, 4_000];

impl World {
    /// Every projector will fold a shard that has something new.
    pub fn call_projectors(&mut self, shard: u16) {
        for projector in 0..self.projectors.len() {
            self.call(projector, shard);
        }
    }

    fn call(&mut self, projector: usize, shard: u16) {
        let p = &mut self.projectors[projector];
        let is_called = &mut p.is_called[usize::from(shard)];
        if !p.is_up || *is_called {
            return;
        }
        *is_called = true;
        let life = p.life;
        let wait = self.random.between(0, GATHER_MS[projector]);
        self.after(
            wait,
            Event::Fold {
                projector,
                life,
                shard,
            },
        );
    }

    /// A projector starts over its disks, unless it runs.
    pub fn start_projector(&mut self, projector: usize) {
        let p = &mut self.projectors[projector];
        if p.is_up {
            return;
        }
        p.is_up = true;
        p.life += 1;
        p.is_called.iter_mut().for_each(|called| *called = false);
        p.shards.iter_mut().for_each(|shard| shard.open());
        (0..self.plan.shards).for_each(|shard| self.call(projector, shard));
    }

    /// A projector dies where it stands; with its power also what it had not synced.
    pub fn kill_projector(&mut self, projector: usize, with_power: bool) {
        let p = &mut self.projectors[projector];
        p.is_up = false;
        p.life += 1;
        for shard in &mut p.shards {
            shard.die();
            if with_power {
                let keep = self.random.index(shard.disk.unsynced() + 1);
                shard.disk.lose_power(keep);
            }
        }
        self.coverage.note(match with_power {
            true => Happening::ProjectorPowerLoss,
            false => Happening::ProjectorKill,
        });
        self.trace(|| format!("projector {projector} dies, power lost: {with_power}"));
        let pause = self.random.between(0, 3_000);
        self.after(pause, Event::StartProjector { projector });
    }

    /// A projector folds what waits in a shard, or a part of it.
    pub fn fold(&mut self, projector: usize, life: u64, shard: u16) {
        let at = usize::from(shard);
        if self.projectors[projector].life != life || !self.projectors[projector].is_up {
            return;
        }
        self.projectors[projector].is_called[at] = false;
        let state = &mut self.projectors[projector].shards[at];
        state.finish();
        let log = &self.broker.streams[at];
        let Some(next) = state.sequence().map(|sequence| log.after(sequence)) else {
            return;
        };
        if next == log.messages.len() {
            return;
        }
        // Sometimes the reader begins anew and gives what has been folded once more.
        let again = self.random.below(12).saturating_sub(9).min(next as u64) as usize;
        let end = log
            .messages
            .len()
            .min(next + 1 + self.random.below(BATCH_MAX[projector]) as usize);
        state.fold(&log.messages[next - again..end]);
        self.coverage.note(Happening::FoldBatch);
        self.coverage.add(Happening::FoldAgain, again as u64);
        if state.second_half.is_some() {
            let wait = self.random.between(0, 20);
            self.after(
                wait,
                Event::FinishFold {
                    projector,
                    life,
                    shard,
                },
            );
        }
        if self.random.permille(200) {
            self.projectors[projector].shards[at].disk.sync();
        }
        if projector == 0 {
            self.check_complete(projector, shard);
        }
        if end < self.broker.streams[at].messages.len() {
            self.call(projector, shard);
        }
    }

    /// The second half of a commit that a planted bug has cut in two.
    pub fn finish_fold(&mut self, projector: usize, life: u64, shard: u16) {
        if self.projectors[projector].life == life {
            self.projectors[projector].shards[usize::from(shard)].finish();
        }
    }

    /// Holds what a state says of its completeness against what was answered.
    fn check_complete(&mut self, projector: usize, shard: u16) {
        let at = usize::from(shard);
        let state = &self.projectors[projector].shards[at];
        let (Some(through_ms), Some(sequence)) = (state.complete_through(), state.sequence())
        else {
            return;
        };
        let log = &self.broker.streams[at];
        let ahead = &log.messages[log.after(sequence)..];
        self.oracle.complete(shard, through_ms, sequence, ahead);
    }

    /// Whether every projector has folded every message.
    pub fn is_folded(&self) -> bool {
        self.projectors.iter().all(|p| {
            p.shards
                .iter()
                .zip(&self.broker.streams)
                .all(|(state, log)| {
                    let last = log.messages.last().map_or(0, |m| m.sequence);
                    state.second_half.is_none() && state.sequence() == Some(last)
                })
        })
    }
}
