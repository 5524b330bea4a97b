//! The catalogue's state: a pure fold of the stream CATALOG, of which every replica makes the same.
//!
//! Every ad in it has its campaign, every campaign its advertiser, and what is fixed at creation never changes: a
//! document that would break one of these is skipped, and the earlier one stands. The revision is the sequence of
//! the last message read, skipped or not.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

pub use crate::document_json::CatalogueFile;
pub use crate::documents::{
    Ad, Advertiser, ApiKey, Campaign, CatalogueError, Document, DocumentKind, Pricing,
    PricingModel, Scope, Status, parse_document_subject, subject_of,
};
use crate::id::Id;
pub use crate::landing::{check_landing_url, expand_landing_url};

/// The most advertisers; one more is refused.
pub const MAX_ADVERTISERS: usize = 100_000;
/// The most campaigns; one more is refused.
pub const MAX_CAMPAIGNS: usize = 1_000_000;
/// The most ads; one more is refused.
pub const MAX_ADS: usize = 4_000_000;
/// The most keys, revoked ones included; one more is refused.
pub const MAX_KEYS: usize = 10_000;
/// Version of the saved form.
const SNAPSHOT_VERSION: u16 = 1;

/// What a message of CATALOG did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The document is in force.
    Changed(Document),
    /// The same document was already in force.
    Unchanged,
    /// A kind of document that this catalogue does not hold.
    OtherKind,
    /// A message at or below the revision: it has been read before.
    Stale,
}

/// All documents in force at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalogue {
    revision: u64,
    advertisers: FxHashMap<Id, Arc<Advertiser>>,
    campaigns: FxHashMap<Id, Arc<Campaign>>,
    ads: FxHashMap<Id, Arc<Ad>>,
    keys: FxHashMap<Id, Arc<ApiKey>>,
    by_hash: FxHashMap<[u8; 32], Id>,
}

impl Catalogue {
    /// Applies the message of CATALOG with that sequence. On an error the document is skipped; the revision
    /// advances in every case, because the next reader would skip it too.
    pub fn apply(
        &mut self,
        sequence: u64,
        subject: &str,
        payload: &[u8],
    ) -> Result<Applied, CatalogueError> {
        if sequence <= self.revision {
            return Ok(Applied::Stale);
        }
        self.revision = sequence;
        let Some((kind, id)) = parse_document_subject(subject) else {
            return Ok(Applied::OtherKind);
        };
        let document = Document::from_json(kind, Some(id), payload)?;
        self.check(&document)?;
        let document = self.completed(document);
        Ok(if self.insert(&document) {
            Applied::Changed(document)
        } else {
            Applied::Unchanged
        })
    }

