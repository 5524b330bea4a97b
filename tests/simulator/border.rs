//! The ways in: requests of clients to a collector, messages of INTAKE to an intake, and the one border of both.

use adtally_streams::admit::{Facts, admit};
use adtally_streams::commit::Row;
use adtally_streams::id::Epoch;
use adtally_streams::lanes::Lanes;
use adtally_streams::names::shard_of;
use adtally_streams::parse::{RawEvent, parse_subject};
use adtally_streams::refusal::{QuarantineRecord, Reason, Refusal};
use adtally_streams::row::{event_row, refused_row};
use adtally_streams::watermark::intake_limit_ms;

use crate::broker::Item;
use crate::bugs::Bug;
use crate::clients::{Flaw, Send, Spec, SpecId, Way};
use crate::oracle::{self, Copy, CopyId};
use crate::outbox::{From, Request};
use crate::report::Happening;
use crate::world::{Event, World};

/// How long a client waits for an answer.
const CLIENT_WAITS_MS: i64 = 8_000;
/// Events of one request at most.
const REQUEST_MAX_EVENTS: u64 = 10;
/// Messages that an intake asks for at once.
const PULL_MAX: usize = 16;
/// The age, in days, at which an event comes again in a world where days pass: about the horizon of its id.
const DAYS: [i64; 5] = [1, 6, 7, 8, 9];

/// An event at the border: what the client meant, when it arrived if not with the batch, its sequence in INTAKE.
type Incoming = (SpecId, Option<(i64, u64)>);

impl World {
    /// Decides what clients will say, and when they say it first.
    pub fn make_sends(&mut self) {
        for n in 0..self.plan.sends {
            let at_ms = self.random.between(0, self.plan.span_ms);
            let is_intake = self.plan.intakes > 0 && self.random.permille(400);
            let way = if is_intake {
                Way::Intake
            } else {
                Way::Collector
            };
            let mut specs = Vec::new();
            for m in 0..1 + self.random.below(REQUEST_MAX_EVENTS) {
                let name = (n + 1) * 1_000 + m;
                let mut spec = Spec::new(name, self.now_ms + at_ms, &mut self.random);
                if is_intake && spec.id.is_none() {
                    spec.id = Some(format!("e{name}"));
                }
                if self.random.permille(60) {
                    spec = self.spoil(spec, is_intake, at_ms);
                }
                specs.push(self.add_spec(spec));
            }
            self.say_again(&specs, at_ms);
            self.add_send(way, specs, at_ms);
        }
        if self.plan.has_days {
            self.make_days();
        }
    }

    fn spoil(&mut self, spec: Spec, is_intake: bool, at_ms: i64) -> Spec {
        let flaws = [
            Flaw::NotAnObject,
            Flaw::BadId,
            Flaw::Future,
            Flaw::BadAmount,
            // Only a subject can disagree with its payload.
            Flaw::Mismatch,
        ];
        let flaw = flaws[self.random.index(if is_intake { 5 } else { 4 })];
        spec.spoilt(flaw, self.now_ms + at_ms)
    }

    /// Some events come by a second way, and some of those say something else under the same id.
    fn say_again(&mut self, specs: &[SpecId], at_ms: i64) {
        let mut again = Vec::new();
        for spec in specs {
            let is_whole = |s: &Spec| s.flaw.is_none() && s.id.is_some();
            if !is_whole(&self.specs[*spec as usize]) || !self.random.permille(200) {
                continue;
            }
            if self.random.permille(150) {
                let other = self.specs[*spec as usize].with_other_content();
                again.push(self.add_spec(other));
                self.coverage.note(Happening::OtherContent);
            } else {
                again.push(*spec);
                self.coverage.note(Happening::SecondWay);
            }
        }
        if again.is_empty() {
            return;
        }
        let is_intake = self.plan.intakes > 0 && self.random.permille(500);
        let way = if is_intake {
            Way::Intake
        } else {
            Way::Collector
        };
        let later_ms = match self.plan.has_days && self.random.permille(500) {
            true => *self.random.pick(&DAYS) * 86_400_000 + self.random.between(0, 86_400_000),
            false => self.random.between(0, 15_000),
        };
        self.add_send(way, again, at_ms + later_ms);
    }

