//! Sifting a batch: which of its events are new, and which rows that takes.
//!
//! Invariant: an event passes the ledger first and the id index second, in log order, and every one that does not
//! count is counted as what it is. Rows are asked for once a batch; within it, memory is the overlay.

use std::ops::Range;

use adtally_streams::event::{Flags, Kind};
use adtally_streams::frame::{AdEntry, FoldFrame};
use adtally_streams::id::{Epoch, Id};
use rustc_hash::FxHashSet;

use crate::applied::{AdSymbols, Applied};
use crate::codec::Damaged;
use crate::completeness;
use crate::family::{Family, Op, Reads, Target, Values};
use crate::fold::{Content, Fold, Folded, Stamped};
use crate::ids::{self, IdRecord};
use crate::incidents::{self, Conflict, Counts};
use crate::ledger;
use crate::symbols::{self, NONE, OTHER, Space, Symbol};

/// First and last instants that are counted, Unix milliseconds: years 0001 to 9999, as the border has them.
const TIMES_MS: Range<i64> = -62_135_596_800_000..253_402_300_800_000;

/// Offsets from UTC are below this, in seconds either way.
const DAY_S: u32 = 86_400;

/// No key in the id index.
const NOT_INDEXED: u32 = u32::MAX;

/// Rows asked for before sifting, and whose they are.
#[derive(Default)]
pub(crate) struct Wanted<'e> {
    pub(crate) reads: Reads,
    lanes: Vec<(Epoch, Kind)>,
    producers: Vec<(Id, Epoch, i64)>,
    names: Vec<(Space, &'e str)>,
    asked: FxHashSet<(Space, &'e str)>,
    /// Symbols of the ad dictionaries' names in the order of frames, entries and [`ids_of`]: those in memory, so
    /// that each name is looked for once.
    known: Vec<Option<Symbol>>,
}

impl<'e> Wanted<'e> {
    fn name(&mut self, fold: &Fold, space: Space, name: &'e str) -> Option<Symbol> {
        let known = fold.names.known(space, name);
        if known.is_none() && self.asked.insert((space, name)) {
            self.reads
                .want(Family::Symbols, |k| symbols::name_key(k, space, name));
            self.names.push((space, name));
        }
        known
    }

    fn frame(&mut self, fold: &Fold, frame: &'e FoldFrame) {
        let (epoch, kind) = (frame.header.epoch, frame.header.kind);
        if !fold.knows_lane(epoch, kind) && !self.lanes.contains(&(epoch, kind)) {
            self.reads
                .want(Family::Ledger, |k| ledger::key(k, epoch, kind));
            self.lanes.push((epoch, kind));
        }
        for entry in &frame.ads {
            for (space, id) in ids_of(entry) {
                let known = id.map_or(Some(NONE), |id| self.name(fold, space, id.as_str()));
                self.known.push(known);
            }
        }
        for name in &frame.regions {
            self.name(fold, Space::Region, name);
        }
        for name in &frame.creatives {
            self.name(fold, Space::Creative, name);
        }
    }
}

/// Names of an entry of an ad dictionary.
const NAMES_OF_AN_AD: usize = 3;

/// Those names, none where there is none.
fn ids_of(entry: &AdEntry) -> [(Space, Option<&Id>); NAMES_OF_AN_AD] {
    [
        (Space::Ad, entry.ad_id.as_ref()),
        (Space::Campaign, entry.campaign_id.as_ref()),
        (Space::Advertiser, entry.advertiser_id.as_ref()),
    ]
}

/// A frame of the batch with its place in the batch's lists.
#[derive(Clone, Debug)]
pub(crate) struct Sifted<'e> {
    pub(crate) frame: &'e FoldFrame,
    stamped: Stamped<'e>,
    ads: Range<usize>,
    regions: Range<usize>,
    events: Range<usize>,
}

