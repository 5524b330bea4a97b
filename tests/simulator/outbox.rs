//! The driver of an outbox: the same order of the same pure steps as the running program takes, over a model disk.
//!
//! Everything that decides is the code under test: rows, group commits, lanes, packing, delivery, watermarks and
//! recovery. This file reads, writes and keeps the parts together, without threads.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use adtally_streams::commit::{Group, Row};
use adtally_streams::delivery::Delivery;
use adtally_streams::id::{Epoch, Id};
use adtally_streams::lane::{InFlight, Lane, quarantine_message_id, through_ms};
use adtally_streams::lanes::Lanes;
use adtally_streams::names::QUARANTINE_PREFIX;
use adtally_streams::packing::{Cut, Outgoing, Packing};
use adtally_streams::row::{ROW_PREFIX_BYTES, refused_parts};
use adtally_streams::watermark::Watermark;
use rustc_hash::FxHashMap;

use crate::broker::Truth;
use crate::bugs::Bug;
use crate::disk::Disk;
use crate::kept::{EpochRecord, Kept, Write};
use crate::opening::Opening;
use crate::oracle::{CopyId, copy_of_event, copy_of_record};

/// Records of refused events that may be under way at once.
const RECORDS_IN_FLIGHT: usize = 32;

/// What one call hands to the writer.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its rows.
    pub rows: Vec<Row>,
    /// The arrival that it registered.
    pub arrival_ms: i64,
    /// The copies in it.
    pub copies: Vec<CopyId>,
    /// Whom to answer.
    pub from: From,
}

/// Where a request came from.
#[derive(Clone, Debug)]
pub enum From {
    /// A client's request: which one of the world's.
    Client(usize),
    /// INTAKE: sequences to acknowledge.
    Intake(Vec<u64>),
}

/// A message on its way.
#[derive(Clone, Debug)]
pub struct Flight {
    /// The epoch of its lane.
    pub epoch: Epoch,
    /// Its lane.
    pub lane: usize,
    /// Counter of its first event.
    pub first: u64,
    /// Where it goes: a shard, or none for QUARANTINE.
    pub shard: Option<u16>,
    /// Its payload and subject.
    pub subject: Rc<str>,
    /// What it holds.
    pub payload: Rc<[u8]>,
    /// What it means.
    pub truth: Truth,
    /// What it announces.
    pub watermark: Option<Watermark>,
    /// What becomes of it.
    pub delivery: Delivery,
}

/// An open outbox.
#[derive(Debug)]
pub struct Outbox {
    /// Who writes.
    pub producer: Id,
    /// The lanes of this opening.
    pub current: Opening,
    /// Earlier openings that are being shipped, oldest first.
    pub earlier: VecDeque<Opening>,
    /// Messages on their way, by number.
    pub flights: BTreeMap<u64, Flight>,
    /// Arrivals between the border and the disk.
    pub in_flight: InFlight,
    /// What waits for the writer.
    pub queue: VecDeque<Request>,
    /// By shard: when it was last told the watermark, by the process's clock.
    pub told_ms: Vec<i64>,
    /// By shard: this opening has been heard of there.
    pub is_heard: Vec<bool>,
    /// When lanes will next be looked at for a frame that is not due yet, in true time; none: nobody waits for that.
    pub look_ms: Option<i64>,
    names: Lanes,
    group: Group,
    committing: Vec<Request>,
    acks: FxHashMap<(Epoch, usize), u64>,
    flights_so_far: u64,
    frame_max_bytes: usize,
    bug: Option<Bug>,
}

/// The time: watermarks are by the process's clock, pauses by time that only goes on.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The process's clock.
    pub clock_ms: i64,
    /// True time.
    pub true_ms: i64,
}

/// What an outbox is opened with.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Id of a producer that never was here before.
    pub fresh: &'a str,
    /// An epoch that nobody has used.
    pub epoch: Epoch,
    /// The process's clock.
    pub now_ms: i64,
    /// Shards of the deployment.
    pub shards: u16,
    /// It takes arrivals of somebody else's choosing.
    pub is_intake: bool,
    /// The largest frame.
    pub frame_max_bytes: usize,
    /// A planted bug.
    pub bug: Option<Bug>,
}

