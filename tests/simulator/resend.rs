//! Sending again what the broker has lost: the operator looks at the gaps that a state names, and the events are
//! still on the disk of whoever sent them, unless they were evicted.

use adtally_projections::completeness::gap;
use adtally_projections::family::{Family, Target};
use adtally_projections::ledger::{self, Intervals};
use adtally_streams::event::Kind;
use adtally_streams::id::{Epoch, Id};
use adtally_streams::lane::Lane;
use adtally_streams::lanes::Lanes;
use adtally_streams::names::FRAME_MAX_BYTES;
use adtally_streams::packing::Packing;
use adtally_streams::watermark::Watermark;

use crate::broker::Truth;
use crate::outbox::copies_of;
use crate::projector::Shard;
use crate::report::Happening;
use crate::world::{Event, Parcel, World};

/// Counters of a lane that a state calls lost.
#[derive(Clone, Debug)]
pub struct Lost {
    /// Who sent them.
    pub producer: Id,
    /// Under which epoch.
    pub epoch: Epoch,
    /// Of which kind.
    pub kind: Kind,
    /// The first one, and the first one past the last.
    pub range: (u64, u64),
}

/// What a state says that is lost, and how many events it says are still on their way.
pub fn gaps(state: &Shard) -> (Vec<Lost>, u64) {
    let (mut lost, mut outstanding) = (Vec::new(), 0);
    for producer in state.producers() {
        for kind in Kind::ALL {
            let mut key = Vec::new();
            ledger::key(&mut key, producer.epoch, kind);
            let row = state.disk.read().get(Target::Family(Family::Ledger), &key);
            let applied = row.map_or(Intervals::default(), |value| {
                Intervals::decode(value).expect("the fold wrote the row")
            });
            // At its last message no epoch has been silent, so what is on its way is not lost yet.
            let gap = gap(&producer, kind, &applied, producer.last_seen_ms);
            outstanding += gap.outstanding_events();
            lost.extend(gap.lost.iter().map(|range| Lost {
                producer: producer.producer.clone(),
                epoch: producer.epoch,
                kind,
                range: *range,
            }));
        }
    }
    (lost, outstanding)
}

impl World {
    /// Sends whatever the first projector calls lost and a disk still holds; whether there was any.
    pub fn resend(&mut self) -> bool {
        let mut is_any = false;
        for shard in 0..self.plan.shards {
            let (lost, _) = gaps(&self.projectors[0].shards[usize::from(shard)]);
            for lost in lost {
                is_any |= self.resend_lane(shard, &lost);
            }
        }
        is_any
    }

    fn resend_lane(&mut self, shard: u16, lost: &Lost) -> bool {
        let lanes = Lanes {
            shards: self.plan.shards,
        };
        let lane = lanes.of(shard, lost.kind);
        for process in 0..self.processes.len() {
            let (from, until) = lost.range;
            // A lane of its own, over the rows in question only.
            let mut scratch = Lane::starting_at(from);
            scratch.accepted(until - from, 0, 0);
            let mut packing = Packing::begin(&scratch, FRAME_MAX_BYTES);
            let kept = self.processes[process].disk.read();
            let mut next = from;
            kept.rows_at(lost.epoch, lane, (from, until), |counter, row| {
                if counter != next {
                    return false;
                }
                next += 1;
                packing.take(row).expect("the border wrote the row")
            });
            let watermark = Watermark::default();
            let message = packing
                .message(shard, lost.kind, &lost.producer, lost.epoch, watermark)
                .expect("the border wrote the rows");
            if let (Some(message), Some(cut)) = (message, packing.cut(&mut scratch)) {
                let again = self.random.bits();
                let parcel = Parcel {
                    process,
                    life: 0,
                    flight: None,
                    shard: Some(shard),
                    id: Some(format!("{}-again-{again:x}", message.id)),
                    subject: message.subject.into(),
                    payload: message.payload.into(),
                    truth: Truth::Frame {
                        epoch: lost.epoch,
                        kind: lost.kind,
                        first: cut.first,
                        copies: copies_of(&cut),
                    },
                };
                self.coverage.note(Happening::Resend);
                let delay = self.delay();
                self.after(delay, Event::Arrive(Box::new(parcel)));
                return true;
            }
        }
        false
    }
}
