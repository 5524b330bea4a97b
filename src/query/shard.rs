//! One snapshot of every shard, as a question reads them: rows, names and their numbers, and what they are as of.
//!
//! Invariant: everything that one answer is made of is read through one [`SnapshotSet`], so it is the state at
//! one position of each shard (invariant 12). The store hides behind [`ShardRead`]; tests put a map there.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use adtally_projections::block::BlockError;
use adtally_projections::cells::Grain;
use adtally_projections::codec::Damaged;
use adtally_projections::completeness::{Producer, complete_through};
use adtally_projections::family::Family;
use adtally_projections::partial::{Names, ShardSums};
use adtally_projections::plan::Plan;
use adtally_projections::position::{POSITION_KEY, Position};
use adtally_projections::spans::{DELETED_KEY, Horizon, Retention, Span};
use adtally_projections::symbols::{self, Space, Symbol};
use adtally_streams::id::Id;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::QueryError;
use super::analytics::Question;
use super::block_cache::Found;
use super::read::Read;
use super::scope::{Numbers, ShardScope};
use super::united::UnitedBlocks;
use crate::store::{OfCampaign, Open, Version};

/// The most threads that work for one question.
pub const MAX_THREADS: usize = 8;
/// How long one thread works for a question before others help it. To call one takes up to a tenth of that, and where
/// processors are busy, the end of a question waits until whoever was called has had his turn: with 0.3 ms in place of this
/// the slowest of 300 short answers took a seventh to two fifths longer beside 10,000 events/s, and long ones were no quicker.
pub const ALONE: Duration = Duration::from_millis(1);

/// What is called for each row of a scan.
pub type EachRow<'f> = &'f mut dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, QueryError>;

/// The rows of one shard at one moment.
pub trait ShardRead: Send + Sync {
    /// The value of a row.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, QueryError>;

    /// Calls `each` with the rows whose keys lie in `[from, to)`, in order of their keys, until it breaks.
    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        each: EachRow<'_>,
    ) -> Result<(), QueryError>;

    /// The position that the rows belong to; none before the first message.
    fn position(&self) -> Result<Option<Position>, QueryError> {
        let value = self.get(Family::Meta, POSITION_KEY)?;
        Ok(value.map(|value| Position::decode(&value)).transpose()?)
    }

    /// The name of a number where it was read before; numbers keep their names.
    fn known_name(&self, _space: Space, _symbol: Symbol) -> Option<Arc<str>> {
        None
    }

    /// Keeps the name of a number that was read.
    fn keep_name(&self, _space: Space, _symbol: Symbol, _name: &Arc<str>) {}

    /// What was found of a campaign before, by a snapshot with the same campaigns; none where nobody looked.
    fn known_campaign(&self, _id: &Id) -> Option<OfCampaign> {
        None
    }

    /// Keeps what was found of a campaign.
    fn keep_campaign(&self, _id: &Id, _found: OfCampaign) {}

    /// Which producers are open, where a snapshot with the same ones has looked before.
    fn open_producers(&self) -> Option<Arc<Open>> {
        None
    }

    /// Keeps which producers are open.
    fn keep_open_producers(&self, _open: Open) {}

    /// How long it keeps cells.
    fn retention(&self) -> Retention {
        Retention::default()
    }

    /// A stored block, unpacked now or before; none where whoever reads it is to unpack it.
    ///
    /// # Errors
    /// [`BlockError`] when it is damaged.
    fn unpacked(
        &self,
        _grain: Grain,
        _key: &[u8],
        _value: &[u8],
    ) -> Option<Result<Found, BlockError>> {
        None
    }

    /// What the blocks of a campaign's span are known by; none where that cannot be said.
    fn version(&self, _campaign: Symbol, _span: Span) -> Option<Version> {
        None
    }

    /// Whoever answers in this shard's place; none where its rows are here.
    fn elsewhere(&self) -> Option<&dyn Elsewhere> {
        None
    }
}

/// A shard whose rows are in another process: what takes many rows is worked out there.
pub trait Elsewhere {
    /// Which process answers, for people.
    fn replica(&self) -> &str;

    /// The campaigns that the ads were counted under.
    fn campaigns_of_ads(&self, ads: &BTreeSet<Id>) -> Result<Vec<Id>, QueryError>;

    /// The shard's numbers of the campaigns and ads, and what its directory says of the campaigns.
    fn numbers(&self, ads: &BTreeSet<Id>, campaigns: &[&Id]) -> Result<Numbers, QueryError>;

    /// The shard's numbers of names, parallel to them.
    fn symbols(&self, space: Space, names: &[&str]) -> Result<Vec<Option<Symbol>>, QueryError>;

    /// The sums of a question's plan, and the names of their numbers.
    fn sums(
        &self,
        scope: &ShardScope,
        question: &Question,
        plan: &Plan,
    ) -> Result<(ShardSums, Names, Read), QueryError>;
}

/// One shard of a [`SnapshotSet`].
pub struct Shard<'a> {
    /// Its number.
    pub number: u16,
    /// Its rows.
    pub rows: Box<dyn ShardRead + 'a>,
}

