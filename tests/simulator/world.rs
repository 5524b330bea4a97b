//! The world: processes, broker and clients on one agenda, and the loop that runs them.
//!
//! Single threaded. Whoever waits in the running program for something has an event here that ends the wait; an
//! event for a life of a process that is over is dropped, as the memory of a killed process is.

use std::hash::Hasher;
use std::rc::Rc;

use adtally_streams::catalogue::Catalogue;
use adtally_streams::delivery::Outcome;
use adtally_streams::id::Epoch;
use rustc_hash::FxHasher;

use crate::agenda::Agenda;
use crate::broker::{Broker, Item, Truth};
use crate::bugs::Bug;
use crate::catalogue::History;
use crate::clients::{Send, Spec, SpecId};
use crate::disk::Disk;
use crate::kept::Kept;
use crate::oracle::{CopyId, Oracle};
use crate::outbox::Outbox;
use crate::plan::Plan;
use crate::projector::Shard;
use crate::random::Random;
use crate::replay;
use crate::report::{Coverage, Happening, Report};

/// 2024-01-10T00:00:00Z, in Unix milliseconds.
const BEGIN_MS: i64 = 1_704_844_800_000;
/// Projectors: the one that is queried, and a replica.
const PROJECTORS: usize = 2;
/// How long a world may need, once everything is well, until everything is shipped and folded.
const HEAL_MAX_MS: i64 = 600_000;

/// A message on its way to the broker.
#[derive(Clone, Debug)]
pub struct Parcel {
    pub process: usize,
    pub life: u64,
    /// The flight that waits for what becomes of it; none for an announcement.
    pub flight: Option<u64>,
    pub shard: Option<u16>,
    pub id: Option<String>,
    pub subject: Rc<str>,
    pub payload: Rc<[u8]>,
    pub truth: Truth,
}

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// A client tries its request.
    Attempt { send: usize },
    /// The request reaches a collector.
    Request { process: usize, send: usize },
    /// Its catalogue is fresh, and it is decided.
    Decide {
        process: usize,
        life: u64,
        send: usize,
        arrival_ms: i64,
    },
    /// The collector's answer reaches the client.
    ClientTold { send: usize },
    /// Nobody has answered the client for so long.
    ClientWaited { send: usize, tried: u32 },
    /// The outbox's writer looks for work.
    CommitBegin { process: usize, life: u64 },
    /// Its sync returns.
    CommitEnd { process: usize, life: u64 },
    /// The shipper has waited until a frame is due.
    Ship { process: usize, life: u64 },
    /// A message reaches the broker.
    Arrive(Box<Parcel>),
    /// What became of a publish is known.
    Outcome {
        process: usize,
        life: u64,
        flight: u64,
        outcome: Outcome,
    },
    /// An announcement is acknowledged.
    Told {
        process: usize,
        life: u64,
        shard: u16,
        epoch: Epoch,
        drained: bool,
    },
    /// A duplicate is read back.
    ReadBack {
        process: usize,
        life: u64,
        flight: u64,
        sequence: u64,
    },
    /// The process's clockwork: announcements, positions, limits.
    Tick { process: usize, life: u64 },
    /// The intake asks for messages.
    Pull { process: usize, life: u64 },
    /// They arrive.
    Items {
        process: usize,
        life: u64,
        items: Vec<Item>,
    },
    /// The intake's acknowledgements arrive.
    AckItems { process: usize, sequences: Vec<u64> },
    /// The broker has said how far INTAKE is.
    Limit {
        process: usize,
        life: u64,
        limit_ms: i64,
    },
    /// A process starts.
    Start { process: usize },
    /// A projector starts.
    StartProjector { projector: usize },
    /// A shard has messages to fold.
    Fold {
        projector: usize,
        life: u64,
        shard: u16,
    },
    /// The second half of a commit that a planted bug has cut in two.
    FinishFold {
        projector: usize,
        life: u64,
        shard: u16,
    },
    /// Something great goes wrong.
    Fault,
    /// Everything is well from now on.
    Heal,
    /// Is everything shipped and folded?
    Look,
}

/// A collector or an intake.
#[derive(Debug)]
pub struct Process {
    pub disk: Disk<Kept>,
    pub outbox: Option<Outbox>,
    pub life: u64,
    pub is_intake: bool,
    pub is_draining: bool,
    /// Its clock, less the true time.
    pub clock_ms: i64,
    /// The clock that its arrivals are by has stepped back.
    pub has_stepped_back: bool,
    /// It cannot reach the broker until then.
    pub cut_off_until_ms: i64,
    pub catalogue: Catalogue,
    pub frame_max_bytes: usize,
}

/// A projector, shard by shard.
#[derive(Debug)]
pub struct Projector {
    pub shards: Vec<Shard>,
    pub life: u64,
    pub is_up: bool,
    /// By shard: a fold is on the agenda.
    pub is_called: Vec<bool>,
}

