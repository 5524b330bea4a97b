//! What a question is about: which campaigns it matches, on whose clock and in which currency they are counted.
//!
//! The catalogue says what exists and whose it is; the directory says what was counted, which can be a campaign
//! that the catalogue never knew, or one that an ad was moved away from.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use adtally_projections::bounds::is_utc;
use adtally_projections::codec::Damaged;
use adtally_projections::directory::{self, Fact};
use adtally_projections::family::Family;
use adtally_projections::plan::Source;
use adtally_projections::symbols::{Space, Symbol};
use adtally_streams::catalogue::Catalogue;
use adtally_streams::id::Id;
use adtally_streams::money::Currency;
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use super::shard::{Help, Shard, SnapshotSet};
use super::{Cancel, QueryError};
use crate::store::{Counted, OfCampaign};

/// The most campaigns that one question may match.
pub const MAX_CAMPAIGNS_MATCHED: usize = 50_000;

/// The names that a question asks by: of one kind any, of different kinds all.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// Campaigns; none named lets all pass.
    pub campaigns: BTreeSet<Id>,
    /// Ads, likewise.
    pub ads: BTreeSet<Id>,
    /// Advertisers, likewise.
    pub advertisers: BTreeSet<Id>,
    /// The one advertiser that the asker may see; none for an admin.
    pub confined_to: Option<Id>,
}

/// What the catalogue says of a campaign.
#[derive(Clone, Debug)]
struct Known {
    advertiser: Id,
    currency: Currency,
    zone: Tz,
}

/// A campaign that a question matches.
#[derive(Clone, Debug, Default)]
struct Matched {
    known: Option<Known>,
    /// Whether anything was counted under it.
    counted: bool,
    /// Whether something was counted on its advertiser's clock.
    zoned: bool,
    /// Whether something was counted on UTC, because no advertiser was known.
    unzoned: bool,
}

impl Matched {
    fn zone(&self) -> Tz {
        self.known.as_ref().map_or(Tz::UTC, |k| k.zone)
    }

    /// Whether the campaign's hour and day cells are hours and days of that clock.
    fn stands_on(&self, zone: Tz) -> bool {
        let same = |clock: Tz| clock == zone || (is_utc(clock) && is_utc(zone));
        (!self.zoned || same(self.zone())) && (!self.unzoned || is_utc(zone))
    }
}

/// What one shard has of a scope.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardScope {
    /// Its numbers of the campaigns.
    pub campaigns: Vec<Symbol>,
    /// Its numbers of the ads that were asked for; none when no ad was.
    pub ads: Option<Vec<Symbol>>,
}

/// The campaigns that a question matches.
#[derive(Clone, Debug)]
pub struct Scope {
    campaigns: BTreeMap<Id, Matched>,
    /// In the order of the shards.
    pub shards: Vec<ShardScope>,
    /// By shard the campaigns that its numbers are of.
    counted: Vec<Vec<Id>>,
}

impl Scope {
    /// Finds what the subject matches.
    pub fn resolve(
        subject: &Subject,
        catalogue: &Catalogue,
        set: &SnapshotSet<'_>,
        cancel: &Cancel,
    ) -> Result<Self, QueryError> {
        let mut campaigns = candidates(subject, catalogue, set)?;
        for (id, matched) in &mut campaigns {
            matched.known = catalogue.campaign(id.as_str()).and_then(|c| {
                let advertiser = catalogue.advertiser(c.advertiser_id.as_str())?;
                Some(Known {
                    advertiser: c.advertiser_id.clone(),
                    currency: advertiser.currency_code,
                    zone: advertiser.time_zone,
                })
            });
        }
        let owned_by = |m: &Matched, passes: &dyn Fn(&Id) -> bool| {
            m.known.as_ref().is_some_and(|k| passes(&k.advertiser))
        };
        if !subject.advertisers.is_empty() {
            campaigns.retain(|_, m| owned_by(m, &|owner| subject.advertisers.contains(owner)));
        }
        if let Some(own) = &subject.confined_to {
            campaigns.retain(|_, m| owned_by(m, &|owner| owner == own));
        }
        if campaigns.len() > MAX_CAMPAIGNS_MATCHED {
            return Err(QueryError::asked(
                None,
                format!(
                    "the question matches more than {MAX_CAMPAIGNS_MATCHED} campaigns; name some by campaign_id"
                ),
            ));
        }
        let mut shards = Vec::with_capacity(set.shards.len());
        let mut by_shard = Vec::with_capacity(set.shards.len());
        let ids: Vec<&Id> = campaigns.keys().collect();
        let found = set.each(|shard, help| match shard.rows.elsewhere() {
            Some(there) => there.numbers(&subject.ads, &ids),
            None => numbers(shard, &subject.ads, &ids, cancel, help),
        })?;
        for (shard, counted) in found {
            for (id, fact) in &counted {
                if let Some(matched) = campaigns.get_mut(id) {
                    matched.counted = true;
                    matched.zoned |= fact.zoned;
                    matched.unzoned |= fact.unzoned;
                }
            }
            by_shard.push(counted.into_iter().map(|(id, _)| id).collect());
            shards.push(shard);
        }
        Ok(Self {
            campaigns,
            shards,
            counted: by_shard,
        })
    }