impl Outbox {
    /// Opens a disk under a new epoch, which is durable before anything is said under it.
    pub fn open(disk: &mut Disk<Kept>, options: Options<'_>) -> Self {
        let names = Lanes {
            shards: options.shards,
        };
        let kept = disk.read();
        let producer = kept
            .producer
            .clone()
            .unwrap_or_else(|| Id::new(options.fresh).expect("names of processes are ids"));
        let mut records: Vec<_> = kept.epochs.values().copied().collect();
        records.sort_by_key(|r| (r.opened_ms, r.epoch));
        let earlier = records
            .iter()
            .filter(|record| !record.is_drained)
            .map(|record| {
                Opening::new(record.epoch, names, |lane| kept.recover(record.epoch, lane))
            })
            .collect();
        disk.write(vec![
            Write::Producer(producer.clone()),
            Write::Opened(EpochRecord {
                epoch: options.epoch,
                opened_ms: options.now_ms,
                is_drained: false,
            }),
        ]);
        disk.sync();
        let mut in_flight = InFlight::default();
        if options.is_intake {
            in_flight.limit(Some(0));
        }
        Self {
            producer,
            current: Opening::new(options.epoch, names, |_| Lane::default()),
            earlier,
            flights: BTreeMap::new(),
            in_flight,
            queue: VecDeque::new(),
            told_ms: vec![i64::MIN; usize::from(options.shards)],
            is_heard: vec![false; usize::from(options.shards)],
            look_ms: None,
            names,
            group: Group::new(names.count()),
            committing: Vec::new(),
            acks: FxHashMap::default(),
            flights_so_far: 0,
            frame_max_bytes: options.frame_max_bytes,
            bug: options.bug,
        }
    }

    /// A batch arrives of which the first event has that arrival time; answers the time that counts for it.
    pub fn arrive_at(&mut self, at_ms: i64) -> i64 {
        self.in_flight.arrive_at(at_ms)
    }

    /// The lanes of an epoch, this one's or an earlier one's.
    pub fn opening(&mut self, epoch: Epoch) -> Option<&mut Opening> {
        if self.current.epoch == epoch {
            return Some(&mut self.current);
        }
        self.earlier.iter_mut().find(|o| o.epoch == epoch)
    }

    /// Whether the writer is at work.
    pub fn is_committing(&self) -> bool {
        !self.committing.is_empty()
    }

    /// Puts what waits into one write, not yet synced; false when nothing waits.
    pub fn begin_commit(&mut self, disk: &mut Disk<Kept>) -> bool {
        let mut batch = Vec::new();
        let epoch = self.current.epoch;
        let mut put = |lane: usize, first: u64, run: &[u8]| {
            batch.push(Write::Run(epoch, lane, first, run.into()));
        };
        while !self.group.is_full()
            && let Some(request) = self.queue.pop_front()
        {
            for row in &request.rows {
                let lanes = &self.current.lanes;
                self.group.add(row, |lane| lanes[lane].head(), &mut put);
            }
            self.committing.push(request);
        }
        self.group.close(&mut put);
        if self.committing.is_empty() {
            return false;
        }
        disk.write(batch);
        true
    }

    /// The requests of the commit under way.
    pub fn committing(&self) -> &[Request] {
        &self.committing
    }

    /// Syncs the write and shows it to the lanes; answers the requests that are durable now.
    pub fn end_commit(&mut self, disk: &mut Disk<Kept>) -> Vec<Request> {
        disk.sync();
        for gained in self.group.committed() {
            self.current.lanes[gained.lane].accepted(
                gained.count,
                gained.row_bytes,
                gained.oldest_ms,
            );
        }
        for request in &self.committing {
            self.in_flight.leave(request.arrival_ms);
        }
        std::mem::take(&mut self.committing)
    }

