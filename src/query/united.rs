//! Sealed counts of all shards together: each shard has nearly every region and device, so to add up its blocks again for
//! each question costs as many times what the sum of them costs as there are shards.
//!
//! Invariant: a united block is kept under the campaign, cuboid and span and under the version of each shard's blocks that it
//! is made of ([`crate::store::Version`]), and is found only by a question whose snapshots are of these very versions. So
//! nothing is ever taken back, and what is sealed meanwhile is another block. Where a version cannot be said, where a block
//! is damaged or too large, or where a span is asked about for the first time, the question reads the blocks of each shard.

use std::collections::hash_map::Entry;
use std::ops::ControlFlow;
use std::sync::Arc;

use adtally_projections::block::{self, Block};
use adtally_projections::block_sums::BlockSums;
use adtally_projections::cuboid::Cuboid;
use adtally_projections::partial::{Dimension, Filters, Names, PartialError, ShardSums};
use adtally_projections::plan::Plan;
use adtally_projections::spans::Span;
use adtally_projections::symbols::Symbol;
use adtally_projections::united::{Numbering, United, Uniting};
use adtally_streams::id::Id;
use foyer::{Cache, CacheBuilder, CacheEntry};
use rustc_hash::FxHashMap;
use twox_hash::XxHash3_128;

use super::analytics::{Question, names};
use super::block_cache::Seen;
use super::read::{PlaceBucket, Read, Stretch, each_stretch};
use super::scope::Scope;
use super::shard::SnapshotSet;
use super::{Cancel, QueryError};
use crate::store::Version;

/// Campaigns of a question up to which their blocks are united: of more, there is little of each.
const MAX_CAMPAIGNS: usize = 64;
/// Spans of a stretch up to which it is read so: each is looked for, also where there is nothing.
const MAX_SPANS: i64 = 4_096;
/// No block takes more than this part of the memory.
const MAX_SHARE: usize = 8;

/// What a united block is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity {
    campaign: Id,
    cuboid: Cuboid,
    span: Span,
    /// By shard that has counted the campaign.
    versions: Box<[(u16, Version)]>,
}

impl Identity {
    /// Bytes of memory that it takes with what is kept under it, without a block.
    fn bytes(&self) -> usize {
        size_of::<(Self, Kept)>() + 64 + size_of_val(&*self.versions)
    }

    fn hash(&self) -> u128 {
        let mut bytes = Vec::with_capacity(64 + 24 * self.versions.len());
        bytes.extend_from_slice(self.campaign.as_str().as_bytes());
        bytes.extend_from_slice(&[0, self.cuboid as u8, self.span.grain as u8]);
        bytes.extend_from_slice(&self.span.number.to_be_bytes());
        for (shard, version) in &self.versions {
            bytes.extend_from_slice(&shard.to_be_bytes());
            bytes.extend_from_slice(&version.opened.to_be_bytes());
            bytes.extend_from_slice(&version.sequence.to_be_bytes());
        }
        XxHash3_128::oneshot(&bytes)
    }
}

/// A united block, and what is stored of it.
#[derive(Debug)]
struct Kept {
    /// The hash of what it is kept under.
    known_as: u128,
    /// None where it would be too large: each shard is to be read, and it is not tried again.
    united: Option<United>,
    blocks: u64,
    bytes: u64,
}

/// The united blocks of one process.
#[derive(Clone)]
pub struct UnitedBlocks {
    bytes_a_block: usize,
    kept: Cache<Identity, Arc<Kept>>,
    seen: Arc<Seen>,
    hits: metrics::Counter,
    misses: metrics::Counter,
    bytes: metrics::Gauge,
}

impl UnitedBlocks {
    /// Room for so many bytes of them; past it, the least used are dropped.
    pub fn new(bytes: usize) -> Self {
        let hits = metrics::counter!("adtally_united_blocks_hits_total");
        let misses = metrics::counter!("adtally_united_blocks_misses_total");
        hits.increment(0);
        misses.increment(0);
        let bytes_in_use = metrics::gauge!("adtally_united_blocks_bytes");
        bytes_in_use.set(0.0);
        Self {
            bytes_a_block: bytes / MAX_SHARE,
            // One shard of it, so that the limit is that of all together.
            kept: CacheBuilder::new(bytes)
                .with_shards(1)
                .with_weighter(|identity: &Identity, kept: &Arc<Kept>| {
                    identity.bytes() + kept.united.as_ref().map_or(0, United::bytes)
                })
                .build(),
            seen: Arc::new(Seen::new()),
            hits,
            misses,
            bytes: bytes_in_use,
        }
    }

    /// Bytes that are in use.
    pub fn usage(&self) -> usize {
        self.kept.usage()
    }
}

