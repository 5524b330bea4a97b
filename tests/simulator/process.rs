//! The life of a collector or an intake: it starts over its disk, commits, ships, announces, and ends.

use std::rc::Rc;

use adtally_streams::delivery::{Outcome, Step, same_frame};
use adtally_streams::frame::encode_announcement;
use adtally_streams::id::Epoch;
use adtally_streams::names::watermark_subject;
use adtally_streams::watermark::{LastWord, Watermark};

use crate::broker::Truth;
use crate::outbox::{Flight, Now, Options, Outbox};
use crate::report::Happening;
use crate::world::{Event, Parcel, World};

/// A shard that has had no frame for this long is told the watermark.
const IDLE_AFTER_MS: i64 = 2_000;
/// How often idle shards are looked for, and acknowledged positions are written.
const TICK_MS: i64 = 500;
/// After how long an end is announced again where it was not heard.
const SAY_AGAIN_MS: i64 = 200;
/// How long a sync takes when it takes long.
const SLOW_SYNC_MS: i64 = 2_000;

impl World {
    /// A process starts over its disk, unless it runs.
    pub fn start(&mut self, process: usize) {
        if self.processes[process].outbox.is_some() {
            return;
        }
        let (epoch, now_ms) = (Epoch(self.random.bits()), self.clock(process));
        let p = &mut self.processes[process];
        p.life += 1;
        p.is_draining = false;
        if p.has_stepped_back {
            // What an earlier life announced may be later than what this one's clock says.
            self.oracle.excuse(process);
        }
        let (life, is_intake) = (p.life, p.is_intake);
        let outbox = Outbox::open(
            &mut p.disk,
            Options {
                fresh: &format!("process-{process}"),
                epoch,
                now_ms,
                shards: self.plan.shards,
                is_intake,
                frame_max_bytes: p.frame_max_bytes,
                bug: self.bug,
            },
        );
        let earlier = outbox.earlier.len();
        p.outbox = Some(outbox);
        self.coverage.add(Happening::RecoveredEpoch, earlier as u64);
        self.trace(|| {
            format!("process {process} opens epoch {epoch}, {earlier} earlier ones left")
        });
        self.after(0, Event::Tick { process, life });
        if is_intake {
            self.after(10, Event::Pull { process, life });
        }
        self.ship(process);
    }

    /// A process dies where it stands; with its power also what it had not synced.
    pub fn die(&mut self, process: usize, with_power: bool) {
        let p = &mut self.processes[process];
        p.outbox = None;
        p.life += 1;
        let unsynced = p.disk.unsynced();
        if with_power {
            let keep = self.random.index(unsynced + 1);
            self.processes[process].disk.lose_power(keep);
            if keep < unsynced {
                self.coverage.note(Happening::TornTail);
            }
            self.coverage.note(Happening::PowerLoss);
        } else {
            self.coverage.note(Happening::Kill);
        }
        self.trace(|| format!("process {process} dies, power lost: {with_power}"));
    }

    /// The writer takes what waits and writes it.
    pub fn commit_begin(&mut self, process: usize) {
        let p = &mut self.processes[process];
        let life = p.life;
        let Some(outbox) = p.outbox.as_mut().filter(|o| !o.is_committing()) else {
            return;
        };
        if !outbox.begin_commit(&mut p.disk) {
            return;
        }
        self.coverage.note(Happening::GroupCommit);
        if self.answers_early() {
            let outbox = self.processes[process].outbox.as_ref();
            let requests = outbox.map_or_else(Vec::new, |o| o.committing().to_vec());
            requests.iter().for_each(|r| self.answer(process, r));
        }
        let most = match self.random.permille(self.plan.slow_sync) {
            true => SLOW_SYNC_MS,
            false => 4,
        };
        let took = self.random.between(0, most);
        self.after(took, Event::CommitEnd { process, life });
    }

    /// The sync returns: everybody of the group is answered, and the shipper sees the rows.
    pub fn commit_end(&mut self, process: usize) {
        let p = &mut self.processes[process];
        let life = p.life;
        let Some(outbox) = &mut p.outbox else { return };
        let requests = outbox.end_commit(&mut p.disk);
        if !self.answers_early() {
            requests.iter().for_each(|r| self.answer(process, r));
        }
        self.ship(process);
        self.after(0, Event::CommitBegin { process, life });
    }