    /// Writes the acknowledged positions, which nobody waits for.
    pub fn write_acks(&mut self, disk: &mut Disk<Kept>) {
        if !self.acks.is_empty() {
            let acks = std::mem::take(&mut self.acks);
            let batch = acks.into_iter().map(|((e, l), n)| Write::Acked(e, l, n));
            disk.write(batch.collect());
        }
    }

    /// Deletes what is acknowledged, of every lane of this opening and those that are being shipped.
    pub fn evict(&self, disk: &mut Disk<Kept>) {
        let openings = self.earlier.iter().chain([&self.current]);
        let batch = openings.flat_map(|o| {
            let acked = o.lanes.iter().enumerate().filter(|(_, l)| l.acked() > 0);
            acked.flat_map(|(at, lane)| {
                // In one batch: a lane without rows knows its counters by its position only.
                let acked = lane.acked();
                [
                    Write::Acked(o.epoch, at, acked),
                    Write::Evict(o.epoch, at, acked),
                ]
            })
        });
        disk.write(batch.collect());
    }

    /// The watermark of an epoch for a shard. An earlier epoch says nothing of time: this one does, for both.
    pub fn watermark(&mut self, epoch: Epoch, shard: u16, now_ms: i64) -> Watermark {
        let mut watermark = Watermark::default();
        if epoch == self.current.epoch {
            // The arrivals first and the lanes afterwards, as the order must be.
            let horizon = self.in_flight.horizon(now_ms);
            let quarantine = self.names.quarantine();
            let lanes = self.earlier.iter().chain([&self.current]);
            let oldest = lanes
                .flat_map(|o| &o.lanes[..quarantine])
                .filter(|lane| self.bug != Some(Bug::WatermarkBeforeAck) || lane.waiting() > 0)
                .filter_map(Lane::oldest_ms)
                .min();
            watermark.through_ms = through_ms(horizon, oldest);
        }
        let (names, before_ack) = (self.names, self.bug == Some(Bug::WatermarkBeforeAck));
        if let Some(opening) = self.opening(epoch) {
            for (lane, at) in opening.lanes.iter().zip(0..) {
                if let Some((s, kind)) = names.shard_and_kind(at)
                    && s == shard
                {
                    let acked = if before_ack {
                        lane.next()
                    } else {
                        lane.acked()
                    };
                    watermark.acked[kind as usize] = acked;
                    watermark.heads[kind as usize] = lane.head();
                }
            }
        }
        watermark
    }

    /// Cuts whatever is due of this opening and of the earliest one; answers the new flights, and when the next frame
    /// will be due that nothing need land or come for.
    pub fn ship(&mut self, disk: &Disk<Kept>, now: Now) -> (Vec<u64>, Option<i64>) {
        let earliest = self.earlier.front().map(|o| o.epoch);
        let (mut cut, mut next_ms) = (Vec::new(), None);
        for epoch in [Some(self.current.epoch), earliest].into_iter().flatten() {
            for lane in 0..self.names.quarantine() {
                let max_bytes = self.frame_max_bytes;
                while let Some(due_ms) = self
                    .opening(epoch)
                    .and_then(|o| o.due_ms(lane, max_bytes, now.true_ms))
                {
                    if due_ms > now.true_ms {
                        next_ms = Some(next_ms.map_or(due_ms, |next: i64| next.min(due_ms)));
                        break;
                    }
                    let Some(flight) = self.cut(disk.read(), epoch, lane, now) else {
                        break;
                    };
                    cut.push(self.depart(flight));
                }
            }
            while let Some(flight) = self.cut_record(disk.read(), epoch) {
                cut.push(self.depart(flight));
            }
        }
        (cut, next_ms)
    }

    fn depart(&mut self, flight: Flight) -> u64 {
        self.flights_so_far += 1;
        self.flights.insert(self.flights_so_far, flight);
        self.flights_so_far
    }