/// Every shard at one moment.
pub struct SnapshotSet<'a> {
    /// The name of the generation that all of them belong to.
    pub generation: String,
    /// The shards.
    pub shards: Vec<Shard<'a>>,
    /// What is kept of blocks of several of them together, where anything is.
    pub united: Option<UnitedBlocks>,
}

/// Where snapshots come from.
pub trait Snapshots: Send + Sync + 'static {
    /// Calls `work` with a snapshot of every shard, which is held no longer than the call. Blocks.
    fn with(&self, work: &mut dyn FnMut(&SnapshotSet<'_>)) -> Result<(), QueryError>;
}

/// Which state an answer is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsOf {
    /// The generation.
    pub generation: String,
    /// The applied sequence of each shard's stream.
    pub positions: BTreeMap<u16, u64>,
    /// The arrival time up to which everything answered is counted, in Unix milliseconds.
    pub complete_through_ms: Option<i64>,
    /// The process that answered for a shard, where it was another one.
    pub replicas: BTreeMap<u16, String>,
}

impl Serialize for AsOf {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(1 + self.positions.len() + self.replicas.len()))?;
        map.serialize_entry("generation", &self.generation)?;
        for (shard, sequence) in &self.positions {
            map.serialize_entry(&format!("events.{shard}"), sequence)?;
        }
        for (shard, replica) in &self.replicas {
            map.serialize_entry(&format!("replica.{shard}"), replica)?;
        }
        map.end()
    }
}

impl SnapshotSet<'_> {
    /// Which state this is.
    pub fn as_of(&self) -> Result<AsOf, QueryError> {
        let mut positions = BTreeMap::new();
        let mut replicas = BTreeMap::new();
        let mut through: Option<Option<i64>> = None;
        for shard in &self.shards {
            let sequence = shard
                .rows
                .position()?
                .map_or(0, |position| position.sequence);
            positions.insert(shard.number, sequence);
            if let Some(there) = shard.rows.elsewhere() {
                replicas.insert(shard.number, there.replica().to_owned());
            }
            let own = shard.complete_through()?;
            through = Some(through.map_or(own, |t: Option<i64>| Some(t?.min(own?))));
        }
        Ok(AsOf {
            generation: self.generation.clone(),
            positions,
            // A producer that has nothing acknowledged yet announces the beginning of time.
            complete_through_ms: through.flatten().filter(|ms| *ms > 0),
            replicas,
        })
    }

    /// What every shard still keeps: an answer is made of nothing before it.
    pub fn horizon(&self) -> Result<Horizon, QueryError> {
        let mut all = Horizon::default();
        for shard in &self.shards {
            all = all.and(&shard.horizon()?);
        }
        Ok(all)
    }

    /// Calls `work` for every shard; the results in the order of the shards, or the first error. One thread does it,
    /// and up to [`MAX_THREADS`] once it has taken longer than [`ALONE`], which `work` notices by [`Help::look`].
    pub fn each<T: Send>(
        &self,
        work: impl Fn(&Shard<'_>, &Help<'_>) -> Result<T, QueryError> + Sync,
    ) -> Result<Vec<T>, QueryError> {
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<(u16, Result<T, QueryError>)>> = Mutex::default();
        let worker = |help: &Help<'_>| {
            while let Some(shard) = self.shards.get(next.fetch_add(1, Ordering::Relaxed)) {
                let result = work(shard, help);
                if result.is_err() {
                    // Nobody needs the rest of an answer that has failed.
                    next.store(self.shards.len(), Ordering::Relaxed);
                }
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                done.push((shard.number, result));
                drop(done);
                help.look();
            }
        };
        std::thread::scope(|scope| {
            let call = || {
                for _ in 1..threads(self.shards.len()) {
                    scope.spawn(|| worker(&Help::none()));
                }
            };
            let help = Help::after(ALONE, &call);
            // Whoever asks another process mostly waits.
            if self.shards.iter().any(|s| s.rows.elsewhere().is_some()) {
                help.call();
            }
            worker(&help);
        });
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|(number, _)| *number);
        done.into_iter().map(|(_, result)| result).collect()
    }
}

/// Calls more threads to a work that takes long.
pub struct Help<'a> {
    since: Instant,
    after: Duration,
    call: Option<&'a dyn Fn()>,
    was_called: Cell<bool>,
}

impl<'a> Help<'a> {
    /// Calls once, when that time has passed and somebody looks.
    fn after(after: Duration, call: &'a dyn Fn()) -> Self {
        Self {
            since: Instant::now(),
            after,
            call: Some(call),
            was_called: Cell::new(false),
        }
    }

    /// Nobody is to be called.
    pub fn none() -> Self {
        Self {
            since: Instant::now(),
            after: Duration::MAX,
            call: None,
            was_called: Cell::new(true),
        }
    }

    /// Calls if it is time. To be called every now and then.
    pub fn look(&self) {
        if !self.was_called.get() && self.since.elapsed() >= self.after {
            self.call();
        }
    }

    fn call(&self) {
        if let Some(call) = self.call
            && !self.was_called.replace(true)
        {
            call();
        }
    }
}