    /// How many campaigns match.
    pub fn len(&self) -> usize {
        self.campaigns.len()
    }

    /// Each campaign that was counted, with its numbers by shard; none where the shard has not counted it.
    pub fn numbers(&self) -> impl Iterator<Item = (&Id, Vec<Option<Symbol>>)> {
        let number = |id: &Id, shard: &ShardScope, counted: &[Id]| {
            let at = counted.iter().position(|counted| counted == id)?;
            shard.campaigns.get(at).copied()
        };
        self.campaigns.keys().map(move |id| {
            let shards = self.shards.iter().zip(&self.counted);
            let numbers = shards.map(|(shard, counted)| number(id, shard, counted));
            (id, numbers.collect())
        })
    }

    /// The clock of the answer, and which cells stand on it. `asked` is the question's own `time_zone`.
    pub fn clock(&self, asked: Option<Tz>) -> Result<(Tz, Source), QueryError> {
        let zone = match asked {
            Some(zone) => zone,
            None => {
                let zones: BTreeSet<&'static str> =
                    self.relevant().map(|m| m.zone().name()).collect();
                if zones.len() > 1 {
                    let zones: Vec<_> = zones.into_iter().take(3).collect();
                    return Err(QueryError::asked(
                        Some("time_zone"),
                        format!(
                            "the campaigns are of different time zones ({}); say which clock with time_zone",
                            zones.join(", ")
                        ),
                    ));
                }
                self.relevant().next().map_or(Tz::UTC, Matched::zone)
            }
        };
        let civil = self.relevant().all(|m| m.stands_on(zone));
        Ok((
            zone,
            if civil {
                Source::Civil
            } else {
                Source::Minutes
            },
        ))
    }

    /// The currency of the answer's money; none for campaigns that the catalogue does not know.
    pub fn currency(&self) -> Result<Option<Currency>, QueryError> {
        let currencies: BTreeSet<Option<Currency>> = self
            .relevant()
            .map(|m| m.known.as_ref().map(|k| k.currency))
            .collect();
        if currencies.len() > 1 {
            let name = |c: &Option<Currency>| c.map_or("none known".to_owned(), |c| c.to_string());
            let names: Vec<_> = currencies.iter().take(3).map(name).collect();
            return Err(QueryError::asked(
                None,
                format!(
                    "the campaigns are of different currencies ({}), which are never summed; ask for each",
                    names.join(", ")
                ),
            ));
        }
        Ok(currencies.into_iter().next().flatten())
    }

    /// The campaigns that decide on clock and currency: those that the catalogue knows or that have counts.
    fn relevant(&self) -> impl Iterator<Item = &Matched> {
        self.campaigns
            .values()
            .filter(|m| m.known.is_some() || m.counted)
    }
}

