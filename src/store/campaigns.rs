//! What a shard's directory says of campaigns that were asked about before: a dashboard asks about the same few, and to look
//! each up among millions of rows takes a third of a short question.
//!
//! Invariant: what is kept is of one version of the directory's campaigns ([`super::versions::Versions::of_campaigns`]), and is found
//! only by a snapshot of that very version, so it is what that snapshot would read; that a campaign was never counted is kept
//! in the same way.

use adtally_projections::symbols::Symbol;
use adtally_streams::id::Id;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::of_version::OfVersion;
use super::versions::Version;

/// The most campaigns that are kept of a shard, more than one question may match; past it all are forgotten. They take about a
/// hundred bytes each, with an id that nobody else holds.
const MAX_CAMPAIGNS: usize = 1 << 16;

/// What a shard's directory says of a campaign that it has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Whether something was counted on its advertiser's clock.
    pub zoned: bool,
    /// Whether something was counted on UTC, because no advertiser was known.
    pub unzoned: bool,
}

/// What is found of a campaign: its number and what is said of it; none where the shard has not counted it.
pub type OfCampaign = Option<(Symbol, Counted)>;

/// What is kept.
#[derive(Debug, Default)]
pub struct Campaigns(OfVersion<FxHashMap<Id, OfCampaign>>);

impl Campaigns {
    /// What was found of a campaign in that version; none where nobody looked.
    pub fn get(&self, version: Version, id: &Id) -> Option<OfCampaign> {
        self.0.read(version, |found| found.get(id).copied())
    }

    /// Keeps what was found of a campaign in that version.
    pub fn keep(&self, version: Version, id: &Id, of_campaign: OfCampaign) {
        self.0.change(version, |found| {
            if found.len() >= MAX_CAMPAIGNS {
                found.clear();
            }
            found.insert(id.clone(), of_campaign);
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn version(sequence: u64) -> Version {
        Version {
            opened: 1,
            sequence,
        }
    }

    fn id(n: usize) -> Id {
        Id::new(&format!("c{n}")).unwrap()
    }

    fn found(symbol: Symbol) -> OfCampaign {
        let counted = Counted {
            zoned: true,
            unzoned: false,
        };
        Some((symbol, counted))
    }

    #[test]
    fn what_is_kept_is_of_one_version() {
        let campaigns = Campaigns::default();
        campaigns.keep(version(5), &id(1), found(7));
        campaigns.keep(version(5), &id(2), None);
        assert_eq!(campaigns.get(version(5), &id(1)), Some(found(7)));
        assert_eq!(campaigns.get(version(5), &id(2)), Some(None));
        assert_eq!(campaigns.get(version(5), &id(3)), None);
        assert_eq!(campaigns.get(version(6), &id(1)), None);
        // An older snapshot is asked by somebody who is slow: it takes nothing from the others.
        campaigns.keep(version(4), &id(1), None);
        assert_eq!(campaigns.get(version(4), &id(1)), None);
        assert_eq!(campaigns.get(version(5), &id(1)), Some(found(7)));
        campaigns.keep(version(6), &id(2), found(8));
        assert_eq!(campaigns.get(version(6), &id(1)), None);
        assert_eq!(campaigns.get(version(6), &id(2)), Some(found(8)));
    }

    #[test]
    fn they_are_forgotten_when_they_are_too_many() {
        let campaigns = Campaigns::default();
        (0..=MAX_CAMPAIGNS).for_each(|n| campaigns.keep(version(5), &id(n), None));
        assert_eq!(campaigns.get(version(5), &id(0)), None);
        assert_eq!(campaigns.get(version(5), &id(MAX_CAMPAIGNS)), Some(None));
        let kept = campaigns.0.read(version(5), |found| Some(found.len()));
        assert_eq!(kept, Some(1));
    }
}