/// A campaign's numbers by shard; none where the shard has not counted it.
type Numbers = Vec<Option<Symbol>>;
/// By number of the shard's campaign, cuboid and span: what is not to be read of each shard any more.
pub type Done = rustc_hash::FxHashSet<(Symbol, Cuboid, Span)>;

/// What united blocks have added to a question.
#[derive(Debug)]
pub struct ReadUnited {
    /// The sums, under numbers of the question's own, with the names of these.
    pub sums: (ShardSums, Names),
    /// How much was read for them.
    pub read: Read,
    /// By shard, in order: what is in them already.
    pub done: Vec<Done>,
}

/// Reads what a question asks of united blocks; none where it is not answered so.
///
/// # Errors
/// [`QueryError`] when the question is given up, or has too many rows.
pub fn read(
    question: &Question,
    scope: &Scope,
    plan: &Plan,
    set: &SnapshotSet<'_>,
    cancel: &Cancel,
) -> Result<Option<ReadUnited>, QueryError> {
    let cuboid = question.cuboid();
    // An ad is counted in one shard: there is nothing to unite.
    let is_of_ads =
        |dimension: &Dimension| matches!(dimension, Dimension::AdId | Dimension::Creative);
    let (Some(blocks), false) = (&set.united, cuboid.dimensions().iter().any(is_of_ads)) else {
        return Ok(None);
    };
    if scope.len() > MAX_CAMPAIGNS || scope.shards.iter().any(|shard| shard.ads.is_some()) {
        return Ok(None);
    }
    let mut sums = ShardSums::of(&question.group_by, question.metrics.fields());
    sums.table().expect(plan.slots.len());
    let mut numbering = Numbering::default();
    let filters = filters(question, &mut numbering);
    let mut reader = Reader {
        set,
        blocks,
        filters,
        numbering,
        sums,
        block_sums: BlockSums::default(),
        read: Read::default(),
        found: FxHashMap::default(),
        done: vec![Done::default(); set.shards.len()],
        cancel,
    };
    for (campaign, numbers) in scope.numbers() {
        // Of one shard's blocks each is kept by itself.
        if numbers.iter().flatten().count() < 2 {
            continue;
        }
        each_stretch(plan, &mut |stretch, place| {
            reader.stretch((campaign, &numbers), cuboid, stretch, place)?;
            reader.stretch((campaign, &numbers), Cuboid::Few, stretch, place)
        })?;
    }
    let names = reader.numbering.names(&question.group_by);
    Ok(Some(ReadUnited {
        sums: (reader.sums, names),
        read: reader.read,
        done: reader.done,
    }))
}

fn filters(question: &Question, numbering: &mut Numbering) -> Filters {
    let mut region = |name: &String| numbering.number(Dimension::Region, &Arc::from(name.as_str()));
    let regions = question.regions.iter().map(&mut region).collect();
    let devices = question.devices.iter().map(|device| *device as Symbol);
    Filters {
        region: (!question.regions.is_empty()).then_some(regions),
        device: (!question.devices.is_empty()).then(|| devices.collect()),
        ..Filters::default()
    }
}

struct Reader<'a> {
    set: &'a SnapshotSet<'a>,
    blocks: &'a UnitedBlocks,
    filters: Filters,
    numbering: Numbering,
    sums: ShardSums,
    block_sums: BlockSums,
    read: Read,
    /// What was found, or not, of a span: a plan may read of one twice, and must do so in the same way.
    found: FxHashMap<(Id, Cuboid, Span), Option<Arc<Kept>>>,
    done: Vec<Done>,
    cancel: &'a Cancel,
}

