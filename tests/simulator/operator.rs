//! Great faults, and what an operator does on such nights.

use crate::outbox::Outbox;
use crate::plan::Fault;
use crate::report::Happening;
use crate::world::{Event, Process, World};

impl World {
    /// One of the plan's great faults happens, and another one will.
    pub fn fault(&mut self) {
        if self.is_healed || self.plan.faults.is_empty() {
            return;
        }
        let fault = *self.random.pick(&self.plan.faults);
        self.trace(|| format!("fault: {fault:?}"));
        self.happen(fault);
        // Where days pass, faults come in the first minutes and then once in a while.
        let mut wait = self.random.between(1, 2 * self.plan.fault_every_ms);
        if self.plan.has_days && self.random.permille(100) {
            wait += self.random.between(0, 86_400_000);
        }
        self.after(wait, Event::Fault);
    }

    fn happen(&mut self, fault: Fault) {
        let process = self.random.index(self.processes.len());
        let projector = self.random.index(self.projectors.len());
        match fault {
            Fault::Kill | Fault::PowerLoss => {
                let process = self.busy_or(process);
                self.die(process, fault == Fault::PowerLoss);
                self.start_later(process);
            }
            Fault::Drain => self.processes[process].is_draining = true,
            Fault::Clone => self.clone_disk(process),
            Fault::BrokerKill => self.kill_broker(),
            Fault::Election => self.elect(),
            Fault::StreamFull => {
                let until_ms = self.now_ms + self.random.between(500, 8_000);
                let stream = self.random.index(usize::from(self.plan.shards));
                self.broker.streams[stream].full_until_ms = until_ms;
            }
            Fault::Partition => {
                let until_ms = self.now_ms + self.random.between(500, 10_000);
                self.processes[process].cut_off_until_ms = until_ms;
                self.coverage.note(Happening::Partition);
            }
            Fault::ClockStep => {
                let step = self.random.between(-10_000, 10_000);
                self.processes[process].clock_ms += step;
                self.processes[process].has_stepped_back |= step < 0;
                self.coverage.note(Happening::ClockStep);
            }
            Fault::ProjectorKill | Fault::ProjectorPowerLoss => {
                if self.projectors[projector].is_up {
                    self.kill_projector(projector, fault == Fault::ProjectorPowerLoss);
                }
            }
            Fault::Eviction => {
                let p = &mut self.processes[process];
                if let Some(outbox) = &p.outbox {
                    outbox.evict(&mut p.disk);
                    self.coverage.note(Happening::Eviction);
                }
            }
            Fault::CatalogueChange => {
                self.history.change(&mut self.random);
                self.coverage.note(Happening::CatalogueChange);
            }
            Fault::Resend => drop(self.resend()),
        }
    }

    /// A process whose writer is at work, where there is one and more often than chance would have it: that is when
    /// a death does the most.
    fn busy_or(&mut self, process: usize) -> usize {
        let is_busy = |p: &Process| p.outbox.as_ref().is_some_and(Outbox::is_committing);
        match self.processes.iter().position(is_busy) {
            Some(busy) if self.random.permille(700) => busy,
            _ => process,
        }
    }

    fn start_later(&mut self, process: usize) {
        let pause = self.random.between(10, 4_000);
        self.after(pause, Event::Start { process });
    }

    /// The disk of a process, as it is durable now, is started a second time, by another process.
    fn clone_disk(&mut self, process: usize) {
        if self.processes.len() >= 6 {
            return;
        }
        let p = &self.processes[process];
        let (disk, is_intake, clock_ms) = (p.disk.cloned(), p.is_intake, p.clock_ms);
        self.add_process(disk, is_intake, clock_ms, true);
        // The clone says that the epochs it finds are over, the one of the other process among them.
        self.oracle.excuse(process);
        self.coverage.note(Happening::Clone);
        self.start_later(self.processes.len() - 1);
    }

    fn kill_broker(&mut self) {
        let until_ms = self.now_ms + self.random.between(300, 6_000);
        self.broker.kill(until_ms);
        self.coverage.note(Happening::BrokerKill);
    }

    /// A stream elects another leader, which takes a while, and whose clock is another.
    fn elect(&mut self) {
        let until_ms = self.now_ms + self.random.between(4_000, 9_000);
        let step = self.random.between(-3_000, 3_000);
        self.coverage.note(Happening::Election);
        let streams = self.broker.streams.len();
        let at = self.random.index(streams + 2);
        if at == streams + 1 {
            self.catalog_away_until_ms = until_ms;
            return;
        }
        let leader = match self.broker.streams.get_mut(at) {
            Some(stream) => &mut stream.leader,
            None => &mut self.broker.intake.leader,
        };
        if step < leader.clock_ms {
            self.coverage.note(Happening::LogTimeBack);
            let intakes = self.processes.iter_mut().filter(|p| p.is_intake);
            intakes.for_each(|p| p.has_stepped_back |= at == streams);
        }
        leader.away_until_ms = until_ms;
        leader.clock_ms = step;
    }
}