    /// Whether the document could be applied now: what it refers to exists, what is fixed stays, and there is room.
    pub fn check(&self, document: &Document) -> Result<(), CatalogueError> {
        let kind = document.kind();
        match document {
            Document::Advertiser(new) => {
                let old = self.advertisers.get(&new.advertiser_id);
                room(kind, old.is_some(), self.advertisers.len(), MAX_ADVERTISERS)?;
                if let Some(old) = old {
                    let fixed = |field, was: &str, wanted: &str| {
                        fixed(kind, &new.advertiser_id, field, was, wanted)
                    };
                    fixed(
                        "currency_code",
                        old.currency_code.as_str(),
                        new.currency_code.as_str(),
                    )?;
                    fixed("time_zone", old.time_zone.name(), new.time_zone.name())?;
                }
            }
            Document::Campaign(new) => {
                let old = self.campaigns.get(&new.campaign_id);
                room(kind, old.is_some(), self.campaigns.len(), MAX_CAMPAIGNS)?;
                if let Some(old) = old {
                    let (was, wanted) = (old.advertiser_id.as_str(), new.advertiser_id.as_str());
                    fixed(kind, &new.campaign_id, "advertiser_id", was, wanted)?;
                }
                exists(
                    &self.advertisers,
                    "advertiser_id",
                    DocumentKind::Advertiser,
                    &new.advertiser_id,
                )?;
            }
            Document::Ad(new) => {
                let old = self.ads.get(&new.ad_id);
                room(kind, old.is_some(), self.ads.len(), MAX_ADS)?;
                if let (Some(old), Some(wanted)) = (old, new.spread) {
                    let was = old.spread().to_string();
                    fixed(kind, &new.ad_id, "spread", &was, &wanted.to_string())?;
                }
                exists(
                    &self.campaigns,
                    "campaign_id",
                    DocumentKind::Campaign,
                    &new.campaign_id,
                )?;
            }
            Document::Key(new) => {
                let old = self.keys.get(&new.key_id);
                room(kind, old.is_some(), self.keys.len(), MAX_KEYS)?;
                if let Some(old) = old {
                    check_key(old, new)?;
                }
                if self
                    .by_hash
                    .get(&new.secret_sha256)
                    .is_some_and(|id| *id != new.key_id)
                {
                    return Err(CatalogueError::field(
                        "secret_sha256",
                        "another key has this secret",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Checks documents that are to be applied one after the other, each on top of those before it.
    pub fn check_all<'a>(
        &self,
        documents: impl IntoIterator<Item = &'a Document>,
    ) -> Result<(), CatalogueError> {
        let mut after = self.clone();
        for document in documents {
            after.check(document)?;
            after.insert(&after.completed(document.clone()));
        }
        Ok(())
    }

    /// The document as it would come into force: what it may leave out because it is fixed at creation is filled.
    /// So a document that only pauses an ad need not know how the ad was made.
    pub fn completed(&self, document: Document) -> Document {
        match document {
            Document::Ad(ad) if ad.spread.is_none() => {
                let spread = self.ads.get(&ad.ad_id).map_or(1, |old| old.spread());
                Document::Ad(Arc::new(Ad {
                    spread: Some(spread),
                    ..Ad::clone(&ad)
                }))
            }
            complete => complete,
        }
    }

    /// Puts a checked and completed document in force; whether that changed anything.
    fn insert(&mut self, document: &Document) -> bool {
        match document {
            Document::Advertiser(d) => put(&mut self.advertisers, &d.advertiser_id, d),
            Document::Campaign(d) => put(&mut self.campaigns, &d.campaign_id, d),
            Document::Ad(d) => put(&mut self.ads, &d.ad_id, d),
            Document::Key(d) => {
                self.by_hash.insert(d.secret_sha256, d.key_id.clone());
                put(&mut self.keys, &d.key_id, d)
            }
        }
    }

    /// The sequence in CATALOG of the last message read; 0 before the first.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The advertiser of that id.
    pub fn advertiser(&self, id: &str) -> Option<&Arc<Advertiser>> {
        self.advertisers.get(id)
    }

    /// The campaign of that id.
    pub fn campaign(&self, id: &str) -> Option<&Arc<Campaign>> {
        self.campaigns.get(id)
    }

    /// The ad of that id.
    pub fn ad(&self, id: &str) -> Option<&Arc<Ad>> {
        self.ads.get(id)
    }

    /// The key of that public id, revoked or not.
    pub fn key(&self, id: &str) -> Option<&Arc<ApiKey>> {
        self.keys.get(id)
    }

    /// The key whose secret has that SHA-256, unless it is revoked.
    pub fn key_by_hash(&self, secret_sha256: &[u8; 32]) -> Option<&Arc<ApiKey>> {
        self.keys
            .get(self.by_hash.get(secret_sha256)?)
            .filter(|key| !key.revoked)
    }

    /// The document in force of that kind and id.
    pub fn document(&self, kind: DocumentKind, id: &str) -> Option<Document> {
        match kind {
            DocumentKind::Advertiser => self.advertiser(id).cloned().map(Document::Advertiser),
            DocumentKind::Campaign => self.campaign(id).cloned().map(Document::Campaign),
            DocumentKind::Ad => self.ad(id).cloned().map(Document::Ad),
            DocumentKind::Key => self.key(id).cloned().map(Document::Key),
        }
    }

    /// Every advertiser, in no order.
    pub fn advertisers(&self) -> impl ExactSizeIterator<Item = &Arc<Advertiser>> {
        self.advertisers.values()
    }

    /// Every campaign, in no order.
    pub fn campaigns(&self) -> impl ExactSizeIterator<Item = &Arc<Campaign>> {
        self.campaigns.values()
    }

    /// Every ad, in no order.
    pub fn ads(&self) -> impl ExactSizeIterator<Item = &Arc<Ad>> {
        self.ads.values()
    }

    /// Every key, revoked ones included, in no order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &Arc<ApiKey>> {
        self.keys.values()
    }

    /// The saved form: a MessagePack map and its CRC-32C.
    pub fn to_snapshot(&self) -> Vec<u8> {
        let saved = Saved {
            version: SNAPSHOT_VERSION,
            revision: self.revision,
            advertisers: self.advertisers.values().cloned().collect(),
            campaigns: self.campaigns.values().cloned().collect(),
            ads: self.ads.values().cloned().collect(),
            keys: self.keys.values().cloned().collect(),
        };
        let mut bytes = rmp_serde::to_vec_named(&saved)
            .expect("documents of texts and numbers always have a saved form");
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// Reads a saved form. Torn bytes and other versions are refused; the broker has it all.
    pub fn from_snapshot(bytes: &[u8]) -> Result<Self, CatalogueError> {
        let refused = |why: &str| CatalogueError::Snapshot(why.to_owned());
        let (body, crc) = bytes
            .split_last_chunk::<4>()
            .ok_or_else(|| refused("it is empty"))?;
        if crc32c::crc32c(body) != u32::from_be_bytes(*crc) {
            return Err(refused("its checksum does not match"));
        }
        let saved: Saved =
            rmp_serde::from_slice(body).map_err(|e| CatalogueError::Snapshot(e.to_string()))?;
        if saved.version != SNAPSHOT_VERSION {
            return Err(refused("it is of another version of this program"));
        }
        let by_hash = saved
            .keys
            .iter()
            .map(|k| (k.secret_sha256, k.key_id.clone()))
            .collect();
        Ok(Self {
            revision: saved.revision,
            advertisers: saved
                .advertisers
                .into_iter()
                .map(|d| (d.advertiser_id.clone(), d))
                .collect(),
            campaigns: saved
                .campaigns
                .into_iter()
                .map(|d| (d.campaign_id.clone(), d))
                .collect(),
            ads: saved
                .ads
                .into_iter()
                .map(|d| (d.ad_id.clone(), d))
                .collect(),
            keys: saved
                .keys
                .into_iter()
                .map(|d| (d.key_id.clone(), d))
                .collect(),
            by_hash,
        })
    }
}

/// The saved form. Its lists are trusted no further than the checksum: the file is this program's own.
#[derive(Serialize, Deserialize)]
struct Saved {
    version: u16,
    revision: u64,
    advertisers: Vec<Arc<Advertiser>>,
    campaigns: Vec<Arc<Campaign>>,
    ads: Vec<Arc<Ad>>,
    keys: Vec<Arc<ApiKey>>,
}

fn put<T: PartialEq>(map: &mut FxHashMap<Id, Arc<T>>, id: &Id, document: &Arc<T>) -> bool {
    match map.entry(id.clone()) {
        Entry::Occupied(old) if old.get() == document => false,
        Entry::Occupied(mut old) => {
            old.insert(document.clone());
            true
        }
        Entry::Vacant(new) => {
            new.insert(document.clone());
            true
        }
    }
}

fn room(
    kind: DocumentKind,
    is_known: bool,
    held: usize,
    limit: usize,
) -> Result<(), CatalogueError> {
    if !is_known && held >= limit {
        Err(CatalogueError::Full { kind, limit })
    } else {
        Ok(())
    }
}

fn fixed(
    kind: DocumentKind,
    id: &Id,
    field: &'static str,
    was: &str,
    wanted: &str,
) -> Result<(), CatalogueError> {
    if was == wanted {
        return Ok(());
    }
    Err(CatalogueError::Immutable {
        kind,
        id: id.clone(),
        field,
        was: was.to_owned(),
        wanted: wanted.to_owned(),
    })
}

fn exists<T>(
    map: &FxHashMap<Id, T>,
    field: &'static str,
    kind: DocumentKind,
    id: &Id,
) -> Result<(), CatalogueError> {
    if map.contains_key(id) {
        Ok(())
    } else {
        Err(CatalogueError::Dangling {
            field,
            kind,
            id: id.clone(),
        })
    }
}

fn check_key(old: &ApiKey, new: &ApiKey) -> Result<(), CatalogueError> {
    // The values of a key's fixed fields stay out of messages: a hash is not a secret, but no reader needs it.
    let fixed = |field, same: bool| {
        fixed(
            DocumentKind::Key,
            &new.key_id,
            field,
            "as it was made",
            if same { "as it was made" } else { "another" },
        )
    };
    fixed("scope", old.scope == new.scope)?;
    fixed("secret_sha256", old.secret_sha256 == new.secret_sha256)?;
    fixed("revoked", !old.revoked || new.revoked)
}

#[cfg(test)]
#[path = "catalogue_tests.rs"]
mod tests;