/// What passed the ledger.
#[derive(Default)]
pub(crate) struct Batch<'e> {
    pub(crate) reads: Reads,
    pub(crate) creatives_asked: Vec<Symbol>,
    /// Ads from this symbol on are of this batch.
    first_new_ad: Symbol,
    frames: Vec<Sifted<'e>>,
    ads: Vec<AdSymbols>,
    regions: Vec<Symbol>,
    events: Vec<u32>,
    /// Parallel to `events`: place in `reads.ids`; after sifting, which of its distinct keys.
    id_places: Vec<u32>,
}

/// What passed the id index too.
pub(crate) struct Settled<'e> {
    pub(crate) frames: Vec<Sifted<'e>>,
    events: Vec<u32>,
}

impl Settled<'_> {
    pub(crate) fn events(&self, frame: &Sifted<'_>) -> &[u32] {
        &self.events[frame.events.clone()]
    }
}

impl Fold {
    /// What must be read to sift the messages.
    pub(crate) fn survey<'e>(&self, entries: &[Stamped<'e>]) -> Wanted<'e> {
        let mut wanted = Wanted::default();
        for stamped in entries {
            let (producer, epoch) = match &stamped.entry.content {
                Content::Frame(frame) => {
                    wanted.frame(self, frame);
                    (&frame.header.producer, frame.header.epoch)
                }
                Content::Announcement {
                    producer, epoch, ..
                } => (producer, *epoch),
                Content::Bad { .. } => continue,
            };
            let asked = wanted
                .producers
                .iter()
                .any(|(p, e, _)| *e == epoch && p == producer);
            if !asked && !self.knows_producer(producer, epoch) {
                wanted.reads.want(Family::Completeness, |k| {
                    completeness::key(k, producer, epoch)
                });
                wanted
                    .producers
                    .push((producer.clone(), epoch, stamped.log_time_ms));
            }
        }
        wanted
    }

    /// Takes in what was read.
    pub(crate) fn learn(&mut self, wanted: &Wanted<'_>, values: &Values) -> Result<(), Damaged> {
        let of = |family, at: usize| values.of(family).get(at).and_then(Option::as_deref);
        for (at, (epoch, kind)) in wanted.lanes.iter().enumerate() {
            self.learn_lane(*epoch, *kind, of(Family::Ledger, at))?;
        }
        for (at, producer) in wanted.producers.iter().enumerate() {
            self.learn_producer(producer, of(Family::Completeness, at))?;
        }
        for (at, (space, name)) in wanted.names.iter().enumerate() {
            if let Some(value) = of(Family::Symbols, at) {
                let symbol = symbols::decode(value).ok_or(Damaged { what: "symbol" })?;
                self.names.learn(*space, name, symbol);
            }
        }
        Ok(())
    }

    /// Passes every frame through the ledger, numbers its names, and says which ids must be looked up.
    pub(crate) fn sift<'e>(
        &mut self,
        entries: &[Stamped<'e>],
        wanted: &Wanted<'e>,
        folded: &mut Folded,
    ) -> Batch<'e> {
        let mut batch = Batch {
            first_new_ad: self.names.next(Space::Ad),
            ..Batch::default()
        };
        let mut known = wanted.known.as_slice();
        for stamped in entries {
            self.note(stamped, folded);
            if let Content::Frame(frame) = &stamped.entry.content {
                let (mine, rest) = known.split_at(frame.ads.len() * NAMES_OF_AN_AD);
                known = rest;
                self.sift_frame(*stamped, frame, mine, &mut batch, folded);
            }
        }
        batch.order_ids();
        batch
    }

    fn sift_frame<'e>(
        &mut self,
        stamped: Stamped<'e>,
        frame: &'e FoldFrame,
        known: &[Option<Symbol>],
        batch: &mut Batch<'e>,
        folded: &mut Folded,
    ) {
        let header = &frame.header;
        let count = i64::from(header.count);
        let lane = self.lane(header.epoch, header.kind);
        let (first, end) = (header.first, header.first + u64::from(header.count));
        let missing = lane.row.missing(first, end);
        let new: u64 = missing.iter().map(|(a, b)| b - a).sum();
        let totals = &mut folded.totals[header.kind as usize];
        totals.frames += 1;
        totals.events += count;
        totals.duplicates_ledger += count - new as i64;
        if new == 0 {
            return;
        }
        lane.row.insert(first, end);
        lane.dirty = true;
        let ads = batch.ads.len()..batch.ads.len() + frame.ads.len();
        let known = known.as_chunks::<NAMES_OF_AN_AD>().0;
        let numbered = frame.ads.iter().zip(known);
        batch
            .ads
            .extend(numbered.map(|(entry, known)| self.number(entry, *known)));
        let regions = batch.regions.len()..batch.regions.len() + frame.regions.len();
        for name in &frame.regions {
            batch
                .regions
                .push(self.names.number(Space::Region, name).unwrap_or(OTHER));
        }
        let sifted = Sifted {
            frame,
            stamped,
            ads,
            regions,
            events: 0..0,
        };
        let refused = batch.take(sifted, &missing);
        if refused > 0 {
            folded.totals[header.kind as usize].refused += refused as i64;
            self.refused(header, refused);
            self.bad(
                &stamped,
                incidents::REFUSED_EVENTS,
                header.kind.name(),
                refused,
                folded,
            );
        }
        if frame
            .creatives
            .iter()
            .any(|name| symbols::fixed(Space::Creative, name).is_none())
        {
            let ads = &batch.ads[batch.ads.len() - frame.ads.len()..];
            self.creatives.want(
                ads,
                batch.first_new_ad,
                &mut batch.reads,
                &mut batch.creatives_asked,
            );
        }
    }

    /// Numbers the names of an entry, of which some are known.
    fn number(&mut self, entry: &AdEntry, known: [Option<Symbol>; NAMES_OF_AN_AD]) -> AdSymbols {
        let mut symbols = [NONE; NAMES_OF_AN_AD];
        for ((symbol, known), (space, id)) in symbols.iter_mut().zip(known).zip(ids_of(entry)) {
            let number = || id.and_then(|id| self.names.number(space, id.as_str()));
            *symbol = known.or_else(number).unwrap_or(NONE);
        }
        let [ad, campaign, advertiser] = symbols;
        AdSymbols {
            ad,
            campaign,
            advertiser,
            currency: entry.currency,
            utc_offset_s: entry.utc_offset_s,
        }
    }
}