    /// A world in which days pass goes on for ten of them, with something to say on each of the first nine.
    fn make_days(&mut self) {
        for day in 1..=9 {
            let at_ms = day * 86_400_000 + self.random.between(0, 80_000_000);
            let spec = Spec::new(day as u64, self.now_ms + at_ms, &mut self.random);
            let specs = vec![self.add_spec(spec)];
            self.add_send(Way::Collector, specs, at_ms);
        }
        self.plan.span_ms = 10 * 86_400_000;
        self.coverage.note(Happening::TimeJump);
    }

    fn add_spec(&mut self, spec: Spec) -> SpecId {
        self.specs.push(spec);
        (self.specs.len() - 1) as SpecId
    }

    fn add_send(&mut self, way: Way, specs: Vec<SpecId>, at_ms: i64) {
        let tries = 1 + self.random.below(4) as u32;
        self.sends.push(Send {
            way,
            specs,
            tries,
            tried: 0,
            is_answered: false,
            is_over: false,
        });
        let send = self.sends.len() - 1;
        self.after(at_ms, Event::Attempt { send });
    }

    /// A client tries, and waits.
    pub fn attempt(&mut self, at: usize) {
        let send = &mut self.sends[at];
        send.tries -= 1;
        send.tried += 1;
        let tried = send.tried;
        if tried > 1 {
            self.coverage.note(Happening::ClientRetry);
        }
        match send.way {
            Way::Collector => {
                let collectors: Vec<_> = (0..self.processes.len())
                    .filter(|p| !self.processes[*p].is_intake)
                    .collect();
                let process = *self.random.pick(&collectors);
                let delay = self.delay();
                self.after(delay, Event::Request { process, send: at });
            }
            Way::Intake => self.publish_to_intake(at),
        }
        self.after(CLIENT_WAITS_MS, Event::ClientWaited { send: at, tried });
    }

    /// The client has its answer.
    pub fn client_told(&mut self, send: usize) {
        self.sends[send].is_answered = true;
    }

    /// The client has waited long enough: it tries again, or gives up.
    pub fn client_waited(&mut self, at: usize, tried: u32) {
        let send = &mut self.sends[at];
        if send.is_answered || send.tried != tried {
            return;
        }
        if send.tries == 0 {
            send.is_over = true;
        } else {
            self.attempt(at);
        }
    }

    fn publish_to_intake(&mut self, at: usize) {
        let specs = self.sends[at].specs.clone();
        let mut all_told = true;
        for id in specs {
            let is_lost = self.now_ms < self.broker.down_until_ms
                || self.random.permille(self.plan.lost_request);
            let spec = &self.specs[id as usize];
            // Half of the publishers use the event's id, half an id of their own.
            let message_id = match (&spec.id, id % 2) {
                (Some(event_id), 0) => format!("{}:{event_id}", spec.kind.name()),
                _ => format!("message-{id}"),
            };
            let stored = match is_lost {
                true => None,
                false => self.broker.intake.publish(self.now_ms, &message_id, id),
            };
            let Some(sequence) = stored else {
                all_told = false;
                continue;
            };
            if sequence as usize > self.items.len() {
                self.items.push((id, Vec::new(), false));
            }
            if self.random.permille(self.plan.lost_ack) {
                self.coverage.note(Happening::LostAck);
                all_told = false;
            } else {
                self.items[sequence as usize - 1].2 = true;
            }
        }
        self.sends[at].is_answered |= all_told;
    }

    /// A request reaches a collector, if that is there.
    pub fn request(&mut self, process: usize, send: usize) {
        let now_ms = self.clock(process);
        let p = &mut self.processes[process];
        let life = p.life;
        let Some(outbox) = p.outbox.as_mut().filter(|_| !p.is_draining) else {
            return;
        };
        let arrival_ms = outbox.in_flight.arrive(now_ms);
        let delay = self.delay();
        self.after(
            delay,
            Event::Decide {
                process,
                life,
                send,
                arrival_ms,
            },
        );
    }