    fn cut(&mut self, kept: &Kept, epoch: Epoch, lane: usize, now: Now) -> Option<Flight> {
        let max_bytes = self.frame_max_bytes;
        let (shard, kind) = self.names.shard_and_kind(lane)?;
        let state = &self.opening(epoch)?.lanes[lane];
        let mut packing = Packing::begin(state, max_bytes);
        let range = (packing.from(), packing.until());
        kept.rows(epoch, lane, range, |row| {
            packing.take(row).expect("the border wrote the row")
        });
        let watermark = self.watermark(epoch, shard, now.clock_ms);
        let Outgoing {
            subject,
            id,
            payload,
        } = packing
            .message(shard, kind, &self.producer, epoch, watermark)
            .expect("the border wrote the rows")
            .expect("what waits is on the disk");
        let opening = self.opening(epoch)?;
        opening.cut_ms[lane] = Some(now.true_ms);
        let cut = packing
            .cut(&mut opening.lanes[lane])
            .expect("what waits is on the disk");
        let name = match self.bug {
            Some(Bug::IdByFirstCounter) => format!("{epoch}-{}-{}", kind.name(), cut.first),
            _ => id,
        };
        if epoch == self.current.epoch {
            self.told_ms[usize::from(shard)] = now.clock_ms;
        }
        Some(Flight {
            epoch,
            lane,
            first: cut.first,
            shard: Some(shard),
            subject: subject.into(),
            payload: payload.into(),
            truth: Truth::Frame {
                epoch,
                kind,
                first: cut.first,
                copies: copies_of(&cut),
            },
            watermark: Some(watermark),
            delivery: Delivery::new(name),
        })
    }

    fn cut_record(&mut self, kept: &Kept, epoch: Epoch) -> Option<Flight> {
        let lane = self.names.quarantine();
        let under_way = self
            .flights
            .values()
            .filter(|f| f.epoch == epoch && f.lane == lane)
            .count();
        let state = &mut self.opening(epoch)?.lanes[lane];
        if state.waiting() == 0 || under_way >= RECORDS_IN_FLIGHT {
            return None;
        }
        let first = state.next();
        let mut flight = None;
        kept.rows(epoch, lane, (first, first + 1), |row| {
            let (reason, json) = refused_parts(row).expect("the border wrote the row");
            flight = Some((
                (row.len() + ROW_PREFIX_BYTES) as u64,
                Flight {
                    epoch,
                    lane,
                    first,
                    shard: None,
                    subject: format!("{QUARANTINE_PREFIX}.{reason}").into(),
                    payload: json.into(),
                    truth: Truth::Refused(copy_of_record(json)),
                    watermark: None,
                    delivery: Delivery::new(quarantine_message_id(epoch, first)),
                },
            ));
            false
        });
        let (row_bytes, flight) = flight.expect("what waits is on the disk");
        state.cut(1, row_bytes);
        Some(flight)
    }

    /// The broker holds a flight's message.
    pub fn landed(&mut self, number: u64) -> Option<Flight> {
        let flight = self.flights.remove(&number)?;
        let opening = self.opening(flight.epoch)?;
        let acked = opening.lanes[flight.lane].landed(flight.first);
        self.acks.insert((flight.epoch, flight.lane), acked);
        Some(flight)
    }

    /// The earliest opening, when it is shipped and its end may be announced.
    pub fn ending(&self) -> Option<&Opening> {
        self.earlier.front().filter(|o| o.unacked() == 0)
    }

    /// Every shard knows that an earlier epoch is over: the disk keeps that, synced.
    pub fn ended(&mut self, disk: &mut Disk<Kept>, epoch: Epoch) {
        let known = disk.read().epochs.get(&epoch).copied();
        disk.write(
            known
                .into_iter()
                .map(|record| {
                    Write::Opened(EpochRecord {
                        is_drained: true,
                        ..record
                    })
                })
                .collect(),
        );
        disk.sync();
        self.earlier.retain(|o| o.epoch != epoch);
    }

    /// Whether everything is acknowledged, of earlier epochs too.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
            && self.committing.is_empty()
            && self.earlier.is_empty()
            && self.current.unacked() == 0
    }
}

/// What the events of a frame are to the oracle.
pub fn copies_of(cut: &Cut) -> Rc<[CopyId]> {
    let events = cut.events().expect("the border wrote the rows");
    events.iter().map(copy_of_event).collect()
}
