//! Which creative an event is counted under: the first few names of an ad, then `other`.
//!
//! Invariant: an ad's names are those of its first counted events in log order, at most
//! [`MAX_CREATIVES_PER_AD`], so that nobody can blow up the counters with made-up names.

use std::collections::hash_map::Entry;

use adtally_streams::names::MAX_CREATIVES_PER_AD;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::applied::AdSymbols;
use crate::codec::Damaged;
use crate::directory;
use crate::family::{Changes, Family, Reads};
use crate::sift::{Batch, Sifted};
use crate::symbols::{NONE, Names, OTHER, Space, Symbol};

/// Pairs of ad and creative kept in memory; past it they are forgotten between batches and read again.
pub const MAX_CACHED_CREATIVES: usize = 1 << 20;

/// Ads whose pairs with low creatives are bits; of others they are in a set.
const MAX_BIT_ADS: usize = 1 << 16;

/// Pairs of ad and creative. Most are of low symbols, and looked for with every event.
#[derive(Debug, Default)]
struct Pairs {
    bits: Vec<u64>,
    set: FxHashSet<(Symbol, Symbol)>,
    len: usize,
}

impl Pairs {
    fn is_bit(ad: Symbol, creative: Symbol) -> bool {
        (ad as usize) < MAX_BIT_ADS && creative < u64::BITS
    }

    fn contains(&self, ad: Symbol, creative: Symbol) -> bool {
        match Self::is_bit(ad, creative) {
            true => (self.bits.get(ad as usize)).is_some_and(|bits| bits >> creative & 1 == 1),
            false => self.set.contains(&(ad, creative)),
        }
    }

    fn insert(&mut self, ad: Symbol, creative: Symbol) {
        if self.contains(ad, creative) {
            return;
        }
        self.len += 1;
        if !Self::is_bit(ad, creative) {
            self.set.insert((ad, creative));
            return;
        }
        let ad = ad as usize;
        if ad >= self.bits.len() {
            self.bits.resize(ad + 1, 0);
        }
        self.bits[ad] |= 1 << creative;
    }

    fn clear(&mut self) {
        self.bits.clear();
        self.set.clear();
        self.len = 0;
    }
}

/// The creatives that the fold knows.
#[derive(Debug, Default)]
pub(crate) struct Creatives {
    by_ad: FxHashMap<Symbol, Vec<Symbol>>,
    pairs: Pairs,
    grown: FxHashSet<Symbol>,
    /// The current frame's names.
    names: Vec<Option<Symbol>>,
    /// The current frame's answer.
    chosen: Vec<Symbol>,
}

impl Creatives {
    pub(crate) fn trim(&mut self) {
        if self.pairs.len + self.by_ad.len() > MAX_CACHED_CREATIVES {
            self.pairs.clear();
            self.by_ad.clear();
        }
    }

    /// Asks for the creatives of ads that are not in memory; an ad that got its symbol in this batch has none.
    pub(crate) fn want(
        &mut self,
        ads: &[AdSymbols],
        first_new_ad: Symbol,
        reads: &mut Reads,
        asked: &mut Vec<Symbol>,
    ) {
        for ad in ads.iter().map(|entry| entry.ad).filter(|ad| *ad != NONE) {
            if let Entry::Vacant(entry) = self.by_ad.entry(ad) {
                // What is read replaces this before the first event is counted.
                entry.insert(Vec::new());
                if ad < first_new_ad {
                    reads.want(Family::Directory, |k| directory::creatives_key(k, ad));
                    asked.push(ad);
                }
            }
        }
    }

    /// Takes in what was read.
    pub(crate) fn learn(
        &mut self,
        asked: &[Symbol],
        values: &[Option<Vec<u8>>],
    ) -> Result<(), Damaged> {
        for (ad, value) in asked.iter().zip(values) {
            if let Some(value) = value {
                let creatives = directory::decode_creatives(value)?;
                for creative in &creatives {
                    self.pairs.insert(*ad, *creative);
                }
                self.by_ad.insert(*ad, creatives);
            }
        }
        Ok(())
    }

    /// The creatives that a frame's events are counted under, parallel to `events`.
    pub(crate) fn of_events(
        &mut self,
        names: &mut Names,
        sifted: &Sifted<'_>,
        batch: &Batch<'_>,
        events: &[u32],
    ) -> &[Symbol] {
        let frame = sifted.frame;
        let ads = batch.ads_of(sifted);
        let mut known = std::mem::take(&mut self.names);
        let mut chosen = std::mem::take(&mut self.chosen);
        known.clear();
        known.extend(
            frame
                .creatives
                .iter()
                .map(|name| names.known(Space::Creative, name)),
        );
        chosen.clear();
        for at in events {
            let at = *at as usize;
            let place = frame.creative[at] as usize;
            chosen.push(match known[place] {
                Some(fixed @ (NONE | OTHER)) => fixed,
                Some(creative) if self.pairs.contains(ads[frame.ad[at] as usize].ad, creative) => {
                    creative
                }
                _ => {
                    let creative = self.admit(
                        names,
                        ads[frame.ad[at] as usize].ad,
                        &frame.creatives[place],
                    );
                    if creative != OTHER {
                        known[place] = Some(creative);
                    }
                    creative
                }
            });
        }
        self.names = known;
        self.chosen = chosen;
        &self.chosen
    }

    /// Counts a name that the ad has not had by name, as long as there is room.
    fn admit(&mut self, names: &mut Names, ad: Symbol, name: &str) -> Symbol {
        let creatives = self.by_ad.entry(ad).or_default();
        if creatives.len() >= MAX_CREATIVES_PER_AD {
            return OTHER;
        }
        let Some(creative) = names.number(Space::Creative, name) else {
            return OTHER;
        };
        creatives.push(creative);
        self.pairs.insert(ad, creative);
        self.grown.insert(ad);
        creative
    }

    /// Writes the ads whose creatives are new since the last time.
    pub(crate) fn write(&mut self, out: &mut Changes) {
        for ad in self.grown.drain() {
            let creatives = self.by_ad.get(&ad).map(Vec::as_slice).unwrap_or_default();
            out.put(
                Family::Directory,
                |k| directory::creatives_key(k, ad),
                |v| directory::encode_creatives(v, creatives),
            );
        }
    }
}