    /// The border decides over a client's request and hands it to the writer.
    pub fn decide(&mut self, process: usize, send: usize, arrival_ms: i64) {
        let specs = self.sends[send].specs.clone();
        let batch: Vec<Incoming> = specs.into_iter().map(|spec| (spec, None)).collect();
        self.enter(process, batch, arrival_ms, From::Client(send));
    }

    /// Asks INTAKE for what waits there.
    pub fn pull(&mut self, process: usize) {
        let life = self.processes[process].life;
        if self.reaches(process) && !self.processes[process].is_draining {
            let n = 1 + self.random.index(PULL_MAX);
            let items = self.broker.intake.pull(self.now_ms, n);
            if !items.is_empty() {
                let delay = self.delay();
                self.after(
                    delay,
                    Event::Items {
                        process,
                        life,
                        items,
                    },
                );
            }
        }
        let most = match self.plan.has_days && self.broker.intake.is_empty() && !self.is_healed {
            true => 10_000_000,
            false => 400,
        };
        let pause = self.random.between(20, most);
        self.after(pause, Event::Pull { process, life });
    }

    /// Messages of INTAKE reach an intake.
    pub fn take_in(&mut self, process: usize, items: Vec<Item>) {
        let Some(outbox) = &mut self.processes[process].outbox else {
            return;
        };
        let first_ms = items.iter().map(|i| i.published_ms).min().unwrap_or(0);
        let arrival_ms = outbox.arrive_at(first_ms);
        let sequences = items.iter().map(|i| i.sequence).collect();
        let batch = items
            .iter()
            .map(|i| (i.spec, Some((i.published_ms, i.sequence))))
            .collect();
        self.enter(process, batch, arrival_ms, From::Intake(sequences));
    }

    /// The border: each event becomes a row, of an event or of a refusal, and the rows go to the writer together.
    fn enter(&mut self, process: usize, batch: Vec<Incoming>, arrival_ms: i64, from: From) {
        let is_current = self.reaches(process) && self.now_ms >= self.catalog_away_until_ms;
        if is_current {
            let catalogue = std::mem::take(&mut self.processes[process].catalogue);
            self.processes[process].catalogue = self.history.read_from(catalogue);
        } else {
            self.coverage.note(Happening::StaleCatalogue);
        }
        let (mut rows, mut copies) = (Vec::new(), Vec::new());
        let mut is_stale = false;
        for incoming in batch {
            let (row, copy, refused) = self.admit_one(process, incoming, arrival_ms);
            is_stale |= refused == Some(Reason::UnknownAd) && !is_current;
            rows.push(row);
            copies.push(copy);
        }
        let p = &mut self.processes[process];
        let life = p.life;
        let Some(outbox) = &mut p.outbox else { return };
        if is_stale || p.is_draining {
            // 503 to a client; a batch of INTAKE is given back, and comes again after a while.
            outbox.in_flight.leave(arrival_ms);
            return;
        }
        outbox.queue.push_back(Request {
            rows,
            arrival_ms,
            copies,
            from,
        });
        self.after(0, Event::CommitBegin { process, life });
    }

