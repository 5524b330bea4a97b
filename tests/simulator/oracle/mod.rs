//! The oracle: what was answered, what must come of it, and whether what was promised was true when it was said.
//!
//! It shares nothing with the code under test but names. Every event that reaches a border gets a number, its
//! *copy*, which travels in the user agent, so that the oracle knows what a frame means without decoding it.

mod judge;
mod lines;
mod log;

use std::collections::BTreeSet;

use adtally_streams::event::{Event, Kind};
use adtally_streams::id::Epoch;
use adtally_streams::watermark::Watermark;
use rustc_hash::FxHashMap;

use crate::broker::{Message, Truth};
use crate::world::Parcel;
pub use judge::{Fate, judge};
pub use lines::is_counted;
pub use log::{Expected, Told};

/// The number of an event that reached a border.
pub type CopyId = u32;

/// The number that an event carries.
pub fn copy_of_event(event: &Event) -> CopyId {
    event
        .user_agent
        .as_deref()
        .and_then(number)
        .expect("the simulator's border numbers every event")
}

/// The number that a refused event's record carries as its subject.
pub fn copy_of_record(json: &[u8]) -> CopyId {
    let text = std::str::from_utf8(json).expect("a record is JSON");
    let (_, rest) = text
        .split_once("\"subject\":\"")
        .expect("a record has a subject");
    let (subject, _) = rest.split_once('"').expect("a text ends");
    number(subject).expect("the simulator's border numbers every event")
}

fn number(text: &str) -> Option<CopyId> {
    text.strip_prefix('c')?.parse().ok()
}

/// How a copy's number is written.
pub fn text_of(copy: CopyId) -> String {
    format!("c{copy}")
}

/// An event that reached a border.
#[derive(Clone, Debug)]
pub struct Copy {
    /// The process.
    pub process: usize,
    /// Its epoch then.
    pub epoch: Epoch,
    /// Its arrival time.
    pub arrival_ms: i64,
    /// What must become of it, when it becomes durable.
    pub fate: Fate,
    /// Somebody was told that it is durable.
    pub is_answered: bool,
    /// Where the broker stored it first.
    pub stored_at: Option<u64>,
    /// A state of its shard that has read that far knows of its producer, so that what it calls complete speaks of
    /// the event; none where the producer says nothing there yet, or is excused.
    pub held_from: Option<u64>,
}

/// Counters of a lane that are stored.
#[derive(Clone, Debug, Default)]
struct Counters {
    /// All below.
    prefix: u64,
    beyond: BTreeSet<u64>,
}

impl Counters {
    fn insert(&mut self, counter: u64) {
        if counter >= self.prefix {
            self.beyond.insert(counter);
        }
        while self.beyond.remove(&self.prefix) {
            self.prefix += 1;
        }
    }
}

/// What a shard's log says of one producer's disk: epochs heard of, and those of them that are over.
#[derive(Clone, Debug, Default)]
struct Heard {
    epochs: BTreeSet<Epoch>,
    over: BTreeSet<Epoch>,
    /// The sequence since which there has always been one that is not over.
    open_since: Option<u64>,
}

/// What the world told, and what must be true of it.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Every event that reached a border.
    pub copies: Vec<Copy>,
    /// The first thing that was not as it must be.
    pub violation: Option<String>,
    /// By process: answered events that no stream holds yet, by arrival.
    unstored: Vec<BTreeSet<(i64, CopyId)>>,
    /// Likewise by shard, those that completeness speaks of.
    unstored_in: Vec<BTreeSet<(i64, CopyId)>>,
    counters: FxHashMap<(Epoch, u16, Kind), Counters>,
    /// By epoch: the greatest time announced.
    announced_ms: FxHashMap<Epoch, i64>,
    /// By shard and process.
    heard: Vec<Vec<Heard>>,
    /// By process: its disk has been cloned, or its clock has gone back over a restart, so that completeness does
    /// not speak of it.
    is_excused: Vec<bool>,
}

impl Oracle {
    /// An oracle of so many shards.
    pub fn new(shards: u16) -> Self {
        Self {
            unstored_in: vec![BTreeSet::new(); usize::from(shards)],
            heard: vec![Vec::new(); usize::from(shards)],
            ..Self::default()
        }
    }

    /// There is one more process.
    pub fn add_process(&mut self, is_excused: bool) {
        self.unstored.push(BTreeSet::new());
        self.heard
            .iter_mut()
            .for_each(|shard| shard.push(Heard::default()));
        self.is_excused.push(is_excused);
    }

    /// Completeness does not speak of that process from now on.
    pub fn excuse(&mut self, process: usize) {
        self.is_excused[process] = true;
        let copies = &mut self.copies;
        for shard in &mut self.unstored_in {
            shard.retain(|(_, id)| copies[*id as usize].process != process);
        }
        copies
            .iter_mut()
            .filter(|copy| copy.process == process)
            .for_each(|copy| copy.held_from = None);
    }

    /// Something is not as it must be; the first time counts.
    pub fn violated(&mut self, what: impl FnOnce() -> String) {
        self.violation.get_or_insert_with(what);
    }

    /// The number that the next event gets.
    pub fn next_copy(&self) -> CopyId {
        self.copies.len() as CopyId
    }

    /// An event reaches a border.
    pub fn arrived(&mut self, copy: Copy) -> CopyId {
        let said_ms = self.announced_ms.get(&copy.epoch).copied();
        if let Some(said_ms) = said_ms.filter(|ms| copy.arrival_ms <= *ms) {
            let (arrival, epoch) = (copy.arrival_ms, copy.epoch);
            self.violated(|| {
                format!("an event arrives at {arrival}, and epoch {epoch} has announced {said_ms}")
            });
        }
        self.copies.push(copy);
        self.next_copy() - 1
    }