fn candidates(
    subject: &Subject,
    catalogue: &Catalogue,
    set: &SnapshotSet<'_>,
) -> Result<BTreeMap<Id, Matched>, QueryError> {
    let mut ids: BTreeSet<Id> = BTreeSet::new();
    if !subject.campaigns.is_empty() {
        ids.extend(subject.campaigns.iter().cloned());
    } else if !subject.ads.is_empty() {
        ids.extend(
            subject
                .ads
                .iter()
                .filter_map(|ad| Some(catalogue.ad(ad.as_str())?.campaign_id.clone())),
        );
        for found in set.each(|shard, _| match shard.rows.elsewhere() {
            Some(there) => there.campaigns_of_ads(&subject.ads),
            None => campaigns_of_ads(shard, &subject.ads),
        })? {
            ids.extend(found);
        }
    } else {
        let own = |id: &Id| subject.advertisers.contains(id);
        ids.extend(
            catalogue
                .campaigns()
                .filter(|c| own(&c.advertiser_id))
                .map(|c| c.campaign_id.clone()),
        );
    }
    Ok(ids.into_iter().map(|id| (id, Matched::default())).collect())
}

/// The campaigns that a shard has counted the ads under.
pub(super) fn campaigns_of_ads(
    shard: &Shard<'_>,
    ads: &BTreeSet<Id>,
) -> Result<Vec<Id>, QueryError> {
    let mut symbols: BTreeSet<Symbol> = BTreeSet::new();
    for ad in ads {
        let Some(ad) = shard.symbol(Space::Ad, ad.as_str())? else {
            continue;
        };
        shard.scan_prefix(
            Family::Directory,
            &directory::campaigns_of_ad(ad),
            &mut |key, _| {
                if let Some(Fact::CampaignOfAd(_, campaign)) = Fact::decode(key)? {
                    symbols.insert(campaign);
                }
                Ok(ControlFlow::Continue(()))
            },
        )?;
    }
    let name = |symbol: Symbol| {
        let name = shard.name(Space::Campaign, symbol)?;
        Id::new(&name).map_err(|_| QueryError::from(Damaged { what: "campaign" }))
    };
    symbols.into_iter().map(name).collect()
}

/// What a shard has of a scope, and the campaigns that it has counted.
pub type Numbers = (ShardScope, Vec<(Id, Counted)>);

/// What a shard's directory says of a campaign.
fn of_campaign(shard: &Shard<'_>, id: &Id) -> Result<OfCampaign, QueryError> {
    let Some(symbol) = shard.symbol(Space::Campaign, id.as_str())? else {
        return Ok(None);
    };
    let has = |fact: Fact| {
        let mut key = Vec::with_capacity(9);
        fact.encode(&mut key);
        Ok::<_, QueryError>(shard.rows.get(Family::Directory, &key)?.is_some())
    };
    if !has(Fact::Campaign(symbol))? {
        return Ok(None);
    }
    let mut zoned = false;
    shard.scan_prefix(
        Family::Directory,
        &directory::advertisers_of_campaign(symbol),
        &mut |_, _| {
            zoned = true;
            Ok(ControlFlow::Break(()))
        },
    )?;
    let unzoned = has(Fact::Unzoned(symbol))?;
    Ok(Some((symbol, Counted { zoned, unzoned })))
}

/// What a shard has of the ads and campaigns of a scope.
pub(super) fn numbers(
    shard: &Shard<'_>,
    ads: &BTreeSet<Id>,
    campaigns: &[&Id],
    cancel: &Cancel,
    help: &Help<'_>,
) -> Result<Numbers, QueryError> {
    let mut out = ShardScope::default();
    let mut counted = Vec::new();
    for &id in campaigns {
        cancel.check()?;
        help.look();
        let found = match shard.rows.known_campaign(id) {
            Some(known) => known,
            None => {
                let read = of_campaign(shard, id)?;
                shard.rows.keep_campaign(id, read);
                read
            }
        };
        if let Some((symbol, facts)) = found {
            counted.push((id.clone(), facts));
            out.campaigns.push(symbol);
        }
    }
    if !ads.is_empty() {
        let known = ads.iter().map(|ad| shard.symbol(Space::Ad, ad.as_str()));
        out.ads = Some(
            known
                .filter_map(Result::transpose)
                .collect::<Result<_, _>>()?,
        );
    }
    Ok((out, counted))
}