    fn admit_one(
        &mut self,
        process: usize,
        (spec, item): Incoming,
        batch_ms: i64,
    ) -> (Row, CopyId, Option<Reason>) {
        let id = self.oracle.next_copy();
        let (shards, number) = (self.plan.shards, oracle::text_of(id));
        let spec = &self.specs[spec as usize];
        let arrival_ms = item.map_or(batch_ms, |(ms, _)| ms.max(batch_ms));
        let event_id = spec.id.clone().unwrap_or_else(|| format!("minted-{id}"));
        let payload = spec.payload(&event_id);
        let p = &self.processes[process];
        let epoch = p.outbox.as_ref().map(|o| o.current.epoch);
        let plain = self.history.plain_at(p.catalogue.revision());
        let copy = Copy {
            process,
            epoch: epoch.unwrap_or(Epoch(0)),
            arrival_ms,
            fate: oracle::judge(spec, &event_id, arrival_ms, plain, shards),
            is_answered: false,
            stored_at: None,
            held_from: None,
        };
        let facts = Facts {
            arrival_ms,
            is_bot: spec.is_bot,
            minted_id: spec.id.is_none(),
            user_agent: Some(number.as_str().into()),
            ..Facts::default()
        };
        let admitted = raw_event(spec, item.is_some(), &payload)
            .and_then(|raw| admit(raw, &facts, &p.catalogue));
        let lanes = Lanes { shards };
        let (row, refused) = match admitted {
            Ok(admitted) => {
                let event = admitted.event;
                let shard = shard_of(event.key(), event.id.as_str(), admitted.spread, shards);
                let row = Row {
                    lane: lanes.of(shard, event.kind()),
                    arrival_ms,
                    bytes: event_row(&event),
                };
                (row, None)
            }
            Err(refusal) => {
                let reason = refusal.reason;
                let record =
                    QuarantineRecord::new(refusal, &number, arrival_ms, payload.as_bytes());
                let row = Row {
                    lane: lanes.quarantine(),
                    arrival_ms: i64::MAX,
                    bytes: refused_row(reason.name(), &record.to_json_bytes()),
                };
                (row, Some(reason))
            }
        };
        self.oracle.arrived(copy);
        self.trace(|| format!("process {process} admits event {id}, arrived at {arrival_ms}"));
        if let Some((_, sequence)) = item {
            let accepted = &mut self.items[sequence as usize - 1].1;
            if !accepted.is_empty() {
                self.coverage.note(Happening::IntakeRedelivery);
            }
            accepted.push(id);
        }
        (row, id, refused)
    }

    /// Somebody is told that the copies are durable.
    pub fn answer(&mut self, process: usize, request: &Request) {
        for copy in &request.copies {
            self.oracle.answered(*copy);
        }
        self.coverage
            .add(Happening::AnsweredEvent, request.copies.len() as u64);
        self.trace(|| format!("process {process} answers {:?}", request.copies));
        let delay = self.delay();
        match &request.from {
            From::Client(send) => {
                if self.random.permille(self.plan.lost_ack) {
                    self.coverage.note(Happening::LostAck);
                } else {
                    self.after(delay, Event::ClientTold { send: *send });
                }
            }
            From::Intake(sequences) => {
                let sequences = sequences.clone();
                self.after(delay, Event::AckItems { process, sequences });
            }
        }
    }

    /// An intake's acknowledgements reach INTAKE, each by itself; those that do not arrive mean that the event comes
    /// again.
    pub fn ack_items(&mut self, process: usize, sequences: &[u64]) {
        for sequence in sequences {
            if self.random.permille(self.plan.lost_ack) || !self.reaches(process) {
                self.coverage.note(Happening::LostAck);
            } else {
                self.broker.intake.acknowledge(self.now_ms, *sequence);
            }
        }
    }

    /// An intake asks how far INTAKE is.
    pub fn ask_limit(&mut self, process: usize) {
        if !self.reaches(process) {
            return;
        }
        let state = self.broker.intake.state(self.now_ms);
        let Some((messages, first_ms, broker_ms)) = state else {
            return;
        };
        if let Some(limit_ms) = intake_limit_ms(messages, first_ms, Some(broker_ms)) {
            let life = self.processes[process].life;
            let delay = self.delay().min(450);
            self.after(
                delay,
                Event::Limit {
                    process,
                    life,
                    limit_ms,
                },
            );
        }
    }

    /// The answer is there.
    pub fn limit(&mut self, process: usize, limit_ms: i64) {
        if let Some(outbox) = &mut self.processes[process].outbox {
            outbox.in_flight.limit(Some(limit_ms));
        }
    }

    /// Whether the requests of a commit are answered before its sync.
    pub fn answers_early(&self) -> bool {
        self.bug == Some(Bug::AnswerBeforeSync)
    }
}

/// What is read of a payload: by INTAKE with its subject, by HTTP without one.
fn raw_event(spec: &Spec, has_subject: bool, payload: &str) -> Result<RawEvent, Refusal> {
    if !has_subject {
        return RawEvent::from_json_object(payload.as_bytes());
    }
    let subject = format!("ads.{}.{}", spec.kind.name(), spec.key);
    let subject = parse_subject(&subject)?;
    RawEvent::from_payload(subject.kind, Some(subject.key), None, payload.as_bytes())
}