    /// Cuts what is due, sends it, and looks again when the next frame is.
    pub fn ship(&mut self, process: usize) {
        let now = Now {
            clock_ms: self.clock(process),
            true_ms: self.now_ms,
        };
        let p = &mut self.processes[process];
        let life = p.life;
        let Some(outbox) = &mut p.outbox else { return };
        let (flights, next_ms) = outbox.ship(&p.disk, now);
        let looks_ms = outbox.look_ms.filter(|at_ms| *at_ms > now.true_ms);
        outbox.look_ms = looks_ms;
        if let Some(next_ms) = next_ms.filter(|next| looks_ms.is_none_or(|at| *next < at)) {
            outbox.look_ms = Some(next_ms);
            self.coverage.note(Happening::PacedFrame);
            self.after(next_ms - now.true_ms, Event::Ship { process, life });
        }
        for flight in flights {
            self.check_announced(process, flight);
            self.send_flight(process, flight, 0);
        }
        self.announce_ends(process);
    }

    fn check_announced(&mut self, process: usize, number: u64) {
        let outbox = self.processes[process].outbox.as_ref();
        let Some(flight) = outbox.and_then(|o| o.flights.get(&number)) else {
            return;
        };
        let is_beside = |f: &&Flight| (f.epoch, f.lane) == (flight.epoch, flight.lane);
        let under_way = outbox.map_or(0, |o| o.flights.values().filter(is_beside).count());
        if let (Some(shard), Some(watermark)) = (flight.shard, flight.watermark) {
            let epoch = flight.epoch;
            self.oracle.announces(process, epoch, shard, &watermark);
            self.coverage.note(Happening::Frame);
            if under_way > 1 {
                self.coverage.note(Happening::FullFlight);
            }
        }
    }

    /// Puts a flight's message on its way, after a pause.
    fn send_flight(&mut self, process: usize, number: u64, pause_ms: i64) {
        let p = &self.processes[process];
        let flight = p.outbox.as_ref().and_then(|o| o.flights.get(&number));
        let Some(flight) = flight else { return };
        let parcel = Parcel {
            process,
            life: p.life,
            flight: Some(number),
            shard: flight.shard,
            id: Some(flight.delivery.id().to_owned()),
            subject: Rc::clone(&flight.subject),
            payload: Rc::clone(&flight.payload),
            truth: flight.truth.clone(),
        };
        let delay = pause_ms + self.delay();
        self.after(delay, Event::Arrive(Box::new(parcel)));
    }

    /// What became of a publish is known.
    pub fn outcome(&mut self, process: usize, number: u64, outcome: &Outcome) {
        let p = &mut self.processes[process];
        let life = p.life;
        let outbox = p.outbox.as_mut();
        let Some(flight) = outbox.and_then(|o| o.flights.get_mut(&number)) else {
            return;
        };
        match flight.delivery.answered(outcome) {
            Step::Done => self.landed(process, number),
            Step::Publish(pause) => self.send_flight(process, number, pause.as_millis() as i64),
            Step::ReadBack { sequence, .. } => {
                self.coverage.note(Happening::ReadBack);
                let delay = self.delay();
                self.after(
                    delay,
                    Event::ReadBack {
                        process,
                        life,
                        flight: number,
                        sequence,
                    },
                );
            }
        }
    }

    /// The broker is asked what it holds under an id.
    pub fn read_back(&mut self, process: usize, number: u64, sequence: u64) {
        let is_reached = self.reaches(process);
        let quarantine = self.broker.quarantine();
        let outbox = self.processes[process].outbox.as_mut();
        let Some(flight) = outbox.and_then(|o| o.flights.get_mut(&number)) else {
            return;
        };
        let stream = flight.shard.map_or(quarantine, usize::from);
        let stored = self.broker.streams[stream].at(self.now_ms, sequence);
        let is_same = stored
            .filter(|_| is_reached)
            .map(|stored| match flight.shard {
                Some(_) => same_frame(&stored.payload, &flight.payload),
                None => stored.payload == flight.payload,
            });
        if is_same == Some(false) {
            self.coverage.note(Happening::Renamed);
        }
        match flight.delivery.read_back(is_same) {
            None => self.landed(process, number),
            Some(pause) => self.send_flight(process, number, pause.as_millis() as i64),
        }
    }

    fn landed(&mut self, process: usize, number: u64) {
        if let Some(outbox) = &mut self.processes[process].outbox {
            outbox.landed(number);
        }
        self.ship(process);
        self.end_if_empty(process);
    }

    /// The clockwork: positions to disk, announcements to idle shards, ends again where they were not heard.
    pub fn tick(&mut self, process: usize) {
        let now_ms = self.clock(process);
        let (life, shards) = (self.processes[process].life, self.plan.shards);
        let p = &mut self.processes[process];
        if let Some(outbox) = &mut p.outbox {
            outbox.write_acks(&mut p.disk);
            let epoch = outbox.current.epoch;
            for shard in 0..shards {
                let outbox = self.processes[process].outbox.as_ref();
                let told_ms = outbox.map_or(now_ms, |o| o.told_ms[usize::from(shard)]);
                if told_ms <= now_ms - IDLE_AFTER_MS {
                    self.announce(process, epoch, shard, false);
                }
            }
        }
        if self.processes[process].is_intake {
            self.ask_limit(process);
        }
        self.ship(process);
        self.end_if_empty(process);
        let pause = self.tick_pause(process);
        self.after(pause, Event::Tick { process, life });
    }

