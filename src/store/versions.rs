//! When the blocks of a span changed last, since a shard was opened, and what is said of campaigns and producers: by that, what
//! was made of them in memory is known to be of a snapshot, without reading them.
//!
//! Invariant: a version that a snapshot is told of a span is told of another snapshot only if both have the very same
//! blocks of that span. A span's place in the table notes the sequence number that RocksDB was at when blocks of it had
//! been written, and whether some are being written. A snapshot that was taken at that number or later, while none were
//! being written, has them and nothing newer. Spans share places, which makes versions change too often and never too
//! seldom. What the directory says of campaigns has one place of its own, and so has which producers are open; all
//! this holds of them too. An opening has a number that no other one of this process has, so nothing is said of another generation.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use adtally_projections::block::BlockKey;
use adtally_projections::cells::Grain;
use adtally_projections::directory::Fact;
use adtally_projections::family::{Changes, Family, Op, Target};
use adtally_projections::spans::Span;
use adtally_projections::symbols::Symbol;

use super::open_producers::OpenProducers;

/// How many places spans have, of 16 bytes each.
const PLACES: usize = 1 << 12;
/// The place of what the directory says of campaigns.
const CAMPAIGNS: usize = PLACES;
/// The place of which producers are open.
const PRODUCERS: usize = PLACES + 1;

/// What the blocks of a span are known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// The opening of the shard.
    pub opened: u64,
    /// RocksDB's number when they changed last, or a later one.
    pub sequence: u64,
}

#[derive(Debug, Default)]
struct Place {
    /// How many batches with blocks of it are being written, or have failed.
    writing: AtomicU32,
    last: AtomicU64,
}

/// The versions of an open shard's spans.
#[derive(Debug)]
pub struct Versions {
    opened: u64,
    places: Box<[Place]>,
}

impl Versions {
    /// Those of a shard that is being opened.
    pub fn begin() -> Self {
        static OPENED: AtomicU64 = AtomicU64::new(0);
        Self {
            opened: OPENED.fetch_add(1, Ordering::Relaxed),
            places: (0..=PRODUCERS).map(|_| Place::default()).collect(),
        }
    }

    /// Notes that a batch is about to be written; its places are to be given to [`Versions::written`] when it is. Of a
    /// batch that failed nobody knows what is stored, so nothing is said of its places any more. `producers` are those of
    /// the shard, which has one writer of their rows.
    pub fn writing(&self, changes: &Changes, producers: &OpenProducers) -> Vec<usize> {
        let of_block = |grain, key| {
            let key = BlockKey::decode(grain, key).ok()?;
            Some(place(key.campaign, key.span))
        };
        let mut places: Vec<usize> = Vec::new();
        for change in changes.iter() {
            // Of all changes: for nearly all of them no more than a comparison.
            places.extend(match change.target {
                Target::Family(Family::BlocksMinute) => of_block(Grain::Minute, change.key),
                Target::Family(Family::BlocksHour) => of_block(Grain::Hour, change.key),
                Target::Family(Family::BlocksDay) => of_block(Grain::Day, change.key),
                Target::Family(Family::Directory) => {
                    is_of_campaign(change.key).then_some(CAMPAIGNS)
                }
                Target::Family(Family::Completeness) => {
                    let stay = self.of_producers(u64::MAX).is_some_and(|version| {
                        change.op == Op::Put && producers.stay(version, change.key, change.value)
                    });
                    (!stay).then_some(PRODUCERS)
                }
                Target::Family(_) | Target::Ids(_) => None,
            });
        }
        places.sort_unstable();
        places.dedup();
        for place in &places {
            self.places[*place].writing.fetch_add(1, Ordering::SeqCst);
        }
        places
    }