impl Reader<'_> {
    fn stretch(
        &mut self,
        campaign: (&Id, &Numbers),
        cuboid: Cuboid,
        stretch: &Stretch,
        place: PlaceBucket<'_>,
    ) -> Result<(), QueryError> {
        let (grain, (first, last)) = (stretch.grain, stretch.spans);
        if i64::from(last) - i64::from(first) >= MAX_SPANS {
            return Ok(());
        }
        let mut all = Vec::new();
        for number in first..=last {
            self.cancel.check()?;
            all.extend(self.span(campaign, cuboid, Span { grain, number })?);
        }
        let cells = all.iter().filter_map(|kept| kept.united.as_ref());
        let cells = cells.map(United::cells).sum();
        self.sums.table().expect_cells(cells);
        for kept in all {
            self.cancel.check()?;
            let number = |id: &Id| Arc::from(id.as_str());
            let own = self
                .numbering
                .number(Dimension::CampaignId, &number(campaign.0));
            let numbering = &mut self.numbering;
            let united = kept.united.as_ref();
            let Some(block) = united.and_then(|u| u.numbered(kept.known_as, own, numbering)) else {
                continue;
            };
            let added = self
                .block_sums
                .add(&block, &self.filters, place, &mut self.sums);
            *self.read.cells.of(grain) += added?;
            *self.read.blocks.of(grain) += kept.blocks;
            *self.read.cached.of(grain) += kept.blocks;
            *self.read.united.of(grain) += 1;
            self.read.bytes += kept.bytes;
        }
        Ok(())
    }

    /// What is kept of a span, or is made now; none where each shard is to be read.
    fn span(
        &mut self,
        (campaign, numbers): (&Id, &Numbers),
        cuboid: Cuboid,
        span: Span,
    ) -> Result<Option<Arc<Kept>>, QueryError> {
        let of = (campaign.clone(), cuboid, span);
        let place = match self.found.entry(of) {
            Entry::Occupied(found) => return Ok(found.get().clone()),
            Entry::Vacant(place) => place,
        };
        let found = find(self.set, self.blocks, (campaign, numbers), cuboid, span)?;
        if found.is_some() {
            for (done, number) in self.done.iter_mut().zip(numbers) {
                done.extend(number.map(|number| (number, cuboid, span)));
            }
        }
        Ok(place.insert(found).clone())
    }
}

fn find(
    set: &SnapshotSet<'_>,
    blocks: &UnitedBlocks,
    (campaign, numbers): (&Id, &Numbers),
    cuboid: Cuboid,
    span: Span,
) -> Result<Option<Arc<Kept>>, QueryError> {
    let known = set.shards.iter().zip(numbers);
    let known = known.filter_map(|(shard, number)| Some((shard, (*number)?)));
    let versions = known.map(|(shard, number)| {
        let version = shard.rows.version(number, span)?;
        Some((shard.number, version))
    });
    let Some(versions) = versions.collect::<Option<_>>() else {
        blocks.misses.increment(1);
        return Ok(None);
    };
    let identity = Identity {
        campaign: campaign.clone(),
        cuboid,
        span,
        versions,
    };
    let kept: Option<CacheEntry<_, Arc<Kept>>> = blocks.kept.get(&identity);
    if let Some(kept) = kept {
        blocks.hits.increment(1);
        let kept = Arc::clone(kept.value());
        return Ok(kept.united.is_some().then_some(kept));
    }
    blocks.misses.increment(1);
    let known_as = identity.hash();
    if !blocks.seen.again(known_as) {
        return Ok(None);
    }
    let Some(mut kept) = unite(set, known_as, numbers, cuboid, span)? else {
        return Ok(None);
    };
    let has_room = |united: &United| identity.bytes() + united.bytes() <= blocks.bytes_a_block;
    kept.united = kept.united.filter(has_room);
    let kept = Arc::new(kept);
    blocks.kept.insert(identity, Arc::clone(&kept));
    blocks.bytes.set(blocks.usage() as f64);
    Ok(kept.united.is_some().then_some(kept))
}

/// Makes the united block of a span; none where a block of it cannot be read, which whoever reads it will say.
fn unite(
    set: &SnapshotSet<'_>,
    known_as: u128,
    numbers: &Numbers,
    cuboid: Cuboid,
    span: Span,
) -> Result<Option<Kept>, QueryError> {
    let mut uniting = Uniting::new(cuboid, span);
    let (mut blocks, mut bytes) = (0, 0);
    let mut reader = BlockSums::default();
    for (shard, number) in set.shards.iter().zip(numbers) {
        let Some(number) = number else { continue };
        let mut sums = uniting.sums();
        let (from, to) = block::range(*number, cuboid, span.number, span.number);
        let mut is_read = true;
        let scanned = shard
            .rows
            .scan(span.grain.blocks(), &from, &to, &mut |key, value| {
                blocks += 1;
                bytes += value.len() as u64;
                let added = Block::parse(span.grain, key, value)
                    .map_err(PartialError::from)
                    .and_then(|block| {
                        let place = &mut |bucket| Some(uniting.place(bucket));
                        reader.add(&block, &Filters::default(), place, &mut sums)
                    });
                is_read &= added.is_ok();
                Ok(match is_read {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                })
            });
        match scanned {
            Ok(()) if is_read => {}
            Ok(()) | Err(QueryError::Store(_)) => return Ok(None),
            Err(error) => return Err(error),
        }
        let names = names(shard, &sums)?;
        if uniting.add(sums, &names).is_err() {
            return Ok(None);
        }
    }
    Ok(Some(Kept {
        known_as,
        united: uniting.finish(),
        blocks,
        bytes,
    }))
}