/// Whether an event of that kind can be counted under those names and that offset.
fn countable(kind: Kind, entry: &AdSymbols) -> bool {
    let named = match kind {
        Kind::Impression | Kind::Click => entry.ad != NONE && entry.campaign != NONE,
        Kind::Conversion => entry.advertiser != NONE,
    };
    named && entry.utc_offset_s.unsigned_abs() < DAY_S
}

impl<'e> Batch<'e> {
    /// Takes in the events of a frame that are missing in the ledger; answers how many of them were refused.
    fn take(&mut self, mut sifted: Sifted<'e>, missing: &[(u64, u64)]) -> u64 {
        let frame = sifted.frame;
        let (kind, first) = (frame.header.kind, frame.header.first);
        let ads = &self.ads[sifted.ads.clone()];
        let start = self.events.len();
        let mut refused = 0;
        for counter in missing.iter().flat_map(|(from, to)| *from..*to) {
            let at = (counter - first) as usize;
            let entry = &ads[frame.ad[at] as usize];
            if !countable(kind, entry) || !TIMES_MS.contains(&frame.event_time_ms[at]) {
                refused += 1;
                continue;
            }
            let indexed = kind == Kind::Click || !frame.flags[at].has(Flags::MINTED_ID);
            let owner = if kind == Kind::Conversion {
                entry.advertiser
            } else {
                entry.ad
            };
            let place = match indexed {
                true => self
                    .reads
                    .ids
                    .push_with(|k| ids::key(k, kind, owner, &frame.id[at]))
                    as u32,
                false => NOT_INDEXED,
            };
            self.events.push(at as u32);
            self.id_places.push(place);
        }
        sifted.events = start..self.events.len();
        self.frames.push(sifted);
        refused
    }