    /// The batch is written, and RocksDB is at the number that it is asked for.
    pub fn written(&self, places: &[usize], sequence: impl Fn() -> u64) {
        for place in places {
            let place = &self.places[*place];
            place.last.fetch_max(sequence(), Ordering::SeqCst);
            place.writing.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// The version of a span's blocks in a snapshot that was taken before, after RocksDB was at `sequence`; none where that
    /// cannot be said.
    pub fn of(&self, campaign: Symbol, span: Span, sequence: u64) -> Option<Version> {
        self.of_place(place(campaign, span), sequence)
    }

    /// The same of what the directory says of all campaigns: which were counted, and on whose clocks.
    pub fn of_campaigns(&self, sequence: u64) -> Option<Version> {
        self.of_place(CAMPAIGNS, sequence)
    }

    /// The same of which producers are open.
    pub fn of_producers(&self, sequence: u64) -> Option<Version> {
        self.of_place(PRODUCERS, sequence)
    }

    fn of_place(&self, place: usize, sequence: u64) -> Option<Version> {
        let place = &self.places[place];
        if place.writing.load(Ordering::SeqCst) != 0 {
            return None;
        }
        let last = place.last.load(Ordering::SeqCst);
        (last <= sequence).then_some(Version {
            opened: self.opened,
            sequence: last,
        })
    }
}

/// Whether a row of the directory says of a campaign that it was counted, or on whose clock.
fn is_of_campaign(key: &[u8]) -> bool {
    matches!(
        Fact::decode(key),
        Ok(Some(
            Fact::Campaign(_) | Fact::Unzoned(_) | Fact::AdvertiserOfCampaign(..)
        ))
    )
}

fn place(campaign: Symbol, span: Span) -> usize {
    let both = (u64::from(campaign) << 32) | u64::from(span.number as u32);
    // Fibonacci hashing: neighbours lie far apart.
    let mixed = (both ^ (span.grain as u64) << 60).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (u64::BITS - PLACES.trailing_zeros())) as usize
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use adtally_projections::cuboid::Cuboid;
    use adtally_projections::directory::creatives_key;
    use adtally_projections::spans::Place as At;

    use super::*;
    use crate::store::{Limits, Memory, Shard};

    const SPAN: Span = Span {
        grain: Grain::Hour,
        number: 19_000,
    };

    fn key() -> BlockKey {
        BlockKey {
            campaign: 7,
            cuboid: Cuboid::Region,
            span: SPAN,
            first: At { at: 0, offset_s: 0 },
            part: 0,
        }
    }

    fn batch(value: u32) -> Changes {
        let mut changes = Changes::default();
        let value = value.to_be_bytes();
        changes.put(
            Grain::Hour.blocks(),
            |k| key().encode(k),
            |v| v.extend_from_slice(&value),
        );
        changes
    }

    fn writing(versions: &Versions, changes: &Changes) -> Vec<usize> {
        versions.writing(changes, &OpenProducers::default())
    }

    #[test]
    fn a_snapshot_from_before_or_amid_a_write_is_told_nothing() {
        let versions = Versions::begin();
        let of = |sequence| versions.of(7, SPAN, sequence).map(|v| v.sequence);
        assert_eq!(of(0), Some(0));
        let places = writing(&versions, &batch(0));
        assert_eq!((places.len(), of(0), of(100)), (1, None, None));
        versions.written(&places, || 12);
        assert_eq!((of(11), of(12), of(13)), (None, Some(12), Some(12)));
        // A batch that failed.
        writing(&versions, &batch(0));
        assert_eq!(of(100), None);
        // Other grains and spans are others, and so is every other opening.
        let day = Span {
            grain: Grain::Day,
            ..SPAN
        };
        assert_eq!(versions.of(7, day, 0).map(|v| v.sequence), Some(0));
        let later = Versions::begin();
        assert_ne!(later.of(7, day, 0), versions.of(7, day, 0));
    }

    #[test]
    fn what_is_said_of_campaigns_has_a_version_of_its_own() {
        let versions = Versions::begin();
        let of = |sequence| versions.of_campaigns(sequence).map(|v| v.sequence);
        let write = |fact: Fact| {
            let mut changes = Changes::default();
            changes.put(Family::Directory, |k| fact.encode(k), |_| ());
            writing(&versions, &changes)
        };
        // What is not asked for with a campaign's number: other facts, a row of creatives, a block.
        let mut creatives = Changes::default();
        creatives.put(Family::Directory, |k| creatives_key(k, 7), |_| ());
        assert!(writing(&versions, &creatives).is_empty());
        for other in [
            Fact::CampaignOfAd(3, 7),
            Fact::AdOfCampaign(7, 3),
            Fact::CampaignOfAdvertiser(2, 7),
        ] {
            assert!(write(other).is_empty(), "{other:?}");
        }
        versions.written(&writing(&versions, &batch(0)), || 90);
        assert_eq!(of(0), Some(0));
        for (fact, at) in [
            (Fact::Campaign(7), 10),
            (Fact::AdvertiserOfCampaign(7, 2), 20),
            (Fact::Unzoned(7), 30),
        ] {
            let places = write(fact);
            assert_eq!(of(1_000), None, "{fact:?} is being written");
            versions.written(&places, || at);
            assert_eq!((of(at - 1), of(at)), (None, Some(at)), "{fact:?}");
        }
    }

    #[test]
    fn one_version_is_one_content_while_another_thread_writes() {
        const WRITES: u32 = 10_000;
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::start(folder.path(), Limits::default()).unwrap();
        let shard = Shard::open(0, "g", &folder.path().join("g"), &memory).unwrap();
        let mut stands = Vec::new();
        key().encode(&mut stands);
        let told: Mutex<HashMap<Version, Option<Vec<u8>>>> = Mutex::default();
        let is_over = AtomicBool::new(false);
        let read = || {
            while !is_over.load(Ordering::Relaxed) {
                let snapshot = shard.snapshot().unwrap();
                let Some(version) = snapshot.version(7, SPAN) else {
                    continue;
                };
                let value = snapshot.get(Grain::Hour.blocks(), &stands).unwrap();
                let mut told = told.lock().unwrap();
                assert_eq!(*told.entry(version).or_insert_with(|| value.clone()), value);
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(read);
            scope.spawn(read);
            for n in 0..WRITES {
                shard.write(&batch(n)).unwrap();
                if n % 64 == 0 {
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
        let last = shard.snapshot().unwrap();
        assert!(last.version(7, SPAN).is_some());
        assert!(told.lock().unwrap().len() > 20);
    }
}