    /// Where days pass, a process that has nothing to do is looked at once in a while only.
    fn tick_pause(&mut self, process: usize) -> i64 {
        let p = &self.processes[process];
        let is_idle = p.outbox.as_ref().is_some_and(Outbox::is_empty) && !p.is_draining;
        if self.plan.has_days && is_idle && !self.is_healed {
            return self.random.between(TICK_MS, 100_000_000);
        }
        TICK_MS
    }

    /// Announces an epoch's watermark to a shard, perhaps as its last word.
    pub fn announce(&mut self, process: usize, epoch: Epoch, shard: u16, drained: bool) {
        let now_ms = self.clock(process);
        let p = &mut self.processes[process];
        let life = p.life;
        let Some(outbox) = &mut p.outbox else { return };
        let watermark = Watermark {
            drained,
            ..outbox.watermark(epoch, shard, now_ms)
        };
        let payload = encode_announcement(&outbox.producer, epoch, &watermark);
        self.oracle.announces(process, epoch, shard, &watermark);
        self.coverage.note(Happening::Announcement);
        self.trace(|| format!("process {process} tells shard {shard} of {epoch}: {watermark:?}"));
        let parcel = Parcel {
            process,
            life,
            flight: None,
            shard: Some(shard),
            id: None,
            subject: watermark_subject(shard).into(),
            payload: payload.into(),
            truth: Truth::Announcement { epoch, drained },
        };
        let delay = self.delay();
        self.after(delay, Event::Arrive(Box::new(parcel)));
    }

    /// An announcement is acknowledged.
    pub fn told(&mut self, process: usize, shard: u16, epoch: Epoch, drained: bool) {
        let now_ms = self.clock(process);
        let p = &mut self.processes[process];
        let Some(outbox) = &mut p.outbox else { return };
        let at = usize::from(shard);
        if !drained {
            outbox.told_ms[at] = now_ms;
            outbox.is_heard[at] = true;
            // Whoever waited for this says its last word at once.
            if let Some(earliest) = outbox.earlier.front_mut() {
                earliest.said_end_ms = i64::MIN;
            }
            self.announce_ends(process);
            return;
        }
        let Some(opening) = outbox.opening(epoch) else {
            return;
        };
        opening.told_end[at] = true;
        if !opening.told_end.iter().all(|told| *told) {
            return;
        }
        outbox.ended(&mut p.disk, epoch);
        if outbox.current.epoch == epoch {
            p.outbox = None;
            p.life += 1;
            self.coverage.note(Happening::Drain);
            self.trace(|| format!("process {process} is drained"));
            if !self.is_ending {
                let pause = self.random.between(100, 3_000);
                self.after(pause, Event::Start { process });
            }
        } else {
            self.trace(|| format!("process {process} has shipped epoch {epoch}"));
            self.ship(process);
            self.end_if_empty(process);
        }
    }

    /// Announces the end of the earliest epoch where it is not known yet.
    fn announce_ends(&mut self, process: usize) {
        let outbox = self.processes[process].outbox.as_ref();
        if let Some(epoch) = outbox.and_then(|o| o.ending()).map(|o| o.epoch) {
            self.say_end(process, epoch);
        }
    }

    /// A process that is being drained says its last word once everything is acknowledged.
    pub fn end_if_empty(&mut self, process: usize) {
        let p = &self.processes[process];
        let outbox = p.outbox.as_ref().filter(|o| p.is_draining && o.is_empty());
        if let Some(epoch) = outbox.map(|o| o.current.epoch) {
            self.say_end(process, epoch);
        }
    }

    /// Says that an epoch is over wherever that is not known, once in a while.
    fn say_end(&mut self, process: usize, epoch: Epoch) {
        let now_ms = self.now_ms;
        let outbox = self.processes[process].outbox.as_mut();
        let Some(opening) = outbox.and_then(|o| o.opening(epoch)) else {
            return;
        };
        if opening.said_end_ms > now_ms - SAY_AGAIN_MS {
            return;
        }
        opening.said_end_ms = now_ms;
        let told = opening.told_end.clone();
        let Some(outbox) = &self.processes[process].outbox else {
            return;
        };
        let current = outbox.current.epoch;
        let heard = outbox.is_heard.clone();
        for (shard, told) in (0..).zip(told) {
            let is_heard = heard[usize::from(shard)];
            match LastWord::next(epoch == current, is_heard) {
                _ if told => (),
                LastWord::End => self.announce(process, epoch, shard, true),
                LastWord::Successor => self.announce(process, current, shard, false),
            }
        }
    }
}