    /// A client, or INTAKE, is told that the event is durable.
    pub fn answered(&mut self, id: CopyId) {
        let copy = &mut self.copies[id as usize];
        if copy.is_answered {
            return;
        }
        copy.is_answered = true;
        let Some(shard) = copy.fate.shard() else {
            return;
        };
        if copy.stored_at.is_some() {
            return;
        }
        let heard = &self.heard[usize::from(shard)][copy.process];
        if !self.is_excused[copy.process] {
            copy.held_from = heard.open_since;
        }
        self.unstored[copy.process].insert((copy.arrival_ms, id));
        if copy.held_from.is_some() {
            self.unstored_in[usize::from(shard)].insert((copy.arrival_ms, id));
        }
    }

    /// A process announces that, at this moment, to a shard.
    pub fn announces(&mut self, process: usize, epoch: Epoch, shard: u16, said: &Watermark) {
        if said.through_ms > 0 {
            let announced = self.announced_ms.entry(epoch).or_insert(i64::MIN);
            *announced = (*announced).max(said.through_ms);
        }
        let oldest = self.unstored[process].first().copied();
        if let Some((arrival_ms, copy)) = oldest.filter(|(ms, _)| *ms <= said.through_ms) {
            let through_ms = said.through_ms;
            self.violated(|| {
                format!("process {process} announces {through_ms}, and answered event {copy} of {arrival_ms} is in no stream")
            });
        }
        for kind in Kind::ALL {
            let stored = self
                .counters
                .get(&(epoch, shard, kind))
                .map_or(0, |c| c.prefix);
            let acked = said.acked[kind as usize];
            if acked > stored {
                self.violated(|| {
                    format!("process {process} says that {acked} {kind} events of epoch {epoch} are stored in shard {shard}, and {stored} are")
                });
            }
        }
    }

    /// A stream has stored a message of that process. One that is not readable, because a byte of it has flipped, tells
    /// no state whose it is, so that nobody has heard of its epoch by it.
    pub fn stored(&mut self, parcel: &Parcel, sequence: u64, is_readable: bool) {
        let (process, shard) = (parcel.process, parcel.shard);
        match &parcel.truth {
            Truth::Frame {
                epoch,
                kind,
                first,
                copies,
            } => {
                let shard = shard.expect("frames go to shards");
                if is_readable {
                    self.hear(shard, process, (*epoch, false), sequence);
                }
                let counters = self.counters.entry((*epoch, shard, *kind)).or_default();
                (*first..)
                    .zip(copies.iter())
                    .for_each(|(n, _)| counters.insert(n));
                for id in copies.iter() {
                    self.stored_copy(shard, *kind, *id, sequence);
                }
            }
            Truth::Announcement { epoch, drained } => {
                let shard = shard.expect("announcements go to shards");
                if is_readable {
                    self.hear(shard, process, (*epoch, *drained), sequence);
                }
            }
            Truth::Refused(id) => {
                let copy = &mut self.copies[*id as usize];
                copy.stored_at = Some(sequence);
                let (fate, subject) = (copy.fate.clone(), &parcel.subject);
                if !matches!(fate, Fate::Refused(reason) if subject.ends_with(reason)) {
                    self.violated(|| {
                        format!("event {id} is refused on {subject}, and should be {fate:?}")
                    });
                }
            }
        }
    }

    fn hear(&mut self, shard: u16, process: usize, (epoch, is_over): (Epoch, bool), at: u64) {
        let heard = &mut self.heard[usize::from(shard)][process];
        heard.epochs.insert(epoch);
        if is_over {
            heard.over.insert(epoch);
        }
        heard.open_since = match heard.epochs.difference(&heard.over).next() {
            Some(_) => heard.open_since.or(Some(at)),
            None => None,
        };
    }

    fn stored_copy(&mut self, shard: u16, kind: Kind, id: CopyId, sequence: u64) {
        let copy = &mut self.copies[id as usize];
        copy.stored_at.get_or_insert(sequence);
        let (arrival_ms, fate) = (copy.arrival_ms, copy.fate.clone());
        self.unstored[copy.process].remove(&(arrival_ms, id));
        match fate {
            Fate::Counts(counted) if counted.kind == kind && counted.shard == shard => {
                self.unstored_in[usize::from(shard)].remove(&(arrival_ms, id));
            }
            other => self.violated(|| {
                format!("event {id} is a {kind} in shard {shard}, and should be {other:?}")
            }),
        }
    }

    /// A shard's state that has read up to a sequence says that it holds everything up to `through_ms`; `ahead` is
    /// what it has not read yet. What a flipped byte hides is named as lost instead.
    pub fn complete(&mut self, shard: u16, through_ms: i64, read_to: u64, ahead: &[Message]) {
        let unstored = self.unstored_in[usize::from(shard)]
            .range(..=(through_ms, CopyId::MAX))
            .map(|(_, id)| *id);
        let readable = ahead.iter().filter(|m| !m.is_flipped);
        let ahead = readable.flat_map(|m| {
            let ids: &[CopyId] = match &m.truth {
                Truth::Frame { copies, .. } => copies,
                _ => &[],
            };
            let first_stored =
                |id: &CopyId| self.copies[*id as usize].stored_at == Some(m.sequence);
            ids.iter().copied().filter(first_stored)
        });
        let lacking = unstored.chain(ahead).find(|id| {
            let copy = &self.copies[*id as usize];
            copy.arrival_ms <= through_ms && copy.held_from.is_some_and(|from| from <= read_to)
        });
        if let Some(id) = lacking {
            let copy = self.copies[id as usize].clone();
            self.violated(|| {
                format!("shard {shard} at {read_to} is complete through {through_ms}, and lacks answered event {id}: {copy:?}")
            });
        }
    }
}