/// How many threads work for one question where there are so many pieces of work.
pub(super) fn threads(pieces: usize) -> usize {
    // To ask the system takes as long as a short question.
    static CORES: OnceLock<usize> = OnceLock::new();
    let cores = CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from));
    (*cores).min(MAX_THREADS).min(pieces)
}

impl Shard<'_> {
    /// Calls `each` with all rows whose keys begin with `prefix`.
    pub fn scan_prefix(
        &self,
        family: Family,
        prefix: &[u8],
        each: EachRow<'_>,
    ) -> Result<(), QueryError> {
        self.rows.scan(family, prefix, &after_prefix(prefix), each)
    }

    /// The number of a name in this shard; none when the shard never saw it.
    pub fn symbol(&self, space: Space, name: &str) -> Result<Option<Symbol>, QueryError> {
        if let Some(symbol) = symbols::fixed(space, name) {
            return Ok(Some(symbol));
        }
        let mut key = Vec::with_capacity(2 + name.len());
        symbols::name_key(&mut key, space, name);
        let Some(value) = self.rows.get(Family::Symbols, &key)? else {
            return Ok(None);
        };
        symbols::decode(&value)
            .map(Some)
            .ok_or(Damaged { what: "symbol" }.into())
    }

    /// The numbers of names in this shard, parallel to them.
    pub fn symbols<'n>(
        &self,
        space: Space,
        names: impl Iterator<Item = &'n str>,
    ) -> Result<Vec<Option<Symbol>>, QueryError> {
        match self.rows.elsewhere() {
            Some(there) => there.symbols(space, &names.collect::<Vec<_>>()),
            None => names.map(|name| self.symbol(space, name)).collect(),
        }
    }

    /// The name of a number of this shard.
    pub fn name(&self, space: Space, symbol: Symbol) -> Result<Arc<str>, QueryError> {
        if let Some(name) = symbols::fixed_name(symbol) {
            return Ok(Arc::from(name));
        }
        if let Some(name) = self.rows.known_name(space, symbol) {
            return Ok(name);
        }
        let mut key = Vec::with_capacity(6);
        symbols::symbol_key(&mut key, space, symbol);
        let value = self
            .rows
            .get(Family::Symbols, &key)?
            .ok_or(Damaged { what: "symbol" })?;
        let name = std::str::from_utf8(&value).map_err(|_| Damaged { what: "symbol" })?;
        let name = Arc::from(name);
        self.rows.keep_name(space, symbol, &name);
        Ok(name)
    }

    /// What the shard keeps at its log time, and has not deleted under an earlier setting.
    fn horizon(&self) -> Result<Horizon, QueryError> {
        let log_time_ms = self
            .rows
            .position()?
            .map_or(0, |position| position.log_time_ms);
        let deleted = match self.rows.get(Family::Meta, DELETED_KEY)? {
            Some(value) => Horizon::decode(&value)?,
            None => Horizon::default(),
        };
        Ok(self.rows.retention().horizon(log_time_ms).and(&deleted))
    }

    /// The arrival time up to which everything answered is counted ([`complete_through`]).
    fn complete_through(&self) -> Result<Option<i64>, QueryError> {
        if let Some(open) = self.rows.open_producers()
            && is_better_read_one_by_one(&open)
        {
            return self.least_of(&open);
        }
        let (mut producers, mut open) = (Vec::new(), Open::default());
        self.rows
            .scan(Family::Completeness, &[], &[0xff], &mut |key, value| {
                let producer = Producer::decode(key, value)?;
                open.rows += 1;
                if !producer.watermark.drained {
                    open.keys.push(key.into());
                }
                producers.push(producer);
                Ok(ControlFlow::Continue(()))
            })?;
        self.rows.keep_open_producers(open);
        Ok(complete_through(producers.iter()))
    }

    /// What the open producers say, of whom there are some: drained ones have no say then.
    fn least_of(&self, open: &Open) -> Result<Option<i64>, QueryError> {
        let read = open.keys.iter().map(|key| {
            let value = self.rows.get(Family::Completeness, key)?;
            let value = value.ok_or(Damaged { what: "producer" })?;
            Ok(Producer::decode(key, &value)?)
        });
        let producers: Vec<Producer> = read.collect::<Result<_, QueryError>>()?;
        Ok(complete_through(producers.iter()))
    }
}

/// Rows that are scanned in the time in which one is looked up by its key; to begin a scan takes as long as that.
const SCANNED_FOR_ONE: usize = 8;

/// Whether the open producers are read sooner one by one than among all others. Where none is, the drained ones have the say.
fn is_better_read_one_by_one(open: &Open) -> bool {
    let one_by_one = open.keys.len() * SCANNED_FOR_ONE;
    !open.keys.is_empty() && one_by_one <= open.rows + 2 * SCANNED_FOR_ONE
}

/// The least key that is greater than every key that begins with `prefix`.
pub fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    // No byte string is greater than all that begin with 0xff bytes only; no family has such keys.
    vec![0xff; prefix.len() + 1]
}