    fn order_ids(&mut self) {
        let distinct = self.reads.order_ids();
        for place in self
            .id_places
            .iter_mut()
            .filter(|place| **place != NOT_INDEXED)
        {
            *place = distinct[*place as usize];
        }
    }

    /// Passes every event through the id index, and records the new ids. `records` are those that are stored, and
    /// become those that hold.
    pub(crate) fn settle(
        &mut self,
        mut records: Vec<Option<IdRecord>>,
        counts: &mut Counts,
        folded: &mut Folded,
    ) -> Settled<'e> {
        let key_of = |place: u32| {
            self.reads
                .ids
                .get(self.reads.ids_order[place as usize] as usize)
        };
        let mut is_new = vec![false; records.len()];
        let mut past: Vec<(u32, IdRecord)> = Vec::new();
        let mut out = Settled {
            frames: std::mem::take(&mut self.frames),
            events: Vec::with_capacity(self.events.len()),
        };
        for sifted in &mut out.frames {
            let start = out.events.len();
            let Stamped { entry, log_time_ms } = sifted.stamped;
            for i in sifted.events.clone() {
                let (at, place) = (self.events[i], self.id_places[i]);
                if place == NOT_INDEXED {
                    out.events.push(at);
                    continue;
                }
                let record = &mut records[place as usize];
                match record.filter(|hit| hit.holds_at(log_time_ms)) {
                    None => {
                        let first = IdRecord {
                            log_time_ms,
                            sequence: entry.sequence,
                            content_hash: sifted.frame.content_hash[at as usize],
                        };
                        // New for the second time: the batch spans more than the horizon.
                        if std::mem::replace(&mut is_new[place as usize], true) {
                            past.extend(record.map(|record| (place, record)));
                        }
                        *record = Some(first);
                        out.events.push(at);
                    }
                    Some(hit) => taken(hit, sifted, at, key_of(place), counts, folded),
                }
            }
            sifted.events = start..out.events.len();
        }
        // In the order of keys, as the places are, which RocksDB takes several times faster.
        let newest = (0u32..).zip(&records).zip(is_new);
        let newest =
            newest.filter_map(|((place, record), new)| Some((place, (*record)?)).filter(|_| new));
        for (place, record) in past.into_iter().chain(newest) {
            let day = ids::log_day(record.log_time_ms);
            let key = |k: &mut Vec<u8>| k.extend_from_slice(key_of(place));
            folded
                .changes
                .push_with(Target::Ids(day), Op::Put, key, |v| record.encode(v));
        }
        out
    }

    /// The frame as projections see it.
    pub(crate) fn applied<'a>(
        &'a self,
        frame: &Sifted<'a>,
        events: &'a [u32],
        creatives: &'a [Symbol],
    ) -> Applied<'a> {
        let (ads, regions) = (self.ads_of(frame), &self.regions[frame.regions.clone()]);
        Applied {
            frame: frame.frame,
            ads,
            regions,
            events,
            creatives,
        }
    }

    pub(crate) fn ads_of(&self, frame: &Sifted<'_>) -> &[AdSymbols] {
        &self.ads[frame.ads.clone()]
    }
}

/// Counts an event whose id is taken: a duplicate, or a conflict when its content is another.
fn taken(
    hit: IdRecord,
    sifted: &Sifted<'_>,
    at: u32,
    key: &[u8],
    counts: &mut Counts,
    folded: &mut Folded,
) {
    let header = &sifted.frame.header;
    let content_hash = sifted.frame.content_hash[at as usize];
    let totals = &mut folded.totals[header.kind as usize];
    if hit.content_hash == content_hash {
        totals.duplicates_id += 1;
        return;
    }
    totals.conflicts += 1;
    let conflict = Conflict {
        id_key: key.to_vec(),
        log_time_ms: sifted.stamped.log_time_ms,
        sequence: sifted.stamped.entry.sequence,
        epoch: header.epoch,
        counter: header.first + u64::from(at),
        content_hash,
        first_sequence: hit.sequence,
        first_content_hash: hit.content_hash,
    };
    conflict.write(counts.conflicts, &mut folded.changes);
    counts.conflicts += 1;
}