/// Everything.
pub struct World {
    pub seed: u64,
    pub random: Random,
    pub plan: Plan,
    pub now_ms: i64,
    pub agenda: Agenda<Event>,
    pub broker: Broker,
    pub processes: Vec<Process>,
    pub projectors: Vec<Projector>,
    pub history: History,
    pub catalog_away_until_ms: i64,
    pub specs: Vec<Spec>,
    pub sends: Vec<Send>,
    /// By sequence in INTAKE: what was accepted of it, and whether its publisher has been told.
    pub items: Vec<(SpecId, Vec<CopyId>, bool)>,
    pub oracle: Oracle,
    pub coverage: Coverage,
    pub bug: Option<Bug>,
    pub is_healed: bool,
    /// Nobody says anything more: whoever is drained stays so.
    pub is_ending: bool,
    pub is_done: bool,
    healed_ms: i64,
    digest: FxHasher,
    trace: Option<Vec<String>>,
}

impl World {
    fn new(seed: u64, bug: Option<Bug>, is_traced: bool) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::new(&mut random);
        let history = History::new(&mut random);
        let mut world = Self {
            seed,
            now_ms: BEGIN_MS,
            agenda: Agenda::default(),
            broker: Broker::new(plan.shards),
            processes: Vec::new(),
            projectors: Vec::new(),
            history,
            catalog_away_until_ms: i64::MIN,
            specs: Vec::new(),
            sends: Vec::new(),
            items: Vec::new(),
            oracle: Oracle::new(plan.shards),
            coverage: Coverage::default(),
            bug,
            is_healed: false,
            is_ending: false,
            is_done: false,
            healed_ms: 0,
            digest: FxHasher::default(),
            trace: is_traced.then(Vec::new),
            random,
            plan,
        };
        world.build();
        world
    }

    fn build(&mut self) {
        for n in 0..self.plan.collectors + self.plan.intakes {
            let is_intake = n >= self.plan.collectors;
            let clock_ms = self.random.between(-3_000, 3_000);
            self.add_process(Disk::new(Kept::default()), is_intake, clock_ms, false);
            self.after(0, Event::Start { process: n });
        }
        for projector in 0..PROJECTORS {
            let shards = usize::from(self.plan.shards);
            let replay = replay::Plan::of(self.seed).filter(|plan| plan.from_checkpoint);
            // The first one's state is what is folded again.
            let makes_checkpoints = projector == 0 && replay.is_some();
            let shard = || Shard::new(self.bug, makes_checkpoints);
            self.projectors.push(Projector {
                shards: (0..shards).map(|_| shard()).collect(),
                life: 0,
                is_up: false,
                is_called: vec![false; shards],
            });
            self.after(0, Event::StartProjector { projector });
        }
        self.make_sends();
        self.after(self.plan.fault_every_ms, Event::Fault);
        self.after(self.plan.span_ms + 2_000, Event::Heal);
    }

    /// One more process over that disk.
    pub fn add_process(
        &mut self,
        disk: Disk<Kept>,
        is_intake: bool,
        clock_ms: i64,
        is_excused: bool,
    ) {
        self.processes.push(Process {
            disk,
            outbox: None,
            life: 0,
            is_intake,
            is_draining: false,
            clock_ms,
            has_stepped_back: false,
            cut_off_until_ms: i64::MIN,
            catalogue: self.history.first(),
            frame_max_bytes: self.plan.frame_max_bytes,
        });
        self.oracle.add_process(is_excused);
    }

    /// Puts an event on the agenda.
    pub fn after(&mut self, delay_ms: i64, what: Event) {
        let tie = self.random.bits() >> 32;
        self.agenda.put(self.now_ms + delay_ms, tie, what);
    }

    /// How long a message takes.
    pub fn delay(&mut self) -> i64 {
        let most = if self.random.permille(50) { 10 } else { 1 } * self.plan.delay_ms;
        if most > self.plan.delay_ms {
            self.coverage.note(Happening::LateDelivery);
        }
        self.random.between(0, most)
    }

    /// A process's clock.
    pub fn clock(&self, process: usize) -> i64 {
        self.now_ms + self.processes[process].clock_ms
    }

    /// Whether a process and the broker can talk.
    pub fn reaches(&self, process: usize) -> bool {
        self.now_ms >= self.broker.down_until_ms
            && self.now_ms >= self.processes[process].cut_off_until_ms
    }

    /// Whether that life of a process goes on.
    pub fn lives(&self, process: usize, life: u64) -> bool {
        self.processes[process].life == life && self.processes[process].outbox.is_some()
    }

    /// Adds a line to the trace, where there is one.
    pub fn trace(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let since_ms = self.now_ms - BEGIN_MS;
            trace.push(format!("{since_ms:>10} {}", line()));
        }
    }

    /// Takes something that happened into the digest.
    pub fn digest(&mut self, bytes: &[u8]) {
        self.digest.write_i64(self.now_ms);
        self.digest.write(bytes);
    }

    fn step(&mut self, event: Event) {
        self.digest.write_i64(self.now_ms);
        match event {
            Event::Attempt { send } => self.attempt(send),
            Event::Request { process, send } => self.request(process, send),
            Event::Decide {
                process,
                life,
                send,
                arrival_ms,
            } if self.lives(process, life) => {
                self.decide(process, send, arrival_ms);
            }
            Event::ClientTold { send } => self.client_told(send),
            Event::ClientWaited { send, tried } => self.client_waited(send, tried),
            Event::CommitBegin { process, life } if self.lives(process, life) => {
                self.commit_begin(process);
            }
            Event::CommitEnd { process, life } if self.lives(process, life) => {
                self.commit_end(process);
            }
            Event::Ship { process, life } if self.lives(process, life) => self.ship(process),
            Event::Arrive(parcel) => self.arrive(*parcel),
            Event::Outcome {
                process,
                life,
                flight,
                outcome,
            } if self.lives(process, life) => {
                self.outcome(process, flight, &outcome);
            }
            Event::Told {
                process,
                life,
                shard,
                epoch,
                drained,
            } if self.lives(process, life) => {
                self.told(process, shard, epoch, drained);
            }
            Event::ReadBack {
                process,
                life,
                flight,
                sequence,
            } if self.lives(process, life) => {
                self.read_back(process, flight, sequence);
            }
            Event::Tick { process, life } if self.lives(process, life) => self.tick(process),
            Event::Pull { process, life } if self.lives(process, life) => self.pull(process),
            Event::Items {
                process,
                life,
                items,
            } if self.lives(process, life) => {
                self.take_in(process, items);
            }
            Event::AckItems { process, sequences } => self.ack_items(process, &sequences),
            Event::Limit {
                process,
                life,
                limit_ms,
            } if self.lives(process, life) => {
                self.limit(process, limit_ms);
            }
            Event::Start { process } => self.start(process),
            Event::StartProjector { projector } => self.start_projector(projector),
            Event::Fold {
                projector,
                life,
                shard,
            } => self.fold(projector, life, shard),
            Event::FinishFold {
                projector,
                life,
                shard,
            } => {
                self.finish_fold(projector, life, shard);
            }
            Event::Fault => self.fault(),
            Event::Heal => self.heal(),
            Event::Look => self.look(),
            _ => (),
        }
    }

    fn heal(&mut self) {
        self.trace(|| "everything is well from now on".to_owned());
        self.is_healed = true;
        self.healed_ms = self.now_ms;
        self.plan = self.plan.healed();
        self.broker.down_until_ms = i64::MIN;
        self.catalog_away_until_ms = i64::MIN;
        for stream in &mut self.broker.streams {
            stream.full_until_ms = i64::MIN;
            stream.leader.away_until_ms = i64::MIN;
        }
        self.broker.intake.leader.away_until_ms = i64::MIN;
        for process in 0..self.processes.len() {
            self.processes[process].cut_off_until_ms = i64::MIN;
            self.start(process);
            // Where days pass, the next look of an idle process may be hours away.
            let life = self.processes[process].life;
            self.after(0, Event::Tick { process, life });
            if self.processes[process].is_intake {
                self.after(0, Event::Pull { process, life });
            }
        }
        (0..self.projectors.len()).for_each(|projector| self.start_projector(projector));
        self.after(1_000, Event::Look);
    }

    /// Once everybody has been answered or has given up, everybody is drained; once all are, the world ends.
    fn look(&mut self) {
        let is_quiet =
            self.sends.iter().all(|s| s.is_over || s.is_answered) && self.broker.intake.is_empty();
        self.is_ending |= is_quiet;
        if is_quiet {
            for process in 0..self.processes.len() {
                if self.processes[process].outbox.is_some() {
                    self.processes[process].is_draining = true;
                    self.end_if_empty(process);
                }
            }
        }
        let is_shipped = is_quiet && self.processes.iter().all(|p| p.outbox.is_none());
        if is_shipped && self.is_folded() && !self.resend() {
            self.is_done = true;
        } else if self.now_ms - self.healed_ms > HEAL_MAX_MS {
            let left: Vec<_> = self
                .processes
                .iter()
                .map(|p| {
                    p.outbox
                        .as_ref()
                        .map(|o| (o.current.unacked(), o.earlier.len()))
                })
                .collect();
            let what = format!(
                "ten minutes after all is well something is not done: clients {is_quiet}, folded {}, unacknowledged and earlier epochs {left:?}",
                self.is_folded()
            );
            self.oracle.violated(|| what);
        } else {
            self.after(1_000, Event::Look);
        }
    }
}

/// Runs the world of a seed, with a planted bug or without.
pub fn run(seed: u64, bug: Option<Bug>, is_traced: bool) -> Report {
    let mut world = World::new(seed, bug, is_traced);
    while let Some((at_ms, event)) = world.agenda.next() {
        world.now_ms = world.now_ms.max(at_ms);
        world.step(event);
        if world.is_done || world.oracle.violation.is_some() {
            break;
        }
    }
    if world.oracle.violation.is_none() {
        world.verdict();
    }
    Report {
        seed,
        violation: world.oracle.violation.take(),
        digest: world.digest.finish(),
        virtual_ms: world.now_ms - BEGIN_MS,
        coverage: world.coverage,
        trace: world.trace.unwrap_or_default(),
    }
}
